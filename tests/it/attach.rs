//! Links that someone else accepted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use whispeer::auth::Principal;
use whispeer::client::SubscribeOptions;
use whispeer::prelude::*;
use whispeer::transport::{Incoming, LinkReceiver, Peer, memory_pair};
use whispeer_testkit::ledger::nothing_left;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::Ground;

fn gateway() -> Peer {
    Peer::new(Principal::Local, "gateway")
}

#[tokio::test]
async fn an_attached_link_is_a_session_like_any_other() {
    let bus = Bus::builder().start().unwrap();
    let (bus_end, client_end) = memory_pair();
    bus.attach(bus_end, gateway()).unwrap();
    let attached = Client::builder().name("from outside").connect_link(client_end).unwrap();
    let mut subscription = attached.subscribe_bytes("news").await.unwrap();
    let local = Client::new_memory(&bus.connector()).unwrap();
    assert_eq!(local.publish_bytes("news", "hello").await.unwrap(), 1);
    assert_eq!(subscription.recv().await.unwrap().1, "hello");
    let session = bus.sessions().into_iter().find(|session| session.transport == "gateway").unwrap();
    assert_eq!(session.name, "from outside");
    drop((attached, subscription));
    eventually("its session has ended", || bus.stats().sessions == 1).await;
}

#[tokio::test]
async fn a_bus_that_has_stopped_takes_no_link() {
    let bus = Bus::builder().start().unwrap();
    let connector = bus.connector();
    let (bus_end, _client_end) = memory_pair();
    bus.attach(bus_end, gateway()).unwrap();
    soon("the end of the bus", bus.stop()).await;
    let refused = connector.connect().map(drop);
    assert!(matches!(refused, Err(BusError::Connect { .. })), "{refused:?}");
}

/// A transport with a fault: once it is armed, the next poll for input panics.
struct Faulty {
    inner: Box<dyn LinkReceiver>,
    armed: Arc<AtomicBool>,
}

impl LinkReceiver for Faulty {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<io::Result<usize>> {
        assert!(!self.armed.load(Ordering::Relaxed), "the transport has a fault");
        self.inner.poll_receive(context, incoming)
    }
}

#[tokio::test]
async fn a_session_whose_task_panics_is_taken_back_and_its_peers_are_told() {
    let ground = Ground::new(Bus::builder());
    let mut bystander = ground.bystander().await;
    let other = ground.client();
    let mut asked_of_other = other.serve_bytes("other").await.unwrap();
    bystander.goes_on().await;
    let before = ground.bus.stats();

    let armed = Arc::new(AtomicBool::new(false));
    let (mut bus_end, client_end) = memory_pair();
    bus_end.receiver = Box::new(Faulty { inner: bus_end.receiver, armed: Arc::clone(&armed) });
    ground.bus.attach(bus_end, gateway()).unwrap();
    let doomed = Client::builder().connect_link(client_end).unwrap();

    // It has something of each kind: subscriptions with parked messages, alone and in a group, servings,
    // and requests on either side.
    let narrow = || SubscribeOptions::default().window(1, 1024);
    let mut unread = doomed.subscribe_bytes_with("news", narrow()).await.unwrap();
    let _shared = doomed.subscribe_bytes_with("jobs", narrow().group("workers")).await.unwrap();
    let mut serving = doomed.serve_bytes("doomed").await.unwrap();
    for topic in ["news", "jobs"] {
        for _ in 0..3 {
            assert_eq!(other.publish_bytes(topic, "x").await.unwrap(), 1);
        }
    }
    let (doomed_asks, other_asks) = (doomed.clone(), other.clone());
    let by_doomed = tokio::spawn(async move { doomed_asks.request_bytes("other", "x".into()).await });
    let of_doomed = tokio::spawn(async move { other_asks.request_bytes("doomed", "x".into()).await });
    let (_, id, _) = soon("the request of the doomed", asked_of_other.recv()).await.unwrap();
    let _unanswered = soon("the request to the doomed", serving.recv()).await.unwrap();
    assert_eq!(ground.bus.stats().requests_in_flight, 2);

    armed.store(true, Ordering::Relaxed);
    doomed.publish_bytes("wakes/its/task", "").await.unwrap_err();

    let answer = soon("the answer", of_doomed).await.unwrap();
    assert!(matches!(answer, Err(BusError::ServerGone { .. })), "{answer:?}");
    soon("the cancellation", id.cancelled()).await;
    soon("the end of the client", doomed.closed()).await;
    soon("the end of its request", by_doomed).await.unwrap().unwrap_err();
    assert_eq!(soon("what was delivered", unread.recv()).await.unwrap().1, "x");
    assert!(soon("the end of the subscription", unread.recv()).await.is_none());

    let after = ground.bus.stats();
    assert_eq!(after.subscriptions, before.subscriptions);
    assert_eq!((after.served_topics, after.sessions), (before.served_topics, before.sessions));
    assert_eq!(after.requests_in_flight, 0);
    for topic in ["news", "jobs"] {
        assert_eq!(other.publish_bytes(topic, "to nobody").await.unwrap(), 0);
    }
    let refused = other.request_bytes("doomed", "x".into()).await;
    assert!(matches!(refused, Err(BusError::NoServer { .. })), "{refused:?}");

    bystander.was_unharmed().await;
    drop(asked_of_other);
    other.close().await.unwrap();
    nothing_left(&ground.bus).await;
    ground.end().await;
}
