//! A store that is away when the bus starts holds up what is its alone, and is there for all when it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, NewMessage, Store, StoreError, StreamSettings};

use crate::tampered_store::TamperedStore;

/// Long enough for whatever is on its way to come. Time is paused.
const LONG: Duration = Duration::from_secs(60);

fn orders() -> StreamSettings {
    StreamSettings::new(Name::new("orders").unwrap(), vec![TopicPattern::new("orders/**").unwrap()])
}

/// A store that says this as long as it is away.
fn store(error: StoreError) -> (Arc<dyn Store>, Arc<AtomicBool>) {
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let store = TamperedStore::new(MemoryStore::new())
        .on_open(move || is_away.load(Ordering::Relaxed).then(|| error.clone()));
    (Arc::new(store), away)
}

fn busy() -> StoreError {
    StoreError::Busy { what: "nobody answers".into() }
}

async fn publish(client: &Client, quality: Quality) -> BusResult<usize> {
    let kept = PublishOptions::default().quality(quality);
    client.publish_bytes_with("orders/7", "an order", kept).await
}

fn all() -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All)
}

#[tokio::test(start_paused = true)]
async fn what_is_published_to_a_stream_that_is_not_open_is_refused_until_it_is() {
    let (store, away) = store(busy());
    let streams = Streams::open_within(store, [orders()], Duration::from_secs(2)).await.unwrap();
    let bus = Bus::builder().streams(streams.clone()).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    for quality in [Quality::AtMostOnce, Quality::AtLeastOnce] {
        let refused = publish(&client, quality).await;
        let Err(BusError::NotStored { reason }) = refused else { panic!("{refused:?}") };
        assert!(
            reason.contains("\"orders\" is not open yet") && reason.contains("nobody answers"),
            "{reason}"
        );
    }
    let delayed = PublishOptions::default().quality(Quality::AtLeastOnce).deliver_in(LONG);
    let refused = client.publish_bytes_with("orders/7", "later", delayed).await;
    assert!(matches!(refused, Err(BusError::NotStored { .. })), "{refused:?}");
    for options in [all(), all().quality(Quality::AtLeastOnce).durable("billing")] {
        let refused = client.subscribe_bytes_with("orders/**", options).await;
        assert!(matches!(refused, Err(BusError::NotStored { .. })), "{refused:?}");
    }
    let told = streams.states().await.remove(0).problem.expect("it is told that it is not open");
    assert!(told.contains("nobody answers"), "{told}");
    // All else goes on.
    let mut others = client.subscribe_bytes("bills").await.unwrap();
    client.publish_bytes("bills", "a bill").await.unwrap();
    assert_eq!(timeout(LONG, others.recv()).await.unwrap().unwrap().1, "a bill");

    away.store(false, Ordering::Relaxed);
    let opened = async {
        while publish(&client, Quality::AtLeastOnce).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LONG, opened).await.expect("it is open");
    let mut reader = client.subscribe_bytes_with("orders/**", all()).await.unwrap();
    assert_eq!(timeout(LONG, reader.recv()).await.unwrap().unwrap().1, "an order");
    assert_eq!(streams.states().await[0].problem, None);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_opened_late_has_what_was_in_it() {
    let (store, away) = store(busy());
    away.store(false, Ordering::Relaxed);
    store.open(orders()).await.unwrap();
    let topic = TopicPattern::new("orders/1").unwrap();
    let (fields, payload) = ("".into(), "old".into());
    let message = NewMessage { topic, fields, payload, time: 1, expires: None, id: None };
    store.commit(Name::new("orders").unwrap(), vec![whispeer::store::Change::Append(message)]).await.unwrap();
    away.store(true, Ordering::Relaxed);
    let streams = Streams::open_within(Arc::clone(&store), [orders()], LONG).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    away.store(false, Ordering::Relaxed);
    let opened = async {
        loop {
            match client.subscribe_bytes_with("orders/**", all()).await {
                Ok(reader) => return reader,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let mut reader = timeout(LONG, opened).await.expect("it is open");
    assert_eq!(timeout(LONG, reader.recv()).await.unwrap().unwrap().1, "old");
    publish(&client, Quality::AtLeastOnce).await.unwrap();
    assert_eq!(timeout(LONG, reader.recv()).await.unwrap().unwrap().1, "an order");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_by_itself_is_told_at_once() {
    let (store, _away) = store(StoreError::Newer { place: "the journal".into() });
    let refused = Streams::open_within(store, [orders()], LONG).await;
    let told = refused.expect_err("it does not pass").to_string();
    assert!(told.contains("later release"), "{told}");
}
