//! What a process of a measurement does.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use whispeer::bus::Bus;
use whispeer::client::{Client, Publisher, Serving, Subscription};

use super::plan::{Finding, Limit, Load, Mode, Role, Run};
use crate::connection::ClientFiles;
use crate::output;

/// Significant digits of recorded latencies: an error of at most 0.1 %.
const DIGITS: u8 = 3;

/// Nanoseconds of the longest latency that is told apart: an hour, far beyond any request's timeout.
///
/// The bounds are fixed because a histogram that resizes itself does so only in calls that can fail;
/// one that saturates would stay at the 2 ns it begins with.
const LATENCY_MAX: u64 = 3_600_000_000_000;

/// The share of the time, or of the requests, in which caches fill and that is not recorded.
const WARM_UP: u32 = 10;

/// Sends between two looks at the clock.
const BETWEEN_LOOKS: u64 = 64;

/// How long subscribers wait without any delivery before what is missing counts as lost: far beyond
/// the block limit, after which a bus drops and goes on.
const IDLE: Duration = Duration::from_secs(10);

/// What stands in place of the sequence number in the last message; the count of all follows.
const LAST: u64 = u64::MAX;

/// The word that tells a process to begin.
pub(crate) const GO: &str = "go";

/// The word by which a process says that it can begin.
pub(crate) const READY: &str = "ready";

/// Does what the load asks for, and reports on standard output.
pub(crate) async fn run(load: &Load, files: &ClientFiles) -> anyhow::Result<()> {
    let connect = async || anyhow::Ok(files.builder().await?.connect(&load.address).await?);
    let finding = match &load.role {
        Role::Memory { run, .. } => run_in_memory(run).await?,
        Role::Serve => {
            let client = connect().await?;
            let mut serving = client.serve_bytes(&load.topic).await?;
            let mut orders = orders()?;
            output::print(format!("{READY}\n"))?;
            tokio::select! {
                served = echo(&client, &mut serving) => served?,
                // The end of standard input: nobody needs the server any more.
                () = async { while orders.recv().await.is_some() {} } => {}
            }
            return Ok(());
        }
        Role::Subscribe => {
            let mut subscriptions = Vec::with_capacity(load.width);
            for _ in 0..load.width {
                let client = connect().await?;
                subscriptions.push(client.subscribe_bytes(&load.topic).await?);
            }
            output::print(format!("{READY}\n"))?;
            receive_all(subscriptions).await?
        }
        Role::Publish => {
            let client = connect().await?;
            let publisher = client.publisher_bytes(&load.topic)?;
            wait_for_go().await?;
            publish(&publisher, load.size, load.limit).await?
        }
        Role::Request => {
            let client = connect().await?;
            client.ping().await?;
            wait_for_go().await?;
            request_all(&client, &load.topic, load.size, load.width, load.limit).await?
        }
    };
    output::print(format!("{}\n", serde_json::to_string(&finding)?))
}

/// A run with bus and clients as tasks of this process.
async fn run_in_memory(run: &Run) -> anyhow::Result<Finding> {
    let bus = Bus::builder().start()?;
    let connector = bus.connector();
    let connect = || Client::new_memory(&connector);
    let found = match run.mode {
        Mode::Request | Mode::Outstanding => {
            let server = connect()?;
            let topic = run.topic(0);
            let mut serving = server.serve_bytes(&topic).await?;
            let client = connect()?;
            tokio::select! {
                found = request_all(&client, &topic, run.size, run.width, run.limit) => found?,
                served = echo(&server, &mut serving) => {
                    served?;
                    anyhow::bail!("the server has ended")
                }
            }
        }
        Mode::OneToOne | Mode::FanOut | Mode::NToN => {
            let (pairs, connections) = if run.mode == Mode::FanOut { (1, run.width) } else { (run.width, 1) };
            let mut tasks: JoinSet<anyhow::Result<Option<Finding>>> = JoinSet::new();
            let mut publishers = Vec::with_capacity(pairs);
            for index in 0..pairs {
                let topic = run.topic(index);
                let mut subscriptions = Vec::with_capacity(connections);
                for _ in 0..connections {
                    subscriptions.push(connect()?.subscribe_bytes(&topic).await?);
                }
                tasks.spawn(async move { receive_all(subscriptions).await.map(Some) });
                publishers.push(connect()?.publisher_bytes(&topic)?);
            }
            let (size, limit) = (run.size, run.limit);
            for publisher in publishers {
                tasks.spawn(async move { publish(&publisher, size, limit).await.map(|_| None) });
            }
            let mut total = Finding::default();
            while let Some(done) = tasks.join_next().await {
                if let Some(found) = done?? {
                    total.add(&found);
                }
            }
            total
        }
    };
    bus.stop().await;
    Ok(found)
}

impl Finding {
    /// Adds what was found at the same time elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.lost += other.lost;
        self.time = self.time.max(other.time);
        self.latencies.extend_from_slice(&other.latencies);
    }
}

/// Lines that the command sends.
fn orders() -> anyhow::Result<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel(1);
    thread::Builder::new().name("orders".into()).spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

async fn wait_for_go() -> anyhow::Result<()> {
    let mut orders = orders()?;
    output::print(format!("{READY}\n"))?;
    match orders.recv().await.as_deref() {
        Some(GO) => Ok(()),
        _ => anyhow::bail!("nobody said when to begin; this subcommand is run by `whispeer bench`"),
    }
}

async fn echo(client: &Client, serving: &mut Serving<Bytes>) -> anyhow::Result<()> {
    while let Some((_, id, request)) = serving.recv().await {
        client.respond_bytes(id, request).await?;
    }
    Ok(())
}

/// Sends numbered messages until the limit, then the last one.
async fn publish(publisher: &Publisher<Bytes>, size: usize, limit: Limit) -> anyhow::Result<Finding> {
    let mut payload = Bytes::from(vec![0; size]);
    let start = Instant::now();
    let mut count = 0;
    loop {
        let over = match limit {
            Limit::Messages(messages) => count >= messages,
            Limit::Time(time) => count.is_multiple_of(BETWEEN_LOOKS) && start.elapsed() >= time,
        };
        if over {
            break;
        }
        payload = numbered(payload, count, 0);
        publisher.send(&payload).await?;
        count += 1;
    }
    publisher.send(&numbered(payload, LAST, count)).await?;
    publisher.flush().await?;
    Ok(Finding { count, time: start.elapsed(), ..Finding::default() })
}

/// Writes numbers into a payload: in place, unless the link still holds it.
fn numbered(payload: Bytes, sequence: u64, count: u64) -> Bytes {
    let mut payload = payload.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    for (place, byte) in payload.iter_mut().zip(sequence.to_le_bytes().into_iter().chain(count.to_le_bytes()))
    {
        *place = byte;
    }
    payload.freeze()
}

fn number_at(payload: &[u8], at: usize) -> anyhow::Result<u64> {
    let bytes =
        payload.get(at..).and_then(|rest| rest.first_chunk::<8>()).context("a message of someone else")?;
    Ok(u64::from_le_bytes(*bytes))
}

/// Receives on all subscriptions until each has the last message.
async fn receive_all(subscriptions: Vec<Subscription<Bytes>>) -> anyhow::Result<Finding> {
    let mut total = Finding::default();
    let progress = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for subscription in subscriptions {
        tasks.spawn(receive(subscription, Arc::clone(&progress)));
    }
    let mut seen = 0;
    loop {
        match tokio::time::timeout(IDLE, tasks.join_next()).await {
            Ok(None) => return Ok(total),
            Ok(Some(found)) => total.add(&found??),
            Err(_) if progress.load(Ordering::Relaxed) != seen => seen = progress.load(Ordering::Relaxed),
            Err(_) => {
                let waiting = tasks.len();
                anyhow::bail!(
                    "{waiting} subscribers had no delivery for {IDLE:?}, and not the last message: it was lost"
                );
            }
        }
    }
}

async fn receive(mut subscription: Subscription<Bytes>, progress: Arc<AtomicU64>) -> anyhow::Result<Finding> {
    let (mut count, mut disordered, mut next) = (0, 0, 0);
    let mut start = None;
    while let Some((_, payload)) = subscription.recv().await {
        let start = *start.get_or_insert_with(Instant::now);
        let sequence = number_at(&payload, 0)?;
        if sequence == LAST {
            let sent = number_at(&payload, 8)?;
            let lost = sent.abs_diff(count) + disordered;
            return Ok(Finding { count, lost, time: start.elapsed(), latencies: Vec::new() });
        }
        if sequence < next {
            disordered += 1;
        }
        next = sequence + 1;
        count += 1;
        if count % BETWEEN_LOOKS == 0 {
            progress.fetch_add(BETWEEN_LOOKS, Ordering::Relaxed);
        }
    }
    let reason = subscription.close_reason();
    Err(reason.map_or_else(|| anyhow::anyhow!("the subscription ended"), anyhow::Error::new))
}

fn latency_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS)?)
}

/// Makes requests, `width` at a time.
async fn request_all(
    client: &Client,
    topic: &str,
    size: usize,
    width: usize,
    limit: Limit,
) -> anyhow::Result<Finding> {
    let start = Instant::now();
    let (warm, limit) = match limit {
        Limit::Messages(messages) => {
            let share = messages.div_ceil(width.max(1) as u64);
            (Limit::Messages(share / u64::from(WARM_UP)), Limit::Messages(share))
        }
        Limit::Time(time) => (Limit::Time(time / WARM_UP), limit),
    };
    let mut tasks = JoinSet::new();
    for _ in 0..width {
        tasks.spawn(request_one_by_one(client.clone(), topic.to_owned(), size, start, warm, limit));
    }
    let mut total = latency_histogram()?;
    let mut found = Finding::default();
    while let Some(done) = tasks.join_next().await {
        let (histogram, count, lost, time) = done??;
        total.add(&histogram)?;
        found.add(&Finding { count, lost, time, latencies: Vec::new() });
    }
    found.latencies =
        total.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    Ok(found)
}

async fn request_one_by_one(
    client: Client,
    topic: String,
    size: usize,
    start: Instant,
    warm: Limit,
    limit: Limit,
) -> anyhow::Result<(Histogram<u64>, u64, u64, Duration)> {
    let mut histogram = latency_histogram()?;
    let payload = Bytes::from(vec![7; size]);
    let (mut made, mut recorded, mut lost) = (0_u64, 0, 0);
    let mut recording_since = None;
    let mut now = start;
    let reached = |limit, made, now: Instant| match limit {
        Limit::Messages(messages) => made >= messages,
        Limit::Time(time) => now.duration_since(start) >= time,
    };
    while !reached(limit, made, now) {
        if recording_since.is_none() && reached(warm, made, now) {
            recording_since = Some(now);
        }
        let answer = client.request_bytes(&topic, payload.clone()).await?;
        let after = Instant::now();
        made += 1;
        if answer.len() != size {
            lost += 1;
        }
        if recording_since.is_some() {
            recorded += 1;
            histogram
                .saturating_record(u64::try_from(after.duration_since(now).as_nanos()).unwrap_or(u64::MAX));
        }
        now = after;
    }
    let time = recording_since.map_or(Duration::ZERO, |since| now.duration_since(since));
    Ok((histogram, recorded, lost, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: Mode, width: usize, messages: u64) -> Run {
        Run { mode, size: 16, width, limit: Limit::Messages(messages) }
    }

    #[tokio::test]
    async fn every_delivery_is_counted() {
        let found = run_in_memory(&run(Mode::OneToOne, 1, 5_000)).await.unwrap();
        assert_eq!((found.count, found.lost), (5_000, 0));
        let found = run_in_memory(&run(Mode::FanOut, 8, 500)).await.unwrap();
        assert_eq!((found.count, found.lost), (4_000, 0));
        let found = run_in_memory(&run(Mode::NToN, 3, 500)).await.unwrap();
        assert_eq!((found.count, found.lost), (1_500, 0));
    }

    #[tokio::test]
    async fn every_request_after_the_warm_up_has_a_latency() {
        let found = run_in_memory(&run(Mode::Outstanding, 4, 1_000)).await.unwrap();
        assert_eq!(found.count, 900);
        assert_eq!(found.latencies.iter().map(|(_, count)| count).sum::<u64>(), 900);
    }

    #[tokio::test]
    async fn the_latencies_of_requests_made_one_by_one_add_up_to_the_time_they_took() {
        let found = run_in_memory(&run(Mode::Request, 1, 2_000)).await.unwrap();
        let sum: u64 = found.latencies.iter().map(|(nanoseconds, count)| nanoseconds * count).sum();
        let ratio = sum as f64 / found.time.as_nanos() as f64;
        // The histogram keeps three digits, and tells the highest value of each step.
        assert!((0.99..1.01).contains(&ratio), "{ratio}");
    }

    #[tokio::test]
    async fn a_missing_message_and_one_out_of_order_count_as_lost() {
        let bus = Bus::builder().start().unwrap();
        let client = Client::new_memory(&bus.connector()).unwrap();
        let subscription = client.subscribe_bytes("load").await.unwrap();
        let publisher = client.publisher_bytes("load").unwrap();
        // 1 is missing, 0 comes again out of order.
        for (sequence, count) in [(0, 0), (2, 0), (0, 0), (LAST, 4)] {
            publisher.send(&numbered(Bytes::from(vec![0; 16]), sequence, count)).await.unwrap();
        }
        let found = receive_all(vec![subscription]).await.unwrap();
        assert_eq!((found.count, found.lost), (3, 2));
    }
}
