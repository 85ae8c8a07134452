//! What others in the bus's process have of it.

use std::sync::Arc;
use std::time::Duration;

use whispeer::auth::Principal;
use whispeer::bus::{BusView, Streams};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Store};
use whispeer::transport::Peer;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

fn alice() -> Peer {
    Peer::new(Principal::Token { issuer: "turbine".into(), subject: "alice".into() }, "turbine")
}

fn connect(view: &BusView, peer: Peer) -> Client {
    Client::builder().name("a browser").no_reconnect().connect_link(view.connect(peer).unwrap()).unwrap()
}

fn closed<T: std::fmt::Debug>(result: BusResult<T>) {
    assert!(matches!(result, Err(BusError::Closed { .. })), "{result:?}");
}

#[tokio::test]
async fn a_view_attaches_peers_that_are_seen_by_their_name_and_transport() {
    let bus = Bus::builder().start().unwrap();
    let view = bus.view();
    let client = connect(&view.clone(), alice().granted(["reader"]));
    let _subscription = client.subscribe_bytes("news/*").await.unwrap();
    let _serving = client.serve_bytes("clock").await.unwrap();
    let sessions = view.sessions().unwrap();
    let [session] = &sessions[..] else { panic!("{sessions:?}") };
    assert_eq!((session.transport.as_str(), session.name.as_str()), ("turbine", "a browser"));
    assert_eq!(session.principal, alice().principal);
    assert_eq!(view.subscriptions().unwrap()[0].pattern, "news/*");
    assert_eq!(view.served().unwrap()[0].topic, "clock");
    assert_eq!(view.stats().unwrap().sessions, 1);
    assert_eq!(bus.sessions().len(), 1);
}

#[tokio::test]
async fn a_view_does_not_keep_a_bus_alive_and_says_that_it_is_gone() {
    for by_drop in [false, true] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let streams = Streams::open(Arc::clone(&store), []).await.unwrap();
        let bus = Bus::builder().streams(streams).start().unwrap();
        let view = bus.view();
        let client = connect(&view, alice());
        client.ping().await.unwrap();
        let draining = view.draining();
        assert!(!view.is_draining());
        match by_drop {
            true => drop(bus),
            false => soon("the end of the bus", bus.stop()).await,
        }
        soon("the news of it", draining).await;
        soon("the same, as it is so already", view.draining()).await;
        assert!(view.is_draining());
        soon("the end of the client", client.closed()).await;
        closed(view.connect(alice()));
        closed(view.stats());
        closed(view.sessions());
        closed(view.subscriptions());
        closed(view.served());
        eventually("the bus has let go of its store", || Arc::strong_count(&store) == 1).await;
    }
}

#[tokio::test]
async fn whoever_has_a_view_learns_that_the_bus_drains_while_the_bus_still_finishes() {
    let bus = Bus::builder().start().unwrap();
    let view = bus.view();
    let client = connect(&view, alice());
    let mut serving = client.serve_bytes("clock").await.unwrap();
    let asker = connect(&view, alice());
    let asked = tokio::spawn(async move { asker.request_bytes("clock", "".into()).await });
    let (_, id, _) = soon("the request", serving.recv()).await.unwrap();
    let draining = view.draining();
    let mut draining = std::pin::pin!(draining);
    assert!(now_or_never(draining.as_mut()).await.is_none());
    let drained = tokio::spawn(bus.drain(Duration::from_secs(60)));
    soon("the news of it", draining).await;
    // What is in flight is finished, nothing new begins, and what there is can be seen.
    assert!(view.is_draining() && view.stats().unwrap().draining);
    let refused = connect(&view, alice()).ping().await;
    assert!(matches!(refused, Err(BusError::Draining { .. })), "{refused:?}");
    client.respond_bytes(id, "noon".into()).await.unwrap();
    assert_eq!(soon("the answer", asked).await.unwrap().unwrap(), "noon");
    soon("the end of the drain", drained).await.unwrap();
    closed(view.stats());
}

#[tokio::test]
async fn more_links_than_the_bus_takes_in_a_turn_are_refused_and_not_kept() {
    let bus = Bus::builder().start().unwrap();
    let view = bus.view();
    // Nobody else runs on this thread until something is waited for.
    let mut links = Vec::new();
    let refused = loop {
        match view.connect(alice()) {
            Ok(link) => links.push(link),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, BusError::Overloaded { .. }), "{refused}");
    let clients: Vec<_> =
        links.into_iter().map(|link| Client::builder().connect_link(link).unwrap()).collect();
    for client in &clients {
        client.ping().await.unwrap();
    }
    connect(&view, alice()).ping().await.unwrap();
    drop(clients);
    eventually("all have gone", || bus.stats().sessions == 0).await;
}
