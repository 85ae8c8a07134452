//! Sums rounds up, for readers as Markdown and for programs as JSON.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::load::{Measured, Phases};
use crate::plan::Case;
use crate::process::Placement;
use crate::reference::{seen, share};
use crate::run::Round;
use crate::subject::Subject;

/// All that a run showed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Processors that the run could use.
    pub processors: usize,
    /// Rounds of each measurement.
    pub repetitions: u32,
    /// Time before counting, in milliseconds.
    pub warm_up_milliseconds: u128,
    /// Time counted in each run, in milliseconds.
    pub measure_milliseconds: u128,
    /// The measurements.
    pub cases: Vec<CaseSummary>,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub struct CaseSummary {
    /// Its name for programs.
    pub id: &'static str,
    /// Its name for readers.
    pub title: &'static str,
    /// `nanoseconds`, where less is better, or `per_second`.
    pub unit: Unit,
    /// Whether all processes were pinned to one processor.
    pub is_pinned: bool,
    /// What ratios are to.
    pub limit: Subject,
    /// Rounds in which the limit stayed far below its reference.
    pub weak_rounds: usize,
    /// What each subject showed.
    pub subjects: Vec<SubjectSummary>,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The median of a run's round trips.
    Nanoseconds,
    /// Answers or deliveries.
    PerSecond,
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

impl Report {
    /// An empty report.
    pub fn new(processors: usize, repetitions: u32, phases: Phases) -> Self {
        Self {
            processors,
            repetitions,
            warm_up_milliseconds: phases.warm_up.as_millis(),
            measure_milliseconds: phases.measure.as_millis(),
            cases: Vec::new(),
        }
    }
}

impl CaseSummary {
    /// Sums up the rounds of `case`.
    pub fn new(case: &Case, rounds: &[Round], subjects: &[Subject]) -> Self {
        Self {
            id: case.id,
            title: case.title,
            unit: if case.is_latency() {
                Unit::Nanoseconds
            } else {
                Unit::PerSecond
            },
            is_pinned: case.placement == Placement::OneProcessor,
            limit: case.limit,
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
        (Measured::Rate { .. }, _) => None,
    }
}

impl Display for Report {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            output,
            "{} processors; {} rounds, subjects in turn; {} ms counted in each run after {} ms of \
             warm-up. Figures are medians over rounds, with minimum–maximum. Ratios are taken \
             within each round. Publishers, subscribers, requesters and answerers are processes \
             apart from the subject, with one thread each.\n",
            self.processors, self.repetitions, self.measure_milliseconds, self.warm_up_milliseconds,
        )?;
        self.table(output, Unit::Nanoseconds)?;
        self.table(output, Unit::PerSecond)?;
        for case in &self.cases {
            for subject in &case.subjects {
                for failure in &subject.failures {
                    writeln!(
                        output,
                        "- {}, {}: failed: {failure}",
                        case.title, subject.title
                    )?;
                }
            }
        }
        if self.cases.iter().any(|case| case.weak_rounds > 0) {
            writeln!(
                output,
                "\n† rounds in which the limit stayed under 70 % of its reference, although each \
                 was repeated: the machine was busy, or is slower."
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn table(&self, output: &mut Formatter<'_>, unit: Unit) -> fmt::Result {
        let cases: Vec<_> = self.cases.iter().filter(|case| case.unit == unit).collect();
        if cases.is_empty() {
            return Ok(());
        }
        match unit {
            Unit::Nanoseconds => writeln!(
                output,
                "| latency | subject | p50 | min–max | p99 | p99.9 | ratio to limit | seen \
                 elsewhere | against seen |\n|---|---|--:|--:|--:|--:|--:|--:|--:|"
            )?,
            Unit::PerSecond => writeln!(
                output,
                "| throughput | subject | per second | min–max | ratio to limit | seen elsewhere \
                 | against seen |\n|---|---|--:|--:|--:|--:|--:|"
            )?,
        }
        for case in cases {
            for subject in &case.subjects {
                row(output, case, subject)?;
            }
        }
        writeln!(output)
    }
}

fn row(output: &mut Formatter<'_>, case: &CaseSummary, subject: &SubjectSummary) -> fmt::Result {
    let is_limit = subject.subject == case.limit;
    write!(output, "| {} | {}", case.title, subject.title)?;
    if is_limit {
        write!(output, " (limit)")?;
    }
    if is_limit && case.weak_rounds > 0 {
        write!(output, " †{}", case.weak_rounds)?;
    }
    let quantity = |value: f64| Quantity {
        value,
        unit: case.unit,
    };
    match subject.figure {
        None => write!(output, " | failed | ")?,
        Some(Spread {
            median,
            minimum,
            maximum,
        }) => write!(
            output,
            " | **{}** | {}–{}",
            quantity(median),
            quantity(minimum),
            quantity(maximum)
        )?,
    }
    if case.unit == Unit::Nanoseconds {
        for tail in [subject.p99, subject.p999] {
            write!(output, " | ")?;
            if let Some(spread) = tail {
                write!(output, "{}", quantity(spread.median))?;
            }
        }
    }
    write!(output, " | ")?;
    if let Some(Spread {
        median,
        minimum,
        maximum,
    }) = subject.ratio
    {
        if is_limit {
            write!(output, "1")?;
        } else {
            write!(output, "{median:.3} ({minimum:.3}–{maximum:.3})")?;
        }
    }
    match (subject.seen, subject.figure) {
        (Some(seen), Some(figure)) => {
            let share = share(figure.median, seen, case.unit == Unit::Nanoseconds);
            writeln!(output, " | {} | {share:.2} × |", quantity(seen))
        }
        _ => writeln!(output, " | | |"),
    }
}

/// A figure with a unit in which it reads well.
struct Quantity {
    value: f64,
    unit: Unit,
}

impl Display for Quantity {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        const THOUSAND: f64 = 1e3;
        const MILLION: f64 = 1e6;
        let value = self.value;
        match self.unit {
            Unit::Nanoseconds if value < MILLION => {
                write!(
                    output,
                    "{:.*} µs",
                    places(value / THOUSAND),
                    value / THOUSAND
                )
            }
            Unit::Nanoseconds => {
                write!(output, "{:.*} ms", places(value / MILLION), value / MILLION)
            }
            Unit::PerSecond if value < MILLION => {
                write!(
                    output,
                    "{:.*} k",
                    places(value / THOUSAND),
                    value / THOUSAND
                )
            }
            Unit::PerSecond => {
                write!(output, "{:.*} M", places(value / MILLION), value / MILLION)
            }
        }
    }
}

/// Decimal places that leave three significant digits.
fn places(value: f64) -> usize {
    match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
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

    #[test]
    fn quantities_keep_three_digits() {
        let written = |value, unit| Quantity { value, unit }.to_string();
        assert_eq!(written(451.0, Unit::Nanoseconds), "0.45 µs");
        assert_eq!(written(27_531.0, Unit::Nanoseconds), "27.5 µs");
        assert_eq!(written(4_123_456.0, Unit::PerSecond), "4.12 M");
        assert_eq!(written(62_000.0, Unit::PerSecond), "62.0 k");
    }
}
