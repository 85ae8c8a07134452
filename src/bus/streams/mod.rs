//! Durable topics: what is published there is stored before it goes live, and can be read from any place.
//!
//! A publish to a topic of a stream waits for the store (`publishing`); its session goes on meanwhile. When it is stored, the
//! session delivers it to ordinary subscriptions, so that order holds for each publisher, and tells the stream that it has
//! grown, also if its client has gone meanwhile. A subscription that says where it begins is a cursor (`cursor`): it reads the log at its own pace, and neither
//! waits for others nor has them wait. One that acknowledges takes part in a consumer (`consumer`), which knows what is
//! done, and what failed too often goes to the stream's dead letters (`dead_letters`). Both ask a store that is busy once more
//! (`patience`), and read what there is credit for (`held`). A store need not be there when the bus starts (`opening`).

mod changes;
mod consumer;
#[cfg(feature = "metrics")]
mod counts;
mod cursor;
mod dead_letters;
mod delayed;
mod held;
mod opening;
mod patience;
mod publishing;
mod states;
mod turns;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::changes::{StreamChange, StreamChanged};
pub(crate) use self::consumer::{Answer, Claim, Drained, Membership, Wanted, join};
pub(crate) use self::cursor::{Cursor, Place};
pub(crate) use self::publishing::Storing;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::Epoch;
use crate::store::{Change, Name, Outcome, Store, StoreError, StreamSettings};
use crate::topic::TopicPattern;

/// The streams of a bus, each in its store.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use whispeer::bus::Streams;
/// use whispeer::prelude::*;
/// use whispeer::store::{MemoryStore, Name, StreamSettings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let orders = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
/// let streams = Streams::open(Arc::new(MemoryStore::new()), [orders]).await?;
/// let bus = Bus::builder().streams(streams).start()?;
/// # bus.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Streams(Arc<[Arc<Stream>]>);

impl Streams {
    /// Opens streams in a store.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] with what the store says.
    pub async fn open(
        store: Arc<dyn Store>,
        settings: impl IntoIterator<Item = StreamSettings>,
    ) -> BusResult<Self> {
        let streams = Self::of_store(&store, settings.into_iter().collect())?;
        streams.open_all().await.map_err(|error| BusError::InvalidSettings(error.to_string()))?;
        Ok(streams)
    }

    /// Streams of a store that are to be opened, and their dead letters.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for a name that leaves no room for that of dead letters.
    fn of_store(store: &Arc<dyn Store>, settings: Vec<StreamSettings>) -> BusResult<Self> {
        let mut streams = Vec::with_capacity(settings.len() * 2);
        for settings in settings {
            let dead = Stream::new(store, dead_letters::settings(&settings)?, None);
            let stream = Stream::new(store, settings, Some(Arc::clone(&dead)));
            streams.extend([stream, dead]);
        }
        Ok(Self(streams.into()))
    }

    /// Opens all that are not.
    ///
    /// # Errors
    /// What the store says.
    async fn open_all(&self) -> Result<(), StoreError> {
        let mut waiting: VecDeque<_> = self.iter().filter(|stream| !stream.has_dead_letters()).collect();
        let mut in_vain = 0;
        while let Some(stream) = waiting.pop_front() {
            match stream.open().await {
                Ok(()) => in_vain = 0,
                // One of the others may be about to give these topics up.
                Err(StoreError::Overlapping { .. }) if in_vain < waiting.len() => {
                    in_vain += 1;
                    waiting.push_back(stream);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// These and those of another store.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] where two streams have a name or topics in common.
    pub fn and(&self, others: &Self) -> BusResult<Self> {
        for other in others.0.iter() {
            for stream in self.0.iter() {
                let (one, two) = (&stream.name, &other.name);
                if one == two {
                    return Err(BusError::InvalidSettings(format!("there are two streams \"{one}\"")));
                }
                let meets = |pattern: &&TopicPattern| other.meets(pattern);
                if let Some(pattern) = stream.patterns.iter().find(meets) {
                    let what = format!("\"{pattern}\" of the stream \"{one}\" meets topics of \"{two}\"");
                    return Err(BusError::InvalidSettings(what));
                }
            }
        }
        Ok(Self(self.0.iter().chain(others.0.iter()).cloned().collect()))
    }

    /// Begins to have streams drop what is too old, again and again, in these tasks. There is one for each store, so that one
    /// that stalls holds up its own streams only, and has one call of these at a time.
    pub(crate) fn begin_sweeps(&self, tasks: &mut JoinSet<()>) {
        let mut stores: Vec<Vec<Arc<Stream>>> = Vec::new();
        for stream in self.iter() {
            let is_its = |streams: &&mut Vec<Arc<Stream>>| {
                streams.first().is_some_and(|first| Arc::ptr_eq(&first.store, &stream.store))
            };
            match stores.iter_mut().find(is_its) {
                Some(streams) => streams.push(Arc::clone(stream)),
                None => stores.push(vec![Arc::clone(stream)]),
            }
        }
        for streams in stores {
            tasks.spawn(async move {
                loop {
                    tokio::time::sleep(limits::STREAM_SWEEP).await;
                    sweep(&streams).await;
                }
            });
        }
    }

    /// Begins to tell those who read of what others append that have the same store open, and the deputy of what is due that they have
    /// taken in, in these tasks, two for each such stream.
    pub(crate) fn begin_following(&self, tasks: &mut JoinSet<()>) {
        for stream in self.iter() {
            let Some(mut appended) = stream.store.appended(&stream.name) else { continue };
            if let Some(first_due) = stream.store.first_due(&stream.name) {
                tasks.spawn(Arc::clone(stream).follow_due(first_due));
            }
            let stream = Arc::clone(stream);
            tasks.spawn(async move {
                stream.opened().await;
                loop {
                    let end = *appended.borrow_and_update();
                    stream.grow(end.saturating_sub(1));
                    if appended.changed().await.is_err() {
                        // The store is closed.
                        return;
                    }
                }
            });
        }
    }

    /// Waits until consumers have written where they are. Their subscriptions have ended before.
    pub(crate) async fn finished(&self) {
        let finished = async {
            while self.0.iter().any(|stream| !stream.consumers.are_idle()) {
                // They end by themselves, within a write of their store.
                tokio::time::sleep(limits::CONSUMERS_LOOK).await;
            }
        };
        if tokio::time::timeout(limits::CONSUMERS_GRACE, finished).await.is_err() {
            tracing::warn!("consumers that did not write in time where they are begin again where they were");
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topics that this bus alone keeps: those of stores that others do not have, but for dead letters.
    pub(crate) fn kept_here(&self) -> impl Iterator<Item = &TopicPattern> {
        let own = self.0.iter().filter(|stream| !stream.has_dead_letters() && !stream.is_shared());
        own.flat_map(|stream| &stream.patterns)
    }

    /// Whether this bus hands out the messages of a shared consumer of a stream of this name and epoch.
    pub(crate) fn has_consumer(&self, stream: &str, epoch: Epoch, consumer: &str) -> bool {
        let found = self.0.iter().find(|own| own.name.as_str() == stream);
        let same = found.filter(|own| own.is_shared() && own.epoch.get() == Some(&epoch));
        same.is_some_and(|own| own.consumers.hands_out(consumer))
    }

    /// Whether there are topics of dead letters in this pattern.
    pub(crate) fn are_dead_letters(&self, pattern: &TopicPattern) -> bool {
        pattern.is_reserved()
            && self.0.iter().any(|stream| stream.has_dead_letters() && stream.meets(pattern))
    }

    /// The stream that has topics of this pattern, if any has.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] where several have.
    pub(crate) fn of(&self, pattern: &TopicPattern) -> BusResult<Option<&Arc<Stream>>> {
        let mut found = self.0.iter().filter(|stream| stream.meets(pattern));
        let first = found.next();
        match (first, found.next()) {
            (Some(one), Some(other)) => {
                let (one, other) = (&one.name, &other.name);
                let what =
                    format!("\"{pattern}\" meets two streams, \"{one}\" and \"{other}\"; take one at a time");
                Err(BusError::InvalidSettings(what))
            }
            _ => Ok(first),
        }
    }
}

/// Has streams of one store drop what is too old, a step of each in turn, so that none waits for all that another one has.
async fn sweep(streams: &[Arc<Stream>]) {
    let mut left: Vec<&Arc<Stream>> = streams.iter().collect();
    while !left.is_empty() {
        // What becomes too old meanwhile is for the next ones, or it would go on for as long as somebody publishes. Where it takes
        // long, as there is much, these begin at once.
        let (now, begun) = (publishing::milliseconds(), Instant::now());
        while !left.is_empty() && begun.elapsed() < limits::STREAM_SWEEP {
            let mut with_more = Vec::new();
            for stream in left {
                if stream.expire(now).await {
                    with_more.push(stream);
                }
            }
            left = with_more;
        }
        if !left.is_empty() {
            left = streams.iter().collect();
        }
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|stream| &stream.name)).finish()
    }
}

/// What reads a stream for a subscription.
#[derive(Debug)]
pub(crate) enum Reads {
    Cursor(Cursor),
    Member(Membership),
}

impl Reads {
    /// There is credit, or room on the link.
    pub(crate) fn go_on(&self) {
        match self {
            Self::Cursor(cursor) => cursor.go_on(),
            Self::Member(membership) => membership.go_on(),
        }
    }

    /// The subscription's part in a consumer, if it has one.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        match self {
            Self::Cursor(_) => None,
            Self::Member(membership) => Some(membership),
        }
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: Name,
    patterns: Vec<TopicPattern>,
    /// Once it is open.
    epoch: OnceLock<Epoch>,
    opening: opening::Opening,
    store: Arc<dyn Store>,
    /// The first sequence that nobody has been told of; cursors that have read all wait for it to rise.
    end: watch::Sender<u64>,
    /// Where messages go that no consumer can deal with.
    dead: Option<Arc<Stream>>,
    consumers: consumer::Consumers,
    turns: turns::Turns,
    /// When the first of its delayed messages is due.
    next_due: AtomicU64,
    /// Of a store that others have: when those are due that this bus has taken in. Each of these times is of one message at least that the
    /// store keeps, and they go when the first that it keeps is due later.
    own_due: Mutex<BTreeSet<u64>>,
    /// Something is to be published to it that is due earlier than all before.
    due_changed: Notify,
}

impl Stream {
    fn new(store: &Arc<dyn Store>, settings: StreamSettings, dead: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            name: settings.name.clone(),
            patterns: settings.patterns.clone(),
            epoch: OnceLock::new(),
            opening: opening::Opening::new(settings),
            store: Arc::clone(store),
            end: watch::Sender::new(1),
            dead,
            consumers: consumer::Consumers::default(),
            turns: turns::Turns::default(),
            next_due: AtomicU64::new(u64::MAX),
            own_due: Mutex::default(),
            due_changed: Notify::new(),
        })
    }

    /// Whether it is one of dead letters.
    pub(crate) fn has_dead_letters(&self) -> bool {
        self.dead.is_none()
    }

    /// Whether other buses have the same store open.
    pub(crate) fn is_shared(&self) -> bool {
        self.store.appended(&self.name).is_some()
    }

    /// Whether all topics of this pattern are its.
    pub(crate) fn contains(&self, pattern: &TopicPattern) -> bool {
        self.patterns.iter().any(|own| own.contains(pattern))
    }

    fn meets(&self, pattern: &TopicPattern) -> bool {
        self.patterns.iter().any(|own| own.meets(pattern))
    }

    /// Drops a part of what is too old at that time; whether there may be more.
    async fn expire(&self, now: u64) -> bool {
        if self.check_open().is_err() {
            return false;
        }
        let dropped = self.store.commit(self.name.clone(), vec![Change::Expire { now }]).await;
        match dropped.as_deref() {
            Ok(outcomes) => matches!(outcomes, [Outcome::Done { dropped: 1.. }]),
            Err(error) => {
                // Whoever publishes is told; nothing else depends on it.
                tracing::debug!(stream = %self.name, %error, "a stream drops nothing that is too old");
                false
            }
        }
    }

    /// The first sequence that is not there for those who begin to read now: whoever has subscribed gets what is
    /// published after that.
    pub(crate) fn live_from(&self) -> u64 {
        *self.end.borrow()
    }

    /// Tells cursors that a message is there.
    pub(crate) fn grow(&self, sequence: u64) {
        self.end.send_if_modified(|end| {
            let grows = sequence >= *end;
            *end = (*end).max(sequence + 1);
            grows
        });
    }
}
