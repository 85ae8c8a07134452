//! The task of a subscription that acknowledges: a message is done when its handler says so, and comes again if not.
//!
//! A message is taken only when there is a place for its handler, and nothing else than its handler decides about it then. So
//! what is left when the subscription ends has not been begun with, and the bus gives it to whoever comes next without
//! counting an attempt.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet, unconstrained};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::control::Finish;
use super::handler::{Call, contained, contained_async};
use super::handling::Handling;
use crate::client::{Acknowledged, Event, Message, Progress, Receipt, Subscription};
use crate::limits;

/// The bus is told so often within the time for a message that its handler is at work.
const TELLINGS: u32 = 3;

/// The task. It ends with the subscription, when the calls that were begun are over and the bus has what they came to.
pub(super) struct Consumer {
    handling: Arc<Handling>,
    subscription: Subscription<Bytes>,
    leaving: Leaving,
    asked: watch::Receiver<u64>,
    /// Calls of the handler that run.
    calls: JoinSet<Option<Acknowledged>>,
    /// Acknowledgements that the bus has not confirmed, in the order in which they were sent.
    unconfirmed: VecDeque<Acknowledged>,
    _telling: Telling,
    _finish: Finish,
}

/// A message that is to be handled, what it is acknowledged with, and a place for its handler.
type Taken = (Message<Bytes>, Receipt, OwnedSemaphorePermit);

impl Consumer {
    /// One that `telling` speaks for. Where it `stays`, the bus keeps what it has not handled beyond the end of the broker.
    pub(super) fn new(
        handling: Handling,
        subscription: Subscription<Bytes>,
        stays: bool,
        telling: Telling,
    ) -> Self {
        let shared = Arc::clone(&handling.shared);
        let leaving = Leaving {
            stopping: handling.control.stopping.subscribe(),
            closing: stays.then(|| shared.closing.subscribe()),
        };
        let (asked, finish) = Finish::begin(shared, Arc::clone(&handling.control));
        Self {
            handling: Arc::new(handling),
            subscription,
            leaving,
            asked,
            calls: JoinSet::new(),
            unconfirmed: VecDeque::new(),
            _telling: telling,
            _finish: finish,
        }
    }

    pub(super) async fn run(mut self) {
        while let Some(taken) = self.next().await {
            self.begin(taken);
        }
        while let Some(called) = self.calls.join_next().await {
            self.called(called);
        }
        while let Some(acknowledged) = self.unconfirmed.pop_front() {
            self.handling.confirmed(acknowledged.await);
        }
        self.handling.end(&self.subscription);
    }

    /// The next message to be handled; none once the subscription has ended or is left.
    async fn next(&mut self) -> Option<Taken> {
        let at_once = self.handling.shared.options.at_once;
        loop {
            let has_room = self.calls.len() < at_once && self.unconfirmed.len() < limits::BROKER_UNCONFIRMED;
            let is_idle = self.calls.is_empty() && self.unconfirmed.is_empty();
            // What has arrived comes before the question whether there is something to do.
            tokio::select! {
                biased;
                () = self.leaving.begun() => return None,
                Some(called) = self.calls.join_next() => self.called(called),
                () = confirm(&mut self.unconfirmed, &self.handling), if !self.unconfirmed.is_empty() => {}
                more = poll_fn(|context| self.subscription.poll_arrived(context)), if has_room => {
                    if !more {
                        return None;
                    }
                    if let Some(taken) = self.take().await {
                        return Some(taken);
                    }
                }
                Ok(()) = self.asked.changed(), if is_idle => self.answer().await,
            }
        }
    }

    /// Takes a message, when there is a place for its handler. None where it was something else that had arrived, or the
    /// subscription is left meanwhile.
    async fn take(&mut self) -> Option<Taken> {
        let place = self.handling.place(self.leaving.begun()).await?;
        let event = {
            let mut event = pin!(self.subscription.next_event());
            // A message that came a second time is there and is nothing new: then nobody has to wait for another one here.
            let now = poll_fn(|context| match event.as_mut().poll(context) {
                Poll::Ready(event) => Poll::Ready(event),
                Poll::Pending => Poll::Ready(None),
            });
            unconstrained(now).await?
        };
        if let Event::Undecodable { .. } = event {
            // The client has said so to the bus.
            self.handling.nacked();
        }
        let message = self.handling.message(event)?;
        let receipt = self.subscription.receipt()?;
        Some((message, receipt, place))
    }

    /// Calls the handler, beside others.
    fn begin(&mut self, (message, receipt, place): Taken) {
        let handling = Arc::clone(&self.handling);
        match &self.handling.call {
            Call::Async(handler) => {
                let handler = Arc::clone(handler);
                self.calls.spawn(async move {
                    let _place = place;
                    let handled = contained_async(|| handler(message)).await;
                    handling.settle(handled, receipt)
                })
            }
            Call::Blocking(handler) => {
                let handler = Arc::clone(handler);
                self.calls.spawn_blocking(move || {
                    let _place = place;
                    handling.settle(contained(|| handler(message)), receipt)
                })
            }
        };
    }

    /// A call is over. Where it was lost with its receipt, the message comes again.
    fn called(&mut self, called: Result<Option<Acknowledged>, JoinError>) {
        self.unconfirmed.extend(called.ok().flatten());
    }

    /// Says that there is nothing to do, unless something has arrived since it was looked for last.
    async fn answer(&mut self) {
        let asked = *self.asked.borrow_and_update();
        let has_more = poll_fn(|context| Poll::Ready(self.subscription.poll_arrived(context).is_ready()));
        if unconstrained(has_more).await {
            self.asked.mark_changed();
            return;
        }
        self.handling.control.answered.store(asked, Ordering::Release);
        self.handling.shared.progress.notify_waiters();
    }
}

/// Waits until the bus has answered the first acknowledgement, and takes it out. Nothing is lost when it is dropped.
async fn confirm(unconfirmed: &mut VecDeque<Acknowledged>, handling: &Handling) {
    let Some(first) = unconfirmed.front_mut() else { return };
    let result = Pin::new(first).await;
    unconfirmed.pop_front();
    handling.confirmed(result);
}

/// When a subscription hands out nothing more.
struct Leaving {
    stopping: watch::Receiver<bool>,
    /// The end of the broker, where somebody else gets what is left.
    closing: Option<watch::Receiver<bool>>,
}

impl Leaving {
    /// Waits until it is so. Nothing is lost when it is dropped.
    async fn begun(&mut self) {
        let closing = async {
            match &mut self.closing {
                Some(closing) => drop(closing.wait_for(|closing| *closing).await),
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            // Both senders live as long as the task.
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
            () = closing => {}
        }
    }
}

/// Tells the bus in time that handlers are at work, until it is dropped.
pub(super) struct Telling(AbortHandle);

impl Telling {
    /// Tells it from a task of its own, of which `tasks` are the owner: one that runs where no handler can keep it from running.
    pub(super) fn begin(tasks: &mut JoinSet<()>, progress: Progress, patience: Duration) -> Self {
        let period = (patience / TELLINGS).max(Duration::from_millis(1));
        Self(tasks.spawn(async move {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                progress.tell();
            }
        }))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.abort();
    }
}
