//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Incoming, ServerConfig};
use rustls::pki_types::CertificateDer;

use super::drive::{Driven, lock};
use super::endpoint::Endpoint;
use super::explain::explain;
use super::stream::QuicStream;
use super::{speaks_frames, transport};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::transport::network::ListenOptions;
use crate::transport::passed::{PassedSocket, take_all};
use crate::transport::tls::{self, LiveTls, ShownCertificate, Spoken};
use crate::transport::{Accepted, Address, Listener, Opened, Opening, resume, tcp};

/// Accepts QUIC connections on all addresses of one endpoint.
pub(in crate::transport) struct QuicListener {
    sockets: Vec<Socket>,
    /// Which of them is asked first, so that none starves the others.
    next: usize,
    certificates: Arc<Certificates>,
    /// Handshakes that have been begun and have not ended.
    opening: Arc<AtomicUsize>,
    address: Address,
}

/// One of the addresses.
struct Socket {
    endpoint: Arc<Endpoint>,
    next: Pin<Box<dyn Future<Output = Option<Incoming>> + Send>>,
}

impl QuicListener {
    /// Listens by the sockets that were passed, or, without any, on all addresses that the endpoint's host stands for;
    /// with port 0 the system chooses one.
    ///
    /// # Errors
    /// [`BusError::AddressInUse`] and [`BusError::Listen`]; [`BusError::NoRuntime`] outside a Tokio runtime.
    pub(in crate::transport) fn new(
        address: &Address,
        passed: Vec<PassedSocket>,
        options: &ListenOptions,
    ) -> BusResult<Self> {
        let failed = |reason: &str| BusError::Listen {
            address: address.to_string(),
            reason: reason.to_owned(),
            source: None,
        };
        let endpoint = address.endpoint().ok_or_else(|| failed("it is no port of a host"))?;
        let Some(tls) = &options.tls else {
            return Err(failed(
                "QUIC needs a certificate and its key (`BusBuilder::tls`, `--tls-cert` and `--tls-key`); \
                 `whispeer certs` makes them",
            ));
        };
        let proves = tls.source().requires_clients_to_prove();
        let certificates = Arc::new(Certificates::new(Arc::clone(tls)).map_err(|reason| failed(&reason))?);
        let server = certificates.current().map_err(|reason| failed(&reason))?;
        let loopback_only = !options.anyone && !proves;
        let config = || Some(ServerConfig::clone(&server));
        let (port, sockets) = match passed.is_empty() {
            true => tcp::bind_all(endpoint, address, loopback_only, |local| {
                let endpoint = Endpoint::bind(local, config())?;
                Ok((endpoint.local_addr()?, Socket::new(endpoint)))
            }),
            false => take_all(passed, address, loopback_only, |socket| match socket {
                PassedSocket::Udp(socket) if socket.peer_addr().is_ok() => {
                    Err(io::Error::other("it hears one peer only, to which it is connected"))
                }
                PassedSocket::Udp(socket) => Ok(Socket::new(Endpoint::over(socket, config())?)),
                PassedSocket::Tcp(_) => Err(io::Error::other("it is one of TCP, and QUIC needs one of UDP")),
            }),
        }?;
        let (opening, address) = (Arc::default(), address.with_port(port));
        Ok(Self { sockets, next: 0, certificates, opening, address })
    }

    /// What becomes of somebody who wants to connect; `None` if he has to come again.
    fn admit(&self, endpoint: &Arc<Endpoint>, incoming: Incoming) -> Option<Opening> {
        let many = self.opening.load(Ordering::Relaxed) >= limits::QUIC_UNVALIDATED;
        let validated = incoming.remote_address_validated();
        if many && !validated {
            // Who has only made up where he comes from never does.
            let _ = incoming.retry();
            return None;
        }
        let remote = canonical(incoming.remote_address());
        let counted = Counted::new(&self.opening);
        let (certificates, endpoint) = (Arc::clone(&self.certificates), Arc::clone(endpoint));
        let handshake = Box::pin(async move {
            let _counted = counted;
            accept(incoming, remote, &certificates, endpoint).await
        });
        Some(Opening { remote: remote.to_string(), validated, handshake })
    }
}

impl Socket {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        let next = next(&endpoint);
        Self { endpoint, next }
    }
}

fn next(endpoint: &Endpoint) -> Pin<Box<dyn Future<Output = Option<Incoming>> + Send>> {
    let quinn = endpoint.quinn.clone();
    Box::pin(async move { quinn.accept().await })
}

impl Listener for QuicListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let count = self.sockets.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            while let Some(socket) = self.sockets.get_mut(index)
                && let Poll::Ready(incoming) = socket.next.as_mut().poll(context)
            {
                socket.next = next(&socket.endpoint);
                let Some(incoming) = incoming else {
                    return Poll::Ready(Err(io::Error::other("the socket cannot be read any more")));
                };
                let endpoint = Arc::clone(&socket.endpoint);
                if let Some(opening) = self.admit(&endpoint, incoming) {
                    self.next = (index + 1) % count;
                    return Poll::Ready(Ok(Accepted::Opening(opening)));
                }
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> &Address {
        &self.address
    }
}

impl Drop for QuicListener {
    /// Connections that are there keep their socket; nobody comes in any more.
    fn drop(&mut self) {
        for socket in &self.sockets {
            socket.endpoint.quinn.set_server_config(None);
        }
    }
}

/// Counts one handshake for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a bus proves and whom it lets in, as quinn wants it.
struct Certificates {
    live: Arc<LiveTls>,
    /// Made of what was live when it was last looked at.
    made: Mutex<(Arc<rustls::ServerConfig>, Arc<ServerConfig>)>,
}

impl Certificates {
    fn new(live: Arc<LiveTls>) -> Result<Self, String> {
        let config = live.config(Spoken::Frames);
        let server = server_config(&config)?;
        Ok(Self { live, made: Mutex::new((config, server)) })
    }

    fn current(&self) -> Result<Arc<ServerConfig>, String> {
        let config = self.live.config(Spoken::Frames);
        let mut made = lock(&self.made);
        if !Arc::ptr_eq(&config, &made.0) {
            *made = (Arc::clone(&config), server_config(&config)?);
        }
        Ok(Arc::clone(&made.1))
    }
}

fn server_config(config: &Arc<rustls::ServerConfig>) -> Result<Arc<ServerConfig>, String> {
    let crypto = QuicServerConfig::try_from(Arc::clone(config)).map_err(|error| error.to_string())?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(transport(1))
        .max_incoming(limits::HANDSHAKES)
        .incoming_buffer_size(limits::QUIC_INCOMING.into())
        .incoming_buffer_size_total(u64::from(limits::QUIC_INCOMING) * limits::HANDSHAKES as u64);
    Ok(Arc::new(server))
}

/// Does the handshake of a bus with whoever connects.
async fn accept(
    incoming: Incoming,
    remote: SocketAddr,
    certificates: &Certificates,
    endpoint: Arc<Endpoint>,
) -> Opened {
    let failed = |reason: String| BusError::Disconnected { reason: format!("no QUIC connection: {reason}") };
    let number = certificates.live.number();
    let config = certificates.current().map_err(failed)?;
    let (connecting, mut drive) = endpoint.open(|_| incoming.accept_with(config));
    let connecting = connecting.map_err(|error| failed(explain(&error)))?;
    let connection = match drive.until(connecting).await {
        Ok(connection) => connection,
        Err(error) => {
            drive.linger().await;
            return Err(failed(explain(&error)));
        }
    };
    let mut driven = Driven { connection, drive };
    let Driven { connection, drive } = &mut driven;
    if !speaks_frames(connection) {
        return Err(failed("the client did not ask for whispeer".into()));
    }
    let shown = connection.peer_identity();
    let shown = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let shown = ShownCertificate::new(shown.as_deref().map(Vec::as_slice), &certificates.live, number);
    let peer = tls::peer(shown, remote, "quic")?;
    let stream = drive.until(connection.accept_bi()).await.map_err(|error| failed(explain(&error)))?;
    let stream = QuicStream::new(driven, stream, endpoint);
    Ok((resume::link(stream), peer))
}

/// An address of IPv4 as such, also where it came in over a socket of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
