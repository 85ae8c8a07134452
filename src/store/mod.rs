//! The log behind durable topics.
//!
//! A [`Store`] keeps streams. A stream is an ordered log of messages, each with a sequence of its own, that was assigned
//! by the store; it has an epoch, by which a stream that was lost and made anew is told from the one that was
//! there before. Retention drops the oldest. Consumers are named positions in a stream.
//!
//! | file | what it holds |
//! |---|---|
//! | `message` | what is stored, and what is read |
//! | `settings` | what a stream keeps |
//! | `change` | what can be done to streams, together or not at all |
//! | `held` | how much there may be that is not due yet |
//! | `index` | what a store knows of its streams, without their contents |
//! | `metrics` | what the work of a store takes |
//! | `memory` | a store in memory, which ends with the process |
//! | `sqlite` | a store in a file |

mod change;
mod halving;
mod held;
pub mod index;
mod memory;
mod message;
mod metrics;
mod settings;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(test)]
mod tests;

use std::fmt;
use std::pin::Pin;

use tokio::sync::watch;

pub use change::{Change, ConsumerPosition, ConsumerState, Outcome, Progress};
pub use memory::MemoryStore;
pub use message::{Delayed, Message, MessageId, NewMessage, Page, Reading, Start, weight};
pub use metrics::StoreMetrics;
pub use settings::{Name, Retention, StreamSettings, StreamState};
#[cfg(feature = "sqlite")]
pub use sqlite::{Durability, SqliteOptions, SqliteStore};

pub use crate::error::StoreError;

/// What a call to a store gives in the end.
///
/// # Cancel safety
/// What was begun is done, whether or not anybody waits for it.
pub type Operation<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Where streams are kept.
///
/// Calls are taken in the order in which they are made, and wait for one another: a bus makes as many as its byte budget allows.
/// One that is refused for that ([`StoreError::Busy`]) stores nothing. Subscriptions and consumers ask again for what they
/// read, after a while that grows from [`STORE_RETRY`](crate::limits::STORE_RETRY) to
/// [`STORE_RETRY_MAX`](crate::limits::STORE_RETRY_MAX), and as well after [`StoreError::InUse`]; they end with any other error, and with
/// these after [`STORE_PATIENCE`](crate::limits::STORE_PATIENCE), unless several buses have the store ([`appended`](Self::appended)): that may be
/// away, and is waited for. A consumer that is told there that it is in use is another bus's, and waits until that gives it up. Consumers write again in the same way what was refused, and after
/// [`StoreError::Full`] for as long as there is no room: a store that says one of these has made none of the changes. What [`commit`](Self::commit) has returned for is kept,
/// whatever happens to the process, and to the machine if the store says so.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What kind of store it is, in a word, for people.
    fn kind(&self) -> &'static str {
        "custom"
    }

    /// What its work takes. `None`, the default, where it does not count that.
    ///
    /// It is asked whenever somebody looks at the metrics of a bus, by any thread, and does not wait.
    fn metrics(&self) -> Option<StoreMetrics> {
        None
    }

    /// Opens a stream, which is made if it is not there. One that is there gets these settings.
    ///
    /// # Errors
    /// [`StoreError::Overlapping`] where another stream has topics of it, [`StoreError::LimitReached`] for too many streams,
    /// and what is wrong with the store.
    fn open(&self, settings: StreamSettings) -> Operation<StreamState>;

    /// All streams.
    ///
    /// # Errors
    /// What is wrong with the store.
    fn streams(&self) -> Operation<Vec<StreamState>>;

    /// Takes a stream out, with its messages and consumers.
    ///
    /// # Errors
    /// [`StoreError::NoStream`], and what is wrong with the store.
    fn remove(&self, stream: Name) -> Operation<()>;

    /// Does all of these changes to one stream, or none. There is one outcome for each.
    ///
    /// # Errors
    /// [`StoreError::NoStream`] and [`StoreError::NoConsumer`] before anything is changed, and what is wrong with the store.
    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>>;

    /// Reads messages in the order of their sequences.
    ///
    /// # Errors
    /// [`StoreError::NoStream`], and what is wrong with the store.
    fn read(&self, stream: Name, reading: Reading) -> Operation<Page>;

    /// The last message of each topic, in the order of their sequences.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page>;

    /// The sequence that a reader who starts there begins with.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn find(&self, stream: Name, start: Start) -> Operation<u64>;

    /// Messages that are kept until they are due, and are by then (milliseconds since 1970, UTC): at most so many, in the order in
    /// which they are due, and those of one time in the order in which they came.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>>;

    /// The consumers of a stream, in the order of their names, without what is known of single messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>>;

    /// One consumer of a stream, with all that is known of it. That may be much, so nothing of the others is read for it.
    ///
    /// # Errors
    /// [`StoreError::NoConsumer`], and as [`read`](Self::read).
    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState>;

    /// The first sequence of a stream that is still to be assigned, as it rises also where others have the store open at the same time: a
    /// bus has those read on by it who have read all that was there. `None`, the default, where nobody else can have it.
    ///
    /// It does not wait, and is asked once a stream is open.
    fn appended(&self, stream: &Name) -> Option<watch::Receiver<u64>> {
        let _ = stream;
        None
    }

    /// When the first message is due that a stream keeps until then (milliseconds since 1970, UTC; `u64::MAX` where it keeps none), as it
    /// changes also where others have the store open at the same time: a bus publishes by it what is due of one that is gone. `None`, the default,
    /// where nobody else can have it.
    ///
    /// It does not wait, and is asked once a stream is open.
    fn first_due(&self, stream: &Name) -> Option<watch::Receiver<u64>> {
        let _ = stream;
        None
    }

    /// Ends it when all that was begun is done. Later calls are [`StoreError::Closed`].
    ///
    /// # Errors
    /// What is wrong with the store.
    fn close(&self) -> Operation<()>;
}
