//! A store that does not take what consumers have done, for a while or for good.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use whispeer::bus::{ConsumerStats, Rows};
use whispeer::client::Consumer;
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::fields::{FieldsBuilder, Quality};
use whispeer::proto::{Header, Kind};
use whispeer::store::{Change, MemoryStore, Name, Reading, Store, StoreError};
use whispeer_testkit::raw::RawPeer;

use crate::orders::{QUIET, billing, bus_on, client, floor, next, publish};
use crate::tampered_store::TamperedStore;

/// Longer than anybody waits for a store. Time is paused.
const LONG: Duration = Duration::from_secs(60);

/// What the store says to consumers that write.
type Refusal = Arc<Mutex<Option<StoreError>>>;

fn full() -> StoreError {
    StoreError::Full { place: "a disk".into() }
}

fn busy() -> StoreError {
    StoreError::Busy { what: "too much waits for the store".into() }
}

fn say(refusal: &Refusal, error: impl Into<Option<StoreError>>) {
    *refusal.lock().unwrap() = error.into();
}

fn is_of_publisher(change: &Change) -> bool {
    matches!(change, Change::Append(_) | Change::Expire { .. })
}

/// A bus with so many orders, and a store that may take nothing of consumers.
async fn place(orders: u64) -> (Arc<dyn Store>, Refusal, BusHandle, Client) {
    let refusal = Refusal::default();
    let told = Arc::clone(&refusal);
    let store = TamperedStore::new(MemoryStore::new()).on_change(move |changes| {
        told.lock().unwrap().clone().filter(|_| !changes.iter().all(is_of_publisher))
    });
    let store: Arc<dyn Store> = Arc::new(store);
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=orders).await;
    (store, refusal, bus, client)
}

async fn consumer(client: &Client) -> Consumer<Bytes> {
    client.consume_bytes("orders/**", billing().max_deliver(1)).await.unwrap()
}

async fn waits_for(client: &Client) -> Option<String> {
    let answer = client.request_bytes("$bus/consumers", "".into()).await.unwrap();
    let listed: Rows<ConsumerStats> = rmp_serde::from_slice(&answer).unwrap();
    listed.rows[0].waits_for.clone()
}

async fn dead(store: &Arc<dyn Store>) -> Vec<Bytes> {
    let page = store.read(Name::new("orders.dead").unwrap(), Reading::from(1, 0)).await.unwrap();
    page.messages.into_iter().map(|letter| letter.payload).collect()
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_waits_for_room_on_the_disk_and_its_consumer_goes_on() {
    for error in [full(), busy(), StoreError::InUse { place: "a file".into() }] {
        let (store, refusal, bus, client) = place(3).await;
        let mut orders = consumer(&client).await;
        let first = next(&mut orders).await;
        say(&refusal, error);
        let mut first = std::pin::pin!(first.ack().into_future());
        assert!(timeout(QUIET, first.as_mut()).await.is_err(), "it is not kept");
        // The others are handed over and acknowledged meanwhile.
        let waiting = [next(&mut orders).await.ack(), next(&mut orders).await.ack()];
        assert_eq!((floor(&store).await, waits_for(&client).await.as_deref()), (1, Some("store")));
        say(&refusal, None);
        first.await.unwrap();
        for waiting in waiting {
            waiting.await.unwrap();
        }
        assert_eq!((floor(&store).await, waits_for(&client).await), (4, None));
        bus.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_acknowledgement_is_told_when_the_disk_stays_full_and_it_is_kept_all_the_same() {
    let (store, refusal, bus, client) = place(2).await;
    let mut orders = consumer(&client).await;
    let first = next(&mut orders).await;
    say(&refusal, full());
    let begin = Instant::now();
    let told = timeout(LONG, first.ack()).await.expect("it is told").unwrap_err();
    assert!(matches!(&told, BusError::NotStored { reason } if reason.contains("full")), "{told}");
    let took = begin.elapsed();
    assert!(took >= limits::STORE_PATIENCE && took <= limits::STORE_PATIENCE + 2 * limits::STORE_RETRY_MAX);

    sleep(limits::ACK_WAIT / 2).await;
    assert_eq!(floor(&store).await, 1);
    say(&refusal, None);
    sleep(limits::STORE_RETRY_MAX).await;
    assert_eq!(floor(&store).await, 2, "it is kept once there is room, though nobody waits for that");
    next(&mut orders).await.ack().await.unwrap();
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_handed_over_is_marked_before_it_is() {
    let orders = limits::CONSUMER_STRIDE + 10;
    let (_, refusal, bus, client) = place(orders).await;
    let mut consumer = consumer(&client).await;
    drop(next(&mut consumer).await.ack());
    say(&refusal, full());
    for _ in 1..limits::CONSUMER_STRIDE {
        drop(next(&mut consumer).await.ack());
    }
    assert!(timeout(LONG, consumer.recv()).await.is_err(), "nobody knows that it would be handed over");
    say(&refusal, None);
    for _ in limits::CONSUMER_STRIDE..orders {
        next(&mut consumer).await.ack().await.unwrap();
    }
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_again_and_again_of_what_the_disk_has_no_room_to_mark() {
    let (refusal, reads) = (Refusal::default(), Arc::new(AtomicUsize::new(0)));
    let (told, counted) = (Arc::clone(&refusal), Arc::clone(&reads));
    let store = TamperedStore::new(MemoryStore::new())
        .on_change(move |changes| {
            told.lock().unwrap().clone().filter(|_| !changes.iter().all(is_of_publisher))
        })
        .on_read(move |_, answer| {
            counted.fetch_add(1, Ordering::Relaxed);
            answer
        });
    let store: Arc<dyn Store> = Arc::new(store);
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=limits::CONSUMER_STRIDE).await;
    let mut orders = consumer(&client).await;
    let mut held = Vec::new();
    for _ in 0..limits::CONSUMER_STRIDE {
        held.push(next(&mut orders).await);
    }
    say(&refusal, full());
    publish(&client, 1..=1).await;
    reads.store(0, Ordering::Relaxed);
    let begin = Instant::now();
    let many = 100;
    for order in held.drain(..many) {
        drop(order.ack());
        // The consumer has had its turn when this is answered.
        waits_for(&client).await;
    }
    // A store that is full is asked again in 10 ms, in 20, and so on.
    let tries = begin.elapsed().as_millis() / limits::STORE_RETRY.as_millis() + 2;
    let reads = reads.load(Ordering::Relaxed);
    assert!((reads as u128) <= tries && reads < many / 2, "{reads} in {:?}", begin.elapsed());
    say(&refusal, None);
    next(&mut orders).await.ack().await.unwrap();
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_put_away_once_there_is_room_and_each_once() {
    let (store, refusal, bus, client) = place(3).await;
    let mut orders = consumer(&client).await;
    for _ in 0..3 {
        let order = next(&mut orders).await;
        say(&refusal, full());
        order.nack(Duration::ZERO);
    }
    assert!(timeout(LONG, orders.recv()).await.is_err(), "they do not come again");
    assert!(dead(&store).await.is_empty());
    say(&refusal, None);
    sleep(limits::STORE_RETRY_MAX).await;
    assert_eq!((dead(&store).await, floor(&store).await), (vec!["1".into(), "2".into(), "3".into()], 4));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_ends_a_consumer_that_writes() {
    let failed = || StoreError::Failed { place: "a disk".into(), reason: "smoke".into() };
    for (error, after) in [(failed(), Duration::ZERO), (busy(), limits::STORE_PATIENCE)] {
        let (_, refusal, bus, client) = place(2).await;
        let mut orders = consumer(&client).await;
        let first = next(&mut orders).await;
        say(&refusal, error.clone());
        let begin = Instant::now();
        assert!(matches!(first.ack().await, Err(BusError::NotStored { .. })));
        while timeout(LONG, orders.recv()).await.expect("it ends").is_some() {}
        let took = begin.elapsed();
        assert!(took >= after && took <= after + limits::STORE_RETRY_MAX, "{took:?}");
        let reason = orders.close_reason().unwrap().to_string();
        assert!(reason.contains(&error.to_string()), "{reason}");
        say(&refusal, None);
        drop(orders);
        next(&mut consumer(&client).await).await.ack().await.unwrap();
        bus.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_while_the_disk_is_full_goes_on_where_he_was() {
    let (_, refusal, bus, client) = place(3).await;
    let mut orders = consumer(&client).await;
    let first = next(&mut orders).await;
    say(&refusal, full());
    drop(first.ack());
    drop(orders);
    let mut orders = consumer(&client).await;
    assert_eq!(next(&mut orders).await.value, "2", "what was done is known as long as it is to be written");
    say(&refusal, None);
    assert_eq!(next(&mut orders).await.value, "3");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_stops_though_the_disk_is_full() {
    let (_, refusal, bus, client) = place(1).await;
    let mut orders = consumer(&client).await;
    let first = next(&mut orders).await;
    say(&refusal, full());
    drop(first.ack());
    sleep(QUIET).await;
    let begin = Instant::now();
    timeout(LONG, bus.stop()).await.expect("it stops");
    assert!(begin.elapsed() <= limits::CONSUMERS_GRACE + Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_will_waits_for_room_on_the_disk() {
    let refusal = Refusal::default();
    let told = Arc::clone(&refusal);
    let store = TamperedStore::new(MemoryStore::new()).on_change(move |changes| {
        let appends = changes.iter().any(|change| matches!(change, Change::Append(_)));
        told.lock().unwrap().clone().filter(|_| appends)
    });
    let store: Arc<dyn Store> = Arc::new(store);
    let bus = bus_on(&store).await;
    let (mut dying, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    for will in ["first", "farewell"] {
        let mut fields = FieldsBuilder::new();
        fields.quality(Quality::AtLeastOnce).unwrap();
        dying.push_with(&Header::new(Kind::Will, 1, 0), fields.as_bytes(), b"orders/7", will.as_bytes());
        dying.flush().await.unwrap();
        while dying.receive().await.unwrap().unwrap().header.kind != Kind::Accepted {}
    }
    // It is gone by the time that there is room.
    say(&refusal, full());
    drop(dying);
    sleep(LONG).await;
    say(&refusal, None);
    sleep(LONG).await;
    let page = store.read(Name::new("orders").unwrap(), Reading::from(1, 0)).await.unwrap();
    let orders: Vec<Bytes> = page.messages.into_iter().map(|order| order.payload).collect();
    assert_eq!(orders, ["farewell"]);
    bus.stop().await;
}
