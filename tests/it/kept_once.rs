//! Publishes that are to be kept, whose answer is lost with the bus: they are sent again, and at QoS 2 stored once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;
use whispeer::bus::{BusBuilder, Settings};
use whispeer::client::{ClientEvent, PublishOptions, Quality};
use whispeer::limits;
use whispeer::plugin::{HookResult, Plugin, Publishing, Refused, Transform};
use whispeer::prelude::*;
use whispeer::store::{Change, MemoryStore, Reading, Store, StoreError};

use crate::orders::{LONG, orders, returning_client, streams_on};
use crate::tampered_store::TamperedStore;

/// A store that keeps what it is given, and does not say so.
fn silent(store: MemoryStore, stored: Arc<Notify>) -> TamperedStore {
    TamperedStore::new(store).on_commit(move |changes, answer| {
        if changes.iter().any(|change| matches!(change, Change::Append(_))) {
            stored.notify_one();
            return Box::pin(std::future::pending());
        }
        answer
    })
}

async fn bus_on(store: Arc<dyn Store>, path: &std::path::Path) -> BusHandle {
    bus_with(store, path, Settings::default()).await
}

async fn bus_with(store: Arc<dyn Store>, path: &std::path::Path, settings: Settings) -> BusHandle {
    let streams = streams_on(&store).await;
    Bus::builder().settings(settings).streams(streams).listen_unix(path).start().unwrap()
}

async fn payloads(store: &MemoryStore) -> Vec<String> {
    let page = store.read(orders(), Reading::from(1, 0)).await.unwrap();
    page.messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}

/// Publishes to a bus that ends before it has answered, and to the one after it; what the store has in the end.
async fn published_across_two_buses(quality: Quality, pipelined: bool) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let (store, stored) = (MemoryStore::new(), Arc::new(Notify::new()));
    let bus = bus_on(Arc::new(silent(store.clone(), Arc::clone(&stored))), &path).await;
    let client = returning_client(&path).await;
    let publishing = tokio::spawn(async move {
        let options = PublishOptions::default().quality(quality);
        if pipelined {
            let publisher = client.publisher_bytes_with("orders/7", options).unwrap();
            publisher.send(&"one".into()).await.unwrap();
            publisher.send(&"two".into()).await.unwrap();
            publisher.flush().await
        } else {
            client.publish_bytes_with("orders/7", "one", options.clone()).await.unwrap();
            client.publish_bytes_with("orders/7", "two", options).await.map(drop)
        }
    });
    timeout(LONG, stored.notified()).await.expect("it is stored");
    bus.stop().await;
    let bus = bus_on(Arc::new(store.clone()), &path).await;
    timeout(LONG, publishing).await.expect("it is answered").unwrap().unwrap();
    bus.stop().await;
    payloads(&store).await
}

/// Publishes 40 messages to a bus that keeps them and does not say so, and comes back to one with this window: by then, nobody
/// may want to know. What the store has in the end.
async fn published_to_a_smaller_window(publish_window: (u32, u64), is_closed: bool) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let (store, stored) = (MemoryStore::new(), Arc::new(Notify::new()));
    let bus = bus_on(Arc::new(silent(store.clone(), Arc::clone(&stored))), &path).await;
    let client = returning_client(&path).await;
    let mut events = client.events();
    let once = PublishOptions::default().quality(Quality::ExactlyOnce);
    let publisher = client.publisher_bytes_with("orders/7", once.clone()).unwrap();
    for number in 0..40 {
        publisher.send(&number.to_string().into()).await.unwrap();
    }
    timeout(LONG, stored.notified()).await.expect("some of it is stored");
    bus.stop().await;
    let settings = Settings { publish_window, ..Settings::default() };
    let bus = bus_with(Arc::new(store.clone()), &path, settings).await;
    if is_closed {
        let back = async {
            while !matches!(events.recv().await, Some(ClientEvent::Reconnected { .. })) {}
            drop((publisher, client));
            while events.recv().await.is_some() {}
        };
        timeout(LONG, back).await.expect("it comes back, and ends when all is sent");
    } else {
        let last = timeout(LONG, client.publish_bytes_with("orders/7", "last", once)).await;
        last.expect("it is answered").unwrap();
        timeout(LONG, publisher.flush()).await.expect("it is answered").unwrap();
    }
    bus.stop().await;
    payloads(&store).await
}

#[tokio::test]
async fn a_bus_with_a_smaller_window_gets_no_more_at_a_time_than_it_has_room_for() {
    let mut under_way = tokio::task::JoinSet::new();
    for publish_window in [(3, 1 << 20), (1, 1), (1_000, 100)] {
        for is_closed in [false, true] {
            under_way.spawn(async move {
                let published = published_to_a_smaller_window(publish_window, is_closed).await;
                let last = (!is_closed).then(|| "last".to_owned());
                let expected: Vec<_> = (0..40).map(|number| number.to_string()).chain(last).collect();
                assert_eq!(published, expected, "{publish_window:?}, {is_closed}");
            });
        }
    }
    under_way.join_all().await;
}

#[tokio::test]
async fn a_publish_whose_answer_is_lost_is_stored_once_at_qos_2() {
    for pipelined in [false, true] {
        assert_eq!(published_across_two_buses(Quality::ExactlyOnce, pipelined).await, ["one", "two"]);
    }
}

#[tokio::test]
async fn a_publish_whose_answer_is_lost_is_sent_again_at_qos_1_and_may_be_stored_twice() {
    for pipelined in [false, true] {
        let mut stored = published_across_two_buses(Quality::AtLeastOnce, pipelined).await;
        assert_eq!(stored.first().map(String::as_str), Some("one"));
        assert_eq!(stored.last().map(String::as_str), Some("two"));
        stored.dedup();
        stored.sort_unstable();
        stored.dedup();
        assert_eq!(stored, ["one", "two"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_id_is_stored_once_whoever_sends_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let bus = bus_on(Arc::new(store.clone()), &folder.path().join("bus")).await;
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut live = client.subscribe_bytes("orders/**").await.unwrap();
    let once = PublishOptions::default().quality(Quality::ExactlyOnce);
    for number in 1..=5 {
        let matches = client.publish_bytes_with("orders/7", number.to_string(), once.clone()).await.unwrap();
        assert_eq!(matches, 1, "each has a number of its own");
        assert_eq!(live.recv().await.unwrap().1, number.to_string());
    }
    let refused = client.publish_bytes_with("news", "x", once).await.unwrap_err();
    assert!(matches!(refused, BusError::NotDurable { .. }), "{refused}");
    assert_eq!(store.streams().await.unwrap()[0].messages, 5);
    bus.stop().await;
}

/// Publishes three messages over buses of which only the last, with small frames, says what it has kept. The second of the
/// messages is larger than those. What that bus has in the end, and what the publisher is told.
async fn published_to_smaller_frames(before: &[Settings]) -> (Vec<String>, BusResult<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let serve = |settings| {
        let stored = Arc::new(Notify::new());
        let store = silent(MemoryStore::new(), Arc::clone(&stored));
        let path = &path;
        async move { (bus_with(Arc::new(store), path, settings).await, stored) }
    };
    let mut before = before.iter().cloned();
    let (mut bus, mut stored) = serve(before.next().unwrap()).await;
    let client = returning_client(&path).await;
    let options = PublishOptions::default().quality(Quality::ExactlyOnce);
    let publisher = client.publisher_bytes_with("orders/7", options.clone()).unwrap();
    let large = vec![b'x'; 2 * limits::FRAME_LIMIT_MIN];
    for message in [Bytes::from("one"), large.clone().into(), "two".into()] {
        publisher.send(&message).await.unwrap();
    }
    for settings in before {
        timeout(LONG, stored.notified()).await.expect("some of it is stored");
        bus.stop().await;
        (bus, stored) = serve(settings).await;
    }
    let waiting = client.publish_bytes_with("orders/7", large, options.clone());
    let next = async {
        timeout(LONG, stored.notified()).await.expect("some of it is stored");
        bus.stop().await;
        let store = MemoryStore::new();
        let settings = Settings { frame_limit: limits::FRAME_LIMIT_MIN, ..Settings::default() };
        (bus_with(Arc::new(store.clone()), &path, settings).await, store)
    };
    let (alone, (bus, store)) = tokio::join!(timeout(LONG, waiting), next);
    let alone = alone.expect("it is answered");
    assert!(matches!(alone, Err(BusError::FrameTooLarge { .. })), "{alone:?}");
    let flushed = timeout(LONG, publisher.flush()).await.expect("it is answered");
    client.publish_bytes_with("orders/7", "last", options).await.unwrap();
    bus.stop().await;
    (payloads(&store).await, flushed)
}

#[tokio::test]
async fn what_is_larger_than_the_next_bus_takes_fails_and_holds_up_nothing() {
    let (kept, told) = published_to_smaller_frames(&[Settings::default()]).await;
    assert_eq!(kept, ["one", "two", "last"]);
    assert!(matches!(told, Err(BusError::FrameTooLarge { .. })), "{told:?}");
}

#[tokio::test]
async fn what_a_bus_had_no_room_for_and_the_next_finds_too_large_fails_and_holds_up_nothing() {
    let narrow = Settings { publish_window: (1, 1 << 20), ..Settings::default() };
    let (kept, told) = published_to_smaller_frames(&[Settings::default(), narrow]).await;
    assert_eq!(kept, ["one", "two", "last"]);
    assert!(matches!(told, Err(BusError::FrameTooLarge { .. })), "{told:?}");
}

/// A plugin that does this to each message.
fn each(name: &str, act: fn(&mut Publishing<'_>) -> HookResult) -> impl Plugin {
    Transform::new(name, act)
}

/// Publishes to a bus that keeps the message and does not say so, and comes back to another; what it is told there, and what
/// is kept in the end: messages, and those that are not due.
async fn published_again(
    (topic, options): (&'static str, PublishOptions),
    (before, after): (BusBuilder, BusBuilder),
    second: impl FnOnce(TamperedStore) -> TamperedStore,
) -> (BusResult<usize>, usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let (store, stored) = (MemoryStore::new(), Arc::new(Notify::new()));
    let told = Arc::clone(&stored);
    let silent = TamperedStore::new(store.clone()).on_commit(move |changes, answer| {
        if changes.iter().any(|change| matches!(change, Change::Append(_) | Change::Delay { .. })) {
            told.notify_one();
            return Box::pin(std::future::pending());
        }
        answer
    });
    let start = async |builder: BusBuilder, store: Arc<dyn Store>| {
        builder.streams(streams_on(&store).await).listen_unix(&path).start().unwrap()
    };
    let bus = start(before, Arc::new(silent)).await;
    let client = returning_client(&path).await;
    let publishing = tokio::spawn(async move { client.publish_bytes_with(topic, "one", options).await });
    timeout(LONG, stored.notified()).await.expect("it is stored");
    bus.stop().await;
    let bus = start(after, Arc::new(second(TamperedStore::new(store.clone())))).await;
    let told = timeout(LONG, publishing).await.expect("it is answered").unwrap();
    bus.stop().await;
    let delayed = store.delayed(orders(), u64::MAX, 10).await.unwrap().len();
    (told, payloads(&store).await.len(), delayed)
}

fn once() -> PublishOptions {
    PublishOptions::default().quality(Quality::ExactlyOnce)
}

fn refuse(_message: &mut Publishing<'_>) -> HookResult {
    Err(Refused::new("too much"))
}

fn fail(_message: &mut Publishing<'_>) -> HookResult {
    panic!("it fails")
}

#[tokio::test]
async fn what_is_stored_is_not_told_to_be_refused_by_a_plugin_when_it_is_sent_again() {
    let sent_again = async |refusing, options| {
        let buses = (Bus::builder(), Bus::builder().plugin(each("refusing", refusing)));
        let (told, stored, delayed) = published_again(("orders/7", options), buses, |store| store).await;
        assert!(matches!(told, Ok(0)), "{told:?}");
        (stored, delayed)
    };
    let later = || once().deliver_in(Duration::from_secs(3_600));
    let kept = tokio::join!(
        sent_again(refuse as fn(&mut Publishing<'_>) -> HookResult, once()),
        sent_again(fail, once()),
        sent_again(refuse, later()),
        sent_again(fail, later()),
    );
    assert_eq!(kept, ((1, 0), (1, 0), (0, 1), (0, 1)));
}

#[tokio::test]
async fn what_plugins_have_moved_to_a_stream_is_found_there_when_it_is_sent_again() {
    let moving = || each("moving", |message| Ok(message.set_topic("orders/7")?));
    let before = Bus::builder().plugin(moving());
    let after = Bus::builder().plugin(moving()).plugin(each("refusing", refuse));
    let (told, stored, _) = published_again(("incoming", once()), (before, after), |store| store).await;
    assert!(matches!(told, Ok(0)), "{told:?}");
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn what_is_not_stored_is_refused_by_a_plugin_whether_it_is_sent_again_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let builder = Bus::builder().streams(streams_on(&store).await).plugin(each("refusing", refuse));
    let bus = builder.listen_unix(folder.path().join("bus")).start().unwrap();
    let client = returning_client(&folder.path().join("bus")).await;
    for (topic, options) in [
        ("orders/7", once()),
        ("orders/7", PublishOptions::default().quality(Quality::AtLeastOnce)),
        ("orders/7", PublishOptions::default()),
        ("news", once()),
    ] {
        let told = client.publish_bytes_with(topic, "one", options).await;
        assert!(matches!(told, Err(BusError::Refused { .. })), "{topic}: {told:?}");
    }
    assert_eq!(store.streams().await.unwrap()[0].messages, 0);
    bus.stop().await;
}

#[tokio::test]
async fn a_refusal_says_so_where_the_store_does_not_tell_whether_it_has_the_message() {
    let buses = (Bus::builder(), Bus::builder().plugin(each("refusing", refuse)));
    let broken = |store: TamperedStore| {
        store.on_change(|changes| {
            let is_question = changes.iter().any(|change| matches!(change, Change::Recall { .. }));
            is_question.then(|| StoreError::Failed { place: "it".into(), reason: "no disk".into() })
        })
    };
    let (told, ..) = published_again(("orders/7", once()), buses, broken).await;
    let Err(BusError::NotStored { reason }) = told else { panic!("{told:?}") };
    assert!(
        reason.contains("too much") && reason.contains("is not known") && reason.contains("no disk"),
        "{reason}"
    );
}
