//! Sockets that a service manager passes on: the test stands in its place.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use crate::support::{Place, Running, with_certificates};

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
    let datagrams = UnixDatagram::bind(place.path("datagrams")).unwrap();
    let (stream, mut other) = UnixStream::pair().unwrap();
    let file = std::fs::File::open(env!("CARGO_BIN_EXE_whispeer")).unwrap();
    for (descriptor, reason) in [
        (datagrams.into(), "descriptor 3 (bus), which is no stream socket of Unix or TCP"),
        (file.into(), "descriptor 3 (bus), which is no stream socket of Unix or TCP"),
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

/// What the manager has made: a socket that it keeps, and where it is bound.
struct Made {
    scheme: &'static str,
    socket: OwnedFd,
    port: u16,
}

impl Made {
    fn new(scheme: &'static str) -> Self {
        match scheme {
            "quic" => {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                Self { scheme, port: socket.local_addr().unwrap().port(), socket: socket.into() }
            }
            _ => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                Self { scheme, port: listener.local_addr().unwrap().port(), socket: listener.into() }
            }
        }
    }

    /// One for each transport of a network.
    fn all() -> Vec<Self> {
        ["tcp", "tls", "ws", "wss", "quic"].map(Self::new).into()
    }

    fn copy(&self) -> OwnedFd {
        self.socket.try_clone().unwrap()
    }

    fn address(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.port)
    }
}

const TLS: [&str; 4] = ["--tls-cert", "certs/server.pem", "--tls-key", "certs/server.key"];

/// What publishes at an address.
fn publish(address: &str) -> [&str; 7] {
    ["pub", "--addr", address, "--ca", "certs/ca.pem", "a", "1"]
}

/// The manager's names for so many sockets: without `FileDescriptorName=` they have that of the unit.
fn names(count: usize) -> String {
    vec!["whispeer.socket"; count].join(":")
}

#[test]
fn each_transport_is_spoken_on_the_socket_that_is_bound_to_its_address() {
    let place = with_certificates();
    let made = Made::all();
    let addresses: Vec<_> = made.iter().map(Made::address).collect();
    // Turned round, so that order alone does not do it; and one more that has no socket.
    let mut arguments = vec!["serve", "tcp://localhost:0", "own"];
    arguments.extend(addresses.iter().rev().map(String::as_str));
    arguments.extend(TLS);
    let sockets = made.iter().map(Made::copy).collect();
    let mut bus = activated(&place, &arguments, sockets, &[("LISTEN_FDNAMES", &names(made.len()))]);
    let ready = bus.wait_for("ready on");
    for address in &addresses {
        assert!(ready.contains(address.as_str()), "{ready}");
        place.run(&publish(address)).success();
    }
    let listed: Vec<_> = ready.split_once("ready on ").unwrap().1.split(", ").collect();
    let bound = listed
        .iter()
        .find(|address| address.starts_with("tcp://") && !addresses.iter().any(|passed| passed == *address));
    place.run(&publish(bound.expect("an address without a socket is bound"))).success();
    place.run(&publish("own")).success();
}

#[test]
fn the_name_of_a_transport_stands_for_its_address_whatever_that_says() {
    let place = with_certificates();
    let made = Made::all();
    let addresses: Vec<_> = made.iter().map(|made| format!("{}://localhost:1", made.scheme)).collect();
    let mut arguments = vec!["serve"];
    arguments.extend(addresses.iter().map(String::as_str));
    arguments.extend(TLS);
    let names: Vec<_> = made.iter().map(|made| made.scheme).collect();
    let sockets = made.iter().map(Made::copy).collect();
    let mut bus = activated(&place, &arguments, sockets, &[("LISTEN_FDNAMES", &names.join(":"))]);
    let ready = bus.wait_for("ready on");
    for made in &made {
        assert!(ready.contains(&made.address()), "where it is in truth: {ready}");
        place.run(&publish(&made.address())).success();
    }
}

/// Two listeners with one port; none where there is no IPv6.
fn of_both_families() -> Option<[TcpListener; 2]> {
    loop {
        let six = TcpListener::bind(("::1", 0)).ok()?;
        // Somebody else may have the port at the other address.
        if let Ok(four) = TcpListener::bind(("127.0.0.1", six.local_addr().unwrap().port())) {
            return Some([six, four]);
        }
    }
}

#[test]
fn sockets_of_both_families_are_one_address() {
    let place = Place::new();
    let Some(listeners) = of_both_families() else { return };
    let port = listeners[0].local_addr().unwrap().port();
    let sockets = listeners.map(OwnedFd::from).into();
    // The name stands for both, wherever the host's names lead.
    let listen = format!("tcp://localhost:{port}");
    let mut bus = activated(&place, &["serve", &listen], sockets, &[("LISTEN_FDNAMES", "tcp:tcp")]);
    let ready = bus.wait_for("ready on");
    assert!(ready.ends_with(&format!("ready on {listen}")), "{ready}");
    for host in ["[::1]", "127.0.0.1"] {
        place.run(&["pub", "--addr", &format!("tcp://{host}:{port}"), "a", "1"]).success();
    }
}

#[test]
fn a_socket_that_fits_no_address_is_named_with_what_to_do() {
    let place = with_certificates();
    for (name, listen, made, hint) in [
        ("whispeer.socket", "own", Made::new("tcp"), "FileDescriptorName=tcp, tls, ws or wss"),
        ("whispeer.socket", "tcp://localhost:1", Made::new("tcp"), "the configuration has tcp://localhost:1"),
        ("tls", "tcp://localhost:1", Made::new("tcp"), "such as \"tls://127.0.0.1:"),
        ("whispeer.socket", "tls://localhost:1", Made::new("quic"), "such as \"quic://127.0.0.1:"),
    ] {
        let mut arguments = vec!["serve", listen];
        arguments.extend(TLS);
        let refused = activated(&place, &arguments, vec![made.copy()], &[("LISTEN_FDNAMES", name)]).end();
        assert_eq!(refused.code(), 1, "{refused:?}");
        let what = format!("descriptor 3 ({name})");
        let at = format!("127.0.0.1:{}", made.port);
        for said in [&*what, &*at, hint, "help: "] {
            assert!(refused.errors.contains(said), "{said}: {refused:?}");
        }
        assert!(!place.path("own").exists(), "nothing else was begun");
    }
}

#[test]
fn what_was_passed_is_judged_by_where_it_is_bound() {
    let place = Place::new();
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = ["serve", "tcp://localhost:1"];
    let refused = activated(&place, &address, vec![open.into()], &[("LISTEN_FDNAMES", "tcp")]).end();
    assert!(refused.errors.contains("--allow-anyone"), "{refused:?}");
}

#[test]
fn a_path_in_the_configuration_that_was_passed_is_not_made_again() {
    let place = Place::new();
    let mut bus = activated(&place, &["serve", "bus"], vec![listener(&place, "bus")], &[]);
    let ready = bus.wait_for("ready on");
    assert!(!ready.contains(','), "{ready}");
    place.run(&["pub", "--addr", "bus", "a", "1"]).success();
}

/// The flags of a descriptor of a process.
#[cfg(target_os = "linux")]
fn flags(bus: &Running, descriptor: u32) -> u32 {
    let told = fs::read_to_string(format!("/proc/{}/fdinfo/{descriptor}", bus.id())).unwrap();
    let flags = told.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    u32::from_str_radix(flags.trim(), 8).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn what_was_passed_goes_to_no_further_process_and_blocks_nobody() {
    let place = with_certificates();
    let made = Made::all();
    let mut sockets: Vec<_> = made.iter().map(Made::copy).collect();
    sockets.push(listener(&place, "bus"));
    let count = u32::try_from(sockets.len()).unwrap();
    let addresses: Vec<_> = made.iter().map(Made::address).collect();
    let mut arguments = vec!["serve"];
    arguments.extend(addresses.iter().map(String::as_str));
    arguments.extend(TLS);
    let mut bus = activated(&place, &arguments, sockets, &[]);
    bus.wait_for("ready on");
    let wanted = (rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK).bits();
    for descriptor in 3..3 + count {
        assert_eq!(flags(&bus, descriptor) & wanted, wanted, "descriptor {descriptor}");
    }
}

#[test]
fn who_connects_while_no_bus_runs_is_served_by_the_next() {
    let place = with_certificates();
    let made = Made::all();
    let unix = listener(&place, "bus");
    let addresses: Vec<_> = made.iter().map(Made::address).collect();
    let mut arguments = vec!["serve"];
    arguments.extend(addresses.iter().map(String::as_str));
    arguments.extend(TLS);
    let start = || {
        let mut sockets: Vec<_> = made.iter().map(Made::copy).collect();
        sockets.push(unix.try_clone().unwrap());
        activated(&place, &arguments, sockets, &[])
    };
    let mut first = start();
    first.wait_for("ready on");
    for address in &addresses {
        place.run(&publish(address)).success();
    }
    first.signal("KILL");
    first.end();

    for made in made.iter().filter(|made| made.scheme != "quic") {
        TcpStream::connect(("127.0.0.1", made.port)).expect("it is the manager who listens");
    }
    let waiting: Vec<_> = addresses
        .iter()
        .map(String::as_str)
        .chain(["bus"])
        .map(|address| place.start(&publish(address)))
        .collect();
    let mut second = start();
    second.wait_for("ready on");
    for client in waiting {
        client.end().success();
    }
}
