//! `whispeer serve --nats`: a bus that is joined to others, and what it tells of that.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;
use whispeer_testkit::nats::{self, NatsBuilder};
use whispeer_testkit::wait::PATIENCE;

use crate::support::{Place, Running, serve};

/// The body of an answer by HTTP.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Waits until what `look` gives has these words, and gives it.
fn until(words: &str, look: impl Fn() -> String) -> String {
    let start = std::time::Instant::now();
    loop {
        let seen = look();
        if seen.contains(words) {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "{words:?} never came:\n{seen}");
        std::thread::yield_now();
    }
}

#[test]
fn a_bus_starts_without_nats_and_joins_when_it_appears_and_tells_how_the_link_is() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().start_blocking();
    server.kill();
    let place = Place::new();
    let (mut bus, address) =
        serve(&place, &["-v", "serve", "unix:my_bus", "http://127.0.0.1:0", "--nats", &server.url()]);
    bus.wait_for("NATS cannot be joined");
    assert_eq!(get(&address, "/readyz"), "ready\nnats: connecting");
    let metrics = get(&address, "/metrics");
    assert!(metrics.contains("\nwhispeer_nats_connected 0\n"), "{metrics}");
    assert!(metrics.contains("\nwhispeer_nats_connects_total 0\n"), "{metrics}");
    let info = || place.run(&["--addr", "unix:my_bus", "info"]).success();
    until("Connection refused", info);

    server.restart_blocking();
    bus.wait_for("NATS is there");
    until("ready\nnats: connected", || get(&address, "/readyz"));
    let told = info();
    assert!(told.lines().any(|line| line.starts_with("nats ") && line.contains("connected for")), "{told}");
    let json: Value =
        serde_json::from_str(&place.run(&["--addr", "unix:my_bus", "info", "--json"]).success()).unwrap();
    assert_eq!(json["bus"]["links"][0]["counts"]["connects"], 1, "{json}");
    assert!(get(&address, "/metrics").contains("\nwhispeer_nats_connected 1\n"));

    server.kill();
    bus.wait_for("NATS is away");
    until("ready\nnats: away", || get(&address, "/readyz"));
    bus.signal("TERM");
    let ended = bus.end();
    assert_eq!(ended.code(), 0);
    // Neither its attempts nor the client that makes them are heard of.
    assert!(!ended.errors.contains("async_nats"), "{ended:?}");
    assert_eq!(ended.errors.matches("WARN").count(), 2, "{ended:?}");
}

#[test]
fn credentials_that_nats_refuses_are_told_with_what_to_do() {
    if !nats::available() {
        return;
    }
    let server =
        NatsBuilder::newest().config("authorization { user: bus, password: secret }").start_blocking();
    let place = Place::new();
    let mut command = place.command(&["serve", "unix:my_bus"]);
    command.env("NATS_URL", server.url_with("nats", "bus:gu3ssed@"));
    let mut bus = Running::new(command.spawn().unwrap());
    let said = bus.wait_for("NATS cannot be joined");
    assert!(
        said.contains("check the user, token, credentials or NKey") && !said.contains("gu3ssed"),
        "{said}"
    );
    bus.signal("TERM");
    let ended = bus.end();
    assert_eq!(ended.code(), 0);
    assert!(!ended.errors.contains("gu3ssed"), "{ended:?}");
}

#[test]
fn config_shows_where_nats_is_without_passwords() {
    let place = Place::new();
    place.write("whispeer.toml", "[nats]\nurl = \"nats://bus:s3cret@n1\"\ncredentials = \"bus.creds\"\n");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = place.command(arguments);
        command.envs(variables.iter().copied());
        Running::new(command.spawn().unwrap()).end().success()
    };
    let text = run(&["config", "bus", "--config", "whispeer.toml"], &[]);
    assert!(text.contains("nats://***@n1") && !text.contains("s3cret"), "{text}");
    assert!(text.contains("\"bus.creds\"") || text.contains("bus.creds"), "{text}");

    let variables = [("NATS_URL", "nats://n2,nats://n3"), ("NATS_PREFIX", "turbine")];
    let json: Value = serde_json::from_str(&run(&["config", "bus", "--json"], &variables)).unwrap();
    let told = |key: &str| (json["settings"][key]["value"].clone(), json["settings"][key]["place"].clone());
    assert_eq!(told("nats.url"), ("nats://n2,nats://n3".into(), "NATS_URL".into()));
    assert_eq!(told("nats.prefix"), ("turbine".into(), "NATS_PREFIX".into()));
    let own = [("NATS_URL", "nats://n2"), ("WHISPEER_NATS_URL", "nats://n4")];
    let json = run(&["config", "bus", "--json"], &own);
    assert!(json.contains("nats://n4") && !json.contains("nats://n2"), "{json}");
    let json = run(&["config", "bus", "--json", "--nats", "tls://n5"], &own);
    assert!(json.contains("tls://n5") && json.contains("--nats"), "{json}");

    for (flag, value, told) in
        [("--nats", "http://n1", "nats://HOST:PORT"), ("--nats-prefix", "a b", "one word")]
    {
        let refused = place.run(&["config", "bus", flag, value]);
        assert_eq!(refused.code(), 2);
        assert!(refused.errors.contains(told), "{refused:?}");
    }
    place.write("wrong.toml", "[nats]\nurl = \"http://bus:s3cret@n1\"\n");
    let refused = place.run(&["serve", "bus", "--config", "wrong.toml"]);
    assert!(refused.errors.contains("http://***@n1") && !refused.errors.contains("s3cret"), "{refused:?}");
}

#[test]
fn settings_of_nats_that_cannot_be_used_end_the_start() {
    let place = Place::new();
    for (arguments, told) in [
        (&["--nats", "nats://localhost", "--nats-credentials", "absent.creds"][..], "absent.creds"),
        (&["--nats", "nats://localhost", "--nats-cert", "bus.pem"], "nats.key is missing"),
        (&["--nats", "nats://localhost", "--nats-prefix", "a..b"], "no prefix of subjects"),
        (&["--nats-nkey", "bus.nk"], "no server of NATS"),
        (&["--nats", "nats://localhost", "--nats-lease-replicas", "7"], "5 copies at the most"),
    ] {
        let refused = place.run(&[&["serve", "unix:my_bus"][..], arguments].concat());
        assert_eq!(refused.code(), 2, "{refused:?}");
        assert!(refused.errors.contains(told), "{refused:?}");
    }
}
