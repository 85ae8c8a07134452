//! The face of tokens in a build without the feature `auth`.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::settings::invalid;
use super::{IssuerSettings, Principal, Secret, TokenAlgorithm, TokenError};
use crate::error::{BusError, BusResult};

/// Cannot be made in this build.
#[derive(Debug, Clone)]
pub struct SigningKey(Infallible);

impl SigningKey {
    /// Fails: the feature is not enabled.
    ///
    /// # Errors
    /// Always [`BusError::InvalidSettings`].
    pub fn generate(_algorithm: TokenAlgorithm) -> BusResult<Self> {
        Err(absent())
    }

    /// Fails: the feature is not enabled.
    ///
    /// # Errors
    /// Always [`BusError::InvalidSettings`].
    pub fn parse(_text: &str) -> BusResult<Self> {
        Err(absent())
    }

    /// Fails: the feature is not enabled.
    ///
    /// # Errors
    /// Always [`BusError::InvalidSettings`].
    pub fn read(_path: &Path) -> BusResult<Self> {
        Err(absent())
    }

    /// There is none to ask.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        match self.0 {}
    }

    /// There is none to ask.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        match self.0 {}
    }

    /// There is none to ask.
    #[must_use]
    pub fn public_text(&self) -> Option<String> {
        match self.0 {}
    }
}

/// Cannot be made in this build.
#[derive(Debug)]
pub struct TokenIssuer(Infallible);

impl TokenIssuer {
    /// There is no key to make it with.
    ///
    /// # Errors
    /// None.
    pub fn new(key: SigningKey, _issuer: &str, _audience: &str) -> BusResult<Self> {
        match key.0 {}
    }

    /// There is none to ask.
    ///
    /// # Errors
    /// None.
    pub fn issue(&self, _subject: &str, _roles: &[String], _lifetime: Duration) -> BusResult<Secret> {
        match self.0 {}
    }
}

/// Knows no issuers in this build.
#[derive(Debug, Default)]
pub struct TokenVerifier {}

impl TokenVerifier {
    /// Fails if there are issuers: the feature is not enabled.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] unless the list is empty.
    pub fn new(issuers: &[IssuerSettings]) -> BusResult<Self> {
        if issuers.is_empty() { Ok(Self {}) } else { Err(absent()) }
    }

    /// Fails: no issuer is known.
    ///
    /// # Errors
    /// Always [`TokenError::UnknownIssuer`].
    pub fn verify(&self, _token: &str) -> Result<Verified, TokenError> {
        Err(TokenError::UnknownIssuer)
    }

    pub(super) fn may_give(&self, _issuer: &str, _roles: &[String]) -> bool {
        false
    }

    pub(super) fn renew(&self, earlier: &Verified) -> Option<Verified> {
        match earlier.never {}
    }
}

/// Cannot be made in this build.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Verified {
    /// Whom it was issued to.
    pub principal: Principal,
    /// The roles.
    pub roles: Vec<String>,
    /// When it ends.
    pub expires: SystemTime,
    never: Infallible,
}

fn absent() -> BusError {
    invalid("tokens need the feature `auth`, which this build of whispeer does not have".into())
}
