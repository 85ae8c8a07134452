use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::support::{LIMIT, Place, serve};

#[test]
fn a_bus_is_started_by_its_address_alone_and_ends_well_when_asked_to() {
    for signal in ["TERM", "INT"] {
        let place = Place::new();
        let mut bus = place.start(&["my_bus"]);
        assert_eq!(bus.wait_for("ready"), "whispeer: ready on unix:my_bus");
        assert!(place.path("my_bus").exists());
        bus.signal(signal);
        assert_eq!(bus.end().code(), 0);
        assert!(!place.path("my_bus").exists(), "the socket's file is gone");
    }
}

#[test]
fn a_second_signal_stops_a_draining_bus_at_once() {
    let place = Place::new();
    let mut bus = place.start(&["serve", "bus", "--grace", "1h"]);
    bus.wait_for("ready");
    let mut server = place.start(&["reply", "--addr", "bus", "slow", "--exec", "sleep", "300"]);
    server.wait_for("serving");
    let _waiting = place.start(&["req", "--addr", "bus", "--timeout", "1h", "slow"]);
    wait_for_request(&place);
    bus.signal("TERM");
    bus.wait_for("draining");
    bus.signal("TERM");
    assert_eq!(bus.end().code(), 0);
    assert!(!place.path("bus").exists());
}

#[test]
fn a_bus_is_stopped_by_who_may_do_so_once_what_is_in_flight_has_finished() {
    let place = Place::new();
    let mut bus = place.start(&["serve", "bus"]);
    bus.wait_for("ready");
    let mut server = place.start(&["reply", "--addr", "bus", "--raw", "slow", "--exec", "cat", "gate"]);
    server.wait_for("serving");
    let fifo = place.path("gate");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let request = place.start(&["req", "--addr", "bus", "--timeout", "1h", "--raw", "slow"]);
    wait_for_request(&place);
    let stop = place.start(&["stop", "--addr", "bus", "--grace", "1h"]);
    bus.wait_for("an administrator asks this bus to stop");
    std::fs::write(&fifo, "in time").unwrap();
    let answered = request.end();
    assert_eq!(answered.output, "in time", "{answered:?}");
    let stopped = stop.end();
    assert!(stopped.code() == 0 && stopped.errors.contains("bus has stopped"), "{stopped:?}");
    assert_eq!(bus.end().code(), 0);
    assert!(!place.path("bus").exists(), "the socket's file is gone");
}

#[test]
fn a_bus_that_an_administrator_stops_ends_at_once_at_the_first_signal() {
    let place = Place::new();
    let mut bus = place.start(&["serve", "bus"]);
    bus.wait_for("ready");
    let mut server = place.start(&["reply", "--addr", "bus", "slow", "--exec", "sleep", "300"]);
    server.wait_for("serving");
    let _waiting = place.start(&["req", "--addr", "bus", "--timeout", "1h", "slow"]);
    wait_for_request(&place);
    let _stop = place.start(&["stop", "--addr", "bus", "--grace", "1h"]);
    bus.wait_for("an administrator asks this bus to stop");
    bus.signal("TERM");
    assert_eq!(bus.end().code(), 0);
}

#[test]
fn a_second_bus_on_a_live_socket_is_refused_and_the_first_lives_on() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let second = place.run(&["serve", "bus"]);
    assert_eq!(second.code(), 7);
    assert!(second.errors.contains("in use by a running bus"), "{second:?}");
    assert!(second.errors.contains("help: "), "{second:?}");
    place.run(&["pub", "--addr", "bus", "a", "1"]).success();
}

#[test]
fn the_socket_of_a_bus_that_was_killed_is_used_again() {
    let place = Place::new();
    let bus = place.bus("bus");
    bus.signal("KILL");
    assert!(bus.end().status.code().is_none());
    assert!(place.path("bus").exists(), "a killed bus leaves its file behind");
    let _again = place.bus("bus");
    place.run(&["pub", "--addr", "bus", "a", "1"]).success();
}

#[test]
fn the_mode_of_the_socket_can_be_set() {
    let place = Place::new();
    let mode = |name| std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    let _private = place.bus("private");
    assert_eq!(mode("private"), 0o600);
    let mut shared = place.start(&["serve", "shared", "--mode", "0660"]);
    shared.wait_for("ready");
    assert_eq!(mode("shared"), 0o660);
}

#[test]
fn a_frame_over_the_limit_of_the_bus_is_refused_with_what_to_do() {
    let place = Place::new();
    let mut bus = place.start(&["serve", "bus", "--frame-limit", "128KiB"]);
    bus.wait_for("ready");
    let ended = place.run_with_input(&["pub", "--addr", "bus", "--raw", "a"], &vec![b'x'; 200_000]);
    assert_eq!(ended.code(), 1);
    assert!(ended.errors.contains("--frame-limit"), "{ended:?}");
}

#[test]
fn a_client_is_told_when_its_bus_goes() {
    let place = Place::new();
    let bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "a"]);
    subscriber.wait_for("subscribed");
    bus.signal("KILL");
    let ended = subscriber.end();
    assert_eq!(ended.code(), 3);
    assert!(ended.errors.contains("error: "), "{ended:?}");
}

#[test]
fn info_is_read_by_people_and_programs() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "news/**"]);
    subscriber.wait_for("subscribed");
    place.run(&["pub", "--addr", "bus", "news/a", "1"]).success();
    let json: Value =
        serde_json::from_str(&place.run(&["info", "--addr", "bus", "--json"]).success()).unwrap();
    assert_eq!(json["bus"]["published"], 1);
    assert_eq!(json["subscriptions"]["rows"][0]["pattern"], "news/**");
    let names: Vec<_> = json["sessions"]["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert!(names.contains(&&Value::from("whispeer sub")), "{json}");
    let text = place.run(&["info", "--addr", "bus"]).success();
    assert!(text.contains("news/**") && text.contains("whispeer sub"), "{text}");
}

#[test]
fn top_without_a_terminal_says_what_to_use_instead() {
    let place = Place::new();
    let ended = place.run(&["top", "--addr", "bus"]);
    assert_eq!(ended.code(), 2);
    assert!(ended.errors.contains("whispeer info"), "{ended:?}");
}

#[test]
fn bench_measures_with_processes_of_its_own_and_loses_nothing() {
    let place = Place::new();
    let output = place
        .run(&[
            "bench",
            "--messages",
            "500",
            "--subscribers",
            "3",
            "--pairs",
            "2",
            "--outstanding",
            "4",
            "--json",
        ])
        .success();
    let json: Value = serde_json::from_str(&output).unwrap();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 5);
    let counts: Vec<_> = runs.iter().map(|run| run["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [450, 452, 500, 1_500, 1_000], "the first tenth of the requests is left out");
    assert!(runs.iter().all(|run| run["lost"] == 0));
    let p50 = runs[0]["latency_microseconds"]["p50"].as_f64().unwrap();
    let mean = 1e6 / runs[0]["per_second"].as_f64().unwrap();
    assert!(p50 > 0.1 && p50 < mean * 2.0, "a median of {p50} µs does not fit a mean of {mean} µs");
}

#[test]
fn what_strangers_write_to_the_socket_harms_nobody() {
    let place = Place::new();
    let bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "--count", "1", "news"]);
    subscriber.wait_for("subscribed");
    let silent = UnixStream::connect(place.path("bus")).unwrap();
    for garbage in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0; 100], &[0xff; 100_000]] {
        let mut stranger = UnixStream::connect(place.path("bus")).unwrap();
        stranger.set_read_timeout(Some(LIMIT)).unwrap();
        // The bus may hang up before it has all.
        let _ = stranger.write_all(garbage);
        let mut said = Vec::new();
        if let Err(error) = stranger.read_to_end(&mut said) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
    drop(UnixStream::connect(place.path("bus")).unwrap());
    place.run(&["pub", "--addr", "bus", "news", "7"]).success();
    assert_eq!(subscriber.end().success(), "7\n");
    drop(silent);
    bus.signal("TERM");
    assert_eq!(bus.end().code(), 0);
}

fn wait_for_request(place: &Place) {
    for _ in 0..1_000 {
        let info: Value =
            serde_json::from_str(&place.run(&["info", "--addr", "bus", "--json"]).success()).unwrap();
        let busy = |row: &Value| row["name"] == "whispeer req" && row["requests_in_flight"] == 1;
        if info["sessions"]["rows"].as_array().unwrap().iter().any(busy) {
            return;
        }
    }
    panic!("the request did not arrive");
}

#[test]
fn a_subscriber_over_a_network_outlives_its_bus() {
    let place = Place::new();
    let (bus, address) = serve(&place, &["serve", "tcp://localhost:0"]);
    let mut subscriber = place.start(&["sub", "--addr", &address, "--count", "1", "news"]);
    subscriber.wait_for("subscribed");
    bus.signal("TERM");
    assert!(bus.end().status.success());
    subscriber.wait_for(&format!("lost the connection to {address}"));
    let mut bus = place.start(&["serve", &address]);
    bus.wait_for("ready on");
    subscriber.wait_for(&format!("connected to {address} again, with a new session"));
    // Its subscription is asked for at that moment, which a publisher that starts now might overtake.
    for _ in 0..5 {
        place.run(&["pub", "--addr", &address, "news", "\"rain\""]).success();
    }
    assert!(subscriber.end().success().contains("rain"));
}
