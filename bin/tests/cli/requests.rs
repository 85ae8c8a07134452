use std::io::Read;
use std::sync::mpsc::sync_channel;

use serde_json::{Value, json};

use crate::support::{LIMIT, Place};

#[test]
fn a_fixed_value_answers_every_request() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut server = place.start(&["reply", "--addr", "bus", "--count", "2", "health", r#"{"ok":true}"#]);
    server.wait_for("serving health");
    for _ in 0..2 {
        assert_eq!(place.run(&["req", "--addr", "bus", "health"]).success(), "{\"ok\":true}\n");
    }
    assert_eq!(server.end().code(), 0);
}

#[test]
fn a_command_gets_the_request_and_gives_the_answer() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut echo = place.start(&["reply", "--addr", "bus", "echo", "--exec", "cat"]);
    echo.wait_for("serving");
    let value = r#"{"name":"Alice","tags":[1,2]}"#;
    let answer = place.run(&["req", "--addr", "bus", "echo", value]).success();
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), json!({"name": "Alice", "tags": [1, 2]}));

    let mut named = place.start(&[
        "reply",
        "--addr",
        "bus",
        "--text",
        "who/am/i",
        "--exec",
        "printenv",
        "WHISPEER_TOPIC",
    ]);
    named.wait_for("serving");
    assert_eq!(place.run(&["req", "--addr", "bus", "who/am/i"]).success(), "\"who/am/i\"\n");

    let mut bytes = place.start(&["reply", "--addr", "bus", "--raw", "bytes", "--exec", "cat"]);
    bytes.wait_for("serving");
    assert_eq!(place.run(&["req", "--addr", "bus", "--raw", "bytes", "not json"]).success(), "not json");
}

#[test]
fn a_command_that_fails_answers_with_its_complaint_and_the_next_request_is_served() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let script =
        "read word; if [ \"$word\" = 1 ]; then echo good; else echo 'no such article' >&2; exit 3; fi";
    let mut server = place.start(&["reply", "--addr", "bus", "--text", "shop", "--exec", "sh", "-c", script]);
    server.wait_for("serving");
    let refused = place.run(&["req", "--addr", "bus", "shop", "2"]);
    assert_eq!(refused.code(), 6);
    assert!(refused.errors.contains("no such article (exit_3)"), "{refused:?}");
    assert_eq!(place.run(&["req", "--addr", "bus", "shop", "1"]).success(), "\"good\"\n");
}

#[test]
fn output_that_is_not_json_says_how_to_send_it() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut server = place.start(&["reply", "--addr", "bus", "t", "--exec", "echo", "plain words"]);
    server.wait_for("serving");
    let ended = place.run(&["req", "--addr", "bus", "t"]);
    assert_eq!(ended.code(), 6);
    assert!(ended.errors.contains("--text"), "{ended:?}");
}

#[test]
fn without_a_server_the_request_fails_with_a_code_of_its_own_and_says_what_to_do() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let ended = place.run(&["req", "--addr", "bus", "nobody/here"]);
    assert_eq!(ended.code(), 4);
    assert!(ended.errors.contains("help: serve it with `whispeer reply nobody/here VALUE`"), "{ended:?}");
}

#[test]
fn a_request_that_takes_too_long_times_out() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut server = place.start(&["reply", "--addr", "bus", "slow", "--exec", "sleep", "300"]);
    server.wait_for("serving");
    let ended = place.run(&["req", "--addr", "bus", "--timeout", "50ms", "slow"]);
    assert_eq!(ended.code(), 5, "{ended:?}");
    let ended = place.run(&["req", "--addr", "bus", "--timeout", "50ms", "--stream", "slow"]);
    assert_eq!(ended.code(), 5, "{ended:?}");
    // The command was killed with the request, so nothing keeps the server from ending.
    server.signal("TERM");
    assert_eq!(server.end().code(), 0);
}

#[test]
fn a_command_is_killed_with_all_that_it_started_when_the_requester_gives_up() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let pipe = place.path("held");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // The shell waits for a process of its own, which keeps the pipe open for as long as it lives.
    let mut server =
        place.start(&["reply", "--addr", "bus", "slow", "--exec", "sh", "-c", "sleep 300 >held; cat"]);
    server.wait_for("serving");
    let (sender, events) = sync_channel(2);
    std::thread::spawn(move || {
        let mut reader = std::fs::File::open(pipe).unwrap();
        sender.send("it runs").unwrap();
        reader.read_to_end(&mut Vec::new()).unwrap();
        sender.send("it has ended").unwrap();
    });
    let requester = place.start(&["req", "--addr", "bus", "slow"]);
    assert_eq!(events.recv_timeout(LIMIT), Ok("it runs"));
    requester.signal("INT");
    assert_eq!(events.recv_timeout(LIMIT), Ok("it has ended"));
    server.signal("TERM");
    assert_eq!(server.end().code(), 0);
}

#[test]
fn many_servers_can_be_asked_at_once() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut one = place.start(&["reply", "--addr", "bus", "node/1/status", "1"]);
    let mut two = place.start(&["reply", "--addr", "bus", "node/2/status", "2"]);
    one.wait_for("serving");
    two.wait_for("serving");
    let output = place.run(&["req", "--addr", "bus", "--many", "0", "node/*/status"]).success();
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [r#"{"topic":"node/1/status","answer":1}"#, r#"{"topic":"node/2/status","answer":2}"#]);
    assert_eq!(place.run(&["req", "--addr", "bus", "--many", "0", "nobody/*"]).code(), 4);
}

#[test]
fn a_stream_of_answers_ends_after_a_single_one_too() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut server = place.start(&["reply", "--addr", "bus", "t", "7"]);
    server.wait_for("serving");
    assert_eq!(place.run(&["req", "--addr", "bus", "--stream", "t"]).success(), "7\n");
    let with_header = ["req", "--addr", "bus", "--stream", "--header", "from=here", "t"];
    assert_eq!(place.run(&with_header).success(), "7\n");
}

#[test]
fn a_second_server_is_refused_unless_it_takes_over() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut first = place.start(&["reply", "--addr", "bus", "t", "1"]);
    first.wait_for("serving");
    let refused = place.run(&["reply", "--addr", "bus", "t", "2"]);
    assert_ne!(refused.code(), 0);
    assert!(refused.errors.contains("--take-over"), "{refused:?}");
    let mut second = place.start(&["reply", "--addr", "bus", "--take-over", "t", "2"]);
    second.wait_for("serving");
    assert_eq!(place.run(&["req", "--addr", "bus", "t"]).success(), "2\n");
    assert_ne!(first.end().code(), 0, "the old server says that it was replaced");
}
