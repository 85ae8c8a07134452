//! Measures the fan-out to WebSockets: messages of 100 B to 1,000 sockets that are subscribed to one channel.
//!
//! ```text
//! cargo run --release -p whispeer-gateway --example fanout [SOCKETS [SECONDS [AHEAD]]]
//! ```
//!
//! First they are published as fast as the slowest socket takes them, which is never more than so many messages behind (16), so
//! that none is dropped. Then at 300,000 deliveries a second, or half of what was reached if that is less, for their latency: from before
//! a message is published to after it was read. The clients are another process; they read frames and do no more with them than
//! to look at the time in each. On two cores they take as much of these as the gateway does.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

mod common;

use std::io::{BufRead, Write, stdout};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Clients, Outcome, gateway, raise_file_limit};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use whispeer::prelude::*;

/// Messages between two lines of the clients.
const STEP: u64 = 4;

fn main() -> Outcome {
    raise_file_limit()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let [mode, address, count, token] = &arguments[..]
        && mode == "clients"
    {
        return runtime.block_on(clients(address, count.parse()?, token));
    }
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    measure(&runtime, number(0, 1_000)?, Duration::from_secs(number(1, 10)?), number(2, 16)?)
}

fn measure(runtime: &tokio::runtime::Runtime, sockets: u64, time: Duration, ahead: u64) -> Outcome {
    let (_bus, gateway, publisher) = runtime.block_on(async {
        let bus = Bus::builder().start()?;
        let gateway = gateway(&bus).await?;
        let client = Client::new_memory(&bus.connector())?;
        Outcome::Ok((bus, gateway, client))
    })?;
    let mut clients = Clients::start(gateway.local_addr(), usize::try_from(sockets)?)?;
    clients.line()?;
    // How many messages all sockets have taken.
    let (told, mut taken) = watch::channel(0);
    let read = std::mem::replace(&mut clients.from, empty()?);
    let reader = std::thread::spawn(move || {
        let mut last = String::new();
        for line in read.lines().map_while(Result::ok) {
            match line.parse() {
                Ok(count) => _ = told.send_replace(count),
                Err(_) => {
                    last = line;
                    break;
                }
            }
        }
        last
    });
    let published = runtime.block_on(publish(&publisher, time, ahead, &mut taken))?;
    let rate = published as f64 / time.as_secs_f64();
    println!("{sockets} sockets, {:.0} messages/s, {:.0} deliveries/s", rate, rate * sockets as f64);
    clients.proceed()?;
    let steady = (rate / 2.0).min(300_000.0 / sockets as f64);
    println!("then {steady:.0} messages/s, {:.0} deliveries/s", steady * sockets as f64);
    runtime.block_on(publish_evenly(&publisher, published, steady, time, &mut taken))?;
    clients.proceed()?;
    println!("{}", reader.join().map_err(|_| "the reader has failed")?);
    Ok(())
}

fn empty() -> Outcome<std::io::BufReader<std::process::ChildStdout>> {
    let child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn();
    Ok(std::io::BufReader::new(child?.stdout.take().ok_or("it has no output")?))
}

async fn publish(
    client: &Client,
    time: Duration,
    ahead: u64,
    taken: &mut watch::Receiver<u64>,
) -> Outcome<u64> {
    let publisher = client.publisher_bytes("news")?;
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < time {
        taken.wait_for(|taken| count < taken + ahead).await?;
        // Nobody waits for each to be confirmed, so that sockets find several at once.
        publisher.send(&message()?.into()).await?;
        count += 1;
    }
    settled(count, taken).await?;
    Ok(count)
}

async fn publish_evenly(
    client: &Client,
    before: u64,
    rate: f64,
    time: Duration,
    taken: &mut watch::Receiver<u64>,
) -> Outcome {
    let publisher = client.publisher_bytes("news")?;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate.max(1.0)));
    let (begun, mut count) = (Instant::now(), before);
    while begun.elapsed() < time {
        ticks.tick().await;
        publisher.send(&message()?.into()).await?;
        count += 1;
    }
    settled(count, taken).await
}

/// Waits until all have come, but for those that make no whole step.
async fn settled(count: u64, taken: &mut watch::Receiver<u64>) -> Outcome {
    let all = taken.wait_for(|taken| *taken >= count / STEP * STEP);
    match tokio::time::timeout(Duration::from_secs(20), all).await {
        Ok(all) => Ok(_ = all?),
        Err(_) => Err(format!("{count} were published, and some have not come").into()),
    }
}

/// Data of 100 B in JSON, with the time in it.
fn message() -> Outcome<Vec<u8>> {
    let text =
        json!({"t": now(), "text": "the bakery at the corner reopens today at noon, with pears in all"})
            .to_string();
    Ok(whispeer::json::from_json(text.as_bytes())?.to_vec())
}

/// Nanoseconds since 1970: the same in both processes.
fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or_default()
}

/// What all sockets of the clients count together.
struct Counts {
    sockets: usize,
    /// How many sockets have come to each step.
    steps: Mutex<Vec<usize>>,
    latencies: Mutex<Histogram<u64>>,
}

async fn clients(address: &str, count: usize, token: &str) -> Outcome {
    // From a microsecond to a minute.
    let latencies = Mutex::new(Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?);
    let counts = Arc::new(Counts { sockets: count, steps: Mutex::default(), latencies });
    for _ in 0..count {
        let stream = TcpStream::connect(address).await?;
        let (mut socket, _) = client_async(format!("ws://{address}/ws"), stream).await?;
        for command in [
            json!({"id": 1, "method": "connect", "params": {"token": token}}),
            json!({"id": 2, "method": "subscribe", "params": {"channel": "news"}}),
        ] {
            socket.send(Message::text(command.to_string())).await?;
            socket.next().await.ok_or("a socket has ended")??;
        }
        tokio::spawn(read(socket.into_inner(), Arc::clone(&counts)));
    }
    println!("ready");
    let lines = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        tell(&counts, "at the full rate");
        counts.latencies.lock().unwrap_or_else(PoisonError::into_inner).reset();
        std::io::stdin().read_line(&mut line)?;
        tell(&counts, "at the steady rate");
        std::io::Result::Ok(())
    });
    Ok(lines.await??)
}

fn tell(counts: &Counts, when: &str) {
    let latencies = counts.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |quantile| Duration::from_nanos(latencies.value_at_quantile(quantile));
    let text = format!(
        "latency {when}: p50 {:?}, p99 {:?}, p99.9 {:?} of {} messages",
        at(0.5),
        at(0.99),
        at(0.999),
        latencies.len()
    );
    // The first goes where it does not end the reading of counts.
    if when.contains("steady") {
        println!("{text}")
    } else {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// Reads frames, counts them, and takes the time of them.
async fn read(mut stream: TcpStream, counts: Arc<Counts>) {
    let (mut buffer, mut held, mut count) = (vec![0; 64 * 1024], 0, 0_u64);
    let mut times = Vec::new();
    while let Ok(size @ 1..) = stream.read(&mut buffer[held..]).await {
        held += size;
        let mut rest = &buffer[..held];
        let arrived = now();
        // A frame without a mask, of less than 126 bytes or of some more: opcode, length, text.
        while let [opcode, length, ..] = *rest {
            let (head, length) = match (length, rest) {
                (126, [_, _, high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                (126, _) => break,
                (length, _) => (2, usize::from(length)),
            };
            let Some(text) = rest.get(head..head + length) else { break };
            rest = &rest[head + length..];
            if opcode == 0x81 {
                count += 1;
                times.extend(time_in(text).map(|sent| arrived.saturating_sub(sent)));
                if count % STEP == 0 {
                    step(&counts, count);
                }
            }
        }
        let left = rest.len();
        buffer.copy_within(held - left..held, 0);
        held = left;
        let mut latencies = counts.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for time in times.drain(..) {
            latencies.saturating_record(time);
        }
    }
}

fn time_in(text: &[u8]) -> Option<u64> {
    let start = text.windows(4).position(|window| window == b"\"t\":")? + 4;
    let digits = text[start..].split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A socket has come to this count; when all have, that is told.
fn step(counts: &Counts, count: u64) {
    let index = usize::try_from(count / STEP).unwrap_or_default();
    let mut steps = counts.steps.lock().unwrap_or_else(PoisonError::into_inner);
    if steps.len() <= index {
        steps.resize(index + 1, 0);
    }
    steps[index] += 1;
    if steps[index] == counts.sockets {
        let mut out = stdout().lock();
        let _ = writeln!(out, "{count}").and_then(|()| out.flush());
    }
}
