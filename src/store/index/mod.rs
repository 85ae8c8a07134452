//! What a store knows of its streams, without what is in the messages.
//!
//! An [`Index`] follows all that a [`Store`](super::Store) promises: sequences, bounds, ids, delays, consumers. What is in a message is
//! whatever the store puts there: [`MemoryStore`](super::MemoryStore) the bytes themselves, one that keeps them elsewhere their place. So
//! such stores say the same by construction. An index draws nothing at random and asks no clock: who makes the same calls of it
//! in the same order has the same index, and [`Index::image`] is all of it, to go on from.

mod delays;
mod entry;
mod image;
mod log;
mod search;

use std::collections::BTreeMap;
use std::fmt;

pub use self::delays::DelayedEntry;
pub use self::entry::{Act, Entry, IndexPage, Row};
pub use self::image::{IndexImage, SettingsImage};
use self::log::Log;
use self::search::{Search, first_since};
use super::change::{ConsumerPosition, ConsumerState, Outcome};
use super::message::{Reading, Start};
use super::settings::{Name, StreamSettings, StreamState};
use crate::error::StoreError;
use crate::limits;

/// The streams of a store, as a value.
///
/// # Examples
/// ```
/// use whispeer::TopicPattern;
/// use whispeer::store::index::{Act, Entry, Index};
/// use whispeer::store::{Name, Outcome, Reading, StreamSettings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let orders = Name::new("orders")?;
/// // What is in a message is the number of a drawer here.
/// let mut index: Index<u32> = Index::new();
/// index.open(StreamSettings::new(orders.clone(), vec![TopicPattern::new("orders/**")?]), [7; 16])?;
/// let topic = TopicPattern::new("orders/7")?;
/// let entry = Entry { topic, weight: 70, time: 1_700_000_000_000, expires: None, id: None, content: 3 };
/// let outcomes = index.commit(&orders, vec![Act::Append { stream: None, entry }])?;
/// assert_eq!(outcomes, [Outcome::Appended { sequence: 1 }]);
/// let page = index.read(&orders, &Reading::from(1, 1_700_000_000_000))?;
/// assert_eq!(page.rows[0].content, 3);
/// # Ok(())
/// # }
/// ```
pub struct Index<C> {
    streams: BTreeMap<Name, Log<C>>,
    /// Contents of what has gone with its stream, or was not taken.
    gone: Vec<C>,
}

/// A search for where a reader begins, which goes in steps.
#[derive(Debug)]
pub struct Finding(Kind);

#[derive(Debug)]
enum Kind {
    At(Start),
    Last(Search),
}

impl Finding {
    /// Looks for this place.
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self(match start {
            Start::Last(count, pattern) => Kind::Last(Search::new(count, pattern)),
            start => Kind::At(start),
        })
    }
}

impl<C: Clone> Index<C> {
    /// An index without streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a stream, which gets this epoch if it is not there.
    ///
    /// # Errors
    /// As [`Store::open`](super::Store::open), for what is wrong with the settings.
    pub fn open(&mut self, settings: StreamSettings, epoch: [u8; 16]) -> Result<StreamState, StoreError> {
        settings.check(self.streams.values().map(|log| &log.settings))?;
        if let Some(log) = self.streams.get_mut(&settings.name) {
            log.settings = settings;
            return Ok(log.state());
        }
        let log = Log::new(settings, epoch);
        let made = log.state();
        self.streams.insert(made.settings.name.clone(), log);
        Ok(made)
    }

    /// All streams, in the order of their names.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamState> {
        self.streams.values().map(Log::state).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn stream(&self, stream: &Name) -> Result<StreamState, StoreError> {
        Ok(self.log(stream)?.state())
    }

    /// Takes a stream out.
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn remove(&mut self, stream: &Name) -> Result<(), StoreError> {
        let Some(log) = self.streams.remove(stream) else { return Err(no_stream(stream)) };
        let Log { messages, delays, gone, .. } = log;
        self.gone.extend(gone);
        self.gone.extend(messages.into_values().map(|row| row.content));
        self.gone.extend(delays.into_contents());
        Ok(())
    }

    /// Does all of these, or none.
    ///
    /// # Errors
    /// As [`Store::commit`](super::Store::commit), for what is wrong with the changes.
    pub fn commit(&mut self, stream: &Name, acts: Vec<Act<C>>) -> Result<Vec<Outcome>, StoreError> {
        if let Err(error) = self.check(stream, &acts) {
            self.gone.extend(acts.into_iter().filter_map(Act::into_content));
            return Err(error);
        }
        let mut outcomes = Vec::with_capacity(acts.len());
        let mut left = limits::RETENTION_STEP;
        for act in acts {
            outcomes.push(match act {
                Act::Append { stream: other, entry } => {
                    self.log_mut(other.as_ref().unwrap_or(stream))?.append(entry)
                }
                Act::Move { sequence, stream: to, entry } => {
                    match self.log_mut(stream)?.drop_message(sequence) {
                        true => self.log_mut(&to)?.append(entry),
                        false => {
                            self.gone.push(entry.content);
                            Outcome::Done { dropped: 0 }
                        }
                    }
                }
                Act::Delay { entry, due, author, owner } => {
                    self.log_mut(stream)?.delay(DelayedEntry { id: 0, due, author, owner, entry })
                }
                Act::Plain(change) => self.log_mut(stream)?.change(change, &mut left),
            });
        }
        Ok(outcomes)
    }

    fn check(&self, stream: &Name, acts: &[Act<C>]) -> Result<(), StoreError> {
        let log = self.log(stream)?;
        for other in acts.iter().filter_map(Act::other) {
            self.log(other)?;
        }
        log.check(acts)
    }

    /// Messages in the order of their sequences.
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn read(&self, stream: &Name, reading: &Reading) -> Result<IndexPage<C>, StoreError> {
        Ok(self.log(stream)?.read(reading))
    }

    /// The last message of each topic.
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn last_per_topic(&self, stream: &Name, reading: &Reading) -> Result<IndexPage<C>, StoreError> {
        Ok(self.log(stream)?.last_per_topic(reading))
    }

    /// Looks for where a reader begins, at [`limits::STORE_LOOKS`] messages and as many topics at the most; `None` while it is not found.
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn find(&self, stream: &Name, finding: &mut Finding) -> Result<Option<u64>, StoreError> {
        let log = self.log(stream)?;
        Ok(match &mut finding.0 {
            Kind::Last(search) => search.step(log),
            Kind::At(Start::All) => Some(log.first()),
            Kind::At(Start::From(sequence)) => Some((*sequence).clamp(1, log.end)),
            Kind::At(Start::Since(time)) => Some(first_since(log, *time).0),
            Kind::At(Start::New | Start::Last(..)) => Some(log.end),
        })
    }

    /// Messages that are due by then, at most so many.
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn delayed(
        &self,
        stream: &Name,
        until: u64,
        most: usize,
    ) -> Result<Vec<DelayedEntry<C>>, StoreError> {
        Ok(self.log(stream)?.delays.due_by(until, most))
    }

    /// When the first message is due that a stream keeps until then: milliseconds since 1970 (UTC).
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn first_due(&self, stream: &Name) -> Result<Option<u64>, StoreError> {
        Ok(self.log(stream)?.delays.first_due())
    }

    /// The consumers of a stream.
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn consumers(&self, stream: &Name) -> Result<Vec<ConsumerPosition>, StoreError> {
        Ok(self.log(stream)?.consumers.values().map(ConsumerState::position).collect())
    }

    /// One consumer of a stream.
    ///
    /// # Errors
    /// [`StoreError::NoStream`], [`StoreError::NoConsumer`].
    pub fn consumer(&self, stream: &Name, name: &Name) -> Result<ConsumerState, StoreError> {
        let found = self.log(stream)?.consumers.get(name).cloned();
        found.ok_or_else(|| StoreError::NoConsumer { stream: stream.to_string(), consumer: name.to_string() })
    }

    /// Whether there is something to be dropped at that time by [`Change::Expire`](super::Change::Expire).
    ///
    /// # Errors
    /// [`StoreError::NoStream`].
    pub fn has_expired(&self, stream: &Name, now: u64) -> Result<bool, StoreError> {
        Ok(self.log(stream)?.has_expired(now))
    }

    /// What is in the messages that there are, those that are not due yet among them.
    pub fn contents(&self) -> impl Iterator<Item = &C> {
        self.streams.values().flat_map(|log| {
            let rows = log.messages.values().map(|row| &row.content);
            rows.chain(log.delays.messages.values().map(|delayed| &delayed.entry.content))
        })
    }

    /// What was in messages that are not there any more, each once: dropped, known before, or of a commit that was refused. Who does not
    /// ask for it has the memory that it takes.
    pub fn take_gone(&mut self) -> Vec<C> {
        let mut gone = std::mem::take(&mut self.gone);
        for log in self.streams.values_mut() {
            gone.append(&mut log.gone);
        }
        gone
    }

    fn log(&self, stream: &Name) -> Result<&Log<C>, StoreError> {
        self.streams.get(stream).ok_or_else(|| no_stream(stream))
    }

    fn log_mut(&mut self, stream: &Name) -> Result<&mut Log<C>, StoreError> {
        self.streams.get_mut(stream).ok_or_else(|| no_stream(stream))
    }
}

impl<C> Default for Index<C> {
    fn default() -> Self {
        Self { streams: BTreeMap::new(), gone: Vec::new() }
    }
}

impl<C> fmt::Debug for Index<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Index").field("streams", &self.streams.keys()).finish_non_exhaustive()
    }
}

fn no_stream(stream: &Name) -> StoreError {
    StoreError::NoStream { stream: stream.to_string() }
}
