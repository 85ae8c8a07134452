//! What can be done to a stream.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::message::{MessageId, NewMessage};
use super::settings::{Name, drawn_epoch};
use crate::error::StoreError;
use crate::topic::TopicPattern;

/// One change of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Adds a message at the end. What retention does not leave goes at once.
    Append(NewMessage),
    /// Adds a message at the end of another stream of the store.
    AppendTo {
        /// The other stream.
        stream: Name,
        /// The message.
        message: NewMessage,
    },
    /// Drops a message, and adds one in its place at the end of a stream of the store, which may be another. If it is
    /// not there any more nothing is added, so that who moves it twice has moved it once.
    Move {
        /// The sequence of the message that goes.
        sequence: u64,
        /// The stream that it goes to.
        stream: Name,
        /// What it is there.
        message: NewMessage,
    },
    /// Keeps a message that is to be added when it is due. It has no sequence until then, and retention does not count it.
    Delay {
        /// The message. It gets its time when it is added.
        message: NewMessage,
        /// When it is due: milliseconds since 1970 (UTC).
        due: u64,
        /// In whose name it is added then, as the caller writes that.
        author: Bytes,
        /// Whom it counts for, as the caller writes that: one owner keeps at most as much as it leaves free for others. What is
        /// nobody's, with an empty name, counts for all of them together only.
        owner: Bytes,
    },
    /// Adds a message that was kept until it was due, if it is still there.
    Release {
        /// Its id among those that are kept.
        id: u64,
        /// When it is published: milliseconds since 1970 (UTC).
        time: u64,
    },
    /// Drops a message that was kept.
    DropDelayed {
        /// Its id.
        id: u64,
    },
    /// Changes nothing, and tells what is known of a message by its id, behind all that was asked before:
    /// [`Outcome::Known`] where it is stored, [`Outcome::Delayed`] where it is kept until it is due, and otherwise
    /// [`Outcome::Done`].
    Recall {
        /// The id that it was sent with.
        id: MessageId,
    },
    /// Makes a consumer that begins with a sequence, if there is none of that name. One that is there stays as it is, but that
    /// one which belongs to nobody belongs to this owner from then on.
    Consumer {
        /// What it is called.
        name: Name,
        /// The topics that it takes; `None` for all.
        pattern: Option<TopicPattern>,
        /// The sequence that it begins with.
        from: u64,
        /// Whom it belongs to, as the caller writes that; empty for nobody.
        owner: Bytes,
    },
    /// Takes a consumer out.
    RemoveConsumer(Name),
    /// Nobody of this bus uses a consumer any more: one of another bus that has the same store open may have it from then on, without
    /// waiting until this bus is not heard of for long. It changes nothing else, and nothing at all in a store that one bus has.
    FreeConsumer(Name),
    /// A consumer is done with these messages.
    Done {
        /// The consumer.
        consumer: Name,
        /// All before this sequence are done. It never goes back.
        floor: u64,
        /// Those from there on that are done, too.
        sequences: Vec<u64>,
    },
    /// A message was handed to a consumer once more.
    Attempted {
        /// The consumer.
        consumer: Name,
        /// The message.
        sequence: u64,
        /// How often by now.
        attempts: u32,
    },
    /// A consumer may have been handed any message before this sequence.
    Handed {
        /// The consumer.
        consumer: Name,
        /// The first that it was certainly not handed. It never goes back.
        before: u64,
    },
    /// Drops these messages, where they are still there, in this order. All changes of this kind that are made together drop at most
    /// [`RETENTION_STEP`](crate::limits::RETENTION_STEP) messages, and in a file
    /// [`RETENTION_STEP_BYTES`](crate::limits::RETENTION_STEP_BYTES) of them; whoever wants more to go asks again until nothing does.
    Drop {
        /// Their sequences.
        sequences: Vec<u64>,
    },
    /// Drops what is over the age that retention leaves, and what has expired. A message of a time that is further ahead of `now` than
    /// [`CLOCK_AHEAD`](crate::limits::CLOCK_AHEAD) is as old as the first behind it that is not.
    Expire {
        /// The time: milliseconds since 1970 (UTC).
        now: u64,
    },
    /// Drops the messages before this sequence.
    Purge {
        /// The first that stays.
        before: u64,
    },
    /// Gives the stream another epoch, so that whoever goes on with what he has read of it is told that it is not the one that
    /// he knows. [`Change::renew`] draws one.
    Renew {
        /// Bytes that no stream had, as they are drawn at random.
        epoch: [u8; 16],
    },
}

impl Change {
    /// The consumer that it is about, if it is about one.
    ///
    /// # Examples
    /// ```
    /// use whispeer::store::{Change, Name};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let billing = Name::new("billing")?;
    /// assert_eq!(Change::RemoveConsumer(billing.clone()).consumer(), Some(&billing));
    /// assert_eq!(Change::renew()?.consumer(), None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn consumer(&self) -> Option<&Name> {
        match self {
            Self::Consumer { name: consumer, .. }
            | Self::RemoveConsumer(consumer)
            | Self::FreeConsumer(consumer)
            | Self::Done { consumer, .. }
            | Self::Attempted { consumer, .. }
            | Self::Handed { consumer, .. } => Some(consumer),
            Self::Append(_)
            | Self::AppendTo { .. }
            | Self::Move { .. }
            | Self::Drop { .. }
            | Self::Delay { .. }
            | Self::Release { .. }
            | Self::DropDelayed { .. }
            | Self::Recall { .. }
            | Self::Expire { .. }
            | Self::Purge { .. }
            | Self::Renew { .. } => None,
        }
    }

    /// [`Change::Renew`], for streams of a store that an older copy was put in place of. What was stored since the copy is
    /// gone and its sequences are given again, which nobody could tell by a sequence and the epoch as it was. No bus may have
    /// the stream meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where the system has no random bytes.
    ///
    /// # Examples
    /// ```
    /// use whispeer::TopicPattern;
    /// use whispeer::store::{Change, MemoryStore, Name, Store, StreamSettings};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MemoryStore::new();
    /// let orders = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
    /// let before = store.open(orders).await?.epoch;
    /// store.commit(Name::new("orders")?, vec![Change::renew()?]).await?;
    /// assert_ne!(store.streams().await?[0].epoch, before);
    /// # Ok(())
    /// # }
    /// ```
    pub fn renew() -> Result<Self, StoreError> {
        Ok(Self::Renew { epoch: drawn_epoch()? })
    }
}

/// What has become of a [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The message is stored, with this sequence.
    Appended {
        /// Its sequence.
        sequence: u64,
    },
    /// The message is one that was stored before, with this sequence.
    Known {
        /// Its sequence.
        sequence: u64,
    },
    /// The message is kept until it is due, with this id, or was before.
    Delayed {
        /// Its id among those that are kept.
        id: u64,
    },
    /// It is done. So many messages went, if that is what was asked for.
    Done {
        /// Messages.
        dropped: u64,
    },
}

/// Where a consumer is, as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerPosition {
    /// What it is called.
    pub name: Name,
    /// The topics that it takes; `None` for all.
    pub pattern: Option<TopicPattern>,
    /// Whom it belongs to, as it was given; empty for nobody, as of those that an earlier release has made.
    pub owner: Bytes,
    /// All before this sequence are done.
    pub floor: u64,
}

impl ConsumerPosition {
    /// A consumer that is there, and is nobody's.
    #[must_use]
    pub fn new(name: Name, pattern: Option<TopicPattern>, floor: u64) -> Self {
        Self { name, pattern, owner: Bytes::new(), floor }
    }
}

/// A consumer as it is, with what is known of each message from its floor on: of up to
/// [`CONSUMER_SPREAD`](crate::limits::CONSUMER_SPREAD).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerState {
    /// What it is called.
    pub name: Name,
    /// The topics that it takes; `None` for all.
    pub pattern: Option<TopicPattern>,
    /// Whom it belongs to, as it was given; empty for nobody, as of those that an earlier release has made.
    pub owner: Bytes,
    /// All before this sequence are done.
    pub floor: u64,
    /// It was certainly not handed any message from this sequence on.
    pub handed: u64,
    /// Messages from the floor on of which something is known.
    pub known: BTreeMap<u64, Progress>,
}

impl ConsumerState {
    /// A consumer that begins with this sequence, and is nobody's.
    #[must_use]
    pub fn new(name: Name, pattern: Option<TopicPattern>, from: u64) -> Self {
        Self { name, pattern, owner: Bytes::new(), floor: from, handed: from, known: BTreeMap::new() }
    }

    /// What a listing shows of it.
    #[must_use]
    pub fn position(&self) -> ConsumerPosition {
        ConsumerPosition {
            name: self.name.clone(),
            pattern: self.pattern.clone(),
            owner: self.owner.clone(),
            floor: self.floor,
        }
    }
}

/// How far a consumer is with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// How often it was handed over.
    pub attempts: u32,
    /// Whether it is done with.
    pub is_done: bool,
}
