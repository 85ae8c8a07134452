//! Durable topics: what is published there is kept before it goes live, and can be read from any place.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{Event, Message, PublishOptions, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer::proto::fields::{GapReason, Quality, Start};
use whispeer::store::{MemoryStore, Name, Retention, Store, StreamSettings};

use crate::orders::{LONG, returning_client};

fn kept() -> PublishOptions {
    PublishOptions::default().quality(Quality::AtLeastOnce)
}

fn from(start: Start) -> SubscribeOptions {
    SubscribeOptions::default().start(start)
}

fn settings(name: &str, patterns: &[&str]) -> StreamSettings {
    let patterns = patterns.iter().map(|pattern| TopicPattern::new(pattern).unwrap()).collect();
    StreamSettings::new(Name::new(name).unwrap(), patterns)
}

async fn bus_with(settings: impl IntoIterator<Item = StreamSettings>) -> (BusHandle, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let streams = Streams::open(Arc::clone(&store), settings).await.unwrap();
    (Bus::builder().streams(streams).start().unwrap(), store)
}

fn client(bus: &BusHandle) -> Client {
    Client::new_memory(&bus.connector()).unwrap()
}

async fn next(subscription: &mut Subscription<Bytes>) -> Message<Bytes> {
    match timeout(LONG, subscription.next_event()).await.expect("a message comes").unwrap() {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

/// What comes of so many messages: the sequence and the payload of each.
async fn take(subscription: &mut Subscription<Bytes>, count: usize) -> Vec<(u64, String)> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let message = next(subscription).await;
        let payload = String::from_utf8(message.value.to_vec()).unwrap();
        taken.push((message.position.expect("it reads a stream").sequence, payload));
    }
    taken
}

fn expected(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
    range.map(|number| (number, number.to_string())).collect()
}

async fn publish(client: &Client, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        client.publish_bytes_with(topic, number.to_string(), kept()).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_published_before_can_be_read_and_what_comes_follows() {
    let (bus, _store) = bus_with([settings("orders", &["orders/**"])]).await;
    let client = client(&bus);
    publish(&client, "orders/7", 1..=10).await;
    for (start, first) in
        [(Start::All, 1), (Start::From(4), 4), (Start::Last(3), 8), (Start::Since(0), 1), (Start::New, 11)]
    {
        let mut orders = client.subscribe_bytes_with("orders/*", from(start)).await.unwrap();
        let before = take(&mut orders, 11 - first as usize).await;
        assert_eq!(before, expected(first..=10), "{start:?}");
    }
    let mut orders = client.subscribe_bytes_with("orders/**", from(Start::All)).await.unwrap();
    let first = next(&mut orders).await;
    assert!(first.position.unwrap().replayed);
    assert_eq!(take(&mut orders, 9).await, expected(2..=10));
    publish(&client, "orders/8", 11..=20).await;
    let live = next(&mut orders).await;
    assert!(!live.position.unwrap().replayed);
    assert_eq!((live.topic.as_str(), live.value), ("orders/8", "11".into()));
    assert_eq!(take(&mut orders, 9).await, expected(12..=20));
}

/// Sequences begin with 1.
#[tokio::test]
async fn who_begins_with_0_begins_with_the_first_and_misses_nothing() {
    let (bus, _store) = bus_with([settings("orders", &["orders/**"])]).await;
    let client = client(&bus);
    publish(&client, "orders/7", 1..=2).await;
    let mut orders = client.subscribe_bytes_with("orders/**", from(Start::From(0))).await.unwrap();
    assert_eq!(take(&mut orders, 2).await, expected(1..=2));
    let options = from(Start::From(0)).quality(Quality::AtLeastOnce);
    let mut consumer = client.consume_bytes("orders/**", options).await.unwrap();
    let first = timeout(LONG, consumer.recv()).await.unwrap().unwrap();
    assert_eq!((first.receipt.sequence(), consumer.gaps()), (1, 0));
}

#[tokio::test]
async fn ordinary_subscriptions_get_what_is_kept_too_and_count_as_matches() {
    let (bus, _store) = bus_with([settings("orders", &["orders/**"])]).await;
    let client = client(&bus);
    let mut all = client.subscribe_bytes("**").await.unwrap();
    for quality in [Quality::AtLeastOnce, Quality::AtMostOnce] {
        let options = PublishOptions::default().quality(quality).header("shop", "7");
        assert_eq!(client.publish_bytes_with("orders/7", "two apples", options).await.unwrap(), 1);
        let message = next(&mut all).await;
        assert_eq!((message.value, message.headers.find("shop")), ("two apples".into(), Some("7")));
        assert_eq!(message.position, None, "it is read from no stream");
    }
    // Both are kept: a stream has all that is published to its topics.
    let mut read = client.subscribe_bytes_with("orders/7", from(Start::All)).await.unwrap();
    for sequence in 1..=2 {
        let message = next(&mut read).await;
        assert_eq!((message.position.unwrap().sequence, message.headers.find("shop")), (sequence, Some("7")));
    }
    assert_eq!(client.publish_bytes("elsewhere", "x").await.unwrap(), 1);
    assert_eq!(next(&mut all).await.value, "x");
}

#[tokio::test]
async fn where_nothing_is_kept_that_is_told() {
    let (bus, _store) = bus_with([settings("one", &["one/**"]), settings("two", &["two/*"])]).await;
    let client = client(&bus);
    let not_durable = |error: BusError| matches!(error, BusError::NotDurable { topic } if topic == "three");
    for _ in 0..3 {
        // Also when the route is known.
        assert!(not_durable(client.publish_bytes_with("three", "x", kept()).await.unwrap_err()));
        client.publish_bytes("three", "x").await.unwrap();
    }
    let refused = client.subscribe_bytes_with("three", from(Start::All)).await.unwrap_err();
    assert!(not_durable(refused));
    let two = |error: BusError| error.to_string().contains("two streams");
    assert!(two(client.publish_bytes_with("*/x", "x", kept()).await.unwrap_err()));
    assert!(two(client.publish_bytes("*/x", "x").await.unwrap_err()));
    assert!(two(client.subscribe_bytes_with("**", from(Start::All)).await.unwrap_err()));
    let beyond = client.subscribe_bytes_with("two/**", from(Start::New)).await.unwrap_err();
    assert!(beyond.to_string().contains("does not keep"), "{beyond}");
    let group = from(Start::All).group("workers");
    assert!(matches!(client.subscribe_bytes_with("one/x", group).await, Err(BusError::InvalidSettings(_))));
    let bare = Bus::builder().start().unwrap();
    let elsewhere = self::client(&bare).publish_bytes_with("three", "x", kept()).await.unwrap_err();
    assert!(not_durable(elsewhere));
}

#[tokio::test]
async fn what_is_published_to_a_pattern_is_kept_as_such_and_read_by_all_that_it_meets() {
    let (bus, _store) = bus_with([settings("prices", &["price/**"])]).await;
    let client = client(&bus);
    client.publish_bytes_with("price/*", "all", kept()).await.unwrap();
    client.publish_bytes_with("price/eth", "one", kept()).await.unwrap();
    let mut eth = client.subscribe_bytes_with("price/eth", from(Start::All)).await.unwrap();
    let first = next(&mut eth).await;
    assert_eq!((first.topic.as_str(), first.value), ("price/*", "all".into()));
    assert_eq!(next(&mut eth).await.value, "one");
    let mut btc = client.subscribe_bytes_with("price/btc", from(Start::All)).await.unwrap();
    assert_eq!(next(&mut btc).await.value, "all");
    client.publish_bytes_with("price/btc", "other", kept()).await.unwrap();
    assert_eq!(next(&mut btc).await.value, "other");
}

#[tokio::test]
async fn the_last_value_of_each_topic_comes_first() {
    let (bus, _store) = bus_with([settings("prices", &["price/*"])]).await;
    let client = client(&bus);
    for (topic, price) in [("price/eth", "1"), ("price/btc", "2"), ("price/eth", "3"), ("price/xmr", "4")] {
        client.publish_bytes_with(topic, price, kept()).await.unwrap();
    }
    let mut prices = client.subscribe_bytes_with("price/*", from(Start::LastPerTopic)).await.unwrap();
    let last: Vec<_> = take(&mut prices, 3).await.into_iter().map(|(_, price)| price).collect();
    assert_eq!(last, ["2", "3", "4"]);
    client.publish_bytes_with("price/eth", "5", kept()).await.unwrap();
    assert_eq!(next(&mut prices).await.value, "5");
}

#[tokio::test]
async fn a_reader_that_falls_behind_holds_nobody_up_and_misses_nothing() {
    let (bus, _store) = bus_with([settings("log", &["log"])]).await;
    let client = client(&bus);
    let slow = from(Start::New).window(4, 1024);
    let mut slow = client.subscribe_bytes_with("log", slow).await.unwrap();
    let mut fast = client.subscribe_bytes_with("log", from(Start::New)).await.unwrap();
    let publisher = client.publisher_bytes_with("log", kept()).unwrap();
    let publishing = async {
        for number in 1..=5_000_u64 {
            publisher.send(&number.to_string().into()).await.unwrap();
        }
        publisher.flush().await.unwrap();
    };
    let (fast, ()) = tokio::join!(take(&mut fast, 5_000), publishing);
    assert_eq!(fast, expected(1..=5_000));
    assert_eq!(take(&mut slow, 5_000).await, expected(1..=5_000));
    assert_eq!(slow.counts().dropped(), 0);
}

#[tokio::test]
async fn several_publishers_keep_their_orders_and_all_readers_see_the_same() {
    let (bus, _store) = bus_with([settings("log", &["log/**"])]).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(client(&bus).subscribe_bytes_with("log/*", from(Start::New)).await.unwrap());
    }
    let publishers = (0..4_u64).map(|publisher| {
        let client = client(&bus);
        async move {
            let handle = client.publisher_bytes_with(&format!("log/{publisher}"), kept()).unwrap();
            for number in 0..500_u64 {
                handle.send(&(publisher * 1_000 + number).to_string().into()).await.unwrap();
            }
            handle.flush().await.unwrap();
        }
    });
    let publishers: Vec<_> = publishers.map(tokio::spawn).collect();
    let mut seen = Vec::new();
    for reader in &mut readers {
        seen.push(take(reader, 2_000).await);
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert!(seen.iter().all(|order| *order == seen[0]));
    let sequences: Vec<_> = seen[0].iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, (1..=2_000).collect::<Vec<_>>());
    for publisher in 0..4_u64 {
        let numbers = seen[0].iter().map(|(_, payload)| payload.parse::<u64>().unwrap());
        let own: Vec<_> = numbers.filter(|number| number / 1_000 == publisher).collect();
        assert!(own.is_sorted() && own.len() == 500);
    }
}

#[tokio::test]
async fn what_retention_has_dropped_is_a_gap_with_its_count() {
    let retention = Retention::new().messages(3);
    let (bus, _store) = bus_with([settings("log", &["log"]).retention(retention)]).await;
    let client = client(&bus);
    publish(&client, "log", 1..=10).await;
    let mut log = client.subscribe_bytes_with("log", from(Start::From(2))).await.unwrap();
    let gap = timeout(LONG, log.next_event()).await.unwrap().unwrap();
    assert!(matches!(gap, Event::Gap { count: 6, reason: GapReason::Retention }), "{gap:?}");
    assert_eq!(take(&mut log, 3).await, expected(8..=10));
}

#[tokio::test]
async fn what_was_acknowledged_is_kept_when_the_bus_is_gone() {
    let (bus, store) = bus_with([settings("log", &["log"])]).await;
    publish(&client(&bus), "log", 1..=5).await;
    bus.stop().await;
    let streams = Streams::open(Arc::clone(&store), [settings("log", &["log"])]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = client(&bus);
    let mut log = client.subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    assert_eq!(take(&mut log, 5).await, expected(1..=5));
    publish(&client, "log", 6..=6).await;
    assert_eq!(take(&mut log, 1).await, expected(6..=6));
}

#[tokio::test]
async fn a_store_that_fails_is_told_and_the_bus_lives_on() {
    let (bus, store) = bus_with([settings("log", &["log"])]).await;
    let client = client(&bus);
    let mut log = client.subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    publish(&client, "log", 1..=1).await;
    assert_eq!(take(&mut log, 1).await, expected(1..=1));
    store.close().await.unwrap();
    let refused = client.publish_bytes_with("log", "2", kept()).await.unwrap_err();
    assert!(matches!(&refused, BusError::NotStored { reason } if reason.contains("closed")), "{refused}");
    assert_eq!(client.publish_bytes("elsewhere", "x").await.unwrap(), 0);
    let mut refused = client.subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    assert!(timeout(LONG, refused.next_event()).await.unwrap().is_none());
    let reason = refused.close_reason().unwrap();
    assert!(reason.to_string().contains("cannot be read"), "{reason}");
}

#[tokio::test]
async fn one_message_to_several_topics_is_not_kept() {
    #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
    struct Note(String);
    impl PublishProtocol for Note {
        fn prefix() -> &'static str {
            "notes"
        }
    }
    let (bus, _store) = bus_with([settings("notes", &["notes/kept/**"])]).await;
    let client = client(&bus);
    let refused = client.publish_many(&["a", "kept/b"], &Note("x".into())).await.unwrap_err();
    assert!(refused.to_string().contains("by itself"), "{refused}");
    assert_eq!(client.publish_many(&["a", "b"], &Note("x".into())).await.unwrap(), 0);
}

/// A bus at this place, with a stream `log` in this store.
async fn bus_at(path: &Path, store: &Arc<dyn Store>) -> BusHandle {
    let streams = Streams::open(Arc::clone(store), [settings("log", &["log"])]).await.unwrap();
    Bus::builder().streams(streams).listen_unix(path).start().unwrap()
}

async fn next_is_recreated(subscription: &mut Subscription<Bytes>) {
    let event = timeout(LONG, subscription.next_event()).await.unwrap().unwrap();
    assert!(matches!(event, Event::Gap { count: 0, reason: GapReason::Recreated }), "{event:?}");
}

#[tokio::test]
async fn a_stream_that_was_lost_is_told_and_read_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let bus = bus_at(&path, &(Arc::new(MemoryStore::new()) as Arc<dyn Store>)).await;
    let reader = returning_client(&path).await;
    let mut all = reader.subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    let mut new = reader.subscribe_bytes_with("log", from(Start::New)).await.unwrap();
    let epoch = all.epoch().unwrap();
    publish(&client(&bus), "log", 1..=5).await;
    assert_eq!(take(&mut all, 5).await, expected(1..=5));
    assert_eq!(take(&mut new, 5).await, expected(1..=5));
    bus.stop().await;

    // Of two messages in the new store one has a sequence that was there in the old one, too.
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let streams = Streams::open(Arc::clone(&store), [settings("log", &["log"])]).await.unwrap();
    let inside = Bus::builder().streams(streams).start().unwrap();
    publish(&client(&inside), "log", 1..=2).await;
    inside.stop().await;
    let bus = bus_at(&path, &store).await;
    for subscription in [&mut all, &mut new] {
        next_is_recreated(subscription).await;
        assert_eq!(take(subscription, 2).await, expected(1..=2));
        assert_ne!(subscription.epoch().unwrap(), epoch);
        assert_eq!(subscription.counts().dropped(), 0, "nobody knows how many");
    }
    publish(&client(&bus), "log", 3..=3).await;
    assert_eq!(take(&mut all, 1).await, expected(3..=3));

    // The next session knows the stream that there is now.
    bus.stop().await;
    let bus = bus_at(&path, &store).await;
    publish(&client(&bus), "log", 4..=4).await;
    assert_eq!(take(&mut all, 1).await, expected(4..=4));
    assert_eq!(take(&mut new, 2).await, expected(3..=4));
}

#[tokio::test]
async fn a_stream_that_has_lost_its_latest_messages_is_told_and_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_at(&path, &store).await;
    let client = client(&bus);
    publish(&client, "log", 1..=3).await;
    let epoch = client.subscribe_bytes_with("log", from(Start::All)).await.unwrap().epoch().unwrap();
    // Whoever has read ten of it comes from a time that is no more.
    let mut log = client.subscribe_bytes_with("log", from(Start::From(11)).epoch(epoch)).await.unwrap();
    next_is_recreated(&mut log).await;
    publish(&client, "log", 4..=4).await;
    assert_eq!(take(&mut log, 1).await, expected(4..=4));
    // At its end, and before it, all is well.
    for sequence in [4, 5] {
        let mut log =
            client.subscribe_bytes_with("log", from(Start::From(sequence)).epoch(epoch)).await.unwrap();
        publish(&client, "log", sequence + 1..=sequence + 1).await;
        assert_eq!(take(&mut log, 1).await, expected(sequence..=sequence));
    }
}

#[tokio::test]
async fn what_is_published_while_a_client_is_away_is_there_for_one_that_had_received_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_at(&path, &store).await;
    publish(&client(&bus), "log", 1..=2).await;
    let reader = returning_client(&path).await;
    let mut log = reader.subscribe_bytes_with("log", from(Start::New)).await.unwrap();
    bus.stop().await;
    let streams = Streams::open(Arc::clone(&store), [settings("log", &["log"])]).await.unwrap();
    let inside = Bus::builder().streams(streams).start().unwrap();
    publish(&client(&inside), "log", 3..=4).await;
    inside.stop().await;
    let _bus = bus_at(&path, &store).await;
    assert_eq!(take(&mut log, 2).await, expected(3..=4));
}

#[tokio::test]
async fn a_limit_holds_over_sessions_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_at(&path, &store).await;
    publish(&client(&bus), "log", 1..=10).await;
    let reader = returning_client(&path).await;
    let options = from(Start::All).limit(8, 1 << 20).window(2, 1 << 20);
    let mut log = reader.subscribe_bytes_with("log", options).await.unwrap();
    assert_eq!(take(&mut log, 3).await, expected(1..=3));
    bus.stop().await;
    let bus = bus_at(&path, &store).await;
    publish(&client(&bus), "log", 11..=12).await;
    assert_eq!(take(&mut log, 5).await, expected(4..=8));
    assert!(timeout(LONG, log.next_event()).await.unwrap().is_none());
    assert_eq!((log.next_sequence(), log.counts().dropped()), (Some(9), 0));
}

#[tokio::test]
async fn who_waits_for_the_first_of_the_last_messages_is_told_that_some_may_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_at(&path, &store).await;
    let reader = returning_client(&path).await;
    let mut last = reader.subscribe_bytes_with("log", from(Start::Last(1))).await.unwrap();
    let mut all = reader.subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    bus.stop().await;
    let bus = bus_at(&path, &store).await;
    publish(&client(&bus), "log", 1..=1).await;
    assert_eq!(take(&mut all, 1).await, expected(1..=1));
    let event = timeout(LONG, last.next_event()).await.unwrap().unwrap();
    assert!(matches!(event, Event::Gap { count: 0, reason: GapReason::Link }), "{event:?}");
    assert_eq!(take(&mut last, 1).await, expected(1..=1));
}

#[tokio::test]
async fn a_reader_goes_on_at_a_new_session_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let start = async || {
        let streams = Streams::open(Arc::clone(&store), [settings("log", &["log"])]).await.unwrap();
        Bus::builder().streams(streams).listen_unix(&path).start().unwrap()
    };
    let bus = start().await;
    let reader = returning_client(&path).await;
    let mut log = reader.subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    publish(&client(&bus), "log", 1..=5).await;
    assert_eq!(take(&mut log, 3).await, expected(1..=3));
    // Two are read before the session ends, or again after it: none is lost, and none comes twice.
    bus.stop().await;
    let bus = start().await;
    publish(&client(&bus), "log", 6..=10).await;
    assert_eq!(take(&mut log, 7).await, expected(4..=10));
    assert_eq!(log.counts().dropped(), 0);
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn what_is_encrypted_is_kept_so_and_can_be_read_as_often_as_one_likes() {
    use whispeer::engine::Engines;
    use whispeer::engine::encryption::{Encryption, Key, Keyring};
    use whispeer::store::Reading;

    let (bus, store) = bus_with([settings("secrets", &["secret/**"])]).await;
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
    let member = Client::builder().engines(engines).connect_memory(&bus.connector()).unwrap();
    publish(&member, "secret/eagle", 100_001..=100_003).await;
    let kept = store.read(Name::new("secrets").unwrap(), Reading::from(1, 0)).await.unwrap().messages;
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|message| !message.payload.windows(6).any(|six| six.starts_with(b"10000"))));
    for _ in 0..2 {
        let mut read = member.subscribe_bytes_with("secret/*", from(Start::All)).await.unwrap();
        let payloads: Vec<_> = take(&mut read, 3).await.into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(payloads, ["100001", "100002", "100003"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_dropped_while_the_bus_runs() {
    let retention = Retention::new().age(Duration::from_millis(1));
    let (bus, store) = bus_with([settings("log", &["log"]).retention(retention)]).await;
    publish(&client(&bus), "log", 1..=10).await;
    let all_gone = async {
        while store.streams().await.unwrap()[0].messages > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_secs(1_000_000), all_gone).await.unwrap();
    let mut log = client(&bus).subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    publish(&client(&bus), "log", 11..=11).await;
    assert_eq!(take(&mut log, 1).await, expected(11..=11));
}

#[tokio::test]
async fn bounds_of_a_stream_can_change_while_the_bus_runs_and_its_topics_cannot() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let streams = Streams::open(Arc::clone(&store), [settings("log", &["log"])]).await.unwrap();
    let bus = Bus::builder().streams(streams.clone()).start().unwrap();
    publish(&client(&bus), "log", 1..=5).await;
    let bounded = |patterns: &[&str]| settings("log", patterns).retention(Retention::new().messages(2));
    for other in [bounded(&["log/**"]), settings("other", &["other"])] {
        assert!(matches!(streams.change(other).await, Err(BusError::InvalidSettings(_))));
    }
    streams.change(bounded(&["log"])).await.unwrap();
    publish(&client(&bus), "log", 6..=6).await;
    let mut log = client(&bus).subscribe_bytes_with("log", from(Start::All)).await.unwrap();
    assert_eq!(take(&mut log, 2).await, expected(5..=6));
}

#[tokio::test]
async fn a_topic_can_move_from_one_stream_of_a_store_to_another() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    Streams::open(Arc::clone(&store), [settings("z", &["a", "b"])]).await.unwrap();
    let moved = [settings("a", &["a"]), settings("z", &["b"])];
    let streams = Streams::open(Arc::clone(&store), moved).await.unwrap();
    let states = streams.states().await;
    let topics: Vec<_> = states.iter().map(|row| (row.name.as_str(), row.patterns.concat())).collect();
    assert_eq!(topics, [("a", "a".to_owned()), ("z", "b".to_owned())]);
    let refused = Streams::open(store, [settings("c", &["a"]), settings("d", &["d"])]).await.unwrap_err();
    assert!(refused.to_string().contains("meets \"a\" of the stream \"a\""), "{refused}");
}
