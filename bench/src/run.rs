//! Runs measurements: subjects take turns (A B C A B C …), so that a slow minute of the machine
//! falls on all of them, and a round in which the limit was far below its reference is repeated.

use anyhow::{Result, bail};

use crate::load::Measured;
use crate::measure::{Setting, measure};
use crate::plan::Case;
use crate::reference::{USABLE_SHARE, seen, share};
use crate::subject::Subject;

/// How often a round is run before it is taken as it is, and marked.
const ATTEMPTS_A_ROUND: u32 = 3;

/// One turn of every subject.
#[derive(Debug)]
pub struct Round {
    /// What each subject showed, in the order of the case, or why it showed nothing.
    pub results: Vec<(Subject, Result<Measured>)>,
    /// Whether the limit stayed under [`USABLE_SHARE`] of its reference.
    pub is_weak: bool,
}

impl Round {
    /// What `subject` showed, if it did.
    pub fn of(&self, subject: Subject) -> Option<Measured> {
        self.results
            .iter()
            .find(|(candidate, _)| *candidate == subject)
            .and_then(|(_, result)| result.as_ref().ok().copied())
    }
}

/// Runs `repetitions` rounds of `case` with `subjects`.
///
/// # Errors
/// When the limit itself cannot be measured. Other subjects may fail; their rounds say why.
pub fn run(
    case: &Case,
    subjects: &[Subject],
    repetitions: u32,
    setting: Setting<'_>,
) -> Result<Vec<Round>> {
    let turn = || {
        subjects
            .iter()
            .map(|subject| (*subject, measure(case, *subject, setting)))
            .collect()
    };
    (0..repetitions).map(|_| best_round(case, turn)).collect()
}

/// The first turn whose limit is usable, or else the one whose limit was best.
fn best_round(
    case: &Case,
    mut turn: impl FnMut() -> Vec<(Subject, Result<Measured>)>,
) -> Result<Round> {
    let mut best: Option<(f64, Round)> = None;
    let mut why = String::new();
    for _ in 0..ATTEMPTS_A_ROUND {
        let mut round = Round {
            results: turn(),
            is_weak: false,
        };
        let Some(limit) = round.of(case.limit) else {
            why = failure(case, &round);
            continue;
        };
        let usable =
            seen(case.id, case.limit).map_or(1.0, |seen| share(limit.figure(), seen, case.unit()));
        let is_weak = usable < USABLE_SHARE;
        round.is_weak = is_weak;
        if best.as_ref().is_none_or(|(share, _)| usable > *share) {
            best = Some((usable, round));
        }
        if !is_weak {
            break;
        }
    }
    match best {
        Some((_, round)) => Ok(round),
        None => bail!("{why}"),
    }
}

/// Why the limit showed nothing.
fn failure(case: &Case, round: &Round) -> String {
    let error = round
        .results
        .iter()
        .find_map(|(subject, result)| match result {
            Err(error) if *subject == case.limit => Some(error),
            _ => None,
        });
    let limit = case.limit.title();
    error.map_or_else(
        || format!("{limit} was not measured"),
        |error| format!("{limit} could not be measured: {error:#}"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::*;
    use crate::plan::cases;

    /// A round of turns whose limit shows these shares of its reference, one after the other;
    /// `None` fails. Returns the round and how many turns it took.
    fn round_of(shares: &[Option<f64>]) -> (Result<Round>, usize) {
        let case = cases()
            .into_iter()
            .find(|case| case.id == "one-to-one-16")
            .unwrap();
        let reference = seen(case.id, case.limit).unwrap();
        let mut turns = 0;
        let round = best_round(&case, || {
            let result = match shares[turns] {
                Some(share) => {
                    let count = (share * reference) as u64;
                    Ok(Measured::rate(count, Duration::from_secs(1)))
                }
                None => Err(anyhow!("the relay failed")),
            };
            turns += 1;
            vec![(case.limit, result)]
        });
        (round, turns)
    }

    #[test]
    fn a_usable_round_is_not_repeated() {
        let (round, turns) = round_of(&[Some(0.71)]);
        assert!(!round.unwrap().is_weak);
        assert_eq!(turns, 1);
    }

    #[test]
    fn a_weak_or_failed_round_is_repeated_until_one_is_usable() {
        let (round, turns) = round_of(&[Some(0.5), None, Some(0.9)]);
        assert!(!round.unwrap().is_weak);
        assert_eq!(turns, 3);
    }

    #[test]
    fn the_best_of_three_weak_rounds_is_kept_and_marked() {
        let (round, turns) = round_of(&[Some(0.25), Some(0.5), Some(0.125)]);
        let round = round.unwrap();
        assert!(round.is_weak);
        assert_eq!(turns, 3);
        assert_eq!(
            round.results[0].1.as_ref().unwrap().figure(),
            0.5 * 4_100_000.0
        );
    }

    #[test]
    fn a_limit_that_cannot_be_measured_is_an_error() {
        let (round, _) = round_of(&[None, None, None]);
        assert!(round.is_err());
    }
}
