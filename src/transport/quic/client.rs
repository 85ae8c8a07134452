//! Making a connection.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectError, NoneTokenStore};
use tokio::task::spawn_blocking;

use super::drive::Driven;
use super::endpoint::Endpoint;
use super::explain::as_io;
use super::stream::QuicStream;
use super::{speaks_frames, transport};
use crate::error::{BusError, BusResult};
use crate::transport::tcp;
use crate::transport::tls::{ClientTls, Spoken};
use crate::transport::{Address, Link, resume};

/// Connects to one of the addresses that the endpoint's host stands for.
///
/// # Cancel safety
/// Dropping the future closes the connection.
///
/// # Errors
/// [`BusError::Connect`] that says what each of the addresses answered; [`BusError::InvalidSettings`] for files
/// that cannot be used.
pub(in crate::transport) async fn connect(
    endpoint: &crate::transport::Endpoint,
    address: &Address,
    tls: ClientTls,
) -> BusResult<Link> {
    let config = match spawn_blocking(move || tls.load(Spoken::Frames)).await {
        Ok(config) => config?,
        // It does not panic, and nobody aborts it: the runtime ends.
        Err(_) => return Err(BusError::Closed { what: "the runtime".into() }),
    };
    let crypto =
        QuicClientConfig::try_from(config).map_err(|error| BusError::InvalidSettings(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(0)).token_store(Arc::new(NoneTokenStore));
    let stream = tcp::connect_any(endpoint, address, |to| open(to, endpoint.host(), config.clone())).await?;
    Ok(resume::link(stream))
}

/// A connection from a socket of its own, and its stream.
async fn open(to: SocketAddr, host: &str, config: ClientConfig) -> io::Result<QuicStream> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = Endpoint::bind(SocketAddr::new(any, 0), None)?;
    let (connecting, mut drive) = endpoint.open(|quinn| quinn.connect_with(config, to, host));
    let connecting =
        connecting.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, unable(&error, host)))?;
    let connection = drive.until(connecting).await.map_err(|error| as_io(&error))?;
    let mut driven = Driven { connection, drive };
    let Driven { connection, drive } = &mut driven;
    if !speaks_frames(connection) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the other side does not speak whispeer"));
    }
    let stream = drive.until(connection.open_bi()).await.map_err(|error| as_io(&error))?;
    Ok(QuicStream::new(driven, stream, endpoint))
}

fn unable(error: &ConnectError, host: &str) -> String {
    match error {
        ConnectError::InvalidServerName(_) => format!("\"{host}\" is no name that a certificate could have"),
        error => error.to_string(),
    }
}
