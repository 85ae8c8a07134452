//! What the payloads of a measurement say, so that the receiver can prove that nothing was lost,
//! doubled or reordered.
//!
//! ```text
//! | sequence: u64 LE            | complement of the sequence: u64 LE | zeroes … |
//! | u64::MAX, the end of a run  | messages sent before it: u64 LE    | zeroes … |
//! ```

use anyhow::{Context, Result, bail};

/// The smallest payload that holds both words, in bytes.
pub const SMALLEST_BYTES: usize = 16;

const END: u64 = u64::MAX;

/// Writes message number `sequence` into `payload`.
pub fn write_message(payload: &mut [u8], sequence: u64) {
    write_words(payload, sequence, !sequence);
}

/// Writes the end of a run of `count` messages into `payload`.
pub fn write_end(payload: &mut [u8], count: u64) {
    write_words(payload, END, count);
}

fn write_words(payload: &mut [u8], first: u64, second: u64) {
    if let Some(words) = payload.first_chunk_mut::<SMALLEST_BYTES>() {
        let both = u128::from(first) | (u128::from(second) << 64);
        *words = both.to_le_bytes();
    }
}

/// What comes next on one stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The expected message.
    Message,
    /// The end, after as many messages as were sent.
    End,
}

/// The receiving end of one stream of messages: accepts each exactly once and in order.
#[derive(Debug, Default)]
pub struct Sequence {
    next: u64,
}

impl Sequence {
    /// Checks the next payload.
    ///
    /// # Errors
    /// When it is not the message that has to come next, or the end comes too early.
    pub fn accept(&mut self, payload: &[u8]) -> Result<Step> {
        let words = payload
            .first_chunk::<SMALLEST_BYTES>()
            .context("a payload was cut short")?;
        let both = u128::from_le_bytes(*words);
        let (first, second) = (both as u64, (both >> 64) as u64);
        if first == END {
            if second != self.next {
                bail!("{second} messages were sent and {} arrived", self.next);
            }
            return Ok(Step::End);
        }
        if first != self.next || second != !first {
            bail!("message {first} arrived where {} was due", self.next);
        }
        self.next += 1;
        Ok(Step::Message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64) -> [u8; SMALLEST_BYTES] {
        let mut payload = [0; SMALLEST_BYTES];
        write_message(&mut payload, sequence);
        payload
    }

    fn end(count: u64) -> [u8; SMALLEST_BYTES] {
        let mut payload = [0; SMALLEST_BYTES];
        write_end(&mut payload, count);
        payload
    }

    #[test]
    fn a_complete_run_is_accepted() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.accept(&message(0)).unwrap(), Step::Message);
        assert_eq!(sequence.accept(&message(1)).unwrap(), Step::Message);
        assert_eq!(sequence.accept(&end(2)).unwrap(), Step::End);
    }

    #[test]
    fn a_lost_message_is_noticed() {
        let mut sequence = Sequence::default();
        sequence.accept(&message(0)).unwrap();
        assert!(sequence.accept(&message(2)).is_err());
    }

    #[test]
    fn a_doubled_message_is_noticed() {
        let mut sequence = Sequence::default();
        sequence.accept(&message(0)).unwrap();
        assert!(sequence.accept(&message(0)).is_err());
    }

    #[test]
    fn a_message_lost_just_before_the_end_is_noticed() {
        let mut sequence = Sequence::default();
        sequence.accept(&message(0)).unwrap();
        assert!(sequence.accept(&end(2)).is_err());
    }
}
