//! `whispeer serve quic://…`, and what a client makes of it that shares no code with it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Place, has_module, serve, with_certificates};

const SERVE: [&str; 6] =
    ["serve", "quic://localhost:0", "--tls-cert", "certs/server.pem", "--tls-key", "certs/server.key"];

/// What a bus is told that asks for certificates.
const ASK: [&str; 4] = ["--tls-client-ca", "certs/ca.pem", "--tls-crl", "certs/crl.pem"];

/// What the client in Python prints.
fn peer(place: &Place, address: &str, arguments: &[&str]) -> String {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let port = address.rsplit_once(':').unwrap().1;
    let ended = Command::new("python3")
        .arg(own.join("tests/cli/quic_peer.py"))
        .args([port.as_ref(), own.join("../docs/protocol-vectors.json").as_os_str()])
        .arg("certs/ca.pem")
        .args(arguments)
        .current_dir(place.path("."))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned()
}

#[test]
fn messages_go_over_quic_between_clients_with_certificates() {
    let place = with_certificates();
    let (_bus, address) = serve(&place, &[&SERVE[..], &ASK].concat());
    let alice = ["--ca", "certs/ca.pem", "--cert", "certs/alice.pem", "--key", "certs/alice.key"];
    let mut reply = place
        .start(&[&["reply", "--addr", &address, "--count", "1", "echo", "\"pong\""][..], &alice].concat());
    reply.wait_for("serving");
    let answer = place.run(&[&["req", "--addr", &address, "echo", "\"ping\""][..], &alice].concat());
    assert_eq!(answer.success().trim(), "\"pong\"");
    reply.end().success();
    let mallory = ["--ca", "certs/ca.pem", "--cert", "certs/mallory.pem", "--key", "certs/mallory.key"];
    let refused = place.run(&[&["pub", "--addr", &address, "a", "1"][..], &mallory].concat());
    assert!(refused.errors.contains("revoked"), "{refused:?}");
}

#[test]
fn aioquic_does_the_handshake_and_speaks_by_the_test_vectors() {
    if !has_module("aioquic") {
        return;
    }
    let place = with_certificates();
    let (_bus, address) = serve(&place, &SERVE);
    let said = peer(&place, &address, &[]);
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains("PING")).collect();
    assert_eq!(lines[..4], ["alpn whispeer/1", "frame WELCOME", "frame PONG", "frame GOODBYE"], "{said}");
    assert!(lines[4].starts_with("ended 0"), "{said}");
    assert!(!said.contains("ticket"), "{said}");
    // `no_application_protocol` is alert 120 of TLS, to which QUIC adds 256.
    let other = peer(&place, &address, &["--alpn", "h3"]);
    assert!(other.contains("ended 376") && !other.contains("frame"), "{other}");
    // A stream too many breaks the rules: STREAM_LIMIT_ERROR.
    let many = peer(&place, &address, &["--streams", "2"]);
    assert!(many.contains("ended 4") && !many.contains("PONG"), "{many}");
    // The client verifies for itself.
    let elsewhere = peer(&place, &address, &["--name", "elsewhere.example"]);
    assert!(!elsewhere.contains("alpn"), "{elsewhere}");
}

#[test]
fn aioquic_gets_in_with_the_right_certificate_and_with_no_other() {
    if !has_module("aioquic") {
        return;
    }
    let place = with_certificates();
    let (_bus, address) = serve(&place, &[&SERVE[..], &ASK].concat());
    let shown = |name: &str| {
        let [cert, key] = ["pem", "key"].map(|ending| format!("certs/{name}.{ending}"));
        peer(&place, &address, &["--cert", &cert, "--key", &key])
    };
    assert!(shown("alice").contains("frame PONG"));
    // `certificate_required` and `certificate_revoked`.
    let none = peer(&place, &address, &[]);
    assert!(none.contains("ended 372") && !none.contains("frame"), "{none}");
    let revoked = shown("mallory");
    assert!(revoked.contains("ended 300") && !revoked.contains("frame"), "{revoked}");
}
