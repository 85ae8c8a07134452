//! How often something took how long, or was how large: counts in buckets, without locks.
//!
//! A [`Histogram`] is recorded where the thing happens, and read by a [`HistogramSnapshot`] when somebody looks. Values are
//! whole numbers of the smallest unit that matters, nanoseconds for durations, so that a record is two additions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of buckets for durations, in nanoseconds: three for each power of ten, from 10 µs, about a request within a process, to
/// 10 s, and 30 s, the time that a request has unless it says otherwise.
pub const DURATIONS: &[u64] = &[
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// Upper bounds of buckets for how many there are of something: powers of two up to 1,024, as many calls as a store writes together
/// ([`STORE_GROUP`](crate::limits::STORE_GROUP)).
pub const COUNTS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Counts of values by buckets. Anybody may record and read at the same time.
///
/// It takes 8 bytes for each bucket, whatever is recorded.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::histogram::{DURATIONS, Histogram};
///
/// let writes = Histogram::new(DURATIONS);
/// writes.record_duration(Duration::from_millis(3));
/// let snapshot = writes.snapshot();
/// assert_eq!((snapshot.count(), snapshot.sum()), (1, 3_000_000));
/// ```
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// One with these upper bounds, which ascend; a value that equals a bound is below it. What is above the last has a bucket of its
    /// own.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        debug_assert!(bounds.is_sorted_by(|one, next| one < next), "bounds ascend");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    #[inline]
    pub fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Counts a duration, in nanoseconds.
    #[inline]
    pub fn record_duration(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What has been counted. A value that is recorded at the same moment may be in its bucket and not in the sum yet.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        HistogramSnapshot { bounds: self.bounds, counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// What a [`Histogram`] had counted at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    bounds: &'static [u64],
    counts: Vec<u64>,
    sum: u64,
}

impl HistogramSnapshot {
    /// Nothing, in buckets with these bounds.
    #[must_use]
    pub fn empty(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all values. It begins anew at 0 beyond 2⁶⁴, which for nanoseconds is 584 years.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The buckets, each with its upper bound and how many values it has by itself; `None` for what is above all bounds.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts.iter().copied())
    }

    /// Adds what another one has counted. One with other bounds changes nothing, as nobody can tell where its values would be.
    pub fn add(&mut self, other: &Self) {
        if self.bounds != other.bounds {
            return;
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_that_equals_a_bound_is_below_it() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1_000] {
            histogram.record(value);
        }
        let snapshot = histogram.snapshot();
        let buckets: Vec<_> = snapshot.buckets().collect();
        assert_eq!(buckets, [(Some(10), 2), (Some(20), 2), (None, 2)]);
        assert_eq!((snapshot.count(), snapshot.sum()), (6, 1_062));
    }

    #[test]
    fn the_bounds_that_there_are_ascend() {
        for bounds in [DURATIONS, COUNTS] {
            assert!(bounds.is_sorted_by(|one, next| one < next));
        }
    }

    #[test]
    fn a_duration_that_no_number_can_tell_is_above_all_bounds() {
        let histogram = Histogram::new(DURATIONS);
        histogram.record_duration(Duration::MAX);
        assert_eq!(histogram.snapshot().buckets().last(), Some((None, 1)));
    }

    #[test]
    fn nothing_is_lost_where_many_record_at_once() {
        let histogram = Arc::new(Histogram::new(COUNTS));
        let threads = (0..4).map(|_| {
            let histogram = Arc::clone(&histogram);
            thread::spawn(move || (0..1_000).for_each(|value| histogram.record(value)))
        });
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count(), snapshot.sum()), (4_000, 4 * 499_500));
    }

    #[test]
    fn what_has_other_bounds_is_not_added() {
        let mut sum = HistogramSnapshot::empty(COUNTS);
        let histogram = Histogram::new(DURATIONS);
        histogram.record(1);
        sum.add(&histogram.snapshot());
        assert_eq!(sum, HistogramSnapshot::empty(COUNTS));
    }

    proptest! {
        #[test]
        fn a_bucket_has_the_values_between_its_bounds(values in prop::collection::vec(0..40_000_000_000_u64, 0..200)) {
            let histogram = Histogram::new(DURATIONS);
            let mut parts = HistogramSnapshot::empty(DURATIONS);
            for value in &values {
                histogram.record(*value);
                let part = Histogram::new(DURATIONS);
                part.record(*value);
                parts.add(&part.snapshot());
            }
            let snapshot = histogram.snapshot();
            let mut above = None;
            for (bound, count) in snapshot.buckets() {
                let within = |value: &&u64| above.is_none_or(|above| **value > above) && bound.is_none_or(|bound| **value <= bound);
                prop_assert_eq!(count, values.iter().filter(within).count() as u64);
                above = bound;
            }
            prop_assert_eq!(snapshot.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(&parts, &snapshot);
        }
    }
}
