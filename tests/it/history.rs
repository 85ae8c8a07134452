//! What a stream has, in pages.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use whispeer::bus::Streams;
use whispeer::client::{Event, History, HistoryOptions, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Retention, Store, StreamSettings};
use whispeer_testkit::wait::soon;

fn log() -> StreamSettings {
    StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()])
}

async fn bus_with(settings: StreamSettings) -> (BusHandle, Client, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let streams = Streams::open(Arc::clone(&store), [settings]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    (bus, client, store)
}

async fn publish(client: &Client, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    let kept = || PublishOptions::default().quality(Quality::AtLeastOnce);
    for number in numbers {
        client.publish_bytes_with(topic, number.to_string(), kept()).await.unwrap();
    }
}

fn page(start: Start, messages: u32, bytes: u64) -> HistoryOptions {
    HistoryOptions::default().start(start).limit(messages, bytes)
}

const MANY: u64 = 1024 * 1024;

fn sequences(page: &History<Bytes>) -> Vec<u64> {
    page.messages.iter().map(|message| message.position.unwrap().sequence).collect()
}

#[tokio::test]
async fn a_long_stream_is_read_page_by_page_while_it_grows() {
    let (_bus, client, _store) = bus_with(log()).await;
    publish(&client, "log/a", 1..=25).await;
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut options = page(Start::All, 10, MANY);
    loop {
        let page = client.history_bytes("log/*", options.clone()).await.unwrap();
        seen.extend(sequences(&page));
        assert!(page.messages.iter().all(|message| message.position.unwrap().replayed));
        assert_eq!((page.end, page.dropped, page.recreated), (26 + pages, 0, false));
        pages += 1;
        let Some(next) = page.next else { break };
        publish(&client, "log/b", 26 + pages - 1..=26 + pages - 1).await;
        options = options.start(Start::From(next)).epoch(page.epoch);
    }
    assert_eq!((seen, pages), ((1..=27).collect::<Vec<_>>(), 3));
}

#[tokio::test]
async fn a_page_begins_where_it_is_asked_to_and_has_what_meets_its_topics() {
    let (_bus, client, _store) = bus_with(log()).await;
    publish(&client, "log/a", 1..=6).await;
    publish(&client, "log/b", 7..=9).await;
    let ask = async |pattern: &str, start| {
        let page = client.history_bytes(pattern, page(start, 100, MANY)).await.unwrap();
        assert_eq!((page.next, page.end), (None, 10), "{pattern} {start:?}");
        sequences(&page)
    };
    assert_eq!(ask("log/a", Start::All).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(ask("log/*", Start::Last(2)).await, [8, 9]);
    assert_eq!(ask("log/a", Start::Last(2)).await, [5, 6]);
    assert_eq!(ask("log/**", Start::From(8)).await, [8, 9]);
    assert_eq!(ask("log/**", Start::LastPerTopic).await, [6, 9]);
    assert_eq!(ask("log/**", Start::Since(u64::MAX)).await, [0_u64; 0]);
    assert_eq!(ask("log/**", Start::New).await, [0_u64; 0]);
    assert_eq!(ask("log/**", Start::From(50)).await, [0_u64; 0]);
    assert_eq!(ask("log/nothing", Start::All).await, [0_u64; 0]);
}

#[tokio::test]
async fn behind_a_cut_among_last_values_all_messages_follow_so_that_none_is_missed() {
    let (_bus, client, _store) = bus_with(log()).await;
    for (topic, number) in [("log/a", 1), ("log/b", 2), ("log/c", 3), ("log/c", 4)] {
        publish(&client, topic, number..=number).await;
    }
    let first = client.history_bytes("log/*", page(Start::LastPerTopic, 1, MANY)).await.unwrap();
    assert_eq!((sequences(&first), first.next), (vec![1], Some(2)));
    let rest = client.history_bytes("log/*", page(Start::From(2), 10, MANY)).await.unwrap();
    assert_eq!((sequences(&rest), rest.next), (vec![2, 3, 4], None));
}

#[tokio::test]
async fn a_page_ends_behind_the_message_that_exceeds_its_bytes_and_has_one_at_least() {
    let (_bus, client, _store) = bus_with(log()).await;
    for _ in 0..5 {
        client.publish_bytes("log/a", vec![7; 3_000]).await.unwrap();
    }
    for (bytes, count) in [(1, 1), (3_000, 1), (6_000, 2), (MANY, 5)] {
        let page = client.history_bytes("log/a", page(Start::All, 100, bytes)).await.unwrap();
        assert_eq!(page.messages.len(), count, "{bytes}");
        assert_eq!(page.next, (count < 5).then_some(count as u64 + 1));
    }
}

#[tokio::test]
async fn what_retention_has_dropped_is_counted() {
    let (_bus, client, _store) = bus_with(log().retention(Retention::new().messages(3))).await;
    publish(&client, "log/a", 1..=10).await;
    let page = client.history_bytes("log/a", page(Start::From(2), 2, MANY)).await.unwrap();
    assert_eq!((sequences(&page), page.dropped, page.next), (vec![8, 9], 6, Some(10)));
    let other = HistoryOptions::default().start(Start::From(2)).epoch([7; 16]);
    let page = client.history_bytes("log/a", other).await.unwrap();
    assert_eq!((sequences(&page), page.dropped, page.recreated), (vec![8, 9, 10], 0, true));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line(u64);

impl PublishProtocol for Line {
    fn prefix() -> &'static str {
        "log"
    }
}

#[tokio::test]
async fn a_typed_page_has_what_decodes_and_tells_what_does_not() {
    let (_bus, client, _store) = bus_with(log()).await;
    client.publish("a", &Line(1)).await.unwrap();
    client.publish_bytes("log/a", "\u{c1}").await.unwrap();
    client.publish("b", &Line(3)).await.unwrap();
    let page = client.history::<Line>("*", HistoryOptions::default()).await.unwrap();
    let lines: Vec<_> =
        page.messages.into_iter().map(|message| (message.topic.to_string(), message.value)).collect();
    assert_eq!(lines, [("a".to_owned(), Line(1)), ("b".to_owned(), Line(3))]);
    assert_eq!(page.undecodable.len(), 1);
    assert!(matches!(&page.undecodable[0], (topic, BusError::Decode { .. }) if topic.as_str() == "a"));
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused() {
    let (_bus, client, store) = bus_with(log()).await;
    let ask = async |topic: &str, options| client.history_bytes(topic, options).await.unwrap_err();
    assert!(matches!(ask("elsewhere", page(Start::All, 1, 1)).await, BusError::NotDurable { .. }));
    assert!(matches!(ask("a b", page(Start::All, 1, 1)).await, BusError::InvalidTopic(_)));
    for (messages, bytes) in [(0, 1), (1, 0)] {
        assert!(matches!(
            ask("log/a", page(Start::All, messages, bytes)).await,
            BusError::InvalidSettings(_)
        ));
    }
    let too_much = [(limits::HISTORY_MESSAGES_MAX + 1, 1), (1, limits::HISTORY_BYTES_MAX + 1)];
    for (messages, bytes) in too_much {
        assert!(matches!(
            ask("log/a", page(Start::All, messages, bytes)).await,
            BusError::LimitReached { .. }
        ));
    }
    let without_start = client.subscribe_bytes_with("log/a", SubscribeOptions::default().limit(1, 1)).await;
    assert!(matches!(without_start, Err(BusError::InvalidSettings(_))));
    publish(&client, "log/a", 1..=1).await;
    store.close().await.unwrap();
    assert!(matches!(ask("log/a", page(Start::All, 1, 1)).await, BusError::NotStored { .. }));
    client.ping().await.unwrap();
}

#[cfg(feature = "auth")]
#[tokio::test]
async fn who_may_not_read_the_topics_may_not_read_their_history() {
    use whispeer::auth::{Policy, Principal};

    const POLICY: &str =
        "[auth]\nanonymous = [\"reader\"]\n[auth.roles.reader]\nsubscribe.allow = [\"log/public\"]\n";
    let streams = Streams::open(Arc::new(MemoryStore::new()), [log()]).await.unwrap();
    let policy = Policy::from_toml(POLICY).unwrap();
    let bus = Bus::builder().streams(streams).policy(policy).start().unwrap();
    let stranger = Principal::Unix { uid: u32::MAX - 1, gid: u32::MAX - 1, pid: None };
    let client = Client::builder().connect_link(bus.connector().connect_as(stranger).unwrap()).unwrap();
    let refused = client.history_bytes("log/private", HistoryOptions::default()).await.unwrap_err();
    assert!(matches!(refused, BusError::Denied { .. }), "{refused}");
    let allowed = client.history_bytes("log/public", HistoryOptions::default()).await.unwrap();
    assert!(allowed.messages.is_empty());
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn pages_of_what_is_encrypted_are_opened_as_often_as_they_are_asked_for() {
    use whispeer::engine::Engines;
    use whispeer::engine::encryption::{Encryption, Key, Keyring};

    let (bus, stranger, _store) = bus_with(log()).await;
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
    let member = Client::builder().engines(engines).connect_memory(&bus.connector()).unwrap();
    publish(&member, "log/a", 100_001..=100_003).await;
    for _ in 0..2 {
        let page = member.history_bytes("log/a", page(Start::All, 2, MANY)).await.unwrap();
        let payloads: Vec<_> = page.messages.iter().map(|message| message.value.as_ref()).collect();
        assert_eq!(payloads, [b"100001", b"100002"]);
    }
    let page = stranger.history_bytes("log/a", page(Start::All, 2, MANY)).await.unwrap();
    assert!(page.messages.iter().all(|message| message.value.as_ref() != b"100001"));
}

#[tokio::test]
async fn a_subscription_with_a_limit_ends_behind_it_though_it_is_read_slowly() {
    let (_bus, client, _store) = bus_with(log()).await;
    publish(&client, "log/a", 1..=50).await;
    let options = SubscribeOptions::default().start(Start::All).limit(40, MANY).window(3, 100);
    let mut slow = client.subscribe_bytes_with("log/a", options).await.unwrap();
    publish(&client, "log/a", 51..=60).await;
    let mut taken = Vec::new();
    while let Some(event) = soon("an event", slow.next_event()).await {
        let Event::Message(message) = event else { panic!("{event:?}") };
        taken.push(message.position.unwrap().sequence);
        tokio::task::yield_now().await;
    }
    assert_eq!(taken, (1..=40).collect::<Vec<_>>());
    assert_eq!((slow.next_sequence(), slow.end_sequence()), (Some(41), Some(51)));
    assert_eq!(slow.counts().dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_never_waits_for_what_comes() {
    let (_bus, client, _store) = bus_with(log()).await;
    let empty =
        tokio::time::timeout(Duration::from_secs(1), client.history_bytes("log/a", page(Start::All, 9, 9)));
    let empty = empty.await.unwrap().unwrap();
    assert_eq!((empty.messages.len(), empty.next, empty.end), (0, None, 1));
}
