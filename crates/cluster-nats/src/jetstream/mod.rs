//! Durable topics that NATS JetStream keeps.
//!
//! # One journal
//! All that is done to the streams of a store goes to one stream of JetStream, the journal, in the order in which JetStream stores it.
//! Everybody who has the store open reads the journal, and so comes to the same: what was done is a function of it (`replica`), and
//! the outcome of a call is known when its entry is read. That is how this store keeps the promises of
//! [`Store`]:
//!
//! - *All or nothing.* A call is one entry. Where it takes several messages of NATS, nothing is done before the last of them is there.
//!   NATS 2.9 stores no two messages together, and no server stores messages of two of its streams together; a call may change
//!   a stream, its dead letters and a consumer. So one stream of JetStream for each of whispeer would not do, and the sequence of
//!   a message is not its sequence in JetStream, where entries lie in between that are no messages.
//! - *Order.* Calls of a store are numbered, and what comes out of order does not count until what is before it has come again.
//! - *Once.* Nor does what comes twice. A message that its publisher sends again is known by its id as in any store: JetStream's own
//!   deduplication ends with a time, and knows neither of a number of ids nor of messages that are not due yet, so it is not used.
//! - *Acknowledged is replicated.* JetStream hands out what a majority of the replicas has stored, and a call is answered when
//!   it was handed out.
//!
//! What is known of messages is an [`Index`](whispeer::store::index::Index), the one that a store in memory has, with the places of contents in the
//! journal. It is in the memory of each bus. Contents are fetched when they are read; those stored last are kept (a cache).
//!
//! # What lies where
//! | JetStream's stream | subjects | what |
//! |---|---|---|
//! | `{prefix}-streams` | `{prefix}.s.<stream>.t.<topic>` and others, see `record` | the journal |
//! | `{prefix}-images` | `{prefix}.image.…` | what the journal has come to at some time |
//!
//! Whoever has nothing but NATS reads a message where its topic says, with its payload, and what is published there without more headers
//! is a message of the stream, if it has that topic. One that was kept until it was due stays at `….d.<topic>`, one that is
//! larger than NATS takes is in pieces at `….p`.
//!
//! Now and then, when there is as much new as there is in all, a bus writes an image (`imager`), and deletes all entries before it that hold nothing
//! any more. Who opens the store begins with the last image. Entries behind it are without holes; who meets one was too slow, and begins
//! with the newer image. What a bus leaves undeleted that ends meanwhile goes when the messages before it do.
//!
//! # Several buses
//! All buses that give the same prefix have the same streams. A consumer is the bus's that uses it: another one is told that it is in use
//! ([`StoreError::InUse`]) until that has given it up ([`Change::FreeConsumer`]) or closed its store, or was not heard of for
//! [`JETSTREAM_LEASE`](crate::limits::JETSTREAM_LEASE), by the clock of NATS. What is known of that here is told without the journal, as a bus whose
//! subscriptions wait for a consumer asks again and again. Nothing of
//! it is overwritten: who had it is refused likewise once it is another's. [`Store::appended`] tells what others append.
//!
//! # When NATS is away
//! Calls are told that the store is busy after [`JetStreamOptions::answer`]. What was not sent by then is forgotten. Of what was sent nobody can
//! say whether it is stored; when NATS is back, it is seen whether it was, and nothing else of it is stored from then on. Who asks for the
//! same again gets the answer of the first call, so that it is done once.
//!
//! | file | what it holds |
//! |---|---|
//! | `options` | what a store is opened with |
//! | `address` | subjects |
//! | `record` | calls as they are written to the journal |
//! | `replica` | what follows from the journal |
//! | `journal` | the journal at JetStream |
//! | `shared` | calls that wait, and who waits for them |
//! | `watched` | what buses follow of streams |
//! | `writer`, `follower`, `imager` | the tasks: sending, reading, making room |
//! | `pages` | what is read, with its contents |

mod address;
mod entries;
mod follower;
mod imager;
mod journal;
mod options;
mod pages;
mod record;
mod replica;
mod shared;
mod watched;
mod writer;

use std::fmt;
use std::sync::Arc;

use async_nats::connection::State as Link;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use whispeer::store::index::{Finding, SettingsImage};
use whispeer::store::{
    Change, ConsumerPosition, ConsumerState, Delayed, Name, Operation, Outcome, Page, Reading, Start, Store,
    StoreError, StreamSettings, StreamState,
};

use self::journal::Journal;
pub use self::options::{JetStreamOptions, Replicas, Storage};
use self::record::{Action, Encoded};
use self::replica::Answer;
use self::shared::{Phase, Shared, State, drawn};
use self::writer::Writer;

/// Bytes of a message that NATS takes unless it says otherwise.
const MAX_PAYLOAD: usize = 1024 * 1024;

/// Keeps streams in NATS JetStream.
///
/// # Examples
/// ```no_run
/// use std::sync::Arc;
/// use whispeer::bus::{Bus, Streams};
/// use whispeer::store::{Name, StreamSettings};
/// use whispeer::topic::TopicPattern;
/// use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore, Replicas};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = async_nats::connect("nats://127.0.0.1:4222").await?;
/// let options = JetStreamOptions::new("whispeer")?.replicas(Replicas::Three);
/// let store = Arc::new(JetStreamStore::new(client, options)?);
/// let orders = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
/// let bus = Bus::builder().streams(Streams::open(store, [orders]).await?).start()?;
/// # bus.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JetStreamStore {
    shared: Arc<Shared>,
    _tasks: Arc<Tasks>,
}

/// They end with the store and the calls that wait for it.
struct Tasks {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.shared.phase.send_replace(Phase::Closed);
        self.shared.lock().end(&StoreError::Closed);
    }
}

impl JetStreamStore {
    /// Opens the store that this client's servers keep, and makes it if there is none. NATS need not be there yet: calls wait for it, and are told that
    /// the store is busy while it is not.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where the system has no random bytes.
    ///
    /// # Panics
    /// Outside of a runtime of tokio, whose tasks it needs.
    pub fn new(client: async_nats::Client, options: JetStreamOptions) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::new(Journal::new(client, options), drawn()?));
        let mut tasks = JoinSet::new();
        tasks.spawn(Writer::new(Arc::clone(&shared)).run());
        tasks.spawn(follower::run(Arc::clone(&shared)));
        tasks.spawn(imager::run(Arc::clone(&shared)));
        let tasks = Arc::new(Tasks { shared: Arc::clone(&shared), _tasks: tasks });
        Ok(Self { shared, _tasks: tasks })
    }

    /// What a call comes to that was given to the store.
    fn answered<T: Send + 'static>(
        &self,
        submitted: Result<oneshot::Receiver<Result<Answer, StoreError>>, StoreError>,
        expected: impl FnOnce(Answer) -> Option<T> + Send + 'static,
    ) -> Operation<T> {
        let store = self.clone();
        Box::pin(async move {
            let answer = submitted?.await.map_err(|_| StoreError::Closed)??;
            drop(store);
            expected(answer).ok_or_else(|| StoreError::Corrupt {
                place: "the journal in JetStream".to_owned(),
                reason: "an entry has come to something else than was asked for".to_owned(),
            })
        })
    }

    /// Asks what is known, once all that was begun before is done.
    fn asked<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&whispeer::store::index::Index<replica::Place>) -> Result<T, StoreError> + Send + 'static,
    ) -> Operation<T> {
        let store = self.clone();
        Box::pin(async move {
            store.shared.ready().await?;
            let state = store.shared.lock();
            ask(&state.replica.index)
        })
    }

    fn max_payload(&self) -> usize {
        match self.shared.journal.client().server_info().max_payload {
            0 => MAX_PAYLOAD,
            bytes => bytes,
        }
    }

    /// Why these changes would be refused, as far as that is known already: they are about a consumer of another bus. Those who wait for it
    /// ask again and again, and the journal is not to be filled with that.
    fn is_refused(&self, stream: &Name, changes: &[Change]) -> Option<StoreError> {
        let state = self.shared.lock();
        let held = state.replica.held_by_another(state.writer, state.now()?, stream, changes.iter());
        held.map(|consumer| replica::in_use(stream, consumer))
    }

    /// Whether nothing is to be dropped at this time, as far as is known and nothing is under way.
    fn has_nothing_to_expire(&self, stream: &Name, changes: &[Change]) -> bool {
        let [Change::Expire { now }] = changes else { return false };
        let state = self.shared.lock();
        *self.shared.phase.borrow() == Phase::Ready
            && state.queue.is_empty()
            && state.replica.index.has_expired(stream, *now) == Ok(false)
    }
}

impl Store for JetStreamStore {
    fn kind(&self) -> &'static str {
        "jetstream"
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        let name = settings.name.clone();
        let addresses = &self.shared.journal.addresses;
        let submitted = self.shared.submit(None, |_| {
            let mut epoch = [0; 16];
            epoch[..8].copy_from_slice(&drawn()?.to_be_bytes());
            epoch[8..].copy_from_slice(&drawn()?.to_be_bytes());
            let action = Action::Open { settings: Box::new(SettingsImage::of(&settings)), epoch };
            Encoded::action(addresses.of_action(&name), &action)
        });
        self.answered(submitted, |answer| match answer {
            Answer::State(state) => Some(*state),
            _ => None,
        })
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.asked(|index| Ok(index.streams()))
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        let subject = self.shared.journal.addresses.of_action(&stream);
        let submitted = self.shared.submit(None, |_| Encoded::action(subject, &Action::Remove));
        self.answered(submitted, |answer| matches!(answer, Answer::Done).then_some(()))
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        if self.has_nothing_to_expire(&stream, &changes) {
            // The sweeps of all buses would fill the journal with it.
            return Box::pin(std::future::ready(Ok(vec![Outcome::Done { dropped: 0 }])));
        }
        if let Some(error) = self.is_refused(&stream, &changes) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let (addresses, max_payload) = (&self.shared.journal.addresses, self.max_payload());
        let submitted = self.shared.submit(Some((stream, changes)), |call| {
            let (stream, changes) = call.cloned().ok_or(StoreError::Closed)?;
            Encoded::commit(addresses, &stream, changes, max_payload)
        });
        self.answered(submitted, |answer| match answer {
            Answer::Outcomes(outcomes) => Some(outcomes),
            _ => None,
        })
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        let store = self.clone();
        Box::pin(async move { pages::read(&store.shared, &stream, &reading, false).await })
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        let store = self.clone();
        Box::pin(async move { pages::read(&store.shared, &stream, &reading, true).await })
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        let (store, mut finding) = (self.clone(), Finding::new(start));
        Box::pin(async move {
            store.shared.ready().await?;
            loop {
                let stepped = store.shared.lock().replica.index.find(&stream, &mut finding)?;
                if let Some(found) = stepped {
                    return Ok(found);
                }
                tokio::task::yield_now().await;
            }
        })
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        let store = self.clone();
        Box::pin(async move { pages::delayed(&store.shared, &stream, until, most).await })
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        self.asked(move |index| index.consumers(&stream))
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        self.asked(move |index| index.consumer(&stream, &name))
    }

    fn appended(&self, stream: &Name) -> Option<watch::Receiver<u64>> {
        let State { watched, replica, .. } = &mut *self.shared.lock();
        Some(watched.end(&replica.index, stream))
    }

    fn first_due(&self, stream: &Name) -> Option<watch::Receiver<u64>> {
        let State { watched, replica, .. } = &mut *self.shared.lock();
        Some(watched.due(&replica.index, stream))
    }

    fn close(&self) -> Operation<()> {
        let is_away = self.shared.journal.client().connection_state() != Link::Connected;
        let is_idle = self.shared.lock().queue.is_empty();
        let closing = self.shared.leave();
        let store = self.clone();
        Box::pin(async move {
            if is_away && is_idle {
                // Nobody is there to be told, and nothing waits. Its consumers are free when nothing was heard of it for long.
                closing?;
                store.shared.phase.send_replace(Phase::Closed);
                store.shared.lock().end(&StoreError::Closed);
                return Ok(());
            }
            let left = closing?;
            let answer = store.shared.journal.answer();
            let told = timeout(answer * 2, left).await;
            store.shared.phase.send_replace(Phase::Closed);
            store.shared.lock().end(&StoreError::Closed);
            match told {
                Ok(Ok(answer)) => answer.map(drop),
                Ok(Err(_)) => Err(StoreError::Closed),
                Err(_) => Err(store.shared.journal.away(format!("not within {answer:?}"))),
            }
        })
    }
}

impl fmt::Debug for JetStreamStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JetStreamStore")
            .field("phase", &*self.shared.phase.borrow())
            .finish_non_exhaustive()
    }
}
