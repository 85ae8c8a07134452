//! TCP.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::socket::Socket;
use super::{Address, Endpoint};
use crate::error::{BusError, BusResult};
use crate::limits;

/// How long a connection is silent before the system asks whether the peer's host is still there, and how long
/// it waits between asking again. Both sides give a sign of life more often; this is for what they have
/// given up.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Connections that the system keeps until they are accepted; it may allow less.
const BACKLOG: i32 = 1024;

/// Accepts TCP connections on all addresses of one endpoint.
#[derive(Debug)]
pub(super) struct TcpListener {
    listeners: Vec<tokio::net::TcpListener>,
    /// Which of them is asked first, so that none starves the others.
    next: usize,
    port: u16,
}

impl TcpListener {
    /// Listens on all addresses that the endpoint's host stands for; with `loopback_only`, none of them may be
    /// one that other hosts can reach. With port 0 the system chooses one.
    ///
    /// # Errors
    /// [`BusError::AddressInUse`] and [`BusError::Listen`] for `address`, which is the endpoint as it was given;
    /// [`BusError::NoRuntime`] outside a Tokio runtime.
    pub(super) fn bind(endpoint: &Endpoint, address: &Address, loopback_only: bool) -> BusResult<Self> {
        let mut listeners = Vec::new();
        let port = bind_all(endpoint, address, loopback_only, |local| {
            let listener = bind(local)?;
            let bound = listener.local_addr()?;
            listeners.push(listener);
            Ok(bound)
        })?;
        Ok(Self { listeners, next: 0, port })
    }

    /// The port that all its addresses have.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the next connection.
    pub(super) fn poll_accept(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Socket, SocketAddr)>> {
        let count = self.listeners.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let Some(listener) = self.listeners.get(index) else { continue };
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                self.next = (index + 1) % count;
                let (stream, address) = accepted?;
                return Poll::Ready(Ok((socket(stream)?, address)));
            }
        }
        Poll::Pending
    }
}

/// Binds each of the addresses that the endpoint's host stands for by `bind`, which tells what it bound; returns the
/// port that all of them have.
///
/// # Errors
/// Those of [`TcpListener::bind`].
pub(super) fn bind_all(
    endpoint: &Endpoint,
    address: &Address,
    loopback_only: bool,
    bind: impl FnMut(SocketAddr) -> io::Result<SocketAddr>,
) -> BusResult<u16> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(BusError::NoRuntime { what: "listening on a network" });
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => BusError::AddressInUse { address: address.to_string() },
        _ => BusError::Listen {
            address: address.to_string(),
            reason: error.to_string(),
            source: Some(Arc::new(error)),
        },
    };
    let addresses: Vec<_> = (endpoint.host(), endpoint.port()).to_socket_addrs().map_err(failed)?.collect();
    if loopback_only && !addresses.iter().all(|address| address.ip().is_loopback()) {
        return Err(BusError::Listen {
            address: address.to_string(),
            reason: "clients of other hosts would reach a bus that asks nobody who he is; ask clients for \
                     certificates (tls:// with `ServerTls::client_ca_file`, `--tls-client-ca`), listen on a \
                     loopback address, or allow anyone (`BusBuilder::allow_anyone`, `--allow-anyone`)"
                .into(),
            source: None,
        });
    }
    bind_each(addresses, endpoint.port(), bind).map_err(failed)
}

/// Binds every address that this host has, and gives the port.
///
/// # Errors
/// The first error; that it has none of them.
fn bind_each(
    addresses: Vec<SocketAddr>,
    mut port: u16,
    mut bind: impl FnMut(SocketAddr) -> io::Result<SocketAddr>,
) -> io::Result<u16> {
    let (mut bound, mut missing) = (false, None);
    for mut local in addresses {
        local.set_port(port);
        match bind(local) {
            // All addresses of the host have the port that the first one got.
            Ok(local) => (port, bound) = (local.port(), true),
            // A name may stand for an address of a family that is switched off here.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::debug!(%local, %error, "this host does not have one of the addresses");
                missing = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if !bound => Err(error),
        _ => Ok(port),
    }
}

fn bind(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let IpAddr::V6(ip) = address.ip() {
        // All addresses of the host means those of IPv4 too; a single one only itself.
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    // Connections of a bus that ran before do not hold the port; another one that listens does.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// Connects to one of the addresses that the endpoint's host stands for: the first that answers, in the order
/// of the system.
///
/// # Cancel safety
/// Dropping the future closes the connection.
///
/// # Errors
/// [`BusError::Connect`] for `address`, which is the endpoint as it was given, that says what each of them
/// answered.
pub(super) async fn connect(endpoint: &Endpoint, address: &Address) -> BusResult<Socket> {
    connect_any(endpoint, address, |to| async move {
        TcpStream::connect(to).await.map_err(explained).and_then(socket)
    })
    .await
}

/// Connects to one of the addresses that the endpoint's host stands for by `connect`, as [`connect`] does. What
/// fails says why in words.
pub(super) async fn connect_any<T, F: Future<Output = io::Result<T>>>(
    endpoint: &Endpoint,
    address: &Address,
    mut connect: impl FnMut(SocketAddr) -> F,
) -> BusResult<T> {
    let failed = |reason: String, error: Option<io::Error>| BusError::Connect {
        address: address.to_string(),
        reason,
        source: error.map(|error| Arc::new(error) as _),
    };
    let resolved = tokio::net::lookup_host((endpoint.host(), endpoint.port())).await;
    let addresses: Vec<_> = match resolved {
        Ok(addresses) => addresses.take(limits::CONNECT_ADDRESSES).collect(),
        Err(error) => return Err(failed(format!("the host is not known: {error}"), Some(error))),
    };
    // One that says nothing must not take all the time that whoever connects has.
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let until = Instant::now() + limits::HANDSHAKE_TIMEOUT;
    let (mut reasons, mut last) = (Vec::new(), None);
    for address in addresses {
        let part = until.saturating_duration_since(Instant::now()) / left.max(1);
        left = left.saturating_sub(1);
        match timeout_at(Instant::now() + part, connect(address)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => {
                reasons.push(format!("{address}: {error}"));
                last = Some(error);
            }
            Err(_) => reasons.push(format!("{address}: no answer within {part:.1?}")),
        }
    }
    let reason = if reasons.is_empty() { "the host has no address".into() } else { reasons.join("; ") };
    Err(failed(reason, last))
}

fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::ConnectionRefused => io::Error::new(kind, "nobody listens there"),
        _ => error,
    }
}

/// A socket that sends at once and notices hosts that are gone.
fn socket(stream: TcpStream) -> io::Result<Socket> {
    let stream = stream.into_std()?;
    stream.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
    Socket::new(OwnedFd::from(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Binds of a host that lacks all addresses of IPv6, and where somebody has port 1.
    fn without_ipv6(local: SocketAddr) -> io::Result<SocketAddr> {
        match local {
            SocketAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
            SocketAddr::V4(_) if local.port() == 1 => Err(io::ErrorKind::AddrInUse.into()),
            SocketAddr::V4(_) => Ok(SocketAddr::new(local.ip(), 4242)),
        }
    }

    #[test]
    fn an_address_that_the_host_lacks_is_left_out_unless_it_lacks_all() {
        let (v6, v4) = ("[::1]:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        assert_eq!(bind_each(vec![v6, v4], 0, without_ipv6).unwrap(), 4242);
        assert_eq!(bind_each(vec![v4, v6], 0, without_ipv6).unwrap(), 4242);
        let none = bind_each(vec![v6], 0, without_ipv6).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::AddrNotAvailable);
        let taken = bind_each(vec![v6, v4], 1, without_ipv6).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
