//! How many dead letters a stream keeps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{Event, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Retention, Store, StreamSettings, StreamState};

const LONG: Duration = Duration::from_secs(20);

fn orders() -> StreamSettings {
    StreamSettings::new(Name::new("orders").unwrap(), vec![TopicPattern::new("orders/**").unwrap()])
}

/// The stream of dead letters as the store has it.
async fn dead(store: &Arc<dyn Store>) -> StreamState {
    let states = store.streams().await.unwrap();
    states.into_iter().find(|state| state.settings.name.as_str() == "orders.dead").unwrap()
}

/// Publishes so many orders of 1,000 bytes each, which a consumer refuses, and waits until they are dead letters.
async fn refuse(streams: Streams, count: usize) {
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let from_first = SubscribeOptions::default().start(Start::All);
    let mut letters = client.subscribe_bytes_with("$dead/orders/**", from_first.clone()).await.unwrap();
    let once = from_first.quality(Quality::AtLeastOnce).durable("billing").max_deliver(1);
    let mut consumer = client.consume_bytes("orders/**", once).await.unwrap();
    for _ in 0..count {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
        client.publish_bytes_with("orders/7", Bytes::from(vec![7; 1_000]), kept).await.unwrap();
        timeout(LONG, consumer.recv()).await.unwrap().unwrap().nack(Duration::ZERO);
        let letter = timeout(LONG, letters.next_event()).await.unwrap();
        assert!(matches!(letter, Some(Event::Message(_))), "{letter:?}");
    }
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_refuses_everything_fills_no_more_than_the_bytes_that_dead_letters_may_have() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let settings = orders().dead_letters(Retention::new().bytes(5_000));
    let streams = Streams::open(Arc::clone(&store), [settings]).await.unwrap();
    refuse(streams, 20).await;
    let dead = dead(&store).await;
    assert!(dead.bytes <= 5_000, "{} bytes", dead.bytes);
    assert_eq!((dead.first + dead.messages, dead.end), (21, 21), "the newest are there");
}

#[tokio::test]
async fn dead_letters_are_bounded_unless_somebody_says_otherwise() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    Streams::open(Arc::clone(&store), [orders()]).await.unwrap();
    let Retention { messages, bytes, .. } = dead(&store).await.settings.retention;
    assert_eq!((messages, bytes), (Some(limits::DEAD_LETTERS), Some(limits::DEAD_LETTER_BYTES)));
}

#[tokio::test]
async fn what_is_kept_of_dead_letters_changes_with_the_settings_of_their_stream() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let streams = Streams::open(Arc::clone(&store), [orders()]).await.unwrap();
    streams.change(orders().dead_letters(Retention::new().messages(3))).await.unwrap();
    assert_eq!(dead(&store).await.settings.retention, Retention::new().messages(3));
}
