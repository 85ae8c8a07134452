//! Times round trips, one at a time or many at once.

use std::time::Instant;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::{Measured, Phases};

/// Decimal digits kept of each recorded time; three keep the error below 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Calls `round_trip` again and again, one at a time, and records how long each call takes once
/// the warm-up is over. The argument is the number of the call.
///
/// # Errors
/// The first error of a round trip, or when none completed in time.
pub async fn one_at_a_time(
    phases: Phases,
    mut round_trip: impl AsyncFnMut(u64) -> Result<()>,
) -> Result<Measured> {
    let mut times = Histogram::<u64>::new(SIGNIFICANT_DIGITS)?;
    let counted_from = Instant::now() + phases.warm_up;
    let until = counted_from + phases.measure;
    let mut sequence = 0;
    let mut begun = Instant::now();
    while begun < until {
        round_trip(sequence).await?;
        sequence += 1;
        let ended = Instant::now();
        if begun >= counted_from {
            times.record(nanoseconds(begun, ended))?;
        }
        begun = ended;
    }
    ensure!(
        !times.is_empty(),
        "no round trip completed in {:?}",
        phases.measure
    );
    Ok(Measured::Latency {
        p50_nanoseconds: times.value_at_quantile(0.5),
        p99_nanoseconds: times.value_at_quantile(0.99),
        p999_nanoseconds: times.value_at_quantile(0.999),
        count: times.len(),
    })
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// Counts answers from the end of the warm-up to the end of the measured time.
#[derive(Debug)]
pub struct Answers {
    warm: Instant,
    until: Instant,
    counted_from: Option<(Instant, u64)>,
    total: u64,
}

impl Answers {
    /// A count that begins now.
    pub fn new(phases: Phases) -> Self {
        let warm = Instant::now() + phases.warm_up;
        Self {
            warm,
            until: warm + phases.measure,
            counted_from: None,
            total: 0,
        }
    }

    /// Adds `count` answers and gives the result once the measured time is over.
    pub fn add(&mut self, count: u64) -> Option<Measured> {
        self.total += count;
        let now = Instant::now();
        match self.counted_from {
            None if now >= self.warm => self.counted_from = Some((now, self.total)),
            Some((from, before)) if now >= self.until => {
                return Some(Measured::rate(
                    self.total - before,
                    now.duration_since(from),
                ));
            }
            _ => {}
        }
        None
    }
}
