//! Figures that were seen on one such machine: a virtual one with two cores. They show whether the
//! machine of a run is in a usable state, and how far it is comparable; ratios within a run are
//! what counts.

use crate::quantity::Unit;
use crate::subject::Subject;

/// The share of a limit's reference below which a round is repeated: the machine was doing
/// something else.
pub const USABLE_SHARE: f64 = 0.7;

const MICROSECOND: f64 = 1_000.0;

/// What was seen of `subject` in the measurement `case`: nanoseconds, or operations a second.
pub fn seen(case: &str, subject: Subject) -> Option<f64> {
    use Subject::{ChunkRelay, FrameRelay, Mpsc, T2Bus};
    Some(match (case, subject) {
        ("request-pinned", ChunkRelay) => 23.0 * MICROSECOND,
        ("request-pinned", T2Bus) => 84.0 * MICROSECOND,
        ("outstanding-64", ChunkRelay) => 360_000.0,
        ("outstanding-64", T2Bus) => 30_000.0,
        ("one-to-one-16", FrameRelay) => 4_100_000.0,
        ("one-to-one-16", T2Bus) => 87_000.0,
        ("one-to-one-1k", FrameRelay) => 1_600_000.0,
        ("one-to-one-64k", FrameRelay) => 9_000.0,
        ("fan-out-16", FrameRelay) => 900_000.0,
        ("memory-one-to-one-16", Mpsc) => 3_300_000.0,
        ("memory-one-to-one-16", T2Bus) => 360_000.0,
        ("memory-request", Mpsc) => 0.52 * MICROSECOND,
        ("memory-request", T2Bus) => 15.0 * MICROSECOND,
        _ => return None,
    })
}

/// How `figure` stands to the reference `seen`: 1 is as good, less is worse.
pub fn share(figure: f64, seen: f64, unit: Unit) -> f64 {
    if unit.is_less_better() {
        seen / figure
    } else {
        figure / seen
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
                    .filter(|subject| seen(case.id, **subject).is_some())
                    .count()
            })
            .sum();
        assert_eq!(referenced, 13);
    }
}
