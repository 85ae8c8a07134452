//! The handshake of a client.

use std::io;

use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::StatusCode;
use tungstenite::http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};

use super::WEBSOCKET_PROTOCOL;
use super::http::{NoHead, read_head, write};
use super::stream::WebSocket;
use crate::limits;
use crate::transport::WebSocketAddress;
use crate::transport::channel::Channel;

/// Does the handshake of a client with the bus at this address.
///
/// # Errors
/// Why there is no WebSocket, in words for [`BusError::Connect`](crate::BusError::Connect).
pub(in crate::transport) async fn connect<C: Channel>(
    channel: C,
    address: &WebSocketAddress,
) -> io::Result<WebSocket<C>> {
    let failed = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let key = generate_key();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {WEBSOCKET_PROTOCOL}\r\n\r\n",
        address.path(),
        address.authority(),
    );
    write(&channel, request.as_bytes()).await?;
    let head = read_head(&channel).await.map_err(|error| match error {
        NoHead::Failed(error) => error,
        NoHead::NotHttp => failed("the other side does not speak WebSocket".into()),
        NoHead::TooLong => {
            failed(format!("the answer's head has more than {} bytes", limits::WEBSOCKET_HEAD))
        }
    })?;
    let Ok(Some((_, response))) = Response::try_parse(head.bytes()) else {
        return Err(failed("the other side does not speak WebSocket: its answer cannot be read".into()));
    };
    check(&response, &key, head.rest()).map_err(failed)?;
    Ok(WebSocket::of_client(channel, head.rest().to_vec()))
}

/// Whether the answer is one to the request with this key, and agrees to what was asked for; otherwise why not.
fn check(response: &Response, key: &str, body: &[u8]) -> Result<(), String> {
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let text = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let text = if text.is_empty() { String::new() } else { format!(": {}", unquoted(text)) };
        return Err(format!("the other side answers {status}{text}"));
    }
    let headers = response.headers();
    if !names(headers, &UPGRADE, "websocket") || !names(headers, &CONNECTION, "upgrade") {
        return Err("the other side's answer does not begin a WebSocket".into());
    }
    let accepted =
        headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| *value == derive_accept_key(key.as_bytes()));
    if !accepted {
        return Err("the other side's answer is not one to this request".into());
    }
    if headers.get(SEC_WEBSOCKET_EXTENSIONS).is_some() {
        return Err("the other side uses an extension of WebSocket that was not asked for".into());
    }
    if headers.get(SEC_WEBSOCKET_PROTOCOL).is_none_or(|value| value != WEBSOCKET_PROTOCOL) {
        return Err("the other side speaks WebSocket, but not whispeer over it".into());
    }
    Ok(())
}

/// Whether a header has this among its comma-separated values.
fn names(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name);
    let mut values = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    values.any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// What a bus says, in a sentence that goes on with it: without what could upset a terminal.
fn unquoted(text: &[u8]) -> String {
    const SHOWN: usize = 300;
    let printable = |character: &char| !character.is_control();
    String::from_utf8_lossy(text).chars().filter(printable).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn answer(from: &str, to: &str) -> Result<(), String> {
        let good = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    Sec-WebSocket-Protocol: whispeer.v1\r\n\r\n";
        assert!(good.contains(from), "{from}");
        let (_, response) = Response::try_parse(good.replacen(from, to, 1).as_bytes()).unwrap().unwrap();
        check(&response, KEY, b"because\x1b[1m of this\nand more")
    }

    #[test]
    fn an_answer_is_taken_only_if_it_is_one_to_the_request() {
        assert_eq!(answer("", ""), Ok(()));
        assert_eq!(answer("Connection: Upgrade", "Connection: keep-alive, upgrade"), Ok(()));
        for (from, to, reason) in [
            ("101 Switching Protocols", "403 Forbidden", "answers 403 Forbidden: because[1m of this"),
            ("websocket", "h2c", "does not begin"),
            ("Connection: Upgrade\r\n", "", "does not begin"),
            ("s3pPL", "S3pPL", "to this request"),
            ("whispeer.v1", "mqtt", "not whispeer"),
            ("Sec-WebSocket-Protocol: whispeer.v1\r\n", "", "not whispeer"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "extension"),
        ] {
            let error = answer(from, to).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
