//! Stream sockets of the system.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};

use super::channel::Channel;

/// How often to look for room to write, while the process has no file descriptor left to be told.
const ROOM_INTERVAL: Duration = Duration::from_millis(1);

/// A connected stream socket. Any thread may write to it; one task reads and waits.
///
/// On a Unix stream the system tells whoever waits for room to write each time that the peer reads, whether
/// or not there was room before. So nobody waits, until there is none: Tokio's own streams always would.
#[derive(Debug)]
pub(super) struct Socket {
    socket: AsyncFd<socket2::Socket>,
    /// While there is no room.
    room: Mutex<Option<Room>>,
}

impl Socket {
    /// Registers a connected socket with the current runtime.
    pub(super) fn new(socket: impl Into<socket2::Socket>) -> io::Result<Self> {
        let socket = socket.into();
        socket.set_nonblocking(true)?;
        Ok(Self { socket: register(socket, Interest::READABLE)?, room: Mutex::new(None) })
    }

    /// Whether what is sent stays on this host.
    #[cfg(feature = "tcp")]
    pub(super) fn is_local(&self) -> bool {
        let peer = self.socket.get_ref().peer_addr();
        peer.is_ok_and(|peer| peer.as_socket().is_none_or(|address| address.ip().is_loopback()))
    }
}

impl Channel for Socket {
    #[inline]
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut socket = self.socket.get_ref();
        loop {
            let written = match slices {
                [slice] => socket.write(slice),
                slices => socket.write_vectored(slices),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let result = ready!(room.get_or_insert_with(|| Room::of(&self.socket)).poll(context));
        *room = None;
        Poll::Ready(result)
    }

    #[inline]
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(context))?;
            match self.socket.get_ref().read(buffer) {
                Ok(count) => {
                    // Less than there is room for was all that had arrived.
                    if 0 < count && count < buffer.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn close(&self) {
        // An error means that the connection is gone already, which is what was wanted.
        let _ = self.socket.get_ref().shutdown(Shutdown::Write);
    }
}

#[allow(deprecated, reason = "its successor is unsafe for what the owner of a descriptor keeps by itself")]
fn register<T: AsRawFd + Into<OwnedFd>>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}

/// How room to write is waited for.
#[derive(Debug)]
enum Room {
    /// The system tells.
    Told(AsyncFd<OwnedFd>),
    /// The process has no file descriptor left for that: it is tried again after a while.
    Tried(Pin<Box<Sleep>>),
}

impl Room {
    fn of(socket: &impl AsFd) -> Self {
        let descriptor = socket.as_fd().try_clone_to_owned();
        match descriptor.and_then(|descriptor| register(descriptor, Interest::WRITABLE)) {
            Ok(told) => Self::Told(told),
            Err(_) => Self::Tried(Box::pin(sleep(ROOM_INTERVAL))),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Told(told) => told.poll_write_ready(context).map_ok(drop),
            Self::Tried(sleep) => sleep.as_mut().poll(context).map(Ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::super::plain::Sender;
    use super::super::{Batch, Form, LinkSender, Sent};
    use super::*;
    use crate::proto::{ContentRef, Header, Kind};

    /// A link whose peer has read nothing and that takes nothing more.
    fn full() -> (Sender<Socket>, UnixStream) {
        let (stream, peer) = UnixStream::pair().unwrap();
        let sender = Sender(Arc::new(Socket::new(OwnedFd::from(stream)).unwrap()));
        while sender.try_send(&mut batch()).unwrap() == Sent::All {}
        (sender, peer)
    }

    fn batch() -> Batch {
        let mut batch = Batch::new(Form::Bytes);
        batch.push(&Header::new(Kind::Deliver, 1, 1), &ContentRef::of_payload(&[0; 4096]));
        batch
    }

    fn read_all(peer: &mut UnixStream) {
        let mut buffer = vec![0; 64 * 1024];
        peer.set_nonblocking(true).unwrap();
        while peer.read(&mut buffer).is_ok() {}
    }

    #[tokio::test]
    async fn room_is_waited_for_as_long_as_there_is_none() {
        let (sender, mut peer) = full();
        assert!(sender.poll_ready(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        assert!(sender.0.room.lock().unwrap().is_some());
        read_all(&mut peer);
        poll_fn(|context| sender.poll_ready(context)).await.unwrap();
        assert!(sender.0.room.lock().unwrap().is_none(), "nobody waits any more");
        assert_eq!(sender.try_send(&mut batch()).unwrap(), Sent::All);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_descriptor_to_wait_with_room_is_looked_for_again_and_again() {
        let (sender, _peer) = full();
        *sender.0.room.lock().unwrap() = Some(Room::Tried(Box::pin(sleep(ROOM_INTERVAL))));
        let before = tokio::time::Instant::now();
        poll_fn(|context| sender.poll_ready(context)).await.unwrap();
        assert_eq!(before.elapsed(), ROOM_INTERVAL);
        assert_eq!(sender.try_send(&mut batch()).unwrap(), Sent::Blocked, "it was only looked at");
    }
}
