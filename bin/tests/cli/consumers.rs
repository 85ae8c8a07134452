//! Consumers and dead letters, as an operator sees them.

use std::time::Duration;

use whispeer::Client;
use whispeer::client::{Start, SubscribeOptions};

use crate::support::{Place, Running};

fn start(place: &Place) -> Running {
    place.write("whispeer.toml", "listen = [\"bus\"]\n[streams.orders]\npatterns = [\"orders/**\"]\n");
    let mut bus = place.start(&["serve", "--config", "whispeer.toml"]);
    bus.wait_for("ready on");
    bus
}

/// Refuses so many messages for good.
async fn refuse(place: &Place, messages: usize) {
    let client = Client::connect(place.path("bus").to_str().unwrap()).await.unwrap();
    let options = SubscribeOptions::default().durable("billing").start(Start::All).max_deliver(1);
    let mut orders = client.consume_bytes("orders/**", options).await.unwrap();
    for _ in 0..messages {
        orders.recv().await.unwrap().nack(Duration::ZERO);
    }
    let options = SubscribeOptions::default().start(Start::All);
    let mut dead = client.subscribe_bytes_with("$dead/orders/**", options).await.unwrap();
    for _ in 0..messages {
        dead.recv().await.unwrap();
    }
    client.close().await.unwrap();
}

#[test]
fn consumers_and_dead_letters_are_listed_put_back_dropped_and_removed() {
    let place = Place::new();
    let _bus = start(&place);
    let run = |arguments: &[&str]| place.run(&[arguments, &["--addr", "bus"]].concat());
    for number in ["1", "2", "3"] {
        run(&["pub", "orders/7", number, "--qos", "1"]).success();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(refuse(&place, 3));

    let listed = run(&["consumers", "ls"]).success();
    let line = listed.lines().find(|line| line.contains("billing")).unwrap_or_else(|| panic!("{listed}"));
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words, ["orders", "billing", "orders/**", "0", "4", "0", "0", "0"]);
    let told: serde_json::Value =
        serde_json::from_str(&run(&["consumers", "ls", "orders", "--json"]).success()).unwrap();
    assert_eq!(told[0]["floor"], 4);
    let none = run(&["consumers", "ls", "others", "--json"]).success();
    assert_eq!(none, "[]\n");

    let dead = run(&["dlq", "ls", "orders"]).success();
    assert!(dead.contains("refused by the consumer") && dead.lines().count() == 4, "{dead}");
    let info = run(&["info"]).success();
    assert!(info.contains("DEAD"), "{info}");

    assert!(run(&["dlq", "drop", "orders", "2"]).errors.contains("dropped 1 dead letter"));
    let refused = run(&["dlq", "redrive", "orders"]);
    assert_eq!(refused.code(), 2, "it has to be said which: {refused:?}");
    assert!(run(&["dlq", "redrive", "orders", "--all"]).errors.contains("put 2 dead letters back"));
    assert_eq!(run(&["dlq", "ls", "orders", "--json"]).success(), "");
    let kept = run(&["replay", "orders/**", "--raw"]).success();
    let payloads: Vec<_> = kept.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(payloads.len(), 5, "they are at the end of their stream: {kept}");

    let unknown = run(&["dlq", "drop", "others", "--all"]);
    assert!(unknown.code() != 0 && unknown.errors.contains("there is no stream \"others\""), "{unknown:?}");
    assert!(run(&["consumers", "rm", "orders", "billing"]).errors.contains("removed the consumer"));
    let gone = run(&["consumers", "rm", "orders", "billing"]);
    assert!(gone.code() != 0 && gone.errors.contains("has no consumer \"billing\""), "{gone:?}");
}

#[cfg(feature = "encryption")]
#[test]
fn dead_letters_of_encrypted_topics_are_listed_for_all_and_read_with_the_keys() {
    let place = Place::new();
    let _bus = start(&place);
    let run = |arguments: &[&str]| place.run(&[arguments, &["--addr", "bus"]].concat());
    place.run(&["keys", "new", "team.keys"]).success();
    run(&["pub", "orders/7", "\"two apples\"", "--qos", "1", "--keyring", "team.keys"]).success();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(refuse(&place, 1));

    let dead = run(&["dlq", "ls", "orders"]).success();
    assert!(dead.contains("orders/7") && !dead.contains("apples"), "{dead}");
    let sealed = run(&["replay", "$dead/orders/**"]);
    assert!(sealed.errors.contains("encrypt") || sealed.errors.contains("engine"), "{sealed:?}");
    let read = run(&["replay", "$dead/orders/**", "--keyring", "team.keys"]).success();
    assert!(read.contains("$dead/orders/billing \"two apples\""), "{read}");
}
