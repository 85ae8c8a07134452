//! What is read of a stream's consumers when one of them begins, and when they are listed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use whispeer::bus::{ConsumerStats, Rows, Streams};
use whispeer::client::{Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{Change, MemoryStore, Name, NewMessage, Store, StreamSettings};

use crate::orders::{bus_on, client};
use crate::tampered_store::TamperedStore;

const LONG: Duration = Duration::from_secs(20);

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

/// A consumer that begins with the first message and has tried these before.
fn consumer(called: &str, tried: impl IntoIterator<Item = u64>) -> Vec<Change> {
    let pattern = Some(TopicPattern::new("orders/**").unwrap());
    let made = Change::Consumer { name: name(called), pattern, from: 1, owner: Bytes::new() };
    let tried = tried.into_iter().map(|sequence| {
        let consumer = name(called);
        Change::Attempted { consumer, sequence, attempts: 1 }
    });
    std::iter::once(made).chain(tried).collect()
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_begins_reads_nothing_of_the_others_and_a_listing_nothing_of_any() {
    let store = TamperedStore::new(MemoryStore::new());
    let read = store.progress_read();
    let settings = StreamSettings::new(name("orders"), vec![TopicPattern::new("orders/**").unwrap()]);
    store.open(settings.clone()).await.unwrap();
    let message = NewMessage {
        topic: TopicPattern::new("orders/7").unwrap(),
        fields: "".into(),
        payload: "two apples".into(),
        time: 1,
        expires: None,
        id: None,
    };
    store.commit(name("orders"), vec![Change::Append(message)]).await.unwrap();
    for other in 0..8 {
        store.commit(name("orders"), consumer(&format!("other-{other}"), 1..=1_000)).await.unwrap();
    }
    store.commit(name("orders"), consumer("billing", [1, 2, 3])).await.unwrap();

    let streams = Streams::open(Arc::new(store), [settings]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let billing = SubscribeOptions::default().quality(Quality::AtLeastOnce).durable("billing");
    let mut orders = client.consume_bytes("orders/**", billing.start(Start::New)).await.unwrap();
    let order = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    assert_eq!(order.attempt.map(|attempt| attempt.number), Some(2), "what it has tried is known");
    assert_eq!(read.load(Ordering::Relaxed), 3);

    let answer = client.request_bytes("$bus/consumers", "".into()).await.unwrap();
    let listed: Rows<ConsumerStats> = rmp_serde::from_slice(&answer).unwrap();
    assert_eq!(listed.rows.len(), 9);
    assert_eq!((listed.rows[0].name.as_str(), listed.rows[0].pending), ("billing", 1));
    assert_eq!(read.load(Ordering::Relaxed), 3, "a listing shows none of it");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_more_than_a_stream_may_have_is_told_of_at_once() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = bus_on(&store).await;
    for number in 0..limits::STREAM_CONSUMERS {
        store.commit(name("orders"), consumer(&format!("consumer-{number}"), [])).await.unwrap();
    }
    let begun = Instant::now();
    let one_more = SubscribeOptions::default().durable("one-more").start(Start::All);
    let refused = client(&bus).consume_bytes("orders/**", one_more).await.unwrap_err();
    assert!(matches!(refused, BusError::LimitReached { .. }), "{refused:?}");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    bus.stop().await;
}
