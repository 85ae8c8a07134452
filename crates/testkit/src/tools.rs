//! Programs of others that tests need, and which a machine may not have.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Whether a tool is installed that a test needs. Where it is not, the test says so and has nothing to do; CI
/// has to have it.
#[must_use]
pub fn has(tool: &str) -> bool {
    has_with(tool, "--version")
}

/// As [`has`], for a tool that takes another argument to end at once.
#[must_use]
pub fn has_with(tool: &str, argument: &str) -> bool {
    there_or_skipped(Command::new(tool).arg(argument).stdin(Stdio::null()).output().is_ok(), tool)
}

/// Whether Python has a module that a test needs; otherwise as [`has`].
#[must_use]
pub fn has_module(name: &str) -> bool {
    let imported = Command::new("python3")
        .args(["-c", &format!("import {name}")])
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|ended| ended.status.success());
    there_or_skipped(imported, &format!("Python's {name}"))
}

/// Where packages of Node are that tests need: the folder that the variable `NODE_MODULES` names, which `.ci/run` sets.
#[must_use]
pub fn node_modules() -> String {
    std::env::var("NODE_MODULES").unwrap_or_default()
}

/// Whether Node has a package that a test needs, in the folder of [`node_modules`]; otherwise as [`has`].
#[must_use]
pub fn has_node_module(name: &str) -> bool {
    let folder = node_modules();
    let there = !folder.is_empty() && std::path::Path::new(&folder).join("node_modules").join(name).is_dir();
    there_or_skipped(there, &format!("Node's {name}"))
}

/// Says that a test is skipped where something is missing that it needs. It must be there in CI.
fn there_or_skipped(there: bool, what: &str) -> bool {
    if !there {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "{what} is missing, which .ci/run installs");
        // Past what captures the output of tests that pass.
        std::io::stdout().write_all(format!("SKIPPED: needs {what}\n").as_bytes()).unwrap();
    }
    there
}
