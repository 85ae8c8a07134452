//! Many messages at once.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use whispeer::client::Headers;

use super::body::payload_of;
use super::failure::Failure;
use super::publish::{Options, Published};
use super::{DIALECT, Entered};
use crate::limits;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::traced::Sending;
use crate::tracer::Operation;

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
    shared: &Shared,
    entered: &Entered,
    body: &Bytes,
    mut trace: Headers,
) -> Result<BatchPublished, Failure> {
    let Batch { messages: Messages(messages) } = serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(
            "json",
            format!(
                "without `topic` the body is {{\"messages\":[{{\"topic\":\"...\",\"payload\":...}}]}}, and this is not: {error}"
            ),
        )
    })?;
    let operation = Operation::Publish { topic: None, batch: Some(messages.len()) };
    let sending = Sending::begin(shared, &operation, &mut trace);
    let results = in_order(sends(shared, entered, messages, &trace)).await;
    // Each has an outcome of its own.
    sending.end(None);
    let results: Vec<Outcome> = results
        .into_iter()
        .map(|published| match published {
            Ok(Published { matches, stored }) => Outcome::Published { status: 200, matches, stored },
            Err(failure) => Outcome::Failed(failure.problem().clone()),
        })
        .collect();
    let published = results.iter().filter(|one| matches!(one, Outcome::Published { .. })).count();
    Ok(BatchPublished { published, results })
}

/// Sends each when the one before is on its way, and waits for what becomes of them when all are: so they come in their order, and
/// wait for the bus together.
async fn in_order<A, T, E>(messages: impl Iterator<Item: Future<Output = Result<A, E>>>) -> Vec<Result<T, E>>
where
    A: Future<Output = Result<T, E>>,
{
    let mut sent = Vec::new();
    for message in messages {
        sent.push(message.await);
    }
    let mut results = Vec::with_capacity(sent.len());
    for sent in sent {
        results.push(match sent {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        });
    }
    results
}

/// Waits for what becomes of a message that is on its way.
type Told<'a> = BoxFuture<'a, Result<Published, Failure>>;

/// What sends each of these, in their order.
fn sends<'a>(
    shared: &'a Shared,
    entered: &'a Entered,
    messages: Vec<BatchMessage<'a>>,
    trace: &'a Headers,
) -> impl Iterator<Item = impl Future<Output = Result<Told<'a>, Failure>> + Send> + Send {
    messages.into_iter().map(move |message| send(shared, entered, message, trace))
}

/// Sends one message. What this returns tells what becomes of it.
async fn send<'e>(
    shared: &'e Shared,
    entered: &'e Entered,
    message: BatchMessage<'_>,
    trace: &Headers,
) -> Result<Told<'e>, Failure> {
    let BatchMessage { topic, payload, headers, quality, ttl, deliver_in } = message;
    let mut headers = Headers::from_iter(headers);
    if headers.find("traceparent").is_none() {
        trace.iter().for_each(|(name, value)| headers.push(name, value));
    }
    let (options, stored) = Options { quality, ttl, deliver_in, headers }.read()?;
    let payload = payload_of(payload.get().as_bytes())?;
    shared.metrics.came(DIALECT, &payload);
    let sent = entered.client.send_bytes_with(&topic, payload, options).await;
    let acknowledgement = sent.map_err(|error| entered.failure(&error))?;
    Ok(Box::pin(async move {
        let matches = acknowledgement.await.map_err(|error| entered.failure(&error))?;
        Ok(Published { matches, stored })
    }))
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
    use std::cell::RefCell;

    use super::*;

    /// Lets the others of the task run so many times.
    async fn turns(count: usize) {
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn messages_are_sent_in_their_order_however_long_each_takes_and_wait_for_the_bus_together() {
        let noted = RefCell::new(Vec::new());
        let note = |what, number| noted.borrow_mut().push(format!("{what} {number}"));
        let messages = [(1, 3), (2, 0), (3, 2), (4, 1)].into_iter().map(async |(number, takes)| {
            turns(takes).await;
            note("sent", number);
            if number == 2 {
                return Err("refused 2".to_owned());
            }
            Ok(async move {
                note("told", number);
                Ok(number)
            })
        });
        let results = in_order(messages).await;
        assert_eq!(results, [Ok(1), Err("refused 2".into()), Ok(3), Ok(4)]);
        let expected = ["sent 1", "sent 2", "sent 3", "sent 4", "told 1", "told 3", "told 4"];
        assert_eq!(*noted.borrow(), expected);
    }

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
