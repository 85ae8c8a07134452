//! What the payloads of a measurement say, so that the receiver can prove that nothing was lost,
//! doubled or reordered.
//!
//! ```text
//! | stream: u16, sequence: u48   | complement of the first word, or when it was due | zeroes … |
//! | stream: u16, 2⁴⁸ - 1: the end | messages sent before it: u64                     | zeroes … |
//! ```
//!
//! Both words are little-endian; the stream is in the upper bits of the first.

use anyhow::{Context, Result, bail};

/// The smallest payload that holds both words, in bytes.
pub const SMALLEST_BYTES: usize = 16;

const SEQUENCE_BITS: u32 = 48;

const END: u64 = (1 << SEQUENCE_BITS) - 1;

/// Writes message number `sequence` of `stream` into `payload`.
pub fn write_message(payload: &mut [u8], stream: u16, sequence: u64) {
    let first = first_word(stream, sequence);
    write_words(payload, first, !first);
}

/// Writes message number `sequence` of `stream`, which was due at `due`, into `payload`.
pub fn write_due(payload: &mut [u8], stream: u16, sequence: u64, due: u64) {
    write_words(payload, first_word(stream, sequence), due);
}

/// Writes the end of `stream` after `count` messages into `payload`.
pub fn write_end(payload: &mut [u8], stream: u16, count: u64) {
    write_words(payload, first_word(stream, END), count);
}

fn first_word(stream: u16, sequence: u64) -> u64 {
    (u64::from(stream) << SEQUENCE_BITS) | sequence
}

fn write_words(payload: &mut [u8], first: u64, second: u64) {
    if let Some(words) = payload.first_chunk_mut::<SMALLEST_BYTES>() {
        let both = u128::from(first) | (u128::from(second) << 64);
        *words = both.to_le_bytes();
    }
}

/// What a payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A message.
    Numbered {
        /// Of which stream.
        stream: u16,
        /// Its number there.
        sequence: u64,
        /// What follows the number.
        second: u64,
    },
    /// The end of a stream.
    End {
        /// Of which stream.
        stream: u16,
        /// Messages before it.
        count: u64,
    },
}

impl Message {
    /// Reads a payload.
    ///
    /// # Errors
    /// When it is too short.
    pub fn read(payload: &[u8]) -> Result<Self> {
        let words = payload
            .first_chunk::<SMALLEST_BYTES>()
            .context("a payload was cut short")?;
        let both = u128::from_le_bytes(*words);
        let (first, second) = (both as u64, (both >> 64) as u64);
        let (stream, sequence) = ((first >> SEQUENCE_BITS) as u16, first & END);
        if sequence == END {
            return Ok(Self::End {
                stream,
                count: second,
            });
        }
        Ok(Self::Numbered {
            stream,
            sequence,
            second,
        })
    }

    /// Fails unless the second word is the complement of the first.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Numbered {
                stream,
                sequence,
                second,
            } if second != !first_word(stream, sequence) => {
                bail!("message {sequence} of stream {stream} was changed on its way")
            }
            Self::Numbered { .. } | Self::End { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_what_was_written_into_it() {
        let mut payload = [0; SMALLEST_BYTES];
        write_message(&mut payload, 3, 7);
        let message = Message::read(&payload).unwrap();
        assert!(message.check().is_ok());
        assert!(matches!(
            message,
            Message::Numbered {
                stream: 3,
                sequence: 7,
                ..
            }
        ));
        write_end(&mut payload, 3, 8);
        let end = Message::End {
            stream: 3,
            count: 8,
        };
        assert_eq!(Message::read(&payload).unwrap(), end);
    }

    #[test]
    fn a_changed_payload_is_noticed() {
        let mut payload = [0; SMALLEST_BYTES];
        write_message(&mut payload, 0, 7);
        payload[0] = 8;
        assert!(Message::read(&payload).unwrap().check().is_err());
        assert!(Message::read(&payload[..15]).is_err());
    }
}
