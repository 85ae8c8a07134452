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
    use std::fmt::{Debug, Write};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;
    use crate::auth::Principal;
    use crate::proto::ContentRef;
    use crate::topic::TopicPattern;

    /// Keeps what is told.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<(Level, String)>>>);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            let _ = write!(self.0, " {field}={value:?}");
        }
    }

    impl Subscriber for Recorder {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "whispeer::messages"
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().unwrap().push((*event.metadata().level(), line.0));
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn one_of_so_many_messages_is_told_and_never_what_it_says() {
        let session = Session::new(7, "ann", Principal::Local, "memory");
        let content = ContentRef::lent(&[], b"news/today", b"eagle");
        for (one_of, expected) in [(3, vec![1, 4, 7]), (1, (1..=7).collect()), (0, vec![])] {
            let recorder = Recorder::default();
            tracing::subscriber::with_default(recorder.clone(), || {
                let logging = Logging::new().one_of(one_of);
                for _ in 0..7 {
                    let mut message = Publishing::new(&session, &content).unwrap();
                    assert!(logging.on_publish(&mut message).is_ok());
                }
            });
            let told = recorder.0.lock().unwrap();
            assert_eq!(told.len(), expected.len());
            for ((level, line), number) in told.iter().zip(expected) {
                assert_eq!(*level, Level::DEBUG);
                for part in [&format!("number={number} "), "session=7 ", "topic=news/today", "bytes=5"] {
                    assert!(line.contains(part), "{part}: {line}");
                }
                assert!(!line.contains("eagle"), "{line}");
            }
        }
    }

    #[tokio::test]
    async fn who_comes_and_goes_is_told_each_time() {
        let recorder = Recorder::default();
        let _recorded = tracing::subscriber::set_default(recorder.clone());
        let session = Session::new(7, "ann", Principal::Local, "memory");
        let logging = Logging::new().one_of(0);
        logging.on_connect(&session).await.unwrap();
        let subscribing = Subscribing::new(session.clone(), TopicPattern::new("news/*").unwrap());
        logging.on_subscribe(&subscribing).await.unwrap();
        logging
            .on_disconnect(&session, &BusError::KeepAlive { after: Duration::from_secs(9) })
            .await
            .unwrap();
        let told = recorder.0.lock().unwrap();
        let shown: Vec<_> = told.iter().map(|(level, line)| (*level, line.as_str())).collect();
        assert!(shown.iter().all(|(level, _)| *level == Level::INFO));
        let [(_, came), (_, subscribed), (_, left)] = shown[..] else { panic!("{shown:?}") };
        assert!(came.contains("connected") && came.contains("\"ann\"") && came.contains("memory"), "{came}");
        assert!(subscribed.contains("pattern=news/*"), "{subscribed}");
        assert!(left.contains("no sign of life for 9s"), "{left}");
    }
}
