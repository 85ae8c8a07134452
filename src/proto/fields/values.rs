//! What the values of fields can be.

use std::time::Duration;

use crate::limits;

/// What the bus does with a message when a live subscription's window is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Policy {
    /// Park the message for this subscription, at most the block limit; then count what follows as
    /// dropped until the subscriber takes a message again.
    #[default]
    Block = 0,
    /// Keep the newest messages, as many as the window holds, and count the older ones as dropped.
    DropOldest = 1,
    /// Count the message as dropped.
    DropNewest = 2,
    /// End the subscription.
    Disconnect = 3,
}

impl Policy {
    /// Its name in output and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Disconnect => "disconnect",
        }
    }

    pub(super) fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Block,
            1 => Self::DropOldest,
            2 => Self::DropNewest,
            3 => Self::Disconnect,
            _ => return None,
        })
    }
}

/// How a serving shares its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum ServeMode {
    /// Be the only one; refused where the topic has a server. With a group, be one of its members.
    #[default]
    Join = 0,
    /// Replace the server that is there, which drains.
    TakeOver = 1,
}

/// How sure the delivery of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Quality {
    /// It may be lost with the bus or a link.
    #[default]
    AtMostOnce = 0,
    /// Published: it is kept before it counts as published, and can be read again. It may be kept twice where the client
    /// comes back to the bus meanwhile. Subscribed: it is sent again until it is acknowledged.
    AtLeastOnce = 1,
    /// Published: as before, and once, as the bus knows it if it is sent again. Subscribed: no living process is handed the
    /// same message twice, across new connections and restarts of the bus.
    ExactlyOnce = 2,
}

impl Quality {
    pub(super) fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::AtMostOnce,
            1 => Self::AtLeastOnce,
            2 => Self::ExactlyOnce,
            _ => return None,
        })
    }
}

/// How messages are sent again that a subscription with a [`Quality`] does not acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DeliveryRules {
    /// How long the first acknowledgement is waited for, in milliseconds' steps. It doubles with each attempt that has
    /// failed, up to [`limits::ACK_WAIT_MAX`].
    pub ack_wait: Duration,
    /// How many attempts may fail before a message goes to the dead letters.
    pub max_deliver: u32,
    /// How many messages may be handed over and not acknowledged.
    pub max_pending: u32,
}

impl Default for DeliveryRules {
    /// [`limits::ACK_WAIT`], [`limits::MAX_DELIVER`] and [`limits::CONSUMER_PENDING`].
    fn default() -> Self {
        Self {
            ack_wait: limits::ACK_WAIT,
            max_deliver: limits::MAX_DELIVER,
            max_pending: limits::CONSUMER_PENDING,
        }
    }
}

/// A message on its way to somebody who is to acknowledge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Attempt {
    /// What it is acknowledged by. Each attempt has another.
    pub token: u64,
    /// Which attempt this is, from 1, of those that have failed and this one.
    pub number: u32,
    /// Somebody may have been handed it before.
    pub redelivered: bool,
}

impl Attempt {
    /// An attempt.
    #[must_use]
    pub fn new(token: u64, number: u32, redelivered: bool) -> Self {
        Self { token, number, redelivered }
    }
}

/// By what a message is known if it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MessageId {
    /// Its publisher, who has drawn this at random.
    pub publisher: [u8; 16],
    /// Its number among all of the publisher.
    pub number: u64,
}

impl MessageId {
    /// An id.
    #[must_use]
    pub fn new(publisher: [u8; 16], number: u64) -> Self {
        Self { publisher, number }
    }
}

/// Where a subscription begins in the stream of its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Start {
    /// With what is stored from now on.
    New,
    /// With the last so many messages of its topics.
    Last(u64),
    /// With the last message of each of its topics.
    LastPerTopic,
    /// With the oldest that there is.
    All,
    /// With this sequence. The first of a stream is 1, and 0 counts as that.
    From(u64),
    /// With the first that was stored then or later: milliseconds since 1970 (UTC). Where the clock of the bus was ahead meanwhile and has
    /// been set right, what was stored by the wrong one may come before that; nothing is missed.
    Since(u64),
}

impl Start {
    pub(super) fn to_wire(self) -> (u8, u64) {
        match self {
            Self::New => (0, 0),
            Self::Last(count) => (1, count),
            Self::LastPerTopic => (2, 0),
            Self::All => (3, 0),
            Self::From(sequence) => (4, sequence),
            Self::Since(time) => (5, time),
        }
    }

    pub(super) fn from_wire(kind: u8, number: u64) -> Option<Self> {
        Some(match kind {
            0 => Self::New,
            1 => Self::Last(number),
            2 => Self::LastPerTopic,
            3 => Self::All,
            4 => Self::From(number),
            5 => Self::Since(number),
            _ => return None,
        })
    }
}

/// What a stream is told from another one by that was there before: drawn at random when it was made.
pub type Epoch = [u8; 16];

/// When a message is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Due {
    /// So much later than the bus has taken it in.
    In(Duration),
    /// At this time by the clock of the bus: milliseconds since 1970 (UTC).
    At(u64),
}

/// Where a message lies in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Position {
    /// Its number in the stream, from 1. There may be holes, of what retention has dropped and of other topics.
    pub sequence: u64,
    /// When it was stored: milliseconds since 1970 (UTC).
    pub time: u64,
    /// It was there before the subscription that it comes to.
    pub replayed: bool,
}

impl Position {
    /// A position.
    #[must_use]
    pub fn new(sequence: u64, time: u64, replayed: bool) -> Self {
        Self { sequence, time, replayed }
    }
}

/// Why matches of a subscription were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum GapReason {
    /// The window was used up for the whole block limit.
    Lagging = 1,
    /// The policy `DropOldest` made room.
    DroppedOldest = 2,
    /// The policy `DropNewest` turned it away.
    DroppedNewest = 3,
    /// The link broke, or the subscription ended, before it was taken.
    Link = 4,
    /// The stream did not keep it long enough.
    Retention = 5,
    /// The stream is not the one that was read before: its store was lost, made anew or put back to an earlier state. How
    /// many messages are missing nobody knows, so that the count is 0.
    Recreated = 6,
    /// It was of no use any more before there was room for it.
    Expired = 7,
    /// A plugin of the bus withheld it.
    Withheld = 8,
}

impl GapReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Lagging,
        Self::DroppedOldest,
        Self::DroppedNewest,
        Self::Link,
        Self::Retention,
        Self::Recreated,
        Self::Expired,
        Self::Withheld,
    ];

    /// The reason with that number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// Its place in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Its name in metrics and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lagging => "lagging",
            Self::DroppedOldest => "dropped_oldest",
            Self::DroppedNewest => "dropped_newest",
            Self::Link => "link",
            Self::Retention => "retention",
            Self::Recreated => "recreated",
            Self::Expired => "expired",
            Self::Withheld => "withheld",
        }
    }
}
