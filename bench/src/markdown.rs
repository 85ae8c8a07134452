//! Writes a report as Markdown, and into a document that has other text too.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Context, Result};

use crate::quantity::{Quantity, Unit};
use crate::reference::{seen, share};
use crate::report::{CaseSummary, Report, Spread, SubjectSummary};

/// The lines around the part of a document that is replaced.
const BEGIN: &str = "<!-- measured: begin (written by `bench/run --write`) -->";
const END: &str = "<!-- measured: end -->";

/// The text of a new document before the part that is replaced.
const INTRODUCTION: &str = "# Benchmarks\n\n\
    What whispeer reaches, beside the limits of the machine in the same run. `bench/run` repeats \
    it; the part between the two comments is replaced by `bench/run --write`.\n\n";

/// What the subjects are, so far as their names do not say it.
const SUBJECTS: &str = "\
- **frame relay, one thread** is the limit for publishing: client, relay, client over Unix sockets. \
  The relay reads 64 KiB at a time, parses length-prefixed frames, writes once per destination and \
  read, and allocates nothing per frame. Its publisher gives each message to an asynchronous send \
  with a buffer of 64 KiB, and its subscriber gets each message as an owned value: the least that \
  a client does that sends and receives messages.
- **frame relay, load through Tokio's codec** is the same relay between clients that use \
  `LengthDelimitedCodec` with its default buffers.
- **frame relay, one write a message** is the same relay with a publisher that writes each message \
  at once.
- **frame relay, load in bulk** is the same relay with prepared batches of 64 KiB, which no \
  application could look at message by message: what the sockets carry.
- **chunk relay** copies whatever a read gives; requests through it are the limit for \
  request/response. With 64 outstanding each request is a write of its own, unless it says \
  otherwise; in 1→1 its load is in bulk.
- **raw ping-pong, one hop** has nothing between requester and answerer.
- **tokio mpsc** is the limit in memory: a bounded channel, with a `oneshot` for the answer. Where \
  whispeer runs on several threads, the channel on two threads shows what waking one costs.
- **whispeer** over sockets: `publisher_bytes().send`, `subscribe_bytes`, `request_bytes` and \
  `serve_bytes`, with default windows; 64 outstanding are 64 tasks on one client. In memory: \
  `publisher().send` and `request` with values of 16 bytes as MessagePack, unless the row says \
  bytes.
- **idle connections** have one subscription each, to a topic of its own, made by the ordinary \
  client. Counted is what the resident memory of the bus process grew by. The frame relay does no \
  more than to hold the sockets.
- **seen elsewhere** are figures of another machine with two cores, whose relay and load are not \
  this code. They say how far the machines compare; targets are judged within the run.
";

/// Replaces the measured part of the document at `path` with `report`, or makes the document.
///
/// # Errors
/// When it cannot be read or written.
pub fn write_into(path: &Path, report: &Report) -> Result<()> {
    let old = if path.exists() {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    } else {
        String::new()
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, replaced(&old, &report.to_string()))
        .with_context(|| format!("cannot write {}", path.display()))
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
        self.circumstances(output)?;
        writeln!(output, "## What is compared\n\n{SUBJECTS}")?;
        self.targets(output)?;
        self.table(output, Unit::Nanoseconds)?;
        self.table(output, Unit::PerSecond)?;
        self.table(output, Unit::Bytes)?;
        self.remarks(output)
    }
}

impl Report {
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
             - **software:** {}; {}; {}; release build\n\
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
        writeln!(
            output,
            "\n{} rounds, subjects in turn; {} ms counted in each run after {} ms of warm-up. \
             Figures are medians over rounds, with minimum–maximum. Ratios are taken within each \
             round. Publishers, subscribers, requesters and answerers are processes apart from the \
             subject, with one thread each; they share the processors with it. Every delivery is \
             counted and checked at its subscriber, and a run in which one is lost, doubled or out \
             of order fails.\n",
            self.repetitions, self.measure_milliseconds, self.warm_up_milliseconds,
        )
    }

    /// whispeer against its limits and targets, one row for each measurement.
    fn targets(&self, output: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self
            .cases
            .iter()
            .flat_map(|case| case.subjects.iter().map(move |subject| (case, subject)))
            .filter(|(_, summary)| summary.subject.is_whispeer())
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            output,
            "## whispeer against its limits\n\n\
             | measurement | subject | figure | limit in this run | ratio | target | met | limit \
             seen elsewhere | ratio to that |\n|---|---|--:|--:|--:|--:|---|--:|--:|"
        )?;
        for (case, summary) in rows {
            target_row(output, case, summary)?;
        }
        writeln!(output)
    }

    fn table(&self, output: &mut Formatter<'_>, unit: Unit) -> fmt::Result {
        let cases: Vec<_> = self.cases.iter().filter(|case| case.unit == unit).collect();
        if cases.is_empty() {
            return Ok(());
        }
        match unit {
            Unit::Nanoseconds => writeln!(
                output,
                "## Latency\n\n| latency | subject | p50 | min–max | p99 | p99.9 | ratio to limit \
                 | seen elsewhere | against seen |\n|---|---|--:|--:|--:|--:|--:|--:|--:|"
            )?,
            Unit::PerSecond => writeln!(
                output,
                "## Throughput\n\n| throughput | subject | per second | min–max | ratio to limit \
                 | seen elsewhere | against seen |\n|---|---|--:|--:|--:|--:|--:|"
            )?,
            Unit::Bytes => writeln!(
                output,
                "## Memory\n\n| resident | subject | bytes | min–max | ratio to limit | seen \
                 elsewhere | against seen |\n|---|---|--:|--:|--:|--:|--:|"
            )?,
        }
        for case in cases {
            for subject in &case.subjects {
                row(output, case, subject)?;
            }
        }
        writeln!(output)
    }

    fn remarks(&self, output: &mut Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(output, "- not measured: {failure}")?;
        }
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

fn target_row(
    output: &mut Formatter<'_>,
    case: &CaseSummary,
    summary: &SubjectSummary,
) -> fmt::Result {
    let unit = case.unit;
    let quantity = |value: f64| Quantity { value, unit }.to_string();
    let limit = case.limit().and_then(|limit| limit.figure);
    let reference = seen(case.id, case.limit);
    let figure = summary.figure.map(|figure| figure.median);
    let ratio = summary.ratio.map(|ratio| ratio.median);
    let met = match (case.target, figure.zip(ratio)) {
        (None, _) => "",
        (Some(_), None) => "**no**",
        (Some(target), Some((figure, ratio))) if target.is_met(figure, ratio) => "yes",
        (Some(_), Some(_)) => "**no**",
    };
    writeln!(
        output,
        "| {} | {} | {} | {} | {} | {} | {met} | {} | {} |",
        case.title,
        summary.title,
        figure.map_or("failed".to_owned(), |value| format!(
            "**{}**",
            quantity(value)
        )),
        limit
            .map(|limit| quantity(limit.median))
            .unwrap_or_default(),
        ratio.map(times).unwrap_or_default(),
        case.target
            .map(|target| target.written(unit).to_string())
            .unwrap_or_default(),
        reference.map(quantity).unwrap_or_default(),
        figure
            .zip(reference)
            .map(|(figure, reference)| times(figure / reference))
            .unwrap_or_default(),
    )
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
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
            let share = share(figure.median, seen, case.unit);
            writeln!(output, " | {} | {share:.2} × |", quantity(seen))
        }
        _ => writeln!(output, " | | |"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_document_gets_an_introduction() {
        let text = replaced("", "figures");
        assert!(text.starts_with("# Benchmarks"));
        assert!(text.contains(&format!("{BEGIN}\nfigures\n{END}\n")));
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
