//! A link to NATS: opened, lost, and back.

use std::time::Duration;

use crate::joined::settled;
use futures_util::StreamExt;
use tokio::time::Instant;
use whispeer_cluster_nats::{Connection, LinkState, NatsSettings, limits};
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::wait::{PATIENCE, soon};

use crate::written::Written;

/// Waits until the link is as `wanted`.
pub(crate) async fn becomes(connection: &Connection, wanted: impl FnMut(&LinkState) -> bool) -> LinkState {
    let mut state = connection.state();
    match tokio::time::timeout(PATIENCE, state.wait_for(wanted)).await {
        Ok(state) => state.unwrap().clone(),
        Err(_) => panic!("the link never became so; it is {:?}", connection.state().borrow()),
    }
}

async fn opened(server: &NatsServer) -> Connection {
    let connection = Connection::open(&NatsSettings::new(&server.url()).unwrap()).await.unwrap();
    becomes(&connection, LinkState::is_connected).await;
    connection
}

#[tokio::test]
async fn a_link_is_opened_without_nats_and_joins_when_that_appears_and_says_each_once() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let (written, _guard) = Written::begin();
        let expected = version.version();
        let server = version.start().await;
        server.kill();
        let settings = NatsSettings::new(&server.url()).unwrap();
        let connection = Connection::open(&settings).await.unwrap();
        assert!(matches!(*connection.state().borrow(), LinkState::Connecting { error: None, .. }));
        // It is tried more than once.
        becomes(&connection, |state| state.error().is_some_and(|error| error.contains("refused"))).await;
        tokio::time::sleep(4 * limits::LINK_PAUSE_FIRST).await;
        assert_eq!(written.lines("WARN").len(), 1, "{:?}", written.lines(""));
        assert!(written.lines("WARN")[0].contains(&server.url()), "{:?}", written.lines(""));

        server.restart().await;
        let state = becomes(&connection, LinkState::is_connected).await;
        assert_eq!(state.server().unwrap().version, expected);
        assert_eq!(*connection.disturbances().borrow(), 0, "nothing was missed that was there before");
        assert_eq!(connection.counts().connects, 1);
        assert_eq!(written.lines("NATS").len(), 2, "{:?}", written.lines(""));
    }
}

#[tokio::test]
async fn a_link_whose_server_starts_again_comes_back_with_its_subscriptions_and_tells_of_the_disturbance() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let (written, _guard) = Written::begin();
        let server = version.start().await;
        let (connection, other) = (opened(&server).await, opened(&server).await);
        let mut subscription = connection.client().subscribe("news").await.unwrap();
        let mut disturbances = connection.disturbances();

        server.kill();
        becomes(&connection, |state| matches!(state, LinkState::Away { .. })).await;
        becomes(&other, |state| matches!(state, LinkState::Away { .. })).await;
        assert_eq!(*disturbances.borrow(), 0, "nothing can be asked for before NATS is back");
        server.restart().await;
        let first = *soon("the disturbance", disturbances.wait_for(|count| *count > 0)).await.unwrap();
        assert_eq!(first, 1);
        let state = becomes(&connection, LinkState::is_connected).await;
        assert!(!state.server().unwrap().id.is_empty());
        settled(&connection.client()).await;
        becomes(&other, LinkState::is_connected).await;
        let before = connection.counts().in_messages;
        other.client().publish("news", "hello".into()).await.unwrap();
        assert_eq!(soon("the message", subscription.next()).await.unwrap().payload, "hello");

        let counts = connection.counts();
        assert_eq!((counts.connects, counts.disconnects), (2, 1));
        assert_eq!((counts.in_messages - before, other.counts().out_messages), (1, 1));
        // One for each of the two, whatever was tried between.
        assert_eq!(written.lines("NATS is away").len(), 2, "{:?}", written.lines(""));
        assert_eq!(written.lines("WARN").len(), 2, "{:?}", written.lines(""));
    }
}

#[tokio::test]
async fn a_server_that_stands_still_is_found_out_within_three_intervals() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let connection = opened(&server).await;
    let start = Instant::now();
    server.pause();
    becomes(&connection, |state| matches!(state, LinkState::Away { .. })).await;
    let took = start.elapsed();
    assert!(took < 3 * limits::LINK_PING + Duration::from_secs(2), "{took:?}");
    server.resume();
    becomes(&connection, LinkState::is_connected).await;
    assert_eq!(*connection.disturbances().borrow(), 1);
}

#[tokio::test]
async fn messages_that_are_dropped_here_and_servers_that_are_about_to_end_are_disturbances() {
    if !nats::available() {
        return;
    }
    let (written, _guard) = Written::begin();
    let server = NatsServer::start().await;
    let (connection, other) = (opened(&server).await, opened(&server).await);
    let mut disturbances = connection.disturbances();
    let _unread = connection.client().subscribe("flood").await.unwrap();
    settled(&connection.client()).await;
    for _ in 0..limits::LINK_SUBSCRIPTION_MESSAGES + 100 {
        other.client().publish("flood", "".into()).await.unwrap();
    }
    soon("the disturbance", disturbances.wait_for(|count| *count > 0)).await.unwrap();
    assert!(connection.counts().slow_consumer_events > 0);
    assert_eq!(written.lines("not taken fast enough").len(), 1);

    let before = *other.disturbances().borrow();
    server.lame_duck();
    soon("the news", other.disturbances().wait_for(|count| *count > before)).await.unwrap();
    assert!(other.counts().lame_ducks > 0);
}

#[tokio::test]
async fn closing_hands_over_what_was_given_and_ends_whether_nats_is_there_or_not() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let (connection, other) = (opened(&server).await, opened(&server).await);
    let mut subscription = other.client().subscribe("news").await.unwrap();
    settled(&other.client()).await;
    for _ in 0..1000 {
        connection.client().publish("news", "hello".into()).await.unwrap();
    }
    soon("the end", connection.close()).await;
    assert_eq!(*connection.state().borrow(), LinkState::Closed);
    for _ in 0..1000 {
        soon("a message", subscription.next()).await.unwrap();
    }

    server.kill();
    becomes(&other, |state| matches!(state, LinkState::Away { .. })).await;
    soon("the end without NATS", other.close()).await;
    assert_eq!(*other.state().borrow(), LinkState::Closed);
    // It does not come back.
    server.restart().await;
    let third = opened(&server).await;
    assert!(third.state().borrow().is_connected());
    assert_eq!(*other.state().borrow(), LinkState::Closed);
}
