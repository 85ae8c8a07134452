//! Whoever goes on with a durable consumer gets what his predecessor had before anything else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::advance;
use whispeer::client::Quality;
use whispeer::store::{MemoryStore, Store};

use crate::orders::{all, billing, bus_on, client, next, publish, store};
use crate::tampered_store::TamperedStore;

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

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_durable_consumer_changes_hands_comes_behind_what_the_first_had() {
    let (open, asked) = (Arc::new(Semaphore::new(1)), Arc::new(Notify::new()));
    let store: Arc<dyn Store> = Arc::new(held(Arc::clone(&open), Arc::clone(&asked)));
    let bus = bus_on(&store).await;
    let (one, two, publisher) = (client(&bus), client(&bus), client(&bus));

    publish(&publisher, 1..=5).await;
    let mut first = one.consume_bytes("orders/**", billing()).await.unwrap();
    let held = next(&mut first).await;
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
        let order = next(&mut second).await;
        assert_eq!(order.receipt.sequence(), sequence);
        order.ack().await.unwrap();
    }
    drop(held);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_several_had_one_after_the_other_comes_in_its_order() {
    let bus = bus_on(&store()).await;
    let workers = || all(Quality::AtLeastOnce).group("workers");
    let (one, two, three) = (client(&bus), client(&bus), client(&bus));
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
        let order = next(&mut third).await;
        come.push(order.receipt.sequence());
        order.ack().await.unwrap();
    }
    assert_eq!(come, [3, 1, 2, 4, 5], "the first of them came before the second was gone");
    bus.stop().await;
}
