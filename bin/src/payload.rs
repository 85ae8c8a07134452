//! Payloads as JSON, and JSON as payloads.
//!
//! Programs exchange MessagePack; people and scripts read and write JSON. What JSON has no form for is
//! written as an object with one key:
//!
//! | payload | JSON |
//! |---|---|
//! | binary | `{"$binary": "BASE64"}` |
//! | an extension type | `{"$extension": NUMBER, "data": "BASE64"}` |
//! | not a number, or infinite | `null` |
//! | anything that is not exactly one MessagePack value | `{"$binary": "BASE64"}` of the whole payload |
//!
//! `{"$binary": …}` is read back as binary. Keys of maps that are not strings become strings of their
//! JSON; collections cannot be keys. A payload is turned into text piece by piece, without a tree in between, so that a message
//! made to expand cannot use more memory than a few times its own size.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

use crate::failure::{Failure, shell_word};

/// Levels of nesting at which a payload is no longer read as MessagePack; deeper ones would only serve
/// to overflow the stack. The same as serde_json's, so that what is written can be read again.
const DEPTH_LIMIT: usize = 127;

/// The key that marks binary data.
const BINARY: &str = "$binary";

/// Reads a value from the command line or from standard input: JSON that becomes MessagePack, or,
/// `raw`, the bytes as they are.
pub(crate) fn from_text(text: &[u8], raw: bool) -> anyhow::Result<Bytes> {
    if raw {
        return Ok(Bytes::copy_from_slice(text));
    }
    match from_json(text) {
        Ok(payload) => Ok(payload),
        Err(error) => {
            let shown = String::from_utf8_lossy(text.get(..80).unwrap_or(text)).into_owned();
            let failure = Failure::usage(format!("the value is not JSON: {error}"));
            let help = match serde_json::to_string(shown.trim_end()) {
                Ok(quoted) if text.len() <= 80 => format!(
                    "to send it as a string, write {}; to send its bytes as they are, add --raw",
                    shell_word(&quoted)
                ),
                _ => "put strings in double quotes; to send bytes as they are, add --raw".to_owned(),
            };
            Err(failure.help(help).into())
        }
    }
}

/// The MessagePack of a JSON text.
pub(crate) fn from_json(text: &[u8]) -> anyhow::Result<Bytes> {
    let value: Value = serde_json::from_slice(text)?;
    Ok(rmp_serde::to_vec(&Packed(&value))?.into())
}

/// The MessagePack of a string: a header, then its bytes.
pub(crate) fn push_string(text: &str, payload: &mut Vec<u8>) {
    let length = text.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..32), _) => payload.push(0xa0 | length),
        (Ok(length), _) => payload.extend_from_slice(&[0xd9, length]),
        (_, Ok(length)) => {
            payload.push(0xda);
            payload.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            payload.push(0xdb);
            // A payload of 4 GiB is far beyond any frame limit and is refused when it is sent.
            payload.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    payload.extend_from_slice(text.as_bytes());
}

/// Adds the JSON of a payload.
pub(crate) fn push_json(payload: &[u8], text: &mut Vec<u8>) {
    let start = text.len();
    let mut reader = Reader { rest: payload };
    if reader.value(text, 0).is_none() || !reader.rest.is_empty() {
        text.truncate(start);
        push_binary(payload, text);
    }
}

/// Adds the JSON of a string.
pub(crate) fn push_json_string(string: &str, text: &mut Vec<u8>) {
    push_display(string, text);
}

/// The JSON of a payload, as text.
pub(crate) fn to_json(payload: &[u8]) -> String {
    let mut text = Vec::new();
    push_json(payload, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn push_binary(data: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(b"{\"$binary\":\"");
    text.extend_from_slice(STANDARD.encode(data).as_bytes());
    text.extend_from_slice(b"\"}");
}

fn push_display<T: Serialize + ?Sized>(value: &T, text: &mut Vec<u8>) {
    // Writing numbers and strings to memory cannot fail.
    let _ = serde_json::to_writer(text, value);
}

/// JSON on its way to MessagePack, with marked binary data as binary.
struct Packed<'a>(&'a Value);

impl Serialize for Packed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut sequence = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    sequence.serialize_element(&Packed(item))?;
                }
                sequence.end()
            }
            Value::Object(members) => {
                if let (1, Some(Value::String(data))) = (members.len(), members.get(BINARY))
                    && let Ok(data) = STANDARD.decode(data)
                {
                    return serializer.serialize_bytes(&data);
                }
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, &Packed(value))?;
                }
                map.end()
            }
            simple => simple.serialize(serializer),
        }
    }
}

/// Reads MessagePack; `None` where it ends too early or is not valid.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, text: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        let [marker] = self.array()?;
        match marker {
            0x00..=0x7f => push_display(&marker, text),
            0x80..=0x8f => self.map(u32::from(marker & 0x0f), text, depth)?,
            0x90..=0x9f => self.sequence(u32::from(marker & 0x0f), text, depth)?,
            0xa0..=0xbf => self.string(u32::from(marker & 0x1f), text)?,
            0xc0 => text.extend_from_slice(b"null"),
            0xc1 => return None,
            0xc2 => text.extend_from_slice(b"false"),
            0xc3 => text.extend_from_slice(b"true"),
            0xc4..=0xc6 => {
                let length = self.length(marker - 0xc4)?;
                push_binary(self.bytes(length)?, text);
            }
            0xc7..=0xc9 => {
                let length = self.length(marker - 0xc7)?;
                self.extension(length, text)?;
            }
            0xca => push_display(&f32::from_be_bytes(self.array()?), text),
            0xcb => push_display(&f64::from_be_bytes(self.array()?), text),
            0xcc => push_display(&u8::from_be_bytes(self.array()?), text),
            0xcd => push_display(&u16::from_be_bytes(self.array()?), text),
            0xce => push_display(&u32::from_be_bytes(self.array()?), text),
            0xcf => push_display(&u64::from_be_bytes(self.array()?), text),
            0xd0 => push_display(&i8::from_be_bytes(self.array()?), text),
            0xd1 => push_display(&i16::from_be_bytes(self.array()?), text),
            0xd2 => push_display(&i32::from_be_bytes(self.array()?), text),
            0xd3 => push_display(&i64::from_be_bytes(self.array()?), text),
            0xd4..=0xd8 => self.extension(1 << (marker - 0xd4), text)?,
            0xd9..=0xdb => {
                let length = self.length(marker - 0xd9)?;
                self.string(length, text)?;
            }
            0xdc | 0xdd => {
                let length = self.length(marker - 0xdc + 1)?;
                self.sequence(length, text, depth)?;
            }
            0xde | 0xdf => {
                let length = self.length(marker - 0xde + 1)?;
                self.map(length, text, depth)?;
            }
            0xe0..=0xff => push_display(&i8::from_be_bytes([marker]), text),
        }
        Some(())
    }

    fn sequence(&mut self, length: u32, text: &mut Vec<u8>, depth: usize) -> Option<()> {
        text.push(b'[');
        for index in 0..length {
            if index > 0 {
                text.push(b',');
            }
            self.value(text, depth + 1)?;
        }
        text.push(b']');
        Some(())
    }

    fn map(&mut self, length: u32, text: &mut Vec<u8>, depth: usize) -> Option<()> {
        text.push(b'{');
        for index in 0..length {
            if index > 0 {
                text.push(b',');
            }
            // A collection as a key would be quoted once more at each level, and grow with each.
            if matches!(self.rest.first(), Some(0x80..=0x9f | 0xdc..=0xdf)) {
                return None;
            }
            let start = text.len();
            self.value(text, depth + 1)?;
            if text.get(start) != Some(&b'"') {
                let key = String::from_utf8_lossy(text.get(start..)?).into_owned();
                text.truncate(start);
                push_display(&key, text);
            }
            text.push(b':');
            self.value(text, depth + 1)?;
        }
        text.push(b'}');
        Some(())
    }

    fn string(&mut self, length: u32, text: &mut Vec<u8>) -> Option<()> {
        let data = self.bytes(length)?;
        match std::str::from_utf8(data) {
            Ok(string) => push_display(string, text),
            Err(_) => push_binary(data, text),
        }
        Some(())
    }

    fn extension(&mut self, length: u32, text: &mut Vec<u8>) -> Option<()> {
        let kind = i8::from_be_bytes(self.array()?);
        let data = self.bytes(length)?;
        text.extend_from_slice(b"{\"$extension\":");
        push_display(&kind, text);
        text.extend_from_slice(b",\"data\":\"");
        text.extend_from_slice(STANDARD.encode(data).as_bytes());
        text.extend_from_slice(b"\"}");
        Some(())
    }

    /// A length of one, two or four bytes.
    fn length(&mut self, width: u8) -> Option<u32> {
        Some(match width {
            0 => u32::from(u8::from_be_bytes(self.array()?)),
            1 => u32::from(u16::from_be_bytes(self.array()?)),
            _ => u32::from_be_bytes(self.array()?),
        })
    }

    fn bytes(&mut self, length: u32) -> Option<&'a [u8]> {
        let (data, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(data)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (data, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(json: &str) -> String {
        to_json(&from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn json_comes_back_as_it_was_sent() {
        for json in [
            "null",
            "true",
            "-1",
            "127",
            "128",
            "-32768",
            "18446744073709551615",
            "-9223372036854775808",
            "1.5",
            "\"\"",
            "\"a \\\"quoted\\\" line\\n\"",
            "[]",
            "[1,[2,[3]]]",
            "{\"a\":{\"b\":[null,false]}}",
            "{\"$binary\":\"AAEC/w==\"}",
        ] {
            assert_eq!(round_trip(json), json);
        }
        let long = format!("\"{}\"", "x".repeat(70_000));
        assert_eq!(round_trip(&long), long);
        let wide = format!("[{}]", vec!["7"; 70_000].join(","));
        assert_eq!(round_trip(&wide), wide);
    }

    #[test]
    fn strings_are_written_as_any_encoder_writes_them() {
        for length in [0, 31, 32, 255, 256, 65_535, 65_536] {
            let text = "x".repeat(length);
            let mut payload = Vec::new();
            push_string(&text, &mut payload);
            assert_eq!(payload, rmp_serde::to_vec(&text).unwrap(), "{length} bytes");
        }
    }

    #[test]
    fn what_json_has_no_form_for_is_marked() {
        assert_eq!(to_json(&[0xc4, 2, 1, 2]), r#"{"$binary":"AQI="}"#);
        assert_eq!(to_json(&[0xd4, 0xff, 7]), r#"{"$extension":-1,"data":"Bw=="}"#);
        assert_eq!(to_json(&[0x81, 0x01, 0xc3]), r#"{"1":true}"#);
        assert_eq!(to_json(&[0xa1, 0xff]), r#"{"$binary":"/w=="}"#);
        assert_eq!(to_json(&[0xca, 0x7f, 0x80, 0, 0]), "null");
    }

    #[test]
    fn payloads_that_are_no_messagepack_are_shown_whole() {
        assert_eq!(to_json(b""), r#"{"$binary":""}"#);
        assert_eq!(to_json(b"hello"), r#"{"$binary":"aGVsbG8="}"#);
        // A map whose key is a map.
        assert_eq!(to_json(&[0x81, 0x80, 0xc0]), r#"{"$binary":"gYDA"}"#);
        assert_eq!(to_json(&[0xc1]), r#"{"$binary":"wQ=="}"#);
        // An array that claims four billion items and has none.
        assert_eq!(to_json(&[0xdd, 0xff, 0xff, 0xff, 0xff]), r#"{"$binary":"3f////8="}"#);
    }

    #[test]
    fn deep_nesting_ends_at_the_limit() {
        let allowed = [vec![0x91; DEPTH_LIMIT], vec![0xc0]].concat();
        assert!(to_json(&allowed).starts_with("[["));
        assert!(serde_json::from_str::<Value>(&to_json(&allowed)).is_ok());
        let deeper = vec![0x91; 1_000_000];
        assert!(to_json(&deeper).starts_with("{\"$binary\""));
    }

    #[test]
    fn every_short_payload_gives_valid_json() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let json = to_json(&[first, second, 0x01]);
                assert!(serde_json::from_str::<Value>(&json).is_ok(), "{first:#x} {second:#x}: {json}");
            }
        }
    }

    #[test]
    fn a_value_that_is_not_json_is_answered_with_how_to_write_it() {
        let error = from_text(b"hello world", false).unwrap_err();
        assert!(error.to_string().contains("not JSON"), "{error}");
        assert_eq!(from_text(b"hello", true).unwrap(), "hello");
    }
}
