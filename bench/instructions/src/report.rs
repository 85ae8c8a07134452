//! What is said about the figures.

use std::fmt::Write;

use crate::callgrind;
use crate::figures::{Figure, Figures, Tools};
use crate::rows::Row;

/// How the rows compare with what is stored.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Rows over their tolerance, and by how many per cent they are more.
    slower: Vec<(Row, f64)>,
    /// Rows that are as much below.
    faster: Vec<Row>,
    /// Rows of which nothing is stored.
    unknown: Vec<Row>,
}

/// The head of the table.
pub fn heading() -> String {
    format!(
        "{:<15} {:>10} {:>10} {:>9} {:>8} {:>9} {:>8} {:>12}",
        "row", "stored", "now", "change", "allowed", "messages", "bytes", "per message"
    )
}

impl Verdict {
    /// Takes a row in, and returns its line of the table.
    pub fn add(&mut self, row: Row, now: &Figure, stored: Option<&Figure>) -> String {
        let mut line = format!("{:<15} ", row.name);
        let written = match stored {
            None => write!(line, "{:>10} {:>10.1} {:>18}", "none", now.instructions, ""),
            Some(stored) => {
                let (change, allowed) = (now.change_percent(stored), stored.tolerance_percent);
                if now.is_over(stored) {
                    self.slower.push((row, change));
                } else if change < -allowed {
                    self.faster.push(row);
                }
                let (before, now) = (stored.instructions, now.instructions);
                write!(
                    line,
                    "{before:>10.1} {now:>10.1} {change:>+7.2} % {allowed:>6.2} %"
                )
            }
        };
        if stored.is_none() {
            self.unknown.push(row);
        }
        let each = now.instructions / now.messages.max(1.0);
        let (messages, bytes) = (now.messages, now.bytes);
        // Writing to a string cannot fail.
        let _ = written.and_then(|()| write!(line, " {messages:>9} {bytes:>8} {each:>12.1}"));
        line
    }

    /// Whether there is something that has to be looked at.
    pub fn has_failed(&self) -> bool {
        !self.slower.is_empty() || !self.unknown.is_empty()
    }

    /// What is to be done.
    pub fn advice(&self, stored: Option<&Figures>, here: &Tools) -> String {
        let mut lines = Vec::new();
        for (row, change) in &self.slower {
            lines.push(format!(
                "FAILED {}: {change:.1} % more instructions ({})",
                row.name, row.operation
            ));
            if let Ok(profile) = callgrind::profile(row) {
                lines.push(format!(
                    "  to see where they are: callgrind_annotate {}",
                    profile.display()
                ));
            }
        }
        for row in &self.unknown {
            lines.push(format!("FAILED {}: no figure is stored", row.name));
        }
        if self.has_failed() {
            lines.push(
                "Take the cost out again. If it is worth what it brings, run \
                 `bench/instructions/run --write`, commit expected.json with the change, and say why \
                 in its message."
                    .into(),
            );
        }
        for row in &self.faster {
            lines.push(format!(
                "{}: fewer instructions than stored; `bench/instructions/run --write` keeps it so",
                row.name
            ));
        }
        if let Some(stored) = stored
            && stored.tools != *here
        {
            lines.push(format!(
                "The figures were stored with other tools, which may explain a difference:\n  \
                 then {}\n  now  {}",
                told(&stored.tools),
                told(here)
            ));
        }
        lines.join("\n")
    }
}

fn told(tools: &Tools) -> String {
    let Tools {
        target,
        rustc,
        libc,
        valgrind,
    } = tools;
    format!("{target}; {rustc}; {libc}; {valgrind}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    fn figure(instructions: f64) -> Figure {
        Figure {
            instructions,
            spread_percent: 0.0,
            tolerance_percent: 0.5,
            messages: 1.0,
            bytes: 58.0,
        }
    }

    fn judge(now: f64, stored: Option<f64>) -> (Verdict, String) {
        let mut verdict = Verdict::default();
        verdict.add(ROWS[0], &figure(now), stored.map(figure).as_ref());
        let advice = verdict.advice(None, &Tools::here());
        (verdict, advice)
    }

    #[test]
    fn more_than_is_allowed_fails_and_says_what_to_do() {
        let (verdict, advice) = judge(100.6, Some(100.0));
        assert!(verdict.has_failed());
        assert!(advice.contains("FAILED decode: 0.6 % more") && advice.contains("--write"));
    }

    #[test]
    fn what_is_allowed_passes_without_a_word() {
        let (verdict, advice) = judge(100.4, Some(100.0));
        assert!(!verdict.has_failed());
        assert_eq!(advice, "");
    }

    #[test]
    fn less_passes_and_is_to_be_kept() {
        let (verdict, advice) = judge(90.0, Some(100.0));
        assert!(!verdict.has_failed());
        assert!(advice.contains("keeps it so"));
    }

    #[test]
    fn a_row_without_a_figure_fails() {
        assert!(judge(100.0, None).0.has_failed());
    }
}
