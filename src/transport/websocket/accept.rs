//! The handshake of a bus, and whom it refuses.

use std::net::IpAddr;

use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::header::{
    HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
};
use tungstenite::http::{StatusCode, Uri};

use super::http::{NoHead, quoted, read_head, write};
use super::stream::WebSocket;
use super::{WEBSOCKET_PROTOCOL, WebSocketOptions};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::transport::WebSocketAddress;
use crate::transport::channel::Channel;

/// What a request has to fulfil to be answered with a WebSocket.
#[derive(Debug)]
pub(in crate::transport) struct Rules {
    path: String,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Rules {
    /// Those of a bus that listens on this address.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for origins and hosts that are none.
    pub(in crate::transport) fn new(
        address: &WebSocketAddress,
        options: &WebSocketOptions,
    ) -> BusResult<Self> {
        let origins = options.origins.iter().map(|origin| match is_origin(origin) {
            true => Ok(origin.to_ascii_lowercase()),
            false => Err(BusError::InvalidSettings(format!(
                "\"{origin}\" is no origin; write it as browsers do, such as https://app.example.com, without a path"
            ))),
        });
        let own = address.endpoint().host();
        let listed = options.hosts.iter().map(|host| match is_host(host) {
            true => Ok(host.to_ascii_lowercase()),
            false => Err(BusError::InvalidSettings(format!(
                "\"{host}\" is no host; write its name alone, such as bus.example.com"
            ))),
        });
        let hosts = listed.chain([Ok(own.to_ascii_lowercase())]).collect::<BusResult<_>>()?;
        Ok(Self { path: address.path().to_owned(), hosts, origins: origins.collect::<BusResult<_>>()? })
    }
}

fn is_host(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.bytes().all(word)
}

/// Whether it is what a browser could send: never with a path, and not `null`, which stands for many.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    !scheme.is_empty() && scheme.bytes().all(letters) && host_of(rest).is_some()
}

/// The host in `HOST[:PORT]`, without brackets.
fn host_of(text: &str) -> Option<&str> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(text) => {
            let (host, rest) = text.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => {
            let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_host(host).then_some(host)?, rest)
        }
    };
    match rest.strip_prefix(':') {
        Some(port) => port.parse::<u16>().ok().map(|_| host),
        None => rest.is_empty().then_some(host),
    }
}

/// Why a request is not answered with a WebSocket, for whoever sent it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    /// A header that goes with the status.
    header: &'static str,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, header: "", text: text.into() }
    }

    /// To one that asks for no WebSocket.
    fn upgrade(text: &str) -> Self {
        let header = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
        Self { status: StatusCode::UPGRADE_REQUIRED, header, text: text.into() }
    }

    fn response(&self) -> String {
        let Self { status, header, text } = self;
        let length = text.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\n{header}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n\r\n{text}\n"
        )
    }
}

/// Does the handshake of a bus with whoever has connected. Who is refused is told why.
///
/// # Errors
/// Why there is no WebSocket, for the log.
pub(in crate::transport) async fn accept<C: Channel>(channel: C, rules: &Rules) -> BusResult<WebSocket<C>> {
    let failed = |reason: String| BusError::Disconnected { reason: format!("no WebSocket: {reason}") };
    let answer = match read_head(&channel).await {
        Ok(head) if !head.rest().is_empty() => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "something follows the request before it was answered"))
        }
        Ok(head) => judge(head.bytes(), rules),
        Err(NoHead::NotHttp) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "this is no HTTP; WebSocket is spoken here, without TLS at ws:// and with it at wss://",
        )),
        Err(NoHead::TooLong) => Err(Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the request has more than {} bytes", limits::WEBSOCKET_HEAD),
        )),
        Err(NoHead::Failed(error)) => return Err(failed(error.to_string())),
    };
    match answer {
        Ok(response) => {
            write(&channel, &response).await.map_err(|error| failed(error.to_string()))?;
            Ok(WebSocket::of_server(channel))
        }
        Err(refusal) => {
            // Whether it arrives or not, the connection is closed next.
            let _ = write(&channel, refusal.response().as_bytes()).await;
            channel.close();
            Err(failed(refusal.text))
        }
    }
}

/// The answer to a request.
fn judge(head: &[u8], rules: &Rules) -> Result<Vec<u8>, Refusal> {
    use tungstenite::error::{Error, ProtocolError};
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    let request = match Request::try_parse(head) {
        Ok(Some((_, request))) => request,
        Ok(None) => return Err(bad("the request is not complete")),
        Err(Error::Protocol(ProtocolError::WrongHttpMethod)) => {
            let header = "Allow: GET\r\n";
            let text = "a WebSocket begins with the method GET".into();
            return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, header, text });
        }
        Err(Error::Protocol(ProtocolError::WrongHttpVersion)) => {
            return Err(bad("a WebSocket begins with HTTP/1.1"));
        }
        Err(_) => return Err(bad("the request cannot be read")),
    };
    check_host(&request, rules)?;
    check_origins(request.headers(), rules)?;
    if request.uri().path_and_query().map(|path| path.as_str()) != Some(&rules.path) {
        let text = "no bus is at this path; take the one of the address that the bus listens on";
        return Err(Refusal::new(StatusCode::NOT_FOUND, text));
    }
    let mut response = create_response(&request).map_err(|error| match error {
        Error::Protocol(ProtocolError::MissingSecWebSocketKey) => bad("Sec-WebSocket-Key is missing"),
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            Refusal::upgrade("version 13 of WebSocket is spoken here (Sec-WebSocket-Version)")
        }
        _ => {
            Refusal::upgrade("a message bus is here, to be reached by WebSocket; this request asks for none")
        }
    })?;
    if !only(request.headers(), &SEC_WEBSOCKET_KEY).is_some_and(is_key) {
        return Err(bad("Sec-WebSocket-Key is not 16 bytes in Base64"));
    }
    let named = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut named = named.iter().filter_map(|names| names.to_str().ok()).flat_map(|names| names.split(','));
    if !named.any(|name| name.trim() == WEBSOCKET_PROTOCOL) {
        return Err(bad("the sub-protocol whispeer.v1 has to be named (Sec-WebSocket-Protocol)"));
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(WEBSOCKET_PROTOCOL));
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|_| bad("the request cannot be answered"))?;
    Ok(bytes)
}

/// The value of a header that must be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// A key is 16 bytes in Base64, which are 22 characters and two signs that fill up.
fn is_key(key: &HeaderValue) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    matches!(key.as_bytes(), [letters @ .., b'=', b'='] if letters.len() == 22 && letters.iter().all(letter))
}

/// A page that has given a name of its own the address of the bus would be of the origin of that name, and is told
/// by the name alone.
fn check_host(request: &Request, rules: &Rules) -> Result<(), Refusal> {
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    let whole = |uri: &Uri| uri.scheme().is_some() || uri.authority().is_some();
    if whole(request.uri()) {
        return Err(bad("the request names a whole address; a path is expected"));
    }
    let value = only(request.headers(), &HOST).ok_or_else(|| bad("there has to be one Host header"))?;
    let host = value.to_str().ok().and_then(host_of).ok_or_else(|| bad("the Host header cannot be read"))?;
    let listed = |host: &str| rules.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
    if host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") || listed(host) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::MISDIRECTED_REQUEST,
        format!(
            "no bus is known as {}; if it is one, list that host (`WebSocketOptions::host`, --websocket-hosts)",
            quoted(host.as_bytes())
        ),
    ))
}

fn check_origins(headers: &HeaderMap, rules: &Rules) -> Result<(), Refusal> {
    for origin in headers.get_all(ORIGIN) {
        let known = |known: &String| known.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
        if !rules.origins.iter().any(known) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "pages of {} are not let in; to do so, list that origin (`WebSocketOptions::origin`, \
                     --websocket-origins)",
                    quoted(origin.as_bytes())
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let options = WebSocketOptions::new()
            .origin("https://app.example.com")
            .origin("http://localhost:8080")
            .host("Proxy.example.com");
        let crate::Address::WebSocket(address) = "ws://bus.example.com:4242/bus".parse().unwrap() else {
            panic!("it is one")
        };
        Rules::new(&address, &options).unwrap()
    }

    /// The status of the answer to a good request in which `from` stands as `to`.
    fn status(from: &str, to: &str) -> (u16, String) {
        let good = "GET /bus HTTP/1.1\r\nHost: localhost:4242\r\nConnection: keep-alive, Upgrade\r\n\
                    Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Protocol: other, whispeer.v1\r\n\r\n";
        assert!(good.contains(from), "{from}");
        match judge(good.replacen(from, to, 1).as_bytes(), &rules()) {
            Ok(response) => (101, String::from_utf8(response).unwrap()),
            Err(refusal) => (refusal.status.as_u16(), refusal.text),
        }
    }

    #[test]
    fn a_good_request_is_answered_as_the_standard_says() {
        let (code, response) = status("", "");
        assert_eq!(code, 101);
        for line in [
            "HTTP/1.1 101 Switching Protocols\r\n",
            "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
            "sec-websocket-protocol: whispeer.v1\r\n",
        ] {
            assert!(response.contains(line), "{response}");
        }
        assert!(response.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_request_that_is_not_as_the_standard_says_is_refused() {
        for (from, to, expected, hint) in [
            ("GET", "POST", 405, "GET"),
            ("HTTP/1.1", "HTTP/1.0", 400, "HTTP/1.1"),
            ("/bus ", "/ ", 404, "path"),
            ("/bus ", "/bus/ ", 404, "path"),
            ("/bus ", "/bus?x=1 ", 404, "path"),
            ("/bus ", "http://localhost/bus ", 400, "whole address"),
            ("keep-alive, Upgrade", "keep-alive", 426, "WebSocket"),
            ("WebSocket", "h2c", 426, "WebSocket"),
            ("13", "8", 426, "13"),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, "missing"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", 400, "16 bytes"),
            (
                "dGhlIHNhbXBsZSBub25jZQ==\r\n",
                "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: x\r\n",
                400,
                "16",
            ),
            ("whispeer.v1", "whispeer.v2", 400, "whispeer.v1"),
            ("Sec-WebSocket-Protocol: other, whispeer.v1\r\n", "", 400, "Sec-WebSocket-Protocol"),
        ] {
            let (code, text) = status(from, to);
            assert_eq!(code, expected, "{from} {to}: {text}");
            assert!(text.contains(hint), "{text}");
        }
    }

    #[test]
    fn only_hosts_that_no_stranger_can_name_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:4242",
            "10.1.2.3",
            "[::1]:80",
            "[fe80::1]",
            "bus.example.com:4242",
            "BUS.example.com",
            "proxy.example.com",
        ] {
            assert_eq!(status("localhost:4242", host).0, 101, "{host}");
        }
        for host in ["evil.example.com", "localhost.evil.example.com", "127.0.0.1.evil.example.com:4242"] {
            let (code, text) = status("localhost:4242", host);
            assert_eq!(code, 421, "{host}");
            assert!(
                text.contains(host.trim_end_matches(":4242")) && text.contains("--websocket-hosts"),
                "{text}"
            );
        }
        for host in [
            "",
            ":4242",
            "a b",
            "localhost:port",
            "[::1",
            "[localhost]",
            "a@localhost",
            "localhost\r\nHost: x",
        ] {
            assert_eq!(status("localhost:4242", host).0, 400, "{host}");
        }
        assert_eq!(status("Host: localhost:4242\r\n", "").0, 400);
    }

    #[test]
    fn an_origin_has_to_be_listed_also_on_the_loopback() {
        let with = |origins: &str| status("\r\n\r\n", &format!("\r\n{origins}\r\n\r\n"));
        assert_eq!(with("Origin: https://app.example.com").0, 101);
        assert_eq!(with("origin: http://localhost:8080").0, 101);
        for origin in [
            "Origin: http://app.example.com",
            "Origin: https://app.example.com:444",
            "Origin: https://app.example.com.evil.example.com",
            "Origin: http://localhost:4242",
            "Origin: null",
            "Origin: ",
            "Origin: https://app.example.com\r\nOrigin: https://evil.example.com",
        ] {
            let (code, text) = with(origin);
            assert_eq!(code, 403, "{origin}");
            assert!(text.contains("--websocket-origins"), "{text}");
        }
    }

    #[test]
    fn what_is_listed_has_to_be_an_origin_or_a_host() {
        let crate::Address::WebSocket(address) = "ws://localhost".parse().unwrap() else {
            panic!("it is one")
        };
        for origin in ["*", "null", "app.example.com", "https://app.example.com/", "https://", "https://a b"]
        {
            let refused = Rules::new(&address, &WebSocketOptions::new().origin(origin)).unwrap_err();
            assert!(refused.to_string().contains(origin), "{refused}");
        }
        for host in ["", "*", "bus.example.com:80", "https://bus.example.com"] {
            assert!(Rules::new(&address, &WebSocketOptions::new().host(host)).is_err(), "{host}");
        }
    }
}
