//! A store that is away when the bus starts holds up what is its alone, and is there for all when it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use whispeer::Address;
use whispeer::bus::{BusHandle, Settings, Streams};
use whispeer::client::{ClientEvent, PublishOptions, Quality, Reconnect, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, NewMessage, Store, StoreError, StreamSettings};
use whispeer_testkit::relay::Relay;
use whispeer_testkit::wait::soon;

use crate::tampered_store::TamperedStore;

/// Long enough for whatever is on its way to come. Time is paused.
const LONG: Duration = Duration::from_secs(60);

fn orders() -> StreamSettings {
    StreamSettings::new(Name::new("orders").unwrap(), vec![TopicPattern::new("orders/**").unwrap()])
}

/// A store that says this as long as it is away.
fn store(error: StoreError) -> (Arc<dyn Store>, Arc<AtomicBool>) {
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let store = TamperedStore::new(MemoryStore::new())
        .on_open(move || is_away.load(Ordering::Relaxed).then(|| error.clone()));
    (Arc::new(store), away)
}

fn busy() -> StoreError {
    StoreError::Busy { what: "nobody answers".into() }
}

async fn publish(client: &Client, quality: Quality) -> BusResult<usize> {
    let kept = PublishOptions::default().quality(quality);
    client.publish_bytes_with("orders/7", "an order", kept).await
}

fn all() -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All)
}

#[tokio::test(start_paused = true)]
async fn what_is_published_to_a_stream_that_is_not_open_is_refused_until_it_is() {
    let (store, away) = store(busy());
    let streams = Streams::open_within(store, [orders()], Duration::from_secs(2)).await.unwrap();
    let bus = Bus::builder().streams(streams.clone()).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    for quality in [Quality::AtMostOnce, Quality::AtLeastOnce] {
        let refused = publish(&client, quality).await;
        let Err(BusError::NotStored { reason }) = refused else { panic!("{refused:?}") };
        assert!(
            reason.contains("\"orders\" is not open yet") && reason.contains("nobody answers"),
            "{reason}"
        );
    }
    let delayed = PublishOptions::default().quality(Quality::AtLeastOnce).deliver_in(LONG);
    let refused = client.publish_bytes_with("orders/7", "later", delayed).await;
    assert!(matches!(refused, Err(BusError::NotStored { .. })), "{refused:?}");
    for options in [all(), all().quality(Quality::AtLeastOnce).durable("billing")] {
        let refused = client.subscribe_bytes_with("orders/**", options).await;
        assert!(matches!(refused, Err(BusError::NotStored { .. })), "{refused:?}");
    }
    let told = streams.states().await.remove(0).problem.expect("it is told that it is not open");
    assert!(told.contains("nobody answers"), "{told}");
    // All else goes on.
    let mut others = client.subscribe_bytes("bills").await.unwrap();
    client.publish_bytes("bills", "a bill").await.unwrap();
    assert_eq!(timeout(LONG, others.recv()).await.unwrap().unwrap().1, "a bill");

    away.store(false, Ordering::Relaxed);
    let opened = async {
        while publish(&client, Quality::AtLeastOnce).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LONG, opened).await.expect("it is open");
    let mut reader = client.subscribe_bytes_with("orders/**", all()).await.unwrap();
    assert_eq!(timeout(LONG, reader.recv()).await.unwrap().unwrap().1, "an order");
    assert_eq!(streams.states().await[0].problem, None);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_opened_late_has_what_was_in_it() {
    let (store, away) = store(busy());
    away.store(false, Ordering::Relaxed);
    store.open(orders()).await.unwrap();
    let topic = TopicPattern::new("orders/1").unwrap();
    let (fields, payload) = ("".into(), "old".into());
    let message = NewMessage { topic, fields, payload, time: 1, expires: None, id: None };
    store.commit(Name::new("orders").unwrap(), vec![whispeer::store::Change::Append(message)]).await.unwrap();
    away.store(true, Ordering::Relaxed);
    let streams = Streams::open_within(Arc::clone(&store), [orders()], LONG).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    away.store(false, Ordering::Relaxed);
    let opened = async {
        loop {
            match client.subscribe_bytes_with("orders/**", all()).await {
                Ok(reader) => return reader,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let mut reader = timeout(LONG, opened).await.expect("it is open");
    assert_eq!(timeout(LONG, reader.recv()).await.unwrap().unwrap().1, "old");
    publish(&client, Quality::AtLeastOnce).await.unwrap();
    assert_eq!(timeout(LONG, reader.recv()).await.unwrap().unwrap().1, "an order");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_by_itself_is_told_at_once() {
    let (store, _away) = store(StoreError::Newer { place: "the journal".into() });
    let refused = Streams::open_within(store, [orders()], LONG).await;
    let told = refused.expect_err("it does not pass").to_string();
    assert!(told.contains("later release"), "{told}");
}

/// A client that comes back at once, and a bus that ends and begins again while its store is away.
struct Restarted {
    relay: Relay,
    address: Address,
    store: Arc<dyn Store>,
    away: Arc<AtomicBool>,
    bus: Option<BusHandle>,
    client: Client,
}

impl Restarted {
    async fn new(give_up_after: Option<Duration>) -> Self {
        let (store, away) = store(busy());
        away.store(false, Ordering::Relaxed);
        let bus = bus(&store, &"tcp://127.0.0.1:0".parse().unwrap()).await;
        let address = bus.local_addrs()[0].clone();
        let Address::Tcp(endpoint) = &address else { panic!("{address}") };
        let relay = Relay::to(endpoint.port()).await.unwrap();
        let mut reconnect = Reconnect::default();
        (reconnect.first_delay, reconnect.max_delay) = (Duration::from_millis(1), Duration::from_millis(20));
        reconnect.give_up_after = give_up_after;
        let through = format!("tcp://127.0.0.1:{}", relay.port());
        let client = Client::builder().reconnect(reconnect).connect(&through).await.unwrap();
        Self { relay, address, store, away, bus: Some(bus), client }
    }

    /// The bus ends, and another one begins in its place, whose store is away: it has refused what its client asked for again.
    async fn restart(&mut self) {
        self.bus.take().expect("there is one").stop().await;
        self.away.store(true, Ordering::Relaxed);
        self.bus = Some(bus(&self.store, &self.address).await);
        let refused = async { while !matches!(self.publish().await, Err(BusError::NotStored { .. })) {} };
        soon("a refusal of the new bus", refused).await;
    }

    async fn publish(&self) -> BusResult<usize> {
        tokio::task::yield_now().await;
        publish(&self.client, Quality::AtLeastOnce).await
    }

    /// The store is there, and a message is kept.
    async fn goes_on(&self) {
        self.away.store(false, Ordering::Relaxed);
        soon("a message that is kept", async { while self.publish().await.is_err() {} }).await;
    }
}

async fn bus(store: &Arc<dyn Store>, address: &Address) -> BusHandle {
    let streams =
        Streams::open_within(Arc::clone(store), [orders()], Duration::from_millis(1)).await.unwrap();
    // Nothing is done because it is time for a sign of life.
    let settings = Settings { keep_alive: Duration::from_secs(600), ..Settings::default() };
    Bus::builder().settings(settings).streams(streams).listen(address).start().unwrap()
}

#[tokio::test]
async fn who_has_read_goes_on_where_the_next_bus_has_its_store_later() {
    let mut restarted = Restarted::new(None).await;
    let client = restarted.client.clone();
    let acknowledged = || all().quality(Quality::AtLeastOnce);
    let mut reader = client.subscribe_bytes_with("orders/**", all()).await.unwrap();
    let mut consumers = [
        client.consume_bytes("orders/**", acknowledged()).await.unwrap(),
        client.consume_bytes("orders/**", acknowledged().durable("billing")).await.unwrap(),
    ];
    for round in 1..4 {
        restarted.goes_on().await;
        assert_eq!(soon("a message", reader.recv()).await.unwrap().1, "an order");
        for consumer in &mut consumers {
            let message = soon("a message", consumer.recv()).await.unwrap();
            assert_eq!(message.receipt.sequence(), round);
            soon("its acknowledgement", message.ack()).await.unwrap();
        }
        restarted.restart().await;
    }
    assert_eq!((reader.gaps(), reader.close_reason().is_none()), (0, true));
    restarted.bus.unwrap().stop().await;
}

#[tokio::test]
async fn who_wants_to_read_no_more_does_not_wait_for_the_store() {
    let mut restarted = Restarted::new(None).await;
    let one = restarted.client.subscribe_bytes_with("orders/**", all()).await.unwrap();
    let mut other = restarted.client.subscribe_bytes_with("orders/**", all()).await.unwrap();
    restarted.restart().await;
    one.unsubscribe();
    soon("the answer", other.drain()).await.unwrap();
    assert!(soon("the end", other.recv()).await.is_none());
    let reason = other.close_reason();
    assert!(matches!(reason, Some(BusError::Closed { .. })), "{reason:?}");
    restarted.goes_on().await;
    assert_eq!(restarted.bus.as_ref().unwrap().stats().subscriptions, 0);
    restarted.bus.unwrap().stop().await;
}

#[tokio::test]
async fn it_is_waited_for_as_long_as_a_bus_is() {
    let mut restarted = Restarted::new(Some(Duration::from_secs(1))).await;
    let mut reader = restarted.client.subscribe_bytes_with("orders/**", all()).await.unwrap();
    restarted.restart().await;
    assert!(reader.close_reason().is_none(), "it was refused, and is asked for again");
    assert!(soon("the end", reader.recv()).await.is_none());
    let reason = reader.close_reason();
    assert!(matches!(reason, Some(BusError::NotStored { .. })), "{reason:?}");
    restarted.bus.unwrap().stop().await;
}

#[tokio::test]
async fn it_is_waited_for_at_a_session_that_is_resumed_too() {
    let mut restarted = Restarted::new(None).await;
    let mut reader = restarted.client.subscribe_bytes_with("orders/**", all()).await.unwrap();
    restarted.restart().await;
    let mut events = restarted.client.events();
    restarted.relay.cut();
    let resumed =
        async { while !matches!(events.recv().await, Some(ClientEvent::Reconnected { resumed: true })) {} };
    soon("the session", resumed).await;
    restarted.goes_on().await;
    assert_eq!(soon("a message", reader.recv()).await.unwrap().1, "an order");
    restarted.bus.unwrap().stop().await;
}
