//! What a run of one subject showed.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::quantity::Unit;

/// What a figure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The median time of round trips or deliveries, in nanoseconds.
    P50,
    /// Their 99th percentile, in nanoseconds.
    P99,
    /// Their 99.9th percentile, in nanoseconds.
    P999,
    /// Answered requests, or messages delivered and checked, a second.
    Rate,
    /// Processor time of the bus for a million of them, in seconds.
    Processor,
    /// The rate while subscriptions come and go, as a share of the rate while none do.
    Share,
    /// Subscriptions made and ended a second meanwhile.
    Changes,
    /// Time until all subscriptions were made, in seconds.
    Subscribing,
    /// Resident memory of the bus that one connection took, in bytes.
    Connection,
    /// Resident memory of the bus without connections, in bytes.
    Resident,
    /// Time from the start of the process until it can be connected to, in nanoseconds.
    Start,
    /// Size of the program's file, in bytes.
    Program,
}

impl Metric {
    /// What it counts.
    pub fn unit(self) -> Unit {
        match self {
            Self::P50 | Self::P99 | Self::P999 | Self::Start => Unit::Nanoseconds,
            Self::Rate | Self::Changes => Unit::PerSecond,
            Self::Processor | Self::Subscribing => Unit::Seconds,
            Self::Share => Unit::Share,
            Self::Connection | Self::Resident | Self::Program => Unit::Bytes,
        }
    }

    /// Its name at the head of a column.
    pub fn title(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Rate => "per second",
            Self::Processor => "bus CPU, s per million",
            Self::Share => "share of the undisturbed rate",
            Self::Changes => "subscriptions a second",
            Self::Subscribing => "subscribing",
            Self::Connection => "a connection",
            Self::Resident => "resident when idle",
            Self::Start => "start-up",
            Self::Program => "program",
        }
    }
}

/// What one run of one subject showed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its figures.
    pub figures: BTreeMap<Metric, f64>,
    /// Operations in the whole run, those of the warm-up included.
    pub operations: u64,
}

impl Measured {
    /// The percentiles of `times`, which are nanoseconds.
    ///
    /// # Errors
    /// When there are none.
    pub fn latency(times: &Histogram<u64>) -> Result<Self> {
        ensure!(!times.is_empty(), "nothing completed in the measured time");
        let mut measured = Self::default();
        for (metric, quantile) in [
            (Metric::P50, 0.5),
            (Metric::P99, 0.99),
            (Metric::P999, 0.999),
        ] {
            measured.set(metric, times.value_at_quantile(quantile) as f64);
        }
        Ok(measured)
    }

    /// One figure.
    pub fn of(metric: Metric, figure: f64) -> Self {
        let mut measured = Self::default();
        measured.set(metric, figure);
        measured
    }

    /// What it says of `metric`, if it does.
    pub fn figure(&self, metric: Metric) -> Option<f64> {
        self.figures.get(&metric).copied()
    }

    /// Makes it say `figure` of `metric`.
    pub fn set(&mut self, metric: Metric, figure: f64) {
        self.figures.insert(metric, figure);
    }
}
