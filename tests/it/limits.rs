//! Every limit that can be set is used, and says what it is.

use std::time::Duration;

use bytes::Bytes;
use whispeer::bus::Settings;
use whispeer::client::{ManyOptions, Policy, ServeOptions, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::proto::{Header, Kind};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::{Ground, settings};

fn is_limit<T: std::fmt::Debug>(result: BusResult<T>) {
    assert!(matches!(result, Err(BusError::LimitReached { .. })), "{result:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_finds_room_later() {
    let ground = Ground::new(settings(|settings| settings.max_sessions = 2));
    let (one, other) = (ground.client(), ground.client());
    one.ping().await.unwrap();
    other.ping().await.unwrap();
    is_limit(Client::new_unix(&ground.socket()).await);
    is_limit(ground.client().ping().await);
    one.close().await.unwrap();
    eventually("there is room", || ground.bus.stats().sessions == 1).await;
    let mut found = Client::new_unix(&ground.socket()).await;
    while found.is_err() {
        tokio::task::yield_now().await;
        found = Client::new_unix(&ground.socket()).await;
    }
    found.unwrap().close().await.unwrap();
    other.close().await.unwrap();
    ground.end().await;
}

#[tokio::test]
async fn subscriptions_and_servings_of_a_session_are_limited() {
    let ground = Ground::new(settings(|settings| {
        settings.max_subscriptions = 2;
        settings.max_servings = 1;
    }));
    let client = ground.client();
    let one = client.subscribe_bytes("a").await.unwrap();
    let _other = client.subscribe_bytes("a").await.unwrap();
    is_limit(client.subscribe_bytes("b").await);
    let _serving = client.serve_bytes("a").await.unwrap();
    is_limit(client.serve_bytes("b").await);
    drop(one);
    client.flush().await.unwrap();
    let _third = client.subscribe_bytes("b").await.unwrap();
}

#[tokio::test]
async fn the_bus_keeps_its_limits_whatever_a_client_thinks() {
    let ground = Ground::new(settings(|settings| {
        settings.max_subscriptions = 2;
        settings.max_requests = 2;
    }));
    let server = ground.client();
    let serving = server.serve_bytes("work").await.unwrap();
    for mut peer in ground.peers().await {
        for id in 1..=3 {
            peer.push(&Header::new(Kind::Subscribe, id, 0), "a", &[]);
            peer.push(&Header::new(Kind::Request, id, 0), "work", &[]);
        }
        peer.flush().await.unwrap();
        let mut refused = Vec::new();
        while refused.len() < 2 {
            let frame = soon("a refusal", peer.receive()).await.unwrap().unwrap();
            if matches!(frame.header.kind, Kind::Failed | Kind::Answer) {
                assert_eq!(frame.header.id, 3);
                refused.push(frame.header.kind);
            }
        }
    }
    drop(serving);
}

#[tokio::test]
async fn a_scattered_request_counts_once_for_each_server_that_has_not_answered() {
    let bus = settings(|settings| settings.request_bytes = 100_000).start().unwrap();
    let (server, client) =
        (Client::new_memory(&bus.connector()).unwrap(), Client::new_memory(&bus.connector()).unwrap());
    let mut servings = Vec::new();
    for topic in ["part/1", "part/2", "part/3", "part/4"] {
        servings.push(server.serve_bytes(topic).await.unwrap());
    }
    let scatter = |size| client.request_many_bytes("part/*", vec![0; size].into(), ManyOptions::default());
    is_limit(scatter(30_000).await);
    let asked = async {
        let mut requests = Vec::new();
        for serving in &mut servings {
            requests.push(serving.recv().await.unwrap().1);
        }
        // 80,000 bytes are with the servers.
        is_limit(client.request_bytes("part/1", vec![0; 30_000].into()).await);
        for id in requests.drain(..2) {
            server.respond_bytes(id, Bytes::new()).await.unwrap();
        }
        server.flush().await.unwrap();
        // 40,000 are left, and room for as much again.
        let (answer, ()) = tokio::join!(client.request_bytes("part/1", vec![0; 30_000].into()), async {
            let (_, id, _) = servings[0].recv().await.unwrap();
            server.respond_bytes(id, "in time".into()).await.unwrap();
        });
        assert_eq!(answer.unwrap(), "in time");
        for id in requests {
            server.respond_bytes(id, Bytes::new()).await.unwrap();
        }
    };
    let (answers, ()) = soon("the answers", async { tokio::join!(scatter(20_000), asked) }).await;
    assert_eq!(answers.unwrap().len(), 4);
    // Nothing is outstanding any more: a request larger than the limit goes to one server alone.
    let (answer, ()) = tokio::join!(client.request_bytes("part/1", vec![0; 200_000].into()), async {
        let (_, id, _) = servings[0].recv().await.unwrap();
        server.respond_bytes(id, "large".into()).await.unwrap();
    });
    assert_eq!(answer.unwrap(), "large");
}

#[tokio::test]
async fn a_peer_that_publishes_past_its_window_is_cut_off() {
    let ground = Ground::new(settings(|settings| settings.publish_window = (4, 1024 * 1024)));
    for mut peer in ground.peers().await {
        for _ in 0..64 {
            peer.push_publish("news", b"more than granted");
        }
        peer.flush().await.unwrap();
        let reason = soon("a reason", peer.goodbye()).await;
        assert!(matches!(reason, BusError::CreditExceeded { .. }), "{reason:?}");
    }
    ground.serves_others().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn publishes_wait_for_the_byte_budget_and_then_fail_as_overloaded() {
    let bus = settings(|settings| {
        settings.frame_limit = 128 * 1024;
        settings.byte_budget = 128 * 1024;
    })
    .start()
    .unwrap();
    let publisher = Client::new_memory(&bus.connector()).unwrap();
    // No session alone may hold that much, four of them together may.
    let mut subscriptions = Vec::new();
    for _ in 0..4 {
        let client = Client::new_memory(&bus.connector()).unwrap();
        let options = SubscribeOptions::default().policy(Policy::DropOldest).window(3, 1024 * 1024);
        subscriptions.push(client.subscribe_bytes_with("news", options).await.unwrap());
    }
    let payload = Bytes::from(vec![1; 60 * 1024]);
    for _ in 0..4 {
        publisher.publish_bytes("news", payload.clone()).await.unwrap();
    }
    assert!(bus.stats().queued_bytes > 128 * 1024);
    let start = tokio::time::Instant::now();
    let refused = publisher.publish_bytes("news", "small").await;
    assert!(matches!(refused, Err(BusError::Overloaded { .. })), "{refused:?}");
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(2));
    let news = publisher.publisher_bytes("news").unwrap();
    news.send(&"small".into()).await.unwrap();
    assert!(matches!(news.flush().await, Err(BusError::Overloaded { .. })));
    news.flush().await.expect("a failure is told once");
    assert_eq!(bus.stats().failed_publishes, 2);
    // A publish that waits goes through once there is room, and so does the flush behind it.
    let (published, ()) = tokio::join!(publisher.publish_bytes("news", "small"), async {
        for subscription in &mut subscriptions {
            for _ in 0..3 {
                subscription.recv().await.unwrap();
            }
        }
    });
    assert_eq!(published.unwrap(), 4);
}

#[tokio::test]
async fn a_window_of_nothing_or_too_much_is_refused_before_the_wire() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let subscribe = |messages, bytes| {
        let options = SubscribeOptions::default().window(messages, bytes);
        let client = &client;
        async move { client.subscribe_bytes_with("a", options).await }
    };
    assert!(matches!(subscribe(0, 1).await, Err(BusError::InvalidSettings(_))));
    assert!(matches!(subscribe(1, 0).await, Err(BusError::InvalidSettings(_))));
    is_limit(subscribe(u32::MAX, 1).await);
    is_limit(subscribe(1, u64::MAX).await);
    let options = ServeOptions::default().group("");
    let refused = client.serve_bytes_with("a", options).await;
    assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
}

#[tokio::test]
async fn settings_that_make_no_sense_start_no_bus() {
    let changes: [fn(&mut Settings); 9] = [
        |settings| settings.frame_limit = 1,
        |settings| settings.frame_limit = usize::MAX,
        |settings| settings.byte_budget = 1,
        |settings| settings.publish_window = (0, 1),
        |settings| settings.max_sessions = 0,
        |settings| settings.request_bytes = 0,
        |settings| settings.keep_alive = Duration::ZERO,
        |settings| settings.handshake_timeout = Duration::MAX,
        |settings| settings.block_limit = Duration::MAX,
    ];
    for change in changes {
        let refused = settings(change).start().map(drop);
        assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn every_keep_alive_that_can_be_set_works() {
    for interval in [10, 50, 99, 100, 101] {
        let interval = Duration::from_millis(interval);
        let bus = settings(|settings| settings.keep_alive = interval).start().unwrap();
        let welcomed = soon("a welcome", RawPeer::welcomed(bus.connector().connect().unwrap())).await;
        assert!(welcomed.unwrap().1.keep_alive <= interval);
        bus.stop().await;
    }
}
