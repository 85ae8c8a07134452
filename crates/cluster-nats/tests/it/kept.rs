//! Durable topics of buses that are joined.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use whispeer::bus::Streams;
use whispeer::client::{Event, PublishOptions, Quality, Start, SubscribeOptions, Subscription};
use whispeer::store::{MemoryStore, Store};
use whispeer_testkit::nats::{self, NatsBuilder, NatsServer};
use whispeer_testkit::store_contract::settings;

use crate::jetstream::opened;
use crate::joined::{Joined, next, silent, soon};

async fn keeping(server: &NatsServer, store: Arc<dyn Store>) -> Joined {
    let streams = Streams::open(store, [settings("orders", &["orders/**"])]).await.unwrap();
    Joined::built(&server.url(), whispeer::prelude::Bus::builder().streams(streams)).await
}

async fn position(reader: &mut Subscription<Bytes>) -> (u64, String) {
    match soon("a message of the stream", reader.next_event()).await.unwrap() {
        Event::Message(message) => {
            let text = String::from_utf8(message.value.to_vec()).unwrap();
            (message.position.expect("it reads a stream").sequence, text)
        }
        other => panic!("{other:?}"),
    }
}

fn from_the_first() -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All)
}

#[tokio::test]
async fn what_one_bus_keeps_is_brought_to_it_from_all() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let keeper = keeping(&server, Arc::new(MemoryStore::new())).await;
    let other = Joined::new(&server.url()).await;
    keeper.wants(1, &nats).await;
    for number in 1..=3 {
        other.client.publish_bytes("orders/7", number.to_string()).await.unwrap();
    }
    let mut reader = keeper.client.subscribe_bytes_with("orders/**", from_the_first()).await.unwrap();
    for number in 1..=3 {
        assert_eq!(position(&mut reader).await, (number, number.to_string()));
    }
}

#[tokio::test]
async fn what_all_keep_together_is_kept_once_and_reaches_live_subscribers_once() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().jetstream().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let a = keeping(&server, Arc::new(opened(&server).await)).await;
    let b = keeping(&server, Arc::new(opened(&server).await)).await;
    let mut live = b.client.subscribe_bytes("orders/*").await.unwrap();
    b.wants(1, &nats).await;
    let kept = || PublishOptions::default().quality(Quality::AtLeastOnce);
    for number in 1..=3 {
        a.client.publish_bytes_with("orders/7", number.to_string(), kept()).await.unwrap();
    }
    for number in 1..=3 {
        assert_eq!(next(&mut live).await, ("orders/7".into(), number.to_string()));
    }
    for joined in [&a, &b] {
        let mut reader = joined.client.subscribe_bytes_with("orders/**", from_the_first()).await.unwrap();
        for number in 1..=3 {
            assert_eq!(position(&mut reader).await, (number, number.to_string()));
        }
        sleep(Duration::from_millis(100)).await;
        silent(&mut reader).await;
    }
    silent(&mut live).await;
}
