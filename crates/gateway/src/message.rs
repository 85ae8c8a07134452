//! Payloads of the bus as JSON and back.
//!
//! What typed clients send is MessagePack, and stands as JSON here. A payload that is sealed (encrypted, or compressed by its
//! sender) cannot be read, unless the gateway was given the engines for its topic; it is passed as marked base64,
//! `{"$sealed":"…"}`, and counted.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use whispeer::engine::{PayloadOpener, is_sealed};
use whispeer::json::{JsonError, from_json, push_json};
use whispeer::proto::{Content, Encoding};

const MARK: &[u8] = b"{\"$sealed\":\"";
const MARK_END: &[u8] = b"\"}";

/// The form of a message, made once for all sockets of the gateway. What is not sealed is the same for other gateways of the bus;
/// what this one opens is not for them, who may have no keys, or others.
pub(crate) fn encoded(
    opener: Option<&PayloadOpener>,
    content: &Content,
    encoding: Encoding,
    encode: impl FnOnce() -> Bytes,
) -> Bytes {
    match opener.filter(|_| is_content_sealed(content)) {
        Some(opener) => content.encoded_for(opener.owner(), encoding, encode),
        None => content.encoded(encoding, encode),
    }
}

/// Whether a message is sealed. A value of the process is not, and is not encoded to find out.
pub(crate) fn is_content_sealed(content: &Content) -> bool {
    content.value().is_none() && is_sealed(content.payload())
}

/// Adds the payload of a message to `topic`, as it was published, as JSON: opened, if the gateway can. Returns whether it is
/// still sealed.
pub(crate) fn push_opened(
    opener: Option<&PayloadOpener>,
    topic: &str,
    payload: &[u8],
    text: &mut Vec<u8>,
) -> bool {
    let sealed = opener.filter(|_| is_sealed(payload));
    match sealed.map(|opener| opener.open(topic, payload)) {
        // Somebody may have sealed it himself before.
        Some(Ok(opened)) => push_payload(&opened, text),
        Some(Err(error)) => {
            tracing::debug!(topic, %error, "a payload stays sealed");
            push_payload(payload, text)
        }
        None => push_payload(payload, text),
    }
}

/// Whether what ends there has the mark of this payload at its end, which was sealed and could not be opened.
pub(crate) fn ends_sealed(text: &[u8], payload: &[u8]) -> bool {
    let encoded = base64::encoded_len(payload.len(), true).unwrap_or(usize::MAX);
    let length = encoded.saturating_add(MARK.len() + MARK_END.len());
    let marked = text.len().checked_sub(length).and_then(|start| text.get(start..));
    is_sealed(payload) && marked.is_some_and(|marked| marked.starts_with(MARK) && marked.ends_with(MARK_END))
}

/// Whether JSON begins as the mark of a sealed payload does.
pub(crate) fn starts_marked(json: &[u8]) -> bool {
    // So many digits as there are bytes for, up to the next that is whole.
    let head = json.strip_prefix(MARK).and_then(|rest| rest.get(..4));
    head.and_then(|head| STANDARD.decode(head).ok()).is_some_and(|head| is_sealed(&head))
}

/// Whether JSON is the mark of a sealed payload.
pub(crate) fn is_mark(json: &[u8]) -> bool {
    let digits = json.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(MARK_END));
    starts_marked(json) && digits.is_some_and(|digits| !digits.contains(&b'"'))
}

/// Adds a payload as JSON. Returns whether it is sealed.
pub(crate) fn push_payload(payload: &[u8], text: &mut Vec<u8>) -> bool {
    let is_sealed = is_sealed(payload);
    if is_sealed {
        text.extend_from_slice(MARK);
        text.extend_from_slice(STANDARD.encode(payload).as_bytes());
        text.extend_from_slice(MARK_END);
    } else {
        push_json(payload, text);
    }
    is_sealed
}

/// The payload of a JSON text. The mark of a sealed payload becomes that payload again; if it is none, it is a map as any other.
///
/// # Errors
/// If it is not exactly one JSON value.
pub(crate) fn payload_of(text: &str) -> Result<Bytes, JsonError> {
    match sealed_of(text) {
        Some(sealed) => Ok(sealed),
        None => from_json(text.as_bytes()),
    }
}

fn sealed_of(text: &str) -> Option<Bytes> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Marked<'a> {
        #[serde(rename = "$sealed", borrow)]
        sealed: Cow<'a, str>,
    }

    // Most are none, and those are not read for it.
    let first = text.trim_start().strip_prefix('{')?.trim_start();
    first.strip_prefix("\"$sealed\"")?;
    let marked: Marked<'_> = serde_json::from_str(text).ok()?;
    let sealed = STANDARD.decode(&*marked.sealed).ok()?;
    is_sealed(&sealed).then(|| sealed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_payload_is_marked_and_comes_back_as_it_was() {
        let sealed = [0xC1, 0x57, 1, 200, 0x2A, 0xFF];
        let mut text = Vec::new();
        assert!(push_payload(&sealed, &mut text));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, r#"{"$sealed":"wVcByCr/"}"#);
        assert_eq!(payload_of(&text).unwrap(), sealed[..]);
        assert_eq!(payload_of(" {\n\"$sealed\" : \"wVcByCr/\"} ").unwrap(), sealed[..]);
    }

    #[test]
    fn what_only_looks_like_a_sealed_payload_is_a_map() {
        for text in [
            r#"{"$sealed":"AQI="}"#,
            r#"{"$sealed":"no base64"}"#,
            r#"{"$sealed":1}"#,
            r#"{"$sealed":"wVcByCr/","more":1}"#,
            r#"{"$sealed":"wVcByCr/","$sealed":"wVcByCr/"}"#,
        ] {
            let payload = payload_of(text).unwrap();
            assert!(!is_sealed(&payload), "{text}");
            assert_eq!(payload, from_json(text.as_bytes()).unwrap());
        }
        assert!(payload_of(r#"{"$sealed":"wVcByCr/""#).is_err());
    }

    #[test]
    fn whether_a_text_has_the_mark_is_seen_at_its_end() {
        for length in 4..20 {
            let sealed = [&[0xC1, 0x57, 1, 200][..], &vec![7; length]].concat();
            let mut text = b"{\"data\":".to_vec();
            push_payload(&sealed, &mut text);
            assert!(ends_sealed(&text, &sealed));
            text.push(b'}');
            assert!(!ends_sealed(&text, &sealed));
            assert!(!ends_sealed(b"\"}", &sealed));
            assert!(!ends_sealed(&[b'"'; 100], &sealed));
        }
    }

    #[test]
    fn other_payloads_are_json() {
        let mut text = Vec::new();
        assert!(!push_payload(&[0x92, 0x01, 0xc3], &mut text));
        assert_eq!(text, b"[1,true]");
        assert_eq!(payload_of("[1, true]").unwrap(), [0x92, 0x01, 0xc3][..]);
    }
}
