//! What consumers know of messages that nobody acknowledges is bounded, however many there are.

use std::sync::Arc;

use tokio::time::timeout;
use whispeer::bus::{ConsumerStats, Rows, Settings};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::fields::{DeliveryRules, Field, FieldsBuilder, Quality, Start, iterate};
use whispeer::proto::{Flags, Header, Kind};
use whispeer::store::{Change, MemoryStore, NewMessage, Store};
use whispeer_testkit::raw::RawPeer;

use crate::orders::{QUIET, client, orders, streams_on};

const MESSAGES: usize = 8_000;
const CONSUMERS: u32 = 4;

/// The least byte budget of which a session's part is less than the messages of all consumers take.
const BUDGET: usize = 32 << 20;

const PART: usize = BUDGET / limits::SESSION_PART / limits::CONSUMER_ENTRY_BYTES;

/// A bus whose stream has all messages.
async fn bus() -> BusHandle {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    streams_on(&store).await;
    let message = || NewMessage {
        topic: TopicPattern::new("orders/7").unwrap(),
        fields: "".into(),
        payload: "x".into(),
        time: 1,
        expires: None,
        id: None,
    };
    for _ in 0..MESSAGES / 1_000 {
        store.commit(orders(), (0..1_000).map(|_| Change::Append(message())).collect()).await.unwrap();
    }
    // As it is now.
    let streams = streams_on(&store).await;
    let settings = Settings { byte_budget: BUDGET, ..Settings::default() };
    Bus::builder().settings(settings).streams(streams).start().unwrap()
}

/// A peer whose durable consumers may have all messages unacknowledged.
async fn peer(bus: &BusHandle) -> RawPeer {
    let (mut peer, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    let mut rules = DeliveryRules::default();
    (rules.ack_wait, rules.max_pending) = (limits::ACK_WAIT_MAX, limits::CONSUMER_PENDING_MAX);
    for id in 1..=CONSUMERS {
        let mut fields = FieldsBuilder::new();
        fields.quality(Quality::AtLeastOnce).unwrap();
        fields.start(Start::All).unwrap();
        fields.consumer(&format!("consumer-{id}")).unwrap();
        fields.window(1 << 20, 1 << 30).unwrap();
        fields.delivery(rules).unwrap();
        peer.push_with(&Header::new(Kind::Subscribe, id, 0), fields.as_bytes(), b"orders/**", b"");
    }
    peer.flush().await.unwrap();
    peer
}

/// The messages that come until nothing comes any more: of which consumer, and by what each is acknowledged.
async fn all_that_come(peer: &mut RawPeer) -> Vec<(u32, u64)> {
    let mut come = Vec::new();
    while let Ok(frame) = timeout(QUIET, peer.receive()).await {
        let frame = frame.unwrap().unwrap();
        assert_ne!(frame.header.kind, Kind::Failed);
        let attempt = iterate(&frame.fields).find_map(|field| match field {
            Field::Attempt(attempt) => Some(attempt.token),
            _ => None,
        });
        come.extend(attempt.map(|token| (frame.header.id, token)));
    }
    come
}

/// What consumers wait for.
async fn waiting(bus: &BusHandle) -> Vec<Option<String>> {
    let answer = client(bus).request_bytes("$bus/consumers", "".into()).await.unwrap();
    let listed: Rows<ConsumerStats> = rmp_serde::from_slice(&answer).unwrap();
    listed.rows.into_iter().map(|row| row.waits_for).collect()
}

async fn say(peer: &mut RawPeer, those: &[(u32, u64)], flags: Flags, payload: &[u8]) {
    for some in those.chunks(256) {
        for (id, token) in some {
            peer.push(&Header::new(Kind::Ack, *id, *token).flagged(flags), "", payload);
        }
        peer.flush().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_session_leaves_unacknowledged_is_no_more_than_its_part_and_all_of_it_comes_in_the_end() {
    let bus = bus().await;
    let mut peer = peer(&bus).await;
    let mut come = all_that_come(&mut peer).await;
    // Each may go beyond it by what it hands over at once.
    let page = limits::STORE_PAGE_MESSAGES * CONSUMERS as usize;
    assert!((PART..PART + page).contains(&come.len()), "{} of {PART}", come.len());
    assert!(bus.stats().queued_bytes >= (come.len() - CONSUMERS as usize) * limits::CONSUMER_ENTRY_BYTES);
    let waiting = waiting(&bus).await;
    assert!(waiting.iter().any(|waits_for| waits_for.as_deref() == Some("memory")), "{waiting:?}");
    let mut all = 0;
    while !come.is_empty() {
        all += come.len();
        say(&mut peer, &come, Flags::NONE, b"").await;
        come = all_that_come(&mut peer).await;
    }
    assert_eq!(all, MESSAGES * CONSUMERS as usize);
    assert_eq!(bus.stats().queued_bytes, 0, "nothing is known of what is done");
}

#[tokio::test(start_paused = true)]
async fn what_is_put_off_is_no_more_than_that_either_and_counts_until_its_consumers_are_gone() {
    let bus = bus().await;
    let mut peer = peer(&bus).await;
    let an_hour = 3_600_000_u32.to_le_bytes();
    let mut put_off = 0;
    loop {
        let come = all_that_come(&mut peer).await;
        if come.is_empty() {
            break;
        }
        put_off += come.len();
        say(&mut peer, &come, Flags::REFUSE, &an_hour).await;
    }
    let page = limits::STORE_PAGE_MESSAGES * CONSUMERS as usize;
    assert!((PART..PART + page).contains(&put_off), "{put_off} of {PART}");
    assert!(bus.stats().queued_bytes >= (put_off - CONSUMERS as usize) * limits::CONSUMER_ENTRY_BYTES);
    drop(peer);
    tokio::time::sleep(QUIET).await;
    assert_eq!(bus.stats().queued_bytes, 0);
}
