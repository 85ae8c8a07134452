//! Counts of what happens at the bus, in a registry of `prometheus-client`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Acknowledged, Delivery, HookResult, Hooks, OnFailure, Plugin, Publishing, Session, Subscribing};
use crate::error::BusError;
use crate::topic::TopicPattern;

/// Counts sessions, subscriptions, messages and acknowledgements. It refuses nothing.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `whispeer_sessions` | gauge | |
/// | `whispeer_sessions_begun` | counter | |
/// | `whispeer_subscriptions_asked` | counter | |
/// | `whispeer_published`, `whispeer_published_bytes` | counter | `topics` |
/// | `whispeer_delivered`, `whispeer_delivered_bytes` | counter | `topics` |
/// | `whispeer_acknowledged` | counter | |
/// | `whispeer_message_bytes` | histogram, 16 B to 16 MiB | |
///
/// The label `topics` is the first of the patterns that it was given which contains the topic, or `other`: the number of time series
/// does not depend on what clients publish. It counts what reaches it: plugins before it may have refused a
/// message, and those behind it still may. Bytes are those of payloads; a value of the process counts as it says.
///
/// # Examples
/// ```
/// use prometheus_client::encoding::text::encode;
/// use prometheus_client::registry::Registry;
/// use whispeer::plugin::Metrics;
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut registry = Registry::default();
/// let metrics = Metrics::register(&mut registry, [TopicPattern::new("orders/**")?]);
/// let bus = Bus::builder().plugin(metrics).start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// client.publish_bytes("orders/7", "two apples").await?;
///
/// let mut text = String::new();
/// encode(&mut text, &registry)?;
/// assert!(text.contains("whispeer_published_total{topics=\"orders/**\"} 1"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Metrics {
    sessions: Gauge,
    sessions_begun: Counter,
    subscriptions: Counter,
    acknowledged: Counter,
    message_bytes: Histogram,
    topics: Vec<(TopicPattern, Counts)>,
    other: Counts,
}

/// Counts of the topics of one pattern.
#[derive(Debug)]
struct Counts {
    published: Counter,
    published_bytes: Counter,
    delivered: Counter,
    delivered_bytes: Counter,
}

type ByTopics = Family<Vec<(&'static str, String)>, Counter>;

impl Metrics {
    /// Counts in this registry, and by themselves what is published to topics of each of these patterns.
    #[must_use]
    pub fn register(registry: &mut Registry, topics: impl IntoIterator<Item = TopicPattern>) -> Self {
        let mut by_topics = |name: &str, help: &str| {
            let family = ByTopics::default();
            registry.register(name, help, family.clone());
            family
        };
        let families = [
            by_topics("whispeer_published", "Messages published"),
            by_topics("whispeer_published_bytes", "Bytes of payloads published"),
            by_topics("whispeer_delivered", "Messages given to their matches"),
            by_topics("whispeer_delivered_bytes", "Bytes of payloads given to matches"),
        ];
        let counts = |label: &str| {
            let [published, published_bytes, delivered, delivered_bytes] = families
                .each_ref()
                .map(|family| family.get_or_create(&vec![("topics", label.to_owned())]).clone());
            Counts { published, published_bytes, delivered, delivered_bytes }
        };
        let topics = topics.into_iter().map(|pattern| {
            let counts = counts(pattern.as_str());
            (pattern, counts)
        });
        let metrics = Self {
            topics: topics.collect(),
            other: counts("other"),
            sessions: Gauge::default(),
            sessions_begun: Counter::default(),
            subscriptions: Counter::default(),
            acknowledged: Counter::default(),
            message_bytes: Histogram::new(exponential_buckets(16.0, 4.0, 11)),
        };
        registry.register("whispeer_sessions", "Sessions now", metrics.sessions.clone());
        registry.register("whispeer_sessions_begun", "Sessions so far", metrics.sessions_begun.clone());
        registry.register(
            "whispeer_subscriptions_asked",
            "Subscriptions asked for",
            metrics.subscriptions.clone(),
        );
        registry.register(
            "whispeer_acknowledged",
            "Messages that durable consumers have acknowledged",
            metrics.acknowledged.clone(),
        );
        registry.register(
            "whispeer_message_bytes",
            "Bytes of the payload of a message that is published",
            metrics.message_bytes.clone(),
        );
        metrics
    }

    fn counts_of(&self, topic: &TopicPattern) -> &Counts {
        let found = self.topics.iter().find(|(pattern, _)| pattern.contains(topic));
        found.map_or(&self.other, |(_, counts)| counts)
    }
}

impl Plugin for Metrics {
    fn name(&self) -> &str {
        "metrics"
    }

    fn hooks(&self) -> Hooks {
        Hooks::CONNECT | Hooks::SUBSCRIBE | Hooks::PUBLISH | Hooks::DELIVER | Hooks::ACK | Hooks::DISCONNECT
    }

    fn on_failure(&self) -> OnFailure {
        OnFailure::GoOn
    }

    async fn on_connect(&self, _session: &Session) -> HookResult {
        self.sessions.inc();
        self.sessions_begun.inc();
        Ok(())
    }

    async fn on_subscribe(&self, _subscribing: &Subscribing) -> HookResult {
        self.subscriptions.inc();
        Ok(())
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        let counts = self.counts_of(message.topic());
        counts.published.inc();
        counts.published_bytes.inc_by(message.weight() as u64);
        self.message_bytes.observe(message.weight() as f64);
        Ok(())
    }

    fn on_deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        let topic = TopicPattern::new(delivery.topic());
        let counts = topic.as_ref().map_or(&self.other, |topic| self.counts_of(topic));
        counts.delivered.inc();
        counts.delivered_bytes.inc_by(delivery.weight() as u64);
        Ok(())
    }

    async fn on_ack(&self, _acknowledged: &Acknowledged) -> HookResult {
        self.acknowledged.inc();
        Ok(())
    }

    async fn on_disconnect(&self, _session: &Session, _reason: &BusError) -> HookResult {
        self.sessions.dec();
        Ok(())
    }
}
