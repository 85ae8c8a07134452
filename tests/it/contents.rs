//! Messages as shared content: one for all subscribers in the process, and encoded once for all of them.

use std::cell::Cell;
use std::sync::Arc;

use whispeer::bus::Streams;
use whispeer::client::{Event, Message, PublishOptions, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer::proto::fields::{Quality, Start};
use whispeer::proto::{Content, Encoding};
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};
use whispeer_testkit::ledger::nothing_left;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::Ground;

type Contents = Subscription<Arc<Content>>;

const ALL: [Encoding; 5] =
    [Encoding::Json, Encoding::Native, Encoding::Turbine, Encoding::PopSub, Encoding::Event];

async fn next(subscription: &mut Contents) -> Message<Arc<Content>> {
    match soon("a message", subscription.next_event()).await.unwrap() {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

async fn content(subscription: &mut Contents) -> Arc<Content> {
    next(subscription).await.value
}

/// Fifty subscriptions of each of two sessions of this process.
async fn hundred(ground: &Ground) -> Vec<Contents> {
    let mut subscriptions = Vec::new();
    for client in [ground.client(), ground.client()] {
        for _ in 0..50 {
            subscriptions.push(client.subscribe_content("news/*").await.unwrap());
        }
    }
    subscriptions
}

#[tokio::test]
async fn a_message_is_encoded_once_for_all_subscribers_of_all_sessions_whoever_published_it() {
    let ground = Ground::new(Bus::builder());
    let mut subscriptions = hundred(&ground).await;
    let outside = Client::new_unix(&ground.socket()).await.unwrap();
    for publisher in [ground.client(), outside] {
        for payload in ["short".to_owned(), "long".repeat(50_000)] {
            assert_eq!(publisher.publish_bytes("news/local", payload.clone()).await.unwrap(), 100);
            let made = Cell::new(0);
            let mut contents = Vec::new();
            for subscription in &mut subscriptions {
                let content = content(subscription).await;
                for encoding in ALL {
                    let encoded = content.encoded(encoding, || {
                        made.set(made.get() + 1);
                        content.payload_bytes()
                    });
                    assert_eq!(encoded, payload);
                }
                contents.push(content);
            }
            assert_eq!(made.get(), ALL.len());
            assert!(contents.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
        }
    }
    drop(subscriptions);
    ground.end().await;
}

#[tokio::test]
async fn a_value_of_the_process_is_handed_over_as_such() {
    #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
    struct News(String);
    impl PublishProtocol for News {
        fn prefix() -> &'static str {
            "news"
        }
    }

    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let mut subscription = client.subscribe_content("news/*").await.unwrap();
    client.publish("local", &News("the bakery reopens".into())).await.unwrap();
    let message = next(&mut subscription).await;
    assert_eq!(message.topic, "news/local");
    assert!(message.value.value().is_some());
    assert_eq!(message.value.payload(), rmp_serde::to_vec_named(&News("the bakery reopens".into())).unwrap());
}

#[tokio::test]
async fn over_a_byte_link_a_message_has_a_content_of_its_own() {
    let ground = Ground::new(Bus::builder());
    let outside = Client::new_unix(&ground.socket()).await.unwrap();
    let mut one = outside.subscribe_content("news/*").await.unwrap();
    let mut other = outside.subscribe_content("news/*").await.unwrap();
    for payload in ["short".to_owned(), "long".repeat(50_000)] {
        let options = PublishOptions::default().header("shop", "7");
        let publisher = ground.client();
        publisher.publish_bytes_with("news/local", payload.clone(), options).await.unwrap();
        let (one, other) = (next(&mut one).await, next(&mut other).await);
        for message in [&one, &other] {
            assert_eq!(message.headers.find("shop"), Some("7"));
            assert_eq!(message.value.topic(), b"news/local");
            assert_eq!(message.value.payload_bytes(), payload);
        }
        one.value.encoded(Encoding::Json, || "the one".into());
        assert_eq!(other.value.encoded(Encoding::Json, || "the other".into()), "the other");
    }
}

#[cfg(feature = "compression")]
#[tokio::test]
async fn sealed_payloads_pass_as_they_are_without_engines_and_come_opened_with_them() {
    use whispeer::engine::{Engine, Engines, compression::Compression, is_sealed, sealed_by};

    let ground = Ground::new(Bus::builder());
    let with_engines = || {
        let engines = Engines::new().with(Compression::new());
        Client::builder().engines(engines).connect_memory(&ground.bus.connector()).unwrap()
    };
    let (publisher, reader, plain) = (with_engines(), with_engines(), ground.client());
    let mut opened = reader.subscribe_content("news").await.unwrap();
    let mut as_they_are = plain.subscribe_content("news").await.unwrap();
    for length in [1_000, 1_000_000] {
        let payload = vec![7; length];
        let options = PublishOptions::default().header("shop", "7");
        publisher.publish_bytes_with("news", payload.clone(), options).await.unwrap();
        let opened = next(&mut opened).await;
        assert_eq!(opened.value.payload(), payload);
        assert!(!is_sealed(opened.value.payload()));
        assert_eq!((opened.value.topic(), opened.headers.find("shop")), (&b"news"[..], Some("7")));
        let sealed = content(&mut as_they_are).await;
        assert!(sealed.value().is_none() && is_sealed(sealed.payload()));
        assert_eq!(sealed_by(sealed.payload()), Some(Compression::new().id()));
        assert!(sealed.payload().len() < payload.len());
    }
}

#[tokio::test]
async fn a_message_of_a_stream_tells_where_and_when_it_was_stored() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let patterns = vec![TopicPattern::new("news/**").unwrap()];
    let settings = StreamSettings::new(Name::new("news").unwrap(), patterns);
    let streams = Streams::open(store, [settings]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let options = SubscribeOptions::default().start(Start::All);
    let mut all = client.subscribe_content_with("news/*", options).await.unwrap();
    let mut live = client.subscribe_content("news/*").await.unwrap();
    let kept = PublishOptions::default().quality(Quality::ExactlyOnce).header("shop", "7");
    client.publish_bytes_with("news/local", "the bakery reopens", kept).await.unwrap();

    let message = next(&mut all).await;
    let position = message.position.unwrap();
    assert_eq!(
        (message.topic, message.headers.find("shop")),
        (TopicPattern::new("news/local").unwrap(), Some("7"))
    );
    assert_eq!(position.sequence, 1);
    assert!(position.time > 0);
    assert!(all.epoch().is_some());
    assert_eq!(message.value.payload(), b"the bakery reopens");
    assert_eq!(next(&mut live).await.position, None, "it reads no stream");
}

#[tokio::test]
async fn encoding_what_the_bus_has_counted_changes_nothing_of_what_it_counts() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let mut quick = client.subscribe_content("news").await.unwrap();
    let slow = SubscribeOptions::default().window(1, 1024);
    let mut slow = client.subscribe_content_with("news", slow).await.unwrap();
    let payload = vec![7; 100_000];
    for _ in 0..3 {
        client.publish_bytes("news", payload.clone()).await.unwrap();
    }
    let parked = ground.bus.stats().parked_bytes;
    assert!(parked >= 2 * payload.len());
    for _ in 0..3 {
        content(&mut quick).await.encoded(Encoding::Json, || vec![0; 1_000_000].into());
    }
    assert_eq!(ground.bus.stats().parked_bytes, parked);
    for _ in 0..3 {
        // What was parked by reference is encoded already.
        let content = content(&mut slow).await;
        assert_eq!(content.encoded(Encoding::Json, || unreachable!("it is there")).len(), 1_000_000);
    }
    eventually("nothing is parked", || ground.bus.stats().parked_bytes == 0).await;
    drop((quick, slow));
    client.close().await.unwrap();
    nothing_left(&ground.bus).await;
    ground.end().await;
}
