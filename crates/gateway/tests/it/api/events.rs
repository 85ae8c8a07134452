//! `GET /api/v1/subscribe`: Server-Sent Events.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use whispeer::auth::Policy;
use whispeer::client::PublishOptions;
use whispeer::prelude::*;
use whispeer::proto::Encoding;
use whispeer_testkit::wait::{eventually, soon};

use super::support::{POLICY, Reader, Served, bearer, bearer_for};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Greeting {
    from: String,
}

impl PublishProtocol for Greeting {
    fn prefix() -> &'static str {
        "greetings"
    }
}

#[tokio::test]
async fn what_typed_clients_publish_comes_as_json_of_one_line() {
    let served = Served::open().await;
    let mut events = served.events("pattern=greetings/**", &[]).await;
    assert_eq!(events.answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.answer.header("cache-control"), Some("no-store"));
    let ready = events.event("ready").await;
    assert_eq!((ready.retry.as_deref(), ready.id), (Some("2000"), None));
    assert_eq!(ready.data, json!({"patterns": ["greetings/**"]}));

    let options = PublishOptions::default().header("shop", "7");
    let greeting = Greeting { from: "a\nb".into() };
    assert_eq!(served.client.publish_with("x", &greeting, options).await.unwrap(), 1);
    let message = events.event("message").await;
    assert_eq!((message.id, message.retry), (None, None));
    let expected = json!({"topic": "greetings/x", "headers": [["shop", "7"]], "payload": {"from": "a\nb"}});
    assert_eq!(message.data, expected);
}

#[tokio::test]
async fn several_patterns_make_one_stream_and_wildcards_meet_on_both_sides() {
    let served = Served::open().await;
    let mut events = served.events("pattern=a/1&pattern=b/*", &[]).await;
    events.event("ready").await;
    served.client.publish_bytes("*/1", vec![7]).await.unwrap();
    for _ in 0..2 {
        let message = events.event("message").await;
        assert_eq!((&message.data["topic"], &message.data["payload"]), (&json!("*/1"), &json!(7)));
    }
}

#[tokio::test]
async fn all_who_read_a_message_get_the_same_which_is_written_once() {
    let served = Served::open().await;
    let mut contents = served.client.subscribe_content("a").await.unwrap();
    let mut readers = Vec::new();
    for _ in 0..5 {
        let mut reader = served.events("pattern=a", &[]).await;
        reader.event("ready").await;
        readers.push(reader);
    }
    served.client.publish_bytes("a", rmp_serde::to_vec("hello").unwrap()).await.unwrap();
    for reader in &mut readers {
        assert_eq!(reader.payload().await, "hello");
    }
    let (_, content) = soon("the content", contents.recv()).await.unwrap();
    let written = content.encoded(Encoding::Event, || panic!("it is there"));
    assert_eq!(&written[..], b"\"topic\":\"a\",\"headers\":[],\"payload\":\"hello\"}\n\n");
}

#[tokio::test]
async fn events_are_not_held_back_to_be_compressed() {
    let served = Served::open().await;
    let encodings = [("accept-encoding", "gzip, br, zstd, deflate")];
    let mut events = served.events("pattern=a", &encodings).await;
    assert_eq!(events.answer.header("content-encoding"), None);
    events.event("ready").await;
    served.client.publish_bytes("a", vec![1]).await.unwrap();
    assert_eq!(events.payload().await, 1);
    // Others are, so that this shows something.
    let mut document = Reader::ask(served.address(), "/api/openapi.json", &encodings).await;
    assert!(document.answer.header("content-encoding").is_some());
    document.rest().await;
}

#[tokio::test]
async fn it_ends_after_so_many_messages_or_so_long_if_that_is_asked_for() {
    let served = Served::open().await;
    let mut events = served.events("pattern=a&limit=2", &[]).await;
    events.event("ready").await;
    for number in 1..=3 {
        served.client.publish_bytes("a", vec![number]).await.unwrap();
    }
    assert_eq!((events.payload().await, events.payload().await), (json!(1), json!(2)));
    assert_eq!(events.event("end").await.data["code"], "limit");
    assert_eq!(events.next().await, None);

    let mut events = served.events("pattern=a&duration=0", &[]).await;
    events.event("ready").await;
    assert_eq!(events.event("end").await.data["code"], "duration");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn it_gives_a_sign_of_life_each_quarter_of_a_minute() {
    let served = Served::open().await;
    let mut events = served.events("pattern=a", &[]).await;
    events.event("ready").await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(15)).await;
    tokio::time::resume();
    assert_eq!(events.comment().await, ": still here\n\n");
}

#[tokio::test]
async fn it_ends_with_the_token() {
    let served = Served::closed().await;
    let token = bearer_for("alice", &["reader", "writer"], Duration::from_secs(5));
    let headers = [("authorization", &*token)];
    let mut events = served.events("pattern=greetings/*", &headers).await;
    events.event("ready").await;
    let publish = async || served.post("/api/v1/publish?topic=greetings/a", &headers, "1").await;
    assert_eq!(publish().await.status, 200);
    assert_eq!(events.payload().await, 1);
    tokio::time::pause();
    // So long, and 30 s for clocks.
    tokio::time::advance(Duration::from_secs(36)).await;
    tokio::time::resume();
    let mut end = events.next().await;
    while end.as_ref().is_some_and(|event| event.name != "end") {
        end = events.next().await;
    }
    assert_eq!(end.unwrap().data["code"], "denied");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn it_ends_when_a_new_policy_does_not_let_its_reader_in() {
    let served = Served::closed().await;
    let mut events = served.events("pattern=greetings/*", &[("authorization", &bearer(&["reader"]))]).await;
    events.event("ready").await;
    let without = POLICY.replace("https://login.example", "https://other.example");
    served.bus.set_policy(Policy::from_toml(&without).unwrap());
    assert_eq!(events.event("end").await.data["code"], "denied");
    assert_eq!(events.next().await, None);
    let shown = bearer(&["reader"]);
    let refused = served.get("/api/v1/subscribe?pattern=greetings/*", &[("authorization", &*shown)]).await;
    assert_eq!(refused.problem().0, 401);
}

#[tokio::test]
async fn it_ends_when_the_gateway_drains_and_what_has_come_before_is_not_lost() {
    let served = Served::open().await;
    let mut events = served.events("pattern=a", &[]).await;
    events.event("ready").await;
    assert_eq!(served.client.publish_bytes("a", vec![1]).await.unwrap(), 1);
    let stopping = tokio::spawn(served.gateway.stop());
    assert_eq!(events.payload().await, 1);
    assert_eq!(events.event("end").await.data["code"], "draining");
    assert_eq!(events.next().await, None);
    soon("the end", stopping).await.unwrap();
}

#[tokio::test]
async fn who_does_not_read_misses_messages_is_told_how_many_and_holds_nobody_up() {
    let served = Served::open().await;
    let mut events = served.events("pattern=a", &[]).await;
    events.event("ready").await;
    // Binary of 64 KiB.
    let mut large = vec![0xc6, 0, 1, 0, 0];
    large.extend(vec![7; 65_536]);
    // More than the window, the buffers of both sides and what the gateway puts together.
    for _ in 0..1_000 {
        assert_eq!(served.client.publish_bytes("a", large.clone()).await.unwrap(), 1);
    }
    let dropped: u64 = served.bus.stats().dropped.values().sum();
    assert!((1..1_000).contains(&dropped), "{dropped}");
    let (mut taken, mut told) = (0, 0);
    let mut read = async || {
        let event = events.next().await.unwrap();
        match &*event.name {
            "message" => taken += 1,
            "gap" => {
                assert_eq!(event.data["reason"], "dropped_newest");
                told += event.data["count"].as_u64().unwrap();
            }
            other => panic!("{other}"),
        }
        (taken, told)
    };
    while read().await.0 < 1_000 - dropped {}
    // A gap comes with what is delivered next.
    served.client.publish_bytes("a", vec![1]).await.unwrap();
    while read().await.0 < 1_001 - dropped {}
    assert_eq!(told, dropped);
}

#[tokio::test]
async fn a_reader_who_stops_is_cut_off_after_half_a_minute() {
    let served = Served::open().await;
    let before = served.bus.stats().subscriptions;
    let mut events = served.events("pattern=a", &[]).await;
    events.event("ready").await;
    let mut large = vec![0xc6, 0, 1, 0, 0];
    large.extend(vec![7; 65_536]);
    // Until nothing more fits between the two: several in a row are dropped, between which the gateway has had its turn.
    let mut refused = 0;
    while refused < 10 {
        let delivered = served.bus.stats().delivered;
        served.client.publish_bytes("a", large.clone()).await.unwrap();
        refused = if served.bus.stats().delivered == delivered { refused + 1 } else { 0 };
        assert_eq!(served.get("/healthz", &[]).await.status, 200);
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(30)).await;
    tokio::time::resume();
    eventually("it is cut off", || served.bus.stats().subscriptions == before).await;
}

#[tokio::test]
async fn a_reader_who_goes_away_leaves_nothing_behind() {
    let served = Served::open().await;
    let before = served.bus.stats().subscriptions;
    let mut events = served.events("pattern=a", &[]).await;
    events.event("ready").await;
    assert_eq!(served.bus.stats().subscriptions, before + 1);
    drop(events);
    eventually("the subscription is gone", || served.bus.stats().subscriptions == before).await;
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_told_why() {
    let served = Served::closed().await;
    let reader = bearer(&["reader"]);
    let many = "pattern=a&".repeat(2);
    let sixteen: String = (0..17).map(|number| format!("pattern=greetings/{number}&")).collect();
    for (who, query, expected) in [
        (None, "pattern=greetings/*", (401, "unauthenticated")),
        (Some(&reader), "pattern=secret", (403, "denied")),
        (Some(&reader), "pattern=$bus/**", (403, "denied")),
        (Some(&reader), "", (400, "parameters")),
        (Some(&reader), "pattern=a//b", (400, "invalid-topic")),
        (Some(&reader), &*many, (400, "parameters")),
        (Some(&reader), &*sixteen, (400, "parameters")),
        (Some(&reader), "pattern=greetings/*&start=all", (409, "not-durable")),
        (Some(&reader), "pattern=greetings/*&start=yesterday", (400, "parameters")),
        (Some(&reader), "pattern=orders/*&last_event_id=7", (400, "place")),
        (Some(&reader), "pattern=orders/*&last_event_id=-,-", (400, "place")),
        (Some(&reader), "pattern=greetings/*&limit=0", (400, "parameters")),
        (Some(&reader), "pattern=greetings/*&duration=1e9", (400, "parameters")),
        (Some(&reader), "pattern=greetings/*&token=abc", (400, "token-in-url")),
        (Some(&reader), "pattern=greetings/*&ticket=abc", (400, "authorization")),
        (None, "pattern=greetings/*&ticket=abc", (401, "unauthenticated")),
    ] {
        let who: Vec<_> = who.iter().map(|who| ("authorization", who.as_str())).collect();
        let answer = served.get(&format!("/api/v1/subscribe?{query}"), &who).await;
        let (status, code) = answer.problem();
        assert_eq!((status, &*code), expected, "{query}");
    }
}
