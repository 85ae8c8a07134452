//! What a stream keeps.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::StoreError;
use crate::limits;
use crate::topic::TopicPattern;

/// The name of a stream or a consumer: 1 to [`limits::STORE_NAME_BYTES`] letters, digits, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(std::sync::Arc<str>);

impl Name {
    /// The name that is written so.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`].
    pub fn new(name: &str) -> Result<Self, StoreError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let has_length = (1..=limits::STORE_NAME_BYTES).contains(&name.len());
        if !has_length || !name.bytes().all(is_allowed) {
            let name = name.chars().take(limits::STORE_NAME_BYTES).collect();
            return Err(StoreError::InvalidName { name, limit: limits::STORE_NAME_BYTES });
        }
        Ok(Self(name.into()))
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<Self, StoreError> {
        Self::new(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.as_str())
    }
}

/// Which topics a stream has, and what it keeps of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSettings {
    /// What it is called.
    pub name: Name,
    /// The topics that it has. No other stream has any of them.
    pub patterns: Vec<TopicPattern>,
    /// What it keeps.
    pub retention: Retention,
    /// How long it knows the ids of messages, so that one that is sent again is not stored twice. When that is over they go
    /// [two](limits::MESSAGE_IDS_AGED) with each message that comes, the oldest first, and are known until then.
    pub known_for: Duration,
    /// How many ids it knows at the most: those of the messages that came last. By default [`limits::MESSAGE_IDS`]. A message
    /// is stored once that is sent again within [`known_for`](Self::known_for) and before so many others with ids were stored.
    ///
    /// Where [`Retention::bytes`] bounds the stream, ids count towards that, [`limits::MESSAGE_ID_BYTES`] each, and may take
    /// one part in [`limits::MESSAGE_IDS_PART`] of it: so many at the most are known then, and at least one. What was forgotten
    /// before [`known_for`](Self::known_for) was over is counted ([`StreamState::forgotten`]).
    pub known_messages: u64,
    /// What a bus keeps of its dead letters, in a stream beside it: by default [`limits::DEAD_LETTERS`] and
    /// [`limits::DEAD_LETTER_BYTES`]. This is for whoever makes that stream
    /// ([`Streams::open`](crate::bus::Streams::open)); a store has no use for it, and does not remember it.
    pub dead_letters: Retention,
}

impl StreamSettings {
    /// A stream of these topics that keeps everything.
    #[must_use]
    pub fn new(name: Name, patterns: Vec<TopicPattern>) -> Self {
        let dead_letters = Retention::new().messages(limits::DEAD_LETTERS).bytes(limits::DEAD_LETTER_BYTES);
        let known_for = limits::MESSAGE_ID_WINDOW;
        let known_messages = limits::MESSAGE_IDS;
        Self { name, patterns, retention: Retention::default(), known_for, known_messages, dead_letters }
    }

    /// Keeps no more than this.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Knows the ids of messages for so long.
    #[must_use]
    pub fn known_for(mut self, time: Duration) -> Self {
        self.known_for = time;
        self
    }

    /// Knows the ids of so many messages at the most.
    #[must_use]
    pub fn known_messages(mut self, messages: u64) -> Self {
        self.known_messages = messages;
        self
    }

    /// Keeps no more dead letters than this, in place of the default bounds.
    ///
    /// # Examples
    /// ```
    /// use whispeer::TopicPattern;
    /// use whispeer::store::{Name, Retention, StreamSettings};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let orders = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?])
    ///     .retention(Retention::new().bytes(4 << 30))
    ///     .dead_letters(Retention::new().messages(10_000).bytes(64 << 20));
    /// assert_eq!(orders.dead_letters.bytes, Some(64 << 20));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn dead_letters(mut self, retention: Retention) -> Self {
        self.dead_letters = retention;
        self
    }

    /// How long ids are known, in milliseconds.
    pub(super) fn window(&self) -> u64 {
        u64::try_from(self.known_for.as_millis()).unwrap_or(u64::MAX)
    }

    /// How many ids there may be, by their number and by what they take of the disk.
    pub(super) fn most_ids(&self) -> u64 {
        let fitting = |bytes: u64| (bytes / limits::MESSAGE_IDS_PART / limits::MESSAGE_ID_BYTES).max(1);
        self.retention.bytes.map_or(self.known_messages, |bytes| self.known_messages.min(fitting(bytes)))
    }

    /// What stands against it where there are these other streams.
    pub(super) fn check<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Result<(), StoreError> {
        if self.patterns.len() > limits::STREAM_PATTERNS {
            let what = format!("a stream has at most {} patterns", limits::STREAM_PATTERNS);
            return Err(StoreError::LimitReached { what });
        }
        let mut count = 0;
        for other in others.filter(|other| other.name != self.name) {
            count += 1;
            for pattern in &self.patterns {
                if let Some(met) = other.patterns.iter().find(|met| met.meets(pattern)) {
                    return Err(StoreError::Overlapping {
                        pattern: pattern.to_string(),
                        other: met.to_string(),
                        stream: other.name.to_string(),
                    });
                }
            }
        }
        if count >= limits::STREAMS {
            let what = format!("a store has at most {} streams", limits::STREAMS);
            return Err(StoreError::LimitReached { what });
        }
        Ok(())
    }
}

/// What a stream keeps at the most; what is over goes, the oldest first. `None` is for no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Retention {
    /// How long.
    pub age: Option<Duration>,
    /// How many messages.
    pub messages: Option<u64>,
    /// How many bytes: the [`weight`](super::weight) of each message, and [`limits::MESSAGE_ID_BYTES`] for each id that is
    /// known, which is about what they take of a disk.
    pub bytes: Option<u64>,
    /// How many messages of each topic.
    pub topic_messages: Option<u64>,
    /// How many bytes of each topic.
    pub topic_bytes: Option<u64>,
}

impl Retention {
    /// Everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No longer than this.
    #[must_use]
    pub fn age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// No more messages than this.
    #[must_use]
    pub fn messages(mut self, messages: u64) -> Self {
        self.messages = Some(messages);
        self
    }

    /// No more bytes than this.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// No more messages of one topic than this; 1 keeps the last value of each.
    #[must_use]
    pub fn topic_messages(mut self, messages: u64) -> Self {
        self.topic_messages = Some(messages);
        self
    }

    /// No more bytes of one topic than this.
    #[must_use]
    pub fn topic_bytes(mut self, bytes: u64) -> Self {
        self.topic_bytes = Some(bytes);
        self
    }

    /// Whether topics have bounds of their own.
    #[cfg(feature = "sqlite")]
    pub(super) fn bounds_topics(&self) -> bool {
        self.topic_messages.is_some() || self.topic_bytes.is_some()
    }

    /// Whether messages of so many bytes, and so many ids, are more than may be.
    pub(super) fn is_over_bytes(&self, bytes: u64, ids: u64) -> bool {
        let ids = ids.saturating_mul(limits::MESSAGE_ID_BYTES);
        self.bytes.is_some_and(|most| bytes.saturating_add(ids) > most)
    }

    /// The time from which on messages are young enough.
    pub(super) fn youngest(&self, now: u64) -> Option<u64> {
        let age = u64::try_from(self.age?.as_millis()).unwrap_or(u64::MAX);
        Some(now.saturating_sub(age))
    }
}

/// A stream as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamState {
    /// Its settings.
    pub settings: StreamSettings,
    /// Drawn at random when it was made, or [renewed](crate::store::Change::Renew).
    pub epoch: [u8; 16],
    /// The first sequence that retention has left; without messages the one that comes next.
    pub first: u64,
    /// The first sequence that is still to be assigned.
    pub end: u64,
    /// Messages that there are.
    pub messages: u64,
    /// Bytes that they count as, without ids.
    pub bytes: u64,
    /// Ids of messages that are known.
    pub ids: u64,
    /// Ids that were forgotten before [`StreamSettings::known_for`] was over, as there were too many: a message of theirs that
    /// was sent again would have been stored twice.
    pub forgotten: u64,
    /// Messages beside these that are not due yet.
    pub delayed: u64,
}

/// The epoch of a new stream.
pub(super) fn drawn_epoch() -> Result<[u8; 16], StoreError> {
    let mut epoch = [0; 16];
    getrandom::fill(&mut epoch).map_err(|error| StoreError::Failed {
        place: "the system's random generator".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(epoch)
}
