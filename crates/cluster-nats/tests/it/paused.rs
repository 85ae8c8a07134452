//! Requests wait for a moment while another bus ends its subscriptions, so that none is on its way to them.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use whispeer::client::ServeOptions;
use whispeer::prelude::*;
use whispeer_cluster_nats::limits;
use whispeer_testkit::nats::NatsServer;

use crate::ground::{Node, connect, server};
use crate::joined::{Joined, PREFIX, eventually, next_plain, settled, soon};

/// The id of a program that is a bus as far as others see.
const ID: &str = "00000000000000aa";

/// Has it seen as such.
async fn beats(nats: &async_nats::Client, prefix: &str) -> JoinSet<()> {
    let (nats, subject) = (nats.clone(), format!("{prefix}.bus.{ID}"));
    let mut beating = JoinSet::new();
    beating.spawn(async move {
        let mut due = tokio::time::interval(Duration::from_millis(200));
        for number in 1_u64.. {
            due.tick().await;
            let beat =
                format!(r#"{{"id":"{ID}","name":"other","epoch":1,"number":{number},"interval_ms":1000}}"#);
            nats.publish(subject.clone(), beat.into()).await.unwrap();
        }
    });
    beating
}

/// A bus that knows of a program that counts as another one, and serves `work`.
struct Asked {
    node: Node,
    plain: async_nats::Client,
    work: async_nats::Subscriber,
    _beating: JoinSet<()>,
}

impl Asked {
    async fn new(server: &NatsServer) -> Self {
        let node = Node::start(server, 1).await;
        let (plain, _) = connect(server).await;
        let work = plain.queue_subscribe("whispeer.r.work", "whispeer".into()).await.unwrap();
        settled(&plain).await;
        let beating = beats(&plain, "whispeer").await;
        node.knows(1).await;
        Self { node, plain, work, _beating: beating }
    }

    /// Asks it to send no requests; it answers with its id when it does not.
    async fn pause(&self) {
        let paused = soon("an answer", self.plain.request("whispeer.pause", ID.into())).await.unwrap();
        assert_eq!(paused.payload, "0000000000000001");
    }

    fn ask(&self) -> JoinHandle<BusResult<Bytes>> {
        let client = self.node.client.clone();
        tokio::spawn(async move { client.request_bytes("work", "question".into()).await })
    }

    async fn answer(&mut self) {
        let request = next_plain(&mut self.work).await;
        self.plain.publish(request.reply.unwrap(), "answer".into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_bus_sends_no_requests_until_another_one_has_ended_its_subscriptions() {
    let Some(server) = server().await else { return };
    let mut asked = Asked::new(&server).await;
    asked.pause().await;
    let answer = asked.ask();
    eventually("it is asked", || asked.node.bus.stats().requests_in_flight == 1).await;
    // What it says now comes behind all that it has sent.
    asked.pause().await;
    settled(&asked.plain).await;
    assert!(timeout(Duration::ZERO, asked.work.next()).await.is_err(), "it has been sent");
    asked.plain.publish("whispeer.pause", ID.into()).await.unwrap();
    asked.answer().await;
    assert_eq!(soon("the answer", answer).await.unwrap().unwrap(), "answer");
}

#[tokio::test]
async fn who_never_says_that_it_has_is_waited_for_within_a_bound() {
    let Some(server) = server().await else { return };
    let mut asked = Asked::new(&server).await;
    let begun = Instant::now();
    asked.pause().await;
    let answer = asked.ask();
    asked.answer().await;
    assert!(begun.elapsed() >= limits::PAUSE, "{:?}", begun.elapsed());
    assert_eq!(soon("the answer", answer).await.unwrap().unwrap(), "answer");
}

#[tokio::test]
async fn nobody_who_is_no_bus_has_others_wait() {
    let Some(server) = server().await else { return };
    let mut asked = Asked::new(&server).await;
    for stranger in ["00000000000000bb", "0000000000000001", "nobody"] {
        let inbox = asked.plain.new_inbox();
        asked.plain.publish_with_reply("whispeer.pause", inbox, stranger.into()).await.unwrap();
    }
    settled(&asked.plain).await;
    let begun = Instant::now();
    let answer = asked.ask();
    asked.answer().await;
    assert_eq!(soon("the answer", answer).await.unwrap().unwrap(), "answer");
    assert!(begun.elapsed() < limits::PAUSE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_bus_that_drains_serves_until_others_send_nothing_and_has_them_go_on_then() {
    let Some(server) = server().await else { return };
    let (plain, _) = connect(&server).await;
    let mut pauses = plain.subscribe(format!("{PREFIX}.pause")).await.unwrap();
    settled(&plain).await;
    let mut leaves = Joined::new(&server.url()).await;
    let _beating = beats(&plain, PREFIX).await;
    eventually("the other", || leaves.counter.members().list().len() == 1).await;
    // One that stays when its bus drains, until it has answered.
    let group = ServeOptions::default().group("workers");
    let mut serving = leaves.client.serve_bytes_with("work", group).await.unwrap();
    let client = leaves.client.clone();
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        while let Some((_, id, payload)) = serving.recv().await {
            let _ = client.respond_bytes(id, payload).await;
        }
    });
    let ask = |payload: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("Whispeer-Origin", format!("{ID} 1"));
        let (plain, reply) = (plain.clone(), format!("{PREFIX}.reply.{ID}.7"));
        async move {
            let subject = format!("{PREFIX}.r.work");
            plain.publish_with_reply_and_headers(subject, reply, headers, payload.into()).await.unwrap();
        }
    };
    let mut replies = plain.subscribe(format!("{PREFIX}.reply.{ID}.*")).await.unwrap();
    let subscribed = async {
        loop {
            ask("ready?").await;
            let Message { status, .. } = next_plain(&mut replies).await;
            if status.is_none() {
                return;
            }
        }
    };
    soon("a server", subscribed).await;

    let bus = std::mem::replace(&mut leaves.bus, Bus::builder().start().unwrap());
    let draining = tokio::spawn(async move { bus.drain(Duration::from_secs(20)).await });
    let pause = next_plain(&mut pauses).await;
    // What was on its way is taken, or it is said that it was not.
    ask("late").await;
    let said = next_plain(&mut replies).await;
    assert!(said.status.is_none(), "nobody was subscribed: {said:?}");
    plain.publish(pause.reply.clone().unwrap(), ID.into()).await.unwrap();
    let go_on = next_plain(&mut pauses).await;
    assert_eq!((go_on.reply.is_none(), &go_on.payload), (true, &pause.payload));
    ask("too late").await;
    assert!(next_plain(&mut replies).await.status.is_some(), "there is nobody any more");
    soon("the end of the drain", draining).await.unwrap();
    answering.shutdown().await;
}
