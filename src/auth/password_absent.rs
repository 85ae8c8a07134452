//! The face of passwords in a build without the feature `auth`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::settings::invalid;
use super::{Principal, Secret};
use crate::error::{BusError, BusResult};

/// Fails: the feature is not enabled.
///
/// # Errors
/// Always [`BusError::InvalidSettings`].
pub fn hash_password(_password: &Secret) -> BusResult<String> {
    Err(absent())
}

/// Cannot be made in this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash(Infallible);

impl PasswordHash {
    /// Fails: the feature is not enabled.
    ///
    /// # Errors
    /// Always [`BusError::InvalidSettings`].
    pub fn parse(_text: &str) -> BusResult<Self> {
        Err(absent())
    }

    /// There is none to ask.
    ///
    /// # Errors
    /// None.
    pub fn matches(&self, _password: &Secret) -> BusResult<bool> {
        match self.0 {}
    }
}

/// Has nothing to check in this build.
#[derive(Debug, Clone, Default)]
pub struct Passwords {}

impl Passwords {
    /// Checks nothing.
    #[must_use]
    pub fn new(_at_once: usize, _wait: Duration) -> Self {
        Self {}
    }

    /// There is no hash to check.
    ///
    /// # Errors
    /// None.
    pub(super) async fn check(
        &self,
        _peer: &Principal,
        _name: &str,
        hash: Arc<PasswordHash>,
        _is_theirs: bool,
        _password: Secret,
    ) -> BusResult<bool> {
        match hash.0 {}
    }
}

fn absent() -> BusError {
    invalid("passwords need the feature `auth`, which this build of whispeer does not have".into())
}
