//! What a policy is made from, as it stands in a configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::{FileText, read_text, warn_of};
use super::{Permissions, Secret};
use crate::error::{BusError, BusResult};
use crate::limits;

/// Who may do what on a bus: the input of [`Policy::new`](super::Policy::new).
///
/// It reads from TOML, for example:
///
/// ```toml
/// anonymous = ["guest"]
///
/// [roles.guest]
/// subscribe.allow = ["news/**"]
///
/// [roles.reporter]
/// publish = { allow = ["news/**"], deny = ["news/drafts/**"] }
///
/// [[users]]
/// name = "alice"
/// password = "$argon2id$v=19$m=19456,t=2,p=1$..."
/// roles = ["guest", "reporter"]
///
/// [[certificates]]
/// name = "ticker-7"
/// roles = ["reporter"]
///
/// [[unix]]
/// uid = 1001
/// roles = ["guest"]
///
/// [[issuers]]
/// issuer = "https://login.example"
/// audience = "whispeer"
/// algorithm = "EdDSA"
/// key_file = "login.pub"
/// roles = ["guest", "reporter"]
/// default_roles = ["guest"]
/// ```
///
/// Unknown keys are refused. Rights come from roles only; somebody with several has what they allow together,
/// except what one of them denies. By default nobody has any, but the bus's own process and its own Unix user,
/// who have all; a `unix` entry for that user replaces these.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// The roles of whoever proves nothing, or is named nowhere here. If there are none they are turned away.
    pub anonymous: Vec<String>,
    /// The roles and what they may do.
    pub roles: BTreeMap<String, Permissions>,
    /// Users with passwords.
    pub users: Vec<UserSettings>,
    /// Names in client certificates.
    pub certificates: Vec<CertificateSettings>,
    /// Users of this host, on Unix sockets.
    pub unix: Vec<UnixSettings>,
    /// Issuers of tokens.
    pub issuers: Vec<IssuerSettings>,
}

/// A user with a password.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSettings {
    /// The name.
    pub name: String,
    /// The password's Argon2id hash as a PHC string, as `whispeer passwd` and
    /// [`hash_password`](super::hash_password) make it.
    pub password: Secret,
    /// The user's roles.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// Whoever has a client certificate with a name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSettings {
    /// The name, as [`Principal::Certificate`](super::Principal::Certificate) has it.
    pub name: String,
    /// Its roles.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// A user of this host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnixSettings {
    /// The effective user id.
    pub uid: u32,
    /// Its roles.
    #[serde(default)]
    pub roles: Vec<String>,
}

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

impl AuthSettings {
    /// Takes relative paths as relative to `folder`, such as that of the configuration file.
    pub fn resolve(&mut self, folder: &Path) {
        for issuer in &mut self.issuers {
            if let Some(file) = &mut issuer.key_file {
                *file = folder.join(&*file);
            }
        }
    }

    /// Whether something here has to be kept from others.
    pub(super) fn has_secrets(&self) -> bool {
        let secret =
            |issuer: &IssuerSettings| issuer.algorithm == TokenAlgorithm::HS256 && issuer.key.is_some();
        !self.users.is_empty() || self.issuers.iter().any(secret)
    }

    /// What the roles may do together.
    pub(super) fn permissions(&self, whose: &str, roles: &[String]) -> BusResult<Permissions> {
        let (count, limit) = (roles.len(), limits::ROLES_PER_PRINCIPAL);
        if count > limit {
            return Err(invalid(format!("{whose} has {count} roles, more than the limit of {limit}")));
        }
        let mut found = Vec::with_capacity(count);
        for role in roles {
            let Some(permissions) = self.roles.get(role) else {
                let known: Vec<_> = self.roles.keys().map(|role| format!("{role:?}")).take(8).collect();
                let known = if known.is_empty() { "there are none".into() } else { known.join(", ") };
                return Err(invalid(format!(
                    "{whose} has the role {role:?}, which is not among the roles ({known}); add it there or \
                     correct the name"
                )));
            };
            found.push(permissions);
        }
        let together = Permissions::together(found);
        together.check().map_err(|error| invalid(format!("{whose}: {error}")))?;
        Ok(together)
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
            (None, Some(file)) => {
                let key = read_key(file)?;
                if key.open_to_all && self.algorithm == TokenAlgorithm::HS256 {
                    warn_of(file);
                }
                Ok(key.text)
            }
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
pub(super) fn read_key(path: &Path) -> BusResult<FileText> {
    read_text(path, limits::KEY_FILE_BYTES)
        .map_err(|reason| invalid(format!("cannot read the key {}: {reason}", path.display())))
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
