//! Buses that share streams in JetStream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{Event, PublishOptions, Quality, Start, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::store_contract::settings;

use super::opened;

pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) async fn bus(server: &NatsServer) -> BusHandle {
    let store = Arc::new(opened(server).await);
    let streams = Streams::open(store, [settings("orders", &["orders/**"])]).await.unwrap();
    Bus::builder().streams(streams).start().unwrap()
}

pub(super) async fn publish(client: &Client, number: u64) {
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    client.publish_bytes_with("orders/7", number.to_string(), kept).await.unwrap();
}

/// The sequence and the payload of what comes next.
pub(super) async fn next(subscription: &mut Subscription<Bytes>) -> (u64, String) {
    match timeout(LONG, subscription.next_event()).await.expect("a message comes").unwrap() {
        Event::Message(message) => {
            let payload = String::from_utf8(message.value.to_vec()).unwrap();
            (message.position.expect("it reads a stream").sequence, payload)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_reads_at_one_bus_gets_what_was_published_at_both_in_one_order() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let buses = [bus(&server).await, bus(&server).await];
        let clients = [0, 1].map(|at| Client::new_memory(&buses[at].connector()).unwrap());
        publish(&clients[0], 1).await;
        let from_the_first = SubscribeOptions::default().start(Start::All);
        let mut readers = Vec::new();
        for client in &clients {
            readers.push(client.subscribe_bytes_with("orders/*", from_the_first.clone()).await.unwrap());
        }
        // All that there was has been read, so that they wait for what comes.
        for reader in &mut readers {
            assert_eq!(next(reader).await, (1, "1".to_owned()));
        }
        for number in 2..=20_u64 {
            publish(&clients[usize::from(number % 2 == 0)], number).await;
        }
        for reader in &mut readers {
            for number in 2..=20 {
                assert_eq!(next(reader).await, (number, number.to_string()));
            }
        }
        for bus in buses {
            bus.stop().await;
        }
    }
}

#[tokio::test]
async fn a_consumer_goes_on_at_another_bus_where_its_bus_has_ended() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let store = Arc::new(opened(&server).await);
    let streams = Streams::open(store.clone(), [settings("orders", &["orders/**"])]).await.unwrap();
    let (one, other) = (Bus::builder().streams(streams).start().unwrap(), bus(&server).await);
    let client = Client::new_memory(&one.connector()).unwrap();
    for number in 1..=3 {
        publish(&client, number).await;
    }
    let billing =
        || SubscribeOptions::default().quality(Quality::AtLeastOnce).durable("billing").start(Start::All);
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    let first = timeout(LONG, orders.recv()).await.unwrap().unwrap();
    first.ack().await.unwrap();
    drop((orders, client));
    one.stop().await;
    whispeer::store::Store::close(&*store).await.unwrap();
    let client = Client::new_memory(&other.connector()).unwrap();
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    let second = timeout(LONG, orders.recv()).await.unwrap().unwrap();
    assert_eq!(second.receipt.sequence(), 2);
    second.ack().await.unwrap();
    other.stop().await;
}
