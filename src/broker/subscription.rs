//! The tasks of subscriptions that need not acknowledge, and whose all tasks are.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{JoinSet, unconstrained};

use super::control::Finish;
use super::handler::Call;
use super::handling::Handling;
use crate::client::{Event, Message, Subscription};
use crate::limits;

/// The task of a subscription that need not acknowledge. It ends with the subscription.
pub(super) struct Task {
    handling: Arc<Handling>,
    subscription: Subscription<Bytes>,
    stopping: watch::Receiver<bool>,
    asked: watch::Receiver<u64>,
    /// Calls of the handler that run at the same time, where it may have several.
    calls: JoinSet<()>,
    _finish: Finish,
}

/// What the task is to do next.
enum Next {
    Message(Message<Bytes>),
    /// One of the calls that run at the same time has ended.
    Called,
    End,
}

impl Task {
    pub(super) fn new(handling: Handling, subscription: Subscription<Bytes>) -> Self {
        let stopping = handling.control.stopping.subscribe();
        let (asked, finish) = Finish::begin(Arc::clone(&handling.shared), Arc::clone(&handling.control));
        let handling = Arc::new(handling);
        Self { handling, subscription, stopping, asked, calls: JoinSet::new(), _finish: finish }
    }

    pub(super) async fn run(mut self) {
        let at_once = self.handling.shared.options.at_once;
        match (&self.handling.call, at_once) {
            (_, 2..) => self.run_at_once(at_once).await,
            (Call::Async(_), _) => {
                while let Some(message) = self.next_alone().await {
                    let Some(_place) =
                        self.handling.place(self.stopping.wait_for(|stopping| *stopping)).await
                    else {
                        break;
                    };
                    self.handling.call_async(message).await;
                }
            }
            (Call::Blocking(_), _) => {
                while let Some(message) = self.next_alone().await {
                    let Some(place) = self.handling.place(self.stopping.wait_for(|stopping| *stopping)).await
                    else {
                        break;
                    };
                    let handling = Arc::clone(&self.handling);
                    let turn = tokio::task::spawn_blocking(move || self.turn(&handling, message, place));
                    // It is lost when the runtime ends.
                    let Ok(after) = turn.await else { return };
                    self = after;
                }
            }
        }
        self.handling.end(&self.subscription);
    }

    /// Calls the handler with a message and with those that have arrived meanwhile, and gives the thread back to others.
    fn turn(mut self, handling: &Handling, first: Message<Bytes>, place: OwnedSemaphorePermit) -> Self {
        handling.call(first);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 1..limits::BROKER_TURN {
            // Whoever waits for the next one registers again.
            let Poll::Ready(Some(event)) = pin!(self.subscription.next_event()).poll(&mut context) else {
                break;
            };
            if let Some(message) = handling.message(event) {
                handling.call(message);
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
            let Some(place) = self.handling.place(self.stopping.wait_for(|stopping| *stopping)).await else {
                break;
            };
            let handling = Arc::clone(&self.handling);
            match &self.handling.call {
                Call::Async(_) => self.calls.spawn(async move {
                    handling.call_async(message).await;
                    drop(place);
                }),
                Call::Blocking(_) => self.calls.spawn_blocking(move || {
                    handling.call(message);
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
}

/// Where the tasks of subscriptions run, and who owns them.
pub(super) struct Tasks {
    pub(super) runtime: Handle,
    pub(super) set: JoinSet<()>,
    /// Those that tell the bus that handlers are at work. They run where `Tasks` is used, and no handler does.
    pub(super) telling: JoinSet<()>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.forget_ended();
        self.set.spawn_on(task, &self.runtime);
    }

    /// Lets go of a handler where it may block and panic.
    pub(super) fn discard(&mut self, call: Call) {
        self.forget_ended();
        self.set.spawn_blocking_on(move || drop(call), &self.runtime);
    }

    fn forget_ended(&mut self) {
        while self.set.try_join_next().is_some() {}
        while self.telling.try_join_next().is_some() {}
    }
}
