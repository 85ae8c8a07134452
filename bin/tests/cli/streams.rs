//! Streams of a bus that is configured, ends and is started again.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::{Place, Running};

const ORDERS: &str = "listen = [\"bus\"]\n[streams.orders]\npatterns = [\"orders/**\"]\n";

/// A bus by this file.
fn start(place: &Place, file: &str) -> Running {
    place.write("whispeer.toml", file);
    let mut bus = place.start(&["serve", "--config", "whispeer.toml"]);
    bus.wait_for("ready on");
    bus
}

fn streams(place: &Place) -> Value {
    let told = place.run(&["info", "--addr", "bus", "--json"]).success();
    serde_json::from_str::<Value>(&told).unwrap()["streams"]["rows"].clone()
}

#[test]
fn a_bus_tells_its_streams_and_has_them_again_when_it_is_started_again() {
    let place = Place::new();
    let file =
        format!("{ORDERS}[streams.prices]\npatterns = [\"price/*\", \"rate\"]\nstorage = \"memory\"\n");
    let bus = start(&place, &file);
    for topic in ["orders/7", "orders/8", "rate", "elsewhere"] {
        place.run(&["pub", "--addr", "bus", topic, "1"]).success();
    }
    let told = streams(&place);
    let row = |at: usize| {
        let row = &told[at];
        (row["name"].clone(), row["storage"].clone(), row["messages"].clone(), row["next"].clone())
    };
    let expected = |name: &str, storage: &str, messages: u64, next: u64| {
        (name.into(), storage.into(), messages.into(), next.into())
    };
    assert_eq!(row(0), expected("prices", "memory", 1, 2));
    assert_eq!(row(1), expected("orders", "sqlite", 2, 3));
    assert!(told[1]["bytes"].as_u64().unwrap() > 0 && told[1]["first"] == 1, "{told}");
    let text = place.run(&["info", "--addr", "bus"]).success();
    assert!(text.contains("\nStreams\n") && text.contains("price/* rate"), "{text}");
    drop(bus);

    let _bus = start(&place, &file);
    let again = streams(&place);
    assert_eq!(again[1], told[1], "it is the same stream");
    assert_eq!(again[0]["messages"], 0);
    assert_ne!(again[0]["epoch"], told[0]["epoch"], "it ended with the bus");
}

#[test]
fn streams_lie_in_a_folder_of_the_user_alone_that_can_be_chosen() {
    let place = Place::new();
    let mode = |name: &str| std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    let bus = start(&place, ORDERS);
    assert_eq!((mode("state/whispeer"), mode("state/whispeer/streams.db")), (0o700, 0o600));
    drop(bus);
    let bus = start(&place, &format!("store.folder = \"kept\"\n{ORDERS}"));
    assert_eq!((mode("kept"), mode("kept/streams.db")), (0o700, 0o600));
    drop(bus);
    let mut command = place.command(&["serve", "--config", "whispeer.toml", "--store-folder", "flag"]);
    let mut bus = Running::new(command.env("WHISPEER_STORE_FOLDER", "variable").spawn().unwrap());
    bus.wait_for("ready on");
    assert!(place.path("flag/streams.db").exists() && !place.path("variable").exists());
    drop(bus);
    place.write("whispeer.toml", ORDERS);
    let mut command = place.command(&["serve", "--config", "whispeer.toml"]);
    let mut bus = Running::new(command.env("STATE_DIRECTORY", place.path("service")).spawn().unwrap());
    bus.wait_for("ready on");
    assert!(place.path("service/streams.db").exists());
}

#[test]
fn a_bus_without_streams_makes_no_file() {
    let place = Place::new();
    let _bus = start(&place, "listen = [\"bus\"]\n");
    assert_eq!(streams(&place), Value::Array(Vec::new()));
    assert!(!place.path("state").exists());
}

#[test]
fn a_store_that_cannot_be_used_is_told_in_one_line_and_nothing_starts() {
    let place = Place::new();
    let file = format!("store.folder = \"kept\"\n{ORDERS}");
    let refused = |file: &str, what: &str| {
        place.write("second.toml", &file.replace("\"bus\"", "\"second\""));
        let ended = place.run(&["serve", "--config", "second.toml"]);
        assert_eq!(ended.code(), 2, "{ended:?}");
        let errors: Vec<_> = ended.errors.lines().filter(|line| !line.starts_with("help: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(what), "{what}: {ended:?}");
        assert!(!place.path("second").exists());
    };
    let bus = start(&place, &file);
    refused(&file, "kept/streams.db is in use by another process");
    drop(bus);
    // The file of this name has another topic, which is still its own there.
    let other = format!("{file}[streams.other]\npatterns = [\"other\"]\n");
    drop(start(&place, &other));
    let taken = "store.folder = \"kept\"\nlisten = [\"bus\"]\n[streams.new]\npatterns = [\"other\"]\n";
    refused(taken, "\"other\" meets \"other\" of the stream \"other\"");
    // It is there where the process before has ended sooner than its store was closed.
    let _ = std::fs::remove_file(place.path("kept/streams.db-wal"));
    std::fs::write(place.path("kept/streams.db"), "no database, but a text that is long enough".repeat(50))
        .unwrap();
    refused(&file, "kept/streams.db is damaged or no store");
    std::fs::write(place.path("file"), "").unwrap();
    refused(&file.replace("kept", "file"), "cannot be made");
}

#[test]
fn a_file_of_a_later_release_is_refused_and_stays_one() {
    let place = Place::new();
    let file = format!("store.folder = \"kept\"\n{ORDERS}");
    let bus = start(&place, &file);
    bus.signal("TERM");
    assert_eq!(bus.end().code(), 0);
    // The version of the tables, in the header of the file.
    let mut bytes = std::fs::read(place.path("kept/streams.db")).unwrap();
    bytes[60..64].copy_from_slice(&1_000_000_u32.to_be_bytes());
    std::fs::write(place.path("kept/streams.db"), &bytes).unwrap();
    let ended = place.run(&["serve", "--config", "whispeer.toml"]);
    assert_eq!(ended.code(), 2);
    assert!(ended.errors.contains("was written by a later release"), "{ended:?}");
    assert_eq!(std::fs::read(place.path("kept/streams.db")).unwrap()[60..64], bytes[60..64]);
}

#[test]
fn a_stream_that_the_file_names_no_more_is_told_of_and_kept() {
    let place = Place::new();
    drop(start(&place, ORDERS));
    place.write("whispeer.toml", &ORDERS.replace("orders", "bills"));
    let mut bus = place.start(&["serve", "--config", "whispeer.toml"]);
    bus.wait_for("the stream \"orders\" is kept in the store and not in the configuration");
    bus.wait_for("ready on");
}

#[test]
fn a_stream_that_nobody_names_any_more_can_be_removed_while_no_bus_has_the_store() {
    let place = Place::new();
    let mut bus = start(&place, ORDERS);
    place.run(&["pub", "--addr", "bus", "orders/7", "1"]).success();
    let in_use = place.run(&["streams", "rm", "orders"]);
    assert!(in_use.code() == 2 && in_use.errors.contains("in use by another process"), "{in_use:?}");
    bus.signal("TERM");
    bus.wait_for("draining");
    assert_eq!(bus.end().code(), 0);
    let other = ORDERS.replace("[streams.orders]", "[streams.bills]");
    place.write("whispeer.toml", &other);
    let refused = place.run(&["serve", "--config", "whispeer.toml"]);
    assert!(refused.code() == 2 && refused.errors.contains("`whispeer streams rm NAME`"), "{refused:?}");
    let listed = place.run(&["streams", "ls", "--config", "whispeer.toml"]).success();
    assert!(listed.lines().nth(1).unwrap().starts_with("orders  orders/**         1  "), "{listed}");
    let removed = place.run(&["streams", "rm", "orders"]);
    assert_eq!(removed.errors, "whispeer: removed \"orders\" with 1 message\n");
    assert_eq!(place.run(&["streams", "rm", "orders"]).code(), 1);
    drop(start(&place, &other));
    let elsewhere = place.run(&["streams", "ls", "--store-folder", "elsewhere"]);
    assert!(
        elsewhere.code() == 1 && elsewhere.errors.contains("there is no store in elsewhere"),
        "{elsewhere:?}"
    );
    assert!(!place.path("elsewhere").exists());
}

#[cfg(feature = "nats")]
#[test]
fn streams_in_jetstream_are_named_and_said_not_to_be_in_the_store() {
    let place = Place::new();
    drop(start(&place, ORDERS));
    let file = "[streams.audit]\npatterns = [\"audit/**\"]\nstorage = \"jetstream\"\n[nats]\nurl = \"nats://localhost:1\"\n";
    place.write("whispeer.toml", &format!("{ORDERS}{file}"));
    let listed = place.run(&["streams", "ls", "--config", "whispeer.toml"]);
    assert_eq!(
        listed.errors,
        "whispeer: kept in JetStream, and not in this store: audit; `whispeer info` shows them while a bus runs\n"
    );
    assert!(listed.success().lines().nth(1).unwrap().starts_with("orders  "));
    let refused = place.run(&["streams", "rm", "audit", "--config", "whispeer.toml"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.errors.contains("not in this store: audit"), "{refused:?}");
    assert!(refused.errors.contains("there is no stream \"audit\" in the store"), "{refused:?}");
    place.run(&["streams", "rm", "orders", "--config", "whispeer.toml"]).success();
    let help = place.run(&["streams", "--help"]).success();
    assert!(help.contains("those in JetStream"), "{help}");
}

#[test]
fn a_store_that_was_put_back_can_be_given_new_epochs_while_no_bus_has_it() {
    let place = Place::new();
    let mut bus = start(&place, ORDERS);
    place.run(&["pub", "--addr", "bus", "orders/7", "1"]).success();
    let before = streams(&place);
    let in_use = place.run(&["streams", "renew"]);
    assert!(in_use.code() == 2 && in_use.errors.contains("in use by another process"), "{in_use:?}");
    bus.signal("TERM");
    bus.wait_for("draining");
    assert_eq!(bus.end().code(), 0);
    let renewed = place.run(&["streams", "renew", "--config", "whispeer.toml"]);
    assert!(
        renewed.code() == 0 && renewed.errors.starts_with("whispeer: 1 stream has a new epoch"),
        "{renewed:?}"
    );
    let _bus = start(&place, ORDERS);
    let after = streams(&place);
    assert_ne!(after[0]["epoch"], before[0]["epoch"]);
    assert_eq!((&after[0]["messages"], &after[0]["next"]), (&before[0]["messages"], &before[0]["next"]));
}

#[test]
fn a_hangup_gives_streams_their_new_bounds_and_names_what_needs_a_restart() {
    let place = Place::new();
    let mut bus = start(&place, ORDERS);
    for number in ["1", "2", "3"] {
        place.run(&["pub", "--addr", "bus", "orders/7", number]).success();
    }
    let changed = format!("{ORDERS}max_messages = 2\n[streams.new]\npatterns = [\"new\"]\n");
    place.write("whispeer.toml", &changed);
    bus.signal("HUP");
    bus.wait_for("streams.orders.max_messages is 2 in the configuration, was without a bound: applied");
    bus.wait_for("the stream \"new\" is new in the configuration: needs a restart");
    place.run(&["pub", "--addr", "bus", "orders/7", "4"]).success();
    let told = streams(&place);
    assert_eq!((told[0]["messages"].clone(), told[0]["first"].clone()), (2.into(), 3.into()), "{told}");
    assert_eq!(told.as_array().unwrap().len(), 1);
    place.write("whispeer.toml", ORDERS);
    bus.signal("HUP");
    bus.wait_for("streams.orders.max_messages is without a bound in the configuration, was 2: applied");
    bus.wait_for("read again");
    bus.signal("HUP");
    bus.wait_for("whispeer.toml read again: no changes");
}

/// What `replay` prints with these arguments, a line each.
fn replay(place: &Place, arguments: &[&str]) -> Vec<String> {
    let printed = place.run(&[&["replay", "--addr", "bus"], arguments].concat()).success();
    printed.lines().map(str::to_owned).collect()
}

/// The payloads of such lines.
fn payloads(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.rsplit(' ').next().unwrap()).collect()
}

#[test]
fn what_was_acknowledged_is_replayed_after_the_bus_was_killed() {
    let place = Place::new();
    let bus = start(&place, ORDERS);
    for number in 1..=3 {
        let number = number.to_string();
        let ended = place.run(&["pub", "--addr", "bus", "--qos", "1", "orders/7", &number]);
        assert_eq!(ended.errors, "whispeer: stored and published to 0 subscriptions\n");
    }
    let lines: String = (4..=50).map(|number| format!("{number}\n")).collect();
    let published = ["pub", "--addr", "bus", "--qos", "1", "--lines", "orders/8"];
    place.run_with_input(&published, lines.as_bytes()).success();
    bus.signal("KILL");
    drop(bus);

    let _bus = start(&place, ORDERS);
    let all = replay(&place, &["orders/**"]);
    let expected: Vec<_> = (1..=3).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&all)[..3], expected);
    assert_eq!(payloads(&all)[3..].len(), 47);
    assert_eq!(payloads(&all)[3..][0], "\"4\"", "lines are strings");
    for (index, line) in all.iter().enumerate() {
        let fields: Vec<_> = line.split(' ').collect();
        assert_eq!(fields[0], (index + 1).to_string());
        assert!(fields[1].ends_with('Z') && fields[2].starts_with("orders/"), "{line}");
    }
    place.run(&["pub", "--addr", "bus", "--qos", "1", "orders/7", "51"]).success();
    assert_eq!(payloads(&replay(&place, &["orders/**", "--last", "1"])), ["51"]);
}

#[test]
fn what_is_due_later_comes_after_the_bus_was_killed() {
    let place = Place::new();
    let bus = start(&place, ORDERS);
    for (order, time) in [("7", "500ms"), ("8", "1h")] {
        place.run(&["pub", "--addr", "bus", "--qos", "1", "--in", time, "orders/7", order]).success();
    }
    bus.signal("KILL");
    drop(bus);

    let _bus = start(&place, ORDERS);
    let lines = replay(&place, &["orders/*", "--follow", "--limit", "1"]);
    assert_eq!(payloads(&lines), ["7"]);
    assert_eq!(streams(&place)[0]["delayed"], 1);
}

#[test]
fn replay_begins_where_it_is_told_and_ends_by_itself_or_at_its_limit() {
    let place = Place::new();
    let _bus = start(&place, ORDERS);
    for (topic, value) in [("orders/a", "1"), ("orders/b", "2"), ("orders/a", "3"), ("orders/b", "4")] {
        place.run(&["pub", "--addr", "bus", "--qos", "1", "--header", "shop=7", topic, value]).success();
    }
    for (arguments, expected) in [
        (&["--all"][..], &["1", "2", "3", "4"][..]),
        (&["--from", "3"], &["3", "4"]),
        (&["--last", "2"], &["3", "4"]),
        (&["--last-per-topic"], &["3", "4"]),
        (&["--since", "1h"], &["1", "2", "3", "4"]),
        (&["--since", "2999-01-01"], &[]),
        (&["--follow", "--limit", "3"], &["1", "2", "3"]),
    ] {
        let lines = replay(&place, &[&["orders/*"], arguments].concat());
        assert_eq!(payloads(&lines), expected, "{arguments:?}");
    }
    let cut = place.run(&["replay", "--addr", "bus", "orders/*", "--limit", "2", "--json"]);
    assert!(cut.errors.contains("there is more; go on with --from 3"), "{cut:?}");
    let first: Value = serde_json::from_str(cut.success().lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["sequence"], &first["topic"], &first["payload"]),
        (&1.into(), &"orders/a".into(), &1.into())
    );
    assert_eq!(first["headers"][0][1], "7");
    let time = first["time"].as_str().unwrap();
    assert_eq!(payloads(&replay(&place, &["orders/*", "--since", time, "--limit", "1"])), ["1"]);
    assert_eq!(place.run(&["replay", "--addr", "bus", "orders/a", "--raw"]).success(), "\u{1}\n\u{3}\n");
}

#[test]
fn replay_follows_with_what_is_published_until_it_is_interrupted() {
    let place = Place::new();
    let _bus = start(&place, ORDERS);
    place.run(&["pub", "--addr", "bus", "orders/a", "1"]).success();
    let mut following = place.start(&["replay", "--addr", "bus", "orders/*", "--follow"]);
    let mut lines = std::io::BufRead::lines(following.stdout());
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().ends_with(" orders/a 1"));
    place.run(&["pub", "--addr", "bus", "orders/b", "2"]).success();
    let line = next();
    assert!(line.starts_with("2 ") && line.ends_with(" orders/b 2"), "{line}");
    following.signal("INT");
    assert_eq!(following.end().code(), 0);
}

#[test]
fn what_no_stream_keeps_is_told_with_what_to_do() {
    let place = Place::new();
    let _bus = start(&place, ORDERS);
    for arguments in
        [&["replay", "--addr", "bus", "news"][..], &["pub", "--addr", "bus", "--qos", "1", "news", "1"]]
    {
        let refused = place.run(arguments);
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.errors.contains("help: name it in a stream of the bus"), "{refused:?}");
    }
    for arguments in [&["--from", "1", "--last", "2"][..], &["--since", "yesterday"], &["--limit", "0"]] {
        assert_eq!(place.run(&[&["replay", "--addr", "bus", "news"], arguments].concat()).code(), 2);
    }
}

#[cfg(feature = "encryption")]
#[test]
fn what_was_encrypted_is_kept_so_and_replayed_with_the_keyring() {
    let place = Place::new();
    let _bus = start(&place, ORDERS);
    place.run(&["keys", "new", "team.keys"]).success();
    let secret = "\"the eagle has landed\"";
    let sealed = ["--addr", "bus", "--keyring", "team.keys"];
    place.run(&[&["pub", "--qos", "1", "orders/7", secret][..], &sealed].concat()).success();
    for _ in 0..2 {
        let printed = place.run(&[&["replay", "orders/7"][..], &sealed].concat()).success();
        assert!(printed.trim_end().ends_with(secret), "{printed}");
    }
    let without = place.run(&["replay", "--addr", "bus", "orders/7"]).success();
    assert!(!without.contains("eagle"), "{without}");
    for file in std::fs::read_dir(place.path("state/whispeer")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(5).any(|five| five == b"eagle"));
    }
}
