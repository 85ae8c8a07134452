//! Requests that are served at another bus.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use whispeer::client::{RequestOptions, ServeOptions};
use whispeer::prelude::*;
use whispeer_testkit::nats;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::{cluster, connect, pair, server};

#[tokio::test]
async fn a_request_finds_its_server_at_another_bus_whatever_the_version_of_nats() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let (one, two) = pair(&server).await;
        let greet = |name: bytes::Bytes| async move { Ok([b"hello ", &name[..]].concat().into()) };
        let _serving = two.client.handle_bytes("greet", greet).await.unwrap();
        assert_eq!(one.ask("greet", "alice").await.unwrap(), "hello alice");
    }
}

#[tokio::test]
async fn what_belongs_to_a_request_reaches_its_server_as_it_is() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let mut serving = two.client.serve_bytes("shop/v1.2/über").await.unwrap();
    let headers =
        [("traceparent", "00-aa-bb-01"), ("b", "1"), ("a", "2"), ("b", "3"), ("spaced name", "ü\r\n")];
    let mut options = RequestOptions::default().timeout(Duration::from_secs(5));
    for (name, value) in headers {
        options = options.header(name, value);
    }
    let asked = one.ask_with("shop/v1.2/über", "\u{0}bytes\r\n", options);
    let served = async {
        let request = soon("the request", serving.next_request()).await.unwrap();
        assert_eq!(request.topic.as_str(), "shop/v1.2/über");
        assert_eq!(request.value, "\u{0}bytes\r\n");
        let came: Vec<(&str, &str)> = request.headers.iter().collect();
        assert_eq!(came, headers);
        assert_eq!(request.origin, Some(1));
        let left = request.id.time_left().unwrap();
        assert!(left <= Duration::from_secs(5) && left > Duration::from_secs(3), "{left:?}");
        two.client.respond_bytes(request.id, "".into()).await.unwrap();
    };
    assert_eq!(tokio::join!(asked, served).0.unwrap(), "");
}

#[tokio::test]
async fn an_error_of_the_server_is_its_requesters_error() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let fails = |_| async { Err(ErrorReply::new("division", "not possible: ∞")) };
    let _serving = two.client.handle_bytes("divide", fails).await.unwrap();
    match one.ask("divide", "1/0").await {
        Err(BusError::Replied(reply)) => {
            assert_eq!((reply.code(), reply.message()), ("division", "not possible: ∞"));
        }
        other => panic!("{other:?}"),
    }
    let mut drops = two.client.serve_bytes("drops").await.unwrap();
    let (answer, ()) = tokio::join!(one.ask("drops", ""), async { drop(drops.recv().await) });
    assert!(matches!(&answer, Err(BusError::Abandoned { topic }) if topic == "drops"), "{answer:?}");
}

#[tokio::test]
async fn what_nobody_serves_anywhere_fails_at_once() {
    let Some(server) = server().await else { return };
    let (one, _two) = pair(&server).await;
    let asked = Instant::now();
    let answer = one.client.request_bytes("nobody", "".into()).await;
    assert!(matches!(&answer, Err(BusError::NoServer { topic }) if topic == "nobody"), "{answer:?}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn servers_here_are_asked_first_and_nothing_goes_over_nats_then() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let _far = two.client.handle_bytes("clock", |_| async { Ok("far".into()) }).await.unwrap();
    assert_eq!(one.ask("clock", "").await.unwrap(), "far");
    let (plain, _connection) = connect(&server).await;
    let mut all = plain.subscribe("whispeer.r.>").await.unwrap();
    crate::joined::settled(&plain).await;
    let _near = one.client.handle_bytes("clock", |_| async { Ok("near".into()) }).await.unwrap();
    for _ in 0..10 {
        assert_eq!(one.client.request_bytes("clock", "here".into()).await.unwrap(), "near");
    }
    // What went out before it would be seen before it.
    let options = RequestOptions::default().timeout(Duration::from_millis(100));
    let nobody = one.client.request_bytes_with("nobody", "end".into(), options).await;
    assert!(
        matches!(nobody, Err(BusError::TimedOut { .. })),
        "whoever listens is taken for a server: {nobody:?}"
    );
    assert_eq!(soon("the end", all.next()).await.unwrap().payload, "end");
}

#[tokio::test]
async fn a_request_from_elsewhere_does_not_go_out_again() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let serving = two.client.handle_bytes("brief", |_| async { Ok("there".into()) }).await.unwrap();
    assert_eq!(one.ask("brief", "").await.unwrap(), "there");
    let (plain, _connection) = connect(&server).await;
    let mut all = plain.subscribe("whispeer.r.>").await.unwrap();
    crate::joined::settled(&plain).await;

    // Most of these are asked of the second bus while its server is leaving, which has nobody for them then.
    let mut asked = JoinSet::new();
    for _ in 0..50 {
        let client = one.client.clone();
        // Whoever listens is taken for a server, so that nobody is told at once that there is none.
        let options = RequestOptions::default().timeout(Duration::from_millis(500));
        asked.spawn(async move { client.request_bytes_with("brief", "once".into(), options).await });
    }
    serving.drain().await;
    for answer in soon("all answers", asked.join_all()).await {
        assert!(
            matches!(&answer, Ok(_) | Err(BusError::NoServer { .. } | BusError::TimedOut { .. })),
            "{answer:?}"
        );
    }
    plain.publish("whispeer.r.end", "end".into()).await.unwrap();
    let mut times = 0;
    loop {
        let message = soon("what NATS has", all.next()).await.unwrap();
        if message.payload == "end" {
            break;
        }
        let origin = message.headers.unwrap().get("Whispeer-Origin").unwrap().to_string();
        assert!(origin.starts_with("0000000000000001 "), "{origin}");
        times += 1;
    }
    assert!(times >= 50, "{times}: the first bus asks again for what the second has not taken");
}

#[tokio::test]
async fn the_deadline_holds_across_buses_and_the_server_sees_who_has_given_up() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let mut serving = two.client.serve_bytes("slow").await.unwrap();
    let options = RequestOptions::default().timeout(Duration::from_millis(300));
    let work = async {
        let request = soon("the request", serving.next_request()).await.unwrap();
        assert!(request.id.time_left().unwrap() <= Duration::from_millis(300));
        soon("the cancellation", request.id.cancelled()).await;
    };
    let (answer, ()) = tokio::join!(one.ask_with("slow", "", options), work);
    assert!(matches!(answer, Err(BusError::TimedOut { .. })), "{answer:?}");
    eventually("nothing is left", || two.bus.stats().requests_in_flight == 0).await;
}

#[tokio::test]
async fn a_request_that_is_dropped_is_cancelled_at_its_server() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let mut serving = two.client.serve_bytes("slow").await.unwrap();
    let id = tokio::select! {
        answer = one.ask("slow", "") => panic!("{answer:?}"),
        request = serving.recv() => request.unwrap().1,
    };
    soon("the cancellation", id.cancelled()).await;
    let in_flight = || one.bus.stats().requests_in_flight + two.bus.stats().requests_in_flight;
    eventually("nothing is left", || in_flight() == 0).await;
}

#[tokio::test]
async fn a_group_shares_its_work_over_all_buses() {
    let Some(server) = server().await else { return };
    let nodes = cluster(&server, 3).await;
    let mut serving = JoinSet::new();
    for (name, node) in [("two", &nodes[1]), ("three", &nodes[2])] {
        let options = ServeOptions::default().group("workers");
        let mut requests = node.client.serve_bytes_with("work", options).await.unwrap();
        let client = node.client.clone();
        serving.spawn(async move {
            while let Some((_, id, _)) = requests.recv().await {
                client.respond_bytes(id, name.into()).await.unwrap();
            }
        });
    }
    let mut by = HashMap::new();
    let both = async {
        while by.len() < 2 {
            *by.entry(nodes[0].ask("work", "").await.unwrap()).or_insert(0) += 1;
        }
    };
    soon("work for both", both).await;
}

#[tokio::test]
async fn what_is_larger_than_nats_takes_is_an_error_of_its_own_either_way() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let large = bytes::Bytes::from(vec![7_u8; 2 * 1024 * 1024]);
    let answer = large.clone();
    let respond = move |_| std::future::ready(Ok(answer.clone()));
    let _serving = two.client.handle_bytes("large", respond).await.unwrap();
    let refused = one.ask("large", "small").await;
    assert!(matches!(refused, Err(BusError::FrameTooLarge { .. })), "{refused:?}");
    let refused = one.client.request_bytes("large", large).await;
    assert!(matches!(refused, Err(BusError::FrameTooLarge { .. })), "{refused:?}");
    let _small = two.client.handle_bytes("small", |_| async { Ok("fine".into()) }).await.unwrap();
    assert_eq!(one.ask("small", "").await.unwrap(), "fine", "the connection has lasted");
}

#[tokio::test]
async fn many_requests_at_once_all_get_their_own_answers() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let _serving = two.client.handle_bytes("echo", |payload| async move { Ok(payload) }).await.unwrap();
    one.ask("echo", "first").await.unwrap();
    let mut asked = JoinSet::new();
    for number in 0..2_000_u32 {
        let client = one.client.clone();
        asked.spawn(async move {
            let payload = bytes::Bytes::from(number.to_le_bytes().to_vec());
            assert_eq!(client.request_bytes("echo", payload.clone()).await.unwrap(), payload);
        });
    }
    soon("all answers", asked.join_all()).await;
}
