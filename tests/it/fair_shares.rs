//! What one member of a group, or one message, may hold up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use whispeer::bus::{ConsumerStats, Rows};
use whispeer::client::{Quality, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::fields::{Field, FieldsBuilder, Start, iterate};
use whispeer::proto::{Flags, Header, Kind};
use whispeer::store::{Change, MemoryStore, Message, NewMessage, Reading, Store};
use whispeer_testkit::raw::{RawPeer, Received};

use crate::orders::{LONG, QUIET, all, billing, bus_on, client, floor, next, orders, publish, store};
use crate::tampered_store::TamperedStore;

fn group() -> SubscribeOptions {
    all(Quality::AtLeastOnce).group("billing")
}

async fn listed(client: &Client) -> ConsumerStats {
    let answer = client.request_bytes("$bus/consumers", "".into()).await.unwrap();
    let listed: Rows<ConsumerStats> = rmp_serde::from_slice(&answer).unwrap();
    listed.rows[0].clone()
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_stuck_stops_nobody_of_its_group() {
    let bus = bus_on(&store()).await;
    let (one, two, three) = (client(&bus), client(&bus), client(&bus));
    publish(&one, 1..=2000).await;
    let begin = Instant::now();
    // Alone, one could take all. It takes nothing, and acknowledges nothing.
    let alone = one.consume_bytes("orders/**", group()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let ConsumerStats { pending, waits_for, .. } = listed(&two).await;
    assert_eq!(waits_for.as_deref(), Some("pending"));
    assert!(pending > u64::from(limits::CONSUMER_PENDING) / 2, "who is alone has most: {pending}");
    let stuck = two.consume_bytes("orders/**", group()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let mut at_work = three.consume_bytes("orders/**", group()).await.unwrap();
    let mut done = 0;
    while let Ok(Some(order)) = timeout(Duration::from_secs(1), at_work.recv()).await {
        order.ack().await.unwrap();
        done += 1;
    }
    assert!(begin.elapsed() < limits::ACK_WAIT, "{:?}", begin.elapsed());
    let held = listed(&three).await.pending;
    assert_eq!(done + held, 2000, "all that the stuck ones do not hold is done");
    assert!(held < u64::from(limits::CONSUMER_PENDING), "{held}");
    drop((alone, stuck));
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_and_a_consumer_of_its_own_have_their_messages_in_order() {
    for options in [group().max_pending(4), billing().max_pending(4)] {
        let bus = bus_on(&store()).await;
        let client = client(&bus);
        publish(&client, 1..=50).await;
        let mut orders = client.consume_bytes("orders/**", options).await.unwrap();
        let held = [next(&mut orders).await, next(&mut orders).await, next(&mut orders).await];
        let fourth = next(&mut orders).await;
        assert!(timeout(QUIET, orders.recv()).await.is_err(), "four may be unacknowledged");
        assert_eq!(listed(&client).await.waits_for.as_deref(), Some("pending"));
        for (number, order) in (1..).zip(held.into_iter().chain([fourth])) {
            assert_eq!(order.value, number.to_string());
            order.ack().await.unwrap();
        }
        for number in 5..=50 {
            let order = next(&mut orders).await;
            assert_eq!(order.value, number.to_string());
            order.ack().await.unwrap();
        }
        bus.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_put_off_for_long_stops_a_consumer_at_its_bound_which_is_shown() {
    let store = store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    let many = usize::try_from(limits::CONSUMER_SPREAD).unwrap() + 10;
    let message = NewMessage {
        topic: TopicPattern::new("orders/7").unwrap(),
        fields: "".into(),
        payload: "x".into(),
        time: 1,
        expires: None,
        id: None,
    };
    publish(&client, 1..=1).await;
    for _ in 0..many / 1024 {
        store.commit(orders(), vec![Change::Append(message.clone()); 1024]).await.unwrap();
    }
    publish(&client, 1..=20).await;
    let mut consumer = client.consume_bytes("orders/**", billing()).await.unwrap();
    next(&mut consumer).await.nack(Duration::from_secs(6 * 3600));
    let mut done = 1;
    while let Ok(Some(order)) = timeout(QUIET, consumer.recv()).await {
        drop(order.ack());
        done += 1;
    }
    assert_eq!(done, limits::CONSUMER_SPREAD);
    let shown = listed(&client).await;
    assert_eq!((shown.floor, shown.again, shown.waits_for.as_deref()), (1, 1, Some("floor")));
    sleep(Duration::from_secs(6 * 3600)).await;
    next(&mut consumer).await.ack().await.unwrap();
    next(&mut consumer).await.ack().await.unwrap();
    assert_eq!(listed(&client).await.waits_for, None);
    bus.stop().await;
}

/// A store whose commits of consumers take as long as those of a slow disk, and how often dead letters were committed.
fn slow_store() -> (Arc<dyn Store>, Arc<AtomicUsize>) {
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    let store = TamperedStore::new(MemoryStore::new()).on_commit(move |changes, answer| {
        let is_dead = changes.iter().any(|change| matches!(change, Change::AppendTo { .. }));
        counted.fetch_add(usize::from(is_dead), Ordering::Relaxed);
        Box::pin(async move {
            sleep(Duration::from_millis(4)).await;
            answer.await
        })
    });
    (Arc::new(store), commits)
}

async fn dead(store: &Arc<dyn Store>) -> Vec<Message> {
    let name = whispeer::store::Name::new("orders.dead").unwrap();
    store.read(name, Reading::from(1, 0)).await.unwrap().messages
}

#[tokio::test(start_paused = true)]
async fn what_is_dead_at_a_time_is_put_away_in_one_transaction() {
    let (store, commits) = slow_store();
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=1000).await;
    let mut consumer = client.consume_bytes("orders/**", billing().max_deliver(1)).await.unwrap();
    let mut refused = Vec::new();
    for _ in 0..1000 {
        refused.push(next(&mut consumer).await);
    }
    // Each tenth is dealt with, and the first comes last.
    for (number, order) in refused.into_iter().enumerate().rev() {
        if number % 10 == 9 { drop(order.ack()) } else { order.nack(Duration::ZERO) }
    }
    let all_are_dead = async {
        while floor(&store).await <= 1000 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, all_are_dead).await.expect("all are dead letters or done");
    let letters = dead(&store).await;
    assert_eq!(letters.len(), 900);
    let commits = commits.load(Ordering::Relaxed);
    let fewest = 1000 / usize::try_from(limits::DEAD_TOGETHER).unwrap();
    assert!((fewest..=4 * fewest).contains(&commits), "{commits}");
    bus.stop().await;
}

async fn until(peer: &mut RawPeer, kind: Kind) -> Received {
    loop {
        let frame = peer.receive().await.unwrap().expect("a frame");
        if frame.header.kind == kind {
            return frame;
        }
    }
}

/// The token of the message that comes next.
async fn token(peer: &mut RawPeer) -> u64 {
    let frame = until(peer, Kind::Deliver).await;
    let attempt = iterate(&frame.fields).find_map(|field| match field {
        Field::Attempt(attempt) => Some(attempt),
        _ => None,
    });
    attempt.unwrap().token
}

#[tokio::test(start_paused = true)]
async fn what_changes_nothing_is_answered_while_the_store_is_slow() {
    let store = TamperedStore::new(MemoryStore::new()).on_commit(|changes, answer| {
        match changes.iter().any(|change| matches!(change, Change::Done { .. })) {
            true => Box::pin(std::future::pending()),
            false => answer,
        }
    });
    let store: Arc<dyn Store> = Arc::new(store);
    let bus = bus_on(&store).await;
    publish(&client(&bus), 1..=2).await;
    let (mut peer, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    let mut fields = FieldsBuilder::new();
    fields.window(16, 1 << 20).unwrap();
    fields.quality(whispeer::proto::fields::Quality::AtLeastOnce).unwrap();
    fields.start(Start::All).unwrap();
    fields.consumer("billing").unwrap();
    peer.push_with(&Header::new(Kind::Subscribe, 1, 0), fields.as_bytes(), b"orders/**", &[]);
    peer.flush().await.unwrap();
    let (done, at_work) = (token(&mut peer).await, token(&mut peer).await);
    let acknowledge = Header::new(Kind::Ack, 1, done).flagged(Flags::ACKNOWLEDGE);
    peer.send(&acknowledge, "", &[]).await.unwrap();
    let progress = Header::new(Kind::Ack, 1, at_work).flagged(Flags::ACKNOWLEDGE.with(Flags::PROGRESS));
    for _ in 0..1000 {
        for _ in 0..64 {
            peer.push(&progress, "", &[]);
        }
        peer.flush().await.unwrap();
        for _ in 0..64 {
            let answer = timeout(LONG, until(&mut peer, Kind::Accepted)).await.expect("it waits for nothing");
            assert_eq!(answer.header.sequence, at_work);
        }
    }
    drop(bus);
}
