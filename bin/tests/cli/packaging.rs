//! The files for service managers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place, Running, has};

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging")
}

/// The units, as they would be installed with the binary under test.
fn units(place: &Place) -> [String; 3] {
    ["whispeer.service", "whispeer.socket", "whispeer-network.socket"].map(|name| {
        let text = fs::read_to_string(packaging().join(name)).unwrap();
        assert_eq!(text.contains("/usr/bin/whispeer"), name.ends_with(".service"));
        place.write(name, &text.replace("/usr/bin/whispeer", env!("CARGO_BIN_EXE_whispeer")));
        place.path(name).display().to_string()
    })
}

fn analyze(arguments: &[&str], units: &[String]) -> String {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(arguments).args(units).env("SYSTEMD_LOG_LEVEL", "warning").output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn the_units_are_what_systemd_understands() {
    if has("systemd-analyze") {
        let place = Place::new();
        let said = analyze(&["verify", "--man=no"], &units(&place));
        assert!(!said.contains("whispeer"), "{said}");
    }
}

#[test]
fn the_service_exposes_little() {
    if has("systemd-analyze") {
        let place = Place::new();
        let [service, ..] = units(&place);
        // Of 100; a service without any of it has 96.
        analyze(&["security", "--offline=yes", "--threshold=20", "--no-pager"], &[service]);
    }
}

#[test]
fn systemds_own_tool_starts_the_bus_at_its_first_client() {
    if has("systemd-socket-activate") {
        let place = Place::new();
        let template = place.command(&[]);
        let mut command = Command::new("systemd-socket-activate");
        command
            .arg("--listen")
            .arg(place.path("bus"))
            .arg("--fdname=bus")
            .arg(env!("CARGO_BIN_EXE_whispeer"));
        command.arg("serve").current_dir(place.path("")).stderr(std::process::Stdio::piped());
        for (name, value) in template.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut bus = Running::new(command.spawn().unwrap());
        bus.wait_for("Listening on");
        place.run(&["pub", "--addr", "bus", "a", "1"]).success();
        bus.wait_for("ready on");
        bus.signal("TERM");
        assert_eq!(bus.end().code(), 0);
    }
}

#[test]
fn the_units_name_the_settings_and_signals_that_there_are() {
    let read = |name: &str| fs::read_to_string(packaging().join(name)).unwrap();
    let service = read("whispeer.service");
    assert!(service.contains("\nEnvironment=WHISPEER_CONFIG="));
    assert!(service.contains("\nExecReload=/bin/kill -HUP $MAINPID\n"));
    let image = read("Dockerfile");
    assert!(image.contains("\nUSER 10001:10001\n") && image.contains("\nHEALTHCHECK "), "{image}");
    // What the image runs: the bus and its health check find each other by one variable.
    let place = Place::new();
    let with_address = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        Running::new(command.env("WHISPEER_ADDR", place.path("bus")).spawn().unwrap())
    };
    let mut bus = with_address(&["serve"]);
    bus.wait_for("ready on");
    with_address(&["info", "--json"]).end().success();
    bus.signal("KILL");
    bus.end();
    assert_ne!(with_address(&["info", "--json"]).end().code(), 0);
}

#[test]
#[ignore = "needs Docker and its registry: cargo test -p whispeer-cli packaging -- --ignored"]
fn the_image_is_built_and_its_bus_is_healthy() {
    let docker = |arguments: &[&str]| {
        let output =
            Command::new("docker").args(arguments).current_dir(packaging().join("..")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let image = docker(&["build", "--quiet", "--file", "packaging/Dockerfile", "."]);
    let container = docker(&["run", "--detach", "--rm", "--health-interval=1s", &image]);
    let stop = scopeguard(|| drop(Command::new("docker").args(["kill", &container]).output()));
    while docker(&["inspect", "--format", "{{.State.Health.Status}}", &container]) == "starting" {}
    assert_eq!(docker(&["inspect", "--format", "{{.State.Health.Status}}", &container]), "healthy");
    assert_eq!(docker(&["exec", &container, "id", "-u"]), "10001");
    drop(stop);
}

/// Does this when the test ends, however it does.
fn scopeguard<F: FnMut()>(action: F) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(action)
}
