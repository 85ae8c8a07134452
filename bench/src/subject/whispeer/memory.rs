//! whispeer within one process: the bus and both clients are tasks of one runtime.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use whispeer::Client;
use whispeer::client::Publisher;
use whispeer::prelude::{PublishProtocol, RequestProtocol, listen_and_serve_memory};

use super::{WhispeerPublisher, answer_through, ended, receive};
use crate::load::client;
use crate::load::measured::Measured;
use crate::load::message::{SMALLEST_BYTES, write_message};
use crate::load::receiver::{Receiver, Step};
use crate::load::requests::one_at_a_time;
use crate::load::{Phases, topic};

/// Sixteen bytes as a value, which travels as MessagePack: what [`message`](crate::load::message)
/// writes into a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sixteen(u64, u64);

impl Sixteen {
    fn written(write: impl FnOnce(&mut [u8])) -> Self {
        let mut payload = [0; SMALLEST_BYTES];
        write(&mut payload);
        let both = u128::from_le_bytes(payload);
        Self(both as u64, (both >> 64) as u64)
    }

    fn payload(self) -> [u8; SMALLEST_BYTES] {
        (u128::from(self.0) | (u128::from(self.1) << 64)).to_le_bytes()
    }
}

impl PublishProtocol for Sixteen {
    fn prefix() -> &'static str {
        "sixteen"
    }
}

impl RequestProtocol for Sixteen {
    type Rsp = Sixteen;

    fn prefix() -> &'static str {
        "sixteen"
    }
}

/// Publishes values.
#[derive(Debug)]
pub struct ValuePublisher(Publisher<Sixteen>);

impl client::Publisher for ValuePublisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        Ok(self.0.send(&Sixteen::written(write)).await?)
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(self.0.flush().await?)
    }
}

/// A publisher and a subscriber of values, and the bus between them.
///
/// # Errors
/// When the bus cannot start.
pub async fn of_values(
    mut receiver: Receiver,
) -> Result<(
    impl Send,
    ValuePublisher,
    impl Future<Output = Result<Receiver>> + Send + 'static,
)> {
    let (bus, connector) = listen_and_serve_memory()?;
    let mut subscription = Client::new_memory(&connector)?
        .subscribe::<Sixteen>(&topic(0))
        .await?;
    let publisher = Client::new_memory(&connector)?.publisher::<Sixteen>(&topic(0))?;
    let receiving = async move {
        while let Some((_, message)) = subscription.recv().await {
            if receiver.accept(&message.payload())? == Step::End {
                return Ok(receiver);
            }
        }
        Err(ended(&subscription))
    };
    Ok((bus, ValuePublisher(publisher), receiving))
}

/// A publisher and a subscriber of bytes, and the bus between them.
///
/// # Errors
/// When the bus cannot start.
pub async fn of_bytes(
    payload_bytes: usize,
    receiver: Receiver,
) -> Result<(
    impl Send,
    WhispeerPublisher,
    impl Future<Output = Result<Receiver>> + Send + 'static,
)> {
    let (bus, connector) = listen_and_serve_memory()?;
    let subscription = Client::new_memory(&connector)?
        .subscribe_bytes(&topic(0))
        .await?;
    let client = Client::new_memory(&connector)?;
    let publisher = WhispeerPublisher::new(&client, &topic(0), payload_bytes)?;
    Ok((bus, publisher, receive(subscription, receiver)))
}

/// Measures round trips with values.
///
/// # Errors
/// When an answer is not the request's.
pub async fn request(phases: Phases) -> Result<Measured> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let server = Client::new_memory(&connector)?;
    let client = Client::new_memory(&connector)?;
    let mut serving = server.serve::<Sixteen>("").await?;
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        while let Some((_, id, request)) = serving.recv().await {
            server.respond::<Sixteen>(id, &request).await?;
        }
        anyhow::Ok(())
    });
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

/// Measures round trips with bytes.
///
/// # Errors
/// As [`request`].
pub async fn request_of_bytes(payload_bytes: usize, phases: Phases) -> Result<Measured> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let server = Client::new_memory(&connector)?;
    let client = Client::new_memory(&connector)?;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        let say_ready = || {
            // The requester waits for this below; it cannot have gone.
            let _ = ready.send(());
        };
        answer_through(server, say_ready).await
    });
    is_ready.await.context("the server did not start")?;
    one_at_a_time(phases, async |sequence| {
        let mut request = vec![0; payload_bytes.max(SMALLEST_BYTES)];
        write_message(&mut request, 0, sequence);
        let request = Bytes::from(request);
        let answer = client
            .request_bytes(super::SERVED_TOPIC, request.clone())
            .await?;
        ensure!(
            request == answer,
            "request {sequence} got the answer to another"
        );
        Ok(())
    })
    .await
}
