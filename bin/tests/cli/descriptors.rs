//! A bus that may have few files open.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::support::{Place, Running};

/// Starts the binary where `ulimit` has been called with these arguments.
fn limited(place: &Place, ulimit: &str, arguments: &[&str]) -> Running {
    let template = place.command(arguments);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\"")]);
    command.arg(template.get_program()).args(template.get_args()).current_dir(place.path(""));
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::new(command.spawn().unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn a_bus_may_have_as_many_files_open_as_its_user_may_ask_for() {
    let place = Place::new();
    let bus = ["serve", "bus", "-vv", "--max-connections", "100", "--workers", "1"];
    let mut bus = limited(&place, "-Sn 32 && ulimit -Hn 512", &bus);
    let said = bus.wait_for("raised the limit");
    assert!(said.contains("512") && said.contains("32"), "{said}");
    bus.wait_for("ready on");
    let limits = fs::read_to_string(format!("/proc/{}/limits", bus.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["512", "512"]);
    bus.signal("TERM");
    let said = bus.end().errors;
    assert!(!said.contains("warning"), "100 connections fit: {said}");
}

#[test]
fn too_few_for_all_connections_are_warned_of_with_what_to_do() {
    let place = Place::new();
    place.write("whispeer.toml", "listen = [\"bus\"]\nworkers = 1\nmax_connections = 200\n");
    let mut bus = limited(&place, "-n 256", &["serve", "--config", "whispeer.toml"]);
    let warning = bus.wait_for("warning: ");
    for said in ["max_connections is 200", "256 open files", "LimitNOFILE=", "ulimit"] {
        assert!(warning.contains(said), "{warning}");
    }
    bus.wait_for("ready on");
    place.write("whispeer.toml", "listen = [\"bus\"]\nworkers = 1\nmax_connections = 300\n");
    bus.signal("HUP");
    assert!(bus.wait_for("warning: ").contains("max_connections is 300"));
}

#[test]
fn a_bus_that_has_no_more_accepts_again_when_others_have_gone() {
    /// Far more than the bus may have open.
    const SILENT: usize = 100;
    let place = Place::new();
    let arguments = ["serve", "bus", "tcp://localhost:0", "--workers", "2", "--handshake-timeout", "1h"];
    let mut bus = limited(&place, "-n 64", &arguments);
    let ready = bus.wait_for("ready on");
    let address = ready.split(", ").find_map(|part| part.strip_prefix("tcp://")).unwrap();
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let tcp = format!("tcp://{address}");
    for _ in 0..2 {
        let silent: Vec<_> = (0..SILENT).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        let also: Vec<_> = (0..SILENT).map(|_| UnixStream::connect(place.path("bus")).unwrap()).collect();
        if !bus.has_said("Too many open files") {
            bus.wait_for("Too many open files");
        }
        // They wait behind those that are silent.
        let waiting = ["bus", &tcp].map(|address| place.start(&["pub", "--addr", address, "a", "1"]));
        drop((silent, also));
        for client in waiting {
            client.end().success();
        }
        place.run(&["pub", "--addr", "bus", "a", "1"]).success();
        place.run(&["pub", "--addr", &tcp, "a", "1"]).success();
    }
    bus.signal("TERM");
    let ended = bus.end();
    assert_eq!(ended.code(), 0);
    let complaints = ended.errors.matches("Too many open files").count();
    assert!(complaints < 10, "a failure that goes on is not told each time: {}", ended.errors);
}
