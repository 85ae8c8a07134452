//! Subscriptions of a broker that acknowledge, go on where they were, and tell their handlers where a message lies.

use std::collections::BTreeSet;
use std::future::ready;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use whispeer::broker::{Broker, BrokerOptions, BrokerStats, Encryption, Message, Persistence};
use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;

use crate::told_by_handlers::{PATIENCE, next, told, wait};

/// Waits until something is so of which nobody tells.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn in_memory(options: BrokerOptions) -> Broker {
    Broker::builder(options).with(Persistence::memory()).build().unwrap()
}

fn in_file(options: BrokerOptions, file: &Path) -> Broker {
    Broker::builder(options).with(Encryption::new()).with(Persistence::sqlite(file)).build().unwrap()
}

/// The durable consumer of these tests, which begins with the oldest message.
fn billing() -> SubscribeOptions {
    SubscribeOptions::default().durable("billing").start(Start::All)
}

/// Stores messages with these numbers.
fn store(broker: &Broker, numbers: impl IntoIterator<Item = u32>) {
    let publishing: Vec<_> = numbers.into_iter().map(|number| broker.publish("orders/7", number)).collect();
    publishing.into_iter().for_each(|publishing| assert!(publishing.wait().is_ok()));
}

/// Sequences and numbers of attempts of what comes, by the value.
type Came = (u32, u32, bool);

fn came(message: &Message<u32>) -> Came {
    let attempt = message.attempt.expect("it is to be acknowledged");
    (message.value, attempt.number, attempt.redelivered)
}

/// Begins to close a broker, does something else then, and waits for the end.
fn close_while(broker: Broker, then: impl FnOnce()) -> (BusResult<()>, BrokerStats) {
    let weak = broker.weak();
    let result = runtime().block_on(async {
        let mut closing = pin!(broker.close());
        tokio::select! {
            biased;
            _ = &mut closing => panic!("a handler is at work"),
            () = ready(()) => {}
        }
        then();
        closing.await
    });
    (result, weak.stats())
}

/// The values, topics and reasons of so many dead letters.
fn dead_letters(broker: &Broker, count: usize) -> Vec<(Vec<u8>, String, String)> {
    let connector = broker.connector().unwrap();
    runtime().block_on(async {
        let client = Client::new_memory(&connector).unwrap();
        let all = SubscribeOptions::default().start(Start::All);
        let mut letters = client.subscribe_bytes_with("$dead/broker/billing", all).await.unwrap();
        let mut found = Vec::new();
        while found.len() < count {
            let event = tokio::time::timeout(PATIENCE, letters.next_event()).await.expect("it never came");
            let Some(Event::Message(letter)) = event else { panic!("{event:?}") };
            let header = |name| letter.headers.find(name).unwrap().to_owned();
            found.push((letter.value.to_vec(), header("dead-topic"), header("dead-reason")));
        }
        found
    })
}

// What is kept from broker to broker.

#[test]
fn nothing_is_lost_or_handled_twice_where_a_broker_ends_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let broker = in_file(BrokerOptions::default(), &file);
    store(&broker, 1..=100);
    let (tell, seen) = told();
    let (open, gate) = told::<()>();
    let gate = Mutex::new(gate);
    broker.subscribe_with("orders/**", billing(), move |order: Message<u32>| {
        tell.send(came(&order)).unwrap();
        if order.value == 10 {
            wait(&gate);
        }
    });
    let first: Vec<Came> = (0..10).map(|_| next(&seen)).collect();
    // It begins with nothing more, and ends what it has begun with.
    let (result, stats) = close_while(broker, || drop(open));
    result.unwrap();
    assert_eq!((stats.handled, stats.acknowledged, stats.nacked, stats.unacknowledged), (10, 10, 0, 0));
    assert_eq!(seen.try_iter().count(), 0);

    let broker = in_file(BrokerOptions::default(), &file);
    let (tell, seen) = told();
    broker.subscribe_async_with("orders/**", billing(), move |order: Message<u32>| {
        let tell = tell.clone();
        async move { tell.send(came(&order)).unwrap() }
    });
    let rest: Vec<Came> = (0..90).map(|_| next(&seen)).collect();
    let weak = broker.weak();
    drop(broker);
    assert_eq!(weak.stats().acknowledged, 90);
    let all: Vec<u32> = first.iter().chain(&rest).map(|(value, ..)| *value).collect();
    assert_eq!(all, (1..=100).collect::<Vec<_>>());
    assert!(
        rest.iter().all(|(_, number, _)| *number == 1),
        "what was not begun with has not failed: {rest:?}"
    );

    // Now it is up to date.
    let broker = in_file(BrokerOptions::default(), &file);
    let (tell, seen) = told();
    broker.subscribe_with("orders/**", billing(), move |order: u32| tell.send(order).unwrap());
    store(&broker, [101]);
    assert_eq!(next(&seen), 101);
}

#[test]
fn a_message_whose_handler_has_not_ended_in_time_comes_to_the_next_broker_as_redelivered() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let limit = Duration::from_millis(100);
    let broker = in_file(BrokerOptions::default().drain_limit(limit), &file);
    store(&broker, 1..=2);
    let (tell, seen) = told();
    let (open, gate) = told::<()>();
    let gate = Mutex::new(gate);
    broker.subscribe_with("orders/**", billing(), move |order: u32| {
        tell.send(order).unwrap();
        wait(&gate);
    });
    assert_eq!(next(&seen), 1);
    let (result, stats) = close_while(broker, || {});
    assert!(matches!(result, Err(BusError::TimedOut { after, .. }) if after == limit), "{result:?}");
    assert_eq!(stats.acknowledged, 0);

    let broker = in_file(BrokerOptions::default(), &file);
    let (tell, again) = told();
    broker.subscribe_with("orders/**", billing(), move |order: Message<u32>| {
        tell.send((order.value, order.attempt.unwrap().redelivered)).unwrap();
    });
    assert_eq!((next(&again), next(&again).0), ((1, true), 2));
    drop(open);
    assert_eq!(seen.try_iter().count(), 0, "the second was never begun with");
}

#[test]
fn calls_at_the_same_time_are_acknowledged_in_any_order_and_only_what_failed_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let options = || BrokerOptions::default().handlers(3).handlers_of_subscription(3);
    let broker = in_file(options(), &file);
    store(&broker, 1..=20);
    let (tell, seen) = told();
    let (open, gate) = told::<()>();
    let gate = Mutex::new(gate);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = most.clone();
    broker.subscribe_with("orders/**", billing(), move |order: u32| {
        peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tell.send(order).unwrap();
        let result = if order == 1 {
            wait(&gate);
            Err("the first one fails last")
        } else {
            Ok(())
        };
        running.fetch_sub(1, Ordering::SeqCst);
        result
    });
    let handled: BTreeSet<u32> = (0..20).map(|_| next(&seen)).collect();
    assert_eq!(handled, (1..=20).collect());
    let (result, stats) = close_while(broker, || drop(open));
    result.unwrap();
    assert_eq!((stats.acknowledged, stats.nacked, stats.failures), (19, 1, 1));
    assert!((2..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");

    let broker = in_file(options(), &file);
    let (tell, seen) = told();
    broker
        .subscribe_with("orders/**", billing(), move |order: Message<u32>| tell.send(came(&order)).unwrap());
    store(&broker, [21]);
    let rest: BTreeSet<Came> = (0..2).map(|_| next(&seen)).collect();
    let numbers: Vec<(u32, u32)> = rest.iter().map(|(value, number, _)| (*value, *number)).collect();
    assert_eq!(numbers, [(1, 2), (21, 1)]);
}

// What becomes of a message.

#[test]
fn what_a_handler_fails_or_panics_at_or_cannot_read_goes_to_the_dead_letters() {
    let broker = in_memory(BrokerOptions::default());
    let (tell, seen) = told();
    broker.subscribe_with("orders/**", billing().max_deliver(1), move |order: u32| {
        tell.send(order).unwrap();
        match order {
            2 => Err("nobody wants two"),
            3 => panic!("not three"),
            _ => Ok(()),
        }
    });
    store(&broker, 1..=3);
    broker.publish("orders/8", "no number").wait().unwrap();
    store(&broker, [4]);
    assert_eq!((0..4).map(|_| next(&seen)).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let letters = dead_letters(&broker, 3);
    let topics: Vec<_> = letters.iter().map(|(_, topic, _)| topic.as_str()).collect();
    assert_eq!(topics, ["orders/7", "orders/7", "orders/8"]);
    assert!(letters.iter().all(|(.., reason)| reason == "refused by the consumer"), "{letters:?}");
    let weak = broker.weak();
    drop(broker);
    let stats = weak.stats();
    assert_eq!((stats.handled, stats.failures, stats.panics, stats.undecodable), (4, 1, 1, 1));
    assert_eq!((stats.acknowledged, stats.nacked, stats.unacknowledged), (2, 3, 0));
}

#[test]
fn what_no_engine_can_open_goes_to_the_dead_letters() {
    let kept = Persistence::memory();
    let broker = Broker::build_default().with(kept).build().unwrap();
    let (tell, seen) = told();
    let subscription = broker.subscribe_with("orders/**", billing().max_deliver(1), move |order: u32| {
        tell.send(order).unwrap();
    });
    subscription.wait_ready().unwrap();
    let connector = broker.connector().unwrap();
    runtime().block_on(async {
        let stranger = Client::new_memory(&connector).unwrap();
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
        stranger.publish_bytes_with("orders/7", "in the clear", kept).await.unwrap();
    });
    store(&broker, [1]);
    assert_eq!(next(&seen), 1);
    assert_eq!(dead_letters(&broker, 1)[0].0, b"in the clear");
    assert_eq!((broker.stats().undecodable, broker.stats().nacked), (1, 1));
}

#[test]
fn what_was_sent_back_comes_again_with_the_number_of_the_attempt() {
    let broker = in_memory(BrokerOptions::default());
    let (tell, seen) = told();
    broker.subscribe_async_with("orders/**", billing(), move |order: Message<u32>| {
        let came = came(&order);
        tell.send(came).unwrap();
        ready(if came.1 == 1 { Err("not at once") } else { Ok(()) })
    });
    store(&broker, [7]);
    assert_eq!((next(&seen), next(&seen)), ((7, 1, false), (7, 2, true)));
    let weak = broker.weak();
    drop(broker);
    assert_eq!((weak.stats().acknowledged, weak.stats().nacked), (1, 1));
}

#[test]
fn a_message_whose_handler_is_slow_goes_to_nobody_else_and_is_no_dead_letter() {
    let patience = Duration::from_millis(700);
    let broker = in_memory(BrokerOptions::default());
    let (tell, seen) = told();
    let (open, gate) = told::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let group = SubscribeOptions::default().group("slow").quality(Quality::AtLeastOnce).start(Start::All);
    let group = group.ack_wait(patience).max_deliver(1);
    for _ in 0..2 {
        let (tell, gate) = (tell.clone(), gate.clone());
        let member = broker.subscribe_with("orders/**", group.clone(), move |order: Message<u32>| {
            tell.send(came(&order)).unwrap();
            wait(&gate);
        });
        member.wait_ready().unwrap();
    }
    // Whoever says nothing about his message has lost it by then, though he had it later and for twice as long.
    let connector = broker.connector().unwrap();
    store(&broker, [1]);
    assert_eq!(next(&seen), (1, 1, false));
    runtime().block_on(async {
        let client = Client::new_memory(&connector).unwrap();
        let silent = billing().ack_wait(2 * patience).max_deliver(1);
        let mut silent = client.consume_bytes("orders/**", silent).await.unwrap();
        let _held = silent.recv().await.unwrap();
        let all = SubscribeOptions::default().start(Start::All);
        let mut letters = client.subscribe_bytes_with("$dead/broker/*", all).await.unwrap();
        let letter = tokio::time::timeout(PATIENCE, letters.recv()).await.unwrap();
        assert_eq!(letter.unwrap().0.as_str(), "$dead/broker/billing");
    });
    let (result, stats) = close_while(broker, || drop(open));
    result.unwrap();
    assert_eq!(seen.try_iter().count(), 0);
    assert_eq!((stats.handled, stats.acknowledged, stats.unacknowledged), (1, 1, 0));
}

#[test]
fn members_of_a_group_share_its_messages_and_what_one_leaves_comes_to_the_other() {
    let broker = in_memory(BrokerOptions::default());
    let group = SubscribeOptions::default().group("billing").quality(Quality::ExactlyOnce).start(Start::All);
    let (tell, seen) = told();
    let (began, begun) = told();
    let (open, gate) = told::<()>();
    let gate = Mutex::new(gate);
    let another = tell.clone();
    let first = broker.subscribe_with("orders/**", group.clone(), move |order: u32| {
        another.send(order).unwrap();
        began.send(()).unwrap();
        wait(&gate);
    });
    store(&broker, 1..=50);
    next(&begun);
    let second =
        broker.subscribe_with("orders/**", group, move |order: u32| tell.send(order).unwrap_or_default());
    second.wait_ready().unwrap();
    first.stop();
    drop(open);
    let mut orders: Vec<u32> = (0..50).map(|_| next(&seen)).collect();
    orders.sort_unstable();
    assert_eq!(orders, (1..=50).collect::<Vec<_>>());
    let weak = broker.weak();
    drop(broker);
    assert_eq!((weak.stats().acknowledged, weak.stats().handled), (50, 50));
}

#[test]
fn the_options_of_the_broker_may_ask_for_acknowledgements_too() {
    let options = BrokerOptions::default().subscribe_with(billing());
    let broker = in_memory(options);
    let (tell, seen) = told();
    broker.subscribe("orders/**", move |order: u32| {
        tell.send(order).unwrap();
        if order == 1 { Err("no") } else { Ok(()) }
    });
    store(&broker, 1..=2);
    assert_eq!((next(&seen), next(&seen)), (1, 2));
    until("both are answered", || (broker.stats().acknowledged, broker.stats().nacked) == (1, 1));
}

// What a handler gets, and from where on.

#[test]
fn a_handler_has_the_topic_and_the_headers_where_it_takes_the_message() {
    let broker = Broker::builder(BrokerOptions::default()).build().unwrap();
    let (tell, seen) = told();
    let another = tell.clone();
    broker.subscribe("orders/*", move |order: Message<u32>| another.send(order).unwrap());
    let another = tell.clone();
    broker.subscribe::<Message<u32>>("orders/*", move |order| another.send(order.clone()).unwrap());
    broker
        .subscribe_async::<Message<u32>>("orders/*", move |order| {
            let tell = tell.clone();
            async move { tell.send(order).unwrap() }
        })
        .wait_ready()
        .unwrap();
    let connector = broker.connector().unwrap();
    runtime().block_on(async {
        let client = Client::new_memory(&connector).unwrap();
        let shop = PublishOptions::default().header("shop", "7");
        client.publish_bytes_with("orders/pears", vec![2], shop).await.unwrap();
    });
    for _ in 0..3 {
        let order = next(&seen);
        assert_eq!((order.topic.as_str(), order.value), ("orders/pears", 2));
        assert_eq!(order.headers.find("shop"), Some("7"));
        assert_eq!((order.position, order.attempt), (None, None));
    }
}

#[test]
fn a_subscription_begins_where_it_is_told() {
    let broker = in_memory(BrokerOptions::default());
    store(&broker, 1..=5);
    broker.publish("orders/8", 6).wait().unwrap();
    let begun_at = |start, count: usize| {
        let (tell, seen) = told();
        let options = SubscribeOptions::default().start(start);
        broker.subscribe_with("orders/**", options, move |order: Message<u32>| {
            tell.send((order.value, order.position.unwrap().sequence)).unwrap_or_default();
        });
        (0..count).map(|_| next(&seen)).collect::<Vec<_>>()
    };
    assert_eq!(begun_at(Start::All, 6), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);
    assert_eq!(begun_at(Start::Last(2), 2), [(5, 5), (6, 6)]);
    assert_eq!(begun_at(Start::From(4), 3), [(4, 4), (5, 5), (6, 6)]);
    assert_eq!(begun_at(Start::LastPerTopic, 2), [(5, 5), (6, 6)]);
    assert_eq!(begun_at(Start::Since(0), 1), [(1, 1)]);
}

#[test]
fn a_subscription_that_is_to_read_so_much_ends_then_and_is_not_lost() {
    let broker = in_memory(BrokerOptions::default());
    store(&broker, 1..=5);
    let (tell, seen) = told();
    let some = SubscribeOptions::default().start(Start::All).limit(3, 1 << 20);
    let subscription = broker.subscribe_with("orders/**", some, move |order: u32| tell.send(order).unwrap());
    assert_eq!([next(&seen), next(&seen), next(&seen)], [1, 2, 3]);
    until("it has ended", || subscription.close_reason().is_some());
    assert_eq!(broker.stats().lost_subscriptions, 0);
    assert!(seen.recv().is_err(), "nothing more comes");
}

#[test]
fn what_cannot_be_durable_is_told() {
    let broker = Broker::builder(BrokerOptions::default()).build().unwrap();
    let refused = |broker: &Broker| {
        broker.subscribe_with("orders/**", billing(), |_: u32| ()).wait_ready().unwrap_err()
    };
    let error = refused(&broker);
    assert!(matches!(error, BusError::NotDurable { .. }), "{error}");
    let broker = in_memory(BrokerOptions::default());
    let last = billing().start(Start::LastPerTopic);
    let error = broker.subscribe_with("orders/**", last, |_: u32| ()).wait_ready().unwrap_err();
    assert!(matches!(error, BusError::InvalidSettings(_)), "{error}");
    let holder = broker.subscribe_with("orders/**", billing(), |_: u32| ());
    holder.wait_ready().unwrap();
    let error = refused(&broker);
    assert!(matches!(error, BusError::ConsumerBusy { .. }), "{error}");
}
