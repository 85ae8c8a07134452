//! What streams tell about themselves, and what of them can change while the bus runs.

use std::sync::Arc;

use tokio::time::timeout;

use super::{Stream, Streams, dead_letters};
use crate::auth::Owner;
use crate::bus::{ConsumerStats, Rows, StreamStats};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::store::{Store, StreamSettings, StreamState};

impl Streams {
    /// The streams as they are, in the order in which they were given.
    ///
    /// A store that does not answer within [`limits::STORE_ANSWER`] is told of in [`StreamStats::problem`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
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
    /// let shown = streams.states().await;
    /// assert_eq!((shown[0].name.as_str(), shown[0].storage.as_str()), ("orders", "memory"));
    /// assert_eq!((shown[0].messages, shown[0].next), (0, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn states(&self) -> Vec<StreamStats> {
        self.stats(usize::MAX).await.rows
    }

    /// Gives a stream that is open other settings: what it keeps, also of dead letters, and how long it knows the ids of messages.
    ///
    /// What it keeps no more goes with what is published to it next, and what is too old by itself soon after.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] where there is no stream of that name, or it has other patterns: routes depend on these,
    /// so that they hold as long as the bus. [`BusError::NotStored`] with what the store says.
    ///
    /// # Cancel safety
    /// It is done whether or not anybody waits.
    ///
    /// # Examples
    /// ```
    /// # use std::sync::Arc;
    /// # use whispeer::bus::Streams;
    /// # use whispeer::prelude::*;
    /// use whispeer::store::{MemoryStore, Name, Retention, StreamSettings};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let orders = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
    /// let streams = Streams::open(Arc::new(MemoryStore::new()), [orders.clone()]).await?;
    /// let _bus = Bus::builder().streams(streams.clone()).start()?;
    /// streams.change(orders.retention(Retention::new().messages(1_000))).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn change(&self, settings: StreamSettings) -> BusResult<()> {
        let found = self.0.iter().find(|stream| stream.name == settings.name);
        let stream = found.ok_or_else(|| {
            BusError::InvalidSettings(format!("there is no stream \"{}\"; open it first", settings.name))
        })?;
        if stream.patterns != settings.patterns {
            let what = format!("the patterns of the stream \"{}\" hold as long as the bus", stream.name);
            return Err(BusError::InvalidSettings(what));
        }
        // One of dead letters has none of its own.
        let dead = stream.dead.as_ref().map(|_| dead_letters::settings(&settings)).transpose()?;
        // Begun here, so that both are done whether or not anybody waits.
        let changing: Vec<_> = [Some(settings), dead]
            .into_iter()
            .flatten()
            .map(|settings| stream.store.open(settings))
            .collect();
        for changed in changing {
            changed.await.map_err(|error| BusError::NotStored { reason: error.to_string() })?;
        }
        Ok(())
    }

    /// As many of them as that.
    pub(crate) async fn stats(&self, limit: usize) -> Rows<StreamStats> {
        let mut told = Told::default();
        let mut rows = Vec::new();
        let streams = || self.0.iter().filter(|stream| !stream.has_dead_letters());
        for stream in streams().take(limit) {
            rows.push(told.of(stream).await);
        }
        Rows { rows, left_out: streams().count().saturating_sub(limit) }
    }

    /// As many of their consumers as that.
    pub(crate) async fn consumer_stats(&self, limit: usize) -> Rows<ConsumerStats> {
        let (mut rows, mut left_out) = (Vec::new(), 0);
        for stream in self.0.iter().filter(|stream| !stream.has_dead_letters()) {
            if stream.check_open().is_err() {
                continue;
            }
            // A store that does not answer is told of with its streams.
            let asked = timeout(limits::STORE_ANSWER, stream.store.consumers(stream.name.clone())).await;
            let Ok(Ok(consumers)) = asked else { continue };
            let end = *stream.end.borrow();
            let busy = stream.consumers.busy(end);
            for consumer in consumers {
                if rows.len() >= limit {
                    left_out += 1;
                    continue;
                }
                let now = busy.get(&consumer.name).copied().unwrap_or_default();
                rows.push(ConsumerStats {
                    stream: stream.name.to_string(),
                    name: consumer.name.to_string(),
                    owner: shown(&consumer.owner),
                    pattern: consumer.pattern.map(|pattern| pattern.to_string()).unwrap_or_default(),
                    subscriptions: now.members,
                    floor: consumer.floor,
                    behind: end.saturating_sub(consumer.floor),
                    pending: now.pending,
                    again: now.again,
                    waits_for: now.waits_for.map(str::to_owned),
                });
            }
        }
        Rows { rows, left_out }
    }
}

/// An owner for people.
fn shown(owner: &[u8]) -> Option<String> {
    let unknown = || "written by another release".to_owned();
    (!owner.is_empty()).then(|| Owner::from_bytes(owner).map_or_else(unknown, |owner| owner.to_string()))
}

/// What stores have told.
#[derive(Default)]
struct Told(Vec<(Arc<dyn Store>, Answer)>);

/// The streams of a store, or what is wrong with it.
type Answer = Result<Vec<StreamState>, String>;

impl Told {
    async fn of(&mut self, stream: &Stream) -> StreamStats {
        let mut stats = StreamStats {
            name: stream.name.to_string(),
            patterns: stream.patterns.iter().map(ToString::to_string).collect(),
            storage: stream.store.kind().to_owned(),
            ..StreamStats::default()
        };
        if stream.check_open().is_err() {
            stats.problem = Some(format!("not open yet: {}", stream.problem()));
            return stats;
        }
        match self.by(&stream.store).await {
            Err(problem) => stats.problem = Some(problem.clone()),
            Ok(states) => match states.iter().find(|state| state.settings.name == stream.name) {
                None => stats.problem = Some("the store has it no more".to_owned()),
                Some(state) => {
                    stats.epoch = state.epoch.iter().map(|byte| format!("{byte:02x}")).collect();
                    (stats.messages, stats.bytes) = (state.messages, state.bytes);
                    (stats.first, stats.next) = (state.first, state.end);
                    stats.delayed = state.delayed;
                    (stats.ids, stats.forgotten_ids) = (state.ids, state.forgotten);
                    let dead = stream.dead.as_ref();
                    let dead =
                        states.iter().find(|state| dead.is_some_and(|dead| dead.name == state.settings.name));
                    stats.dead_letters = dead.map_or(0, |dead| dead.messages);
                }
            },
        }
        stats
    }

    async fn by(&mut self, store: &Arc<dyn Store>) -> Result<&[StreamState], &String> {
        let at = match self.0.iter().position(|(asked, _)| Arc::ptr_eq(asked, store)) {
            Some(at) => at,
            None => {
                let answer = match timeout(limits::STORE_ANSWER, store.streams()).await {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("the store has not answered in {:?}", limits::STORE_ANSWER)),
                };
                self.0.push((Arc::clone(store), answer));
                self.0.len() - 1
            }
        };
        match self.0.get(at) {
            Some((_, answer)) => answer.as_deref(),
            None => Ok(&[]),
        }
    }
}
