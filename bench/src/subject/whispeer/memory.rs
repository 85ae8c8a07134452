//! whispeer within one process: the bus and both clients are tasks of one runtime.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use whispeer::Client;
use whispeer::client::Subscription;
use whispeer::prelude::{PublishProtocol, RequestProtocol, listen_and_serve_memory};

use super::{answer_through, ended, publish_through, request_through};
use crate::load::deliveries::Deliveries;
use crate::load::message::{SMALLEST_BYTES, Sequence, Step};
use crate::load::round_trips::one_at_a_time;
use crate::load::{Measured, Phases};

/// Messages sent between two looks at the clock.
const MESSAGES_A_LOOK: u64 = 64;

const TOPIC: &str = "bench";

/// Sixteen bytes as a value, which travels as MessagePack: what [`message`](crate::load::message)
/// writes into a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sixteen(u64, u64);

impl Sixteen {
    fn message(sequence: u64) -> Self {
        Self(sequence, !sequence)
    }

    fn end(count: u64) -> Self {
        Self(u64::MAX, count)
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

/// Measures 1→1 with values.
///
/// # Errors
/// When a delivery is lost, doubled or out of order.
pub async fn one_to_one(phases: Phases) -> Result<Measured> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let subscription = Client::new_memory(&connector)?
        .subscribe::<Sixteen>(TOPIC)
        .await?;
    let publisher = Client::new_memory(&connector)?.publisher::<Sixteen>(TOPIC)?;
    let until = Instant::now() + phases.warm_up + phases.measure;
    let mut publishing = JoinSet::new();
    publishing.spawn(async move {
        let mut sequence: u64 = 0;
        while !sequence.is_multiple_of(MESSAGES_A_LOOK) || Instant::now() < until {
            publisher.send(&Sixteen::message(sequence)).await?;
            sequence += 1;
        }
        publisher.send(&Sixteen::end(sequence)).await?;
        anyhow::Ok(publisher.flush().await?)
    });
    let accept = |sequence: &mut Sequence, message: &Sixteen| sequence.accept(&message.payload());
    let receiving = tokio::spawn(receive(subscription, accept, phases));
    let measured = receiving.await??;
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    Ok(measured)
}

/// Measures 1→1 with bytes.
///
/// # Errors
/// As [`one_to_one`].
pub async fn one_to_one_of_bytes(payload_bytes: usize, phases: Phases) -> Result<Measured> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let subscription = Client::new_memory(&connector)?
        .subscribe_bytes(TOPIC)
        .await?;
    let publisher = Client::new_memory(&connector)?.publisher_bytes(TOPIC)?;
    let until = Instant::now() + phases.warm_up + phases.measure;
    let mut publishing = JoinSet::new();
    publishing.spawn(async move { publish_through(&publisher, payload_bytes, until).await });
    let accept = |sequence: &mut Sequence, payload: &Bytes| sequence.accept(payload);
    let receiving = tokio::spawn(receive(subscription, accept, phases));
    let measured = receiving.await??;
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    Ok(measured)
}

/// Measures round trips with values.
///
/// # Errors
/// When an answer is not the request's.
pub async fn request(phases: Phases) -> Result<Measured> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let server = Client::new_memory(&connector)?;
    let client = Client::new_memory(&connector)?;
    let mut serving = server.serve::<Sixteen>(TOPIC).await?;
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        while let Some((_, id, request)) = serving.recv().await {
            server.respond::<Sixteen>(id, &request).await?;
        }
        anyhow::Ok(())
    });
    one_at_a_time(phases, async |sequence| {
        let request = Sixteen::message(sequence);
        let answer = client.request(TOPIC, &request).await?;
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
    request_through(&client, payload_bytes, phases).await
}

async fn receive<T>(
    mut subscription: Subscription<T>,
    accept: impl Fn(&mut Sequence, &T) -> Result<Step>,
    phases: Phases,
) -> Result<Measured> {
    let mut deliveries = Deliveries::new(phases.warm_up);
    let mut sequence = Sequence::default();
    while let Some((_, message)) = subscription.recv().await {
        if accept(&mut sequence, &message)? == Step::End {
            deliveries.end_stream();
            return deliveries.measured();
        }
        deliveries.add(1);
    }
    Err(ended(&subscription))
}
