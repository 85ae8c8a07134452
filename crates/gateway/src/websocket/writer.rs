//! What waits to be written.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use crate::limits;

/// Bytes of the longest header of a frame that is not masked.
const HEADER_LIMIT: usize = 10;

/// Bytes of a payload from which on it is not copied beside others, but written from where it is.
const LONG: usize = limits::SOCKET_WRITE_BYTES / 2;

/// Frames whose places an idle socket keeps.
const PLACES: usize = 4;

const PONG: OpCode = OpCode::Control(Control::Pong);

thread_local! {
    /// Where short frames are put together to be written at once.
    static TOGETHER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Frames whose payloads are what all sockets share.
#[derive(Default)]
pub(super) struct Writer {
    frames: VecDeque<Frame>,
    /// Bytes of all of them that are not written yet.
    bytes: usize,
    /// Bytes of the first that are.
    written: usize,
    /// A close is among them, behind which nothing may follow.
    is_closed: bool,
}

struct Frame {
    opcode: OpCode,
    head: Head,
    payload: Bytes,
}

impl Frame {
    fn new(opcode: OpCode, payload: Bytes) -> Self {
        Self { opcode, head: Head::new(opcode, payload.len()), payload }
    }

    fn len(&self) -> usize {
        self.head.len + self.payload.len()
    }

    /// Its bytes behind the first `skip`.
    fn behind(&self, skip: usize) -> [&[u8]; 2] {
        let head = self.head.as_slice();
        let payload = self.payload.get(skip.saturating_sub(head.len())..).unwrap_or_default();
        [head.get(skip..).unwrap_or_default(), payload]
    }
}

/// The header of a frame, written once for however often it is looked at.
struct Head {
    bytes: [u8; HEADER_LIMIT],
    len: usize,
}

impl Head {
    fn new(opcode: OpCode, length: usize) -> Self {
        let header = FrameHeader { opcode, is_final: true, ..FrameHeader::default() };
        let mut bytes = [0; HEADER_LIMIT];
        let mut rest = &mut bytes[..];
        // It has room for the longest one.
        let _ = header.format(length as u64, &mut rest);
        let len = HEADER_LIMIT - rest.len();
        Self { bytes, len }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Writer {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Frames of this kind that are not written yet, or not as a whole.
    pub(super) fn count(&self, opcode: OpCode) -> usize {
        self.frames.iter().filter(|frame| frame.opcode == opcode).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Puts a frame behind the others.
    pub(super) fn push(&mut self, opcode: OpCode, payload: Bytes) {
        if self.is_closed {
            return;
        }
        self.is_closed = opcode == OpCode::Control(Control::Close);
        let frame = Frame::new(opcode, payload);
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Answers a ping as soon as the frame is complete that is being written. Of many pings the last is answered, as RFC 6455
    /// (section 5.5.3) allows.
    pub(super) fn pong(&mut self, payload: Bytes) {
        if self.is_closed {
            return;
        }
        let next = usize::from(self.written > 0);
        let before = self.frames.get(next).filter(|frame| frame.opcode == PONG).map(Frame::len);
        let frame = Frame::new(PONG, payload);
        self.bytes += frame.len();
        match (before, self.frames.get_mut(next)) {
            (Some(length), Some(place)) => {
                self.bytes -= length;
                *place = frame;
            }
            _ => self.frames.insert(next, frame),
        }
    }

    /// Writes until nothing waits.
    pub(super) fn poll_write<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(first) = self.frames.front() else {
                self.frames.shrink_to(PLACES);
                return Poll::Ready(Ok(()));
            };
            let count = if first.payload.len() >= LONG {
                let parts = first.behind(self.written).map(IoSlice::new);
                ready!(stream.as_mut().poll_write_vectored(context, &parts))?
            } else {
                let mut together = TOGETHER.take();
                together.clear();
                self.put_together(&mut together);
                let written = stream.as_mut().poll_write(context, &together);
                TOGETHER.set(together);
                ready!(written)?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
    }

    /// Copies short frames, as many as are written at once.
    fn put_together(&self, together: &mut Vec<u8>) {
        let mut skip = self.written;
        for frame in &self.frames {
            let is_full = together.len() + frame.len() > limits::SOCKET_WRITE_BYTES;
            if frame.payload.len() >= LONG || is_full {
                break;
            }
            for part in frame.behind(skip) {
                together.extend_from_slice(part);
            }
            skip = 0;
        }
    }

    /// Forgets what has been written.
    fn advance(&mut self, count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        self.written += count;
        while let Some(first) = self.frames.front() {
            let length = first.len();
            if self.written < length {
                break;
            }
            self.written -= length;
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
impl Writer {
    /// Bytes that it keeps room for, on the heap, beside the places of a few frames.
    pub(super) fn kept(&self) -> usize {
        let places = self.frames.capacity().saturating_sub(2 * PLACES);
        self.bytes + places * size_of::<Frame>()
    }
}
