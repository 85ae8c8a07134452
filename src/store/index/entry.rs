//! What an index is told, and what it tells.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::change::Change;
use crate::store::message::{MessageId, NewMessage};
use crate::store::settings::Name;
use crate::topic::TopicPattern;

/// A message that is to be stored, but for what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<C> {
    /// The topic, or the pattern that it was published to.
    pub topic: TopicPattern,
    /// Bytes that it counts as: see [`weight`](crate::store::weight).
    pub weight: u64,
    /// When it is published: milliseconds since 1970 (UTC).
    pub time: u64,
    /// When it is of no use any more, likewise.
    pub expires: Option<u64>,
    /// By which it is known if its publisher sends it again.
    pub id: Option<MessageId>,
    /// What is in it, or where that is.
    pub content: C,
}

/// One [`Change`]: where it brings a message, with the place of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act<C> {
    /// [`Change::Append`], and [`Change::AppendTo`] where it names another stream.
    Append {
        /// The other stream.
        stream: Option<Name>,
        /// The message.
        entry: Entry<C>,
    },
    /// [`Change::Move`].
    Move {
        /// The sequence of the message that goes.
        sequence: u64,
        /// The stream that it goes to.
        stream: Name,
        /// What it is there.
        entry: Entry<C>,
    },
    /// [`Change::Delay`].
    Delay {
        /// The message.
        entry: Entry<C>,
        /// When it is due: milliseconds since 1970 (UTC).
        due: u64,
        /// In whose name it is added then.
        author: Bytes,
        /// Whom it counts for.
        owner: Bytes,
    },
    /// Any other, which brings no message. One that does changes nothing.
    Plain(Change),
}

impl<C> Act<C> {
    /// What a change does, where this says what to keep of the fields and the payload of a message.
    pub fn of(change: Change, keep: impl FnOnce(Bytes, Bytes) -> C) -> Self {
        let entry = |message: NewMessage| {
            let weight = message.weight();
            let NewMessage { topic, fields, payload, time, expires, id } = message;
            Entry { topic, weight, time, expires, id, content: keep(fields, payload) }
        };
        match change {
            Change::Append(message) => Self::Append { stream: None, entry: entry(message) },
            Change::AppendTo { stream, message } => {
                Self::Append { stream: Some(stream), entry: entry(message) }
            }
            Change::Move { sequence, stream, message } => {
                Self::Move { sequence, stream, entry: entry(message) }
            }
            Change::Delay { message, due, author, owner } => {
                Self::Delay { entry: entry(message), due, author, owner }
            }
            plain => Self::Plain(plain),
        }
    }

    /// Whom it counts for that is to be kept until it is due, and how much.
    pub(super) fn delay(&self) -> Option<(&Bytes, u64)> {
        match self {
            Self::Delay { entry, author, owner, .. } => {
                Some((owner, entry.weight + (author.len() + owner.len()) as u64))
            }
            _ => None,
        }
    }

    /// The other stream that it is about as well.
    pub(super) fn other(&self) -> Option<&Name> {
        match self {
            Self::Append { stream, .. } => stream.as_ref(),
            Self::Move { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// What is in its message.
    pub(super) fn into_content(self) -> Option<C> {
        match self {
            Self::Append { entry, .. } | Self::Move { entry, .. } | Self::Delay { entry, .. } => {
                Some(entry.content)
            }
            Self::Plain(_) => None,
        }
    }
}

/// A message that is stored, but for what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row<C> {
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// The topic, or the pattern that it was published to.
    pub topic: TopicPattern,
    /// Bytes that it counts as.
    pub weight: u64,
    /// When it was published: milliseconds since 1970 (UTC).
    pub time: u64,
    /// When it is of no use any more, likewise.
    pub expires: Option<u64>,
    /// What is in it, or where that is.
    pub content: C,
}

/// Some messages of a stream, in their order; see [`Page`](crate::store::Page).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexPage<C> {
    /// The messages.
    pub rows: Vec<Row<C>>,
    /// The sequence to go on from.
    pub next: u64,
    /// The first sequence that retention has left.
    pub first: u64,
    /// The first sequence that is still to be assigned.
    pub end: u64,
}

/// An id as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdImage(pub(super) [u8; 16], pub(super) u64);

impl From<MessageId> for IdImage {
    fn from(id: MessageId) -> Self {
        Self(id.publisher, id.number)
    }
}

impl From<IdImage> for MessageId {
    fn from(IdImage(publisher, number): IdImage) -> Self {
        Self { publisher, number }
    }
}
