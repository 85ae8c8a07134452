//! Where a bus keeps its stream: in memory, or in a file.

use std::sync::Arc;

#[cfg(feature = "sqlite")]
use whispeer::store::{
    Change, ConsumerPosition, ConsumerState, Delayed, Name, Operation, Outcome, Page, Reading, SqliteOptions,
    SqliteStore, Start, StreamSettings, StreamState,
};
use whispeer::store::{MemoryStore, Store};

pub(super) enum Storage {
    Memory(Arc<MemoryStore>),
    #[cfg(feature = "sqlite")]
    File {
        folder: tempfile::TempDir,
        store: Arc<Waiting>,
    },
}

impl Storage {
    pub(super) fn memory() -> Self {
        Self::Memory(Arc::new(MemoryStore::new()))
    }

    #[cfg(feature = "sqlite")]
    pub(super) async fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Waiting(open(&folder).await));
        Self::File { folder, store }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::clone(store) as Arc<dyn Store>,
            #[cfg(feature = "sqlite")]
            Self::File { store, .. } => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// As after the end of a process: what is in a file is read from there.
    pub(super) async fn reopen(&mut self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "sqlite")]
            Self::File { folder, store } => {
                store.close().await.unwrap();
                *store = Arc::new(Waiting(open(folder).await));
            }
        }
    }

    pub(super) async fn end(self) {
        self.store().close().await.unwrap();
    }
}

#[cfg(feature = "sqlite")]
async fn open(folder: &tempfile::TempDir) -> SqliteStore {
    let path = folder.path().join("store");
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&path, SqliteOptions::new()));
    opened.await.unwrap().unwrap()
}

/// A store with threads of its own, for a test with paused time. A runtime moves that time on when none of its tasks can do
/// anything, though the store may be about to answer one of them; but not while it blocks a thread of its own, as it does
/// here until the store has answered.
#[cfg(feature = "sqlite")]
#[derive(Debug)]
pub(super) struct Waiting(SqliteStore);

#[cfg(feature = "sqlite")]
fn wait<T: Send + 'static>(operation: Operation<T>) -> Operation<T> {
    let runtime = tokio::runtime::Handle::current();
    let waiting = tokio::task::spawn_blocking(move || runtime.block_on(operation));
    Box::pin(async { waiting.await.unwrap() })
}

#[cfg(feature = "sqlite")]
impl Store for Waiting {
    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        wait(self.0.open(settings))
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        wait(self.0.streams())
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        wait(self.0.remove(stream))
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        wait(self.0.commit(stream, changes))
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        wait(self.0.read(stream, reading))
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        wait(self.0.last_per_topic(stream, reading))
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        wait(self.0.find(stream, start))
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        wait(self.0.consumers(stream))
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        wait(self.0.consumer(stream, name))
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        wait(self.0.delayed(stream, until, most))
    }

    fn close(&self) -> Operation<()> {
        wait(self.0.close())
    }
}
