//! Counts deliveries over all subscriptions of a subscriber, without what came during warm-up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Measured;

/// Counts deliveries from the end of the warm-up to the end of the last stream.
#[derive(Debug)]
pub struct Deliveries {
    warm_up: Duration,
    first: Option<Instant>,
    counted_from: Option<(Instant, u64)>,
    last_end: Option<Instant>,
    total: u64,
}

impl Deliveries {
    /// A count whose warm-up begins with the first delivery.
    pub fn new(warm_up: Duration) -> Self {
        Self {
            warm_up,
            first: None,
            counted_from: None,
            last_end: None,
            total: 0,
        }
    }

    /// Adds `count` deliveries. The clock is read only while the warm-up lasts.
    pub fn add(&mut self, count: u64) {
        self.total += count;
        if self.counted_from.is_none() {
            let now = Instant::now();
            let first = *self.first.get_or_insert(now);
            if now.duration_since(first) >= self.warm_up {
                self.counted_from = Some((now, self.total));
            }
        }
    }

    /// Notes that a stream ended, complete.
    pub fn end_stream(&mut self) {
        self.last_end = Some(Instant::now());
    }

    /// The rate over the counted time.
    ///
    /// # Errors
    /// When the streams ended before the warm-up did.
    pub fn measured(&self) -> Result<Measured> {
        let ended = self.last_end.context("no stream came to its end")?;
        let (from, before) = self
            .counted_from
            .context("all streams ended during the warm-up")?;
        Ok(Measured::rate(
            self.total - before,
            ended.duration_since(from),
        ))
    }
}
