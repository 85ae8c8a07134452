//! A durable consumer, and a queue group of a stream, is its maker's: others need a right to its name.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::auth::{Policy, Principal};
use whispeer::bus::{Settings, StreamChange, Streams};
use whispeer::client::{Consumer, Delivery, Event, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};
use whispeer_testkit::wait;

const LONG: Duration = Duration::from_secs(20);

/// Services by their certificates, each with the role of its name beside `reader`.
const POLICY: &str = r#"
[auth.roles.reader]
subscribe.allow = ["orders/**"]

[auth.roles.worker]
consume.allow = ["orders/workers"]

[auth.roles.auditor]
consume = { allow = ["orders/*"], deny = ["orders/billing"] }

[auth.roles.guest]
consume.deny = ["orders/billing"]

[[auth.certificates]]
name = "guest"
roles = ["reader", "guest"]

[[auth.certificates]]
name = "billing"
roles = ["reader"]

[[auth.certificates]]
name = "other"
roles = ["reader"]

[[auth.certificates]]
name = "worker-1"
roles = ["reader", "worker"]

[[auth.certificates]]
name = "worker-2"
roles = ["reader", "worker"]

[[auth.certificates]]
name = "auditor"
roles = ["reader", "auditor"]
"#;

fn policy(text: &str) -> Policy {
    Policy::from_toml(text).unwrap()
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

async fn streams_on(store: &Arc<dyn Store>) -> Streams {
    let pattern = TopicPattern::new("orders/**").unwrap();
    let orders = StreamSettings::new(Name::new("orders").unwrap(), vec![pattern]);
    Streams::open(Arc::clone(store), [orders]).await.unwrap()
}

async fn bus_on(store: &Arc<dyn Store>) -> BusHandle {
    Bus::builder().policy(policy(POLICY)).streams(streams_on(store).await).start().unwrap()
}

async fn open_bus_on(store: &Arc<dyn Store>) -> BusHandle {
    Bus::builder().streams(streams_on(store).await).start().unwrap()
}

fn as_principal(bus: &BusHandle, principal: Principal) -> Client {
    Client::builder().connect_link(bus.connector().connect_as(principal).unwrap()).unwrap()
}

fn client(bus: &BusHandle, name: &str) -> Client {
    as_principal(bus, Principal::Certificate { name: name.to_owned() })
}

/// The process of the bus, which may do all.
fn own(bus: &BusHandle) -> Client {
    Client::new_memory(&bus.connector()).unwrap()
}

fn durable(name: &str) -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All).durable(name)
}

fn workers() -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All).quality(Quality::AtLeastOnce).group("workers")
}

async fn consume(client: &Client, options: SubscribeOptions) -> BusResult<Consumer<Bytes>> {
    timeout(LONG, client.consume_bytes("orders/**", options)).await.expect("the bus answers")
}

async fn publish(bus: &BusHandle, count: usize) {
    let own = own(bus);
    for number in 0..count {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
        own.publish_bytes_with("orders/7", number.to_string(), kept).await.unwrap();
    }
}

async fn next(consumer: &mut Consumer<Bytes>) -> Delivery<Bytes> {
    timeout(LONG, consumer.recv()).await.expect("a message comes").expect("the bus runs")
}

fn denied<T: std::fmt::Debug>(result: BusResult<T>) -> String {
    match result {
        Err(BusError::Denied { what }) => what,
        other => panic!("{other:?}"),
    }
}

/// Removes a consumer, once it has noticed that nobody is there.
async fn remove(bus: &BusHandle, name: &str) {
    let change = StreamChange::RemoveConsumer { stream: "orders".into(), consumer: name.into() };
    let removed = async {
        while let Err(error) = own(bus).request_bytes("$bus/streams/change", change.to_bytes()).await {
            assert!(matches!(error, BusError::ConsumerBusy { .. }), "{error:?}");
            tokio::task::yield_now().await;
        }
    };
    wait::soon("it is removed", removed).await;
}

/// Waits until nobody takes part in any consumer.
async fn nobody_is_there(bus: &BusHandle) {
    wait::eventually("its consumers have ended", || bus.subscriptions().is_empty()).await;
}

#[tokio::test]
async fn nobody_else_takes_a_durable_consumer_while_its_owner_is_away() {
    let store = store();
    let bus = bus_on(&store).await;
    publish(&bus, 2).await;
    let (billing, other) = (client(&bus, "billing"), client(&bus, "other"));
    let mut orders = consume(&billing, durable("billing")).await.unwrap();
    next(&mut orders).await.ack().await.unwrap();
    drop(orders);
    nobody_is_there(&bus).await;
    let what = denied(consume(&other, durable("billing")).await);
    for said in ["\"billing\"", "\"orders\"", "`consume`", "\"orders/billing\"", "another name"] {
        assert!(what.contains(said), "{what}");
    }
    assert!(!what.contains("certificate"), "whose it is nobody else is told: {what}");
    denied(consume(&other, workers().group("billing")).await);
    // He goes on where he was.
    let mut orders = consume(&billing, durable("billing")).await.unwrap();
    assert_eq!(next(&mut orders).await.receipt.sequence(), 2);
    // While he is there, too.
    denied(consume(&other, durable("billing")).await);
    consume(&other, durable("another")).await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn nobody_keeps_an_owner_out_by_trying() {
    let store = store();
    let bus = bus_on(&store).await;
    let billing = client(&bus, "billing");
    drop(consume(&billing, durable("billing")).await.unwrap());
    nobody_is_there(&bus).await;
    let other = client(&bus, "other");
    tokio::join!(
        async {
            for _ in 0..50 {
                denied(consume(&other, durable("billing")).await);
            }
        },
        async {
            for _ in 0..20 {
                let orders = consume(&billing, durable("billing")).await;
                assert!(orders.is_ok(), "{orders:?}");
                drop(orders);
                nobody_is_there(&bus).await;
            }
        }
    );
    bus.stop().await;
}

#[tokio::test]
async fn a_queue_group_of_a_stream_is_its_makers_unless_the_policy_opens_it() {
    let store = store();
    let bus = bus_on(&store).await;
    let (one, two, other) = (client(&bus, "worker-1"), client(&bus, "worker-2"), client(&bus, "other"));
    let mut first = consume(&one, workers()).await.unwrap();
    let mut second = consume(&two, workers()).await.unwrap();
    // More than one of them is handed at a time.
    publish(&bus, 64).await;
    for member in [&mut first, &mut second] {
        next(member).await.ack().await.unwrap();
    }
    denied(consume(&other, workers()).await);
    // Another group of one who has the right to that name only is his alone.
    consume(&one, workers().group("of-one")).await.unwrap();
    denied(consume(&two, workers().group("of-one")).await);
    bus.stop().await;
}

#[tokio::test]
async fn a_name_that_a_role_denies_is_not_taken_by_it_though_it_is_free() {
    let store = store();
    let bus = bus_on(&store).await;
    let auditor = client(&bus, "auditor");
    // Whether or not something else allows it.
    for one in [&auditor, &client(&bus, "guest")] {
        let what = denied(consume(one, durable("billing")).await);
        assert!(what.contains("\"orders/billing\" is denied"), "{what}");
    }
    consume(&client(&bus, "guest"), durable("guests")).await.unwrap();
    drop(consume(&client(&bus, "other"), durable("free")).await.unwrap());
    nobody_is_there(&bus).await;
    consume(&auditor, durable("free")).await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn an_owner_is_known_again_after_a_restart_whatever_process_he_is() {
    let store = store();
    let bus = bus_on(&store).await;
    let text = format!(
        "{POLICY}\n[[auth.unix]]\nuid = 7\nroles = [\"reader\"]\n[[auth.unix]]\nuid = 8\nroles = [\"reader\"]\n"
    );
    let process = |uid, pid| Principal::Unix { uid, gid: 1, pid: Some(pid) };
    bus.set_policy(policy(&text));
    drop(consume(&as_principal(&bus, process(7, 100)), durable("billing")).await.unwrap());
    bus.stop().await;
    let bus = bus_on(&store).await;
    bus.set_policy(policy(&text));
    denied(consume(&as_principal(&bus, process(8, 100)), durable("billing")).await);
    drop(consume(&as_principal(&bus, process(7, 200)), durable("billing")).await.unwrap());
    nobody_is_there(&bus).await;
    // A right to it makes nobody its owner.
    drop(consume(&own(&bus), durable("billing")).await.unwrap());
    nobody_is_there(&bus).await;
    consume(&as_principal(&bus, process(7, 300)), durable("billing")).await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn a_consumer_that_was_nobodys_is_the_firsts_who_comes() {
    let store = store();
    // As of a bus that asks nobody, or an earlier release.
    let bus = open_bus_on(&store).await;
    drop(consume(&own(&bus), durable("billing")).await.unwrap());
    bus.stop().await;
    let bus = bus_on(&store).await;
    drop(consume(&client(&bus, "billing"), durable("billing")).await.unwrap());
    bus.stop().await;
    let bus = bus_on(&store).await;
    denied(consume(&client(&bus, "other"), durable("billing")).await);
    consume(&client(&bus, "billing"), durable("billing")).await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn a_name_that_was_removed_is_free() {
    let store = store();
    let bus = bus_on(&store).await;
    drop(consume(&client(&bus, "billing"), durable("billing")).await.unwrap());
    nobody_is_there(&bus).await;
    remove(&bus, "billing").await;
    drop(consume(&client(&bus, "other"), durable("billing")).await.unwrap());
    nobody_is_there(&bus).await;
    denied(consume(&client(&bus, "billing"), durable("billing")).await);
    bus.stop().await;
}

#[tokio::test]
async fn a_bus_that_asks_nobody_leaves_consumers_to_all() {
    let store = store();
    let bus = open_bus_on(&store).await;
    drop(consume(&client(&bus, "billing"), durable("billing")).await.unwrap());
    nobody_is_there(&bus).await;
    let _first = consume(&client(&bus, "other"), durable("billing")).await.unwrap();
    let second = consume(&client(&bus, "billing"), durable("billing")).await;
    assert!(matches!(second, Err(BusError::ConsumerBusy { .. })), "{second:?}");
    bus.stop().await;
}

#[tokio::test]
async fn a_grant_that_is_taken_back_ends_the_subscription_and_leaves_the_owners() {
    let store = store();
    let bus = bus_on(&store).await;
    let (one, two) = (client(&bus, "worker-1"), client(&bus, "worker-2"));
    let mut first = consume(&one, workers()).await.unwrap();
    let mut second = consume(&two, workers()).await.unwrap();
    bus.set_policy(policy(&POLICY.replace("\"orders/workers\"", "\"orders/others\"")));
    assert!(timeout(LONG, second.recv()).await.expect("it ends").is_none());
    let ended = second.close_reason();
    assert!(
        matches!(&ended, Some(BusError::Denied { what }) if what.contains("orders/workers")),
        "{ended:?}"
    );
    publish(&bus, 1).await;
    next(&mut first).await.ack().await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn nobody_has_more_consumers_of_a_stream_than_one_may_have_and_others_have_theirs() {
    let store = store();
    let bus = bus_on(&store).await;
    bus.apply(&Settings { max_consumers_per_principal: 2, ..Settings::default() }).unwrap();
    let (billing, other) = (client(&bus, "billing"), client(&bus, "other"));
    for name in ["one", "two"] {
        drop(consume(&billing, durable(name)).await.unwrap());
    }
    nobody_is_there(&bus).await;
    let third = consume(&billing, durable("three")).await;
    let Err(BusError::LimitReached { what }) = &third else { panic!("{third:?}") };
    for said in ["2 consumers", "\"orders\"", "max_consumers_per_principal"] {
        assert!(what.contains(said), "{what}");
    }
    // Those that there are, those without a name, and those of others.
    drop(consume(&billing, durable("two")).await.unwrap());
    consume(&billing, SubscribeOptions::default().quality(Quality::AtLeastOnce)).await.unwrap();
    consume(&other, durable("three")).await.unwrap();
    // The bus's own process may have all that there is.
    for name in ["a", "b", "c"] {
        consume(&own(&bus), durable(name)).await.unwrap();
    }
    // One that is gone counts no more.
    nobody_is_there(&bus).await;
    remove(&bus, "one").await;
    consume(&billing, durable("four")).await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn who_joins_a_group_does_not_change_its_settings() {
    let store = store();
    let bus = open_bus_on(&store).await;
    publish(&bus, 1).await;
    let client = own(&bus);
    let first = consume(&client, workers().max_deliver(9).ack_wait(Duration::from_secs(20))).await.unwrap();
    let differs = consume(&client, workers().max_deliver(2).ack_wait(Duration::from_secs(20))).await;
    let Err(BusError::InvalidSettings(what)) = &differs else { panic!("{differs:?}") };
    for said in ["\"workers\"", "max_deliver", "9", "2"] {
        assert!(what.contains(said), "{what}");
    }
    assert!(!what.contains("ack_wait"), "that is the same: {what}");
    let differs = consume(&client, workers().max_deliver(9).max_pending(3)).await.unwrap_err().to_string();
    assert!(differs.contains("ack_wait of 20s") && differs.contains("max_pending"), "{differs}");
    // The same settings are welcome.
    let second = consume(&client, workers().max_deliver(9).ack_wait(Duration::from_secs(20))).await.unwrap();
    drop((first, second));
    nobody_is_there(&bus).await;
    // With nobody there, the next one says what they are.
    let mut sole = consume(&client, workers().max_deliver(1)).await.unwrap();
    next(&mut sole).await.nack(Duration::ZERO);
    let mut dead = client
        .subscribe_bytes_with("$dead/orders/workers", SubscribeOptions::default().start(Start::All))
        .await
        .unwrap();
    let letter = timeout(LONG, dead.next_event()).await.expect("one attempt was all");
    assert!(matches!(letter, Some(Event::Message(_))), "{letter:?}");
    bus.stop().await;
}
