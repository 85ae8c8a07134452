//! Sessions whose connection is gone: in nobody's way, and there for those who come back.

use std::time::Duration;

use whispeer::bus::Settings;
use whispeer::client::{ClientEvent, ServeOptions, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::proto::{Capabilities, Hello, Resume};
use whispeer::transport::{Link, connect};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait;

use crate::broken_links::{Ground, back, port};

/// No ghost goes by itself while a test runs.
const LONG: Duration = Duration::from_secs(3_600);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    wait::soon("what is next", future).await
}

fn patient() -> Settings {
    Settings { resume_limit: LONG, ..Settings::default() }
}

/// Breaks what goes over the relay, and waits until the bus knows.
async fn break_off(ground: &Ground) {
    ground.relay.refuse();
    let lost = || ground.bus.sessions().iter().any(|session| !session.connected);
    wait::eventually("the bus knows", lost).await;
}

/// A client that does not go by way of the relay.
async fn direct(ground: &Ground) -> Client {
    Client::connect(&format!("tcp://127.0.0.1:{}", port(&ground.bus))).await.unwrap()
}

async fn direct_link(ground: &Ground) -> Link {
    connect(&format!("tcp://127.0.0.1:{}", port(&ground.bus)).parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn who_comes_back_has_a_place_where_all_are_taken() {
    let ground = Ground::with(Settings { max_sessions: 1, ..patient() }).await;
    let client = ground.client().await;
    let mut events = client.events();
    let second = Client::connect(&format!("tcp://127.0.0.1:{}", port(&ground.bus))).await;
    assert!(matches!(second, Err(BusError::LimitReached { .. })), "{second:?}");
    ground.relay.cut();
    assert!(back(&mut events).await, "the session goes on");
    client.ping().await.unwrap();
}

#[tokio::test]
async fn a_server_that_was_started_again_need_not_wait_for_its_ghost() {
    let ground = Ground::with(patient()).await;
    let crashed = ground.client().await;
    let mut before = crashed.serve_bytes("work").await.unwrap();
    let successor = direct(&ground).await;
    let early = successor.serve_bytes("work").await;
    assert!(matches!(early, Err(BusError::AlreadyServed { .. })), "{early:?}");
    break_off(&ground).await;
    let mut serving = successor.serve_bytes("work").await.unwrap();
    let inside = ground.inside();
    let asked = tokio::spawn(async move { inside.request_bytes("work", "now".into()).await });
    let (_, id, payload) = soon(serving.recv()).await.unwrap();
    successor.respond_bytes(id, payload).await.unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap(), "now");
    // It was not gone after all, and is told.
    ground.relay.pass();
    assert!(soon(before.recv()).await.is_none());
    assert!(matches!(before.close_reason(), Some(BusError::TakenOver { .. })), "{:?}", before.close_reason());
}

#[tokio::test]
async fn servers_and_subscribers_of_a_group_take_the_place_of_one_that_is_gone() {
    let ground = Ground::with(patient()).await;
    let (gone, other) = (ground.client().await, direct(&ground).await);
    let shared = || ServeOptions::default().group("workers");
    let _gone_serving = gone.serve_bytes_with("work", shared()).await.unwrap();
    let mut serving = other.serve_bytes_with("work", shared()).await.unwrap();
    let shared = || SubscribeOptions::default().group("readers");
    let _gone_jobs = gone.subscribe_bytes_with("jobs", shared()).await.unwrap();
    let mut jobs = other.subscribe_bytes_with("jobs", shared()).await.unwrap();
    break_off(&ground).await;
    let inside = ground.inside();
    for number in 0..6 {
        let number = number.to_string();
        inside.publish_bytes("jobs", number.clone()).await.unwrap();
        assert_eq!(soon(jobs.recv()).await.unwrap().1, number);
        let answer = async {
            let (_, id, payload) = serving.recv().await.unwrap();
            other.respond_bytes(id, payload).await.unwrap();
        };
        let (answer, ()) =
            soon(async { tokio::join!(inside.request_bytes("work", "".into()), answer) }).await;
        answer.unwrap();
    }
}

#[tokio::test]
async fn what_waited_for_a_server_that_was_gone_goes_to_it_when_it_is_back() {
    let ground = Ground::with(patient()).await;
    let (server, inside) = (ground.client().await, ground.inside());
    let mut serving = server.serve_bytes("work").await.unwrap();
    let shared = SubscribeOptions::default().group("readers");
    let mut jobs = server.subscribe_bytes_with("jobs", shared).await.unwrap();
    break_off(&ground).await;
    inside.publish_bytes("jobs", "a job").await.unwrap();
    let asked = tokio::spawn(async move { inside.request_bytes("work", "later".into()).await });
    wait::eventually("the request waits", || ground.bus.stats().requests_waiting == 1).await;
    ground.relay.pass();
    let (_, id, payload) = soon(serving.recv()).await.unwrap();
    server.respond_bytes(id, payload).await.unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap(), "later");
    assert_eq!(soon(jobs.recv()).await.unwrap().1, "a job");
}

#[tokio::test]
async fn who_cannot_go_on_with_his_session_begins_another_in_its_place_at_once() {
    let ground = Ground::with(patient()).await;
    let hello = Hello { capabilities: Capabilities::RESUME, ..Hello::default() };
    let (_before, welcome) = RawPeer::greeted(direct_link(&ground).await, &hello).await.unwrap();
    wait::eventually("it has a session", || ground.bus.sessions().len() == 1).await;
    // It claims to have received more than it was sent.
    let resume = Resume { session: welcome.session, token: welcome.resume_token.clone(), received: 1 << 40 };
    let hello = Hello { resume: Some(resume), ..hello };
    let (_after, second) = RawPeer::greeted(direct_link(&ground).await, &hello).await.unwrap();
    assert!(!second.resumed && second.session != welcome.session);
    wait::eventually("the first is gone", || ground.bus.sessions().len() == 1).await;
    assert_eq!(ground.bus.sessions()[0].id, second.session);
}

#[tokio::test]
async fn a_client_comes_back_to_a_bus_that_drains_and_finishes_what_it_has_begun() {
    let ground = Ground::with(patient()).await;
    let (server, client) = (ground.client().await, ground.inside());
    let mut serving = server.serve_bytes("work").await.unwrap();
    let mut events = server.events();
    let asked = tokio::spawn(async move { client.request_bytes("work", "begun".into()).await });
    let (_, id, payload) = soon(serving.recv()).await.unwrap();
    let port = port(&ground.bus);
    let drain = tokio::spawn(ground.bus.drain(LONG));
    while !matches!(soon(events.recv()).await, Some(ClientEvent::Draining)) {}
    ground.relay.cut();
    assert!(back(&mut events).await, "the session goes on");
    let late = Client::connect(&format!("tcp://127.0.0.1:{port}")).await;
    assert!(matches!(late, Err(BusError::Draining { .. })), "{late:?}");
    server.respond_bytes(id, payload).await.unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap(), "begun");
    soon(drain).await.unwrap();
}
