//! What goes wrong with stores.

use thiserror::Error;

/// Why a store did not do what it was asked for. What it had acknowledged before stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no stream of this name.
    #[error("there is no stream \"{stream}\"; open it first")]
    NoStream {
        /// The name.
        stream: String,
    },
    /// The stream has no consumer of this name.
    #[error("the stream \"{stream}\" has no consumer \"{consumer}\"; make it first")]
    NoConsumer {
        /// The name of the stream.
        stream: String,
        /// The name of the consumer.
        consumer: String,
    },
    /// A name is none that streams and consumers may have.
    #[error(
        "\"{name}\" is no name for a stream or consumer: it takes 1 to {limit} letters, digits, '.', '-' and '_'"
    )]
    InvalidName {
        /// What was given.
        name: String,
        /// Bytes that it may have.
        limit: usize,
    },
    /// Two streams would take the same topics.
    #[error(
        "\"{pattern}\" meets \"{other}\" of the stream \"{stream}\"; a topic belongs to one stream at the most"
    )]
    Overlapping {
        /// The pattern of the new stream.
        pattern: String,
        /// The pattern that it meets.
        other: String,
        /// The stream that has this.
        stream: String,
    },
    /// A bound of the store is reached, and stays so until something is removed.
    #[error("limit reached: {what}")]
    LimitReached {
        /// Which, and its value.
        what: String,
    },
    /// Too much waits for the store. Nothing of the call was done, and it may be made again.
    #[error("the store is busy: {what}")]
    Busy {
        /// With what, and what to do.
        what: String,
    },
    /// There is no room on the disk. Nothing of the call was stored.
    #[error("the disk of {place} is full; make room there, or let the streams keep less")]
    Full {
        /// The file.
        place: String,
    },
    /// The file may not be written to.
    #[error("{place} cannot be written to: {reason}; check who owns it, and how its file system is mounted")]
    ReadOnly {
        /// The file.
        place: String,
        /// What the system says.
        reason: String,
    },
    /// What is in the file is not what a store has written.
    #[error(
        "{place} is damaged or no store: {reason}; put it aside and restore a copy, or let the bus begin with a new file"
    )]
    Corrupt {
        /// The file.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A later release has written the file.
    #[error("{place} was written by a later release; use that, or another file")]
    Newer {
        /// The file.
        place: String,
    },
    /// Another process has the file, or another store of this one.
    #[error("{place} is in use by another process; stop that one, or use another file")]
    InUse {
        /// The file.
        place: String,
    },
    /// The file has further names (hard links). SQLite keeps what was written last beside the name that it is opened by, so
    /// that it would be missed by another one.
    #[error(
        "{place} has {names} names (hard links), and what was written last is beside one of them; leave it the name that it was last used by"
    )]
    SeveralNames {
        /// The file.
        place: String,
        /// How many.
        names: u64,
    },
    /// An earlier write did not reach the disk, so that nobody can tell what is there. Nothing more is taken.
    #[error(
        "{place} failed: {reason}; what was not acknowledged may be lost. Check the disk, then start again"
    )]
    Failed {
        /// The file.
        place: String,
        /// What happened.
        reason: String,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
