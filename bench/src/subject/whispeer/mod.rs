//! whispeer, over its Unix transport with the bus in a process of its own, and over its memory
//! transport.
//!
//! Over sockets the load uses the bytes API, as the raw subjects do; [`memory`] adds the typed one.

use std::cell::RefCell;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::task::JoinSet;
use whispeer::client::{Publisher, Subscription};
use whispeer::{Bus, Client};

use crate::load::deliveries::Deliveries;
use crate::load::message::{self, SMALLEST_BYTES, Sequence, Step};
use crate::load::payloads::Payloads;
use crate::load::round_trips::one_at_a_time;
use crate::load::{Measured, Phases};

pub mod memory;

/// What the program's line begins with that says that its bus accepts connections.
pub const PROGRAM_READY: &str = "whispeer: ready";

/// Messages sent between two looks at the clock, as for the raw subjects.
const MESSAGES_A_LOOK: u64 = 64;

const SERVED_TOPIC: &str = "bench/echo";

/// Becomes the program at `program`, with a bus at `socket`. What the program logs goes to standard
/// output, where the runner looks for its readiness.
///
/// # Errors
/// When the program cannot be run. Otherwise this does not return.
pub fn become_program(program: &Path, socket: &Path) -> Result<Infallible> {
    let log = std::io::stdout().as_fd().try_clone_to_owned()?;
    let mut address = std::ffi::OsString::from("unix:");
    address.push(socket);
    let error = Command::new(program)
        .arg("serve")
        .arg(address)
        .stderr(Stdio::from(log))
        .exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Runs a bus at `socket` until the process is ended.
///
/// # Errors
/// When the bus cannot start.
pub async fn serve(socket: &Path, ready: impl FnOnce()) -> Result<()> {
    let mut bus = Bus::builder().listen_unix(socket).start()?;
    ready();
    bus.join().await;
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
pub async fn request(socket: &Path, payload_bytes: usize, phases: Phases) -> Result<Measured> {
    request_through(&connect(socket).await?, payload_bytes, phases).await
}

/// Measures the rate of answers over the bus at `socket` with `outstanding` tasks on one
/// connection, each of which makes a request as soon as it has the answer to its last.
///
/// # Errors
/// As [`request`].
pub async fn request_many(
    socket: &Path,
    payload_bytes: usize,
    outstanding: u64,
    phases: Phases,
) -> Result<Measured> {
    let client = connect(socket).await?;
    let warm = Instant::now() + phases.warm_up;
    let until = warm + phases.measure;
    let mut askers = JoinSet::new();
    for asker in 0..outstanding {
        let client = client.clone();
        askers.spawn(async move {
            let (mut sequence, mut counted) = (asker, 0);
            let mut now = Instant::now();
            while now < until {
                ask(&client, payload_bytes, sequence).await?;
                sequence += outstanding;
                now = Instant::now();
                counted += u64::from(now >= warm && now < until);
            }
            anyhow::Ok(counted)
        });
    }
    let mut count = 0;
    while let Some(counted) = askers.join_next().await {
        count += counted??;
    }
    ensure!(count > 0, "no request was answered in time");
    Ok(Measured::rate(count, phases.measure))
}

/// Publishes at full speed on each of `channels` over a connection of its own, then says how many
/// messages there were.
///
/// # Errors
/// When the bus cannot be reached or goes away, or a publish fails.
pub async fn publish(
    socket: &Path,
    channels: u16,
    payload_bytes: usize,
    phases: Phases,
) -> Result<()> {
    let until = Instant::now() + phases.warm_up + phases.measure;
    let streams = (0..channels).map(async |channel| {
        let client = connect(socket).await?;
        let publisher = client.publisher_bytes(&topic(channel))?;
        publish_through(&publisher, payload_bytes, until).await
    });
    try_join_all(streams).await?;
    Ok(())
}

/// Subscribes over `connections` connections, dealt out over `channels`, and counts what arrives
/// until each has seen its end.
///
/// # Errors
/// When the bus cannot be reached, or a delivery is lost, doubled or out of order.
pub async fn subscribe(
    socket: &Path,
    connections: u16,
    channels: u16,
    phases: Phases,
    ready: impl FnOnce(),
) -> Result<Measured> {
    let deliveries = RefCell::new(Deliveries::new(phases.warm_up));
    let mut subscriptions = Vec::new();
    for connection in 0..connections {
        let topic = topic(connection % channels.max(1));
        subscriptions.push(connect(socket).await?.subscribe_bytes(&topic).await?);
    }
    ready();
    let receiving = subscriptions
        .into_iter()
        .map(|subscription| receive(subscription, &deliveries));
    try_join_all(receiving).await?;
    deliveries.into_inner().measured()
}

/// Holds `connections` connections with a subscription each, to a topic of its own, until the
/// process is ended. `first` numbers the first one.
///
/// # Errors
/// When the bus cannot be reached or ends a connection.
pub async fn idle(socket: &Path, first: u16, connections: u16, ready: impl FnOnce()) -> Result<()> {
    let mut subscriptions = Vec::new();
    for connection in 0..connections {
        let topic = format!("bench/idle/{}", u32::from(first) + u32::from(connection));
        subscriptions.push(connect(socket).await?.subscribe_bytes(&topic).await?);
    }
    ready();
    try_join_all(subscriptions.iter_mut().map(
        async |subscription| match subscription.recv().await {
            Some(_) => bail!("a message came where nobody publishes"),
            None => Err(ended(subscription)),
        },
    ))
    .await
    .map(|_: Vec<Infallible>| ())
}

async fn connect(socket: &Path) -> Result<Client> {
    Ok(Client::new_unix(&socket.to_path_buf()).await?)
}

fn topic(channel: u16) -> String {
    format!("bench/{channel}")
}

async fn answer_through(client: Client, ready: impl FnOnce()) -> Result<()> {
    let mut serving = client.serve_bytes(SERVED_TOPIC).await?;
    ready();
    while let Some((_, id, request)) = serving.recv().await {
        client.respond_bytes(id, request).await?;
    }
    bail!("the serving ended: {:?}", serving.close_reason())
}

async fn request_through(
    client: &Client,
    payload_bytes: usize,
    phases: Phases,
) -> Result<Measured> {
    one_at_a_time(phases, async |sequence| {
        ask(client, payload_bytes, sequence).await
    })
    .await
}

async fn ask(client: &Client, payload_bytes: usize, sequence: u64) -> Result<()> {
    let mut request = vec![0; payload_bytes.max(SMALLEST_BYTES)];
    message::write_message(&mut request, sequence);
    let request = Bytes::from(request);
    let answer = client.request_bytes(SERVED_TOPIC, request.clone()).await?;
    ensure!(
        request == answer,
        "request {sequence} got the answer to another"
    );
    Ok(())
}

async fn publish_through(
    publisher: &Publisher<Bytes>,
    payload_bytes: usize,
    until: Instant,
) -> Result<()> {
    let mut payloads = Payloads::new(payload_bytes);
    let mut sequence: u64 = 0;
    while !sequence.is_multiple_of(MESSAGES_A_LOOK) || Instant::now() < until {
        let payload = payloads.next(|payload| message::write_message(payload, sequence));
        publisher.send(payload).await?;
        sequence += 1;
    }
    publisher
        .send(payloads.next(|payload| message::write_end(payload, sequence)))
        .await?;
    Ok(publisher.flush().await?)
}

async fn receive(
    mut subscription: Subscription<Bytes>,
    deliveries: &RefCell<Deliveries>,
) -> Result<()> {
    let mut sequence = Sequence::default();
    while let Some((_, payload)) = subscription.recv().await {
        if sequence.accept(&payload)? == Step::End {
            deliveries.borrow_mut().end_stream();
            return Ok(());
        }
        deliveries.borrow_mut().add(1);
    }
    Err(ended(&subscription))
}

fn ended<T>(subscription: &Subscription<T>) -> anyhow::Error {
    anyhow::anyhow!("a subscription ended: {:?}", subscription.close_reason())
}
