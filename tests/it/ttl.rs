//! Messages that are of use for a while only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use whispeer::bus::Streams;
use whispeer::client::{Event, GapReason, Policy, PublishOptions, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer::proto::fields::{Quality, Start};
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};
use whispeer_testkit::wait::soon;

fn of_use_for(millis: u64) -> PublishOptions {
    PublishOptions::default().ttl(Duration::from_millis(millis))
}

fn small(policy: Policy) -> SubscribeOptions {
    SubscribeOptions::default().policy(policy).window(1, 1024)
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// What comes next, in words.
async fn next(subscription: &mut Subscription<Bytes>) -> String {
    match soon("the next event", subscription.next_event()).await {
        Some(Event::Message(message)) => String::from_utf8(message.value.to_vec()).unwrap(),
        Some(Event::Gap { count, reason }) => format!("{count} {}", reason.name()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_longer_than_it_is_of_use_is_a_gap_in_its_place_under_each_policy() {
    for policy in [Policy::Block, Policy::DropOldest] {
        let (bus, connector) = listen_and_serve_memory().unwrap();
        let client = Client::new_memory(&connector).unwrap();
        let options = SubscribeOptions::default().policy(policy).window(2, 1024);
        let mut news = client.subscribe_bytes_with("news", options).await.unwrap();
        for payload in ["first", "second"] {
            client.publish_bytes("news", payload).await.unwrap();
        }
        client.publish_bytes_with("news", "short", of_use_for(100)).await.unwrap();
        client.publish_bytes_with("news", "long", of_use_for(500)).await.unwrap();
        pass(99).await;
        assert_eq!(bus.subscriptions()[0].parked, 2, "{policy:?}");
        pass(3).await;
        let stats = &bus.subscriptions()[0];
        assert_eq!((stats.parked, stats.dropped.get("expired")), (1, Some(&1)), "{policy:?}");
        assert!(!stats.lagging, "what expires is nobody's fault");
        for expected in ["first", "second", "1 expired", "long"] {
            assert_eq!(next(&mut news).await, expected, "{policy:?}");
        }
        assert_eq!(news.counts().dropped_for(GapReason::Expired), 1);
        let stats = bus.stats();
        assert_eq!(stats.matched, stats.delivered + stats.dropped.values().sum::<u64>());
    }
}

#[tokio::test(start_paused = true)]
async fn what_expires_holds_its_publishers_credit_no_longer() {
    let settings = whispeer::bus::Settings {
        publish_window: (1, 1024),
        block_limit: Duration::from_secs(600),
        ..whispeer::bus::Settings::default()
    };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut news = client.subscribe_bytes_with("news", small(Policy::Block)).await.unwrap();
    let publisher = client.publisher_bytes_with("news", of_use_for(50)).unwrap();
    publisher.send(&"first".into()).await.unwrap();
    publisher.send(&"parked".into()).await.unwrap();
    let start = tokio::time::Instant::now();
    publisher.send(&"third".into()).await.unwrap();
    let waited = start.elapsed().as_millis();
    assert!((50..60).contains(&waited), "{waited} ms");
    assert_eq!(next(&mut news).await, "first");
    assert_eq!(next(&mut news).await, "1 expired");
}

#[tokio::test(start_paused = true)]
async fn a_queue_group_keeps_what_is_of_use_and_drops_the_rest() {
    for policy in [Policy::Block, Policy::DropOldest] {
        let (bus, connector) = listen_and_serve_memory().unwrap();
        let client = Client::new_memory(&connector).unwrap();
        let options = small(policy).group("workers").window(2, 1024);
        let mut jobs = client.subscribe_bytes_with("jobs", options).await.unwrap();
        for (payload, options) in [
            ("first", PublishOptions::default()),
            ("second", PublishOptions::default()),
            ("short", of_use_for(100)),
            ("long", PublishOptions::default()),
        ] {
            client.publish_bytes_with("jobs", payload, options).await.unwrap();
        }
        // The sweeper looks every now and then; what it has not seen yet is not delivered either.
        pass(101).await;
        for expected in ["first", "second", "1 expired", "long"] {
            assert_eq!(next(&mut jobs).await, expected, "{policy:?}");
        }
        pass(200).await;
        let stats = bus.stats();
        assert_eq!((stats.matched, stats.parked_messages), (4, 0), "{policy:?}");
        assert_eq!((stats.delivered, stats.dropped.get("expired")), (3, Some(&1)), "{policy:?}");
    }
}

#[tokio::test]
async fn a_message_says_how_long_it_is_of_use_also_among_several_topics() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let mut news = client.subscribe_bytes("**").await.unwrap();
    for (options, expected) in [
        (PublishOptions::default(), None),
        (of_use_for(1_500), Some(Duration::from_millis(1_500))),
        (of_use_for(0), Some(Duration::ZERO)),
        (PublishOptions::default().ttl(Duration::MAX), Some(Duration::from_millis(u64::MAX))),
    ] {
        assert_eq!(client.publish_bytes_with("news", "x", options).await.unwrap(), 1);
        let Some(Event::Message(message)) = soon("a message", news.next_event()).await else { panic!() };
        assert_eq!(message.expires_in, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn without_time_to_wait_a_message_reaches_those_that_have_room() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let mut roomy = client.subscribe_bytes("news").await.unwrap();
    let mut full = client.subscribe_bytes_with("news", small(Policy::Block)).await.unwrap();
    client.publish_bytes("news", "first").await.unwrap();
    assert_eq!(client.publish_bytes_with("news", "now or never", of_use_for(0)).await.unwrap(), 2);
    for expected in ["first", "now or never"] {
        assert_eq!(next(&mut roomy).await, expected);
    }
    for expected in ["first", "1 expired"] {
        assert_eq!(next(&mut full).await, expected);
    }
}

#[tokio::test]
async fn a_stream_gives_to_nobody_what_has_expired() {
    let store = Arc::new(MemoryStore::new());
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log").unwrap()]);
    let streams = Streams::open(store, [log]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let kept = |options: PublishOptions| options.quality(Quality::AtLeastOnce);
    for (payload, options) in
        [("gone", of_use_for(0)), ("there", of_use_for(3_600_000)), ("for ever", PublishOptions::default())]
    {
        client.publish_bytes_with("log", payload, kept(options)).await.unwrap();
    }
    let from = SubscribeOptions::default().start(Start::All);
    let mut log = client.subscribe_bytes_with("log", from).await.unwrap();
    let Some(Event::Message(there)) = soon("a message", log.next_event()).await else { panic!() };
    assert_eq!(there.value, "there");
    let left = there.expires_in.unwrap();
    assert!(left > Duration::from_secs(3_000) && left <= Duration::from_secs(3_600), "{left:?}");
    let Some(Event::Message(last)) = soon("a message", log.next_event()).await else { panic!() };
    assert_eq!((last.value, last.expires_in), ("for ever".into(), None));
}

#[tokio::test]
async fn a_consumer_is_done_with_what_has_expired_before_anybody_had_room_for_it() {
    let name = || Name::new("log").unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let log = StreamSettings::new(name(), vec![TopicPattern::new("log").unwrap()]);
    let streams = Streams::open(Arc::clone(&store), [log]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    for (payload, millis) in [("first", 3_600_000), ("short", 1_000), ("last", 3_600_000)] {
        let kept = of_use_for(millis).quality(Quality::AtLeastOnce);
        client.publish_bytes_with("log", payload, kept).await.unwrap();
    }
    let one_by_one = SubscribeOptions::default().quality(Quality::AtLeastOnce).max_pending(1);
    let reader = one_by_one.durable("reader").start(Start::All);
    let mut reader = client.consume_bytes("log", reader).await.unwrap();
    let first = soon("a message", reader.recv()).await.unwrap();
    let left = first.expires_in.unwrap();
    assert!(left > Duration::from_secs(3_000) && left <= Duration::from_secs(3_600), "{left:?}");
    pass(1_000).await;
    first.ack().await.unwrap();
    let last = soon("a message", reader.recv()).await.unwrap();
    assert_eq!(last.value, "last");
    last.ack().await.unwrap();
    assert_eq!(store.consumers(name()).await.unwrap()[0].floor, 4, "nothing is waited for");
    // It is left out when the stream is read, and nothing was read for which there was no room.
    let stats = &bus.subscriptions()[0];
    assert_eq!((reader.gaps(), stats.matched, stats.delivered), (0, 2, 2));
}
