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
use crate::proto::Kind;
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
    frames: Frames,
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
    /// `GOODBYE` is written, and the other side has not told that it arrived.
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
        let (frames, kept, end) = (Frames::default(), u64::from(limits::QUIC_WINDOW), End::Open);
        let state = State { driven, send, receive, frames, kept, blocked: false, end };
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

    /// Writes what goes without waiting; nothing but the length counts of what follows a `GOODBYE`.
    fn write(&mut self, slices: &[IoSlice<'_>], context: &mut Context<'_>) -> io::Result<usize> {
        let mut count = 0;
        for slice in slices {
            let (all, after) = self.frames.up_to_goodbye(slice);
            let written = self.write_some(all, context)?;
            count += written;
            if written < all.len() {
                self.frames.written(all.get(..written).unwrap_or_default());
                self.blocked = count == 0;
                return if self.blocked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) };
            }
            self.frames = after;
            if self.frames.said_goodbye() {
                self.finish();
                return Ok(slices.iter().map(|slice| slice.len()).sum());
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

    /// Sends what was written; a `GOODBYE` has to have arrived, as the connection may be gone next.
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

/// Follows the frames that are written, to know the last one.
#[derive(Debug, Default, Clone, Copy)]
struct Frames {
    /// The beginning of a frame: its length and its kind.
    head: [u8; Self::HEAD],
    /// How much of it is there.
    known: usize,
    /// What is left of the frame behind it.
    left: usize,
    /// The frame was a `GOODBYE`.
    last: bool,
}

impl Frames {
    /// Bytes of a frame up to its kind.
    const HEAD: usize = 5;

    /// Bytes of the length of a frame, which it does not count.
    const LENGTH: usize = 4;

    /// What is to be written of these bytes, none behind the last frame, and how far that leads.
    fn up_to_goodbye(self, bytes: &[u8]) -> (&[u8], Self) {
        let (mut ahead, mut rest) = (self, bytes);
        while !rest.is_empty() && !ahead.said_goodbye() {
            rest = ahead.step(rest);
        }
        (bytes.get(..bytes.len() - rest.len()).unwrap_or_default(), ahead)
    }

    fn written(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.step(bytes);
        }
    }

    /// Whether the last frame has been written to its end.
    fn said_goodbye(self) -> bool {
        self.last && self.known == 0
    }

    /// Goes on within one frame; returns what is left of the bytes.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if let Some(unknown @ [_, ..]) = self.head.get_mut(self.known..) {
            let count = unknown.len().min(bytes.len());
            let (head, rest) = bytes.split_at(count);
            unknown[..count].copy_from_slice(head);
            self.known += count;
            if self.known == Self::HEAD {
                let [a, b, c, d, kind] = self.head;
                let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.left = length.saturating_sub(Self::HEAD - Self::LENGTH);
                self.last = kind == Kind::Goodbye as u8;
            }
            self.rest_if_done();
            return rest;
        }
        let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
        self.left -= part.len();
        self.rest_if_done();
        rest
    }

    fn rest_if_done(&mut self) {
        if self.known == Self::HEAD && self.left == 0 {
            self.known = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ContentRef, Header};
    use crate::transport::{Batch, Form};

    fn frames(kinds: &[(Kind, usize)]) -> Vec<u8> {
        let mut batch = Batch::new(Form::Bytes);
        for (kind, size) in kinds {
            batch.push(&Header::new(*kind, 0, 0), &ContentRef::of_payload(&vec![3; *size]));
        }
        let mut slices = [IoSlice::new(&[]); 8];
        let count = batch.slices(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn nothing_is_written_behind_a_goodbye() {
        let first = frames(&[(Kind::Ping, 0), (Kind::Deliver, 300), (Kind::Goodbye, 7)]);
        let all = [&first[..], &frames(&[(Kind::Pong, 0)])].concat();
        for part in 1..all.len() {
            let (mut frames, mut written) = (Frames::default(), Vec::new());
            for bytes in all.chunks(part) {
                let (bytes, after) = frames.up_to_goodbye(bytes);
                frames.written(bytes);
                assert_eq!(frames.said_goodbye(), after.said_goodbye());
                written.extend_from_slice(bytes);
            }
            assert!(frames.said_goodbye());
            assert!(written == first, "in parts of {part}");
        }
    }

    #[test]
    fn a_payload_that_looks_like_a_goodbye_is_none() {
        let bytes = frames(&[(Kind::Deliver, 50), (Kind::Deliver, 3)]);
        let mut frames = Frames::default();
        assert_eq!(frames.up_to_goodbye(&bytes).0.len(), bytes.len());
        frames.written(&bytes);
        assert!(!frames.said_goodbye());
    }
}
