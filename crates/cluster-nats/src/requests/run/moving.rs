//! How subscriptions end, of a bus that drains or goes to another server of NATS.
//!
//! What is on its way between two servers of NATS when the second one hears that a subscription there has ended is dropped, and nobody is told.
//! So the others send no requests at that moment:
//!
//! ```text
//! this bus   {prefix}.pause      -> the others: they send no more, and answer behind what they have sent
//!            all have answered: what they had sent is here. UNSUB, and behind it
//!            {prefix}.pause      -> the others: they go on, and their servers know by then
//! ```
//!
//! NATS keeps the order of what one connection sends, also from server to server. Who does not answer in time sends on; then what he sends may be
//! lost as before, and so may what others than buses send.

use async_nats::{HeaderMap, Message};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::super::leases::Leases;
use super::super::wire::Publish;
use super::{PAUSE, Running};
use crate::limits;
use crate::members::{read_id, written};
use crate::survey::Survey;

/// How far the connection is on its way to another server of NATS.
pub(super) enum Moving {
    No,
    /// The other buses are told, and send nothing for a moment.
    Telling(BoxFuture<'static, ()>, Instant),
    /// What is under way is finished first, until then.
    Finishing(Instant),
    /// The connection is given up.
    Leaving(BoxFuture<'static, ()>, Instant),
    /// Another one is waited for, until then.
    Away(Instant),
}

impl Running {
    /// The server of NATS is about to end: finishes what is under way, without letting more begin.
    pub(super) fn begin_to_move(&mut self) {
        if self.connected.is_some() && matches!(self.moving, Moving::No) {
            tracing::info!("the server of NATS is about to end: the link goes to another one");
            // Whoever finds nobody asks again, as he knows.
            let told = self.requests.members.tell_move(true);
            let paused = self.pause_others();
            let both = async move {
                told.await;
                paused.await;
            };
            let until = Instant::now() + limits::HEARTBEAT + limits::PAUSE_ANSWER;
            self.moving = Moving::Telling(both.boxed(), until);
        }
    }

    pub(super) fn finish_first(&mut self) {
        self.asks.hold();
        self.served.pause();
        self.has_paused = true;
        self.outbox.forget_subscriptions();
        self.moving = Moving::Finishing(Instant::now() + limits::LINK_MOVE);
    }

    pub(super) fn go_on_moving(&mut self) {
        let now = Instant::now();
        match &self.moving {
            Moving::Telling(_, until) if now >= *until => self.finish_first(),
            Moving::Finishing(until) => {
                let is_finished = self.out.messages.is_empty()
                    && self.outbox.is_idle()
                    && self.served.is_empty()
                    && self.serves.is_empty()
                    && !self.asks.are_under_way();
                if is_finished || now >= *until {
                    let nats = self.requests.nats.clone();
                    let left = async move {
                        // What was handed over last is sent.
                        let _ = nats.flush().await;
                        let _ = nats.force_reconnect().await;
                    };
                    self.moving = Moving::Leaving(left.boxed(), now + limits::LINK_MOVE_GAP);
                }
            }
            Moving::Leaving(_, until) | Moving::Away(until) if now >= *until => self.end_moving(),
            _ => {}
        }
    }

    pub(super) fn end_moving(&mut self) {
        self.moving = Moving::No;
        drop(self.requests.members.tell_move(false));
        for topic in self.served.resume() {
            self.subscribe(topic);
        }
        self.asks.release(self.connected.is_some(), &mut self.out);
    }

    /// The bus drains: others are to ask elsewhere.
    pub(super) fn begin_to_end(&mut self) {
        match self.connected.is_some() && !self.served.is_empty() {
            true => self.pausing = Some(self.pause_others()),
            false => self.end_serving(),
        }
    }

    /// Ends all subscriptions.
    pub(super) fn end_serving(&mut self) {
        self.has_paused |= self.pausing.take().is_some();
        self.served.end();
        self.leases.iter_mut().for_each(Leases::drain);
        self.outbox.forget_subscriptions();
    }

    /// Asks the others to send no requests, and waits until what they have sent before is here.
    fn pause_others(&self) -> BoxFuture<'static, ()> {
        let (nats, members) = (self.requests.nats.clone(), self.requests.members.clone());
        let own = written(members.own());
        let survey = Survey::new(nats, self.requests.subjects.own(PAUSE), members);
        let paused = async move {
            let read = |payload: &[u8]| Some((read_id(str::from_utf8(payload).ok()?)?, ()));
            let asked = survey.ask(own.into(), limits::PAUSE_ANSWER, read);
            // Who says nothing in time is not waited for, and neither is a client of NATS that takes nothing.
            let _ = timeout(limits::PAUSE_ANSWER, asked).await;
        };
        paused.boxed()
    }

    /// Lets the others go on as soon as the subscriptions have ended.
    pub(super) fn tell_end_of_pause(&mut self) {
        if self.has_paused && self.served.is_empty() {
            self.has_paused = false;
            self.out.tell(self.pause_message(self.requests.subjects.own(PAUSE)));
        }
    }

    /// Another bus is about to end subscriptions, or has.
    pub(super) fn paused(&mut self, message: &Message) {
        let Some(by) = str::from_utf8(&message.payload).ok().and_then(read_id) else { return };
        let members = &self.requests.members;
        if by == members.own() || members.epoch(by).is_none() {
            return;
        }
        match &message.reply {
            Some(reply) => {
                self.asks.pause(by, Instant::now() + limits::PAUSE);
                // Behind all that has been sent.
                self.out.tell(self.pause_message(reply.to_string()));
            }
            None => self.asks.go_on(by),
        }
    }

    fn pause_message(&self, subject: String) -> Publish {
        let payload = written(self.requests.members.own()).into();
        Publish { subject, reply: None, headers: HeaderMap::new(), payload }
    }
}

impl Moving {
    /// When it is looked at next, whatever happens.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::Telling(_, until)
            | Self::Finishing(until)
            | Self::Leaving(_, until)
            | Self::Away(until) => Some(*until),
        }
    }

    /// Waits until the others are told, or the connection is given up, where that is under way.
    ///
    /// # Cancel safety
    /// It goes on with the next call.
    pub(super) async fn done(&mut self) {
        match self {
            Self::Telling(done, _) | Self::Leaving(done, _) => done.await,
            _ => std::future::pending().await,
        }
    }
}

/// Waits until the others have paused, where they were asked to.
///
/// # Cancel safety
/// It goes on with the next call.
pub(super) async fn done(pausing: &mut Option<BoxFuture<'static, ()>>) {
    match pausing {
        Some(pausing) => pausing.await,
        None => std::future::pending().await,
    }
}
