//! Delayed messages of a store that several buses have.

use std::time::Duration;

use tokio::time::timeout;
use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer_testkit::nats;

use super::buses::{LONG, bus, next, publish};

async fn publish_later(client: &Client, text: &'static str, delay: Duration) {
    let later = PublishOptions::default().quality(Quality::AtLeastOnce).deliver_in(delay);
    client.publish_bytes_with("orders/later", text, later).await.unwrap();
}

#[tokio::test]
async fn what_is_due_of_a_bus_that_is_gone_is_published_once_by_one_that_is_there() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let gone = bus(&server).await;
        let buses = [bus(&server).await, bus(&server).await];
        let clients = [0, 1].map(|at| Client::new_memory(&buses[at].connector()).unwrap());
        let publisher = Client::new_memory(&gone.connector()).unwrap();
        let mut live = Vec::new();
        let mut readers = Vec::new();
        let from_the_first = SubscribeOptions::default().start(Start::All);
        for client in &clients {
            live.push(client.subscribe_bytes("orders/later").await.unwrap());
            readers.push(client.subscribe_bytes_with("orders/**", from_the_first.clone()).await.unwrap());
        }
        publish_later(&publisher, "left behind", Duration::from_millis(300)).await;
        drop(publisher);
        gone.stop().await;
        for reader in &mut readers {
            assert_eq!(next(reader).await, (1, "left behind".to_owned()));
        }
        // These buses are not joined, so that one of them has told those who listen.
        let [one, other] = &mut live[..] else { panic!("there are two") };
        let (_, heard) = timeout(LONG, async {
            tokio::select! { heard = one.recv() => heard, heard = other.recv() => heard }
        })
        .await
        .expect("somebody hears it")
        .unwrap();
        assert_eq!(heard, "left behind");
        // Behind whatever might come twice.
        publish_later(&clients[0], "of one that is there", Duration::from_millis(1)).await;
        for reader in &mut readers {
            assert_eq!(next(reader).await, (2, "of one that is there".to_owned()));
        }
        publish(&clients[1], 3).await;
        for reader in &mut readers {
            assert_eq!(next(reader).await, (3, "3".to_owned()));
        }
        for bus in buses {
            bus.stop().await;
        }
    }
}

#[tokio::test]
async fn what_is_due_is_in_the_stream_once_where_all_buses_are_there() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsServer::builder().jetstream().start().await;
    let buses = [bus(&server).await, bus(&server).await, bus(&server).await];
    let clients = [0, 1, 2].map(|at| Client::new_memory(&buses[at].connector()).unwrap());
    let from_the_first = SubscribeOptions::default().start(Start::All);
    let mut reader = clients[0].subscribe_bytes_with("orders/**", from_the_first).await.unwrap();
    for number in 0..30_u64 {
        let client = &clients[usize::try_from(number % 3).unwrap()];
        publish_later(client, "due", Duration::from_millis(100 + number * 10)).await;
    }
    for number in 1..=30 {
        assert_eq!(next(&mut reader).await, (number, "due".to_owned()));
    }
    publish(&clients[1], 31).await;
    assert_eq!(next(&mut reader).await, (31, "31".to_owned()), "nothing comes twice");
    for bus in buses {
        bus.stop().await;
    }
}
