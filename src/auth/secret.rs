//! What must not be shown.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::proto::Shown;

/// A text that is never printed and is zeroed when it is dropped.
///
/// # Examples
/// ```
/// use whispeer::auth::Secret;
///
/// let secret = Secret::new("correct horse battery staple");
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// assert_eq!(secret.reveal().len(), 28);
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret of this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, to be used and never to be logged.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What stands there instead of a text may be a secret all the same.
        let text = String::deserialize(deserializer);
        text.map(Self::new).map_err(|_| D::Error::custom("expected a text, which is not shown"))
    }
}

/// What a client shows to prove who it is, beside what its transport proves.
///
/// # Examples
/// ```
/// use whispeer::auth::Credentials;
///
/// let credentials = Credentials::password("alice", "correct horse battery staple");
/// assert_eq!(format!("{credentials:?}"), r#"Password { user: "alice", password: Secret(..) }"#);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credentials {
    /// A token, as its issuer gave it: a JWT in its compact form.
    Token(Secret),
    /// The name and password of a user of the bus.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
}

impl Credentials {
    /// Credentials that are a token.
    #[must_use]
    pub fn token(token: impl Into<Secret>) -> Self {
        Self::Token(token.into())
    }

    /// Credentials that are a name and a password.
    #[must_use]
    pub fn password(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::Password { user: user.into(), password: password.into() }
    }
}

impl From<&Shown> for Credentials {
    fn from(shown: &Shown) -> Self {
        match shown {
            Shown::Token(token) => Self::token(token.as_str()),
            Shown::Password(user, password) => Self::password(user, password.as_str()),
        }
    }
}

impl From<&Credentials> for Shown {
    fn from(credentials: &Credentials) -> Self {
        let text = |secret: &Secret| Zeroizing::new(secret.reveal().to_owned());
        match credentials {
            Credentials::Token(token) => Self::Token(text(token)),
            Credentials::Password { user, password } => Self::Password(user.clone(), text(password)),
        }
    }
}
