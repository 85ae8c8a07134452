//! Links that break: what comes back, what is lost, and that everybody is told.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use whispeer::Address;
use whispeer::bus::Settings;
use whispeer::client::{ClientEvent, ClientEvents, Event, GapReason, Reconnect, Subscription};
use whispeer::prelude::*;
use whispeer::proto::{Header, Hello, Kind, Refusal, Resume, ResumeToken, Welcome};
use whispeer::transport::{ClientTls, ServerTls, connect};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::relay::Relay;
use whispeer_testkit::wait;

const LIMIT: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    wait::soon("what is next", future).await
}

pub(crate) fn port(bus: &BusHandle) -> u16 {
    bus.local_addrs()
        .iter()
        .find_map(|address| match address {
            Address::Tcp(endpoint) => Some(endpoint.port()),
            _ => None,
        })
        .unwrap()
}

fn bus_at(port: u16, settings: Settings) -> BusResult<BusHandle> {
    Bus::builder().settings(settings).listen(&format!("tcp://127.0.0.1:{port}").parse().unwrap()).start()
}

/// A bus, and a relay to it that fails as it is told.
pub(crate) struct Ground {
    pub(crate) bus: BusHandle,
    pub(crate) relay: Relay,
}

impl Ground {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let bus = bus_at(0, settings).unwrap();
        let relay = Relay::to(port(&bus)).await.unwrap();
        Self { bus, relay }
    }

    /// A client by way of the relay.
    pub(crate) async fn client(&self) -> Client {
        let mut reconnect = Reconnect::default();
        reconnect.first_delay = Duration::from_millis(5);
        reconnect.max_delay = Duration::from_millis(50);
        let address = format!("tcp://127.0.0.1:{}", self.relay.port());
        Client::builder().reconnect(reconnect).connect(&address).await.unwrap()
    }

    /// One within the process, whose link does not break.
    pub(crate) fn inside(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    /// Ends the bus and starts another one at its port.
    async fn restart(self) -> Self {
        let Self { bus, relay } = self;
        let port = port(&bus);
        relay.refuse();
        bus.stop().await;
        let bus = loop {
            match bus_at(port, Settings::default()) {
                Ok(bus) => break bus,
                Err(BusError::AddressInUse { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        relay.pass();
        Self { bus, relay }
    }
}

/// Waits until the client is back, and tells whether its session went on.
pub(crate) async fn back(events: &mut ClientEvents) -> bool {
    loop {
        match soon(events.recv()).await {
            Some(ClientEvent::Reconnected { resumed }) => return resumed,
            Some(_) => {}
            None => panic!("the client ended"),
        }
    }
}

/// Takes numbered messages until the last one, each once and in order.
async fn takes_all(subscription: &mut Subscription<Bytes>, count: u64) {
    for expected in 1..=count {
        match soon(subscription.next_event()).await {
            Some(Event::Message(message)) => assert_eq!(number(&message.value), expected),
            other => panic!("{other:?} where {expected} was due; ended: {:?}", subscription.close_reason()),
        }
    }
}

pub(crate) fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(*payload.first_chunk().unwrap())
}

pub(crate) fn numbered(number: u64, size: usize) -> Bytes {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(size.max(8), b'.');
    payload.into()
}

#[tokio::test]
async fn a_session_goes_on_after_a_cut_and_nothing_is_lost_or_doubled() {
    let ground = Ground::new().await;
    let (publisher, subscriber) = (ground.client().await, ground.client().await);
    let mut subscription = subscriber.subscribe_bytes("numbers").await.unwrap();
    let session = subscriber.session_id();
    let mut events = subscriber.events();
    let count = 3_000;
    let publishing = tokio::spawn(async move {
        let numbers = publisher.publisher_bytes("numbers").unwrap();
        for next in 1..=count {
            // Small ones, and now and then one that is a frame of its own.
            let size = if next % 100 == 0 { 100_000 } else { 64 };
            numbers.send(&numbered(next, size)).await.unwrap();
        }
        numbers.flush().await.unwrap();
        publisher
    });
    for turn in 1..=10 {
        takes_next(&mut subscription, (turn - 1) * 200 + 1, turn * 200).await;
        ground.relay.cut();
        assert!(back(&mut events).await, "the session goes on");
    }
    takes_next(&mut subscription, 2_001, count).await;
    let _publisher = soon(publishing).await.unwrap();
    assert_eq!(subscriber.session_id(), session);
    assert_eq!(subscription.counts().gaps, [0; GapReason::ALL.len()]);
    assert_eq!(ground.bus.stats().sessions, 2);
}

pub(crate) async fn takes_next(subscription: &mut Subscription<Bytes>, first: u64, last: u64) {
    for expected in first..=last {
        match soon(subscription.next_event()).await {
            Some(Event::Message(message)) => assert_eq!(number(&message.value), expected),
            other => panic!("{other:?} where {expected} was due; ended: {:?}", subscription.close_reason()),
        }
    }
}

#[tokio::test]
async fn what_flows_in_one_direction_alone_is_confirmed_all_the_while() {
    const COUNT: u64 = 400;
    let ground = Ground::new().await;
    let (publisher, subscriber) = (ground.client().await, ground.client().await);
    let mut subscription = subscriber.subscribe_bytes("numbers").await.unwrap();
    // Far more than may be on its way unconfirmed, and nothing comes back but confirmations and credit.
    let publishing = tokio::spawn(async move {
        let numbers = publisher.publisher_bytes("numbers").unwrap();
        for next in 1..=COUNT {
            numbers.send(&numbered(next, 100_000)).await.unwrap();
        }
        numbers.flush().await.unwrap();
    });
    takes_all(&mut subscription, COUNT).await;
    soon(publishing).await.unwrap();
    assert_eq!(subscription.gaps(), 0);
}

#[tokio::test]
async fn every_request_that_is_cut_off_is_answered_once() {
    let ground = Ground::new().await;
    let (server, requester) = (ground.client().await, ground.client().await);
    let mut serving = server.serve_bytes("square").await.unwrap();
    let answering = tokio::spawn(async move {
        let mut seen = std::collections::HashSet::new();
        while let Some((_, id, payload)) = serving.recv().await {
            let asked = number(&payload);
            assert!(seen.insert(asked), "{asked} was asked twice");
            let _ = server.respond_bytes(id, numbered(asked * asked, 8)).await;
        }
        seen.len()
    });
    let mut requests = tokio::task::JoinSet::new();
    for next in 1..=200_u64 {
        let requester = requester.clone();
        requests.spawn(async move {
            let answer = requester.request_bytes("square", numbered(next, 2_000)).await.unwrap();
            assert_eq!(number(&answer), next * next);
        });
        if next % 20 == 0 {
            ground.relay.cut();
            tokio::task::yield_now().await;
        }
    }
    while let Some(done) = tokio::time::timeout(LIMIT, requests.join_next()).await.unwrap() {
        done.unwrap();
    }
    ground.bus.stop().await;
    drop(requester);
    answering.abort();
}

#[tokio::test]
async fn publishes_made_while_there_is_no_connection_arrive_when_there_is_again() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut subscription = ground.inside().subscribe_bytes("numbers").await.unwrap();
    let mut events = client.events();
    client.publish_bytes("numbers", numbered(1, 8)).await.unwrap();
    ground.relay.refuse();
    assert!(matches!(soon(events.recv()).await, Some(ClientEvent::Disconnected { .. })));
    let numbers = client.publisher_bytes("numbers").unwrap();
    for next in 2..=100 {
        numbers.send(&numbered(next, 8)).await.unwrap();
    }
    ground.relay.pass();
    assert!(back(&mut events).await);
    numbers.flush().await.unwrap();
    takes_all(&mut subscription, 100).await;
}

#[tokio::test]
async fn what_is_published_without_a_connection_is_bounded() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut events = client.events();
    ground.relay.refuse();
    assert!(matches!(soon(events.recv()).await, Some(ClientEvent::Disconnected { .. })));
    let numbers = client.publisher_bytes("numbers").unwrap();
    let mut held = 0;
    while numbers.try_send(&numbered(held, 8)).is_ok() {
        held += 1;
        assert!(held <= 1024, "the window for publishes");
    }
    assert!(matches!(numbers.try_send(&"more".into()), Err(BusError::Full)));
}

#[tokio::test]
async fn a_connection_that_closes_in_one_direction_is_left_for_a_new_one() {
    let ground = Ground::new().await;
    let (publisher, subscriber) = (ground.inside(), ground.client().await);
    let mut subscription = subscriber.subscribe_bytes("numbers").await.unwrap();
    let mut events = subscriber.events();
    for turn in 0..5 {
        ground.relay.close_to_clients();
        for next in 1..=50 {
            publisher.publish_bytes("numbers", numbered(turn * 50 + next, 1_000)).await.unwrap();
        }
        assert!(back(&mut events).await);
        takes_next(&mut subscription, turn * 50 + 1, turn * 50 + 50).await;
    }
}

#[tokio::test]
async fn a_link_that_stands_still_goes_on_where_it_was() {
    let ground = Ground::new().await;
    let (publisher, subscriber) = (ground.client().await, ground.client().await);
    let mut subscription = subscriber.subscribe_bytes("numbers").await.unwrap();
    ground.relay.stall();
    let publishing = tokio::spawn(async move {
        for next in 1..=500 {
            publisher.publish_bytes("numbers", numbered(next, 5_000)).await.unwrap();
        }
    });
    tokio::task::yield_now().await;
    ground.relay.pass();
    takes_all(&mut subscription, 500).await;
    soon(publishing).await.unwrap();
    assert_eq!(ground.relay.accepted(), 2);
}

#[tokio::test]
async fn a_bus_that_hears_nothing_waits_for_its_client_to_come_back() {
    let settings = Settings { keep_alive: Duration::from_millis(100), ..Settings::default() };
    let ground = Ground::with(settings).await;
    let subscriber = ground.client().await;
    let mut subscription = subscriber.subscribe_bytes("numbers").await.unwrap();
    let mut events = subscriber.events();
    ground.relay.stall();
    ground.inside().publish_bytes("numbers", numbered(1, 8)).await.unwrap();
    // Three intervals of silence, and both sides give the connection up; the relay still has it.
    assert!(matches!(soon(events.recv()).await, Some(ClientEvent::Disconnected { .. })));
    ground.relay.cut();
    assert!(back(&mut events).await);
    takes_all(&mut subscription, 1).await;
}

#[tokio::test]
async fn a_new_bus_is_subscribed_to_and_served_again_and_the_gap_is_told() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut subscription = client.subscribe_bytes("numbers").await.unwrap();
    let mut serving = client.serve_bytes("echo").await.unwrap();
    let mut events = client.events();
    client.publish_bytes("numbers", numbered(1, 8)).await.unwrap();
    let (session, bus) = (client.session_id(), client.bus_id());

    let ground = ground.restart().await;
    assert!(!back(&mut events).await, "another bus has another session");
    assert!((client.session_id(), client.bus_id()) != (session, bus));
    client.ping().await.unwrap();
    let inside = ground.inside();
    assert_eq!(inside.publish_bytes("numbers", numbered(2, 8)).await.unwrap(), 1);
    assert!(matches!(soon(subscription.next_event()).await, Some(Event::Message(_))));
    assert!(matches!(
        soon(subscription.next_event()).await,
        Some(Event::Gap { count: 0, reason: GapReason::Link })
    ));
    let Some(Event::Message(message)) = soon(subscription.next_event()).await else { panic!() };
    assert_eq!(number(&message.value), 2);

    let asked = tokio::spawn(async move { inside.request_bytes("echo", "hello".into()).await });
    let (_, id, payload) = soon(serving.recv()).await.unwrap();
    client.respond_bytes(id, payload).await.unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap(), "hello");
    // Windows are whole again: far more than one of them goes through.
    let publishing = tokio::spawn(async move {
        for next in 3..=5_000 {
            client.publish_bytes("numbers", numbered(next, 8)).await.unwrap();
        }
    });
    takes_next(&mut subscription, 3, 5_000).await;
    soon(publishing).await.unwrap();
}

#[tokio::test]
async fn what_a_lost_session_leaves_open_ends_as_unknown_and_what_was_not_sent_goes_to_the_next() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let server = ground.inside();
    let _silent = server.serve_bytes("silent").await.unwrap();
    let mut events = client.events();
    let asking = client.clone();
    let asked = tokio::spawn(async move { asking.request_bytes("silent", "?".into()).await });
    while ground.bus.stats().requests_in_flight == 0 {
        tokio::task::yield_now().await;
    }
    let numbers = client.publisher_bytes("numbers").unwrap();

    ground.relay.refuse();
    assert!(matches!(soon(events.recv()).await, Some(ClientEvent::Disconnected { .. })));
    for next in 1..=100 {
        numbers.send(&numbered(next, 8)).await.unwrap();
    }
    let publishing = client.clone();
    let published = tokio::spawn(async move { publishing.publish_bytes("numbers", numbered(101, 8)).await });
    tokio::task::yield_now().await;
    drop(server);

    // The bus goes, and another one comes, on which somebody waits for the numbers.
    let Ground { bus, relay } = ground;
    let at = port(&bus);
    bus.stop().await;
    let bus = bus_at(at, Settings::default()).unwrap();
    let mut subscription =
        Client::new_memory(&bus.connector()).unwrap().subscribe_bytes("numbers").await.unwrap();
    relay.pass();
    assert!(!back(&mut events).await);
    let unknown = soon(asked).await.unwrap().unwrap_err();
    assert!(matches!(unknown, BusError::OutcomeUnknown { .. }), "{unknown:?}");
    assert_eq!(soon(published).await.unwrap().unwrap(), 1);
    numbers.flush().await.unwrap();
    takes_all(&mut subscription, 101).await;
}

#[tokio::test]
async fn a_session_is_kept_no_longer_than_the_bus_says() {
    let settings = Settings { resume_limit: Duration::from_millis(50), ..Settings::default() };
    let ground = Ground::with(settings).await;
    let client = ground.client().await;
    let mut subscription = client.subscribe_bytes("numbers").await.unwrap();
    let mut events = client.events();
    ground.relay.refuse();
    while ground.bus.stats().sessions > 0 {
        tokio::task::yield_now().await;
    }
    ground.relay.pass();
    assert!(!back(&mut events).await);
    client.ping().await.unwrap();
    ground.inside().publish_bytes("numbers", numbered(1, 8)).await.unwrap();
    assert!(matches!(soon(subscription.next_event()).await, Some(Event::Gap { count: 0, .. })));
    takes_all(&mut subscription, 1).await;
}

#[tokio::test]
async fn a_client_gives_up_after_its_time_and_says_why() {
    let ground = Ground::new().await;
    let mut reconnect = Reconnect::default();
    reconnect.first_delay = Duration::from_millis(1);
    reconnect.give_up_after = Some(Duration::from_millis(20));
    let address = format!("tcp://127.0.0.1:{}", port(&ground.bus));
    let client = Client::builder().reconnect(reconnect).connect(&address).await.unwrap();
    let mut subscription = client.subscribe_bytes("numbers").await.unwrap();
    ground.bus.stop().await;
    let reason = soon(client.closed()).await;
    assert!(matches!(reason, BusError::Connect { .. }), "{reason:?}");
    assert!(soon(subscription.recv()).await.is_none());
    assert!(matches!(client.publish_bytes("a", "b").await, Err(BusError::Connect { .. })));
}

#[tokio::test]
async fn a_client_that_is_closed_while_it_is_away_ends_at_once() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut events = client.events();
    ground.relay.refuse();
    assert!(matches!(soon(events.recv()).await, Some(ClientEvent::Disconnected { .. })));
    drop(events);
    let closing = client.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    let _ = tokio::time::timeout(Duration::from_millis(50), closing).await;
    drop(client);
}

#[tokio::test]
async fn a_client_on_a_unix_socket_comes_back_when_it_is_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let bus = Bus::builder().listen_unix(&path).start().unwrap();
    let mut reconnect = Reconnect::default();
    reconnect.first_delay = Duration::from_millis(5);
    let client = Client::builder().reconnect(reconnect).connect(&path.to_string_lossy()).await.unwrap();
    let mut subscription = client.subscribe_bytes("numbers").await.unwrap();
    // More than is received before the other side would be told on a link that can go on without a loss.
    for next in 1..=20 {
        client.publish_bytes("numbers", numbered(next, 10_000)).await.unwrap();
    }
    takes_all(&mut subscription, 20).await;
    client.ping().await.unwrap();
    let mut events = client.events();
    bus.stop().await;
    let bus = Bus::builder().listen_unix(&path).start().unwrap();
    assert!(!back(&mut events).await);
    client.ping().await.unwrap();
    Client::new_memory(&bus.connector()).unwrap().publish_bytes("numbers", numbered(1, 8)).await.unwrap();
    assert!(matches!(soon(subscription.next_event()).await, Some(Event::Gap { count: 0, .. })));
    takes_all(&mut subscription, 1).await;
}

#[tokio::test]
async fn the_secret_of_a_session_is_needed_to_go_on_with_it() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let session = client.session_id().unwrap();
    let resume = Resume { session, token: ResumeToken::new([0; 32]), received: 0 };
    let hello = Hello { resume: Some(resume), ..Hello::default() };
    let address = format!("tcp://127.0.0.1:{}", port(&ground.bus)).parse().unwrap();
    let mut stranger = RawPeer::new(connect(&address).await.unwrap());
    stranger.send(&Header::new(Kind::Hello, 0, 0), "", &hello.encode()).await.unwrap();
    let answer = soon(stranger.receive()).await.unwrap().unwrap();
    let welcome = Welcome::decode(&answer.payload).unwrap();
    assert!(!welcome.resumed && welcome.session != session);
    client.ping().await.unwrap();
}

#[tokio::test]
async fn an_event_is_not_lost_with_the_future_that_waited_for_it() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut events = client.events();
    assert!(wait::now_or_never(events.recv()).await.is_none());
    ground.relay.cut();
    let mut told = Vec::new();
    while told.len() < 2 {
        // Given up again and again, whatever has come meanwhile.
        told.extend(wait::now_or_never(events.recv()).await.flatten());
        tokio::task::yield_now().await;
    }
    assert!(matches!(told[0], ClientEvent::Disconnected { .. }), "{told:?}");
    assert!(matches!(told[1], ClientEvent::Reconnected { resumed: true }), "{told:?}");
}

#[tokio::test]
async fn a_session_is_where_its_client_came_back_from() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    client.ping().await.unwrap();
    let mut events = client.events();
    let before = ground.bus.sessions().remove(0);
    ground.relay.cut();
    assert!(back(&mut events).await);
    client.ping().await.unwrap();
    let after = ground.bus.sessions().remove(0);
    assert_eq!((after.id, after.transport), (before.id, before.transport));
    assert_ne!(after.principal, before.principal, "it comes by another port");
}

#[tokio::test]
async fn a_client_of_several_buses_goes_to_the_next_when_its_own_ends() {
    let buses = [(); 2].map(|()| bus_at(0, Settings::default()).unwrap());
    let addresses = buses.each_ref().map(|bus| format!("tcp://127.0.0.1:{}", port(bus)));
    let nowhere = "unix:/nonexistent/bus".to_owned();
    let client = Client::builder().connect_any([&nowhere, &addresses[0], &addresses[1]]).await.unwrap();
    let mut numbers = client.subscribe_bytes("numbers").await.unwrap();
    let mut events = client.events();
    let [first, second] = buses;
    assert_eq!(client.bus_id().unwrap(), first.stats().bus_id);
    soon(first.drain(LIMIT)).await;
    assert!(!back(&mut events).await, "another bus has another session");
    assert_eq!(client.bus_id().unwrap(), second.stats().bus_id);
    client.ping().await.unwrap();
    let inside = Client::new_memory(&second.connector()).unwrap();
    assert_eq!(inside.publish_bytes("numbers", numbered(1, 8)).await.unwrap(), 1);
    let gap = soon(numbers.next_event()).await;
    assert!(matches!(gap, Some(Event::Gap { count: 0, reason: GapReason::Link })), "{gap:?}");
    assert_eq!(number(&soon(numbers.recv()).await.unwrap().1), 1);
}

#[tokio::test]
async fn a_client_of_several_buses_leaves_one_that_drains_as_soon_as_nothing_of_its_own_is_in_flight() {
    let buses = [(); 2].map(|()| bus_at(0, Settings::default()).unwrap());
    let addresses = buses.each_ref().map(|bus| format!("tcp://127.0.0.1:{}", port(bus)));
    let [first, second] = buses;
    let other = Client::new_memory(&first.connector()).unwrap();
    let mut held = other.serve_bytes("held").await.unwrap();
    let asker = other.clone();
    let _long = tokio::spawn(async move { asker.request_bytes("held", "for hours".into()).await });
    let _held = soon(held.recv()).await.unwrap();
    let client = Client::builder().connect_any(&addresses).await.unwrap();
    let mut serving = client.serve_bytes("work").await.unwrap();
    let asked = tokio::spawn(async move { other.request_bytes("work", "begun".into()).await });
    let (_, id, payload) = soon(serving.recv()).await.unwrap();
    let mut events = client.events();
    let drain = tokio::spawn(first.drain(LIMIT));
    while !matches!(soon(events.recv()).await, Some(ClientEvent::Draining)) {}
    client.respond_bytes(id, payload).await.unwrap();
    assert!(!back(&mut events).await, "another bus has another session");
    assert_eq!(client.bus_id().unwrap(), second.stats().bus_id);
    assert_eq!(soon(asked).await.unwrap().unwrap(), "begun");
    assert!(!drain.is_finished(), "the first bus still has something to finish");
    let inside = Client::new_memory(&second.connector()).unwrap();
    let again = tokio::spawn(async move { inside.request_bytes("work", "here".into()).await });
    let (_, id, payload) = soon(serving.recv()).await.unwrap();
    client.respond_bytes(id, payload).await.unwrap();
    assert_eq!(soon(again).await.unwrap().unwrap(), "here");
}

#[tokio::test]
async fn what_one_bus_says_for_good_ends_no_client_that_has_another() {
    let ground = Ground::new().await;
    let upgraded = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [ground.relay.port(), upgraded.local_addr().unwrap().port()];
    let addresses = addresses.map(|port| format!("tcp://127.0.0.1:{port}"));
    let mut reconnect = Reconnect::default();
    reconnect.first_delay = Duration::from_millis(5);
    reconnect.max_delay = Duration::from_millis(20);
    let client = Client::builder().reconnect(reconnect).connect_any(&addresses).await.unwrap();
    let mut events = client.events();
    ground.relay.refuse();
    let refusal = Refusal::from(&BusError::UnsupportedVersion { what: "this bus speaks 7".into() }).encode();
    let mut goodbye = Header::new(Kind::Goodbye, 0, 0).encode(0, 0, refusal.len()).to_vec();
    goodbye.extend_from_slice(&refusal);
    for _ in 0..3 {
        let (mut stream, _) = soon(upgraded.accept()).await.unwrap();
        let mut hello = [0; 24];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(&goodbye).await.unwrap();
    }
    ground.relay.pass();
    assert!(back(&mut events).await, "the session goes on");
    client.ping().await.unwrap();
}

#[tokio::test]
async fn where_no_bus_answers_a_client_of_several_says_what_each_did() {
    let nowhere = ["unix:/nonexistent/one", "unix:/nonexistent/two"];
    let refused = Client::builder().connect_any(nowhere).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, BusError::Connect { .. }), "{refused:?}");
    assert!(text.contains("one") && text.contains("two"), "{text}");
    let none = Client::builder().connect_any([""; 0]).await;
    assert!(matches!(none, Err(BusError::InvalidSettings(_))), "{none:?}");
    let mixed = Client::builder().connect_any(["mem:here", nowhere[0]]).await;
    assert!(matches!(mixed, Err(BusError::InvalidSettings(_))), "{mixed:?}");
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // The constants of PCG's generator of 64 bits (O'Neill 2014).
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A number from the environment, for a longer run than CI's.
fn chosen(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Does something to a relay's connections.
async fn trouble(relay: &Relay, dice: &mut Dice) {
    match dice.roll(6) {
        0 | 1 => relay.cut(),
        2 => {
            relay.stall();
            for _ in 0..dice.roll(50) {
                tokio::task::yield_now().await;
            }
            relay.pass();
        }
        3 => relay.close_to_clients(),
        4 => relay.delay(Duration::from_micros(dice.roll(3) * 300)),
        _ => {
            relay.refuse();
            for _ in 0..dice.roll(50) {
                tokio::task::yield_now().await;
            }
            relay.pass();
        }
    }
}

/// In CI a few dozen troubles. A long run, with another seed:
/// `WHISPEER_TROUBLES=5000 WHISPEER_SEED=7 cargo test --release --test it whatever_happens_to_links`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_links_each_message_comes_once_and_each_request_is_answered() {
    const BETWEEN: u64 = 40;
    let (troubles, mut dice) = (chosen("WHISPEER_TROUBLES", 40), Dice(chosen("WHISPEER_SEED", 1)));
    let made = whispeer_testkit::certificates::Certificates::new();
    let bus = Bus::builder()
        .workers(2)
        .tls(ServerTls::pem(made.server.pem(), made.server.key_pem()))
        .listen(&"tcp://127.0.0.1:0".parse().unwrap())
        .listen(&"tls://localhost:0".parse().unwrap())
        .listen(&"ws://localhost:0/bus".parse().unwrap())
        .listen(&"wss://localhost:0/bus".parse().unwrap())
        .start()
        .unwrap();
    let (mut relays, mut addresses) = (Vec::new(), Vec::new());
    for address in bus.local_addrs() {
        let (scheme, port, path) = match address {
            Address::Tcp(endpoint) => ("tcp", endpoint.port(), ""),
            Address::Tls(endpoint) => ("tls", endpoint.port(), ""),
            Address::WebSocket(address) if address.is_secure() => ("wss", address.endpoint().port(), "/bus"),
            Address::WebSocket(address) => ("ws", address.endpoint().port(), "/bus"),
            _ => continue,
        };
        relays.push(Relay::to(port).await.unwrap());
        addresses.push(format!("{scheme}://127.0.0.1:{}{path}", relays.last().unwrap().port()));
    }
    assert_eq!(relays.len(), 4);
    let connect = async |index: usize| {
        let mut reconnect = Reconnect::default();
        reconnect.first_delay = Duration::from_millis(2);
        reconnect.max_delay = Duration::from_millis(20);
        let tls = ClientTls::new().ca_pem(made.authority.pem());
        Client::builder().tls(tls).reconnect(reconnect).connect(&addresses[index]).await.unwrap()
    };
    let (publisher, subscriber) = (connect(3).await, connect(0).await);
    let (server, requester) = (connect(2).await, connect(1).await);
    let clients = [publisher.clone(), subscriber.clone(), server.clone(), requester.clone()];
    let sessions = clients.each_ref().map(Client::session_id);
    let mut subscription = subscriber.subscribe_bytes("numbers").await.unwrap();
    let mut serving = server.serve_bytes("double").await.unwrap();
    let serving = tokio::spawn(async move {
        while let Some((_, id, payload)) = serving.recv().await {
            server.respond_bytes(id, numbered(2 * number(&payload), 8)).await.unwrap();
        }
    });
    let last = troubles * BETWEEN;
    let publishing = tokio::spawn(async move {
        let numbers = publisher.publisher_bytes("numbers").unwrap();
        for next in 1..=last {
            let size = if next % 50 == 0 { 100_000 } else { 100 };
            soon(numbers.send(&numbered(next, size))).await.unwrap();
        }
        soon(numbers.flush()).await.unwrap();
    });
    let requesting = tokio::spawn(async move {
        for next in 1..=last / 10 {
            let answer = soon(requester.request_bytes("double", numbered(next, 300))).await.unwrap();
            assert_eq!(number(&answer), 2 * next);
        }
    });
    for turn in 0..troubles {
        trouble(&relays[dice.roll(4) as usize], &mut dice).await;
        takes_next(&mut subscription, turn * BETWEEN + 1, (turn + 1) * BETWEEN).await;
    }
    // Each step of theirs is soon done; together they may take long.
    publishing.await.unwrap();
    requesting.await.unwrap();
    assert_eq!(clients.each_ref().map(Client::session_id), sessions, "all sessions have gone on");
    serving.abort();
    bus.stop().await;
}

/// As above, with a bus that keeps no session without its connection: what is missing is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_links_whose_sessions_end_what_is_missing_is_told_and_nothing_hangs() {
    let (troubles, mut dice) = (chosen("WHISPEER_TROUBLES", 40), Dice(chosen("WHISPEER_SEED", 1)));
    let ground = Ground::with(Settings { resume_limit: Duration::ZERO, ..Settings::default() }).await;
    let (away, inside) = (ground.client().await, ground.inside());
    let mut subscription = away.subscribe_bytes("numbers").await.unwrap();
    let _double = away
        .handle_bytes("double", |payload| async move { Ok(numbered(2 * number(&payload), 8)) })
        .await
        .unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let publishing = tokio::spawn({
        let (inside, stopped) = (inside.clone(), stopped.clone());
        async move {
            let mut next = 0;
            while !*stopped.borrow() {
                next += 1;
                inside.publish_bytes("numbers", numbered(next, 100)).await.unwrap();
            }
        }
    });
    let requesting = tokio::spawn(async move {
        let (mut answered, mut failed) = (0, 0);
        while !*stopped.borrow() {
            match inside.request_bytes("double", numbered(7, 8)).await {
                Ok(answer) => {
                    assert_eq!(number(&answer), 14);
                    answered += 1;
                }
                Err(BusError::NoServer { .. } | BusError::ServerGone { .. }) => failed += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        (answered, failed)
    });
    let (mut last, mut told, mut gaps) = (0, false, 0);
    for _ in 0..troubles {
        trouble(&ground.relay, &mut dice).await;
        for _ in 0..40 {
            match soon(subscription.next_event()).await {
                Some(Event::Message(message)) => {
                    let number = number(&message.value);
                    assert!(number > last, "{number} came after {last}");
                    assert!(
                        told || last == 0 || number == last + 1,
                        "{number} came after {last} without a gap"
                    );
                    (last, told) = (number, false);
                }
                Some(Event::Gap { .. }) => (told, gaps) = (true, gaps + 1),
                other => panic!("{other:?}; ended: {:?}", subscription.close_reason()),
            }
        }
    }
    ground.relay.pass();
    stop.send_replace(true);
    soon(publishing).await.unwrap();
    let (answered, failed) = soon(requesting).await.unwrap();
    assert!(gaps > 0 && answered > 0, "{gaps} gaps; {answered} answers, {failed} failures");
}
