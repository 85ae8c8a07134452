//! Where a bus keeps its stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use whispeer::store::{MemoryStore, Store};

/// A store that is being opened.
pub type Opening = Pin<Box<dyn Future<Output = Arc<dyn Store>>>>;

/// Where the bus of a case keeps its stream.
pub struct Storage {
    store: Arc<dyn Store>,
    /// Opens it once more; without it, it is always the same.
    open: Option<Box<dyn Fn() -> Opening>>,
}

impl Storage {
    /// In memory, which goes on where the bus of a case ends and begins again.
    #[must_use]
    pub fn memory() -> Self {
        Self { store: Arc::new(MemoryStore::new()), open: None }
    }

    /// In a store that this opens: it is closed and opened again where the bus of a case ends and begins again.
    pub async fn opened(open: impl Fn() -> Opening + 'static) -> Self {
        Self { store: open().await, open: Some(Box::new(open)) }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// As after the end of a process.
    pub(super) async fn reopen(&mut self) {
        if let Some(open) = &self.open {
            self.store.close().await.unwrap();
            self.store = open().await;
        }
    }

    pub(super) async fn end(self) {
        self.store.close().await.unwrap();
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Storage").field(&self.store).finish()
    }
}
