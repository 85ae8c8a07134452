//! Consumers and dead letters, as an operator sees them.

use std::io::{BufRead, Read};
use std::os::unix::fs::MetadataExt;
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
    assert_eq!(words, ["orders", "billing", "orders/**", "0", "4", "0", "0", "0", "-", "-"]);
    let told: serde_json::Value =
        serde_json::from_str(&run(&["consumers", "ls", "orders", "--json"]).success()).unwrap();
    assert_eq!(told[0]["floor"], 4);

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

    for asked in [
        &["consumers", "ls", "others"][..],
        &["consumers", "ls", "others", "--json"],
        &["consumers", "rm", "others", "billing"],
        &["dlq", "ls", "others"],
        &["dlq", "drop", "others", "--all"],
        &["dlq", "redrive", "others", "1"],
    ] {
        let unknown = run(asked);
        assert!(unknown.code() != 0 && unknown.output.is_empty(), "{asked:?}: {unknown:?}");
        let told = &unknown.errors;
        assert!(told.contains("there is no stream \"others\"") && told.contains("whispeer info"), "{told}");
        assert!(!told.contains("internal"), "{told}");
    }
    assert!(run(&["consumers", "rm", "orders", "billing"]).errors.contains("removed the consumer"));
    let gone = run(&["consumers", "rm", "orders", "billing"]);
    assert!(gone.code() != 0 && gone.errors.contains("has no consumer \"billing\""), "{gone:?}");
}

#[test]
fn the_owner_of_a_consumer_is_shown_where_there_is_a_policy_and_others_are_told_what_they_need() {
    let place = Place::new();
    let own = std::fs::metadata(place.path(".")).unwrap().uid();
    let policy = format!(
        "[auth.roles.operator]\nadminister = true\nsubscribe.allow = [\"**\"]\nconsume.deny = [\"orders/audit\"]\n\
         [[auth.unix]]\nuid = {own}\nroles = [\"operator\"]\n"
    );
    place.write("policy.toml", &policy);
    place.write("whispeer.toml", "listen = [\"bus\"]\n[streams.orders]\npatterns = [\"orders/**\"]\n");
    let mut bus = place.start(&["serve", "--config", "whispeer.toml", "--policy", "policy.toml"]);
    bus.wait_for("ready on");
    let run = |arguments: &[&str]| place.run(&[arguments, &["--addr", "bus"]].concat());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(place.path("bus").to_str().unwrap()).await.unwrap();
        let billing = SubscribeOptions::default().durable("billing").start(Start::All);
        client.consume_bytes("orders/**", billing).await.unwrap();
        client.close().await.unwrap();
    });
    let listed = run(&["consumers", "ls"]).success();
    assert!(listed.lines().any(|line| line.trim_end().ends_with(&format!("uid {own}"))), "{listed}");
    let told: serde_json::Value =
        serde_json::from_str(&run(&["consumers", "ls", "--json"]).success()).unwrap();
    assert_eq!(told[0]["owner"], format!("uid {own}"));
    let refused = run(&["sub", "orders/**", "--durable", "audit"]);
    assert!(refused.code() != 0 && refused.errors.contains("orders/audit"), "{refused:?}");
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

/// What the bus says of the only consumer of `orders`.
fn consumer(place: &Place) -> serde_json::Value {
    let told = place.run(&["consumers", "ls", "orders", "--json", "--addr", "bus"]).success();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    told[0].clone()
}

#[test]
fn a_durable_sub_goes_on_where_the_last_one_has_ended() {
    let place = Place::new();
    let _bus = start(&place);
    let run = |arguments: &[&str]| place.run(&[arguments, &["--addr", "bus"]].concat());
    for number in ["1", "2", "3", "4"] {
        run(&["pub", "orders/7", number, "--qos", "1"]).success();
    }
    let billing = ["sub", "orders/**", "--durable", "billing", "--all", "--count"];
    let sub = |more: &[&str]| run(&[&billing[..], more].concat()).success();
    assert_eq!(sub(&["2"]), "1\n2\n");
    assert_eq!(consumer(&place)["floor"], 3, "it is kept when the command ends");
    let third: serde_json::Value = serde_json::from_str(&sub(&["1", "--json"])).unwrap();
    assert_eq!((&third["sequence"], &third["payload"]), (&3.into(), &3.into()));
    assert_eq!((&third["topic"], third["attempt"].is_u64()), (&"orders/7".into(), true));
    assert_eq!(sub(&["1", "--qos", "2"]), "4\n");
    assert_eq!(consumer(&place)["floor"], 5);

    let mut next = place.start(&["sub", "orders/**", "--durable", "billing", "--addr", "bus"]);
    next.wait_for("subscribed");
    let busy = run(&["sub", "orders/**", "--durable", "billing"]);
    assert!(busy.code() != 0 && busy.errors.contains("billing"), "{busy:?}");
    run(&["pub", "orders/7", "5", "--qos", "1"]).success();
    let mut output = next.stdout();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    next.signal("INT");
    assert_eq!((next.end().code(), line.as_str()), (0, "5\n"));
    assert_eq!(consumer(&place)["floor"], 6, "what was printed is acknowledged before it ends");
}

#[test]
fn a_message_is_acknowledged_when_it_is_written_out_and_not_before() {
    let place = Place::new();
    let _bus = start(&place);
    // More than a pipe holds.
    let large = format!("\"{}\"", "x".repeat(500_000));
    let arguments = ["pub", "orders/7", "--qos", "1", "--addr", "bus"];
    place.run_with_input(&arguments, large.as_bytes()).success();
    let mut sub = place.start(&["sub", "orders/**", "--durable", "billing", "--all", "--addr", "bus"]);
    let mut output = sub.stdout();
    let mut first = [0];
    output.read_exact(&mut first).unwrap();
    let before = consumer(&place);
    assert_eq!((&before["floor"], &before["pending"]), (&1.into(), &1.into()));
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.len(), large.len());
    sub.signal("INT");
    assert_eq!(sub.end().code(), 0);
    assert_eq!(consumer(&place)["floor"], 2);
}

#[test]
fn members_of_a_group_that_acknowledge_share_a_stream() {
    let place = Place::new();
    let _bus = start(&place);
    let run = |arguments: &[&str]| place.run(&[arguments, &["--addr", "bus"]].concat());
    for number in ["1", "2", "3"] {
        run(&["pub", "orders/7", number, "--qos", "1"]).success();
    }
    let workers = ["sub", "orders/**", "--group", "workers", "--qos", "1", "--all", "--count"];
    let first = run(&[&workers[..], &["2"]].concat()).success();
    let second = run(&[&workers[..], &["1"]].concat()).success();
    assert_eq!((first.as_str(), second.as_str()), ("1\n2\n", "3\n"));
    assert_eq!(consumer(&place)["floor"], 4);
}

#[test]
fn what_a_sub_that_acknowledges_cannot_be_is_said_with_what_to_do() {
    let place = Place::new();
    let _bus = start(&place);
    for (arguments, said) in [
        (&["orders/**", "--durable", "a", "--qos", "0"][..], "leave out --qos"),
        (&["orders/a", "orders/b", "--qos", "1"], "run the command once for each"),
        (&["orders/**", "--all"], "whispeer replay --follow"),
        (&["orders/**", "--durable", "a", "--group", "b"], "cannot be used with"),
        (&["orders/**", "--qos", "3"], "3 is not in 0..=2"),
    ] {
        let refused = place.run(&[&["sub", "--addr", "bus"], arguments].concat());
        assert_eq!(refused.code(), 2, "{refused:?}");
        assert!(refused.errors.contains(said), "{refused:?}");
    }
    let unkept = place.run(&["sub", "--addr", "bus", "news", "--durable", "a"]);
    assert!(unkept.code() != 0 && unkept.errors.contains("stream"), "{unkept:?}");
}
