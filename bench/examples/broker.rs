//! Messages of 1 KiB from one publisher to one handler within a process: the broker, with and without compression and
//! encryption, beside a plain client over memory.
//!
//!     cargo run --release --example broker -- [ROUNDS]
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that fails has nothing to say"
)]
#![allow(clippy::print_stdout, reason = "it prints what it measures")]
#![allow(missing_docs, reason = "it is a program")]

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use whispeer::broker::{Broker, BrokerBuilder, BrokerOptions};
use whispeer::engine::Engines;
use whispeer::engine::compression::Compression;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::prelude::*;

const MESSAGES: usize = 200_000;
const BYTES: usize = 1024;
/// Messages that are published before one waits for those before; half of what may be under way.
const AHEAD: usize = 4096;

/// As few bytes around the content as serde allows.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document(Bytes);

impl PublishProtocol for Document {
    fn prefix() -> &'static str {
        "documents"
    }

    fn weight(&self) -> usize {
        self.0.len()
    }
}

fn main() {
    let rounds = env::args()
        .nth(1)
        .map_or(5, |rounds| rounds.parse().unwrap());
    // Every other half is random, so that compression has something to do and cannot do away with it.
    let mut seed = 1_u64;
    let content: Vec<u8> = (0..BYTES)
        .map(|at| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if at % 128 < 64 {
                b'a'
            } else {
                (seed >> 56) as u8
            }
        })
        .collect();
    let document = Document(content.into());
    let plain = || Broker::builder(BrokerOptions::default());
    let measured: [(&str, &dyn Fn() -> f64); 7] = [
        ("client over memory, publisher", &|| {
            pipelined(&document, Engines::new())
        }),
        ("client, default engines, publisher", &|| {
            pipelined(&document, engines())
        }),
        ("client over memory, publish().await", &|| {
            one_by_one(&document)
        }),
        ("broker, no parts, handler on a thread", &|| {
            broker(plain(), &document, false)
        }),
        ("broker, no parts, asynchronous handler", &|| {
            broker(plain(), &document, true)
        }),
        ("broker, default, handler on a thread", &|| {
            broker(Broker::build_default(), &document, false)
        }),
        ("broker, default, asynchronous handler", &|| {
            broker(Broker::build_default(), &document, true)
        }),
    ];
    for (name, measure) in measured {
        let mut rates: Vec<f64> = (0..rounds).map(|_| measure()).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
        println!("{name:40} {:>8.0} /s  ({rates:.0?})", median);
    }
}

/// Messages per second, from the first publish until the last is handled.
fn broker(builder: BrokerBuilder, document: &Document, awaited: bool) -> f64 {
    let broker = builder.build().unwrap();
    let (done, end) = std::sync::mpsc::sync_channel(1);
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let done = Mutex::new(done);
    let handled = Arc::new(move |document: Document| {
        assert_eq!(document.0.len(), BYTES);
        if count.fetch_add(1, Ordering::Relaxed) + 1 == MESSAGES {
            done.lock().unwrap().send(()).unwrap();
        }
    });
    let subscription = if awaited {
        broker.subscribe_async("documents", move |document: Document| {
            let handled = Arc::clone(&handled);
            async move { handled(document) }
        })
    } else {
        broker.subscribe("documents", move |document: Document| handled(document))
    };
    subscription.wait_ready().unwrap();
    let start = Instant::now();
    // It stays a few thousand messages ahead of the bus, as a program would whose messages must not be refused.
    let mut ahead = None;
    for message in 0..MESSAGES {
        let publishing = broker.publish("documents", document);
        assert!(publishing.refusal().is_none());
        if message % AHEAD == 0
            && let Some(earlier) = ahead.replace(publishing)
        {
            earlier.wait().unwrap();
        }
    }
    end.recv().unwrap();
    MESSAGES as f64 / start.elapsed().as_secs_f64()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn engines() -> Engines {
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    Engines::new()
        .with(Compression::new())
        .with(Encryption::new(&keyring).unwrap())
}

fn pipelined(document: &Document, engines: Engines) -> f64 {
    runtime().block_on(async {
        let (_bus, connector) = listen_and_serve_memory().unwrap();
        let client = Client::builder()
            .engines(engines)
            .connect_memory(&connector)
            .unwrap();
        let mut subscription = client.subscribe::<Document>("").await.unwrap();
        let publisher = client.publisher::<Document>("").unwrap();
        let start = Instant::now();
        let document = document.clone();
        let sending = tokio::spawn(async move {
            for _ in 0..MESSAGES {
                publisher.send(&document).await.unwrap();
            }
            publisher.flush().await.unwrap();
        });
        for _ in 0..MESSAGES {
            subscription.recv().await.unwrap();
        }
        let elapsed = start.elapsed();
        sending.await.unwrap();
        MESSAGES as f64 / elapsed.as_secs_f64()
    })
}

fn one_by_one(document: &Document) -> f64 {
    runtime().block_on(async {
        let (_bus, connector) = listen_and_serve_memory().unwrap();
        let client = Client::new_memory(&connector).unwrap();
        let mut subscription = client.subscribe::<Document>("").await.unwrap();
        let start = Instant::now();
        let document = document.clone();
        let sending = tokio::spawn(async move {
            for _ in 0..MESSAGES {
                client.publish("", &document).await.unwrap();
            }
        });
        for _ in 0..MESSAGES {
            subscription.recv().await.unwrap();
        }
        let elapsed = start.elapsed();
        sending.await.unwrap();
        MESSAGES as f64 / elapsed.as_secs_f64()
    })
}
