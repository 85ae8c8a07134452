//! The encrypted stream over a socket.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};
use tokio::task::spawn_blocking;

use super::explain::{as_io, explain};
use super::shown::{self, ShownCertificate};
use super::{ClientTls, LiveTls, Spoken};
use crate::error::{BusError, BusResult};
use crate::transport::channel::Channel;
use crate::transport::socket::Socket;
use crate::transport::{Peer, pool};

/// A stream that is encrypted over a socket.
///
/// What is written is encrypted by whoever writes it; what the socket has no room for waits here as
/// ciphertext, at most what one call of `try_write` took.
pub(in crate::transport) struct TlsStream {
    socket: Socket,
    state: Mutex<State>,
}

struct State {
    connection: Connection,
    /// Ciphertext that was read and has not been decrypted, from `at` to `end`. Lent, and given back as soon as
    /// there is none.
    held: Vec<u8>,
    at: usize,
    end: usize,
    /// What went wrong while the reader was given what had arrived before.
    error: Option<io::Error>,
}

impl TlsStream {
    fn new(socket: Socket, connection: impl Into<Connection>) -> Self {
        let state = State { connection: connection.into(), held: Vec::new(), at: 0, end: 0, error: None };
        Self { socket, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the ciphertext that waits.
    fn pass_on(&self, state: &mut State) -> io::Result<()> {
        while state.connection.wants_write() {
            state.connection.write_tls(&mut Writer(&self.socket))?;
        }
        Ok(())
    }

    /// Decrypts some of what has been read, or reads more; `false` at the end of the stream.
    fn poll_decrypt(&self, state: &mut State, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Some(error) = state.error.take() {
            return Poll::Ready(Err(error));
        }
        if state.at == state.end {
            if state.held.is_empty() {
                state.held = pool::reading();
            }
            let read = self.socket.poll_read(context, &mut state.held);
            let Poll::Ready(Ok(count @ 1..)) = read else {
                state.release();
                return read.map_ok(|_| false);
            };
            (state.at, state.end) = (0, count);
        }
        let mut rest = state.held.get(state.at..state.end).unwrap_or_default();
        let taken = state.connection.read_tls(&mut rest)?;
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        state.at += taken;
        if state.at == state.end {
            state.release();
        }
        if let Err(error) = state.connection.process_new_packets() {
            // The peer is told why, if there is room.
            let _ = self.pass_on(state);
            return Poll::Ready(Err(as_io(&error)));
        }
        if state.connection.wants_write() {
            // An answer of the protocol itself. Without room it goes with what is written next.
            match self.pass_on(state) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Goes on with the handshake.
    fn poll_handshake(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut state = self.lock();
            match self.pass_on(&mut state) {
                Ok(()) if !state.connection.is_handshaking() => return Poll::Ready(Ok(())),
                Ok(()) => {
                    if !ready!(self.poll_decrypt(&mut state, context))? {
                        let what = "the connection was closed during the TLS handshake";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(state);
                    ready!(self.socket.poll_room(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// What the peer has shown in a handshake that was begun when this was the number of the files.
    fn shown(&self, tls: &Arc<LiveTls>, number: u64) -> Option<ShownCertificate> {
        ShownCertificate::new(self.lock().connection.peer_certificates(), tls, number)
    }
}

impl State {
    /// Gives the lent buffer back.
    fn release(&mut self) {
        pool::return_reading(std::mem::take(&mut self.held));
        (self.at, self.end) = (0, 0);
    }
}

impl Channel for TlsStream {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.lock();
        self.pass_on(&mut state)?;
        let count = state.connection.writer().write_vectored(slices)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        match self.pass_on(&mut state) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn try_flush(&self) -> io::Result<()> {
        self.pass_on(&mut self.lock())
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_room(context)
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            match state.connection.reader().read(room) {
                // The peer has said that this is the end, or the buffer is full.
                Ok(0) => return Poll::Ready(Ok(filled)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if filled > 0 && state.held.is_empty() {
                        return Poll::Ready(Ok(filled));
                    }
                    match self.poll_decrypt(&mut state, context) {
                        Poll::Ready(Ok(true)) => {}
                        // What was decrypted before goes first; the end is met again.
                        Poll::Ready(Err(error)) if filled > 0 => {
                            state.error = Some(error);
                            return Poll::Ready(Ok(filled));
                        }
                        _ if filled > 0 => return Poll::Ready(Ok(filled)),
                        Poll::Ready(Ok(false)) => return Poll::Ready(Ok(0)),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.connection.send_close_notify();
        // Without room the peer sees the end of the connection alone; frames tell whether it was complete.
        let _ = self.pass_on(&mut state);
        self.socket.close();
    }
}

struct Writer<'a>(&'a Socket);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does the handshake of a bus with whoever has connected; ends with the stream and who that is.
pub(in crate::transport) async fn accept(
    socket: Socket,
    address: SocketAddr,
    tls: &Arc<LiveTls>,
    spoken: Spoken,
    transport: &'static str,
) -> BusResult<(TlsStream, Peer)> {
    let failed = |reason: String| BusError::Disconnected { reason: format!("no TLS connection: {reason}") };
    let number = tls.number();
    let connection = ServerConnection::new(tls.config(spoken)).map_err(|error| failed(explain(&error)))?;
    let stream = TlsStream::new(socket, connection);
    poll_fn(|context| stream.poll_handshake(context)).await.map_err(|error| failed(error.to_string()))?;
    let peer = shown::peer(stream.shown(tls, number), address, transport)?;
    Ok((stream, peer))
}

/// Does the handshake of a client with the bus of this name.
///
/// # Errors
/// Why there is no connection, in words for [`BusError::Connect`]; [`BusError::InvalidSettings`] for files that
/// cannot be used.
pub(in crate::transport) async fn connect(
    socket: Socket,
    host: &str,
    tls: ClientTls,
    spoken: Spoken,
) -> BusResult<io::Result<TlsStream>> {
    let failed = |reason: String| Ok(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
    let config = match spawn_blocking(move || tls.load(spoken)).await {
        Ok(config) => config?,
        // It does not panic, and nobody aborts it: the runtime ends.
        Err(_) => return Err(BusError::Closed { what: "the runtime".into() }),
    };
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return failed(format!("\"{host}\" is no name that a certificate could have"));
    };
    let connection = match ClientConnection::new(Arc::new(config), name) {
        Ok(connection) => connection,
        Err(error) => return failed(explain(&error)),
    };
    let stream = TlsStream::new(socket, connection);
    Ok(poll_fn(|context| stream.poll_handshake(context)).await.map(|()| stream))
}
