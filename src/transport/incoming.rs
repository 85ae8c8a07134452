//! Frames on their way in.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Form, pool};
use crate::limits;
use crate::proto::Layout;
use crate::proto::{ContentRef, Frame, HEADER_LEN, Header, MalformedFrame};

/// What has arrived on a link and has not been looked at.
///
/// Small frames are decoded where they lie in a read buffer that is lent for the time of a turn; a
/// large frame is read into a buffer of its own, so that it can be shared without a copy. Between
/// turns an idle connection holds no buffer, and one in the middle of a frame holds that part only.
#[derive(Debug)]
pub struct Incoming {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Bytes(Decoder),
    Values { limit: usize, frames: VecDeque<Frame>, current: Option<Frame> },
}

impl Incoming {
    /// Nothing yet; frames over `limit` bytes will be refused.
    #[must_use]
    pub fn new(form: Form, limit: usize) -> Self {
        let source = match form {
            Form::Bytes => Source::Bytes(Decoder { limit, ..Decoder::default() }),
            Form::Values => Source::Values { limit, frames: VecDeque::new(), current: None },
        };
        Self { source }
    }

    /// Refuses frames over `limit` bytes from here on.
    pub fn set_limit(&mut self, limit: usize) {
        match &mut self.source {
            Source::Bytes(decoder) => decoder.limit = limit,
            Source::Values { limit: own, .. } => *own = limit,
        }
    }

    /// The next frame, or `None` when more has to arrive first.
    ///
    /// # Errors
    /// [`MalformedFrame`]: the link is of no further use.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<(Header, ContentRef<'_>)>, MalformedFrame> {
        match &mut self.source {
            Source::Bytes(decoder) => decoder.next_frame(),
            Source::Values { limit, frames, current } => {
                *current = frames.pop_front();
                // A value takes no more than its bytes would.
                if let Some(total) = current.as_ref().map(|frame| frame.content.frame_size())
                    && total > *limit
                {
                    return Err(MalformedFrame::TooLong { total, limit: *limit });
                }
                Ok(current.as_ref().map(|frame| (frame.header, frame.content.borrowed())))
            }
        }
    }

    /// Ends a turn: gives lent buffers back and keeps only what is needed.
    pub fn settle(&mut self) {
        match &mut self.source {
            Source::Bytes(decoder) => decoder.settle(),
            Source::Values { current, .. } => *current = None,
        }
    }

    /// Bytes that are held between turns.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.source {
            Source::Bytes(decoder) => {
                decoder.chunk.len() + decoder.large.as_ref().map_or(0, |large| large.buffer.len())
            }
            Source::Values { frames, .. } => frames.iter().map(|frame| frame.content.size()).sum(),
        }
    }

    /// Reads once from a stream of bytes; 0 is its end.
    ///
    /// # Errors
    /// The stream's error.
    pub fn poll_read_from<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        match &mut self.source {
            Source::Bytes(decoder) => decoder.poll_read_from(context, reader),
            Source::Values { .. } => Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
        }
    }

    /// The frames that a value link hands over.
    pub(super) fn values(&mut self) -> Option<&mut VecDeque<Frame>> {
        match &mut self.source {
            Source::Values { frames, .. } => Some(frames),
            Source::Bytes(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Decoder {
    limit: usize,
    /// Bytes read; those before `start` have been decoded.
    chunk: BytesMut,
    start: usize,
    /// A frame in a buffer of its own, while it arrives.
    large: Option<Large>,
    /// The size of the last large frame: the next one is likely to be alike, and is then read into
    /// its own buffer from its first byte.
    predicted: usize,
    /// The large frame that is being looked at, without its header.
    current: Bytes,
}

#[derive(Debug)]
struct Large {
    buffer: BytesMut,
    total: usize,
    /// `total` is a guess until the header has arrived.
    guessed: bool,
}

impl Decoder {
    fn poll_read_from<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let (buffer, room) = match &mut self.large {
            Some(large) => {
                let missing = large.total - large.buffer.len();
                // Memory follows what has arrived, not what a header claims.
                let step = missing.min(large.buffer.len().max(4 * limits::READ_CHUNK));
                large.buffer.reserve(step);
                (&mut large.buffer, step)
            }
            None => {
                let room = self.chunk.capacity() - self.chunk.len();
                (&mut self.chunk, room)
            }
        };
        let mut limited = buffer.limit(room);
        let read = pin!(reader.read_buf(&mut limited)).poll(context);
        if !matches!(read, Poll::Ready(Ok(1..))) {
            self.settle();
        }
        read
    }

    fn make_room(&mut self) {
        if self.large.is_some() {
            return;
        }
        let pending = self.chunk.len() - self.start;
        if pending == 0 && self.predicted > 0 {
            self.settle();
            let buffer = BytesMut::with_capacity(self.predicted);
            self.large = Some(Large { buffer, total: self.predicted, guessed: true });
            return;
        }
        if self.start > 0 || self.chunk.capacity() < limits::READ_CHUNK {
            let mut fresh = pool::reading();
            fresh.extend_from_slice(&self.chunk[self.start..]);
            let used = std::mem::replace(&mut self.chunk, fresh);
            self.start = 0;
            pool::return_reading(used);
        }
    }

    #[inline]
    fn next_frame(&mut self) -> Result<Option<(Header, ContentRef<'_>)>, MalformedFrame> {
        if self.large.is_some() && !self.large_is_confirmed()? {
            return Ok(None);
        }
        if let Some(large) = self.large.take_if(|large| large.buffer.len() == large.total) {
            return self.large_frame(large.buffer.freeze());
        }
        if self.large.is_some() {
            return Ok(None);
        }
        let pending = &self.chunk[self.start..];
        let Some(layout) = Layout::decode(pending, self.limit)? else { return Ok(None) };
        if pending.len() < layout.total {
            if layout.total >= limits::LARGE_FRAME {
                let mut buffer = BytesMut::with_capacity(layout.total.min(4 * limits::READ_CHUNK));
                buffer.extend_from_slice(pending);
                self.large = Some(Large { buffer, total: layout.total, guessed: false });
                self.start = self.chunk.len();
            }
            return Ok(None);
        }
        let body = self.start + HEADER_LEN;
        let end = self.start + layout.total;
        self.start = end;
        let (fields, rest) = self.chunk[body..end].split_at(layout.fields);
        let (topic, payload) = rest.split_at(layout.topic);
        Ok(Some((layout.header, ContentRef::lent(fields, topic, payload))))
    }

    /// Whether the large frame's header has arrived. A guess that turns out wrong makes its buffer an
    /// ordinary chunk.
    fn large_is_confirmed(&mut self) -> Result<bool, MalformedFrame> {
        let Some(large) = &mut self.large else { return Ok(true) };
        if !large.guessed {
            return Ok(true);
        }
        let layout = Layout::decode(&large.buffer, self.limit)?;
        match layout {
            Some(layout) if layout.total == large.total => large.guessed = false,
            _ => {
                if let Some(large) = self.large.take() {
                    self.chunk = large.buffer;
                    self.start = 0;
                    self.predicted = 0;
                }
            }
        }
        Ok(true)
    }

    fn large_frame(&mut self, frame: Bytes) -> Result<Option<(Header, ContentRef<'_>)>, MalformedFrame> {
        let Some(layout) = Layout::decode(&frame, self.limit)? else { return Ok(None) };
        self.predicted = layout.total;
        self.current = frame;
        self.current.advance(HEADER_LEN);
        Ok(Some((layout.header, ContentRef::owned(&self.current, layout.fields, layout.topic))))
    }

    fn settle(&mut self) {
        self.current = Bytes::new();
        if self.large.as_ref().is_some_and(|large| large.guessed && large.buffer.is_empty()) {
            self.large = None;
        }
        if self.chunk.capacity() == 0 {
            return;
        }
        let pending = self.chunk.len() - self.start;
        if pending > 0 && self.start == 0 && self.chunk.capacity() < limits::READ_CHUNK {
            return;
        }
        let rest = if pending == 0 { BytesMut::new() } else { BytesMut::from(&self.chunk[self.start..]) };
        self.start = 0;
        pool::return_reading(std::mem::replace(&mut self.chunk, rest));
    }
}

#[cfg(test)]
mod tests;
