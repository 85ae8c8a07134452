use std::process::Command;

use crate::support::{Place, has};

#[test]
fn a_hangup_applies_what_it_can_and_names_what_needs_a_restart() {
    let place = Place::new();
    place.write("whispeer.toml", "listen = [\"bus\"]\n");
    let mut bus = place.start(&["serve", "--config", "whispeer.toml"]);
    bus.wait_for("ready");
    let mut subscriber = place.start(&["sub", "--addr", "bus", "a"]);
    subscriber.wait_for("subscribed");

    place.write(
        "whispeer.toml",
        "listen = [\"bus\"]\nframe_limit = \"128KiB\"\nmax_connections = 1\nlog = \"info\"\n",
    );
    for _ in 0..2 {
        bus.signal("HUP");
        let text = "frame_limit is \"128KiB\" in the configuration, was \"16MiB\": needs a restart";
        bus.wait_for(text);
        bus.wait_for("whispeer.toml read again");
    }
    let refused = place.run(&["pub", "--addr", "bus", "a", "1"]);
    assert_ne!(refused.code(), 0, "there is a connection already: {refused:?}");

    place.write("whispeer.toml", "listen = [\"bus\"]\n");
    bus.signal("HUP");
    bus.wait_for("max_connections is 65536 in the configuration, was 1: applied to new connections");
    bus.wait_for("read again");
    place.run_with_input(&["pub", "--addr", "bus", "--raw", "a"], &vec![b'x'; 200_000]).success();
    bus.signal("HUP");
    bus.wait_for("whispeer.toml read again: no changes");
}

#[test]
fn a_bad_file_keeps_the_settings_and_says_so() {
    let place = Place::new();
    place.write("whispeer.toml", "listen = [\"bus\"]\nmax_connections = 5\n");
    let mut bus = place.start(&["serve", "--config", "whispeer.toml"]);
    bus.wait_for("ready");
    for (text, error) in [
        (
            "listen = [\"bus\"]\nmax_conections = 1\n",
            "error: whispeer.toml:2: unknown key \"max_conections\"",
        ),
        ("max_connections = 0", "error: whispeer.toml:1: max_connections is 0"),
        ("listen", "error: whispeer.toml:1: "),
    ] {
        place.write("whispeer.toml", text);
        bus.signal("HUP");
        bus.wait_for(error);
        bus.wait_for("the settings stay as they were");
        place.run(&["pub", "--addr", "bus", "a", "1"]).success();
    }
    std::fs::remove_file(place.path("whispeer.toml")).unwrap();
    bus.signal("HUP");
    bus.wait_for("cannot read the configuration file");
    place.run(&["pub", "--addr", "bus", "a", "1"]).success();
}

#[test]
fn a_flag_goes_before_what_the_file_says_later() {
    let place = Place::new();
    place.write("whispeer.toml", "");
    let mut bus = place.start(&["serve", "bus", "--config", "whispeer.toml", "--grace", "1s"]);
    bus.wait_for("ready");
    place.write("whispeer.toml", "grace = \"1h\"\nstall_limit = \"1m\"\n");
    bus.signal("HUP");
    assert!(bus.wait_for("in the configuration").contains("stall_limit is \"1m\""));
    bus.wait_for("read again");
}

#[test]
fn a_bus_without_a_file_outlives_a_hangup() {
    let place = Place::new();
    let mut bus = place.start(&["serve", "bus"]);
    bus.wait_for("ready");
    bus.signal("HUP");
    bus.wait_for("there is no configuration file to read again");
    place.run(&["pub", "--addr", "bus", "a", "1"]).success();
}

/// Starts the binary on a terminal, sends it a SIGHUP, closes the terminal, and waits for its end.
const ON_A_TERMINAL: &str = r#"
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], ["whispeer", "serve", "bus"])
said = b""
def wait_for(text):
    global said
    while text not in said:
        said += os.read(terminal, 1024)
signal.alarm(60)
wait_for(b"ready on")
os.kill(pid, signal.SIGHUP)
wait_for(b"to read again")
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn a_bus_that_loses_its_terminal_ends_well() {
    if has("python3") {
        let place = Place::new();
        let mut command = Command::new("python3");
        command.args(["-c", ON_A_TERMINAL, env!("CARGO_BIN_EXE_whispeer")]).current_dir(place.path(""));
        assert_eq!(command.status().unwrap().code(), Some(0));
        assert!(!place.path("bus").exists());
    }
}
