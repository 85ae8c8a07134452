//! The face of the Unix transport in a build without the feature `unix`.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::task::{Context, Poll};

use super::{Accepted, Address, Link, Listener};
use crate::error::{BusError, BusResult};

/// How a Unix socket is made.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UnixOptions {}

impl UnixOptions {
    /// Sets the permission bits of the socket file.
    #[must_use]
    pub fn mode(self, _mode: u32) -> Self {
        self
    }
}

/// Cannot be made in this build.
#[derive(Debug)]
pub struct UnixListener(Infallible);

impl UnixListener {
    /// Fails: the feature is not enabled.
    ///
    /// # Errors
    /// Always [`BusError::Listen`].
    pub fn bind(path: &Path, _options: &UnixOptions) -> BusResult<Self> {
        Err(BusError::Listen {
            address: Address::Unix(path.to_owned()).to_string(),
            reason: "whispeer was built without the feature `unix`".into(),
            source: None,
        })
    }

    /// Fails: the feature is not enabled.
    ///
    /// # Errors
    /// Always [`BusError::Listen`].
    #[cfg(unix)]
    pub fn from_std(_listener: std::os::unix::net::UnixListener) -> BusResult<Self> {
        Err(BusError::Listen {
            address: "a socket that was passed on".into(),
            reason: "whispeer was built without the feature `unix`".into(),
            source: None,
        })
    }
}

impl Listener for UnixListener {
    fn poll_accept(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self.0 {}
    }

    fn local_addr(&self) -> &Address {
        match self.0 {}
    }
}

/// Fails: the feature is not enabled.
///
/// # Errors
/// Always [`BusError::Connect`].
pub async fn connect_unix(path: &Path) -> BusResult<Link> {
    Err(BusError::Connect {
        address: Address::Unix(path.to_owned()).to_string(),
        reason: "whispeer was built without the feature `unix`".into(),
        source: None,
    })
}

/// Fails: the feature is not enabled.
pub(super) async fn connect_lasting(path: &Path) -> BusResult<Link> {
    connect_unix(path).await
}
