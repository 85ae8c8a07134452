//! What the processes do that are killed: this test binary again, with a role in its environment.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use whispeer::client::{Delivery, Event, PublishOptions, Quality, Reconnect, Start, SubscribeOptions};
use whispeer::prelude::*;

use super::journal::{Content, Got, Noted, Pen};
use super::random::Random;
use crate::support::{LIMIT, Place};

/// Where a process finds what it does.
const ROLE: &str = "WHISPEER_TEST_ROLE";

/// Publishes that are not answered, at the most.
const IN_FLIGHT: usize = 32;

/// How long a publisher rests behind so many publishes. It is load, and not more than consumers can take of a build
/// without optimisation.
const REST: Duration = Duration::from_millis(10);

/// Acknowledgements that are on their way, at the most.
const ACKNOWLEDGING: usize = 64;

/// The command for a process that has this role, as this many-th one.
pub(super) fn command(place: &Place, role: &str, number: u32, first: u64, seed: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["crashes::roles::whoever_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .current_dir(place.path(""))
        .env(ROLE, format!("{role} {number} {first} {seed}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// What has such a process end: its standard input does.
fn end_of_input() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    receiver
}

#[tokio::test]
async fn whoever_is_killed() {
    let Ok(told) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let [role, number, first, seed] = words[..] else { panic!("{words:?}") };
    let pen = Pen::new(&PathBuf::from("journal"), format!("{role}#{number}"));
    let random = Random::new(seed.parse().unwrap());
    let client = connected().await;
    let all =
        || SubscribeOptions::default().quality(Quality::ExactlyOnce).start(Start::All).max_deliver(1_000);
    match role.split_once('-') {
        Some(("publisher", publisher)) => {
            let next = Content { publisher: publisher.parse().unwrap(), number: first.parse().unwrap() };
            publish(&client, next, pen).await;
        }
        Some(("worker", _)) => consume(&client, all().group("workers"), pen, random).await,
        _ if role == "reader" => consume(&client, all(), pen, random).await,
        _ if role == "follower" => follow(&client, pen).await,
        _ => consume(&client, all().durable(role), pen, random).await,
    }
}

/// A client that comes back at once. The bus may not be there when it is wanted first.
async fn connected() -> Client {
    let mut reconnect = Reconnect::default();
    (reconnect.first_delay, reconnect.max_delay) = (Duration::from_millis(5), Duration::from_millis(20));
    reconnect.give_up_after = Some(LIMIT);
    until_it_works(async || Client::builder().reconnect(reconnect.clone()).connect("unix:bus").await).await
}

/// Tries again for as long as the bus is gone, or has not noticed yet that a predecessor is.
async fn until_it_works<T>(mut attempt: impl AsyncFnMut() -> BusResult<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        let error = match attempt().await {
            Ok(worked) => return worked,
            Err(error) => error,
        };
        let passes = matches!(
            error,
            BusError::Connect { .. }
                | BusError::ConsumerBusy { .. }
                | BusError::Disconnected { .. }
                | BusError::OutcomeUnknown { .. }
        );
        assert!(passes && Instant::now() < until, "{error:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Publishes numbers in their order, many at a time.
async fn publish(client: &Client, mut next: Content, mut pen: Pen) {
    let mut ended = end_of_input();
    let mut waiting = JoinSet::new();
    let topic = format!("orders/{}", next.publisher);
    let mut is_over = false;
    while !is_over || !waiting.is_empty() {
        while !is_over && waiting.len() < IN_FLIGHT {
            pen.note(Noted::Sent(next.number));
            let (client, topic, payload, number) =
                (client.clone(), topic.clone(), next.payload(), next.number);
            waiting.spawn(async move {
                let kept = PublishOptions::default().quality(Quality::ExactlyOnce);
                (number, client.publish_bytes_with(&topic, payload, kept).await)
            });
            next.number += 1;
            if next.number.is_multiple_of(IN_FLIGHT as u64) {
                tokio::time::sleep(REST).await;
                is_over = ended.try_recv().is_ok();
            }
        }
        match waiting.join_next().await.map(Result::unwrap) {
            Some((number, Ok(_))) => pen.note(Noted::Stored(number)),
            Some((number, Err(BusError::OutcomeUnknown { .. } | BusError::Disconnected { .. }))) => {
                pen.note(Noted::Unknown(number));
            }
            Some((number, Err(error))) => panic!("{number}: {error}"),
            None => {}
        }
    }
}

/// Deals with messages: holds some for a while, acknowledges them in any order, and refuses a few.
async fn consume(client: &Client, options: SubscribeOptions, mut pen: Pen, mut random: Random) {
    let mut ended = end_of_input();
    let mut consumer =
        until_it_works(async || client.consume_bytes("orders/**", options.clone()).await).await;
    let (mut held, mut acknowledging) = (Vec::<Delivery<Bytes>>::new(), JoinSet::new());
    loop {
        let most = random.below(12) as usize;
        while held.len() > most {
            let delivery = held.swap_remove(random.below(held.len() as u64) as usize);
            let sequence = delivery.receipt.sequence();
            let acknowledged = delivery.ack();
            acknowledging.spawn(async move { (sequence, acknowledged.await) });
        }
        tokio::select! {
            // What has become of an acknowledgement is noted before what comes because of that.
            biased;
            Some(acknowledged) = acknowledging.join_next() => match acknowledged.unwrap() {
                (sequence, Ok(())) => pen.note(Noted::Acked(sequence)),
                (sequence, Err(BusError::OutcomeUnknown { .. } | BusError::StaleAck { .. })) => {
                    pen.note(Noted::Unsure(sequence));
                }
                (sequence, Err(error)) => panic!("{sequence}: {error}"),
            },
            delivery = consumer.recv(), if acknowledging.len() < ACKNOWLEDGING => {
                let delivery = delivery.unwrap_or_else(|| panic!("{:?}", consumer.close_reason()));
                let sequence = delivery.receipt.sequence();
                let is_marked = delivery.attempt.unwrap().redelivered;
                pen.note(Noted::Got(Got { sequence, is_marked, content: Content::of(&delivery.value) }));
                if random.below(50) == 0 {
                    pen.note(Noted::Refused(sequence));
                    delivery.nack(Duration::from_millis(random.below(3)));
                } else {
                    held.push(delivery);
                }
            }
            // Nothing else may come that would have it go on with those that it holds.
            () = tokio::time::sleep(Duration::from_millis(20)), if !held.is_empty() => {
                for delivery in held.drain(..) {
                    let sequence = delivery.receipt.sequence();
                    let acknowledged = delivery.ack();
                    acknowledging.spawn(async move { (sequence, acknowledged.await) });
                }
            }
            _ = &mut ended => break,
        }
    }
    assert_eq!(consumer.gaps(), 0);
}

/// Reads the stream without acknowledging.
async fn follow(client: &Client, mut pen: Pen) {
    let mut ended = end_of_input();
    let options = SubscribeOptions::default().start(Start::All);
    let mut orders =
        until_it_works(async || client.subscribe_bytes_with("orders/**", options.clone()).await).await;
    loop {
        tokio::select! {
            event = orders.next_event() => match event {
                Some(Event::Message(order)) => {
                    let (sequence, content) = (order.position.unwrap().sequence, Content::of(&order.value));
                    pen.note(Noted::Got(Got { sequence, is_marked: false, content }));
                }
                other => panic!("{other:?}, {:?}", orders.close_reason()),
            },
            _ = &mut ended => break,
        }
    }
}
