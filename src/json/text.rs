//! MessagePack to JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::DEPTH_LIMIT;

/// Adds the JSON of a payload.
///
/// # Examples
/// ```
/// let mut text = b"data: ".to_vec();
/// whispeer::json::push_json(&[0x92, 0x01, 0xc3], &mut text);
/// assert_eq!(text, b"data: [1,true]");
/// ```
pub fn push_json(payload: &[u8], text: &mut Vec<u8>) {
    let start = text.len();
    let mut reader = Reader { rest: payload };
    if reader.value(text, 0).is_none() || !reader.rest.is_empty() {
        text.truncate(start);
        push_binary(payload, text);
    }
}

/// Adds the JSON of a string.
///
/// # Examples
/// ```
/// let mut text = Vec::new();
/// whispeer::json::push_json_string("a \"quoted\" word", &mut text);
/// assert_eq!(text, br#""a \"quoted\" word""#);
/// ```
pub fn push_json_string(string: &str, text: &mut Vec<u8>) {
    push_display(string, text);
}

/// The JSON of a payload, as text.
///
/// # Examples
/// ```
/// assert_eq!(whispeer::json::to_json(&[0xc4, 2, 1, 2]), r#"{"$binary":"AQI="}"#);
/// ```
#[must_use]
pub fn to_json(payload: &[u8]) -> String {
    let mut text = Vec::new();
    push_json(payload, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn push_binary(data: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(b"{\"$binary\":\"");
    push_base64(data, text);
    text.extend_from_slice(b"\"}");
}

fn push_base64(data: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(STANDARD.encode(data).as_bytes());
}

fn push_display<T: Serialize + ?Sized>(value: &T, text: &mut Vec<u8>) {
    // Writing numbers and strings to memory cannot fail.
    let _ = serde_json::to_writer(text, value);
}

/// One level more, unless there are as many as JSON is read with.
fn deeper(depth: usize) -> Option<usize> {
    (depth < DEPTH_LIMIT).then_some(depth + 1)
}

/// Reads MessagePack; `None` where it ends too early or is not valid.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, text: &mut Vec<u8>, depth: usize) -> Option<()> {
        let [marker] = self.array()?;
        match marker {
            0x00..=0x7f => push_display(&marker, text),
            0x80..=0x8f => self.map(u32::from(marker & 0x0f), text, depth)?,
            0x90..=0x9f => self.sequence(u32::from(marker & 0x0f), text, depth)?,
            0xa0..=0xbf => self.string(u32::from(marker & 0x1f), text, depth)?,
            0xc0 => text.extend_from_slice(b"null"),
            0xc1 => return None,
            0xc2 => text.extend_from_slice(b"false"),
            0xc3 => text.extend_from_slice(b"true"),
            0xc4..=0xc6 => {
                let length = self.length(marker - 0xc4)?;
                deeper(depth)?;
                push_binary(self.bytes(length)?, text);
            }
            0xc7..=0xc9 => {
                let length = self.length(marker - 0xc7)?;
                self.extension(length, text, depth)?;
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
            0xd4..=0xd8 => self.extension(1 << (marker - 0xd4), text, depth)?,
            0xd9..=0xdb => {
                let length = self.length(marker - 0xd9)?;
                self.string(length, text, depth)?;
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
        let depth = deeper(depth)?;
        text.push(b'[');
        for index in 0..length {
            if index > 0 {
                text.push(b',');
            }
            self.value(text, depth)?;
        }
        text.push(b']');
        Some(())
    }

    fn map(&mut self, length: u32, text: &mut Vec<u8>, depth: usize) -> Option<()> {
        let depth = deeper(depth)?;
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
            self.value(text, depth)?;
            if text.get(start) != Some(&b'"') {
                let key = String::from_utf8_lossy(text.get(start..)?).into_owned();
                text.truncate(start);
                push_display(&key, text);
            }
            text.push(b':');
            self.value(text, depth)?;
        }
        text.push(b'}');
        Some(())
    }

    fn string(&mut self, length: u32, text: &mut Vec<u8>, depth: usize) -> Option<()> {
        let data = self.bytes(length)?;
        match std::str::from_utf8(data) {
            Ok(string) => push_display(string, text),
            Err(_) => {
                deeper(depth)?;
                push_binary(data, text);
            }
        }
        Some(())
    }

    fn extension(&mut self, length: u32, text: &mut Vec<u8>, depth: usize) -> Option<()> {
        deeper(depth)?;
        let kind = i8::from_be_bytes(self.array()?);
        let data = self.bytes(length)?;
        text.extend_from_slice(b"{\"$extension\":");
        push_display(&kind, text);
        text.extend_from_slice(b",\"data\":\"");
        push_base64(data, text);
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
