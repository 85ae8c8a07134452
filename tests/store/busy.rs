//! A bus whose store is slower than those who use it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{Event, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::{SqliteOptions, SqliteStore, Store};

use crate::workload::settings;

const LONG: Duration = Duration::from_secs(60);

/// A bus with one stream, in a file whose disk is waited for.
async fn bus(folder: &tempfile::TempDir) -> (BusHandle, Arc<dyn Store>) {
    let store = SqliteStore::open(&folder.path().join("db"), SqliteOptions::new()).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let streams = Streams::open(Arc::clone(&store), [settings("orders", &["orders/**"])]).await.unwrap();
    (Bus::builder().streams(streams).start().unwrap(), store)
}

fn client(bus: &BusHandle) -> Client {
    Client::new_memory(&bus.connector()).unwrap()
}

fn kept() -> PublishOptions {
    PublishOptions::default().quality(Quality::AtLeastOnce)
}

/// Publishes so many messages one after the other, without waiting for any.
async fn pipeline(client: Client, publisher: u64, count: u64) {
    let orders = client.publisher_bytes_with("orders/7", kept()).unwrap();
    for number in 0..count {
        orders.send(&Bytes::from(format!("{publisher} {number}"))).await.unwrap();
    }
    orders.flush().await.unwrap();
}

/// Has so many publish as fast as they can, and one durable consumer beside them.
async fn publish_from(publishers: u64, count: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (bus, store) = bus(&folder).await;
    let durable =
        SubscribeOptions::default().quality(Quality::AtLeastOnce).start(Start::All).durable("billing");
    let mut orders = client(&bus).consume_bytes("orders/**", durable).await.unwrap();
    let tasks: Vec<_> =
        (0..publishers).map(|publisher| tokio::spawn(pipeline(client(&bus), publisher, count))).collect();
    let mut next = vec![0; publishers as usize];
    for _ in 0..publishers * count {
        let delivery = timeout(LONG, orders.recv()).await.expect("it lives on").expect("it lives on");
        let text = String::from_utf8(delivery.value.to_vec()).unwrap();
        let (publisher, number) = text.split_once(' ').unwrap();
        let next: &mut u64 = &mut next[publisher.parse::<usize>().unwrap()];
        assert_eq!(number.parse::<u64>().unwrap(), *next, "publisher {publisher}: in its order, once each");
        *next += 1;
        drop(delivery.ack());
    }
    for task in tasks {
        task.await.expect("nobody is told that a message is not stored");
    }
    let states = store.streams().await.unwrap();
    assert_eq!(states.iter().map(|state| state.messages).sum::<u64>(), publishers * count);
    bus.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_publishers_that_do_not_wait_lose_nothing() {
    publish_from(16, 1_100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_publishers_that_do_not_wait_lose_nothing() {
    publish_from(64, 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_subscriptions_that_read_the_stream_outlive_a_publish() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, _store) = bus(&folder).await;
    let mut subscriptions = Vec::new();
    for _ in 0..10 {
        let client = client(&bus);
        for _ in 0..600 {
            let new = SubscribeOptions::default().start(Start::New);
            subscriptions.push(client.subscribe_bytes_with("orders/**", new).await.unwrap());
        }
    }
    client(&bus).publish_bytes_with("orders/7", "two apples", kept()).await.unwrap();
    for subscription in &mut subscriptions {
        match timeout(LONG, subscription.next_event()).await.expect("it comes") {
            Some(Event::Message(message)) => assert_eq!(message.value, "two apples"),
            other => panic!("{other:?}: {:?}", subscription.close_reason()),
        }
    }
    bus.stop().await;
}
