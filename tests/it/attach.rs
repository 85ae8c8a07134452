//! Links that someone else accepted.

use whispeer::auth::Principal;
use whispeer::prelude::*;
use whispeer::transport::{Peer, memory_pair};
use whispeer_testkit::wait::{eventually, soon};

fn gateway() -> Peer {
    Peer { principal: Principal::Local, transport: "gateway" }
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
