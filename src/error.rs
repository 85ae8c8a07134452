//! The one error type of the crate.
//!
//! A [`BusError`] can be matched on the client whatever side it arose on: the wire carries a code for
//! each variant that can cross it (see `proto::refusal`). [`BusError::class`] tells misuse by the
//! caller, the outcome of a call, a misbehaving peer and a lost link apart.

mod engine;
mod store;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use engine::EngineError;
pub use store::StoreError;

use crate::topic::TopicError;

/// The result of most calls of this crate.
pub type BusResult<T> = Result<T, BusError>;

/// An error on a path that every message takes. A result of it is one word, where a [`BusResult`] is
/// moved with all the bytes that an error may need, also when there is none.
#[derive(Debug)]
pub(crate) struct Brief(Box<BusError>);

/// The result of what is done for every message.
pub(crate) type BriefResult<T> = Result<T, Brief>;

impl From<BusError> for Brief {
    #[cold]
    fn from(error: BusError) -> Self {
        Self(Box::new(error))
    }
}

impl From<Brief> for BusError {
    #[cold]
    fn from(Brief(error): Brief) -> Self {
        *error
    }
}

/// What went wrong, in words for the person who sees it.
///
/// Cheap to clone: one lost link ends many calls.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let client = Client::new_memory(&connector)?;
/// match client.request_bytes("nobody/here", "anyone?".into()).await {
///     Err(BusError::NoServer { topic }) => assert_eq!(topic, "nobody/here"),
///     other => panic!("expected NoServer, got {other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The topic or pattern is not well formed.
    #[error(transparent)]
    InvalidTopic(#[from] TopicError),
    /// The topic begins with `$`, which the bus keeps for itself.
    #[error(
        "topic \"{topic}\" is reserved for the bus (its first fragment begins with '$'); choose another first fragment"
    )]
    ReservedTopic {
        /// The topic as it was given.
        topic: String,
    },
    /// The principal of this session may not do that.
    #[error("not allowed: {what}")]
    Denied {
        /// What was tried, and what would be needed.
        what: String,
    },
    /// The frame would be larger than the bus accepts. Nothing was sent; the connection lives.
    #[error(
        "a frame of {size} bytes is over the bus's limit of {limit} bytes; send less at once or raise the bus's frame limit"
    )]
    FrameTooLarge {
        /// Bytes of the whole frame: header, fields, topic and payload.
        size: usize,
        /// Bytes the bus accepts.
        limit: usize,
    },
    /// The headers and options of one message take more room than a frame has for them.
    #[error(
        "headers and options of {size} bytes are over the limit of {limit} bytes; move the data into the payload"
    )]
    HeadersTooLarge {
        /// Bytes they would take, encoded.
        size: usize,
        /// Bytes there is room for.
        limit: usize,
    },
    /// The topic has a server already, and the new one asked to be the only one.
    #[error(
        "topic \"{topic}\" already has a server; stop it, serve in a group, or take over (`ServeOptions`)"
    )]
    AlreadyServed {
        /// The full topic.
        topic: String,
    },
    /// A setting or an argument cannot be used as it is.
    #[error("{0}")]
    InvalidSettings(String),
    /// The call needs a Tokio runtime and was made outside of one.
    #[error(
        "{what} needs a Tokio runtime; call it inside `#[tokio::main]`, `Runtime::block_on` or `Handle::enter`"
    )]
    NoRuntime {
        /// The function that was called.
        what: &'static str,
    },
    /// The value could not be serialised.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// The Rust type.
        what: &'static str,
        /// What the serialiser says.
        reason: String,
    },
    /// The payload does not decode as the expected type. Only this message is affected.
    #[error("a payload of {size} bytes on \"{topic}\" does not decode as {what}: {reason}")]
    Decode {
        /// The Rust type.
        what: &'static str,
        /// The full topic.
        topic: String,
        /// Bytes of the payload.
        size: usize,
        /// What the deserialiser says.
        reason: String,
    },
    /// An engine cannot seal the payload, or not open it. Only this message is affected.
    #[error("a message on \"{topic}\" cannot be {done}: {error}")]
    Engine {
        /// The full topic.
        topic: String,
        /// What was to be done with it: `sealed` or `opened`.
        done: &'static str,
        /// Why it cannot.
        #[source]
        error: EngineError,
    },

    /// Nobody serves the topic.
    #[error("nobody serves \"{topic}\"; start a server for it, or check the topic's spelling and prefix")]
    NoServer {
        /// The full topic.
        topic: String,
    },
    /// The deadline passed before the call was done.
    #[error("{what} did not end within {after:?}; try again, or allow more time")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The time that was allowed.
        after: Duration,
    },
    /// The server dropped the request without answering it.
    #[error("the server of \"{topic}\" dropped the request without answering; see its log")]
    Abandoned {
        /// The full topic.
        topic: String,
    },
    /// The server went away before it answered.
    #[error(
        "the server of \"{topic}\" went away before it answered; whether it acted on the request is unknown"
    )]
    ServerGone {
        /// The full topic.
        topic: String,
    },
    /// The request was cancelled by its requester.
    #[error("the requester no longer waits for the answer")]
    Cancelled,
    /// The server answered with an error of its own.
    #[error(transparent)]
    Replied(#[from] ErrorReply),
    /// The bus, or the server asked, has no room for more at the moment.
    #[error("overloaded: {what}; try again later, or slow down")]
    Overloaded {
        /// Which room is used up.
        what: String,
    },
    /// A limit of this session or of the bus is reached.
    #[error("limit reached: {what}; release some of it, or raise the limit")]
    LimitReached {
        /// Which limit, and its value.
        what: String,
    },
    /// The window for publishes is used up; `send` waits for it, `try_send` does not.
    #[error("the window for publishes is full; use `send` to wait for room")]
    Full,
    /// The queue of a `Broker` is full: nothing of the call was done.
    #[error(
        "the broker's queue is full, with {messages} messages of {bytes} bytes; publish less at a time, wait for what was published before, or give it more room (`BrokerOptions::queue`)"
    )]
    QueueFull {
        /// Messages in it.
        messages: usize,
        /// Bytes of these.
        bytes: usize,
    },
    /// The bus or the subscription is draining and takes nothing new.
    #[error("{what} is draining and takes nothing new; go elsewhere, or try again later")]
    Draining {
        /// Who is draining.
        what: String,
    },
    /// A subscription with the policy `Disconnect` fell behind and was ended.
    #[error("the subscription to \"{topic}\" used up its window and was ended, as its policy asks")]
    SlowConsumer {
        /// The pattern of the subscription.
        topic: String,
    },
    /// The serving was taken over by another server.
    #[error("another server took over \"{topic}\"; take it over again, or stop serving it")]
    TakenOver {
        /// The full topic.
        topic: String,
    },

    /// The message is to be kept, and the bus has no stream for its topic.
    #[error(
        "no stream of the bus has \"{topic}\", so nothing that is published there can be kept; give the bus a stream \
         for it, or publish with `Quality::AtMostOnce`"
    )]
    NotDurable {
        /// The full topic.
        topic: String,
    },
    /// The message was to be kept, and the bus could not keep it.
    #[error("the message was not stored: {reason}")]
    NotStored {
        /// What the store says.
        reason: String,
    },

    /// The message is no longer this subscription's to acknowledge: its time was over and it is sent again, or its share of
    /// the group has moved.
    #[error("the acknowledgement of {what} came too late: the message is sent again")]
    StaleAck {
        /// Which message.
        what: String,
    },
    /// The durable consumer has a subscription already, and it is not a group's.
    #[error(
        "the consumer \"{consumer}\" has another subscription; end that, take another name, or share it with \
         `SubscribeOptions::group`"
    )]
    ConsumerBusy {
        /// What it is called.
        consumer: String,
    },
    /// A plugin of the bus refused it.
    #[error("refused by the plugin \"{plugin}\": {reason}")]
    Refused {
        /// The name of the plugin.
        plugin: String,
        /// What it says.
        reason: String,
    },
    /// A plugin of the bus has to read or change the message, which is sealed end to end.
    #[error(
        "the message on \"{topic}\" is sealed, so that {what}; take its topic out of what the plugin sees to, or send it unsealed"
    )]
    Sealed {
        /// The full topic.
        topic: String,
        /// Which plugin could not do what.
        what: String,
    },

    /// The other side sent something that the protocol does not allow. Its connection is ended.
    #[error("protocol violation: {what}")]
    Protocol {
        /// What was received.
        what: String,
    },
    /// The two sides have no protocol version in common.
    #[error("no protocol version in common: {what}; use matching releases of client and bus")]
    UnsupportedVersion {
        /// The versions of either side.
        what: String,
    },
    /// The other side sent more than it had been granted. Its connection is ended.
    #[error("cut off: more was sent than the window granted ({what})")]
    CreditExceeded {
        /// Which window.
        what: String,
    },
    /// The other side caused more control frames, or answers that are no larger than an error, than it
    /// read. Its connection is ended.
    #[error(
        "cut off: {bytes} bytes of control frames or small answers were left unread; read the connection while sending on it"
    )]
    ControlOverrun {
        /// Bytes that waited.
        bytes: usize,
    },
    /// The other side left everything unread that waited for it. Its connection is ended.
    #[error("cut off: nothing was read from the connection for {after:?} while data waited")]
    Stalled {
        /// How long nothing moved.
        after: Duration,
    },
    /// The other side was silent for too long. Its connection is ended.
    #[error("no sign of life for {after:?}; check that the other side runs, then connect again")]
    KeepAlive {
        /// How long it was silent.
        after: Duration,
    },

    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The address as it was given.
        address: String,
        /// What went wrong, and what to do.
        reason: String,
        /// The system's error, where there is one.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address as it was given.
        address: String,
        /// What went wrong, and what to do.
        reason: String,
        /// The system's error, where there is one.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// A live bus has the address already.
    #[error("{address} is in use by a running bus; stop that one or choose another address")]
    AddressInUse {
        /// The address as it was given.
        address: String,
    },
    /// The link broke. What was in flight may or may not have arrived.
    #[error("disconnected: {reason}")]
    Disconnected {
        /// What is known of the cause.
        reason: String,
    },
    /// The connection was lost and the session could not go on, so that nobody can tell whether the call did what it
    /// was to do.
    #[error(
        "the connection to the bus was lost, and its session with it: whether {what} is unknown; ask, or do it again if that does no harm"
    )]
    OutcomeUnknown {
        /// What may have happened.
        what: String,
    },
    /// This side closed the client, subscription or serving; the call came after that.
    #[error("{what} is closed; open a new one")]
    Closed {
        /// What was closed.
        what: String,
    },
}

/// Whose doing an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The call cannot succeed as it was made; nothing was harmed.
    Misuse,
    /// The call was sound and ended this way; trying again may help.
    Outcome,
    /// The other side broke the protocol or a limit and was cut off.
    Peer,
    /// The link is not there, or no longer.
    Link,
}

impl BusError {
    /// Whose doing the error is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidTopic(_)
            | Self::ReservedTopic { .. }
            | Self::Denied { .. }
            | Self::FrameTooLarge { .. }
            | Self::HeadersTooLarge { .. }
            | Self::AlreadyServed { .. }
            | Self::InvalidSettings(_)
            | Self::NotDurable { .. }
            | Self::ConsumerBusy { .. }
            | Self::Sealed { .. }
            | Self::NoRuntime { .. }
            | Self::Encode { .. } => ErrorClass::Misuse,
            Self::Decode { .. }
            | Self::Engine { .. }
            | Self::NoServer { .. }
            | Self::TimedOut { .. }
            | Self::Abandoned { .. }
            | Self::ServerGone { .. }
            | Self::Cancelled
            | Self::Replied(_)
            | Self::Overloaded { .. }
            | Self::LimitReached { .. }
            | Self::Full
            | Self::QueueFull { .. }
            | Self::Draining { .. }
            | Self::SlowConsumer { .. }
            | Self::TakenOver { .. }
            | Self::NotStored { .. }
            | Self::StaleAck { .. }
            | Self::Refused { .. } => ErrorClass::Outcome,
            Self::Protocol { .. }
            | Self::UnsupportedVersion { .. }
            | Self::CreditExceeded { .. }
            | Self::ControlOverrun { .. }
            | Self::Stalled { .. } => ErrorClass::Peer,
            Self::KeepAlive { .. }
            | Self::Connect { .. }
            | Self::Listen { .. }
            | Self::AddressInUse { .. }
            | Self::Disconnected { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Closed { .. } => ErrorClass::Link,
        }
    }
}

/// An error that a server gave as its answer, for the requester to match on.
///
/// # Examples
/// ```
/// use whispeer::ErrorReply;
///
/// let reply = ErrorReply::new("out_of_stock", "none left of article 7");
/// assert_eq!(reply.code(), "out_of_stock");
/// assert_eq!(reply.to_string(), "the server answered with an error: none left of article 7 (out_of_stock)");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server answered with an error: {message} ({code})")]
pub struct ErrorReply {
    code: String,
    message: String,
}

impl ErrorReply {
    /// An error reply with a `code` for programs and a `message` for people.
    ///
    /// Both are cut so that together they stay within
    /// [`ERROR_TEXT_LIMIT`](crate::limits::ERROR_TEXT_LIMIT) bytes.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut code = code.into();
        // A zero byte stands between the two on the wire.
        code.retain(|character| character != '\0');
        let mut message = message.into();
        truncate(&mut code, 256);
        truncate(&mut message, crate::limits::ERROR_TEXT_LIMIT - 512);
        Self { code, message }
    }

    /// The code that programs match on.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Cuts `text` to at most `limit` bytes, at a character's boundary.
pub(crate) fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
}
