//! Subscriptions that acknowledge: what is not done with comes again, and what is done with does not.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::client::{Consumer, Delivery, Event, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::Name;

use crate::orders::{
    LONG, QUIET, all, billing, bus_on, client, floor, next, publish, returning_client, store, streams_on,
};

/// What a delivery is: sequence, attempt, and whether somebody may have had it before.
fn what(delivery: &Delivery<Bytes>) -> (u64, u32, bool) {
    let attempt = delivery.attempt.expect("it is to be acknowledged");
    (delivery.receipt.sequence(), attempt.number, attempt.redelivered)
}

async fn nothing_comes(consumer: &mut Consumer<Bytes>) {
    let came = timeout(QUIET, consumer.recv()).await;
    assert!(came.is_err(), "{:?}", came.unwrap().map(|delivery| what(&delivery)));
}

#[tokio::test(start_paused = true)]
async fn a_durable_consumer_goes_on_behind_what_it_has_acknowledged() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=5).await;
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    for number in 1..=3 {
        let order = next(&mut orders).await;
        assert_eq!((what(&order), &order.value[..]), ((number, 1, false), number.to_string().as_bytes()));
        order.ack().await.unwrap();
        assert_eq!(floor(&store).await, number + 1, "it is kept when the future is ready");
    }
    let fourth = next(&mut orders).await;
    assert_eq!(what(&fourth), (4, 1, false));
    drop(orders);
    drop(fourth);
    // Where it begins is for a consumer that is new.
    let mut again = client.consume_bytes("orders/**", billing().start(Start::New)).await.unwrap();
    let fourth = next(&mut again).await;
    assert_eq!((what(&fourth).0, what(&fourth).2), (4, true), "it was handed over before");
    fourth.ack().await.unwrap();
    let fifth = next(&mut again).await;
    assert_eq!(what(&fifth), (5, 1, true), "the last one had been sent, though not taken");
    fifth.ack().await.unwrap();
    publish(&client, 6..=6).await;
    assert_eq!(what(&next(&mut again).await), (6, 1, false));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_comes_back_knows_what_was_acknowledged() {
    let store = store();
    let bus = bus_on(&store).await;
    {
        let client = client(&bus);
        publish(&client, 1..=6).await;
        let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(next(&mut orders).await);
        }
        // Out of order: 1, 3 and 4 are done.
        for index in [3, 2, 0] {
            held.remove(index).ack().await.unwrap();
        }
        bus.stop().await;
    }
    let bus = bus_on(&store).await;
    let mut orders = client(&bus).consume_bytes("orders/**", billing()).await.unwrap();
    let mut again = Vec::new();
    for _ in 0..3 {
        let order = next(&mut orders).await;
        assert!(what(&order).2, "somebody may have had it");
        again.push(what(&order).0);
        order.ack().await.unwrap();
    }
    assert_eq!(again, [2, 5, 6]);
    nothing_comes(&mut orders).await;
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_comes_again_and_is_a_dead_letter_in_the_end() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=2).await;
    let mut orders = client.consume_bytes("orders/**", billing().max_deliver(3)).await.unwrap();
    let begun = tokio::time::Instant::now();
    for attempt in 1..=3 {
        let order = next(&mut orders).await;
        assert_eq!(what(&order), (1, attempt, attempt > 1));
        if attempt == 1 {
            next(&mut orders).await.ack().await.unwrap();
        }
        order.nack(Duration::from_secs(10));
    }
    assert_eq!(begun.elapsed().as_secs(), 20, "it comes when it was asked for");
    nothing_comes(&mut orders).await;
    assert_eq!(floor(&store).await, 3);
    let dead = SubscribeOptions::default().start(Start::All);
    let mut letters = client.subscribe_bytes_with("$dead/orders/**", dead).await.unwrap();
    let Some(Event::Message(letter)) = letters.next_event().await else { panic!("it is there") };
    assert_eq!((letter.topic.as_str(), &letter.value[..]), ("$dead/orders/billing", &b"1"[..]));
    for (name, value) in [
        ("dead-topic", "orders/7"),
        ("dead-reason", "refused by the consumer"),
        ("dead-attempts", "3"),
        ("dead-sequence", "1"),
    ] {
        assert_eq!(letter.headers.find(name), Some(value));
    }
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_in_time_is_somebody_elses() {
    let store = store();
    let bus = bus_on(&store).await;
    let (one, two) = (client(&bus), client(&bus));
    publish(&one, 1..=1).await;
    let workers = || all(Quality::AtLeastOnce).group("workers").ack_wait(Duration::from_secs(5));
    let mut first = one.consume_bytes("orders/**", workers()).await.unwrap();
    let held = next(&mut first).await;
    let mut second = two.consume_bytes("orders/**", workers()).await.unwrap();
    // Who says that it takes longer has it for longer.
    tokio::time::advance(Duration::from_secs(4)).await;
    held.in_progress();
    nothing_comes(&mut second).await;
    let moved = next(&mut second).await;
    assert_eq!(what(&moved), (1, 2, true));
    let late = held.ack().await.unwrap_err();
    assert!(matches!(late, BusError::StaleAck { .. }), "{late}");
    moved.ack().await.unwrap();
    nothing_comes(&mut second).await;
    assert_eq!(floor(&store).await, 2);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_still_has_a_message_is_not_handed_it_again() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=1).await;
    let options = billing().quality(Quality::ExactlyOnce).ack_wait(Duration::from_secs(1));
    let mut orders = client.consume_bytes("orders/**", options).await.unwrap();
    let held = next(&mut orders).await;
    nothing_comes(&mut orders).await;
    // The bus has sent it again meanwhile, and knows it by another token.
    held.ack().await.unwrap();
    assert_eq!(floor(&store).await, 2);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_comes_too_late_is_answered_though_its_message_does_not_come_again() {
    let second = Duration::from_secs(1);
    for options in [billing(), all(Quality::AtLeastOnce)] {
        let store = store();
        let bus = bus_on(&store).await;
        let client = client(&bus);
        publish(&client, 1..=2).await;
        let mut orders =
            client.consume_bytes("orders/**", options.ack_wait(second).max_deliver(2)).await.unwrap();
        let (dead, dropped) = (next(&mut orders).await, next(&mut orders).await);
        tokio::time::sleep(second / 2).await;
        dropped.in_progress();
        tokio::time::sleep(second * 3).await;
        // The first has failed twice. The second has been sent again, and is dropped before it is once more.
        let purge = whispeer::store::Change::Purge { before: 3 };
        store.commit(Name::new("orders").unwrap(), vec![purge]).await.unwrap();
        timeout(LONG, dead.ack()).await.expect("it is a dead letter, and done with").unwrap();
        tokio::time::sleep(second * 3).await;
        timeout(LONG, dropped.ack()).await.expect("it is gone, and done with").unwrap();
        bus.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_shares_a_streams_messages_and_goes_on_without_a_member_that_dies() {
    let store = store();
    let bus = bus_on(&store).await;
    let (one, two, publisher) = (client(&bus), client(&bus), client(&bus));
    let workers = || all(Quality::AtLeastOnce).group("workers").window(4, 1 << 20);
    let mut first = one.consume_bytes("orders/**", workers()).await.unwrap();
    let mut second = two.consume_bytes("orders/**", workers()).await.unwrap();
    publish(&publisher, 1..=20).await;
    let mut done = BTreeSet::new();
    for consumer in [&mut first, &mut second] {
        for _ in 0..2 {
            let order = next(consumer).await;
            done.insert(what(&order).0);
            order.ack().await.unwrap();
        }
    }
    assert_eq!(done.len(), 4, "nobody gets what another has");
    // What the first had been sent is the second's now.
    drop(first);
    one.close().await.unwrap();
    while done.len() < 20 {
        let order = next(&mut second).await;
        assert!(done.insert(what(&order).0), "{:?} is done", what(&order));
        order.ack().await.unwrap();
    }
    nothing_comes(&mut second).await;
    assert_eq!(floor(&store).await, 21);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_acknowledges_when_the_next_message_is_asked_for() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=3).await;
    let mut orders = client.subscribe_bytes_with("orders/**", billing()).await.unwrap();
    for number in ["1", "2", "3"] {
        assert_eq!(orders.recv().await.unwrap().1, number);
    }
    assert!(timeout(QUIET, orders.recv()).await.is_err(), "there are no more");
    assert_eq!(floor(&store).await, 4);
    publish(&client, 4..=5).await;
    assert_eq!(orders.recv().await.unwrap().1, "4");
    drop(orders);
    let mut again = client.consume_bytes("orders/**", billing()).await.unwrap();
    assert_eq!(what(&next(&mut again).await), (4, 2, true), "nobody has said that it is done with");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_durable_consumer_is_one_subscriptions_at_a_time() {
    let store = store();
    let bus = bus_on(&store).await;
    let (one, two) = (client(&bus), client(&bus));
    let first = one.consume_bytes("orders/**", billing()).await.unwrap();
    let busy = two.consume_bytes("orders/**", billing()).await.unwrap_err();
    assert!(matches!(busy, BusError::ConsumerBusy { .. }), "{busy}");
    drop(first);
    one.flush().await.unwrap();
    let other = two.consume_bytes("orders/7", billing()).await.unwrap_err();
    assert!(other.to_string().contains("reads \"orders/**\""), "{other}");
    let unkept = two.consume_bytes("news", billing()).await.unwrap_err();
    assert!(matches!(unkept, BusError::NotDurable { .. }), "{unkept}");
    let two_names = two.consume_bytes("orders/**", billing().group("g")).await.unwrap_err();
    assert!(matches!(two_names, BusError::InvalidSettings(_)), "{two_names}");
    two.consume_bytes("orders/**", billing()).await.unwrap();
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_handed_over_than_may_be_pending() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=10).await;
    let mut orders = client.consume_bytes("orders/**", billing().max_pending(3)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut orders).await);
    }
    nothing_comes(&mut orders).await;
    held.remove(1).ack().await.unwrap();
    held.push(next(&mut orders).await);
    assert_eq!(what(&held[2]).0, 4);
    nothing_comes(&mut orders).await;
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_retention_has_dropped_is_not_waited_for() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=3).await;
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    next(&mut orders).await.nack(Duration::from_secs(5));
    let purge = whispeer::store::Change::Purge { before: 3 };
    store.commit(Name::new("orders").unwrap(), vec![purge]).await.unwrap();
    for number in 2..=3 {
        let order = next(&mut orders).await;
        assert_eq!(what(&order).0, number);
        order.ack().await.unwrap();
    }
    nothing_comes(&mut orders).await;
    nothing_comes(&mut orders).await;
    assert_eq!((floor(&store).await, orders.gaps()), (4, 1));
    bus.stop().await;
}

#[tokio::test]
async fn a_living_process_is_not_handed_a_message_twice_whatever_becomes_of_the_bus() {
    let store = store();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let serve = async || {
        let streams = streams_on(&store).await;
        Bus::builder().streams(streams).listen_unix(&path).start().unwrap()
    };
    let mut bus = serve().await;
    let consuming = returning_client(&path).await;
    publish(&client(&bus), 1..=200).await;
    for options in [all(Quality::ExactlyOnce).durable("billing"), all(Quality::ExactlyOnce)] {
        let options = options.window(16, 1 << 20);
        let mut orders = consuming.consume_bytes("orders/**", options).await.unwrap();
        let (mut seen, mut held) = (BTreeSet::new(), VecDeque::new());
        while seen.len() < 200 {
            let order = next(&mut orders).await;
            assert!(seen.insert(what(&order).0), "{:?} comes twice", what(&order));
            held.push_back(order);
            if seen.len() % 7 == 0 {
                // Some are done with at once, some late, and some acknowledgements are on their way at the end of a bus.
                for order in held.drain(2..5).rev() {
                    drop(order.ack());
                }
            }
            if seen.len() % 50 == 0 {
                bus.stop().await;
                bus = serve().await;
            }
        }
        for order in held {
            let sequence = what(&order).0;
            let kept = timeout(LONG, order.ack()).await;
            kept.unwrap_or_else(|_| panic!("nobody says that {sequence} is kept")).unwrap();
        }
    }
    assert_eq!(floor(&store).await, 201);
    bus.stop().await;
}

/// Withholds one message, and notes what is acknowledged.
#[derive(Default)]
struct Watcher(Arc<std::sync::Mutex<Vec<(String, u64)>>>);

impl whispeer::plugin::Plugin for Watcher {
    fn name(&self) -> &str {
        "watcher"
    }

    fn on_deliver(&self, delivery: &whispeer::plugin::Delivery<'_>) -> whispeer::plugin::HookResult {
        match delivery.payload() {
            b"2" => Err(whispeer::plugin::Refused::new("not this one")),
            _ => Ok(()),
        }
    }

    async fn on_ack(&self, acknowledged: &whispeer::plugin::Acknowledged) -> whispeer::plugin::HookResult {
        self.0.lock().unwrap().push((acknowledged.consumer.clone(), acknowledged.sequence));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_has_begun_with_counts_also_behind_what_was_withheld() {
    let store = store();
    let bus = Bus::builder().streams(streams_on(&store).await).plugin(Watcher::default()).start().unwrap();
    publish(&client(&bus), 2..=3).await;
    for attempt in 1..=2 {
        let consuming = client(&bus);
        let mut orders = consuming.consume_bytes("orders/**", billing().window(2, 1 << 20)).await.unwrap();
        let order = next(&mut orders).await;
        assert_eq!((what(&order), &order.value[..]), ((2, attempt, attempt > 1), &b"3"[..]));
        consuming.close().await.unwrap();
        // It is nobody's to refuse any more.
        drop(order);
    }
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn plugins_see_what_is_handed_over_and_what_is_acknowledged() {
    let store = store();
    let watcher = Watcher::default();
    let noted = Arc::clone(&watcher.0);
    let bus = Bus::builder().streams(streams_on(&store).await).plugin(watcher).start().unwrap();
    let client = client(&bus);
    publish(&client, 1..=3).await;
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    for number in [1, 3] {
        let order = next(&mut orders).await;
        assert_eq!(what(&order).0, number);
        order.ack().await.unwrap();
    }
    nothing_comes(&mut orders).await;
    assert_eq!((floor(&store).await, orders.gaps()), (4, 1));
    assert_eq!(*noted.lock().unwrap(), [("billing".to_owned(), 1), ("billing".to_owned(), 3)]);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_one_by_one_go_to_the_members_of_a_group_in_turn() {
    let bus = bus_on(&store()).await;
    let client = client(&bus);
    let options = || all(Quality::AtLeastOnce).group("billing");
    let mut one = client.consume_bytes("orders/**", options()).await.unwrap();
    let mut other = client.consume_bytes("orders/**", options()).await.unwrap();
    let (mut to_one, mut to_other) = (0, 0);
    for number in 1..=10 {
        publish(&client, number..=number).await;
        let delivery = tokio::select! {
            delivery = one.recv() => { to_one += 1; delivery }
            delivery = other.recv() => { to_other += 1; delivery }
        };
        delivery.unwrap().ack().await.unwrap();
    }
    assert_eq!((to_one, to_other), (5, 5));
    bus.stop().await;
}
