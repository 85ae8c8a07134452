//! What a service manager is told: the test stands in its place.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use serde_json::Value;

use crate::support::{LIMIT, Place, Running};

/// A manager that is told things.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(place: &Place) -> Self {
        let socket = UnixDatagram::bind(place.path("notify")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket }
    }

    /// The next message, a line each.
    fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("nothing was told in time");
        std::str::from_utf8(&message[..length]).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    fn start(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = place.command(arguments);
        command.env("NOTIFY_SOCKET", place.path("notify")).envs(variables.iter().copied());
        Running::new(command.spawn().unwrap())
    }
}

#[test]
fn a_manager_is_told_when_the_bus_is_ready_rereads_and_ends() {
    let place = Place::new();
    let manager = Manager::new(&place);
    place.write("whispeer.toml", "listen = [\"bus\"]\ngrace = \"30s\"\n");
    let bus = Manager::start(&place, &["serve", "--config", "whispeer.toml"], &[]);
    let ready = ["READY=1", "STATUS=ready on unix:bus"];
    assert_eq!(manager.told(), ready);
    UnixStream::connect(place.path("bus")).expect("it accepts once it has said that it is ready");

    for text in ["listen = [\"bus\"]\ngrace = \"20s\"\n", "nonsense"] {
        place.write("whispeer.toml", text);
        bus.signal("HUP");
        let reloading = manager.told();
        assert_eq!(reloading[0], "RELOADING=1");
        let since_boot: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(since_boot > 0);
        assert_eq!(manager.told(), ready, "also after a bad file, with the settings that hold");
    }

    bus.signal("TERM");
    assert_eq!(manager.told(), ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=30000000"]);
    assert_eq!(bus.end().code(), 0);
}

#[test]
fn a_manager_hears_that_the_bus_is_alive_as_long_as_it_answers() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let bus = Manager::start(&place, &["serve", "bus"], &[("WATCHDOG_USEC", "100000")]);
    assert_eq!(manager.told()[0], "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.told(), ["WATCHDOG=1"]);
    }
    let info = place.run(&["info", "--addr", "bus", "--json"]).success();
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["sessions"]["rows"][0]["name"], "whispeer watchdog");

    bus.signal("STOP");
    // What was told before it was stopped, and then nothing for many times the interval.
    manager.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut message = [0; 64];
    while manager.socket.recv(&mut message).is_ok() {}
    manager.socket.set_read_timeout(Some(LIMIT)).unwrap();
    bus.signal("CONT");
    assert_eq!(manager.told(), ["WATCHDOG=1"]);

    bus.signal("TERM");
    while manager.told() == ["WATCHDOG=1"] {}
    assert_eq!(bus.end().code(), 0);
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    let place = Place::new();
    let _manager = Manager::new(&place);
    let variables = [("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")];
    let mut bus = Manager::start(&place, &["serve", "bus"], &variables);
    bus.wait_for("ready");
    let info = place.run(&["info", "--addr", "bus", "--json"]).success();
    assert!(!info.contains("watchdog"), "{info}");
}

#[test]
fn a_manager_that_cannot_be_told_is_warned_of_and_the_bus_runs() {
    let place = Place::new();
    let mut bus = Manager::start(&place, &["serve", "bus"], &[]);
    bus.wait_for("NOTIFY_SOCKET");
    bus.wait_for("ready on");
    place.run(&["pub", "--addr", "bus", "a", "1"]).success();
}
