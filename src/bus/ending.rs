//! The end of a session: what is told, written and taken back, and what it leaves to be done.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::task::SessionTask;
use super::underway::Underway;
use crate::error::BusError;
use crate::limits;
use crate::proto::Kind;
use crate::proto::fields::GapReason;
use crate::transport::{Incoming, LinkReceiver};

/// How long a closing session may take to write what waits.
const CLOSING: Duration = limits::STOP_GRACE;

impl SessionTask {
    /// Ends the session: says why, writes what waits for a moment, and undoes everything. Returns whether a store still has
    /// publishes of it, to which [`outlast`](Self::outlast) sees.
    pub(super) async fn finish(&mut self, reason: BusError) -> bool {
        // What some have, all others get, too.
        while self.underway.as_ref().is_some_and(Underway::is_delivering) {
            self.matches = 0;
            self.proceed();
            self.end_turn();
            tokio::task::yield_now().await;
        }
        // What is being stored will be there, so it goes to those who listen. A store takes moments as a rule, and all else comes
        // behind it then; for one that takes longer nobody is kept waiting.
        let stores = !self.storing.is_empty();
        if stores {
            let _ = tokio::time::timeout(CLOSING, self.finish_storing()).await;
        }
        let begun = self.underway.take_if(|_| stores);
        let unrouted = self.deferred.iter().filter(|deferred| deferred.header.kind == Kind::Publish).count();
        self.totals.failed_publishes += unrouted as u64;
        self.deferred.clear();
        self.end_turn();
        let link_lives = !matches!(reason, BusError::Disconnected { .. }) && self.lost_until.is_none();
        self.end_subscriptions(is_clean(&reason)).await;
        self.undo(&reason);
        for session in self.touched.drain(..) {
            session.flush();
        }
        self.underway = begun;
        let is_left = self.underway.is_some() || !self.storing.is_empty();
        self.share.follow(if is_left { self.left_held() } else { 0 }, self.session.budget());
        if link_lives {
            self.session.lock().lanes.goodbye(&reason);
            self.session.flush();
            let drained = poll_fn(|context| {
                self.poll_left(context);
                self.poll_drained(context)
            });
            // A peer that does not read its goodbye is not waited for.
            let _ = tokio::time::timeout(CLOSING, drained).await;
        }
        let mut told = pin!(self.tell_end(reason));
        poll_fn(|context| {
            self.poll_left(context);
            told.as_mut().poll(context)
        })
        .await;
        self.underway.is_some() || !self.storing.is_empty()
    }

    /// Does what there is to do by now of what stores have of the session. Others wait for it in the order of their streams.
    fn poll_left(&mut self, context: &mut Context<'_>) {
        if self.underway.is_none() && self.storing.is_empty() {
            return;
        }
        self.clock.turn();
        self.matches = 0;
        if self.proceed() {
            let _ = self.poll_storing(context);
        }
        if self.underway.is_some() {
            context.waker().wake_by_ref();
        }
        self.end_turn();
    }

    /// Bytes of memory that a session takes which has ended.
    pub(super) fn left_held(&self) -> usize {
        let underway = self.underway.as_ref().map_or(0, Underway::held);
        limits::ENDED_SESSION_BYTES + underway + self.cache.held() + self.storing.held()
    }

    /// Sees to what stores still have of a session that has ended: what they take is in the stream, so its readers are told of
    /// it, and it goes to those who listen. It counts in the byte budget for as long as that takes.
    ///
    /// # Cancel safety
    /// When dropped, what is stored stays so; nobody is told of it.
    pub(super) async fn outlast(mut self: Box<Self>) {
        self.close_link();
        self.receiver = Box::new(NoLink);
        self.incoming = Incoming::new(self.session.sender().form(), 0);
        self.end_turn();
        self.finish_storing().await;
    }

    /// Lets go of the link, and of all that waits to be written there.
    pub(super) fn close_link(&mut self) {
        self.session.sender().close();
        let mut state = self.session.lock();
        state.returned = None;
        state.lanes.close();
        state.account(self.session.budget());
    }

    /// Waits for what is being stored, and gives it to those who listen.
    async fn finish_storing(&mut self) {
        poll_fn(|context| {
            self.poll_left(context);
            let is_left = self.underway.is_some() || !self.storing.is_empty();
            if is_left { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Ends subscriptions as long as there are many of them, a few at a time so that others get their
    /// turns; the rest is taken back with all else.
    async fn end_subscriptions(&mut self, clean: bool) {
        loop {
            let some = self.session.lock().subscriptions.some(limits::ENDED_PER_TURN);
            if some.len() < limits::ENDED_PER_TURN {
                return;
            }
            for (id, slot) in some {
                let left = self.shared.leave_table(&self.session, slot);
                let ended = {
                    let mut state = self.session.lock();
                    let ended = state.subscriptions.remove(id);
                    let parked = ended.as_ref().map_or(0, |own| own.backlog.bytes());
                    state.parked_bytes = state.parked_bytes.saturating_sub(parked);
                    ended
                };
                let mut past = self.shared.past();
                let lost = left.map_or(0, |mut left| left.abandon());
                past.dropped[GapReason::Link.index()] += lost;
                if let Some(mut own) = ended {
                    past.dropped[GapReason::Link.index()] += own.backlog.abandon();
                    if !clean {
                        past.count_untaken(own.unacknowledged());
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes back all that the session has at the bus, and tells those who wait for it.
    pub(super) fn undo(&mut self, reason: &BusError) {
        self.undone = true;
        match self.underway.take() {
            Some(publish) if publish.is_delivering() => self.totals.published += 1,
            Some(_) => self.totals.failed_publishes += 1,
            None => {}
        }
        // A task that was stopped within a turn has not added its counts yet.
        let totals = std::mem::take(&mut self.totals);
        self.session.lock().totals.add(&totals);
        let asked = self.shared.undo(&self.session, is_clean(reason));
        self.shared.session_ended(&self.session, reason);
        self.shared.fail_asked(asked.into_iter(), &mut self.touched);
        // Behind all that the session has done.
        self.execute_will(reason);
    }

    /// Ready when nothing waits to be written, or cannot be any more. The peer's bytes are read and
    /// dropped, so that one that still writes gets to read.
    fn poll_drained(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.session.task.register(context.waker());
        if self.poll_discard(context).is_ready() {
            return Poll::Ready(());
        }
        loop {
            {
                let state = self.session.lock();
                if state.lanes.is_closed() || state.lanes.is_drained() {
                    return Poll::Ready(());
                }
                if !state.lanes.is_blocked() {
                    return Poll::Pending;
                }
            }
            match self.session.sender().poll_ready(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    self.session.lock().lanes.unblock();
                    self.session.flush();
                }
            }
        }
    }

    /// Reads what the peer still sends and drops it; ready when the link is broken.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.peer_closed {
            return Poll::Pending;
        }
        for _ in 0..limits::TURN_READS {
            // Never decoded, so that nothing is held from one read to the next.
            let mut dropped = Incoming::new(self.session.sender().form(), 0);
            match self.receiver.poll_receive(context, &mut dropped) {
                Poll::Pending => return Poll::Pending,
                // It may still read.
                Poll::Ready(Ok(0)) => {
                    self.peer_closed = true;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Stands in for a link that is gone.
struct NoLink;

impl LinkReceiver for NoLink {
    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut Incoming) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(0))
    }
}

/// Whether the client ended the session, and nothing that it had not taken is lost.
fn is_clean(reason: &BusError) -> bool {
    matches!(reason, BusError::Closed { .. })
}
