//! Figures that were seen on one such machine: a virtual one with two cores. They show whether the
//! machine of a run is in a usable state, and how far it is comparable; ratios within a run are
//! what counts.

use crate::quantity::Unit;
use crate::subject::Subject;

/// The share of a limit's reference below which a round is repeated: the machine was doing
/// something else.
pub const USABLE_SHARE: f64 = 0.7;

const MICROSECOND: f64 = 1_000.0;

const KIBIBYTE: f64 = 1024.0;

/// What was seen of `subject` in the measurement `case`, as its main figure.
pub fn seen(case: &str, subject: Subject) -> Option<f64> {
    use Subject::{
        ChunkRelay, FrameRelay, FrameRelayTwoThreads, Mosquitto, Mpsc, Nats, Redis, T2Bus, Tarpc,
        ZenohUnix,
    };
    Some(match (case, subject) {
        ("request-pinned-16", ChunkRelay) => 23.0 * MICROSECOND,
        ("request-pinned-16", Tarpc) => 27.0 * MICROSECOND,
        ("request-pinned-16", Mosquitto) => 57.0 * MICROSECOND,
        ("request-pinned-16", Redis) => 63.0 * MICROSECOND,
        ("request-pinned-16", Nats) => 68.0 * MICROSECOND,
        ("request-pinned-16", T2Bus) => 84.0 * MICROSECOND,
        ("request-pinned-16", ZenohUnix) => 190.0 * MICROSECOND,
        ("outstanding-16", ChunkRelay) => 360_000.0,
        ("outstanding-16", Tarpc) => 166_000.0,
        ("outstanding-16", Nats | Redis) => 53_000.0,
        ("outstanding-16", T2Bus) => 30_000.0,
        ("one-to-one-16", FrameRelay) => 4_100_000.0,
        ("one-to-one-16", ZenohUnix) => 1_100_000.0,
        ("one-to-one-16", Nats) => 580_000.0,
        ("one-to-one-16", T2Bus) => 87_000.0,
        ("one-to-one-1k", FrameRelay) => 1_600_000.0,
        ("one-to-one-1k", ZenohUnix) => 530_000.0,
        ("one-to-one-1k", Nats) => 290_000.0,
        ("one-to-one-64k", FrameRelay) => 9_000.0,
        ("one-to-one-64k", ZenohUnix) => 11_800.0,
        ("one-to-one-64k", ChunkRelay) => 26_000.0,
        ("fan-out-16", FrameRelayTwoThreads) => 940_000.0,
        ("fan-out-16", ZenohUnix) => 1_040_000.0,
        ("fan-out-16", Nats) => 950_000.0,
        ("fan-out-1k", FrameRelayTwoThreads) => 1_090_000.0,
        ("fan-out-1k", ZenohUnix) => 700_000.0,
        ("fan-out-1k", Nats) => 360_000.0,
        ("many-to-many-16", FrameRelay) => 2_900_000.0,
        ("many-to-many-16", ZenohUnix) => 1_100_000.0,
        ("many-to-many-16", Nats) => 900_000.0,
        ("memory-one-to-one-16", Mpsc) => 3_300_000.0,
        ("memory-one-to-one-16", T2Bus) => 360_000.0,
        ("memory-request", Mpsc) => 0.52 * MICROSECOND,
        ("memory-request", T2Bus) => 15.0 * MICROSECOND,
        ("idle", Mosquitto) => 1.0 * KIBIBYTE,
        ("idle", Redis) => 9.8 * KIBIBYTE,
        ("idle", T2Bus) => 12.9 * KIBIBYTE,
        ("idle", Nats) => 22.7 * KIBIBYTE,
        ("idle", ZenohUnix) => 75.0 * KIBIBYTE,
        _ => return None,
    })
}

/// How `figure` stands to `other`: 1 is as good, less is worse.
pub fn share(figure: f64, other: f64, unit: Unit) -> f64 {
    if unit.is_less_better() {
        other / figure
    } else {
        figure / other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cases;

    #[test]
    fn a_slower_run_has_a_smaller_share_whatever_is_measured() {
        assert!(share(2.0, 1.0, Unit::Nanoseconds) < 1.0);
        assert!(share(1.0, 2.0, Unit::PerSecond) < 1.0);
    }

    #[test]
    fn every_reference_belongs_to_a_measurement() {
        let referenced: usize = cases()
            .iter()
            .map(|case| {
                case.subjects
                    .iter()
                    .filter(|subject| seen(&case.id, **subject).is_some())
                    .count()
            })
            .sum();
        assert_eq!(referenced, 40);
    }
}
