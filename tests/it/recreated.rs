//! Who acknowledges is told where the stream is not the one that it knows, and gets all of the one that there is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::client::{Event, GapReason, Message, Quality, Start, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer::store::{Change, Store};

use crate::orders::{LONG, QUIET, bus_on, client, orders, publish, returning_client, store, streams_on};

/// An epoch that no stream here has.
const ANOTHER: [u8; 16] = [9; 16];

async fn bus_at(path: &Path, store: &Arc<dyn Store>) -> BusHandle {
    Bus::builder().streams(streams_on(store).await).listen_unix(path).start().unwrap()
}

fn acknowledging(start: Start) -> SubscribeOptions {
    SubscribeOptions::default().quality(Quality::AtLeastOnce).start(start)
}

async fn next_event(subscription: &mut Subscription<Bytes>) -> Event<Bytes> {
    timeout(LONG, subscription.next_event()).await.expect("something comes").unwrap()
}

async fn next_is_recreated(subscription: &mut Subscription<Bytes>) {
    let event = next_event(subscription).await;
    assert!(matches!(event, Event::Gap { count: 0, reason: GapReason::Recreated }), "{event:?}");
}

async fn take(subscription: &mut Subscription<Bytes>, count: usize) -> Vec<(u64, Bytes)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        match next_event(subscription).await {
            Event::Message(Message { position, value, .. }) => {
                taken.push((position.unwrap().sequence, value));
            }
            other => panic!("{other:?} behind {taken:?}"),
        }
    }
    taken
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, Bytes)> {
    range.map(|number| (number, number.to_string().into())).collect()
}

#[tokio::test]
async fn a_stream_that_was_lost_is_told_to_consumers_and_read_from_its_beginning() {
    let kinds: [fn(SubscribeOptions) -> SubscribeOptions; 3] =
        [|options| options, |options| options.durable("billing"), |options| options.group("billing")];
    for (kind, start) in kinds.into_iter().flat_map(|kind| [(kind, Start::All), (kind, Start::New)]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let bus = bus_at(&path, &store()).await;
        let reader = returning_client(&path).await;
        let options = kind(acknowledging(start));
        let mut log = reader.subscribe_bytes_with("orders/**", options).await.unwrap();
        let epoch = log.epoch().unwrap();
        publish(&client(&bus), 1..=5).await;
        assert_eq!(take(&mut log, 5).await, numbers(1..=5));
        bus.stop().await;

        // The stream is made anew, and there are messages in it by the time at which the reader comes back.
        let store = store();
        let inside = bus_on(&store).await;
        publish(&client(&inside), 1..=2).await;
        inside.stop().await;
        let bus = bus_at(&path, &store).await;
        next_is_recreated(&mut log).await;
        publish(&client(&bus), 3..=3).await;
        assert_eq!(take(&mut log, 3).await, numbers(1..=3));
        assert_ne!(log.epoch().unwrap(), epoch);
        assert_eq!(log.counts().dropped(), 0, "nobody knows how many");

        // The next session knows the stream that there is now. What was taken is acknowledged when the next one is asked for.
        assert!(timeout(Duration::ZERO, log.next_event()).await.is_err());
        reader.ping().await.unwrap();
        bus.stop().await;
        let bus = bus_at(&path, &store).await;
        publish(&client(&bus), 4..=4).await;
        assert_eq!(take(&mut log, 1).await, numbers(4..=4));
        bus.stop().await;
    }
}

#[tokio::test]
async fn who_knows_another_epoch_begins_with_the_oldest_message_wherever_he_would_go_on() {
    let bus = bus_on(&store()).await;
    let client = client(&bus);
    publish(&client, 1..=3).await;
    for start in [Start::From(100), Start::From(3), Start::New, Start::Last(1)] {
        let options = acknowledging(start).epoch(ANOTHER);
        let mut log = client.subscribe_bytes_with("orders/**", options).await.unwrap();
        next_is_recreated(&mut log).await;
        assert_eq!(take(&mut log, 3).await, numbers(1..=3), "{start:?}");
    }
}

#[tokio::test]
async fn who_goes_on_behind_the_end_of_the_stream_that_he_knows_is_told_and_gets_what_comes() {
    let bus = bus_on(&store()).await;
    let client = client(&bus);
    publish(&client, 1..=3).await;
    let behind = acknowledging(Start::From(100));
    let mut unknowing = client.subscribe_bytes_with("orders/**", behind.clone()).await.unwrap();
    let behind = behind.epoch(unknowing.epoch().unwrap());
    let mut knowing = client.subscribe_bytes_with("orders/**", behind.clone()).await.unwrap();
    let mut durable = client.subscribe_bytes_with("orders/**", behind.durable("billing")).await.unwrap();
    next_is_recreated(&mut knowing).await;
    next_is_recreated(&mut durable).await;
    publish(&client, 4..=4).await;
    for log in [&mut unknowing, &mut knowing, &mut durable] {
        assert_eq!(take(log, 1).await, numbers(4..=4));
    }
    // At its end all is well.
    let at_end = acknowledging(Start::From(5)).epoch(knowing.epoch().unwrap());
    let mut log = client.subscribe_bytes_with("orders/**", at_end).await.unwrap();
    publish(&client, 5..=5).await;
    assert_eq!(take(&mut log, 1).await, numbers(5..=5));
}

#[tokio::test]
async fn a_position_that_the_store_keeps_holds_in_a_stream_with_a_new_epoch_and_its_consumer_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let store = store();
    let bus = bus_at(&path, &store).await;
    let reader = returning_client(&path).await;
    let options = acknowledging(Start::All).durable("billing");
    let mut billing = reader.consume_bytes("orders/**", options.clone()).await.unwrap();
    publish(&client(&bus), 1..=3).await;
    for _ in 1..=3 {
        billing.recv().await.unwrap().ack().await.unwrap();
    }
    drop(billing);
    reader.ping().await.unwrap();
    let mut billing = reader.subscribe_bytes_with("orders/**", options).await.unwrap();
    bus.stop().await;
    store.commit(orders(), vec![Change::renew().unwrap()]).await.unwrap();
    let bus = bus_at(&path, &store).await;
    next_is_recreated(&mut billing).await;
    publish(&client(&bus), 4..=4).await;
    assert_eq!(take(&mut billing, 1).await, numbers(4..=4));
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_a_group_and_knows_another_epoch_is_told_and_nobody_else() {
    let bus = bus_on(&store()).await;
    let client = client(&bus);
    let group = || acknowledging(Start::New).group("billing");
    let mut knowing = client.subscribe_bytes_with("orders/**", group()).await.unwrap();
    let mut other = client.subscribe_bytes_with("orders/**", group().epoch(ANOTHER)).await.unwrap();
    next_is_recreated(&mut other).await;
    assert!(timeout(QUIET, knowing.next_event()).await.is_err());
}
