//! Writes a report as Markdown, and into a document that has other text too.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Context, Result};

use crate::load::measured::Metric;
use crate::notes::SUBJECTS;
use crate::plan::{Family, family_name};
use crate::plot;
use crate::quantity::Quantity;
use crate::reference::share;
use crate::report::{CaseSummary, Report, Spread, SubjectSummary};
use crate::subject::Standing;

/// The lines around the part of a document that is replaced.
const BEGIN: &str = "<!-- measured: begin (written by `bench/run --write`) -->";
const END: &str = "<!-- measured: end -->";

/// The directory of the plots beside the document.
const PLOTS: &str = "benchmarks";

/// The text of a new document before the part that is replaced.
const INTRODUCTION: &str = "# Benchmarks\n\n\
    What whispeer reaches, beside other systems and the limits of the machine in the same run. \
    `bench/run --install` repeats it; the part between the two comments is replaced by \
    `bench/run --write`.\n\n";

/// Replaces the measured part of the document at `path` with `report`, or makes the document; and
/// draws its plots beside it.
///
/// # Errors
/// When something cannot be read or written.
pub fn write_into(path: &Path, report: &Report) -> Result<()> {
    let old = if path.exists() {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    } else {
        String::new()
    };
    let plots = path
        .parent()
        .context("the document has no directory")?
        .join(PLOTS);
    std::fs::create_dir_all(&plots)?;
    for family in report.families() {
        let file = plots.join(plot_name(family));
        std::fs::write(&file, plot::draw(family, &report.of(family)))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    std::fs::write(path, replaced(&old, &report.to_string()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn plot_name(family: Family) -> String {
    format!("{}.svg", family_name(family))
}

fn replaced(old: &str, measured: &str) -> String {
    let parts = old.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let introduction = if old.is_empty() {
        INTRODUCTION.to_owned()
    } else {
        format!("{}\n\n", old.trim_end())
    };
    let (before, after) = parts.unwrap_or((&introduction, "\n"));
    format!("{before}{BEGIN}\n{}\n{END}{after}", measured.trim_end())
}

impl Display for Report {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        self.standings(output)?;
        self.targets(output)?;
        for family in self.families() {
            writeln!(output, "## {}\n", family.title())?;
            writeln!(
                output,
                "![{}: a plot of the tables below]({PLOTS}/{})\n",
                family.title(),
                plot_name(family)
            )?;
            for case in self.of(family) {
                table(output, case)?;
            }
        }
        self.circumstances(output)?;
        writeln!(output, "## What is compared\n\n{SUBJECTS}")?;
        self.remarks(output)
    }
}

impl Report {
    /// The families that were measured, in the order of the plan.
    fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = self.cases.iter().map(|case| case.family).collect();
        families.dedup();
        families
    }

    fn of(&self, family: Family) -> Vec<&CaseSummary> {
        self.cases
            .iter()
            .filter(|case| case.family == family)
            .collect()
    }

    fn circumstances(&self, output: &mut Formatter<'_>) -> fmt::Result {
        let environment = &self.environment;
        let versions: Vec<String> = environment
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        writeln!(
            output,
            "## The run\n\n\
             - **repeat:** `bench/run{}{}`\n\
             - **date:** {}, commit {}\n\
             - **machine:** {}, {} processors, {} of memory\n\
             - **software:** {}; {}; {}; all release builds\n\
             - **whispeer's bus:** {}",
            if self.arguments.is_empty() { "" } else { " " },
            self.arguments.join(" "),
            environment.date,
            environment.commit,
            environment.processor,
            environment.processors,
            environment.memory,
            environment.kernel,
            environment.rustc,
            versions.join(", "),
            if self.is_program {
                "the `whispeer` program"
            } else {
                "the library in a process of the measurement, with the system's allocator and one \
                 thread per processor"
            },
        )?;
        for missing in &self.missing {
            writeln!(output, "- **missing:** {}: {}", missing.title, missing.why)?;
        }
        writeln!(
            output,
            "\n{} rounds (fewer where a measurement takes long), subjects in turn; {} ms counted \
             in each run after {} ms of warm-up. Figures are medians over rounds, with \
             minimum–maximum. Ratios are taken within each round. Publishers, subscribers, \
             requesters and answerers are processes apart from the subject, with one thread each \
             where the client allows it; they share the processors with it. Every delivery is \
             counted and checked at its subscriber, and a run in which one is lost, doubled or out \
             of order fails. Processor time is that of the bus's process, in user space and in the \
             kernel.\n",
            self.rounds, self.measure_milliseconds, self.warm_up_milliseconds,
        )
    }

    /// whispeer against the best of its peers, one row for each measurement.
    fn standings(&self, output: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self
            .cases
            .iter()
            .filter_map(|case| Some((case, case.whispeer()?, case.best_peer()?)))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            output,
            "## whispeer and the best of the others\n\n\
             How many times better whispeer is than the best of the other buses, in the median of \
             rounds: above 1 it is ahead, below 1 it is behind.\n\n\
             | measurement | whispeer | the best other bus | its figure | whispeer is |\n\
             |---|--:|---|--:|---|"
        )?;
        for (case, whispeer, peer) in rows {
            let Some(ahead) = peer.ahead else { continue };
            let word = if ahead.median < 1.0 {
                "**behind**"
            } else {
                "ahead"
            };
            writeln!(
                output,
                "| {} | {} | {} | {} | {} {word} |",
                case.title,
                figure(whispeer, case.metric),
                peer.title,
                figure(peer, case.metric),
                times(ahead.median),
            )?;
        }
        writeln!(output)
    }

    fn targets(&self, output: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self
            .cases
            .iter()
            .flat_map(|case| case.targets.iter().map(move |target| (case, target)))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            output,
            "## Targets\n\n| measurement | whispeer is to reach | reached | min–max | met |\n\
             |---|---|--:|--:|---|"
        )?;
        for (case, summary) in rows {
            let target = summary.target;
            let (reached, spread, met) = match summary.reached {
                None => (String::new(), String::new(), "not measured"),
                Some(reached) => (
                    target.written(reached.median),
                    format!(
                        "{}–{}",
                        target.written(reached.minimum),
                        target.written(reached.maximum)
                    ),
                    if target.is_met(reached.median) {
                        "yes"
                    } else {
                        "**no**"
                    },
                ),
            };
            writeln!(
                output,
                "| {} | {target} | {reached} | {spread} | {met} |",
                case.title
            )?;
        }
        writeln!(output)
    }

    fn remarks(&self, output: &mut Formatter<'_>) -> fmt::Result {
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

/// The table of one measurement, the best first.
fn table(output: &mut Formatter<'_>, case: &CaseSummary) -> fmt::Result {
    let has_limit = case.limit.is_some();
    let has_seen = case.subjects.iter().any(|subject| subject.seen.is_some());
    write!(
        output,
        "| {} | {} | min–max |",
        case.title,
        case.metric.title()
    )?;
    for metric in &case.beside {
        write!(output, " {} |", metric.title())?;
    }
    if has_limit {
        write!(output, " ratio to the limit |")?;
    }
    write!(output, " whispeer is |")?;
    if has_seen {
        write!(output, " seen elsewhere |")?;
    }
    let columns = case.beside.len() + usize::from(has_limit) + usize::from(has_seen);
    writeln!(output, "\n|---|--:|--:|{}--:|", "--:|".repeat(columns))?;
    for subject in ranked(case) {
        row(output, case, subject, has_limit, has_seen)?;
    }
    writeln!(output)
}

/// The subjects of a measurement, the best first and those that failed last.
pub fn ranked(case: &CaseSummary) -> Vec<&SubjectSummary> {
    let mut subjects: Vec<&SubjectSummary> = case.subjects.iter().collect();
    let rank = |subject: &SubjectSummary| {
        case.main(subject)
            .map_or(0.0, |figure| share(figure.median, 1.0, case.metric.unit()))
    };
    subjects.sort_by(|one, other| rank(other).total_cmp(&rank(one)));
    subjects
}

fn row(
    output: &mut Formatter<'_>,
    case: &CaseSummary,
    subject: &SubjectSummary,
    has_limit: bool,
    has_seen: bool,
) -> fmt::Result {
    let is_limit = case.limit == Some(subject.subject);
    let emphasis = match subject.standing {
        Standing::Whispeer => "**",
        Standing::Limit => "_",
        Standing::Peer | Standing::Direct => "",
    };
    write!(output, "| {emphasis}{}{emphasis}", subject.title)?;
    if is_limit {
        write!(output, " (limit)")?;
    }
    if is_limit && case.weak_rounds > 0 {
        write!(output, " †{}", case.weak_rounds)?;
    }
    match case.main(subject) {
        None => write!(output, " | failed | |")?,
        Some(Spread {
            median,
            minimum,
            maximum,
        }) => {
            let quantity = |value| Quantity::of(case.metric, value);
            write!(
                output,
                " | {emphasis}{}{emphasis} | {}–{} |",
                quantity(median),
                quantity(minimum),
                quantity(maximum)
            )?;
        }
    }
    for metric in &case.beside {
        write!(output, " {} |", figure(subject, *metric))?;
    }
    if has_limit {
        write!(output, " {} |", spread(subject.ratio))?;
    }
    let ahead = if subject.standing == Standing::Whispeer {
        None
    } else {
        subject.ahead
    };
    write!(output, " {} |", spread(ahead))?;
    if has_seen {
        let seen = subject
            .seen
            .map(|seen| Quantity::of(case.metric, seen).to_string());
        write!(output, " {} |", seen.unwrap_or_default())?;
    }
    writeln!(output)
}

/// The median of a figure, or nothing.
fn figure(subject: &SubjectSummary, metric: Metric) -> String {
    subject
        .figures
        .get(&metric)
        .map(|figure| Quantity::of(metric, figure.median).to_string())
        .unwrap_or_default()
}

/// A ratio with its extremes, or nothing.
fn spread(ratio: Option<Spread>) -> String {
    ratio.map_or_else(String::new, |ratio| {
        format!(
            "{} ({:.2}–{:.2})",
            times(ratio.median),
            ratio.minimum,
            ratio.maximum
        )
    })
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::installation::Missing;
    use crate::report::tests::example;

    fn report() -> Report {
        Report {
            environment: Environment::here(Vec::new()),
            arguments: vec!["--quick".to_owned()],
            is_program: true,
            rounds: 2,
            warm_up_milliseconds: 100,
            measure_milliseconds: 1000,
            cases: vec![example()],
            missing: vec![Missing {
                title: "Mosquitto",
                why: "it was not found".to_owned(),
            }],
        }
    }

    #[test]
    fn the_best_peer_stands_beside_whispeer() {
        let text = report().to_string();
        assert!(
            text.contains("| 1→1, 16 B | 2.00 M | NATS | 1.50 M | 1.50 × ahead |"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_or_failed_is_named_with_its_reason() {
        let text = report().to_string();
        assert!(text.contains("- **missing:** Mosquitto: it was not found"));
        assert!(text.contains("| Redis | failed | |"));
        assert!(text.contains("- 1→1, 16 B, Redis: failed: Redis ended"));
    }

    #[test]
    fn all_rows_of_a_table_have_the_columns_of_its_head() {
        let text = report().to_string();
        let mut columns = None;
        for line in text.lines() {
            if !line.starts_with('|') {
                columns = None;
                continue;
            }
            let count = line.matches('|').count();
            assert_eq!(*columns.get_or_insert(count), count, "{line}");
        }
    }

    #[test]
    fn a_new_document_gets_an_introduction_and_its_plots() {
        let directory = tempfile::tempdir().unwrap();
        let document = directory.path().join("BENCHMARKS.md");
        write_into(&document, &report()).unwrap();
        let text = std::fs::read_to_string(&document).unwrap();
        assert!(text.starts_with("# Benchmarks"));
        assert!(text.contains("](benchmarks/one-to-one.svg)"));
        assert!(directory.path().join("benchmarks/one-to-one.svg").exists());
    }

    #[test]
    fn the_text_around_the_measured_part_stays() {
        let old = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = format!("before\n{BEGIN}\nnew\n{END}\nafter\n");
        assert_eq!(replaced(&old, "new"), new);
    }

    #[test]
    fn a_document_without_a_measured_part_gets_one_at_its_end() {
        let new = format!("# Findings\n\n{BEGIN}\nnew\n{END}\n");
        assert_eq!(replaced("# Findings\n", "new"), new);
    }
}
