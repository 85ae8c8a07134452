//! The task that owns a link: it receives, dispatches, waits for room and keeps the link alive.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::again::Again;
use super::inbox::Inbox;
use super::reconnect::{ClientEvent, Fresh, Return};
use super::shared::{Ending, Shared, lost};
use crate::error::BusError;
use crate::limits;
use crate::proto::{Capabilities, ContentRef, Header, Hello, Kind};
use crate::transport::{InPlace, Incoming, LinkReceiver, Timer, Turn};

/// How long a connection whose handles are all gone may take to send what is queued.
const CLOSE_GRACE: Duration = limits::STOP_GRACE;

/// Why the driver ends.
pub(super) enum Exit {
    /// The other side ended the connection, or it was lost.
    Peer(BusError),
    /// The other side broke the protocol or was silent, and is told so.
    Fault(BusError),
    /// This side is done.
    Closed,
}

impl From<BusError> for Exit {
    fn from(error: BusError) -> Self {
        Self::Fault(error)
    }
}

/// The owner of a link.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    receiver: Box<dyn LinkReceiver>,
    incoming: Incoming,
    pub(super) keep_alive: KeepAlive,
    /// Where deliveries go. It mirrors the table of subscriptions, so that a delivery needs no lock
    /// that publishers take.
    pub(super) inboxes: HashMap<u32, Arc<Inbox<()>>>,
    /// Who got something in this turn, to be woken once.
    pub(super) wakers: Vec<Waker>,
    /// How to come back when the connection breaks.
    pub(super) coming_back: Option<Box<Return>>,
    /// What the session has refused for now.
    pub(super) again: Again,
    /// Nobody wants anything any more; when this is reached, the link is closed whatever is left.
    closing: Option<Instant>,
    /// `GOODBYE` is queued, behind all else.
    is_parting: bool,
    /// The bus drains, and there are others.
    pub(super) leaving: Leaving,
}

/// How far a client is that goes to another bus, as its own drains.
pub(super) enum Leaving {
    /// It stays.
    No,
    /// It goes, and begins with its servings.
    Begun,
    /// It goes once nothing more comes to its servings, and it has answered what it was asked, and has its own answers.
    Wanted,
    /// It goes once the bus has routed all that it has published.
    Pinged(oneshot::Receiver<()>),
    /// It has said goodbye, or the bus has.
    Gone,
}

/// The clock of a connection: one timer for all that can be due.
pub(super) struct KeepAlive {
    timer: Timer,
    /// Something has arrived since the clock was looked at.
    heard: bool,
    /// The last look at the clock by which something had arrived.
    last_heard: Instant,
    /// When this side last gave a sign of life for its own sake.
    spoke: Instant,
    handshake: Duration,
    /// What the last handshake agreed on for `interval`.
    pub(super) agreed: Duration,
    /// How often each side gives a sign of life; `None` until the handshake is done.
    interval: Option<Duration>,
}

impl Driver {
    /// The driver of a new link, with `HELLO` queued.
    pub(super) fn new(
        shared: Arc<Shared>,
        receiver: Box<dyn LinkReceiver>,
        hello: &Hello,
        handshake: Duration,
        coming_back: Option<Box<Return>>,
    ) -> Self {
        let payload = hello.encode();
        shared.lock().has_others = coming_back.as_ref().is_some_and(|coming_back| coming_back.has_others());
        shared.lock().lanes.control(&Header::new(Kind::Hello, 0, 0), &ContentRef::of_payload(&payload));
        let now = Instant::now();
        let keep_alive = KeepAlive {
            timer: Timer::new(now + handshake),
            heard: false,
            last_heard: now,
            spoke: now,
            handshake,
            agreed: Duration::ZERO,
            interval: None,
        };
        let incoming = Incoming::new(shared.form(), limits::HANDSHAKE_FRAME_LIMIT);
        Self {
            shared,
            receiver,
            incoming,
            keep_alive,
            inboxes: HashMap::new(),
            wakers: Vec::new(),
            coming_back,
            again: Again::new(),
            closing: None,
            is_parting: false,
            leaving: Leaving::No,
        }
    }

    /// Runs until the connection ends, and tells everyone who waits.
    pub(super) async fn run(self) {
        let cell = Arc::new(InPlace::new(self));
        cell.offer(|driver, cell| driver.receiver.run_in_place(cell));
        let exit = poll_fn(|context| cell.poll(context)).await;
        let Some(driver) = cell.take() else { return };
        driver.finish(exit);
    }

    fn finish(self, exit: Exit) {
        let error = match exit {
            Exit::Peer(error) => error,
            Exit::Fault(error) => {
                tracing::warn!(%error, "ending the connection to the bus");
                self.say_goodbye(&error);
                self.shared.flush();
                error
            }
            Exit::Closed => BusError::Closed { what: "the client".into() },
        };
        self.shared.end(error);
    }

    /// Send, receive, send what that caused, look at the clock.
    fn work(&mut self, context: &mut Context<'_>) -> Result<(), Exit> {
        self.begin_turn();
        if self.coming_back.is_some() {
            self.come_back(context)?;
        }
        self.send(context);
        let received = self.receive(context);
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        self.incoming.settle();
        self.leave_draining(context)?;
        let drained = match received {
            Err(Exit::Peer(reason)) if self.leave_session(&reason) => true,
            received => received?,
        };
        self.part();
        self.send(context);
        let state = self.shared.lock();
        let is_over = self.is_parting && state.lanes.is_drained();
        if self.closing.is_some_and(|until| is_over || Instant::now() >= until) {
            return Err(Exit::Closed);
        }
        // A link that takes nothing more is read to its end, as the other side may have said why.
        if let Some(error) = state.write_error.clone().filter(|_| drained) {
            return Err(Exit::Peer(error));
        }
        drop(state);
        self.look_at_clock(context)
    }

    /// Ends the burst of calls before, all of which is sent next, and notes when the last handle is gone.
    fn begin_turn(&mut self) {
        let mut state = self.shared.lock();
        state.burst.end();
        let closing = state.closing;
        drop(state);
        if closing && self.closing.is_none() {
            let until = Instant::now() + CLOSE_GRACE;
            self.closing = Some(until);
            self.keep_alive.timer.set(until);
        }
        self.part();
    }

    /// Queues `GOODBYE` behind everything else once the last handle is gone, and all publishes of earlier sessions are sent.
    fn part(&mut self) {
        if self.closing.is_none() || self.is_parting || self.shared.lock().publishing.holds_back() {
            return;
        }
        self.is_parting = true;
        if self.shared.session().is_some() {
            self.say_goodbye(&BusError::Closed { what: "the client".into() });
        }
    }

    /// Tries to come back when the connection is gone.
    ///
    /// # Errors
    /// Why the client gives up, or that it was closed meanwhile.
    fn come_back(&mut self, context: &mut Context<'_>) -> Result<(), Exit> {
        let shared = Arc::clone(&self.shared);
        let Some(link) = shared.sender().resumable().filter(|link| link.is_lost()) else { return Ok(()) };
        let Some(coming_back) = &mut self.coming_back else { return Ok(()) };
        let lost = || BusError::Disconnected { reason: link.lost().unwrap_or_default() };
        if self.closing.is_some() {
            return Err(Exit::Closed);
        }
        if shared.session().is_none() {
            return Err(Exit::Peer(lost()));
        }
        if !shared.lock().lanes.hold() {
            // Whoever writes is about to find the link gone.
            context.waker().wake_by_ref();
            return Ok(());
        }
        if !coming_back.is_under_way() {
            let reason = lost();
            tracing::info!(%reason, "the connection to the bus is gone; trying to come back");
            shared.tell(ClientEvent::Disconnected { reason });
            coming_back.begin();
        }
        while let Poll::Ready(answered) = coming_back.poll(context, link.received()) {
            let Fresh { link: fresh, rest, welcome } = answered.map_err(Exit::Peer)?;
            let Some(fresh) = fresh.sender.resumable() else { continue };
            let resumed = welcome.resumed;
            if resumed {
                // One that broke in between is tried again.
                let Some(attachment) = fresh.detach(rest) else { continue };
                if !link.attach(attachment, welcome.received, Vec::new()) {
                    // The bus has forgotten something that this side has not got.
                    coming_back.forget();
                    continue;
                }
                shared.lock().lanes.unblock();
                link.send();
            } else {
                if !link.replace(fresh, rest, welcome.capabilities.contains(Capabilities::RESUME)) {
                    continue;
                }
                let limit = (welcome.frame_limit as usize).saturating_add(limits::FRAME_SLACK);
                self.incoming = Incoming::new(shared.form(), limit);
                self.inboxes.clear();
                shared.restart(&welcome);
                self.again = Again::new();
                self.leaving = Leaving::No;
                shared.send_will();
            }
            coming_back.note(&welcome);
            coming_back.done();
            self.keep_alive.begin(welcome.keep_alive);
            self.look_again();
            tracing::info!(resumed, "connected to the bus again");
            shared.tell(ClientEvent::Reconnected { resumed });
            break;
        }
        Ok(())
    }

    /// Ends the session at a bus that drains, once nothing is in flight for it, to go on at another. The bus says goodbye
    /// in turn.
    fn leave_draining(&mut self, context: &mut Context<'_>) -> Result<(), Exit> {
        if matches!(self.leaving, Leaving::No) && self.shared.lock().leaving {
            self.leaving = Leaving::Begun;
        }
        while !matches!(self.leaving, Leaving::No | Leaving::Gone) {
            let state = self.shared.lock();
            let idle = state.calls.entries.is_empty()
                && state.asks.is_empty()
                && state.servings.entries.values().all(|serving| serving.ending != Ending::Moving);
            drop(state);
            match &mut self.leaving {
                // What the bus hands over to somebody who has said goodbye fails.
                Leaving::Begun => {
                    self.shared.move_servings();
                    self.leaving = Leaving::Wanted;
                }
                Leaving::Wanted if idle && self.closing.is_none() => {
                    self.leaving = Leaving::Pinged(self.shared.ping()?);
                }
                Leaving::Pinged(answer) => match Pin::new(answer).poll(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) if idle => {
                        self.leaving = Leaving::Gone;
                        self.say_goodbye(&BusError::Closed { what: "the session, by its client,".into() });
                        self.shared.flush();
                    }
                    Poll::Ready(Ok(())) => self.leaving = Leaving::Wanted,
                    // The session has ended.
                    Poll::Ready(Err(_)) => self.leaving = Leaving::Gone,
                },
                Leaving::Wanted | Leaving::Gone | Leaving::No => break,
            }
        }
        Ok(())
    }

    /// Whether the client comes back with a new session, as the bus has ended this one for reasons of its own.
    fn leave_session(&mut self, reason: &BusError) -> bool {
        let Some(coming_back) = self.coming_back.as_mut().filter(|coming_back| coming_back.follows(reason))
        else {
            return false;
        };
        let Some(link) = self.shared.sender().resumable() else { return false };
        if self.closing.is_some() || self.shared.session().is_none() {
            return false;
        }
        coming_back.leave(reason);
        self.leaving = Leaving::Gone;
        link.break_off(&reason.to_string());
        // The next turn begins to try.
        self.shared.driver.wake();
        true
    }

    fn say_goodbye(&self, reason: &BusError) {
        self.shared.lock().lanes.goodbye(reason);
    }

    /// Sends what is queued; registers for room if the link is full.
    fn send(&self, context: &mut Context<'_>) {
        loop {
            if !self.shared.flush() {
                return;
            }
            match self.shared.sender().poll_ready(context) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => self.shared.lock().lanes.unblock(),
                Poll::Ready(Err(error)) => {
                    let mut state = self.shared.lock();
                    state.lanes.close();
                    state.write_error = Some(lost(&error));
                    return;
                }
            }
        }
    }

    /// Reads and dispatches, a few reads at most; says whether everything that was there is read.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<bool, Exit> {
        for _ in 0..limits::TURN_READS {
            match self.receiver.poll_receive(context, &mut self.incoming) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Ok(0)) => {
                    return Err(Exit::Peer(BusError::Disconnected {
                        reason: "the bus closed the connection".into(),
                    }));
                }
                Poll::Ready(Ok(_)) => self.keep_alive.heard = true,
                Poll::Ready(Err(error)) => return Err(Exit::Peer(lost(&error))),
            }
            self.dispatch_all()?;
            // Readers on other threads begin while the next read is made.
            for waker in self.wakers.drain(..) {
                waker.wake();
            }
        }
        context.waker().wake_by_ref();
        Ok(false)
    }

    fn dispatch_all(&mut self) -> Result<(), Exit> {
        // The frames borrow what they are decoded from, which therefore is taken out meanwhile.
        let form = self.shared.form();
        let mut incoming = std::mem::replace(&mut self.incoming, Incoming::new(form, 0));
        let mut run = Vec::new();
        let result = loop {
            incoming.release();
            match incoming.take_next() {
                Ok(Some(arrived)) => match self.dispatch(&arrived, &mut incoming, &mut run) {
                    Ok(()) => {}
                    Err(exit) => break Err(exit),
                },
                Ok(None) => break Ok(()),
                Err(malformed) if self.shared.session().is_none() => {
                    let what = format!(
                        "what answers at this address is no bus, or is reached by another transport, such as \
                         tls://: {malformed}"
                    );
                    break Err(Exit::Fault(BusError::Protocol { what }));
                }
                Err(malformed) => break Err(Exit::Fault(malformed.into())),
            }
            if let Some(session) = self.shared.session().filter(|_| self.keep_alive.interval.is_none()) {
                incoming.set_limit(session.frame_limit().saturating_add(limits::FRAME_SLACK));
                self.keep_alive.begin(self.keep_alive.agreed);
            }
        };
        self.incoming = incoming;
        result
    }

    fn look_at_clock(&mut self, context: &mut Context<'_>) -> Result<(), Exit> {
        while self.keep_alive.timer.poll(context).is_ready() {
            let next = self.due()?;
            self.keep_alive.timer.set(next);
        }
        Ok(())
    }

    /// Lets inboxes that are not in use give their memory back.
    fn rest(&self) {
        for inbox in self.inboxes.values() {
            inbox.rest();
        }
        for serving in self.shared.lock().servings.entries.values() {
            serving.inbox.rest();
        }
    }

    /// Does what is due and says when to look again.
    fn due(&mut self) -> Result<Instant, Exit> {
        let now = Instant::now();
        if let Some(until) = self.closing {
            return Ok(until.max(now + Duration::from_millis(1)));
        }
        let Some(interval) = self.keep_alive.interval else {
            let after = self.keep_alive.handshake;
            return Err(BusError::TimedOut { what: "the handshake with the bus".into(), after }.into());
        };
        let patience = interval.saturating_mul(limits::KEEP_ALIVE_MISSED);
        if std::mem::take(&mut self.keep_alive.heard) {
            self.keep_alive.last_heard = now;
        }
        let link = self.shared.sender().resumable();
        if self.coming_back.as_ref().is_some_and(|coming_back| coming_back.is_under_way()) {
            // Nothing is due while there is no connection.
            self.keep_alive.last_heard = now;
            return Ok(now + interval);
        }
        if let Some(link) = link {
            link.tell();
        }
        let silent_until = self.keep_alive.last_heard + patience;
        if now >= silent_until {
            let reason = BusError::KeepAlive { after: patience };
            if let (Some(link), Some(_)) = (link, &self.coming_back) {
                link.break_off(&reason.to_string());
                return Ok(now + interval);
            }
            return Err(reason.into());
        }
        self.ask_again(now);
        let until = self.again.at.map_or(silent_until, |at| silent_until.min(at));
        let mut state = self.shared.lock();
        if let Some(since) = state.lanes.stuck_since() {
            let stalled_at = since + limits::STALL_LIMIT;
            if now >= stalled_at {
                return Err(BusError::Stalled { after: limits::STALL_LIMIT }.into());
            }
            return Ok(until.min(stalled_at));
        }
        let speak_at = self.keep_alive.spoke + interval;
        if now < speak_at {
            return Ok(until.min(speak_at));
        }
        let sequence = state.next_ping();
        drop(state);
        self.keep_alive.spoke = now;
        self.rest();
        self.shared.control(&Header::new(Kind::Ping, 0, sequence), &[]);
        Ok(until.min(now + interval))
    }
}

impl Turn for Driver {
    type End = Exit;

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Exit> {
        self.shared.driver.register(context.waker());
        match self.work(context) {
            Ok(()) => Poll::Pending,
            Err(exit) => Poll::Ready(exit),
        }
    }
}

impl KeepAlive {
    /// Looks at the clock by then.
    pub(super) fn look_by(&mut self, at: Instant) {
        self.timer.bring_forward(at);
    }

    /// The handshake is done; an interval of zero means that nothing is due any more.
    fn begin(&mut self, interval: Duration) {
        let interval = if interval.is_zero() { limits::REQUEST_TIMEOUT_MAX } else { interval };
        self.interval = Some(interval);
        // The welcome itself is what was heard last.
        self.heard = false;
        self.last_heard = Instant::now();
        self.timer.set(self.last_heard + interval);
    }
}

impl Drop for Driver {
    /// Also when the runtime stops: nobody may wait for a driver that is gone.
    fn drop(&mut self) {
        self.shared.end(BusError::Disconnected { reason: "the runtime of the client has stopped".into() });
        self.shared.sender().close();
    }
}
