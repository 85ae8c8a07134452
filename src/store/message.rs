//! What is stored, and what is read.

use bytes::Bytes;

use crate::limits;
use crate::topic::TopicPattern;

/// A message that is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The topic, or the pattern that it was published to.
    pub topic: TopicPattern,
    /// The field section of its frame, with its headers.
    pub fields: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// When it was published: milliseconds since 1970 (UTC).
    pub time: u64,
    /// When it is of no use any more, likewise; it is then as good as dropped.
    pub expires: Option<u64>,
    /// By which it is known if its publisher sends it again.
    pub id: Option<MessageId>,
}

impl NewMessage {
    /// Bytes that it counts as.
    pub(super) fn weight(&self) -> u64 {
        weight(&self.topic, &self.fields, &self.payload)
    }
}

/// Bytes that a message counts as.
pub(super) fn weight(topic: &TopicPattern, fields: &[u8], payload: &[u8]) -> u64 {
    (topic.as_str().len() + fields.len() + payload.len() + limits::STORED_OVERHEAD) as u64
}

/// By which a message is known if it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Its publisher, who has drawn this at random.
    pub publisher: [u8; 16],
    /// Its number among all of the publisher.
    pub number: u64,
}

/// A message that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// The topic, or the pattern that it was published to.
    pub topic: TopicPattern,
    /// The field section of its frame, with its headers.
    pub fields: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// When it was published: milliseconds since 1970 (UTC).
    pub time: u64,
    /// When it is of no use any more, likewise.
    pub expires: Option<u64>,
}

/// A message that is kept until it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delayed {
    /// Its number among those of its stream, from 1, in the order in which they came.
    pub id: u64,
    /// When it is due: milliseconds since 1970 (UTC).
    pub due: u64,
    /// In whose name it is added then, as it was given.
    pub author: Bytes,
    /// The message. Its time is when it is due.
    pub message: NewMessage,
}

impl Delayed {
    /// Bytes that it counts as.
    pub(super) fn weight(&self) -> u64 {
        self.message.weight() + self.author.len() as u64
    }
}

/// Which messages are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The sequence to begin with.
    pub from: u64,
    /// Only those whose topic meets this.
    pub pattern: Option<TopicPattern>,
    /// Messages that are returned at the most.
    pub messages: usize,
    /// Bytes after which no more are returned: at least one message is.
    pub bytes: u64,
    /// The time; what has expired by then is left out.
    pub now: u64,
}

impl Reading {
    /// A page of the ordinary size from this sequence on, of all that has not expired by `now`.
    #[must_use]
    pub fn from(from: u64, now: u64) -> Self {
        Self {
            from,
            pattern: None,
            messages: limits::STORE_PAGE_MESSAGES,
            bytes: limits::STORE_PAGE_BYTES,
            now,
        }
    }

    /// Only of topics that this meets.
    #[must_use]
    pub fn of(mut self, pattern: TopicPattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// At most so many messages.
    #[must_use]
    pub fn at_most(mut self, messages: usize) -> Self {
        self.messages = messages;
        self
    }

    /// Whether a message of this topic belongs to it.
    pub(super) fn takes(&self, topic: &TopicPattern) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.meets(topic))
    }
}

/// Some messages of a stream, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The messages.
    pub messages: Vec<Message>,
    /// The sequence to go on from. It is behind the last that there is once all have been read.
    pub next: u64,
    /// The first sequence that retention has left.
    pub first: u64,
    /// The first sequence that is still to be assigned.
    pub end: u64,
}

impl Page {
    /// Whether there was more to be read at that time.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.next < self.end
    }
}

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With what comes next.
    New,
    /// With the last so many messages, of the topics that the pattern meets.
    Last(u64, Option<TopicPattern>),
    /// With the oldest that there is.
    All,
    /// With this sequence.
    From(u64),
    /// With the first that was published then or later: milliseconds since 1970 (UTC).
    Since(u64),
}
