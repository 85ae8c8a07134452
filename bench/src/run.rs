//! Runs measurements: subjects take turns (A B C A B C …), so that a slow minute of the machine
//! falls on all of them, and a round in which the limit was far below its reference is repeated.

use std::time::Instant;

use anyhow::Result;

use crate::load::measured::{Measured, Metric};
use crate::measure::{Setting, measure};
use crate::plan::Case;
use crate::reference::{USABLE_SHARE, seen, share};
use crate::subject::Subject;

/// How often a round is run before it is taken as it is, and marked.
const ATTEMPTS_A_ROUND: u32 = 3;

/// One turn of every subject.
#[derive(Debug, Default)]
pub struct Round {
    /// What each subject showed, in the order of the case, or why it showed nothing.
    pub results: Vec<(Subject, Result<Measured>)>,
    /// Whether the limit stayed under [`USABLE_SHARE`] of its reference.
    pub is_weak: bool,
}

impl Round {
    /// What `subject` showed, if it did.
    pub fn of(&self, subject: Subject) -> Option<&Measured> {
        self.results
            .iter()
            .find(|(candidate, _)| *candidate == subject)
            .and_then(|(_, result)| result.as_ref().ok())
    }

    /// What `subject` showed of `metric`, if it did.
    pub fn figure(&self, subject: Subject, metric: Metric) -> Option<f64> {
        self.of(subject)?.figure(metric)
    }
}

/// Runs `rounds` rounds of `case` with `subjects`, or as many as are worth their time.
pub fn run(case: &Case, subjects: &[Subject], rounds: u32, setting: Setting<'_>) -> Vec<Round> {
    let turn = || {
        let mut times = Vec::new();
        let results = subjects
            .iter()
            .map(|subject| {
                let begun = Instant::now();
                let result = measure(case, *subject, setting);
                let word = if result.is_ok() { "" } else { " failed after" };
                let seconds = begun.elapsed().as_secs_f64();
                times.push(format!("{}{word} {seconds:.1} s", subject.title()));
                (*subject, result)
            })
            .collect();
        eprintln!("  {}", times.join("; "));
        results
    };
    (0..rounds.min(case.most_rounds))
        .map(|_| best_round(case, turn))
        .collect()
}

/// The first turn whose limit is usable, or else the one whose limit was best.
fn best_round(case: &Case, mut turn: impl FnMut() -> Vec<(Subject, Result<Measured>)>) -> Round {
    let mut best: Option<(f64, Round)> = None;
    for _ in 0..ATTEMPTS_A_ROUND {
        let mut round = Round {
            results: turn(),
            is_weak: false,
        };
        let usable = usable(case, &round);
        round.is_weak = usable < USABLE_SHARE;
        if !round.is_weak {
            return round;
        }
        if best.as_ref().is_none_or(|(share, _)| usable > *share) {
            best = Some((usable, round));
        }
    }
    best.map_or_else(Round::default, |(_, round)| round)
}

/// How the limit of a round stands to what was seen of it; 1 where there is nothing to compare.
fn usable(case: &Case, round: &Round) -> f64 {
    let Some((limit, seen)) = case
        .limit
        .and_then(|limit| Some((limit, seen(&case.id, limit)?)))
    else {
        return 1.0;
    };
    match round.figure(limit, case.metric) {
        Some(figure) => share(figure, seen, case.metric.unit()),
        // It was not measured, or it failed, which is worse than any figure.
        None if round.results.iter().all(|(subject, _)| *subject != limit) => 1.0,
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::plan::cases;

    /// A round of turns whose limit shows these shares of its reference, one after the other;
    /// `None` fails. Returns the round and how many turns it took.
    fn round_of(shares: &[Option<f64>]) -> (Round, usize) {
        let case = cases()
            .into_iter()
            .find(|case| case.id == "one-to-one-16")
            .unwrap();
        let limit = case.limit.unwrap();
        let reference = seen(&case.id, limit).unwrap();
        let mut turns = 0;
        let round = best_round(&case, || {
            let result = match shares[turns] {
                Some(share) => Ok(Measured::of(case.metric, share * reference)),
                None => Err(anyhow!("the relay failed")),
            };
            turns += 1;
            vec![(limit, result)]
        });
        (round, turns)
    }

    #[test]
    fn a_usable_round_is_not_repeated() {
        let (round, turns) = round_of(&[Some(0.71)]);
        assert!(!round.is_weak);
        assert_eq!(turns, 1);
    }

    #[test]
    fn a_weak_or_failed_round_is_repeated_until_one_is_usable() {
        let (round, turns) = round_of(&[Some(0.5), None, Some(0.9)]);
        assert!(!round.is_weak);
        assert_eq!(turns, 3);
    }

    #[test]
    fn the_best_of_three_weak_rounds_is_kept_and_marked() {
        let (round, turns) = round_of(&[Some(0.25), Some(0.5), Some(0.125)]);
        assert!(round.is_weak);
        assert_eq!(turns, 3);
        let (_, result) = &round.results[0];
        let figure = result.as_ref().unwrap().figure(Metric::Rate);
        assert_eq!(figure, Some(0.5 * 4_100_000.0));
    }

    #[test]
    fn a_limit_that_always_fails_leaves_a_weak_round_that_says_why() {
        let (round, turns) = round_of(&[None, None, None]);
        assert!(round.is_weak);
        assert!(round.results[0].1.is_err());
        assert_eq!(turns, 3);
    }
}
