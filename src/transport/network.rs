//! What is spoken over TCP: frames as they are, or TLS.

use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::task::{Context, Poll, ready};

#[cfg(feature = "tls")]
use super::Opening;
use super::tcp::{self, TcpListener};
#[cfg(feature = "tls")]
use super::tls::{self, LiveTls};
use super::{Accepted, Address, ConnectOptions, Link, Listener, Peer, resume};
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
}

/// What is spoken over the connections of one listener.
#[derive(Debug)]
enum Protocol {
    Frames,
    #[cfg(feature = "tls")]
    Tls(Arc<LiveTls>),
}

/// Accepts connections on one address of a network.
#[derive(Debug)]
pub(crate) struct NetworkListener {
    tcp: TcpListener,
    protocol: Protocol,
    address: Address,
}

impl NetworkListener {
    /// Listens on an address; with port 0 the system chooses one.
    ///
    /// # Errors
    /// [`BusError::AddressInUse`] and [`BusError::Listen`]; [`BusError::NoRuntime`] outside a Tokio runtime.
    pub(crate) fn bind(address: &Address, options: &ListenOptions) -> BusResult<Self> {
        let Some(endpoint) = address.endpoint() else {
            return Err(BusError::Listen {
                address: address.to_string(),
                reason: "it is no port of a host".into(),
                source: None,
            });
        };
        let (protocol, proves) = Protocol::of(address, options)?;
        let tcp = TcpListener::bind(endpoint, address, !options.anyone && !proves)?;
        let address = address.with_port(tcp.port());
        Ok(Self { tcp, protocol, address })
    }
}

impl Protocol {
    /// What is spoken at an address, and whether everybody who speaks it proves who he is.
    fn of(address: &Address, options: &ListenOptions) -> BusResult<(Self, bool)> {
        match address {
            #[cfg(feature = "tls")]
            Address::Tls(_) => match &options.tls {
                Some(tls) => Ok((Self::Tls(Arc::clone(tls)), tls.source().requires_clients_to_prove())),
                None => Err(BusError::Listen {
                    address: address.to_string(),
                    reason: "TLS needs a certificate and its key (`BusBuilder::tls`, `--tls-cert` and \
                             `--tls-key`); `whispeer certs` makes them"
                        .into(),
                    source: None,
                }),
            },
            #[cfg(not(feature = "tls"))]
            Address::Tls(_) => Err(BusError::Listen {
                address: address.to_string(),
                reason: "whispeer was built without the feature `tls`".into(),
                source: None,
            }),
            _ => Ok((Self::Frames, false)),
        }
    }
}

impl Listener for NetworkListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let (socket, address) = ready!(self.tcp.poll_accept(context))?;
        Poll::Ready(Ok(match &self.protocol {
            Protocol::Frames => {
                let peer = Peer { principal: Principal::Network { address }, transport: "tcp" };
                Accepted::Open { link: resume::link(socket), peer }
            }
            #[cfg(feature = "tls")]
            Protocol::Tls(tls) => {
                let tls = Arc::clone(tls);
                let handshake = Box::pin(async move {
                    let (stream, principal) = tls::accept(socket, address, &tls).await?;
                    Ok((resume::link(stream), Peer { principal, transport: "tls" }))
                });
                Accepted::Opening(Opening { remote: address.to_string(), handshake })
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
            match tls::connect(socket, endpoint.host(), options.tls.clone()).await? {
                Ok(stream) => Ok(resume::link(stream)),
                Err(error) => Err(failed(error.to_string(), Some(error))),
            }
        }
        #[cfg(not(feature = "tls"))]
        Address::Tls(_) => {
            let _ = options;
            Err(failed("whispeer was built without the feature `tls`".into(), None))
        }
        _ => {
            let socket = tcp::connect(endpoint, address).await?;
            if options.confidential && !socket.is_local() {
                return Err(failed(
                    "credentials are not sent to another host unencrypted; use tls://, or show none".into(),
                    None,
                ));
            }
            Ok(resume::link(socket))
        }
    }
}
