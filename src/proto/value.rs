//! Payloads that are values of the process, and bytes only where bytes are needed.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// A value that is handed over within a process.
///
/// Within the process it is shared; for everybody else it is encoded once, when it is first needed.
pub trait ProcessValue: Any + Send + Sync {
    /// Bytes that it counts for in windows and budgets, the value itself included.
    fn weight(&self) -> usize;

    /// The value as bytes, made at the first call. Empty when it cannot be encoded, which is then
    /// reported.
    fn encoded(&self) -> &Bytes;
}

/// What a message carries: bytes, or a value of this process.
#[derive(Clone)]
pub enum Payload {
    /// Bytes as they travel.
    Bytes(Bytes),
    /// A value, shared with whoever has it too.
    Value(Arc<dyn ProcessValue>),
}

impl Payload {
    /// Bytes that it counts for in windows and budgets.
    #[inline]
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Value(value) => value.weight(),
        }
    }

    /// The payload as bytes; a value is encoded at the first call.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Value(value) => value.encoded(),
        }
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::Bytes(Bytes::new())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl fmt::Debug for Payload {
    /// Never what it says: it may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Bytes(_) => "bytes",
            Self::Value(_) => "a value",
        };
        write!(formatter, "Payload({kind}, {})", self.weight())
    }
}
