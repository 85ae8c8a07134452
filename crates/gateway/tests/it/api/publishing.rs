//! `POST /api/v1/publish`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use whispeer::client::{Event, HistoryOptions};
use whispeer::prelude::*;
use whispeer_testkit::wait::soon;

use super::support::{Served, ask, bearer};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Greeting {
    from: String,
    times: u32,
}

impl PublishProtocol for Greeting {
    fn prefix() -> &'static str {
        "greetings"
    }
}

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

#[tokio::test]
async fn json_reaches_typed_clients_as_their_types() {
    let served = Served::open().await;
    let mut greetings = served.client.subscribe::<Greeting>("*").await.unwrap();
    let answer = served.post("/api/v1/publish?topic=greetings/a", &[], r#"{"from":"web","times":2}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"matches": 1, "stored": false}));
    let (topic, greeting) = soon("the greeting", greetings.recv()).await.unwrap();
    assert_eq!(topic.as_str(), "a");
    assert_eq!(greeting, Greeting { from: "web".into(), times: 2 });
}

#[tokio::test]
async fn bytes_pass_as_they_are() {
    let served = Served::open().await;
    let mut messages = served.client.subscribe_bytes("**").await.unwrap();
    for (kind, body) in [
        ("application/octet-stream", &b"\xffany\0thing"[..]),
        ("application/octet-stream", b""),
        ("application/msgpack", &[0x92, 1, 2]),
    ] {
        let headers = [("content-type", kind)];
        let answer = ask(served.address(), "POST", "/api/v1/publish?topic=a", &headers, body).await;
        assert_eq!(answer.status, 200);
        let (_, payload) = soon("the message", messages.recv()).await.unwrap();
        assert_eq!(payload, body);
    }
}

#[tokio::test]
async fn what_is_sealed_passes_both_ways_as_it_was() {
    let served = Served::open().await;
    let envelope = [0xC1, 0x57, 1, 200, 0x2A];
    let mut messages = served.client.subscribe_bytes("a").await.unwrap();
    let mut events = served.events("pattern=a", &[]).await;
    events.event("ready").await;
    let answer = served.post("/api/v1/publish?topic=a", &[], r#"{"$sealed":"wVcByCo="}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(soon("the message", messages.recv()).await.unwrap().1, &envelope[..]);
    assert_eq!(events.payload().await, json!({"$sealed": "wVcByCo="}));
}

#[tokio::test]
async fn topics_may_have_wildcards() {
    let served = Served::open().await;
    let _one = served.client.subscribe_bytes("rooms/1/light").await.unwrap();
    let _two = served.client.subscribe_bytes("rooms/2/light").await.unwrap();
    let answer = served.post("/api/v1/publish?topic=rooms/*/light", &[], "true").await;
    assert_eq!(answer.json()["matches"], 2);
}

#[tokio::test]
async fn headers_of_the_request_become_headers_of_the_message() {
    let served = Served::open().await;
    let mut messages = served.client.subscribe_bytes("a").await.unwrap();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers =
        [("Whispeer-Header-Shop", "7"), ("traceparent", parent), ("tracestate", "a=1"), ("x-other", "1")];
    assert_eq!(served.post("/api/v1/publish?topic=a", &headers, "1").await.status, 200);
    let Some(Event::Message(message)) = soon("the message", messages.next_event()).await else { panic!() };
    let expected = [("shop", "7"), ("traceparent", parent), ("tracestate", "a=1")];
    assert_eq!(message.headers.iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_message_that_is_to_be_stored_is_when_it_is_answered() {
    let served = Served::open().await;
    for quality in [1, 2] {
        let path = format!("/api/v1/publish?topic=orders/1&quality={quality}");
        let answer = served.post(&path, &[], "{}").await;
        assert_eq!(answer.json(), json!({"matches": 0, "stored": true}));
    }
    let page = served.client.history_bytes("orders/**", HistoryOptions::default()).await.unwrap();
    assert_eq!(page.messages.len(), 2);
    let answer = served.post("/api/v1/publish?topic=elsewhere&quality=1", &[], "{}").await;
    assert_eq!(answer.problem(), (409, "not-durable".into()));
}

#[tokio::test]
async fn a_message_has_a_time_for_which_it_is_of_use_and_one_after_which_it_comes() {
    let served = Served::open().await;
    let mut messages = served.client.subscribe_bytes("a").await.unwrap();
    let answer = served.post("/api/v1/publish?topic=a&ttl=2.5", &[], "1").await;
    assert_eq!(answer.status, 200);
    let Some(Event::Message(message)) = soon("the message", messages.next_event()).await else { panic!() };
    assert_eq!(message.expires_in, Some(Duration::from_millis(2_500)));
    let answer = served.post("/api/v1/publish?topic=a&deliver_in=3600", &[], "1").await;
    assert_eq!(answer.json(), json!({"matches": 0, "stored": false}));
    assert_eq!(served.bus.stats().delayed_messages, 1);
}

#[tokio::test]
async fn a_batch_is_published_in_order_and_each_message_has_its_own_outcome() {
    let served = Served::closed().await;
    let writer = bearer(&["writer"]);
    let mut messages = served.client.subscribe_bytes("greetings/**").await.unwrap();
    let batch = json!({"messages": [
        {"topic": "greetings/1", "payload": 1, "headers": [["Shop", "7"]]},
        {"topic": "elsewhere", "payload": 2},
        {"topic": "greetings//", "payload": 3},
        {"topic": "greetings/4", "payload": {"a": 4}, "ttl": 5, "quality": 0},
        {"topic": "greetings/5", "payload": 5, "quality": 9},
        {"topic": "orders/6", "payload": 6, "quality": 1},
    ]});
    let answer = served.post("/api/v1/publish", &[("authorization", &writer)], &batch.to_string()).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["published"], 3);
    let results = answer["results"].as_array().unwrap();
    let told: Vec<(u64, &str)> = results
        .iter()
        .map(|one| (one["status"].as_u64().unwrap(), one["code"].as_str().unwrap_or_default()))
        .collect();
    let expected =
        [(200, ""), (403, "denied"), (400, "invalid-topic"), (200, ""), (400, "parameters"), (200, "")];
    assert_eq!(told, expected);
    assert_eq!((&results[0]["matches"], &results[5]["stored"]), (&json!(1), &json!(true)));

    let Some(Event::Message(first)) = soon("the first", messages.next_event()).await else { panic!() };
    assert_eq!((first.topic.as_str(), first.headers.find("Shop")), ("greetings/1", Some("7")));
    assert_eq!(soon("the second", messages.recv()).await.unwrap().0.as_str(), "greetings/4");
}

#[tokio::test]
async fn a_long_batch_keeps_its_order() {
    let served = Served::open().await;
    let mut messages = served.client.subscribe_bytes("a").await.unwrap();
    let all: Vec<Value> = (0..1_024).map(|number| json!({"topic": "a", "payload": number})).collect();
    let answer = served.post("/api/v1/publish", &[], &json!({"messages": all}).to_string()).await;
    assert_eq!(answer.json()["published"], 1_024);
    for number in 0..1_024_u32 {
        let (_, payload) = soon("a message", messages.recv()).await.unwrap();
        assert_eq!(rmp_serde::from_slice::<u32>(&payload).unwrap(), number);
    }
}

#[tokio::test]
async fn what_cannot_be_published_is_told_why() {
    let served = Served::closed().await;
    let writer = bearer(&["writer"]);
    let reader = bearer(&["reader"]);
    let large = format!("\"{}\"", "a".repeat(1024 * 1024));
    let deep = "[".repeat(200);
    let (a, json) = ("/api/v1/publish?topic=greetings/a", "application/json");
    for (who, path, kind, body, expected) in [
        ("", a, json, "1", (401, "unauthenticated")),
        ("Bearer nonsense", a, json, "1", (401, "unauthenticated")),
        (&*reader, a, json, "1", (403, "denied")),
        (&writer, "/api/v1/publish?topic=$bus/stop", json, "1", (403, "reserved-topic")),
        (&writer, "/api/v1/publish?topic=", json, "1", (403, "denied")),
        (&writer, "/api/v1/publish?topic=a//b", json, "1", (400, "invalid-topic")),
        (&writer, a, json, "", (400, "json")),
        (&writer, a, json, "{", (400, "json")),
        (&writer, a, json, "1 2", (400, "json")),
        (&writer, a, json, &deep, (400, "json")),
        (&writer, a, json, &large, (413, "too-large")),
        (&writer, a, "text/plain", "1", (415, "media-type")),
        (&writer, "/api/v1/publish?topic=greetings/a&quality=3", json, "1", (400, "parameters")),
        (&writer, "/api/v1/publish?topic=greetings/a&ttl=-1", json, "1", (400, "parameters")),
        (&writer, "/api/v1/publish?topic=greetings/a&deliver_in=1e9", json, "1", (400, "parameters")),
        (&writer, "/api/v1/publish?topic=greetings/a&topic=b", json, "1", (400, "parameters")),
        (&writer, "/api/v1/publish?topik=greetings/a", json, "1", (400, "unknown-parameter")),
        (&writer, "/api/v1/publish?topic=greetings/a&access_token=x", json, "1", (400, "token-in-url")),
        (&writer, "/api/v1/publish", json, "{}", (400, "json")),
        (&writer, "/api/v1/publish", json, r#"{"messages":[{"topic":"a"}]}"#, (400, "json")),
        (&writer, "/api/v1/publish", json, r#"{"messages":[],"more":1}"#, (400, "json")),
        (&writer, "/api/v1/publish?ttl=1", json, r#"{"messages":[]}"#, (400, "parameters")),
        (&writer, "/api/v1/publish", OCTETS.1, "1", (400, "parameters")),
    ] {
        let mut headers = vec![("content-type", kind)];
        if !who.is_empty() {
            headers.push(("authorization", who));
        }
        let answer = ask(served.address(), "POST", path, &headers, body.as_bytes()).await;
        let (status, code) = answer.problem();
        assert_eq!((status, &*code), expected, "{path} {body:.40}");
    }
}

#[tokio::test]
async fn a_body_has_to_come_in_time() {
    let served = Served::open().await;
    let mut connection = BufReader::new(TcpStream::connect(served.address()).await.unwrap());
    let head = "POST /api/v1/publish?topic=a HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 9\r\nexpect: 100-continue\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    connection.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n", "it waits for the body");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(30)).await;
    tokio::time::resume();
    line.clear();
    connection.read_line(&mut line).await.unwrap();
    connection.read_line(&mut line).await.unwrap();
    assert_eq!(line, "\r\nHTTP/1.1 408 Request Timeout\r\n");
}

#[tokio::test]
async fn paths_and_methods_that_there_are_not_are_problems() {
    let served = Served::open().await;
    let answer = ask(served.address(), "DELETE", "/api/v1/publish", &[], b"").await;
    assert_eq!(answer.problem().0, 405);
    assert_eq!(answer.header("allow"), Some("POST"));
    assert_eq!(served.get("/api/v1/nothing", &[]).await.problem().0, 404);
    assert_eq!(served.get("/api/v1/topics", &[("host", "evil.example")]).await.problem().0, 421);
    let foreign = [("origin", "https://evil.example")];
    assert_eq!(served.get("/api/v1/topics", &foreign).await.problem().0, 403);
}
