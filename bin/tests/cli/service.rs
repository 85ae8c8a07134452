//! The protocols of a service manager, spoken by the test in its place.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
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

/// Starts the binary with these descriptors from 3 on. A shell in between says whom they are for, since
/// nobody knows that before the process is there.
fn activated(
    place: &Place,
    arguments: &[&str],
    sockets: Vec<OwnedFd>,
    variables: &[(&str, &str)],
) -> Running {
    let template = place.command(arguments);
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=${LISTEN_PID:-$$} exec \"$0\" \"$@\""]);
    command.arg(template.get_program()).args(template.get_args());
    command.current_dir(place.path(""));
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("LISTEN_FDS", sockets.len().to_string()).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let number = |index| i32::try_from(3 + index).unwrap();
    let mappings = sockets
        .into_iter()
        .enumerate()
        .map(|(index, parent_fd)| FdMapping { parent_fd, child_fd: number(index) });
    command.fd_mappings(mappings.collect()).unwrap();
    Running::new(command.spawn().unwrap())
}

fn listener(place: &Place, name: &str) -> OwnedFd {
    UnixListener::bind(place.path(name)).unwrap().into()
}

#[test]
fn a_bus_serves_the_sockets_that_it_was_passed_and_leaves_their_files() {
    let place = Place::new();
    let sockets = vec![listener(&place, "one"), listener(&place, "two")];
    let early = UnixStream::connect(place.path("one")).expect("clients need not wait for the bus");
    let mut bus = activated(&place, &["serve", "own"], sockets, &[("LISTEN_FDNAMES", "bus:bus")]);
    let ready = bus.wait_for("ready on");
    for name in ["one", "two"] {
        let path = place.path(name);
        assert!(ready.contains(&format!("unix:{}", path.display())), "{ready}");
        place.run(&["pub", "--addr", name, "a", "1"]).success();
    }
    place.run(&["pub", "--addr", "own", "a", "1"]).success();
    place.run(&["info", "--addr", "one"]).success();
    drop(early);
    bus.signal("TERM");
    assert_eq!(bus.end().code(), 0);
    assert!(place.path("one").exists() && place.path("two").exists(), "they are the manager's");
    assert!(!place.path("own").exists());
}

#[test]
fn with_a_passed_socket_no_address_is_needed_and_that_of_clients_is_not_taken() {
    let place = Place::new();
    let sockets = vec![listener(&place, "passed")];
    let mut bus = activated(&place, &["serve"], sockets, &[("WHISPEER_ADDR", "elsewhere")]);
    let ready = bus.wait_for("ready on");
    assert!(ready.ends_with("/passed"), "{ready}");
    assert!(!place.path("elsewhere").exists());
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let place = Place::new();
    let refused =
        activated(&place, &["serve"], vec![listener(&place, "passed")], &[("LISTEN_PID", "1")]).end();
    assert_eq!(refused.code(), 2);
    assert!(refused.errors.contains("no address to listen on"), "{refused:?}");
}

#[test]
fn what_a_manager_has_passed_by_mistake_is_named() {
    let place = Place::new();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (stream, mut other) = UnixStream::pair().unwrap();
    let file = std::fs::File::open(env!("CARGO_BIN_EXE_whispeer")).unwrap();
    for (descriptor, reason) in [
        (tcp.into(), "descriptor 3 (bus), which is no Unix stream socket"),
        (file.into(), "descriptor 3 (bus), which is no Unix stream socket"),
        (stream.into(), "it has no path"),
    ] {
        let refused =
            activated(&place, &["serve", "own"], vec![descriptor], &[("LISTEN_FDNAMES", "bus")]).end();
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.errors.contains(reason), "{refused:?}");
        assert!(!place.path("own").exists());
    }
    assert_eq!(other.read(&mut [0]).unwrap(), 0, "nothing was written to what is no listener");
    let sockets = vec![listener(&place, "passed")];
    let refused = activated(&place, &["serve"], sockets, &[("LISTEN_FDNAMES", "a:b")]).end();
    assert!(refused.errors.contains("LISTEN_FDNAMES has 2 names"), "{refused:?}");
}
