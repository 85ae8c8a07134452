//! Buses with clients, joined over a server.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};
use whispeer::bus::BusBuilder;
use whispeer::client::{Event, Subscription};
use whispeer::prelude::*;
use whispeer_cluster_nats::{Connection, LinkState, NatsCluster, NatsCounter, NatsSettings};

/// The prefix of the tests' subjects.
pub(crate) const PREFIX: &str = "shop.buses";

/// How long something may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A bus that is joined with others, and a client of it.
pub(crate) struct Joined {
    pub(crate) bus: BusHandle,
    pub(crate) client: Client,
    pub(crate) counter: NatsCounter,
    pub(crate) connection: Connection,
}

impl Joined {
    pub(crate) async fn new(url: &str) -> Self {
        Self::built(url, Bus::builder()).await
    }

    pub(crate) async fn built(url: &str, bus: BusBuilder) -> Self {
        let joined = Self::begun(url, bus).await;
        let mut state = joined.connection.state();
        soon("the connection", state.wait_for(LinkState::is_connected)).await.unwrap();
        joined
    }

    /// One that sends batches.
    pub(crate) async fn batching(url: &str) -> Self {
        let settings = NatsSettings::new(url).unwrap().prefix(PREFIX).unwrap().batches(true);
        let joined = Self::with(&settings, Bus::builder()).await;
        let mut state = joined.connection.state();
        soon("the connection", state.wait_for(LinkState::is_connected)).await.unwrap();
        joined
    }

    /// One that need not find NATS.
    pub(crate) async fn begun(url: &str, bus: BusBuilder) -> Self {
        Self::with(&NatsSettings::new(url).unwrap().prefix(PREFIX).unwrap(), bus).await
    }

    async fn with(settings: &NatsSettings, bus: BusBuilder) -> Self {
        let cluster = NatsCluster::open(settings).await.unwrap();
        let (counter, connection) = (cluster.counter(), cluster.connection().clone());
        let bus = bus.companion(|bus| cluster.run(bus)).start().unwrap();
        let client = Client::new_memory(&bus.connector()).unwrap();
        // From here on what is published here is taken.
        eventually("the link's session", || bus.stats().subscriptions > 0).await;
        Self { bus, client, counter, connection }
    }

    /// Its id among the buses.
    pub(crate) fn id(&self) -> u64 {
        self.counter.members().own()
    }

    /// Waits until it knows so many others.
    pub(crate) async fn knows(&self, others: usize) {
        eventually("the other buses are known", || self.counter.members().list().len() == others).await;
    }

    /// Waits until so many patterns are subscribed to at NATS, and its servers know.
    pub(crate) async fn wants(&self, patterns: u64, nats: &async_nats::Client) {
        eventually("the interest", || self.counter.counts().patterns == patterns).await;
        settled(&self.connection.client()).await;
        settled(nats).await;
    }

    /// The link ends with the bus.
    pub(crate) async fn stop(self) {
        soon("the end of the bus", self.bus.stop()).await;
        let mut state = self.connection.state();
        soon("the end of the link", state.wait_for(|state| *state == LinkState::Closed)).await.unwrap();
    }
}

/// What this client has sent to its server so far, that has dealt with: it says that nobody answers what is asked behind it.
pub(crate) async fn settled(nats: &async_nats::Client) {
    let asked = soon("an answer of NATS", nats.request("nobody.is.here", "".into())).await;
    assert!(asked.is_err(), "{asked:?}");
}

pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let looked = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// The next message of a subscription, as text, with its topic.
pub(crate) async fn next(subscription: &mut Subscription<bytes::Bytes>) -> (String, String) {
    let (topic, payload) = soon("a message", subscription.recv()).await.expect("the bus runs");
    (topic.to_string(), String::from_utf8(payload.to_vec()).unwrap())
}

/// How many messages are missing before the next message, and that.
pub(crate) async fn next_with_gap(subscription: &mut Subscription<bytes::Bytes>) -> (u64, String) {
    let mut missing = 0;
    loop {
        match soon("an event", subscription.next_event()).await.expect("the bus runs") {
            Event::Gap { count, .. } => missing += count,
            Event::Message(message) => return (missing, String::from_utf8(message.value.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// Nothing comes for a while.
pub(crate) async fn silent(subscription: &mut Subscription<bytes::Bytes>) {
    let event = timeout(Duration::from_millis(200), subscription.next_event()).await;
    assert!(event.is_err(), "{event:?}");
}

/// The next message of a subscriber of NATS.
pub(crate) async fn next_plain(subscriber: &mut async_nats::Subscriber) -> async_nats::Message {
    soon("a message of NATS", subscriber.next()).await.expect("the connection is there")
}
