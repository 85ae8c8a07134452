//! Files with keyrings and identities.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use whispeer::engine::encryption::{Identity, Keyring};

use super::usage;
use crate::failure::Failure;

pub(super) fn read(file: &Path) -> anyhow::Result<Keyring> {
    Keyring::read(file).map_err(usage)
}

pub(super) fn read_identity(file: &Path) -> anyhow::Result<Identity> {
    Identity::read(file).map_err(|error| {
        Failure::usage(error.to_string()).help("`whispeer keys identity FILE` makes one").into()
    })
}

/// Changes a keyring as a whole or, if that fails, not at all.
pub(super) fn change<R>(
    file: &Path,
    change: impl FnOnce(&Keyring) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let target = target(file)?;
    let _lock = lock(&target)?;
    let keyring = read(file)?;
    let changed = change(&keyring)?;
    store(&keyring.to_toml(), &target)?;
    Ok(changed)
}

/// Writes a file that is not there yet.
pub(super) fn create(file: &Path, text: &str, help: &str) -> anyhow::Result<()> {
    let target = target(file)?;
    let _lock = lock(&target)?;
    if target.exists() {
        return Err(Failure::usage(format!("{} is there already", file.display())).help(help).into());
    }
    store(text, &target)
}

/// The file that is meant: where it is a link, what that leads to.
fn target(file: &Path) -> anyhow::Result<PathBuf> {
    match fs::canonicalize(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(file).is_ok() {
                let what = format!("{} is a link to something that is not there", file.display());
                return Err(Failure::usage(what).help("make what it leads to, or remove it").into());
            }
            Ok(file.to_owned())
        }
        target => target.with_context(|| format!("cannot use {}", file.display())),
    }
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Keeps others from changing a keyring of this folder at the same time.
fn lock(target: &Path) -> anyhow::Result<File> {
    let folder = folder(target);
    let at_folder = || format!("cannot use {}", folder.display());
    let lock = File::open(folder).with_context(at_folder)?;
    lock.lock().with_context(at_folder)?;
    Ok(lock)
}

/// Replaces the file in one step, so that a reader sees the old one or the new one.
fn store(text: &str, target: &Path) -> anyhow::Result<()> {
    let at_file = || format!("cannot write {}", target.display());
    // A temporary file has mode 0600, and keeps it when it is renamed, which works within a folder at least.
    let mut written = tempfile::NamedTempFile::new_in(folder(target)).with_context(at_file)?;
    written.write_all(text.as_bytes()).with_context(at_file)?;
    written.as_file().sync_all().with_context(at_file)?;
    written.persist(target).map_err(|error| error.error).with_context(at_file)?;
    Ok(())
}
