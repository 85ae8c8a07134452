//! What came out of a measurement.

use std::time::Duration;

use serde::Serialize;

use super::plan::{Finding, Mode, Run};
use crate::output::{Align, Table};
use crate::quantity::{human_count, human_size};

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    #[serde(skip)]
    title: String,
    mode: Mode,
    /// Requests at a time, subscribers or pairs.
    width: usize,
    /// Bytes of a payload.
    size: usize,
    /// Deliveries, or requests answered, in the time.
    count: u64,
    seconds: f64,
    per_second: f64,
    /// Millions of bytes of payload per second; for requests, of one direction.
    megabytes_per_second: f64,
    /// Of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_microseconds: Option<Latency>,
    pub(crate) lost: u64,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

impl Figures {
    pub(crate) fn new(run: &Run, found: &Finding) -> Self {
        let seconds = found.time.max(Duration::from_nanos(1)).as_secs_f64();
        let per_second = found.count as f64 / seconds;
        Self {
            title: run.title(),
            mode: run.mode,
            width: run.width,
            size: run.size,
            count: found.count,
            seconds,
            per_second,
            megabytes_per_second: per_second * run.size as f64 / 1e6,
            latency_microseconds: Latency::of(&found.latencies),
            lost: found.lost,
        }
    }

    /// The figures of several runs, for people.
    pub(crate) fn table(figures: &[Self]) -> String {
        use Align::{Left, Right};
        let mut table = Table::new(&[
            ("RUN", Left),
            ("SIZE", Right),
            ("COUNT", Right),
            ("PER SECOND", Right),
            ("MB/s", Right),
            ("p50", Right),
            ("p99", Right),
            ("p99.9", Right),
            ("LOST", Right),
        ]);
        for figure in figures {
            let latency = |pick: fn(&Latency) -> f64| {
                figure
                    .latency_microseconds
                    .as_ref()
                    .map_or_else(|| "-".into(), |latency| format!("{:.1} µs", pick(latency)))
            };
            table.row(vec![
                figure.title.clone(),
                human_size(figure.size as u64),
                human_count(figure.count),
                human_count(figure.per_second.round() as u64),
                format!("{:.1}", figure.megabytes_per_second),
                latency(|latency| latency.p50),
                latency(|latency| latency.p99),
                latency(|latency| latency.p999),
                human_count(figure.lost),
            ]);
        }
        table.render()
    }
}

impl Latency {
    /// The percentiles of what was recorded: nanoseconds in rising order, and how often each was seen.
    fn of(recorded: &[(u64, u64)]) -> Option<Self> {
        let total: u64 = recorded.iter().map(|(_, count)| count).sum();
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let at = |share: f64| {
            let rank = ((total as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            let found = recorded.iter().find(|(_, count)| {
                seen += count;
                seen >= rank
            });
            found.map(|(value, _)| microseconds(*value))
        };
        Some(Self { p50: at(0.5)?, p99: at(0.99)?, p999: at(0.999)?, max: microseconds(recorded.last()?.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Limit;

    #[test]
    fn percentiles_are_the_smallest_values_that_cover_their_share() {
        let recorded = [(1_000, 50), (2_000, 49), (9_000, 1)];
        let latency = Latency::of(&recorded).unwrap();
        assert_eq!((latency.p50, latency.p99, latency.p999, latency.max), (1.0, 2.0, 9.0, 9.0));
        assert_eq!(Latency::of(&[]), None);
    }

    #[test]
    fn rates_follow_from_count_and_time() {
        let run = Run { mode: Mode::FanOut, size: 1_000, width: 64, limit: Limit::Messages(1) };
        let found = Finding { count: 4_000, time: Duration::from_secs(2), ..Finding::default() };
        let figures = Figures::new(&run, &found);
        assert!((figures.per_second - 2_000.0).abs() < 1e-6);
        assert!((figures.megabytes_per_second - 2.0).abs() < 1e-6);
        assert!(Figures::table(&[figures]).contains("fan-out ×64"));
    }
}
