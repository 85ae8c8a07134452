//! Buses that drain, and servers of NATS that are about to end, while others ask: no request fails, and each is served once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use whispeer::client::ServeOptions;
use whispeer::limits::COMPANION_GRACE;
use whispeer::prelude::*;
use whispeer::proto::Refusal;
use whispeer_testkit::nats::{self, NatsBuilder};

use crate::ground::{Node, connect, server};
use crate::joined::{Joined, eventually, soon};

/// Requests that are under way at the same time.
const ASKERS: usize = 16;

/// What is asked to find out whether somebody serves.
const PROBE: &str = "probe";

/// What flows while something ends.
struct Load {
    asking: JoinSet<()>,
    stops: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<BusError>>>,
    served: Arc<Mutex<HashSet<Bytes>>>,
}

impl Load {
    fn new() -> Self {
        Self {
            asking: JoinSet::new(),
            stops: Arc::default(),
            answered: Arc::default(),
            failed: Arc::default(),
            served: Arc::default(),
        }
    }

    /// Has this client, of a bus where nobody serves, ask without a pause, each time for something new.
    async fn start(&mut self, client: &Client) {
        reaches(client).await;
        for asker in 0..ASKERS {
            let (stops, answered) = (Arc::clone(&self.stops), Arc::clone(&self.answered));
            let (failed, client) = (Arc::clone(&self.failed), client.clone());
            self.asking.spawn(async move {
                for number in 0_u64.. {
                    if stops.load(Ordering::Relaxed) {
                        return;
                    }
                    let payload = format!("{asker}.{number}");
                    match client.request_bytes("work", payload.clone().into()).await {
                        Ok(answer) => assert_eq!(answer, payload),
                        Err(error) => failed.lock().unwrap().push(error),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }

    /// Serves as one of a group, as several buses may do, and notes what was served.
    async fn serve(&self, client: &Client) -> Server {
        let (served, client) = (Arc::clone(&self.served), client.clone());
        let group = ServeOptions::default().group("workers");
        let mut serving = client.serve_bytes_with("work", group).await.unwrap();
        let ends = Arc::new(Notify::new());
        let mut server = Server { ends: Arc::clone(&ends), task: JoinSet::new() };
        server.task.spawn(async move {
            loop {
                tokio::select! {
                    () = ends.notified() => serving.drain().await.unwrap(),
                    request = serving.recv() => {
                        let Some((_, id, payload)) = request else { return };
                        let is_new = payload == PROBE || served.lock().unwrap().insert(payload.clone());
                        assert!(is_new, "served twice: {payload:?}");
                        client.respond_bytes(id, payload).await.unwrap();
                    }
                }
            }
        });
        server
    }

    /// Waits until more has been answered.
    async fn goes_on(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + 10 * ASKERS as u64;
        eventually("answers", || self.answered.load(Ordering::Relaxed) >= enough).await;
    }

    async fn end(mut self) {
        self.stops.store(true, Ordering::Relaxed);
        while let Some(ended) = soon("the last answers", self.asking.join_next()).await {
            ended.unwrap();
        }
        let failed = self.failed.lock().unwrap();
        let answered = self.answered.load(Ordering::Relaxed);
        assert!(
            failed.is_empty(),
            "of {answered} requests {} failed, the first: {:?}",
            failed.len(),
            failed[0]
        );
        assert_eq!(self.served.lock().unwrap().len() as u64, answered);
    }
}

/// One of those who answer, until it is dropped.
struct Server {
    ends: Arc<Notify>,
    task: JoinSet<()>,
}

impl Server {
    /// Takes nothing new, and answers what it was asked.
    async fn drain(mut self) {
        self.ends.notify_one();
        soon("the last answer", self.task.join_next()).await.unwrap().unwrap();
    }
}

/// Waits until a request of this bus reaches a server.
async fn reaches(client: &Client) {
    let asked = async {
        while client.request_bytes("work", PROBE.into()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a server at another bus", asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_a_bus_that_drains_are_answered_there_or_elsewhere() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let asker = Joined::new(&server.url()).await;
        let mut serving = Joined::new(&server.url()).await;
        let mut load = Load::new();
        let mut handling = load.serve(&serving.client).await;
        load.start(&asker.client).await;
        for _ in 0..5 {
            let next = Joined::new(&server.url()).await;
            let next_handling = load.serve(&next.client).await;
            load.goes_on().await;
            soon("the end of the drain", serving.bus.drain(Duration::from_secs(20))).await;
            load.goes_on().await;
            drop(handling);
            (serving, handling) = (next, next_handling);
        }
        load.end().await;
        drop(handling);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_in_order_fails_no_request_of_another_bus() {
    let Some(server) = server().await else { return };
    let asker = Joined::new(&server.url()).await;
    let (one, two) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut load = Load::new();
    let _stays = load.serve(&two.client).await;
    load.start(&asker.client).await;
    for _ in 0..20 {
        let leaves = load.serve(&one.client).await;
        load.goes_on().await;
        leaves.drain().await;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_says_that_it_drains_answers_what_it_was_asked_and_ends_at_once_then() {
    let Some(server) = server().await else { return };
    let (asker, asked) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut serving = asked.client.serve_bytes("work").await.unwrap();
    reaches_slowly(&asker.client, &asked.client, &mut serving).await;
    let (answer, ()) = tokio::join!(asker.client.request_bytes("work", "slow".into()), async {
        let (_, id, _) = soon("the request", serving.recv()).await.unwrap();
        let draining = asked.bus.drain(Duration::from_secs(30));
        let answering = async {
            let members = || asker.counter.members().list();
            eventually("the news of the drain", || members().iter().any(|member| member.draining)).await;
            asked.client.respond_bytes(id, "done".into()).await.unwrap();
            Instant::now()
        };
        let ((), answered) = tokio::join!(draining, answering);
        let took = answered.elapsed();
        assert!(took < COMPANION_GRACE, "the link was cut off after {took:?}");
    });
    assert_eq!(answer.unwrap(), "done");
    eventually("the end", || asker.counter.members().list().is_empty()).await;
}

/// As [`reaches`], where requests are answered here.
async fn reaches_slowly(asker: &Client, asked: &Client, serving: &mut whispeer::client::Serving<Bytes>) {
    tokio::select! {
        () = reaches(asker) => {}
        () = async {
            while let Some((_, id, payload)) = serving.recv().await {
                // Who asked may have given up.
                let _ = asked.respond_bytes(id, payload).await;
            }
        } => {}
    }
}

/// What a bus says of a request that none of its servers has had, as it drains.
fn not_taken() -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert("Whispeer-Origin", "00000000000000aa 1");
    headers.insert("Whispeer-Reply", "not-taken");
    (headers, Refusal::from(&BusError::Draining { what: "the bus".into() }).encode().into())
}

#[tokio::test]
async fn what_another_bus_has_not_taken_is_asked_here_where_it_is_served_by_now() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let mut asked = plain.queue_subscribe("whispeer.r.work", "whispeer".into()).await.unwrap();
    crate::joined::settled(&plain).await;
    let refuse = async {
        let request = soon("the request", asked.next()).await.unwrap();
        let handling = node.client.handle_bytes("work", |payload| async move { Ok(payload) }).await.unwrap();
        let (headers, why) = not_taken();
        plain.publish_with_headers(request.reply.unwrap(), headers, why).await.unwrap();
        handling
    };
    let (answer, _handling) = tokio::join!(node.client.request_bytes("work", "moved".into()), refuse);
    assert_eq!(answer.unwrap(), "moved");
    eventually("nothing is left", || node.bus.stats().requests_in_flight == 0).await;
}

#[tokio::test]
async fn what_no_bus_takes_fails_with_the_reason_after_a_while() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let mut asked = plain.queue_subscribe("whispeer.r.work", "whispeer".into()).await.unwrap();
    crate::joined::settled(&plain).await;
    let refuse = async {
        let mut numbers = HashSet::new();
        while let Some(request) = asked.next().await {
            let reply = request.reply.unwrap();
            assert!(numbers.insert(reply.to_string()), "each time by another number");
            let (headers, why) = not_taken();
            plain.publish_with_headers(reply, headers, why).await.unwrap();
        }
    };
    let answer = tokio::select! {
        () = refuse => unreachable!("the subscription lasts"),
        answer = soon("the end", node.client.request_bytes("work", "".into())) => answer,
    };
    assert!(matches!(answer, Err(BusError::Draining { .. })), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn buses_leave_a_server_of_nats_that_is_about_to_end_without_a_failed_request() {
    if !nats::available() {
        return;
    }
    let grace = "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"5s\"";
    let cluster = NatsBuilder::newest().config(grace).start_cluster(2).await;
    let urls = cluster.urls();
    let (asker, asked) = (Joined::new(&urls[0]).await, Joined::new(&urls[1]).await);
    let stays = Joined::new(&urls[0]).await;
    let mut load = Load::new();
    let _handlings = [load.serve(&asked.client).await, load.serve(&stays.client).await];
    load.start(&asker.client).await;
    let node =
        |joined: &Joined| joined.connection.state().borrow().server().map(|server| server.name.clone());
    load.goes_on().await;
    // The server of the one that serves.
    cluster[1].lame_duck();
    eventually("the move", || node(&asked).as_deref() == Some("n1")).await;
    load.goes_on().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_bus_alone_serves_is_answered_also_while_that_leaves_its_server_of_nats() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let grace = "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"5s\"";
        let cluster = version.config(grace).start_cluster(2).await;
        let urls = cluster.urls();
        let (asker, asked) = (Joined::new(&urls[0]).await, Joined::new(&urls[1]).await);
        eventually("the other", || asked.counter.members().list().len() == 1).await;
        let mut load = Load::new();
        let _handling = load.serve(&asked.client).await;
        load.start(&asker.client).await;
        let node =
            |joined: &Joined| joined.connection.state().borrow().server().map(|server| server.name.clone());
        load.goes_on().await;
        cluster[1].lame_duck();
        eventually("the move", || node(&asked).as_deref() == Some("n1")).await;
        load.goes_on().await;
        load.end().await;
    }
}
