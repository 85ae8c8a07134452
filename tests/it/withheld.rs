//! What plugins keep from subscriptions that acknowledge: others of a group get it, and nothing vanishes without a trace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use whispeer::bus::{ConsumerStats, Rows};
use whispeer::client::{Consumer, Event, Start, SubscribeOptions, Subscription};
use whispeer::limits;
use whispeer::plugin::{Delivery, HookResult, Hooks, Plugin, Refused};
use whispeer::prelude::*;
use whispeer::store::Store;

use crate::orders::{LONG, QUIET, billing, client, floor, next, publish, store, streams_on};

/// Whether a session may have a message of this payload. Notes what it was asked, by payload.
struct Judge<F> {
    asked: Arc<Mutex<BTreeMap<String, u64>>>,
    judge: F,
}

fn judge<F: Fn(u64, &str) -> HookResult>(judge: F) -> Judge<F> {
    Judge { asked: Arc::default(), judge }
}

impl<F: Fn(u64, &str) -> HookResult + Send + Sync + 'static> Plugin for Judge<F> {
    fn name(&self) -> &str {
        "judge"
    }

    fn hooks(&self) -> Hooks {
        Hooks::DELIVER
    }

    fn on_deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        if delivery.topic().starts_with('$') {
            return Ok(());
        }
        let payload = String::from_utf8(delivery.payload().to_vec()).unwrap();
        *self.asked.lock().unwrap().entry(payload.clone()).or_default() += 1;
        (self.judge)(delivery.receiver().session.unwrap(), &payload)
    }
}

async fn bus_with(store: &Arc<dyn Store>, plugin: impl Plugin) -> BusHandle {
    Bus::builder().streams(streams_on(store).await).plugin(plugin).start().unwrap()
}

async fn dead_letters(client: &Client) -> Subscription<Bytes> {
    let options = SubscribeOptions::default().start(Start::All);
    client.subscribe_bytes_with("$dead/orders/**", options).await.unwrap()
}

/// Payload, reason and failed attempts of the next dead letter.
async fn next_letter(letters: &mut Subscription<Bytes>) -> (Bytes, String, String) {
    let Some(Event::Message(letter)) = timeout(LONG, letters.next_event()).await.expect("it comes") else {
        panic!("the bus runs, and tells no gap");
    };
    let header = |name| letter.headers.find(name).unwrap_or_default().to_owned();
    (letter.value.clone(), header("dead-reason"), header("dead-attempts"))
}

fn group() -> SubscribeOptions {
    SubscribeOptions::default()
        .quality(whispeer::client::Quality::AtLeastOnce)
        .start(Start::All)
        .group("billing")
}

async fn listed(client: &Client) -> ConsumerStats {
    let answer = client.request_bytes("$bus/consumers", "".into()).await.unwrap();
    let listed: Rows<ConsumerStats> = rmp_serde::from_slice(&answer).unwrap();
    listed.rows[0].clone()
}

/// All that comes to either, until nothing does.
async fn drained(first: &mut Consumer<Bytes>, other: &mut Consumer<Bytes>) -> (Vec<u64>, Vec<u64>) {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    loop {
        let (delivery, all) = tokio::select! {
            delivery = first.recv() => (delivery, &mut one),
            delivery = other.recv() => (delivery, &mut two),
            () = tokio::time::sleep(QUIET) => return (one, two),
        };
        let delivery = delivery.expect("the bus runs");
        all.push(delivery.receipt.sequence());
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_at_which_a_plugin_fails_once_comes_again() {
    let store = store();
    let first = AtomicU64::new(0);
    let plugin = judge(move |_, _| {
        assert!(first.fetch_add(1, Ordering::Relaxed) > 0, "it fails the first time");
        Ok(())
    });
    let bus = bus_with(&store, plugin).await;
    let client = client(&bus);
    publish(&client, 1..=2).await;
    let begin = Instant::now();
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    let second = next(&mut orders).await;
    assert_eq!((&second.value[..], begin.elapsed() < limits::RETRY_DELAY), (&b"2"[..], true));
    second.ack().await.unwrap();
    let again = next(&mut orders).await;
    assert_eq!((&again.value[..], again.attempt.unwrap().number), (&b"1"[..], 2));
    assert!(begin.elapsed() >= limits::RETRY_DELAY, "{:?}", begin.elapsed());
    again.ack().await.unwrap();
    assert_eq!((floor(&store).await, orders.gaps()), (3, 0));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_at_which_a_plugin_fails_each_time_is_a_dead_letter_in_the_end() {
    let store = store();
    let plugin = judge(|_, payload| {
        assert_ne!(payload, "1", "it fails");
        Ok(())
    });
    let asked = Arc::clone(&plugin.asked);
    let bus = bus_with(&store, plugin).await;
    let client = client(&bus);
    publish(&client, 1..=2).await;
    let mut letters = dead_letters(&client).await;
    let mut orders = client.consume_bytes("orders/**", billing().max_deliver(3)).await.unwrap();
    next(&mut orders).await.ack().await.unwrap();
    let reason = "a plugin failed when it was to be delivered".to_owned();
    assert_eq!(next_letter(&mut letters).await, ("1".into(), reason, "3".into()));
    assert_eq!(asked.lock().unwrap()["1"], 3);
    publish(&client, 3..=3).await;
    next(&mut orders).await.ack().await.unwrap();
    assert_eq!(floor(&store).await, 4);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_one_member_of_a_group_may_not_have_comes_to_the_others() {
    let store = store();
    // The one that is asked about first may have nothing.
    let first = AtomicU64::new(0);
    let plugin = judge(move |session, _| {
        let _ = first.compare_exchange(0, session, Ordering::Relaxed, Ordering::Relaxed);
        match first.load(Ordering::Relaxed) == session {
            true => Err(Refused::new("not for this one")),
            false => Ok(()),
        }
    });
    let bus = bus_with(&store, plugin).await;
    let (one, two) = (client(&bus), client(&bus));
    let mut first = one.consume_bytes("orders/**", group()).await.unwrap();
    let mut other = two.consume_bytes("orders/**", group()).await.unwrap();
    publish(&one, 1..=100).await;
    let (mut some, mut none) = drained(&mut first, &mut other).await;
    if some.is_empty() {
        std::mem::swap(&mut some, &mut none);
    }
    some.sort_unstable();
    assert_eq!((some, none), ((1..=100).collect(), Vec::new()));
    assert_eq!((floor(&store).await, first.gaps() + other.gaps()), (101, 0));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_no_member_may_have_is_a_dead_letter() {
    let store = store();
    let plugin = judge(|_, payload| match payload {
        "2" => Err(Refused::new("for nobody")),
        _ => Ok(()),
    });
    let asked = Arc::clone(&plugin.asked);
    let bus = bus_with(&store, plugin).await;
    let (one, two) = (client(&bus), client(&bus));
    let mut first = one.consume_bytes("orders/**", group()).await.unwrap();
    let mut other = two.consume_bytes("orders/**", group()).await.unwrap();
    let mut letters = dead_letters(&one).await;
    publish(&one, 1..=3).await;
    let (some, others) = drained(&mut first, &mut other).await;
    assert_eq!(some.len() + others.len(), 2);
    let letter = next_letter(&mut letters).await;
    assert_eq!(letter, ("2".into(), "withheld by a plugin".into(), "0".into()));
    assert_eq!(asked.lock().unwrap()["2"], 2, "each was asked about");
    assert_eq!(floor(&store).await, 4);
    assert_eq!(first.gaps() + other.gaps(), 1, "one of them is told");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_last_may_not_have_waits_for_the_others_until_they_are_gone() {
    let store = store();
    let busy = Arc::new(AtomicU64::new(0));
    let may_have = Arc::clone(&busy);
    let plugin =
        judge(move |session, payload| match payload == "1" || session == may_have.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Refused::new("for the other one")),
        });
    let bus = bus_with(&store, plugin).await;
    let (one, two) = (client(&bus), client(&bus));
    // It may have one message at a time, and does nothing with the first.
    let mut full = one.consume_bytes("orders/**", group().window(1, 1)).await.unwrap();
    busy.store(one.session_id().unwrap(), Ordering::Relaxed);
    publish(&one, 1..=1).await;
    let kept = next(&mut full).await;
    let mut letters = dead_letters(&two).await;
    let mut other = two.consume_bytes("orders/**", group()).await.unwrap();
    publish(&two, 2..=3).await;
    assert!(timeout(QUIET, other.recv()).await.is_err(), "they are not for it");
    assert_eq!((floor(&store).await, other.gaps()), (1, 0), "but somebody may still take them");
    kept.ack().await.unwrap();
    let second = next(&mut full).await;
    assert_eq!(second.value, "2");
    second.ack().await.unwrap();
    drop(full);
    let letter = next_letter(&mut letters).await;
    assert_eq!(letter.1, "withheld by a plugin");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_stops_at_its_bound_of_what_is_for_others_that_take_nothing_which_is_shown() {
    let store = store();
    let busy = Arc::new(AtomicU64::new(0));
    let may_have = Arc::clone(&busy);
    let plugin = judge(move |session, _| match session == may_have.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(Refused::new("for the other one")),
    });
    let bus = bus_with(&store, plugin).await;
    let (one, two) = (client(&bus), client(&bus));
    // It may have one message at a time, and does nothing with the first.
    let mut full = one.consume_bytes("orders/**", group().window(1, 1)).await.unwrap();
    busy.store(one.session_id().unwrap(), Ordering::Relaxed);
    publish(&one, 1..=1).await;
    let kept = next(&mut full).await;
    let mut other = two.consume_bytes("orders/**", group()).await.unwrap();
    let most = limits::CONSUMER_ASIDE as u64;
    publish(&two, 2..=most + 100).await;
    assert!(timeout(QUIET, other.recv()).await.is_err(), "they are not for it");
    let shown = listed(&two).await;
    assert_eq!((shown.again, shown.waits_for.as_deref()), (most, Some("withheld")));
    kept.ack().await.unwrap();
    for _ in 2..=most + 100 {
        next(&mut full).await.ack().await.unwrap();
    }
    assert_eq!((listed(&two).await.waits_for, other.gaps()), (None, 0));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn plugins_are_asked_once_for_each_message_that_is_handed_over() {
    let options = [billing().window(1, 1 << 20), billing().max_pending(3), group(), group().window(2, 64)];
    for options in options {
        let store = store();
        let plugin = judge(|_, _| Ok(()));
        let asked = Arc::clone(&plugin.asked);
        let bus = bus_with(&store, plugin).await;
        let client = client(&bus);
        publish(&client, 1..=100).await;
        let mut orders = client.consume_bytes("orders/**", options.clone()).await.unwrap();
        for _ in 1..=100 {
            next(&mut orders).await.ack().await.unwrap();
        }
        let counted = {
            let asked = asked.lock().unwrap();
            (asked.len(), asked.values().sum::<u64>())
        };
        assert_eq!(counted, (100, 100), "{options:?}");
        bus.stop().await;
    }
}
