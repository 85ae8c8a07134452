//! Frames on their way out, in the form that their link takes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use super::{Form, pool};
use crate::limits;
use crate::proto::{ContentRef, Frame, HEADER_LEN, Header, Kind, Layout};

/// Frames for which an idle link keeps memory.
const SPARE_FRAMES: usize = 64;

/// A row of frames to be sent.
///
/// For a byte link, headers and small payloads are copied into one contiguous buffer; large payloads
/// are shared by reference and stand between its parts. For a value link, frames are kept as they are.
#[derive(Debug)]
pub struct Batch {
    frames: Frames,
    /// Bytes of all frames that are left, their headers included.
    size: usize,
    /// The last frame of the link is in it.
    last: bool,
}

#[derive(Debug)]
enum Frames {
    Bytes(Encoded),
    Values(VecDeque<Frame>),
}

impl Batch {
    /// An empty batch; it allocates nothing.
    #[must_use]
    pub fn new(form: Form) -> Self {
        let frames = match form {
            Form::Bytes => Frames::Bytes(Encoded::default()),
            Form::Values => Frames::Values(VecDeque::new()),
        };
        Self { frames, size: 0, last: false }
    }

    /// Bytes that are left to be sent.
    #[inline]
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether nothing is left.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Whether nothing that follows it matters: the last frame is in it.
    #[cfg_attr(
        not(any(feature = "tcp", feature = "unix")),
        expect(dead_code, reason = "only what leaves the process is waited for")
    )]
    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// Adds a frame and returns its size in bytes.
    #[inline]
    pub fn push(&mut self, header: &Header, content: &ContentRef<'_>) -> usize {
        let size = match &mut self.frames {
            Frames::Bytes(encoded) => {
                encoded.push(header, content);
                content.encoded_size()
            }
            Frames::Values(frames) => {
                frames.push_back(Frame { header: *header, content: content.shared() });
                content.frame_size()
            }
        };
        self.size += size;
        size
    }

    /// Adds the last frame of a link; what is added behind it does not matter.
    pub(crate) fn push_last(&mut self, header: &Header, content: &ContentRef<'_>) -> usize {
        self.last = true;
        self.push(header, content)
    }

    /// Adds the first `count` frames of a run; returns their size in bytes, or `None` when the link takes
    /// no encoded frames.
    #[inline]
    pub(crate) fn push_run(
        &mut self,
        run: &EncodedRun,
        count: usize,
        id: u32,
        sequence: u64,
    ) -> Option<usize> {
        let Frames::Bytes(encoded) = &mut self.frames else { return None };
        let size = run.size(count);
        encoded.push_run(run, count, id, sequence);
        self.size += size;
        Some(size)
    }

    /// The next parts to be written to a byte link; returns how many of `slices` were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match &self.frames {
            Frames::Bytes(encoded) => encoded.slices(slices),
            Frames::Values(_) => 0,
        }
    }

    /// Removes the first `count` bytes, which a byte link has written.
    pub fn advance(&mut self, count: usize) {
        if let Frames::Bytes(encoded) = &mut self.frames {
            encoded.advance(count);
            self.size -= count;
        }
    }

    /// Takes all frames of a byte link's batch of which nothing has been written.
    pub(crate) fn take_frames(&mut self) -> Vec<Frame> {
        let mut bytes = Vec::with_capacity(self.size);
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.slices(&mut slices);
            let before = bytes.len();
            slices.iter().take(filled).for_each(|slice| bytes.extend_from_slice(slice));
            if bytes.len() == before {
                break;
            }
            self.advance(bytes.len() - before);
        }
        let mut frames = Vec::new();
        let mut rest = bytes.as_slice();
        while let Ok(Some(Layout { header, fields, topic, total })) = Layout::decode(rest, usize::MAX) {
            let Some((frame, after)) = rest.split_at_checked(total) else { break };
            let body = frame.get(HEADER_LEN..).unwrap_or_default();
            frames.push(Frame { header, content: ContentRef::framed(body, fields, topic).shared() });
            rest = after;
        }
        frames
    }

    /// The frames of a batch for a value link. The caller takes them from the front and then calls
    /// [`recount`](Self::recount).
    pub(super) fn values(&mut self) -> Option<&mut VecDeque<Frame>> {
        match &mut self.frames {
            Frames::Values(frames) => Some(frames),
            Frames::Bytes(_) => None,
        }
    }

    /// Counts the size anew after frames were taken from [`values`](Self::values).
    pub(super) fn recount(&mut self) {
        if let Frames::Values(frames) = &self.frames {
            self.size = frames.iter().map(|frame| frame.content.frame_size()).sum();
        }
    }

    /// The memory of an empty batch that is worth keeping for the next one. Encoded frames have a pool
    /// for theirs.
    pub(crate) fn into_spare(self) -> Option<Self> {
        match &self.frames {
            Frames::Values(frames) if self.is_empty() && frames.capacity() <= SPARE_FRAMES => Some(self),
            _ => None,
        }
    }

    /// Gives up memory that a batch which has to wait does not need.
    pub(crate) fn shrink(&mut self) {
        if let Frames::Bytes(encoded) = &mut self.frames {
            encoded.shrink();
        }
    }
}

/// Small frames of one kind, encoded once for several links: each gets a copy with an id and sequence
/// numbers of its own.
#[derive(Debug)]
pub(crate) struct EncodedRun {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
}

impl EncodedRun {
    pub(crate) fn new(kind: Kind, contents: &[ContentRef<'_>]) -> Self {
        let mut run = Self { bytes: pool::writing(), ends: Vec::with_capacity(contents.len()) };
        for content in contents {
            let (fields, topic) = (content.fields.len(), content.topic.len());
            let head = Header::new(kind, 0, 0).encode(fields, topic, content.payload().len());
            run.bytes.extend_from_slice(&head);
            content.append_to(&mut run.bytes);
            run.ends.push(run.bytes.len());
        }
        run
    }

    /// Bytes of the first `count` frames.
    fn size(&self, count: usize) -> usize {
        count.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0)
    }
}

impl Drop for EncodedRun {
    fn drop(&mut self) {
        pool::return_writing(std::mem::take(&mut self.bytes));
    }
}

#[derive(Debug, Default)]
struct Encoded {
    inline: Vec<u8>,
    /// How much of `inline` has been written.
    written: usize,
    /// Shared parts, each to be written when `written` has reached its place in `inline`.
    shared: VecDeque<(usize, Bytes)>,
}

impl Encoded {
    #[inline]
    fn push(&mut self, header: &Header, content: &ContentRef<'_>) {
        if self.inline.capacity() == 0 {
            self.inline = pool::writing();
        }
        let head = header.encode(content.fields.len(), content.topic.len(), content.payload().len());
        self.inline.extend_from_slice(&head);
        if content.payload().len() >= limits::SHARED_PAYLOAD
            && let Some(payload) = content.shared_payload()
        {
            let payload = payload.as_bytes().clone();
            self.inline.extend_from_slice(content.fields);
            self.inline.extend_from_slice(content.topic);
            self.shared.push_back((self.inline.len(), payload));
            return;
        }
        content.append_to(&mut self.inline);
    }

    #[inline]
    fn push_run(&mut self, run: &EncodedRun, count: usize, id: u32, sequence: u64) {
        if self.inline.capacity() == 0 {
            self.inline = pool::writing();
        }
        let start = self.inline.len();
        self.inline.extend_from_slice(run.bytes.get(..run.size(count)).unwrap_or_default());
        let mut frames = self.inline.get_mut(start..).unwrap_or_default();
        let mut begin = 0;
        for (end, sequence) in run.ends.iter().take(count).zip(sequence..) {
            let (frame, rest) = frames.split_at_mut(end - begin);
            Header::renumber(frame, id, sequence);
            (frames, begin) = (rest, *end);
        }
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut from = self.written;
        let mut add = |part: &'a [u8]| {
            let room = filled < slices.len();
            if room && !part.is_empty() {
                slices[filled] = IoSlice::new(part);
                filled += 1;
            }
            room
        };
        for (at, bytes) in &self.shared {
            if !add(&self.inline[from..*at]) || !add(bytes) {
                return filled;
            }
            from = *at;
        }
        add(&self.inline[from..]);
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let until = self.shared.front().map_or(self.inline.len(), |(at, _)| *at);
            let step = count.min(until - self.written);
            self.written += step;
            count -= step;
            if count > 0 {
                let Some((_, bytes)) = self.shared.front_mut() else { break };
                let step = count.min(bytes.len());
                bytes::Buf::advance(bytes, step);
                count -= step;
            }
            if self.shared.front().is_some_and(|(at, bytes)| *at == self.written && bytes.is_empty()) {
                self.shared.pop_front();
            }
        }
        if self.written == self.inline.len() && self.shared.is_empty() {
            self.written = 0;
            self.inline.clear();
        }
    }

    fn shrink(&mut self) {
        let left = self.inline.len() - self.written;
        if self.inline.capacity() > 2 * left + 1024 {
            let rest = self.inline[self.written..].to_vec();
            for (at, _) in &mut self.shared {
                *at -= self.written;
            }
            self.written = 0;
            pool::return_writing(std::mem::replace(&mut self.inline, rest));
        }
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        pool::return_writing(std::mem::take(&mut self.inline));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(batch: &mut Batch, steps: &[usize]) -> Vec<u8> {
        let mut all = Vec::new();
        let mut steps = steps.iter().cycle();
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = batch.slices(&mut slices);
            let next: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            let step = (*steps.next().unwrap()).clamp(1, next.len());
            all.extend_from_slice(&next[..step]);
            batch.advance(step);
        }
        all
    }

    #[test]
    fn a_run_is_what_its_frames_are_one_by_one() {
        let payloads = [vec![1; 3], vec![], vec![2; 700]];
        let contents: Vec<_> =
            payloads.iter().map(|payload| ContentRef::lent(b"", b"a/b", payload)).collect();
        let run = EncodedRun::new(Kind::Deliver, &contents);
        for count in 0..=contents.len() {
            let (mut together, mut single) = (Batch::new(Form::Bytes), Batch::new(Form::Bytes));
            let size = together.push_run(&run, count, 7, 40);
            for (content, sequence) in contents[..count].iter().zip(40..) {
                single.push(&Header::new(Kind::Deliver, 7, sequence), content);
            }
            assert_eq!(size, Some(single.size()));
            assert_eq!(read_all(&mut together, &[1000]), read_all(&mut single, &[1000]));
        }
        assert_eq!(Batch::new(Form::Values).push_run(&run, 1, 7, 40), None);
    }

    proptest! {
        #[test]
        fn what_is_written_in_any_steps_is_what_was_pushed(
            sizes in proptest::collection::vec(0usize..10_000, 1..20),
            steps in proptest::collection::vec(1usize..9_000, 1..20),
            shrink in any::<bool>(),
        ) {
            let mut expected = Vec::new();
            let mut batch = Batch::new(Form::Bytes);
            for (index, size) in sizes.iter().enumerate() {
                let payload = vec![index as u8; *size];
                let header = Header::new(Kind::Deliver, 7, index as u64);
                let content = ContentRef::lent(&[], b"a/b", &payload);
                if index % 2 == 0 {
                    let _ = content.shared();
                }
                expected.extend_from_slice(&header.encode(0, 3, payload.len()));
                expected.extend_from_slice(b"a/b");
                expected.extend_from_slice(&payload);
                batch.push(&header, &content);
            }
            prop_assert_eq!(batch.size(), expected.len());
            let first = steps[0].min(expected.len() / 2);
            let mut all = Vec::new();
            if shrink && first > 0 {
                let mut slices = [IoSlice::new(&[]); 64];
                let filled = batch.slices(&mut slices);
                all = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).take(first).collect();
                let taken = all.len();
                batch.advance(taken);
                batch.shrink();
            }
            all.extend(read_all(&mut batch, &steps));
            prop_assert_eq!(all, expected);
        }
    }
}
