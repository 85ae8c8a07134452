//! Plugins: when each hook is called, and what it may do.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Semaphore;
use whispeer::auth::{Policy, Principal};
use whispeer::bus::{PluginStats, Streams};
use whispeer::client::{Event, GapReason, Message, PublishOptions, SubscribeOptions, Subscription};
use whispeer::plugin::{
    Acknowledged, Delivery, HookResult, Hooks, Plugin, Plugins, Publishing, Refused, Session, Startup,
    Subscribing, Transform,
};
use whispeer::prelude::*;
use whispeer::proto::fields::{Quality, Start};
use whispeer::proto::{Header, Kind};
use whispeer::store::{MemoryStore, Name, Reading, Store, StreamSettings};
use whispeer::transport::{Peer, memory_pair};
use whispeer_testkit::ledger::totals_balance;
use whispeer_testkit::protocols::Number;
use whispeer_testkit::relay::Relay;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::broken_links;
use crate::ground::Ground;

/// Notes what it is called for, under its name.
pub(crate) struct Witness {
    pub(crate) name: &'static str,
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    fn note(&self, what: impl std::fmt::Display) -> HookResult {
        self.seen.lock().unwrap().push(format!("{} {what}", self.name));
        Ok(())
    }
}

impl Plugin for Witness {
    fn name(&self) -> &str {
        self.name
    }

    async fn on_init(&self, bus: &Startup) -> HookResult {
        self.note(format_args!("init with {} addresses", bus.addresses.len()))
    }

    async fn on_connect(&self, session: &Session) -> HookResult {
        self.note(format_args!("connect {} over {}", session.name, session.transport))
    }

    async fn on_subscribe(&self, subscribing: &Subscribing) -> HookResult {
        self.note(format_args!("subscribe {}", subscribing.pattern))
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        let payload = String::from_utf8_lossy(message.payload()).into_owned();
        self.note(format_args!("publish {} {payload}", message.topic()))
    }

    fn on_deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        self.note(format_args!("deliver {} to {}", delivery.topic(), delivery.receiver().pattern))
    }

    async fn on_ack(&self, acknowledged: &Acknowledged) -> HookResult {
        self.note(format_args!("ack {} of {}", acknowledged.sequence, acknowledged.consumer))
    }

    async fn on_disconnect(&self, session: &Session, _reason: &BusError) -> HookResult {
        self.note(format_args!("disconnect {}", session.name))
    }

    async fn on_shutdown(&self) -> HookResult {
        self.note("shutdown")
    }
}

/// Withholds what says so from the patterns that its text begins with.
struct Censor;

impl Plugin for Censor {
    fn name(&self) -> &str {
        "censor"
    }

    fn hooks(&self) -> Hooks {
        Hooks::DELIVER
    }

    fn on_deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        let secret =
            delivery.payload().starts_with(b"secret") && delivery.receiver().pattern.as_str() != "**";
        if secret { Err(Refused::new("it is secret")) } else { Ok(()) }
    }
}

fn ground(plugins: impl IntoIterator<Item = Transformed>) -> Ground {
    let builder = plugins.into_iter().fold(Bus::builder(), |builder, plugin| builder.plugin(plugin));
    Ground::new(builder)
}

type Transformed = Transform<fn(&mut Publishing<'_>) -> HookResult>;

fn transform(name: &str, change: fn(&mut Publishing<'_>) -> HookResult) -> Transformed {
    Transform::new(name, change)
}

/// A client over each transport.
pub(crate) async fn clients(ground: &Ground) -> [Client; 2] {
    [ground.client(), Client::new_unix(&ground.socket()).await.unwrap()]
}

pub(crate) async fn next(subscription: &mut Subscription<Bytes>) -> Event<Bytes> {
    soon("an event", subscription.next_event()).await.unwrap()
}

pub(crate) async fn message(subscription: &mut Subscription<Bytes>) -> Message<Bytes> {
    match next(subscription).await {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn refused(result: BusResult<usize>) -> (String, String) {
    match result {
        Err(BusError::Refused { plugin, reason }) => (plugin, reason),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn stats_of(bus: &BusHandle, name: &str) -> PluginStats {
    bus.stats().plugins.into_iter().find(|plugin| plugin.name == name).unwrap()
}

#[tokio::test]
async fn hooks_are_called_in_order_and_in_reverse_on_the_way_out() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let witness = |name| Witness { name, seen: Arc::clone(&seen) };
    let bus = Bus::builder().plugin(witness("a")).plugin(witness("b")).start().unwrap();
    let client = Client::builder().name("ann").connect_memory(&bus.connector()).unwrap();
    let mut news = client.subscribe_bytes("news/*").await.unwrap();
    client.publish_bytes("news/1", "hello").await.unwrap();
    message(&mut news).await;
    drop(news);
    client.close().await.unwrap();
    bus.stop().await;
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "a init with 1 addresses",
            "b init with 1 addresses",
            "a connect ann over memory",
            "b connect ann over memory",
            "a subscribe news/*",
            "b subscribe news/*",
            "a publish news/1 hello",
            "b publish news/1 hello",
            "b deliver news/1 to news/*",
            "a deliver news/1 to news/*",
            "b disconnect ann",
            "a disconnect ann",
            "b shutdown",
            "a shutdown",
        ]
    );
}

#[tokio::test]
async fn acknowledgements_are_told_in_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let witness = |name| Witness { name, seen: Arc::clone(&seen) };
    let plugins = Plugins::new().with(witness("a")).with(transform("deaf", |_| Ok(()))).with(witness("b"));
    let session = Session::new(1, "ann", Principal::Local, "memory");
    plugins.acknowledged(&Acknowledged::new(session, "orders", "packers", 7)).await;
    assert_eq!(*seen.lock().unwrap(), ["a ack 7 of packers", "b ack 7 of packers"]);
}

#[tokio::test]
async fn a_message_is_changed_before_anybody_gets_it() {
    let ground = ground([
        transform("shout", |message| Ok(message.set_payload(message.payload().to_ascii_uppercase())?)),
        transform("move", |message| {
            let moved = format!("{}/moved", message.topic());
            message.set_topic(moved)?;
            message.set_header("moved", "yes");
            message.remove_header("secret");
            Ok(())
        }),
    ]);
    for publisher in clients(&ground).await {
        for receiver in clients(&ground).await {
            let mut all = receiver.subscribe_bytes("news/**").await.unwrap();
            let options = PublishOptions::default().header("shop", "7").header("secret", "1234");
            assert_eq!(publisher.publish_bytes_with("news/1", "hello", options).await.unwrap(), 1);
            let message = message(&mut all).await;
            assert_eq!((message.topic.as_str(), message.value), ("news/1/moved", "HELLO".into()));
            let headers: Vec<_> = message.headers.iter().collect();
            assert_eq!(headers, [("shop", "7"), ("moved", "yes")]);
        }
    }
}

#[tokio::test]
async fn what_is_refused_reaches_nobody_and_its_publisher_learns_why() {
    let ground = ground([transform("short", |message| match message.payload().len() {
        0..=5 => Ok(()),
        long => Err(Refused::new(format!("{long} bytes are too many"))),
    })]);
    for client in clients(&ground).await {
        let mut news = client.subscribe_bytes("news").await.unwrap();
        let told = refused(client.publish_bytes("news", "too long").await);
        assert_eq!(told, ("short".into(), "8 bytes are too many".into()));
        // Also where nobody waits for the answer.
        client.publisher_bytes("news").unwrap().send(&"too long".into()).await.unwrap();
        client.publish_bytes("news", "short").await.unwrap();
        assert_eq!(message(&mut news).await.value, "short");
    }
    assert_eq!(stats_of(&ground.bus, "short").refused, 4);
    assert_eq!(ground.bus.stats().failed_publishes, 4);
}

#[tokio::test]
async fn each_of_many_messages_that_come_at_once_is_seen_in_its_order() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let number = Transform::new("number", move |message: &mut Publishing<'_>| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let numbered = [message.payload(), b" ", number.to_string().as_bytes()].concat();
        Ok(message.set_payload(numbered)?)
    });
    const EACH: usize = 5_000;
    let ground = Ground::new(Bus::builder().workers(2).plugin(number));
    for (round, publisher) in clients(&ground).await.into_iter().enumerate() {
        let [within, outside] = clients(&ground).await;
        let mut readers =
            [within.subscribe_bytes("log").await.unwrap(), outside.subscribe_bytes("log").await.unwrap()];
        let publishing = async {
            let log = publisher.publisher_bytes("log").unwrap();
            for number in 0..EACH {
                log.send(&number.to_string().into()).await.unwrap();
            }
            log.flush().await.unwrap();
        };
        let [one, two] = &mut readers;
        let reading = async |reader: &mut Subscription<Bytes>| {
            for number in 0..EACH {
                let value = message(reader).await.value;
                assert_eq!(value, format!("{number} {}", round * EACH + number));
            }
        };
        tokio::join!(publishing, reading(one), reading(two));
    }
}

#[tokio::test]
async fn a_publisher_gets_the_credit_back_that_it_has_spent_whatever_a_message_has_become() {
    let ground = ground([
        transform("grow", |message| match message.topic().as_str() {
            "grow" => Ok(message.set_payload(message.payload().repeat(100))?),
            _ => Ok(()),
        }),
        transform("shrink", |message| match message.topic().as_str() {
            "shrink" => Ok(message.set_payload("x")?),
            _ => Ok(()),
        }),
    ]);
    for client in clients(&ground).await {
        for (topic, size) in [("grow", 100), ("shrink", 10_000)] {
            let options = SubscribeOptions::default().window(16, 1024 * 1024);
            let mut slow = client.subscribe_bytes_with(topic, options).await.unwrap();
            let payload = Bytes::from(vec![b'x'; size]);
            // Several windows for publishes, in messages and in bytes; some are parked.
            let publishing = async {
                let publisher = client.publisher_bytes(topic).unwrap();
                for _ in 0..4_000 {
                    publisher.send(&payload).await.unwrap();
                }
                publisher.flush().await.unwrap();
            };
            let reading = async {
                for _ in 0..4_000 {
                    let expected = if topic == "grow" { 10_000 } else { 1 };
                    assert_eq!(message(&mut slow).await.value.len(), expected);
                }
            };
            tokio::join!(publishing, reading);
        }
        client.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_that_was_changed_is_checked_as_if_it_had_been_published_to() {
    let ground = ground([transform("move", |message| {
        let to = String::from_utf8(message.payload().to_vec()).unwrap_or_default();
        Ok(message.set_topic(to)?)
    })]);
    for client in clients(&ground).await {
        let moved = |to: &str| client.publish_bytes("news", to.to_owned());
        assert!(matches!(moved("a//b").await, Err(BusError::InvalidTopic(_))));
        assert!(matches!(moved("$bus/stats").await, Err(BusError::ReservedTopic { .. })));
        assert_eq!(moved("elsewhere").await.unwrap(), 0);
    }
    let settings = toml::from_str(
        r#"
        [roles.sensor]
        publish.allow = ["sensors/**", "news"]
        [[certificates]]
        name = "kitchen"
        roles = ["sensor"]
        "#,
    );
    let policy = Policy::new(&settings.unwrap()).unwrap();
    let redirect: Transformed = transform("move", |message| {
        let to = String::from_utf8(message.payload().to_vec()).unwrap_or_default();
        Ok(message.set_topic(to)?)
    });
    let bus = Bus::builder().policy(policy).plugin(redirect).start().unwrap();
    let (own, theirs) = memory_pair();
    bus.attach(own, Peer::new(Principal::Certificate { name: "kitchen".into() }, "memory")).unwrap();
    let kitchen = Client::builder().connect_link(theirs).unwrap();
    for _ in 0..3 {
        assert_eq!(kitchen.publish_bytes("news", "sensors/kitchen").await.unwrap(), 0);
        let denied = kitchen.publish_bytes("news", "doors/open").await;
        assert!(matches!(denied, Err(BusError::Denied { .. })), "{denied:?}");
        let denied = kitchen.publish_bytes("doors/open", "sensors/kitchen").await;
        assert!(matches!(denied, Err(BusError::Denied { .. })), "what may not be published is not seen");
    }
}

#[tokio::test]
async fn a_message_to_several_topics_is_seen_for_each_of_them() {
    let ground = ground([transform("mark", |message| {
        match message.topic().as_str() {
            "number/forbidden" => return Err(Refused::new("not there")),
            "number/b" => message.set_topic("number/c")?,
            _ => {}
        }
        let topic = message.topic().to_string();
        message.set_header("seen", topic);
        Ok(())
    })]);
    for client in clients(&ground).await {
        let mut all = client.subscribe_bytes("number/*").await.unwrap();
        let mut moved = client.subscribe_bytes("number/c").await.unwrap();
        assert_eq!(client.publish_many(&["a", "b"], &Number(7)).await.unwrap(), 2);
        let (all, moved) = (message(&mut all).await, message(&mut moved).await);
        assert_eq!((all.topic.as_str(), all.headers.find("seen")), ("number/a", Some("number/a")));
        assert_eq!((moved.topic.as_str(), moved.headers.find("seen")), ("number/c", Some("number/c")));
        let told = refused(client.publish_many(&["a", "forbidden"], &Number(7)).await);
        assert_eq!(told, ("mark".into(), "not there".into()));
    }
    eventually("all balances", || totals_balance(&ground.bus.stats()).is_ok()).await;
}

#[tokio::test]
async fn a_value_of_the_process_is_shown_as_bytes_and_stays_one() {
    let ground = ground([transform("odd", |message| {
        let value: u64 =
            rmp_serde::from_slice(message.payload()).map_err(|error| Refused::new(error.to_string()))?;
        match value % 2 {
            1 => Ok(()),
            _ => Ok(message.set_payload(rmp_serde::to_vec(&(value + 1)).unwrap_or_default())?),
        }
    })]);
    for publisher in clients(&ground).await {
        for receiver in clients(&ground).await {
            let mut numbers = receiver.subscribe::<Number>("**").await.unwrap();
            for number in [7, 8] {
                publisher.publish("x", &Number(number)).await.unwrap();
            }
            for expected in [7, 9] {
                assert_eq!(soon("a number", numbers.recv()).await.unwrap().1, Number(expected));
            }
        }
    }
}

#[tokio::test]
async fn what_is_withheld_is_a_gap_and_counts_as_dropped() {
    let ground = Ground::new(Bus::builder().plugin(Censor));
    for client in clients(&ground).await {
        let mut open = client.subscribe_bytes("**").await.unwrap();
        let mut closed = client.subscribe_bytes("news").await.unwrap();
        let mut group =
            client.subscribe_bytes_with("news", SubscribeOptions::default().group("desk")).await.unwrap();
        for payload in ["one", "secret two", "secret three", "four"] {
            assert_eq!(client.publish_bytes("news", payload).await.unwrap(), 3);
        }
        for expected in ["one", "secret two", "secret three", "four"] {
            assert_eq!(message(&mut open).await.value, expected);
        }
        for reader in [&mut closed, &mut group] {
            assert_eq!(message(reader).await.value, "one");
            let mut withheld = 0;
            let four = loop {
                match next(reader).await {
                    Event::Gap { count, reason: GapReason::Withheld } => withheld += count,
                    Event::Message(message) => break message.value,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((withheld, four), (2, "four".into()));
            assert_eq!(reader.counts().dropped(), 2);
        }
        totals_balance(&ground.bus.stats()).unwrap();
        let rows = ground.bus.subscriptions();
        for row in rows.iter().filter(|row| row.pattern == "news" && row.group.is_none()) {
            let dropped: u64 = row.dropped.values().sum();
            assert_eq!((row.matched, row.delivered, dropped), (4, 2, 2));
            assert_eq!(row.dropped.get("withheld"), Some(&2));
        }
    }
    assert_eq!(stats_of(&ground.bus, "censor").withheld, 8);
}

#[tokio::test]
async fn what_is_withheld_keeps_its_place_behind_what_waits_for_credit() {
    let ground = Ground::new(Bus::builder().plugin(Censor));
    for client in clients(&ground).await {
        let options = SubscribeOptions::default().window(1, 1024);
        let mut news = client.subscribe_bytes_with("news", options).await.unwrap();
        for payload in ["one", "two", "secret", "three"] {
            client.publish_bytes("news", payload).await.unwrap();
        }
        let mut order = String::new();
        for _ in 0..4 {
            match next(&mut news).await {
                Event::Message(message) => {
                    write!(order, "{} ", String::from_utf8_lossy(&message.value)).unwrap()
                }
                Event::Gap { count, reason } => write!(order, "{}:{count} ", reason.name()).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order, "one two withheld:1 three ");
    }
}

#[tokio::test]
async fn plugins_act_before_a_message_is_stored_and_when_it_is_read() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let name = || Name::new("log").unwrap();
    let settings = StreamSettings::new(name(), vec![TopicPattern::new("log/**").unwrap()]);
    let streams = Streams::open(Arc::clone(&store), [settings]).await.unwrap();
    let shout = transform("shout", |message| match message.payload() {
        b"bad" => Err(Refused::new("bad")),
        b"secret" => Ok(()),
        payload => {
            let loud = [payload.to_ascii_uppercase(), vec![b'!'; 1_000]].concat();
            message.set_payload(loud)?;
            Ok(message.set_topic("log/loud")?)
        }
    });
    let ground = Ground::new(Bus::builder().streams(streams).plugin(shout).plugin(Censor));
    let kept = || PublishOptions::default().quality(Quality::AtLeastOnce);
    for client in clients(&ground).await {
        let mut live = client.subscribe_bytes("**").await.unwrap();
        client.publish_bytes_with("log/1", "hello", kept()).await.unwrap();
        // It lies in no stream before it is moved.
        client.publish_bytes_with("elsewhere", "world", kept()).await.unwrap();
        assert_eq!(refused(client.publish_bytes_with("log/1", "bad", kept()).await).1, "bad");
        client.publish_bytes_with("log/loud", "secret", kept()).await.unwrap();
        for expected in ["HELLO!", "WORLD!", "secret"] {
            let message = message(&mut live).await;
            assert_eq!(message.topic.as_str(), "log/loud");
            assert!(message.value.starts_with(expected.as_bytes()), "{message:?}");
        }
        // More than a window for publishes: the credit of what was changed comes back whole.
        let publisher = client.publisher_bytes("log/1").unwrap();
        for _ in 0..3_000 {
            publisher.send(&"hello".into()).await.unwrap();
        }
        publisher.flush().await.unwrap();
    }
    let stored = store.read(name(), Reading::from(1, 0)).await.unwrap().messages;
    assert!(stored.iter().all(|message| message.topic.as_str() == "log/loud"));
    assert!(stored.iter().all(|message| &*message.payload != b"bad"));

    let from_the_start = SubscribeOptions::default().start(Start::All);
    let mut read = ground.client().subscribe_bytes_with("log/*", from_the_start).await.unwrap();
    assert!(message(&mut read).await.value.starts_with(b"HELLO!"));
    assert!(message(&mut read).await.value.starts_with(b"WORLD!"));
    assert!(matches!(next(&mut read).await, Event::Gap { count: 1, reason: GapReason::Withheld }));
    for _ in 0..3_000 {
        assert!(message(&mut read).await.value.starts_with(b"HELLO!"));
    }
}

#[tokio::test]
async fn what_comes_later_is_judged_as_its_sessions_and_shown_when_it_is_delivered() {
    let seal = transform("seal", |message| match message.payload() {
        b"bad" => Err(Refused::new("bad")),
        payload => {
            let secret = [b"secret ", payload].concat();
            message.set_payload(secret)?;
            Ok(())
        }
    });
    let ground = Ground::new(Bus::builder().plugin(seal).plugin(Censor));
    let reader = ground.client();
    let mut open = reader.subscribe_bytes("**").await.unwrap();
    let mut closed = reader.subscribe_bytes("news").await.unwrap();
    let later = || PublishOptions::default().deliver_in(std::time::Duration::from_millis(10));
    assert_eq!(refused(reader.publish_bytes_with("news", "bad", later()).await).1, "bad");
    reader.publish_bytes_with("news", "delayed", later()).await.unwrap();
    assert_eq!(message(&mut open).await.value, "secret delayed", "it is shown once");
    for will in ["bad", "left"] {
        for mut peer in ground.peers().await {
            peer.send(&Header::new(Kind::Will, 1, 0), "news", will.as_bytes()).await.unwrap();
            let answer = peer.receive().await.unwrap().unwrap();
            assert_eq!((answer.header.kind, answer.header.answers()), (Kind::Accepted, Some(Kind::Will)));
        }
    }
    for _ in 0..2 {
        assert_eq!(message(&mut open).await.value, "secret left", "a will that is refused is not published");
    }
    let mut withheld = 0;
    while withheld < 3 {
        match next(&mut closed).await {
            Event::Gap { count, reason: GapReason::Withheld } => withheld += count,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((withheld, stats_of(&ground.bus, "seal").refused), (3, 3));
}

#[tokio::test]
async fn somebody_who_is_turned_away_learns_why_and_plugins_that_let_him_in_hear_of_it() {
    struct Doorman;
    impl Plugin for Doorman {
        fn name(&self) -> &str {
            "doorman"
        }
        fn hooks(&self) -> Hooks {
            Hooks::CONNECT
        }
        async fn on_connect(&self, session: &Session) -> HookResult {
            match &*session.name {
                "eve" => Err(Refused::new("not you")),
                _ => Ok(()),
            }
        }
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let witness = Witness { name: "witness", seen: Arc::clone(&seen) };
    let bus = Bus::builder().plugin(witness).plugin(Doorman).start().unwrap();
    let eve = Client::builder().name("eve").connect_memory(&bus.connector()).unwrap();
    let told = refused(eve.publish_bytes("news", "x").await);
    assert_eq!(told, ("doorman".into(), "not you".into()));
    assert_eq!(seen.lock().unwrap()[1..], ["witness connect eve over memory", "witness disconnect eve"]);
    let ann = Client::builder().name("ann").connect_memory(&bus.connector()).unwrap();
    ann.ping().await.unwrap();
    let stats = bus.stats();
    assert_eq!((stats.sessions, stats.sessions_total, stats.sessions_cut_off), (1, 1, 1));
}

/// Waits for a permit before it lets somebody subscribe.
struct Gate(Arc<Semaphore>);

impl Plugin for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    fn hooks(&self) -> Hooks {
        Hooks::SUBSCRIBE
    }

    async fn on_subscribe(&self, subscribing: &Subscribing) -> HookResult {
        if subscribing.header("hurry").is_some() {
            return Err(Refused::new(format!("no hurry with {}", subscribing.pattern)));
        }
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
        Ok(())
    }
}

#[tokio::test]
async fn while_plugins_are_asked_about_a_subscription_its_session_goes_on() {
    let permits = Arc::new(Semaphore::new(0));
    let ground = Ground::new(Bus::builder().plugin(Gate(Arc::clone(&permits))));
    for client in clients(&ground).await {
        let subscribing = tokio::spawn({
            let client = client.clone();
            async move { client.subscribe_bytes("news").await }
        });
        assert_eq!(client.publish_bytes("news", "before").await.unwrap(), 0);
        let hasty = SubscribeOptions::default().header("hurry", "yes");
        permits.add_permits(1);
        let mut news = soon("the subscription", subscribing).await.unwrap().unwrap();
        assert_eq!(client.publish_bytes("news", "after").await.unwrap(), 1);
        assert_eq!(message(&mut news).await.value, "after");
        let hasty = client.subscribe_bytes_with("news", hasty).await.map(|_| 0);
        assert_eq!(refused(hasty).1, "no hurry with news");
    }
}

#[tokio::test]
async fn a_subscription_that_is_given_up_while_plugins_are_asked_does_not_come_to_be() {
    let permits = Arc::new(Semaphore::new(0));
    let ground = Ground::new(Bus::builder().plugin(Gate(Arc::clone(&permits))));
    for client in clients(&ground).await {
        let given_up = now_or_never(client.subscribe_bytes("news")).await;
        assert!(given_up.is_none());
        client.ping().await.unwrap();
        permits.add_permits(1);
        let kept = soon("another one", client.subscribe_bytes("other")).await.unwrap();
        assert_eq!(ground.bus.subscriptions().len(), 1);
        assert_eq!(client.publish_bytes("news", "to nobody").await.unwrap(), 0);
        drop(kept);
        eventually("it has ended", || ground.bus.subscriptions().is_empty()).await;
    }
}

#[tokio::test]
async fn plugins_are_told_of_every_session_that_ends_before_they_shut_down() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let witness = Witness { name: "witness", seen: Arc::clone(&seen) };
    let ground = Ground::new(Bus::builder().workers(1).plugin(witness));
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.extend(self::clients(&ground).await);
    }
    for client in &clients {
        client.ping().await.unwrap();
    }
    drop(clients.split_off(5));
    ground.bus.stop().await;
    let seen = seen.lock().unwrap();
    let count = |what: &str| seen.iter().filter(|seen| seen.contains(what)).count();
    assert_eq!((count(" connect"), count("disconnect")), (10, 10));
    assert_eq!(seen.last().unwrap(), "witness shutdown");
}

#[tokio::test]
async fn plugins_of_a_bus_have_different_names() {
    let name = |name: &str| transform(name, |_| Ok(()));
    for plugins in [vec!["a", "b", "a"], vec![""], vec!["a\nb"], vec!["x"; 65]] {
        let builder = plugins.iter().fold(Bus::builder(), |builder, own| builder.plugin(name(own)));
        assert!(matches!(builder.start(), Err(BusError::InvalidSettings(_))), "{plugins:?}");
    }
    let long = "x".repeat(65);
    assert!(Bus::builder().plugin(name(&long)).start().is_err());
}

#[tokio::test]
async fn a_message_that_has_become_too_large_is_refused() {
    let ground = ground([transform("grow", |message| match message.payload() {
        b"payload" => Ok(message.set_payload(vec![0; 17 * 1024 * 1024])?),
        _ => {
            message.set_header("long", "x".repeat(70_000));
            Ok(())
        }
    })]);
    for client in clients(&ground).await {
        let large = client.publish_bytes("news", "payload").await;
        assert!(matches!(large, Err(BusError::FrameTooLarge { .. })), "{large:?}");
        let large = client.publish_bytes("news", "header").await;
        assert!(matches!(large, Err(BusError::HeadersTooLarge { .. })), "{large:?}");
    }
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn what_is_sealed_is_neither_read_nor_changed_but_for_its_headers() {
    use whispeer::engine::Engines;
    use whispeer::engine::encryption::{Encryption, Key, Keyring};

    let ground = ground([transform("meddler", |message| match message.topic().as_str() {
        "payload" => Ok(message.set_payload("mine")?),
        "topic" => Ok(message.set_topic("mine")?),
        "read" => Ok(message.require_open()?),
        _ => {
            assert!(message.is_sealed());
            message.set_header("seen", "yes");
            Ok(())
        }
    })]);
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
    let within = Client::builder().engines(engines.clone()).connect_memory(&ground.bus.connector()).unwrap();
    let socket = ground.socket();
    let outside = Client::builder().engines(engines).connect(socket.to_str().unwrap()).await.unwrap();
    for client in [within, outside] {
        for topic in ["payload", "topic", "read"] {
            match client.publish_bytes(topic, "eagle").await {
                Err(BusError::Sealed { topic: told, what }) => {
                    assert_eq!(told, topic);
                    assert!(what.contains("\"meddler\""), "{what}");
                }
                other => panic!("{other:?}"),
            }
        }
        let mut secrets = client.subscribe_bytes("secrets").await.unwrap();
        client.publish_bytes("secrets", "eagle").await.unwrap();
        let message = message(&mut secrets).await;
        assert_eq!((message.value, message.headers.find("seen")), ("eagle".into(), Some("yes")));
    }
    let plain = ground.client().publish_bytes("payload", "eagle").await;
    assert_eq!(plain.unwrap(), 0, "what is not sealed may be changed");
}

#[tokio::test]
async fn a_payload_that_would_be_taken_for_a_sealed_one_is_not_to_be_had() {
    let ground = ground([transform("forger", |message| Ok(message.set_payload(&b"\xC1\x57\x01\x00x"[..])?))]);
    let forged = ground.client().publish_bytes("news", "x").await;
    assert!(matches!(forged, Err(BusError::InvalidSettings(_))), "{forged:?}");
}

#[tokio::test]
async fn thousands_of_subscriptions_that_plugins_are_asked_about_come_in_their_order() {
    const MANY: usize = 3_000;
    let permits = Arc::new(Semaphore::new(0));
    let ground = Ground::new(Bus::builder().plugin(Gate(Arc::clone(&permits))));
    for client in clients(&ground).await {
        let asked: Vec<_> = (0..MANY)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move { client.subscribe_bytes(&format!("many/{number}")).await })
            })
            .collect();
        // Those in between are given up, and the others come to be.
        client.ping().await.unwrap();
        let kept: Vec<_> = asked
            .into_iter()
            .enumerate()
            .filter_map(|(index, asked)| {
                if index % 3 == 1 {
                    asked.abort();
                    return None;
                }
                Some(asked)
            })
            .collect();
        client.ping().await.unwrap();
        permits.add_permits(MANY);
        let mut subscriptions = Vec::new();
        for asked in kept {
            subscriptions.push(soon("a subscription", asked).await.unwrap().unwrap());
        }
        eventually("no others are left", || ground.bus.subscriptions().len() == subscriptions.len()).await;
        drop(subscriptions);
        eventually("all have ended", || ground.bus.subscriptions().is_empty()).await;
        permits.forget_permits(MANY);
    }
}

#[tokio::test]
async fn who_comes_back_to_his_session_does_not_connect_anew() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let witness = Witness { name: "witness", seen: Arc::clone(&seen) };
    let bus = Bus::builder().plugin(witness).listen(&"tcp://127.0.0.1:0".parse().unwrap()).start().unwrap();
    let ground = broken_links::Ground { relay: Relay::to(broken_links::port(&bus)).await.unwrap(), bus };
    let client = ground.client().await;
    let mut events = client.events();
    let mut news = client.subscribe_bytes("news").await.unwrap();
    for round in 0..3 {
        ground.relay.cut();
        assert!(broken_links::back(&mut events).await, "the session goes on");
        client.publish_bytes("news", round.to_string()).await.unwrap();
        assert_eq!(message(&mut news).await.value, round.to_string());
    }
    client.close().await.unwrap();
    ground.bus.stop().await;
    let seen = seen.lock().unwrap();
    let count = |what: &str| seen.iter().filter(|seen| seen.contains(what)).count();
    assert_eq!((count(" connect"), count(" subscribe"), count("disconnect")), (1, 1, 1));
}
