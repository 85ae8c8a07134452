//! What is spoken on a network: over TCP frames as they are, TLS, or WebSocket over either; and QUIC.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

#[cfg(any(feature = "tls", feature = "websocket"))]
use super::Opening;
#[cfg(feature = "quic")]
use super::quic::{self, QuicListener};
use super::socket::Socket;
use super::tcp::{self, TcpListener};
#[cfg(feature = "tls")]
use super::tls::{self, LiveTls, Spoken};
#[cfg(feature = "websocket")]
use super::websocket::{self, Rules, WebSocketOptions};
use super::{Accepted, Address, ConnectOptions, Endpoint, Link, Listener, PassedSocket, Peer, resume};
use crate::auth::Principal;
use crate::error::{BusError, BusResult};

/// What a bus needs to know to listen on a network.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListenOptions {
    /// Anyone may connect, also where nobody is asked who he is.
    pub(crate) anyone: bool,
    /// Without it there is no TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<LiveTls>>,
    #[cfg(feature = "websocket")]
    pub(crate) websocket: WebSocketOptions,
}

/// Listens on an address of a network: by the sockets that somebody else has made for it, or by ones made here if there are
/// none; with port 0 the system chooses one for these.
///
/// # Errors
/// [`BusError::AddressInUse`] and [`BusError::Listen`]; [`BusError::NoRuntime`] outside a Tokio runtime.
pub(crate) fn listen(
    address: &Address,
    passed: Vec<PassedSocket>,
    options: &ListenOptions,
) -> BusResult<Box<dyn Listener>> {
    match address {
        #[cfg(feature = "quic")]
        Address::Quic(_) => Ok(Box::new(QuicListener::new(address, passed, options)?)),
        #[cfg(not(feature = "quic"))]
        Address::Quic(_) => {
            Err(BusError::Listen { address: address.to_string(), reason: NO_QUIC.into(), source: None })
        }
        _ => Ok(Box::new(NetworkListener::new(address, passed, options)?)),
    }
}

#[cfg(not(feature = "quic"))]
const NO_QUIC: &str = "whispeer was built without the feature `quic`";

/// What is spoken over the connections of one listener.
#[derive(Debug)]
enum Protocol {
    Frames,
    #[cfg(feature = "tls")]
    Tls(Arc<LiveTls>),
    #[cfg(feature = "websocket")]
    WebSocket(Arc<Rules>),
    #[cfg(all(feature = "tls", feature = "websocket"))]
    WebSocketOverTls(Arc<Rules>, Arc<LiveTls>),
}

/// Accepts TCP connections on one address of a network.
#[derive(Debug)]
struct NetworkListener {
    tcp: TcpListener,
    protocol: Protocol,
    address: Address,
}

impl NetworkListener {
    fn new(address: &Address, passed: Vec<PassedSocket>, options: &ListenOptions) -> BusResult<Self> {
        let Some(endpoint) = address.endpoint() else {
            return Err(BusError::Listen {
                address: address.to_string(),
                reason: "it is no port of a host".into(),
                source: None,
            });
        };
        let (protocol, proves) = Protocol::of(address, options)?;
        let loopback_only = !options.anyone && !proves;
        let tcp = match passed.is_empty() {
            true => TcpListener::bind(endpoint, address, loopback_only)?,
            false => TcpListener::passed(passed, address, loopback_only)?,
        };
        let address = address.with_port(tcp.port());
        Ok(Self { tcp, protocol, address })
    }
}

impl Protocol {
    /// What is spoken at an address, and whether everybody who speaks it proves who he is.
    fn of(address: &Address, options: &ListenOptions) -> BusResult<(Self, bool)> {
        let failed = |reason: &str| BusError::Listen {
            address: address.to_string(),
            reason: reason.into(),
            source: None,
        };
        #[cfg(feature = "tls")]
        let tls = || {
            let tls = options.tls.as_ref().ok_or_else(|| {
                failed(
                    "TLS needs a certificate and its key (`BusBuilder::tls`, `--tls-cert` and `--tls-key`); \
                     `whispeer certs` makes them",
                )
            })?;
            BusResult::Ok((Arc::clone(tls), tls.source().requires_clients_to_prove()))
        };
        #[cfg(not(any(feature = "tls", feature = "websocket")))]
        let _ = options;
        #[cfg(not(feature = "tls"))]
        let without_tls = || failed("whispeer was built without the feature `tls`");
        match address {
            #[cfg(feature = "tls")]
            Address::Tls(_) => tls().map(|(tls, proves)| (Self::Tls(tls), proves)),
            #[cfg(not(feature = "tls"))]
            Address::Tls(_) => Err(without_tls()),
            #[cfg(feature = "websocket")]
            Address::WebSocket(address) => {
                let rules = Arc::new(Rules::new(address, &options.websocket)?);
                match address.is_secure() {
                    false => Ok((Self::WebSocket(rules), false)),
                    #[cfg(feature = "tls")]
                    true => tls().map(|(tls, proves)| (Self::WebSocketOverTls(rules, tls), proves)),
                    #[cfg(not(feature = "tls"))]
                    true => Err(without_tls()),
                }
            }
            #[cfg(not(feature = "websocket"))]
            Address::WebSocket(_) => Err(failed("whispeer was built without the feature `websocket`")),
            _ => Ok((Self::Frames, false)),
        }
    }
}

impl Listener for NetworkListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let (socket, address) = ready!(self.tcp.poll_accept(context))?;
        Poll::Ready(Ok(match &self.protocol {
            Protocol::Frames => {
                let peer = Peer::new(Principal::Network { address }, "tcp");
                Accepted::Open { link: resume::link(socket), peer }
            }
            #[cfg(feature = "tls")]
            Protocol::Tls(tls) => {
                let tls = Arc::clone(tls);
                let handshake = Box::pin(async move {
                    let (stream, peer) = tls::accept(socket, address, &tls, Spoken::Frames, "tls").await?;
                    Ok((resume::link(stream), peer))
                });
                Accepted::Opening(Opening { remote: address.to_string(), validated: true, handshake })
            }
            #[cfg(feature = "websocket")]
            Protocol::WebSocket(rules) => {
                let rules = Arc::clone(rules);
                let handshake = Box::pin(async move {
                    let peer = Peer::new(Principal::Network { address }, "ws");
                    Ok((resume::link(websocket::accept(socket, &rules).await?), peer))
                });
                Accepted::Opening(Opening { remote: address.to_string(), validated: true, handshake })
            }
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Protocol::WebSocketOverTls(rules, tls) => {
                let (rules, tls) = (Arc::clone(rules), Arc::clone(tls));
                let handshake = Box::pin(async move {
                    let (stream, peer) = tls::accept(socket, address, &tls, Spoken::Http, "wss").await?;
                    Ok((resume::link(websocket::accept(stream, &rules).await?), peer))
                });
                Accepted::Opening(Opening { remote: address.to_string(), validated: true, handshake })
            }
        }))
    }

    fn local_addr(&self) -> &Address {
        &self.address
    }
}

/// Connects to an address of a network.
///
/// # Cancel safety
/// Dropping the future closes the connection.
///
/// # Errors
/// [`BusError::Connect`]; [`BusError::InvalidSettings`] for options that cannot be used.
pub(super) async fn connect(address: &Address, options: &ConnectOptions) -> BusResult<Link> {
    let failed = |reason: String, error: Option<io::Error>| BusError::Connect {
        address: address.to_string(),
        reason,
        source: error.map(Arc::new),
    };
    let Some(endpoint) = address.endpoint() else {
        return Err(failed("it is no port of a host".into(), None));
    };
    match address {
        #[cfg(feature = "tls")]
        Address::Tls(_) => {
            let socket = tcp::connect(endpoint, address).await?;
            match tls::connect(socket, endpoint.host(), options.tls.clone(), Spoken::Frames).await? {
                Ok(stream) => Ok(resume::link(stream)),
                Err(error) => Err(failed(error.to_string(), Some(error))),
            }
        }
        #[cfg(feature = "websocket")]
        Address::WebSocket(websocket) => {
            let linked = match websocket.is_secure() {
                false => {
                    let socket = connect_plain(endpoint, address, options).await?;
                    websocket::connect(socket, websocket).await.map(resume::link)
                }
                #[cfg(feature = "tls")]
                true => {
                    let socket = tcp::connect(endpoint, address).await?;
                    match tls::connect(socket, endpoint.host(), options.tls.clone(), Spoken::Http).await? {
                        Ok(stream) => websocket::connect(stream, websocket).await.map(resume::link),
                        Err(error) => Err(error),
                    }
                }
                #[cfg(not(feature = "tls"))]
                true => return Err(failed("whispeer was built without the feature `tls`".into(), None)),
            };
            linked.map_err(|error| failed(error.to_string(), Some(error)))
        }
        #[cfg(not(feature = "websocket"))]
        Address::WebSocket(_) => {
            Err(failed("whispeer was built without the feature `websocket`".into(), None))
        }
        #[cfg(not(feature = "tls"))]
        Address::Tls(_) => {
            let _ = options;
            Err(failed("whispeer was built without the feature `tls`".into(), None))
        }
        #[cfg(feature = "quic")]
        Address::Quic(_) => quic::connect(endpoint, address, options.tls.clone()).await,
        #[cfg(not(feature = "quic"))]
        Address::Quic(_) => Err(failed(NO_QUIC.into(), None)),
        _ => Ok(resume::link(connect_plain(endpoint, address, options).await?)),
    }
}

/// Connects without encryption, unless others would see what they may not.
async fn connect_plain(
    endpoint: &Endpoint,
    address: &Address,
    options: &ConnectOptions,
) -> BusResult<Socket> {
    let socket = tcp::connect(endpoint, address).await?;
    if options.confidential && !socket.is_local() {
        return Err(BusError::Connect {
            address: address.to_string(),
            reason:
                "credentials are not sent to another host unencrypted; use tls:// or wss://, or show none"
                    .into(),
            source: None,
        });
    }
    Ok(socket)
}
