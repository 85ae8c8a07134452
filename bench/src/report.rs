//! Sums rounds up. [`markdown`](crate::markdown) writes the sums for readers, serde for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::environment::Environment;
use crate::installation::Missing;
use crate::load::measured::{Measured, Metric};
use crate::plan::{Case, Family};
use crate::process::Placement;
use crate::reference::{seen, share};
use crate::run::Round;
use crate::subject::{Standing, Subject};
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
    pub rounds: u32,
    /// Time before counting, in milliseconds.
    pub warm_up_milliseconds: u128,
    /// Time counted in each run, in milliseconds.
    pub measure_milliseconds: u128,
    /// The measurements.
    pub cases: Vec<CaseSummary>,
    /// Subjects that could not be measured here.
    pub missing: Vec<Missing>,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub struct CaseSummary {
    /// Its name for programs.
    pub id: String,
    /// Its name for readers.
    pub title: String,
    /// What it belongs to.
    pub family: Family,
    /// The figure that is compared.
    pub metric: Metric,
    /// Figures shown beside it.
    pub beside: Vec<Metric>,
    /// Whether all processes were pinned to one processor.
    pub is_pinned: bool,
    /// What ratios are to.
    pub limit: Option<Subject>,
    /// What whispeer is to reach, and what it did.
    pub targets: Vec<TargetSummary>,
    /// Rounds in which the limit stayed far below its reference.
    pub weak_rounds: usize,
    /// What each subject showed.
    pub subjects: Vec<SubjectSummary>,
}

/// A target, and what whispeer reached.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TargetSummary {
    /// The target.
    pub target: Target,
    /// The figure, or the ratio, over the rounds; nothing if either side of it was not measured.
    pub reached: Option<Spread>,
}

/// One subject in one measurement, over all rounds.
#[derive(Debug, Serialize)]
pub struct SubjectSummary {
    /// Which.
    pub subject: Subject,
    /// Its name for readers.
    pub title: &'static str,
    /// What it is for the comparison.
    pub standing: Standing,
    /// The figures of the rounds.
    pub figures: BTreeMap<Metric, Spread>,
    /// The ratios to the limit in the same round.
    pub ratio: Option<Spread>,
    /// How many times better whispeer was in the same round: below 1 it was behind.
    pub ahead: Option<Spread>,
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
    /// Sums up the rounds of `case`.
    pub fn new(case: &Case, rounds: &[Round], subjects: &[Subject]) -> Self {
        Self {
            id: case.id.clone(),
            title: case.title.clone(),
            family: case.family,
            metric: case.metric,
            beside: case.beside.clone(),
            is_pinned: case.placement == Placement::OneProcessor,
            limit: case.limit,
            targets: case
                .targets
                .iter()
                .map(|target| TargetSummary::new(*target, rounds))
                .collect(),
            weak_rounds: rounds.iter().filter(|round| round.is_weak).count(),
            subjects: subjects
                .iter()
                .map(|subject| SubjectSummary::new(case, rounds, *subject))
                .collect(),
        }
    }

    /// What `subject` showed.
    pub fn of(&self, subject: Subject) -> Option<&SubjectSummary> {
        self.subjects
            .iter()
            .find(|summary| summary.subject == subject)
    }

    /// The main figure of a subject.
    pub fn main(&self, summary: &SubjectSummary) -> Option<Spread> {
        summary.figures.get(&self.metric).copied()
    }

    /// whispeer as it is compared with peers.
    pub fn whispeer(&self) -> Option<&SubjectSummary> {
        self.of(Subject::Whispeer)
    }

    /// The peer that whispeer is least ahead of, or most behind.
    pub fn best_peer(&self) -> Option<&SubjectSummary> {
        self.subjects
            .iter()
            .filter(|summary| summary.standing == Standing::Peer)
            .filter_map(|summary| Some((summary, summary.ahead?.median)))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))
            .map(|(summary, _)| summary)
    }
}

impl TargetSummary {
    fn new(target: Target, rounds: &[Round]) -> Self {
        let reached = rounds.iter().filter_map(|round| {
            let figure = figure_of_whispeer(round, target.metric)?;
            match target.against() {
                None => Some(figure),
                Some(subject) => Some(figure / round.figure(subject, target.metric)?),
            }
        });
        Self {
            target,
            reached: Spread::of(reached),
        }
    }
}

/// What whispeer showed, on one thread where it was measured so: that is what a channel within one
/// process is compared with.
fn figure_of_whispeer(round: &Round, metric: Metric) -> Option<f64> {
    [Subject::WhispeerOneThread, Subject::Whispeer]
        .into_iter()
        .find_map(|subject| round.figure(subject, metric))
}

impl SubjectSummary {
    fn new(case: &Case, rounds: &[Round], subject: Subject) -> Self {
        let runs: Vec<Measured> = rounds
            .iter()
            .filter_map(|round| round.of(subject).cloned())
            .collect();
        let main = |round: &Round, subject| round.figure(subject, case.metric);
        let ratios = rounds
            .iter()
            .filter_map(|round| Some(main(round, subject)? / main(round, case.limit?)?));
        let ahead = rounds.iter().filter_map(|round| {
            let whispeer = main(round, Subject::Whispeer)?;
            Some(share(whispeer, main(round, subject)?, case.metric.unit()))
        });
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
            standing: subject.standing(),
            figures: figures(&runs),
            ratio: Spread::of(ratios),
            ahead: Spread::of(ahead),
            seen: seen(&case.id, subject),
            failures: failures.collect(),
            runs,
        }
    }
}

/// The spread of each figure over the runs that have it.
fn figures(runs: &[Measured]) -> BTreeMap<Metric, Spread> {
    let mut all = BTreeMap::<Metric, Vec<f64>>::new();
    for (metric, figure) in runs.iter().flat_map(|run| &run.figures) {
        all.entry(*metric).or_default().push(*figure);
    }
    all.into_iter()
        .filter_map(|(metric, figures)| Some((metric, Spread::of(figures)?)))
        .collect()
}

#[cfg(test)]
pub mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::plan::cases;
    use crate::subject::Subject::{FrameRelay, Nats, Redis, T2Bus, Whispeer};

    /// Two rounds of 1→1 in which NATS was half as fast as whispeer and then as fast, and Redis
    /// failed.
    pub fn example() -> CaseSummary {
        let case = cases()
            .into_iter()
            .find(|case| case.id == "one-to-one-16")
            .unwrap();
        let round = |nats| Round {
            results: vec![
                (FrameRelay, Ok(Measured::of(Metric::Rate, 8e6))),
                (Whispeer, Ok(Measured::of(Metric::Rate, 2e6))),
                (Nats, Ok(Measured::of(Metric::Rate, nats))),
                (Redis, Err(anyhow!("Redis ended"))),
            ],
            is_weak: false,
        };
        let subjects = [FrameRelay, Whispeer, Nats, Redis];
        CaseSummary::new(&case, &[round(1e6), round(2e6)], &subjects)
    }

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

    #[test]
    fn ratios_are_taken_within_rounds() {
        let case = example();
        let nats = case.of(Nats).unwrap();
        let spread = |median, minimum, maximum| Spread {
            median,
            minimum,
            maximum,
        };
        assert_eq!(nats.ahead, Some(spread(1.5, 1.0, 2.0)));
        assert_eq!(nats.ratio, Some(spread(0.1875, 0.125, 0.25)));
        assert_eq!(case.best_peer().unwrap().subject, Nats);
    }

    #[test]
    fn a_failure_is_kept_with_its_reason() {
        let case = example();
        let redis = case.of(Redis).unwrap();
        assert_eq!(redis.failures, ["Redis ended", "Redis ended"]);
        assert!(case.main(redis).is_none());
    }

    #[test]
    fn a_target_against_what_was_not_measured_is_left_open() {
        let case = example();
        let against = |subject| {
            case.targets
                .iter()
                .find(|summary| summary.target.against() == Some(subject))
                .unwrap()
                .reached
        };
        assert_eq!(against(FrameRelay).unwrap().median, 0.25);
        assert!(against(T2Bus).is_none());
    }
}
