//! What stands for the peers where their clients are not built. The runner names them as missing,
//! so that these are reached only by a role that was started by hand.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::address::Address;
use crate::load::measured::Measured;
use crate::role::Role;
use crate::subject::Subject;

/// Fails.
///
/// # Errors
/// Always.
pub fn command(subject: Subject, _: &Path, _: &Address, _: &Path) -> Result<Command> {
    bail!("{} needs the feature `peers`", subject.title())
}

/// Fails.
///
/// # Errors
/// Always.
pub async fn play(role: &Role) -> Result<Option<Measured>> {
    bail!("{} needs the feature `peers`", role.subject.title())
}

/// Does nothing.
pub fn tidy() {}
