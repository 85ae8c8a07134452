//! The task that owns a link: it reads, decodes and routes, keeps the times, and ends the session.
//!
//! One turn takes what has arrived, routes every frame of it, and then flushes each session that it
//! wrote to once. Nothing in a turn awaits.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Shared;
use super::budget::Share;
use super::claims::Claiming;
use super::clock::{Clock, SystemDeadline};
use super::drain::DRAIN_PING;
use super::hold::Holds;
use super::opening::welcome;
use super::plugged::Plugged;
use super::requests::claim;
use super::rights::Rights;
use super::router::RouteCache;
use super::session::{Returned, Session, State, Waiter};
use super::stats::Totals;
use super::streams::Storing;
use super::underway::{Underway, Waiting};
use crate::error::BusError;
use crate::limits;
use crate::proto::{Capabilities, Content, ContentRef, Credit, Flags, Header, Kind, Lane, Owed, Welcome};
use crate::transport::{InPlace, Incoming, LinkReceiver, Part, ResumableLink, Timer, Turn};

/// How often publishes that wait for the byte budget are tried again.
const RETRY: Duration = Duration::from_millis(5);

/// The owner of one link after the handshake.
pub(super) struct SessionTask {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Arc<Session>,
    pub(super) receiver: Box<dyn LinkReceiver>,
    pub(super) incoming: Incoming,
    pub(super) cache: RouteCache,
    /// What the peer may still publish, and what it has consumed since the last grant.
    pub(super) credit: Credit,
    pub(super) owed: Owed,
    pub(super) published: u64,
    /// Frames that wait for the byte budget.
    pub(super) deferred: VecDeque<Deferred>,
    /// Publishes that wait for a store.
    pub(super) storing: Storing,
    /// What is published when the session ends without having been closed.
    pub(super) will: Option<Arc<Content>>,
    /// Where cursors run.
    pub(super) runtime: Handle,
    /// The publish that takes more than one turn; nothing else is taken in before it is done.
    pub(super) underway: Option<Underway>,
    pub(super) touched: Vec<Arc<Session>>,
    /// Hold the credit of what this turn's publishes left parked.
    pub(super) holds: Holds,
    pub(super) totals: Totals,
    pub(super) clock: Clock,
    keep_alive: Duration,
    /// Something has arrived since the last tick.
    heard: bool,
    /// The last tick by which something had arrived.
    last_heard: Instant,
    next_tick: Instant,
    /// Fires when the next thing is due.
    timer: Timer,
    pings: u64,
    /// Frames handled so far, and by the last tick; and ticks that passed within one frame.
    pub(super) frames: (u64, u64),
    unfinished_ticks: u32,
    /// Frames and matches handled in this turn.
    pub(super) matches: u64,
    /// The turn ended before all that has been read was handled.
    pub(super) interrupted: bool,
    /// The session has been taken back.
    pub(super) undone: bool,
    /// The peer sends nothing more; known only while the session is closing.
    pub(super) peer_closed: bool,
    /// What the session may do; `None` where nobody is asked who he is.
    pub(super) rights: Option<Box<Rights>>,
    /// The number of the policy that they are by.
    pub(super) policy: u64,
    /// When the client's certificate has to be looked at.
    pub(super) certificate_end: Option<SystemDeadline>,
    /// The link may outlive its connection.
    resumable: bool,
    /// The connection is gone; the session ends when this is reached, unless the client comes back.
    pub(super) lost_until: Option<Instant>,
    /// When the session ends by itself; see [`note_end`](Self::note_end).
    ends_at: Option<Instant>,
    pub(super) share: Share,
    /// Wishes to serve that are not decided yet, where there are some.
    pub(super) claiming: Option<Box<Claiming>>,
    /// What it has to do with plugins, where there are some.
    pub(super) plugged: Option<Box<Plugged>>,
    /// Bytes of the frame of the publish that is being routed, where plugins have changed it.
    pub(super) arrived_size: Option<usize>,
}

/// A publish, or a flush behind one, that waits for the byte budget.
pub(super) struct Deferred {
    pub(super) header: Header,
    pub(super) content: Arc<Content>,
    pub(super) until: Instant,
    /// For a publish: draining waits for it.
    pub(super) _waiting: Option<Waiting>,
}

/// A session that is being served.
pub(super) struct Served {
    cell: Arc<InPlace<SessionTask>>,
    ended: Option<BusError>,
}

impl Served {
    /// Serves the session until it ends. All connections hold this future, so it is small. Returns the task if stores still have
    /// publishes of it, which wants to be [outlasted](SessionTask::outlast).
    pub(super) async fn finished(self) -> Option<Box<SessionTask>> {
        let Self { cell, ended } = self;
        let reason = match ended {
            Some(reason) => reason,
            None => poll_fn(|context| cell.poll(context)).await,
        };
        let task = cell.take().map(Box::new);
        // From here on whoever sends something wakes this task again.
        drop(cell);
        let mut task = task?;
        let is_left = Box::pin(task.finish(reason)).await;
        is_left.then_some(task)
    }
}

impl SessionTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        session: Arc<Session>,
        receiver: Box<dyn LinkReceiver>,
        incoming: Incoming,
        keep_alive: Duration,
        (rights, policy): (Option<Box<Rights>>, u64),
    ) -> Self {
        let now = Instant::now();
        let resumable = session.sender().resumable().is_some();
        Self {
            credit: Credit::new(shared.settings.publish_window),
            holds: Holds::new(Arc::clone(&session)),
            shared,
            session,
            receiver,
            incoming,
            cache: RouteCache::default(),
            owed: Owed::default(),
            published: 0,
            deferred: VecDeque::new(),
            storing: Storing::default(),
            will: None,
            runtime: Handle::current(),
            underway: None,
            touched: Vec::new(),
            totals: Totals::default(),
            clock: Clock::default(),
            keep_alive,
            heard: false,
            last_heard: now,
            next_tick: now + keep_alive,
            timer: Timer::new(now + keep_alive),
            pings: 0,
            frames: (0, 0),
            unfinished_ticks: 0,
            matches: 0,
            interrupted: false,
            undone: false,
            peer_closed: false,
            rights,
            policy,
            certificate_end: None,
            resumable,
            lost_until: None,
            ends_at: None,
            share: Share::default(),
            claiming: None,
            plugged: None,
            arrived_size: None,
        }
    }

    /// Begins to serve the session.
    pub(super) fn start(mut self) -> Served {
        self.follow_certificate();
        self.note_end();
        // Frames may have come in one piece with the handshake.
        let ended = self.take_frames().err();
        self.end_turn();
        let cell = Arc::new(InPlace::new(self));
        if ended.is_none() {
            cell.offer(|task, cell| task.receiver.run_in_place(cell));
        }
        Served { cell, ended }
    }

    /// Works until there is nothing to do; ready with the reason when the session has to end.
    fn work(&mut self, context: &mut Context<'_>) -> Poll<BusError> {
        self.session.task.register(context.waker());
        self.clock.turn();
        if self.resumable {
            self.look_at_connection();
        }
        if self.policy != self.shared.policies.number()
            && let Err(reason) = self.renew_rights()
        {
            return Poll::Ready(reason);
        }
        if let Some(reason) = self.poll_link(context) {
            return Poll::Ready(reason);
        }
        self.owed_from_holds();
        if self.session.take_room_again() {
            self.use_room();
        }
        let mut reads = 0;
        self.matches = 0;
        loop {
            // What the last turn left is first.
            if !std::mem::take(&mut self.interrupted) {
                match self.receiver.poll_receive(context, &mut self.incoming) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0)) => return Poll::Ready(closed_by_peer()),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(BusError::Disconnected { reason: error.to_string() });
                    }
                }
            }
            self.heard = true;
            let result = self.take_frames();
            self.end_turn();
            if let Err(reason) = result {
                return Poll::Ready(reason);
            }
            reads += 1;
            if reads >= limits::TURN_READS || self.interrupted {
                // Others get their turn, and the times below are kept however much arrives.
                context.waker().wake_by_ref();
                break;
            }
        }
        self.take_stored(context);
        if self.plugged.is_some() {
            self.take_answers(context);
        }
        if self.claiming.is_some() {
            self.take_verdicts(context);
        }
        self.grant_publishes();
        self.poll_times(context)
    }

    /// Goes on over another connection if the client has come back, and notes when the connection is gone.
    fn look_at_connection(&mut self) {
        let returned = self.session.take_connection();
        let is_lost = self.session.sender().resumable().is_some_and(ResumableLink::is_lost);
        if returned.is_none() && is_lost == self.lost_until.is_some() {
            return;
        }
        let session = Arc::clone(&self.session);
        let Some(link) = session.sender().resumable() else { return };
        if let Some(Returned { attachment, received, rights, policy, .. }) = returned {
            // What its new credentials allow counts from now on, and for as long as they say.
            (self.rights, self.policy) = (rights, policy);
            self.follow_certificate();
            self.follow_rights();
            let welcome = Welcome {
                resumed: true,
                received: link.received(),
                ..welcome(&self.shared, &self.session, self.keep_alive, Capabilities::RESUME)
            };
            let payload = welcome.encode();
            let mut preface = Header::new(Kind::Welcome, 0, 0).encode(0, 0, payload.len()).to_vec();
            preface.extend_from_slice(&payload);
            if link.attach(attachment, received, preface) {
                self.heard = true;
                self.lost_until = None;
                self.note_end();
                self.session.go_on();
                // An empty lane would not send what the link itself has.
                link.send();
            }
        }
        if link.is_lost() && self.lost_until.is_none() {
            self.session.lose_connection();
            self.clock.turn();
            self.lost_until = Some(self.clock.now() + self.shared.live().resume_limit);
            self.note_end();
            let reason = link.lost().unwrap_or_default();
            tracing::debug!(session = self.session.id, reason, "the connection of a session is gone");
        }
    }

    /// Notes when the session ends by itself: its client does not come back, or its rights or its certificate end.
    pub(super) fn note_end(&mut self) {
        let rights_until = self.rights.as_ref().and_then(|rights| rights.until).map(|until| until.at);
        let certificate_end = self.certificate_end.map(|end| end.at);
        self.ends_at = self.lost_until.into_iter().chain(rights_until).chain(certificate_end).min();
    }

    /// Why the session ends, now that it may do so by itself.
    fn end_of_time(&mut self, now: Instant) -> Option<BusError> {
        if let Some(rights) = &mut self.rights
            && let Err(reason) = rights.outlive(now, SystemTime::now())
        {
            return Some(reason);
        }
        if self.certificate_end.is_some_and(|end| end.at <= now)
            && let Err(reason) = self.outlive_certificate()
        {
            return Some(reason);
        }
        self.note_end();
        self.lost_until.is_some_and(|until| until <= now).then(|| self.lost())
    }

    /// Why the session ends when its client does not come back.
    fn lost(&self) -> BusError {
        let reason = self.session.sender().resumable().and_then(ResumableLink::lost);
        BusError::Disconnected { reason: reason.unwrap_or_else(|| "the connection is gone".into()) }
    }

    /// Ends the session if somebody asked for it, and goes on writing when the link has room again.
    fn poll_link(&mut self, context: &mut Context<'_>) -> Option<BusError> {
        loop {
            {
                let mut state = self.session.lock();
                if let Some(reason) = state.cut.take() {
                    return Some(reason);
                }
                if !state.lanes.is_blocked() {
                    return None;
                }
            }
            match self.session.sender().poll_ready(context) {
                Poll::Pending => return None,
                Poll::Ready(Err(error)) => return Some(BusError::Disconnected { reason: error.to_string() }),
                Poll::Ready(Ok(())) => {
                    self.session.lock().lanes.unblock();
                    self.session.flush();
                }
            }
        }
    }

    /// Takes what groups, services and readers of streams had for this session while its link had no room.
    fn use_room(&mut self) {
        let first = self.session.lock().first_waiter();
        if first == Waiter::Servings {
            self.serve_held_up();
        }
        let groups = self.session.lock().take_groups_without_room();
        for group in groups {
            group.pump(&mut self.touched);
        }
        self.serve_held_up();
        self.answer(State::pump_crowded);
        self.session.lock().wake_readers();
        self.end_turn();
    }

    fn serve_held_up(&mut self) {
        loop {
            let held_up = self.session.lock().next_held_up();
            let Some(service) = held_up else { return };
            self.shared.serve_waiting(&service, self.clock.now(), &mut self.touched);
        }
    }

    /// Handles the frames that have arrived, in order.
    fn take_frames(&mut self) -> Result<(), BusError> {
        let mut incoming =
            std::mem::replace(&mut self.incoming, Incoming::new(self.session.sender().form(), 0));
        let result = self.take_all(&mut incoming);
        incoming.settle();
        self.incoming = incoming;
        result
    }

    fn take_all(&mut self, incoming: &mut Incoming) -> Result<(), BusError> {
        if !self.proceed() {
            self.interrupted = true;
            return Ok(());
        }
        let mut run = Vec::new();
        loop {
            incoming.release();
            let Some(first) = incoming.take_next()? else { break };
            if self.deferred.is_empty() {
                if !self.publish_run(&first, incoming, &mut run)? {
                    self.count_frame();
                    self.handle(&first.header, &incoming.content(&first))?;
                }
            } else {
                self.count_frame();
                self.handle_behind_deferred(&first.header, incoming.content(&first))?;
            }
            if self.matches >= limits::TURN_MATCHES {
                self.interrupted = true;
                break;
            }
        }
        Ok(())
    }

    pub(super) fn count_frame(&mut self) {
        self.frames.0 += 1;
        self.matches += 1;
    }

    fn handle(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        match header.kind {
            kind if self.session.peer.part == Part::Sharing && !is_for_sharing(kind) => {
                let what = format!("{kind:?} of a bus that is here for consumers alone");
                Err(BusError::Protocol { what })
            }
            Kind::Publish => self.publish(header, content),
            Kind::Credit => self.credit(header, content),
            Kind::Request => self.request(header, content),
            Kind::Reply => {
                let Self { shared, session, clock, touched, matches, .. } = self;
                shared.reply(session, header, content, clock, touched, matches)
            }
            Kind::Cancel => {
                self.shared.cancel(&self.session, header.id);
                Ok(())
            }
            Kind::Subscribe => self.counting_changes(|task| task.subscribe(header, content)),
            Kind::Unsubscribe => self.counting_changes(|task| task.unsubscribe(header)),
            Kind::Will => {
                self.set_will(header, content);
                Ok(())
            }
            Kind::Serve => self.serve(header, content),
            Kind::Unserve => self.unserve(header),
            Kind::Ack => self.acknowledge(header, content),
            Kind::Ping if self.storing.flush(header.sequence) => {
                match self.storing.len() > 2 * self.shared.settings.publish_window.0 as usize {
                    true => Err(BusError::ControlOverrun { bytes: self.storing.len() * 24 }),
                    false => Ok(()),
                }
            }
            Kind::Ping => {
                self.answer(|state| {
                    state.control(&Header::new(Kind::Pong, 0, header.sequence), &ContentRef::empty());
                });
                Ok(())
            }
            Kind::Pong => {
                if header.sequence == DRAIN_PING {
                    self.session.knows_drain.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            Kind::Confirm => match self.session.sender().resumable() {
                Some(link) => link.confirm(header.sequence),
                None => {
                    Err(BusError::Protocol { what: "CONFIRM on a link that ends with its connection".into() })
                }
            },
            Kind::Goodbye => Err(BusError::Closed { what: "the session, by its client,".into() }),
            kind => {
                Err(BusError::Protocol { what: format!("a client sent {kind:?}, which only a bus sends") })
            }
        }
    }

    /// Counts what a change to the routing table costs as matches of the turn. What others change at the
    /// same time is counted with it, which does no harm.
    fn counting_changes(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(), BusError>,
    ) -> Result<(), BusError> {
        let before = self.shared.router.steps_of_changes();
        let result = change(self);
        let steps = self.shared.router.steps_of_changes().saturating_sub(before);
        self.matches += limits::CHANGE_MATCHES + steps * limits::MATCHES_PER_STEP as u64;
        result
    }

    /// While publishes wait for the byte budget, what must not overtake them waits behind.
    fn handle_behind_deferred(&mut self, header: &Header, content: ContentRef<'_>) -> Result<(), BusError> {
        match header.kind {
            Kind::Publish => self.defer(header, &content),
            Kind::Ping => {
                let until = self.clock.now() + self.shared.settings.block_limit;
                let deferred = Deferred { header: *header, content: content.shared(), until, _waiting: None };
                if self.deferred.len() >= 2 * self.shared.settings.publish_window.0 as usize {
                    return Err(BusError::ControlOverrun { bytes: self.deferred.len() * 24 });
                }
                self.deferred.push_back(deferred);
                Ok(())
            }
            _ => self.handle(header, &content),
        }
    }

    /// Flushes everything that this turn wrote to.
    pub(super) fn end_turn(&mut self) {
        if self.underway.is_none() {
            self.holds.close();
        }
        self.add_totals();
        self.grant_publishes();
        for session in self.touched.drain(..) {
            session.flush();
        }
        let held = if self.undone { self.left_held() } else { self.held() };
        self.share.follow(held, self.session.budget());
    }

    /// Bytes of memory that the session takes beside its lanes and what is parked.
    fn held(&self) -> usize {
        let deferred: usize = self.deferred.iter().map(|deferred| deferred.content.size()).sum();
        let underway = self.underway.as_ref().map_or(0, |publish| publish.held() + self.cache.held());
        let mut held = self.incoming.held() + deferred + underway + self.storing.held() + self.will_held();
        held += self.plugged.as_ref().map_or(0, |plugged| plugged.held());
        held += self.claiming.as_ref().map_or(0, |claiming| claiming.held());
        if self.resumable {
            held += self.session.sender().resumable().map_or(0, ResumableLink::held);
        }
        held
    }

    /// Adds what this turn has counted to the counts of the session, or to those of all that have ended.
    fn add_totals(&mut self) {
        if self.totals == Totals::default() {
            return;
        }
        let totals = std::mem::take(&mut self.totals);
        match self.undone {
            false => self.session.lock().totals.add(&totals),
            true => self.shared.past().add(&totals),
        }
    }

    /// Queues an answer to this session, to be flushed at the end of the turn.
    pub(super) fn answer(&mut self, answer: impl FnOnce(&mut State)) {
        let mut state = self.session.lock();
        answer(&mut state);
        claim(&self.session, &mut state, &mut self.touched);
        let pressed = state.is_pressed();
        drop(state);
        if pressed {
            // A peer that reads is not to be cut off for what this turn has not sent yet.
            self.session.flush();
        }
    }

    fn owed_from_holds(&mut self) {
        let returned = self.session.take_returned();
        self.owed.add(returned.messages, returned.bytes);
    }

    /// Grants publish credit when half of the window has been used, unless the peer does not read.
    fn grant_publishes(&mut self) {
        let window = self.shared.settings.publish_window;
        if !self.owed.is_due(window) {
            return;
        }
        let mut state = self.session.lock();
        if state.is_pressed() {
            state.grant_withheld = true;
            return;
        }
        let owed = std::mem::take(&mut self.owed);
        self.credit.grant_within(owed.messages, owed.bytes, window);
        let header = Header::new(Kind::Credit, owed.messages, 0).flagged(Flags(Lane::Publish as u8));
        state.control(&header, &ContentRef::of_payload(&owed.bytes.to_le_bytes()));
        drop(state);
        self.session.flush();
    }

    /// Does what is due and sets the timer for what comes next.
    fn poll_times(&mut self, context: &mut Context<'_>) -> Poll<BusError> {
        loop {
            if !self.deferred.is_empty() && self.underway.is_none() {
                self.retry_deferred();
                self.end_turn();
                if self.matches_left() == 0 {
                    // The rest, or what is under way, goes on in the next turn.
                    self.interrupted = true;
                    context.waker().wake_by_ref();
                }
            }
            let expiry = self.session.lock().expiry;
            let mut next = self.next_tick;
            if let Some(at) = expiry {
                next = next.min(at);
            }
            if !self.deferred.is_empty() {
                next = next.min(self.clock.now() + RETRY);
            }
            if let Some(until) = self.ends_at {
                next = next.min(until);
            }
            self.timer.set(next);
            if self.timer.poll(context).is_pending() {
                return Poll::Pending;
            }
            self.clock.turn();
            let now = self.clock.now();
            if expiry.is_some_and(|at| at <= now) {
                self.expire(now);
            }
            if self.ends_at.is_some_and(|until| until <= now)
                && let Some(reason) = self.end_of_time(now)
            {
                return Poll::Ready(reason);
            }
            if self.next_tick <= now
                && let Some(reason) = self.tick(now)
            {
                return Poll::Ready(reason);
            }
        }
    }

    /// Drops parked messages and requests that have waited long enough.
    fn expire(&mut self, now: Instant) {
        self.shared.expire_requests(&self.session, now, &mut self.touched);
        {
            let mut state = self.session.lock();
            state.expire_parked(now);
            state.renew_expiry();
            claim(&self.session, &mut state, &mut self.touched);
        }
        self.end_turn();
    }

    /// Keeps the link alive, or finds that the peer is not.
    fn tick(&mut self, now: Instant) -> Option<BusError> {
        self.next_tick = now + self.keep_alive;
        self.cache.tidy();
        if std::mem::take(&mut self.heard) || self.lost_until.is_some() {
            self.last_heard = now;
        }
        let silent = now.duration_since(self.last_heard);
        if silent >= self.keep_alive * limits::KEEP_ALIVE_MISSED {
            let reason = BusError::KeepAlive { after: silent };
            return match self.session.sender().resumable().filter(|link| link.is_kept()) {
                Some(link) => {
                    link.break_off(&reason.to_string());
                    None
                }
                None => Some(reason),
            };
        }
        if self.resumable {
            if let Some(link) = self.session.sender().resumable() {
                link.tell();
            }
            if self.lost_until.is_some() {
                return None;
            }
        }
        // A frame that is begun and never finished would keep its memory for ever.
        let unfinished = self.incoming.held() > 0 && self.frames.0 == self.frames.1;
        self.frames.1 = self.frames.0;
        self.unfinished_ticks = if unfinished { self.unfinished_ticks + 1 } else { 0 };
        let after = self.keep_alive * self.unfinished_ticks;
        let stall_limit = self.shared.live().stall_limit;
        if after >= stall_limit {
            return Some(BusError::Protocol {
                what: format!("a frame was begun and not finished in {after:?}"),
            });
        }
        let stuck_since = {
            let mut state = self.session.lock();
            state.subscriptions.trim();
            state.lanes.stuck_since()
        };
        match stuck_since.map(|since| now.duration_since(since)) {
            Some(after) if after >= stall_limit => {
                return Some(BusError::Stalled { after });
            }
            Some(_) => {}
            None => {
                self.pings += 1;
                self.session.send_control(&Header::new(Kind::Ping, 0, self.pings), &[]);
            }
        }
        None
    }
}

impl Turn for SessionTask {
    type End = BusError;

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<BusError> {
        self.work(context)
    }
}

impl Drop for SessionTask {
    /// Also when the task is stopped or panics: nothing of the session may stay behind.
    fn drop(&mut self) {
        if !self.undone {
            self.undo(&BusError::Disconnected { reason: "the task of the session was stopped".into() });
        }
        self.add_totals();
        self.leave_end();
        for session in self.touched.drain(..) {
            session.flush();
        }
        self.share.follow(0, self.session.budget());
        self.close_link();
    }
}

fn closed_by_peer() -> BusError {
    BusError::Disconnected { reason: "the peer closed the connection".into() }
}

/// Whether a bus that is here for consumers alone may send this.
fn is_for_sharing(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Subscribe
            | Kind::Unsubscribe
            | Kind::Credit
            | Kind::Ack
            | Kind::Ping
            | Kind::Pong
            | Kind::Goodbye
    )
}
