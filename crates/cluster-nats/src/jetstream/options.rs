//! What a store in JetStream is opened with.

use std::time::Duration;

use async_nats::jetstream::stream::StorageType;

use crate::limits;
use crate::subject::{PrefixError, Subjects};

/// On how many servers of a cluster everything lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replicas {
    /// On one: what is acknowledged is in its files.
    #[default]
    One,
    /// On three, of which one may be lost.
    Three,
    /// On five, of which two may be lost.
    Five,
}

impl Replicas {
    /// Their number.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
            Self::Five => 5,
        }
    }
}

/// Where the servers keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In memory: it ends with the servers that have it.
    Memory,
}

impl From<Storage> for StorageType {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::File => Self::File,
            Storage::Memory => Self::Memory,
        }
    }
}

/// What a [`JetStreamStore`](super::JetStreamStore) is opened with.
///
/// # Examples
/// ```
/// use whispeer_cluster_nats::jetstream::{JetStreamOptions, Replicas};
///
/// let options = JetStreamOptions::new("whispeer")?.replicas(Replicas::Three);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct JetStreamOptions {
    pub(super) subjects: Subjects,
    pub(super) replicas: Replicas,
    pub(super) storage: Storage,
    pub(super) answer: Duration,
    pub(super) image_entries: u64,
    pub(super) doubt: Duration,
}

impl JetStreamOptions {
    /// A store whose subjects begin with this prefix, in the files of one server. All who give the same prefix have the same store.
    ///
    /// # Errors
    /// [`PrefixError`] for what NATS has no subject for.
    pub fn new(prefix: &str) -> Result<Self, PrefixError> {
        Ok(Self {
            subjects: Subjects::new(prefix)?,
            replicas: Replicas::default(),
            storage: Storage::default(),
            answer: limits::JETSTREAM_ANSWER,
            image_entries: limits::JETSTREAM_IMAGE_ENTRIES,
            doubt: limits::JETSTREAM_DOUBT,
        })
    }

    /// On how many servers everything lies, where this store is the first that is opened under its prefix; later it stays as it is.
    #[must_use]
    pub fn replicas(mut self, replicas: Replicas) -> Self {
        self.replicas = replicas;
        self
    }

    /// Where the servers keep it, likewise.
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// How long a call waits for NATS, by default [`limits::JETSTREAM_ANSWER`]. It is found to be over by some hundred milliseconds later.
    #[must_use]
    pub fn answer(mut self, answer: Duration) -> Self {
        self.answer = answer;
        self
    }

    /// After how many entries of the journal an image of the streams is written at the earliest, by default
    /// [`limits::JETSTREAM_IMAGE_ENTRIES`]; it is not before there are half as many as there are messages. Up to then JetStream keeps what
    /// streams do not keep any more. 0 counts as 1.
    #[must_use]
    pub fn image_entries(mut self, entries: u64) -> Self {
        self.image_entries = entries.max(1);
        self
    }

    /// How long servers may tell less of the journal than was read of it, by default [`limits::JETSTREAM_DOUBT`]: after elections some do for a while. If
    /// they still do then, it counts as lost, and the store fails.
    #[must_use]
    pub fn doubt(mut self, doubt: Duration) -> Self {
        self.doubt = doubt;
        self
    }
}
