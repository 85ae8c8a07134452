//! The files: their modes, refusal to overwrite, and writing in one step.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::details::Details;
use super::key::PrivateKey;
use super::names::Kind;
use super::revocations::Revocations;
use super::usage;
use crate::failure::{FAILED, Failure, shell_word};

/// The name of the CA's files.
pub(crate) const AUTHORITY: &str = "ca";

/// The name of the file with the list of revocations.
pub(crate) const REVOCATIONS: &str = "crl";

/// Bytes of the largest file that is read: a list of a hundred thousand revocations. A larger one is not
/// ours.
const FILE_LIMIT: u64 = 8 * 1024 * 1024;

/// Who may read a certificate or the list: everyone who may look into the folder.
const PUBLIC: u32 = 0o644;

/// Who may read a key.
const PRIVATE: u32 = 0o600;

/// What keeps keys out of version control.
const IGNORED: &str = "*.key\n*.pem\n";

/// A file to be written.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    path: PathBuf,
    text: &'a str,
    mode: u32,
}

/// A folder of certificates.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Held by a command that changes something; two of them take turns.
    _lock: Option<File>,
}

impl Folder {
    /// Makes the folder where it is missing, and takes it for oneself.
    pub(crate) fn make(path: &Path) -> anyhow::Result<Self> {
        let at_folder = || format!("cannot use the folder {}", path.display());
        // Whoever makes the folder decides its mode: nobody else has to look into it.
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(at_folder)?;
        let folder = Self::lock(path)?;
        let ignored = path.join(".gitignore");
        match File::create_new(&ignored) {
            Ok(mut file) => file.write_all(IGNORED.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
        .with_context(|| format!("cannot write {}", ignored.display()))?;
        Ok(folder)
    }

    /// Takes a folder that is there for oneself.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if !path.join(AUTHORITY).with_extension("pem").exists() {
            return Err(no_authority(path));
        }
        Self::lock(path)
    }

    /// A folder that is only looked at.
    pub(crate) fn look(path: &Path) -> Self {
        Self { path: path.to_owned(), _lock: None }
    }

    fn lock(path: &Path) -> anyhow::Result<Self> {
        let at_folder = || format!("cannot use the folder {}", path.display());
        let lock = File::open(path).with_context(at_folder)?;
        lock.lock().with_context(at_folder)?;
        Ok(Self { path: path.to_owned(), _lock: Some(lock) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn certificate_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.pem"))
    }

    pub(crate) fn key_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.key"))
    }

    /// A certificate's or the list's file, to be written.
    pub(crate) fn public<'a>(&self, name: &str, text: &'a str) -> Pending<'a> {
        Pending { path: self.certificate_path(name), text, mode: PUBLIC }
    }

    /// A key's file, to be written.
    pub(crate) fn private<'a>(&self, name: &str, text: &'a str) -> Pending<'a> {
        Pending { path: self.key_path(name), text, mode: PRIVATE }
    }

    /// The name that is meant by what was typed: the name itself, or the path of one of its files, as a
    /// shell completes it.
    pub(crate) fn name_of(&self, typed: &str) -> anyhow::Result<String> {
        let path = Path::new(typed);
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let same = matches!((parent.canonicalize(), self.path.canonicalize()),
                (Ok(parent), Ok(own)) if parent == own);
            if !same {
                let failure = Failure::usage(format!("{typed} is not in the folder {}", self.path.display()));
                let other = shell_word(&parent.to_string_lossy());
                return Err(failure.help(format!("choose the folder with --dir {other}")).into());
            }
        }
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or(typed);
        let name = name.strip_suffix(".pem").or_else(|| name.strip_suffix(".key")).unwrap_or(name);
        Ok(name.to_owned())
    }

    /// The names of all files that may be certificates, in order.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<String>> {
        let at_folder = || format!("cannot read the folder {}", self.path.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(at_folder)? {
            let file = entry.with_context(at_folder)?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".pem"));
            names.extend(
                name.filter(|name| *name != REVOCATIONS && !name.starts_with('.')).map(str::to_owned),
            );
        }
        names.sort();
        Ok(names)
    }

    /// Reads a certificate; `None` where there is no such file.
    pub(crate) fn certificate(&self, name: &str) -> anyhow::Result<Option<(Details, String)>> {
        let path = self.certificate_path(name);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let details = Details::from_pem(&bytes).with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Some((details, String::from_utf8_lossy(&bytes).into_owned())))
    }

    /// Reads the certificate of the CA.
    pub(crate) fn authority(&self) -> anyhow::Result<(Details, String)> {
        let Some((details, text)) = self.certificate(AUTHORITY)? else {
            return Err(no_authority(&self.path));
        };
        if details.kind != Kind::Authority {
            anyhow::bail!("{} is not the certificate of a CA", self.certificate_path(AUTHORITY).display());
        }
        Ok((details, text))
    }

    /// Reads a key's file; `None` where there is none.
    pub(crate) fn read_key(&self, name: &str) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        read(&self.key_path(name))
    }

    /// The list of revocations of the CA; an empty one where there is none.
    pub(crate) fn revocations(&self, authority: &Details) -> anyhow::Result<Revocations> {
        let path = self.certificate_path(REVOCATIONS);
        let Some(text) = read(&path)? else { return Ok(Revocations::default()) };
        Revocations::from_pem(&text, authority).map_err(|error| {
            let failure = Failure::new(FAILED, format!("cannot use {}: {error}", path.display()));
            failure.help("bring back the right one, or remove it to begin with an empty list").into()
        })
    }

    /// What is to be said of the key that belongs to a certificate.
    pub(crate) fn key_state(&self, name: &str, certificate: &Details) -> KeyState {
        let path = self.key_path(name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return KeyState::Absent,
            Err(_) => return KeyState::Unreadable,
        };
        let Ok(Some(text)) = self.read_key(name) else { return KeyState::Unreadable };
        match PrivateKey::from_pem(&text) {
            Err(_) => KeyState::Unreadable,
            Ok(key) if key.public() != certificate.public_key => KeyState::OfAnother,
            Ok(_) if metadata.permissions().mode() & 0o077 != 0 => KeyState::Exposed,
            Ok(_) => KeyState::Present,
        }
    }

    /// Refuses to go on where one of the files is there already.
    pub(crate) fn refuse_existing(&self, files: &[PathBuf], help: &str) -> anyhow::Result<()> {
        // A link that leads nowhere counts as well.
        match files.iter().find(|path| path.symlink_metadata().is_ok()) {
            None => Ok(()),
            Some(path) => {
                let failure = Failure::new(FAILED, format!("{} exists already", path.display()));
                Err(failure.help(help).into())
            }
        }
    }

    /// Writes the files: each is complete under its name or not there at all. What may be overwritten has
    /// been decided before.
    ///
    /// Between the first and the last one, a reader sees some of the old and some of the new files. A key
    /// that does not fit its certificate is refused by whoever loads both, who then keeps what it has.
    pub(crate) fn write(&self, files: &[Pending<'_>]) -> anyhow::Result<()> {
        let mut prepared = Vec::with_capacity(files.len());
        for pending in files {
            let at_file = || format!("cannot write {}", pending.path.display());
            // Until it is renamed it has a name that version control ignores as well.
            let mut file = tempfile::Builder::new()
                .prefix(".")
                .suffix(".key")
                .tempfile_in(&self.path)
                .with_context(at_file)?;
            file.write_all(pending.text.as_bytes()).with_context(at_file)?;
            file.as_file().set_permissions(Permissions::from_mode(pending.mode)).with_context(at_file)?;
            file.as_file().sync_all().with_context(at_file)?;
            prepared.push((file, &pending.path));
        }
        for (file, path) in prepared {
            place(file, path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        // The names are kept only once the folder is.
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot write to the folder {}", self.path.display()))
    }
}

/// What is to be said of the key that belongs to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyState {
    Present,
    /// It is kept elsewhere, or lost.
    Absent,
    /// It fits, but others may read it.
    Exposed,
    OfAnother,
    Unreadable,
}

impl KeyState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Present => "ok",
            Self::Absent => "absent",
            Self::Exposed => "exposed",
            Self::OfAnother => "of another",
            Self::Unreadable => "unreadable",
        }
    }
}

fn place(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}

/// Reads a file that may hold a key; `None` where there is none.
fn read(path: &Path) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    let at_file = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(at_file),
    };
    let length = file.metadata().with_context(at_file)?.len();
    if length > FILE_LIMIT {
        anyhow::bail!("{} is too large to be a certificate, a key or a list", path.display());
    }
    // Room for all of it, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length)?.saturating_add(1)));
    file.take(FILE_LIMIT).read_to_end(&mut bytes).with_context(at_file)?;
    Ok(Some(bytes))
}

fn no_authority(path: &Path) -> anyhow::Error {
    let failure = Failure::new(FAILED, format!("there is no CA in the folder {}", path.display()));
    failure
        .help(format!(
            "make one with `{}`, or choose another folder with --dir",
            usage::command(path, "init")
        ))
        .into()
}
