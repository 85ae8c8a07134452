//! What the work of a store takes, for monitoring.

use crate::histogram::{COUNTS, DURATIONS, HistogramSnapshot};

/// What a store tells of its work, since it was opened. Durations are in nanoseconds.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::histogram::{DURATIONS, Histogram};
/// use whispeer::store::StoreMetrics;
///
/// // What a store of one's own notes where it writes, and tells in `Store::metrics`.
/// let commits = Histogram::new(DURATIONS);
/// commits.record_duration(Duration::from_millis(2));
/// let mut metrics = StoreMetrics::default();
/// metrics.commits = commits.snapshot();
/// assert_eq!(metrics.commits.count(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreMetrics {
    /// How long transactions took to be prepared, in memory and in what the system has cached: all but the commit.
    pub writes: HistogramSnapshot,
    /// How long their commits took: what was changed is written to the log, and the log is synced where the store promises that much. So with
    /// `Durability::SurvivesPowerLoss` it is mostly the time of a sync (fsync).
    pub commits: HistogramSnapshot,
    /// How long it took to move what the log has to its place, which takes syncs of its own. Nobody waits for that but the transaction behind it.
    pub checkpoints: HistogramSnapshot,
    /// How many calls a transaction has done together.
    pub calls: HistogramSnapshot,
    /// Transactions that failed; all that was in them is undone.
    pub failures: u64,
    /// Bytes that calls take which wait to be written.
    pub waiting_to_write: u64,
    /// Bytes that calls take which wait to be read for.
    pub waiting_to_read: u64,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        let durations = || HistogramSnapshot::empty(DURATIONS);
        Self {
            writes: durations(),
            commits: durations(),
            checkpoints: durations(),
            calls: HistogramSnapshot::empty(COUNTS),
            failures: 0,
            waiting_to_write: 0,
            waiting_to_read: 0,
        }
    }
}

impl StoreMetrics {
    /// Adds what another store tells, for the sum of both. What is counted in other buckets than [`DURATIONS`] and [`COUNTS`] is left out.
    pub fn add(&mut self, other: &Self) {
        self.writes.add(&other.writes);
        self.commits.add(&other.commits);
        self.checkpoints.add(&other.checkpoints);
        self.calls.add(&other.calls);
        self.failures += other.failures;
        self.waiting_to_write += other.waiting_to_write;
        self.waiting_to_read += other.waiting_to_read;
    }
}
