//! What becomes of the bus when a plugin fails.

use std::future::pending;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use whispeer::client::{Event, GapReason};
use whispeer::plugin::{
    Acknowledged, Delivery, HookResult, Hooks, OnFailure, Plugin, Publishing, Refused, Session, Startup,
    Subscribing,
};
use whispeer::prelude::*;
use whispeer_testkit::ledger::totals_balance;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::Ground;
use crate::orders::{self, LONG};
use crate::plugins::{Witness, clients, message, next, refused, stats_of};

/// Fails as it is told.
struct Faulty {
    hooks: Hooks,
    on_failure: OnFailure,
}

impl Faulty {
    fn at(hooks: Hooks) -> Self {
        Self { hooks, on_failure: OnFailure::Refuse }
    }

    fn harmless(hooks: Hooks) -> Self {
        Self { hooks, on_failure: OnFailure::GoOn }
    }
}

impl Plugin for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn hooks(&self) -> Hooks {
        self.hooks
    }

    fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    async fn on_init(&self, _bus: &Startup) -> HookResult {
        Err(Refused::new("no disk"))
    }

    async fn on_connect(&self, _session: &Session) -> HookResult {
        pending().await
    }

    async fn on_subscribe(&self, _subscribing: &Subscribing) -> HookResult {
        panic!("subscribe")
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        message.set_payload("half done")?;
        panic!("publish")
    }

    fn on_deliver(&self, _delivery: &Delivery<'_>) -> HookResult {
        panic!("deliver")
    }

    async fn on_disconnect(&self, _session: &Session, _reason: &BusError) -> HookResult {
        panic!("disconnect")
    }

    async fn on_shutdown(&self) -> HookResult {
        panic!("shutdown")
    }
}

/// Never answers.
struct Endless(Hooks);

impl Plugin for Endless {
    fn name(&self) -> &str {
        "endless"
    }

    fn hooks(&self) -> Hooks {
        self.0
    }

    async fn on_init(&self, _bus: &Startup) -> HookResult {
        pending().await
    }

    async fn on_subscribe(&self, _subscribing: &Subscribing) -> HookResult {
        pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_does_not_answer_is_not_waited_for_and_refuses() {
    let bus = Bus::builder().plugin(Endless(Hooks::SUBSCRIBE)).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let told = refused(client.subscribe_bytes("news").await.map(|_| 0));
    assert_eq!(told.0, "endless");
    assert!(told.1.contains("has failed"), "{}", told.1);
    assert_eq!(stats_of(&bus, "endless").failed, 1);

    let bus = Bus::builder().plugin(Faulty::at(Hooks::CONNECT)).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    assert_eq!(refused(client.publish_bytes("news", "x").await).0, "faulty");
    let bus = Bus::builder().plugin(Faulty::harmless(Hooks::CONNECT)).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    assert_eq!(client.publish_bytes("news", "x").await.unwrap(), 0);
}

#[tokio::test]
async fn a_plugin_that_panics_refuses_what_it_was_asked_about_and_nothing_else() {
    let ground = Ground::new(Bus::builder().plugin(Faulty::at(Hooks::PUBLISH | Hooks::SUBSCRIBE)));
    for client in clients(&ground).await {
        for _ in 0..3 {
            assert_eq!(refused(client.publish_bytes("news", "x").await).0, "faulty");
        }
        assert_eq!(refused(client.subscribe_bytes("news").await.map(|_| 0)).0, "faulty");
        client.ping().await.unwrap();
    }
    let stats = stats_of(&ground.bus, "faulty");
    assert_eq!((stats.failed, stats.refused, stats.running), (8, 0, true));

    let ground = Ground::new(Bus::builder().plugin(Faulty::at(Hooks::DELIVER | Hooks::DISCONNECT)));
    for client in clients(&ground).await {
        let mut news = client.subscribe_bytes("news").await.unwrap();
        assert_eq!(client.publish_bytes("news", "x").await.unwrap(), 1);
        assert!(matches!(next(&mut news).await, Event::Gap { count: 1, reason: GapReason::Withheld }));
    }
    eventually("both have ended", || stats_of(&ground.bus, "faulty").failed == 4).await;
    totals_balance(&ground.bus.stats()).unwrap();
}

#[tokio::test]
async fn a_plugin_that_only_looks_on_holds_nothing_up_when_it_fails() {
    let ground = Ground::new(Bus::builder().plugin(Faulty::harmless(
        Hooks::PUBLISH | Hooks::SUBSCRIBE | Hooks::DELIVER | Hooks::DISCONNECT | Hooks::SHUTDOWN,
    )));
    for client in clients(&ground).await {
        let mut news = client.subscribe_bytes("news").await.unwrap();
        assert_eq!(client.publish_bytes("news", "as it came").await.unwrap(), 1);
        assert_eq!(message(&mut news).await.value, "as it came");
    }
    ground.bus.stop().await;
}

#[tokio::test]
async fn a_plugin_that_does_not_start_is_left_out_and_what_it_was_to_decide_is_refused() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let witness = Witness { name: "witness", seen: Arc::clone(&seen) };
    let bus =
        Bus::builder().plugin(Faulty::at(Hooks::INIT | Hooks::PUBLISH)).plugin(witness).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut news = client.subscribe_bytes("news").await.unwrap();
    assert_eq!(refused(client.publish_bytes("news", "x").await).0, "faulty");
    assert!(!stats_of(&bus, "faulty").running);
    assert!(seen.lock().unwrap().iter().any(|seen| seen.contains("subscribe news")), "others go on");
    assert!(now_or_never(news.next_event()).await.is_none());

    let bus = Bus::builder().plugin(Faulty::harmless(Hooks::INIT | Hooks::PUBLISH)).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut news = client.subscribe_bytes("news").await.unwrap();
    client.publish_bytes("news", "as it came").await.unwrap();
    assert_eq!(message(&mut news).await.value, "as it came");
}

#[tokio::test(start_paused = true)]
async fn a_bus_stops_while_a_plugin_does_not_start() {
    let bus = Bus::builder().plugin(Endless(Hooks::INIT)).start().unwrap();
    let start = tokio::time::Instant::now();
    bus.stop().await;
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// Never answers, and panics where it is given up. It only looks on.
struct Mined(Hooks);

struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("what it held");
    }
}

impl Mined {
    async fn wait() -> HookResult {
        let _mine = Mine;
        pending().await
    }
}

impl Plugin for Mined {
    fn name(&self) -> &str {
        "mined"
    }

    fn hooks(&self) -> Hooks {
        self.0
    }

    fn on_failure(&self) -> OnFailure {
        OnFailure::GoOn
    }

    async fn on_init(&self, _bus: &Startup) -> HookResult {
        Self::wait().await
    }

    async fn on_subscribe(&self, _subscribing: &Subscribing) -> HookResult {
        Self::wait().await
    }

    async fn on_ack(&self, _acknowledged: &Acknowledged) -> HookResult {
        Self::wait().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_outlives_a_plugin_that_panics_when_it_is_given_up() {
    let bus = Bus::builder().plugin(Mined(Hooks::INIT | Hooks::SUBSCRIBE)).start().unwrap();
    eventually("it is left out", || !stats_of(&bus, "mined").running).await;
    let client = Client::new_memory(&bus.connector()).unwrap();
    client.ping().await.unwrap();
    assert_eq!(stats_of(&bus, "mined").failed, 1);

    let bus = Bus::builder().plugin(Mined(Hooks::SUBSCRIBE)).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut news = client.subscribe_bytes("news").await.unwrap();
    client.publish_bytes("news", "x").await.unwrap();
    assert_eq!(message(&mut news).await.value, "x");
    assert_eq!(stats_of(&bus, "mined").failed, 1);

    let bus = Bus::builder().plugin(Mined(Hooks::INIT)).start().unwrap();
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_outlives_a_plugin_that_panics_when_it_is_given_up_at_an_acknowledgement() {
    let store = orders::store();
    let streams = orders::streams_on(&store).await;
    let bus = Bus::builder().streams(streams).plugin(Mined(Hooks::ACK)).start().unwrap();
    let client = orders::client(&bus);
    orders::publish(&client, 1..=1).await;
    let mut consumer = client.consume_bytes("orders/**", orders::billing()).await.unwrap();
    orders::next(&mut consumer).await.ack().await.unwrap();
    eventually("it is given up", || stats_of(&bus, "mined").failed == 1).await;
    orders::client(&bus).ping().await.unwrap();
}

/// Holds its thread when something is acknowledged, until it may go on.
struct Busy {
    began: Mutex<mpsc::SyncSender<()>>,
    may_end: Mutex<mpsc::Receiver<()>>,
}

impl Plugin for Busy {
    fn name(&self) -> &str {
        "busy"
    }

    fn hooks(&self) -> Hooks {
        Hooks::ACK
    }

    async fn on_ack(&self, _acknowledged: &Acknowledged) -> HookResult {
        self.began.lock().unwrap().send(()).unwrap();
        let _ = self.may_end.lock().unwrap().recv_timeout(2 * LONG);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_connects_does_not_wait_for_a_plugin_that_computes_at_an_acknowledgement() {
    let store = orders::store();
    let streams = orders::streams_on(&store).await;
    let (began, has_begun) = mpsc::sync_channel(1);
    let (end, may_end) = mpsc::sync_channel::<()>(1);
    let busy = Busy { began: Mutex::new(began), may_end: Mutex::new(may_end) };
    let bus = Bus::builder().streams(streams).plugin(busy).start().unwrap();
    let client = orders::client(&bus);
    orders::publish(&client, 1..=1).await;
    let mut consumer = client.consume_bytes("orders/**", orders::billing()).await.unwrap();
    orders::next(&mut consumer).await.ack().await.unwrap();
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(LONG)).await.unwrap().expect("it is told");
    soon("who is there goes on", client.ping()).await.unwrap();
    soon("who connects is let in", orders::client(&bus).ping()).await.unwrap();
    drop(end);
    bus.stop().await;
}

/// Lets everybody in, and counts who is there.
#[derive(Default)]
struct Door(AtomicI64);

impl Plugin for Door {
    fn name(&self) -> &str {
        "door"
    }

    fn hooks(&self) -> Hooks {
        Hooks::CONNECT | Hooks::DISCONNECT
    }

    async fn on_connect(&self, _session: &Session) -> HookResult {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn on_disconnect(&self, _session: &Session, _reason: &BusError) -> HookResult {
        self.0.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_let_in_by_one_plugin_has_left_for_it_when_the_bus_stops_while_another_is_asked() {
    let door = Arc::new(Door::default());
    let faulty = Faulty::at(Hooks::CONNECT);
    let bus = Bus::builder().plugin(Arc::clone(&door)).plugin(faulty).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let asking = tokio::spawn(async move { client.ping().await });
    while door.0.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    bus.stop().await;
    assert!(asking.await.unwrap().is_err());
    assert_eq!(door.0.load(Ordering::Relaxed), 0);
}
