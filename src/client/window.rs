//! The window for publishes: who may send next, and who is told how it went.

mod restart;

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use tokio::sync::oneshot;

pub(super) use self::restart::Limits;
use super::held_back::HeldBack;
use super::keeping::{Keeping, Kept};
use super::publisher::PublishFailures;
use super::shared::{Shared, State, wake};
use crate::error::{BriefResult, BusError, BusResult};
use crate::limits;
use crate::proto::{Content, ContentRef, Credit, Flags, Frame, Header, Kind};

/// Bytes in the lanes from which on a pipelined publish sends them itself: large enough that a write
/// carries hundreds of small messages, small enough to stay in a first-level cache.
const WRITE_AT: usize = 16 * 1024;

/// Larger messages wait for more bytes, up to what the bus reads at a time: so many go together if they fit.
/// With fewer the system's work for each write, and waking the bus, take longer than its copies.
const WRITE_TOGETHER: usize = 64;

/// Changes of publisher that are remembered, to tell whose publish failed: eight windows of publishes that each have
/// another publisher than the one before, as a failure may come later than those of what was sent after it. 128 KiB. One
/// that comes later still counts as that of a publisher that is gone.
const TURNS: usize = 8 * limits::PUBLISH_WINDOW_MESSAGES as usize;

/// The session's window for publishes and all that belongs to it.
pub(super) struct PublishWindow {
    credit: Credit,
    /// Those who wait for credit, in the order in which they came.
    waiting: VecDeque<(u64, Waker)>,
    last_ticket: u64,
    last_sequence: u64,
    /// The last publish of earlier sessions: what the bus counts begins behind it.
    base: u64,
    /// The last publish of which the bus is known to have routed all before.
    settled: u64,
    /// Publishes whose caller waits for the number of matches.
    acknowledgements: HashMap<u64, oneshot::Sender<BusResult<usize>>>,
    /// Which publisher sent from which sequence on.
    turns: VecDeque<(u64, u32)>,
    /// The living publishers, and what has failed of each since it was last asked.
    publishers: HashMap<u32, Option<PublishFailures>>,
    last_publisher: u32,
    /// Publishes that failed and were sent by none of them, since that was last asked.
    strays: u64,
    /// Publishes that are to be kept, until they are answered.
    keeping: Keeping,
    /// Publishes of earlier sessions that are sent before all others.
    held_back: HeldBack,
    /// The session takes no more: what is new waits for the next one.
    holds: bool,
}

impl Default for PublishWindow {
    fn default() -> Self {
        Self {
            credit: Credit::default(),
            waiting: VecDeque::new(),
            last_ticket: 0,
            last_sequence: 0,
            base: 0,
            settled: 0,
            acknowledgements: HashMap::new(),
            turns: VecDeque::new(),
            publishers: HashMap::new(),
            last_publisher: 0,
            strays: 0,
            keeping: Keeping::default(),
            held_back: HeldBack::default(),
            holds: false,
        }
    }
}

/// Who is told how a publish went.
#[derive(Debug)]
pub(super) enum Origin {
    /// The caller waits for it; `None` once it is sent.
    Acknowledged(Option<oneshot::Sender<BusResult<usize>>>),
    /// The caller waits for it, and sends more before that: as with a publisher, many go in one write.
    Queued(Option<oneshot::Sender<BusResult<usize>>>),
    /// A publisher, when it flushes.
    Publisher(u32),
}

/// A place in the row of those who wait for credit; dropping it leaves the row.
pub(super) struct Ticket<'a> {
    shared: &'a Shared,
    place: Option<u64>,
}

impl<'a> Ticket<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, place: None }
    }

    /// Sends a publish, or waits for its turn.
    #[inline]
    pub(super) fn poll_publish(
        &mut self,
        context: &mut Context<'_>,
        origin: &mut Origin,
        content: &ContentRef<'_>,
    ) -> Poll<BriefResult<()>> {
        let mut state = self.shared.lock();
        state.check()?;
        let publishing = &mut state.publishing;
        if !publishing.is_next(self.place) {
            publishing.wait(&mut self.place, context.waker());
            // What would bring credit back may still be waiting here.
            let step = state.lanes.begin();
            drop(state);
            self.shared.write(step);
            return Poll::Pending;
        }
        if self.place.take().is_some() {
            publishing.waiting.pop_front();
        }
        let result = self.shared.push_publish(&mut state, origin, content);
        let next = state.publishing.next_waker();
        match result {
            Ok(then) => self.shared.follow(then, state),
            Err(_) => drop(state),
        }
        wake(next);
        Poll::Ready(result.map(|_| ()))
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut state = self.shared.lock();
            state.publishing.waiting.retain(|(ticket, _)| *ticket != place);
            let next = state.publishing.next_waker();
            drop(state);
            wake(next);
        }
    }
}

/// What follows a publish that is in the lanes.
#[derive(Clone, Copy)]
enum Then {
    Write,
    WakeDriver,
    Nothing,
}

impl Shared {
    /// Whether [`try_publish`](Self::try_publish) would send at this moment, and the frame limit is known.
    pub(super) fn may_publish(&self) -> BriefResult<bool> {
        let state = self.lock();
        state.check()?;
        if state.publishing.is_next(None) {
            return Ok(self.session().is_some());
        }
        self.follow(Then::Write, state);
        Ok(false)
    }

    /// Sends a publish of publisher `publisher` if there is credit and nobody waits for it; `false` if
    /// there is none.
    #[inline]
    pub(super) fn try_publish(&self, publisher: u32, content: &ContentRef<'_>) -> BriefResult<bool> {
        let mut state = self.lock();
        state.check()?;
        if !state.publishing.is_next(None) {
            self.follow(Then::Write, state);
            return Ok(false);
        }
        let then = self.push_publish(&mut state, &mut Origin::Publisher(publisher), content)?;
        self.follow(then, state);
        Ok(true)
    }

    #[inline]
    fn push_publish(
        &self,
        state: &mut State,
        origin: &mut Origin,
        content: &ContentRef<'_>,
    ) -> BriefResult<Then> {
        let kept = match content.fields.is_empty() {
            true => None,
            false => state.publishing.keeping.content(content)?,
        };
        if let Some(kept) = kept {
            return self.push_kept(state, origin, kept);
        }
        let size = content.frame_size();
        if let Some(session) = self.session() {
            session.check_size(size)?;
        }
        let publishing = &mut state.publishing;
        publishing.credit.spend(size);
        publishing.last_sequence += 1;
        let sequence = publishing.last_sequence;
        let header = Header::new(Kind::Publish, 0, sequence - publishing.base);
        match origin {
            Origin::Acknowledged(sender) => {
                if let Some(sender) = sender.take() {
                    publishing.acknowledgements.insert(sequence, sender);
                }
                state.lanes.data(&header.flagged(Flags::ACKNOWLEDGE), content);
                Ok(Then::Write)
            }
            Origin::Queued(sender) => {
                if let Some(sender) = sender.take() {
                    publishing.acknowledgements.insert(sequence, sender);
                }
                Ok(push_pipelined(state, &header.flagged(Flags::ACKNOWLEDGE), content, size))
            }
            Origin::Publisher(publisher) => {
                publishing.note_turn(sequence, *publisher);
                Ok(push_pipelined(state, &header, content, size))
            }
        }
    }

    /// Sends a publish that is sent again at a new session unless it has been answered.
    fn push_kept(&self, state: &mut State, origin: &mut Origin, content: Arc<Content>) -> BriefResult<Then> {
        let size = content.borrowed().frame_size();
        if let Some(session) = self.session() {
            session.check_size(size)?;
        }
        let publishing = &mut state.publishing;
        publishing.credit.spend(size);
        publishing.last_sequence += 1;
        let sequence = publishing.last_sequence;
        let header = Header::new(Kind::Publish, 0, sequence - publishing.base).flagged(Flags::ACKNOWLEDGE);
        let (sender, publisher, is_pipelined) = match origin {
            Origin::Acknowledged(sender) => (sender.take(), None, false),
            Origin::Queued(sender) => (sender.take(), None, true),
            Origin::Publisher(publisher) => (None, Some(*publisher), true),
        };
        if let Some(sender) = sender {
            publishing.acknowledgements.insert(sequence, sender);
        }
        // Its own is told by what is kept.
        publishing.note_turn(sequence, 0);
        publishing.keeping.insert(sequence, Kept { content: Arc::clone(&content), publisher });
        if is_pipelined {
            return Ok(push_pipelined(state, &header, &content.borrowed(), size));
        }
        state.lanes.data(&header, &content.borrowed());
        Ok(Then::Write)
    }

    /// Releases the lock and does what follows.
    #[inline]
    fn follow(&self, then: Then, mut state: MutexGuard<'_, State>) {
        match then {
            Then::Nothing => {}
            Then::WakeDriver => {
                drop(state);
                self.driver.wake();
            }
            Then::Write => {
                let step = state.lanes.begin();
                drop(state);
                self.write(step);
            }
        }
    }

    /// The bus widened the window.
    pub(super) fn grant_publish(&self, messages: u32, bytes: u64) {
        let mut state = self.lock();
        state.publishing.credit.grant(messages, bytes);
        let step = state.release_held_back().then(|| state.lanes.begin());
        let next = state.publishing.next_waker();
        drop(state);
        if let Some(step) = step {
            self.write(step);
        }
        wake(next);
    }

    /// The bus said how a publish went.
    pub(super) fn published(&self, sequence: u64, result: BusResult<usize>) {
        let mut state = self.lock();
        let publishing = &state.publishing;
        let sequence = sequence.saturating_add(publishing.base);
        // What is kept goes to the next bus, with all that is not answered.
        if matches!(result, Err(BusError::Draining { .. }))
            && state.has_others
            && state.publishing.keeping.has(sequence)
        {
            drop(state);
            self.leave();
            return;
        }
        let publishing = &mut state.publishing;
        let kept = publishing.keeping.remove(sequence);
        if let Some(sender) = publishing.acknowledgements.remove(&sequence) {
            drop(state);
            // A caller that went away does not want to know.
            let _ = sender.send(result);
            return;
        }
        let Err(error) = result else { return };
        let publisher = kept.and_then(|kept| kept.publisher).or_else(|| publishing.turn_of(sequence));
        if let Some(error) = publishing.note_failure(publisher, error) {
            drop(state);
            tracing::warn!(%error, sequence, "a publish failed after its publisher was dropped");
        }
    }

    /// Registers a publisher.
    pub(super) fn add_publisher(&self) -> u32 {
        let publishing = &mut self.lock().publishing;
        loop {
            publishing.last_publisher = publishing.last_publisher.wrapping_add(1);
            let id = publishing.last_publisher;
            if id != 0 && !publishing.publishers.contains_key(&id) {
                publishing.publishers.insert(id, None);
                return id;
            }
        }
    }

    /// Forgets a publisher.
    pub(super) fn remove_publisher(&self, publisher: u32) {
        self.lock().publishing.publishers.remove(&publisher);
    }

    /// Takes what has failed of a publisher.
    pub(super) fn take_failures(&self, publisher: u32) -> Option<PublishFailures> {
        self.lock().publishing.publishers.get_mut(&publisher).and_then(Option::take)
    }

    /// Takes how many publishes have failed that no publisher is told of.
    pub(super) fn take_strays(&self) -> u64 {
        std::mem::take(&mut self.lock().publishing.strays)
    }
}

/// Queues a publish that others follow, and says whether it is time to write.
#[inline]
fn push_pipelined(state: &mut State, header: &Header, content: &ContentRef<'_>, size: usize) -> Then {
    let idle = state.lanes.waiting() == 0;
    state.lanes.data(header, content);
    let enough = (WRITE_TOGETHER * size).clamp(WRITE_AT, limits::READ_CHUNK);
    if state.lanes.waiting() >= enough {
        return Then::Write;
    }
    // The driver writes once this task pauses; it is told once, not for each message.
    if idle { Then::WakeDriver } else { Then::Nothing }
}

impl State {
    /// Sends what earlier sessions have left of publishes as far as there is credit; whether that was anything.
    pub(super) fn release_held_back(&mut self) -> bool {
        let PublishWindow { held_back, credit, .. } = &mut self.publishing;
        held_back.release(credit, &mut self.lanes)
    }

    /// Sends a frame that is to follow all that was published before.
    pub(super) fn send_behind_publishes(&mut self, header: Header) {
        if self.publishing.held_back.is_empty() {
            self.lanes.data(&header, &ContentRef::empty());
            return;
        }
        let content = Arc::new(Content::new(Bytes::new(), Bytes::new(), Bytes::new()));
        self.publishing.held_back.follow(Frame { header, content });
    }
}

impl PublishWindow {
    /// Whether the holder of this place, or of none, may send.
    #[inline]
    fn is_next(&self, place: Option<u64>) -> bool {
        self.may_send() && self.waiting.front().map(|(ticket, _)| *ticket) == place
    }

    fn may_send(&self) -> bool {
        self.credit.is_left() && self.held_back.is_empty() && !self.holds
    }

    /// Whether publishes of an earlier session are to be sent yet.
    pub(super) fn holds_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// Lets what is new wait for the next session.
    pub(super) fn hold(&mut self) {
        self.holds = true;
    }

    /// The number of the last publish.
    pub(super) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The bus has routed all publishes up to this one.
    pub(super) fn settle(&mut self, sequence: u64) {
        self.settled = self.settled.max(sequence);
    }

    fn wait(&mut self, place: &mut Option<u64>, waker: &Waker) {
        let Some(place) = *place else {
            self.last_ticket += 1;
            *place = Some(self.last_ticket);
            self.waiting.push_back((self.last_ticket, waker.clone()));
            return;
        };
        // Tickets ascend, so that a place is found without looking at each.
        if let Ok(index) = self.waiting.binary_search_by_key(&place, |(ticket, _)| *ticket)
            && let Some((_, waiting)) = self.waiting.get_mut(index)
        {
            waiting.clone_from(waker);
        }
    }

    /// Who is to be woken, as credit is left.
    pub(super) fn next_waker(&self) -> Option<Waker> {
        let (_, waker) = self.waiting.front()?;
        self.may_send().then(|| waker.clone())
    }

    #[inline]
    fn note_turn(&mut self, sequence: u64, publisher: u32) {
        if self.turns.back().is_some_and(|(_, last)| *last == publisher) {
            return;
        }
        if self.turns.len() == TURNS {
            self.turns.pop_front();
        }
        self.turns.push_back((sequence, publisher));
    }

    /// Notes that a publish has failed; returns why if nobody is left to be told.
    fn note_failure(&mut self, publisher: Option<u32>, error: BusError) -> Option<BusError> {
        match publisher.and_then(|publisher| self.publishers.get_mut(&publisher)) {
            Some(Some(failures)) => failures.count += 1,
            Some(none) => *none = Some(PublishFailures { count: 1, first: error }),
            None => {
                self.strays += 1;
                return Some(error);
            }
        }
        None
    }

    fn turn_of(&self, sequence: u64) -> Option<u32> {
        let after = self.turns.partition_point(|(first, _)| *first <= sequence);
        self.turns.get(after.checked_sub(1)?).map(|(_, publisher)| *publisher)
    }

    /// Wakes all who wait for credit, to see that the connection has ended.
    pub(super) fn wake_all(self) {
        for (_, waker) in self.waiting {
            waker.wake();
        }
    }
}
