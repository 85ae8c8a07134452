//! What readers of a stream keep in memory: nothing for those that take nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use whispeer::bus::Streams;
use whispeer::client::{Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{Change, MemoryStore, NewMessage, Store, StreamSettings};

use crate::orders::{LONG, QUIET, billing, client, next, orders};
use crate::tampered_store::TamperedStore;

/// The payload of a message that was read, which counts as long as somebody has it.
struct Body {
    payload: Bytes,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A bus with a stream of so many messages of 1 KB, how many of those that were read are still in memory, and how many the largest
/// page was.
async fn bus_with(count: usize) -> (BusHandle, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (held, largest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, most) = (Arc::clone(&held), Arc::clone(&largest));
    let store = TamperedStore::new(MemoryStore::new()).on_read(move |_, page| {
        let (held, most) = (Arc::clone(&counted), Arc::clone(&most));
        Box::pin(async move {
            let mut page = page.await?;
            most.fetch_max(page.messages.len(), Ordering::Relaxed);
            for message in &mut page.messages {
                held.fetch_add(1, Ordering::Relaxed);
                let body = Body { payload: message.payload.clone(), held: Arc::clone(&held) };
                message.payload = Bytes::from_owner(body);
            }
            Ok(page)
        })
    });
    let settings = StreamSettings::new(orders(), vec![TopicPattern::new("orders/**").unwrap()]);
    store.open(settings.clone()).await.unwrap();
    let message = |_| {
        Change::Append(NewMessage {
            topic: TopicPattern::new("orders/7").unwrap(),
            fields: Bytes::new(),
            payload: vec![1; 1000].into(),
            time: 1,
            expires: None,
            id: None,
        })
    };
    store.commit(orders(), (0..count).map(message).collect()).await.unwrap();
    let streams = Streams::open(Arc::new(store), [settings]).await.unwrap();
    (Bus::builder().streams(streams).start().unwrap(), held, largest)
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_has_nothing_read_for_him() {
    for quality in [Quality::AtMostOnce, Quality::AtLeastOnce] {
        for start in [Start::All, Start::LastPerTopic] {
            if quality == Quality::AtLeastOnce && start == Start::LastPerTopic {
                continue;
            }
            let (bus, held, largest) = bus_with(2_000).await;
            let client = client(&bus);
            let mut idle = Vec::new();
            for _ in 0..200 {
                let options = SubscribeOptions::default().start(start).window(1, 1).quality(quality);
                idle.push(client.subscribe_bytes_with("orders/**", options).await.unwrap());
            }
            tokio::time::sleep(QUIET).await;
            let most = largest.load(Ordering::Relaxed);
            assert_eq!(held.load(Ordering::Relaxed), 0, "{quality:?} {start:?}");
            assert!(most <= 1, "{quality:?} {start:?}: there is credit for one, and {most} were read");
            assert_eq!(bus.stats().queued_bytes, 0, "{quality:?} {start:?}");
            bus.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_read_again_when_it_is_due_and_not_kept_until_then() {
    let (bus, held, _) = bus_with(500).await;
    let client = client(&bus);
    let options = billing().max_deliver(100).max_pending(16);
    let mut orders = client.consume_bytes("orders/**", options).await.unwrap();
    let an_hour = Duration::from_secs(3600);
    let mut first = 0;
    // Some come again at once, and those around them are read with them.
    while first < 500 {
        let order = next(&mut orders).await;
        let number = order.attempt.unwrap().number;
        first += u64::from(number == 1);
        let is_soon = number == 1 && order.receipt.sequence() % 4 == 1;
        order.nack(if is_soon { Duration::ZERO } else { an_hour });
    }
    tokio::time::sleep(LONG).await;
    assert_eq!(held.load(Ordering::Relaxed), 0);
    let most = 500 * limits::CONSUMER_ENTRY_BYTES + 4 * limits::BUDGET_QUANTUM;
    assert!(bus.stats().queued_bytes <= most, "no more than that they come again is known");
    tokio::time::sleep(an_hour).await;
    for _ in 0..100 {
        let order = next(&mut orders).await;
        assert!(order.attempt.unwrap().number > 1, "it comes again");
        order.nack(an_hour);
    }
}
