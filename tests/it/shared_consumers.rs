//! Consumers of a store that several buses have, as one of these buses sees it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use whispeer::bus::Streams;
use whispeer::client::{Consumer, Delivery, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{Change, MemoryStore, Name, StoreError, StreamSettings};

use crate::tampered_store::TamperedStore;

/// Long enough for whatever is on its way to come. Time is paused.
const LONG: Duration = Duration::from_secs(60);

/// What the store says to changes of consumers, and what it was told to make.
#[derive(Debug, Default)]
struct Elsewhere {
    refusal: Option<StoreError>,
    freed: usize,
}

type Told = Arc<Mutex<Elsewhere>>;

fn in_use() -> StoreError {
    StoreError::InUse { place: "the consumer \"billing\"".into() }
}

fn refuse(told: &Told, refusal: Option<StoreError>) {
    told.lock().unwrap().refusal = refusal;
}

async fn bus() -> (BusHandle, Client, Told) {
    let told = Told::default();
    let (changes, questions) = (Arc::clone(&told), Arc::clone(&told));
    let store = TamperedStore::new(MemoryStore::new())
        .shared()
        .on_change(move |made| {
            let mut elsewhere = changes.lock().unwrap();
            if !made.iter().any(|change| change.consumer().is_some()) {
                return None;
            }
            if elsewhere.refusal.is_none() {
                elsewhere.freed += made.iter().filter(|made| matches!(made, Change::FreeConsumer(_))).count();
            }
            elsewhere.refusal.clone()
        })
        .on_question(move || {
            let refusal = questions.lock().unwrap().refusal.clone();
            refusal.filter(|refusal| matches!(refusal, StoreError::Busy { .. }))
        });
    let (name, pattern) = (Name::new("orders").unwrap(), TopicPattern::new("orders/**").unwrap());
    let streams = Streams::open(Arc::new(store), [StreamSettings::new(name, vec![pattern])]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    (bus, client, told)
}

async fn publish(client: &Client, number: u64) {
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    client.publish_bytes_with("orders/7", number.to_string(), kept).await.unwrap();
}

fn billing() -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All).quality(Quality::AtLeastOnce).durable("billing")
}

async fn next(consumer: &mut Consumer<Bytes>) -> Delivery<Bytes> {
    timeout(LONG, consumer.recv()).await.expect("a message comes").unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_takes_part_while_another_bus_has_the_consumer_waits_and_goes_on_when_that_gives_it_up() {
    let (bus, client, told) = bus().await;
    publish(&client, 1).await;
    refuse(&told, Some(in_use()));
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    // For longer than a store is waited for that is busy.
    let early = timeout(3 * limits::STORE_PATIENCE, orders.recv()).await;
    assert!(early.is_err(), "it is another bus's");
    refuse(&told, None);
    let first = timeout(2 * limits::CONSUMER_HAND_OVER, orders.recv()).await.expect("at once").unwrap();
    first.ack().await.unwrap();
    // It is given up with the last member, and not before.
    assert_eq!(told.lock().unwrap().freed, 0);
    drop(orders);
    let freed = async {
        while told.lock().unwrap().freed == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, freed).await.expect("others may have it");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_and_leaves_is_in_nobodys_way() {
    let (bus, client, told) = bus().await;
    refuse(&told, Some(in_use()));
    for _ in 0..3 {
        let waiting = timeout(LONG, client.consume_bytes("orders/**", billing())).await.unwrap().unwrap();
        let other = Client::new_memory(&bus.connector()).unwrap();
        let busy = other.consume_bytes("orders/**", billing()).await;
        assert!(matches!(busy, Err(BusError::ConsumerBusy { .. })), "{:?}", busy.map(drop));
        drop(waiting);
        client.flush().await.unwrap();
    }
    timeout(LONG, bus.drain(LONG)).await.expect("nobody is waited for");
    assert_eq!(told.lock().unwrap().freed, 0, "it was never this bus's to give");
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_finds_its_consumer_anothers_has_its_members_wait() {
    let (bus, client, told) = bus().await;
    for number in 1..=3 {
        publish(&client, number).await;
    }
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    next(&mut orders).await.ack().await.unwrap();
    let (second, third) = (next(&mut orders).await, next(&mut orders).await);
    refuse(&told, Some(in_use()));
    let refused = timeout(LONG, second.ack()).await.expect("he is told");
    assert!(matches!(refused, Err(BusError::NotStored { .. })), "{refused:?}");
    let refused = timeout(LONG, third.ack()).await.expect("he is told");
    assert!(matches!(refused, Err(BusError::NotStored { .. })), "{refused:?}");
    assert!(timeout(LONG, orders.recv()).await.is_err(), "it is another bus's");
    // That one has done nothing.
    refuse(&told, None);
    for sequence in 2..=3 {
        let again = next(&mut orders).await;
        assert_eq!(again.receipt.sequence(), sequence);
        again.ack().await.unwrap();
    }
    publish(&client, 4).await;
    next(&mut orders).await.ack().await.unwrap();
    drop(orders);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_elsewhere_is_waited_for_however_long_it_is_away() {
    let (bus, client, told) = bus().await;
    publish(&client, 1).await;
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    let mut reader = client
        .subscribe_bytes_with("orders/**", SubscribeOptions::default().start(Start::All))
        .await
        .unwrap();
    timeout(LONG, reader.recv()).await.unwrap().unwrap();
    let first = next(&mut orders).await;
    refuse(&told, Some(StoreError::Busy { what: "nobody answers".into() }));
    publish(&client, 2).await;
    // Who waits for an acknowledgement is told after a while, and it is written nevertheless.
    let told_so = timeout(LONG, first.ack()).await.expect("he is told");
    assert!(matches!(told_so, Err(BusError::NotStored { .. })), "{told_so:?}");
    assert!(timeout(10 * LONG, reader.recv()).await.is_err(), "nobody can read it");
    refuse(&told, None);
    assert_eq!(timeout(LONG, reader.recv()).await.unwrap().unwrap().1, "2");
    let second = next(&mut orders).await;
    assert_eq!(second.receipt.sequence(), 2, "the first is done");
    second.ack().await.unwrap();
    drop(orders);
    bus.stop().await;
}
