//! Measures what an idle WebSocket costs the process of the gateway: opened, connected by the dialect of Turbine, subscribed, and
//! idle again after a push of 64 KiB.
//!
//! ```text
//! cargo run --release -p whispeer-gateway --example idle_sockets [10000]
//! ```
//!
//! The clients are another process. Each line tells how much the resident memory has grown since before the first socket, in
//! bytes for each.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

mod common;

use std::io::stdin;

use common::{Clients, Outcome, gateway, raise_file_limit};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use whispeer::prelude::*;

/// Bytes of a long push. Where none is read yet, the system has room for so many times ten thousand.
const LONG: usize = 64 * 1024;

/// Channels of which many sockets have one each.
const ROOMS: usize = 100;

fn main() -> Outcome {
    raise_file_limit()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clients", address, count, token] => runtime.block_on(clients(address, count.parse()?, token)),
        [] => measure(&runtime, 10_000),
        [count] => measure(&runtime, count.parse()?),
        _ => Err("idle_sockets [COUNT]".into()),
    }
}

fn measure(runtime: &tokio::runtime::Runtime, count: usize) -> Outcome {
    let (bus, gateway) = runtime.block_on(async {
        let bus = Bus::builder().start()?;
        let gateway = gateway(&bus).await?;
        Outcome::Ok((bus, gateway))
    })?;
    let before = resident()?;
    println!("{count} sockets; {before} B without any");
    let mut clients = Clients::start(gateway.local_addr(), count)?;
    for number in 1..=5 {
        let stage = clients.line()?;
        let grown = resident()?.saturating_sub(before);
        println!("{stage:>10} {:>8} B a socket, {} sessions", grown / count, bus.stats().sessions);
        if number == 4 {
            runtime.block_on(push(&bus))?;
        }
        clients.proceed()?;
    }
    Ok(())
}

/// Pushes something long to all sockets.
async fn push(bus: &BusHandle) -> Outcome {
    let client = Client::new_memory(&bus.connector())?;
    // MessagePack of a text.
    let long = rmp_serde::to_vec(&"x".repeat(LONG))?;
    for room in 0..ROOMS {
        client.publish_bytes(&format!("rooms/{room}"), long.clone()).await?;
    }
    Ok(())
}

/// Bytes of memory that this process has.
fn resident() -> Outcome<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: usize = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

type Socket = WebSocketStream<TcpStream>;

/// Goes from one stage to the next with all sockets, when it is told to.
async fn clients(address: &str, count: usize, token: &str) -> Outcome {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(address).await?;
        sockets.push(client_async(format!("ws://{address}/ws"), stream).await?.0);
    }
    stage("opened")?;
    let connect = json!({"id": 1, "method": "connect", "params": {"token": token}}).to_string();
    all(&mut sockets, |_| connect.clone()).await?;
    stage("connected")?;
    // Some channels of which many have one, and one that each has for itself.
    let subscribe = |channel: String| json!({"id": 2, "method": "subscribe", "params": {"channel": channel}});
    all(&mut sockets, |number| subscribe(format!("rooms/{}", number % ROOMS)).to_string()).await?;
    stage("subscribed")?;
    all(&mut sockets, |number| json!({"id": number, "method": "ping"}).to_string()).await?;
    stage("pinged")?;
    for socket in &mut sockets {
        let pushed = socket.next().await.ok_or("a socket has ended")??;
        if pushed.len() < LONG {
            return Err(pushed.to_string().into());
        }
    }
    all(&mut sockets, |number| json!({"id": number, "method": "ping"}).to_string()).await?;
    stage("pushed")
}

async fn all(sockets: &mut [Socket], text: impl Fn(usize) -> String) -> Outcome {
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(text(number))).await?;
        let answer = socket.next().await.ok_or("a socket has ended")??;
        if !answer.to_text()?.contains("result") {
            return Err(answer.to_string().into());
        }
    }
    Ok(())
}

fn stage(name: &str) -> Outcome {
    println!("{name}");
    stdin().read_line(&mut String::new())?;
    Ok(())
}
