//! t2_bus 0.2, over its Unix transport with the bus in a process of its own, and over its memory
//! transport.
//!
//! Requests are typed, as its users write them; publishes use its bytes API, which spares it one
//! of two encodings. A publish of t2_bus waits for the bus, so [`PUBLISHES_UNDER_WAY`] of them are
//! kept under way. Its bus ends 30 s after the first answered request, which is why each run has a
//! new bus.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use t2_bus::prelude::{Client, PubMsg, RequestProtocol, Stopper, Subscription};
use tokio::task::JoinSet;

use crate::address::Address;
use crate::load::Phases;
use crate::load::client::{PubSub, Publisher, Receiving, Requester};
use crate::load::measured::Measured;
use crate::load::message::SMALLEST_BYTES;
use crate::load::receiver::{Receiver, Step};
use crate::load::requests::one_at_a_time;

/// Publishes that wait for the bus at the same time. Both 64 and 1,024 were measured to be slower,
/// and with 1,024 over a socket publishes fail.
const PUBLISHES_UNDER_WAY: usize = 256;

/// Sixteen bytes: the payload of a request and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sixteen(u64, u64);

impl RequestProtocol for Sixteen {
    type Rsp = Sixteen;

    fn prefix() -> &'static str {
        "sixteen"
    }
}

impl Sixteen {
    fn read(payload: &[u8]) -> Result<Self> {
        let words: [u8; SMALLEST_BYTES] = payload
            .try_into()
            .context("requests of t2_bus have 16 bytes")?;
        let both = u128::from_le_bytes(words);
        Ok(Self(both as u64, (both >> 64) as u64))
    }

    fn payload(self) -> [u8; SMALLEST_BYTES] {
        (u128::from(self.0) | (u128::from(self.1) << 64)).to_le_bytes()
    }
}

/// Runs the bus until the process is ended.
///
/// # Errors
/// When the bus cannot start or stops.
pub async fn serve(address: &Address, ready: impl FnOnce()) -> Result<()> {
    let bus = t2_bus::transport::unix::serve(&address.path()?.to_path_buf())?;
    ready();
    bus.join().await?;
    Ok(())
}

/// A connection to t2_bus.
pub struct T2 {
    client: Arc<Client>,
}

impl PubSub for T2 {
    type Publisher = T2Publisher;
    type Held = Subscription<PubMsg>;

    async fn connect(address: &Address) -> Result<Self> {
        let client = t2_bus::transport::unix::connect(&address.path()?.to_path_buf()).await?;
        Ok(Self {
            client: Arc::new(client),
        })
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<T2Publisher> {
        Ok(T2Publisher {
            client: Arc::clone(&self.client),
            topic: topic.to_owned(),
            payload_bytes,
            under_way: FuturesUnordered::new(),
        })
    }

    async fn subscribe(&self, patterns: Vec<String>, receiver: Receiver) -> Result<Receiving> {
        let [pattern] = patterns.as_slice() else {
            bail!("t2_bus is measured with one subscription a connection")
        };
        let subscription = self.client.subscribe_bytes(pattern).await?;
        Ok(receive(subscription, receiver).boxed_local())
    }

    async fn hold(&self, pattern: &str) -> Result<Subscription<PubMsg>> {
        Ok(self.client.subscribe_bytes(pattern).await?)
    }

    async fn release(&self, held: Subscription<PubMsg>) -> Result<()> {
        drop(held);
        Ok(())
    }
}

impl Requester for T2 {
    async fn connect(address: &Address) -> Result<Self> {
        <Self as PubSub>::connect(address).await
    }

    async fn answer(self, ready: impl FnOnce()) -> Result<()> {
        answer_through(self.client, ready).await
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let answer = self.client.request("", &Sixteen::read(&payload)?).await?;
        Ok(look(&answer.payload()))
    }
}

/// Publishes with [`PUBLISHES_UNDER_WAY`].
pub struct T2Publisher {
    client: Arc<Client>,
    topic: String,
    payload_bytes: usize,
    under_way: FuturesUnordered<BoxFuture<'static, Result<()>>>,
}

impl Publisher for T2Publisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        while self.under_way.len() >= PUBLISHES_UNDER_WAY {
            self.under_way.next().await.transpose()?;
        }
        let mut payload = vec![0; self.payload_bytes];
        write(&mut payload);
        let (client, topic) = (Arc::clone(&self.client), self.topic.clone());
        // The message is queued when the publish is first polled, and first polls come in the
        // order of these calls, so that messages leave in the order of their numbers.
        self.under_way.push(
            async move {
                client.publish_bytes(&topic, payload).await?;
                Ok(())
            }
            .boxed(),
        );
        Ok(())
    }

    async fn push(&mut self) -> Result<()> {
        poll_fn(|context| {
            while let Poll::Ready(Some(published)) = self.under_way.poll_next_unpin(context) {
                published?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    async fn finish(&mut self) -> Result<()> {
        while let Some(published) = self.under_way.next().await {
            published?;
        }
        Ok(())
    }
}

/// Measures round trips within one process.
///
/// # Errors
/// When an answer is not the request's.
pub async fn request_in_memory(phases: Phases) -> Result<Measured> {
    let (_bus, connector) = t2_bus::transport::memory::serve()?;
    let server = t2_bus::transport::memory::connect(&connector)?;
    let client = t2_bus::transport::memory::connect(&connector)?;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let say_ready = || {
            // The requester waits for this below; it cannot have gone.
            let _ = ready.send(());
        };
        answer_through(Arc::new(server), say_ready).await
    });
    is_ready.await.context("the server did not start")?;
    one_at_a_time(phases, async |sequence| {
        let request = Sixteen(sequence, !sequence);
        let answer = client.request("", &request).await?;
        ensure!(
            request == answer,
            "request {sequence} got the answer to another"
        );
        Ok(())
    })
    .await
}

/// A publisher and a subscriber within one process, and the bus between them.
///
/// # Errors
/// When the bus cannot start.
pub async fn in_memory(
    payload_bytes: usize,
    receiver: Receiver,
) -> Result<(
    impl Send,
    T2Publisher,
    impl Future<Output = Result<Receiver>> + Send,
)> {
    let (bus, connector) = t2_bus::transport::memory::serve()?;
    let subscriber = t2_bus::transport::memory::connect(&connector)?;
    let publisher = T2 {
        client: Arc::new(t2_bus::transport::memory::connect(&connector)?),
    };
    let topic = crate::load::topic(0);
    let subscription = subscriber.subscribe_bytes(&topic).await?;
    let publisher = publisher.publisher(&topic, payload_bytes).await?;
    Ok((
        (bus, subscriber),
        publisher,
        receive(subscription, receiver),
    ))
}

async fn answer_through(client: Arc<Client>, ready: impl FnOnce()) -> Result<()> {
    let mut serving = client.serve::<Sixteen>("").await?;
    let mut responses = JoinSet::new();
    ready();
    loop {
        tokio::select! {
            request = serving.recv() => {
                let Some((_, id, request)) = request else { bail!("the bus has gone") };
                let client = Arc::clone(&client);
                // A response waits for the bus, and other requests must not wait for it.
                responses.spawn(async move { client.respond::<Sixteen>(id, &request).await });
            }
            Some(responded) = responses.join_next() => responded??,
        }
    }
}

async fn receive(
    mut subscription: Subscription<PubMsg>,
    mut receiver: Receiver,
) -> Result<Receiver> {
    loop {
        let message = subscription.recv().await.context("the bus has gone")?;
        let payload = Vec::from(message.payload);
        if receiver.accept(&payload)? == Step::End {
            return Ok(receiver);
        }
    }
}
