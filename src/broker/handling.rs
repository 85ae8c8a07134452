//! What comes to a subscription, given to its handler, counted and noted in the log.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::control::Control;
use super::handler::{Call, Handled, contained, contained_async};
use super::queue::Shared;
use super::stats::add;
use crate::client::{Acknowledged, Event, Message, Receipt, Subscription};
use crate::error::{BusError, BusResult};

/// The least time between two lines in the log about one kind of trouble of one subscription.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What the task of a subscription and the calls of its handler share.
pub(super) struct Handling {
    pub(super) shared: Arc<Shared>,
    pub(super) control: Arc<Control>,
    pub(super) call: Call,
    pub(super) pattern: Box<str>,
    logs: [Log; 5],
}

/// Lines of the log about one kind of trouble, so many at a time that they do not fill a disk.
#[derive(Default)]
struct Log(std::sync::Mutex<(Option<Instant>, u64)>);

impl Log {
    /// So many more; how many there were since the last line, if another is due.
    fn note(&self, count: u64) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += count;
        let now = Instant::now();
        if state.0.is_some_and(|last| now.duration_since(last) < LOG_INTERVAL) {
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

impl Handling {
    pub(super) fn new(shared: Arc<Shared>, control: Arc<Control>, pattern: Box<str>, call: Call) -> Self {
        Self { shared, control, call, pattern, logs: Default::default() }
    }

    /// Notes what is no message, and gives what is one.
    pub(super) fn message(&self, event: Event<Bytes>) -> Option<Message<Bytes>> {
        match event {
            Event::Message(message) => return Some(message),
            Event::Gap { count, reason } => {
                // Nobody can tell how many a broken link has cost; that there may be some is told.
                add(&self.shared.counters.missed, count);
                if let Some(count) = self.log(0, count) {
                    let pattern = &*self.pattern;
                    tracing::warn!(pattern, count, reason = reason.name(), "a handler missed messages");
                }
            }
            Event::Undecodable { error, .. } => self.note(Handled::Undecodable(error)),
        }
        None
    }

    /// Counts what came of a message.
    pub(super) fn note(&self, handled: Handled) {
        let (counters, pattern) = (&self.shared.counters, &*self.pattern);
        match handled {
            Handled::Done => add(&counters.handled, 1),
            Handled::Undecodable(error) => {
                add(&counters.undecodable, 1);
                if let Some(count) = self.log(1, 1) {
                    tracing::warn!(pattern, count, %error, "messages are not what their handler takes");
                }
            }
            Handled::Failed(reason) => {
                add(&counters.handled, 1);
                add(&counters.failures, 1);
                if let Some(count) = self.log(2, 1) {
                    tracing::warn!(pattern, count, reason, "a handler failed");
                }
            }
            Handled::Panicked(reason) => {
                add(&counters.handled, 1);
                add(&counters.panics, 1);
                if let Some(count) = self.log(3, 1) {
                    tracing::error!(pattern, count, reason, "a handler panicked");
                }
            }
        }
    }

    fn log(&self, kind: usize, count: u64) -> Option<u64> {
        self.logs.get(kind)?.note(count)
    }

    /// Calls the handler on this thread, unless the subscription has been stopped.
    pub(super) fn call(&self, message: Message<Bytes>) {
        if self.control.is_stopped() {
            return;
        }
        if let Call::Blocking(handler) = &self.call {
            self.note(contained(|| handler(message)));
        }
    }

    pub(super) async fn call_async(&self, message: Message<Bytes>) {
        if self.control.is_stopped() {
            return;
        }
        if let Call::Async(handler) = &self.call {
            self.note(contained_async(|| handler(message)).await);
        }
    }
    /// Acknowledges a message whose handler has done with it, and sends back one whose handler has not.
    pub(super) fn settle(&self, handled: Handled, receipt: Receipt) -> Option<Acknowledged> {
        let is_done = matches!(handled, Handled::Done);
        self.note(handled);
        if is_done {
            return Some(receipt.ack());
        }
        receipt.nack(None);
        self.nacked();
        None
    }

    /// Counts a message that was sent back.
    pub(super) fn nacked(&self) {
        add(&self.shared.counters.nacked, 1);
    }

    /// Counts what the bus has made of an acknowledgement.
    pub(super) fn confirmed(&self, result: BusResult<()>) {
        let (counters, pattern) = (&self.shared.counters, &*self.pattern);
        match result {
            Ok(()) => add(&counters.acknowledged, 1),
            Err(error) => {
                add(&counters.unacknowledged, 1);
                if let Some(count) = self.log(4, 1) {
                    tracing::warn!(
                        pattern,
                        count,
                        %error,
                        "messages were handled and may come again: their acknowledgements were not kept"
                    );
                }
            }
        }
    }

    /// A place to call a handler; none if the subscription is to be left meanwhile.
    pub(super) async fn place(&self, leaving: impl Future) -> Option<OwnedSemaphorePermit> {
        let places = Arc::clone(&self.shared.places);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return Some(place);
        }
        tokio::select! {
            biased;
            _ = leaving => None,
            place = places.acquire_owned() => place.ok(),
        }
    }

    /// Notes why the subscription has ended.
    pub(super) fn end(&self, subscription: &Subscription<Bytes>) {
        let Self { shared, control, pattern, .. } = self;
        let stopped = control.is_stopped();
        let reason = subscription.close_reason().filter(|_| !stopped);
        let reason =
            reason.unwrap_or_else(|| BusError::Closed { what: format!("the subscription to \"{pattern}\"") });
        // One that was to read so much and has done so ends as it was asked to.
        let is_complete = subscription.next_sequence().is_some();
        if !stopped && !is_complete && !*shared.closing.borrow() {
            add(&shared.counters.lost_subscriptions, 1);
            tracing::error!(pattern = &**pattern, error = %reason, "a subscription of a broker has ended");
        }
        control.set_ended(reason);
    }
}
