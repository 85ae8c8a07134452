//! The file in which streams are kept.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use whispeer::limits;
use whispeer::store::{Durability, SqliteOptions, SqliteStore, Store};

use super::refused;
use crate::failure::{FAILED, Failure, shell_word};
use crate::settings::StoreChoice;

/// Its name within the folder.
const FILE: &str = "streams.db";

/// The store in the folder of the configuration, or of the user, for a bus with this byte budget.
///
/// # Errors
/// What is wrong, and what to do about it.
pub(super) fn open(store: &StoreChoice, byte_budget: usize) -> anyhow::Result<Arc<dyn Store>> {
    let folder = folder(store)?;
    make(&folder)?;
    // Publishers wait for the budget, before the store refuses anything.
    let queue_bytes = byte_budget.saturating_mul(2).max(limits::STORE_QUEUE_BYTES);
    open_in(&folder, store, SqliteOptions::new().queue_bytes(queue_bytes))
}

/// The store that is there already.
///
/// # Errors
/// As [`open`]; and where there is none.
pub(super) fn open_existing(store: &StoreChoice) -> anyhow::Result<Arc<dyn Store>> {
    let folder = folder(store)?;
    if !folder.join(FILE).exists() {
        let failure = Failure::new(FAILED, format!("there is no store in {}", folder.display()));
        return Err(failure.help("name its folder with --store-folder, or the bus's --config").into());
    }
    open_in(&folder, store, SqliteOptions::new())
}

fn folder(store: &StoreChoice) -> anyhow::Result<PathBuf> {
    store.folder.clone().map_or_else(own_folder, Ok)
}

fn open_in(folder: &Path, store: &StoreChoice, options: SqliteOptions) -> anyhow::Result<Arc<dyn Store>> {
    let durability = match store.durability {
        StoreChoice::POWER_LOSS_LOSES_THE_LATEST => Durability::PowerLossLosesTheLatest,
        _ => Durability::SurvivesPowerLoss,
    };
    let options = options.durability(durability);
    let opened = SqliteStore::open(&folder.join(FILE), options);
    Ok(Arc::new(opened.map_err(|error| {
        refused(&error.to_string())
            .help("--store-folder, or store.folder in the file, chooses another folder")
    })?))
}

/// Makes the folder, for its owner alone. One that is there stays as it is.
fn make(folder: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| {
        let failure = refused(&format!("the folder of streams {} cannot be made: {error}", folder.display()));
        let word = shell_word(&folder.to_string_lossy());
        failure
            .help(format!("make it by `install -d -m 0700 {word}`, or choose another with --store-folder"))
            .into()
    })
}

/// Where the service manager, or the user, keeps what programs remember.
fn own_folder() -> anyhow::Result<PathBuf> {
    let absolute = |path: &Path| path.is_absolute();
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| absolute(path));
    // A service may have several folders, and the first is the one that its unit names first.
    let service =
        std::env::var_os("STATE_DIRECTORY").and_then(|folders| std::env::split_paths(&folders).next());
    service
        .filter(|path| absolute(path))
        .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("whispeer")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state/whispeer")))
        .ok_or_else(|| {
            let failure = refused("there is no folder to keep streams in");
            failure.help("choose one with --store-folder, or set HOME to an absolute path").into()
        })
}
