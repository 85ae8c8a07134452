//! The handle of a subscription, and what it shares with its task.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::queue::Shared;
use super::waiting::block_on;
use crate::error::{BusError, BusResult};

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
    /// [`BusError::QueueFull`] for more than [`limits::BROKER_SUBSCRIBES`](crate::limits::BROKER_SUBSCRIBES) that wait; [`BusError::Closed`] when the broker has
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

    /// Ends the subscription: the handler gets no further message, and what it has not got is dropped, or stays at the bus
    /// where the subscription is a [durable](crate::client::SubscribeOptions::durable) one. A call that is under
    /// way goes on, also one that begins on another thread at this moment, and its message is acknowledged if it is to be.
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
    pub(super) stopping: watch::Sender<bool>,
    ended: RwLock<Option<BusError>>,
    /// The last time that it was asked and had nothing to do.
    pub(super) answered: AtomicU64,
}

impl Control {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            ended: RwLock::new(None),
            answered: AtomicU64::new(0),
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

    pub(super) fn set_ended(&self, error: BusError) {
        *self.ended.write().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Tells that the task of a subscription has ended, however it does.
pub(super) struct Finish(Arc<Shared>, Arc<Control>);

impl Finish {
    /// The task begins. It has to answer what is asked from now on, and what was asked before it was there.
    pub(super) fn begin(shared: Arc<Shared>, control: Arc<Control>) -> (watch::Receiver<u64>, Self) {
        shared.live().push(Arc::clone(&control));
        let mut asked = shared.asked.subscribe();
        asked.mark_changed();
        (asked, Self(shared, control))
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let Self(shared, control) = self;
        shared.live().retain(|live| !Arc::ptr_eq(live, control));
        shared.progress.notify_waiters();
    }
}
