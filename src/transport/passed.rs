//! Sockets that somebody else has made, such as a service manager that passes them on.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

#[cfg(feature = "tcp")]
use super::{Address, tcp};
#[cfg(feature = "tcp")]
use crate::error::{BusError, BusResult};

/// A bound socket that somebody else has made; see
/// [`BusBuilder::listen_passed`](crate::bus::BusBuilder::listen_passed). A Unix socket needs to be told nothing about
/// what is spoken there: [`UnixListener::from_std`](super::UnixListener::from_std) takes it.
///
/// # Examples
/// ```
/// use whispeer::transport::PassedSocket;
///
/// let passed: PassedSocket = std::net::TcpListener::bind("127.0.0.1:0")?.into();
/// assert_ne!(passed.local_addr()?.port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum PassedSocket {
    /// One that listens, for `tcp://`, `tls://`, `ws://` and `wss://`.
    Tcp(TcpListener),
    /// One for `quic://`.
    Udp(UdpSocket),
}

impl PassedSocket {
    /// The address that it is bound to.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

impl From<TcpListener> for PassedSocket {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UdpSocket> for PassedSocket {
    fn from(socket: UdpSocket) -> Self {
        Self::Udp(socket)
    }
}

/// Makes something of each of the sockets, which together are one address; returns it, and the port that all of them
/// have. With `loopback_only`, none of them may be one that other hosts can reach.
///
/// # Errors
/// [`BusError::Listen`] for `address`; [`BusError::NoRuntime`] outside a Tokio runtime.
#[cfg(feature = "tcp")]
pub(super) fn take_all<T>(
    sockets: Vec<PassedSocket>,
    address: &Address,
    loopback_only: bool,
    mut take: impl FnMut(PassedSocket) -> io::Result<T>,
) -> BusResult<(u16, Vec<T>)> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(BusError::NoRuntime { what: "listening on a network" });
    }
    let failed = |what: &str, error: io::Error| BusError::Listen {
        address: address.to_string(),
        reason: format!("the socket that was passed on{what}: {error}"),
        source: Some(std::sync::Arc::new(error)),
    };
    let mut taken = Vec::with_capacity(sockets.len());
    let mut bound: Vec<SocketAddr> = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let local = socket.local_addr().map_err(|error| failed("", error))?;
        bound.push(local);
        taken.push(take(socket).map_err(|error| failed(&format!(", {local}"), error))?);
    }
    if loopback_only {
        tcp::check_loopback(address, &bound)?;
    }
    let port = bound.first().map_or(0, SocketAddr::port);
    match bound.iter().find(|local| local.port() != port) {
        None => Ok((port, taken)),
        Some(other) => Err(BusError::Listen {
            address: address.to_string(),
            reason: format!(
                "the sockets that were passed on have the ports {port} and {}, and an address has one",
                other.port()
            ),
            source: None,
        }),
    }
}
