//! Many messages at once.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use whispeer::client::Headers;

use super::Entered;
use super::body::payload_of;
use super::failure::Failure;
use super::publish::{Options, Published};
use crate::limits;
use crate::problem::Problem;

/// Messages to be published, in this order.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch<'a> {
    /// At the most 1,024.
    #[serde(borrow)]
    #[schema(value_type = Vec<BatchMessage>, max_items = 1024)]
    messages: Messages<'a>,
}

/// One of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchMessage<'a> {
    /// Where to publish it.
    #[schema(example = "greetings/hello")]
    topic: String,
    /// Any JSON.
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    payload: &'a RawValue,
    /// Pairs of a name and a value.
    #[serde(default)]
    #[schema(value_type = Vec<Vec<String>>)]
    headers: Vec<(String, String)>,
    /// As the parameter.
    #[schema(minimum = 0, maximum = 2)]
    quality: Option<u8>,
    /// As the parameter.
    #[schema(minimum = 0, maximum = 31622400)]
    ttl: Option<f64>,
    /// As the parameter.
    #[schema(minimum = 0, maximum = 31622400)]
    deliver_in: Option<f64>,
}

/// What became of them.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchPublished {
    /// How many were published.
    published: usize,
    /// What became of each, in their order.
    results: Vec<Outcome>,
}

/// What became of one.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// It was published.
    Published {
        /// 200.
        #[schema(example = 200)]
        status: u16,
        /// Subscriptions that it matched.
        matches: usize,
        /// It was asked to be stored, and is.
        stored: bool,
    },
    /// It was not, as a request for it alone would have been answered.
    Failed(Problem),
}

/// Publishes a batch. Messages without a trace of their own have that of the request.
pub(super) async fn publish(
    entered: &Entered,
    body: &Bytes,
    trace: &Headers,
) -> Result<BatchPublished, Failure> {
    let Batch { messages: Messages(messages) } = serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(
            "json",
            format!(
                "without `topic` the body is {{\"messages\":[{{\"topic\":\"...\",\"payload\":...}}]}}, and this is not: {error}"
            ),
        )
    })?;
    // Each is sent when it is asked for first, so in their order, and they wait for their answers together.
    let sent: FuturesOrdered<_> = messages.into_iter().map(|message| one(entered, message, trace)).collect();
    let results: Vec<Outcome> = sent
        .map(|published| match published {
            Ok(Published { matches, stored }) => Outcome::Published { status: 200, matches, stored },
            Err(failure) => Outcome::Failed(failure.problem().clone()),
        })
        .collect()
        .await;
    let published = results.iter().filter(|one| matches!(one, Outcome::Published { .. })).count();
    Ok(BatchPublished { published, results })
}

async fn one(entered: &Entered, message: BatchMessage<'_>, trace: &Headers) -> Result<Published, Failure> {
    let BatchMessage { topic, payload, headers, quality, ttl, deliver_in } = message;
    let mut headers = Headers::from_iter(headers);
    if headers.find("traceparent").is_none() {
        trace.iter().for_each(|(name, value)| headers.push(name, value));
    }
    let (options, stored) = Options { quality, ttl, deliver_in, headers }.read()?;
    let payload = payload_of(payload.get().as_bytes())?;
    let published = entered.client.publish_bytes_with(&topic, payload, options).await;
    let matches = published.map_err(|error| entered.failure(&error))?;
    Ok(Published { matches, stored })
}

/// Up to so many messages; more are refused before they take room.
struct Messages<'a>(Vec<BatchMessage<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Messages<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Reader<'a> {
            type Value = Messages<'a>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut messages = Vec::new();
                while let Some(message) = sequence.next_element()? {
                    if messages.len() == limits::API_BATCH_MESSAGES {
                        let most = limits::API_BATCH_MESSAGES;
                        return Err(A::Error::custom(format!("a batch has {most} messages at the most")));
                    }
                    messages.push(message);
                }
                Ok(Messages(messages))
            }
        }
        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_so_many_messages_and_no_more() {
        let batch = |count| {
            let messages = vec![r#"{"topic":"a","payload":1}"#; count].join(",");
            let text = format!(r#"{{"messages":[{messages}]}}"#);
            serde_json::from_str::<Batch<'_>>(&text)
                .map(|batch| batch.messages.0.len())
                .map_err(|e| e.to_string())
        };
        assert_eq!(batch(0), Ok(0));
        assert_eq!(batch(limits::API_BATCH_MESSAGES), Ok(limits::API_BATCH_MESSAGES));
        assert!(batch(limits::API_BATCH_MESSAGES + 1).unwrap_err().contains("1024 messages at the most"));
    }
}
