//! Sums rounds up. [`markdown`](crate::markdown) writes the sums for readers, serde for programs.

use serde::Serialize;

use crate::environment::Environment;
use crate::load::Measured;
use crate::plan::Case;
use crate::process::Placement;
use crate::quantity::Unit;
use crate::reference::seen;
use crate::run::Round;
use crate::subject::Subject;
use crate::target::Target;

/// All that a run showed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What ran where.
    pub environment: Environment,
    /// The arguments that repeat the run.
    pub arguments: Vec<String>,
    /// Whether whispeer's bus was the `whispeer` program, and not a role of this one.
    pub is_program: bool,
    /// Rounds of each measurement.
    pub repetitions: u32,
    /// Time before counting, in milliseconds.
    pub warm_up_milliseconds: u128,
    /// Time counted in each run, in milliseconds.
    pub measure_milliseconds: u128,
    /// The measurements.
    pub cases: Vec<CaseSummary>,
    /// Measurements that could not be made, and why.
    pub failures: Vec<String>,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub struct CaseSummary {
    /// Its name for programs.
    pub id: &'static str,
    /// Its name for readers.
    pub title: &'static str,
    /// `nanoseconds` or `bytes`, of which less is better, or `per_second`.
    pub unit: Unit,
    /// Whether all processes were pinned to one processor.
    pub is_pinned: bool,
    /// What ratios are to.
    pub limit: Subject,
    /// What whispeer is to reach.
    pub target: Option<Target>,
    /// Rounds in which the limit stayed far below its reference.
    pub weak_rounds: usize,
    /// What each subject showed.
    pub subjects: Vec<SubjectSummary>,
}

/// One subject in one measurement, over all rounds.
#[derive(Debug, Serialize)]
pub struct SubjectSummary {
    /// Which.
    pub subject: Subject,
    /// Its name for readers.
    pub title: &'static str,
    /// The figures of the rounds, if any round succeeded.
    pub figure: Option<Spread>,
    /// 99th percentiles of the rounds, for latency.
    pub p99: Option<Spread>,
    /// 99.9th percentiles of the rounds, for latency.
    pub p999: Option<Spread>,
    /// The ratios to the limit in the same round.
    pub ratio: Option<Spread>,
    /// What was seen of it on the machine of the references.
    pub seen: Option<f64>,
    /// What each round showed.
    pub runs: Vec<Measured>,
    /// Why rounds showed nothing.
    pub failures: Vec<String>,
}

/// Median and extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle value, or the mean of the two in the middle.
    pub median: f64,
    /// The least value.
    pub minimum: f64,
    /// The greatest value.
    pub maximum: f64,
}

impl Spread {
    /// The spread of `values`, or `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            minimum: *sorted.first()?,
            maximum: *sorted.last()?,
        })
    }
}

impl CaseSummary {
    /// What the limit showed.
    pub fn limit(&self) -> Option<&SubjectSummary> {
        self.subjects
            .iter()
            .find(|summary| summary.subject == self.limit)
    }

    /// Sums up the rounds of `case`.
    pub fn new(case: &Case, rounds: &[Round], subjects: &[Subject]) -> Self {
        Self {
            id: case.id,
            title: case.title,
            unit: case.unit(),
            is_pinned: case.placement == Placement::OneProcessor,
            limit: case.limit,
            target: case.target,
            weak_rounds: rounds.iter().filter(|round| round.is_weak).count(),
            subjects: subjects
                .iter()
                .map(|subject| SubjectSummary::new(case, rounds, *subject))
                .collect(),
        }
    }
}

impl SubjectSummary {
    fn new(case: &Case, rounds: &[Round], subject: Subject) -> Self {
        let runs: Vec<Measured> = rounds
            .iter()
            .filter_map(|round| round.of(subject))
            .collect();
        let ratios = rounds
            .iter()
            .filter_map(|round| Some(round.of(subject)?.figure() / round.of(case.limit)?.figure()));
        let failures =
            rounds
                .iter()
                .flat_map(|round| &round.results)
                .filter_map(|(candidate, result)| match result {
                    Err(error) if *candidate == subject => Some(format!("{error:#}")),
                    _ => None,
                });
        Self {
            subject,
            title: subject.title(),
            figure: Spread::of(runs.iter().map(Measured::figure)),
            p99: Spread::of(runs.iter().filter_map(|run| percentile(run, Tail::P99))),
            p999: Spread::of(runs.iter().filter_map(|run| percentile(run, Tail::P999))),
            ratio: Spread::of(ratios),
            seen: seen(case.id, subject),
            failures: failures.collect(),
            runs,
        }
    }
}

#[derive(Clone, Copy)]
enum Tail {
    P99,
    P999,
}

fn percentile(run: &Measured, tail: Tail) -> Option<f64> {
    match (run, tail) {
        (
            Measured::Latency {
                p99_nanoseconds, ..
            },
            Tail::P99,
        ) => Some(*p99_nanoseconds as f64),
        (
            Measured::Latency {
                p999_nanoseconds, ..
            },
            Tail::P999,
        ) => Some(*p999_nanoseconds as f64),
        (Measured::Rate { .. } | Measured::Memory { .. }, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (spread.median, spread.minimum, spread.maximum),
            (2.5, 1.0, 4.0)
        );
    }

    #[test]
    fn nothing_has_no_spread() {
        assert_eq!(Spread::of([]), None);
    }
}
