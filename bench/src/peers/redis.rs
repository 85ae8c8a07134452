//! Redis's publish/subscribe, over a Unix socket.
//!
//! Messages are published in pipelines, as its documents recommend: a pipeline is sent when it is
//! full or nothing more is due, and several are under way. Redis has no requests; they are two
//! publishes. What waits for a subscriber is not limited, or else it would be cut off at full
//! speed. Nothing is persisted.

use std::path::Path;
use std::process::Command;
use std::task::Poll;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::{MultiplexedConnection, PubSub as Subscriptions, PubSubSink, PubSubStream};
use redis::{AsyncCommands, AsyncConnectionConfig, Pipeline};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::paired::Waiting;
use crate::address::Address;
use crate::load::client::{PubSub, Publisher, Receiving, Requester};
use crate::load::message::SMALLEST_BYTES;
use crate::load::receiver::{Receiver, Step};

/// Messages of a pipeline at most.
const PIPELINE_MESSAGES: usize = 128;

/// Bytes of a pipeline's payloads, beyond which it is sent.
const PIPELINE_BYTES: usize = 128 * 1024;

/// Pipelines under way at most, so that neither side waits for the other.
const PIPELINES: usize = 4;

/// Patterns in one command.
const PATTERNS_A_COMMAND: usize = 1000;

const ASKED: &str = "bench:ask";

const ANSWERED: &str = "bench:answer";

/// What differs from the server's defaults: no port, no persistence, no limit on what waits for
/// subscribers (32 MB), and as many connections as the measurement of memory needs (10,000).
const SETTINGS: [&str; 13] = [
    "--port",
    "0",
    "--save",
    "",
    "--appendonly",
    "no",
    "--client-output-buffer-limit",
    "pubsub",
    "0",
    "0",
    "0",
    "--maxclients",
    "20000",
];

/// How the server is started.
///
/// # Errors
/// When the address is not a Unix socket.
pub fn command(program: &Path, address: &Address, directory: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .args(SETTINGS)
        .arg("--unixsocket")
        .arg(address.path()?)
        .arg("--dir")
        .arg(directory);
    Ok(command)
}

/// Where Redis is. Connections differ by what they are for.
pub struct Redis {
    client: redis::Client,
    /// The connection that holds subscriptions, made with the first of them.
    holding: Mutex<Option<(PubSubSink, PubSubStream)>>,
    asking: Option<Asking>,
}

struct Asking {
    connection: MultiplexedConnection,
    waiting: Waiting,
    _answers: JoinSet<Result<()>>,
}

impl Redis {
    /// A connection without the client's limit of half a second on a response, which a pipeline
    /// takes longer than where each of its messages is compared with 100,000 patterns.
    async fn connection(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = &self.client;
        Ok(client
            .get_multiplexed_async_connection_with_config(&config)
            .await?)
    }
}

impl PubSub for Redis {
    type Publisher = RedisPublisher;
    type Held = String;

    async fn connect(address: &Address) -> Result<Self> {
        let url = format!("redis+unix://{}", address.path()?.display());
        Ok(Self {
            client: redis::Client::open(url)?,
            holding: Mutex::default(),
            asking: None,
        })
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<RedisPublisher> {
        Ok(RedisPublisher {
            connection: self.connection().await?,
            topic: topic.to_owned(),
            payload: vec![0; payload_bytes.max(SMALLEST_BYTES)],
            pipeline: Pipeline::new(),
            under_way: FuturesUnordered::new(),
        })
    }

    async fn subscribe(&self, patterns: Vec<String>, receiver: Receiver) -> Result<Receiving> {
        let mut subscriptions = self.client.get_async_pubsub().await?;
        if let [topic] = patterns.as_slice() {
            subscriptions.subscribe(topic).await?;
        } else {
            let patterns: Vec<_> = patterns.iter().map(|pattern| glob(pattern)).collect();
            for some in patterns.chunks(PATTERNS_A_COMMAND) {
                subscriptions.psubscribe(some).await?;
            }
        }
        Ok(receive(subscriptions, receiver).boxed_local())
    }

    async fn hold(&self, pattern: &str) -> Result<String> {
        let pattern = glob(pattern);
        let mut holding = self.holding.lock().await;
        if holding.is_none() {
            *holding = Some(self.client.get_async_pubsub().await?.split());
        }
        let (sink, _) = holding.as_mut().context("a connection was just made")?;
        sink.psubscribe(&pattern).await?;
        Ok(pattern)
    }

    async fn release(&self, held: String) -> Result<()> {
        let mut holding = self.holding.lock().await;
        let (sink, _) = holding.as_mut().context("nothing is held")?;
        Ok(sink.punsubscribe(held).await?)
    }
}

async fn receive(mut subscriptions: Subscriptions, mut receiver: Receiver) -> Result<Receiver> {
    let mut messages = subscriptions.on_message();
    while let Some(message) = messages.next().await {
        if receiver.accept(message.get_payload_bytes())? == Step::End {
            drop(messages);
            return Ok(receiver);
        }
    }
    bail!("the server hung up")
}

impl Requester for Redis {
    async fn connect(address: &Address) -> Result<Self> {
        let mut this = <Self as PubSub>::connect(address).await?;
        let mut subscriptions = this.client.get_async_pubsub().await?;
        subscriptions.subscribe(ANSWERED).await?;
        let waiting = Waiting::default();
        let mut answers = JoinSet::new();
        let answered = waiting.clone();
        answers.spawn(async move {
            let mut messages = subscriptions.into_on_message();
            while let Some(message) = messages.next().await {
                answered.answer(Bytes::copy_from_slice(message.get_payload_bytes()))?;
            }
            bail!("the server hung up")
        });
        this.asking = Some(Asking {
            connection: this.connection().await?,
            waiting,
            _answers: answers,
        });
        Ok(this)
    }

    async fn answerer(address: &Address) -> Result<Self> {
        <Self as PubSub>::connect(address).await
    }

    async fn answer(self, ready: impl FnOnce()) -> Result<()> {
        let mut connection = self.connection().await?;
        let mut subscriptions = self.client.get_async_pubsub().await?;
        subscriptions.subscribe(ASKED).await?;
        ready();
        // What has arrived together is answered together.
        let mut requests = subscriptions
            .into_on_message()
            .ready_chunks(PIPELINE_MESSAGES);
        while let Some(requests) = requests.next().await {
            let mut pipeline = Pipeline::new();
            for request in &requests {
                pipeline
                    .publish(ANSWERED, request.get_payload_bytes())
                    .ignore();
            }
            pipeline.exec_async(&mut connection).await?;
        }
        bail!("the server hung up")
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let asking = self
            .asking
            .as_ref()
            .context("this connection does not ask")?;
        let answer = asking.waiting.add(&payload)?;
        let mut connection = asking.connection.clone();
        let () = connection.publish(ASKED, &payload[..]).await?;
        Ok(look(&answer.await?))
    }
}

/// Publishes in pipelines.
pub struct RedisPublisher {
    connection: MultiplexedConnection,
    topic: String,
    payload: Vec<u8>,
    pipeline: Pipeline,
    under_way: FuturesUnordered<BoxFuture<'static, Result<()>>>,
}

impl RedisPublisher {
    async fn publish(&mut self, topic: Option<&str>, write: impl FnOnce(&mut [u8])) -> Result<()> {
        write(&mut self.payload);
        let topic = topic.unwrap_or(&self.topic);
        self.pipeline.publish(topic, &self.payload[..]).ignore();
        let messages = self.pipeline.len();
        if messages < PIPELINE_MESSAGES && messages * self.payload.len() < PIPELINE_BYTES {
            return Ok(());
        }
        self.push().await?;
        while self.under_way.len() >= PIPELINES {
            self.under_way.next().await.transpose()?;
        }
        Ok(())
    }
}

impl Publisher for RedisPublisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        self.publish(None, write).await
    }

    async fn send_to(&mut self, topic: &str, write: impl FnOnce(&mut [u8])) -> Result<()> {
        self.publish(Some(topic), write).await
    }

    async fn push(&mut self) -> Result<()> {
        if !self.pipeline.is_empty() {
            let pipeline = std::mem::take(&mut self.pipeline);
            let mut connection = self.connection.clone();
            let published = async move { Ok(pipeline.exec_async(&mut connection).await?) };
            self.under_way.push(published.boxed());
        }
        // The first poll is what sends it.
        std::future::poll_fn(|context| {
            while let Poll::Ready(Some(published)) = self.under_way.poll_next_unpin(context) {
                published?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    async fn finish(&mut self) -> Result<()> {
        self.push().await?;
        while let Some(published) = self.under_way.next().await {
            published?;
        }
        Ok(())
    }
}

/// A pattern as Redis writes it, where a wildcard matches slashes too.
fn glob(pattern: &str) -> String {
    pattern.replace("**", "*")
}
