//! Requests are counted.

use std::time::Duration;

use super::RequestEnd;
use crate::histogram::{DURATIONS, Histogram, HistogramSnapshot};

/// How long requests took, by how they ended.
#[derive(Debug)]
pub(crate) struct RequestTimes([Histogram; RequestEnd::ALL.len()]);

impl Default for RequestTimes {
    fn default() -> Self {
        Self(RequestEnd::ALL.map(|_| Histogram::new(DURATIONS)))
    }
}

impl RequestTimes {
    /// Notes that one has ended, after `took`.
    pub(in crate::bus) fn record(&self, end: RequestEnd, took: impl FnOnce() -> Duration) {
        let Self(by_end) = self;
        by_end[end as usize].record_duration(took());
    }

    /// What was noted of those that ended so.
    pub(in crate::bus) fn of(&self, end: RequestEnd) -> HistogramSnapshot {
        let Self(by_end) = self;
        by_end[end as usize].snapshot()
    }
}
