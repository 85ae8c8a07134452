//! `whispeer serve ws://…`, and what programs of others make of it.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Place, Running, has, has_module, serve};

fn vectors() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("docs/protocol-vectors.json").to_str().unwrap().to_owned()
}

/// The bytes of one vector.
fn vector(name: &str) -> Vec<u8> {
    let all: serde_json::Value = serde_json::from_str(&fs::read_to_string(vectors()).unwrap()).unwrap();
    let vector = all["frames"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
    let digits = vector["bytes_hex"].as_str().unwrap().as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn commands_reach_a_bus_by_websocket() {
    let place = Place::new();
    let (_bus, address) = serve(&place, &["serve", "ws://localhost:0/bus"]);
    assert!(address.starts_with("ws://localhost:") && address.ends_with("/bus"), "{address}");
    let mut subscriber = place.start(&["sub", "--addr", &address, "--count", "1", "greetings"]);
    subscriber.wait_for("subscribed");
    place.run(&["pub", "--addr", &address, "greetings", "\"hello\""]).success();
    assert!(subscriber.end().success().contains("hello"));
    let elsewhere = place.run(&["pub", "--addr", &format!("{address}/x"), "greetings", "\"hello\""]);
    assert!(elsewhere.errors.contains("404 Not Found"), "{elsewhere:?}");
}

#[test]
fn commands_reach_a_bus_by_websocket_over_tls() {
    let place = Place::new();
    for arguments in [&["init"][..], &["server"]] {
        place.run(&[&["certs"][..], arguments].concat()).success();
    }
    let tls = ["--tls-cert", "certs/server.pem", "--tls-key", "certs/server.key"];
    let (_bus, address) = serve(&place, &[&["serve", "wss://localhost:0"][..], &tls].concat());
    place.run(&["pub", "--addr", &address, "--ca", "certs/ca.pem", "greetings", "\"hello\""]).success();
    let untrusting = place.run(&["pub", "--addr", &address, "greetings", "\"hello\""]);
    assert!(untrusting.errors.contains("its CA is not trusted"), "{untrusting:?}");
}

#[test]
fn an_origin_that_is_none_is_refused_with_how_to_write_it() {
    let place = Place::new();
    let refused = place.run(&["serve", "ws://localhost:0", "--websocket-origins", "app.example.com"]);
    assert_ne!(refused.code(), 0);
    assert!(refused.errors.contains("https://app.example.com"), "{refused:?}");
}

#[test]
fn the_websockets_of_python_speak_the_vectors_of_the_protocol() {
    if !has_module("websockets") {
        return;
    }
    let place = Place::new();
    let (_bus, address) = serve(
        &place,
        &[
            "serve",
            "ws://localhost:0/bus",
            "--websocket-origins",
            "https://other.example.com,https://app.example.com",
        ],
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/websockets_peer.py");
    let ended = Command::new("python3")
        .arg(script)
        .args([&address, &address.replace("/bus", "/other"), &vectors()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "ok\n", "{errors}");
}

#[test]
fn websocat_speaks_the_vectors_of_the_protocol() {
    if !has("websocat") {
        return;
    }
    let place = Place::new();
    let (_bus, address) = serve(&place, &["serve", "ws://localhost:0/bus"]);
    let websocat = |protocol: &str| {
        let mut command = Command::new("websocat");
        command.args(["--binary", "--no-close", "--protocol", protocol, &address]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut peer = websocat("whispeer.v1");
    let (mut input, mut output) = (peer.stdin.take().unwrap(), peer.stdout.take().unwrap());
    let _running = Running::new(peer);
    // The next frame of a kind; others are passed over.
    let mut next = |wanted: u8| loop {
        let mut head = [0; 24];
        output.read_exact(&mut head).unwrap();
        let length = u32::from_le_bytes(*head.first_chunk().unwrap());
        let mut rest = vec![0; length as usize + 4 - head.len()];
        output.read_exact(&mut rest).unwrap();
        if head[4] == wanted {
            return rest;
        }
    };
    const WELCOME: u8 = 2;
    const ACCEPTED: u8 = 7;
    const DELIVER: u8 = 19;
    input.write_all(&vector("hello")).unwrap();
    next(WELCOME);
    input.write_all(&vector("subscribe")).unwrap();
    next(ACCEPTED);
    input.write_all(&vector("publish")).unwrap();
    assert_eq!(next(DELIVER), b"price/ethhello");

    let refused = Running::new(websocat("mqtt")).end();
    assert!(!refused.status.success() && refused.errors.contains("400"), "{refused:?}");
}
