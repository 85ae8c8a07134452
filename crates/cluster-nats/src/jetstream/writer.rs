//! Sends what is to be stored, and sends it again until it is.
//!
//! Calls are numbered, and those who read the journal pass over what comes out of its order or for a second time. So what was lost is
//! sent again without asking whether it was. A call that somebody was told the store is too busy for is not sent again: where
//! something of it is under way the writer takes another name, and nothing counts any more that comes in the one before.

use std::sync::Arc;

use async_nats::connection::State as Link;
use async_nats::{Message, Subscriber};
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use whispeer::store::StoreError;

use super::record::{Action, Encoded, Stamp, Wire};
use super::shared::{Phase, Shared, drawn};
use crate::limits;

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Where NATS acknowledges.
    inbox: String,
    /// What NATS has refused last, for those who have waited too long.
    refused: Option<StoreError>,
    /// When it was said last that another writer takes the place of this one.
    succeeded: Option<Instant>,
    /// How often NATS has been connected to, as of the last look.
    connects: u64,
    /// When it was heard of last that nothing is to be stored.
    idle: Instant,
}

/// What JetStream answers.
#[derive(Deserialize)]
struct Acknowledged {
    error: Option<Refused>,
    /// The entry that it is.
    #[serde(default)]
    seq: u64,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// JetStream has no room.
const NO_ROOM: [u64; 5] = [10_002, 10_023, 10_028, 10_047, 10_077];

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let inbox = shared.journal.client().new_inbox();
        let connects = shared.journal.connects();
        Self { shared, inbox, refused: None, succeeded: None, connects, idle: Instant::now() }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
        let mut acknowledged: Option<Subscriber> = None;
        let mut ticks = interval(limits::JETSTREAM_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if acknowledged.is_none() {
                acknowledged = self.shared.journal.client().subscribe(format!("{}.*", self.inbox)).await.ok();
            }
            tokio::select! {
                () = self.shared.work.notified() => {}
                _ = ticks.tick() => self.look(),
                Some(answer) = next(&mut acknowledged) => self.told(&answer),
            }
            self.send().await;
        }
    }

    /// Looks what has waited too long.
    fn look(&mut self) {
        let connects = self.shared.journal.connects();
        if std::mem::replace(&mut self.connects, connects) != connects {
            // What is there now may not be what was there before.
            self.shared.follow.notify_one();
        }
        let now = Instant::now();
        let answer = self.shared.journal.answer();
        let mut state = self.shared.lock();
        let error = self.refused.clone();
        let error = error.unwrap_or_else(|| self.shared.journal.away(format!("not within {answer:?}")));
        state.expire(now, &error);
        let is_stalled = now.duration_since(state.heard) >= limits::JETSTREAM_RESEND;
        let (read, told) = state.read_and_told();
        // What is stored comes by itself to who reads.
        if is_stalled && state.is_sending() && told <= read {
            state.send_again();
        }
    }

    fn is_connected(&self) -> bool {
        self.shared.journal.client().connection_state() == Link::Connected
    }

    /// What JetStream says to something that was sent.
    fn told(&mut self, answer: &Message) {
        // That it is stored is seen in the journal. Nobody answers where there is no journal.
        let Ok(Acknowledged { error, seq }) = serde_json::from_slice(&answer.payload) else { return };
        let Some(Refused { err_code, description }) = error else {
            self.refused = None;
            let mut state = self.shared.lock();
            state.told = state.told.max(seq);
            return;
        };
        let number = answer.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        tracing::debug!(err_code, description, "JetStream refuses what is to be stored");
        if NO_ROOM.contains(&err_code) {
            let error = StoreError::Full { place: format!("JetStream ({description})") };
            if let Some(number) = number {
                self.shared.lock().refuse(number, error.clone());
            }
            self.refused = Some(error);
        } else {
            self.refused = Some(self.shared.journal.away(description));
        }
    }

    /// Sends what may be sent.
    async fn send(&mut self) {
        if *self.shared.phase.borrow() != Phase::Ready || !self.is_connected() {
            return;
        }
        if let Some((writer, wire)) = self.succession() {
            // Once a second, and not with each answer, of which that would make another one.
            if self.succeeded.is_none_or(|last| last.elapsed() >= limits::JETSTREAM_RESEND) {
                self.succeeded = Some(Instant::now());
                let stamp = Stamp { writer, number: 0, part: 0, parts: 1 };
                self.publish(wire.signed(stamp), None).await;
            }
            return;
        }
        self.succeeded = None;
        self.stay_heard_of();
        loop {
            let next = self.shared.lock().next_part();
            let Some((stamp, wire)) = next else { return };
            self.idle = Instant::now();
            if !self.publish(wire.signed(stamp), Some(stamp.number)).await {
                return;
            }
        }
    }

    /// What says that another writer takes the place of this one, if that is needed.
    fn succession(&self) -> Option<(u64, Wire)> {
        let mut state = self.shared.lock();
        if state.successor.is_none() && !state.has_left() {
            return None;
        }
        // It is sent again until it is heard of, which it is soon, as NATS is there.
        let successor = match state.successor {
            Some(successor) => successor,
            None => drawn().ok()?,
        };
        state.successor = Some(successor);
        let action = Action::Replace(state.writer);
        drop(state);
        let subject = self.shared.journal.addresses.of_writers();
        Some((successor, Encoded::action(subject, &action).ok()?.wires.pop()?))
    }

    /// Is heard of where nothing is to be stored, so that consumers stay its own.
    fn stay_heard_of(&mut self) {
        if self.idle.elapsed() < limits::JETSTREAM_IDLE {
            return;
        }
        self.idle = Instant::now();
        let holds = {
            let state = self.shared.lock();
            state.replica.holds(state.writer)
        };
        if holds {
            let subject = self.shared.journal.addresses.of_writers();
            // A store that is closed is heard of no more.
            let _ = self.shared.submit(None, |_| Encoded::action(subject, &Action::Idle));
        }
    }

    /// Whether NATS has taken it to be sent.
    async fn publish(&mut self, wire: Wire, number: Option<u64>) -> bool {
        let Wire { subject, headers, payload } = wire;
        let client = self.shared.journal.client();
        let reply = format!("{}.{}", self.inbox, number.unwrap_or_default());
        let publishing = client.publish_with_reply_and_headers(subject, reply, headers, payload);
        match timeout(self.shared.journal.answer(), publishing).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                if let Some(number) = number {
                    let what = format!("NATS does not take a message: {error}");
                    self.shared.lock().refuse(number, StoreError::LimitReached { what });
                }
                false
            }
            // The link is gone. It is sent again when it is back.
            Err(_) => false,
        }
    }
}

async fn next(subscriber: &mut Option<Subscriber>) -> Option<Message> {
    match subscriber {
        Some(open) => {
            let next = open.next().await;
            if next.is_none() {
                *subscriber = None;
            }
            next
        }
        None => None,
    }
}
