//! Streams that JetStream keeps, of buses that are processes of their own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::client::{PublishOptions, Quality, Reconnect, Start, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer_testkit::nats::{self, NatsBuilder, NatsServer};

use crate::support::{LIMIT, Place, Running};

/// A bus with a stream that all share, and one of its own.
struct Bus {
    place: Place,
    running: Running,
}

impl Bus {
    fn start(server: &NatsServer) -> Self {
        let place = Place::new();
        let text = format!(
            "listen = [\"unix:bus\"]\n[nats]\nurl = \"{}\"\n[store]\nfolder = \"kept\"\n\
             [streams.orders]\npatterns = [\"orders/**\"]\nstorage = \"jetstream\"\n\
             [streams.bills]\npatterns = [\"bills/**\"]\n",
            server.url()
        );
        place.write("whispeer.toml", &text);
        let running = Self::run(&place);
        Self { place, running }
    }

    fn run(place: &Place) -> Running {
        let mut running = place.start(&["serve", "--config", "whispeer.toml", "-v"]);
        running.wait_for("ready on");
        running
    }

    /// Kills it without a word, and starts it again.
    fn kill(&mut self) {
        self.running.kill();
        self.running = Self::run(&self.place);
    }

    async fn client(&self) -> Client {
        let address = format!("unix:{}", self.place.path("bus").display());
        Client::builder().reconnect(Reconnect::default()).connect(&address).await.unwrap()
    }

    fn info(&self) -> String {
        self.place.run(&["--addr", "unix:bus", "info"]).success()
    }
}

async fn publish(client: &Client, topic: &str, text: &str) -> BusResult<()> {
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    client.publish_bytes_with(topic, text.to_owned(), kept).await.map(drop)
}

/// Publishes as often as it is refused.
async fn publish_once_it_can(client: &Client, topic: &str, text: &str) {
    let begun = Instant::now();
    while let Err(error) = publish(client, topic, text).await {
        assert!(matches!(error, BusError::NotStored { .. }) && begun.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn from_the_first(client: &Client, pattern: &str) -> Subscription<Bytes> {
    let options = SubscribeOptions::default().start(Start::All);
    client.subscribe_bytes_with(pattern, options).await.unwrap()
}

/// The payloads that come next.
async fn next(subscription: &mut Subscription<Bytes>, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        let (_, payload) = timeout(LIMIT, subscription.recv()).await.expect("a message comes").unwrap();
        payloads.push(String::from_utf8(payload.to_vec()).unwrap());
    }
    payloads
}

#[tokio::test]
async fn buses_share_a_stream_in_jetstream_beside_those_of_their_own_and_lose_nothing_when_they_are_killed() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().jetstream().start().await;
    let (mut one, mut other) = (Bus::start(&server), Bus::start(&server));
    let info = one.info();
    let row = |name: &str| info.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(row("orders ").contains("jetstream") && row("bills ").contains("sqlite"), "{info}");

    let publisher = one.client().await;
    publish(&publisher, "orders/1", "first").await.unwrap();
    publish(&publisher, "bills/1", "of one").await.unwrap();
    let elsewhere = other.client().await;
    let mut live = elsewhere.subscribe_bytes("orders/**").await.unwrap();
    let mut readers =
        [from_the_first(&publisher, "orders/**").await, from_the_first(&elsewhere, "orders/**").await];
    for reader in &mut readers {
        assert_eq!(next(reader, 1).await, ["first"]);
    }
    publish(&publisher, "orders/2", "second").await.unwrap();
    for reader in &mut readers {
        assert_eq!(
            next(reader, 1).await,
            ["second"],
            "what comes is read where it was published, and elsewhere"
        );
    }
    // Live, once the buses know of each other.
    let heard = async {
        let mut number = 2;
        loop {
            number += 1;
            publish(&publisher, "orders/3", &format!("{number}")).await.unwrap();
            if let Ok(message) = timeout(Duration::from_millis(200), live.recv()).await {
                return (number, message.unwrap());
            }
        }
    };
    let (number, _) = timeout(LIMIT, heard).await.expect("what is published at one is heard at the other");

    one.kill();
    publish_once_it_can(&elsewhere, "orders/4", "last").await;
    other.kill();
    let mut expected = vec!["first".to_owned(), "second".to_owned()];
    expected.extend((3..=number).map(|number: i32| number.to_string()));
    expected.push("last".to_owned());
    for bus in [&one, &other] {
        let client = bus.client().await;
        let mut reader = from_the_first(&client, "orders/**").await;
        assert_eq!(next(&mut reader, expected.len()).await, expected);
    }
    let mut bills = from_the_first(&one.client().await, "bills/**").await;
    assert_eq!(next(&mut bills, 1).await, ["of one"]);
    for bus in [one, other] {
        bus.running.signal("TERM");
        let ended = bus.running.end();
        assert!(ended.code() == 0 && !ended.errors.contains("error"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_bus_starts_without_nats_and_refuses_what_jetstream_is_to_keep_until_it_is_there() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().jetstream().start().await;
    server.kill();
    let mut bus = Bus::start(&server);
    let client = bus.client().await;
    let refused = publish(&client, "orders/1", "too early").await;
    let Err(BusError::NotStored { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("the stream \"orders\" is not open yet"), "{reason}");
    let options = SubscribeOptions::default().start(Start::All);
    let refused = client.subscribe_bytes_with("orders/**", options).await;
    assert!(matches!(refused, Err(BusError::NotStored { .. })), "{refused:?}");
    publish(&client, "bills/1", "of its own").await.unwrap();
    let info = bus.info();
    assert!(info.contains("not open yet"), "{info}");
    // The link begins when the bus is ready, and may be slow to find out.
    if !bus.running.has_said("NATS cannot be joined") {
        bus.running.wait_for("NATS cannot be joined");
    }

    server.restart().await;
    bus.running.wait_for("a stream is open");
    publish_once_it_can(&client, "orders/1", "in time").await;
    let mut reader = from_the_first(&client, "orders/**").await;
    assert_eq!(next(&mut reader, 1).await, ["in time"]);
    bus.running.signal("TERM");
    let ended = bus.running.end();
    assert_eq!(ended.code(), 0);
    assert_eq!(ended.errors.matches("streams are not open").count(), 1, "{ended:?}");
    assert_eq!(ended.errors.matches("NATS cannot be joined").count(), 1, "{ended:?}");
}

#[tokio::test]
async fn members_of_a_consumer_at_another_bus_go_on_within_the_lease_where_theirs_is_killed() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().jetstream().start().await;
    let (mut one, other) = (Bus::start(&server), Bus::start(&server));
    let clients = [one.client().await, other.client().await];
    for number in 1..=4 {
        publish(&clients[0], "orders/1", &number.to_string()).await.unwrap();
    }
    let billing =
        || SubscribeOptions::default().quality(Quality::AtLeastOnce).start(Start::All).durable("billing");
    let mut of_one = clients[0].consume_bytes("orders/**", billing()).await.unwrap();
    for number in 1..=2_u64 {
        let delivery = timeout(LIMIT, of_one.recv()).await.unwrap().unwrap();
        assert_eq!(delivery.receipt.sequence(), number);
        delivery.ack().await.unwrap();
    }
    let mut of_other = clients[1].consume_bytes("orders/**", billing()).await.unwrap();
    let killed = Instant::now();
    one.running.kill();
    for number in 3..=4_u64 {
        let delivery = timeout(LIMIT, of_other.recv()).await.expect("it goes on").unwrap();
        assert_eq!(delivery.receipt.sequence(), number, "what was acknowledged does not come again");
        delivery.ack().await.unwrap();
    }
    let lease = whispeer_cluster_nats::limits::JETSTREAM_LEASE;
    assert!(killed.elapsed() < lease + Duration::from_secs(10), "{:?}", killed.elapsed());
}

#[test]
fn what_jetstream_needs_is_missed_where_the_file_is_read() {
    let place = Place::new();
    let stream = "[streams.orders]\npatterns = [\"orders/**\"]\nstorage = \"jetstream\"\n";
    place.write("whispeer.toml", stream);
    for command in ["serve", "config"] {
        let refused = place.run(&[command, "bus", "--config", "whispeer.toml"]);
        assert_eq!(refused.code(), 2, "{refused:?}");
        assert!(refused.errors.contains("whispeer.toml:3: streams.orders.storage"), "{refused:?}");
        assert!(refused.errors.contains("--nats URL"), "{refused:?}");
    }
    let shown = place.run(&["config", "bus", "--config", "whispeer.toml", "--nats", "nats://n1"]).success();
    let told = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(told("streams.orders.storage").contains("\"jetstream\""), "{shown}");
    assert!(told("nats.replicas").contains('1'), "{shown}");
    let refused = place.run(&["config", "bus", "--nats", "nats://n1", "--nats-replicas", "2"]);
    assert!(refused.errors.contains("nats.replicas is 2; it can be 1, 3 or 5"), "{refused:?}");
}
