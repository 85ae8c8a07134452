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
    std::fs::remove_file(place.path("kept/streams.db-wal")).unwrap();
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
