//! Buses with names, in the user's configuration: `@NAME` on the command line.
//!
//! They stand in `buses.toml`:
//! ```toml
//! default = "home"
//!
//! [buses]
//! home = "unix:/run/user/1000/my_bus"
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, shell_word};

/// Bytes of the largest file that is read: thousands of buses. A larger one is not ours.
const FILE_LIMIT: u64 = 1024 * 1024;

const FILE_NAME: &str = "buses.toml";

/// The named buses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registry {
    /// The bus that is used when none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<String>,
    /// Addresses by name.
    #[serde(default)]
    pub(crate) buses: BTreeMap<String, String>,
}

impl Registry {
    /// Reads the registry of this user; it is empty where there is no file.
    pub(crate) fn load() -> anyhow::Result<Self> {
        match folder() {
            Ok(folder) => Self::load_from(&folder),
            // Without a home there are no named buses; commands with --addr work all the same.
            Err(_) => Ok(Self::default()),
        }
    }

    /// Changes the registry of this user. Two commands that do so at once take turns.
    pub(crate) fn update<T>(change: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        Self::update_in(&folder()?, change)
    }

    /// The address of a named bus.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<&str> {
        if let Some(address) = self.buses.get(name) {
            return Ok(address);
        }
        let known: Vec<_> = self.buses.keys().map(|name| format!("@{name}")).collect();
        let known =
            if known.is_empty() { "none is".to_owned() } else { format!("registered: {}", known.join(", ")) };
        let help = format!("register it with `whispeer register {} ADDR` ({known})", shell_word(name));
        Err(Failure::usage(format!("no bus is registered as @{name}")).help(help).into())
    }

    fn load_from(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE_NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut text = String::new();
        file.take(FILE_LIMIT)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text)
            .with_context(|| format!("{} is not valid; correct or remove it", path.display()))
    }

    fn update_in<T>(folder: &Path, change: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let at_folder = || format!("cannot use {}", folder.display());
        // Whoever makes the folder decides its mode: a list of sockets is nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(at_folder)?;
        let lock = File::open(folder).with_context(at_folder)?;
        lock.lock().with_context(at_folder)?;
        let mut registry = Self::load_from(folder)?;
        let result = change(&mut registry)?;
        registry.store(folder)?;
        Ok(result)
    }

    /// Replaces the file in one step, so that a reader sees the old one or the new one.
    fn store(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(FILE_NAME);
        let at_file = || format!("cannot write {}", path.display());
        let text = toml::to_string(self).with_context(at_file)?;
        // A temporary file has mode 0600, and keeps it when it is renamed.
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(at_file)?;
        file.write_all(text.as_bytes()).with_context(at_file)?;
        file.as_file().sync_all().with_context(at_file)?;
        // A link that the user put there leads to the file that is meant.
        let target = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        file.persist(target).map_err(|error| error.error).with_context(at_file)?;
        Ok(())
    }
}

/// Refuses names that could be taken for something else on a command line.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let allowed = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_' | '.');
    if !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(allowed) {
        return Ok(());
    }
    let failure = Failure::usage(format!("\"{name}\" cannot be the name of a bus"));
    Err(failure.help("use letters, digits, '-', '_' and '.', such as \"home\"").into())
}

fn folder() -> anyhow::Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let configuration =
        absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    match configuration {
        Some(folder) => Ok(folder.join("whispeer")),
        None => Err(Failure::new(crate::failure::FAILED, "there is no folder for configuration")
            .help("set HOME or XDG_CONFIG_HOME to an absolute path")
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_stored_is_loaded_again_and_only_its_user_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("whispeer");
        assert_eq!(Registry::load_from(&inside).unwrap(), Registry::default());
        Registry::update_in(&inside, |registry| {
            registry.default = Some("home".into());
            registry.buses.insert("home".into(), "unix:/run/my_bus".into());
            Ok(())
        })
        .unwrap();
        let loaded = Registry::load_from(&inside).unwrap();
        assert_eq!(loaded.default.as_deref(), Some("home"));
        assert_eq!(loaded.find("home").unwrap(), "unix:/run/my_bus");
        let mode = fs::metadata(inside.join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_failed_change_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let failed: anyhow::Result<()> = Registry::update_in(folder.path(), |registry| {
            registry.buses.insert("half".into(), "done".into());
            anyhow::bail!("changed my mind")
        });
        assert!(failed.is_err());
        assert_eq!(Registry::load_from(folder.path()).unwrap(), Registry::default());
    }

    #[test]
    fn a_damaged_file_is_told_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), "buses = 7").unwrap();
        let error = Registry::load_from(folder.path()).unwrap_err();
        assert!(error.to_string().contains("buses.toml"), "{error}");
    }

    #[test]
    fn names_that_look_like_options_or_paths_are_refused() {
        assert!(check_name("home-1.eu").is_ok());
        for name in ["", "-a", ".", "a/b", "a b", "@a"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
