//! The single mapping between [`BusError`] and the codes on the wire.

use std::time::Duration;

use super::MalformedFrame;
use super::wire::Reader;
use crate::error::{BusError, ErrorReply, truncate};
use crate::limits;
use crate::topic::{Topic, TopicPattern};

/// Why a call failed or a connection ended, as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum ErrorCode {
    /// See [`BusError::InvalidTopic`]; the text is the topic.
    InvalidTopic = 1,
    /// See [`BusError::ReservedTopic`]; the text is the topic.
    ReservedTopic = 2,
    /// See [`BusError::Denied`].
    Denied = 3,
    /// See [`BusError::AlreadyServed`]; the text is the topic.
    AlreadyServed = 4,
    /// See [`BusError::InvalidSettings`].
    InvalidSettings = 5,
    /// See [`BusError::FrameTooLarge`]; the text is `size/limit`.
    FrameTooLarge = 6,
    /// See [`BusError::HeadersTooLarge`]; the text is `size/limit`.
    HeadersTooLarge = 7,
    /// See [`BusError::NoServer`]; the text is the topic.
    NoServer = 16,
    /// See [`BusError::TimedOut`]; the text is `microseconds/what`.
    TimedOut = 17,
    /// See [`BusError::Abandoned`]; the text is the topic.
    Abandoned = 18,
    /// See [`BusError::ServerGone`]; the text is the topic.
    ServerGone = 19,
    /// See [`BusError::Cancelled`].
    Cancelled = 20,
    /// See [`BusError::Replied`]; the text is `code`, a zero byte, `message`.
    Replied = 21,
    /// See [`BusError::Overloaded`].
    Overloaded = 22,
    /// See [`BusError::LimitReached`].
    LimitReached = 23,
    /// See [`BusError::Draining`].
    Draining = 24,
    /// See [`BusError::SlowConsumer`]; the text is the pattern.
    SlowConsumer = 25,
    /// See [`BusError::TakenOver`]; the text is the topic.
    TakenOver = 26,
    /// See [`BusError::NotDurable`]; the text is the topic.
    NotDurable = 27,
    /// See [`BusError::NotStored`].
    NotStored = 28,
    /// See [`BusError::StaleAck`].
    StaleAck = 29,
    /// See [`BusError::ConsumerBusy`]; the text is the consumer.
    ConsumerBusy = 30,
    /// See [`BusError::Protocol`].
    Protocol = 32,
    /// See [`BusError::UnsupportedVersion`].
    UnsupportedVersion = 33,
    /// See [`BusError::CreditExceeded`].
    CreditExceeded = 34,
    /// See [`BusError::ControlOverrun`]; the text is the number of bytes.
    ControlOverrun = 35,
    /// See [`BusError::Stalled`]; the text is in microseconds.
    Stalled = 36,
    /// See [`BusError::KeepAlive`]; the text is in microseconds.
    KeepAlive = 37,
    /// See [`BusError::Disconnected`]. Also how a code that is not known reads.
    Disconnected = 38,
    /// See [`BusError::Closed`].
    Closed = 39,
    /// See [`BusError::Refused`]; the text is `plugin`, a zero byte, `reason`.
    Refused = 44,
    /// See [`BusError::Sealed`]; the text is `topic`, a zero byte, `what`.
    Sealed = 45,
}

impl ErrorCode {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 32] = [
        Self::InvalidTopic,
        Self::ReservedTopic,
        Self::Denied,
        Self::AlreadyServed,
        Self::InvalidSettings,
        Self::FrameTooLarge,
        Self::HeadersTooLarge,
        Self::NoServer,
        Self::TimedOut,
        Self::Abandoned,
        Self::ServerGone,
        Self::Cancelled,
        Self::Replied,
        Self::Overloaded,
        Self::LimitReached,
        Self::Draining,
        Self::SlowConsumer,
        Self::TakenOver,
        Self::NotDurable,
        Self::NotStored,
        Self::StaleAck,
        Self::ConsumerBusy,
        Self::Protocol,
        Self::UnsupportedVersion,
        Self::CreditExceeded,
        Self::ControlOverrun,
        Self::Stalled,
        Self::KeepAlive,
        Self::Disconnected,
        Self::Closed,
        Self::Refused,
        Self::Sealed,
    ];

    fn from_u16(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u16 == number)
    }
}

/// An error on its way over the wire: `code u16 | text in UTF-8`.
///
/// # Examples
/// ```
/// use whispeer::proto::Refusal;
/// use whispeer::BusError;
///
/// let sent = Refusal::from(&BusError::NoServer { topic: "price/eth".into() });
/// let received = Refusal::decode(&sent.encode())?;
/// assert!(matches!(received.into_error(), BusError::NoServer { topic } if topic == "price/eth"));
/// # Ok::<(), whispeer::proto::MalformedFrame>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of error.
    pub code: ErrorCode,
    /// What belongs to it; see the code.
    pub text: String,
}

impl Refusal {
    /// A refusal; the text is cut to [`ERROR_TEXT_LIMIT`](limits::ERROR_TEXT_LIMIT) bytes.
    #[must_use]
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        truncate(&mut text, limits::ERROR_TEXT_LIMIT);
        Self { code, text }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidSettings, text)
    }

    pub(crate) fn limit(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::LimitReached, text)
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + self.text.len());
        bytes.extend_from_slice(&(self.code as u16).to_le_bytes());
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    /// Reads the payload. A code of a later version reads as [`ErrorCode::Disconnected`].
    ///
    /// # Errors
    /// [`MalformedFrame`] when there is no code.
    pub fn decode(payload: &[u8]) -> Result<Self, MalformedFrame> {
        let mut reader = Reader::new(payload, "an error without a code");
        let code = ErrorCode::from_u16(reader.u16()?).unwrap_or(ErrorCode::Disconnected);
        Ok(Self::new(code, String::from_utf8_lossy(reader.rest())))
    }

    /// The error that the caller sees.
    #[must_use]
    pub fn into_error(self) -> BusError {
        let text = self.text;
        match self.code {
            // The same check that refused the topic over there gives the same explanation here.
            ErrorCode::InvalidTopic => {
                match TopicPattern::new(&text).err().or_else(|| Topic::new(&text).err()) {
                    Some(error) => BusError::InvalidTopic(error),
                    None => BusError::InvalidSettings(format!("\"{text}\" cannot be used as a topic here")),
                }
            }
            ErrorCode::ReservedTopic => BusError::ReservedTopic { topic: text },
            ErrorCode::Denied => BusError::Denied { what: text },
            ErrorCode::AlreadyServed => BusError::AlreadyServed { topic: text },
            ErrorCode::InvalidSettings => BusError::InvalidSettings(text),
            ErrorCode::FrameTooLarge => {
                let (size, limit) = sizes(&text);
                BusError::FrameTooLarge { size, limit }
            }
            ErrorCode::HeadersTooLarge => {
                let (size, limit) = sizes(&text);
                BusError::HeadersTooLarge { size, limit }
            }
            ErrorCode::NoServer => BusError::NoServer { topic: text },
            ErrorCode::TimedOut => {
                let (after, what) = text.split_once('/').unwrap_or(("0", "the call"));
                BusError::TimedOut { what: what.to_owned(), after: micros(after) }
            }
            ErrorCode::Abandoned => BusError::Abandoned { topic: text },
            ErrorCode::ServerGone => BusError::ServerGone { topic: text },
            ErrorCode::Cancelled => BusError::Cancelled,
            ErrorCode::Replied => {
                let (code, message) = text.split_once('\0').unwrap_or(("", &text));
                BusError::Replied(ErrorReply::new(code, message))
            }
            ErrorCode::Overloaded => BusError::Overloaded { what: text },
            ErrorCode::LimitReached => BusError::LimitReached { what: text },
            ErrorCode::Draining => BusError::Draining { what: text },
            ErrorCode::SlowConsumer => BusError::SlowConsumer { topic: text },
            ErrorCode::TakenOver => BusError::TakenOver { topic: text },
            ErrorCode::NotDurable => BusError::NotDurable { topic: text },
            ErrorCode::NotStored => BusError::NotStored { reason: text },
            ErrorCode::StaleAck => BusError::StaleAck { what: text },
            ErrorCode::ConsumerBusy => BusError::ConsumerBusy { consumer: text },
            ErrorCode::Protocol => BusError::Protocol { what: text },
            ErrorCode::UnsupportedVersion => BusError::UnsupportedVersion { what: text },
            ErrorCode::CreditExceeded => BusError::CreditExceeded { what: text },
            ErrorCode::ControlOverrun => BusError::ControlOverrun { bytes: text.parse().unwrap_or_default() },
            ErrorCode::Stalled => BusError::Stalled { after: micros(&text) },
            ErrorCode::KeepAlive => BusError::KeepAlive { after: micros(&text) },
            ErrorCode::Disconnected => BusError::Disconnected { reason: text },
            ErrorCode::Closed => BusError::Closed { what: text },
            ErrorCode::Refused => {
                let (plugin, reason) = text.split_once('\0').unwrap_or(("", &text));
                BusError::Refused { plugin: plugin.to_owned(), reason: reason.to_owned() }
            }
            ErrorCode::Sealed => {
                let (topic, what) = text.split_once('\0').unwrap_or(("", &text));
                BusError::Sealed { topic: topic.to_owned(), what: what.to_owned() }
            }
        }
    }
}

impl From<&BusError> for Refusal {
    fn from(error: &BusError) -> Self {
        use ErrorCode as Code;
        let (code, text) = match error {
            BusError::InvalidTopic(error) => (Code::InvalidTopic, error.topic().to_owned()),
            BusError::ReservedTopic { topic } => (Code::ReservedTopic, topic.clone()),
            BusError::Denied { what } => (Code::Denied, what.clone()),
            BusError::AlreadyServed { topic } => (Code::AlreadyServed, topic.clone()),
            BusError::InvalidSettings(what) => (Code::InvalidSettings, what.clone()),
            BusError::FrameTooLarge { size, limit } => (Code::FrameTooLarge, format!("{size}/{limit}")),
            BusError::HeadersTooLarge { size, limit } => (Code::HeadersTooLarge, format!("{size}/{limit}")),
            BusError::NoServer { topic } => (Code::NoServer, topic.clone()),
            BusError::TimedOut { what, after } => (Code::TimedOut, format!("{}/{what}", after.as_micros())),
            BusError::Abandoned { topic } => (Code::Abandoned, topic.clone()),
            BusError::ServerGone { topic } => (Code::ServerGone, topic.clone()),
            BusError::Cancelled => (Code::Cancelled, String::new()),
            BusError::Replied(reply) => (Code::Replied, format!("{}\0{}", reply.code(), reply.message())),
            BusError::Overloaded { what } => (Code::Overloaded, what.clone()),
            BusError::LimitReached { what } => (Code::LimitReached, what.clone()),
            BusError::Draining { what } => (Code::Draining, what.clone()),
            BusError::SlowConsumer { topic } => (Code::SlowConsumer, topic.clone()),
            BusError::TakenOver { topic } => (Code::TakenOver, topic.clone()),
            BusError::NotDurable { topic } => (Code::NotDurable, topic.clone()),
            BusError::NotStored { reason } => (Code::NotStored, reason.clone()),
            BusError::StaleAck { what } => (Code::StaleAck, what.clone()),
            BusError::ConsumerBusy { consumer } => (Code::ConsumerBusy, consumer.clone()),
            BusError::Protocol { what } => (Code::Protocol, what.clone()),
            BusError::UnsupportedVersion { what } => (Code::UnsupportedVersion, what.clone()),
            BusError::CreditExceeded { what } => (Code::CreditExceeded, what.clone()),
            BusError::ControlOverrun { bytes } => (Code::ControlOverrun, bytes.to_string()),
            BusError::Stalled { after } => (Code::Stalled, after.as_micros().to_string()),
            BusError::KeepAlive { after } => (Code::KeepAlive, after.as_micros().to_string()),
            BusError::Disconnected { reason } => (Code::Disconnected, reason.clone()),
            BusError::Closed { what } => (Code::Closed, what.clone()),
            BusError::Refused { plugin, reason } => (Code::Refused, format!("{plugin}\0{reason}")),
            BusError::Sealed { topic, what } => (Code::Sealed, format!("{topic}\0{what}")),
            // What arises on one side only crosses as its text, should it ever have to.
            BusError::Encode { .. } | BusError::Decode { .. } | BusError::Engine { .. } => {
                (Code::Replied, format!("codec\0{error}"))
            }
            BusError::Full | BusError::QueueFull { .. } => (Code::Overloaded, error.to_string()),
            BusError::NoRuntime { .. } => (Code::InvalidSettings, error.to_string()),
            BusError::Connect { .. }
            | BusError::Listen { .. }
            | BusError::AddressInUse { .. }
            | BusError::OutcomeUnknown { .. } => (Code::Disconnected, error.to_string()),
        };
        Self::new(code, text)
    }
}

impl From<MalformedFrame> for BusError {
    fn from(malformed: MalformedFrame) -> Self {
        Self::Protocol { what: malformed.to_string() }
    }
}

fn micros(text: &str) -> Duration {
    Duration::from_micros(text.parse().unwrap_or_default())
}

fn sizes(text: &str) -> (usize, usize) {
    let (size, limit) = text.split_once('/').unwrap_or_default();
    (size.parse().unwrap_or_default(), limit.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_the_error_that_is_sent_with_it() {
        for code in ErrorCode::ALL {
            let text = match code {
                ErrorCode::InvalidTopic => "a//b",
                ErrorCode::TimedOut => "1500/a request",
                ErrorCode::ControlOverrun | ErrorCode::Stalled | ErrorCode::KeepAlive => "2000",
                ErrorCode::Replied => "code\0message",
                ErrorCode::Refused => "plugin\0reason",
                ErrorCode::Sealed => "some/topic\0what",
                ErrorCode::FrameTooLarge | ErrorCode::HeadersTooLarge => "17/16",
                ErrorCode::Cancelled => "",
                _ => "some/topic",
            };
            let refusal = Refusal::new(code, text);
            let decoded = Refusal::decode(&refusal.encode()).unwrap();
            assert_eq!(decoded, refusal);
            assert_eq!(Refusal::from(&decoded.into_error()), refusal, "{code:?}");
        }
    }
}
