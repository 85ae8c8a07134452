//! A stream of orders, and who consumes it.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{Consumer, Delivery, PublishOptions, Quality, Reconnect, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Long enough for whatever is on its way to come, where nothing should. Time is paused.
pub(crate) const QUIET: Duration = Duration::from_secs(3);

pub(crate) fn orders() -> Name {
    Name::new("orders").unwrap()
}

pub(crate) fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

pub(crate) async fn streams_on(store: &Arc<dyn Store>) -> Streams {
    let pattern = TopicPattern::new("orders/**").unwrap();
    Streams::open(Arc::clone(store), [StreamSettings::new(orders(), vec![pattern])]).await.unwrap()
}

pub(crate) async fn bus_on(store: &Arc<dyn Store>) -> BusHandle {
    Bus::builder().streams(streams_on(store).await).start().unwrap()
}

pub(crate) fn client(bus: &BusHandle) -> Client {
    Client::new_memory(&bus.connector()).unwrap()
}

/// A client that comes back at once to whatever bus is at the path.
pub(crate) async fn returning_client(path: &Path) -> Client {
    Client::builder().reconnect(at_once()).connect(path.to_str().unwrap()).await.unwrap()
}

/// Comes back as soon as there is a bus.
pub(crate) fn at_once() -> Reconnect {
    let mut reconnect = Reconnect::default();
    (reconnect.first_delay, reconnect.max_delay) = (Duration::from_millis(5), Duration::from_millis(20));
    reconnect
}

pub(crate) fn all(quality: Quality) -> SubscribeOptions {
    SubscribeOptions::default().quality(quality).start(Start::All)
}

pub(crate) fn billing() -> SubscribeOptions {
    all(Quality::AtLeastOnce).durable("billing")
}

/// Publishes orders of these numbers, each when the one before is kept.
pub(crate) async fn publish(client: &Client, numbers: RangeInclusive<u64>) {
    for number in numbers {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
        client.publish_bytes_with("orders/7", number.to_string(), kept).await.unwrap();
    }
}

pub(crate) async fn next(consumer: &mut Consumer<Bytes>) -> Delivery<Bytes> {
    timeout(LONG, consumer.recv()).await.expect("a message comes").expect("the bus runs")
}

/// Where the first consumer of the stream is.
pub(crate) async fn floor(store: &Arc<dyn Store>) -> u64 {
    store.consumers(orders()).await.unwrap()[0].floor
}
