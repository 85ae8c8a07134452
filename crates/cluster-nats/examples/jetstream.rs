//! Measures a stream in JetStream: appends beside publishes of the NATS client that JetStream acknowledges, and what a replica takes of
//! memory.
//!
//! ```text
//! cargo run --release -p whispeer-cluster-nats --example jetstream
//! ```
//!
//! It starts a `nats-server` with JetStream in files: the last one that `NATS_SERVERS` names, or else the one on the `PATH`. Each figure is the median of several
//! rounds in which the two take turns; what they store are the same payloads.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use whispeer::store::{Change, Name, NewMessage, Outcome as Stored, Store as _, StreamSettings};
use whispeer::topic::TopicPattern;
use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore};
use whispeer_testkit::nats::NatsServer;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Rounds of which the median counts, and how long each is for one of the two.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(600);

/// Messages whose memory is measured, and how many are given to the store together.
const KEPT: usize = 200_000;
const TOGETHER: usize = 1_000;

/// The argument by which it runs itself as a process that reads what another one has stored.
const READER: &str = "--reader";

fn main() -> Outcome {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let [first, url, prefix] = &arguments[..]
        && first == READER
    {
        return runtime.block_on(read(url, prefix));
    }
    runtime.block_on(async {
        let server = NatsServer::builder().jetstream().start().await;
        throughput(&server.url()).await?;
        memory(&server.url()).await
    })
}

async fn opened(url: &str, prefix: &str) -> Outcome<JetStreamStore> {
    let client = async_nats::connect(url).await?;
    // Who opens a store reads all of its journal first.
    let options = JetStreamOptions::new(prefix)?.answer(Duration::from_secs(60));
    Ok(JetStreamStore::new(client, options)?)
}

fn orders() -> Outcome<(Name, StreamSettings)> {
    let name = Name::new("orders")?;
    Ok((name.clone(), StreamSettings::new(name, vec![TopicPattern::new("orders/**")?])))
}

fn append(topic: &TopicPattern, payload: &Bytes) -> Change {
    Change::Append(NewMessage {
        topic: topic.clone(),
        fields: Bytes::new(),
        payload: payload.clone(),
        time: 1,
        expires: None,
        id: None,
    })
}

/// Does this again and again for a round, so many at a time; how many a second.
async fn rate<F: Future<Output = Outcome>>(under_way: usize, work: impl Fn() -> F) -> Outcome<f64> {
    let began = Instant::now();
    let works = stream::repeat_with(&work).take_while(|_| std::future::ready(began.elapsed() < ROUND));
    let mut working = works.buffer_unordered(under_way);
    let mut done = 0_u32;
    while let Some(one) = working.next().await {
        one?;
        done += 1;
    }
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}

async fn throughput(url: &str) -> Outcome {
    let store = opened(url, "whispeer").await?;
    let (name, settings) = orders()?;
    store.open(settings).await?;
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await?);
    let config = async_nats::jetstream::stream::Config {
        name: "plain".into(),
        subjects: vec!["plain.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(config).await?;
    let topic = TopicPattern::new("orders/7")?;
    println!("| payload | under way | whispeer, a second | JetStream, a second | whispeer is |");
    println!("|---|---|---|---|---|");
    for size in [16, 1_024] {
        let payload = Bytes::from(vec![7; size]);
        for under_way in [1, 64] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let ours_once = async || {
                    let stored = store.commit(name.clone(), vec![append(&topic, &payload)]).await?;
                    match stored[..] {
                        [Stored::Appended { .. }] => Ok(()),
                        _ => Err("a message is not stored".into()),
                    }
                };
                ours.push(rate(under_way, ours_once).await?);
                let theirs_once = async || {
                    jetstream.publish("plain.orders.7", payload.clone()).await?.await?;
                    Ok(())
                };
                theirs.push(rate(under_way, theirs_once).await?);
            }
            let (ours, theirs) = (median(ours), median(theirs));
            let ratio = ours / theirs;
            println!("| {size} B | {under_way} | {ours:.0} | {theirs:.0} | {ratio:.2} × |");
        }
    }
    store.close().await?;
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What the replica of another process takes, which reads what this one has stored.
async fn memory(url: &str) -> Outcome {
    let (name, settings) = orders()?;
    let payload = Bytes::from_static(b"an order");
    println!("\n{KEPT} messages, of each the memory of a store that has read the journal:");
    for (what, topics) in [("in one topic", 1), ("each in a topic of its own", KEPT)] {
        let prefix = format!("memory{topics}");
        let writer = opened(url, &prefix).await?;
        writer.open(settings.clone()).await?;
        for first in (0..KEPT).step_by(TOGETHER) {
            let changes = (first..first + TOGETHER).map(|at| {
                let topic = TopicPattern::new(format!("orders/{}/customer", at % topics))?;
                Ok(append(&topic, &payload))
            });
            writer.commit(name.clone(), changes.collect::<Outcome<_>>()?).await?;
        }
        writer.close().await?;
        let reader = Command::new(std::env::current_exe()?).args([READER, url, &prefix]).output()?;
        let told = String::from_utf8(reader.stdout)?;
        let taken: usize =
            told.trim().parse().map_err(|_| String::from_utf8_lossy(&reader.stderr).into_owned())?;
        println!("- {what}: {} B", taken / KEPT);
    }
    Ok(())
}

/// Prints how many bytes more this process has once it has read a store.
async fn read(url: &str, prefix: &str) -> Outcome {
    let before = resident()?;
    let store = opened(url, prefix).await?;
    let state = store.open(orders()?.1).await?;
    if state.messages != KEPT as u64 {
        return Err(format!("{} messages of {KEPT} are there", state.messages).into());
    }
    println!("{}", resident()?.saturating_sub(before));
    store.close().await?;
    Ok(())
}

/// Bytes that this process has in memory.
fn resident() -> Outcome<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split(' ').nth(1).ok_or("no such figure")?.parse()?;
    Ok(pages * 4096)
}
