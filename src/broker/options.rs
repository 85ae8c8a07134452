//! How a broker is to run.

use std::time::Duration;

use crate::bus::Settings;
use crate::client::SubscribeOptions;
use crate::error::{BusError, BusResult};
use crate::limits;

/// How a broker is to run.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::broker::{Broker, BrokerOptions};
///
/// # fn main() -> whispeer::BusResult<()> {
/// let options = BrokerOptions::default().handlers(8).drain_limit(Duration::from_secs(1));
/// let broker = Broker::builder(options).build()?;
/// # drop(broker);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BrokerOptions {
    pub(super) queue: (usize, usize),
    pub(super) handlers: usize,
    pub(super) at_once: usize,
    pub(super) workers: usize,
    pub(super) drain_limit: Duration,
    pub(super) settings: Settings,
    pub(super) subscribe: SubscribeOptions,
}

impl Default for BrokerOptions {
    /// A queue of [`limits::BROKER_QUEUE_MESSAGES`] and [`limits::BROKER_QUEUE_BYTES`], [`limits::BROKER_HANDLERS`] handlers
    /// at a time and one of each subscription, [`limits::BROKER_WORKERS`] threads for asynchronous ones, and
    /// [`limits::BROKER_DRAIN`] to drain.
    fn default() -> Self {
        Self {
            queue: (limits::BROKER_QUEUE_MESSAGES, limits::BROKER_QUEUE_BYTES),
            handlers: limits::BROKER_HANDLERS,
            at_once: 1,
            workers: limits::BROKER_WORKERS,
            drain_limit: limits::BROKER_DRAIN,
            settings: Settings::default(),
            subscribe: SubscribeOptions::default(),
        }
    }
}

impl BrokerOptions {
    /// How many messages, and bytes of them, may wait to be sent. A publish for which there is no room is refused.
    #[must_use]
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.queue = (messages, bytes);
        self
    }

    /// How many handlers run at a time, at most [`limits::BROKER_HANDLERS_MAX`].
    #[must_use]
    pub fn handlers(mut self, count: usize) -> Self {
        self.handlers = count;
        self
    }

    /// How many of them may be of one subscription. With 1, the default, each subscription's handler has its messages one
    /// after the other, in order. With more, several calls of it run at a time: they begin in about that order, and end
    /// in any.
    #[must_use]
    pub fn handlers_of_subscription(mut self, count: usize) -> Self {
        self.at_once = count;
        self
    }

    /// How many threads run asynchronous handlers, at most [`limits::WORKERS`]. One that blocks its thread holds up others.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// How long the broker may take to send what is queued and to let handlers finish, when it is dropped or closed.
    #[must_use]
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// The settings of its bus. A broker that joins another's bus has none.
    #[must_use]
    pub fn bus(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How it subscribes: the window of each subscription, and what becomes of messages for which that has no room while
    /// its handler is busy. By default a publish waits a second for it, and then the gap is counted.
    /// [`Broker::subscribe_with`](super::Broker::subscribe_with) is for one subscription that is to be another.
    #[must_use]
    pub fn subscribe_with(mut self, options: SubscribeOptions) -> Self {
        self.subscribe = options;
        self
    }

    pub(super) fn check(&self) -> BusResult<()> {
        let within = |name: &str, value: usize, most: usize| match value {
            0 => Err(BusError::InvalidSettings(format!("{name} is 0; it has to be at least 1"))),
            value if value > most => {
                Err(BusError::InvalidSettings(format!("{name} is {value}; it can be 1 to {most}")))
            }
            _ => Ok(()),
        };
        within("the queue's number of messages", self.queue.0, usize::MAX)?;
        within("handlers", self.handlers, limits::BROKER_HANDLERS_MAX)?;
        within("handlers_of_subscription", self.at_once, limits::BROKER_HANDLERS_MAX)?;
        within("workers", self.workers, limits::WORKERS)
    }
}
