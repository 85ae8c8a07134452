//! Who is there at all buses, who comes and goes, and what those leave behind who are gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use whispeer::auth::{AuthSettings, Policy, Principal};
use whispeer::client::{BusPresence, Member, PresenceEvent, PresenceWatch, PublishOptions, Subscription};
use whispeer::prelude::*;
use whispeer::transport::Peer;
use whispeer_cluster_nats::{NatsCluster, NatsSettings};
use whispeer_testkit::nats::{self, NatsServer};

use crate::joined::{Joined, PREFIX, eventually, next, settled, soon};

/// Buses that know of each other.
async fn buses<const COUNT: usize>(server: &NatsServer) -> [Joined; COUNT] {
    let mut buses = Vec::new();
    for _ in 0..COUNT {
        buses.push(Joined::new(&server.url()).await);
    }
    for bus in &buses {
        bus.knows(COUNT - 1).await;
    }
    let Ok(buses) = buses.try_into() else { panic!("there are as many") };
    buses
}

/// What comes next, in words.
async fn told(watch: &mut PresenceWatch) -> String {
    match soon("an event", watch.recv()).await.unwrap() {
        PresenceEvent::Join(member) => format!("join {}", place(&member)),
        PresenceEvent::Leave(member) => format!("leave {}", place(&member)),
        PresenceEvent::Missed(count) => format!("{count} missed"),
        PresenceEvent::BusMissed { bus, count } => format!("{count} missed of {bus:x}"),
        PresenceEvent::BusJoin { bus, .. } => format!("bus {bus:x} is there"),
        PresenceEvent::BusLeave { bus, .. } => format!("bus {bus:x} is gone"),
        other => panic!("{other:?}"),
    }
}

fn place(member: &Member) -> String {
    let bus = member.bus.map_or_else(|| "here".to_owned(), |bus| format!("{bus:x}"));
    format!("{} at {bus}", member.pattern)
}

/// Watches, and waits until it hears of so many other buses.
async fn watching(bus: &Joined, pattern: &str, others: usize) -> PresenceWatch {
    let mut watch = bus.client.watch_presence(pattern).await.unwrap();
    for _ in 0..others {
        let event = told(&mut watch).await;
        assert!(event.ends_with("is there"), "{event}");
    }
    watch
}

async fn subscribed(bus: &Joined, pattern: &str) -> Subscription<Bytes> {
    bus.client.subscribe_bytes(pattern).await.unwrap()
}

#[tokio::test]
async fn who_is_there_can_be_asked_of_one_bus_and_of_all() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let [a, b, c] = buses(&server).await;
        let alice = Client::builder().name("alice").connect_memory(&b.bus.connector()).unwrap();
        let _lobby = alice.subscribe_bytes("chat/lobby").await.unwrap();
        let _here = subscribed(&a, "chat/*").await;
        let _elsewhere = subscribed(&c, "news").await;

        assert!(c.client.presence("chat/**").await.unwrap().is_empty(), "of its own clients alone");
        let all = a.client.presence_of_all("chat/lobby").await.unwrap();
        assert_eq!((all.silent.len(), all.left_out()), (0, 0));
        let shown: BTreeMap<u64, &BusPresence> = all.buses.iter().map(|bus| (bus.id, bus)).collect();
        assert_eq!(shown.len(), 3);
        let at_b = &shown[&b.id()].members;
        assert_eq!((at_b.len(), at_b[0].name.as_str(), at_b[0].pattern.as_str()), (1, "alice", "chat/lobby"));
        assert_eq!((at_b[0].bus, Some(at_b[0].session)), (Some(b.id()), alice.session_id()));
        let at_a: Vec<_> = shown[&a.id()].members.iter().map(place).collect();
        assert_eq!(at_a, ["chat/* at here"]);
        assert!(shown[&c.id()].members.is_empty());
        // Neither links nor those who ask are shown.
        assert_eq!(c.client.presence_of_all("**").await.unwrap().members().count(), 3);
    }
}

#[tokio::test]
async fn who_watches_at_one_bus_hears_who_comes_and_goes_at_all() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let [a, b, c] = buses(&server).await;
        let mut chat = watching(&a, "chat/**", 2).await;
        // One who watches later at the same bus hears of all at once.
        let mut lobby = watching(&a, "chat/lobby", 0).await;
        let at_b = b.id();
        let first = subscribed(&b, "chat/lobby").await;
        assert_eq!(told(&mut chat).await, format!("join chat/lobby at {at_b:x}"));
        let _elsewhere = subscribed(&c, "news").await;
        let all = subscribed(&c, "chat/*").await;
        assert_eq!(told(&mut chat).await, format!("join chat/* at {:x}", c.id()));
        let _own = subscribed(&a, "chat/attic").await;
        assert_eq!(told(&mut chat).await, "join chat/attic at here");
        drop(first);
        assert_eq!(told(&mut chat).await, format!("leave chat/lobby at {at_b:x}"));
        drop(all);
        assert_eq!(told(&mut chat).await, format!("leave chat/* at {:x}", c.id()));
        let told_to_both = [
            format!("join chat/lobby at {at_b:x}"),
            format!("join chat/* at {:x}", c.id()),
            format!("leave chat/lobby at {at_b:x}"),
            format!("leave chat/* at {:x}", c.id()),
        ];
        for expected in told_to_both {
            assert_eq!(told(&mut lobby).await, expected, "where it meets what is watched");
        }
    }
}

#[tokio::test]
async fn where_all_buses_watch_each_event_is_told_once_at_each() {
    const EACH: usize = 50;
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let buses: [Joined; 3] = buses(&server).await;
    let mut watches = Vec::new();
    for bus in &buses {
        watches.push(watching(bus, "**", 2).await);
    }
    let mut kept = Vec::new();
    for number in 0..EACH {
        for bus in &buses {
            kept.push(subscribed(bus, &format!("chat/{number}")).await);
        }
    }
    for watch in &mut watches {
        let mut heard = BTreeMap::new();
        for _ in 0..3 * EACH {
            *heard.entry(told(watch).await).or_insert(0) += 1;
        }
        assert!(heard.values().all(|times| *times == 1), "{heard:?}");
        assert_eq!(heard.keys().filter(|event| event.ends_with(" at here")).count(), EACH);
    }
    // Nothing has gone around: what is told next is what happens next.
    let _last = subscribed(&buses[0], "last").await;
    for watch in &mut watches {
        let event = told(watch).await;
        assert!(event.starts_with("join last at "), "{event}");
    }
}

#[tokio::test]
async fn nothing_is_sent_while_nobody_watches_elsewhere() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let mut sent = nats.subscribe(format!("{PREFIX}.presence.*")).await.unwrap();
    settled(&nats).await;
    let [a, b] = buses(&server).await;
    // Who watches at one bus has the others tell him, and that one tells nobody.
    let watch = watching(&a, "chat/**", 1).await;
    let message = crate::joined::next_plain(&mut sent).await;
    assert_eq!(message.subject.as_str(), format!("{PREFIX}.presence.{:016x}", b.id()));
    assert_eq!(message.payload, r#"{"number":1}"#);
    drop(watch);
    eventually("nobody watches", || b.counter.members().list().iter().all(|bus| !bus.watches)).await;
    eventually("the subscription of the link has ended", || {
        b.bus.subscriptions().iter().all(|own| !own.pattern.starts_with("$presence"))
    })
    .await;
    let _unseen = subscribed(&b, "chat/unseen").await;
    let mut watch = watching(&a, "chat/**", 1).await;
    let _seen = subscribed(&b, "chat/seen").await;
    assert_eq!(told(&mut watch).await, format!("join chat/seen at {:x}", b.id()));
}

#[tokio::test]
async fn a_bus_that_is_gone_is_told_with_all_its_members_at_once() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let a = Joined::new(&server.url()).await;
    let mut watch = watching(&a, "**", 0).await;
    // One that is killed.
    let settings = NatsSettings::new(&server.url()).unwrap().prefix(PREFIX).unwrap().name("shop-2");
    let cluster = NatsCluster::open(&settings).await.unwrap();
    let bus = Bus::builder().start().unwrap();
    let link = tokio::spawn(cluster.run(bus.view()));
    let joined = soon("the other bus", watch.recv()).await.unwrap();
    let PresenceEvent::BusJoin { bus: id, name } = joined else { panic!("{joined:?}") };
    assert_eq!(name, "shop-2");
    let client = Client::new_memory(&bus.connector()).unwrap();
    let _lobby = client.subscribe_bytes("chat/lobby").await.unwrap();
    assert_eq!(told(&mut watch).await, format!("join chat/lobby at {id:x}"));
    link.abort();
    let left = soon("the end of the other bus", watch.recv()).await.unwrap();
    assert_eq!(left, PresenceEvent::BusLeave { bus: id, name });
    // One that leaves.
    let b = Joined::new(&server.url()).await;
    assert_eq!(told(&mut watch).await, format!("bus {:x} is there", b.id()));
    let id = b.id();
    b.stop().await;
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &String| !event.ends_with("is gone")) {
        events.push(told(&mut watch).await);
    }
    assert_eq!(events, [format!("bus {id:x} is gone")]);
    assert_eq!(a.client.presence_of_all("**").await.unwrap().buses.len(), 1);
}

#[tokio::test]
async fn who_is_no_bus_that_is_there_tells_nothing() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let [a, b] = buses(&server).await;
    let mut watch = watching(&a, "**", 1).await;
    let nobody = format!("{PREFIX}.presence.00000000000000aa");
    let forged = r#"{"number":1,"event":{"join":{"session":1,"principal":"Local","name":"","pattern":"chat","since":1}}}"#;
    for (subject, payload) in [
        (nobody.clone(), forged.to_owned()),
        (nobody, r#"{"number":1}"#.to_owned()),
        (format!("{PREFIX}.presence.{:016x}", a.id()), forged.to_owned()),
        (format!("{PREFIX}.presence.{:016x}", b.id()), "neither".to_owned()),
        (format!("{PREFIX}.presence.{:016x}", b.id()), forged.replace("chat", &"x".repeat(20_000))),
    ] {
        nats.publish(subject, payload.into()).await.unwrap();
    }
    settled(&nats).await;
    let _lobby = subscribed(&b, "chat/lobby").await;
    assert_eq!(told(&mut watch).await, format!("join chat/lobby at {:x}", b.id()));
    assert_eq!(a.counter.members().list().len(), 1);
}

#[tokio::test]
async fn what_is_lost_between_buses_is_told_as_missed() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let [a, b] = buses(&server).await;
    let mut watch = watching(&a, "**", 1).await;
    server.kill();
    let mut state = b.connection.state();
    soon("the loss", state.wait_for(|state| !state.is_connected())).await.unwrap();
    let kept = [subscribed(&b, "chat/1").await, subscribed(&b, "chat/2").await];
    server.restart().await;
    let _last = subscribed(&b, "chat/3").await;
    // It may count as gone where that takes long; who asks then knows as much as who is told what he has missed.
    let mut events = Vec::new();
    let suffix = format!(" missed of {:x}", b.id());
    let is_told = |event: &String| event.ends_with(&suffix) || event.ends_with("is gone");
    while events.last().is_none_or(|event| !is_told(event)) {
        events.push(told(&mut watch).await);
    }
    let missed = events.last().and_then(|event| event.strip_suffix(suffix.as_str()));
    if let Some(missed) = missed {
        assert!((1..=4).contains(&missed.parse::<u64>().unwrap()), "{events:?}");
    }
    let known = async {
        while a.client.presence_of_all("chat/**").await.map_or(0, |all| all.members().count()) < 3 {
            tokio::task::yield_now().await;
        }
    };
    soon("an answer of the other bus", known).await;
    drop(kept);
}

#[tokio::test]
async fn asking_all_buses_needs_the_right_to_watch_at_the_bus_that_is_asked() {
    if !nats::available() {
        return;
    }
    let settings = serde_json::json!({
        "roles": {
            "host": { "subscribe": { "allow": ["$presence/chat/**"] } },
            "guest": { "subscribe": { "allow": ["chat/**"] }, "request": { "allow": ["**", "$bus/**"] } },
        },
        "certificates": [{ "name": "host", "roles": ["host"] }, { "name": "guest", "roles": ["guest"] }],
    });
    let server = nats::NatsBuilder::newest().start().await;
    let policy = Policy::new(&serde_json::from_value::<AuthSettings>(settings).unwrap()).unwrap();
    let a = Joined::built(&server.url(), Bus::builder().policy(policy)).await;
    let b = Joined::new(&server.url()).await;
    a.knows(1).await;
    let _lobby = subscribed(&b, "chat/lobby").await;
    let connect = |name: &str| {
        let principal = Principal::Certificate { name: name.into() };
        Client::builder().connect_link(a.bus.view().connect(Peer::new(principal, "memory")).unwrap()).unwrap()
    };
    let (host, guest) = (connect("host"), connect("guest"));
    let all = host.presence_of_all("chat/*").await.unwrap();
    assert_eq!(all.members().map(place).collect::<Vec<_>>(), [format!("chat/lobby at {:x}", b.id())]);
    for refused in [
        host.presence_of_all("**").await,
        guest.presence_of_all("chat/*").await,
        guest.presence_of_all("news").await,
    ] {
        assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
    }
    let garbage = host.request_bytes("$bus/cluster/presence", Bytes::from_static(b"\xff")).await.unwrap_err();
    assert!(matches!(garbage, BusError::InvalidSettings(_)), "{garbage}");
}

#[tokio::test]
async fn what_fits_neither_a_message_of_nats_nor_a_frame_is_left_out_and_counted() {
    const SUBSCRIPTIONS: usize = 500;
    if !nats::available() {
        return;
    }
    // So many bytes of patterns are more than either takes.
    let pattern = |number: usize| format!("chat/{number}/{}", "x".repeat(1_000));
    for max_payload in [100_000, 1_000_000] {
        let server = nats::NatsBuilder::newest().config(format!("max_payload: {max_payload}")).start().await;
        let [b, c] = buses(&server).await;
        let a =
            Joined::built(&server.url(), Bus::builder().frame_limit(whispeer::limits::FRAME_LIMIT_MIN)).await;
        a.knows(2).await;
        let mut kept = Vec::new();
        for number in 0..SUBSCRIPTIONS {
            kept.push(subscribed(&b, &pattern(number)).await);
        }
        let _small = subscribed(&c, "chat/small").await;
        let all = a.client.presence_of_all("chat/**").await.unwrap();
        assert_eq!(all.silent.len(), 0);
        assert_eq!(all.members().count() + all.left_out(), SUBSCRIPTIONS + 1);
        let from_b = all.buses.iter().find(|bus| bus.id == b.id()).unwrap();
        // In MessagePack and JSON each takes some 1,100 bytes.
        let most = max_payload.min(whispeer::limits::FRAME_LIMIT_MIN) / 1_000;
        assert!((most / 2..most).contains(&from_b.members.len()), "{}", from_b.members.len());
        assert_eq!(from_b.members[0].pattern, pattern(0), "the first ones are told");
    }
}

#[tokio::test]
async fn a_bus_that_is_not_joined_says_so() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let refused = client.presence_of_all("chat/**").await;
    assert!(matches!(refused, Err(BusError::NoServer { .. })), "{refused:?}");
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
