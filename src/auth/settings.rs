//! What a policy is made from, as it stands in a configuration file.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::Secret;
use crate::error::{BusError, BusResult};
use crate::limits;

/// An issuer of tokens: a service that the bus trusts to say who somebody is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// The issuer as it names itself in its tokens (`iss`).
    pub issuer: String,
    /// What its tokens for this bus are made out to (`aud`). Tokens for others are refused.
    pub audience: String,
    /// The one algorithm of its tokens. What a token itself says is held against it.
    pub algorithm: TokenAlgorithm,
    /// The key, as text: for EdDSA the public key in PEM, for HS256 the secret in base64.
    #[serde(default)]
    pub key: Option<Secret>,
    /// A file with the key, instead of the key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The roles that it may give. A token that names another one is refused.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The roles of those whose token names none; they count among the ones above.
    #[serde(default)]
    pub default_roles: Vec<String>,
}

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[non_exhaustive]
pub enum TokenAlgorithm {
    /// Ed25519: the issuer has a private key, the bus the public one.
    EdDSA,
    /// HMAC with SHA-256: issuer and bus share a secret, so the bus could issue tokens as well.
    HS256,
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::EdDSA => "EdDSA",
            Self::HS256 => "HS256",
        })
    }
}

impl IssuerSettings {
    /// The text of its key, wherever that is.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] that says which of the two is missing, or why the file cannot be read.
    pub fn key_text(&self) -> BusResult<Secret> {
        match (&self.key, &self.key_file) {
            (Some(key), None) => Ok(key.clone()),
            (None, Some(file)) => read_key(file),
            (Some(_), Some(_)) => {
                Err(invalid(format!("issuer {:?} has both `key` and `key_file`; keep one", self.issuer)))
            }
            (None, None) => {
                Err(invalid(format!("issuer {:?} has no key; add `key` or `key_file`", self.issuer)))
            }
        }
    }
}

/// Reads a key from a file of a sane size.
pub(super) fn read_key(path: &Path) -> BusResult<Secret> {
    let failed =
        |reason: &dyn fmt::Display| invalid(format!("cannot read the key {}: {reason}", path.display()));
    let mut bytes = Zeroizing::new(Vec::with_capacity(limits::KEY_FILE_BYTES + 1));
    let file = File::open(path).map_err(|error| failed(&error))?;
    let read = file.take(limits::KEY_FILE_BYTES as u64 + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| failed(&error))?;
    if length > limits::KEY_FILE_BYTES {
        return Err(failed(&format_args!(
            "it has more than {} bytes, so it is no key",
            limits::KEY_FILE_BYTES
        )));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => Err(failed(&"it is not text; give a PEM file, or a secret in base64")),
    }
}

/// Checks a name that will be shown, logged and compared.
pub(super) fn check_name(what: &str, name: &str) -> BusResult<()> {
    let limit = limits::PRINCIPAL_NAME_BYTES;
    match name.len() {
        0 => Err(invalid(format!("{what} is empty; give it a name"))),
        bytes if bytes > limit => {
            Err(invalid(format!("{what} has {bytes} bytes, more than the limit of {limit}; shorten it")))
        }
        _ if name.chars().any(char::is_control) => {
            Err(invalid(format!("{what}, {name:?}, contains control characters; remove them")))
        }
        _ => Ok(()),
    }
}

pub(super) fn invalid(text: String) -> BusError {
    BusError::InvalidSettings(text)
}
