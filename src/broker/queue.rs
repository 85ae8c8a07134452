//! What was asked of a broker and not yet done, in the order in which it was asked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::control::{BrokerSubscription, Control};
use super::handler::{Call, discard};
use super::options::BrokerOptions;
use super::publishing::{Publishing, closed};
use super::stats::{BrokerStats, Counters, add};
use crate::client::SubscribeOptions;
use crate::error::{BusError, BusResult};
use crate::limits;

/// What the handles of a broker and its tasks share.
pub(super) struct Shared {
    /// What tells it from other brokers in this process.
    pub(super) id: u64,
    pub(super) options: BrokerOptions,
    pub(super) counters: Counters,
    state: Mutex<State>,
    /// There is something in the queue.
    pub(super) arrived: Notify,
    /// A publish has been settled, a subscription has nothing to do, or has ended.
    pub(super) progress: Notify,
    /// Places for handlers.
    pub(super) places: Arc<Semaphore>,
    /// Set once the broker is to drain.
    pub(super) closing: watch::Sender<bool>,
    /// Counted up to ask all subscriptions whether they have nothing to do.
    pub(super) asked: watch::Sender<u64>,
    /// The living subscriptions.
    pub(super) live: Mutex<Vec<Arc<Control>>>,
}

#[derive(Default)]
struct State {
    operations: VecDeque<Operation>,
    messages: usize,
    bytes: usize,
    subscribes: usize,
    /// Publishes that were taken from the queue and are not settled.
    in_flight: usize,
    /// The number of all operations that there ever were.
    accepted: u64,
    closed: bool,
    /// Whether the log has a line about the queue being full since it last was empty.
    told: bool,
}

/// What is to be done.
pub(super) enum Operation {
    Publish(Outgoing),
    Subscribe(Subscribe),
}

/// A message that is to be published.
pub(super) struct Outgoing {
    pub(super) topic: Box<str>,
    /// Those that its options have made; none without options.
    pub(super) fields: Vec<u8>,
    pub(super) payload: Bytes,
    pub(super) told: oneshot::Sender<BusResult<usize>>,
}

/// A subscription that is to be made.
pub(super) struct Subscribe {
    pub(super) pattern: Box<str>,
    /// `None` for those of the broker.
    pub(super) options: Option<Box<SubscribeOptions>>,
    pub(super) call: Call,
    pub(super) control: Arc<Control>,
}

impl Outgoing {
    fn size(&self) -> usize {
        self.topic.len() + self.fields.len() + self.payload.len()
    }
}

impl Shared {
    pub(super) fn new(options: BrokerOptions) -> Arc<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            places: Arc::new(Semaphore::new(options.handlers)),
            options,
            counters: Counters::default(),
            state: Mutex::default(),
            arrived: Notify::new(),
            progress: Notify::new(),
            closing: watch::Sender::new(false),
            asked: watch::Sender::new(0),
            live: Mutex::default(),
        })
    }

    /// What is given is a message that was encoded: its fields, and its payload.
    pub(super) fn publish(&self, topic: &str, encoded: BusResult<(Vec<u8>, Bytes)>) -> Publishing {
        let (fields, payload) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => {
                add(&self.counters.failed, 1);
                tracing::warn!(%error, topic, "a message was not published");
                return Publishing::refused(error);
            }
        };
        let (told, receiver) = oneshot::channel();
        let outgoing = Outgoing { topic: topic.into(), fields, payload, told };
        let size = outgoing.size();
        let mut state = self.lock();
        if state.closed {
            return Publishing::refused(closed());
        }
        let (messages, bytes) = self.options.queue;
        // A message of any size has room where there is no other.
        if state.messages >= messages || (state.bytes.saturating_add(size) > bytes && state.messages > 0) {
            let error = BusError::QueueFull { messages: state.messages, bytes: state.bytes };
            let tell = !std::mem::replace(&mut state.told, true);
            drop(state);
            self.refuse(&error, topic, tell);
            return Publishing::refused(error);
        }
        state.messages += 1;
        state.bytes += size;
        self.push(state, Operation::Publish(outgoing));
        Publishing::waiting(receiver)
    }

    pub(super) fn subscribe(
        &self,
        pattern: &str,
        options: Option<SubscribeOptions>,
        call: Call,
    ) -> BrokerSubscription {
        let control = Control::new();
        let subscription = BrokerSubscription::new(Arc::clone(&control));
        let mut state = self.lock();
        if state.closed {
            control.set_ready(Err(closed()));
            return subscription;
        }
        if state.subscribes >= limits::BROKER_SUBSCRIBES {
            let error = BusError::QueueFull { messages: state.messages, bytes: state.bytes };
            drop(state);
            self.refuse(&error, pattern, true);
            control.set_ready(Err(error));
            return subscription;
        }
        state.subscribes += 1;
        let options = options.map(Box::new);
        let subscribe = Subscribe { pattern: pattern.into(), options, call, control };
        self.push(state, Operation::Subscribe(subscribe));
        subscription
    }

    /// The next operation. A publish counts as in flight from here on.
    pub(super) fn take(&self) -> Option<Operation> {
        let mut state = self.lock();
        let operation = state.operations.pop_front()?;
        state.in_flight += 1;
        match &operation {
            Operation::Publish(outgoing) => {
                state.messages -= 1;
                state.bytes -= outgoing.size();
            }
            Operation::Subscribe(_) => state.subscribes -= 1,
        }
        if state.operations.is_empty() {
            state.told = false;
        }
        Some(operation)
    }

    /// So many operations that were taken have been done.
    pub(super) fn settle(&self, count: usize) {
        let mut state = self.lock();
        state.in_flight -= count;
        let done = state.in_flight == 0 && state.operations.is_empty();
        drop(state);
        if done {
            self.progress.notify_waiters();
        }
    }

    /// How much was ever asked for, if all of that has been done.
    pub(super) fn settled(&self) -> Option<u64> {
        let state = self.lock();
        (state.in_flight == 0 && state.operations.is_empty()).then_some(state.accepted)
    }

    /// Takes nothing more, if all that was asked for has been done.
    pub(super) fn shut_if_settled(&self) -> bool {
        let mut state = self.lock();
        state.closed |= state.in_flight == 0 && state.operations.is_empty();
        state.closed
    }

    /// Takes nothing more, and gives up what waits. Returns the number of messages among it, and of those in flight.
    pub(super) fn shut(&self) -> (usize, usize) {
        let mut state = self.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.operations);
        let counts = (std::mem::take(&mut state.messages), state.in_flight);
        state.bytes = 0;
        state.subscribes = 0;
        drop(state);
        for operation in left {
            match operation {
                // Its handle sees that nobody will tell.
                Operation::Publish(_) => add(&self.counters.failed, 1),
                Operation::Subscribe(Subscribe { control, call, .. }) => {
                    control.set_ready(Err(closed()));
                    discard(call);
                }
            }
        }
        counts
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Vec<Arc<Control>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> BrokerStats {
        let subscriptions = self.live().len();
        let state = self.lock();
        BrokerStats {
            queued: state.messages,
            queued_bytes: state.bytes,
            in_flight: state.in_flight,
            subscriptions,
            ..self.counters.read()
        }
    }

    fn push(&self, mut state: MutexGuard<'_, State>, operation: Operation) {
        let idle = state.operations.is_empty();
        state.accepted += 1;
        state.operations.push_back(operation);
        drop(state);
        if idle {
            self.arrived.notify_one();
        }
    }

    fn refuse(&self, error: &BusError, topic: &str, tell: bool) {
        add(&self.counters.refused, 1);
        if tell {
            tracing::warn!(%error, topic, "a message or subscription found no room, perhaps one of many");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue that nobody empties.
    fn queue(messages: usize, bytes: usize) -> Arc<Shared> {
        Shared::new(BrokerOptions::default().queue(messages, bytes))
    }

    fn publish(shared: &Shared, bytes: usize) -> Result<(), BusError> {
        let publishing = shared.publish("t", Ok((Vec::new(), vec![0; bytes].into())));
        publishing.refusal().cloned().map_or(Ok(()), Err)
    }

    #[test]
    fn messages_and_bytes_are_bounded_and_come_back_when_they_are_taken() {
        let shared = queue(3, 100);
        assert!(publish(&shared, 49).is_ok());
        assert!(publish(&shared, 49).is_ok());
        assert!(matches!(publish(&shared, 0), Err(BusError::QueueFull { messages: 2, bytes: 100 })));
        assert!(shared.take().is_some());
        for _ in 0..2 {
            assert!(publish(&shared, 0).is_ok());
        }
        assert!(matches!(publish(&shared, 0), Err(BusError::QueueFull { messages: 3, bytes: 52 })));
        assert_eq!((shared.stats().queued, shared.stats().queued_bytes, shared.stats().refused), (3, 52, 2));
    }

    #[test]
    fn headers_count_for_their_bytes() {
        let shared = queue(3, 100);
        let publishing = shared.publish("t", Ok((vec![0; 60], vec![0; 20].into())));
        assert!(publishing.refusal().is_none());
        assert_eq!(shared.stats().queued_bytes, 81);
        assert!(publish(&shared, 20).is_err());
        assert!(shared.take().is_some());
        assert_eq!(shared.stats().queued_bytes, 0);
    }

    #[test]
    fn a_message_of_any_size_has_room_in_an_empty_queue() {
        let shared = queue(10, 100);
        assert!(publish(&shared, 1000).is_ok());
        assert!(publish(&shared, 0).is_err());
        assert!(shared.take().is_some());
        assert!(publish(&shared, 0).is_ok());
    }

    #[test]
    fn subscriptions_have_a_bound_of_their_own() {
        let shared = queue(1, 100);
        assert!(publish(&shared, 0).is_ok());
        let subscribe = || shared.subscribe("t", None, Call::blocking(|(): ()| ())).close_reason();
        for _ in 0..limits::BROKER_SUBSCRIBES {
            assert!(subscribe().is_none());
        }
        assert!(matches!(subscribe(), Some(BusError::QueueFull { .. })));
    }

    #[test]
    fn it_shuts_only_when_all_is_settled_or_by_force() {
        let shared = queue(10, 100);
        let first = shared.publish("t", Ok((Vec::new(), Bytes::new())));
        assert!(!shared.shut_if_settled());
        assert!(matches!(shared.take(), Some(Operation::Publish(_))));
        assert!(!shared.shut_if_settled(), "it is in flight");
        drop(first);
        shared.settle(1);
        assert!(shared.shut_if_settled());
        assert!(matches!(publish(&shared, 0), Err(BusError::Closed { .. })));

        let shared = queue(10, 100);
        let waiting = shared.publish("t", Ok((Vec::new(), Bytes::new())));
        assert_eq!(shared.shut(), (1, 0));
        assert!(matches!(waiting.wait(), Err(BusError::Closed { .. })));
        assert_eq!(shared.stats().failed, 1);
    }
}
