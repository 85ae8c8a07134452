//! Stores that do not answer for a while. Whoever waits for one may go meanwhile; what it has taken is there in the end, for
//! everybody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use whispeer::bus::{Settings, Streams};
use whispeer::client::{PresenceEvent, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::fields::{FieldsBuilder, MessageId};
use whispeer::proto::{Flags, Header, Kind};
use whispeer::store::{Change, MemoryStore, Name, Retention, Store, StreamSettings};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, now_or_never};

use crate::orders::{QUIET, all, billing, bus_on, client, next, streams_on};
use crate::tampered_store::TamperedStore;

/// Longer than anybody waits for a store by himself.
const MINUTE: Duration = Duration::from_secs(60);

/// A store that does what it is asked to, and does not say so while it stalls: of changes of which this is true.
fn stalling(
    stalls: impl Fn(&Change) -> bool + Send + Sync + 'static,
) -> (Arc<dyn Store>, watch::Sender<bool>) {
    let (stall, is_stalled) = watch::channel(false);
    let store = TamperedStore::new(MemoryStore::new()).on_commit(move |changes, answer| {
        let mut is_stalled = is_stalled.clone();
        if !*is_stalled.borrow() || !changes.iter().any(&stalls) {
            return answer;
        }
        Box::pin(async move {
            let _ = is_stalled.wait_for(|is_stalled| !is_stalled).await;
            answer.await
        })
    });
    (Arc::new(store), stall)
}

/// A bus that keeps orders in this store and news in another one, which is sound.
async fn bus_with_news(store: &Arc<dyn Store>) -> (BusHandle, Arc<dyn Store>) {
    let sound: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let news = StreamSettings::new(Name::new("news").unwrap(), vec![TopicPattern::new("news/**").unwrap()]);
    let others = Streams::open(Arc::clone(&sound), [news]).await.unwrap();
    let streams = streams_on(store).await.and(&others).unwrap();
    (Bus::builder().streams(streams).start().unwrap(), sound)
}

fn is_append(change: &Change) -> bool {
    matches!(change, Change::Append(_))
}

fn later(time: Duration) -> PublishOptions {
    PublishOptions::default().deliver_in(time)
}

async fn peer(bus: &BusHandle) -> RawPeer {
    RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap().0
}

fn push(peer: &mut RawPeer, sequence: u64, id: u64, payload: &[u8]) {
    let mut fields = FieldsBuilder::new();
    fields.quality(Quality::ExactlyOnce).unwrap();
    fields.message_id(MessageId::new([7; 16], id)).unwrap();
    let header = Header::new(Kind::Publish, 0, sequence).flagged(Flags::ACKNOWLEDGE);
    peer.push_with(&header, fields.as_bytes(), b"orders/7", payload);
}

/// Publishes orders of these numbers, which are their ids as well, and does not wait for an answer.
async fn send(peer: &mut RawPeer, numbers: impl IntoIterator<Item = u64>) {
    for (sequence, number) in (1..).zip(numbers) {
        push(peer, sequence, number, number.to_string().as_bytes());
    }
    peer.flush().await.unwrap();
}

async fn accepted(peer: &mut RawPeer) {
    loop {
        let frame = peer.receive().await.unwrap().expect("the session goes on");
        assert_ne!(frame.header.kind, Kind::Failed);
        if frame.header.kind == Kind::Accepted {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_after_its_session_has_ended_reaches_all_readers_and_all_who_listen() {
    let (store, stall) = stalling(is_append);
    let bus = bus_on(&store).await;
    let client = client(&bus);
    let mut durable = client.consume_bytes("orders/**", billing()).await.unwrap();
    let history = SubscribeOptions::default().start(Start::All);
    let mut cursor = client.subscribe_bytes_with("orders/**", history).await.unwrap();
    let mut live = client.subscribe_bytes("orders/**").await.unwrap();
    stall.send_replace(true);
    let mut publisher = peer(&bus).await;
    send(&mut publisher, 1..=2).await;
    eventually("both are with the store", || bus.stats().queued_bytes > 0).await;
    drop(publisher);
    eventually("its place is free", || bus.stats().sessions == 1).await;
    tokio::time::sleep(MINUTE).await;
    assert!(now_or_never(cursor.recv()).await.is_none(), "nothing is delivered that may not be stored");
    assert!(now_or_never(live.recv()).await.is_none());
    stall.send_replace(false);
    for number in ["1", "2"] {
        assert_eq!(next(&mut durable).await.value, number);
        assert_eq!(cursor.recv().await.unwrap().1, number);
        assert_eq!(live.recv().await.unwrap().1, number);
    }
    let stats = bus.stats();
    assert_eq!((stats.published, stats.failed_publishes), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn who_sends_again_what_was_stored_is_told_so_when_readers_can_have_it_and_it_comes_once() {
    let (store, stall) = stalling(is_append);
    let bus = bus_on(&store).await;
    let client = client(&bus);
    let mut cursor = client.subscribe_bytes_with("orders/**", all(Quality::AtMostOnce)).await.unwrap();
    let mut live = client.subscribe_bytes("orders/**").await.unwrap();
    stall.send_replace(true);
    let mut publisher = peer(&bus).await;
    send(&mut publisher, [1]).await;
    drop(publisher);
    tokio::time::sleep(MINUTE).await;
    // The answer to the first is still on its way.
    let mut publisher = peer(&bus).await;
    send(&mut publisher, [1]).await;
    stall.send_replace(false);
    accepted(&mut publisher).await;
    assert_eq!(cursor.recv().await.unwrap().1, "1");
    assert_eq!(live.recv().await.unwrap().1, "1");
    tokio::time::sleep(QUIET).await;
    assert!(now_or_never(cursor.recv()).await.is_none());
    assert!(now_or_never(live.recv()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_another_session_is_heard_in_the_order_of_the_stream() {
    let (store, stall) =
        stalling(|change| matches!(change, Change::Append(message) if message.payload == "1"));
    let bus = bus_on(&store).await;
    let client = client(&bus);
    let history = SubscribeOptions::default().start(Start::All);
    let mut cursor = client.subscribe_bytes_with("orders/**", history).await.unwrap();
    let mut live = client.subscribe_bytes("orders/**").await.unwrap();
    stall.send_replace(true);
    let mut publisher = peer(&bus).await;
    send(&mut publisher, [1]).await;
    drop(publisher);
    tokio::time::sleep(MINUTE).await;
    let mut publisher = peer(&bus).await;
    send(&mut publisher, [2]).await;
    tokio::time::sleep(QUIET).await;
    assert!(now_or_never(live.recv()).await.is_none(), "it waits for the one before it");
    stall.send_replace(false);
    accepted(&mut publisher).await;
    for number in ["1", "2"] {
        assert_eq!(cursor.recv().await.unwrap().1, number);
        assert_eq!(live.recv().await.unwrap().1, number);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_holds_up_no_publish_to_a_stream_of_another_one_whoever_publishes_to_both() {
    let (store, stall) = stalling(is_append);
    let (bus, sound) = bus_with_news(&store).await;
    let (one, other) = (client(&bus), client(&bus));
    let mut live = other.subscribe_bytes("news/**").await.unwrap();
    let mut cursor = other.subscribe_bytes_with("news/**", all(Quality::AtMostOnce)).await.unwrap();
    stall.send_replace(true);
    let kept = || PublishOptions::default().quality(Quality::AtLeastOnce);
    let orders = tokio::spawn({
        let one = one.clone();
        async move { one.publish_bytes_with("orders/7", "1", kept()).await }
    });
    tokio::time::sleep(QUIET).await;
    one.publish_bytes_with("news/a", "1", kept()).await.unwrap();
    other.publish_bytes_with("news/b", "2", kept()).await.unwrap();
    assert_eq!(sound.streams().await.unwrap()[0].messages, 2);
    for number in ["1", "2"] {
        assert_eq!(live.recv().await.unwrap().1, number);
        assert_eq!(cursor.recv().await.unwrap().1, number);
    }
    assert!(!orders.is_finished(), "its own store says nothing");
    stall.send_replace(false);
    orders.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn answers_to_publishes_come_in_the_order_of_each_stream_and_a_flush_waits_for_all_of_them() {
    const PUBLISHES: u64 = 8;
    let (store, stall) = stalling(is_append);
    let (bus, _) = bus_with_news(&store).await;
    let mut publisher = peer(&bus).await;
    stall.send_replace(true);
    // The odd ones are for the store that stalls.
    for sequence in 1..=PUBLISHES {
        let topic = if sequence % 2 == 1 { "orders/7" } else { "news/a" };
        publisher.push(&Header::new(Kind::Publish, 0, sequence).flagged(Flags::ACKNOWLEDGE), topic, b"x");
        publisher.push(&Header::new(Kind::Ping, 0, 100 + sequence), "", b"");
    }
    publisher.flush().await.unwrap();
    let mut said = async |count| {
        let mut said = Vec::new();
        while said.len() < count {
            let header = publisher.receive().await.unwrap().expect("the session goes on").header;
            if matches!(header.kind, Kind::Accepted | Kind::Pong) {
                said.push(header.sequence);
            }
        }
        said
    };
    assert_eq!(said(4).await, [2, 4, 6, 8]);
    stall.send_replace(false);
    assert_eq!(said(12).await, [1, 3, 5, 7, 101, 102, 103, 104, 105, 106, 107, 108]);
}

#[tokio::test(start_paused = true)]
async fn what_sessions_have_left_to_store_counts_in_the_byte_budget_until_it_is_stored() {
    const BUDGET: usize = 16 << 20;
    const SESSIONS: usize = 16;
    const EACH: usize = BUDGET / SESSIONS;
    let (store, stall) = stalling(is_append);
    let settings = Settings { byte_budget: BUDGET, ..Settings::default() };
    let bus = Bus::builder().settings(settings).streams(streams_on(&store).await).start().unwrap();
    stall.send_replace(true);
    for number in 0..SESSIONS as u64 {
        let mut publisher = peer(&bus).await;
        push(&mut publisher, 1, number, &vec![0; EACH]);
        publisher.flush().await.unwrap();
    }
    eventually("they have ended", || bus.stats().sessions == 0).await;
    tokio::time::sleep(MINUTE).await;
    assert!(bus.stats().queued_bytes >= SESSIONS * (EACH + limits::ENDED_SESSION_BYTES));
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    let refused = client(&bus).publish_bytes_with("orders/7", "one more", kept).await.unwrap_err();
    assert!(matches!(refused, BusError::Overloaded { .. }), "{refused}");
    stall.send_replace(false);
    eventually("nothing is left", || bus.stats().queued_bytes == 0).await;
    assert_eq!(bus.stats().published, SESSIONS as u64);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_stops_waits_for_what_sessions_have_left_to_store_but_not_for_ever() {
    for answers in [true, false] {
        let (store, stall) = stalling(is_append);
        let streams = streams_on(&store).await;
        let bus = Bus::builder().streams(streams.clone()).start().unwrap();
        stall.send_replace(true);
        let mut publisher = peer(&bus).await;
        send(&mut publisher, [1]).await;
        drop(publisher);
        tokio::time::sleep(MINUTE).await;
        let start = Instant::now();
        let going_on = async {
            tokio::time::sleep(limits::STOP_GRACE / 2).await;
            stall.send_replace(!answers);
        };
        tokio::join!(bus.stop(), going_on);
        let least = if answers { limits::STOP_GRACE / 2 } else { limits::STOP_GRACE };
        assert!((least..3 * limits::STOP_GRACE).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_holds_up_delayed_messages_of_its_own_streams_only() {
    let (store, stall) = stalling(|change| matches!(change, Change::Release { .. }));
    let bus = bus_on(&store).await;
    let client = client(&bus);
    let mut live = client.subscribe_bytes("orders/**").await.unwrap();
    let mut news = client.subscribe_bytes("news").await.unwrap();
    stall.send_replace(true);
    let start = Instant::now();
    client.publish_bytes_with("orders/7", "kept", later(Duration::from_secs(5))).await.unwrap();
    client.publish_bytes_with("news", "not kept", later(Duration::from_secs(10))).await.unwrap();
    assert_eq!(news.recv().await.unwrap().1, "not kept");
    assert_eq!(start.elapsed().as_secs(), 10);
    // Far longer than a session lives that says nothing.
    tokio::time::sleep(60 * MINUTE).await;
    assert!(now_or_never(live.recv()).await.is_none());
    stall.send_replace(false);
    assert_eq!(live.recv().await.unwrap().1, "kept");
    tokio::time::sleep(QUIET).await;
    assert!(now_or_never(live.recv()).await.is_none(), "it comes once");
}

#[tokio::test(start_paused = true)]
async fn a_will_that_waits_for_its_store_holds_up_no_other_will_and_no_presence() {
    let (store, stall) = stalling(is_append);
    let bus = bus_on(&store).await;
    let client = client(&bus);
    let mut live = client.subscribe_bytes("orders/**").await.unwrap();
    let mut wills = client.subscribe_bytes("wills").await.unwrap();
    let mut presence = client.watch_presence("news").await.unwrap();
    stall.send_replace(true);
    for topic in ["orders/7", "wills"] {
        let mut dying = peer(&bus).await;
        dying.push(&Header::new(Kind::Will, 1, 0), topic, b"farewell");
        dying.flush().await.unwrap();
        accepted(&mut dying).await;
        drop(dying);
        eventually("it is gone", || bus.stats().sessions == 1).await;
    }
    assert_eq!(wills.recv().await.unwrap().1, "farewell");
    let _watcher = client.subscribe_bytes("news").await.unwrap();
    assert!(matches!(presence.recv().await.unwrap(), PresenceEvent::Join(_)));
    tokio::time::sleep(60 * MINUTE).await;
    assert!(now_or_never(live.recv()).await.is_none());
    stall.send_replace(false);
    assert_eq!(live.recv().await.unwrap().1, "farewell");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_as_it_is_to_drop_what_is_too_old_has_no_other_store_keep_that() {
    let (stalled, stall) = stalling(|change| matches!(change, Change::Expire { .. }));
    stall.send_replace(true);
    let sound: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let news = StreamSettings::new(Name::new("news").unwrap(), vec![TopicPattern::new("news").unwrap()])
        .retention(Retention::new().age(MINUTE));
    let others = Streams::open(Arc::clone(&sound), [news]).await.unwrap();
    let streams = streams_on(&stalled).await.and(&others).unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    client(&bus).publish_bytes("news", "old").await.unwrap();
    assert_eq!(sound.streams().await.unwrap()[0].messages, 1);
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(sound.streams().await.unwrap()[0].messages, 0);
}
