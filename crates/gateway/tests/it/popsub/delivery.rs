//! What is published reaches subscribers of the dialect and of the bus, and is sent again until it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use whispeer::bus::Streams;
use whispeer::client::{Event, SubscribeOptions};
use whispeer::plugin::{HookResult, Hooks, Plugin, Publishing, Refused};
use whispeer::prelude::*;
use whispeer::proto::fields::Start;
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};

use super::{Ground, popsub, soon};

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Order {
    pears: u32,
    note: Option<String>,
}

impl PublishProtocol for Order {
    fn prefix() -> &'static str {
        "orders"
    }
}

#[tokio::test]
async fn typed_clients_of_the_bus_and_clients_of_the_dialect_understand_each_other() {
    let ground = Ground::new(popsub()).await;
    let client = ground.client();
    let mut orders = client.subscribe::<Order>("*").await.unwrap();
    let mut socket = ground.socket().await;
    socket.subscribe("orders/shop").await;
    socket.settle().await;

    client.publish("shop", &Order { pears: 2, note: None }).await.unwrap();
    let message = soon(socket.next()).await;
    assert_eq!(
        (&message["topic"], &message["payload"]),
        (&json!("orders/shop"), &json!({"pears": 2, "note": null}))
    );
    assert_eq!((message["qos"].as_u64(), message["message_id"].as_str().unwrap().len()), (Some(0), 32));
    assert_eq!(orders.recv().await.unwrap().1, Order { pears: 2, note: None });

    socket.publish("orders/shop", json!({"pears": 3, "note": "ripe"})).await;
    let (topic, order) = soon(orders.recv()).await.unwrap();
    assert_eq!((topic.as_str(), order), ("shop", Order { pears: 3, note: Some("ripe".into()) }));
    ground.end().await;
}

#[tokio::test]
async fn what_is_published_at_qos_1_is_kept_where_the_bus_keeps_the_topic() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let patterns = vec![TopicPattern::new("kept/**").unwrap()];
    let settings = StreamSettings::new(Name::new("kept").unwrap(), patterns);
    let streams = Streams::open(store, [settings]).await.unwrap();
    let ground = Ground::over(Bus::builder().streams(streams), popsub()).await;
    let mut socket = ground.socket().await;
    socket.subscribe("kept/orders").await;
    socket.settle().await;
    let kept =
        json!({"type": "publish", "topic": "kept/orders", "payload": "kept", "message_id": "7", "qos": 1});
    socket.send(kept).await;
    let message = soon(socket.next()).await;
    assert_eq!(
        (&message["payload"], &message["qos"], &message["message_id"]),
        (&json!("kept"), &json!(1), &json!("7"))
    );

    let options = SubscribeOptions::default().start(Start::All);
    let mut stream = ground.client().subscribe_bytes_with("kept/**", options).await.unwrap();
    match soon(stream.next_event()).await.unwrap() {
        Event::Message(message) => {
            assert_eq!(message.headers.find("popsub-message-id"), Some("7"));
            assert_eq!(rmp_serde::from_slice::<String>(&message.value).unwrap(), "kept");
        }
        other => panic!("{other:?}"),
    }
    ground.end().await;
}

#[tokio::test]
async fn it_is_sent_again_to_who_has_not_acknowledged_and_to_nobody_else() {
    let ground = Ground::new(popsub()).await;
    let (mut quick, mut slow) = (ground.socket().await, ground.socket().await);
    for socket in [&mut quick, &mut slow] {
        socket.subscribe("jobs").await;
        socket.settle().await;
    }
    let job = json!({"type": "publish", "topic": "jobs", "payload": "work", "message_id": "1", "qos": 1});
    quick.send(job).await;
    let text = soon(quick.text()).await;
    quick.send(json!({"type": "ack", "message_id": "1"})).await;
    quick.settle().await;
    assert_eq!(slow.text().await, text);

    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    for _ in 0..5 {
        assert_eq!(slow.text().await, text);
    }
    let took = begun.elapsed();
    assert!((Duration::from_secs(24)..Duration::from_secs(26)).contains(&took), "{took:?}");
    tokio::time::resume();
    quick.settle().await;
    // It is given up after that: an acknowledgement is of nothing then, and does no harm.
    slow.send(json!({"type": "ack", "message_id": "1"})).await;
    slow.settle().await;
    ground.end().await;
}

#[tokio::test]
async fn what_was_sent_again_and_is_acknowledged_then_does_not_come_any_more() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.socket().await;
    socket.subscribe("jobs").await;
    for id in ["1", "2"] {
        socket
            .send(json!({"type": "publish", "topic": "jobs", "payload": id, "message_id": id, "qos": 1}))
            .await;
    }
    let texts = [soon(socket.text()).await, soon(socket.text()).await];
    // The clock goes on by itself while nothing else happens, so that it stands still where something is acknowledged.
    tokio::time::pause();
    for text in &texts {
        assert_eq!(socket.text().await, *text);
    }
    tokio::time::resume();
    socket.send(json!({"type": "ack", "message_id": "1"})).await;
    socket.settle().await;
    tokio::time::pause();
    for _ in 0..2 {
        assert_eq!(socket.text().await, texts[1]);
    }
    tokio::time::resume();
    socket.send(json!({"type": "unsubscribe", "topic": "jobs"})).await;
    socket.settle().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::time::resume();
    socket.settle().await;
    ground.end().await;
}

#[tokio::test]
async fn who_acknowledges_nothing_is_sent_so_many_and_goes_on_when_he_does() {
    const MORE: usize = 100;
    let most = whispeer_gateway::limits::POPSUB_UNACKED;
    let mut settings = popsub();
    settings.buffer = 4096;
    settings.ack_timeout = Duration::from_secs(600);
    let ground = Ground::new(settings).await;
    let (mut publisher, mut socket) = (ground.socket().await, ground.socket().await);
    socket.subscribe("jobs").await;
    socket.settle().await;
    let job = |id: usize| json!({"type": "publish", "topic": "jobs", "payload": "", "message_id": id.to_string(), "qos": 1});
    for id in 0..most + MORE {
        publisher.send(job(id)).await;
    }
    publisher.settle().await;
    for id in 0..most {
        assert_eq!(soon(socket.next()).await["message_id"], id.to_string());
    }
    socket.settle().await;
    // Nothing else is held up by that, and the others come as places become free.
    for id in 0..MORE {
        socket.send(json!({"type": "ack", "message_id": id.to_string()})).await;
        assert_eq!(soon(socket.next()).await["message_id"], (most + id).to_string());
    }
    socket.settle().await;
    ground.end().await;
}

#[tokio::test]
async fn messages_of_two_topics_with_one_id_each_have_their_own_topic_and_retries() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.socket().await;
    let job = |topic: &str| json!({"type": "publish", "topic": topic, "payload": topic, "message_id": "1", "qos": 1});
    let mut texts = Vec::new();
    for topic in ["first", "second"] {
        socket.subscribe(topic).await;
        socket.send(job(topic)).await;
        texts.push(soon(socket.text()).await);
    }
    socket.send(json!({"type": "unsubscribe", "topic": "first"})).await;
    socket.settle().await;
    tokio::time::pause();
    for _ in 0..5 {
        assert_eq!(socket.text().await, texts[1]);
    }
    tokio::time::resume();
    socket.settle().await;
    ground.end().await;
}

/// Refuses the first message and no other.
struct RefusesOnce(AtomicBool);

impl Plugin for RefusesOnce {
    fn name(&self) -> &str {
        "refuses-once"
    }

    fn hooks(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn on_publish(&self, _: &mut Publishing<'_>) -> HookResult {
        if self.0.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(Refused::new("the first one")) }
    }
}

#[tokio::test]
async fn what_was_refused_is_published_when_it_is_said_again_and_then_no_more() {
    let ground = Ground::over(Bus::builder().plugin(RefusesOnce(AtomicBool::new(false))), popsub()).await;
    let (mut one, mut other) = (ground.socket().await, ground.socket().await);
    other.subscribe("jobs").await;
    other.settle().await;
    let job = json!({"type": "publish", "topic": "jobs", "payload": "work", "message_id": "1", "qos": 1});
    one.send(job.clone()).await;
    assert_eq!(soon(one.next()).await["message_id"], "1", "an error");
    for _ in 0..3 {
        one.send(job.clone()).await;
        one.settle().await;
    }
    assert_eq!(soon(other.next()).await["payload"], "work");
    other.send(json!({"type": "ack", "message_id": "1"})).await;
    other.settle().await;
    ground.end().await;
}
