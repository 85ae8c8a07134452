//! Strangers on every listener: a good client gets in all the while, and what they cost is given back.

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use crate::support::{Place, Running};

/// Connections of strangers at each address.
const STRANGERS: usize = 400;

/// What strangers say: nothing, garbage, HTTP, and the beginnings of handshakes.
const SAYINGS: [&[u8]; 6] = [
    b"",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /bus HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x32\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
];

/// KiB of memory that a process has.
fn memory(bus: &Running) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", bus.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn strangers_hold_nobody_up_and_leave_no_memory_behind() {
    let place = Place::new();
    for arguments in [&["certs", "init"][..], &["certs", "server"]] {
        place.run(arguments).success();
    }
    let mut bus = place.start(&[
        "serve",
        "tcp://localhost:0",
        "tls://localhost:0",
        "ws://localhost:0/bus",
        "--tls-cert",
        "certs/server.pem",
        "--tls-key",
        "certs/server.key",
        "--handshake-timeout",
        "500ms",
    ]);
    let line = bus.wait_for("ready on");
    let addresses: Vec<String> =
        line.split_once("ready on ").unwrap().1.split(", ").map(ToOwned::to_owned).collect();
    let ports = addresses.iter().map(|address| {
        let (_, after) = address.rsplit_once(':').unwrap();
        after.split('/').next().unwrap().parse::<u16>().unwrap()
    });
    let ports: Vec<u16> = ports.collect();
    let publish = |address: &str| {
        place.run(&["pub", "--addr", address, "--ca", "certs/ca.pem", "greetings", "\"hello\""]).success();
    };
    let mut after = Vec::new();
    for _ in 0..4 {
        let mut strangers = Vec::new();
        for port in &ports {
            for turn in 0..STRANGERS {
                let mut stream = TcpStream::connect(("127.0.0.1", *port)).unwrap();
                // The bus may have had enough of it already.
                let _ = stream.write_all(SAYINGS[turn % SAYINGS.len()]);
                strangers.push(stream);
            }
        }
        for (turn, stream) in strangers.iter_mut().enumerate().filter(|(turn, _)| turn % 7 == 0) {
            let _ = stream.write_all(&[turn as u8]);
        }
        for address in &addresses {
            publish(address);
        }
        drop(strangers);
        publish(&addresses[0]);
        after.push(memory(&bus));
    }
    // What the first ones have taken is used again for the others.
    let (first, last) = (after[0], after[after.len() - 1]);
    assert!(last < first + 8 * 1024, "KiB of memory after each round of strangers: {after:?}");
    bus.signal("TERM");
    assert!(bus.end().status.success());
}
