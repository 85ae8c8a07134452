//! The file, and who has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::Error as MigrationError;

use super::failure::{damaged, told};
use super::schema::{APPLICATION, MIGRATIONS, VERSION};
use super::{Durability, SqliteOptions};
use crate::error::StoreError;

/// How long a reader waits for the file while the writer moves pages. Neither keeps the other for long.
const PATIENCE: Duration = Duration::from_secs(5);

/// KiB of pages that the writer remembers: those that are changed time and again where topics are many. SQLite would
/// remember 2 MiB.
const WRITER_CACHE: i64 = 16 * 1024;

/// How long the writer waits for those who read from the log before it makes it longer instead.
const WRITER_PATIENCE: Duration = Duration::from_millis(250);

/// The file of a store, which nobody else has while this is there.
pub(super) struct StoreFile {
    pub(super) connection: Connection,
    /// How it is named in errors.
    pub(super) place: String,
    /// The one that it has behind all links.
    pub(super) path: PathBuf,
    file_system: Option<String>,
    /// Held as long as the file is open: the connection is dropped before it.
    _lock: Lock,
}

impl StoreFile {
    pub(super) fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let path = &resolved(path).map_err(|error| refused(&place, &error))?;
        check_names(path, &place)?;
        let lock = lock(path, &place)?;
        drop(open_private(path).map_err(|error| refused(&place, &error))?);
        let SqliteOptions { durability, file_system, .. } = options;
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, file_system.as_deref())
            .map_err(|error| told(&place, &error))?;
        // First of all, as nothing is to be changed of what is not ours.
        check_kind(&connection, &place)?;
        prepare(&connection, durability).map_err(|error| told(&place, &error))?;
        // Before there are tables: who finds those without this takes them for another program's.
        connection
            .pragma_update(None, "application_id", APPLICATION)
            .map_err(|error| told(&place, &error))?;
        MIGRATIONS.to_latest(&mut connection).map_err(|error| match error {
            MigrationError::RusqliteError { err, .. } => told(&place, &err),
            error => damaged(&place, &error.to_string()),
        })?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.busy_timeout(WRITER_PATIENCE).map_err(|error| told(&place, &error))?;
        Ok(Self { connection, place, path: path.to_owned(), file_system, _lock: lock })
    }

    /// Leaves the log as it is, also when it is closed: nobody knows what of it is on the disk.
    pub(super) fn give_up(&self) {
        // It is no use to tell that this fails, too.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// Another way to the same file, for reading alone.
    pub(super) fn reading(&self) -> Result<Connection, StoreError> {
        let open = || {
            let file_system = self.file_system.as_deref();
            let connection = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY, file_system)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "query_only", true)?;
            // What is in the log is the writer's.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.set_prepared_statement_cache_capacity(32);
            Ok(connection)
        };
        open().map_err(|error| told(&self.place, &error))
    }
}

/// Each connection is used by one thread at a time.
fn connect(path: &Path, access: OpenFlags, file_system: Option<&str>) -> rusqlite::Result<Connection> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    match file_system {
        Some(name) => Connection::open_with_flags_and_vfs(path, flags, name),
        None => Connection::open_with_flags(path, flags),
    }
}

/// Links that are followed to a file that is not there yet, at the most: as many as Linux follows.
const LINKS: usize = 40;

/// The one path that a file has, whatever links lead to it, as its lock and its log are beside it. Where it is not there
/// yet, it is where it will be made.
///
/// Nothing is opened for that: a process that closes a database loses the locks that SQLite has on it elsewhere in the
/// process.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match path.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            resolved => return resolved,
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // It may be a link to what is not there.
        match path.read_link() {
            Ok(target) => path = folder.join(target),
            Err(_) => {
                let name = path.file_name().ok_or(std::io::ErrorKind::NotFound)?;
                return Ok(folder.canonicalize()?.join(name));
            }
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

/// Refuses a file that has several names (hard links). By the other one it has another log, so that what is in the one of
/// the first would be missed, and two stores would not know of each other. Who makes a link to a file that is in use is
/// refused with that.
#[cfg(unix)]
fn check_names(path: &Path, place: &str) -> Result<(), StoreError> {
    match std::fs::metadata(path).map(|file| (file.is_file(), std::os::unix::fs::MetadataExt::nlink(&file))) {
        Ok((true, names @ 2..)) => Err(StoreError::SeveralNames { place: place.to_owned(), names }),
        // What else is wrong with it is told by who opens it.
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check_names(_path: &Path, _place: &str) -> Result<(), StoreError> {
    Ok(())
}

/// A lock that is given back when it is dropped. Closing the file alone would not do that while a process that was started at this moment
/// has it, too, as it does until it runs its program.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // If that fails, closing the file gives it back.
        let _ = self.0.unlock();
    }
}

/// Takes the file, as one that is locked beside it: the lock of a database is not held between transactions. It is its owner's
/// alone as well: whoever can open it can lock it, and so keep the store from being opened.
fn lock(path: &Path, place: &str) -> Result<Lock, StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file = open_private(&PathBuf::from(beside)).map_err(|error| refused(place, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { place: place.to_owned() }),
        Err(TryLockError::Error(error)) => Err(refused(place, &error)),
    }
}

fn refused(place: &str, error: &std::io::Error) -> StoreError {
    let (place, reason) = (place.to_owned(), error.to_string());
    match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full { place },
        _ => StoreError::ReadOnly { place, reason },
    }
}

/// Opens a file, which is made for its owner alone if it is not there. What SQLite puts beside a database is as that is.
fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// How the file is worked with. It has to be said before there are tables.
fn prepare(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    // What retention has dropped can be given back to the system.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    let synchronous = match durability {
        Durability::SurvivesPowerLoss => "FULL",
        Durability::PowerLossLosesTheLatest => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // Where a plain sync leaves it in the drive's own memory.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE)?;
    // The writer does that itself.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Whether it is a store's, and not of a later release, or new.
fn check_kind(connection: &Connection, place: &str) -> Result<(), StoreError> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let kind = number("PRAGMA application_id").map_err(|error| told(place, &error))?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(|error| told(place, &error))?;
    let version = number("PRAGMA user_version").map_err(|error| told(place, &error))?;
    match (kind, tables) {
        (kind, _) if kind == i64::from(APPLICATION) && version > VERSION => {
            Err(StoreError::Newer { place: place.to_owned() })
        }
        (kind, _) if kind == i64::from(APPLICATION) => Ok(()),
        (0, 0) => Ok(()),
        _ => Err(damaged(place, "it is the database of another program")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_when_it_is_dropped_also_if_a_child_has_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let first = lock(&path, "db").unwrap();
        let of_a_child = first.0.try_clone().unwrap();
        assert!(matches!(lock(&path, "db"), Err(StoreError::InUse { .. })));
        drop(first);
        assert!(lock(&path, "db").is_ok());
        drop(of_a_child);
    }
}
