//! The last messages of a topic come first, once and in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use whispeer::prelude::*;

use super::{Ground, Socket, popsub, soon};

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Numbered {
    publisher: usize,
    number: usize,
}

impl PublishProtocol for Numbered {
    fn prefix() -> &'static str {
        "news"
    }
}

async fn numbers(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(soon(socket.next()).await["payload"]["number"].clone());
    }
    numbers
}

#[tokio::test]
async fn what_others_on_the_bus_publish_while_nobody_is_subscribed_is_replayed() {
    let ground = Ground::new(popsub()).await;
    let client = ground.client();
    let mut socket = ground.socket().await;
    // Somebody has once been there, so that the topic is one of those that are kept.
    socket.subscribe("news/local").await;
    socket.send(json!({"type": "unsubscribe", "topic": "news/local"})).await;
    socket.settle().await;
    for number in 1..=12 {
        client.publish("local", &Numbered { publisher: 0, number }).await.unwrap();
    }
    socket.settle().await;
    for _ in 0..2 {
        socket.subscribe("news/local").await;
        assert_eq!(numbers(&mut socket, 10).await, Vec::from_iter(3..=12));
        socket.settle().await;
        socket.send(json!({"type": "unsubscribe", "topic": "news/local"})).await;
    }
    ground.end().await;
}

#[tokio::test]
async fn all_subscribers_get_the_same_text_whether_it_is_replayed_or_not() {
    let ground = Ground::new(popsub()).await;
    let (mut one, mut other) = (ground.socket().await, ground.socket().await);
    one.subscribe("news/local").await;
    other.subscribe("news/local").await;
    one.settle().await;
    other.settle().await;
    let client = ground.client();
    client.publish("local", &Numbered { publisher: 0, number: 1 }).await.unwrap();
    let text = soon(one.text()).await;
    assert_eq!(soon(other.text()).await, text);
    let mut late = ground.socket().await;
    late.subscribe("news/local").await;
    assert_eq!(soon(late.text()).await, text);
    ground.end().await;
}

#[tokio::test]
async fn a_topic_that_the_bus_refuses_has_no_ring_and_its_session_goes_on() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.socket().await;
    for _ in 0..3 {
        socket.subscribe("$bus/stats").await;
        assert!(soon(socket.next()).await["error"].is_string());
        socket.publish("$bus/stats", 1).await;
        assert!(soon(socket.next()).await["error"].is_string());
    }
    let subscribed = ground.bus.subscriptions();
    assert!(!subscribed.iter().any(|subscription| subscription.pattern == "$bus/stats"), "{subscribed:?}");
    ground.end().await;
}

#[tokio::test]
async fn rings_keep_no_more_bytes_than_they_may_and_the_least_used_forget_first() {
    let mut settings = popsub();
    settings.replay_bytes = 5_000;
    let ground = Ground::new(settings).await;
    let mut socket = ground.socket().await;
    for topic in ["old", "new"] {
        for number in 0..3 {
            socket.publish(topic, format!("{number}{}", "x".repeat(1_000))).await;
        }
    }
    socket.settle().await;
    let mut replayed = BTreeMap::new();
    let mut late = ground.socket().await;
    for topic in ["new", "old"] {
        late.subscribe(topic).await;
        late.publish(topic, "end").await;
        let mut numbers = Vec::new();
        loop {
            let payload = soon(late.next()).await["payload"].as_str().unwrap().to_owned();
            if payload == "end" {
                break;
            }
            numbers.push(payload[..1].to_owned());
        }
        replayed.insert(topic, numbers);
    }
    assert_eq!(replayed["new"], ["0", "1", "2"]);
    assert_eq!(replayed["old"], ["2"]);
    ground.end().await;
}

/// Publishers on the bus and in the dialect publish all the time while others subscribe. Whoever subscribes has of each
/// publisher, from the first message that he gets, all to the last, in order and each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn among_many_publishers_nothing_is_missing_doubled_or_out_of_order() {
    const PUBLISHERS: usize = 6;
    const MESSAGES: usize = 250;
    const SUBSCRIBERS: usize = 16;
    let mut settings = popsub();
    settings.buffer = 10_000;
    let ground = Arc::new(Ground::new(settings).await);
    let (published, subscribed) = (watch::Sender::new(0), watch::Sender::new(0));
    let mut subscribers = JoinSet::new();
    for index in 0..SUBSCRIBERS {
        let mut socket = ground.socket().await;
        let (mut published, subscribed) = (published.subscribe(), subscribed.clone());
        subscribers.spawn(async move {
            let begin = index * PUBLISHERS * MESSAGES / SUBSCRIBERS;
            published.wait_for(|published| *published >= begin).await.unwrap();
            socket.subscribe("news/local").await;
            subscribed.send_modify(|subscribed| *subscribed += 1);
            let mut next = [None; PUBLISHERS];
            let mut received = 0;
            while next != [Some(MESSAGES + 1); PUBLISHERS] {
                let message = soon(socket.next()).await;
                let Numbered { publisher, number } =
                    serde_json::from_value(message["payload"].clone()).unwrap();
                let expected = next[publisher].unwrap_or(number);
                assert_eq!(number, expected, "subscriber {index}, publisher {publisher}, {received} before");
                next[publisher] = Some(number + 1);
                received += 1;
            }
            socket.settle().await;
            received
        });
    }
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (ground, published, mut subscribed) =
            (Arc::clone(&ground), published.clone(), subscribed.subscribe());
        publishers.spawn(async move {
            let (client, mut socket) = (ground.client(), ground.socket().await);
            for number in 0..=MESSAGES {
                // The last of each are few enough to be replayed to whoever comes late, as nothing else comes behind them.
                if number == MESSAGES {
                    subscribed.wait_for(|subscribed| *subscribed == SUBSCRIBERS).await.unwrap();
                    let is_all = |published: &usize| *published >= PUBLISHERS * MESSAGES;
                    published.subscribe().wait_for(is_all).await.unwrap();
                }
                let message = Numbered { publisher, number };
                if publisher % 2 == 0 {
                    client.publish("local", &message).await.unwrap();
                } else {
                    socket.publish("news/local", serde_json::to_value(message).unwrap()).await;
                    socket.settle().await;
                }
                published.send_modify(|published| *published += 1);
            }
        });
    }
    publishers.join_all().await;
    let received = subscribers.join_all().await;
    assert!(received.iter().any(|count| *count < PUBLISHERS * MESSAGES / 2), "{received:?}");
    Arc::into_inner(ground).unwrap().end().await;
}
