//! A store in memory whose answers go through somebody's hands.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use whispeer::store::{
    Change, ConsumerPosition, ConsumerState, Delayed, MemoryStore, Name, Operation, Outcome, Page, Reading,
    Start, Store, StoreError, StreamSettings, StreamState,
};

type Committed = Operation<Vec<Outcome>>;
type OnCommit = dyn Fn(&[Change], Committed) -> Committed + Send + Sync;
type OnQuestion = dyn Fn() -> Option<StoreError> + Send + Sync;
type OnChange = dyn Fn(&[Change]) -> Option<StoreError> + Send + Sync;
type OnRead = dyn Fn(&Reading, Operation<Page>) -> Operation<Page> + Send + Sync;

/// Does what its [`MemoryStore`] does. Who has made it decides what becomes of the answers to commits and reads.
pub(crate) struct TamperedStore {
    store: MemoryStore,
    commits: Box<OnCommit>,
    changes: Box<OnChange>,
    reads: Box<OnRead>,
    questions: Box<OnQuestion>,
    opens: Box<OnQuestion>,
    ends: Option<watch::Sender<u64>>,
    progress: Arc<AtomicUsize>,
}

impl TamperedStore {
    pub(crate) fn new(store: MemoryStore) -> Self {
        Self {
            store,
            commits: Box::new(|_, answer| answer),
            changes: Box::new(|_| None),
            reads: Box::new(|_, answer| answer),
            questions: Box::new(|| None),
            opens: Box::new(|| None),
            ends: None,
            progress: Arc::default(),
        }
    }

    /// Refuses with this error, if there is one, what is asked about messages and consumers.
    pub(crate) fn on_question(
        mut self,
        refusal: impl Fn() -> Option<StoreError> + Send + Sync + 'static,
    ) -> Self {
        self.questions = Box::new(refusal);
        self
    }

    /// Other buses have it, too. They append nothing.
    pub(crate) fn shared(mut self) -> Self {
        self.ends = Some(watch::Sender::new(1));
        self
    }

    /// Refuses with this error, if there is one, to open streams.
    pub(crate) fn on_open(
        mut self,
        refusal: impl Fn() -> Option<StoreError> + Send + Sync + 'static,
    ) -> Self {
        self.opens = Box::new(refusal);
        self
    }

    /// Refuses with this error, if there is one, to make these changes: none of them is made then.
    pub(crate) fn on_change(
        mut self,
        refusal: impl Fn(&[Change]) -> Option<StoreError> + Send + Sync + 'static,
    ) -> Self {
        self.changes = Box::new(refusal);
        self
    }

    fn answer<T: Send + 'static>(&self, answer: impl FnOnce() -> Operation<T>) -> Operation<T> {
        match (self.questions)() {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => answer(),
        }
    }

    /// Of how many messages it has said how far a consumer is with them.
    pub(crate) fn progress_read(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.progress)
    }

    pub(crate) fn on_commit(
        mut self,
        tamper: impl Fn(&[Change], Committed) -> Committed + Send + Sync + 'static,
    ) -> Self {
        self.commits = Box::new(tamper);
        self
    }

    pub(crate) fn on_read(
        mut self,
        tamper: impl Fn(&Reading, Operation<Page>) -> Operation<Page> + Send + Sync + 'static,
    ) -> Self {
        self.reads = Box::new(tamper);
        self
    }
}

impl fmt::Debug for TamperedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("TamperedStore").field(&self.store).finish()
    }
}

impl Store for TamperedStore {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        match (self.opens)() {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => self.store.open(settings),
        }
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.store.streams()
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        self.store.remove(stream)
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Committed {
        if let Some(error) = (self.changes)(&changes) {
            return Box::pin(std::future::ready(Err(error)));
        }
        // It is done by now, whatever becomes of the answer.
        let answer = self.store.commit(stream, changes.clone());
        (self.commits)(&changes, answer)
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.answer(|| (self.reads)(&reading, self.store.read(stream, reading.clone())))
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.answer(|| self.store.last_per_topic(stream, reading))
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        self.answer(|| self.store.find(stream, start))
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        self.store.consumers(stream)
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        let progress = Arc::clone(&self.progress);
        let consumer = self.answer(|| self.store.consumer(stream, name));
        Box::pin(async move {
            let consumer = consumer.await?;
            progress.fetch_add(consumer.known.len(), Ordering::Relaxed);
            Ok(consumer)
        })
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.store.delayed(stream, until, most)
    }

    fn appended(&self, _: &Name) -> Option<watch::Receiver<u64>> {
        self.ends.as_ref().map(watch::Sender::subscribe)
    }

    fn close(&self) -> Operation<()> {
        self.store.close()
    }
}
