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
/// It is compared with schemas alone, as a Rust type does not tell what it looks like. Where a topic has a type and no schema,
/// what somebody says cannot be checked, and is refused: give the topics a schema beside the type, as [`Schema::of`] reads one
/// off a value.
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
    ///
    /// Who says in the header `schema` what he sends or expects is refused, whatever he says, unless these topics have a
    /// [`schema`](Self::schema) as well, which that is compared with.
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

    /// That what somebody says of his messages fits all rules for this topic.
    fn check_declared(&self, topic: &TopicPattern, declared: &str, whose: &str) -> HookResult {
        let mut rules = self.rules_of(topic).peekable();
        if rules.peek().is_none() {
            return Ok(());
        }
        let declared = Declared::read(declared, whose)?;
        for rule in rules {
            match &rule.kind {
                Kind::Schema(schema) => {
                    rule.refuse_for(&rule.topics, &declared.differences(schema), whose)?;
                }
                Kind::Type { name, .. } if !self.has_schema(&rule.topics, topic) => {
                    return Err(Refused::new(format!(
                        "{whose} cannot be checked: \"{}\" has the type {name} and no schema to compare it with; \
                         leave the header \"{HEADER}\" out, or have the bus give these topics a schema as well",
                        rule.topics
                    )));
                }
                // The schema beside it says whether it fits.
                Kind::Type { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether all topics that meet both of these have one schema in common.
    fn has_schema(&self, topics: &TopicPattern, topic: &TopicPattern) -> bool {
        self.rules.iter().any(|rule| {
            let covers = rule.topics.contains(topics) || rule.topics.contains(topic);
            matches!(rule.kind, Kind::Schema(_)) && covers
        })
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

/// What somebody says that his messages look like.
enum Declared<'a> {
    Fingerprint(&'a str),
    Schema(Schema),
}

impl<'a> Declared<'a> {
    fn read(text: &'a str, whose: &str) -> Result<Self, Refused> {
        if text.starts_with('#') {
            return Ok(Self::Fingerprint(text));
        }
        text.parse().map(Self::Schema).map_err(|error: SchemaError| {
            Refused::new(format!("the header \"{HEADER}\" of {whose} is {error}"))
        })
    }

    /// In what it differs from this schema, in words.
    fn differences(&self, schema: &Schema) -> Vec<String> {
        match self {
            Self::Schema(declared) => schema.differences(declared),
            Self::Fingerprint(declared) => {
                let expected = schema.fingerprint();
                if *declared == expected {
                    return Vec::new();
                }
                let shown: String = declared.chars().take(17).collect();
                vec![format!("its fingerprint is {shown:?} and not {expected}")]
            }
        }
    }
}

impl Rule {
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
        self.check_declared(&subscribing.pattern, declared, "what the subscriber expects")
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        if self.rules_of(message.topic()).next().is_some() {
            message.require_open()?;
        }
        if let Some(declared) = message.header(HEADER) {
            self.check_declared(message.topic(), declared, "what the message says of itself")?;
        }
        for rule in self.rules_of(message.topic()) {
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
