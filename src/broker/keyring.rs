//! The keyring of a broker that keeps what it encrypts, in a file beside that of its store.
//!
//! Losing it loses what is stored, and another one in its place hides that it was lost. So it is made only where nothing of its
//! name is there and nothing that is stored needs one.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::engine::compression::Compression;
use crate::engine::encryption::{Key, Keyring};
use crate::engine::{Engine, is_sealed, sealed_by};
use crate::error::{BusError, BusResult, StoreError};
use crate::limits;
use crate::store::{Reading, Store};

/// What it is called, behind the name of the store's file.
const SUFFIX: &str = ".keys";

/// The keyring beside the file of this store, by the one path that this has behind all links. It is made if it is not there.
///
/// # Errors
/// [`BusError::InvalidSettings`] for a keyring that is there and cannot be read, whatever keeps it from that; for one that is not
/// there though something stored was encrypted; and for one that cannot be written.
///
/// # Cancel safety
/// Dropped before it is done, it was made or not.
pub(super) async fn beside(file: &Path, store: &dyn Store) -> BusResult<Keyring> {
    let path = path_beside(file);
    // A link is there also if what it leads to is not, as where that is on another disk.
    match std::fs::symlink_metadata(&path) {
        Ok(_) => return read(&path, file),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(BusError::InvalidSettings(format!(
                "cannot look whether the keyring {} is there: {error}; none is made, as what {} has may need that one. See \
                 that its folder can be read",
                path.display(),
                file.display()
            )));
        }
    }
    let has_encrypted = has_encrypted(store).await.map_err(|error| {
        BusError::InvalidSettings(format!(
            "cannot look whether what is stored needs the keyring {}, which is not there: {error}",
            path.display()
        ))
    })?;
    if has_encrypted {
        return Err(lost(&path, file));
    }
    let keyring = Keyring::with(Key::generate()?)?;
    write(&path, keyring.to_toml().as_bytes()).map_err(|error| {
        BusError::InvalidSettings(format!(
            "the keyring {} cannot be written: {error}; check who owns its folder, and how its file system is mounted",
            path.display()
        ))
    })?;
    tracing::info!(keyring = %path.display(), "a keyring was made, with which a broker encrypts what it keeps");
    Ok(keyring)
}

fn path_beside(file: &Path) -> PathBuf {
    let mut path = OsString::from(file);
    path.push(SUFFIX);
    path.into()
}

fn read(path: &Path, file: &Path) -> BusResult<Keyring> {
    Keyring::read(path).map_err(|error| match error {
        BusError::InvalidSettings(what) => BusError::InvalidSettings(format!(
            "{what}; what {} has is encrypted with it, so that no other is made in its place. See that it is there, behind \
             links as well, or put a copy back",
            file.display()
        )),
        error => error,
    })
}

fn lost(path: &Path, file: &Path) -> BusError {
    let (path, file) = (path.display(), file.display());
    BusError::InvalidSettings(format!(
        "there is no keyring {path}, and {file} has messages that were encrypted; put a copy back, or name the keyring that \
         they were encrypted with by WHISPEER_KEYRING. If they need not be read, `whispeer keys new {path}` makes a new one"
    ))
}

/// Whether anything that is stored was encrypted, or sealed by an engine of the application's, which may encrypt, too.
///
/// It may be any message: brokers encrypt or not as they are built, and so do clients of theirs. So it looks at all of
/// them, page by page, until there is one. That is the first, but where a broker begins to encrypt: and that happens once in
/// the life of a store, as there is a keyring then.
async fn has_encrypted(store: &dyn Store) -> Result<bool, StoreError> {
    for stream in store.streams().await? {
        let name = &stream.settings.name;
        let mut from = stream.first;
        // What comes while this reads does not come from this broker, which has not begun.
        while from < stream.end {
            // At the beginning of all times nothing has expired.
            let page = store.read(name.clone(), Reading::from(from, 0)).await?;
            if page.messages.iter().any(|message| is_encrypted(&message.payload)) {
                return Ok(true);
            }
            if page.next <= from {
                break;
            }
            from = page.next;
        }
        if stream.delayed > 0 {
            // A stream has no more of them.
            let most = usize::try_from(limits::DELAYED_MESSAGES).unwrap_or(usize::MAX);
            let delayed = store.delayed(name.clone(), u64::MAX, most).await?;
            if delayed.iter().any(|delayed| is_encrypted(&delayed.message.payload)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether there is more to it than compression, as far as can be seen without a key.
fn is_encrypted(payload: &[u8]) -> bool {
    is_sealed(payload) && sealed_by(payload) != Some(Compression::new().id())
}

/// Writes a file for its owner alone, whole or not at all. Whoever has the store is the only one who does.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::io::Write;

    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // One that is left of a process that ended meanwhile.
    let _ = std::fs::remove_file(&beside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    // Without its name it would be gone with the power, and what was encrypted would stay.
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => std::fs::File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    async fn refusal(file: &Path) -> String {
        beside(file, &MemoryStore::new()).await.unwrap_err().to_string()
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn none_is_made_where_nobody_can_tell_whether_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        std::fs::write(&text, "no folder").unwrap();
        let told = refusal(&text.join("db")).await;
        assert!(told.contains("cannot look whether the keyring") && told.contains("db.keys"), "{told}");
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = refusal(&folder.path().join("none/db")).await;
        assert!(told.contains("cannot be written") && told.contains("db.keys"), "{told}");
    }

    #[tokio::test]
    async fn one_that_was_made_is_read_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("db");
        let ids = async || {
            let keyring = beside(&file, &MemoryStore::new()).await.unwrap();
            keyring.keys().iter().map(|entry| entry.id).collect::<Vec<_>>()
        };
        let first = ids().await;
        assert_eq!(first.len(), 1);
        assert_eq!(ids().await, first);
        assert!(!folder.path().join("db.keys.new").exists());
    }
}
