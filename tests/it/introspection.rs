//! What the bus tells about itself, and to whom.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use whispeer::auth::Principal;
use whispeer::bus::{
    BusStats, Rows, ServedStats, SessionStats, StopRequest, StreamStats, Streams, SubscriptionStats,
};
use whispeer::client::ManyOptions;
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};
use whispeer_testkit::wait::soon;

use crate::ground::{Ground, settings};

async fn ask<T: DeserializeOwned>(client: &Client, topic: &str) -> T {
    rmp_serde::from_slice(&client.request_bytes(topic, Bytes::new()).await.unwrap()).unwrap()
}

#[tokio::test]
async fn local_clients_and_the_own_user_may_ask_the_bus_about_itself() {
    let ground = Ground::new(Bus::builder());
    let inside = Client::builder().name("inside").connect_memory(&ground.bus.connector()).unwrap();
    let outside = Client::new_unix(&ground.socket()).await.unwrap();
    let _subscription = inside.subscribe_bytes("news/*").await.unwrap();
    let _serving = outside.serve_bytes("work").await.unwrap();
    outside.publish_bytes("news/today", "nothing").await.unwrap();
    for client in [&inside, &outside] {
        let stats: BusStats = ask(client, "$bus/stats").await;
        assert_eq!((stats.sessions, stats.subscriptions, stats.served_topics), (2, 1, 1));
        assert_eq!((stats.published, stats.delivered, stats.bus_id), (1, 1, client.bus_id().unwrap()));
        let sessions: Rows<SessionStats> = ask(client, "$bus/sessions").await;
        let names: Vec<_> = sessions.rows.iter().map(|row| row.name.as_str()).collect();
        assert!(names.contains(&"inside") && names.len() == 2 && sessions.left_out == 0, "{names:?}");
        let subscriptions: Rows<SubscriptionStats> = ask(client, "$bus/subscriptions").await;
        let row = &subscriptions.rows[0];
        assert_eq!((row.pattern.as_str(), row.matched, row.delivered), ("news/*", 1, 1));
        let served: Rows<ServedStats> = ask(client, "$bus/served").await;
        assert_eq!(served.rows.len(), 1, "the bus's own servings are not listed");
        assert_eq!(served.rows[0].topic, "work");
    }
}

#[tokio::test]
async fn streams_are_told_with_what_they_have_and_a_store_that_fails_holds_nothing_else_up() {
    let settings = |name: &str| {
        let pattern = TopicPattern::new(format!("{name}/**")).unwrap();
        StreamSettings::new(Name::new(name).unwrap(), vec![pattern])
    };
    let (one, two) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let first = Streams::open(one.clone(), [settings("orders"), settings("bills")]).await.unwrap();
    let second = Streams::open(two.clone(), [settings("logs")]).await.unwrap();
    let bus = Bus::builder().streams(first.and(&second).unwrap()).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    for number in 0..3 {
        client.publish_bytes("orders/7", number.to_string()).await.unwrap();
    }
    let told: Rows<StreamStats> = ask(&client, "$bus/streams").await;
    let names: Vec<_> = told.rows.iter().map(|row| (row.name.as_str(), row.messages, row.next)).collect();
    assert_eq!(names, [("orders", 3, 4), ("bills", 0, 1), ("logs", 0, 1)]);
    let orders = &told.rows[0];
    assert_eq!(
        (orders.patterns.as_slice(), orders.storage.as_str()),
        (&["orders/**".to_owned()][..], "memory")
    );
    assert!(orders.first == 1 && orders.bytes > 0 && orders.epoch.len() == 32 && orders.problem.is_none());
    two.close().await.unwrap();
    let told: Rows<StreamStats> = ask(&client, "$bus/streams").await;
    let problems: Vec<_> = told.rows.iter().map(|row| row.problem.as_deref()).collect();
    assert_eq!(problems, [None, None, Some("the store is closed")]);
    let stats: BusStats = ask(&client, "$bus/stats").await;
    assert_eq!(stats.published, 3);
}

#[tokio::test]
async fn what_does_not_fit_one_frame_is_left_out_and_counted() {
    const ROWS: usize = 1_000;
    let ground = Ground::new(settings(|settings| settings.frame_limit = 128 * 1024));
    let client = Client::new_unix(&ground.socket()).await.unwrap();
    let (mut subscriptions, mut servings) = (Vec::new(), Vec::new());
    for number in 0..ROWS {
        let topic = format!("{}/{number}", "x".repeat(250));
        subscriptions.push(client.subscribe_bytes(&topic).await.unwrap());
        servings.push(client.serve_bytes(&topic).await.unwrap());
    }
    let shown: Rows<SubscriptionStats> = ask(&client, "$bus/subscriptions").await;
    assert_eq!(shown.rows.len() + shown.left_out, ROWS);
    assert!(shown.rows.len() > 250, "{} rows are shown", shown.rows.len());
    let shown: Rows<ServedStats> = ask(&client, "$bus/served").await;
    assert_eq!(shown.rows.len() + shown.left_out, ROWS);
    assert!(shown.rows.len() > 250, "{} rows are shown", shown.rows.len());
    let shown: Rows<SessionStats> = ask(&client, "$bus/sessions").await;
    assert_eq!((shown.rows.len(), shown.left_out), (1, 0));
}

#[tokio::test]
async fn another_user_may_use_the_bus_and_not_read_its_topics() {
    let ground = Ground::new(Bus::builder());
    let stranger = Principal::Unix { uid: u32::MAX - 1, gid: u32::MAX - 1, pid: None };
    let link = ground.bus.connector().connect_as(stranger).unwrap();
    let client = Client::builder().connect_link(link).unwrap();
    for topic in ["$bus/stats", "$bus/sessions", "$bus/stop", "$other"] {
        let refused = client.request_bytes(topic, Bytes::new()).await;
        assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
        let refused = client.subscribe_bytes(topic).await;
        assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
    }
    let refused = client.request_many_bytes("$bus/*", Bytes::new(), ManyOptions::default()).await;
    assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
    let mut subscription = client.subscribe_bytes("news").await.unwrap();
    client.publish_bytes("news", "free for all").await.unwrap();
    assert_eq!(subscription.recv().await.unwrap().1, "free for all");
}

#[tokio::test]
async fn a_bus_stops_when_its_own_user_asks_for_it_as_it_has_to_be_asked() {
    let mut ground = Ground::new(Bus::builder());
    let client = Client::new_unix(&ground.socket()).await.unwrap();
    let by_mistake = client.request_bytes("$bus/stop", Bytes::new()).await;
    assert!(by_mistake.unwrap_err().to_string().contains("grace_ms"));
    client.ping().await.unwrap();
    let asked = ground.bus.asked_to_stop();
    client.request_bytes("$bus/stop", StopRequest { grace_ms: 60_000 }.to_bytes()).await.unwrap();
    assert_eq!(soon("the owner is told", asked).await, Duration::from_secs(60));
    soon("the end of the bus", ground.bus.join()).await;
    soon("the end of the client", client.closed()).await;
    assert!(matches!(client.close_reason(), Some(BusError::Closed { .. })), "{:?}", client.close_reason());
}

#[tokio::test]
async fn a_bus_that_drains_still_tells_of_itself_and_can_be_asked_to_end_sooner() {
    let mut ground = Ground::new(Bus::builder());
    let client = ground.client();
    let mut serving = client.serve_bytes("slow").await.unwrap();
    let asker = client.clone();
    let _slow = tokio::spawn(async move { asker.request_bytes("slow", Bytes::new()).await });
    let _held = soon("the request", serving.recv()).await.unwrap();
    client.request_bytes("$bus/stop", StopRequest { grace_ms: 3_600_000 }.to_bytes()).await.unwrap();
    let stats: BusStats = ask(&client, "$bus/stats").await;
    assert!(stats.draining);
    client.request_bytes("$bus/stop", StopRequest { grace_ms: 0 }.to_bytes()).await.unwrap();
    soon("the end of the bus", ground.bus.join()).await;
}
