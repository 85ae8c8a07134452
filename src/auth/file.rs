//! Settings in a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::settings::invalid;
use super::{AuthSettings, Policy, Secret};
use crate::error::BusResult;
use crate::limits;

/// What stands in a file: the same as in the configuration of a bus, so that entries can be moved.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "auth"), expect(dead_code, reason = "without TOML there is nothing to read"))]
struct Document {
    #[serde(default)]
    auth: AuthSettings,
}

/// The same in a file that has other things too, which somebody else has checked.
#[derive(Deserialize)]
#[cfg_attr(not(feature = "auth"), expect(dead_code, reason = "without TOML there is nothing to read"))]
struct Section {
    auth: AuthSettings,
}

/// A mistake, and where it is.
struct Mistake {
    /// Counted from 1; `None` if it is in no line.
    line: Option<usize>,
    reason: String,
}

impl AuthSettings {
    /// Reads settings from TOML in which everything stands under `auth`, as in `[auth.roles.reader]` and
    /// `[[auth.users]]`. It needs the feature `auth`.
    ///
    /// In another format, or as a part of something larger, they are read by `serde`, without that prefix.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) with the line and what is wrong there. It repeats
    /// no secret.
    pub fn from_toml(text: &str) -> BusResult<Self> {
        parse(text, true).map_err(|Mistake { line, reason }| match line {
            Some(line) => invalid(format!("line {line}: {reason}")),
            None => invalid(reason),
        })
    }

    /// Reads settings from a file, as [`from_toml`](Self::from_toml) does. Relative paths in it begin at its
    /// folder. A file with secrets that everybody can read is warned of in the log.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) with the file and line, and if the file cannot be
    /// read or is larger than [`AUTH_FILE_BYTES`](limits::AUTH_FILE_BYTES).
    pub fn read(path: &Path) -> BusResult<Self> {
        Self::read_file(path, true)
    }

    /// Reads what stands under `auth` in a file that has other things too, as [`read`](Self::read) does; the others are
    /// not looked at.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_section(path: &Path) -> BusResult<Self> {
        Self::read_file(path, false)
    }

    fn read_file(path: &Path, alone: bool) -> BusResult<Self> {
        let file = read_text(path, limits::AUTH_FILE_BYTES).map_err(|reason| {
            invalid(format!("cannot read who may do what from {}: {reason}", path.display()))
        })?;
        let mut settings = parse(file.text.reveal(), alone).map_err(|Mistake { line, reason }| {
            let line = line.map(|line| format!("{line}:")).unwrap_or_default();
            invalid(format!("{}:{line} {reason}", path.display()))
        })?;
        if file.open_to_all && settings.has_secrets() {
            warn_of(path);
        }
        settings.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(settings)
    }
}

impl Policy {
    /// The policy that a text describes: [`AuthSettings::from_toml`], then [`Policy::new`].
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) with the line or the entry at fault.
    ///
    /// # Examples
    /// ```
    /// use whispeer::auth::Policy;
    ///
    /// # fn main() -> whispeer::BusResult<()> {
    /// # if cfg!(feature = "auth") {
    /// let policy = Policy::from_toml(
    ///     r#"
    ///     [auth]
    ///     anonymous = ["guest"]
    ///
    ///     [auth.roles.guest]
    ///     subscribe.allow = ["news/**"]
    ///     "#,
    /// )?;
    /// assert!(!policy.is_open());
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_toml(text: &str) -> BusResult<Self> {
        Self::new(&AuthSettings::from_toml(text)?)
    }
}

#[cfg(feature = "auth")]
fn parse(text: &str, alone: bool) -> Result<AuthSettings, Mistake> {
    // What the error shows by itself contains the line, and so perhaps a secret.
    let mistake = |error: toml::de::Error| Mistake {
        line: error.span().map(|at| {
            let before = text.as_bytes().get(..at.start).unwrap_or_default();
            1 + before.iter().filter(|byte| **byte == b'\n').count()
        }),
        reason: error.message().to_owned(),
    };
    let read = match alone {
        true => toml::from_str(text).map(|Document { auth }| auth),
        false => toml::from_str(text).map(|Section { auth }| auth),
    };
    read.map_err(mistake)
}

#[cfg(not(feature = "auth"))]
fn parse(_text: &str, _alone: bool) -> Result<AuthSettings, Mistake> {
    let reason = "reading TOML needs the feature `auth`, which this build of whispeer does not have";
    Err(Mistake { line: None, reason: reason.to_owned() })
}

/// What was read from a file.
pub(super) struct FileText {
    pub(super) text: Secret,
    /// Whether every user of the system can read it.
    pub(super) open_to_all: bool,
}

/// Reads a text from a file of at most so many bytes.
///
/// # Errors
/// Why it could not be read.
pub(super) fn read_text(path: &Path, most: usize) -> Result<FileText, String> {
    let of_io = |error: io::Error| error.to_string();
    let file = File::open(path).map_err(of_io)?;
    let metadata = file.metadata().map_err(of_io)?;
    // All at once, so that no copy of a secret is left behind by growing.
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX).min(most);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(of_io)?;
    if bytes.len() > most {
        return Err(format!("it has more than {most} bytes; check that the right file is named"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "it is not text".to_owned())?;
    Ok(FileText { text: Secret::new(text), open_to_all: is_open_to_all(&metadata) })
}

/// Says in the log that a file should be kept from others.
pub(super) fn warn_of(path: &Path) {
    tracing::warn!(path = %path.display(), "everybody can read this file, which holds secrets; `chmod o= FILE`");
}

#[cfg(unix)]
fn is_open_to_all(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_open_to_all(_metadata: &std::fs::Metadata) -> bool {
    false
}
