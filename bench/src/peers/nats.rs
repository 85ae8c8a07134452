//! NATS, over TCP on the loopback: its server has no Unix sockets.
//!
//! `async-nats` writes what was published when its task runs, many messages at a time. At full
//! speed its server would cut off a subscriber that is slower than its publisher, so it may keep
//! more for it than by default, and the client may keep more too; both are stated in the report.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use async_nats::{Client, ConnectOptions, Subject, Subscriber};
use bytes::Bytes;
use futures_util::future::{FutureExt, try_join_all};
use futures_util::stream::StreamExt;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::load::client::{PubSub, Publisher, Receiving, Requester};
use crate::load::payloads::Payloads;
use crate::load::receiver::{Receiver, Step};
use crate::load::shared::Shared;

/// What differs from the server's defaults: bytes that may wait for a client (64 MB), and the time
/// that a write to it may take (10 s), beyond which it is cut off; and the file of its log, none.
const SETTINGS: &str = "max_pending: 1GB\nwrite_deadline: \"60s\"\n";

/// Messages that may wait in the client for a subscription, beyond which it drops them; 65,536 by
/// default.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

const SERVED: &str = "bench.echo";

/// How the server is started.
///
/// # Errors
/// When its settings cannot be written.
pub fn command(program: &Path, address: &Address, directory: &Path) -> Result<Command> {
    let settings = directory.join("nats.conf");
    fs::write(&settings, SETTINGS)?;
    let address = address.tcp()?;
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(settings)
        .args(["--addr", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()]);
    Ok(command)
}

/// A connection to NATS.
#[derive(Debug)]
pub struct Nats {
    client: Client,
}

impl PubSub for Nats {
    type Publisher = NatsPublisher;
    type Held = Subscriber;

    async fn connect(address: &Address) -> Result<Self> {
        let client = ConnectOptions::new()
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .connect(address.tcp()?.to_string())
            .await?;
        Ok(Self { client })
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<NatsPublisher> {
        Ok(NatsPublisher {
            client: self.client.clone(),
            subject: subject(topic),
            payloads: Payloads::new(payload_bytes),
        })
    }

    async fn subscribe(&self, patterns: Vec<String>, receiver: Receiver) -> Result<Receiving> {
        let subscribing = patterns
            .iter()
            .map(async |pattern| self.client.subscribe(subject(pattern)).await);
        let subscribers = try_join_all(subscribing).await?;
        // The server answers after it has taken the subscriptions.
        self.client.flush().await?;
        // The connection ends with the last handle to it.
        let client = self.client.clone();
        Ok(async move {
            let received = receive(subscribers, receiver).await;
            drop(client);
            received
        }
        .boxed_local())
    }

    async fn hold(&self, pattern: &str) -> Result<Subscriber> {
        let subscriber = self.client.subscribe(subject(pattern)).await?;
        self.client.flush().await?;
        Ok(subscriber)
    }

    async fn release(&self, mut held: Subscriber) -> Result<()> {
        Ok(held.unsubscribe().await?)
    }
}

async fn receive(mut subscribers: Vec<Subscriber>, mut receiver: Receiver) -> Result<Receiver> {
    if let [subscriber] = subscribers.as_mut_slice() {
        while let Some(message) = subscriber.next().await {
            if receiver.accept(&message.payload)? == Step::End {
                return Ok(receiver);
            }
        }
        bail!("the server hung up");
    }
    let (shared, received) = Shared::new(receiver);
    let mut tasks = JoinSet::new();
    for mut subscriber in subscribers {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            while let Some(message) = subscriber.next().await {
                shared.take(&message.payload);
            }
        });
    }
    received.await?
}

impl Requester for Nats {
    async fn connect(address: &Address) -> Result<Self> {
        <Self as PubSub>::connect(address).await
    }

    async fn answer(self, ready: impl FnOnce()) -> Result<()> {
        let mut requests = self.client.subscribe(SERVED).await?;
        self.client.flush().await?;
        ready();
        while let Some(request) = requests.next().await {
            let reply = request.reply.context("a request wants no reply")?;
            self.client.publish(reply, request.payload).await?;
        }
        bail!("the server hung up")
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let answer = self.client.request(SERVED, payload).await?;
        Ok(look(&answer.payload))
    }
}

/// Publishes to a subject.
#[derive(Debug)]
pub struct NatsPublisher {
    client: Client,
    subject: Subject,
    payloads: Payloads,
}

impl Publisher for NatsPublisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let payload = self.payloads.next(write).clone();
        Ok(self.client.publish(self.subject.clone(), payload).await?)
    }

    async fn send_to(&mut self, topic: &str, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let payload = self.payloads.next(write).clone();
        Ok(self.client.publish(subject(topic), payload).await?)
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(self.client.flush().await?)
    }
}

/// A topic or pattern as NATS writes it.
fn subject(topic: &str) -> Subject {
    topic.replace("**", ">").replace('/', ".").into()
}
