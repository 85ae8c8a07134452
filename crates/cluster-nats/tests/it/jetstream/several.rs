//! Several that have the same store open.

use std::time::Duration;

use tokio::time::timeout;
use whispeer::store::{Change, ConsumerState, Name, Outcome, Reading, Store, StoreError};
use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore};
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::store_contract::{append, message, name, payloads, read_all, settings};

use super::{opened, opened_with};

fn make(consumer: &str) -> Change {
    Change::Consumer { name: name(consumer), pattern: None, from: 1, owner: "".into() }
}

fn done(consumer: &str, floor: u64) -> Change {
    Change::Done { consumer: name(consumer), floor, sequences: vec![] }
}

/// Waits until a stream ends there.
async fn grown(store: &JetStreamStore, stream: &Name, end: u64) {
    let mut appended = store.appended(stream).unwrap();
    let grown = appended.wait_for(|told| *told >= end);
    timeout(Duration::from_secs(10), grown).await.expect("the other's message is told of").unwrap();
}

#[tokio::test]
async fn what_one_appends_the_other_is_told_of_and_reads() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let (one, other) = (opened(&server).await, opened(&server).await);
        let made = one.open(settings("s", &["**"])).await.unwrap();
        assert_eq!(other.open(settings("s", &["**"])).await.unwrap().epoch, made.epoch);
        for number in 0..10_u64 {
            let by = if number % 2 == 0 { &one } else { &other };
            assert_eq!(append(by, "s", message("a", &number.to_string(), number)).await, number + 1);
        }
        for store in [&one, &other] {
            grown(store, &name("s"), 11).await;
            let read = payloads(&read_all(store, "s", Reading::from(0, 0), false).await);
            assert_eq!(read, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        }
    }
}

#[tokio::test]
async fn messages_lie_where_a_plain_client_looks_for_them_and_its_own_are_taken() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let store = opened(&server).await;
    store.open(settings("orders", &["orders/**"])).await.unwrap();
    append(&store, "orders", message("orders/7", "two apples", 5)).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let journal = jetstream.get_stream("whispeer-streams").await.unwrap();
    let found = journal.get_last_raw_message_by_subject("whispeer.s.orders.t.orders.7").await.unwrap();
    assert_eq!(found.payload, "two apples");
    jetstream.publish("whispeer.s.orders.t.orders.8", "a pear".into()).await.unwrap().await.unwrap();
    jetstream
        .publish("whispeer.s.orders.t.bills.8", "not a topic of it".into())
        .await
        .unwrap()
        .await
        .unwrap();
    append(&store, "orders", message("orders/9", "last", 6)).await;
    let read = read_all(&store, "orders", Reading::from(0, 0), false).await;
    assert_eq!(payloads(&read), ["two apples", "a pear", "last"]);
    assert_eq!(read[1].topic.as_str(), "orders/8");
}

#[tokio::test]
async fn a_consumer_is_of_one_of_them_until_that_closes() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let (one, other) = (opened(&server).await, opened(&server).await);
    one.open(settings("s", &["**"])).await.unwrap();
    one.commit(name("s"), vec![make("worker"), done("worker", 3)]).await.unwrap();
    other.open(settings("s", &["**"])).await.unwrap();
    for change in [make("worker"), done("worker", 7), Change::RemoveConsumer(name("worker"))] {
        let refused = other.commit(name("s"), vec![Change::Append(message("a", "x", 1)), change]).await;
        assert!(matches!(refused, Err(StoreError::InUse { .. })), "{refused:?}");
    }
    let state: ConsumerState = other.consumer(name("s"), name("worker")).await.unwrap();
    assert_eq!(state.floor, 3);
    assert_eq!(other.streams().await.unwrap()[0].messages, 0, "nothing of such a call is done");
    one.close().await.unwrap();
    let free = async {
        // The other one finds that out by reading along.
        loop {
            match other.commit(name("s"), vec![make("worker"), done("worker", 7)]).await {
                Err(StoreError::InUse { .. }) => tokio::task::yield_now().await,
                told => return told.unwrap(),
            }
        }
    };
    let told = timeout(Duration::from_secs(10), free).await.expect("it is nobody's");
    assert_eq!(told, [Outcome::Done { dropped: 0 }; 2]);
    assert_eq!(other.consumer(name("s"), name("worker")).await.unwrap().floor, 7);
}

#[tokio::test]
async fn what_streams_do_not_keep_goes_from_jetstream_too() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let options = JetStreamOptions::new("whispeer").unwrap().image_entries(50);
        let (store, other) =
            (opened_with(&server, options.clone()).await, opened_with(&server, options).await);
        let three = whispeer::store::Retention::new().messages(3);
        store.open(settings("s", &["**"]).retention(three)).await.unwrap();
        other.open(settings("s", &["**"]).retention(three)).await.unwrap();
        for number in 0..1_000_u64 {
            append(&store, "s", message("a", &number.to_string(), number)).await;
        }
        let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let fewer = async {
            let mut journal = jetstream.get_stream("whispeer-streams").await.unwrap();
            while journal.info().await.unwrap().state.messages > 200 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), fewer).await.expect("entries that hold nothing are deleted");
        // Who has read along, and who begins with the image, say the same.
        let new = opened(&server).await;
        for store in [&store, &other, &new] {
            let next = append(store, "s", message("b", "new", 2_000)).await;
            assert!(next > 1_000);
            store.commit(name("s"), vec![Change::Drop { sequences: vec![next] }]).await.unwrap();
        }
        // Each reads along by itself.
        let same = async {
            while store.streams().await.unwrap() != new.streams().await.unwrap() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), same).await.expect("both say the same");
    }
}
