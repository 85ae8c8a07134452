//! Groups with members at several buses that are joined over NATS: all share the messages, by the ledger of the bus that has the consumer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use whispeer::bus::{ConsumerStats, Rows, Streams};
use whispeer::client::{Consumer, Delivery, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::engine::Engines;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::prelude::*;
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::store_contract::settings;

use super::opened;
use crate::joined::{Joined, PREFIX, eventually};

/// How long something may take: a bus that was killed has its consumers for 15 s.
const LONG: Duration = Duration::from_secs(60);

/// A bus that is joined with others, and has its stream where they have it.
async fn joined(server: &NatsServer) -> Joined {
    let streams = Streams::open(Arc::new(opened(server).await), [settings("orders", &["orders/**"])]);
    Joined::built(&server.url(), Bus::builder().streams(streams.await.unwrap())).await
}

/// So many that know of each other.
async fn cluster(server: &NatsServer, size: usize) -> Vec<Joined> {
    let mut buses = Vec::new();
    for _ in 0..size {
        buses.push(joined(server).await);
    }
    for bus in &buses {
        eventually("the others are known", || bus.counter.counts().buses == size as u64 - 1).await;
    }
    buses
}

fn printers() -> SubscribeOptions {
    SubscribeOptions::default().quality(Quality::AtLeastOnce).start(Start::All).group("printers")
}

async fn member(bus: &Joined, options: &SubscribeOptions) -> Consumer<Bytes> {
    bus.client.consume_bytes("orders/**", options.clone()).await.unwrap()
}

/// A member at each bus, of which the first has the consumer and hands out its messages.
async fn members(buses: &[Joined], options: &SubscribeOptions) -> Vec<Consumer<Bytes>> {
    let mut members = Vec::new();
    for bus in buses {
        members.push(member(bus, options).await);
        shared_by(&buses[0], members.len() as u64).await;
    }
    members
}

async fn consumers(client: &Client) -> Vec<ConsumerStats> {
    let rows = client.request_bytes("$bus/consumers", "".into()).await.unwrap();
    rmp_serde::from_slice::<Rows<ConsumerStats>>(&rows).unwrap().rows
}

/// Waits until so many members share the consumer of this bus.
async fn shared_by(bus: &Joined, members: u64) {
    let shared = async {
        while !consumers(&bus.client).await.iter().any(|row| row.subscriptions as u64 == members) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, shared).await.expect("they share it");
}

async fn publish(client: &Client, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let kept = || PublishOptions::default().quality(Quality::AtLeastOnce);
        client.publish_bytes_with("orders/7", number.to_string(), kept()).await.unwrap();
    }
}

async fn next(consumer: &mut Consumer<Bytes>) -> Delivery<Bytes> {
    timeout(LONG, consumer.recv()).await.expect("a message comes").expect("it goes on")
}

fn number(delivery: &Delivery<Bytes>) -> u64 {
    std::str::from_utf8(&delivery.value).unwrap().parse().unwrap()
}

/// Members that take and acknowledge all that comes, and tell what came of that, by who it is.
struct Workers {
    tasks: JoinSet<()>,
    told: mpsc::Receiver<(usize, u64, bool)>,
    confirmed: BTreeMap<usize, Vec<u64>>,
    /// What was acknowledged when the bus that had handed it out was gone: it is done, or comes again, to the same client without a word of that.
    in_doubt: BTreeSet<u64>,
}

impl Workers {
    fn new(members: Vec<Consumer<Bytes>>) -> Self {
        let (tell, told) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        for (at, mut member) in members.into_iter().enumerate() {
            let tell = tell.clone();
            tasks.spawn(async move {
                while let Some(delivery) = member.recv().await {
                    let number = number(&delivery);
                    let is_confirmed = delivery.ack().await.is_ok();
                    let _ = tell.send((at, number, is_confirmed)).await;
                }
            });
        }
        Self { tasks, told, confirmed: BTreeMap::new(), in_doubt: BTreeSet::new() }
    }

    /// Waits until each of these has been acknowledged.
    async fn finish(&mut self, all: impl IntoIterator<Item = u64>) {
        let mut left: BTreeSet<u64> = all.into_iter().collect();
        left.retain(|number| {
            !self.in_doubt.contains(number) && !self.confirmed.values().flatten().any(|one| one == number)
        });
        while !left.is_empty() {
            let Ok(Some((at, number, is_confirmed))) = timeout(LONG, self.told.recv()).await else {
                panic!("not acknowledged: {} of them, as {:?}", left.len(), left.first());
            };
            left.remove(&number);
            if is_confirmed {
                self.confirmed.entry(at).or_default().push(number);
            } else {
                self.in_doubt.insert(number);
            }
        }
    }

    /// What was confirmed so far, in its order.
    fn all(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.confirmed.values().flatten().copied().collect();
        all.sort_unstable();
        all
    }

    /// Waits until all of so many messages are done for whoever has the consumer. None was handed out again that was confirmed.
    async fn are_done_with(&mut self, messages: u64, buses: &[Joined]) {
        self.finish(1..=messages).await;
        let done = async {
            loop {
                for bus in buses {
                    let rows = consumers(&bus.client).await;
                    if rows.iter().any(|row| row.floor == messages + 1 && row.pending == 0) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, done).await.expect("all are done");
        while let Ok((at, number, true)) = self.told.try_recv() {
            self.confirmed.entry(at).or_default().push(number);
        }
        let all = self.all();
        let each: BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!(each.len(), all.len(), "what was confirmed came again");
        assert!(each.len() + self.in_doubt.len() >= usize::try_from(messages).unwrap());
    }
}

#[tokio::test]
async fn members_at_three_buses_share_a_thousand_messages_and_each_is_acknowledged_once() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let buses = cluster(&server, 3).await;
        let members = members(&buses, &printers().max_pending(96)).await;
        let mut workers = Workers::new(members);
        for (at, bus) in buses.iter().enumerate() {
            let client = bus.client.clone();
            let numbers = (1..=1_000).filter(move |number| number % 3 == at as u64);
            workers.tasks.spawn(async move { publish(&client, numbers).await });
        }
        workers.finish(1..=1_000).await;
        assert_eq!(workers.all(), (1..=1_000).collect::<Vec<_>>(), "each once");
        let shares: Vec<_> = workers.confirmed.values().map(Vec::len).collect();
        assert!(shares.len() == 3 && shares.iter().all(|share| *share >= 50), "{shares:?}");
        let rows = consumers(&buses[0].client).await;
        assert_eq!((rows[0].pending, rows[0].floor), (0, 1_001));
        // The sessions of other buses are no clients of this one.
        assert_eq!(buses[0].bus.view().sessions().unwrap().len(), 1);
        workers.tasks.shutdown().await;
        for bus in buses {
            bus.stop().await;
        }
    }
}

#[tokio::test]
async fn what_a_member_at_another_bus_had_comes_again_when_its_client_is_gone() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let buses = cluster(&server, 2).await;
        let mut members = members(&buses, &printers().window(1, 1 << 20)).await;
        publish(&buses[0].client, 1..=2).await;
        let lost = next(&mut members[1]).await;
        next(&mut members[0]).await.ack().await.unwrap();
        let number_lost = number(&lost);
        drop(members.pop());
        drop(lost);
        let again = next(&mut members[0]).await;
        assert_eq!((number(&again), again.attempt.unwrap().redelivered), (number_lost, true));
        again.ack().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_in_time_goes_to_another_bus_and_is_a_dead_letter_after_its_attempts() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let buses = cluster(&server, 2).await;
        let options = printers().window(1, 1 << 20).ack_wait(Duration::from_secs(2)).max_deliver(2);
        let mut members = members(&buses, &options).await;
        let from_the_first = SubscribeOptions::default().start(Start::All);
        let mut dead =
            buses[1].client.subscribe_bytes_with("$dead/orders/printers", from_the_first).await.unwrap();
        publish(&buses[1].client, 1..=2).await;
        let stuck = next(&mut members[1]).await;
        next(&mut members[0]).await.ack().await.unwrap();
        let again = next(&mut members[0]).await;
        assert_eq!((number(&again), again.attempt.unwrap().number), (number(&stuck), 2));
        again.nack(None);
        let (_, payload) = timeout(LONG, dead.recv()).await.expect("it is a dead letter").unwrap();
        assert_eq!(payload, stuck.value);
    }
}

/// A bus is cut off from the others and ends while its members and others take messages. All are done in the end, and what was confirmed is not handed out again.
async fn killed(which: usize) {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let mut buses = cluster(&server, 3).await;
        let members = members(&buses, &printers().max_pending(96)).await;
        let mut workers = Workers::new(members);
        let client = buses[if which == 2 { 0 } else { 2 }].client.clone();
        publish(&client, 1..=200).await;
        workers.finish(1..=100).await;
        let killed = buses.remove(which);
        // Its store says no goodbye, and its link none either.
        killed.connection.close().await;
        killed.bus.stop().await;
        publish(&client, 201..=400).await;
        workers.are_done_with(400, &buses).await;
        workers.tasks.shutdown().await;
    }
}

#[tokio::test]
async fn members_go_on_when_the_bus_that_has_the_consumer_is_cut_off_and_ends() {
    killed(0).await;
}

#[tokio::test]
async fn members_go_on_when_another_bus_is_cut_off_and_ends() {
    killed(2).await;
}

#[tokio::test]
async fn members_share_again_when_nats_was_gone_and_is_back() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let buses = cluster(&server, 2).await;
        let members = members(&buses, &printers().max_pending(96)).await;
        let mut workers = Workers::new(members);
        publish(&buses[0].client, 1..=50).await;
        server.kill();
        server.restart().await;
        let client = buses[1].client.clone();
        let publishing = async {
            for number in 51..=150 {
                let kept = || PublishOptions::default().quality(Quality::AtLeastOnce);
                while client.publish_bytes_with("orders/7", number.to_string(), kept()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        timeout(LONG, publishing).await.expect("it is stored");
        workers.are_done_with(150, &buses).await;
        // Who has it, and by whom it is fed, has been found out again.
        let fed = async {
            loop {
                let mut subscriptions = 0;
                for bus in &buses {
                    subscriptions = subscriptions.max(consumers(&bus.client).await[0].subscriptions as usize);
                }
                if subscriptions == 2 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, fed).await.expect("they share it again");
        workers.tasks.shutdown().await;
    }
}

#[tokio::test]
async fn sealed_messages_pass_as_they_are() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let buses = cluster(&server, 2).await;
    let sealing = |bus: &Joined| {
        let keyring = Keyring::with(Key::from_bytes([7; 32])).unwrap();
        let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
        Client::builder().engines(engines).connect_memory(&bus.bus.connector()).unwrap()
    };
    let clients: Vec<_> = buses.iter().map(sealing).collect();
    let narrow = printers().window(1, 1 << 20);
    let mut first = clients[0].consume_bytes("orders/**", narrow.clone()).await.unwrap();
    let mut second = clients[1].consume_bytes("orders/**", narrow).await.unwrap();
    shared_by(&buses[0], 2).await;
    publish(&clients[1], 1..=2).await;
    let mut numbers = Vec::new();
    for member in [&mut second, &mut first] {
        let delivery = next(member).await;
        numbers.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
}

/// The last data that were sent by a tunnel, of those that were heard.
async fn data(said: &mut async_nats::Subscriber) -> async_nats::Message {
    let mut last = None;
    while let Ok(Some(message)) = timeout(Duration::from_millis(10), said.next()).await {
        last = Some(message).filter(|message| message.payload[0] == 3).or(last);
    }
    last.expect("something is said by the tunnel")
}

/// What another end would say of itself: its kind, its epoch and how much it has sent stand at these places.
fn forged(message: &async_nats::Message, change: impl Fn(&mut Vec<u8>)) -> Bytes {
    let mut bytes = message.payload.to_vec();
    change(&mut bytes);
    bytes.into()
}

#[tokio::test]
async fn what_is_missing_in_a_tunnel_comes_twice_or_is_of_another_connection_ends_it_and_another_one_is_opened()
 {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let eavesdropper = async_nats::connect(server.url()).await.unwrap();
        let mut opens = eavesdropper.subscribe(format!("{PREFIX}.consume")).await.unwrap();
        let mut said = eavesdropper.subscribe(format!("{PREFIX}.tunnel.>")).await.unwrap();
        eavesdropper.flush().await.unwrap();
        let buses = cluster(&server, 2).await;
        let mut workers = Workers::new(members(&buses, &printers()).await);
        let mut messages = 0;
        let forgeries: [fn(&mut Vec<u8>); 4] = [
            |_| {},
            // Two numbers further, where only the one behind the last is right.
            |bytes| bytes[25] = bytes[25].wrapping_add(2),
            |bytes| bytes[9] ^= 0xff,
            // It has read more than it was sent.
            |bytes| bytes[33..41].copy_from_slice(&u64::MAX.to_le_bytes()),
        ];
        for forge in forgeries {
            // All that was opened before.
            while timeout(Duration::ZERO, opens.next()).await.is_ok() {}
            let ended = async {
                loop {
                    publish(&buses[0].client, messages + 1..=messages + 20).await;
                    messages += 20;
                    workers.finish(1..=messages).await;
                    let message = data(&mut said).await;
                    eavesdropper.publish(message.subject.clone(), forged(&message, forge)).await.unwrap();
                    // It may have been one of a tunnel that had ended before.
                    if timeout(Duration::from_secs(1), opens.next()).await.is_ok() {
                        return;
                    }
                }
            };
            timeout(LONG, ended).await.expect("another one is asked for");
        }
        workers.are_done_with(messages, &buses).await;
        workers.tasks.shutdown().await;
    }
}

#[tokio::test]
async fn what_is_no_message_of_a_tunnel_harms_nothing() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let stranger = async_nats::connect(server.url()).await.unwrap();
    let buses = cluster(&server, 2).await;
    let mut workers = Workers::new(members(&buses, &printers()).await);
    let own = buses[1].counter.members().list()[0].id;
    for payload in [vec![], vec![9; 100], vec![3; 41], vec![1; 60]] {
        for subject in [
            format!("{PREFIX}.consume"),
            format!("{PREFIX}.tunnel.{own:016x}.1"),
            format!("{PREFIX}.tunnel.{own:016x}.x"),
        ] {
            stranger.publish(subject, payload.clone().into()).await.unwrap();
        }
    }
    stranger.flush().await.unwrap();
    publish(&buses[0].client, 1..=20).await;
    workers.are_done_with(20, &buses).await;
    assert!(workers.in_doubt.is_empty(), "no tunnel has ended");
    workers.tasks.shutdown().await;
}

#[test]
fn members_go_on_when_the_bus_that_has_the_consumer_is_killed() {
    if !nats::available() {
        return;
    }
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (own, killed) = (runtime(), runtime());
    let server = own.block_on(NatsServer::builder().jetstream().start());
    // All that runs for this one ends in the middle of what it does, as with its process.
    let (holder, first) = killed.block_on(async {
        let holder = joined(&server).await;
        let first = member(&holder, &printers().max_pending(96)).await;
        shared_by(&holder, 1).await;
        (holder, first)
    });
    own.block_on(async {
        let buses = [joined(&server).await, joined(&server).await];
        let mut rest = Vec::new();
        for bus in &buses {
            rest.push(member(bus, &printers().max_pending(96)).await);
        }
        shared_by(&holder, 3).await;
        publish(&buses[0].client, 1..=30).await;
        let mut workers = Workers::new(rest);
        // The first member has a part of them, and is at work on it.
        workers.finish([]).await;
        killed.shutdown_background();
        drop(first);
        publish(&buses[1].client, 31..=100).await;
        workers.are_done_with(100, &buses).await;
        workers.tasks.shutdown().await;
    });
    std::mem::forget(holder);
}
