//! whispeer, over its Unix transport with the bus in a process of its own, and over its memory
//! transport.
//!
//! Over sockets the load uses the bytes API, as the raw subjects do; [`memory`] adds the typed one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};
use tokio::task::JoinSet;
use whispeer::client::{Publisher, Subscription};
use whispeer::{Bus, Client};

use crate::address::Address;
use crate::load::client::{self, PubSub, Receiving, Requester};
use crate::load::payloads::Payloads;
use crate::load::receiver::{Receiver, Step};
use crate::load::shared::Shared;

pub mod memory;

const SERVED_TOPIC: &str = "bench/echo";

/// Subscriptions that are asked for before the first answer is waited for.
const SUBSCRIBES_UNDER_WAY: usize = 256;

/// How the `whispeer` program is started as the bus.
///
/// # Errors
/// When the address is not a Unix socket.
pub fn command(program: &Path, address: &Address) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .arg("serve")
        .arg(format!("unix:{}", address.path()?.display()));
    Ok(command)
}

/// Runs a bus until the process is ended.
///
/// # Errors
/// When the bus cannot start.
pub async fn serve(address: &Address, ready: impl FnOnce()) -> Result<()> {
    let mut bus = Bus::builder().listen_unix(address.path()?).start()?;
    ready();
    bus.join().await;
    Ok(())
}

/// A connection to whispeer.
#[derive(Debug)]
pub struct Whispeer {
    client: Client,
}

impl PubSub for Whispeer {
    type Publisher = WhispeerPublisher;
    type Held = Subscription<Bytes>;

    async fn connect(address: &Address) -> Result<Self> {
        let client = Client::new_unix(&address.path()?.to_path_buf()).await?;
        Ok(Self { client })
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<WhispeerPublisher> {
        WhispeerPublisher::new(&self.client, topic, payload_bytes)
    }

    async fn subscribe(&self, patterns: Vec<String>, receiver: Receiver) -> Result<Receiving> {
        if let [pattern] = patterns.as_slice() {
            let subscription = self.client.subscribe_bytes(pattern).await?;
            return Ok(receive(subscription, receiver).boxed_local());
        }
        let subscriptions: Vec<_> = stream::iter(patterns)
            .map(async |pattern| self.client.subscribe_bytes(&pattern).await)
            .buffer_unordered(SUBSCRIBES_UNDER_WAY)
            .collect()
            .await;
        let subscriptions: Vec<_> = subscriptions.into_iter().collect::<Result<_, _>>()?;
        Ok(receive_all(subscriptions, receiver).boxed_local())
    }

    async fn hold(&self, pattern: &str) -> Result<Subscription<Bytes>> {
        Ok(self.client.subscribe_bytes(pattern).await?)
    }

    async fn release(&self, held: Subscription<Bytes>) -> Result<()> {
        held.unsubscribe();
        Ok(())
    }
}

impl Requester for Whispeer {
    async fn connect(address: &Address) -> Result<Self> {
        <Self as PubSub>::connect(address).await
    }

    async fn answer(self, ready: impl FnOnce()) -> Result<()> {
        answer_through(self.client, ready).await
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let answer = self.client.request_bytes(SERVED_TOPIC, payload).await?;
        Ok(look(&answer))
    }
}

async fn answer_through(client: Client, ready: impl FnOnce()) -> Result<()> {
    let mut serving = client.serve_bytes(SERVED_TOPIC).await?;
    ready();
    while let Some((_, id, request)) = serving.recv().await {
        client.respond_bytes(id, request).await?;
    }
    bail!("the serving ended: {:?}", serving.close_reason())
}

/// Publishes through a [`Publisher`], or through a new one for each topic that is used once.
#[derive(Debug)]
pub struct WhispeerPublisher {
    client: Client,
    publisher: Publisher<Bytes>,
    payloads: Payloads,
}

impl WhispeerPublisher {
    fn new(client: &Client, topic: &str, payload_bytes: usize) -> Result<Self> {
        Ok(Self {
            client: client.clone(),
            publisher: client.publisher_bytes(topic)?,
            payloads: Payloads::new(payload_bytes),
        })
    }
}

impl client::Publisher for WhispeerPublisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        Ok(self.publisher.send(self.payloads.next(write)).await?)
    }

    async fn send_to(&mut self, topic: &str, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let publisher = self.client.publisher_bytes(topic)?;
        Ok(publisher.send(self.payloads.next(write)).await?)
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(self.publisher.flush().await?)
    }
}

async fn receive(
    mut subscription: Subscription<Bytes>,
    mut receiver: Receiver,
) -> Result<Receiver> {
    while let Some((_, payload)) = subscription.recv().await {
        if receiver.accept(&payload)? == Step::End {
            return Ok(receiver);
        }
    }
    Err(ended(&subscription))
}

/// Receives from many subscriptions, each on a task of its own, as their users do.
async fn receive_all(
    subscriptions: Vec<Subscription<Bytes>>,
    receiver: Receiver,
) -> Result<Receiver> {
    let (shared, received) = Shared::new(receiver);
    let mut tasks = JoinSet::new();
    for mut subscription in subscriptions {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            while let Some((_, payload)) = subscription.recv().await {
                shared.take(&payload);
            }
        });
    }
    received.await?
}

fn ended<T>(subscription: &Subscription<T>) -> anyhow::Error {
    anyhow::anyhow!("a subscription ended: {:?}", subscription.close_reason())
}
