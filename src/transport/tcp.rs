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

use super::passed::{PassedSocket, take_all};
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
        let (port, listeners) = bind_all(endpoint, address, loopback_only, |local| {
            let listener = bind(local)?;
            Ok((listener.local_addr()?, listener))
        })?;
        Ok(Self { listeners, next: 0, port })
    }

    /// Accepts on sockets that somebody else has made, as [`bind`](Self::bind) does on those made here.
    ///
    /// # Errors
    /// [`BusError::Listen`] for `address`, also for what does not listen; [`BusError::NoRuntime`] outside a Tokio runtime.
    pub(super) fn passed(
        sockets: Vec<PassedSocket>,
        address: &Address,
        loopback_only: bool,
    ) -> BusResult<Self> {
        let (port, listeners) = take_all(sockets, address, loopback_only, |socket| match socket {
            PassedSocket::Tcp(listener) if SockRef::from(&listener).is_listener()? => {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener)
            }
            PassedSocket::Tcp(_) => Err(io::Error::other("it does not listen")),
            PassedSocket::Udp(_) => Err(io::Error::other("it is one of UDP, and TCP is spoken here")),
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

/// Binds each of the addresses that the endpoint's host stands for by `bind`, which tells what it bound; returns what it
/// made, and the port that all of them have.
///
/// # Errors
/// Those of [`TcpListener::bind`].
pub(super) fn bind_all<T>(
    endpoint: &Endpoint,
    address: &Address,
    loopback_only: bool,
    bind: impl FnMut(SocketAddr) -> io::Result<(SocketAddr, T)>,
) -> BusResult<(u16, Vec<T>)> {
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
    if loopback_only {
        check_loopback(address, &addresses)?;
    }
    bind_each(&addresses, endpoint.port(), bind).map_err(failed)
}

/// Makes sure that other hosts do not reach a bus that asks nobody who he is.
///
/// # Errors
/// [`BusError::Listen`] for `address`.
pub(super) fn check_loopback(address: &Address, addresses: &[SocketAddr]) -> BusResult<()> {
    if addresses.iter().all(|address| address.ip().to_canonical().is_loopback()) {
        return Ok(());
    }
    Err(BusError::Listen {
        address: address.to_string(),
        reason: "clients of other hosts would reach a bus that asks nobody who he is; ask clients for \
                 certificates (tls:// with `ServerTls::client_ca_file`, `--tls-client-ca`), listen on a \
                 loopback address, or allow anyone (`BusBuilder::allow_anyone`, `--allow-anyone`)"
            .into(),
        source: None,
    })
}

/// Binds every address that this host has to one port, which the system chooses if it is 0.
///
/// # Errors
/// The first error; that it has none of them.
fn bind_each<T>(
    addresses: &[SocketAddr],
    port: u16,
    mut bind: impl FnMut(SocketAddr) -> io::Result<(SocketAddr, T)>,
) -> io::Result<(u16, Vec<T>)> {
    // What was bound in vain is kept until the end, so that the system chooses another port each time.
    let mut in_vain = Vec::new();
    loop {
        let mut bound = Vec::new();
        match bind_once(addresses, port, &mut bind, &mut bound) {
            // Somebody else has the port that was free at the first address at another one.
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && port == 0
                    && !bound.is_empty()
                    && in_vain.len() + 1 < limits::PORT_ATTEMPTS =>
            {
                in_vain.push(bound);
            }
            port => return Ok((port?, bound)),
        }
    }
}

fn bind_once<T>(
    addresses: &[SocketAddr],
    mut port: u16,
    bind: &mut impl FnMut(SocketAddr) -> io::Result<(SocketAddr, T)>,
    bound: &mut Vec<T>,
) -> io::Result<u16> {
    let mut missing = None;
    for mut local in addresses.iter().copied() {
        local.set_port(port);
        match bind(local) {
            Ok((local, made)) => {
                // All addresses of the host have the port that the first one got.
                port = local.port();
                bound.push(made);
            }
            // A name may stand for an address, or be of a family, that this host does not have.
            Err(error) if is_missing(&error) => {
                tracing::debug!(%local, %error, "this host does not have one of the addresses");
                missing = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(port),
    }
}

/// Whether the host has not got the address, or nothing at all of its family.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);
    const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// Binds of a host that says this of addresses of IPv6, and where somebody has port 1.
    fn without_ipv6(missing: i32) -> impl FnMut(SocketAddr) -> io::Result<(SocketAddr, ())> {
        move |local| match local {
            SocketAddr::V6(_) => Err(io::Error::from_raw_os_error(missing)),
            SocketAddr::V4(_) if local.port() == 1 => Err(io::ErrorKind::AddrInUse.into()),
            SocketAddr::V4(_) => Ok((SocketAddr::new(local.ip(), 4242), ())),
        }
    }

    #[test]
    fn an_address_that_the_host_lacks_is_left_out_unless_it_lacks_all() {
        for missing in [libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT] {
            let port = |addresses: &[SocketAddr], port| {
                bind_each(addresses, port, without_ipv6(missing)).map(|(port, bound)| (port, bound.len()))
            };
            assert_eq!(port(&[V6, V4], 0).unwrap(), (4242, 1));
            assert_eq!(port(&[V4, V6], 0).unwrap(), (4242, 1));
            assert_eq!(port(&[V6], 0).unwrap_err().raw_os_error(), Some(missing));
            assert_eq!(port(&[V6, V4], 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }

    /// Binds of a system that chooses port after port for the first family, where the ports below `free` of the second
    /// are somebody else's; counts.
    fn crowded(free: u16, asked: &mut u16) -> impl FnMut(SocketAddr) -> io::Result<(SocketAddr, ())> {
        move |local| match local.port() {
            0 => {
                *asked += 1;
                Ok((SocketAddr::new(local.ip(), *asked), ()))
            }
            port if port < free => Err(io::ErrorKind::AddrInUse.into()),
            _ => Ok((local, ())),
        }
    }

    #[test]
    fn a_port_that_is_not_free_at_all_addresses_is_chosen_anew_for_a_while() {
        let mut asked = 0;
        let (port, bound) = bind_each(&[V6, V4], 0, crowded(5, &mut asked)).unwrap();
        assert_eq!((port, bound.len(), asked), (5, 2, 5));
        let mut asked = 0;
        let error = bind_each(&[V6, V4], 0, crowded(u16::MAX, &mut asked)).unwrap_err();
        assert_eq!((error.kind(), usize::from(asked)), (io::ErrorKind::AddrInUse, limits::PORT_ATTEMPTS));
        // One that was asked for is that one or none.
        assert!(bind_each(&[V6, V4], 3, crowded(5, &mut asked)).is_err());
    }
}
