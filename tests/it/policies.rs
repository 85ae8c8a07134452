//! The rules of gaps and lag: to the millisecond, in paused time; and the same under every schedule.

use std::time::Duration;

use whispeer::client::{Event, GapReason, Policy, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer::proto::fields::{FieldsBuilder, decode_gap};
use whispeer::proto::{Header, Kind, Refusal};
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::Ground;

struct Pair {
    bus: BusHandle,
    publisher: Client,
    subscription: Subscription<bytes::Bytes>,
}

async fn pair(options: SubscribeOptions) -> Pair {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let publisher = Client::new_memory(&connector).unwrap();
    let subscriber = Client::new_memory(&connector).unwrap();
    let subscription = subscriber.subscribe_bytes_with("news", options).await.unwrap();
    Pair { bus, publisher, subscription }
}

impl Pair {
    async fn publish(&self, payload: &'static str) {
        assert_eq!(self.publisher.publish_bytes("news", payload).await.unwrap(), 1);
    }

    fn parked(&self) -> u64 {
        self.bus.subscriptions()[0].parked
    }

    fn lags(&self) -> bool {
        self.bus.subscriptions()[0].lagging
    }

    async fn gap(&mut self) -> (u64, GapReason) {
        match self.subscription.next_event().await {
            Some(Event::Gap { count, reason }) => (count, reason),
            other => panic!("{other:?} instead of a gap"),
        }
    }

    async fn message(&mut self) -> bytes::Bytes {
        match self.subscription.next_event().await {
            Some(Event::Message(message)) => message.value,
            other => panic!("{other:?} instead of a message"),
        }
    }
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn block_parks_for_a_second_and_not_longer() {
    let mut pair = pair(SubscribeOptions::default().window(1, 1024)).await;
    pair.publish("delivered").await;
    pair.publish("parked").await;
    pass(900).await;
    pair.publish("parked later").await;
    pass(98).await;
    assert_eq!((pair.parked(), pair.lags()), (2, false));
    pass(4).await;
    // The first waited its second; with it goes all that was parked behind it.
    assert_eq!((pair.parked(), pair.lags()), (0, true));
    pair.publish("counted at once").await;
    assert_eq!(pair.parked(), 0);
    assert_eq!(pair.message().await, "delivered");
    assert_eq!(pair.gap().await, (3, GapReason::Lagging));
    assert!(!pair.lags());
    pair.publish("after").await;
    assert_eq!(pair.message().await, "after");
}

#[tokio::test(start_paused = true)]
async fn a_message_taken_in_time_leaves_no_gap() {
    let mut pair = pair(SubscribeOptions::default().window(1, 1024)).await;
    for round in 0..10 {
        pair.publish("one").await;
        pair.publish("two").await;
        pass(950).await;
        assert_eq!(pair.message().await, "one");
        assert_eq!(pair.message().await, "two", "round {round}");
    }
    assert_eq!(pair.subscription.counts().dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn lag_returns_as_often_as_the_subscriber_stops() {
    let mut pair = pair(SubscribeOptions::default().window(1, 1024)).await;
    for _ in 0..3 {
        pair.publish("delivered").await;
        pair.publish("dropped").await;
        pass(1_100).await;
        assert!(pair.lags());
        assert_eq!(pair.message().await, "delivered");
        assert_eq!(pair.gap().await, (1, GapReason::Lagging));
    }
    assert_eq!(pair.subscription.counts().dropped_for(GapReason::Lagging), 3);
}

#[tokio::test(start_paused = true)]
async fn dropping_policies_never_hold_a_publisher_up() {
    for policy in [Policy::DropOldest, Policy::DropNewest, Policy::Disconnect] {
        let pair = pair(SubscribeOptions::default().window(1, 1024).policy(policy)).await;
        let start = tokio::time::Instant::now();
        let news = pair.publisher.publisher_bytes("news").unwrap();
        for _ in 0..10_000 {
            news.send(&"quick".into()).await.unwrap();
        }
        news.flush().await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(100), "{policy:?} took {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_keeps_to_its_bytes_as_well() {
    let options = SubscribeOptions::default().window(100, 100).policy(Policy::DropOldest);
    let mut pair = pair(options).await;
    // 24 bytes of header, 4 of topic and 12 of payload: the third overshoots the window.
    for payload in
        ["number one..", "number two..", "number three", "number four.", "number five.", "number six.."]
    {
        pair.publish(payload).await;
    }
    for payload in ["number one..", "number two..", "number three"] {
        assert_eq!(pair.message().await, payload);
    }
    assert_eq!(pair.gap().await, (1, GapReason::DroppedOldest));
    assert_eq!(pair.message().await, "number five.");
    assert_eq!(pair.message().await, "number six..");
}

#[tokio::test(start_paused = true)]
async fn what_the_last_member_of_a_group_takes_along_waits_no_longer_than_before() {
    let mut pair = pair(SubscribeOptions::default().window(1, 1024).group("workers")).await;
    for payload in ["one", "two", "three"] {
        pair.publish(payload).await;
    }
    pass(500).await;
    pair.subscription.drain().await.unwrap();
    assert_eq!(pair.parked(), 2);
    pass(600).await;
    assert_eq!(pair.parked(), 0);
    assert_eq!(pair.message().await, "one");
    assert_eq!(pair.gap().await, (2, GapReason::Lagging));
    assert!(pair.subscription.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_parked_message_waits_its_own_time_however_many_were_parked_before() {
    let mut pair = pair(SubscribeOptions::default().window(1, 1024)).await;
    pair.publish("taken").await;
    pair.publish("parked").await;
    pass(600).await;
    assert_eq!(pair.message().await, "taken");
    // The next one is parked after the time of an earlier one was noted, and before it is over.
    pair.publish("parked later").await;
    pass(500).await;
    assert_eq!((pair.parked(), pair.lags()), (1, false));
    pass(600).await;
    assert_eq!((pair.parked(), pair.lags()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn a_group_keeps_its_time_also_when_it_was_emptied_in_between() {
    let mut pair = pair(SubscribeOptions::default().window(1, 1024).group("workers")).await;
    pair.publish("taken").await;
    pair.publish("parked").await;
    pass(600).await;
    assert_eq!(pair.message().await, "taken");
    pair.publish("parked later").await;
    pass(500).await;
    assert_eq!(pair.bus.stats().parked_messages, 1);
    pass(600).await;
    assert_eq!(pair.bus.stats().parked_messages, 0);
    assert_eq!(pair.bus.stats().dropped.get("lagging"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_when_a_subscription_ends_is_counted_as_lost_with_its_link() {
    let pair = pair(SubscribeOptions::default().window(1, 1024)).await;
    for payload in ["one", "two", "three"] {
        pair.publish(payload).await;
    }
    drop(pair.subscription);
    eventually("it is gone", || pair.bus.stats().subscriptions == 0).await;
    pass(100).await;
    let dropped: u64 = pair.bus.stats().dropped.values().sum();
    assert!(dropped >= 2, "{:?}", pair.bus.stats().dropped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_publishers_at_once_disconnect_a_slow_consumer_exactly_once() {
    const ROUNDS: u32 = 50;
    let ground = Ground::new(Bus::builder());
    let publishers = [ground.client(), Client::new_unix(&ground.socket()).await.unwrap()];
    for mut slow in ground.peers().await {
        let before = ground.bus.stats();
        for round in 0..ROUNDS {
            // The second subscription hears the end of the round, behind all of the first.
            let (id, end) = (2 * round + 1, 2 * round + 2);
            let mut fields = FieldsBuilder::new();
            fields.window(4, 1024).unwrap();
            fields.policy(Policy::Disconnect).unwrap();
            slow.push_with(&Header::new(Kind::Subscribe, id, 0), fields.as_bytes(), b"news", &[]);
            slow.send(&Header::new(Kind::Subscribe, end, 0), "end", &[]).await.unwrap();
            for _ in 0..2 {
                let answer = soon("an answer", slow.receive()).await.unwrap().unwrap();
                assert_eq!(answer.header.kind, Kind::Accepted);
            }
            let mut flooding = tokio::task::JoinSet::new();
            for client in &publishers {
                let news = client.publisher_bytes("news").unwrap();
                flooding.spawn(async move {
                    for _ in 0..20 {
                        news.send(&"quick".into()).await.unwrap();
                    }
                    news.flush().await.unwrap();
                });
            }
            while let Some(done) = soon("the end of the flood", flooding.join_next()).await {
                done.unwrap();
            }
            assert_eq!(publishers[0].publish_bytes("end", "").await.unwrap(), 1);
            let mut got = Vec::new();
            loop {
                let frame = soon("a frame", slow.receive()).await.unwrap().expect("the session lives");
                match frame.header.kind {
                    Kind::Deliver if frame.header.id == end => break,
                    Kind::Ping | Kind::Credit => {}
                    _ => got.push(frame),
                }
            }
            let seen: Vec<_> =
                got.iter().map(|frame| (frame.header.kind, frame.header.sequence, frame.header.id)).collect();
            let mut expected: Vec<_> = (1..=4).map(|sequence| (Kind::Deliver, sequence, id)).collect();
            expected.extend([(Kind::Gap, 5, id), (Kind::Ended, 5, id)]);
            assert_eq!(seen, expected);
            assert_eq!(decode_gap(&got[4].payload).unwrap(), (1, GapReason::Lagging));
            let reason = Refusal::decode(&got[5].payload).unwrap().into_error();
            assert!(matches!(reason, BusError::SlowConsumer { .. }), "{reason:?}");
            slow.send(&Header::new(Kind::Unsubscribe, end, 0), "", &[]).await.unwrap();
            let ended = soon("the end", slow.receive()).await.unwrap().unwrap();
            assert_eq!((ended.header.kind, ended.header.id), (Kind::Ended, end));
        }
        let after = ground.bus.stats();
        assert_eq!(after.dropped["lagging"], u64::from(ROUNDS) + before.dropped.get("lagging").unwrap_or(&0));
        assert_eq!((after.subscriptions, after.sessions_cut_off), (0, 0));
    }
    for client in publishers {
        client.close().await.unwrap();
    }
    ground.serves_others().await;
    ground.end().await;
}
