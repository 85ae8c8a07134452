//! A link that its bus ends begins anew, and all are told what they have missed.

use std::time::Duration;

use tokio::time::timeout;
use whispeer::auth::Principal;
use whispeer::client::{Event, ServeOptions, Subscription};
use whispeer::prelude::*;
use whispeer::transport::Peer;
use whispeer_testkit::nats::{self, NatsBuilder};

use crate::joined::{Joined, eventually, soon};

/// What one bus sends to one that is subscribed at another, and what comes of it.
struct Flow<'a> {
    from: &'a Joined,
    topic: &'static str,
    subscription: Subscription<bytes::Bytes>,
    sent: u64,
    came: u64,
    missing: u64,
}

impl Flow<'_> {
    async fn send(&mut self) {
        self.sent += 1;
        self.from.client.publish_bytes(self.topic, self.sent.to_string()).await.unwrap();
    }

    /// Takes what comes within a while; returns the number of a message.
    async fn take(&mut self) -> Option<u64> {
        let event = timeout(Duration::from_millis(50), self.subscription.next_event()).await.ok()?;
        match event.expect("the bus runs") {
            Event::Gap { count, .. } => self.missing += count,
            Event::Message(message) => {
                self.came += 1;
                return str::from_utf8(&message.value).unwrap().parse().ok();
            }
            other => panic!("{other:?}"),
        }
        None
    }

    /// Sends until it comes, and takes what is told until nothing is unknown.
    async fn go_on(&mut self) {
        let going_on = async {
            let mut came = None;
            while came != Some(self.sent) {
                self.send().await;
                came = self.take().await;
                while came.is_some_and(|number| number < self.sent) {
                    came = self.take().await;
                }
            }
            while self.came + self.missing < self.sent {
                self.take().await;
            }
        };
        soon("all that was sent", going_on).await;
    }
}

#[tokio::test]
async fn what_passes_while_the_bus_has_cut_its_link_off_is_told_on_both_sides() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let here = a.client.subscribe_bytes("from/b").await.unwrap();
    let there = b.client.subscribe_bytes("from/a").await.unwrap();
    a.wants(1, &nats).await;
    b.wants(1, &nats).await;
    let flow = |from, topic, subscription| Flow { from, topic, subscription, sent: 0, came: 0, missing: 0 };
    let (mut to_a, mut to_b) = (flow(&b, "from/b", here), flow(&a, "from/a", there));
    // They are older than what is lost later.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    to_a.go_on().await;
    to_b.go_on().await;
    assert_eq!((to_a.missing, to_b.missing), (0, 0));

    // Somebody takes the place that the link has at its bus, so that it ends.
    let intruder = a.bus.view().connect(Peer::new(Principal::Bus, "intruder")).unwrap();
    let intruder = Client::builder().no_reconnect().connect_link(intruder).unwrap();
    let serving =
        intruder.serve_bytes_with("$bus/uplink", ServeOptions::default().take_over()).await.unwrap();
    eventually("the end of the link", || a.bus.stats().subscriptions == 1).await;
    for _ in 0..5 {
        to_a.send().await;
        to_b.send().await;
    }
    drop(serving);
    intruder.close().await.unwrap();
    to_a.go_on().await;
    assert_eq!(to_a.came + to_a.missing, to_a.sent, "each is one or the other");
    to_b.go_on().await;
    assert!(to_a.missing > 0 && to_b.missing > 0);
    drop((to_a, to_b));
    for joined in [a, b] {
        joined.stop().await;
    }
}
