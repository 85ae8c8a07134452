use serde_json::Value;

use crate::support::Place;

#[test]
fn a_bus_is_started_by_a_file_alone() {
    let place = Place::new();
    std::fs::create_dir(place.path("etc")).unwrap();
    place.write("etc/whispeer.toml", "listen = [\"bus\"]\nmode = \"0660\"\nframe_limit = \"128KiB\"\n");
    let mut bus = place.start(&["--config", "etc/whispeer.toml"]);
    assert_eq!(bus.wait_for("ready"), "whispeer: ready on unix:etc/bus");
    let refused = place.run_with_input(&["pub", "--addr", "etc/bus", "--raw", "a"], &vec![b'x'; 200_000]);
    assert_eq!(refused.code(), 1, "the frame limit of the file holds: {refused:?}");
    bus.signal("TERM");
    assert_eq!(bus.end().code(), 0);
}

#[test]
fn a_variable_names_the_file_and_no_file_is_looked_for_by_itself() {
    let place = Place::new();
    place.write("whispeer.toml", "listen = [\"bus\"]\n");
    let without = place.run(&["serve"]);
    assert_eq!(without.code(), 2);
    assert!(without.errors.contains("no address to listen on"), "{without:?}");
    let mut command = place.command(&["serve"]);
    let mut bus =
        crate::support::Running::new(command.env("WHISPEER_CONFIG", "whispeer.toml").spawn().unwrap());
    bus.wait_for("ready on unix:bus");
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_lines_and_nothing_starts() {
    let place = Place::new();
    place.write("whispeer.toml", "listen = [\"bus\"]\n\nframe_limt = 1\ngrace = true\n");
    for command in ["serve", "config"] {
        let refused = place.run(&[command, "--config", "whispeer.toml"]);
        assert_eq!(refused.code(), 2);
        assert_eq!(
            refused.errors,
            "error: whispeer.toml:3: unknown key \"frame_limt\"; did you mean \"frame_limit\"?\n       \
             whispeer.toml:4: grace: expected a time, such as \"500ms\" or a number of seconds, found true\n\
             help: `whispeer config --example` prints a file with every setting\n"
        );
    }
    assert!(!place.path("bus").exists());
    let absent = place.run(&["serve", "--config", "absent.toml"]);
    assert_eq!(absent.code(), 1);
    assert!(absent.errors.contains("cannot read the configuration file absent.toml"), "{absent:?}");
}

#[test]
fn config_tells_every_value_and_its_source_to_people_and_programs() {
    let place = Place::new();
    place.write("whispeer.toml", "grace = 7\nblock = false\nkeep_alive = \"1m\"\n");
    let run = |arguments: &[&str]| {
        let mut words = vec!["-v", "config", "--config", "whispeer.toml", "bus", "--keep-alive", "20s"];
        words.extend(arguments);
        let mut command = place.command(&words);
        crate::support::Running::new(command.env("WHISPEER_BLOCK", "true").spawn().unwrap()).end().success()
    };
    let json: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(json["file"], "whispeer.toml");
    let told = |key: &str| {
        let setting = &json["settings"][key];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (setting["value"].clone(), text(&setting["source"]), text(&setting["place"]))
    };
    let expected = |value: Value, source: &str, name: &str| (value, source.to_owned(), name.to_owned());
    assert_eq!(told("grace"), expected("7s".into(), "file", "whispeer.toml:1"));
    assert_eq!(told("block"), expected(true.into(), "environment", "WHISPEER_BLOCK"));
    assert_eq!(told("keep_alive"), expected("20s".into(), "flag", "--keep-alive"));
    assert_eq!(told("log"), expected("info".into(), "flag", "-v"));
    assert_eq!(told("listen"), expected(vec!["bus"].into(), "flag", "command line"));
    assert_eq!(told("mode"), expected("0600".into(), "default", ""));
    let text = run(&[]);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [["grace", "\"7s\"", "whispeer.toml:1"], ["mode", "\"0600\"", "default"]] {
        assert!(rows.contains(&row.to_vec()), "{text}");
    }
}

#[test]
fn the_example_is_a_file_that_serves() {
    let place = Place::new();
    let example = place.run(&["config", "--example"]).success();
    place.write("whispeer.toml", &example);
    let told = place.run(&["config", "--config", "whispeer.toml"]).success();
    assert_eq!(told, place.run(&["config"]).success(), "it says nothing but defaults");
    for line in told.lines().skip(1) {
        let key = line.split_whitespace().next().unwrap();
        assert!(example.contains(&format!("\n#{key} = ")), "{key}");
    }
    let mut bus = place.start(&["serve", "bus", "--config", "whispeer.toml"]);
    bus.wait_for("ready on unix:bus");
}

#[test]
fn a_variable_with_a_slip_is_warned_of() {
    let place = Place::new();
    let mut command = place.command(&["config"]);
    let running = crate::support::Running::new(command.env("WHISPEER_FRAMELIMIT", "1MiB").spawn().unwrap());
    let ended = running.end();
    assert_eq!(
        ended.errors,
        "whispeer: warning: WHISPEER_FRAMELIMIT is no setting; did you mean WHISPEER_FRAME_LIMIT?\n"
    );
    assert_eq!(ended.code(), 0);
}

#[test]
fn the_binarys_defaults_and_the_file_of_a_name_go_together() {
    let place = Place::new();
    place.run(&["register", "home", "bus"]).success();
    place.write("whispeer.toml", "listen = [\"@home\"]");
    let mut bus = place.start(&["serve", "--config", "whispeer.toml"]);
    bus.wait_for("ready on unix:");
    assert!(place.path("bus").exists());
}
