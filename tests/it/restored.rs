//! An older copy of a store is put in its place.

use std::path::Path;
use std::sync::Arc;

use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{Event, PublishOptions, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::proto::fields::{Epoch, GapReason, Quality, Start};
use whispeer::store::{Change, Name, SqliteOptions, SqliteStore, Store, StreamSettings};

use crate::orders::LONG;

fn orders() -> StreamSettings {
    StreamSettings::new(Name::new("orders").unwrap(), vec![TopicPattern::new("orders/**").unwrap()])
}

fn opened(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::new()).unwrap()
}

/// Has a bus of this store for as long as a client of it does something.
async fn with_bus<T>(path: &Path, work: impl AsyncFnOnce(Client) -> T) -> T {
    let store = opened(path);
    let streams = Streams::open(Arc::new(store.clone()), [orders()]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let done = work(Client::new_memory(&bus.connector()).unwrap()).await;
    bus.stop().await;
    store.close().await.unwrap();
    done
}

/// Publishes what this is a part of, and returns the epoch.
async fn publish(path: &Path, what: &str, count: u64) -> Epoch {
    with_bus(path, async |client| {
        for number in 1..=count {
            let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
            client.publish_bytes_with("orders/7", format!("{what} {number}"), kept).await.unwrap();
        }
        let options = SubscribeOptions::default().start(Start::New);
        client.subscribe_bytes_with("orders/**", options).await.unwrap().epoch().unwrap()
    })
    .await
}

/// What somebody gets first who goes on behind what he has read.
async fn first_from(path: &Path, sequence: u64, epoch: Epoch) -> Event<bytes::Bytes> {
    with_bus(path, async |client| {
        let options = SubscribeOptions::default().start(Start::From(sequence)).epoch(epoch);
        let mut orders = client.subscribe_bytes_with("orders/**", options).await.unwrap();
        timeout(LONG, orders.next_event()).await.expect("something comes").unwrap()
    })
    .await
}

#[tokio::test]
async fn who_goes_on_in_a_store_that_was_put_back_is_told_so_however_much_it_has_grown_since() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("streams.db"), folder.path().join("copy.db"));
    publish(&path, "before", 5).await;
    std::fs::copy(&path, &copy).unwrap();
    let known = publish(&path, "lost", 5).await;
    std::fs::copy(&copy, &path).unwrap();
    let store = opened(&path);
    for stream in store.streams().await.unwrap() {
        store.commit(stream.settings.name, vec![Change::renew().unwrap()]).await.unwrap();
    }
    store.close().await.unwrap();
    // Those from 6 on are others than the ones that he has read.
    let renewed = publish(&path, "after", 10).await;
    assert_ne!(renewed, known);
    let first = first_from(&path, 11, known).await;
    assert!(matches!(first, Event::Gap { count: 0, reason: GapReason::Recreated }), "{first:?}");
    // Who begins anew goes on as ever.
    match first_from(&path, 11, renewed).await {
        Event::Message(message) => assert_eq!(message.value, "after 6"),
        other => panic!("{other:?}"),
    }
}
