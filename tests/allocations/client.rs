//! Whole clients with engines: from the publisher's call over the bus to the value at the subscription, all on one thread,
//! so that all of it is counted.

use std::path::Path;

use allocation_counter::measure;
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use whispeer::client::{Publisher, Subscription};
use whispeer::engine::Engines;
use whispeer::engine::compression::Compression;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::prelude::*;

const WARM_UP: usize = 400;
const COUNTED: usize = 200;
/// Bytes of a payload that is shared and not copied.
const LARGE: usize = 64 * 1024;
/// Of an allocation for each message: queues may still grow now and then.
const SLACK: f64 = 0.05;

fn engines(name: &str) -> Engines {
    let encryption = || Encryption::new(&Keyring::with(Key::from_bytes([7; 32])).unwrap()).unwrap();
    let compression = || Compression::new().threshold(0);
    match name {
        "plain" => Engines::new(),
        "compressed" => Engines::new().with(compression()),
        "encrypted" => Engines::new().with(encryption()),
        _ => Engines::new().with(compression()).with(encryption()),
    }
}

fn text(length: usize) -> Bytes {
    (0_u32..)
        .flat_map(|number| format!("line {number} of {}, ", number % 7).into_bytes())
        .take(length)
        .collect()
}

/// A publisher and a subscription of two clients.
async fn pair(path: &Path, name: &str) -> (Publisher<Bytes>, Subscription<Bytes>) {
    let address = path.to_str().unwrap();
    let connect = || Client::builder().engines(engines(name)).connect(address);
    let (publisher, subscriber) = (connect().await.unwrap(), connect().await.unwrap());
    let subscription = subscriber.subscribe_bytes("news").await.unwrap();
    (publisher.publisher_bytes("news").unwrap(), subscription)
}

async fn pass(
    publisher: &Publisher<Bytes>,
    subscription: &mut Subscription<Bytes>,
    payload: &Bytes,
    (count, at_a_time): (usize, usize),
) {
    for _ in 0..count / at_a_time {
        for _ in 0..at_a_time {
            publisher.send(payload).await.unwrap();
        }
        for _ in 0..at_a_time {
            let (_, received) = subscription.recv().await.unwrap();
            assert_eq!(received.len(), payload.len());
        }
    }
}

/// Allocations for each message, and bytes of these, of messages that are sent so many at a time.
fn counted(runtime: &Runtime, path: &Path, name: &str, length: usize, at_a_time: usize) -> (f64, f64) {
    let payload = text(length);
    let (publisher, mut subscription) = runtime.block_on(pair(path, name));
    runtime.block_on(pass(&publisher, &mut subscription, &payload, (WARM_UP, at_a_time)));
    let counted =
        measure(|| runtime.block_on(pass(&publisher, &mut subscription, &payload, (COUNTED, at_a_time))));
    (counted.count_total as f64 / COUNTED as f64, counted.bytes_total as f64 / COUNTED as f64)
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are shown with --nocapture")]
fn engines_in_clients_allocate_nothing_but_what_they_put_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _bus = runtime.block_on(async { Bus::builder().listen_unix(&path).start().unwrap() });
    for (length, at_a_time) in [(64, 1), (64, 50), (1024, 1), (1024, 50), (LARGE, 1), (LARGE, 4)] {
        let (plain, plain_bytes) = counted(&runtime, &path, "plain", length, at_a_time);
        println!("{length} B, {at_a_time} at a time: plain {plain:.2} allocations, {plain_bytes:.0} bytes");
        for name in ["compressed", "encrypted", "both"] {
            let (count, bytes) = counted(&runtime, &path, name, length, at_a_time);
            println!("{length} B, {at_a_time} at a time: {name} {count:.2} allocations, {bytes:.0} bytes");
            let (more, more_bytes) = match length {
                // In plain these are the caller's buffer and the one that the frame arrived in, handed on. Sealed and opened
                // they are new ones, and each has a count of those who share it. What has become smaller is moved once more.
                LARGE => (4.0, 2.0 * (LARGE as f64 + 1024.0) + LARGE as f64 / 8.0),
                // The value is copied out in plain as well, and is the only thing for each message; all else is for each
                // time that somebody is woken.
                _ => (0.0, 0.0),
            };
            assert!(
                count <= plain + more + SLACK,
                "{count} allocations for {length} bytes {name}: {plain} in plain"
            );
            assert!(
                bytes <= plain_bytes + more_bytes + SLACK * 1024.0,
                "{bytes} bytes for {length} bytes {name}"
            );
        }
        if length < LARGE {
            // The value, and a list of what came for the bus and for the client, each time that they are woken.
            assert!(plain <= 1.0 + if at_a_time == 1 { 2.0 } else { 0.5 } + SLACK, "{plain}");
        }
    }
}

#[test]
fn what_was_compressed_holds_no_more_than_it_weighs() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let bus = Bus::builder().start().unwrap();
    let connect =
        || Client::builder().engines(engines("compressed")).connect_memory(&bus.connector()).unwrap();
    let (publisher, subscriber) = (connect(), connect());
    let _subscription = runtime.block_on(subscriber.subscribe_bytes("news")).unwrap();
    let publisher = publisher.publisher_bytes("news").unwrap();
    let payload = text(1 << 20);
    let mut sent = 0;
    let held = measure(|| {
        while sent < 14 && publisher.try_send(&payload).is_ok() {
            sent += 1;
        }
    });
    assert!(sent >= 8, "{sent} sent");
    assert!(held.bytes_current < sent * 128 * 1024, "{} bytes for {sent} messages", held.bytes_current);
}
