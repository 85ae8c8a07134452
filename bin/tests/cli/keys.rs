//! `whispeer keys`, and payloads that are encrypted and compressed at the command line.

use std::os::unix::fs::PermissionsExt;

use crate::support::Place;

fn ids(place: &Place, file: &str) -> Vec<String> {
    let shown = place.run(&["keys", "show", file]).success();
    shown.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn a_keyring_is_made_shown_rotated_and_retired_and_never_printed() {
    let place = Place::new();
    place.run(&["keys", "new", "team.keys"]).success();
    let mode = std::fs::metadata(place.path("team.keys")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = place.run(&["keys", "new", "team.keys"]);
    assert!(again.code() == 2 && again.errors.contains("there already"), "{again:?}");
    place.run(&["keys", "rotate", "team.keys"]).success();
    place.run(&["keys", "rotate", "team.keys", "--topics", "board/**"]).success();
    let [old, ..] = &ids(&place, "team.keys")[..] else { panic!() };
    assert_eq!(ids(&place, "team.keys").len(), 3);
    let shown = place.run(&["keys", "show", "team.keys"]).success();
    assert!(shown.contains("board/**") && shown.contains("send and read"), "{shown}");
    let secrets = std::fs::read_to_string(place.path("team.keys")).unwrap();
    let is_secret = |word: &&str| word.trim_matches('"').len() == 64;
    assert_eq!(secrets.split_whitespace().filter(is_secret).count(), 3, "{secrets}");
    for secret in secrets.split_whitespace().filter(is_secret) {
        assert!(!shown.contains(secret.trim_matches('"')), "{shown}");
    }
    let retired = place.run(&["keys", "retire", "team.keys", old]);
    assert_eq!(retired.code(), 0, "{retired:?}");
    assert!(place.run(&["keys", "show", "team.keys"]).success().contains("retired"));
    let unknown = place.run(&["keys", "retire", "team.keys", "0123456789abcdef"]);
    assert_eq!(unknown.code(), 2, "{unknown:?}");
}

#[test]
fn what_is_published_and_asked_with_a_keyring_is_for_its_members_alone() {
    let place = Place::new();
    let _bus = place.bus("bus");
    place.run(&["keys", "new", "team.keys"]).success();
    let member = ["--addr", "bus", "--keyring", "team.keys"];
    let with = |command: &[&'static str], rest: &[&'static str]| [command, &member[..], rest].concat();
    let mut reader = place.start(&with(&["sub"], &["--count", "1", "news/*"]));
    let mut stranger = place.start(&["sub", "--addr", "bus", "--count", "1", "news/*"]);
    reader.wait_for("subscribed");
    stranger.wait_for("subscribed");
    place.run(&with(&["pub", "--compress"], &["news/today", "\"the eagle has landed\""])).success();
    let read = reader.end();
    assert!(read.output.contains("the eagle has landed"), "{read:?}");
    let told = stranger.wait_for("cannot be opened");
    assert!(told.contains("engine 2 (encryption)") && !told.contains("eagle"), "{told}");

    let mut server = place.start(&with(&["reply"], &["echo", "--exec", "cat"]));
    server.wait_for("serving");
    let answer = place.run(&with(&["req", "--compress=lz4"], &["echo", "\"hello\""])).success();
    assert_eq!(answer, "\"hello\"\n");
    let outsider = place.run(&["req", "--addr", "bus", "echo", "\"hello\""]);
    assert_ne!(outsider.code(), 0, "{outsider:?}");
}
