//! Two gateways, each at a bus of its own, and the buses joined over NATS.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use whispeer::prelude::*;
use whispeer_cluster_nats::{Connection, LinkState, NatsCluster, NatsSettings};
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::wait::soon;

use super::{Place, Socket, publication};

/// How long the link may take to come back, or to notice that it is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node, and its connection to NATS.
struct Node {
    place: Place,
    connection: Connection,
}

impl Node {
    async fn new(server: &NatsServer) -> Self {
        let settings = NatsSettings::new(&server.url()).unwrap().prefix("turbine").unwrap();
        let cluster = NatsCluster::open(&settings).await.unwrap();
        let connection = cluster.connection().clone();
        let bus = Bus::builder().companion(|bus| cluster.run(bus)).start().unwrap();
        Self { place: Place::on(bus, |_| {}).await, connection }
    }

    async fn is(&self, wanted: impl FnMut(&LinkState) -> bool) {
        let mut state = self.connection.state();
        soon("the state of the link", state.wait_for(wanted)).await.unwrap();
    }

    async fn post(&self, text: &str) -> Value {
        self.place.publish("chat:lobby", &json!({"text": text})).await
    }
}

/// Waits until what is posted to this node reaches the page.
async fn reaches(node: &Node, page: &mut Socket, text: &str) {
    let began = Instant::now();
    let wanted = publication("chat:lobby", &json!({"text": text}));
    loop {
        assert!(began.elapsed() < PATIENCE, "{text} does not come");
        node.post(text).await;
        if timeout(Duration::from_millis(200), page.next()).await == Ok(wanted.clone()) {
            return;
        }
    }
}

/// Skips what is still on its way of what was posted to find out whether it comes.
async fn next_but(page: &mut Socket, skipped: &str) -> Value {
    let skipped = publication("chat:lobby", &json!({"text": skipped}));
    loop {
        let push = page.next().await;
        if push != skipped {
            return push;
        }
    }
}

#[tokio::test]
async fn a_page_at_one_node_gets_what_was_posted_to_the_other_and_without_nats_each_serves_its_own() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let (one, two) = (Node::new(&server).await, Node::new(&server).await);
        let (mut here, mut there) =
            (one.place.subscribed("chat:lobby").await, two.place.subscribed("chat:lobby").await);
        reaches(&one, &mut there, "first").await;
        reaches(&two, &mut here, "second").await;
        // It counts the sockets of its own node.
        assert_eq!(one.post("hello").await, json!({"ok": true, "delivered": 1}));
        let hello = publication("chat:lobby", &json!({"text": "hello"}));
        loop {
            match next_but(&mut here, "second").await {
                push if push == hello => break,
                push => assert_eq!(push, publication("chat:lobby", &json!({"text": "first"}))),
            }
        }
        loop {
            match next_but(&mut there, "first").await {
                push if push == hello => break,
                push => assert_eq!(push, publication("chat:lobby", &json!({"text": "second"}))),
            }
        }

        server.kill();
        for node in [&one, &two] {
            node.is(|state| !state.is_connected()).await;
        }
        for (node, page, text) in [(&one, &mut here, "alone here"), (&two, &mut there, "alone there")] {
            assert_eq!(node.post(text).await, json!({"ok": true, "delivered": 1}));
            // Nothing of the other node comes before it.
            assert_eq!(next_but(page, "second").await, publication("chat:lobby", &json!({"text": text})));
        }

        server.restart().await;
        for node in [&one, &two] {
            node.is(LinkState::is_connected).await;
        }
        reaches(&one, &mut there, "together").await;
        reaches(&two, &mut here, "again").await;
    }
}
