//! Last wills: what is published when a client is gone without having closed its connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use whispeer::auth::{AuthSettings, Policy, Principal};
use whispeer::bus::{Settings, Streams};
use whispeer::client::{ClientBuilder, Event, Message, PublishOptions, SubscribeOptions, Subscription};
use whispeer::prelude::*;
use whispeer::proto::fields::{Quality, Start};
use whispeer::proto::{Header, Kind};
use whispeer::store::{MemoryStore, Name, StreamSettings};
use whispeer::transport::{Peer, memory_pair};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::Ground;
use crate::orders::at_once;

const WILL: Header = Header::new(Kind::Will, 1, 0);

fn options() -> PublishOptions {
    PublishOptions::default()
}

/// A client on a runtime of its own, which can be killed.
struct Doomed {
    client: Client,
    runtime: Runtime,
}

impl Doomed {
    async fn connect(connecting: impl Future<Output = BusResult<Client>> + Send + 'static) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = soon("a client", runtime.spawn(connecting)).await.unwrap().unwrap();
        Self { client, runtime }
    }

    /// Nothing of it runs on, and it says no goodbye. The handle is to be kept until that has been noticed: a driver that is in
    /// its last turn would say it for the last one.
    #[must_use]
    fn kill(self) -> Client {
        self.runtime.shutdown_background();
        self.client
    }
}

async fn doomed(ground: &Ground, over_unix: bool) -> Doomed {
    let (socket, connector) = (ground.socket(), ground.bus.connector());
    Doomed::connect(async move {
        let builder = Client::builder().no_reconnect();
        match over_unix {
            true => builder.connect(socket.to_str().unwrap()).await,
            false => builder.connect_memory(&connector),
        }
    })
    .await
}

async fn next(subscription: &mut Subscription<Bytes>) -> Message<Bytes> {
    match soon("a message", subscription.next_event()).await {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// Waits until only one session is left, and what its end has caused is done.
async fn alone(ground: &Ground, client: &Client) {
    eventually("the others are gone", || ground.bus.stats().sessions == 1).await;
    client.flush().await.unwrap();
}

#[tokio::test]
async fn the_will_of_a_client_that_is_killed_is_published() {
    for over_unix in [false, true] {
        let ground = Ground::new(Bus::builder());
        let mut workers = ground.client().subscribe_bytes("workers/*").await.unwrap();
        let doomed = doomed(&ground, over_unix).await;
        let will = options().header("shop", "7").ttl(Duration::from_secs(5));
        doomed.client.set_will_bytes("workers/7", "forgotten", options()).await.unwrap();
        doomed.client.set_will_bytes("workers/7", "gone", will).await.unwrap();
        doomed.client.publish_bytes("workers/7", "here").await.unwrap();
        assert_eq!(next(&mut workers).await.value, "here");
        let _gone = doomed.kill();
        let message = next(&mut workers).await;
        assert_eq!((message.topic.as_str(), &message.value[..]), ("workers/7", &b"gone"[..]));
        assert_eq!(message.headers.find("shop"), Some("7"));
        assert_eq!(message.expires_in, Some(Duration::from_secs(5)));
        let stats = ground.bus.stats();
        assert_eq!((stats.published, stats.matched, stats.delivered), (2, 2, 2));
    }
}

#[tokio::test]
async fn nobody_hears_of_the_will_of_a_client_that_has_closed_or_taken_it_back() {
    for over_unix in [false, true] {
        let ground = Ground::new(Bus::builder());
        let watcher = ground.client();
        let mut workers = watcher.subscribe_bytes("**").await.unwrap();
        let closed = doomed(&ground, over_unix).await;
        closed.client.set_will_bytes("workers/1", "gone", options()).await.unwrap();
        closed.client.close().await.unwrap();
        let Doomed { client: dropped, runtime } = doomed(&ground, over_unix).await;
        dropped.set_will_bytes("workers/2", "gone", options()).await.unwrap();
        drop(dropped);
        let changed = doomed(&ground, over_unix).await;
        changed.client.set_will_bytes("workers/3", "gone", options()).await.unwrap();
        changed.client.clear_will().await.unwrap();
        let _gone = changed.kill();
        alone(&ground, &watcher).await;
        assert!(now_or_never(workers.recv()).await.is_none());
        runtime.shutdown_background();
        closed.runtime.shutdown_background();
    }
}

#[tokio::test]
async fn who_is_cut_off_leaves_a_will_and_who_says_goodbye_does_not() {
    let ground = Ground::new(Bus::builder());
    let mut workers = ground.client().subscribe_bytes("workers/*").await.unwrap();
    for mut peer in ground.peers().await {
        peer.send(&WILL, "workers/good", b"gone").await.unwrap();
        assert_eq!(peer.receive().await.unwrap().unwrap().header.answers(), Some(Kind::Will));
        peer.push(&Header::new(Kind::Goodbye, 0, 0), "", &[]);
        peer.flush().await.unwrap();
    }
    for mut peer in ground.peers().await {
        peer.push(&WILL, "workers/bad", b"gone");
        // Only a bus sends this.
        peer.push(&Header::new(Kind::Welcome, 0, 0), "", &[]);
        peer.flush().await.unwrap();
        let message = next(&mut workers).await;
        assert_eq!((message.topic.as_str(), &message.value[..]), ("workers/bad", &b"gone"[..]));
    }
}

#[tokio::test]
async fn a_will_that_cannot_be_is_refused_and_the_one_before_stays() {
    #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
    struct Gone(u8);
    impl PublishProtocol for Gone {
        fn prefix() -> &'static str {
            "workers"
        }
    }
    let ground = Ground::new(Bus::builder());
    let mut all = ground.client().subscribe::<Gone>("*").await.unwrap();
    let doomed = doomed(&ground, true).await;
    let client = &doomed.client;
    client.set_will("7", &Gone(7), options()).await.unwrap();
    let kept = options().quality(Quality::AtLeastOnce);
    let refused = client.set_will_bytes("x", "x", kept).await.unwrap_err();
    assert!(matches!(refused, BusError::NotDurable { .. }), "{refused}");
    let refused = client.set_will_bytes("x", "x", options().deliver_in(Duration::from_secs(1))).await;
    assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
    let refused = client.set_will_bytes("", "x", options()).await.unwrap_err();
    assert!(matches!(refused, BusError::InvalidSettings(_)), "{refused}");
    assert!(client.set_will_bytes("$bus/x", "x", options()).await.is_err());
    let large = vec![0; whispeer::limits::FRAME_LIMIT];
    let refused = client.set_will_bytes("x", large, options()).await.unwrap_err();
    assert!(matches!(refused, BusError::FrameTooLarge { .. }), "{refused}");
    let _gone = doomed.kill();
    let (topic, Gone(number)) = soon("the will", all.recv()).await.unwrap();
    assert_eq!((topic.as_str(), number), ("7", 7));
    // A client that connects is told.
    let builder = Client::builder().will_bytes("$bus/x", "x", options());
    assert!(builder.connect(ground.socket().to_str().unwrap()).await.is_err());
}

#[tokio::test]
async fn a_will_in_a_stream_is_kept() {
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
    let streams = Streams::open(Arc::new(MemoryStore::new()), [log]).await.unwrap();
    let ground = Ground::new(Bus::builder().streams(streams));
    let watcher = ground.client();
    let mut live = watcher.subscribe_bytes("log/*").await.unwrap();
    let doomed = doomed(&ground, true).await;
    let kept = options().quality(Quality::AtLeastOnce);
    doomed.client.set_will_bytes("log/7", "gone", kept).await.unwrap();
    let _gone = doomed.kill();
    assert_eq!(next(&mut live).await.value, "gone");
    let from = SubscribeOptions::default().start(Start::All);
    let mut log = watcher.subscribe_bytes_with("log/7", from).await.unwrap();
    assert_eq!(next(&mut log).await.position.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_client_that_comes_back_in_time_is_not_gone() {
    let settings = Settings { resume_limit: Duration::from_secs(3_600), ..Settings::default() };
    let broken = crate::broken_links::Ground::with(settings).await;
    let local = Client::new_memory(&broken.bus.connector()).unwrap();
    let mut workers = local.subscribe_bytes("workers/*").await.unwrap();
    let client = broken.client().await;
    client.set_will_bytes("workers/7", "gone", options()).await.unwrap();
    let mut events = client.events();
    broken.relay.cut();
    assert!(crate::broken_links::back(&mut events).await);
    client.publish_bytes("workers/7", "here").await.unwrap();
    assert_eq!(next(&mut workers).await.value, "here");
    // Whoever does not come back is gone when the time is over.
    let shorter = Settings { resume_limit: Duration::from_millis(100), ..Settings::default() };
    broken.bus.apply(&shorter).unwrap();
    broken.relay.refuse();
    assert_eq!(next(&mut workers).await.value, "gone");
}

#[tokio::test]
async fn a_new_session_has_the_will_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let start = || Bus::builder().listen_unix(&path).start().unwrap();
    let bus = start();
    let address = path.to_str().unwrap().to_owned();
    let builder: ClientBuilder = Client::builder().reconnect(at_once());
    let doomed =
        Doomed::connect(
            async move { builder.will_bytes("workers/7", "gone", options()).connect(&address).await },
        )
        .await;
    let mut events = doomed.client.events();
    bus.stop().await;
    let bus = start();
    let watcher = Client::new_memory(&bus.connector()).unwrap();
    let mut workers = watcher.subscribe_bytes("workers/*").await.unwrap();
    soon("the client is back", async {
        while !matches!(
            events.recv().await.unwrap(),
            whispeer::client::ClientEvent::Reconnected { resumed: false }
        ) {}
    })
    .await;
    doomed.client.flush().await.unwrap();
    let _gone = doomed.kill();
    assert_eq!(next(&mut workers).await.value, "gone");
}

fn policy(publish: &str) -> Policy {
    let settings = format!(
        "[roles.clerk]\npublish.allow = [{publish}]\n\n[[certificates]]\nname = \"clerk\"\nroles = [\"clerk\"]\n"
    );
    Policy::new(&toml::from_str::<AuthSettings>(&settings).unwrap()).unwrap()
}

#[tokio::test]
async fn who_may_not_publish_there_any_more_has_no_will_there() {
    let ground = Ground::new(Bus::builder().policy(policy("\"workers/*\"")));
    let watcher = ground.client();
    let mut workers = watcher.subscribe_bytes("**").await.unwrap();
    let clerk = async || {
        let (bus_end, client_end) = memory_pair();
        let clerk = Principal::Certificate { name: "clerk".into() };
        ground.bus.attach(bus_end, Peer::new(clerk, "test")).unwrap();
        RawPeer::welcomed(client_end).await.unwrap().0
    };
    let mut denied = clerk().await;
    denied.send(&WILL, "elsewhere", b"gone").await.unwrap();
    let answer = denied.receive().await.unwrap().unwrap();
    assert_eq!((answer.header.kind, answer.header.answers()), (Kind::Failed, Some(Kind::Will)));
    drop(denied);
    let mut allowed = clerk().await;
    allowed.send(&WILL, "workers/7", b"gone").await.unwrap();
    assert_eq!(allowed.receive().await.unwrap().unwrap().header.kind, Kind::Accepted);
    ground.bus.set_policy(policy("\"other/*\""));
    drop(allowed);
    eventually("it is not published", || ground.bus.stats().lapsed == 1).await;
    alone(&ground, &watcher).await;
    assert!(now_or_never(workers.recv()).await.is_none());
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn a_sealed_will_is_opened_however_much_has_come_since() {
    use whispeer::engine::Engines;
    use whispeer::engine::encryption::{Encryption, Key, Keyring};

    let ground = Ground::new(Bus::builder());
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let engines = || Engines::new().with(Encryption::new(&keyring).unwrap());
    let reader = Client::builder().engines(engines()).connect_memory(&ground.bus.connector()).unwrap();
    let mut all = reader.subscribe_bytes("**").await.unwrap();
    let (connector, engines) = (ground.bus.connector(), engines());
    let doomed =
        Doomed::connect(async move { Client::builder().engines(engines).connect_memory(&connector) }).await;
    doomed.client.set_will_bytes("workers/7", "gone", options()).await.unwrap();
    let later = options().deliver_in(Duration::from_millis(1));
    let publisher = doomed.client.publisher_bytes("log").unwrap();
    for round in 0..=whispeer::limits::REPLAY_WINDOW {
        publisher.send(&"x".into()).await.unwrap();
        assert_eq!(next(&mut all).await.value, "x", "{round}");
    }
    doomed.client.publish_bytes_with("log", "later", later).await.unwrap();
    assert_eq!(next(&mut all).await.value, "later");
    drop(publisher);
    let _gone = doomed.kill();
    assert_eq!(next(&mut all).await.value, "gone");
}

#[tokio::test(start_paused = true)]
async fn a_will_finds_room_whatever_others_have_published_later() {
    let settings = Settings { byte_budget: 16 << 20, ..Settings::default() };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let hog = Client::new_memory(&bus.connector()).unwrap();
    let later = options().deliver_in(Duration::from_secs(360 * 24 * 60 * 60));
    for bytes in [1 << 20, 10_000, 0] {
        while hog.publish_bytes_with("x", vec![0; bytes], later.clone()).await.is_ok() {}
    }
    let mut workers = hog.subscribe_bytes("workers/*").await.unwrap();
    let mut doomed = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap().0;
    doomed.send(&WILL, "workers/7", &[b'g'; 100_000]).await.unwrap();
    assert_eq!(doomed.receive().await.unwrap().unwrap().header.kind, Kind::Accepted);
    drop(doomed);
    assert_eq!(next(&mut workers).await.value.len(), 100_000);
    assert_eq!(bus.stats().lapsed, 0);
}
