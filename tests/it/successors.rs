//! Whoever goes on with a durable consumer gets what his predecessor had before anything else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{advance, timeout};
use whispeer::bus::Streams;
use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, StreamSettings};

use crate::tampered_store::TamperedStore;

const LONG: Duration = Duration::from_secs(20);

/// A store whose pages can be held back.
fn held(open: Arc<Semaphore>, asked: Arc<Notify>) -> TamperedStore {
    TamperedStore::new(MemoryStore::new()).on_read(move |_, page| {
        let (open, asked) = (Arc::clone(&open), Arc::clone(&asked));
        Box::pin(async move {
            asked.notify_one();
            let _open = open.acquire().await.unwrap();
            page.await
        })
    })
}

async fn publish(client: &Client, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
        client.publish_bytes_with("orders/7", number.to_string(), kept).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_durable_consumer_changes_hands_comes_behind_what_the_first_had() {
    let (open, asked) = (Arc::new(Semaphore::new(1)), Arc::new(Notify::new()));
    let store = held(Arc::clone(&open), Arc::clone(&asked));
    let pattern = TopicPattern::new("orders/**").unwrap();
    let orders = StreamSettings::new(Name::new("orders").unwrap(), vec![pattern]);
    let streams = Streams::open(Arc::new(store), [orders]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = || Client::new_memory(&bus.connector()).unwrap();
    let (one, two, publisher) = (client(), client(), client());
    let billing = || SubscribeOptions::default().durable("billing").start(Start::All);

    publish(&publisher, 1..=5).await;
    let mut first = one.consume_bytes("orders/**", billing()).await.unwrap();
    let held = timeout(LONG, first.recv()).await.unwrap().unwrap();
    // A page is being read while the first goes and the second comes.
    asked.notified().await;
    let closed = open.acquire().await.unwrap();
    publish(&publisher, 6..=6).await;
    asked.notified().await;
    advance(Duration::from_millis(1)).await;
    drop(first);
    one.close().await.unwrap();
    let come = async {
        two.flush().await.unwrap();
        drop(closed);
    };
    let (second, ()) = tokio::join!(two.consume_bytes("orders/**", billing()), come);
    let mut second = second.unwrap();
    for sequence in 1..=6 {
        let order = timeout(LONG, second.recv()).await.unwrap().unwrap();
        assert_eq!(order.receipt.sequence(), sequence);
        order.ack().await.unwrap();
    }
    drop(held);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_several_had_one_after_the_other_comes_in_its_order() {
    let pattern = TopicPattern::new("orders/**").unwrap();
    let orders = StreamSettings::new(Name::new("orders").unwrap(), vec![pattern]);
    let streams = Streams::open(Arc::new(MemoryStore::new()), [orders]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = || Client::new_memory(&bus.connector()).unwrap();
    let workers = || SubscribeOptions::default().group("workers").start(Start::All);
    let (one, two, three) = (client(), client(), client());
    publish(&three, 1..=5).await;
    let first = one.consume_bytes("orders/**", workers()).await.unwrap();
    one.flush().await.unwrap();
    // It has room for the first two of what the one before had, and the third for none before both are gone.
    let second = two.consume_bytes("orders/**", workers().window(2, 1 << 20)).await.unwrap();
    drop(first);
    one.flush().await.unwrap();
    two.flush().await.unwrap();
    advance(Duration::from_millis(1)).await;
    let mut third = three.consume_bytes("orders/**", workers().window(1, 1)).await.unwrap();
    drop(second);
    two.flush().await.unwrap();
    let mut come = Vec::new();
    for _ in 1..=5 {
        let order = timeout(LONG, third.recv()).await.unwrap().unwrap();
        come.push(order.receipt.sequence());
        order.ack().await.unwrap();
    }
    assert_eq!(come, [3, 1, 2, 4, 5], "the first of them came before the second was gone");
    bus.stop().await;
}
