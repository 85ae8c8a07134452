//! The disk below: what file system it has, and how many writes a second it takes one after the other.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, fadvise};

/// How long each way of writing is measured at a time.
const TIME: Duration = Duration::from_millis(150);

/// File systems that have no disk.
const MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Where writes go that are made in place.
const PLACES: u64 = 256;

/// A page of a file.
const PAGE: u64 = 4096;

/// The type of the file system that `folder` is on.
///
/// # Errors
/// When the system does not say, and where it is one of memory, as nothing is to be learned there.
pub fn file_system(folder: &Path) -> Result<String> {
    let folder = fs::canonicalize(folder)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let kind = mounted(&mounts, &folder)
        .with_context(|| format!("the system does not say what {} is on", folder.display()))?;
    if MEMORY.contains(&kind) {
        bail!(
            "{} is on {kind}, which has no disk below; name a folder on a disk with --folder",
            folder.display()
        );
    }
    Ok(kind.to_owned())
}

/// The type of what is mounted at or above `folder`, by the lines of `mountinfo`.
fn mounted<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let found = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let point = PathBuf::from(place.split(' ').nth(4)?.replace("\\040", " "));
        let kind = kind.split(' ').next()?;
        folder
            .starts_with(&point)
            .then(|| (point.components().count(), kind))
    });
    // What was mounted later lies above what was there.
    found.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// Writes of `bytes` at the end of a file that reach the disk, one after the other, a second. The file grows with
/// each, as a log does.
///
/// # Errors
/// What the system says.
pub fn appends(folder: &Path, bytes: usize) -> Result<f64> {
    let path = folder.join("appends");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let rate = rate(|_| {
        file.write_all(&vec![7; bytes])?;
        Ok(file.sync_data()?)
    });
    fs::remove_file(path)?;
    rate
}

/// The same within a file whose space is there already: the least that a sync takes.
///
/// # Errors
/// What the system says.
pub fn overwrites(folder: &Path, bytes: usize) -> Result<f64> {
    let path = folder.join("overwrites");
    let mut file = File::create(&path)?;
    file.write_all(&vec![0; usize::try_from(PLACES * PAGE)?])?;
    file.sync_all()?;
    let rate = rate(|count| {
        file.write_all_at(&vec![7; bytes], count % PLACES * PAGE)?;
        Ok(file.sync_data()?)
    });
    fs::remove_file(path)?;
    rate
}

fn rate(mut write: impl FnMut(u64) -> Result<()>) -> Result<f64> {
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < TIME {
        write(count)?;
        count += 1;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// Has the system forget what it keeps of a file in memory, so that it is read from the disk.
///
/// # Errors
/// What the system says.
pub fn forget(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    // What has not been written cannot be forgotten.
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}
