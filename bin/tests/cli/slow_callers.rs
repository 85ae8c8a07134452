//! Callers by HTTP who take their time, by `slowhttptest`: with heads, bodies and answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use whispeer_testkit::tools::has_with;

use crate::support::{LIMIT, Place, serve};

/// Connections of each kind.
const CONNECTIONS: &str = "200";

/// The kinds: how it is asked for, for how many seconds, and whether the gateway has closed all connections by then.
const KINDS: [(&str, &[&str], &str, bool); 3] = [
    ("heads", &["-H"], "25", true),
    ("bodies", &["-B", "-s", "8192", "-f", "application/json"], "45", true),
    ("answers", &["-X", "-w", "1", "-y", "4", "-n", "1", "-z", "1"], "25", false),
];

#[test]
fn callers_who_take_their_time_are_cut_off_and_keep_nobody_waiting() {
    if !has_with("slowhttptest", "-h") {
        return;
    }
    let place = Place::new();
    let (mut bus, address) = serve(&place, &["serve", "http://127.0.0.1:0"]);
    let url = |path: &str| format!("{address}{path}");
    let started = KINDS.map(|(kind, how, seconds, _)| {
        let path = if kind == "bodies" { "/api/v1/publish?topic=slow" } else { "/api/openapi.json" };
        Command::new("slowhttptest")
            .args(["-c", CONNECTIONS, "-r", CONNECTIONS, "-i", "1", "-p", "5", "-v", "1", "-l", seconds])
            .args(how)
            .args(["-u", &url(path)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    for (child, (kind, _, _, is_cut_off)) in started.into_iter().zip(KINDS) {
        let ended = child.wait_with_output().unwrap();
        let said = plain(&String::from_utf8_lossy(&ended.stdout));
        // What it found last.
        let last =
            |what: &str| said.lines().rev().find_map(|line| line.trim().strip_prefix(what)).map(str::trim);
        assert_eq!(last("service available:"), Some("YES"), "{kind}: {said}");
        assert!(!is_cut_off || said.contains("No open connections left"), "{kind}: {said}");
    }
    assert!(bus.has_ended().is_none());
    assert_eq!(health(&address), "ok");
}

/// Text without the escapes that colour it.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// The answer of `/healthz`.
fn health(address: &str) -> String {
    let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}
