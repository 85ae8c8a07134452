//! Payloads of the bus as JSON and back.
//!
//! What typed clients send is MessagePack, and stands as JSON here. A payload that is sealed (encrypted, or compressed by its
//! sender) cannot be read; it is passed as marked base64, `{"$sealed":"…"}`, and counted.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use whispeer::engine::is_sealed;
use whispeer::json::{JsonError, from_json, push_json};

/// Adds a payload as JSON. Returns whether it was sealed.
pub(crate) fn push_payload(payload: &[u8], text: &mut Vec<u8>) -> bool {
    let is_sealed = is_sealed(payload);
    if is_sealed {
        text.extend_from_slice(b"{\"$sealed\":\"");
        text.extend_from_slice(STANDARD.encode(payload).as_bytes());
        text.extend_from_slice(b"\"}");
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
    fn other_payloads_are_json() {
        let mut text = Vec::new();
        assert!(!push_payload(&[0x92, 0x01, 0xc3], &mut text));
        assert_eq!(text, b"[1,true]");
        assert_eq!(payload_of("[1, true]").unwrap(), [0x92, 0x01, 0xc3][..]);
    }
}
