//! Where a bus listens: a Unix socket in the directory of the run, or a port of the loopback.

use std::fmt::{self, Display, Formatter};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Where a bus listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port on 127.0.0.1.
    Tcp(u16),
}

impl Address {
    /// A port of the loopback that nobody listens on now.
    ///
    /// # Errors
    /// When the system has none.
    pub fn free_port() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot find a free port on the loopback")?;
        Ok(Self::Tcp(listener.local_addr()?.port()))
    }

    /// Whether a connection to it succeeds now.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Unix(path) => UnixStream::connect(path).is_ok(),
            Self::Tcp(_) => self
                .tcp()
                .is_ok_and(|port| TcpStream::connect(port).is_ok()),
        }
    }

    /// The path of the Unix socket.
    ///
    /// # Errors
    /// When it is none.
    pub fn path(&self) -> Result<&Path> {
        match self {
            Self::Unix(path) => Ok(path),
            Self::Tcp(_) => bail!("{self} is not a Unix socket"),
        }
    }

    /// The address for TCP.
    ///
    /// # Errors
    /// When it is a Unix socket.
    pub fn tcp(&self) -> Result<SocketAddr> {
        match self {
            Self::Unix(_) => bail!("{self} is not a port"),
            Self::Tcp(port) => Ok((Ipv4Addr::LOCALHOST, *port).into()),
        }
    }
}

impl Display for Address {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(output, "unix:{}", path.display()),
            Self::Tcp(port) => write!(output, "tcp:127.0.0.1:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_open_once_somebody_listens_there() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("socket"));
        assert!(!address.is_open());
        let _listener = std::os::unix::net::UnixListener::bind(address.path().unwrap()).unwrap();
        assert!(address.is_open());
    }
}
