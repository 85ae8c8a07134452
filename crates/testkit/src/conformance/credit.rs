//! Windows on both sides, and what each policy does when one is used up.

use std::time::Duration;

use bytes::Bytes;
use whispeer::client::{Event, GapReason, Policy, PublishOptions, SubscribeOptions, Subscription};
use whispeer::prelude::*;

use super::{number, numbers, take, text_of};
use crate::kit::Kit;
use crate::ledger::Live;
use crate::wait::{eventually, soon};

/// Room for so many messages of any size that these tests use.
fn window(messages: u32) -> SubscribeOptions {
    SubscribeOptions::default().window(messages, 1024 * 1024)
}

/// A message's number, or how many a gap stands for and why.
type Told = Result<u64, (u64, GapReason)>;

async fn events(subscription: &mut Subscription<Bytes>, count: usize) -> Vec<Told> {
    let mut told = Vec::new();
    for _ in 0..count {
        told.push(match soon("an event", subscription.next_event()).await {
            Some(Event::Message(message)) => Ok(text_of(&message.value)),
            Some(Event::Gap { count, reason }) => Err((count, reason)),
            other => panic!("neither message nor gap: {other:?}"),
        });
    }
    told
}

pub(crate) async fn credit_comes_back_as_messages_are_taken(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes_with("news", window(4)).await.unwrap();
    let publish = async {
        for count in 0..400 {
            assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 1);
        }
    };
    let ((), received) = tokio::join!(publish, take(&mut subscription, 400));
    assert_eq!(received, numbers(0..400));
    assert_eq!(subscription.counts().dropped(), 0);
    Live::of(subscription)
}

pub(crate) async fn an_unread_subscription_holds_up_nothing_else_of_its_client(kit: &Kit) -> Live {
    kit.start_with(|settings| settings.block_limit = kit.short_time());
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let unread = subscriber.subscribe_bytes_with("news", window(1)).await.unwrap();
    let mut read = subscriber.subscribe_bytes("news").await.unwrap();
    let handling = publisher.handle_bytes("echo", |payload| async { Ok(payload) }).await.unwrap();
    for count in 0..50 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 2);
        assert_eq!(take(&mut read, 1).await, [count]);
        assert_eq!(subscriber.request_bytes("echo", number(count)).await.unwrap(), number(count));
    }
    handling.drain().await;
    Live::of(unread).and(read)
}

pub(crate) async fn the_window_for_publishes_holds_a_publisher_and_is_given_back(kit: &Kit) -> Live {
    kit.start_with(|settings| settings.publish_window = (8, 1024 * 1024));
    let (client, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes_with("news", window(1)).await.unwrap();
    let publisher = client.publisher_bytes("news").unwrap();
    // One message is delivered and seven are parked: all of the window.
    for count in 0..8 {
        publisher.try_send(&number(count)).unwrap();
    }
    publisher.flush().await.unwrap();
    // What was delivered at once is given back in halves of the window only.
    assert_eq!(kit.bus().subscriptions()[0].parked, 7);
    assert!(matches!(publisher.try_send(&number(99)), Err(BusError::Full)));
    let go_on = async {
        for count in 8..100 {
            publisher.send(&number(count)).await.unwrap();
        }
        publisher.flush().await.unwrap();
    };
    let ((), received) = tokio::join!(go_on, take(&mut subscription, 100));
    assert_eq!(received, numbers(0..100));
    Live::of(subscription)
}

pub(crate) async fn a_message_larger_than_every_window_passes_alone(kit: &Kit) -> Live {
    kit.start_with(|settings| {
        settings.frame_limit = 128 * 1024;
        settings.publish_window = (4, 1);
    });
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let options = SubscribeOptions::default().window(100, 1);
    let mut subscription = subscriber.subscribe_bytes_with("news", options).await.unwrap();
    // Header and topic take 28 bytes of the frame.
    let length = 128 * 1024 - 28 - kit.growth();
    let largest = Bytes::from(vec![1; length]);
    let publish = async {
        for _ in 0..5 {
            assert_eq!(publisher.publish_bytes("news", largest.clone()).await.unwrap(), 1);
        }
    };
    let receive = async {
        for _ in 0..5 {
            assert_eq!(subscription.recv().await.unwrap().1, largest);
        }
    };
    tokio::join!(publish, receive);
    let one_more = Bytes::from(vec![1; length + 1]);
    match publisher.publish_bytes("news", one_more).await {
        Err(BusError::FrameTooLarge { size, limit }) => assert_eq!((size, limit), (131_073, 131_072)),
        other => panic!("one byte over the limit: {other:?}"),
    }
    assert_eq!(publisher.publish_bytes("news", "the connection lives").await.unwrap(), 1);
    Live::of(subscription)
}

pub(crate) async fn a_publish_is_parked_for_the_slow_one_alone(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut slow = subscriber.subscribe_bytes_with("news", window(2)).await.unwrap();
    let mut fast = subscriber.subscribe_bytes("news").await.unwrap();
    for count in 0..6 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 2);
    }
    assert_eq!(take(&mut fast, 6).await, numbers(0..6));
    assert_eq!((bus.subscriptions()[0].delivered, bus.subscriptions()[0].parked), (2, 4));
    assert_eq!(take(&mut slow, 6).await, numbers(0..6));
    assert_eq!(slow.counts().dropped(), 0);
    Live::of(slow).and(fast)
}

pub(crate) async fn block_takes_a_gap_after_the_limit_and_lags_until_it_reads(kit: &Kit) -> Live {
    let bus = kit.start_with(|settings| settings.block_limit = kit.short_time());
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes_with("news", window(2)).await.unwrap();
    for count in 0..4 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 1);
    }
    eventually("the subscription lags", || bus.subscriptions()[0].lagging).await;
    assert_eq!(bus.subscriptions()[0].parked, 0);
    // What follows is counted at once.
    for count in 4..7 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 1);
        assert_eq!(bus.subscriptions()[0].parked, 0);
    }
    assert_eq!(events(&mut subscription, 2).await, [Ok(0), Ok(1)]);
    assert_eq!(events(&mut subscription, 1).await, [Err((5, GapReason::Lagging))]);
    assert!(!bus.subscriptions()[0].lagging);
    publisher.publish_bytes("news", number(7)).await.unwrap();
    assert_eq!(events(&mut subscription, 1).await, [Ok(7)]);
    assert_eq!(subscription.counts().dropped_for(GapReason::Lagging), 5);
    Live::of(subscription)
}

pub(crate) async fn drop_oldest_keeps_the_newest_behind_its_gap(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let options = window(3).policy(Policy::DropOldest);
    let mut subscription = subscriber.subscribe_bytes_with("news", options).await.unwrap();
    for count in 0..20 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 1);
    }
    let told = events(&mut subscription, 7).await;
    let gap = Err((14, GapReason::DroppedOldest));
    assert_eq!(told, [Ok(0), Ok(1), Ok(2), gap, Ok(17), Ok(18), Ok(19)]);
    Live::of(subscription)
}

pub(crate) async fn drop_newest_keeps_what_was_there_and_tells_the_gap_with_the_next(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let options = window(3).policy(Policy::DropNewest);
    let mut subscription = subscriber.subscribe_bytes_with("news", options).await.unwrap();
    for count in 0..20 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 1);
    }
    assert_eq!(events(&mut subscription, 3).await, [Ok(0), Ok(1), Ok(2)]);
    subscriber.flush().await.unwrap();
    publisher.publish_bytes("news", number(20)).await.unwrap();
    let told = events(&mut subscription, 2).await;
    assert_eq!(told, [Err((17, GapReason::DroppedNewest)), Ok(20)]);
    Live::of(subscription)
}

pub(crate) async fn disconnect_ends_the_subscription_that_falls_behind(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let options = window(2).policy(Policy::Disconnect);
    let mut subscription = subscriber.subscribe_bytes_with("news", options).await.unwrap();
    let other = subscriber.subscribe_bytes("news").await.unwrap();
    for count in 0..4 {
        publisher.publish_bytes("news", number(count)).await.unwrap();
    }
    assert_eq!(bus.stats().subscriptions, 1);
    let told = events(&mut subscription, 3).await;
    assert_eq!(told, [Ok(0), Ok(1), Err((1, GapReason::Lagging))]);
    assert!(soon("the end", subscription.next_event()).await.is_none());
    match subscription.close_reason() {
        Some(BusError::SlowConsumer { topic }) => assert_eq!(topic, "news"),
        reason => panic!("ended for another reason: {reason:?}"),
    }
    Live::of(other)
}

pub(crate) async fn a_publisher_may_ask_for_less_patience(kit: &Kit) -> Live {
    let bus = kit.start_with(|settings| settings.block_limit = Duration::from_secs(60));
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes_with("news", window(1)).await.unwrap();
    publisher.publish_bytes("news", number(0)).await.unwrap();
    let none = PublishOptions::default().block_limit(Duration::ZERO);
    assert_eq!(publisher.publish_bytes_with("news", number(1), none).await.unwrap(), 1);
    assert_eq!(bus.subscriptions()[0].parked, 0);
    let little = PublishOptions::default().block_limit(Duration::from_millis(20));
    assert_eq!(publisher.publish_bytes_with("news", number(2), little).await.unwrap(), 1);
    publisher.publish_bytes("news", number(3)).await.unwrap();
    eventually("the impatient one is dropped", || bus.subscriptions()[0].parked == 1).await;
    assert!(!bus.subscriptions()[0].lagging, "only the bus's own limit makes a subscription lag");
    let told = events(&mut subscription, 3).await;
    assert_eq!(told, [Ok(0), Err((2, GapReason::Lagging)), Ok(3)]);
    Live::of(subscription)
}

pub(crate) async fn a_bus_can_withhold_block(kit: &Kit) -> Live {
    kit.start_with(|settings| settings.allow_block = false);
    let client = kit.client().await;
    let refused = client.subscribe_bytes("news").await;
    assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
    let options = SubscribeOptions::default().policy(Policy::DropOldest);
    Live::of(client.subscribe_bytes_with("news", options).await.unwrap())
}

pub(crate) async fn every_match_counts_whether_delivered_parked_or_dropped(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let block = subscriber.subscribe_bytes_with("news", window(1)).await.unwrap();
    let oldest = window(1).policy(Policy::DropOldest);
    let oldest = subscriber.subscribe_bytes_with("news", oldest).await.unwrap();
    let newest = window(1).policy(Policy::DropNewest);
    let newest = subscriber.subscribe_bytes_with("news", newest).await.unwrap();
    for count in 0..5 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 3);
    }
    for row in bus.subscriptions() {
        assert_eq!((row.matched, row.delivered), (5, 1), "{row:?}");
    }
    Live::of(block).and(oldest).and(newest)
}

pub(crate) async fn recv_adds_what_it_skips_to_gaps(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let options = window(2).policy(Policy::DropNewest);
    let mut subscription = subscriber.subscribe_bytes_with("news", options).await.unwrap();
    for count in 0..10 {
        publisher.publish_bytes("news", number(count)).await.unwrap();
    }
    assert_eq!(take(&mut subscription, 2).await, [0, 1]);
    subscriber.flush().await.unwrap();
    publisher.publish_bytes("news", number(10)).await.unwrap();
    assert_eq!(subscription.gaps(), 0);
    assert_eq!(take(&mut subscription, 1).await, [10]);
    assert_eq!((subscription.gaps(), subscription.counts().dropped()), (8, 8));
    Live::of(subscription)
}
