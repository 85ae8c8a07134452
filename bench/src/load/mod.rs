//! Load generators: what requests, answers, publishes and subscribes, in processes apart from the
//! subject that is measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod deliveries;
pub mod message;
pub mod payloads;
pub mod raw_publish;
pub mod raw_request;
pub mod round_trips;

/// How long a load runs.
#[derive(Debug, Clone, Copy)]
pub struct Phases {
    /// Time before anything is counted, for buffers, caches and windows to settle.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measure: Duration,
}

/// What one run of one subject showed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured {
    /// Times of single round trips.
    Latency {
        /// Median, in nanoseconds.
        p50_nanoseconds: u64,
        /// 99th percentile, in nanoseconds.
        p99_nanoseconds: u64,
        /// 99.9th percentile, in nanoseconds.
        p999_nanoseconds: u64,
        /// Round trips counted.
        count: u64,
    },
    /// Completed operations: answered requests, or messages delivered and checked.
    Rate {
        /// Operations a second.
        per_second: f64,
        /// Operations counted.
        count: u64,
        /// Time they took, in seconds.
        seconds: f64,
    },
    /// Resident memory of the subject that connections took.
    Memory {
        /// What one connection took, in bytes.
        bytes_a_connection: f64,
        /// Connections held.
        connections: u64,
        /// Resident memory of the subject before the first connection, in bytes.
        bytes_before: u64,
        /// The most that was resident while all were held, in bytes.
        bytes_after: u64,
    },
}

impl Measured {
    /// The rate of `count` operations in `elapsed`.
    pub fn rate(count: u64, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        Self::Rate {
            per_second: count as f64 / seconds,
            count,
            seconds,
        }
    }

    /// The memory of `connections` connections that took a subject from `bytes_before` to
    /// `bytes_after`.
    pub fn memory(connections: u64, bytes_before: u64, bytes_after: u64) -> Self {
        let taken = bytes_after.saturating_sub(bytes_before);
        Self::Memory {
            bytes_a_connection: taken as f64 / connections as f64,
            connections,
            bytes_before,
            bytes_after,
        }
    }

    /// The one number that stands for the run: the median in nanoseconds, operations a second, or
    /// bytes a connection.
    pub fn figure(&self) -> f64 {
        match self {
            Self::Latency {
                p50_nanoseconds, ..
            } => *p50_nanoseconds as f64,
            Self::Rate { per_second, .. } => *per_second,
            Self::Memory {
                bytes_a_connection, ..
            } => *bytes_a_connection,
        }
    }
}
