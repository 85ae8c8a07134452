//! Frames on their way in.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};

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

/// Values taken together whose memory is kept for the next turn.
const RETAINED_VALUES: usize = 16;

#[derive(Debug)]
enum Source {
    Bytes(Decoder),
    Values {
        limit: usize,
        frames: VecDeque<Frame>,
        /// Those that have been taken and may still be looked at.
        taken: Vec<Frame>,
    },
}

/// A frame that was taken; [`Incoming::content`] tells what it carries, until the next
/// [`release`](Incoming::release).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) header: Header,
    /// Bytes of the frame, its header included.
    pub(crate) size: usize,
    fields: u16,
    topic: u16,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Its content begins here in the read buffer.
    Chunk(usize),
    /// It is in the buffer of its own that was completed last.
    Large,
    /// Its number among the values taken.
    Value(usize),
}

/// A frame that may be taken next.
#[derive(Debug)]
pub(crate) struct Next<'a> {
    pub(crate) header: Header,
    pub(crate) fields: &'a [u8],
    pub(crate) topic: &'a [u8],
}

impl Incoming {
    /// Nothing yet; frames over `limit` bytes will be refused.
    #[must_use]
    pub fn new(form: Form, limit: usize) -> Self {
        let source = match form {
            Form::Bytes => Source::Bytes(Decoder { limit, ..Decoder::default() }),
            Form::Values => Source::Values { limit, frames: VecDeque::new(), taken: Vec::new() },
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
        self.release();
        let arrived = self.take_next()?;
        Ok(arrived.map(|arrived| (arrived.header, self.content(&arrived))))
    }

    /// Takes the next frame, or `None` when more has to arrive first. Several can be looked at
    /// together, until the next [`release`](Self::release).
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    #[inline]
    pub(crate) fn take_next(&mut self) -> Result<Option<Arrived>, MalformedFrame> {
        self.take_if(|_| true)
    }

    /// Takes the next frame if it is one that is `wanted`.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    #[inline]
    pub(crate) fn take_if(
        &mut self,
        wanted: impl FnOnce(&Next<'_>) -> bool,
    ) -> Result<Option<Arrived>, MalformedFrame> {
        match &mut self.source {
            Source::Bytes(decoder) => decoder.take_if(wanted),
            Source::Values { limit, frames, taken } => {
                let Some(Frame { header, content }) = frames.front() else { return Ok(None) };
                // A value takes no more than its bytes would.
                let size = content.frame_size();
                if size > *limit {
                    return Err(MalformedFrame::TooLong { total: size, limit: *limit });
                }
                let header = *header;
                if !wanted(&Next { header, fields: content.fields(), topic: content.topic() }) {
                    return Ok(None);
                }
                let place = Place::Value(taken.len());
                taken.extend(frames.pop_front());
                Ok(Some(Arrived { header, size, fields: 0, topic: 0, place }))
            }
        }
    }

    /// Takes the frames that follow, as long as they are `wanted` and `run` has fewer than `most`. One that
    /// is malformed is found again when it is taken by itself.
    #[inline]
    pub(crate) fn take_run(
        &mut self,
        run: &mut Vec<Arrived>,
        most: usize,
        mut wanted: impl FnMut(&Next<'_>) -> bool,
    ) {
        if let Source::Bytes(decoder) = &mut self.source
            && decoder.large.is_none()
        {
            return decoder.take_run(run, most, wanted);
        }
        while run.len() < most
            && let Ok(Some(next)) = self.take_if(&mut wanted)
        {
            run.push(next);
        }
    }

    /// What a frame carries.
    #[inline(always)]
    pub(crate) fn content(&self, arrived: &Arrived) -> ContentRef<'_> {
        let (fields, topic) = (usize::from(arrived.fields), usize::from(arrived.topic));
        if let (Source::Bytes(decoder), Place::Chunk(body)) = (&self.source, arrived.place) {
            let end = body + arrived.size - HEADER_LEN;
            return ContentRef::framed(decoder.chunk.get(body..end).unwrap_or_default(), fields, topic);
        }
        self.other_content(arrived)
    }

    /// What a frame carries that is not in the read buffer.
    fn other_content(&self, arrived: &Arrived) -> ContentRef<'_> {
        let (fields, topic) = (usize::from(arrived.fields), usize::from(arrived.topic));
        match (&self.source, arrived.place) {
            (Source::Bytes(decoder), _) => ContentRef::owned(&decoder.current, fields, topic),
            (Source::Values { taken, .. }, Place::Value(number)) => {
                taken.get(number).map_or_else(ContentRef::empty, |frame| frame.content.borrowed())
            }
            (Source::Values { .. }, _) => ContentRef::empty(),
        }
    }

    /// Done with the frames that were taken.
    #[inline]
    pub(crate) fn release(&mut self) {
        if let Source::Values { taken, .. } = &mut self.source {
            taken.clear();
        }
    }

    /// Ends a turn: gives lent buffers back and keeps only what is needed.
    pub fn settle(&mut self) {
        match &mut self.source {
            Source::Bytes(decoder) => decoder.settle(),
            Source::Values { taken, .. } => {
                taken.clear();
                taken.shrink_to(RETAINED_VALUES);
            }
        }
    }

    /// Bytes that are held between turns.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.source {
            Source::Bytes(decoder) => {
                decoder.chunk.len() + decoder.large.as_ref().map_or(0, |large| large.arrived().len())
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

    /// Takes out what has been read and not decoded, before a large frame has begun.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        match &mut self.source {
            Source::Bytes(decoder) => {
                let rest = decoder.chunk.get(decoder.start..decoder.end).unwrap_or_default().to_vec();
                decoder.start = decoder.end;
                decoder.settle();
                rest
            }
            Source::Values { .. } => Vec::new(),
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

/// All buffers are initialised memory, so that any reader can fill them; zeroing happens once, when one is
/// made.
#[derive(Debug, Default)]
struct Decoder {
    limit: usize,
    /// What has been read lies up to `end`; what is before `start` has been decoded.
    chunk: Vec<u8>,
    start: usize,
    end: usize,
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
    buffer: pool::Large,
    total: usize,
    /// `total` is a guess until the header has arrived.
    guessed: bool,
}

impl Large {
    /// What has arrived.
    fn arrived(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

impl Decoder {
    fn poll_read_from<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let room = match &mut self.large {
            Some(large) => {
                let arrived = large.arrived().len();
                // Memory follows what has arrived, not what a header claims.
                large.buffer.room((large.total - arrived).min(arrived.max(4 * limits::READ_CHUNK)))
            }
            None => self.chunk.get_mut(self.end..).unwrap_or_default(),
        };
        let mut room = ReadBuf::new(room);
        let read = Pin::new(reader).poll_read(context, &mut room);
        let count = room.filled().len();
        match &mut self.large {
            Some(large) => large.buffer.fill(count),
            None => self.end += count,
        }
        if count == 0 || !matches!(read, Poll::Ready(Ok(()))) {
            self.settle();
        }
        read.map_ok(|()| count)
    }

    fn make_room(&mut self) {
        if self.large.is_some() {
            return;
        }
        let pending = self.end - self.start;
        if pending == 0 && self.predicted > 0 {
            self.settle();
            let buffer = pool::Large::with_capacity(self.predicted);
            self.large = Some(Large { buffer, total: self.predicted, guessed: true });
            return;
        }
        if self.start > 0 || self.chunk.len() < limits::READ_CHUNK || self.end == self.chunk.len() {
            let mut fresh = pool::reading();
            if fresh.len() < pending + limits::READ_CHUNK / 2 {
                fresh.resize(pending + limits::READ_CHUNK / 2, 0);
            }
            fresh[..pending].copy_from_slice(&self.chunk[self.start..self.end]);
            pool::return_reading(std::mem::replace(&mut self.chunk, fresh));
            (self.start, self.end) = (0, pending);
        }
    }

    #[inline]
    fn take_if(&mut self, wanted: impl FnOnce(&Next<'_>) -> bool) -> Result<Option<Arrived>, MalformedFrame> {
        if self.large.is_some() && !self.large_has_arrived()? {
            return Ok(None);
        }
        if self.large.is_some() {
            return self.take_large(wanted);
        }
        let pending = &self.chunk[self.start..self.end];
        let Some(layout) = Layout::decode(pending, self.limit)? else { return Ok(None) };
        let Layout { header, fields, topic, total } = layout;
        if pending.len() < total {
            self.await_rest(total);
            return Ok(None);
        }
        let (parts, rest) = pending[HEADER_LEN..total].split_at(fields);
        if !wanted(&Next { header, fields: parts, topic: &rest[..topic] }) {
            return Ok(None);
        }
        let place = Place::Chunk(self.start + HEADER_LEN);
        self.start += total;
        Ok(Some(Arrived { header, size: total, fields: fields as u16, topic: topic as u16, place }))
    }

    /// As [`Incoming::take_run`], of frames that are in the read buffer as a whole. Each is written to its
    /// place at once: a result that is handed on is read back before it has been stored, which takes longer
    /// than all else here.
    #[inline]
    fn take_run(&mut self, run: &mut Vec<Arrived>, most: usize, mut wanted: impl FnMut(&Next<'_>) -> bool) {
        let arrived = &self.chunk[..self.end];
        let mut start = self.start;
        while run.len() < most {
            let pending = &arrived[start..];
            let Ok(Some(Layout { header, fields, topic, total })) = Layout::decode(pending, self.limit)
            else {
                break;
            };
            let Some(frame) = pending.get(..total) else { break };
            let (parts, rest) = frame[HEADER_LEN..].split_at(fields);
            if !wanted(&Next { header, fields: parts, topic: &rest[..topic] }) {
                break;
            }
            let place = Place::Chunk(start + HEADER_LEN);
            run.push(Arrived { header, size: total, fields: fields as u16, topic: topic as u16, place });
            start += total;
        }
        self.start = start;
    }

    /// Goes on with the frame that has begun to arrive in a buffer of its own, if it is a large one.
    #[inline(never)]
    fn await_rest(&mut self, total: usize) {
        if total >= limits::LARGE_FRAME {
            let begun = &self.chunk[self.start..self.end];
            let mut buffer = pool::Large::with_capacity(total.min(4 * limits::READ_CHUNK));
            buffer.room(begun.len()).copy_from_slice(begun);
            buffer.fill(begun.len());
            self.large = Some(Large { buffer, total, guessed: false });
            self.start = self.end;
        }
    }

    /// Whether the large frame is complete, or turned out to be none: what a guess that was wrong has read is
    /// an ordinary chunk.
    #[inline(never)]
    fn large_has_arrived(&mut self) -> Result<bool, MalformedFrame> {
        let Some(large) = &mut self.large else { return Ok(true) };
        if large.guessed {
            match Layout::decode(large.arrived(), self.limit)? {
                Some(layout) if layout.total == large.total => large.guessed = false,
                _ => {
                    self.chunk = large.arrived().to_vec();
                    (self.start, self.end) = (0, self.chunk.len());
                    self.predicted = 0;
                    self.large = None;
                    return Ok(true);
                }
            }
        }
        Ok(large.arrived().len() == large.total)
    }

    #[inline(never)]
    fn take_large(
        &mut self,
        wanted: impl FnOnce(&Next<'_>) -> bool,
    ) -> Result<Option<Arrived>, MalformedFrame> {
        let Some(large) = &self.large else { return Ok(None) };
        let Some(layout) = Layout::decode(large.arrived(), self.limit)? else { return Ok(None) };
        let Layout { header, fields, topic, total } = layout;
        let (parts, rest) = large.arrived()[HEADER_LEN..].split_at(fields);
        if !wanted(&Next { header, fields: parts, topic: &rest[..topic] }) {
            return Ok(None);
        }
        // A buffer that is not kept for reuse would be made for each read that finds nothing.
        self.predicted = if total <= limits::POOLED_LARGE_BUFFER { total } else { 0 };
        self.current = self.large.take().map(|large| large.buffer.freeze()).unwrap_or_default();
        self.current.advance(HEADER_LEN);
        Ok(Some(Arrived {
            header,
            size: total,
            fields: fields as u16,
            topic: topic as u16,
            place: Place::Large,
        }))
    }

    fn settle(&mut self) {
        self.current = Bytes::new();
        if self.large.as_ref().is_some_and(|large| large.guessed && large.arrived().is_empty()) {
            self.large = None;
        }
        if self.chunk.is_empty() {
            return;
        }
        let pending = self.start..self.end;
        if !pending.is_empty() && pending.start == 0 && self.chunk.len() < limits::READ_CHUNK {
            return;
        }
        (self.start, self.end) = (0, pending.len());
        let rest = self.chunk[pending].to_vec();
        pool::return_reading(std::mem::replace(&mut self.chunk, rest));
    }
}

#[cfg(test)]
mod tests;
