//! A byte link whose other end is in the hands of the program: no socket, no system call and no
//! scheduler between what is given and what comes back.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use whispeer::proto::{HEADER_LEN, Kind};
use whispeer::transport::{
    Batch, Form, Incoming, Link, LinkReceiver, LinkSender, RunInPlace, Sent,
};

/// Parts taken from a batch at once. Small frames lie in one piece, so that a few are enough, and
/// making room for many would be counted.
const VECTORS: usize = 4;

/// Where the kind of a frame stands in its header.
const KIND: usize = 4;

/// Where the sequence of a frame begins in its header.
const SEQUENCE: usize = 16;

/// The other end of a byte link to a bus.
/// Turns that what is given at once may take; a session that has ended takes none of it.
const TURNS: usize = 10_000;

#[derive(Default)]
pub struct Wire {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    input: Vec<u8>,
    /// How much of `input` the bus may read.
    given: usize,
    /// How much of `input` the bus has read.
    read: usize,
    /// The bus has handled what it has read, and asked for more.
    settled: bool,
    /// Bytes that the bus has sent.
    sent: u64,
    /// The header of the first frame that the bus sent last.
    last: [u8; HEADER_LEN],
    /// Wakes the bus's task, until it offers to be run in place.
    waker: Option<Waker>,
    task: Option<Weak<dyn RunInPlace>>,
}

impl Wire {
    /// The end of the link that a bus is to serve.
    pub fn link(self: &Arc<Self>) -> Link {
        Link {
            sender: Arc::new(WireSender(Arc::clone(self))),
            receiver: Box::new(WireReceiver(Arc::clone(self))),
        }
    }

    /// Whether the bus has a session for this link.
    pub fn is_served(&self) -> bool {
        self.lock().task.is_some()
    }

    /// Gives the bus the first frame, to be read when its task is next polled.
    pub fn begin(&self, frame: Vec<u8>) {
        self.load(frame);
        let waker = {
            let mut state = self.lock();
            state.given = state.input.len();
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lays out what is to be given next, in place of what was given before.
    pub fn load(&self, frames: Vec<u8>) {
        let mut state = self.lock();
        state.input = frames;
        (state.given, state.read) = (0, 0);
    }

    /// Gives the bus the next `count` bytes of what was loaded, and its session turns on this thread
    /// until it has handled them and asks for more.
    pub fn give(&self, count: usize) {
        let task = {
            let mut state = self.lock();
            state.given += count;
            state.settled = false;
            state.task.as_ref().and_then(Weak::upgrade)
        };
        let Some(task) = task else { return };
        for _ in 0..TURNS {
            if self.lock().settled {
                return;
            }
            task.run();
        }
    }

    /// Gives the next frame a sequence that was not known when it was loaded.
    pub fn number_next(&self, sequence: u64) {
        let mut state = self.lock();
        let start = state.given + SEQUENCE;
        if let Some(place) = state.input.get_mut(start..start + size_of::<u64>()) {
            place.copy_from_slice(&sequence.to_le_bytes());
        }
    }

    /// Bytes that the bus has sent so far.
    pub fn sent(&self) -> u64 {
        self.lock().sent
    }

    /// The kind of the first frame that the bus sent last.
    pub fn last_kind(&self) -> Option<Kind> {
        self.lock().last.get(KIND).copied().and_then(Kind::from_u8)
    }

    /// The sequence of the first frame that the bus sent last.
    pub fn last_sequence(&self) -> u64 {
        let state = self.lock();
        let sequence = state.last.get(SEQUENCE..).and_then(<[u8]>::first_chunk);
        u64::from_le_bytes(sequence.copied().unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wire").finish_non_exhaustive()
    }
}

struct WireSender(Arc<Wire>);

impl LinkSender for WireSender {
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn try_send(&self, batch: &mut Batch) -> io::Result<Sent> {
        let mut state = self.0.lock();
        let mut is_first = true;
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); VECTORS];
            let filled = batch.slices(&mut slices);
            let parts = slices.get(..filled).unwrap_or_default();
            if is_first && let Some(header) = parts.first().and_then(|part| part.first_chunk()) {
                state.last = *header;
                is_first = false;
            }
            let size = parts.iter().map(|part| part.len()).sum();
            state.sent += size as u64;
            batch.advance(size);
        }
        Ok(Sent::All)
    }

    fn poll_ready(&self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn close(&self) {}
}

struct WireReceiver(Arc<Wire>);

impl LinkReceiver for WireReceiver {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        let mut unread = state.input.get(state.read..state.given).unwrap_or_default();
        if unread.is_empty() {
            state.settled = true;
            if state.task.is_none() {
                state.waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        let before = unread.len();
        let polled = incoming.poll_read_from(context, &mut unread);
        let taken = before - unread.len();
        state.read += taken;
        polled
    }

    fn run_in_place(&mut self, task: Weak<dyn RunInPlace>) {
        self.0.lock().task = Some(task);
    }
}
