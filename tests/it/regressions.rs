//! Faults that were found in other systems of this kind, each shown to be absent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use whispeer::prelude::*;
use whispeer::topic::Topic;
use whispeer_testkit::protocols::{NotANumber, Number};
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::{Ground, settings};

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_is_reported_at_once_and_not_after_the_timeout() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let (server, client) = (Client::new_memory(&connector).unwrap(), Client::new_memory(&connector).unwrap());
    let mut serving = server.serve_bytes("work").await.unwrap();
    let start = tokio::time::Instant::now();
    let leave = async {
        let taken = serving.recv().await.unwrap();
        server.close().await.unwrap();
        drop(taken);
    };
    let (answer, ()) = tokio::join!(client.request_bytes("work", Bytes::new()), leave);
    assert!(matches!(answer, Err(BusError::ServerGone { .. })), "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn publishing_to_everything_and_to_reserved_topics_harms_nobody() {
    let ground = Ground::new(Bus::builder());
    for mut peer in ground.peers().await {
        for topic in ["**", "$bus/stats", "$", "**/$bus", "*"] {
            peer.push_publish(topic, b"payload");
        }
        peer.flush().await.unwrap();
    }
    ground.serves_others().await;
    ground.end().await;
}

#[tokio::test]
async fn eight_double_wildcards_are_matched_in_no_time() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let mut subscriptions = Vec::new();
    for count in 0..200 {
        let topic = format!("{}/z{count}", ["a"; 20].join("/"));
        subscriptions.push(client.subscribe_bytes(&topic).await.unwrap());
    }
    let hard = format!("{}/nowhere", ["**/a"; 8].join("/"));
    let start = Instant::now();
    assert_eq!(client.publish_bytes(&hard, "").await.unwrap(), 0);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[test]
fn double_wildcards_beside_others_match_a_literal_topic() {
    let topic = Topic::new("a/b").unwrap();
    for pattern in ["a/**/*", "a/**/**", "**/*", "**", "a/**/b/**", "*/**"] {
        assert!(TopicPattern::new(pattern).unwrap().matches(&topic), "{pattern}");
    }
}

#[tokio::test]
async fn dropping_one_of_two_equal_subscriptions_leaves_the_other() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let one = client.subscribe_bytes("news").await.unwrap();
    let mut other = client.subscribe_bytes("news").await.unwrap();
    drop(one);
    eventually("one is left", || bus.stats().subscriptions == 1).await;
    client.publish_bytes("news", "still here").await.unwrap();
    assert_eq!(other.recv().await.unwrap().1, "still here");
}

#[tokio::test]
async fn an_invalid_topic_does_not_kill_the_client() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    assert!(matches!(client.subscribe_bytes("a//b").await, Err(BusError::InvalidTopic(_))));
    assert!(matches!(client.serve_bytes("a b").await, Err(BusError::InvalidTopic(_))));
    client.ping().await.unwrap();
}

#[tokio::test]
async fn a_payload_of_the_wrong_type_does_not_end_the_subscription() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let mut subscription = client.subscribe::<Number>("a").await.unwrap();
    client.publish("a", &NotANumber("one".into())).await.unwrap();
    client.publish("a", &Number(2)).await.unwrap();
    assert_eq!(subscription.recv().await.unwrap().1, Number(2));
    assert_eq!(subscription.undecodable(), 1);
}

#[tokio::test]
async fn a_client_that_floods_its_own_subscription_does_not_deadlock() {
    let ground = Ground::new(settings(|settings| settings.block_limit = Duration::from_millis(20)));
    let client = Client::new_unix(&ground.socket()).await.unwrap();
    let mut subscription = client.subscribe_bytes("echo").await.unwrap();
    let payload = Bytes::from(vec![0; 200 * 1024]);
    let flood = async {
        for _ in 0..300 {
            client.publish_bytes("echo", payload.clone()).await.unwrap();
        }
    };
    soon("the end of the flood", flood).await;
    subscription.drain().await.unwrap();
    while subscription.recv().await.is_some() {}
    let counts = subscription.counts();
    assert_eq!(counts.taken + counts.dropped(), 300);
}

#[tokio::test]
async fn one_failing_subscriber_does_not_abort_a_fan_out() {
    let ground = Ground::new(Bus::builder());
    let publisher = ground.client();
    let mut peers = Vec::new();
    for mut peer in ground.peers().await {
        let subscribe = whispeer::proto::Header::new(whispeer::proto::Kind::Subscribe, 1, 0);
        peer.send(&subscribe, "news", &[]).await.unwrap();
        peers.push(peer);
    }
    let mut good = publisher.subscribe_bytes("news").await.unwrap();
    eventually("all have subscribed", || ground.bus.stats().subscriptions == 3).await;
    drop(peers);
    for _ in 0..100 {
        publisher.publish_bytes("news", "to those who are left").await.unwrap();
    }
    for _ in 0..100 {
        assert_eq!(good.recv().await.unwrap().1, "to those who are left");
    }
    drop((publisher, good));
    ground.end().await;
}

#[tokio::test]
async fn a_frame_one_byte_over_the_limit_is_an_error_of_its_call() {
    let ground = Ground::new(settings(|settings| settings.frame_limit = 128 * 1024));
    for client in [ground.client(), Client::new_unix(&ground.socket()).await.unwrap()] {
        client.ping().await.unwrap();
        let largest = 128 * 1024 - whispeer::proto::HEADER_LEN - "a".len();
        assert_eq!(client.publish_bytes("a", vec![0; largest]).await.unwrap(), 0);
        let refused = client.publish_bytes("a", vec![0; largest + 1]).await;
        assert!(matches!(refused, Err(BusError::FrameTooLarge { .. })), "{refused:?}");
        client.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_handshake_does_not_hold_up_the_next() {
    let ground = Ground::new(Bus::builder());
    let silent = ground.links().await;
    ground.serves_others().await;
    drop(silent);
    ground.end().await;
}

#[tokio::test]
async fn a_send_that_is_dropped_before_it_is_done_sends_nothing() {
    let ground = Ground::new(settings(|settings| settings.publish_window = (100_000, 1 << 30)));
    let client = ground.client();
    client.ping().await.unwrap();
    let publisher = client.publisher_bytes("news").unwrap();
    let mut done = 0;
    // More than a publisher sends before it lets others run.
    for _ in 0..5_000 {
        done += u64::from(now_or_never(publisher.send(&"x".into())).await.is_some());
    }
    publisher.flush().await.unwrap();
    assert!(done < 5_000, "some were dropped");
    assert_eq!(ground.bus.stats().published, done);
}
