//! Running one row of this program under callgrind.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::counted::SYMBOL_PATTERN;
use crate::rows::{Row, Work};

/// The environment of what is counted, otherwise empty: it lies on the stack and would move addresses.
/// Without this setting the C library copies large blocks with one repeated instruction on some
/// processors and with a loop on others.
const ENVIRONMENT: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS");

/// What a row came to in one run.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// Instructions of the counted part.
    pub instructions: u64,
    /// What it did.
    pub work: Work,
}

/// Where callgrind's profile of a row is left, for `callgrind_annotate`.
///
/// # Errors
/// When this program does not know where it lies.
pub fn profile(row: &Row) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.with_file_name(format!("{}.callgrind", row.name)))
}

/// Counts the instructions of one row.
///
/// # Errors
/// When the row fails, or valgrind does.
pub fn count(row: &Row) -> Result<Count> {
    let profile = profile(row)?;
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--toggle-collect={SYMBOL_PATTERN}"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe()?)
        .args(["--row", row.name])
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env(ENVIRONMENT.0, ENVIRONMENT.1)
        .output()
        .context("valgrind cannot be run")?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("the row {} failed: {}", row.name, complaint.trim());
    }
    let work = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the row {} did not say what it did", row.name))?;
    let text = fs::read_to_string(&profile)
        .with_context(|| format!("callgrind left no {}", profile.display()))?;
    let instructions = total(&text)
        .with_context(|| format!("{} has no total; is this callgrind's?", profile.display()))?;
    ensure!(
        instructions > 0,
        "nothing was counted in the row {}: has the program been stripped of its symbols?",
        row.name
    );
    Ok(Count { instructions, work })
}

/// The total of a profile.
fn total(profile: &str) -> Option<u64> {
    let line = profile
        .lines()
        .find_map(|line| line.strip_prefix("summary: "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_what_callgrind_sums_up() {
        let profile = "events: Ir\n\nfn=(1)\n16 400\nsummary: 836663\n\ntotals: 836663\n";
        assert_eq!(total(profile), Some(836_663));
        assert_eq!(total("events: Ir\n"), None);
    }
}
