//! What a broken link costs is the same on every transport of a network: nothing, if the bus still has the session.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use whispeer::Address;
use whispeer::bus::{BusBuilder, Settings};
use whispeer::client::{ClientBuilder, Event, GapReason, Reconnect};
use whispeer::prelude::*;
use whispeer::transport::ClientTls;
use whispeer_testkit::certificates::Certificates;
use whispeer_testkit::datagrams::{self, Weather};
use whispeer_testkit::relay::Relay;
use whispeer_testkit::wait;

use crate::broken_links::{back, number, numbered, takes_next};
use crate::certified::server;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    wait::soon("what is next", future).await
}

enum AnyRelay {
    Stream(Relay),
    Datagrams(datagrams::Relay),
}

impl AnyRelay {
    fn port(&self) -> u16 {
        match self {
            Self::Stream(relay) => relay.port(),
            Self::Datagrams(relay) => relay.port(),
        }
    }

    fn cut(&self) {
        match self {
            Self::Stream(relay) => relay.cut(),
            Self::Datagrams(relay) => relay.cut(),
        }
    }

    fn refuse(&self) {
        match self {
            Self::Stream(relay) => relay.refuse(),
            Self::Datagrams(relay) => relay.refuse(),
        }
    }

    fn pass(&self) {
        match self {
            Self::Stream(relay) => relay.pass(),
            Self::Datagrams(relay) => relay.pass(),
        }
    }
}

/// A bus on one transport, and a relay to it.
struct Ground {
    scheme: &'static str,
    made: Certificates,
    bus: BusHandle,
    relay: AnyRelay,
}

impl Ground {
    async fn new(scheme: &'static str) -> Self {
        let made = Certificates::new();
        let bus = builder(scheme, &made, 0).start().unwrap();
        let port = port(&bus);
        let relay = match scheme {
            "quic" => AnyRelay::Datagrams(datagrams::Relay::to(port, Weather::default()).await.unwrap()),
            _ => AnyRelay::Stream(Relay::to(port).await.unwrap()),
        };
        Self { scheme, made, bus, relay }
    }

    fn client_builder(&self) -> ClientBuilder {
        let mut reconnect = Reconnect::default();
        reconnect.first_delay = Duration::from_millis(5);
        reconnect.max_delay = Duration::from_millis(50);
        let tls = ClientTls::new().ca_pem(self.made.authority.pem());
        Client::builder().reconnect(reconnect).tls(tls)
    }

    async fn client(&self) -> Client {
        let address = address(self.scheme, self.relay.port());
        Box::pin(soon(self.client_builder().connect(&address))).await.unwrap()
    }

    fn inside(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }
}

fn address(scheme: &str, port: u16) -> String {
    format!("{scheme}://127.0.0.1:{port}")
}

/// A path that loses everything is noticed by silence alone, so that is noticed soon.
fn settings() -> Settings {
    Settings { keep_alive: Duration::from_millis(100), ..Settings::default() }
}

fn builder(scheme: &str, made: &Certificates, port: u16) -> BusBuilder {
    let address = address(scheme, port).parse().unwrap();
    Bus::builder().settings(settings()).tls(server(made)).listen(&address)
}

fn port(bus: &BusHandle) -> u16 {
    match &bus.local_addrs()[0] {
        Address::Tcp(endpoint) | Address::Tls(endpoint) | Address::Quic(endpoint) => endpoint.port(),
        Address::WebSocket(address) => address.endpoint().port(),
        other => panic!("{other} is no address of a network"),
    }
}

on_each!([tcp, tls, ws, wss, quic]: {
    a_session_goes_on_and_nothing_is_lost_or_doubled,
    a_bus_that_was_started_again_is_subscribed_to_and_served_again,
    a_client_that_says_goodbye_leaves_nothing_behind,
    a_connection_that_is_given_up_at_any_moment_leaves_nothing_behind,
});

async fn a_session_goes_on_and_nothing_is_lost_or_doubled(scheme: &'static str) {
    let ground = Ground::new(scheme).await;
    let (client, inside) = (ground.client().await, ground.inside());
    let session = client.session_id();
    let mut events = client.events();
    let mut numbers = client.subscribe_bytes("numbers").await.unwrap();
    let _echo = client.handle_bytes("echo", |payload| async { Ok(payload) }).await.unwrap();
    let publisher = inside.publisher_bytes("numbers").unwrap();
    for round in 0..3 {
        let first = round * 100 + 1;
        // Some arrive, some are on their way, and some are published while there is no connection.
        for next in first..first + 50 {
            publisher.send(&numbered(next, 3_000)).await.unwrap();
        }
        takes_next(&mut numbers, first, first + 10).await;
        ground.relay.cut();
        for next in first + 50..first + 100 {
            publisher.send(&numbered(next, 64)).await.unwrap();
        }
        let asked = inside.request_bytes("echo", "still there?".into());
        assert_eq!(soon(asked).await.unwrap(), "still there?");
        assert!(back(&mut events).await, "the session goes on");
        takes_next(&mut numbers, first + 11, first + 99).await;
    }
    assert_eq!(client.session_id(), session);
}

async fn a_bus_that_was_started_again_is_subscribed_to_and_served_again(scheme: &'static str) {
    let ground = Ground::new(scheme).await;
    let client = ground.client().await;
    let mut events = client.events();
    let mut numbers = client.subscribe_bytes("numbers").await.unwrap();
    let _echo = client.handle_bytes("echo", |payload| async { Ok(payload) }).await.unwrap();
    let Ground { made, bus, relay, .. } = ground;
    let port = port(&bus);
    relay.refuse();
    bus.stop().await;
    let bus = loop {
        match builder(scheme, &made, port).start() {
            Ok(bus) => break bus,
            Err(BusError::AddressInUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    relay.pass();
    assert!(!back(&mut events).await, "another bus has another session");
    client.ping().await.unwrap();
    let inside = Client::new_memory(&bus.connector()).unwrap();
    assert_eq!(inside.publish_bytes("numbers", numbered(1, 8)).await.unwrap(), 1);
    let gap = soon(numbers.next_event()).await;
    assert!(matches!(gap, Some(Event::Gap { count: 0, reason: GapReason::Link })), "{gap:?}");
    let Some(Event::Message(message)) = soon(numbers.next_event()).await else { panic!() };
    assert_eq!(number(&message.value), 1);
    assert_eq!(soon(inside.request_bytes("echo", "again".into())).await.unwrap(), "again");
}

async fn a_client_that_says_goodbye_leaves_nothing_behind(scheme: &'static str) {
    let ground = Ground::new(scheme).await;
    let client = ground.client().await;
    let mut events = client.events();
    ground.relay.cut();
    assert!(back(&mut events).await, "the session goes on");
    // In the middle of the stream of a session that has gone on, the last frame is still known as such.
    client.publish_bytes("numbers", numbered(1, 100_000)).await.unwrap();
    soon(client.close()).await.unwrap();
    wait::eventually("its session has ended", || ground.bus.sessions().is_empty()).await;
    assert_eq!(ground.bus.stats().sessions_cut_off, 0);
}

async fn a_connection_that_is_given_up_at_any_moment_leaves_nothing_behind(scheme: &'static str) {
    let ground = Ground::new(scheme).await;
    // A session that was begun for somebody who had gone by then is kept for this time.
    let settings = Settings { resume_limit: Duration::from_millis(200), ..settings() };
    ground.bus.apply(&settings).unwrap();
    let address = address(scheme, port(&ground.bus));
    let mut polls = 0;
    let client = loop {
        let mut connecting = Box::pin(ground.client_builder().connect(&address));
        let mut left = polls;
        let connected = poll_fn(|context| match connecting.as_mut().poll(context) {
            Poll::Ready(connected) => Poll::Ready(Some(connected)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        });
        if let Some(connected) = soon(connected).await {
            break connected.unwrap();
        }
        polls += 1;
    };
    assert!(polls > 1, "there were moments to give up at");
    wait::eventually("the others are gone", || ground.bus.sessions().len() == 1).await;
    client.ping().await.unwrap();
    client.close().await.unwrap();
    wait::eventually("nobody is left", || ground.bus.sessions().is_empty()).await;
}
