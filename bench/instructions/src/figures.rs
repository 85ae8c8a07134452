//! The file of stored figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::callgrind::Count;

/// What is stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    /// What the figures depend on beside the library.
    pub tools: Tools,
    /// By the row's name.
    pub rows: BTreeMap<String, Figure>,
}

/// Compiler, C library and the like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// Processor and system.
    pub target: String,
    /// Of the compiler.
    pub rustc: String,
    /// Of the C library, whose `malloc` and `memcpy` are counted.
    pub libc: String,
    /// Of valgrind.
    pub valgrind: String,
}

/// What is stored about a row.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Figure {
    /// Instructions of one operation, in the run that took the least.
    pub instructions: f64,
    /// How much more the run took that took the most, in per cent.
    pub spread_percent: f64,
    /// How many per cent more are taken for no change.
    pub tolerance_percent: f64,
    /// Messages of one operation.
    pub messages: f64,
    /// Bytes of one operation.
    pub bytes: f64,
}

impl Figures {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or is not such a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("no figures can be read from {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} has no figures", path.display()))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    }
}

impl Tools {
    /// Those of this machine. One that does not tell is left empty.
    pub fn here() -> Self {
        Self {
            target: format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
            rustc: version("rustc", "--version"),
            libc: version("getconf", "GNU_LIBC_VERSION"),
            valgrind: version("valgrind", "--version"),
        }
    }
}

fn version(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

impl Figure {
    /// Sums several runs of one row up, with its tolerance; `None` if there are none.
    ///
    /// The least counts: an unlucky seed makes look-ups in a hash table longer, and nothing makes them
    /// shorter than those without collisions.
    pub fn of(counts: &[Count], tolerance_percent: f64) -> Option<Self> {
        let instructions = || counts.iter().map(|count| count.instructions);
        let (least, most) = (instructions().min()? as f64, instructions().max()? as f64);
        let work = counts.first()?.work;
        let each = |value: f64| rounded(value / work.operations.max(1) as f64);
        Some(Self {
            instructions: each(least),
            spread_percent: rounded(100.0 * (most / least - 1.0)),
            tolerance_percent,
            messages: each(work.messages as f64),
            bytes: each(work.bytes as f64),
        })
    }

    /// Whether this is more than what is stored, and more than is taken for no change.
    pub fn is_over(&self, stored: &Self) -> bool {
        self.change_percent(stored) > stored.tolerance_percent
    }

    /// By how many per cent this is more than what is stored.
    pub fn change_percent(&self, stored: &Self) -> f64 {
        100.0 * (self.instructions / stored.instructions - 1.0)
    }
}

/// With two places, which is more than enough to tell changes apart.
fn rounded(value: f64) -> f64 {
    (100.0 * value).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Work;

    fn runs(instructions: &[u64]) -> Figure {
        let work = Work {
            operations: 100,
            messages: 200,
            bytes: 5_000,
        };
        let counts: Vec<_> = instructions
            .iter()
            .map(|instructions| Count {
                instructions: *instructions,
                work,
            })
            .collect();
        Figure::of(&counts, 0.5).unwrap()
    }

    #[test]
    fn a_figure_is_the_least_of_an_operation() {
        let figure = runs(&[10_100, 10_000, 10_300]);
        assert_eq!((figure.instructions, figure.spread_percent), (100.0, 3.0));
        assert_eq!((figure.messages, figure.bytes), (2.0, 50.0));
    }

    #[test]
    fn only_what_is_more_than_the_tolerance_is_over() {
        let stored = runs(&[10_000]);
        assert!(runs(&[10_051]).is_over(&stored));
        assert!(!runs(&[10_049]).is_over(&stored));
        assert!(!runs(&[5_000]).is_over(&stored));
    }

    #[test]
    fn a_change_is_told_in_per_cent_of_what_is_stored() {
        let change = runs(&[10_200]).change_percent(&runs(&[10_000]));
        assert!((change - 2.0).abs() < 1e-9);
    }
}
