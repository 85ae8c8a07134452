//! Links that outlive the connection under them.
//!
//! Both ends count the bytes of the stream in each direction and keep what they have sent until the other
//! end says that it has come. When the connection breaks, the link only stands still: the client connects
//! anew, both ends tell how much they have received, and each sends the rest again. To sessions and clients
//! it is one stream in which nothing is lost, doubled or out of order; see "Resuming" in docs/PROTOCOL.md.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use atomic_waker::AtomicWaker;
use tokio::io::{AsyncRead, ReadBuf};

use super::channel::{Channel, VECTORS};
use super::{Batch, Form, Incoming, Link, LinkReceiver, LinkSender, Sent};
use crate::error::BusError;
use crate::limits;
use crate::proto::{Header, Kind};

/// What becomes of a link without its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    /// It ends, as others do.
    Plain = 0,
    /// It stands still. What the connection took is not sent again.
    Lasting = 1,
    /// It stands still, and can go on without a loss: what is sent is kept until it is confirmed.
    Kept = 2,
}

/// The connection under a link, with what it was found to hold already.
pub(crate) struct Attachment {
    channel: Arc<dyn Channel>,
    /// What was read beyond the handshake.
    read: Vec<u8>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Attachment").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

/// What both halves of a link share that may outlive its connection.
pub struct ResumableLink {
    state: Mutex<State>,
    /// The task that owns the link: it reads, and waits for room.
    owner: AtomicWaker,
    /// See [`Mode`].
    mode: AtomicU8,
    /// Counts connections, and losses of them, so that the reader notices.
    generation: AtomicU64,
    /// There is no connection.
    lost: AtomicBool,
    /// Bytes of the stream that have been read.
    received: AtomicU64,
    /// How many of them the other end has been told of.
    told: AtomicU64,
    /// Bytes that are kept to be sent again.
    held: AtomicUsize,
}

struct State {
    /// `None` while there is no connection.
    channel: Option<Arc<dyn Channel>>,
    /// What was read beyond the handshake and the reader has not taken yet.
    read: Vec<u8>,
    /// What goes before the stream goes on: the handshake's answer.
    preface: Vec<u8>,
    /// What the other end has not confirmed; its first byte has the position `confirmed`.
    unconfirmed: VecDeque<u8>,
    confirmed: u64,
    /// The position up to which the connection has taken the stream.
    sent: u64,
    /// Where the last `CONFIRM` stands in the stream.
    confirmation: Option<u64>,
    /// Bytes of those that were added since the other end has confirmed anything.
    confirmations: usize,
    /// The stream ends with a `GOODBYE`.
    last: bool,
    closed: bool,
    lost: Option<String>,
}

impl State {
    /// The position after the last byte of the stream.
    fn end(&self) -> u64 {
        self.confirmed + self.unconfirmed.len() as u64
    }

    /// Bytes of `unconfirmed` that the connection has taken.
    fn taken(&self) -> usize {
        usize::try_from(self.sent - self.confirmed).unwrap_or(usize::MAX)
    }
}

/// A link over a connection of a network.
pub(super) fn link(channel: impl Channel) -> Link {
    let state = State {
        channel: Some(Arc::new(channel)),
        read: Vec::new(),
        preface: Vec::new(),
        unconfirmed: VecDeque::new(),
        confirmed: 0,
        sent: 0,
        confirmation: None,
        confirmations: 0,
        last: false,
        closed: false,
        lost: None,
    };
    let shared = Arc::new(ResumableLink {
        state: Mutex::new(state),
        owner: AtomicWaker::new(),
        mode: AtomicU8::new(Mode::Plain as u8),
        generation: AtomicU64::new(1),
        lost: AtomicBool::new(false),
        received: AtomicU64::new(0),
        told: AtomicU64::new(0),
        held: AtomicUsize::new(0),
    });
    let receiver = Receiver { link: Arc::clone(&shared), channel: None, generation: 0, read: Vec::new() };
    Link { sender: Arc::new(Sender(shared)), receiver: Box::new(receiver) }
}

impl ResumableLink {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            0 => Mode::Plain,
            1 => Mode::Lasting,
            _ => Mode::Kept,
        }
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
    }

    /// Lets the link outlive its connection without a loss: what is sent from here on is kept until it is
    /// confirmed.
    pub(crate) fn keep(&self) {
        self.set_mode(Mode::Kept);
    }

    /// Lets the link outlive its connection, and keeps nothing.
    pub(crate) fn last(&self) {
        self.set_mode(Mode::Lasting);
    }

    /// Keeps nothing: the other end does not know how to go on. The link still outlives its connection.
    pub(crate) fn keep_nothing(&self) {
        let mut state = self.lock();
        self.set_mode(Mode::Lasting);
        let sent = state.sent;
        self.forget(&mut state, sent);
    }

    /// Whether the link can go on without a loss over another connection.
    pub(crate) fn is_kept(&self) -> bool {
        self.mode() == Mode::Kept
    }

    fn outlives(&self) -> bool {
        self.mode() >= Mode::Lasting
    }

    /// Why there is no connection; `None` while there is one.
    pub(crate) fn lost(&self) -> Option<String> {
        self.lock().lost.clone()
    }

    /// Whether there is no connection.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Does without the connection, which is of no use any more.
    pub(crate) fn break_off(&self, reason: &str) {
        let mut state = self.lock();
        self.lose(&mut state, reason.to_owned());
    }

    /// Bytes that are kept to be sent again.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes of the stream that have been read.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Tells the other end how far it has been heard, if it does not know.
    pub(crate) fn tell(&self) {
        if self.is_kept() && self.untold() > 0 {
            let mut state = self.lock();
            self.add_confirmation(&mut state);
            self.send_on(&mut state);
        }
    }

    /// Sends what has been kept and not sent, as far as that goes.
    pub(crate) fn send(&self) {
        self.send_on(&mut self.lock());
    }

    fn untold(&self) -> u64 {
        self.received().saturating_sub(self.told.load(Ordering::Relaxed))
    }

    /// Adds a `CONFIRM` to the stream, whose frames are never cut here. It may pass the bound by a little, or two ends
    /// that both have reached it would wait for each other. One that has not been sent is written over.
    fn add_confirmation(&self, state: &mut State) {
        let received = self.received();
        let frame = Header::new(Kind::Confirm, 0, received).encode(0, 0, 0);
        let unsent = state.confirmation.filter(|position| *position >= state.sent);
        let unsent = unsent.and_then(|position| usize::try_from(position - state.confirmed).ok());
        match unsent {
            Some(start) => {
                for (old, new) in state.unconfirmed.range_mut(start..start + frame.len()).zip(frame) {
                    *old = new;
                }
            }
            None if state.confirmations >= limits::UNCONFIRMED_CONFIRMS => return,
            None => {
                state.confirmation = Some(state.end());
                state.confirmations += frame.len();
                state.unconfirmed.extend(frame.iter());
                self.held.store(state.unconfirmed.len(), Ordering::Relaxed);
            }
        }
        self.told.store(received, Ordering::Relaxed);
    }

    /// Sends what goes, and notes that the connection is gone if it is.
    fn send_on(&self, state: &mut State) -> Sent {
        match self.send_kept(state) {
            Ok(()) => Sent::All,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            Err(error) => {
                self.lose(state, error.to_string());
                Sent::Blocked
            }
        }
    }

    /// The other end has received the stream up to `position`.
    ///
    /// # Errors
    /// [`BusError::Protocol`] for a position that it cannot have reached.
    pub(crate) fn confirm(&self, position: u64) -> Result<(), BusError> {
        let mut state = self.lock();
        if !self.is_kept() {
            return Ok(());
        }
        if position > state.sent {
            let what = format!("{position} bytes were confirmed of {} that were sent", state.sent);
            return Err(BusError::Protocol { what });
        }
        if position <= state.confirmed {
            // It was sent again, and the handshake has told more.
            return Ok(());
        }
        self.forget(&mut state, position);
        drop(state);
        // There may be room again.
        self.owner.wake();
        Ok(())
    }

    fn forget(&self, state: &mut State, position: u64) {
        let count = usize::try_from(position - state.confirmed).unwrap_or(usize::MAX);
        state.unconfirmed.drain(..count.min(state.unconfirmed.len()));
        state.confirmed = position;
        state.confirmation = state.confirmation.filter(|place| *place >= position);
        state.confirmations = 0;
        if state.unconfirmed.is_empty() {
            state.unconfirmed.shrink_to(RETAINED);
        }
        self.held.store(state.unconfirmed.len(), Ordering::Relaxed);
    }

    /// Whether the stream can go on for somebody who has received it up to `position`.
    pub(crate) fn can_go_on(&self, position: u64) -> bool {
        let state = self.lock();
        self.is_kept() && (state.confirmed..=state.end()).contains(&position)
    }

    /// Takes the connection away, to go on elsewhere; nothing is sent or received on this link any more.
    pub(crate) fn detach(&self, read: Vec<u8>) -> Option<Attachment> {
        let channel = self.lock().channel.take()?;
        self.generation.fetch_add(1, Ordering::Release);
        Some(Attachment { channel, read })
    }

    /// Goes on over another connection, whose end has received the stream up to `position`; `preface` is sent
    /// before that. Only the task that owns the link calls this.
    ///
    /// Returns whether it can; otherwise the connection is closed.
    pub(crate) fn attach(&self, attachment: Attachment, position: u64, preface: Vec<u8>) -> bool {
        let mut state = self.lock();
        if !self.is_kept() || !(state.confirmed..=state.end()).contains(&position) || state.closed {
            return false;
        }
        self.forget(&mut state, position);
        state.sent = position;
        state.preface = preface;
        state.read = attachment.read;
        state.channel = Some(attachment.channel);
        state.lost = None;
        self.lost.store(false, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        self.told.store(self.received(), Ordering::Relaxed);
        drop(state);
        self.owner.wake();
        true
    }

    /// Begins the stream of another link in place of its own; `read` is what was read from that one beyond the
    /// handshake. With `keep`, it can go on without a loss.
    ///
    /// Returns whether it can: that one may have lost its connection.
    pub(crate) fn replace(&self, fresh: &Self, read: Vec<u8>, keep: bool) -> bool {
        let mut theirs = fresh.lock();
        let Some(channel) = theirs.channel.take() else { return false };
        let mut state = self.lock();
        state.channel = Some(channel);
        state.unconfirmed = std::mem::take(&mut theirs.unconfirmed);
        (state.confirmed, state.sent) = (theirs.confirmed, theirs.sent);
        state.preface = Vec::new();
        (state.confirmation, state.last) = (None, false);
        state.lost = None;
        self.lost.store(false, Ordering::Release);
        let received = fresh.received() - read.len() as u64;
        state.read = read;
        self.set_mode(if keep { Mode::Kept } else { Mode::Lasting });
        self.held.store(state.unconfirmed.len(), Ordering::Relaxed);
        self.received.store(received, Ordering::Release);
        self.told.store(0, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
        drop(state);
        self.owner.wake();
        true
    }

    /// The connection of this generation is gone.
    fn lose(&self, state: &mut State, reason: String) {
        if state.channel.take().is_some() {
            state.lost = Some(reason);
            self.lost.store(true, Ordering::Release);
            self.generation.fetch_add(1, Ordering::Release);
            self.owner.wake();
        }
    }

    /// Sends what goes before the stream goes on, and the part of it that the connection has not taken.
    fn send_kept(&self, state: &mut State) -> io::Result<()> {
        let Some(channel) = state.channel.clone() else { return Err(io::ErrorKind::WouldBlock.into()) };
        while !state.preface.is_empty() {
            let count = channel.try_write(&[IoSlice::new(&state.preface)])?;
            state.preface.drain(..count.min(state.preface.len()));
        }
        while state.sent < state.end() {
            let (first, second) = state.unconfirmed.as_slices();
            let taken = state.taken();
            let slices = match first.get(taken..) {
                Some(rest) if !rest.is_empty() => [IoSlice::new(rest), IoSlice::new(second)],
                _ => {
                    let rest = second.get(taken.saturating_sub(first.len())..).unwrap_or_default();
                    [IoSlice::new(rest), IoSlice::new(&[])]
                }
            };
            let slices = if slices[1].is_empty() { &slices[..1] } else { &slices };
            state.sent += channel.try_write(slices)? as u64;
        }
        if state.last {
            channel.finish();
        }
        channel.try_flush()
    }

    /// Takes a batch as a whole, so that what is left of it is never a part of a frame, and sends it as far as
    /// that goes.
    fn send_batch(&self, batch: &mut Batch) -> Sent {
        let mut state = self.lock();
        if self.is_kept() && self.untold() >= limits::CONFIRM_BYTES {
            self.add_confirmation(&mut state);
        }
        loop {
            if self.send_on(&mut state) == Sent::Blocked {
                return Sent::Blocked;
            }
            if !self.is_kept() {
                let sent = state.sent;
                self.forget(&mut state, sent);
            }
            if batch.is_empty() {
                return Sent::All;
            }
            if state.unconfirmed.len() >= limits::UNCONFIRMED_BYTES {
                return Sent::Blocked;
            }
            state.last |= batch.is_last();
            while !batch.is_empty() {
                let mut slices = [IoSlice::new(&[]); VECTORS];
                let filled = batch.slices(&mut slices);
                let mut count = 0;
                for slice in slices.iter().take(filled) {
                    state.unconfirmed.extend(slice.iter());
                    count += slice.len();
                }
                batch.advance(count);
            }
            self.held.store(state.unconfirmed.len(), Ordering::Relaxed);
        }
    }
}

/// Bytes of memory that a link keeps for what it will send next.
const RETAINED: usize = 4 * 1024;

impl fmt::Debug for ResumableLink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ResumableLink").field("held", &self.held()).finish_non_exhaustive()
    }
}

struct Sender(Arc<ResumableLink>);

impl LinkSender for Sender {
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn try_send(&self, batch: &mut Batch) -> io::Result<Sent> {
        if self.0.outlives() {
            return Ok(self.0.send_batch(batch));
        }
        let channel = self.0.lock().channel.clone();
        let Some(channel) = channel else { return Err(io::ErrorKind::NotConnected.into()) };
        super::channel::try_send(&*channel, batch)
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.owner.register(context.waker());
        let mut state = self.0.lock();
        let outlives = self.0.outlives();
        let Some(channel) = state.channel.clone() else {
            return if outlives {
                Poll::Pending
            } else {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            };
        };
        let full = state.unconfirmed.len() >= limits::UNCONFIRMED_BYTES && state.sent == state.end();
        if full && channel.try_flush().is_ok() {
            // The other end has to confirm something first.
            return Poll::Pending;
        }
        match ready!(channel.poll_room(context)) {
            Err(error) if outlives => {
                self.0.lose(&mut state, error.to_string());
                Poll::Pending
            }
            room => Poll::Ready(room),
        }
    }

    fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        if let Some(channel) = &state.channel {
            channel.close();
        }
    }

    fn resumable(&self) -> Option<&ResumableLink> {
        Some(&self.0)
    }
}

struct Receiver {
    link: Arc<ResumableLink>,
    channel: Option<Arc<dyn Channel>>,
    generation: u64,
    /// What was read beyond the handshake.
    read: Vec<u8>,
}

impl LinkReceiver for Receiver {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<io::Result<usize>> {
        let outlives = self.link.outlives();
        if outlives {
            self.link.owner.register(context.waker());
        }
        let generation = self.link.generation.load(Ordering::Acquire);
        if generation != self.generation {
            let mut state = self.link.lock();
            self.generation = generation;
            self.channel = state.channel.clone();
            self.read = std::mem::take(&mut state.read);
            if state.lost.is_some() {
                // It may have been found by the owner's own sending, when nobody was there to be woken.
                context.waker().wake_by_ref();
            }
        }
        if self.channel.is_none() {
            return if outlives {
                Poll::Pending
            } else {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            };
        }
        let read = ready!(incoming.poll_read_from(context, self));
        match read {
            Ok(count @ 1..) => {
                self.link.received.fetch_add(count as u64, Ordering::Release);
                if outlives && self.link.untold() >= limits::CONFIRM_BYTES && self.link.is_kept() {
                    self.link.tell();
                }
                Poll::Ready(Ok(count))
            }
            ended if !outlives => Poll::Ready(ended),
            ended => {
                let reason = match ended {
                    Ok(_) => "the connection was closed by the other end".to_owned(),
                    Err(error) => error.to_string(),
                };
                let mut state = self.link.lock();
                // It may be another connection already.
                if self.link.generation.load(Ordering::Acquire) == self.generation {
                    self.link.lose(&mut state, reason);
                }
                drop(state);
                self.channel = None;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let count = self.read.len().min(buffer.remaining());
            let rest = self.read.split_off(count);
            buffer.put_slice(&std::mem::replace(&mut self.read, rest));
            return Poll::Ready(Ok(()));
        }
        let Some(channel) = &self.channel else { return Poll::Pending };
        let count = ready!(channel.poll_read(context, buffer.initialize_unfilled()))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
