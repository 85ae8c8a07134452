//! The plugins that come with the library, on a bus.

use serde::{Deserialize, Serialize};
use whispeer::client::{PublishOptions, SubscribeOptions};
use whispeer::plugin::{Logging, MessageTypes, Schema};
use whispeer::prelude::*;
use whispeer_testkit::wait::soon;

use crate::ground::Ground;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    pieces: u32,
}

impl PublishProtocol for Order {
    fn prefix() -> &'static str {
        "orders"
    }
}

/// An order as an earlier release had it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OldOrder {
    customer: String,
    pieces: String,
}

impl PublishProtocol for OldOrder {
    fn prefix() -> &'static str {
        "orders"
    }
}

const SCHEMA: &str = "{customer: string, pieces: integer}";

fn order() -> Order {
    Order { customer: "ann".into(), pieces: 2 }
}

fn old_order() -> OldOrder {
    OldOrder { customer: "bob".into(), pieces: "two".into() }
}

fn schema() -> Schema {
    SCHEMA.parse().unwrap()
}

fn orders() -> TopicPattern {
    TopicPattern::new("orders/**").unwrap()
}

async fn clients(ground: &Ground) -> [Client; 2] {
    [ground.client(), Client::new_unix(&ground.socket()).await.unwrap()]
}

fn reason<T: std::fmt::Debug>(result: BusResult<T>) -> String {
    match result {
        Err(BusError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_topic_takes_only_messages_of_its_type() {
    let ground = Ground::new(Bus::builder().plugin(MessageTypes::new().typed::<Order>(orders())));
    for client in clients(&ground).await {
        let mut subscription = client.subscribe::<Order>("**").await.unwrap();
        let told = reason(client.publish("today", &old_order()).await);
        assert!(told.contains("does not decode as it::built_in_plugins::Order"), "{told}");
        assert!(told.ends_with("it is {customer: string, pieces: string}"), "{told}");
        let told = reason(client.publish_bytes("orders/x", "two apples").await);
        assert!(told.contains("does not decode"), "{told}");
        // A pattern that meets the topics, too.
        assert!(client.publish_bytes("*/x", "two apples").await.is_err());
        client.publish_bytes("elsewhere", "two apples").await.unwrap();
        client.publish("today", &order()).await.unwrap();
        assert_eq!(soon("an order", subscription.recv()).await.unwrap().1, order());
    }
}

#[tokio::test]
async fn a_topic_takes_only_messages_of_its_schema_and_says_what_differs() {
    let ground = Ground::new(Bus::builder().plugin(MessageTypes::new().schema(orders(), schema())));
    for client in clients(&ground).await {
        assert_eq!(client.publish("today", &order()).await.unwrap(), 0);
        assert_eq!(
            reason(client.publish("today", &old_order()).await),
            format!(
                "the message is not of the type of \"orders/**\", {SCHEMA}: `pieces` is a string and not an integer"
            )
        );
        let told = reason(client.publish_bytes("orders/x", &b"\x93\x01"[..]).await);
        assert!(told.contains("cannot be read"), "{told}");
    }
}

#[tokio::test]
async fn what_somebody_says_of_his_messages_has_to_fit() {
    let ground = Ground::new(Bus::builder().plugin(MessageTypes::new().schema(orders(), schema())));
    let fingerprint = schema().fingerprint();
    for client in clients(&ground).await {
        let subscribe = async |schema: &str| {
            let options = SubscribeOptions::default().header("schema", schema);
            client.subscribe_with::<Order>("*", options).await.map(drop)
        };
        subscribe(SCHEMA).await.unwrap();
        subscribe(&fingerprint).await.unwrap();
        let told = reason(subscribe("{customer: string, pieces: string}").await);
        assert!(told.ends_with("`pieces` is a string and not an integer"), "{told}");
        let told = reason(subscribe("#0123456789abcdef").await);
        assert!(told.contains(&fingerprint), "{told}");
        assert!(reason(subscribe("{customer").await).contains("not a schema"));
        client.subscribe::<OldOrder>("*").await.unwrap();

        let publish = async |schema: &str| {
            let options = PublishOptions::default().header("schema", schema);
            client.publish_with("today", &order(), options).await
        };
        publish(&fingerprint).await.unwrap();
        assert!(reason(publish("#0123456789abcdef").await).contains("fingerprint"));
    }
}

#[tokio::test]
async fn what_somebody_says_of_his_messages_is_refused_where_a_type_alone_cannot_tell_whether_it_fits() {
    let ground = Ground::new(Bus::builder().plugin(MessageTypes::new().typed::<Order>(orders())));
    for client in clients(&ground).await {
        let subscribe = async |topics: &str, schema: &str| {
            let options = SubscribeOptions::default().header("schema", schema);
            client.subscribe_bytes_with(topics, options).await.map(drop)
        };
        for said in ["{customer: string, pieces: string}", SCHEMA, "#0123456789abcdef"] {
            let told = reason(subscribe("orders/*", said).await);
            assert!(
                told.contains("\"orders/**\" has the type it::built_in_plugins::Order and no schema"),
                "{told}"
            );
            assert!(reason(subscribe("**", said).await).contains("cannot be checked"));
            let options = PublishOptions::default().header("schema", said);
            let told = reason(client.publish_with("today", &order(), options).await);
            assert!(told.starts_with("what the message says of itself cannot be checked"), "{told}");
            subscribe("elsewhere", said).await.unwrap();
        }
        assert!(reason(subscribe("orders/*", "{nothing: [of, the, kind").await).contains("not a schema"));
        client.subscribe::<Order>("*").await.unwrap();
        client.publish("today", &order()).await.unwrap();
    }
}

#[tokio::test]
async fn a_type_with_a_schema_beside_it_is_compared_with_what_somebody_says() {
    let sample = Schema::of(&order()).unwrap();
    let types = MessageTypes::new().typed::<Order>(orders()).schema(orders(), sample.clone());
    let elsewhere = TopicPattern::new("prices/*").unwrap();
    let types = types.typed::<u32>(elsewhere);
    let ground = Ground::new(Bus::builder().plugin(types));
    for client in clients(&ground).await {
        let subscribe = async |topics: &str, schema: &str| {
            let options = SubscribeOptions::default().header("schema", schema);
            client.subscribe_bytes_with(topics, options).await.map(drop)
        };
        subscribe("orders/*", &sample.fingerprint()).await.unwrap();
        subscribe("orders/*", SCHEMA).await.unwrap();
        let told = reason(subscribe("orders/*", "{customer: string, pieces: string}").await);
        assert!(told.ends_with("`pieces` is a string and not an integer"), "{told}");
        // The schema is for orders, and says nothing of prices.
        let told = reason(subscribe("**", SCHEMA).await);
        assert!(told.contains("\"prices/*\" has the type u32 and no schema"), "{told}");
    }
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn what_is_sealed_cannot_be_checked_and_that_is_told() {
    use whispeer::engine::Engines;
    use whispeer::engine::encryption::{Encryption, Key, Keyring};

    let ground = Ground::new(Bus::builder().plugin(MessageTypes::new().typed::<Order>(orders())));
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
    let client = Client::builder().engines(engines).connect_memory(&ground.bus.connector()).unwrap();
    let sealed = client.publish("today", &order()).await;
    assert!(matches!(&sealed, Err(BusError::Sealed { topic, .. }) if topic == "orders/today"), "{sealed:?}");
    client.publish_bytes("elsewhere", "x").await.unwrap();
}

#[tokio::test]
async fn logging_changes_nothing() {
    let ground = Ground::new(Bus::builder().plugin(Logging::new().one_of(2).deliveries()));
    for client in clients(&ground).await {
        let mut all = client.subscribe::<Order>("**").await.unwrap();
        for _ in 0..4 {
            assert_eq!(client.publish("today", &order()).await.unwrap(), 1);
            assert_eq!(soon("an order", all.recv()).await.unwrap().1, order());
        }
    }
    let stats = &ground.bus.stats().plugins[0];
    assert_eq!((stats.refused, stats.withheld, stats.failed), (0, 0, 0));
}

#[cfg(feature = "rate-limit")]
#[tokio::test]
async fn who_publishes_too_often_is_told_when_to_try_again() {
    use std::time::Duration;
    use whispeer::plugin::{Rate, RateLimit};

    let hourly = Rate::new(3, Duration::from_secs(3_600)).unwrap();
    let limit = RateLimit::new()
        .each_on(TopicPattern::new("alarms/*").unwrap(), hourly)
        .all_on(TopicPattern::new("shared").unwrap(), hourly);
    let ground = Ground::new(Bus::builder().plugin(limit));
    let [within, outside] = clients(&ground).await;
    for client in [&within, &outside] {
        for topic in ["alarms/fire", "alarms/water", "alarms/fire"] {
            client.publish_bytes(topic, "!").await.unwrap();
        }
        let told = reason(client.publish_bytes("alarms/storm", "!").await);
        assert!(told.contains("each principal may publish 3 messages in 3600s"), "{told}");
        assert!(told.contains("try again in"), "{told}");
        client.publish_bytes("elsewhere", "!").await.unwrap();
    }
    within.publish_bytes("shared", "!").await.unwrap();
    outside.publish_bytes("shared", "!").await.unwrap();
    within.publish_bytes("shared", "!").await.unwrap();
    assert!(reason(outside.publish_bytes("shared", "!").await).starts_with("all together"));
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_count_by_the_patterns_that_they_were_given() {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use whispeer::plugin::Metrics;
    use whispeer_testkit::wait::eventually;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry, [orders()]);
    let ground = Ground::new(Bus::builder().plugin(metrics));
    let shown = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    };
    let [within, outside] = clients(&ground).await;
    let _all = outside.subscribe_bytes("**").await.unwrap();
    for topic in ["orders/1", "orders/2", "strange/topic", "stranger/topic"] {
        within.publish_bytes(topic, "12345").await.unwrap();
    }
    let text = shown();
    for expected in [
        "whispeer_sessions 2",
        "whispeer_sessions_begun_total 2",
        "whispeer_subscriptions_asked_total 1",
        "whispeer_published_total{topics=\"orders/**\"} 2",
        "whispeer_published_bytes_total{topics=\"orders/**\"} 10",
        "whispeer_published_total{topics=\"other\"} 2",
        "whispeer_delivered_total{topics=\"other\"} 2",
        "whispeer_message_bytes_count 4",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected}\n{text}");
    }
    assert!(!text.contains("strange"), "what clients publish makes no time series");
    drop((within, outside, _all));
    eventually("both have gone", || shown().contains("whispeer_sessions 0")).await;
}
