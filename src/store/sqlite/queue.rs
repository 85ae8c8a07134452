//! Calls that wait for a thread of the store.
//!
//! A call is taken when it is made, so that the order of calls is that of what is done. What bounds those that wait is
//! memory, and not their number: a bus has as many publishes under way as its sessions have windows for, and lets
//! publishers wait when its byte budget is spent, in which it counts each of them as this does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use crate::error::StoreError;
use crate::limits;

/// Hands calls to a thread, in their order.
pub(super) struct Queue<T> {
    calls: mpsc::Sender<Waiting<T>>,
    room: Arc<Room>,
}

/// A call that waits.
pub(super) struct Waiting<T> {
    pub(super) call: T,
    /// Given back when the thread takes the call, or is gone.
    pub(super) taken: Taken,
}

/// Bytes that calls take which wait, and may take.
struct Room {
    taken: AtomicUsize,
    most: usize,
}

/// A call's part of the room, until it is dropped.
pub(super) struct Taken {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<T> Queue<T> {
    /// A queue of so many bytes, and where calls come out of it.
    pub(super) fn new(most: usize) -> (Self, mpsc::Receiver<Waiting<T>>) {
        #[expect(clippy::disallowed_methods, reason = "the room is its bound, in bytes")]
        let (calls, receiver) = mpsc::channel();
        (Self { calls, room: Arc::new(Room { taken: AtomicUsize::new(0), most }) }, receiver)
    }

    /// Bytes that calls take which wait.
    pub(super) fn waiting(&self) -> usize {
        self.room.taken.load(Ordering::Relaxed)
    }

    /// Hands over a call that brings so many bytes of messages. Those that bring none, as what consumers write and what is
    /// read, have as much room once more: whoever publishes too much is in nobody else's way.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where there is no room, and [`StoreError::Closed`] where the thread is gone.
    pub(super) fn send(&self, call: T, brings: u64) -> Result<(), StoreError> {
        let Room { taken, most } = &*self.room;
        let most = if brings > 0 { *most } else { most.saturating_mul(2) };
        let bytes = limits::STORE_CALL_BYTES.saturating_add(usize::try_from(brings).unwrap_or(usize::MAX));
        let fits = |taken: usize| {
            // One that is larger than all of it has an empty queue to itself.
            let then = taken.checked_add(bytes)?;
            (then <= most || taken == 0).then_some(then)
        };
        if taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            let mib = most >> 20;
            let what = format!("{mib} MiB of calls wait for the store; try again when it has written some");
            return Err(StoreError::Busy { what });
        }
        let taken = Taken { room: Arc::clone(&self.room), bytes };
        self.calls.send(Waiting { call, taken }).map_err(|_| StoreError::Closed)
    }
}
