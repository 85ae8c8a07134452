//! What has arrived for one subscription, serving or stream of replies and waits to be taken.
//!
//! The driver appends to the shared half. The application's half swaps the whole queue out when its
//! own is empty, so that taking a message neither locks nor allocates. Both together never hold more
//! than the window, which is checked at every arrival.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::deliveries::{Deliveries, Frame, Taken as Admitted};
use super::following::Following;
use crate::error::{BusError, BusResult};
use crate::proto::fields::{GapReason, attempt_of, position_of};
use crate::proto::{Content, ContentRef, Credit, HEADER_LEN, ProcessValue};

/// Bytes of a queue's buffer that are kept by an inbox that has not been used for a while. A busy one
/// keeps all that it needed last, which its window bounds: fresh memory costs more than old.
const RETAINED_BYTES: usize = 1024;

/// Entries whose memory is kept likewise.
const RETAINED_ENTRIES: usize = 16;

/// The parts of a message where they lie.
#[derive(Debug)]
pub(super) struct Raw<'a> {
    pub(super) fields: &'a [u8],
    pub(super) topic: &'a [u8],
    /// The payload, if it is not shared.
    payload: &'a [u8],
    shared: Option<&'a Arc<Content>>,
    /// The payload in memory of its own, where it was opened into such.
    owned: Option<&'a Bytes>,
}

impl<'a> Raw<'a> {
    /// The same message, with its payload opened; `owned` if that has memory of its own.
    pub(super) fn opened<'b>(&'b self, payload: &'b [u8], owned: Option<&'b Bytes>) -> Raw<'b> {
        Raw { fields: self.fields, topic: self.topic, payload, shared: None, owned }
    }

    /// The payload as bytes; a value is encoded at the first call.
    #[inline]
    pub(super) fn payload(&self) -> &'a [u8] {
        self.shared.map_or(self.payload, |shared| shared.payload())
    }

    /// The payload in memory of its own; large ones are not copied.
    #[inline]
    pub(super) fn payload_bytes(&self) -> Bytes {
        match (self.shared, self.owned) {
            (Some(shared), _) => shared.payload_bytes(),
            (None, Some(owned)) => owned.clone(),
            (None, None) => Bytes::copy_from_slice(self.payload),
        }
    }

    /// The message as shared content: the one that the bus fanned out, or where that is not what the payload is now, or
    /// came over a byte link, one of its own.
    pub(super) fn content(&self) -> Arc<Content> {
        if let Some(shared) = self.shared {
            return Arc::clone(shared);
        }
        let Some(owned) = self.owned else {
            return ContentRef::lent(self.fields, self.topic, self.payload).shared();
        };
        let (fields, topic) = (Bytes::copy_from_slice(self.fields), Bytes::copy_from_slice(self.topic));
        Arc::new(Content::new(fields, topic, owned.clone()))
    }

    /// The payload, if it is a value of this process.
    #[inline]
    pub(super) fn value(&self) -> Option<&'a Arc<dyn ProcessValue>> {
        self.shared.and_then(|shared| shared.value())
    }
}

/// What the bus is to be told when messages have come that the application had before.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) frames: Vec<Frame>,
    /// Messages and bytes of the window that are free again.
    pub(super) granted: (u32, u64),
}

/// What the application takes next.
#[derive(Debug)]
pub(super) enum Taken<'a, S> {
    Message {
        stamp: S,
        raw: Raw<'a>,
    },
    Gap {
        count: u64,
        reason: GapReason,
    },
    /// A new session has begun where the one before had ended.
    GoesOn,
}

/// How a queue ended.
#[derive(Debug, Clone, Default)]
pub(super) struct End {
    /// Why, if not because this side asked for it.
    pub(super) error: Option<BusError>,
}

/// The half that the driver appends to. `S` is what each message carries beside its content.
#[derive(Debug)]
pub(super) struct Inbox<S> {
    state: Mutex<InboxState<S>>,
}

#[derive(Debug)]
struct InboxState<S> {
    queue: Queue<S>,
    /// The memory of the application's half while it has nothing to take.
    spare: Queue<S>,
    /// Something came since [`Inbox::rest`] was called last.
    used: bool,
    waker: Option<Waker>,
    credit: Credit,
    /// The last match that is accounted for.
    last: u64,
    received: u64,
    gaps: [u64; GapReason::ALL.len()],
    ended: Option<End>,
    /// The window that the bus begins with.
    window: (u32, u64),
    /// How many times a new session has begun.
    restarts: u32,
    /// Nobody takes anything any more; what arrives is only checked.
    discarding: bool,
    /// How far it is in the stream that it reads.
    following: Option<Box<Following>>,
    /// What is told of messages that are to be acknowledged.
    deliveries: Option<Arc<Deliveries>>,
    /// Messages that had come before and are not put with those that wait: all, and those of this session.
    passed: (u64, u64),
}

#[derive(Debug)]
struct Queue<S> {
    entries: VecDeque<Entry<S>>,
    /// The messages that are not shared, one after the other.
    bytes: Vec<u8>,
    /// How much of `bytes` has been taken.
    start: usize,
}

#[derive(Debug)]
enum Entry<S> {
    Inline {
        stamp: S,
        fields: u16,
        topic: u16,
        payload: u32,
    },
    Shared {
        stamp: S,
        content: Arc<Content>,
    },
    Gap {
        count: u64,
        reason: GapReason,
    },
    /// What follows is of a new session, which goes on in a stream where the one before has ended, or does not.
    Restart {
        goes_on: bool,
    },
}

impl<S> Default for Queue<S> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: Vec::new(), start: 0 }
    }
}

impl<S> Queue<S> {
    #[inline]
    fn push(&mut self, stamp: S, content: &ContentRef<'_>) {
        let (fields, topic) = (u16::try_from(content.fields.len()), u16::try_from(content.topic.len()));
        match (fields, topic, u32::try_from(content.weight())) {
            (Ok(fields), Ok(topic), Ok(payload)) if content.is_lent() => {
                content.append_to(&mut self.bytes);
                self.entries.push_back(Entry::Inline { stamp, fields, topic, payload });
            }
            _ => self.entries.push_back(Entry::Shared { stamp, content: content.shared() }),
        }
    }

    /// Gives memory back that an idle subscription does not need.
    fn shrink(&mut self) {
        if self.bytes.capacity() > RETAINED_BYTES && self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        if self.entries.capacity() > RETAINED_ENTRIES && self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }
}

impl<S> Inbox<S> {
    /// An empty inbox of which the bus has been granted `window`.
    pub(super) fn new(window: (u32, u64)) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(InboxState {
                queue: Queue::default(),
                spare: Queue::default(),
                used: false,
                waker: None,
                credit: Credit::new(window),
                last: 0,
                received: 0,
                gaps: [0; GapReason::ALL.len()],
                ended: None,
                window,
                restarts: 0,
                discarding: false,
                following: None,
                deliveries: None,
                passed: (0, 0),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, InboxState<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a message. `sequence` is its number among the matches of a subscription. Returns who
    /// is to be woken.
    ///
    /// # Errors
    /// What ends the connection: more than the window, or a match that was there before.
    #[inline]
    pub(super) fn deliver(
        &self,
        sequence: Option<u64>,
        stamp: S,
        content: &ContentRef<'_>,
    ) -> BusResult<Option<Waker>> {
        let mut state = self.lock();
        state.receive(sequence, content)?;
        if state.discarding {
            drop(state);
            drop(stamp);
            return Ok(None);
        }
        state.used = true;
        state.queue.push(stamp, content);
        Ok(state.waker.take())
    }

    /// Gives memory back if nothing came since the last call; the driver calls this now and then.
    pub(super) fn rest(&self) {
        let mut state = self.lock();
        if !std::mem::take(&mut state.used) {
            state.queue.shrink();
            state.spare.shrink();
        }
    }

    /// Notes that `count` matches were dropped, the last of them with the number `sequence`.
    ///
    /// # Errors
    /// What ends the connection: numbers that do not go on from the last match.
    pub(super) fn gap(&self, sequence: u64, count: u64, reason: GapReason) -> BusResult<Option<Waker>> {
        let mut state = self.lock();
        // What is missing of a stream that is gone nobody can count.
        let says_something = count > 0 || reason == GapReason::Recreated;
        let until = state.last.checked_add(count).filter(|until| says_something && *until <= sequence);
        let Some(until) = until else {
            return Err(out_of_order(sequence, state.last.saturating_add(count.max(1))));
        };
        if sequence > until {
            state.gap(sequence - until, GapReason::Link);
        }
        state.gap(count, reason);
        state.last = sequence;
        if reason == GapReason::Recreated
            && let Some(following) = &mut state.following
        {
            following.recreated();
            let end = following.end();
            if let Some(deliveries) = &state.deliveries {
                deliveries.forget_from(end);
            }
        }
        Ok(state.waker.take())
    }

    /// What comes from here on is of a new session, at which the whole window is granted: between the two lies
    /// a gap of unknown size.
    pub(super) fn restart(&self) -> Option<Waker> {
        let mut state = self.lock();
        state.restarts += 1;
        state.credit = Credit::new(state.window);
        state.passed.1 = 0;
        state.last = 0;
        if !state.discarding {
            let goes_on = state.following.as_ref().is_some_and(|following| following.goes_on());
            state.queue.entries.push_back(Entry::Restart { goes_on });
        }
        state.waker.take()
    }

    /// Ends the inbox; what waits in it can still be taken. `sequence` is the final match.
    pub(super) fn end(&self, error: Option<BusError>, sequence: Option<u64>) -> Option<Waker> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return None;
        }
        if let Some(missing) = sequence.and_then(|sequence| sequence.checked_sub(state.last))
            && missing > 0
        {
            state.gap(missing, GapReason::Link);
            state.last += missing;
        }
        state.ended = Some(End { error });
        state.waker.take()
    }

    /// Throws away what waits and what is to come.
    pub(super) fn discard(&self) {
        let queue = {
            let mut state = self.lock();
            state.discarding = true;
            state.waker = None;
            std::mem::take(&mut state.queue)
        };
        // Requests that wait answer themselves when they are dropped, which takes another lock.
        drop(queue);
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.lock().ended.clone()
    }

    /// Messages that arrived, and matches dropped for each reason.
    pub(super) fn counts(&self) -> (u64, [u64; GapReason::ALL.len()]) {
        let state = self.lock();
        (state.received, state.gaps)
    }
}

impl Inbox<()> {
    /// From now on it notes how far it is in its stream, and what is to be acknowledged of it.
    pub(super) fn follow_stream(&self, following: Following, deliveries: Option<Arc<Deliveries>>) {
        let mut state = self.lock();
        state.following = Some(Box::new(following));
        state.deliveries = deliveries;
    }

    /// What it has noted, if it reads a stream.
    pub(super) fn with_following<R>(&self, act: impl FnOnce(&mut Following) -> R) -> Option<R> {
        self.lock().following.as_mut().map(|following| act(following))
    }

    /// Appends messages of a subscription, with their numbers among its matches. Returns who is to be
    /// woken; `beside` gets what the bus is to be told.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    #[inline]
    pub(super) fn deliver_run<'c>(
        &self,
        messages: impl Iterator<Item = (u64, ContentRef<'c>)>,
        beside: &mut Beside,
    ) -> BusResult<Option<Waker>> {
        let mut state = self.lock();
        for (sequence, content) in messages {
            state.receive(Some(sequence), &content)?;
            if let Some(following) = &mut state.following
                && let Some(position) = position_of(content.fields)
            {
                following.received(position.sequence, content.frame_size());
                if let Some(deliveries) = &state.deliveries
                    && let Some((sequence, attempt)) = attempt_of(content.fields)
                    && let Admitted::Known(frame) = deliveries.arrived(sequence, attempt)
                {
                    beside.frames.extend(frame);
                    let size = content.frame_size() as u64;
                    beside.granted = (beside.granted.0 + 1, beside.granted.1 + size);
                    state.credit.grant(1, size);
                    state.passed = (state.passed.0 + 1, state.passed.1 + 1);
                    continue;
                }
            }
            if !state.discarding {
                state.used = true;
                state.queue.push((), &content);
            }
        }
        Ok(if state.discarding { None } else { state.waker.take() })
    }
}

impl<S> InboxState<S> {
    /// Checks a message against the window and the numbers before it.
    #[inline]
    fn receive(&mut self, sequence: Option<u64>, content: &ContentRef<'_>) -> BusResult<()> {
        if !self.credit.is_left() {
            return Err(BusError::CreditExceeded {
                what: "the bus sent past a window of this client".into(),
            });
        }
        self.credit.spend(content.frame_size());
        if let Some(sequence) = sequence {
            let expected = self.last.saturating_add(1);
            if sequence < expected || sequence == self.last {
                return Err(out_of_order(sequence, expected));
            }
            if sequence > expected {
                // The bus should have said so itself; it is reported all the same.
                self.gap(sequence - expected, GapReason::Link);
            }
            self.last = sequence;
        }
        self.received += 1;
        Ok(())
    }

    fn gap(&mut self, count: u64, reason: GapReason) {
        if let Some(sum) = self.gaps.get_mut(reason.index()) {
            *sum += count;
        }
        if self.discarding {
            return;
        }
        // The gaps between two messages are one for each reason, so that they take no room without a
        // bound.
        for entry in self.queue.entries.iter_mut().rev() {
            match entry {
                Entry::Gap { count: sum, reason: earlier } if *earlier == reason => {
                    *sum += count;
                    return;
                }
                Entry::Gap { .. } => {}
                Entry::Inline { .. } | Entry::Shared { .. } | Entry::Restart { .. } => break,
            }
        }
        self.queue.entries.push_back(Entry::Gap { count, reason });
    }
}

fn out_of_order(sequence: u64, expected: u64) -> BusError {
    BusError::Protocol { what: format!("match {sequence} of a subscription came where {expected} was due") }
}

/// The half that the application takes from.
#[derive(Debug)]
pub(super) struct Reader<S> {
    inbox: Arc<Inbox<S>>,
    local: Queue<S>,
    /// The shared message that was taken last, until it is done with.
    current: Option<Arc<Content>>,
    window: (u32, u64),
    /// Taken and not yet granted again.
    consumed: (u32, u64),
    taken: u64,
    /// How many new sessions have been met, and what had been taken at the last one.
    restarts: u32,
    taken_before: u64,
}

impl<S> Reader<S> {
    pub(super) fn new(inbox: Arc<Inbox<S>>, window: (u32, u64)) -> Self {
        Self {
            inbox,
            local: Queue::default(),
            current: None,
            window,
            consumed: (0, 0),
            taken: 0,
            restarts: 0,
            taken_before: 0,
        }
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox<S>> {
        &self.inbox
    }

    /// How many new sessions have been met.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Messages taken so far, or had before.
    pub(super) fn taken(&self) -> u64 {
        self.taken + self.inbox.lock().passed.0
    }

    /// Messages taken so far of those of the session that there is now.
    pub(super) fn taken_of_session(&self) -> u64 {
        let state = self.inbox.lock();
        state.passed.1 + if state.restarts == self.restarts { self.taken - self.taken_before } else { 0 }
    }

    /// Waits until something can be taken; `false` when nothing will come any more.
    #[inline]
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        if !self.local.entries.is_empty() {
            return Poll::Ready(true);
        }
        self.local.bytes.clear();
        self.local.start = 0;
        let mut state = self.inbox.lock();
        if !state.queue.entries.is_empty() {
            if self.local.entries.capacity() == 0 {
                std::mem::swap(&mut state.spare, &mut self.local);
            }
            std::mem::swap(&mut state.queue, &mut self.local);
            return Poll::Ready(true);
        }
        if state.ended.is_some() {
            return Poll::Ready(false);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        if self.local.entries.capacity() > 0 {
            std::mem::swap(&mut state.spare, &mut self.local);
        }
        Poll::Pending
    }

    /// Takes what [`poll_ready`](Self::poll_ready) found.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Taken<'_, S>> {
        match self.local.entries.pop_front()? {
            Entry::Inline { stamp, fields, topic, payload } => {
                let (fields, topic, payload) = (usize::from(fields), usize::from(topic), payload as usize);
                let length = fields + topic + payload;
                self.consume(length);
                let rest = self.local.bytes.get(self.local.start..).unwrap_or_default();
                self.local.start += length;
                let (fields, rest) = rest.split_at_checked(fields)?;
                let (topic, rest) = rest.split_at_checked(topic)?;
                let payload = rest.get(..payload)?;
                Some(Taken::Message { stamp, raw: Raw { fields, topic, payload, shared: None, owned: None } })
            }
            Entry::Shared { stamp, content } => {
                self.consume(content.frame_size() - HEADER_LEN);
                let content = &*self.current.insert(content);
                let raw = Raw {
                    fields: content.fields(),
                    topic: content.topic(),
                    payload: &[],
                    shared: Some(content),
                    owned: None,
                };
                Some(Taken::Message { stamp, raw })
            }
            Entry::Gap { count, reason } => Some(Taken::Gap { count, reason }),
            Entry::Restart { goes_on } => {
                self.restarts += 1;
                self.consumed = (0, 0);
                self.taken_before = self.taken;
                Some(match goes_on {
                    true => Taken::GoesOn,
                    false => Taken::Gap { count: 0, reason: GapReason::Link },
                })
            }
        }
    }

    #[inline]
    fn consume(&mut self, length: usize) {
        self.taken += 1;
        self.consumed.0 += 1;
        self.consumed.1 += (HEADER_LEN + length) as u64;
    }

    /// Done with what was taken: returns the messages and bytes to be granted to the bus again, once
    /// half of the window has been taken.
    #[inline]
    pub(super) fn finish(&mut self) -> Option<(u32, u64)> {
        self.current = None;
        let (messages, bytes) = self.consumed;
        if messages == 0 || (u64::from(messages) * 2 < u64::from(self.window.0) && bytes * 2 < self.window.1)
        {
            return None;
        }
        self.consumed = (0, 0);
        let mut state = self.inbox.lock();
        if state.restarts != self.restarts {
            // It was of a session that is gone; the one that there is has the whole window.
            return None;
        }
        state.credit.grant(messages, bytes);
        Some((messages, bytes))
    }
}

impl<S> Drop for Reader<S> {
    fn drop(&mut self) {
        self.inbox.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_the_end_of_their_range_are_violations_and_nothing_worse() {
        let inbox = Inbox::new((1024, 1 << 20));
        let content = ContentRef::of_payload(b"x");
        assert!(inbox.deliver(Some(1), (), &content).is_ok());
        assert!(inbox.gap(5, u64::MAX, GapReason::Link).is_err());
        assert!(inbox.deliver(Some(u64::MAX), (), &content).is_ok());
        assert!(inbox.deliver(Some(u64::MAX), (), &content).is_err());
        assert!(inbox.deliver(Some(1), (), &content).is_err());
        assert!(inbox.gap(u64::MAX, 1, GapReason::Link).is_err());
        assert_eq!(inbox.counts().1.iter().sum::<u64>(), u64::MAX - 2);
    }

    #[test]
    fn an_inbox_keeps_its_memory_while_it_is_used_and_gives_it_back_after() {
        let inbox = Inbox::new((1024, 1 << 20));
        let mut reader = Reader::new(Arc::clone(&inbox), (1024, 1 << 20));
        let mut context = Context::from_waker(Waker::noop());
        for sequence in 1..=100 {
            inbox.deliver(Some(sequence), (), &ContentRef::of_payload(&[7; 100])).unwrap();
        }
        assert!(reader.poll_ready(&mut context).is_ready());
        for _ in 0..100 {
            assert!(matches!(reader.take(), Some(Taken::Message { .. })));
            reader.finish();
        }
        assert!(reader.poll_ready(&mut context).is_pending());
        let held = || {
            let state = inbox.lock();
            state.queue.bytes.capacity() + state.spare.bytes.capacity()
        };
        assert!(held() >= 10_000);
        inbox.rest();
        assert!(held() >= 10_000, "it was used since the last look");
        inbox.rest();
        assert!(held() <= RETAINED_BYTES);
    }
}
