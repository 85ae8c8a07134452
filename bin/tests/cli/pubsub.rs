use std::io::{BufRead, Read, Write};
use std::sync::mpsc::sync_channel;
use std::thread;

use serde_json::{Value, json};

use crate::support::{LIMIT, Place, long_text};

#[test]
fn a_message_goes_from_one_process_to_another() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "--count", "1", "news/**"]);
    subscriber.wait_for("subscribed to news/**");
    let published = place.run(&["pub", "--addr", "bus", "news/local", r#"{"rain": true, "mm": 1.5}"#]);
    assert_eq!(published.errors, "whispeer: published to 1 subscription\n");
    let line: Value = serde_json::from_str(&subscriber.end().success()).unwrap();
    assert_eq!(line, json!({"rain": true, "mm": 1.5}));
}

#[test]
fn a_message_may_come_later_and_the_will_of_a_subscriber_that_is_killed() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut watcher = place.start(&["sub", "--addr", "bus", "--count", "2", "workers/*"]);
    watcher.wait_for("subscribed");
    let later =
        place.run(&["pub", "--addr", "bus", "--in", "100ms", "--ttl", "1m", "workers/7", r#""here""#]);
    assert_eq!(later.errors, "whispeer: the bus publishes it in 100ms\n");
    let will = ["--will-topic", "workers/7", "--will-payload", r#""gone""#];
    let mut worker = place.start(&[&["sub", "--addr", "bus", "jobs"], &will[..]].concat());
    worker.wait_for("subscribed");
    worker.signal("KILL");
    let output = watcher.end().success();
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["\"gone\"", "\"here\""]);
    let alone = place.run(&["sub", "--addr", "bus", "jobs", "--will-topic", "x"]);
    assert!(alone.errors.contains("--will-payload"), "{alone:?}");
}

#[test]
fn json_output_has_topic_headers_and_payload() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "-n1", "--json", "a/*"]);
    subscriber.wait_for("subscribed");
    place.run(&["pub", "--addr", "bus", "a/b", "7", "--header", "shop=12", "--header", "x=y=z"]).success();
    let line: Value = serde_json::from_str(&subscriber.end().success()).unwrap();
    assert_eq!(line, json!({"topic": "a/b", "headers": [["shop", "12"], ["x", "y=z"]], "payload": 7}));
}

#[test]
fn bytes_go_through_unchanged_with_raw_and_are_marked_in_json() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut raw = place.start(&["sub", "--addr", "bus", "-n1", "--raw", "blob"]);
    let mut marked = place.start(&["sub", "--addr", "bus", "-n1", "blob"]);
    raw.wait_for("subscribed");
    marked.wait_for("subscribed");
    place.run_with_input(&["pub", "--addr", "bus", "--raw", "blob"], b"hello").success();
    assert_eq!(raw.end().success(), "hello\n");
    assert_eq!(marked.end().success(), "{\"$binary\":\"aGVsbG8=\"}\n");
}

#[test]
fn a_long_text_arrives_whole_and_in_order_while_another_subscriber_is_stalled() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let text = long_text();
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines > 10_000);

    let mut stalled = place.start(&["sub", "--addr", "bus", "--raw", "text"]);
    stalled.wait_for("subscribed");
    stalled.signal("STOP");
    let mut reading = place.start(&["sub", "--addr", "bus", "--raw", "--count", &lines.to_string(), "text"]);
    reading.wait_for("subscribed");
    let reader = thread::spawn(move || reading.end());
    let published = place.run_with_input(&["pub", "--addr", "bus", "--lines", "--raw", "text"], &text);
    assert!(published.errors.contains("published"), "{published:?}");
    published.success();

    let read = reader.join().unwrap();
    assert_eq!(read.errors, "whispeer: subscribed to text\n", "no gaps");
    assert!(read.success().as_bytes() == text, "the text is not the same");
    stalled.signal("CONT");
}

#[test]
fn lines_are_strings_and_a_subscriber_whose_output_nobody_reads_holds_nobody_up() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let text = long_text();
    let expected: Vec<String> =
        text.split(|byte| *byte == b'\n').map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
    let lines = expected.len() - 1;

    let mut unread = place.start(&["sub", "--addr", "bus", "text"]);
    unread.wait_for("subscribed");
    let _kept_open = unread.stdout();
    let mut reading = place.start(&["sub", "--addr", "bus", "--count", &lines.to_string(), "text"]);
    reading.wait_for("subscribed");
    let reader = thread::spawn(move || reading.end());
    place.run_with_input(&["pub", "--addr", "bus", "--lines", "text"], &text).success();
    let read = reader.join().unwrap().success();
    let mut count = 0;
    for (line, expected) in read.lines().zip(&expected) {
        assert_eq!(&serde_json::from_str::<String>(line).unwrap(), expected);
        count += 1;
    }
    assert_eq!(count, lines);
}

#[test]
fn lines_take_headers_along_and_stay_in_order() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let text = long_text();
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    let mut reading = place.start(&["sub", "--addr", "bus", "--json", "--count", &lines.to_string(), "text"]);
    reading.wait_for("subscribed");
    let reader = thread::spawn(move || reading.end());
    let publish = ["pub", "--addr", "bus", "--lines", "--header", "book=7", "--header", "x=", "text"];
    place.run_with_input(&publish, &text).success();
    let read = reader.join().unwrap().success();
    let expected = text.split(|byte| *byte == b'\n').map(|line| std::str::from_utf8(line).unwrap());
    let mut count = 0;
    for (line, expected) in read.lines().zip(expected) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["payload"], expected);
        assert_eq!(line["headers"], json!([["book", "7"], ["x", ""]]));
        count += 1;
    }
    assert_eq!(count, lines);
}

#[test]
fn a_gap_is_told_on_standard_error_and_in_the_json() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut slow =
        place.start(&["sub", "--addr", "bus", "--json", "--policy", "drop-newest", "--window", "8", "text"]);
    slow.wait_for("subscribed");
    slow.signal("STOP");
    place
        .run_with_input(&["pub", "--addr", "bus", "--lines", "text"], "x\n".repeat(1_000).as_bytes())
        .success();
    slow.signal("CONT");
    let mut output = slow.stdout();
    slow.wait_for("gap");
    slow.signal("TERM");
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(slow.end().code(), 0);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dropped: u64 = lines.iter().filter_map(|line| line.get("gap")?.as_u64()).sum();
    let received = lines.iter().filter(|line| line.get("payload").is_some()).count() as u64;
    assert!(lines.iter().any(|line| line.get("reason") == Some(&json!("dropped_newest"))), "{text}");
    assert_eq!(dropped + received, 1_000, "every message is received or counted");
}

#[test]
fn a_reader_that_has_seen_enough_ends_sub_well() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "ticks"]);
    subscriber.wait_for("subscribed");
    let mut output = subscriber.stdout();
    let mut publisher = place.start_with_input(&["pub", "--addr", "bus", "--lines", "ticks"]);
    let mut input = publisher.stdin();
    input.write_all(b"one\n").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "\"one\"\n", "a line is printed as soon as it is there");
    drop(output);
    input.write_all(b"two\n").unwrap();
    drop(input);
    publisher.end().success();
    assert_eq!(subscriber.end().code(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn sub_ends_with_its_reader_without_waiting_for_another_message() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "quiet"]);
    subscriber.wait_for("subscribed");
    drop(subscriber.stdout());
    assert_eq!(subscriber.end().code(), 0);
}

#[test]
fn an_interrupt_ends_sub_and_pub_well_and_loses_nothing() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "a"]);
    subscriber.wait_for("subscribed");
    let mut publisher = place.start_with_input(&["pub", "--addr", "bus", "--lines", "a"]);
    let mut output = subscriber.stdout();
    let mut input = publisher.stdin();
    input.write_all(b"first\n").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    publisher.signal("INT");
    let ended = publisher.end();
    assert!(ended.errors.contains("published 1 message"), "{ended:?}");
    assert_eq!(ended.code(), 0);
    subscriber.signal("INT");
    assert_eq!(subscriber.end().code(), 0);
}

#[test]
fn members_of_a_group_share_the_messages() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let (sender, receiver) = sync_channel(2);
    for _ in 0..2 {
        let mut member = place.start(&["sub", "--addr", "bus", "--group", "workers", "jobs"]);
        member.wait_for("subscribed");
        let mut output = member.stdout();
        let sender = sender.clone();
        thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).unwrap_or(0) > 0 {
                if sender.send(line.clone()).is_err() {
                    return;
                }
                line.clear();
            }
            drop(member);
        });
    }
    place.run_with_input(&["pub", "--addr", "bus", "--lines", "jobs"], b"1\n2\n3\n4\n").success();
    let mut jobs: Vec<String> = (0..4).map(|_| receiver.recv_timeout(LIMIT).unwrap()).collect();
    jobs.sort();
    assert_eq!(jobs, ["\"1\"\n", "\"2\"\n", "\"3\"\n", "\"4\"\n"]);
}

#[test]
fn ls_lists_distinct_topics_in_order() {
    let place = Place::new();
    let _bus = place.bus("bus");
    // With a cap of two, the third topic ends the listing: no time has to pass.
    let listing = place.start(&["ls", "--addr", "bus", "--for", "50s", "--max", "2"]);
    wait_for_subscription(&place, "**");
    for topic in ["b", "a", "b", "c"] {
        place.run(&["pub", "--addr", "bus", topic, "1"]).success();
    }
    let ended = listing.end();
    assert!(ended.errors.contains("more than 2 topics"), "{ended:?}");
    assert_eq!(ended.success(), "a\nb\n");
}

/// Asks until the bus has the subscription; each question is a round trip.
fn wait_for_subscription(place: &Place, pattern: &str) {
    for _ in 0..1_000 {
        let info: Value =
            serde_json::from_str(&place.run(&["info", "--addr", "bus", "--json"]).success()).unwrap();
        let rows = info["subscriptions"]["rows"].as_array().unwrap();
        if rows.iter().any(|row| row["pattern"] == pattern) {
            return;
        }
    }
    panic!("nobody subscribed to {pattern}");
}
