//! A store that is busy for a while ends nobody who reads, and one that is always busy with one stream keeps no more of the others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use whispeer::bus::Streams;
use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{Change, MemoryStore, Name, Retention, Store, StoreError, StreamSettings};

use crate::tampered_store::TamperedStore;

/// Long enough for whatever is on its way to come. Time is paused.
const LONG: Duration = Duration::from_secs(60);

/// What a store says to those who read, and how often it has said so.
#[derive(Debug, Default)]
struct Refusals {
    error: Option<StoreError>,
    left: usize,
    said: usize,
}

type Told = Arc<Mutex<Refusals>>;

fn busy() -> StoreError {
    StoreError::Busy { what: "too much waits for the store".into() }
}

/// Says so to the next so many who read.
fn refuse(told: &Told, error: StoreError, times: usize) {
    *told.lock().unwrap() = Refusals { error: Some(error), left: times, said: 0 };
}

async fn bus_that_may_refuse() -> (BusHandle, Client, Told) {
    let told = Told::default();
    let refusals = Arc::clone(&told);
    let store = TamperedStore::new(MemoryStore::new()).on_question(move || {
        let mut refusals = refusals.lock().unwrap();
        refusals.left = refusals.left.checked_sub(1)?;
        refusals.said += 1;
        refusals.error.clone()
    });
    let (name, pattern) = (Name::new("orders").unwrap(), TopicPattern::new("orders/**").unwrap());
    let streams = Streams::open(Arc::new(store), [StreamSettings::new(name, vec![pattern])]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    (bus, client, told)
}

async fn publish(client: &Client, number: u64) {
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    client.publish_bytes_with("orders/7", number.to_string(), kept).await.unwrap();
}

fn reading(start: Start) -> SubscribeOptions {
    SubscribeOptions::default().start(start)
}

fn billing() -> SubscribeOptions {
    reading(Start::All).quality(Quality::AtLeastOnce).durable("billing")
}

#[tokio::test(start_paused = true)]
async fn who_reads_waits_for_a_store_that_is_busy_wherever_he_begins() {
    let (bus, client, told) = bus_that_may_refuse().await;
    publish(&client, 1).await;
    let in_use = StoreError::InUse { place: "a file".into() };
    for (error, start) in [
        (busy(), Start::All),
        (in_use, Start::Last(1)),
        (busy(), Start::LastPerTopic),
        (busy(), Start::Since(0)),
    ] {
        refuse(&told, error, 8);
        let mut orders = client.subscribe_bytes_with("orders/**", reading(start)).await.unwrap();
        let order = timeout(LONG, orders.recv()).await.expect("it comes");
        assert_eq!(order.map(|(_, payload)| payload).unwrap(), "1", "{start:?}");
        assert_eq!((orders.gaps(), told.lock().unwrap().said), (0, 8), "{start:?}");
    }
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_acknowledges_while_the_store_is_too_busy_to_be_read() {
    let (bus, client, told) = bus_that_may_refuse().await;
    publish(&client, 1).await;
    refuse(&told, busy(), 4);
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    let first = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    assert_eq!(told.lock().unwrap().said, 4);

    refuse(&told, busy(), usize::MAX);
    publish(&client, 2).await;
    let second = timeout(Duration::from_secs(5), orders.recv()).await;
    assert!(second.is_err(), "nobody can read it");
    let begin = Instant::now();
    timeout(LONG, first.ack()).await.expect("it is written").unwrap();
    assert!(begin.elapsed() < limits::STORE_RETRY_MAX, "{:?}", begin.elapsed());
    refuse(&told, busy(), 1);
    let second = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    assert_eq!(second.value, "2");

    // What comes again is read again, and so is what goes among the dead letters.
    refuse(&told, busy(), 3);
    second.nack(Duration::ZERO);
    let again = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    assert_eq!((&again.value[..], told.lock().unwrap().said), (&b"2"[..], 3));
    assert_eq!(orders.gaps(), 0);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_has_failed_too_often_is_put_away_when_the_store_is_not_busy_any_more() {
    let (bus, client, told) = bus_that_may_refuse().await;
    publish(&client, 1).await;
    let mut letters = client.subscribe_bytes_with("$dead/orders/**", reading(Start::All)).await.unwrap();
    let mut orders = client.consume_bytes("orders/**", billing().max_deliver(1)).await.unwrap();
    let first = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    refuse(&told, busy(), 5);
    first.nack(Duration::ZERO);
    assert_eq!(timeout(LONG, letters.recv()).await.expect("it comes").unwrap().1, "1");
    assert_eq!(told.lock().unwrap().said, 5);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_ends_with_what_a_store_says_that_is_busy_for_too_long() {
    let (bus, client, told) = bus_that_may_refuse().await;
    publish(&client, 1).await;
    refuse(&told, busy(), usize::MAX);
    let begin = Instant::now();
    let mut reader = client.subscribe_bytes_with("orders/**", reading(Start::All)).await.unwrap();
    assert!(timeout(LONG, reader.recv()).await.expect("it ends").is_none());
    let took = begin.elapsed();
    let longest = limits::STORE_PATIENCE + limits::STORE_RETRY_MAX;
    assert!(took >= limits::STORE_PATIENCE && took <= longest, "{took:?}");
    let said = told.lock().unwrap().said;
    assert!((10..30).contains(&said), "it is asked less and less often: {said} times");
    let reason = reader.close_reason().unwrap().to_string();
    assert!(reason.contains("too much waits for the store"), "{reason}");

    refuse(&told, busy(), 0);
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    timeout(LONG, orders.recv()).await.expect("it comes").unwrap().ack().await.unwrap();
    refuse(&told, busy(), usize::MAX);
    publish(&client, 2).await;
    assert!(timeout(LONG, orders.recv()).await.expect("it ends").is_none());
    assert!(orders.close_reason().unwrap().to_string().contains("too much waits for the store"));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_by_itself_ends_who_reads_at_once() {
    let (bus, client, told) = bus_that_may_refuse().await;
    publish(&client, 1).await;
    refuse(&told, StoreError::Failed { place: "a disk".into(), reason: "smoke".into() }, usize::MAX);
    let begin = Instant::now();
    let mut reader = client.subscribe_bytes_with("orders/**", reading(Start::All)).await.unwrap();
    assert!(timeout(LONG, reader.recv()).await.expect("it ends").is_none());
    assert_eq!((told.lock().unwrap().said, begin.elapsed()), (1, Duration::ZERO));
    assert!(reader.close_reason().unwrap().to_string().contains("smoke"));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_which_something_is_always_too_old_lets_the_others_of_its_store_drop_theirs() {
    /// At each a message becomes too old while a sweep writes that the one before it is dropped.
    const WRITE: Duration = Duration::from_millis(5);
    const BETWEEN: Duration = Duration::from_millis(2);
    let memory = MemoryStore::new();
    let store = TamperedStore::new(memory.clone()).on_commit(|changes, answer| {
        if !changes.iter().any(|change| matches!(change, Change::Expire { .. })) {
            return answer;
        }
        Box::pin(async move {
            tokio::time::sleep(WRITE).await;
            answer.await
        })
    });
    let aged = |name: &str| {
        let pattern = TopicPattern::new(format!("{name}/**")).unwrap();
        let settings = StreamSettings::new(Name::new(name).unwrap(), vec![pattern]);
        settings.retention(Retention::new().age(Duration::from_secs(1)))
    };
    let streams = Streams::open(Arc::new(store), [aged("busy"), aged("quiet")]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    client.publish_bytes("quiet/a", "old").await.unwrap();
    let begin = Instant::now();
    while begin.elapsed() < 5 * limits::STREAM_SWEEP {
        client.publish_bytes("busy/a", "x").await.unwrap();
        tokio::time::sleep(BETWEEN).await;
    }
    for state in memory.streams().await.unwrap() {
        let most = if state.settings.name.as_str() == "busy" { 2_000 } else { 0 };
        assert!(state.messages <= most, "{} of {} are left", state.messages, state.settings.name);
    }
}
