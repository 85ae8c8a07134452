//! Who is let in, for how long, and how it ends.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use whispeer::prelude::*;
use whispeer_gateway::{Gateway, Settings};

use super::{Ground, Socket, popsub, soon};
use crate::http::ask;

#[tokio::test]
async fn a_session_of_the_bus_has_the_name_of_its_user() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.stranger().await;
    socket.log_in("alice").await;
    let sessions = ground.bus.sessions();
    let own = sessions.iter().find(|session| session.name == "popsub").unwrap();
    let principal = serde_json::to_value(&own.principal).unwrap();
    assert!(principal.to_string().contains("alice"), "{principal}");
    ground.end().await;
}

#[tokio::test]
async fn another_user_cannot_take_over_a_connection() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.socket().await;
    socket.send(json!({"type": "login", "username": "alice", "password": "password"})).await;
    let response = soon(socket.next()).await;
    socket.send(json!({"type": "auth", "token": response["token"]})).await;
    assert_eq!(soon(socket.next()).await, json!({"error": "authentication failed"}));
    assert_eq!(soon(socket.closed()).await, 1008);
    ground.end().await;
}

#[tokio::test]
async fn a_token_that_expires_ends_its_session() {
    let mut settings = popsub();
    settings.token_lifetime = Duration::from_secs(2);
    let ground = Ground::new(settings).await;
    let mut socket = ground.socket().await;
    socket.subscribe("chat").await;
    assert_eq!(soon(socket.next()).await, json!({"error": "the token has expired; log in again"}));
    assert_eq!(soon(socket.closed()).await, 1008);
    ground.end().await;
}

#[tokio::test]
async fn who_does_not_say_who_he_is_is_not_waited_for() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.stranger().await;
    tokio::time::pause();
    assert_eq!(socket.next().await, json!({"error": "not authenticated in time"}));
    assert_eq!(socket.closed().await, 1008);
    tokio::time::resume();
    ground.end().await;
}

#[tokio::test]
async fn who_guesses_has_to_wait() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.stranger().await;
    let mut told = Vec::new();
    for _ in 0..8 {
        socket.send(json!({"type": "login", "username": "admin", "password": "guess"})).await;
        told.push(soon(socket.next()).await["error"].as_str().unwrap().to_owned());
    }
    assert_eq!(told[..6], ["invalid credentials"; 6]);
    assert!(told[6].starts_with("too many passwords were wrong"), "{told:?}");
    ground.end().await;
}

#[tokio::test]
async fn when_the_gateway_drains_sessions_are_told_to_go() {
    let ground = Ground::new(popsub()).await;
    let (mut stranger, mut socket) = (ground.stranger().await, ground.socket().await);
    socket.subscribe("chat").await;
    socket.settle().await;
    let Ground { bus, gateway } = ground;
    let ended = tokio::spawn(gateway.stop());
    assert_eq!(soon(stranger.closed()).await, 1001);
    assert_eq!(soon(socket.closed()).await, 1001);
    drop((stranger, socket));
    soon(ended).await.unwrap();
    bus.stop().await;
}

/// A socket that has stopped reading, in the midst of what is written to it.
async fn stalled(ground: &Ground) -> Socket {
    let mut socket = ground.socket().await;
    socket.subscribe("news").await;
    socket.settle().await;
    let client = ground.client();
    let payload = rmp_serde::to_vec(&"x".repeat(256 * 1024)).unwrap();
    let dropped = || {
        let subscriptions = ground.bus.subscriptions();
        let own = subscriptions.iter().find(|subscription| subscription.pattern == "news").unwrap();
        own.matched - own.delivered
    };
    // What it does not take any more waits at the bus, and is dropped there.
    for _ in 0..20 {
        let before = dropped();
        while dropped() == before {
            client.publish_bytes("news", payload.clone()).await.unwrap();
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }
    socket
}

#[tokio::test]
async fn a_reader_that_has_stopped_does_not_hold_up_the_end_of_the_gateway() {
    let ground = Ground::new(popsub()).await;
    let _socket = stalled(&ground).await;
    let Ground { bus, gateway } = ground;
    tokio::time::pause();
    let begun = Instant::now();
    gateway.stop().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    tokio::time::resume();
    bus.stop().await;
}

#[tokio::test]
async fn a_token_expires_also_if_the_reader_has_stopped() {
    let mut settings = popsub();
    settings.token_lifetime = Duration::from_secs(3);
    let ground = Ground::new(settings).await;
    let begun = Instant::now();
    let _socket = stalled(&ground).await;
    let is_gone = || !ground.bus.sessions().iter().any(|session| session.name == "popsub");
    whispeer_testkit::wait::eventually("the session is gone", is_gone).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    // What it had not been sent is counted.
    let metrics = ask(ground.address(), "GET", "/metrics", &[], b"").await.body;
    let closed = r#"whispeer_gateway_dropped_total{dialect="popsub",reason="closed"} "#;
    let closed = metrics.lines().find_map(|line| line.strip_prefix(closed)).expect("it is counted");
    assert!(closed.parse::<u64>().unwrap() > 0, "{closed}");
    ground.end().await;
}

#[tokio::test]
async fn when_the_bus_stops_sessions_end() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.socket().await;
    socket.subscribe("chat").await;
    socket.settle().await;
    let Ground { bus, gateway } = ground;
    let stopped = tokio::spawn(bus.stop());
    assert_eq!(soon(socket.closed()).await, 1001);
    drop(socket);
    soon(stopped).await.unwrap();
    soon(gateway.stop()).await;
}

#[tokio::test]
async fn a_session_that_has_gone_leaves_nothing_behind() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.socket().await;
    socket.subscribe("chat").await;
    socket.settle().await;
    drop(socket);
    let is_gone = || !ground.bus.sessions().iter().any(|session| session.name == "popsub");
    whispeer_testkit::wait::eventually("the session is gone", is_gone).await;
    ground.end().await;
}

#[tokio::test]
async fn what_nobody_would_say_harms_nobody() {
    let ground = Ground::new(popsub()).await;
    let mut socket = ground.socket().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let texts = [
        "".to_owned(),
        deep.clone(),
        format!(r#"{{"type":"publish","topic":"t","payload":{deep}}}"#),
        format!(r#"{{"type":"publish","topic":"{}","payload":1}}"#, "x/".repeat(100_000)),
        format!(r#"{{"type":"auth{}"}}"#, "h".repeat(100_000)),
        r#"{"type":"ack","type":"ack","message_id":"1"}"#.to_owned(),
        r#"{"type":"publish","topic":"t","payload":1e999,"qos":-1}"#.to_owned(),
        r#"{"type":"subscribe","topic":"\u0000"}"#.to_owned(),
    ];
    for text in texts {
        let excerpt: String = text.chars().take(50).collect();
        futures_util::SinkExt::send(&mut socket.stream, Message::text(text)).await.unwrap();
        let told = soon(socket.text()).await;
        assert!(told.starts_with(r#"{"error":"#) && told.len() < 1_000, "{excerpt}: {told}");
    }
    // More than a message may have ends the connection, and no other.
    let mut other = ground.socket().await;
    let large = Message::text("x".repeat(2 * 1024 * 1024));
    let _ = futures_util::SinkExt::send(&mut other.stream, large).await;
    soon(async { while let Some(Ok(_)) = futures_util::StreamExt::next(&mut other.stream).await {} }).await;
    socket.settle().await;
    ground.end().await;
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_when_it_starts() {
    let bus = Bus::builder().start().unwrap();
    for spoil in [
        (|popsub| popsub.key = "short".into()) as fn(&mut whispeer_gateway::settings::PopSub),
        |popsub| popsub.replay = 1_000_000,
        |popsub| popsub.buffer = 0,
        |popsub| popsub.ack_timeout = Duration::ZERO,
        |popsub| popsub.users[0].password = "password".into(),
    ] {
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
        let mut popsub = popsub();
        spoil(&mut popsub);
        settings.popsub = Some(popsub);
        let refused = Gateway::start(&bus, settings).await.unwrap_err();
        assert!(matches!(refused, whispeer_gateway::GatewayError::Settings(_)), "{refused}");
    }
}
