//! Subscriptions of a broker, and the tasks that give their messages to handlers.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{JoinSet, unconstrained};

use super::handler::{Call, Handled, contained, contained_async};
use super::queue::Shared;
use super::stats::add;
use super::waiting::block_on;
use crate::client::{Event, Message, Subscription};
use crate::error::{BusError, BusResult};
use crate::limits;

/// The least time between two lines in the log about one kind of trouble of one subscription.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A subscription of a [`Broker`](super::Broker).
///
/// Dropping it lets the subscription go on for as long as the broker does.
///
/// # Examples
/// ```
/// use whispeer::broker::Broker;
///
/// # fn main() -> whispeer::BusResult<()> {
/// let broker = Broker::build_default().build()?;
/// let subscription = broker.subscribe("numbers", |number: u32| println!("{number}"));
/// subscription.wait_ready()?;
/// assert_eq!(broker.publish("numbers", 7).wait()?, 1);
/// subscription.stop();
/// # Ok(())
/// # }
/// ```
pub struct BrokerSubscription {
    control: Arc<Control>,
}

impl BrokerSubscription {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    /// Waits until the bus has the subscription. What the same broker publishes after it has subscribed is seen whether or
    /// not anybody waits for this.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`]; [`BusError::LimitReached`] and whatever else the bus refuses it with;
    /// [`BusError::QueueFull`] for more than [`limits::BROKER_SUBSCRIBES`] that wait; [`BusError::Closed`] when the broker has
    /// ended, or this was stopped, before it was made.
    ///
    /// # Cancel safety
    /// The subscription is made whether or not anybody waits.
    pub async fn ready(&self) -> BusResult<()> {
        let mut ready = self.control.ready.subscribe();
        // Its sender lives as long as this handle.
        match ready.wait_for(Option::is_some).await.map(|ready| ready.clone()) {
            Ok(Some(result)) => result,
            _ => Err(super::publishing::closed()),
        }
    }

    /// [`ready`](Self::ready), blocking the thread.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    pub fn wait_ready(&self) -> BusResult<()> {
        block_on(self.ready())
    }

    /// Ends the subscription: the handler gets no further message, and what it has not got is dropped. A call that is under
    /// way goes on, also one that begins on another thread at this moment.
    pub fn stop(self) {
        self.control.stopping.send_replace(true);
    }

    /// Why it could not be made, or has ended; `None` while it has not.
    #[must_use]
    pub fn close_reason(&self) -> Option<BusError> {
        self.control.ended.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for BrokerSubscription {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BrokerSubscription")
            .field("ready", &*self.control.ready.borrow())
            .field("closed", &self.close_reason())
            .finish_non_exhaustive()
    }
}

/// What a subscription's handle and its task share.
pub(super) struct Control {
    ready: watch::Sender<Option<BusResult<()>>>,
    stopping: watch::Sender<bool>,
    ended: RwLock<Option<BusError>>,
    /// The last time that it was asked and had nothing to do.
    answered: AtomicU64,
    pub(super) finished: AtomicBool,
}

impl Control {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            ended: RwLock::new(None),
            answered: AtomicU64::new(0),
            finished: AtomicBool::new(false),
        })
    }

    pub(super) fn set_ready(&self, result: BusResult<()>) {
        if let Err(error) = &result {
            self.set_ended(error.clone());
        }
        self.ready.send_replace(Some(result));
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopping.borrow()
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    fn set_ended(&self, error: BusError) {
        *self.ended.write().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// What the task of a subscription and the calls of its handler share.
struct Handling {
    shared: Arc<Shared>,
    control: Arc<Control>,
    call: Call,
    pattern: Box<str>,
    logs: [Log; 4],
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
    /// Notes what is no message, and gives what is one.
    fn message(&self, event: Event<Bytes>) -> Option<Message<Bytes>> {
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
    fn note(&self, handled: Handled) {
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
    fn call(&self, message: &Message<Bytes>) {
        if self.control.is_stopped() {
            return;
        }
        if let Call::Blocking(handler) = &self.call {
            self.note(contained(|| handler(&message.value, message.topic.as_str())));
        }
    }

    async fn call_async(&self, message: &Message<Bytes>) {
        if self.control.is_stopped() {
            return;
        }
        if let Call::Async(handler) = &self.call {
            self.note(contained_async(|| handler(&message.value, message.topic.as_str())).await);
        }
    }
}

/// The task of a subscription. It ends with the subscription.
pub(super) struct Task {
    handling: Arc<Handling>,
    subscription: Subscription<Bytes>,
    stopping: watch::Receiver<bool>,
    asked: watch::Receiver<u64>,
    /// Calls of the handler that run at the same time, where it may have several.
    calls: JoinSet<()>,
    _finish: Finish,
}

/// Tells that the task has ended, however it does.
struct Finish(Arc<Shared>, Arc<Control>);

impl Drop for Finish {
    fn drop(&mut self) {
        let Self(shared, control) = self;
        control.finished.store(true, Ordering::Release);
        shared.live().retain(|live| !Arc::ptr_eq(live, control));
        shared.progress.notify_waiters();
    }
}

/// What the task is to do next.
enum Next {
    Message(Message<Bytes>),
    /// One of the calls that run at the same time has ended.
    Called,
    End,
}

impl Task {
    pub(super) fn new(
        shared: &Arc<Shared>,
        control: Arc<Control>,
        pattern: Box<str>,
        call: Call,
        subscription: Subscription<Bytes>,
    ) -> Self {
        shared.live().push(Arc::clone(&control));
        let stopping = control.stopping.subscribe();
        let mut asked = shared.asked.subscribe();
        // It answers also what was asked before it was there.
        asked.mark_changed();
        let finish = Finish(Arc::clone(shared), Arc::clone(&control));
        let shared = Arc::clone(shared);
        let handling = Arc::new(Handling { shared, control, call, pattern, logs: Default::default() });
        Self { handling, subscription, stopping, asked, calls: JoinSet::new(), _finish: finish }
    }

    pub(super) async fn run(mut self) {
        let at_once = self.handling.shared.options.at_once;
        match (&self.handling.call, at_once) {
            (_, 2..) => self.run_at_once(at_once).await,
            (Call::Async(_), _) => {
                while let Some(message) = self.next_alone().await {
                    let Some(_place) = self.place().await else { break };
                    self.handling.call_async(&message).await;
                }
            }
            (Call::Blocking(_), _) => {
                while let Some(message) = self.next_alone().await {
                    let Some(place) = self.place().await else { break };
                    let handling = Arc::clone(&self.handling);
                    let turn = tokio::task::spawn_blocking(move || self.turn(&handling, &message, place));
                    // It is lost when the runtime ends.
                    let Ok(after) = turn.await else { return };
                    self = after;
                }
            }
        }
        self.end();
    }

    /// Calls the handler with a message and with those that have arrived meanwhile, and gives the thread back to others.
    fn turn(mut self, handling: &Handling, first: &Message<Bytes>, place: OwnedSemaphorePermit) -> Self {
        handling.call(first);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 1..limits::BROKER_TURN {
            // Whoever waits for the next one registers again.
            let Poll::Ready(Some(event)) = pin!(self.subscription.next_event()).poll(&mut context) else {
                break;
            };
            if let Some(message) = handling.message(event) {
                handling.call(&message);
            }
        }
        drop(place);
        self
    }

    async fn run_at_once(&mut self, at_once: usize) {
        loop {
            let message = match self.next().await {
                Next::End => break,
                Next::Called => continue,
                Next::Message(message) => message,
            };
            while self.calls.len() >= at_once {
                self.calls.join_next().await;
            }
            let Some(place) = self.place().await else { break };
            let handling = Arc::clone(&self.handling);
            match &self.handling.call {
                Call::Async(_) => self.calls.spawn(async move {
                    handling.call_async(&message).await;
                    drop(place);
                }),
                Call::Blocking(_) => self.calls.spawn_blocking(move || {
                    handling.call(&message);
                    drop(place);
                }),
            };
        }
        // Calls that have begun go on, also where the subscription was stopped.
        while self.calls.join_next().await.is_some() {}
    }

    async fn next_alone(&mut self) -> Option<Message<Bytes>> {
        match self.next().await {
            Next::Message(message) => Some(message),
            Next::Called | Next::End => None,
        }
    }

    async fn next(&mut self) -> Next {
        loop {
            // Where messages wait, nothing else has to be looked at but whether it goes on.
            if !self.handling.control.is_stopped()
                && let Some(Some(event)) = self.arrived().await
            {
                match self.handling.message(event) {
                    Some(message) => return Next::Message(message),
                    None => continue,
                }
            }
            // What has arrived comes before the question whether there is something to do.
            let asked = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => return Next::End,
                event = self.subscription.next_event() => match event.map(|event| self.handling.message(event)) {
                    None => return Next::End,
                    Some(Some(message)) => return Next::Message(message),
                    Some(None) => continue,
                },
                Some(_) = self.calls.join_next() => return Next::Called,
                Ok(()) = self.asked.changed(), if self.calls.is_empty() => *self.asked.borrow_and_update(),
            };
            // What came after that look and before the question is handled first. It is found however long this task has run.
            match unconstrained(self.arrived()).await {
                None => self.answer(asked),
                Some(event) => {
                    self.asked.mark_changed();
                    match event.map(|event| self.handling.message(event)) {
                        None => return Next::End,
                        Some(Some(message)) => return Next::Message(message),
                        Some(None) => {}
                    }
                }
            }
        }
    }

    /// Says that there was nothing to do when this was asked.
    fn answer(&self, asked: u64) {
        self.handling.control.answered.store(asked, Ordering::Release);
        self.handling.shared.progress.notify_waiters();
    }

    /// What has arrived already.
    async fn arrived(&mut self) -> Option<Option<Event<Bytes>>> {
        let mut event = pin!(self.subscription.next_event());
        poll_fn(|context| {
            Poll::Ready(match event.as_mut().poll(context) {
                Poll::Ready(event) => Some(event),
                Poll::Pending => None,
            })
        })
        .await
    }

    /// A place to call a handler; none if the subscription is stopped meanwhile.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        let places = Arc::clone(&self.handling.shared.places);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return Some(place);
        }
        tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stopping| *stopping) => None,
            place = places.acquire_owned() => place.ok(),
        }
    }

    fn end(&self) {
        let Handling { shared, control, pattern, .. } = &*self.handling;
        let stopped = control.is_stopped();
        let reason = self.subscription.close_reason().filter(|_| !stopped);
        let reason =
            reason.unwrap_or_else(|| BusError::Closed { what: format!("the subscription to \"{pattern}\"") });
        if !stopped && !*shared.closing.borrow() {
            add(&shared.counters.lost_subscriptions, 1);
            tracing::error!(pattern = &**pattern, error = %reason, "a subscription of a broker has ended");
        }
        control.set_ended(reason);
    }
}

/// Where the tasks of subscriptions run, and who owns them.
pub(super) struct Tasks {
    pub(super) runtime: Handle,
    pub(super) set: JoinSet<()>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, task: Task) {
        self.forget_ended();
        self.set.spawn_on(task.run(), &self.runtime);
    }

    /// Lets go of a handler where it may block and panic.
    pub(super) fn discard(&mut self, call: Call) {
        self.forget_ended();
        self.set.spawn_blocking_on(move || drop(call), &self.runtime);
    }

    fn forget_ended(&mut self) {
        while self.set.try_join_next().is_some() {}
    }
}
