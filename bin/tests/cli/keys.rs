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

#[test]
fn a_key_is_added_for_reading_before_it_is_sent_with() {
    let place = Place::new();
    place.run(&["keys", "new", "team.keys"]).success();
    let added = place.run(&["keys", "add", "team.keys", "--topics", "board/**"]);
    assert!(added.errors.contains("reads with"), "{added:?}");
    let shown = place.run(&["keys", "show", "team.keys"]).success();
    let row = shown.lines().find(|row| row.ends_with("board/**")).unwrap();
    let [id, "read", _] = row.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{row}") };
    place.run(&["keys", "rotate", "team.keys", "--to", id]).success();
    let shown = place.run(&["keys", "show", "team.keys"]).success();
    assert!(shown.lines().any(|row| row.starts_with(id) && row.contains("send and read")), "{shown}");
    let unknown = place.run(&["keys", "rotate", "team.keys", "--to", "0123456789abcdef"]);
    assert!(unknown.code() == 2 && unknown.errors.contains("not in the keyring"), "{unknown:?}");
}

#[test]
fn a_keyring_behind_a_link_is_replaced_where_it_lies() {
    let (place, elsewhere) = (Place::new(), other_disk());
    let target = elsewhere.path().join("team.keys");
    place.run(&["keys", "new", target.to_str().unwrap()]).success();
    std::os::unix::fs::symlink(&target, place.path("link.keys")).unwrap();
    place.run(&["keys", "rotate", "link.keys"]).success();
    assert!(std::fs::symlink_metadata(place.path("link.keys")).unwrap().is_symlink());
    assert_eq!(ids(&place, target.to_str().unwrap()).len(), 2);
    std::os::unix::fs::symlink(elsewhere.path().join("none"), place.path("dangling.keys")).unwrap();
    let dangling = place.run(&["keys", "new", "dangling.keys"]);
    assert!(dangling.code() == 2 && dangling.errors.contains("link to something"), "{dangling:?}");
    assert!(std::fs::symlink_metadata(place.path("dangling.keys")).unwrap().is_symlink());
}

/// A folder to which nothing can be renamed from the usual ones, where the system has such a place.
fn other_disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What `keys show` says of an identity: its fingerprint, and its public line.
fn identity(place: &Place, file: &str) -> [String; 2] {
    let line = place.run(&["keys", "identity", file]).success();
    let shown = place.run(&["keys", "show", file]).success();
    let [fingerprint, public] = ["fingerprint", "public"].map(|name| {
        let row = shown.lines().find(|row| row.starts_with(name)).unwrap();
        row.split_whitespace().last().unwrap().to_owned()
    });
    assert_eq!(line.trim_end(), public);
    [fingerprint, public]
}

#[test]
fn keys_are_granted_over_the_bus_from_one_home_to_another_and_revoked() {
    let (alice, bob) = (Place::new(), Place::new());
    let _bus = alice.bus("bus");
    let bus = alice.path("bus").to_str().unwrap().to_owned();
    let [alice_print, alice_line] = identity(&alice, "me.id");
    let [bob_print, bob_line] = identity(&bob, "me.id");
    let again = bob.run(&["keys", "identity", "me.id"]);
    assert!(again.code() == 2 && again.errors.contains("there already"), "{again:?}");
    alice.run(&["keys", "new", "team.keys", "--topics", "board/**"]).success();
    bob.run(&["keys", "new", "team.keys", "--empty"]).success();

    let grant = ["keys", "grant", "team.keys", "--identity", "me.id", "--topics", "board/**", "-o", "grant"];
    alice.run(&[&grant[..], &["--to", &bob_line]].concat()).success();
    let first = std::fs::read(alice.path("grant")).unwrap();
    let accept = ["keys", "accept", "team.keys", "--identity", "me.id"];
    let refused = bob.run_with_input(&accept, &first);
    assert!(refused.code() == 1 && refused.errors.contains("not pinned"), "{refused:?}");
    assert!(refused.errors.contains(&alice_print), "{refused:?}");
    let pinned = bob.run(&["keys", "pin", "team.keys", &alice_line, "--topics", "board/**"]);
    assert!(pinned.errors.contains(&alice_print), "{pinned:?}");

    // By way of the bus, which adds nothing but a newline.
    let mut waiting = bob.start(&["sub", "--addr", &bus, "--raw", "--count", "1", "team/keys"]);
    waiting.wait_for("subscribed");
    alice.run_with_input(&["pub", "--addr", &bus, "--raw", "team/keys"], &first).success();
    let mut came = Vec::new();
    std::io::Read::read_to_end(&mut waiting.stdout(), &mut came).unwrap();
    assert_eq!(came, [&first[..], b"\n"].concat());
    bob.run_with_input(&accept, &came).success();
    let shown = bob.run(&["keys", "show", "team.keys"]).success();
    assert!(shown.contains("send and read  board/**") && shown.contains(&alice_print), "{shown}");
    assert!(alice.run(&["keys", "show", "team.keys"]).success().contains(&bob_print));

    // What each sends opens at the other one.
    let mut reader = bob.start(&["sub", "--addr", &bus, "--keyring", "team.keys", "board/*"]);
    reader.wait_for("subscribed");
    let publish = ["pub", "--addr", &bus, "--keyring", "team.keys", "board/plans"];
    alice.run(&[&publish[..], &["\"the eagle\""]].concat()).success();

    let mut revoke = vec!["keys", "revoke", "team.keys", &bob_print, "--identity", "me.id"];
    revoke.extend(["--topics", "board/**", "-o", "grant", "--retire-older"]);
    let revoked = alice.run(&revoke);
    assert!(revoked.code() == 0 && revoked.errors.contains("nobody"), "{revoked:?}");
    let second = std::fs::read(alice.path("grant")).unwrap();
    let not_for_me = bob.run_with_input(&accept, &second);
    assert!(not_for_me.code() == 1 && not_for_me.errors.contains("is not for"), "{not_for_me:?}");
    alice.run(&[&publish[..], &["\"the owl\""]].concat()).success();
    let told = reader.wait_for("cannot be opened");
    assert!(told.contains("not in the keyring"), "{told}");
    reader.signal("INT");
    let read = reader.end();
    assert!(read.output.contains("the eagle") && !read.output.contains("owl"), "{read:?}");

    // Made a member again, he does not fall for the grant of before.
    alice.run(&[&grant[..], &["--to", &bob_line]].concat()).success();
    bob.run_with_input(&accept, &std::fs::read(alice.path("grant")).unwrap()).success();
    let old = bob.run_with_input(&accept, &first);
    assert!(old.code() == 1 && old.errors.contains("an old one again"), "{old:?}");
    let damaged = bob.run_with_input(&accept, &first[..100]);
    assert!(damaged.code() == 1 && damaged.errors.contains("no grant that can be read"), "{damaged:?}");
    bob.run(&["keys", "unpin", "team.keys", &alice_print, "--topics", "board/**"]).success();
    let slip = bob.run(&["keys", "pin", "team.keys", &alice_line[..90]]);
    assert!(slip.code() == 2 && slip.errors.contains("cut off"), "{slip:?}");
}

#[test]
fn a_grant_is_written_over_nothing_but_a_grant() {
    let place = Place::new();
    let [_, line] = identity(&place, "me.id");
    place.run(&["keys", "new", "team.keys"]).success();
    let grant = |output: &str| {
        place.run(&["keys", "grant", "team.keys", "--identity", "me.id", "--to", &line, "--output", output])
    };
    for kept in ["me.id", "team.keys"] {
        let before = std::fs::read(place.path(kept)).unwrap();
        let refused = grant(kept);
        assert!(refused.code() == 2 && refused.errors.contains("is no grant"), "{refused:?}");
        assert_eq!(std::fs::read(place.path(kept)).unwrap(), before);
    }
    grant("grant").success();
    grant("grant").success();
}

#[test]
fn nothing_of_others_holds_a_command_up_or_is_left_behind() {
    let place = Place::new();
    identity(&place, "me.id");
    place.run(&["keys", "new", "team.keys"]).success();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o600),
        0,
    )
    .unwrap();
    let refused = place.run(&["keys", "accept", "team.keys", "--identity", "me.id", "pipe"]);
    assert!(refused.code() == 2 && refused.errors.contains("no regular file"), "{refused:?}");
    // What a run that was killed has left there.
    std::fs::write(place.path(".team.keys.new"), "half of a keyring").unwrap();
    place.run(&["keys", "rotate", "team.keys"]).success();
    assert!(!place.path(".team.keys.new").exists());
    assert_eq!(ids(&place, "team.keys").len(), 2);
}

#[test]
fn what_stands_in_a_keyring_by_mistake_is_not_shown() {
    let place = Place::new();
    let secret = "00112233445566778899aabbccddeeff".repeat(2);
    std::fs::write(place.path("team.keys"), format!("{secret} = 1\n")).unwrap();
    std::fs::set_permissions(place.path("team.keys"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let refused = place.run(&["keys", "show", "team.keys"]);
    assert!(refused.code() == 2 && refused.errors.contains("line 1"), "{refused:?}");
    assert!(!refused.errors.contains("00112233"), "{refused:?}");
}

#[test]
fn a_pattern_without_keys_can_be_forgotten() {
    let place = Place::new();
    place.run(&["keys", "new", "team.keys", "--topics", "board/**"]).success();
    let refused = place.run(&["keys", "forget", "team.keys", "board/**"]);
    assert!(refused.code() == 2 && refused.errors.contains("retire them first"), "{refused:?}");
    let [key] = &ids(&place, "team.keys")[..] else { panic!() };
    place.run(&["keys", "retire", "team.keys", key]).success();
    place.run(&["keys", "forget", "team.keys", "board/**"]).success();
    assert!(!std::fs::read_to_string(place.path("team.keys")).unwrap().contains("board"));
}
