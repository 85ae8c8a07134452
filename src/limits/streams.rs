//! Bounds of streams and stores.

use std::time::Duration;

/// Bytes of the name of a stream or consumer: it stands in settings, listings and topics of the bus.
pub const STORE_NAME_BYTES: usize = 64;

/// Streams of one store: each is looked at for a topic that is new.
pub const STREAMS: usize = 256;

/// Patterns of one stream.
pub const STREAM_PATTERNS: usize = 64;

/// Consumers of one stream: each is told of what is new.
pub const STREAM_CONSUMERS: usize = 1024;

/// Bytes that a stored message counts as, beside its topic, fields and payload: what its row and its entry in an index
/// take in a file. Measured, beside fields and payload: 35 B with ten million messages of 100 B and one topic, 43 B with
/// mixed sizes around 70 B and ten topics, 49 B with ten thousand topics, whose part of the index is less full. With sizes up
/// to 64 KiB a file is up to a seventh larger than what it counts, as a row of 1 to 4 KiB leaves some of its page empty.
pub const STORED_OVERHEAD: usize = 48;

/// Messages that are dropped for one that comes, or at one sweep, at the most: some milliseconds, in which nothing else is
/// stored. What is over goes with the next ones.
pub const RETENTION_STEP: u64 = 1024;

/// How long a stream knows the ids of messages unless it is told otherwise: longer than a client tries to come
/// back by default.
pub const MESSAGE_ID_WINDOW: Duration = Duration::from_secs(120);

/// Ids of messages that a stream knows, about 100 B each. Then it forgets the oldest, whenever it came.
pub const MESSAGE_IDS: usize = 1 << 20;

/// Messages that a stream keeps until they are due, and likewise the bus for topics of no stream.
pub const DELAYED_MESSAGES: u64 = 65_536;

/// Bytes of these in a stream, counted as those of other messages.
pub const DELAYED_BYTES: u64 = 64 * 1024 * 1024;

/// Wills of sessions that have ended and are yet to be published: as many as there may be sessions.
pub const WILLS_WAITING: usize = 65_536;

/// Joins and leaves that wait to be told to those who watch presence. More are counted, and told as missed.
pub const PRESENCE_EVENTS: usize = 16_384;

/// How much later a message may be published at the most.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Messages of one page of a stream, unless it is told otherwise: enough that asking for it costs little of reading it.
pub const STORE_PAGE_MESSAGES: usize = 1024;

/// Bytes of one page, likewise. A page may be longer by one message.
pub const STORE_PAGE_BYTES: u64 = 256 * 1024;

/// Messages that are looked at for one page, whether or not they belong to it: some ten milliseconds.
pub const STORE_LOOKS: usize = 16 * 1024;

/// How often a bus has its streams drop what is too old: what is over its age by more than that is seldom read.
pub const STREAM_SWEEP: Duration = Duration::from_secs(1);

/// Calls to a store that wait for one another. More are refused as [`StoreError::LimitReached`](crate::store::StoreError).
pub const STORE_QUEUE: usize = 4096;

/// Bytes of messages that are written to a file together, and calls; they share one wait for the disk.
pub const STORE_GROUP_BYTES: u64 = 4 * 1024 * 1024;

/// Calls that are written together. See [`STORE_GROUP_BYTES`].
pub const STORE_GROUP: usize = 1024;
