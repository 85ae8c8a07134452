//! Measures publishing over HTTP: `POST /api/v1/publish` of messages of 100 B in JSON, over connections that are kept, each with one
//! request at a time, to a topic with one subscriber.
//!
//! ```text
//! cargo run --release -p whispeer-gateway --example http_publish [CONNECTIONS]
//! ```
//!
//! Without a number it goes through 1, 16, 64 and 256 connections. Beside it stands the limit: the same requests to a path where there is
//! nothing, which HTTP answers by itself. The clients are another process; they write what they have ready
//! and look at no more of the answer than its status and its end. On two cores they take about as much of these as the gateway does.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

mod common;

use std::io::stdin;
use std::time::{Duration, Instant};

use common::{Clients, Outcome, gateway, raise_file_limit};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use whispeer::prelude::*;

/// How long it is measured.
const TIME: Duration = Duration::from_secs(8);

const BODY: &str =
    r#"{"place": "kitchen", "temperature": 21.5, "note": "a message of a hundred bytes, as many are"}"#;

fn main() -> Outcome {
    raise_file_limit()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clients", address, count, _] => runtime.block_on(clients(address, count.parse()?)),
        [] => [1, 16, 64, 256].into_iter().try_for_each(|count| measure(&runtime, count)),
        [count] => measure(&runtime, count.parse()?),
        _ => Err("http_publish [CONNECTIONS]".into()),
    }
}

fn measure(runtime: &tokio::runtime::Runtime, connections: usize) -> Outcome {
    let (bus, gateway) = runtime.block_on(async {
        let bus = Bus::builder().start()?;
        let gateway = gateway(&bus).await?;
        let client = Client::new_memory(&bus.connector())?;
        let mut subscription = client.subscribe_bytes("news").await?;
        tokio::spawn(async move { while subscription.recv().await.is_some() {} });
        Outcome::Ok((bus, gateway))
    })?;
    let mut clients = Clients::start(gateway.local_addr(), connections)?;
    // They have connected.
    clients.line()?;
    for what in ["publishing", "HTTP alone"] {
        clients.proceed()?;
        println!("{connections:>4} connections, {what}: {}", clients.line()?);
    }
    runtime.block_on(async {
        gateway.stop().await;
        bus.stop().await;
    });
    Ok(())
}

async fn clients(address: &str, count: usize) -> Outcome {
    let mut streams = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    println!("ready");
    for (path, status) in [("/api/v1/publish?topic=news", 200), ("/api/v1/nothing?topic=news", 404)] {
        stdin().read_line(&mut String::new())?;
        let end = Instant::now() + TIME;
        let mut all = JoinSet::new();
        for stream in streams.drain(..) {
            all.spawn(ask(stream, address.to_owned(), path, status, end));
        }
        // From a microsecond to a minute.
        let mut latencies = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)?;
        while let Some(asked) = all.join_next().await {
            let (stream, times) = asked??;
            latencies.add(times)?;
            streams.push(stream);
        }
        tell(&latencies);
    }
    Ok(())
}

fn tell(latencies: &Histogram<u64>) {
    let at = |quantile| Duration::from_nanos(latencies.value_at_quantile(quantile));
    println!(
        "{:.0} a second, p50 {:?}, p99 {:?}, p99.9 {:?}",
        latencies.len() as f64 / TIME.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

/// Asks one after the other, and tells how long each took.
async fn ask(
    mut stream: TcpStream,
    address: String,
    path: &str,
    status: u16,
    end: Instant,
) -> Outcome<(TcpStream, Histogram<u64>)> {
    let length = BODY.len();
    let expected = format!("HTTP/1.1 {status} ");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{BODY}"
    );
    let mut latencies = Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?;
    let mut answer = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        answer.clear();
        // Its body is a JSON object without another one in it.
        while !answer.ends_with(b"}") {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("a connection has ended".into());
            }
        }
        if !answer.starts_with(expected.as_bytes()) {
            return Err(String::from_utf8_lossy(&answer).into());
        }
        latencies.saturating_record(u64::try_from(begun.elapsed().as_nanos())?);
    }
    Ok((stream, latencies))
}
