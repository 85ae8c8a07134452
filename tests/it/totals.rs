//! The totals of the bus: nothing of a subscription that has ended vanishes from them.

use std::time::Duration;

use whispeer::bus::BusStats;
use whispeer::client::{Policy, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Flags, Header, Kind, Lane};
use whispeer_testkit::ledger::totals_balance;
use whispeer_testkit::protocols::Number;
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, soon};

/// A bus with a publisher.
struct Books {
    bus: BusHandle,
    publisher: Client,
}

impl Books {
    fn new() -> Self {
        let bus = Bus::builder().start().unwrap();
        let publisher = Client::new_memory(&bus.connector()).unwrap();
        Self { bus, publisher }
    }

    fn client(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    async fn publish(&self, count: usize) {
        for number in 0..count {
            self.publisher.publish_bytes("news", number.to_string()).await.unwrap();
        }
    }

    /// The totals once no subscription is left.
    async fn closed(&self) -> BusStats {
        eventually("nothing is left", || self.bus.subscriptions().is_empty()).await;
        eventually("the totals balance", || totals_balance(&self.bus.stats()).is_ok()).await;
        self.bus.stats()
    }
}

fn dropped(stats: &BusStats) -> u64 {
    stats.dropped.values().sum()
}

fn window(messages: u32) -> SubscribeOptions {
    SubscribeOptions::default().window(messages, 1024 * 1024)
}

#[tokio::test(start_paused = true)]
async fn what_an_ended_subscription_had_not_taken_counts_as_dropped() {
    let books = Books::new();
    let mut subscription = books.client().subscribe_bytes_with("news", window(8)).await.unwrap();
    // Eight are delivered, and two wait.
    books.publish(10).await;
    for _ in 0..3 {
        subscription.recv().await.unwrap();
    }
    drop(subscription);
    let stats = books.closed().await;
    assert_eq!((stats.matched, dropped(&stats)), (10, 7));
    assert_eq!(stats.dropped.get("link"), Some(&7));
    assert_eq!(stats.delivered - stats.untaken, 3, "what was taken");
}

#[tokio::test(start_paused = true)]
async fn what_found_no_room_in_a_channel_was_not_taken() {
    let books = Books::new();
    let client = books.client();
    // The channel ends with its last message, or goes on without the subscription.
    for keeps_channel in [true, false] {
        let before = books.bus.stats();
        let (sender, mut channel) = tokio::sync::mpsc::channel(2);
        let attached = client.subscribe_into("news", &sender, |_, Number(number)| number).await.unwrap();
        for number in 0..10 {
            books.publisher.publish("news", &Number(number)).await.unwrap();
        }
        assert_eq!(soon("the first", channel.recv()).await, Some(0));
        eventually("there is no room", || sender.capacity() == 0).await;
        if keeps_channel {
            drop(attached);
        } else {
            channel.close();
        }
        let stats = books.closed().await;
        drop(sender);
        let mut taken = 1;
        while channel.recv().await.is_some() {
            taken += 1;
        }
        assert_eq!(stats.delivered - stats.untaken - (before.delivered - before.untaken), taken);
        assert_eq!(stats.matched - before.matched, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drained_subscription_was_handed_everything_and_counts_nothing() {
    let books = Books::new();
    let mut subscription = books.client().subscribe_bytes_with("news", window(8)).await.unwrap();
    books.publish(10).await;
    let drain = async {
        subscription.drain().await.unwrap();
        while subscription.recv().await.is_some() {}
    };
    soon("the end of the drain", drain).await;
    drop(subscription);
    let stats = books.closed().await;
    assert_eq!((stats.matched, stats.delivered, stats.untaken, dropped(&stats)), (10, 10, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_given_up_counts_what_was_not_taken() {
    let books = Books::new();
    let mut subscription = books.client().subscribe_bytes_with("news", window(4)).await.unwrap();
    books.publish(6).await;
    subscription.drain().await.unwrap();
    subscription.recv().await.unwrap();
    drop(subscription);
    let stats = books.closed().await;
    assert_eq!((stats.matched, dropped(&stats), stats.delivered - stats.untaken), (6, 5, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_link_had_not_acknowledged_counts_as_dropped() {
    let books = Books::new();
    let (mut peer, _) = RawPeer::welcomed(books.bus.connector().connect().unwrap()).await.unwrap();
    peer.send(&Header::new(Kind::Subscribe, 1, 0), "news", &[]).await.unwrap();
    eventually("it is there", || books.bus.stats().subscriptions == 1).await;
    books.publish(10).await;
    let credit = Header::new(Kind::Credit, 4, 1).flagged(Flags(Lane::Subscription as u8));
    peer.send(&credit, "", &200u64.to_le_bytes()).await.unwrap();
    eventually("it is granted", || books.bus.subscriptions()[0].credit == 1_018).await;
    drop(peer);
    let stats = books.closed().await;
    assert_eq!((stats.matched, stats.delivered, stats.untaken, dropped(&stats)), (10, 10, 6, 6));
}

#[tokio::test(start_paused = true)]
async fn what_was_delivered_before_a_subscription_ended_by_itself_stays_so_when_the_link_breaks() {
    const DRAIN: Flags = Flags(1);
    for policy in [Policy::Block, Policy::Disconnect] {
        let books = Books::new();
        let (mut peer, _) = RawPeer::welcomed(books.bus.connector().connect().unwrap()).await.unwrap();
        let mut fields = FieldsBuilder::new();
        fields.policy(policy).unwrap();
        fields.window(4, 1024).unwrap();
        peer.push_with(&Header::new(Kind::Subscribe, 1, 0), fields.as_bytes(), b"news", &[]);
        peer.flush().await.unwrap();
        eventually("it is there", || books.bus.stats().subscriptions == 1).await;
        books.publish(4).await;
        let dropped_for_it = match policy {
            Policy::Block => {
                peer.send(&Header::new(Kind::Unsubscribe, 1, 0).flagged(DRAIN), "", &[]).await.unwrap();
                0
            }
            _ => {
                books.publish(1).await;
                1
            }
        };
        eventually("it has ended", || books.bus.stats().subscriptions == 0).await;
        drop(peer);
        eventually("its session has ended", || books.bus.stats().sessions == 1).await;
        let stats = books.closed().await;
        assert_eq!((stats.delivered, stats.untaken, dropped(&stats)), (4, 0, dropped_for_it), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_cannot_have_taken_more_than_it_was_sent() {
    let books = Books::new();
    let (mut peer, _) = RawPeer::welcomed(books.bus.connector().connect().unwrap()).await.unwrap();
    peer.send(&Header::new(Kind::Subscribe, 1, 0), "news", &[]).await.unwrap();
    eventually("it is there", || books.bus.stats().subscriptions == 1).await;
    books.publish(3).await;
    peer.send(&Header::new(Kind::Unsubscribe, 1, u64::MAX), "", &[]).await.unwrap();
    let stats = books.closed().await;
    assert_eq!((stats.matched, stats.delivered, stats.untaken, dropped(&stats)), (3, 3, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_group_and_goes_with_its_last_member_is_in_the_totals() {
    let books = Books::new();
    let member = || window(2).group("workers");
    let one = books.client().subscribe_bytes_with("news", member()).await.unwrap();
    let mut other = books.client().subscribe_bytes_with("news", member()).await.unwrap();
    books.publish(10).await;
    let stats = books.bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.parked_messages), (10, 4, 6));
    assert!(stats.parked_bytes >= 6 * 24, "{} bytes", stats.parked_bytes);
    totals_balance(&stats).unwrap();
    other.recv().await.unwrap();
    drop(one);
    drop(other);
    let stats = books.closed().await;
    assert_eq!((stats.matched, stats.delivered - stats.untaken, dropped(&stats)), (10, 1, 9));
}

#[tokio::test(start_paused = true)]
async fn every_policy_leaves_totals_that_balance() {
    for policy in [Policy::Block, Policy::DropOldest, Policy::DropNewest, Policy::Disconnect] {
        let books = Books::new();
        let options = window(4).policy(policy);
        let mut subscription = books.client().subscribe_bytes_with("news", options).await.unwrap();
        books.publish(20).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        books.publish(3).await;
        subscription.recv().await.unwrap();
        books.publish(3).await;
        drop(subscription);
        let stats = books.closed().await;
        assert_eq!(stats.published, 26, "{policy:?}");
    }
}
