//! A store in memory.

mod log;
mod search;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use self::log::Log;
use self::search::{Search, first_since};
use super::change::{Change, ConsumerPosition, ConsumerState, Outcome};
use super::message::{Delayed, Page, Reading, Start};
use super::settings::{Name, StreamSettings, StreamState};
use super::{Operation, Store};
use crate::error::StoreError;
use crate::limits;

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
    streams: BTreeMap<Name, Log>,
    is_closed: bool,
}

impl MemoryStore {
    /// A store without streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Operation<T> {
        Box::pin(std::future::ready(self.locked(work)))
    }

    fn with_stream<T: Send + 'static>(
        &self,
        stream: &Name,
        work: impl FnOnce(&mut Log) -> Result<T, StoreError>,
    ) -> Operation<T> {
        self.with(|state| work(state.stream(stream)?))
    }

    fn locked<T>(&self, work: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed { Err(StoreError::Closed) } else { work(&mut state) }
    }

    /// Looks for the last messages of a stream in steps; the first of them when it is asked.
    fn search(&self, stream: Name, mut search: Search) -> Operation<u64> {
        let store = self.clone();
        let mut step = move || store.locked(|state| Ok(search.step(state.stream(&stream)?)));
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
}

impl State {
    fn stream(&mut self, name: &Name) -> Result<&mut Log, StoreError> {
        let log = self.streams.get_mut(name);
        log.ok_or_else(|| StoreError::NoStream { stream: name.to_string() })
    }
}

impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        self.with(|state| {
            settings.check(state.streams.values().map(|log| &log.settings))?;
            if let Some(log) = state.streams.get_mut(&settings.name) {
                log.settings = settings;
                return Ok(log.state());
            }
            let log = Log::new(settings)?;
            let made = log.state();
            state.streams.insert(made.settings.name.clone(), log);
            Ok(made)
        })
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.with(|state| Ok(state.streams.values().map(Log::state).collect()))
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        self.with(|state| match state.streams.remove(&stream) {
            Some(_) => Ok(()),
            None => Err(StoreError::NoStream { stream: stream.to_string() }),
        })
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        self.with(|state| {
            let no_stream = |stream: &Name| StoreError::NoStream { stream: stream.to_string() };
            let log = state.streams.get(&stream).ok_or_else(|| no_stream(&stream))?;
            for change in &changes {
                if let Change::AppendTo { stream, .. } | Change::Move { stream, .. } = change
                    && !state.streams.contains_key(stream)
                {
                    return Err(no_stream(stream));
                }
            }
            log.check(&changes)?;
            let mut outcomes = Vec::with_capacity(changes.len());
            let mut left = limits::RETENTION_STEP;
            for change in changes {
                let (of, change) = match change {
                    Change::AppendTo { stream, message } => (stream, Change::Append(message)),
                    Change::Move { sequence, stream: to, message } => {
                        let log = state.streams.get_mut(&stream).ok_or_else(|| no_stream(&stream))?;
                        if !log.drop_message(sequence) {
                            outcomes.push(Outcome::Done { dropped: 0 });
                            continue;
                        }
                        (to, Change::Append(message))
                    }
                    change => (stream.clone(), change),
                };
                let log = state.streams.get_mut(&of).ok_or_else(|| no_stream(&of))?;
                outcomes.push(log.change(change, &mut left));
            }
            Ok(outcomes)
        })
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.with_stream(&stream, |log| Ok(log.read(&reading)))
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.with_stream(&stream, |log| Ok(log.last_per_topic(&reading)))
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        match start {
            Start::Last(count, pattern) => self.search(stream, Search::new(count, pattern)),
            start => self.with_stream(&stream, |log| {
                Ok(match start {
                    Start::All => log.first(),
                    Start::From(sequence) => sequence.clamp(1, log.end),
                    Start::Since(time) => first_since(log, time).0,
                    Start::New | Start::Last(..) => log.end,
                })
            }),
        }
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.with_stream(&stream, |log| Ok(log.delays.due_by(until, most)))
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        self.with_stream(&stream, |log| Ok(log.consumers.values().map(ConsumerState::position).collect()))
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        self.with_stream(&stream, |log| match log.consumers.get(&name) {
            Some(state) => Ok(state.clone()),
            None => {
                let (stream, consumer) = (stream.to_string(), name.to_string());
                Err(StoreError::NoConsumer { stream, consumer })
            }
        })
    }

    fn close(&self) -> Operation<()> {
        self.with(|state| {
            *state = State { is_closed: true, ..State::default() };
            Ok(())
        })
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}
