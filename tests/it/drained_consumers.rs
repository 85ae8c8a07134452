//! Consumers that take nothing new and finish what they have.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::client::{Consumer, Delivery, Quality};
use whispeer::prelude::*;

use crate::orders::{
    LONG, QUIET, all, billing, bus_on, client, floor, next, publish, returning_client, store, streams_on,
};

/// What waits at the consumer until it ends.
async fn rest(consumer: &mut Consumer<Bytes>) -> Vec<Delivery<Bytes>> {
    let mut rest = Vec::new();
    while let Some(delivery) = timeout(LONG, consumer.recv()).await.expect("it has ended") {
        rest.push(delivery);
    }
    rest
}

/// Where a message lies, and whether somebody may have had it before.
fn what(delivery: &Delivery<Bytes>) -> (u64, bool) {
    (delivery.receipt.sequence(), delivery.attempt.expect("it is to be acknowledged").redelivered)
}

async fn ack(delivery: Delivery<Bytes>) -> BusResult<()> {
    timeout(LONG, delivery.ack()).await.expect("an answer comes")
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_over_before_the_drain_is_taken_and_acknowledged_after_it() {
    let store = store();
    let bus = bus_on(&store).await;
    let (one, other) = (client(&bus), client(&bus));
    publish(&other, 1..=5).await;
    let mut orders = one.consume_bytes("orders/**", billing()).await.unwrap();
    let (first, second) = (next(&mut orders).await, next(&mut orders).await);
    orders.drain().await.unwrap();
    publish(&other, 6..=6).await;
    let rest = rest(&mut orders).await;
    assert_eq!(rest.iter().map(|order| what(order).0).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(orders.drain().await.is_ok(), "it may be asked for twice");

    // It is this one's until nothing is left.
    let busy = other.consume_bytes("orders/**", billing()).await.unwrap_err();
    assert!(matches!(busy, BusError::ConsumerBusy { .. }), "{busy}");
    for order in rest.into_iter().rev() {
        ack(order).await.unwrap();
    }
    assert_eq!(floor(&store).await, 1, "the first ones are in hand");
    ack(first).await.unwrap();
    second.nack(Duration::ZERO);
    other.flush().await.unwrap();
    one.flush().await.unwrap();

    let mut successor = other.consume_bytes("orders/**", billing()).await.unwrap();
    for expected in [(2, true), (6, false)] {
        let order = next(&mut successor).await;
        assert_eq!(what(&order), expected);
        ack(order).await.unwrap();
    }
    assert_eq!(floor(&store).await, 7);
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered), (7, 7));
    drop((orders, successor));
    one.flush().await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(bus.stats().dropped.values().sum::<u64>(), 0, "what was drained is the client's");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_member_has_what_it_was_handed_as_long_as_its_time_lasts() {
    let store = store();
    let bus = bus_on(&store).await;
    let (one, two) = (client(&bus), client(&bus));
    let workers = || all(Quality::AtLeastOnce).group("workers").ack_wait(Duration::from_secs(10));
    let mut first = one.consume_bytes("orders/**", workers()).await.unwrap();
    publish(&one, 1..=3).await;
    let (late, longer, refused) = (next(&mut first).await, next(&mut first).await, next(&mut first).await);
    first.drain().await.unwrap();
    let mut second = two.consume_bytes("orders/**", workers()).await.unwrap();
    publish(&one, 4..=4).await;
    let order = next(&mut second).await;
    assert_eq!(what(&order), (4, false), "what is new is for the others");
    ack(order).await.unwrap();
    refused.nack(Duration::ZERO);
    let order = next(&mut second).await;
    assert_eq!(what(&order), (3, true));
    ack(order).await.unwrap();

    tokio::time::advance(Duration::from_secs(9)).await;
    longer.in_progress();
    let order = next(&mut second).await;
    assert_eq!(what(&order), (1, true));
    let stale = ack(late).await.unwrap_err();
    assert!(matches!(stale, BusError::StaleAck { .. }), "{stale}");
    ack(longer).await.unwrap();
    assert!(rest(&mut first).await.is_empty());
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_durable_consumer_that_was_drained_is_told_at_once_that_its_time_is_over() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=2).await;
    let options = billing().quality(Quality::ExactlyOnce).ack_wait(Duration::from_secs(10));
    let mut orders = client.consume_bytes("orders/**", options.clone()).await.unwrap();
    let (first, second) = (next(&mut orders).await, next(&mut orders).await);
    orders.drain().await.unwrap();
    ack(first).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    // Without the drain it would come again, and be acknowledged then.
    let stale = ack(second).await.unwrap_err();
    assert!(matches!(stale, BusError::StaleAck { .. }), "{stale}");
    let mut again = client.consume_bytes("orders/**", options).await.unwrap();
    assert_eq!(what(&next(&mut again).await), (2, true));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_drained_consumer_leaves_when_it_is_dropped_comes_again_at_once() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=3).await;
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    let first = next(&mut orders).await;
    let second = next(&mut orders).await;
    orders.drain().await.unwrap();
    ack(second).await.unwrap();
    drop(orders);
    let stale = ack(first).await.unwrap_err();
    assert!(matches!(stale, BusError::StaleAck { .. }), "{stale}");
    let mut again = client.consume_bytes("orders/**", billing()).await.unwrap();
    for expected in [1, 3] {
        let order = next(&mut again).await;
        assert_eq!(what(&order), (expected, true));
        ack(order).await.unwrap();
    }
    assert_eq!(floor(&store).await, 4);
    bus.stop().await;
}

#[tokio::test]
async fn a_drain_goes_on_when_nobody_waits_for_it() {
    let store = store();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let bus = Bus::builder().streams(streams_on(&store).await).listen_unix(&path).start().unwrap();
    let client = Client::connect(path.to_str().unwrap()).await.unwrap();
    publish(&client, 1..=2).await;
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    let first = next(&mut orders).await;
    {
        let mut drain = pin!(orders.drain());
        assert!(drain.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let rest = rest(&mut orders).await;
    publish(&client, 3..=3).await;
    ack(first).await.unwrap();
    for order in rest {
        ack(order).await.unwrap();
    }
    assert_eq!(floor(&store).await, 3, "the third was handed to nobody");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_subscription_acknowledges_the_last_message_when_it_is_asked_for_another() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=3).await;
    let mut orders = client.subscribe_bytes_with("orders/**", billing()).await.unwrap();
    assert_eq!(orders.recv().await.unwrap().1, "1");
    orders.drain().await.unwrap();
    for expected in ["2", "3"] {
        assert_eq!(orders.recv().await.unwrap().1, expected);
    }
    assert!(orders.recv().await.is_none());
    client.flush().await.unwrap();
    tokio::time::sleep(QUIET).await;
    assert_eq!(floor(&store).await, 4);
    assert_eq!(bus.stats().subscriptions, 0, "nothing is left of it at the bus");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_without_a_name_is_drained_like_others() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=2).await;
    let mut orders = client.consume_bytes("orders/**", all(Quality::AtLeastOnce)).await.unwrap();
    let first = next(&mut orders).await;
    orders.drain().await.unwrap();
    let rest = rest(&mut orders).await;
    assert_eq!(rest.len(), 1);
    ack(first).await.unwrap();
    for order in rest {
        ack(order).await.unwrap();
    }
    bus.stop().await;
}

#[tokio::test]
async fn what_was_drained_and_not_acknowledged_is_not_this_consumers_at_another_bus() {
    let store = store();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let serve = async || {
        let streams = streams_on(&store).await;
        Bus::builder().streams(streams).listen_unix(&path).start().unwrap()
    };
    let bus = serve().await;
    let consuming = returning_client(&path).await;
    publish(&client(&bus), 1..=4).await;
    let options = billing().quality(Quality::ExactlyOnce);
    let mut orders = consuming.consume_bytes("orders/**", options.clone()).await.unwrap();
    let (first, second) = (next(&mut orders).await, next(&mut orders).await);
    orders.drain().await.unwrap();
    ack(first).await.unwrap();

    let mut events = consuming.events();
    bus.stop().await;
    let bus = serve().await;
    while !matches!(
        timeout(LONG, events.recv()).await.expect("it comes back"),
        Some(whispeer::client::ClientEvent::Reconnected { .. })
    ) {}
    let stale = ack(second).await.unwrap_err();
    assert!(matches!(stale, BusError::StaleAck { .. }), "{stale}");
    assert!(rest(&mut orders).await.is_empty(), "what was not taken comes to whoever is next");
    let mut again = consuming.consume_bytes("orders/**", options).await.unwrap();
    for expected in 2..=4 {
        let order = next(&mut again).await;
        assert_eq!(what(&order), (expected, true));
        ack(order).await.unwrap();
    }
    assert_eq!(floor(&store).await, 5);
    bus.stop().await;
}
