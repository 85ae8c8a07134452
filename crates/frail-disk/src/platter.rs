//! What is on a disk, and what will have been after a crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Fault;
use crate::random::Random;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What a file system answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is to be done.
    Go,
    /// There is room for so many bytes of it.
    Full(usize),
    /// It fails.
    Fails,
}

#[derive(Debug, Default)]
pub(crate) struct Platter {
    files: Vec<File>,
    /// By their paths: what each has been since its folder was synced, the last of which is what it is.
    names: BTreeMap<PathBuf, Vec<Option<usize>>>,
    /// Files that are open.
    handles: usize,
    events: u64,
    is_off: bool,
    crash: Option<(u64, u64)>,
    fault: Option<Faulty>,
    has_failed: bool,
}

#[derive(Debug)]
struct Faulty {
    fault: Fault,
    events_before: u64,
    random: Random,
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    since: Vec<Written>,
    length: usize,
}

#[derive(Debug)]
enum Written {
    Bytes { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

/// How much is left of what was not synced.
#[derive(Debug, Clone, Copy)]
enum Left {
    Nothing,
    All,
    SomeWrites,
    SomeSectors,
    /// Up to one write, of which some sectors are left.
    First(usize),
}

impl Platter {
    pub(crate) fn is_off(&self) -> bool {
        self.is_off
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn crash_after(&mut self, events: u64, seed: u64) {
        self.crash = Some((events, seed));
    }

    pub(crate) fn fail_after(&mut self, events: u64, fault: Fault, seed: u64) {
        self.fault = Some(Faulty { fault, events_before: events, random: Random::new(seed) });
        self.has_failed = false;
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(crate) fn mend(&mut self) {
        self.fault = None;
    }

    /// The file at this path, which SQLite has opened. `None` for one that is nobody's after it was closed.
    pub(crate) fn opened(&mut self, path: Option<&Path>) -> Option<usize> {
        self.handles += 1;
        let path = path?;
        if let Some(Some(file)) = self.names.get(path).and_then(|history| history.last()) {
            return Some(*file);
        }
        // One that has been there before is on the disk; one that is empty has just been made, by whomever.
        let bytes = fs::read(path).unwrap_or_default();
        let is_new = bytes.is_empty();
        let file = self.files.len();
        let length = bytes.len();
        self.files.push(File { synced: bytes, since: Vec::new(), length });
        let history = self.names.entry(path.to_owned()).or_default();
        match (history.is_empty(), is_new) {
            (true, true) => history.extend([None, Some(file)]),
            _ => history.push(Some(file)),
        }
        Some(file)
    }

    pub(crate) fn closed(&mut self) {
        self.handles = self.handles.saturating_sub(1);
    }

    pub(crate) fn deleted(&mut self, path: &Path) -> Answer {
        if self.happens() {
            return Answer::Fails;
        }
        if let Some(history) = self.names.get_mut(path) {
            history.push(None);
        }
        self.crashes()
    }

    pub(crate) fn folder_synced(&mut self) {
        for history in self.names.values_mut() {
            let last = history.last().copied().flatten();
            *history = vec![last];
        }
    }

    pub(crate) fn reads(&mut self) -> Answer {
        if self.is_off {
            return Answer::Fails;
        }
        match &mut self.fault {
            Some(Faulty { fault: Fault::Read, events_before: 0, .. }) => {
                self.has_failed = true;
                Answer::Fails
            }
            Some(Faulty { fault: Fault::Read, events_before, .. }) => {
                *events_before -= 1;
                Answer::Go
            }
            _ => Answer::Go,
        }
    }

    pub(crate) fn writes(&mut self, file: Option<usize>, offset: usize, bytes: &[u8]) -> Answer {
        if self.happens() {
            return Answer::Fails;
        }
        let fault = self.due();
        let Some(file) = file.and_then(|file| self.files.get_mut(file)) else { return Answer::Go };
        let mut answer = Answer::Go;
        let mut fits = bytes.len();
        if let Some((fault, mut random)) = fault {
            if fault == Fault::Full && offset + bytes.len() > file.length {
                // What is written where the file has been before is written.
                let beyond = bytes.len() - file.length.saturating_sub(offset).min(bytes.len());
                fits = bytes.len() - beyond + random.below(beyond + 1);
                answer = Answer::Full(fits);
                self.has_failed = true;
            }
            if fault == Fault::Write {
                self.has_failed = true;
                return Answer::Fails;
            }
        }
        let kept = bytes.get(..fits).unwrap_or_default();
        file.length = file.length.max(offset + kept.len());
        file.since.push(Written::Bytes { offset, bytes: kept.to_vec() });
        match self.crashes() {
            Answer::Go => answer,
            fails => fails,
        }
    }

    pub(crate) fn truncates(&mut self, file: Option<usize>, length: usize) -> Answer {
        if self.happens() {
            return Answer::Fails;
        }
        if let Some(file) = file.and_then(|file| self.files.get_mut(file)) {
            file.length = length;
            file.since.push(Written::Length(length));
        }
        self.crashes()
    }

    pub(crate) fn syncs(&mut self, file: Option<usize>, syncs_folder: bool) -> Answer {
        if self.happens() || self.crashes() == Answer::Fails {
            return Answer::Fails;
        }
        let lost = match self.due() {
            Some((Fault::Sync, random)) => {
                (self.fault, self.has_failed) = (None, true);
                Some(random)
            }
            _ => None,
        };
        let Some(file) = file.and_then(|file| self.files.get_mut(file)) else { return Answer::Go };
        if let Some(mut random) = lost {
            // What was to be written is taken for written from now on, and part of it is not.
            file.synced = file.after_crash(&mut random);
            file.since.clear();
            return Answer::Fails;
        }
        for written in std::mem::take(&mut file.since) {
            written.apply(&mut file.synced, None);
        }
        if syncs_folder {
            self.folder_synced();
        }
        Answer::Go
    }

    /// Counts an event. Whether the power is off.
    fn happens(&mut self) -> bool {
        if !self.is_off {
            self.events += 1;
        }
        self.is_off
    }

    /// Whether this is the event at which the power goes.
    fn crashes(&mut self) -> Answer {
        match &mut self.crash {
            Some((0, seed)) => {
                let seed = *seed;
                self.crash(seed);
                Answer::Fails
            }
            Some((left, _)) => {
                *left -= 1;
                Answer::Go
            }
            None => Answer::Go,
        }
    }

    /// What goes wrong now, if it is not about reading.
    fn due(&mut self) -> Option<(Fault, Random)> {
        let faulty = self.fault.as_mut().filter(|faulty| faulty.fault != Fault::Read)?;
        match faulty.events_before {
            0 => Some((faulty.fault, Random::new(faulty.random.next()))),
            _ => {
                faulty.events_before -= 1;
                None
            }
        }
    }

    pub(crate) fn crash(&mut self, seed: u64) {
        if self.is_off {
            return;
        }
        (self.is_off, self.crash, self.fault) = (true, None, None);
        let mut random = Random::new(seed);
        for file in &mut self.files {
            file.synced = file.after_crash(&mut random);
            file.since.clear();
        }
        for history in self.names.values_mut() {
            let left = history.get(random.below(history.len())).copied().flatten();
            *history = vec![left];
        }
    }

    pub(crate) fn power_on(&mut self) -> io::Result<()> {
        if self.handles > 0 {
            return Err(io::Error::other(format!("{} files are open", self.handles)));
        }
        for (path, history) in &self.names {
            let file = history.last().copied().flatten().and_then(|file| self.files.get(file));
            match file {
                Some(file) => fs::write(path, &file.synced)?,
                None => remove(path)?,
            }
            // What several processes have in common of a log is in memory.
            let mut shared = path.as_os_str().to_owned();
            shared.push("-shm");
            remove(Path::new(&shared))?;
        }
        *self = Self { events: self.events, ..Self::default() };
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl File {
    /// What is left of it when the power goes.
    fn after_crash(&self, random: &mut Random) -> Vec<u8> {
        let left = match random.below(5) {
            0 => Left::Nothing,
            1 => Left::All,
            2 => Left::SomeWrites,
            3 => Left::SomeSectors,
            _ => Left::First(random.below(self.since.len() + 1)),
        };
        let filler = if random.is_heads() { 0 } else { 0xE5 };
        let mut image = self.synced.clone();
        for (index, written) in self.since.iter().enumerate() {
            let sectors = match left {
                Left::Nothing => break,
                Left::All => None,
                Left::SomeWrites if random.is_heads() => continue,
                Left::SomeWrites => None,
                Left::SomeSectors => Some(&mut *random),
                Left::First(count) if index < count => None,
                Left::First(count) if index == count => Some(&mut *random),
                Left::First(_) => break,
            };
            written.apply(&mut image, sectors.map(|random| (random, filler)));
        }
        image
    }
}

impl Written {
    /// Does it to a file, or to some of its sectors.
    fn apply(&self, image: &mut Vec<u8>, sectors: Option<(&mut Random, u8)>) {
        match (self, sectors) {
            (Self::Length(length), Some((random, _))) => {
                if random.is_heads() {
                    image.truncate(*length);
                }
            }
            (Self::Length(length), None) => image.resize(*length, 0),
            (Self::Bytes { offset, bytes }, None) => put(image, *offset, bytes, 0),
            (Self::Bytes { offset, bytes }, Some((random, filler))) => {
                let (mut at, mut rest) = (*offset, &bytes[..]);
                while !rest.is_empty() {
                    let (sector, behind) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
                    if random.is_heads() {
                        put(image, at, sector, filler);
                    }
                    (at, rest) = (at + sector.len(), behind);
                }
            }
        }
    }
}

/// Writes there. What lies between the end and that, if anything does, is filled.
fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8], filler: u8) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, filler);
    }
    if let Some(place) = image.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As SQLite's own file system does it: whether a log was there before does not matter.
    #[test]
    fn the_first_sync_of_a_log_that_a_crash_has_left_syncs_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let [log, journal] = ["log", "journal"].map(|name| folder.path().join(name));
        for seed in 0..64 {
            fs::write(&log, "of before").unwrap();
            fs::write(&journal, "to be deleted").unwrap();
            let mut platter = Platter::default();
            let (opened, _) = (platter.opened(Some(&log)), platter.opened(Some(&journal)));
            assert_eq!(platter.deleted(&journal), Answer::Go);
            assert_eq!(platter.syncs(opened, true), Answer::Go);
            platter.crash(seed);
            platter.closed();
            platter.closed();
            platter.power_on().unwrap();
            assert_eq!([log.exists(), journal.exists()], [true, false]);
        }
    }
}
