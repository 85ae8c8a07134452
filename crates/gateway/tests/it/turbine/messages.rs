//! What is published, and what comes of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use whispeer::client::Event;
use whispeer::prelude::*;
use whispeer::proto::Encoding;

use super::{Place, Socket, gateway, publication, token};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
async fn what_http_publishes_reaches_typed_clients_as_a_value() {
    let place = Place::new().await;
    let mut orders = place.client().subscribe::<Order>("7").await.unwrap();
    let data = json!({"pears": 3, "note": "ripe"});
    assert_eq!(place.publish("orders/7", &data).await, json!({"ok": true, "delivered": 1}));
    let (topic, order) = orders.recv().await.unwrap();
    assert_eq!((topic.as_str(), order), ("7", Order { pears: 3, note: Some("ripe".into()) }));
}

#[tokio::test]
async fn what_typed_clients_publish_reaches_sockets_as_json() {
    let place = Place::new().await;
    let mut socket = place.subscribed("orders/7").await;
    place.client().publish("7", &Order { pears: 2, note: None }).await.unwrap();
    assert_eq!(socket.next().await, publication("orders/7", &json!({"pears": 2, "note": null})));
    // What is no MessagePack is marked.
    place.client().publish_bytes("orders/7", &b"plain text"[..]).await.unwrap();
    assert_eq!(socket.next().await, publication("orders/7", &json!({"$binary": "cGxhaW4gdGV4dA=="})));
}

#[tokio::test]
async fn a_sealed_payload_passes_both_ways_as_it_is() {
    let place = Place::new().await;
    let sealed = Bytes::from_static(&[0xC1, 0x57, 1, 200, 0x2A, 0xFF]);
    let data = json!({"$sealed": "wVcByCr/"});
    let mut socket = place.subscribed("secrets").await;
    let client = place.client();
    let mut subscription = client.subscribe_content("secrets").await.unwrap();
    client.publish_bytes("secrets", sealed.clone()).await.unwrap();
    assert_eq!(subscription.recv().await.unwrap().1.payload(), sealed);
    assert_eq!(socket.next().await, publication("secrets", &data));
    place.publish("secrets", &data).await;
    assert_eq!(subscription.recv().await.unwrap().1.payload(), sealed);
    assert_eq!(socket.next().await, publication("secrets", &data));
}

#[tokio::test]
async fn a_trace_goes_along_if_it_is_one() {
    let place = Place::new().await;
    let mut messages = place.client().subscribe_bytes("a").await.unwrap();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = [("traceparent", parent), ("tracestate", "vendor=1")];
    place.post(r#"{"channel":"a","data":1}"#, &traced).await;
    place
        .post(r#"{"channel":"a","data":1}"#, &[("traceparent", "00-0-0-00"), ("tracestate", "vendor=1")])
        .await;
    let mut headers = Vec::new();
    for _ in 0..2 {
        let Some(Event::Message(message)) = messages.next_event().await else { panic!("it was published") };
        headers.push(message.headers);
    }
    assert_eq!(headers[0].find("traceparent"), Some(parent));
    assert_eq!(headers[0].find("tracestate"), Some("vendor=1"));
    assert!(headers[1].is_empty());
}

#[tokio::test]
async fn delivered_counts_sessions() {
    let place = Place::new().await;
    let mut sockets = Vec::new();
    for _ in 0..42 {
        sockets.push(place.subscribed("chat:lobby").await);
    }
    let answer = place.post(r#"{"channel":"chat:lobby","data":{"text":"hello world"}}"#, &[]).await;
    assert_eq!(answer.body, r#"{"ok":true,"delivered":42}"#);
    for socket in &mut sockets {
        assert_eq!(socket.next().await, publication("chat:lobby", &json!({"text": "hello world"})));
    }
    // A service counts once, however many of its subscriptions match.
    let service = place.client();
    let _all = service.subscribe_bytes("**").await.unwrap();
    let _lobby = service.subscribe_bytes("chat:lobby").await.unwrap();
    assert_eq!(place.publish("chat:lobby", &json!(1)).await["delivered"], 43);
}

#[tokio::test]
async fn a_publication_is_encoded_once_for_all_sockets_of_all_gateways() {
    let place = Place::new().await;
    let second = gateway(&place.bus, |_| {}).await;
    let mut sockets = vec![place.subscribed("news").await, place.subscribed("news").await];
    for _ in 0..2 {
        let mut socket = Socket::open(second.local_addr()).await;
        socket.connect(&token(&json!({}))).await;
        socket.subscribe("news").await;
        sockets.push(socket);
    }
    // Who takes the message as the bus shares it sees what the sockets have made of it.
    let mut shared = place.client().subscribe_content("news").await.unwrap();
    assert_eq!(place.publish("news", &json!(["extra"])).await["delivered"], 5);
    let mut texts = Vec::new();
    for socket in &mut sockets {
        texts.push(socket.next_text().await);
    }
    let (_, content) = shared.recv().await.unwrap();
    let made = content.encoded(Encoding::Turbine, || unreachable!("it has been made"));
    assert_eq!(made, r#"{"method":"publication","params":{"channel":"news","data":["extra"]}}"#);
    assert!(texts.iter().all(|text| *text == made));
}

#[tokio::test]
async fn a_literal_channel_is_told_by_its_name_what_was_published_to_a_pattern() {
    let place = Place::new().await;
    let (mut one, mut other) = (place.subscribed("rooms/1").await, place.subscribed("rooms/2").await);
    let mut shared = place.client().subscribe_content("rooms/*").await.unwrap();
    place.client().publish_bytes("rooms/*", &[0x07][..]).await.unwrap();
    assert_eq!(one.next().await, publication("rooms/1", &json!(7)));
    assert_eq!(other.next().await, publication("rooms/2", &json!(7)));
    // Neither was put where the other would have found it.
    let (_, content) = shared.recv().await.unwrap();
    assert_eq!(content.encoded(Encoding::Turbine, || "made now".into()), "made now");
}

#[tokio::test]
async fn an_answer_comes_behind_what_had_come_before_it_was_asked_for() {
    let place = Place::new().await;
    let mut socket = place.subscribed("news").await;
    for round in 0..50 {
        place.publish("news", &json!(round)).await;
        socket.send(&json!({"id": round, "method": "ping"})).await;
        assert_eq!(socket.next().await, publication("news", &json!(round)));
        assert_eq!(socket.next().await["id"], round);
    }
}

#[tokio::test]
async fn messages_of_a_channel_come_in_order_and_once() {
    let place = Place::new().await;
    let mut socket = place.subscribed("news").await;
    let client = place.client();
    for number in 0..200_u8 {
        let wide = rmp_serde::to_vec(&number).unwrap();
        client.publish_bytes("news", wide).await.unwrap();
    }
    for number in 0..200_u8 {
        assert_eq!(socket.next().await, publication("news", &json!(number)));
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let place = Place::new().await;
    let body = format!(r#"{{"channel":"news","data":"{}"}}"#, "x".repeat(1024 * 1024));
    let answer = place.post(&body, &[]).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.body, r#"{"ok":false,"error":{"code":413,"message":"too large"}}"#);
}

#[tokio::test]
async fn deep_json_is_refused() {
    let place = Place::new().await;
    let body = format!(r#"{{"channel":"news","data":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let answer = place.post(&body, &[]).await;
    assert_eq!((answer.status, answer.json()["ok"].as_bool()), (400, Some(false)), "{answer:?}");
}
