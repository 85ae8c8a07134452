//! A session: one connected peer, as the rest of the bus sees it.
//!
//! The state is under one lock, which is held for a few instructions at a time and never while
//! another session's is held. Writing to the link happens outside of the lock, by whoever has
//! something for this peer.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atomic_waker::AtomicWaker;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::budget::{Budget, Share};
use super::deadlines::Deadlines;
use super::group::Group;
use super::requests::{Asked, Pending};
use super::rights::Rights;
use super::service::{Service, Servings};
use super::stats::Totals;
use super::subscription::{Slot, Subscriptions};
use crate::error::BusError;
use crate::limits;
use crate::proto::{ContentRef, Header, Kind, Owed, Refusal, ResumeToken};
use crate::transport::{Attachment, Lanes, LinkSender, Peer, Step};

/// One connected peer.
pub(crate) struct Session {
    pub(crate) id: u64,
    /// Who it acts for, as he connected first. What he may do does not depend on the address, which is all that may be
    /// another when he comes back; see [`State::peer`].
    pub(crate) peer: Peer,
    pub(crate) name: String,
    /// What a client has to know to come back.
    pub(super) resume_token: ResumeToken,
    sender: Arc<dyn LinkSender>,
    state: Mutex<State>,
    /// Wakes the task that owns the link.
    pub(crate) task: AtomicWaker,
    /// Credit of publishes that were parked and have been resolved since; see [`Hold`](super::hold::Hold).
    pub(super) returned_messages: AtomicU32,
    pub(super) returned_bytes: AtomicU64,
    /// The client has come back over another connection, which is in the state.
    has_returned: AtomicBool,
    /// The link has room again for what waits at groups and services, which is for the task to see to.
    room_again: AtomicBool,
    /// The client has answered behind all that it had sent before it knew that the bus drains.
    pub(super) knows_drain: AtomicBool,
    budget: Arc<Budget>,
    /// Bytes that readers of its subscriptions have of streams.
    pub(super) read_bytes: AtomicUsize,
    /// What consumers know of messages that it has, or that come again to it.
    pub(super) remembered_bytes: AtomicUsize,
}

/// What other tasks change about a session.
pub(crate) struct State {
    pub(crate) lanes: Lanes,
    pub(crate) subscriptions: Subscriptions,
    /// Servings of this session by their id.
    pub(crate) servings: Servings,
    /// Those that were passed over for want of room on the link; requests may wait there.
    held_up: BTreeSet<u32>,
    /// Which of them is the next to go on.
    next_held_up: u32,
    /// Requests this session has made and not seen answered.
    pub(crate) requests: HashMap<u32, Pending, RandomState>,
    /// When they are given up.
    pub(crate) request_times: Deadlines<u32>,
    /// Bytes of these requests.
    pub(crate) request_bytes: usize,
    /// Requests this session was asked and has not answered, by token.
    pub(crate) asked: HashMap<u64, Asked, RandomState>,
    /// Bytes that may wait on the link before the peer gets no more large answers; see
    /// [`answers`](super::answers).
    pub(super) answer_room: usize,
    /// Bytes of small answers that were queued beyond that, and their bound.
    pub(super) small_answers: usize,
    pub(super) small_answer_room: usize,
    /// Bytes that wait in backlogs of this session's subscriptions.
    pub(crate) parked_bytes: usize,
    /// When the first parked message or unanswered request will be due.
    pub(crate) expiry: Option<Instant>,
    /// The link was full to its part of the budget; what waits for that goes on when there is room again.
    pub(crate) crowded: bool,
    /// Groups that had something for this session then, each once.
    pub(crate) groups_without_room: Vec<Arc<Group>>,
    /// Readers of streams had something for this session then.
    readers_without_room: bool,
    /// Who goes first when there is room again.
    first: Waiter,
    /// Publish credit is due but was withheld, as the peer left too much unread.
    pub(crate) grant_withheld: bool,
    /// Somebody has queued a frame and will flush at the end of its turn.
    flush_pending: bool,
    /// Why the session has to end; its task does so when it sees this.
    pub(crate) cut: Option<BusError>,
    /// The connection over which the client has come back; the task goes on with it.
    pub(super) returned: Option<Returned>,
    /// Its client is gone and may come back: nobody chooses it where there are others.
    lost: bool,
    /// Who it acts for, from where and over what he connected last, and the certificate that he has shown then.
    pub(crate) peer: Peer,
    /// Nothing is taken any more.
    pub(crate) closed: bool,
    pub(crate) totals: Totals,
    share: Share,
}

/// A connection over which a client has come back to its session.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) attachment: Attachment,
    /// Bytes of the session's link that the client has received.
    pub(super) received: u64,
    /// What the client has shown this time allows, and the number of the policy that says so.
    pub(super) rights: Option<Box<Rights>>,
    pub(super) policy: u64,
    /// Who it is this time, with the certificate that it has shown.
    pub(super) peer: Peer,
}

/// What may wait for room on a link. Each goes first in turn, so that none takes all of the room each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    Subscriptions,
    Groups,
    Servings,
}

impl Session {
    pub(crate) fn new(
        id: u64,
        mut peer: Peer,
        name: String,
        resume_token: ResumeToken,
        sender: Arc<dyn LinkSender>,
        budget: Arc<Budget>,
        request_bytes: usize,
    ) -> Self {
        let lanes = Lanes::with_room(sender.form(), budget.per_session());
        let latest = peer.clone();
        // What is shown next counts in place of it.
        peer.certificate = None;
        Self {
            id,
            peer,
            name,
            resume_token,
            sender,
            state: Mutex::new(State {
                lanes,
                subscriptions: Subscriptions::default(),
                servings: Servings::default(),
                held_up: BTreeSet::new(),
                next_held_up: 0,
                requests: HashMap::default(),
                request_times: Deadlines::default(),
                request_bytes: 0,
                asked: HashMap::default(),
                answer_room: request_bytes.min(budget.per_session()),
                small_answers: 0,
                small_answer_room: budget.per_session().max(limits::CONTROL_LANE_BYTES),
                parked_bytes: 0,
                expiry: None,
                crowded: false,
                readers_without_room: false,
                groups_without_room: Vec::new(),
                first: Waiter::Subscriptions,
                grant_withheld: false,
                flush_pending: false,
                cut: None,
                returned: None,
                lost: false,
                peer: latest,
                closed: false,
                totals: Totals::default(),
                share: Share::default(),
            }),
            task: AtomicWaker::new(),
            returned_messages: AtomicU32::new(0),
            returned_bytes: AtomicU64::new(0),
            has_returned: AtomicBool::new(false),
            room_again: AtomicBool::new(false),
            knows_drain: AtomicBool::new(false),
            budget,
            read_bytes: AtomicUsize::new(0),
            remembered_bytes: AtomicUsize::new(0),
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sender(&self) -> &dyn LinkSender {
        &*self.sender
    }

    /// Writes what waits, as far as the link takes it. Called without any lock held.
    pub(crate) fn flush(&self) {
        let (mut step, is_cut) = {
            let mut state = self.lock();
            state.flush_pending = false;
            (state.lanes.begin(), state.cut.is_some())
        };
        if is_cut {
            // Whoever noted the reason may have been any task; only the session's own acts on it.
            self.task.wake();
        }
        loop {
            match step {
                Step::Idle => return,
                Step::Blocked => return self.task.wake(),
                Step::Write(mut batch) => {
                    let sent = self.sender.try_send(&mut batch);
                    let mut state = self.lock();
                    step = state.lanes.finish(batch, &sent);
                    if state.crowded && state.lanes.has_ample_room() {
                        if state.go_on() {
                            self.room_again.store(true, Ordering::Release);
                            self.task.wake();
                        }
                        if matches!(step, Step::Idle) {
                            step = state.lanes.begin();
                        }
                    }
                    if state.grant_withheld && !state.is_pressed() {
                        state.grant_withheld = false;
                        self.task.wake();
                    }
                    state.account(&self.budget);
                    if state.closed && matches!(step, Step::Idle) {
                        // The task that ends the session may wait for this.
                        self.task.wake();
                    }
                    if let Err(error) = sent {
                        state.cut(BusError::Disconnected { reason: error.to_string() });
                        drop(state);
                        return self.task.wake();
                    }
                }
            }
        }
    }

    /// Queues a control frame for this peer and flushes it.
    pub(crate) fn send_control(&self, header: &Header, payload: &[u8]) {
        self.lock().control(header, &ContentRef::of_payload(payload));
        self.flush();
    }

    /// Goes on over the connection over which the client has come back; `false` when the session ends.
    pub(super) fn come_back(&self, returned: Returned) -> bool {
        let mut state = self.lock();
        if state.closed || state.cut.is_some() {
            return false;
        }
        state.peer = returned.peer.clone();
        state.returned = Some(returned);
        drop(state);
        self.has_returned.store(true, Ordering::Release);
        self.task.wake();
        true
    }

    /// The connection over which the client has come back, once.
    #[inline]
    pub(super) fn take_connection(&self) -> Option<Returned> {
        if !self.has_returned.load(Ordering::Acquire) {
            return None;
        }
        self.has_returned.store(false, Ordering::Relaxed);
        self.lock().returned.take()
    }

    /// Notes that the connection is gone.
    pub(super) fn lose_connection(&self) {
        self.lock().lost = true;
    }

    /// Goes on after the connection was gone: with what others had for this session meanwhile, too.
    pub(super) fn go_on(&self) {
        let mut state = self.lock();
        state.lost = false;
        state.lanes.unblock();
        if state.crowded {
            self.room_again.store(true, Ordering::Release);
        }
        drop(state);
        self.flush();
    }

    /// Ends the session, whose client has begun a new one. What it served may be served there at once.
    pub(super) fn make_way(&self) {
        self.lose_connection();
        self.cut_off(BusError::Disconnected { reason: "its client has begun a new session".into() });
    }

    /// Ends the session from outside: its task says why to the peer and closes the link.
    pub(crate) fn cut_off(&self, reason: BusError) {
        self.lock().cut(reason);
        self.task.wake();
    }

    /// Takes the publish credit that was returned since the last call.
    pub(crate) fn take_returned(&self) -> Owed {
        if self.returned_messages.load(Ordering::Acquire) == 0 {
            return Owed::default();
        }
        Owed {
            messages: self.returned_messages.swap(0, Ordering::AcqRel),
            bytes: self.returned_bytes.swap(0, Ordering::AcqRel),
        }
    }

    /// Whether there is room again for what waits at groups, services and streams; tells so once.
    pub(crate) fn take_room_again(&self) -> bool {
        self.room_again.load(Ordering::Relaxed) && self.room_again.swap(false, Ordering::Acquire)
    }

    pub(crate) fn shared_budget(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Queues a data frame; returns its size.
    #[inline]
    pub(crate) fn data(&mut self, header: &Header, content: &ContentRef<'_>) -> usize {
        self.lanes.data(header, content)
    }

    /// Queues a control frame. A peer that causes more of them than it reads is cut off.
    pub(crate) fn control(&mut self, header: &Header, content: &ContentRef<'_>) {
        self.lanes.control(header, content);
        let bytes = self.lanes.control_waiting();
        if bytes > limits::CONTROL_LANE_BYTES {
            self.cut(BusError::ControlOverrun { bytes });
        }
    }

    /// Queues the answer that a call succeeded.
    pub(crate) fn accept(&mut self, kind: Kind, id: u32, sequence: u64) {
        self.control(&Header::answering(Kind::Accepted, kind, id, sequence), &ContentRef::empty());
    }

    /// Queues the answer that a call failed.
    pub(crate) fn fail(&mut self, kind: Kind, id: u32, sequence: u64, error: &BusError) {
        let payload = Refusal::from(error).encode();
        self.control(&Header::answering(Kind::Failed, kind, id, sequence), &ContentRef::of_payload(&payload));
    }

    /// Whether so many control frames wait that no publish credit is granted.
    pub(crate) fn is_pressed(&self) -> bool {
        self.lanes.control_waiting() > limits::CONTROL_LANE_PRESSURE
    }

    /// Whether its client is gone, though it may come back.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether there is somebody to take something, and room on the link.
    pub(crate) fn has_room(&self) -> bool {
        !self.lost && self.lanes.has_room()
    }

    /// Whether the link has room for a request to this serving. If not, the serving goes on when there is.
    pub(crate) fn has_room_for(&mut self, serving: u32) -> bool {
        if self.closed {
            return false;
        }
        if self.has_room() {
            return true;
        }
        self.held_up.insert(serving);
        self.crowded = true;
        false
    }

    /// The next service that was held up, as long as there is room.
    pub(crate) fn next_held_up(&mut self) -> Option<Arc<Service>> {
        while self.has_room() {
            let next = self.held_up.range(self.next_held_up..).next().or(self.held_up.first());
            let serving = *next?;
            self.held_up.remove(&serving);
            self.next_held_up = serving.wrapping_add(1);
            if let Some(service) = self.servings.get(serving) {
                return Some(Arc::clone(service));
            }
        }
        None
    }

    /// Bytes that it takes of the table budget.
    pub(crate) fn table_bytes(&self) -> usize {
        self.subscriptions.table_bytes() + self.servings.table_bytes()
    }

    /// Takes a serving out.
    pub(crate) fn forget_serving(&mut self, id: u32) -> Option<Arc<Service>> {
        self.held_up.remove(&id);
        self.servings.remove(id)
    }

    /// Goes on with what waited for room on the link; whether the session's task has to go on with groups
    /// and services, which are not locked from within a session, and with readers of streams.
    fn go_on(&mut self) -> bool {
        if !self.others_wait() {
            self.pump_crowded();
            return false;
        }
        self.first = match self.first {
            Waiter::Subscriptions => Waiter::Groups,
            Waiter::Groups => Waiter::Servings,
            Waiter::Servings => Waiter::Subscriptions,
        };
        if self.first == Waiter::Subscriptions {
            self.pump_crowded();
        }
        true
    }

    fn others_wait(&self) -> bool {
        self.readers_without_room || !self.held_up.is_empty() || !self.groups_without_room.is_empty()
    }

    /// Whether the link has room for a reader of a stream. If not, all that read go on when there is.
    pub(crate) fn has_room_for_readers(&mut self) -> bool {
        let has_room = self.has_room();
        if !has_room {
            (self.crowded, self.readers_without_room) = (true, true);
        }
        has_room
    }

    /// Has those go on that read streams and had no room, if there are any.
    pub(crate) fn wake_readers(&mut self) {
        if std::mem::take(&mut self.readers_without_room) {
            self.subscriptions.wake_cursors();
        }
    }

    /// Who is to go first with the room that there is.
    pub(crate) fn first_waiter(&self) -> Waiter {
        self.first
    }

    /// The groups that had no room, once there is some.
    pub(crate) fn take_groups_without_room(&mut self) -> Vec<Arc<Group>> {
        if !self.has_room() {
            return Vec::new();
        }
        let mut groups = std::mem::take(&mut self.groups_without_room);
        if groups.len() > 1 {
            // The first may take all of the room and note itself again as the first.
            groups.rotate_left(1);
        }
        groups
    }

    /// Goes on with subscriptions that waited for room on the link.
    pub(crate) fn pump_crowded(&mut self) {
        let mut drained = Vec::new();
        let Self { subscriptions, lanes, totals, parked_bytes, .. } = self;
        subscriptions.pump_in_turn(|own| {
            let before = own.backlog.bytes();
            own.pump(lanes, totals);
            *parked_bytes = (*parked_bytes + own.backlog.bytes()).saturating_sub(before);
            if own.draining {
                drained.push(own.id);
            }
            lanes.has_room()
        });
        for id in drained {
            self.end_if_drained(id, false);
        }
        self.crowded = !self.lanes.has_room() || self.others_wait();
    }

    /// Drops what has been parked for long enough, of all subscriptions.
    pub(crate) fn expire_parked(&mut self, now: Instant) {
        while let Some(slot) = self.subscriptions.take_due(now) {
            let Self { subscriptions, lanes, totals, parked_bytes, .. } = self;
            let Some(own) = subscriptions.at(slot) else { continue };
            let before = own.backlog.bytes();
            if !own.expire(now, totals).is_none() {
                own.pump(lanes, totals);
            }
            *parked_bytes = (*parked_bytes + own.backlog.bytes()).saturating_sub(before);
            let drained = own.draining.then_some(own.id);
            subscriptions.note(slot);
            if let Some(id) = drained {
                self.end_if_drained(id, false);
            }
        }
    }

    /// Notes what a subscription has parked; returns whether the session's task has to hear of it.
    pub(crate) fn note_parked(&mut self, slot: Slot) -> bool {
        self.subscriptions.note(slot).is_some_and(|due| self.expect(due))
    }

    /// Finds out when the next parked message or unanswered request will be due.
    pub(crate) fn renew_expiry(&mut self) {
        let parked = self.subscriptions.next_expiry();
        let request = self.next_request_expiry();
        self.expiry = match (parked, request) {
            (Some(parked), Some(request)) => Some(parked.min(request)),
            (parked, request) => parked.or(request),
        };
    }

    /// Notes why the session has to end; the first reason stays.
    pub(crate) fn cut(&mut self, reason: BusError) {
        self.cut.get_or_insert(reason);
    }

    /// Whether the caller is the one to flush this session at the end of its turn.
    #[inline]
    pub(crate) fn claim_flush(&mut self) -> bool {
        !std::mem::replace(&mut self.flush_pending, true)
    }

    /// Makes the session's part of the byte budget follow what it holds.
    #[inline]
    pub(crate) fn account(&mut self, budget: &Budget) {
        let held = self.lanes.waiting() + self.parked_bytes;
        self.share.follow(held, budget);
    }

    /// Requests this session has unanswered, on either side.
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.len() + self.asked.len()
    }

    /// Notes that something will be due at `at`; returns whether the session's task has to hear of it.
    #[inline]
    pub(crate) fn expect(&mut self, at: Instant) -> bool {
        let earlier = self.expiry.is_none_or(|expiry| at < expiry);
        if earlier {
            self.expiry = Some(at);
        }
        earlier
    }
}

#[cfg(test)]
impl Session {
    /// A session without a bus, and its peer's end of the link.
    pub(super) fn alone(id: u64) -> (Arc<Self>, crate::transport::Link) {
        let (bus_end, peer_end) = crate::transport::memory_pair();
        let peer = Peer::new(crate::auth::Principal::Local, "memory");
        let budget = Arc::new(Budget::new(1 << 20));
        (
            Arc::new(Self::new(
                id,
                peer,
                String::new(),
                ResumeToken::new([0; 32]),
                bus_end.sender,
                budget,
                1 << 20,
            )),
            peer_end,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_session_that_another_task_cuts_off_hears_of_it_at_the_next_flush() {
        let (session, _peer) = Session::alone(1);
        let woken = Arc::new(Woken::default());
        session.task.register(&Waker::from(Arc::clone(&woken)));
        let wakes = || woken.0.swap(false, Ordering::Relaxed);
        // The first flush fills the link, which is what wakes the task then.
        let ping = Header::new(Kind::Ping, 0, 0);
        while !session.lock().lanes.is_blocked() {
            session.send_control(&ping, &[]);
        }
        assert!(wakes());
        while session.lock().cut.is_none() {
            session.task.register(&Waker::from(Arc::clone(&woken)));
            assert!(!wakes(), "it is woken although nothing has changed");
            session.send_control(&ping, &[]);
        }
        assert!(wakes());
    }
}
