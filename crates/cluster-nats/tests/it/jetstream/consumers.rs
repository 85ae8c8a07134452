//! Consumers with members at several buses: each is one bus's at a time, and goes from hand to hand.

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::bus::{ConsumerStats, Rows};
use whispeer::client::{Consumer, Delivery, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer_testkit::nats;

use super::buses::{LONG, bus, publish};

fn all() -> SubscribeOptions {
    SubscribeOptions::default().quality(Quality::AtLeastOnce).start(Start::All)
}

async fn next(consumer: &mut Consumer<Bytes>) -> Delivery<Bytes> {
    timeout(LONG, consumer.recv()).await.expect("a message comes").unwrap()
}

/// Takes the message with this sequence, and acknowledges it.
async fn take(consumer: &mut Consumer<Bytes>, sequence: u64) {
    let delivery = next(consumer).await;
    assert_eq!(delivery.receipt.sequence(), sequence);
    timeout(LONG, delivery.ack()).await.unwrap().unwrap();
}

/// What the only consumer of a bus waits for.
async fn waits_for(client: &Client) -> Option<String> {
    let rows = client.request_bytes("$bus/consumers", "".into()).await.unwrap();
    let rows: Rows<ConsumerStats> = rmp_serde::from_slice(&rows).unwrap();
    rows.rows[0].waits_for.clone()
}

#[tokio::test]
async fn members_at_another_bus_wait_and_go_on_where_the_last_of_the_first_bus_has_ended() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let buses = [bus(&server).await, bus(&server).await];
        let clients = [0, 1].map(|at| Client::new_memory(&buses[at].connector()).unwrap());
        for (name, options) in [("billing", all().durable("billing")), ("printers", all().group("printers"))]
        {
            for number in 1..=4 {
                publish(&clients[0], number).await;
            }
            let consume = |at: usize| clients[at].consume_bytes("orders/**", options.clone());
            let mut first = consume(0).await.unwrap();
            let begin = next(&mut first).await;
            let sequence = begin.receipt.sequence();
            timeout(LONG, begin.ack()).await.unwrap().unwrap();
            // It takes part at once, and gets nothing.
            let mut second = timeout(LONG, consume(1)).await.unwrap().unwrap();
            take(&mut first, sequence + 1).await;
            assert_eq!(waits_for(&clients[1]).await.as_deref(), Some("bus"), "{name}");
            // Both buses go on.
            drop(first);
            take(&mut second, sequence + 2).await;
            let mut first = timeout(LONG, consume(0)).await.unwrap().unwrap();
            take(&mut second, sequence + 3).await;
            publish(&clients[0], 5).await;
            take(&mut second, sequence + 4).await;
            drop(second);
            publish(&clients[1], 6).await;
            take(&mut first, sequence + 5).await;
            drop(first);
            remove(&clients[0], name).await;
        }
        for bus in buses {
            bus.stop().await;
        }
    }
}

/// Removes a consumer, as soon as it has no members any more.
async fn remove(client: &Client, name: &str) {
    let change =
        whispeer::bus::StreamChange::RemoveConsumer { stream: "orders".into(), consumer: name.into() };
    let removed = async {
        while client.request_bytes("$bus/streams/change", change.to_bytes()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, removed).await.expect("it is removed");
}

#[tokio::test]
async fn a_member_goes_on_at_once_where_the_other_bus_stops() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsServer::builder().jetstream().start().await;
    let (one, other) = (bus(&server).await, bus(&server).await);
    let first = Client::new_memory(&one.connector()).unwrap();
    let second = Client::new_memory(&other.connector()).unwrap();
    for number in 1..=3 {
        publish(&first, number).await;
    }
    let mut of_one = first.consume_bytes("orders/**", all().durable("billing")).await.unwrap();
    take(&mut of_one, 1).await;
    let held = next(&mut of_one).await;
    assert_eq!(held.receipt.sequence(), 2);
    let mut of_other = second.consume_bytes("orders/**", all().durable("billing")).await.unwrap();
    let begun = std::time::Instant::now();
    one.stop().await;
    // What was not acknowledged comes again.
    take(&mut of_other, 2).await;
    take(&mut of_other, 3).await;
    let lease = whispeer_cluster_nats::limits::JETSTREAM_LEASE;
    assert!(begun.elapsed() < lease, "nobody has waited for the lease: {:?}", begun.elapsed());
    drop(held);
    other.stop().await;
}

#[tokio::test]
async fn who_asks_for_other_topics_is_told_so_also_while_another_bus_has_the_consumer() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsServer::builder().jetstream().start().await;
    let (one, other) = (bus(&server).await, bus(&server).await);
    let first = Client::new_memory(&one.connector()).unwrap();
    let second = Client::new_memory(&other.connector()).unwrap();
    let _billing = first.consume_bytes("orders/**", all().durable("billing")).await.unwrap();
    let refused = second.consume_bytes("orders/new", all().durable("billing")).await;
    assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{:?}", refused.map(drop));
    // Who waits and goes leaves nothing behind.
    let waiting = second.consume_bytes("orders/**", all().durable("billing")).await.unwrap();
    drop(waiting);
    let mut again = second.consume_bytes("orders/**", all().durable("billing")).await.unwrap();
    publish(&second, 1).await;
    one.stop().await;
    take(&mut again, 1).await;
    other.stop().await;
}
