//! A disk for SQLite that loses its power, and fails as it is told.
//!
//! A [`Disk`] is a file system of SQLite's (a VFS) by a name of its own, over that of the system. What is written is
//! read back at once, as ever; what of it is there after a crash is another question, and answered as badly as a disk may:
//!
//! - What was synced is there.
//! - Of what was written since, any part is there, in any order, also single sectors of 512 bytes of one write; what
//!   lies between, where the file has grown, is zeros or what was on the disk before.
//! - A file that was truncated may have its old length, one that was deleted may be there, and one that was made
//!   may be missing, as long as its folder was not synced.
//! - A sync that fails has lost what it was to write, and the next one succeeds all the same.
//!
//! Nothing waits for the real disk.
//!
//! | file | what it holds |
//! |---|---|
//! | `lib` | the disk, as tests have it |
//! | `platter` | what is on it, and what will have been |
//! | `random` | numbers from a seed |
//! | `vfs` | what SQLite calls |

mod platter;
mod random;
mod vfs;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::platter::Platter;

/// What goes wrong with a disk whose power is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No file can grow, until it is [mended](Disk::mend).
    Full,
    /// One sync fails, and what it was to write is lost in part. Those that follow succeed.
    Sync,
    /// Nothing can be read, until it is mended.
    Read,
    /// Nothing can be written, until it is mended.
    Write,
}

/// A file system for SQLite that forgets what was not synced.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rusqlite::{Connection, OpenFlags};
///
/// let disk = whispeer_frail_disk::Disk::new()?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("db");
/// let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), disk.name())?;
/// connection.execute_batch("CREATE TABLE kept (x); BEGIN; INSERT INTO kept VALUES (1)")?;
/// disk.crash(7);
/// assert!(connection.execute_batch("COMMIT").is_err());
/// drop(connection);
/// disk.power_on()?;
/// let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), disk.name())?;
/// let count = connection.query_row("SELECT count(*) FROM kept", [], |row| row.get::<_, i64>(0))?;
/// assert_eq!(count, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Disk {
    name: String,
    /// Lives as long as the process, as SQLite knows it by then.
    platter: &'static Mutex<Platter>,
}

impl Disk {
    /// Makes one, by a name that no other has. SQLite knows it to the end of the process.
    ///
    /// # Errors
    /// If SQLite does not take it.
    pub fn new() -> Result<Self, rusqlite::Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("frail-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let platter = vfs::register(&name)?;
        Ok(Self { name, platter })
    }

    /// By which SQLite knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the power off. From here on all fails, and what was not synced may be lost, as the seed says.
    pub fn crash(&self, seed: u64) {
        self.platter().crash(seed);
    }

    /// Takes the power off at the write, truncation, sync or deletion that comes after so many others.
    pub fn crash_after(&self, events: u64, seed: u64) {
        self.platter().crash_after(events, seed);
    }

    /// Lets this go wrong after so many writes, truncations, syncs, deletions and, for [`Fault::Read`], reads. Of how it
    /// goes wrong the seed is asked.
    pub fn fail_after(&self, events: u64, fault: Fault, seed: u64) {
        self.platter().fail_after(events, fault, seed);
    }

    /// Whether the fault has happened, at least once.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.platter().has_failed()
    }

    /// Nothing goes wrong any more.
    pub fn mend(&self) {
        self.platter().mend();
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.platter().is_off()
    }

    /// Writes, truncations, syncs and deletions that there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.platter().events()
    }

    /// Takes the power on again: the files are as the crash has left them. All of them have to be closed.
    ///
    /// # Errors
    /// If a file is still open, or what the real disk says.
    pub fn power_on(&self) -> io::Result<()> {
        self.platter().power_on()
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
