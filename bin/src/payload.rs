//! Values of the command line and of standard input as payloads.

use bytes::Bytes;
use whispeer::json::from_json;

use crate::failure::{Failure, shell_word};

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
            let failure = Failure::usage(format!("the value is {error}"));
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_value_that_is_not_json_is_answered_with_how_to_write_it() {
        let error = from_text(b"hello world", false).unwrap_err();
        assert!(error.to_string().contains("not JSON"), "{error}");
        assert_eq!(from_text(b"hello", true).unwrap(), "hello");
    }
}
