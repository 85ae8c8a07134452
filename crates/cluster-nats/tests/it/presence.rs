//! Who is there: each bus tells of its own clients, and what those leave behind reaches all.

use std::sync::Arc;

use whispeer::auth::Principal;
use whispeer::client::{PresenceEvent, PublishOptions};
use whispeer::prelude::*;
use whispeer::transport::Peer;
use whispeer_testkit::nats::{self, NatsServer};

use crate::joined::{Joined, next, soon};

#[tokio::test]
async fn presence_is_of_the_clients_of_one_bus_and_tells_nothing_of_the_link() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut here = a.client.watch_presence("chat/**").await.unwrap();
    let mut there = b.client.watch_presence("chat/**").await.unwrap();
    let guest = Client::new_memory(&b.bus.connector()).unwrap();
    let lobby = guest.subscribe_bytes("chat/lobby").await.unwrap();
    b.wants(1, &nats).await;
    match soon("the news at his bus", there.recv()).await {
        Some(PresenceEvent::Join(member)) => assert_eq!(member.pattern, "chat/lobby"),
        other => panic!("{other:?}"),
    }
    let members = b.client.presence("chat/lobby").await.unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    assert!(a.client.presence("chat/**").await.unwrap().is_empty());
    // What the other bus tells first is of its own.
    let own = a.client.subscribe_bytes("chat/own").await.unwrap();
    match soon("the news here", here.recv()).await {
        Some(PresenceEvent::Join(member)) => assert_eq!(member.pattern, "chat/own"),
        other => panic!("{other:?}"),
    }
    drop((lobby, own));
}

#[tokio::test]
async fn the_will_of_a_client_that_is_gone_reaches_the_clients_of_all_buses() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut gone = a.client.subscribe_bytes("workers/*").await.unwrap();
    a.wants(1, &nats).await;
    let somebody = Principal::Token { issuer: "shop".into(), subject: "worker".into() };
    let link = b.bus.view().connect(Peer::new(somebody, "memory")).unwrap();
    let sender = Arc::clone(&link.sender);
    let worker = Client::builder().no_reconnect().connect_link(link).unwrap();
    worker.set_will_bytes("workers/7", "gone", PublishOptions::default()).await.unwrap();
    // It is gone without a word.
    sender.close();
    assert_eq!(next(&mut gone).await, ("workers/7".into(), "gone".into()));
}
