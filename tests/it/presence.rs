//! Who is subscribed to a topic, and who comes and goes.

use std::sync::Arc;

use bytes::Bytes;
use whispeer::auth::{AuthSettings, Policy, Principal};
use whispeer::bus::Streams;
use whispeer::client::{Member, PresenceEvent, PresenceWatch, Quality, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::{Header, Kind};
use whispeer::store::{MemoryStore, Name, StreamSettings};
use whispeer::transport::{Peer, memory_pair};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::Ground;

async fn named(ground: &Ground, name: &str, over_unix: bool) -> Client {
    let builder = Client::builder().name(name);
    match over_unix {
        true => builder.connect(ground.socket().to_str().unwrap()).await.unwrap(),
        false => builder.connect_memory(&ground.bus.connector()).unwrap(),
    }
}

/// What comes next, in words.
async fn next(watch: &mut PresenceWatch) -> String {
    match soon("an event", watch.recv()).await.unwrap() {
        PresenceEvent::Join(member) => format!("{} joins {}", member.name, member.pattern),
        PresenceEvent::Leave(member) => format!("{} leaves {}", member.name, member.pattern),
        PresenceEvent::Missed(count) => format!("{count} missed"),
        other => panic!("{other:?}"),
    }
}

fn shown(members: &[Member]) -> Vec<String> {
    members.iter().map(|member| format!("{} {}", member.name, member.pattern)).collect()
}

#[tokio::test]
async fn who_is_subscribed_can_be_asked_for() {
    for over_unix in [false, true] {
        let ground = Ground::new(Bus::builder());
        let alice = named(&ground, "alice", over_unix).await;
        let bob = named(&ground, "bob", over_unix).await;
        let mut kept = vec![alice.subscribe_bytes("chat/lobby").await.unwrap()];
        for pattern in ["chat/*", "chat/attic", "news"] {
            kept.push(bob.subscribe_bytes(pattern).await.unwrap());
        }
        let members = alice.presence("chat/lobby").await.unwrap();
        assert_eq!(shown(&members), ["alice chat/lobby", "bob chat/*"]);
        assert_eq!(members[0].session, alice.session_id().unwrap());
        assert!(members[0].since > 1_600_000_000_000, "milliseconds since 1970");
        let is_local = members[0].principal == Principal::Local;
        assert_eq!(is_local, !over_unix, "{:?}", members[0].principal);
        assert_eq!(alice.presence("**").await.unwrap().len(), 4);
        assert!(alice.presence("$bus/**").await.unwrap().is_empty(), "nobody sees who watches");
        kept.clear();
        alice.flush().await.unwrap();
        bob.flush().await.unwrap();
        assert!(bob.presence("**").await.unwrap().is_empty());
        assert!(matches!(bob.presence("a//b").await, Err(BusError::InvalidTopic(_))));
    }
}

#[tokio::test]
async fn who_watches_hears_who_comes_and_goes_however_they_go() {
    for over_unix in [false, true] {
        let ground = Ground::new(Bus::builder());
        let watcher = ground.client();
        let alice = named(&ground, "alice", over_unix).await;
        let early = alice.subscribe_bytes("chat/early").await.unwrap();
        let mut watch = watcher.watch_presence("chat/**").await.unwrap();
        let mut attic = watcher.watch_presence("chat/attic").await.unwrap();
        // One that was there before anybody watched leaves as well.
        drop(early);
        assert_eq!(next(&mut watch).await, "alice leaves chat/early");
        let _elsewhere = alice.subscribe_bytes("news").await.unwrap();
        let lobby = alice.subscribe_bytes("chat/lobby").await.unwrap();
        assert_eq!(next(&mut watch).await, "alice joins chat/lobby");
        let _all = alice.subscribe_bytes("chat/*").await.unwrap();
        assert_eq!(next(&mut watch).await, "alice joins chat/*");
        drop(lobby);
        assert_eq!(next(&mut watch).await, "alice leaves chat/lobby");
        // A session that ends takes its subscriptions with it.
        let [_, link] = ground.links().await;
        let mut peer = RawPeer::welcomed(link).await.unwrap().0;
        peer.send(&Header::new(Kind::Subscribe, 1, 0), "chat/attic", &[]).await.unwrap();
        assert!(next(&mut watch).await.ends_with("joins chat/attic"));
        drop(peer);
        assert!(next(&mut watch).await.ends_with("leaves chat/attic"));
        alice.close().await.unwrap();
        assert_eq!(next(&mut watch).await, "alice leaves chat/*");
        // A subscription to a pattern is told where that meets what is watched.
        for expected in ["alice joins chat/*", "joins chat/attic", "leaves chat/attic", "alice leaves chat/*"]
        {
            let event = next(&mut attic).await;
            assert!(event.ends_with(expected), "{event} instead of {expected}");
        }
    }
}

#[tokio::test]
async fn a_consumer_is_there_once_it_takes_part() {
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log").unwrap()]);
    let streams = Streams::open(Arc::new(MemoryStore::new()), [log]).await.unwrap();
    let ground = Ground::new(Bus::builder().streams(streams));
    let alice = named(&ground, "alice", false).await;
    let mut watch = ground.client().watch_presence("**").await.unwrap();
    let durable = || SubscribeOptions::default().quality(Quality::AtLeastOnce).durable("reader");
    let reader = alice.consume_bytes("log", durable()).await.unwrap();
    assert_eq!(next(&mut watch).await, "alice joins log");
    assert!(matches!(alice.consume_bytes("log", durable()).await, Err(BusError::ConsumerBusy { .. })));
    assert_eq!(shown(&alice.presence("log").await.unwrap()), ["alice log"]);
    drop(reader);
    assert_eq!(next(&mut watch).await, "alice leaves log");
    let _news = alice.subscribe_bytes("news").await.unwrap();
    assert_eq!(next(&mut watch).await, "alice joins news", "who was refused was never there");
}

#[tokio::test]
async fn nothing_is_told_while_nobody_watches() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let watch = client.watch_presence("**").await.unwrap();
    drop(watch);
    client.flush().await.unwrap();
    let _lobby = client.subscribe_bytes("chat/lobby").await.unwrap();
    client.flush().await.unwrap();
    let stats = ground.bus.stats();
    assert_eq!((stats.published, stats.sessions_total), (0, 1));
}

#[tokio::test]
async fn who_joins_buses_knows_whether_somebody_watches_and_tells_of_others() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let view = ground.bus.view();
    let watchers = view.presence_watchers().unwrap();
    let link = view.connect(Peer::new(Principal::Bus, "other buses").relay()).unwrap();
    let relay = Client::builder().no_reconnect().connect_link(link).unwrap();
    let mut relayed = relay.subscribe_bytes("$presence/**").await.unwrap();
    assert_eq!(*watchers.borrow(), 0, "what takes it elsewhere does not watch");
    let mut chat = client.watch_presence("chat/**").await.unwrap();
    let mut news = client.watch_presence("news").await.unwrap();
    assert_eq!(*watchers.borrow(), 2);

    let _lobby = client.subscribe_bytes("chat/lobby").await.unwrap();
    let own = soon("an event", chat.recv()).await.unwrap();
    let PresenceEvent::Join(member) = own else { panic!("{own:?}") };
    assert_eq!(member.bus, None);
    let elsewhere = member.at(7);
    view.tell_presence(PresenceEvent::Leave(elsewhere.clone())).unwrap();
    view.tell_presence(PresenceEvent::BusMissed { bus: 7, count: 3 }).unwrap();
    assert_eq!(soon("an event", chat.recv()).await, Some(PresenceEvent::Leave(elsewhere)));
    for watch in [&mut chat, &mut news] {
        let missed = soon("an event", watch.recv()).await;
        assert_eq!(missed, Some(PresenceEvent::BusMissed { bus: 7, count: 3 }), "all who watch hear that");
    }
    for expected in ["$presence/chat/lobby", "$presence/chat/lobby", "$presence/**"] {
        assert_eq!(soon("a message", relayed.recv()).await.unwrap().0.as_str(), expected);
    }
    drop((chat, news));
    client.flush().await.unwrap();
    assert_eq!(*watchers.borrow(), 0);
}

#[tokio::test]
async fn what_is_shown_of_one_bus_is_written_as_it_was_before_there_were_several() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let _lobby = client.subscribe_bytes("chat/lobby").await.unwrap();
    let members = client.presence("chat/lobby").await.unwrap();
    let written = serde_json::to_value(&members[0]).unwrap();
    let fields: Vec<_> = written.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["name", "pattern", "principal", "session", "since"]);
}

#[tokio::test]
async fn a_storm_of_joins_is_counted_and_does_not_grow() {
    let ground = Ground::new(Bus::builder());
    let mut watch = ground.client().watch_presence("**").await.unwrap();
    let [link, _] = ground.links().await;
    let mut peer = RawPeer::welcomed(link).await.unwrap().0;
    let count = 3 * limits::PRESENCE_EVENTS as u32;
    for id in 1..=count {
        peer.push(&Header::new(Kind::Subscribe, id, 0), "a", &[]);
        if id % 256 == 0 {
            peer.flush().await.unwrap();
            for _ in 0..256 {
                assert_eq!(peer.receive().await.unwrap().unwrap().header.kind, Kind::Accepted);
            }
        }
    }
    let mut heard = 0;
    while heard < u64::from(count) {
        heard += match soon("an event", watch.recv()).await.unwrap() {
            PresenceEvent::Missed(count) => count,
            _ => 1,
        };
    }
    assert_eq!(heard, u64::from(count), "each is told or counted");
}

#[tokio::test]
async fn it_needs_the_right_to_read_there() {
    let settings = r#"
        [roles.host]
        subscribe.allow = ["chat/**", "$presence/chat/**"]

        [roles.guest]
        subscribe.allow = ["**"]
        request.allow = ["**", "$bus/presence"]

        [[certificates]]
        name = "host"
        roles = ["host"]

        [[certificates]]
        name = "guest"
        roles = ["guest"]
    "#;
    let policy = Policy::new(&toml::from_str::<AuthSettings>(settings).unwrap()).unwrap();
    let ground = Ground::new(Bus::builder().policy(policy));
    let connect = |name: &str| {
        let (bus_end, client_end) = memory_pair();
        let principal = Principal::Certificate { name: name.into() };
        ground.bus.attach(bus_end, Peer::new(principal, "test")).unwrap();
        Client::builder().connect_link(client_end).unwrap()
    };
    let (host, guest) = (connect("host"), connect("guest"));
    let mut watch = host.watch_presence("chat/**").await.unwrap();
    let _lobby = guest.subscribe_bytes("chat/lobby").await.unwrap();
    assert!(next(&mut watch).await.ends_with("joins chat/lobby"));
    let members = host.presence("chat/lobby").await.unwrap();
    assert_eq!(members[0].principal, Principal::Certificate { name: "guest".into() });
    let denied = |error: BusError| matches!(error, BusError::Denied { .. });
    assert!(denied(host.presence("**").await.unwrap_err()));
    assert!(denied(guest.presence("chat/lobby").await.unwrap_err()));
    assert!(denied(guest.watch_presence("chat/lobby").await.unwrap_err()));
    let garbage = host.request_bytes("$bus/presence", Bytes::from_static(b"\xff")).await.unwrap_err();
    assert!(matches!(garbage, BusError::InvalidSettings(_)), "{garbage}");
    // Who loses the right hears nothing more.
    ground.bus.set_policy(Policy::new(&AuthSettings::default()).unwrap());
    eventually("the sessions have ended", || ground.bus.stats().sessions == 0).await;
    while soon("the end", watch.recv()).await.is_some() {}
    assert!(denied(watch.close_reason().unwrap()));
}
