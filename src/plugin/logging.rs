//! Tells in the log who connects and subscribes, and a sample of what is published.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Acknowledged, Delivery, HookResult, Hooks, OnFailure, Plugin, Publishing, Session, Subscribing};
use crate::error::BusError;

/// Of how many messages one is told, unless it is said otherwise.
const ONE_OF: u64 = 100;

/// Tells what happens at the bus by `tracing`, with the target `whispeer::messages`: who comes and goes and who
/// subscribes at the level `info`, each time; one of so many messages at the level `debug`. What messages say is never told,
/// as it may be secret. It refuses nothing.
///
/// # Examples
/// ```
/// use whispeer::plugin::Logging;
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let bus = Bus::builder().plugin(Logging::new().one_of(10)).start()?;
/// # bus.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Logging {
    one_of: u64,
    hooks: Hooks,
    published: AtomicU64,
    delivered: AtomicU64,
}

impl Default for Logging {
    fn default() -> Self {
        Self::new()
    }
}

impl Logging {
    /// Tells one of 100 messages that are published.
    #[must_use]
    pub fn new() -> Self {
        let hooks = Hooks::CONNECT | Hooks::SUBSCRIBE | Hooks::PUBLISH | Hooks::ACK | Hooks::DISCONNECT;
        Self { one_of: ONE_OF, hooks, published: AtomicU64::new(0), delivered: AtomicU64::new(0) }
    }

    /// Tells one of so many messages, the first among them; all with 1, and none with 0.
    #[must_use]
    pub fn one_of(mut self, messages: u64) -> Self {
        self.one_of = messages;
        self
    }

    /// Tells one of so many deliveries and acknowledgements as well.
    #[must_use]
    pub fn deliveries(mut self) -> Self {
        self.hooks = self.hooks | Hooks::DELIVER;
        self
    }

    /// Counts a message; its number if it is to be told.
    fn sampled(&self, counter: &AtomicU64) -> Option<u64> {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        (self.one_of != 0 && number.is_multiple_of(self.one_of)).then_some(number + 1)
    }
}

impl Plugin for Logging {
    fn name(&self) -> &str {
        "logging"
    }

    fn hooks(&self) -> Hooks {
        self.hooks
    }

    fn on_failure(&self) -> OnFailure {
        OnFailure::GoOn
    }

    async fn on_connect(&self, session: &Session) -> HookResult {
        let Session { id, name, principal, transport } = session;
        tracing::info!(target: "whispeer::messages", session = id, name, %principal, transport, "connected");
        Ok(())
    }

    async fn on_subscribe(&self, subscribing: &Subscribing) -> HookResult {
        let Subscribing { session, pattern, group, .. } = subscribing;
        tracing::info!(target: "whispeer::messages", session = session.id, %pattern, group, "subscribes");
        Ok(())
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        if let Some(number) = self.sampled(&self.published) {
            let (session, bytes) = (message.session().id, message.weight());
            tracing::debug!(target: "whispeer::messages", number, session, topic = %message.topic(), bytes, "publishes");
        }
        Ok(())
    }

    fn on_deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        if let Some(number) = self.sampled(&self.delivered) {
            let receiver = delivery.receiver();
            let (session, pattern) = (receiver.session, receiver.pattern);
            let (topic, bytes) = (delivery.topic(), delivery.weight());
            tracing::debug!(target: "whispeer::messages", number, session, %pattern, topic, bytes, "gets");
        }
        Ok(())
    }

    async fn on_ack(&self, acknowledged: &Acknowledged) -> HookResult {
        if self.sampled(&self.delivered).is_some() {
            let Acknowledged { session, stream, consumer, sequence } = acknowledged;
            tracing::debug!(target: "whispeer::messages", session = session.id, stream, consumer, sequence, "acknowledges");
        }
        Ok(())
    }

    async fn on_disconnect(&self, session: &Session, reason: &BusError) -> HookResult {
        let Session { id, name, principal, .. } = session;
        tracing::info!(target: "whispeer::messages", session = id, name, %principal, %reason, "disconnected");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_is_told_and_the_first_is_among_them() {
        let told = |one_of| {
            let logging = Logging::new().one_of(one_of);
            (0..7).filter_map(|_| logging.sampled(&logging.published)).collect::<Vec<_>>()
        };
        assert_eq!(told(3), [1, 4, 7]);
        assert_eq!(told(1), [1, 2, 3, 4, 5, 6, 7]);
        assert!(told(0).is_empty());
    }
}
