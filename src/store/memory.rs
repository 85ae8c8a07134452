//! A store in memory.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::change::{Change, ConsumerPosition, ConsumerState, Outcome};
use super::index::{Act, DelayedEntry, Entry, Finding, Index, IndexPage, Row};
use super::message::{Delayed, Message, NewMessage, Page, Reading, Start};
use super::settings::{Name, StreamSettings, StreamState, drawn_epoch};
use super::{Operation, Store};
use crate::error::StoreError;

/// Keeps streams in memory: they end with the process.
///
/// # Examples
/// ```
/// use whispeer::store::{Change, MemoryStore, Name, NewMessage, Outcome, Reading, Store, StreamSettings};
/// use whispeer::TopicPattern;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let orders = Name::new("orders")?;
/// store.open(StreamSettings::new(orders.clone(), vec![TopicPattern::new("orders/**")?])).await?;
///
/// let message = NewMessage {
///     topic: TopicPattern::new("orders/7")?,
///     fields: "".into(),
///     payload: "two apples".into(),
///     time: 1_700_000_000_000,
///     expires: None,
///     id: None,
/// };
/// let outcomes = store.commit(orders.clone(), vec![Change::Append(message)]).await?;
/// assert_eq!(outcomes, [Outcome::Appended { sequence: 1 }]);
///
/// let page = store.read(orders, Reading::from(1, 1_700_000_000_000)).await?;
/// assert_eq!(page.messages[0].payload, "two apples");
/// assert!(!page.has_more());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    index: Index<Content>,
    is_closed: bool,
}

/// What is in a message.
#[derive(Clone)]
struct Content {
    fields: Bytes,
    payload: Bytes,
}

impl MemoryStore {
    /// A store without streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Index<Content>) -> Result<T, StoreError>,
    ) -> Operation<T> {
        Box::pin(std::future::ready(self.locked(work)))
    }

    fn locked<T>(
        &self,
        work: impl FnOnce(&mut Index<Content>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (worked, _gone) = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                return Err(StoreError::Closed);
            }
            let worked = work(&mut state.index);
            // What has gone is freed when nobody waits for it.
            (worked, state.index.take_gone())
        };
        worked
    }
}

impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        self.with(|index| index.open(settings, drawn_epoch()?))
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.with(|index| Ok(index.streams()))
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        self.with(|index| index.remove(&stream))
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        let keep = |fields, payload| Content { fields, payload };
        let acts = changes.into_iter().map(|change| Act::of(change, keep)).collect();
        self.with(|index| index.commit(&stream, acts))
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.with(|index| Ok(page(index.read(&stream, &reading)?)))
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.with(|index| Ok(page(index.last_per_topic(&stream, &reading)?)))
    }

    /// Looks for the last messages of a stream in steps; the first of them when it is asked.
    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        let (store, mut finding) = (self.clone(), Finding::new(start));
        let mut step = move || store.locked(|index| index.find(&stream, &mut finding));
        let mut stepped = step();
        Box::pin(async move {
            loop {
                if let Some(found) = stepped? {
                    return Ok(found);
                }
                tokio::task::yield_now().await;
                stepped = step();
            }
        })
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.with(|index| Ok(index.delayed(&stream, until, most)?.into_iter().map(delayed).collect()))
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        self.with(|index| index.consumers(&stream))
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        self.with(|index| index.consumer(&stream, &name))
    }

    fn close(&self) -> Operation<()> {
        let closed = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::take(&mut *state);
            state.is_closed = true;
            if before.is_closed { Err(StoreError::Closed) } else { Ok(()) }
        };
        Box::pin(std::future::ready(closed))
    }
}

fn page(IndexPage { rows, next, first, end }: IndexPage<Content>) -> Page {
    let message = |row: Row<Content>| {
        let Row { sequence, topic, time, expires, content: Content { fields, payload }, .. } = row;
        Message { sequence, topic, fields, payload, time, expires }
    };
    Page { messages: rows.into_iter().map(message).collect(), next, first, end }
}

fn delayed(DelayedEntry { id, due, author, owner, entry }: DelayedEntry<Content>) -> Delayed {
    let Entry { topic, time, expires, id: message, content: Content { fields, payload }, .. } = entry;
    let message = NewMessage { topic, fields, payload, time, expires, id: message };
    Delayed { id, due, author, owner, message }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}
