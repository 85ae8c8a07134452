//! A store that works in real time, for a bus whose time is paused.

use std::sync::{Arc, LazyLock};

use tokio::runtime::{Builder, Runtime};
use whispeer::store::{
    Change, ConsumerPosition, ConsumerState, Delayed, Name, Operation, Outcome, Page, Reading, Start, Store,
    StreamSettings, StreamState,
};

/// Where stores work.
static REAL: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("stores").enable_all().build();
    runtime.expect("a thread for stores")
});

/// A store with threads or a network of its own, for a test with paused time. A runtime moves that time on when none of its tasks can do
/// anything, though the store may be about to answer one of them; but not while it blocks a thread of its own, as it does
/// here until the store has answered. The store itself is made, called and polled where time is real, so that what it waits for with a
/// deadline has as long as it says.
///
/// One bus has it: what the store tells of others ([`Store::appended`]) comes when it comes, and is not told.
#[derive(Debug)]
pub struct RealTime(Arc<dyn Store>);

impl RealTime {
    /// Opens a store.
    pub async fn open<S: Store>(open: impl Future<Output = S> + Send + 'static) -> Self {
        Self(Arc::new(wait(open).await))
    }

    /// Calls are made in their order, here, and answered there.
    fn call<T: Send + 'static>(&self, call: impl FnOnce(&dyn Store) -> Operation<T>) -> Operation<T> {
        let there = REAL.enter();
        let operation = call(&*self.0);
        drop(there);
        Box::pin(wait(operation))
    }
}

/// Has this done in real time, while the time of the caller stands still.
fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> + Send {
    let working = REAL.spawn(work);
    let waiting = tokio::task::spawn_blocking(|| REAL.block_on(working));
    async { waiting.await.expect("nobody ends it").expect("the store does not panic") }
}

impl Store for RealTime {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        self.call(|store| store.open(settings))
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.call(|store| store.streams())
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        self.call(|store| store.remove(stream))
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        self.call(|store| store.commit(stream, changes))
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.call(|store| store.read(stream, reading))
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.call(|store| store.last_per_topic(stream, reading))
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        self.call(|store| store.find(stream, start))
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.call(|store| store.delayed(stream, until, most))
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        self.call(|store| store.consumers(stream))
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        self.call(|store| store.consumer(stream, name))
    }

    fn close(&self) -> Operation<()> {
        self.call(|store| store.close())
    }
}
