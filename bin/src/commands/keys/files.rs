//! Files with keyrings and identities.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

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

/// How long somebody else may be changing a keyring, which takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Changes a keyring as a whole or, if that fails, not at all.
pub(super) fn change<R>(
    file: &Path,
    change: impl FnOnce(&Keyring) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let target = target(file)?;
    let _lock = lock(&target)?;
    let keyring = read(&target)?;
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

/// A file beside another one.
fn beside(target: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(ending);
    folder(target).join(name)
}

/// What files that nobody else can open are made with. A link that somebody has put there is not followed.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.write(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed());
    options
}

/// Keeps others from changing the same keyring at the same time. The lock is a file that nobody else can open, and that
/// stays, as whoever waits for it has it open.
fn lock(target: &Path) -> anyhow::Result<File> {
    let path = beside(target, ".lock");
    let at_lock = || format!("cannot use {}", path.display());
    let lock = private().truncate(false).open(&path).with_context(at_lock)?;
    let begin = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(error).with_context(at_lock),
            Err(TryLockError::WouldBlock) if begin.elapsed() >= PATIENCE => {
                let what = format!("somebody else has been changing {} for {PATIENCE:?}", target.display());
                let help = "try again when that is done";
                return Err(Failure::usage(what).help(help).into());
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Replaces the file in one step, so that a reader sees the old one or the new one. Who has called has the lock, so that
/// the new one has a name of its own: what a run that was killed has left there is replaced by the next one.
fn store(text: &str, target: &Path) -> anyhow::Result<()> {
    let at_file = || format!("cannot write {}", target.display());
    let path = beside(target, ".new");
    let _ = fs::remove_file(&path);
    let written = private().create_new(true).open(&path).and_then(|mut new| {
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&path, target)?;
        // What was renamed is there after a power cut as well.
        File::open(folder(target))?.sync_all()
    });
    if written.is_err() {
        // It has secrets in it.
        let _ = fs::remove_file(&path);
    }
    written.with_context(at_file)
}

/// Writes a grant to a file, which is new or has one already.
pub(super) fn write_grant(output: &Path, grant: &[u8]) -> anyhow::Result<()> {
    let at_file = || {
        let shown = output.display();
        format!("cannot write {shown}; the keyring has noted the grant, so make another one")
    };
    fs::write(output, grant).with_context(at_file)
}

/// Whether a grant may be written there: nothing else is to be lost.
pub(super) fn check_output(output: &Path) -> anyhow::Result<()> {
    match fs::metadata(output) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {
            let begins = read_some(output, GRANT_BEGINS.len())?;
            if begins != GRANT_BEGINS {
                let what = format!("{} is there already, and is no grant", output.display());
                return Err(Failure::usage(what).help("choose another name for the grant").into());
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What each grant begins with.
const GRANT_BEGINS: &[u8] = b"whispeer grant";

/// Reads so many bytes of a regular file at the most.
pub(super) fn read_some(file: &Path, most: usize) -> anyhow::Result<Vec<u8>> {
    let shown = || format!("cannot read {}", file.display());
    // A pipe that nobody writes to would hold this up until somebody does.
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(at_once).open(file).with_context(shown)?;
    if !opened.metadata().with_context(shown)?.is_file() {
        let what = format!("{} is no regular file", file.display());
        return Err(Failure::usage(what).help("name one, or pipe the grant in").into());
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(opened, most as u64), &mut bytes).with_context(shown)?;
    Ok(bytes)
}
