//! WebSocket over TCP or TLS (RFC 6455): for browsers, and where only HTTP comes through.
//!
//! | file | what it holds |
//! |---|---|
//! | `frames` | WebSocket's frames, taken apart where they were read, and their headers; no I/O |
//! | `stream` | the stream of bytes that binary messages carry |
//! | `accept` | the handshake of a bus, and whom it refuses |
//! | `connect` | the handshake of a client |
//! | `holding` | a connection with its place among others |
//! | `http` | reading and writing the heads of both |
//!
//! The frames of whispeer are the content of binary messages, one stream of bytes whose division into messages
//! means nothing. HTTP and the headers of WebSocket's frames are tungstenite's. Its socket is not used: that puts
//! each message together in a buffer which grows to the largest there was, and then stays with an idle connection.

mod accept;
mod connect;
mod frames;
mod holding;
mod http;
mod stream;

use std::io;

use super::socket::Socket;
use super::{Link, resume};

pub(super) use accept::{Rules, accept};
pub(super) use connect::connect;

/// The sub-protocol that both sides name in the handshake (`Sec-WebSocket-Protocol`): frames of version 1, in binary messages.
pub const WEBSOCKET_PROTOCOL: &str = "whispeer.v1";

/// The link over a WebSocket whose handshake has been done by whoever serves HTTP on that connection, with
/// [`WEBSOCKET_PROTOCOL`] as its sub-protocol: the bus's end. [`BusView::attach`](crate::bus::BusView::attach) takes it.
///
/// Nothing of what follows the request may have been read from the connection; a client waits for the answer before it sends
/// something.
///
/// # Errors
/// The system's error, also outside of a Tokio runtime with I/O.
///
/// # Examples
/// ```
/// use tokio::net::{TcpListener, TcpStream};
/// use whispeer::transport::websocket_link;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let _client = TcpStream::connect(listener.local_addr()?).await?;
/// let (stream, _address) = listener.accept().await?;
/// // Here HTTP would be spoken, up to the answer 101.
/// let link = websocket_link(stream)?;
/// assert_eq!(link.sender.form(), whispeer::transport::Form::Bytes);
/// # Ok(())
/// # }
/// ```
pub fn websocket_link(stream: tokio::net::TcpStream) -> io::Result<Link> {
    websocket_link_holding(stream, ())
}

/// [`websocket_link`] over a connection that holds something, as its place among those that whoever serves HTTP lets in at once. It
/// is dropped with the connection: the link may outlive that one and go on over another.
///
/// # Errors
/// As [`websocket_link`].
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use tokio::net::{TcpListener, TcpStream};
/// use tokio::sync::Semaphore;
/// use whispeer::transport::websocket_link_holding;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let places = Arc::new(Semaphore::new(1));
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let _client = TcpStream::connect(listener.local_addr()?).await?;
/// let (stream, _address) = listener.accept().await?;
/// let place = Arc::clone(&places).acquire_owned().await?;
/// let link = websocket_link_holding(stream, place)?;
/// assert_eq!(places.available_permits(), 0);
/// drop(link);
/// assert_eq!(places.available_permits(), 1);
/// # Ok(())
/// # }
/// ```
pub fn websocket_link_holding(
    stream: tokio::net::TcpStream,
    held: impl Send + Sync + 'static,
) -> io::Result<Link> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(io::Error::other("there is no Tokio runtime"));
    }
    let socket = Socket::new(stream.into_std()?)?;
    Ok(resume::link(stream::WebSocket::of_server(holding::Holding::new(socket, held))))
}

/// Whom a bus lets in over WebSocket, beside what its addresses say.
///
/// Pages of browsers can reach a bus wherever the browser's user can, so their origin has to be listed, on the
/// loopback too. Programs that are no browsers send no `Origin` and need not be listed.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
/// use whispeer::transport::WebSocketOptions;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let options = WebSocketOptions::new().origin("https://app.example.com").host("bus.example.com");
/// let bus = Bus::builder().websocket(options).listen(&"ws://localhost:0/bus".parse()?).start()?;
/// Client::connect(&bus.local_addrs()[0].to_string()).await?.ping().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct WebSocketOptions {
    origins: Vec<String>,
    hosts: Vec<String>,
}

impl WebSocketOptions {
    /// No page of a browser comes in, and the bus is addressed by `localhost`, by IP addresses and by the host
    /// that it listens on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets pages of this origin in, such as `https://app.example.com`: scheme, host, and the port if the browser
    /// shows one.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }

    /// Answers requests that are addressed to this host too, such as the name under which a proxy passes them on.
    ///
    /// Others are refused: a page could have given a name of its own the address of the bus, and would count as
    /// being of the same origin (DNS rebinding).
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }
}
