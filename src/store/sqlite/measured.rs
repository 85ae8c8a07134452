//! What writing takes, as the thread that writes notes it.
//!
//! The clock is that of the system, also where a test has paused the runtime's: a disk knows no other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::histogram::{COUNTS, DURATIONS, Histogram};
use crate::store::StoreMetrics;

/// Counts of one store.
#[derive(Debug)]
pub(super) struct Measured {
    writes: Histogram,
    commits: Histogram,
    checkpoints: Histogram,
    calls: Histogram,
    failures: AtomicU64,
}

impl Measured {
    pub(super) fn new() -> Self {
        Self {
            writes: Histogram::new(DURATIONS),
            commits: Histogram::new(DURATIONS),
            checkpoints: Histogram::new(DURATIONS),
            calls: Histogram::new(COUNTS),
            failures: AtomicU64::new(0),
        }
    }

    /// A transaction of so many calls is done, which began and was ready to be committed then.
    pub(super) fn committed(&self, calls: usize, begun: Instant, ready: Instant) {
        self.writes.record_duration(ready.saturating_duration_since(begun));
        self.commits.record_duration(ready.elapsed());
        if calls > 0 {
            self.calls.record(calls as u64);
        }
    }

    /// A transaction is undone.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// What the log has was moved, or as much of it as could be.
    pub(super) fn moved(&self, begun: Instant) {
        self.checkpoints.record_duration(begun.elapsed());
    }

    /// All of it, beside the bytes that wait to be written and to be read for.
    pub(super) fn told(&self, waiting_to_write: usize, waiting_to_read: usize) -> StoreMetrics {
        StoreMetrics {
            writes: self.writes.snapshot(),
            commits: self.commits.snapshot(),
            checkpoints: self.checkpoints.snapshot(),
            calls: self.calls.snapshot(),
            failures: self.failures.load(Ordering::Relaxed),
            waiting_to_write: waiting_to_write as u64,
            waiting_to_read: waiting_to_read as u64,
        }
    }
}
