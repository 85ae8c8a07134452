//! What stands before an encrypted payload, and what it is bound to.
//!
//! ```text
//! algorithm and flags 1 · key id 8 · sender 16 · sequence 8 · [time 8] · ciphertext … · tag 16
//! ```
//!
//! Associated data, all of which both sides know without being told:
//!
//! ```text
//! "whispeer message 1" 18 · the head without its time 33 · kind 1 · index 8 ·
//! [sender 16 · sequence 8 of the request] · [time 8] · length of the topic 2 · topic
//! ```
//!
//! Numbers are little-endian. The time is that of the sender's clock, in milliseconds since 1970 (UTC).

use super::cipher::Algorithm;
use super::key::KeyId;
use crate::engine::{Context, Mark, MessageKind};
use crate::error::EngineError;
use crate::limits;

/// Bytes of the head without its time.
pub(super) const HEAD: usize = 1 + KeyId::LEN + 16 + 8;

/// Bytes of the time.
pub(super) const TIME: usize = 8;

/// In the first byte: it answers a request whose mark it is bound to.
const ANSWERS: u8 = 0x80;

/// In the first byte: it says when it was sealed.
const DATED: u8 = 0x40;

/// In the first byte: what is encrypted is the payload itself, and nothing is behind it.
const IS_BARE: u8 = 0x20;

/// In the first byte: the number of the algorithm.
const ALGORITHM: u8 = 0x0F;

const DOMAIN: &[u8; 18] = b"whispeer message 1";

/// What the head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) algorithm: Algorithm,
    pub(super) key: KeyId,
    pub(super) mark: Mark,
    /// Whether what is encrypted is the payload and nothing else. That tells how the sender's engine is set, and nothing
    /// of the message; and two bytes less are often a block of the cipher less.
    pub(super) is_bare: bool,
    /// When it was sealed, if that is said: milliseconds since 1970.
    pub(super) time: Option<u64>,
}

/// The request that a message in this context is bound to.
pub(super) fn request(context: &Context<'_>) -> Option<Mark> {
    match context.kind {
        MessageKind::Reply | MessageKind::StreamReply | MessageKind::ErrorReply => context.request,
        MessageKind::Publish | MessageKind::Request => None,
    }
}

impl Head {
    pub(super) fn to_bytes(self, context: &Context<'_>) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let answers = if request(context).is_some() { ANSWERS } else { 0 };
        let dated = if self.time.is_some() { DATED } else { 0 };
        let flags = answers | dated | if self.is_bare { IS_BARE } else { 0 };
        let mut writer = Writer { bytes: &mut bytes, at: 0 };
        writer.put(&[self.algorithm as u8 | flags]);
        writer.put(&self.key.to_bytes());
        writer.put_mark(self.mark);
        bytes
    }

    /// The head of what was sealed, as bytes, too, and what follows it.
    pub(super) fn split<'a>(
        context: &Context<'_>,
        sealed: &'a [u8],
    ) -> Result<(Self, &'a [u8; HEAD], &'a [u8]), EngineError> {
        let malformed = |what| Err(EngineError::Malformed { what });
        let Some((bytes, rest)) = sealed.split_first_chunk::<HEAD>() else {
            return malformed("what was encrypted is cut off");
        };
        let Some(([first], after)) = bytes.split_first_chunk() else { return malformed("it is empty") };
        let Some(algorithm) = Algorithm::numbered(first & ALGORITHM) else {
            return malformed("its cipher is none that is known");
        };
        if first & !(ANSWERS | DATED | IS_BARE | ALGORITHM) != 0 {
            return malformed("it has flags that are not known");
        }
        let Some((key, after)) = after.split_first_chunk() else { return malformed("it has no key") };
        let Some((sender, after)) = after.split_first_chunk() else { return malformed("it has no sender") };
        let Some(sequence) = after.first_chunk() else { return malformed("it has no sequence") };
        // An answer to something else, or to nothing that is known, is none to this.
        if (first & ANSWERS != 0) != request(context).is_some() {
            return Err(EngineError::Forged);
        }
        let mark = Mark { sender: *sender, sequence: u64::from_le_bytes(*sequence) };
        if mark.sequence >= limits::ENCRYPTED_MESSAGES {
            return malformed("its number is beyond the last");
        }
        let (time, rest) = match first & DATED {
            0 => (None, rest),
            _ => {
                let Some((time, rest)) = rest.split_first_chunk() else {
                    return malformed("its time is cut off");
                };
                (Some(u64::from_le_bytes(*time)), rest)
            }
        };
        let is_bare = first & IS_BARE != 0;
        Ok((Self { algorithm, key: KeyId::from_bytes(*key), mark, is_bare, time }, bytes, rest))
    }
}

/// Bytes that a message is bound to beside its topic, at the most.
const FIXED: usize = DOMAIN.len() + HEAD + 1 + 8 + 24 + TIME + 2;

/// Bytes of an ordinary topic. To clear room for the longest would cost as much as encrypting a short message, and for
/// this no more than ten stores.
const ORDINARY_TOPIC: usize = 160 - FIXED;

/// Calls `work` with the associated data.
pub(super) fn with_associated<R>(
    context: &Context<'_>,
    (head, time): (&[u8; HEAD], Option<u64>),
    work: impl FnOnce(&[u8]) -> Result<R, EngineError>,
) -> Result<R, EngineError> {
    let length = context.topic.len();
    if length <= ORDINARY_TOPIC {
        return work(associated(context, (head, time), &mut [0; FIXED + ORDINARY_TOPIC]));
    }
    if length <= limits::MAX_TOPIC_BYTES {
        return work(associated(context, (head, time), &mut [0; FIXED + limits::MAX_TOPIC_BYTES]));
    }
    Err(EngineError::Malformed { what: "its topic is longer than any" })
}

/// Writes the associated data into bytes of which there are enough.
fn associated<'a>(
    context: &Context<'_>,
    (head, time): (&[u8; HEAD], Option<u64>),
    bytes: &'a mut [u8],
) -> &'a [u8] {
    let mut writer = Writer { bytes, at: 0 };
    writer.put(DOMAIN);
    writer.put(head);
    writer.put(&[context.kind as u8]);
    writer.put(&context.index.to_le_bytes());
    if let Some(request) = request(context) {
        writer.put_mark(request);
    }
    if let Some(time) = time {
        writer.put(&time.to_le_bytes());
    }
    let topic = context.topic.as_bytes();
    writer.put(&u16::try_from(topic.len()).unwrap_or(u16::MAX).to_le_bytes());
    writer.put_all(topic);
    let Writer { bytes, at } = writer;
    bytes.get(..at).unwrap_or_default()
}

/// Writes into bytes of which there are enough.
struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    /// Puts as many bytes as are known when this is compiled.
    #[inline]
    fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        if let Some(to) = self.bytes.get_mut(self.at..).and_then(|rest| rest.first_chunk_mut()) {
            *to = *bytes;
            self.at += N;
        }
    }

    fn put_all(&mut self, bytes: &[u8]) {
        let end = self.at.saturating_add(bytes.len());
        if let Some(to) = self.bytes.get_mut(self.at..end) {
            to.copy_from_slice(bytes);
            self.at = end;
        }
    }

    #[inline]
    fn put_mark(&mut self, mark: Mark) {
        self.put(&mark.sender);
        self.put(&mark.sequence.to_le_bytes());
    }
}
