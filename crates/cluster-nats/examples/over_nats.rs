//! Measures messages from one bus over NATS to another one, beside a publisher and a subscriber of NATS without whispeer.
//!
//! ```text
//! cargo run --release -p whispeer-cluster-nats --example over_nats
//! cargo run --release -p whispeer-cluster-nats --example over_nats -- ours 16    # one side alone, for a profiler
//! ```
//!
//! It starts a `nats-server`: the last one that `NATS_SERVERS` names, or else the one on the `PATH`. Each figure is the median of several rounds in which the two
//! take turns. Latency is half of what a message takes there and back again, with nothing else under way.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use whispeer::client::{Publisher, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer_cluster_nats::{LinkState, NatsCluster, NatsSettings};
use whispeer_testkit::nats::NatsServer;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Rounds of which the median counts.
const ROUNDS: usize = 5;

/// Messages that may be under way, in steps: the client of NATS drops what is not taken in time, and that is not what is measured.
const UNDER_WAY: usize = 4_096;
const STEP: usize = 256;

/// Messages of a round that measures throughput, and there and back again of one that measures latency.
const MESSAGES: usize = 800 * STEP;
const EXCHANGES: usize = 2_000;

/// How long a message may take. One that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure())
}

/// A bus with a client, joined over NATS.
struct Joined {
    _bus: BusHandle,
    client: Client,
}

impl Joined {
    async fn new(url: &str, batches: bool) -> Outcome<Self> {
        // Those that send batches and those that do not are two clusters here, so that neither hears the other.
        let prefix = if batches { "batches" } else { "single" };
        let settings = NatsSettings::new(url)?.prefix(prefix)?.batches(batches);
        let cluster = NatsCluster::open(&settings).await?;
        let mut state = cluster.connection().state();
        let bus = Bus::builder().companion(|bus| cluster.run(bus)).start()?;
        let client = Client::new_memory(&bus.connector())?;
        state.wait_for(LinkState::is_connected).await?;
        while bus.stats().subscriptions == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { _bus: bus, client })
    }
}

async fn measure() -> Outcome {
    let server = NatsServer::start().await;
    let url = server.url();
    let (from, to) = (Joined::new(&url, false).await?, Joined::new(&url, false).await?);
    let batched = (Joined::new(&url, true).await?, Joined::new(&url, true).await?);
    let plain = [async_nats::connect(&url).await?, async_nats::connect(&url).await?];
    let mut arguments = std::env::args().skip(1);
    if let Some(side) = arguments.next() {
        let size = arguments.next().as_deref().unwrap_or("16").parse()?;
        let (from, to) = if side == "batches" { (&batched.0, &batched.1) } else { (&from, &to) };
        return one_side(&side, &Bytes::from(vec![b'x'; size]), (from, to), &plain).await;
    }
    for size in [16, 1_024] {
        let payload = Bytes::from(vec![b'x'; size]);
        let (mut own, mut packed, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own.push(ours(&from, &to, &payload).await?);
            theirs.push(plainly(&plain, &payload).await?);
            packed.push(ours(&batched.0, &batched.1, &payload).await?);
        }
        report(&format!("{size:>5} B, messages/s"), own, theirs.clone());
        report(&format!("{size:>5} B, messages/s in batches"), packed, theirs);
        let (mut own, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own.push(our_latency(&from, &to, &payload).await?);
            theirs.push(plain_latency(&plain, &payload).await?);
        }
        report(&format!("{size:>5} B, microseconds"), own, theirs);
    }
    Ok(())
}

/// The messages a second of one of the two, round by round.
async fn one_side(
    side: &str,
    payload: &Bytes,
    (from, to): (&Joined, &Joined),
    plain: &[async_nats::Client; 2],
) -> Outcome {
    for _ in 0..2 * ROUNDS {
        let rate = match side {
            "ours" | "batches" => ours(from, to, payload).await?,
            "plain" => plainly(plain, payload).await?,
            _ => return Err(format!("\"{side}\" is none of \"ours\", \"batches\" and \"plain\"").into()),
        };
        println!("{rate:.0}");
    }
    Ok(())
}

fn report(what: &str, own: Vec<f64>, theirs: Vec<f64>) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut ratios: Vec<f64> = own.iter().zip(&theirs).map(|(own, theirs)| own / theirs).collect();
    ratios.sort_by(f64::total_cmp);
    let (own, theirs) = (median(own), median(theirs));
    println!(
        "{what}: bus -> NATS -> bus {own:>9.0}, NATS alone {theirs:>9.0}, ratio {:.2} ({:.2}-{:.2})",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

fn per_second(began: Instant) -> f64 {
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

/// A subscription that has had a first message of this publisher, so that all between them know of it.
async fn subscribed(client: &Client, topic: &str, from: &Publisher<Bytes>) -> Outcome<Subscription<Bytes>> {
    // With room for all that is under way: how those who are slow are waited for is not what is measured.
    let options = SubscribeOptions::default().window(2 * UNDER_WAY as u32, 64 * 1024 * 1024);
    let mut subscription = client.subscribe_bytes_with(topic, options).await?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        from.send(&Bytes::new()).await?;
        if timeout(Duration::from_millis(20), subscription.recv()).await.is_ok() {
            return Ok(subscription);
        }
    }
    Err(format!("nothing that is published to \"{topic}\" at the other bus comes here").into())
}

/// Waits until the server has all that this client has told it by now. A flush waits only until that is sent.
async fn settled(client: &async_nats::Client) -> Outcome {
    match client.request("plain.nobody", Bytes::new()).await {
        Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err("somebody answers where nobody is subscribed".into()),
    }
}

/// The next message of a subscriber at NATS itself.
async fn next_plain(subscriber: &mut async_nats::Subscriber) -> Outcome<async_nats::Message> {
    let next = timeout(PATIENCE, subscriber.next()).await;
    Ok(next.map_err(|_| "messages of NATS alone are missing")?.ok_or("the connection has ended")?)
}

/// The next message, those left out that only showed that there is a way.
async fn next(subscription: &mut Subscription<Bytes>) -> Outcome<Bytes> {
    loop {
        let next = timeout(PATIENCE, subscription.recv()).await;
        let (_, payload) =
            next.map_err(|_| "messages of the other bus are missing")?.ok_or("the bus has ended")?;
        if !payload.is_empty() {
            return Ok(payload);
        }
    }
}

async fn ours(from: &Joined, to: &Joined, payload: &Bytes) -> Outcome<f64> {
    let publisher = from.client.publisher_bytes("there")?;
    let mut subscription = subscribed(&to.client, "there", &publisher).await?;
    let began = Instant::now();
    let payload = payload.clone();
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let room_to_send = Arc::clone(&room);
    let sending = tokio::spawn(async move {
        for _ in 0..MESSAGES / STEP {
            room_to_send.acquire_many(STEP as u32).await?.forget();
            for _ in 0..STEP {
                publisher.send(&payload).await?;
            }
        }
        Outcome::Ok(publisher.flush().await?)
    });
    for _ in 0..MESSAGES / STEP {
        for _ in 0..STEP {
            next(&mut subscription).await?;
        }
        room.add_permits(STEP);
    }
    let rate = per_second(began);
    sending.await??;
    Ok(rate)
}

async fn plainly(plain: &[async_nats::Client; 2], payload: &Bytes) -> Outcome<f64> {
    let mut subscriber = plain[1].subscribe("plain.there").await?;
    settled(&plain[1]).await?;
    let (from, payload) = (plain[0].clone(), payload.clone());
    let began = Instant::now();
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let room_to_send = Arc::clone(&room);
    let sending = tokio::spawn(async move {
        for _ in 0..MESSAGES / STEP {
            room_to_send.acquire_many(STEP as u32).await?.forget();
            for _ in 0..STEP {
                from.publish("plain.there", payload.clone()).await?;
            }
        }
        Outcome::Ok(from.flush().await?)
    });
    for _ in 0..MESSAGES / STEP {
        for _ in 0..STEP {
            next_plain(&mut subscriber).await?;
        }
        room.add_permits(STEP);
    }
    let rate = per_second(began);
    sending.await??;
    Ok(rate)
}

fn half(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / (2 * EXCHANGES) as f64
}

async fn our_latency(from: &Joined, to: &Joined, payload: &Bytes) -> Outcome<f64> {
    let (asking, answering) = (from.client.publisher_bytes("there")?, to.client.publisher_bytes("back")?);
    let (mut there, mut back) = (
        subscribed(&to.client, "there", &asking).await?,
        subscribed(&from.client, "back", &answering).await?,
    );
    let answers = tokio::spawn(async move {
        loop {
            let payload = next(&mut there).await?;
            answering.send(&payload).await?;
        }
        #[expect(unreachable_code, reason = "it says what goes wrong")]
        Outcome::Ok(())
    });
    let began = Instant::now();
    for _ in 0..EXCHANGES {
        asking.send(payload).await?;
        next(&mut back).await?;
    }
    let latency = half(began);
    answers.abort();
    Ok(latency)
}

async fn plain_latency(plain: &[async_nats::Client; 2], payload: &Bytes) -> Outcome<f64> {
    let (mut there, mut back) =
        (plain[1].subscribe("plain.ask").await?, plain[0].subscribe("plain.answer").await?);
    settled(&plain[1]).await?;
    settled(&plain[0]).await?;
    let to = plain[1].clone();
    let answers = tokio::spawn(async move {
        while let Some(message) = there.next().await {
            to.publish("plain.answer", message.payload).await?;
        }
        Outcome::Ok(())
    });
    let began = Instant::now();
    for _ in 0..EXCHANGES {
        plain[0].publish("plain.ask", payload.clone()).await?;
        next_plain(&mut back).await?;
    }
    let latency = half(began);
    answers.abort();
    Ok(latency)
}
