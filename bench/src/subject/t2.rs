//! t2_bus 0.2, over its Unix transport with the bus in a process of its own, and over its memory
//! transport.
//!
//! Requests are typed, as its users write them; publishes use its bytes API, which spares it one
//! of two encodings. A publish of t2_bus waits for the bus, so [`PUBLISHES_UNDER_WAY`] of them are
//! kept under way. Its bus ends 30 s after the first answered request, which is why each run has a
//! new bus.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use t2_bus::prelude::{Client, PubMsg, RequestProtocol, Stopper, Subscription};
use tokio::task::JoinSet;

use crate::load::deliveries::Deliveries;
use crate::load::message::{self, SMALLEST_BYTES, Sequence, Step};
use crate::load::round_trips::{Answers, one_at_a_time};
use crate::load::{Measured, Phases};

/// Publishes that wait for the bus at the same time. Both 64 and 1,024 were measured to be slower,
/// and with 1,024 over a socket publishes fail.
const PUBLISHES_UNDER_WAY: usize = 256;

const TOPIC: &str = "bench";

/// Sixteen bytes: the payload of a request and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sixteen(u64, u64);

impl RequestProtocol for Sixteen {
    type Rsp = Sixteen;

    fn prefix() -> &'static str {
        "sixteen"
    }
}

/// Runs the bus at `socket` until the process is ended.
///
/// # Errors
/// When the bus cannot start or stops.
pub async fn serve(socket: &Path, ready: impl FnOnce()) -> Result<()> {
    let bus = t2_bus::transport::unix::serve(&socket.to_path_buf())?;
    ready();
    bus.join().await?;
    Ok(())
}

/// Answers requests over the bus at `socket` until the process is ended.
///
/// # Errors
/// When the bus cannot be reached or goes away.
pub async fn answer(socket: &Path, ready: impl FnOnce()) -> Result<()> {
    answer_through(connect(socket).await?, ready).await
}

/// Measures round trips over the bus at `socket` with one request outstanding.
///
/// # Errors
/// When the bus cannot be reached or an answer is not the request's.
pub async fn request(socket: &Path, phases: Phases) -> Result<Measured> {
    request_through(&connect(socket).await?, phases).await
}

/// Measures the rate of answers over the bus at `socket` with `outstanding` requests under way.
///
/// # Errors
/// As [`request`].
pub async fn request_many(socket: &Path, outstanding: u64, phases: Phases) -> Result<Measured> {
    let client = connect(socket).await?;
    let answers = std::cell::RefCell::new(Answers::new(phases));
    let measured = Cell::new(None);
    let askers = (0..outstanding).map(async |asker| -> Result<()> {
        let mut sequence = asker;
        while measured.get().is_none() {
            ask(&client, sequence).await?;
            sequence += outstanding;
            if let Some(result) = answers.borrow_mut().add(1) {
                measured.set(Some(result));
            }
        }
        Ok(())
    });
    try_join_all(askers).await?;
    measured.get().context("no request was answered in time")
}

/// Publishes over the bus at `socket` as fast as it takes messages.
///
/// # Errors
/// When the bus cannot be reached or goes away.
pub async fn publish(socket: &Path, payload_bytes: usize, phases: Phases) -> Result<()> {
    publish_through(&connect(socket).await?, payload_bytes, phases).await
}

/// Counts what a subscription at the bus at `socket` receives.
///
/// # Errors
/// When the bus cannot be reached, or a delivery is lost or out of order.
pub async fn subscribe(socket: &Path, phases: Phases, ready: impl FnOnce()) -> Result<Measured> {
    let client = connect(socket).await?;
    let subscription = client.subscribe_bytes(TOPIC).await?;
    ready();
    receive(subscription, phases).await
}

/// Measures round trips within one process.
///
/// # Errors
/// As [`request`].
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
        answer_through(server, say_ready).await
    });
    is_ready.await.context("the server did not start")?;
    request_through(&client, phases).await
}

/// Measures 1→1 within one process.
///
/// # Errors
/// As [`subscribe`].
pub async fn one_to_one_in_memory(payload_bytes: usize, phases: Phases) -> Result<Measured> {
    let (_bus, connector) = t2_bus::transport::memory::serve()?;
    let subscriber = t2_bus::transport::memory::connect(&connector)?;
    let publisher = t2_bus::transport::memory::connect(&connector)?;
    let subscription = subscriber.subscribe_bytes(TOPIC).await?;
    let receiving = tokio::spawn(receive(subscription, phases));
    publish_through(&publisher, payload_bytes, phases).await?;
    receiving.await?
}

async fn connect(socket: &Path) -> Result<Client> {
    Ok(t2_bus::transport::unix::connect(&socket.to_path_buf()).await?)
}

async fn answer_through(client: Client, ready: impl FnOnce()) -> Result<()> {
    let client = Arc::new(client);
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

async fn request_through(client: &Client, phases: Phases) -> Result<Measured> {
    one_at_a_time(phases, async |sequence| ask(client, sequence).await).await
}

async fn ask(client: &Client, sequence: u64) -> Result<()> {
    let request = Sixteen(sequence, !sequence);
    let answer = client.request("", &request).await?;
    ensure!(
        request == answer,
        "request {sequence} got the answer to another"
    );
    Ok(())
}

async fn publish_through(client: &Client, payload_bytes: usize, phases: Phases) -> Result<()> {
    let until = Instant::now() + phases.warm_up + phases.measure;
    let next = Cell::new(0);
    let publishers = (0..PUBLISHES_UNDER_WAY).map(async |_| -> Result<()> {
        while Instant::now() < until {
            // The message is queued when the publish is first polled, which follows at once, so
            // that messages leave in the order of their numbers.
            let sequence = next.replace(next.get() + 1);
            let mut payload = vec![0; payload_bytes];
            message::write_message(&mut payload, sequence);
            client.publish_bytes(TOPIC, payload).await?;
        }
        Ok(())
    });
    try_join_all(publishers).await?;
    let mut payload = vec![0; SMALLEST_BYTES];
    message::write_end(&mut payload, next.get());
    client.publish_bytes(TOPIC, payload).await?;
    Ok(())
}

async fn receive(mut subscription: Subscription<PubMsg>, phases: Phases) -> Result<Measured> {
    let mut deliveries = Deliveries::new(phases.warm_up);
    let mut sequence = Sequence::default();
    loop {
        let message = subscription.recv().await.context("the bus has gone")?;
        let payload = Vec::from(message.payload);
        if sequence.accept(&payload)? == Step::End {
            deliveries.end_stream();
            return deliveries.measured();
        }
        deliveries.add(1);
    }
}
