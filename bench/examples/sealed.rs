//! What engines cost on the whole way: messages from one client to another over a bus's Unix socket, as they are,
//! compressed, and encrypted, in turns.
//!
//! Publisher, bus and subscriber have a thread each. The messages are of text that shrinks to a third.
//!
//! ```sh
//! cd bench && cargo run --release --example sealed -- 1024 9
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that fails has nothing to say"
)]

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use whispeer::engine::Engines;
use whispeer::engine::compression::Compression;
use whispeer::engine::encryption::{Algorithm, Encryption, Key, Keyring};
use whispeer::{Bus, Client};

/// How long messages are sent in a round.
const SENDING: Duration = Duration::from_millis(700);

/// What a run is called, and the engines of a client for it.
type Way = (&'static str, fn(&Keyring) -> Engines);

fn encrypting(keyring: &Keyring, algorithm: Algorithm) -> Engines {
    Engines::new().with(Encryption::new(keyring).unwrap().algorithm(algorithm))
}

const WAYS: [Way; 6] = [
    ("as it is", |_| Engines::new()),
    ("lz4", |_| Engines::new().with(Compression::lz4())),
    ("zstd", |_| Engines::new().with(Compression::new())),
    ("XChaCha20-Poly1305", |keyring| {
        encrypting(keyring, Algorithm::XChaCha20Poly1305)
    }),
    ("AES-256-GCM", |keyring| {
        encrypting(keyring, Algorithm::Aes256Gcm)
    }),
    ("zstd, XChaCha20-Poly1305", |keyring| {
        encrypting(keyring, Algorithm::XChaCha20Poly1305).with(Compression::new())
    }),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        arguments
            .next()
            .map_or(default, |text| text.parse::<usize>().unwrap())
    };
    let (size, rounds) = (number(1024), number(9));
    let payload: Bytes = (0_u32..)
        .flat_map(|number| {
            format!("order {} of customer {}, ", number * 7, number % 13).into_bytes()
        })
        .take(size)
        .collect::<Vec<_>>()
        .into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let bus = runtime();
    let _handle = bus.block_on(async { Bus::builder().listen_unix(&path).start().unwrap() });
    thread::spawn(move || bus.block_on(std::future::pending::<()>()));
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let mut rates = WAYS.map(|_| Vec::new());
    for _ in 0..rounds {
        for (rates, (_, engines)) in rates.iter_mut().zip(WAYS) {
            rates.push(rate(&path, &payload, || engines(&keyring)));
        }
    }
    println!("messages of {size} bytes, medians of {rounds} rounds");
    let mut plain = None;
    for (rates, (name, _)) in rates.iter_mut().zip(WAYS) {
        rates.sort_unstable();
        let median = rates[rates.len() / 2];
        let plain = *plain.get_or_insert(median);
        println!(
            "{name:<26} {:>9}/s   {:>4.0} %",
            median,
            100.0 * median as f64 / plain as f64
        );
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Messages in a second.
fn rate(path: &Path, payload: &Bytes, engines: impl Fn() -> Engines) -> u64 {
    let address = path.to_str().unwrap().to_owned();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let subscriber = thread::spawn({
        let (address, engines) = (address.clone(), engines());
        move || {
            runtime().block_on(async move {
                let client = Client::builder()
                    .engines(engines)
                    .connect(&address)
                    .await
                    .unwrap();
                let mut subscription = client.subscribe_bytes("orders").await.unwrap();
                ready.send(()).unwrap();
                let mut count = 0_u64;
                while let Some((_, payload)) = subscription.recv().await {
                    if payload.is_empty() {
                        break;
                    }
                    count += 1;
                }
                assert_eq!(subscription.undecodable(), 0);
                count
            })
        }
    });
    is_ready.recv().unwrap();
    let began = Instant::now();
    let engines = engines();
    runtime().block_on(async {
        let client = Client::builder()
            .engines(engines)
            .connect(&address)
            .await
            .unwrap();
        let publisher = client.publisher_bytes("orders").unwrap();
        while began.elapsed() < SENDING {
            for _ in 0..64 {
                publisher.send(payload).await.unwrap();
            }
        }
        publisher.send(&Bytes::new()).await.unwrap();
        publisher.flush().await.unwrap();
    });
    let count = subscriber.join().unwrap();
    (count as f64 / began.elapsed().as_secs_f64()) as u64
}
