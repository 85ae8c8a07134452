//! Messages that are published later.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;
use whispeer::auth::{AuthSettings, Policy, Principal};
use whispeer::bus::Streams;
use whispeer::client::{Event, Message, PublishOptions, SubscribeOptions, Subscription};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::fields::{Quality, Start};
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};
use whispeer::transport::{Peer, memory_pair};
use whispeer_testkit::wait::{eventually, now_or_never};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn later(time: Duration) -> PublishOptions {
    PublishOptions::default().deliver_in(time)
}

fn kept(time: Duration) -> PublishOptions {
    later(time).quality(Quality::AtLeastOnce)
}

fn from(start: Start) -> SubscribeOptions {
    SubscribeOptions::default().start(start)
}

fn client(bus: &BusHandle) -> Client {
    Client::new_memory(&bus.connector()).unwrap()
}

/// A bus that keeps the topics of `log/**` in this store.
async fn bus_with(store: Arc<dyn Store>) -> BusHandle {
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
    let streams = Streams::open(store, [log]).await.unwrap();
    Bus::builder().streams(streams).start().unwrap()
}

async fn next(subscription: &mut Subscription<Bytes>) -> Message<Bytes> {
    match subscription.next_event().await {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

async fn take(subscription: &mut Subscription<Bytes>, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(String::from_utf8(next(subscription).await.value.to_vec()).unwrap());
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_when_it_is_due_with_all_that_was_sent_along() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let mut news = client.subscribe_bytes("news/**").await.unwrap();
    let start = Instant::now();
    let options = later(HOUR).header("shop", "7").ttl(Duration::from_secs(5));
    assert_eq!(client.publish_bytes_with("news/*", "later", options).await.unwrap(), 0);
    assert_eq!((bus.stats().delayed_messages, bus.stats().published), (1, 0));
    assert_eq!(client.publish_bytes("news/now", "now").await.unwrap(), 1);
    assert_eq!(take(&mut news, 1).await, ["now"]);
    let message = next(&mut news).await;
    assert!((HOUR..HOUR + Duration::from_millis(10)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!((message.topic.as_str(), &message.value[..]), ("news/*", &b"later"[..]));
    assert_eq!((message.headers.find("shop"), message.expires_in), (Some("7"), Some(Duration::from_secs(5))));
    let stats = bus.stats();
    assert_eq!((stats.delayed_messages, stats.delayed_bytes), (0, 0));
    assert_eq!((stats.published, stats.matched, stats.delivered), (2, 2, 2), "what the bus publishes counts");
    assert_eq!((stats.sessions, stats.sessions_total), (1, 1), "its own session does not");
}

#[tokio::test(start_paused = true)]
async fn what_is_due_comes_in_the_order_of_its_times_and_of_its_publishing() {
    for (topic, prefix) in [("log/a", "kept"), ("elsewhere", "not kept")] {
        let bus = bus_with(Arc::new(MemoryStore::new())).await;
        let client = client(&bus);
        let mut all = client.subscribe_bytes("**").await.unwrap();
        for (text, seconds) in [("30 a", 30), ("10 a", 10), ("20", 20), ("10 b", 10), ("30 b", 30)] {
            let options = later(Duration::from_secs(seconds));
            client.publish_bytes_with(topic, text, options).await.unwrap();
        }
        // One that is due sooner than what is waited for.
        client.publish_bytes_with(topic, "5", later(Duration::from_secs(5))).await.unwrap();
        let start = Instant::now();
        let order = take(&mut all, 6).await;
        assert_eq!(order, ["5", "10 a", "10 b", "20", "30 a", "30 b"], "{prefix}");
        if topic == "elsewhere" {
            assert!(start.elapsed() < Duration::from_secs(31), "{:?}", start.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_it_from_when_it_is_due() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_with(Arc::clone(&store)).await;
    let client = client(&bus);
    let mut live = client.subscribe_bytes_with("log/*", from(Start::New)).await.unwrap();
    client.publish_bytes_with("log/a", "later", kept(HOUR)).await.unwrap();
    client.publish_bytes_with("log/a", "now", kept(Duration::ZERO)).await.unwrap();
    let state = store.streams().await.unwrap().remove(0);
    assert_eq!((state.messages, state.delayed), (1, 1));
    assert_eq!(take(&mut live, 1).await, ["now"]);
    let message = next(&mut live).await;
    let position = message.position.unwrap();
    assert_eq!((message.value, position.sequence), ("later".into(), 2));
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    assert!(u128::from(position.time) + 10_000 > since + HOUR.as_millis(), "its time is when it was due");
    let state = store.streams().await.unwrap().remove(0);
    assert_eq!((state.messages, state.delayed), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn more_than_a_page_is_released_once_each() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_with(Arc::clone(&store)).await;
    let client = client(&bus);
    let mut all = client.subscribe_bytes("log/*").await.unwrap();
    let publisher = client.publisher_bytes_with("log/a", kept(HOUR)).unwrap();
    for number in 0..1_000 {
        publisher.send(&number.to_string().into()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    let expected: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
    assert_eq!(take(&mut all, 1_000).await, expected);
    eventually("nothing is left", || bus.stats().published == 1_000).await;
    let state = store.streams().await.unwrap().remove(0);
    assert_eq!((state.messages, state.delayed), (1_000, 0));
    assert!(now_or_never(all.recv()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_needs_by_then_is_not_delivered() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_with(Arc::clone(&store)).await;
    client(&bus).publish_bytes_with("log/a", "gone", kept(HOUR).ttl(Duration::from_secs(1))).await.unwrap();
    client(&bus).publish_bytes_with("log/a", "there", kept(2 * HOUR)).await.unwrap();
    // Its time passes while there is no bus.
    bus.stop().await;
    tokio::time::sleep(3 * HOUR).await;
    let bus = bus_with(store).await;
    let mut all = client(&bus).subscribe_bytes_with("log/*", from(Start::All)).await.unwrap();
    assert_eq!(take(&mut all, 1).await, ["there"]);
}

#[tokio::test]
async fn a_time_of_the_bus_is_waited_for_and_one_that_is_over_is_now() {
    let bus = bus_with(Arc::new(MemoryStore::new())).await;
    let client = client(&bus);
    let mut all = client.subscribe_bytes("**").await.unwrap();
    let at = |time| PublishOptions::default().deliver_at(time);
    let now = SystemTime::now();
    for topic in ["log/a", "elsewhere"] {
        let soon = at(now + Duration::from_millis(300));
        assert_eq!(client.publish_bytes_with(topic, "soon", soon).await.unwrap(), 0);
        assert_eq!(client.publish_bytes_with(topic, "over", at(now)).await.unwrap(), 1);
        assert_eq!(
            client.publish_bytes_with(topic, "long over", at(SystemTime::UNIX_EPOCH)).await.unwrap(),
            1
        );
    }
    assert_eq!(take(&mut all, 4).await, ["over", "long over", "over", "long over"]);
    assert_eq!(take(&mut all, 2).await, ["soon", "soon"]);
    assert!(SystemTime::now() >= now + Duration::from_millis(300));
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn what_is_kept_in_a_file_outlives_the_bus() {
    use whispeer::store::{SqliteOptions, SqliteStore};

    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(&folder.path().join("db"), SqliteOptions::new()).unwrap();
    let store = open();
    let bus = bus_with(Arc::new(store.clone())).await;
    for (text, millis) in [("third", 500), ("first", 1), ("second", 400)] {
        let options = kept(Duration::from_millis(millis));
        client(&bus).publish_bytes_with("log/a", text, options).await.unwrap();
    }
    bus.stop().await;
    store.close().await.unwrap();
    let bus = bus_with(Arc::new(open())).await;
    let mut log = client(&bus).subscribe_bytes_with("log/*", from(Start::All)).await.unwrap();
    assert_eq!(take(&mut log, 3).await, ["first", "second", "third"]);
}

#[tokio::test(start_paused = true)]
async fn there_is_a_bound_to_how_late_and_how_much() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let limit = |result: BusResult<usize>| matches!(result, Err(BusError::LimitReached { .. }));
    let too_late = later(limits::DELAY_MAX + Duration::from_millis(1));
    assert!(limit(client.publish_bytes_with("a", "x", too_late).await));
    assert!(limit(client.publish_bytes_with("a", "x", later(Duration::MAX)).await));
    client.publish_bytes_with("a", "x", later(limits::DELAY_MAX)).await.unwrap();
    let several = bus.stats().delayed_messages;
    assert_eq!(several, 1);
    let publisher = client.publisher_bytes_with("a", later(HOUR)).unwrap();
    for _ in 1..limits::DELAYED_MESSAGES {
        publisher.send(&"x".into()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    assert!(limit(client.publish_bytes_with("a", "one more", later(HOUR)).await));
    assert_eq!(client.publish_bytes("a", "now").await.unwrap(), 0);

    // Bytes are bounded by a part of the byte budget.
    let settings = whispeer::bus::Settings { byte_budget: 16 << 20, ..whispeer::bus::Settings::default() };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let client = self::client(&bus);
    let large = || vec![0_u8; 1 << 20];
    client.publish_bytes_with("a", large(), later(HOUR)).await.unwrap();
    assert!(limit(client.publish_bytes_with("a", large(), later(HOUR)).await));
    assert!(bus.stats().queued_bytes > 1 << 20, "it counts in the budget");
    tokio::time::sleep(2 * HOUR).await;
    client.publish_bytes_with("a", large(), later(HOUR)).await.unwrap();
}

#[tokio::test]
async fn one_message_to_several_topics_or_without_its_stream_is_not_delayed() {
    #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
    struct Note(String);
    impl PublishProtocol for Note {
        fn prefix() -> &'static str {
            "notes"
        }
    }
    let bus = bus_with(Arc::new(MemoryStore::new())).await;
    let client = client(&bus);
    let refused = client.publish_bytes_with("elsewhere", "x", kept(HOUR)).await.unwrap_err();
    assert!(matches!(refused, BusError::NotDurable { .. }), "{refused}");
    let refused = client.publish_with("$bus/x", &Note("x".into()), later(HOUR)).await;
    assert!(refused.is_ok(), "it lies under the prefix");
    let refused = client.publish_bytes_with("$bus/x", "x", later(HOUR)).await.unwrap_err();
    assert!(matches!(refused, BusError::ReservedTopic { .. }), "{refused}");
}

fn policy(publish: &str) -> Policy {
    let settings = format!(
        "[roles.clerk]\npublish.allow = [{publish}]\n\n[[certificates]]\nname = \"clerk\"\nroles = [\"clerk\"]\n"
    );
    Policy::new(&toml::from_str::<AuthSettings>(&settings).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_may_not_publish_there_any_more_when_it_is_due_does_not() {
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let streams = Streams::open(Arc::clone(&store), [log]).await.unwrap();
    let everywhere = policy("\"**\"");
    let bus = Bus::builder().policy(everywhere).streams(streams).start().unwrap();
    let (bus_end, client_end) = memory_pair();
    let clerk = Principal::Certificate { name: "clerk".into() };
    bus.attach(bus_end, Peer::new(clerk, "test")).unwrap();
    let clerk = Client::builder().connect_link(client_end).unwrap();
    let mut all = client(&bus).subscribe_bytes("**").await.unwrap();
    for topic in ["log/a", "log/b", "a", "b"] {
        clerk.publish_bytes_with(topic, topic.to_owned(), later(HOUR)).await.unwrap();
    }
    bus.set_policy(policy("\"*/a\", \"a\""));
    let refused = clerk.publish_bytes_with("b", "b", later(HOUR)).await.unwrap_err();
    assert!(matches!(refused, BusError::Denied { .. }), "{refused}");
    // He need not be there for that.
    clerk.close().await.unwrap();
    let mut taken = take(&mut all, 2).await;
    taken.sort();
    assert_eq!(taken, ["a", "log/a"]);
    tokio::time::sleep(HOUR).await;
    assert_eq!(bus.stats().lapsed, 2);
    let state = store.streams().await.unwrap().remove(0);
    assert_eq!((state.messages, state.delayed), (1, 0));
    assert!(now_or_never(all.recv()).await.is_none());
}

/// A client that is known by this name of a certificate.
fn named(bus: &BusHandle, name: &str) -> Client {
    let (bus_end, client_end) = memory_pair();
    let principal = Principal::Certificate { name: name.into() };
    bus.attach(bus_end, Peer::new(principal, "test")).unwrap();
    Client::builder().connect_link(client_end).unwrap()
}

#[tokio::test(start_paused = true)]
async fn nobody_keeps_so_much_that_nothing_is_left_for_others() {
    const MIB: usize = 1 << 20;
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
    let streams = Streams::open(Arc::new(MemoryStore::new()), [log]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    // 64 MiB in a stream, and an eighth of the byte budget elsewhere.
    let part = whispeer::bus::Settings::default().byte_budget / 8;
    for (topic, most) in [("log/a", 64 * MIB), ("elsewhere", part)] {
        let keep = async |client: &Client, bytes: usize| {
            client.publish_bytes_with(topic, vec![0; bytes], later(HOUR)).await
        };
        let fill = async |client: &Client| {
            let mut kept = 0;
            loop {
                match keep(client, MIB).await {
                    Ok(_) => kept += MIB,
                    Err(BusError::LimitReached { what }) => {
                        assert!(what.contains("as is left for others"), "{what}");
                        return kept;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        };
        let hog = fill(&named(&bus, "hog")).await;
        assert!((most / 2 - 2 * MIB..=most / 2).contains(&hog), "{topic}: {hog} of {most}");
        assert_eq!(fill(&named(&bus, "hog")).await, 0, "another connection of it has no more");
        let other = fill(&named(&bus, "alice")).await;
        assert!((most / 4 - 2 * MIB..=most / 4).contains(&other), "{topic}: {other} of {most}");
        keep(&named(&bus, "bob"), MIB).await.unwrap();
        // The bus's own process may have all that there is.
        while keep(&client(&bus), MIB).await.is_ok() {}
        assert!(bus.stats().delayed_bytes <= part);
    }
    // What has been published counts no more.
    tokio::time::sleep(2 * HOUR).await;
    eventually("all is published", || bus.stats().delayed_messages == 0).await;
    for topic in ["log/a", "elsewhere"] {
        named(&bus, "hog").publish_bytes_with(topic, vec![0; MIB], later(HOUR)).await.unwrap();
    }
}

#[cfg(feature = "encryption")]
#[tokio::test(start_paused = true)]
async fn what_is_encrypted_is_kept_so() {
    use whispeer::engine::Engines;
    use whispeer::engine::encryption::{Encryption, Key, Keyring};

    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_with(Arc::clone(&store)).await;
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
    let member = Client::builder().engines(engines).connect_memory(&bus.connector()).unwrap();
    let mut live = member.subscribe_bytes("**").await.unwrap();
    for topic in ["log/a", "elsewhere"] {
        member.publish_bytes_with(topic, "the eagle has landed", later(HOUR)).await.unwrap();
    }
    let kept = store.delayed(Name::new("log").unwrap(), u64::MAX, 1).await.unwrap().remove(0);
    assert!(!kept.message.payload.windows(5).any(|five| five == b"eagle"));
    assert_eq!(take(&mut live, 2).await, ["the eagle has landed", "the eagle has landed"]);
}
