//! The stream that carries the frames of a link.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};

use super::drive::{Driven, Worker, lock};
use super::endpoint::Endpoint;
use super::explain::as_io;
use crate::limits;
use crate::transport::channel::Channel;

/// A stream of a connection, which ends with it.
pub(super) struct QuicStream {
    worker: Worker,
    state: Mutex<State>,
    /// The last of its connections lets go of it.
    _endpoint: Arc<Endpoint>,
}

struct State {
    driven: Driven,
    send: SendStream,
    receive: RecvStream,
    /// Bytes that quinn keeps until they have arrived; see [`follow_path`](Self::follow_path).
    kept: u64,
    /// The last try to write found no room.
    blocked: bool,
    end: End,
}

/// How far the sending direction has ended.
enum End {
    /// It goes on.
    Open,
    /// The last frame is written, and the other side has not told that it arrived.
    Told(Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>),
    /// Nothing is to be waited for any more.
    Done,
}

impl QuicStream {
    pub(super) fn new(
        driven: Driven,
        (send, receive): (SendStream, RecvStream),
        endpoint: Arc<Endpoint>,
    ) -> Self {
        let (kept, end) = (u64::from(limits::QUIC_WINDOW), End::Open);
        let state = State { driven, send, receive, kept, blocked: false, end };
        Self { worker: Worker::new(), state: Mutex::new(state), _endpoint: endpoint }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Gives quinn no more to keep than twice what the path takes at a time: the one half is under way and the
    /// other follows. What lies there has its place, while what waits in the lanes can still be overtaken by
    /// control frames. Where much is lost, a full window would hold these up for a second.
    fn follow_path(&mut self) {
        let path = self.driven.connection.stats().path.cwnd;
        let wanted = (2 * path).clamp(limits::QUIC_KEPT_MIN.into(), limits::QUIC_WINDOW.into());
        if wanted.abs_diff(self.kept) > self.kept / 8 {
            self.kept = wanted;
            self.driven.connection.set_send_window(wanted);
        }
    }

    /// Writes what goes without waiting; nothing but the length counts of what follows the last frame.
    fn write(&mut self, slices: &[IoSlice<'_>], context: &mut Context<'_>) -> io::Result<usize> {
        if !matches!(self.end, End::Open) {
            return Ok(slices.iter().map(|slice| slice.len()).sum());
        }
        let mut count = 0;
        for slice in slices {
            let written = self.write_some(slice, context)?;
            count += written;
            if written < slice.len() {
                self.blocked = count == 0;
                return if self.blocked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) };
            }
        }
        Ok(count)
    }

    /// Writes as much of these bytes as there is room for.
    fn write_some(&mut self, bytes: &[u8], context: &mut Context<'_>) -> io::Result<usize> {
        let mut count = 0;
        while let Some(rest @ [_, ..]) = bytes.get(count..) {
            match Pin::new(&mut self.send).poll_write(context, rest) {
                Poll::Ready(Ok(written)) => count += written,
                Poll::Ready(Err(error)) => return Err(write_error(&error)),
                Poll::Pending => break,
            }
        }
        Ok(count)
    }

    /// Nothing more is written.
    fn finish(&mut self) {
        if matches!(self.end, End::Open) && self.send.finish().is_ok() {
            self.end = End::Told(Box::pin(self.send.stopped()));
        }
    }
}

impl Channel for QuicStream {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.lock();
        self.worker.begin();
        state.blocked = false;
        state.follow_path();
        let written = state.write(slices, &mut self.worker.room_context());
        if written.is_err() {
            // Otherwise there follows more, or a flush.
            self.worker.pass(&mut state.driven.drive);
        }
        written
    }

    /// Sends what was written; the last frame has to have arrived, as the connection may be gone next.
    fn try_flush(&self) -> io::Result<()> {
        let mut state = self.lock();
        self.worker.pass(&mut state.driven.drive);
        match state.end {
            End::Told(_) => Err(io::ErrorKind::WouldBlock.into()),
            End::Open | End::Done => Ok(()),
        }
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let State { driven, blocked, end, .. } = &mut *state;
        self.worker.wait(context, &mut driven.drive, |context| {
            match end {
                End::Open if *blocked && !self.worker.has_room() => return Poll::Pending,
                End::Open | End::Done => {}
                End::Told(arrived) => {
                    // Where the connection is lost, there is nothing to wait for either.
                    std::task::ready!(arrived.as_mut().poll(context)).ok();
                    *end = End::Done;
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let State { driven, receive, .. } = &mut *state;
        self.worker.wait(context, &mut driven.drive, |context| {
            receive.poll_read(context, buffer).map_err(|error| read_error(&error))
        })
    }

    fn finish(&self) {
        self.lock().finish();
    }

    fn close(&self) {
        let mut state = self.lock();
        state.finish();
        self.worker.pass(&mut state.driven.drive);
    }
}

fn write_error(error: &WriteError) -> io::Error {
    match error {
        WriteError::ConnectionLost(error) => as_io(error),
        error => io::Error::new(io::ErrorKind::BrokenPipe, error.to_string()),
    }
}

fn read_error(error: &ReadError) -> io::Error {
    match error {
        ReadError::ConnectionLost(error) => as_io(error),
        error => io::Error::new(io::ErrorKind::ConnectionReset, error.to_string()),
    }
}
