//! What stands for keyrings in a binary without encryption.

use std::path::Path;

use whispeer::engine::Engines;

use crate::failure::Failure;

/// # Errors
/// Always: nothing is passed over that somebody relies on.
pub(super) fn engines(path: &Path, _patterns: &[String]) -> anyhow::Result<Engines> {
    let what =
        format!("gateway.keyring: this binary has no encryption, so it cannot read {}", path.display());
    Err(Failure::usage(what).help("use one that was built with the feature `encryption`").into())
}
