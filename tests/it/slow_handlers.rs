//! Applications that take longer for what they are handed than the bus waits for one message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use whispeer::bus::BusBuilder;
use whispeer::client::Quality;
use whispeer::plugin::{Acknowledged, HookResult, Hooks, Plugin};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Reading, Store};

use crate::orders::{all, billing, client, publish, streams_on};

/// A bus with a stream of so many orders.
async fn bus_with(count: u64) -> (MemoryStore, BusHandle, Client) {
    let (store, bus, client) = bus_on(MemoryStore::new(), |bus| bus).await;
    publish(&client, 1..=count).await;
    (store, bus, client)
}

async fn bus_on(
    store: MemoryStore,
    set_up: impl FnOnce(BusBuilder) -> BusBuilder,
) -> (MemoryStore, BusHandle, Client) {
    let kept: Arc<dyn Store> = Arc::new(store.clone());
    let bus = set_up(Bus::builder().streams(streams_on(&kept).await)).start().unwrap();
    let client = client(&bus);
    (store, bus, client)
}

/// How often each order came to a durable subscription whose handler takes so long for each, in the order of their numbers.
async fn handled(client: &Client, count: u64, quality: Quality, takes: Duration) -> Vec<usize> {
    let options = all(quality).durable("billing");
    let mut orders = client.subscribe_bytes_with("orders/**", options).await.unwrap();
    let mut times = BTreeMap::<u64, usize>::new();
    // Nothing comes any more when the longest time of an attempt is over.
    while let Ok(Some((_, order))) = timeout(Duration::from_secs(3600), orders.recv()).await {
        *times.entry(number_of(&order)).or_default() += 1;
        sleep(takes).await;
    }
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>(), "each came");
    times.into_values().collect()
}

fn number_of(order: &Bytes) -> u64 {
    std::str::from_utf8(order).unwrap().parse().unwrap()
}

async fn dead_letters(store: &MemoryStore) -> usize {
    store.read(Name::new("orders.dead").unwrap(), Reading::from(1, 0)).await.unwrap().messages.len()
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_gets_nothing_twice_at_qos_2() {
    let (store, bus, client) = bus_with(600).await;
    let times = handled(&client, 600, Quality::ExactlyOnce, Duration::from_millis(200)).await;
    assert!(times.iter().all(|times| *times == 1), "{times:?}");
    assert_eq!(dead_letters(&store).await, 0);
    bus.stop().await;
}

/// Never comes back from hearing of an acknowledgement.
struct Deaf;

impl Plugin for Deaf {
    fn name(&self) -> &str {
        "deaf"
    }

    fn hooks(&self) -> Hooks {
        Hooks::ACK
    }

    async fn on_ack(&self, _acknowledged: &Acknowledged) -> HookResult {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn no_consumer_waits_for_a_plugin_that_is_slow_to_hear_of_acknowledgements() {
    let (_, bus, client) = bus_on(MemoryStore::new(), |bus| bus.plugin(Deaf)).await;
    publish(&client, 1..=50).await;
    let group = all(Quality::AtLeastOnce).group("billing");
    let mut orders = client.consume_bytes("orders/**", group.clone()).await.unwrap();
    for _ in 0..50 {
        orders.recv().await.unwrap().ack().await.unwrap();
    }
    let other = Client::new_memory(&bus.connector()).unwrap();
    let started = Instant::now();
    other.consume_bytes("orders/**", group).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let stopping = Instant::now();
    bus.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(60), "{:?}", stopping.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_slow_message_is_no_dead_letter_and_comes_once() {
    let (store, bus, client) = bus_with(100).await;
    let times = handled(&client, 100, Quality::AtLeastOnce, Duration::from_secs(15)).await;
    assert!(times.iter().all(|times| *times == 1), "{times:?}");
    assert_eq!(dead_letters(&store).await, 0);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_message_that_is_never_done_comes_to_others_as_untouched() {
    let (_, bus, client) = bus_with(10).await;
    let group = all(Quality::AtLeastOnce).group("billing");
    let mut stuck = client.consume_bytes("orders/**", group.clone()).await.unwrap();
    let first = stuck.recv().await.unwrap();
    let other = Client::new_memory(&bus.connector()).unwrap();
    let mut orders = other.consume_bytes("orders/**", group).await.unwrap();
    for number in 1..=10 {
        let order = timeout(Duration::from_secs(40), orders.recv()).await.expect("it comes").unwrap();
        let attempt = order.attempt.unwrap();
        assert_eq!((number_of(&order.value), attempt.redelivered), (number, true));
        assert_eq!(attempt.number, if number == 1 { 2 } else { 1 }, "only the first was begun with");
        order.ack().await.unwrap();
    }
    drop(first);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_what_is_acknowledged_has_not_failed_where_its_subscriber_leaves_without_it() {
    let (store, bus, client) = bus_with(2).await;
    let once = billing().max_deliver(1);
    let mut orders = client.consume_bytes("orders/**", once.clone()).await.unwrap();
    orders.recv().await.unwrap().ack().await.unwrap();
    drop(orders);
    let mut orders = client.consume_bytes("orders/**", once).await.unwrap();
    let order = timeout(Duration::from_secs(60), orders.recv()).await.expect("it is no dead letter").unwrap();
    assert_eq!((number_of(&order.value), order.attempt.unwrap().number), (2, 1));
    order.ack().await.unwrap();
    assert_eq!(dead_letters(&store).await, 0);
    bus.stop().await;
}
