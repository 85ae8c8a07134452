//! Queue groups.

use whispeer::client::SubscribeOptions;

use super::{number, numbers, take};
use crate::kit::Kit;
use crate::ledger::Live;
use crate::wait::{eventually, now_or_never};

fn member(messages: u32) -> SubscribeOptions {
    SubscribeOptions::default().group("workers").window(messages, 1024 * 1024)
}

pub(crate) async fn a_queue_group_is_one_match_and_shares_its_messages(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut one = subscriber.subscribe_bytes_with("work", member(1_000)).await.unwrap();
    let mut other = publisher.subscribe_bytes_with("work", member(1_000)).await.unwrap();
    let mut outside = subscriber.subscribe_bytes("work").await.unwrap();
    for count in 0..100 {
        assert_eq!(publisher.publish_bytes("work", number(count)).await.unwrap(), 2);
    }
    assert_eq!(take(&mut outside, 100).await, numbers(0..100));
    let mut all = take(&mut one, 50).await;
    all.extend(take(&mut other, 50).await);
    all.sort_unstable();
    assert_eq!(all, numbers(0..100));
    Live::of(one).and(other).and(outside)
}

pub(crate) async fn a_group_gives_work_only_to_members_with_credit(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let busy = subscriber.subscribe_bytes_with("work", member(1)).await.unwrap();
    let mut free = publisher.subscribe_bytes_with("work", member(1_000)).await.unwrap();
    for count in 0..20 {
        assert_eq!(publisher.publish_bytes("work", number(count)).await.unwrap(), 1);
    }
    let received = take(&mut free, 19).await;
    assert!(received.is_sorted(), "{received:?}");
    let delivered: Vec<u64> = kit.bus().subscriptions().iter().map(|row| row.delivered).collect();
    assert_eq!(delivered.iter().sum::<u64>(), 20);
    assert!(delivered.contains(&1), "the busy one got more than its window: {delivered:?}");
    Live::of(busy).and(free)
}

pub(crate) async fn a_group_without_credit_parks_for_the_first_that_takes(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut one = subscriber.subscribe_bytes_with("work", member(1)).await.unwrap();
    let mut other = subscriber.subscribe_bytes_with("work", member(1)).await.unwrap();
    for count in 0..6 {
        assert_eq!(publisher.publish_bytes("work", number(count)).await.unwrap(), 1);
    }
    // The other one never takes a message, so all that is parked goes to this one.
    let mut received = take(&mut one, 5).await;
    received.extend(take(&mut other, 1).await);
    received.sort_unstable();
    assert_eq!(received, numbers(0..6));
    assert!(now_or_never(one.recv()).await.is_none());
    Live::of(one).and(other)
}

pub(crate) async fn a_group_goes_on_with_those_that_are_left(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let leaving = publisher.subscribe_bytes_with("work", member(10)).await.unwrap();
    let mut staying = subscriber.subscribe_bytes_with("work", member(10)).await.unwrap();
    drop(leaving);
    eventually("one member is left", || bus.subscriptions().len() == 1).await;
    for count in 0..5 {
        assert_eq!(publisher.publish_bytes("work", number(count)).await.unwrap(), 1);
    }
    assert_eq!(take(&mut staying, 5).await, numbers(0..5));
    drop(staying);
    eventually("the group is gone", || bus.stats().subscriptions == 0).await;
    assert_eq!(publisher.publish_bytes("work", number(9)).await.unwrap(), 0);
    Live::none()
}
