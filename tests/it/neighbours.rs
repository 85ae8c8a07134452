//! What one client does, or leaves undone, costs neither others nor itself more than it should.

use std::time::Duration;

use tokio::time::Instant;
use whispeer::bus::Settings;
use whispeer::client::{ManyOptions, Policy, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Flags, Header, Kind};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, soon};

fn clients<const N: usize>(bus: &BusHandle) -> [Client; N] {
    std::array::from_fn(|_| Client::new_memory(&bus.connector()).unwrap())
}

fn sharing(window: u32) -> SubscribeOptions {
    SubscribeOptions::default().window(window, 4096).group("workers")
}

#[tokio::test]
async fn a_scattered_request_takes_more_answers_than_a_window_holds() {
    let bus = Bus::builder().start().unwrap();
    let [server, client] = clients(&bus);
    let mut handlings = Vec::new();
    for number in 0..400 {
        let topic = format!("part/{number}");
        handlings.push(server.handle_bytes(&topic, |part| async move { Ok(part) }).await.unwrap());
    }
    let answers = client.request_many_bytes("part/*", "x".into(), ManyOptions::default()).await.unwrap();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 400);
    assert!(client.close_reason().is_none());
}

#[tokio::test]
async fn a_scattered_request_takes_answers_larger_than_a_window() {
    let bus = Bus::builder().start().unwrap();
    let [server, client] = clients(&bus);
    let mut handlings = Vec::new();
    for number in 0..8 {
        let topic = format!("part/{number}");
        let large = |_| async move { Ok(vec![0u8; 600_000].into()) };
        handlings.push(server.handle_bytes(&topic, large).await.unwrap());
    }
    let answers = client.request_many_bytes("part/*", "x".into(), ManyOptions::default()).await.unwrap();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_joins_gets_what_waits_for_its_group() {
    let bus = Bus::builder().start().unwrap();
    let [stuck, joining, publisher] = clients(&bus);
    let _unread = stuck.subscribe_bytes_with("job", sharing(1)).await.unwrap();
    for _ in 0..3 {
        publisher.publish_bytes("job", "x").await.unwrap();
    }
    let mut fresh = joining.subscribe_bytes_with("job", sharing(8)).await.unwrap();
    assert!(fresh.recv().await.is_some() && fresh.recv().await.is_some());
    assert_eq!(publisher.publish_bytes("job", "y").await.unwrap(), 1);
    assert!(fresh.recv().await.is_some(), "one member that is stuck does not stop its group");
}

#[tokio::test]
async fn the_last_member_of_a_group_drains_what_waits_for_it() {
    let bus = Bus::builder().start().unwrap();
    let [worker, publisher] = clients(&bus);
    let mut subscription = worker.subscribe_bytes_with("job", sharing(4)).await.unwrap();
    for _ in 0..10 {
        publisher.publish_bytes("job", "x").await.unwrap();
    }
    subscription.drain().await.unwrap();
    let mut taken = 0;
    while subscription.recv().await.is_some() {
        taken += 1;
    }
    assert_eq!((taken, subscription.gaps()), (10, 0));
}

#[tokio::test]
async fn draining_delivers_what_was_sent_before() {
    let bus = Bus::builder().start().unwrap();
    let [client] = clients(&bus);
    let mut subscription = client.subscribe_bytes("news").await.unwrap();
    let publisher = client.publisher_bytes("news").unwrap();
    for _ in 0..10 {
        publisher.send(&"x".into()).await.unwrap();
    }
    client.drain().await.unwrap();
    let mut taken = 0;
    while subscription.recv().await.is_some() {
        taken += 1;
    }
    assert_eq!(taken, 10);
}

#[tokio::test]
async fn what_was_taken_before_a_clean_close_is_not_counted_as_lost() {
    let bus = Bus::builder().start().unwrap();
    let [reader, publisher] = clients(&bus);
    let mut subscription = reader.subscribe_bytes("news").await.unwrap();
    for _ in 0..10 {
        publisher.publish_bytes("news", "x").await.unwrap();
        subscription.recv().await.unwrap();
    }
    reader.close().await.unwrap();
    eventually("the reader is gone", || bus.stats().sessions == 1).await;
    assert!(bus.stats().dropped.is_empty());
}

#[tokio::test]
async fn a_value_over_the_frame_limit_ends_the_link_it_came_on_and_no_other() {
    let settings = Settings { frame_limit: 128 * 1024, ..Settings::default() };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let [reader] = clients(&bus);
    let _subscription = reader.subscribe_bytes("news").await.unwrap();
    let (mut peer, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    peer.push_publish("news", &vec![0; 200 * 1024]);
    peer.flush().await.unwrap();
    eventually("the peer is cut off", || bus.stats().sessions_cut_off == 1).await;
    reader.ping().await.unwrap();
    assert_eq!(bus.stats().published, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_in_the_handshake_does_not_hold_up_the_stop() {
    let bus = Bus::builder().start().unwrap();
    let _silent = bus.connector().connect().unwrap();
    tokio::task::yield_now().await;
    let before = Instant::now();
    bus.stop().await;
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_cannot_spend_the_byte_budget_of_all() {
    let settings =
        Settings { byte_budget: 16 << 20, block_limit: Duration::from_millis(50), ..Settings::default() };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let (mut slow, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    let mut fields = FieldsBuilder::new();
    fields.window(1_000_000, 1 << 30).unwrap();
    fields.policy(Policy::DropOldest).unwrap();
    slow.push_with(&Header::new(Kind::Subscribe, 1, 0), fields.as_bytes(), b"noise", &[]);
    slow.flush().await.unwrap();
    eventually("the subscription is there", || bus.stats().subscriptions == 1).await;
    let [noisy, publisher, reader] = clients(&bus);
    for _ in 0..1_000 {
        noisy.publish_bytes("noise", vec![0; 60_000]).await.unwrap();
    }
    let mut subscription = reader.subscribe_bytes("good").await.unwrap();
    assert_eq!(publisher.publish_bytes("good", "hi").await.unwrap(), 1);
    assert!(subscription.recv().await.is_some());
    assert!(bus.stats().queued_bytes < 6 << 20, "{} bytes wait", bus.stats().queued_bytes);
}

#[tokio::test(start_paused = true)]
async fn a_member_of_a_group_that_does_not_read_cannot_spend_the_budget_and_gets_the_rest_when_it_does() {
    let settings =
        Settings { byte_budget: 16 << 20, block_limit: Duration::from_millis(50), ..Settings::default() };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let (mut slow, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    let mut fields = FieldsBuilder::new();
    fields.window(1_000_000, 1 << 30).unwrap();
    fields.policy(Policy::DropOldest).unwrap();
    fields.group("workers").unwrap();
    slow.push_with(&Header::new(Kind::Subscribe, 1, 0), fields.as_bytes(), b"noise", &[]);
    slow.flush().await.unwrap();
    eventually("the subscription is there", || bus.stats().subscriptions == 1).await;
    let [noisy, publisher, reader] = clients(&bus);
    for _ in 0..1_000 {
        noisy.publish_bytes("noise", vec![0; 60_000]).await.unwrap();
    }
    let mut subscription = reader.subscribe_bytes("good").await.unwrap();
    assert_eq!(publisher.publish_bytes("good", "hi").await.unwrap(), 1);
    assert!(subscription.recv().await.is_some());
    assert!(bus.stats().queued_bytes < 6 << 20, "{} bytes wait", bus.stats().queued_bytes);
    noisy.publish_bytes("noise", "the last").await.unwrap();
    let last = async {
        loop {
            let frame = slow.receive().await.unwrap().expect("the link lives");
            if frame.payload == "the last" {
                return;
            }
        }
    };
    soon("the last message", last).await;
}

#[tokio::test]
async fn a_drain_ends_also_when_the_link_had_no_room_for_what_waited() {
    let settings = Settings { frame_limit: 128 * 1024, byte_budget: 1 << 20, ..Settings::default() };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let (mut slow, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    let mut fields = FieldsBuilder::new();
    fields.window(1_000_000, 1 << 30).unwrap();
    fields.policy(Policy::DropOldest).unwrap();
    slow.push_with(&Header::new(Kind::Subscribe, 1, 0), fields.as_bytes(), b"news", &[]);
    slow.flush().await.unwrap();
    eventually("the subscription is there", || bus.stats().subscriptions == 1).await;
    let [publisher] = clients(&bus);
    for _ in 0..40 {
        publisher.publish_bytes("news", vec![0; 60_000]).await.unwrap();
    }
    assert!(bus.subscriptions()[0].parked > 0);
    slow.send(&Header::new(Kind::Unsubscribe, 1, 0).flagged(Flags(1)), "", &[]).await.unwrap();
    eventually("nothing new matches", || bus.stats().subscriptions == 0).await;
    loop {
        let frame = soon("the end of the subscription", slow.receive()).await.unwrap().unwrap();
        if frame.header.kind == Kind::Ended {
            assert_eq!(frame.header.sequence, 40);
            break;
        }
    }
}

#[tokio::test]
async fn cancelled_requests_never_fill_the_control_lane_of_their_server() {
    const TOPICS: u32 = 4_000;
    let bus = Bus::builder().start().unwrap();
    let (mut server, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    for number in 1..=TOPICS {
        server.push(&Header::new(Kind::Serve, number, 0), &format!("part/{number}"), &[]);
        if number % 200 == 0 {
            server.flush().await.unwrap();
            for _ in 0..200 {
                assert_eq!(server.receive().await.unwrap().unwrap().header.kind, Kind::Accepted);
            }
        }
    }
    let (mut requester, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    for id in 1..=4 {
        requester.push(&Header::new(Kind::Request, id, 0).flagged(Flags::SCATTER), "part/*", b"");
        requester.push(&Header::new(Kind::Cancel, id, 0), "", &[]);
    }
    requester.flush().await.unwrap();
    let (mut asked, mut cancelled) = (0, 0);
    while cancelled < 4 * TOPICS {
        match server.receive().await.unwrap().unwrap().header.kind {
            Kind::Ask => asked += 1,
            Kind::Cancel => cancelled += 1,
            kind => panic!("{kind:?}"),
        }
        assert!(cancelled <= asked, "a cancel overtook its request");
    }
    assert_eq!(bus.stats().sessions_cut_off, 0);
}

#[tokio::test]
async fn routes_to_very_many_targets_are_not_kept() {
    let bus = Bus::builder().start().unwrap();
    let [reader, publisher] = clients(&bus);
    let mut subscriptions = Vec::new();
    for _ in 0..5_000 {
        let options = SubscribeOptions::default().policy(Policy::DropNewest).window(1, 1);
        subscriptions.push(reader.subscribe_bytes_with("**", options).await.unwrap());
    }
    for topic in ["a", "b", "a", "b", "a", "b"] {
        assert_eq!(publisher.publish_bytes(topic, "x").await.unwrap(), 5_000);
    }
    assert_eq!(bus.stats().cached_routes, 0);
}

#[tokio::test]
async fn a_turn_that_is_cut_short_goes_on_where_it_stopped() {
    let bus = Bus::builder().start().unwrap();
    let [reader, publisher, other] = clients(&bus);
    let mut subscriptions = Vec::new();
    for _ in 0..2_000 {
        let options = SubscribeOptions::default().policy(Policy::DropNewest).window(1, 1);
        subscriptions.push(reader.subscribe_bytes_with("**", options).await.unwrap());
    }
    // Far more matches than one turn serves, in as many frames as one read brings.
    let news = publisher.publisher_bytes("news").unwrap();
    for _ in 0..200 {
        news.send(&"x".into()).await.unwrap();
    }
    other.ping().await.unwrap();
    news.flush().await.unwrap();
    assert_eq!(bus.stats().published, 200);
    assert!(bus.subscriptions().iter().all(|row| row.matched == 200));
}
