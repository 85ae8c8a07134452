//! Who gives a publisher its credit back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::session::Session;

/// Publishes whose credit is returned together. One holder for several saves most of its cost; a few
/// dozen are still a small part of a window.
const HELD_TOGETHER: usize = 32;

/// Holds a publisher's credit for a few publishes while they are parked anywhere; dropping the last
/// clone returns it. It touches no session lock, so it may be dropped under any.
#[derive(Debug)]
pub(crate) struct Hold {
    publisher: Arc<Session>,
    messages: AtomicU32,
    bytes: AtomicU64,
}

impl Hold {
    fn new(publisher: &Arc<Session>) -> Arc<Self> {
        Arc::new(Self {
            publisher: Arc::clone(publisher),
            messages: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Adds publishes. Only the publisher's task adds, while it has a clone.
    fn add(&self, messages: u32, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.messages.fetch_add(messages, Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.publisher.returned_bytes.fetch_add(*self.bytes.get_mut(), Ordering::AcqRel);
        self.publisher.returned_messages.fetch_add(*self.messages.get_mut(), Ordering::AcqRel);
        self.publisher.task.wake();
    }
}

/// The holds of one turn's publishes, made when the first of their messages is parked.
#[derive(Debug)]
pub(crate) struct Holds {
    publisher: Arc<Session>,
    /// One for every [`HELD_TOGETHER`] publishes; the first may have been begun by an earlier run.
    open: Vec<Option<Arc<Hold>>>,
    /// How many publishes the first one of `open` has seen.
    used: usize,
    /// The first publish of this run that is parked anywhere.
    first: Option<usize>,
}

impl Holds {
    pub(crate) fn new(publisher: Arc<Session>) -> Self {
        Self { publisher, open: Vec::new(), used: 0, first: None }
    }

    /// The hold of the publish with this index in its run. All after it count as parked too: they come
    /// later to the same subscription.
    #[inline]
    pub(crate) fn hold(&mut self, index: usize) -> &Arc<Hold> {
        if self.first.is_none_or(|first| index < first) {
            self.first = Some(index);
        }
        let group = (self.used + index) / HELD_TOGETHER;
        if self.open.len() <= group {
            self.open.resize_with(group + 1, || None);
        }
        let Self { publisher, open, .. } = self;
        open[group].get_or_insert_with(|| Hold::new(publisher))
    }

    /// Ends a run of publishes of these sizes. Returns the messages and bytes that nothing holds.
    pub(crate) fn settle(&mut self, mut sizes: impl ExactSizeIterator<Item = usize>) -> (u32, u64) {
        let count = sizes.len();
        let first = self.first.take().unwrap_or(count);
        let mut add_up = |count: usize| {
            let sizes = sizes.by_ref().take(count);
            sizes.fold((0, 0), |(messages, bytes), size| (messages + 1, bytes + size as u64))
        };
        let mut free = add_up(first);
        let mut index = first;
        while index < count {
            let place = self.used + index;
            let (messages, bytes) = add_up(HELD_TOGETHER - place % HELD_TOGETHER);
            match self.open.get(place / HELD_TOGETHER) {
                Some(Some(hold)) => hold.add(messages, bytes),
                _ => free = (free.0 + messages, free.1 + bytes),
            }
            index += messages as usize;
        }
        if !self.open.is_empty() {
            self.used += count;
            let full = (self.used / HELD_TOGETHER).min(self.open.len());
            self.open.drain(..full);
            self.used %= HELD_TOGETHER;
        }
        if self.open.is_empty() {
            self.used = 0;
        }
        free
    }

    /// Ends the turn: what is resolved from here on returns its credit.
    pub(crate) fn close(&mut self) {
        self.open.clear();
        self.used = 0;
    }
}
