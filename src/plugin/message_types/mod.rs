//! Topics that take messages of one type only.

mod parse;
mod read;
mod schema;
#[cfg(test)]
mod tests;

use std::any::type_name;
use std::fmt;

use serde::de::DeserializeOwned;

pub use self::schema::{Schema, SchemaError};
use super::{HookResult, Hooks, Plugin, Publishing, Refused, Subscribing};
use crate::error::truncate;
use crate::limits;
use crate::topic::TopicPattern;

/// The header by which publishers and subscribers may say what they send or expect: a schema, or its fingerprint.
const HEADER: &str = "schema";

/// Bytes that are told of what a payload looks like.
const SHOWN: usize = 512;

/// Refuses messages that are not of the type of their topic, and subscriptions that expect another one.
///
/// A topic may have a Rust type, which its payloads have to decode as, a [`Schema`], which they have to meet, or both. The
/// refusal says what differs. Topics without either take everything. A message that is published to a pattern has to fit all
/// topics that the pattern meets.
///
/// Publishers and subscribers may say in the header `schema` what they send or expect, as a schema or its fingerprint: that
/// has to fit, too. So a subscriber of another release is told when it subscribes, and not by messages that it cannot read.
///
/// Payloads are read as MessagePack. What is sealed end to end nobody can check: it is refused as
/// [`BusError::Sealed`](crate::BusError::Sealed) where its topic has a type.
///
/// # Examples
/// ```
/// use serde::{Deserialize, Serialize};
/// use whispeer::plugin::MessageTypes;
/// use whispeer::prelude::*;
///
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// struct Order {
///     pieces: u32,
/// }
///
/// impl PublishProtocol for Order {
///     fn prefix() -> &'static str {
///         "orders"
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let types = MessageTypes::new()
///     .typed::<Order>(TopicPattern::new("orders/**")?)
///     .schema(TopicPattern::new("prices/*")?, "{cents: integer}".parse()?);
/// let bus = Bus::builder().plugin(types).start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// client.publish("today", &Order { pieces: 2 }).await?;
/// let refused = client.publish_bytes("orders/today", "two apples").await.unwrap_err();
/// assert!(refused.to_string().contains("Order"));
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct MessageTypes {
    rules: Vec<Rule>,
}

struct Rule {
    topics: TopicPattern,
    kind: Kind,
}

enum Kind {
    Type { name: &'static str, decode: fn(&[u8]) -> Result<(), String> },
    Schema(Schema),
}

impl MessageTypes {
    /// Takes everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has payloads of these topics decode as `T`. What `T` does not know does not count, as for a subscriber.
    #[must_use]
    pub fn typed<T: DeserializeOwned>(mut self, topics: TopicPattern) -> Self {
        self.rules.push(Rule { topics, kind: Kind::Type { name: type_name::<T>(), decode: decode::<T> } });
        self
    }

    /// Has payloads of these topics meet this schema.
    #[must_use]
    pub fn schema(mut self, topics: TopicPattern, schema: Schema) -> Self {
        self.rules.push(Rule { topics, kind: Kind::Schema(schema) });
        self
    }

    fn rules_of(&self, topic: &TopicPattern) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.topics.meets(topic))
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<(), String> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(limits::TYPE_DEPTH);
    T::deserialize(&mut deserializer).map(drop).map_err(|error| error.to_string())
}

/// What a payload looks like, in words.
fn described(payload: &[u8]) -> String {
    match read::shape(payload) {
        Ok(shape) => {
            let mut text = Schema(shape).to_string();
            truncate(&mut text, SHOWN);
            format!("it is {text}")
        }
        Err(reason) => format!("it cannot be read: {reason}"),
    }
}

impl Rule {
    /// That what somebody says of his messages fits.
    fn check_declared(&self, topic: &TopicPattern, declared: &str, whose: &str) -> HookResult {
        let Kind::Schema(schema) = &self.kind else { return Ok(()) };
        let differences = if declared.starts_with('#') {
            if declared == schema.fingerprint() {
                return Ok(());
            }
            let shown: String = declared.chars().take(17).collect();
            vec![format!("its fingerprint is {shown:?} and not {}", schema.fingerprint())]
        } else {
            let declared: Schema = declared.parse().map_err(|error: SchemaError| {
                Refused::new(format!("the header \"{HEADER}\" of {whose} is {error}"))
            })?;
            schema.differences(&declared)
        };
        self.refuse_for(topic, &differences, whose)
    }

    fn check_payload(&self, topic: &TopicPattern, payload: &[u8]) -> HookResult {
        let whose = "the message";
        match &self.kind {
            Kind::Type { name, decode } => decode(payload).map_err(|reason| {
                let like = described(payload);
                Refused::new(format!(
                    "the message does not decode as {name}, the type of \"{topic}\": {reason}; {like}"
                ))
            }),
            Kind::Schema(schema) => match read::shape(payload) {
                Ok(shape) => self.refuse_for(topic, &schema.differences(&Schema(shape)), whose),
                Err(reason) => Err(Refused::new(format!(
                    "the message is not of the type of \"{topic}\", {schema}: it cannot be read: {reason}"
                ))),
            },
        }
    }

    fn refuse_for(&self, topic: &TopicPattern, differences: &[String], whose: &str) -> HookResult {
        if differences.is_empty() {
            return Ok(());
        }
        let expected = match &self.kind {
            Kind::Type { name, .. } => (*name).to_owned(),
            Kind::Schema(schema) => schema.to_string(),
        };
        let differences = differences.join("; ");
        Err(Refused::new(format!("{whose} is not of the type of \"{topic}\", {expected}: {differences}")))
    }
}

impl Plugin for MessageTypes {
    fn name(&self) -> &str {
        "message-types"
    }

    fn hooks(&self) -> Hooks {
        Hooks::SUBSCRIBE | Hooks::PUBLISH
    }

    async fn on_subscribe(&self, subscribing: &Subscribing) -> HookResult {
        let Some(declared) = subscribing.header(HEADER) else { return Ok(()) };
        self.rules_of(&subscribing.pattern)
            .try_for_each(|rule| rule.check_declared(&rule.topics, declared, "what the subscriber expects"))
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        for rule in self.rules_of(message.topic()) {
            message.require_open()?;
            if let Some(declared) = message.header(HEADER) {
                rule.check_declared(&rule.topics, declared, "what the message says of itself")?;
            }
            rule.check_payload(&rule.topics, message.payload())?;
        }
        Ok(())
    }
}

impl fmt::Debug for MessageTypes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules.iter().map(|rule| {
            let kind = match &rule.kind {
                Kind::Type { name, .. } => (*name).to_owned(),
                Kind::Schema(schema) => schema.to_string(),
            };
            (rule.topics.as_str(), kind)
        });
        formatter.debug_map().entries(rules).finish()
    }
}
