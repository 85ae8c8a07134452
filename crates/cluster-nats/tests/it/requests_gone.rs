//! Requests whose server's bus, requester's bus or connection goes away: they end long before their deadline.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use whispeer::client::{RequestId, Serving};
use whispeer::prelude::*;
use whispeer_cluster_nats::limits;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::{Node, pair, server};

/// Three heartbeats and what a busy machine takes.
const KEEP_ALIVE: Duration = Duration::from_secs(6);

/// A request to `slow` that this server has.
async fn asked(node: &Node, serving: &mut Serving<Bytes>) -> (JoinHandle<BusResult<Bytes>>, RequestId) {
    let client = node.client.clone();
    let asked = tokio::spawn(async move {
        loop {
            match client.request_bytes("slow", "".into()).await {
                Err(BusError::NoServer { .. }) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    });
    (asked, soon("the request", serving.recv()).await.unwrap().1)
}

fn gone(answer: &BusResult<Bytes>) {
    assert!(matches!(answer, Err(BusError::ServerGone { topic }) if topic == "slow"), "{answer:?}");
}

#[tokio::test]
async fn a_server_whose_bus_is_killed_is_gone_within_the_keep_alive() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let mut serving = two.client.serve_bytes("slow").await.unwrap();
    // One that its bus has said to have, and one of which nobody can know.
    let (first, _first) = asked(&one, &mut serving).await;
    tokio::time::sleep(2 * limits::ACCEPT_AFTER).await;
    let (second, _second) = asked(&one, &mut serving).await;
    let killed = Instant::now();
    two.kill().await;
    gone(&soon("an answer", first).await.unwrap());
    gone(&soon("an answer", second).await.unwrap());
    assert!(killed.elapsed() < KEEP_ALIVE, "{:?}", killed.elapsed());
    eventually("nothing is left", || one.bus.stats().requests_in_flight == 0).await;
}

#[tokio::test]
async fn a_server_that_leaves_its_bus_is_gone_at_once() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let (end, client_end) = whispeer::transport::memory_pair();
    two.bus
        .view()
        .attach(end, whispeer::transport::Peer::new(whispeer::auth::Principal::Local, "test"))
        .unwrap();
    let other = Client::builder().no_reconnect().connect_link(client_end).unwrap();
    let mut serving = other.serve_bytes("slow").await.unwrap();
    let (answer, id) = asked(&one, &mut serving).await;
    let left = Instant::now();
    // It closes with a request that it has not answered.
    let closing = tokio::spawn(async move { other.close().await });
    std::mem::forget(id);
    gone(&soon("an answer", answer).await.unwrap());
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
    drop(closing.await);
}

#[tokio::test]
async fn what_a_killed_bus_has_asked_is_cancelled_at_its_server() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let mut serving = two.client.serve_bytes("slow").await.unwrap();
    let (_answer, id) = asked(&one, &mut serving).await;
    let killed = Instant::now();
    one.kill().await;
    soon("the cancellation", id.cancelled()).await;
    assert!(killed.elapsed() < KEEP_ALIVE, "{:?}", killed.elapsed());
}

#[tokio::test]
async fn without_nats_what_was_under_way_fails_at_once_and_all_is_well_when_it_is_back() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let mut serving = two.client.serve_bytes("slow").await.unwrap();
    let (answer, id) = asked(&one, &mut serving).await;
    let killed = Instant::now();
    server.kill();
    gone(&soon("an answer", answer).await.unwrap());
    soon("the cancellation", id.cancelled()).await;
    assert!(killed.elapsed() < KEEP_ALIVE, "{:?}", killed.elapsed());

    let alone = one.client.request_bytes("slow", "".into()).await;
    assert!(matches!(alone, Err(BusError::NoServer { .. })), "{alone:?}");
    let _near = one.client.handle_bytes("near", |_| async { Ok("here".into()) }).await.unwrap();
    assert_eq!(one.client.request_bytes("near", "".into()).await.unwrap(), "here", "its own are served");

    server.restart().await;
    let _again = two.client.handle_bytes("again", |_| async { Ok("back".into()) }).await.unwrap();
    assert_eq!(one.ask("again", "").await.unwrap(), "back");
    assert_eq!(two.ask("near", "").await.unwrap(), "here", "what was served meanwhile is known");
}

#[tokio::test]
async fn a_bus_that_leaves_says_so_and_what_it_had_is_given_up_at_once() {
    let Some(server) = server().await else { return };
    let (one, two) = pair(&server).await;
    let mut serving = two.client.serve_bytes("slow").await.unwrap();
    let (answer, _id) = asked(&one, &mut serving).await;
    tokio::time::sleep(2 * limits::ACCEPT_AFTER).await;
    let left = Instant::now();
    two.leave().await;
    gone(&soon("an answer", answer).await.unwrap());
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
}
