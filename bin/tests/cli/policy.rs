//! `whispeer serve --policy`, and the commands that show who they are.

use crate::support::{Ended, Place, Running, serve};

/// A place with a key of an issuer, and a policy that knows alice and its tokens.
fn with_policy() -> Place {
    let place = Place::new();
    let public = place.run(&["token", "--new-key", "login.key"]).success();
    place.write("login.pub", &public);
    let entry =
        place.run_with_input(&["passwd", "--user", "alice", "--role", "reader"], b"correct horse").success();
    place.write("policy.toml", &policy(&entry, "news/**"));
    place.write("entry", &entry);
    place.write("password", "correct horse\n");
    place
}

fn policy(entry: &str, readable: &str) -> String {
    format!(
        "[auth.roles.reader]\nsubscribe.allow = [\"{readable}\"]\n\
         [auth.roles.writer]\npublish.allow = [\"news/**\"]\n\
         {entry}\n\
         [[auth.issuers]]\nissuer = \"login\"\naudience = \"bus\"\nalgorithm = \"EdDSA\"\n\
         key_file = \"login.pub\"\nroles = [\"writer\"]\n"
    )
}

const SERVE: [&str; 4] = ["serve", "tcp://localhost:0", "--policy", "policy.toml"];

fn token(place: &Place) {
    let token = place
        .run(&[
            "token",
            "--key",
            "login.key",
            "--issuer",
            "login",
            "--audience",
            "bus",
            "--subject",
            "bob",
            "--role",
            "writer",
        ])
        .success();
    place.write("bob.token", &token);
}

fn publish(place: &Place, address: &str, arguments: &[&str]) -> Ended {
    place.run(&[&["pub", "--addr", address, "news/local", "\"rain\""], arguments].concat())
}

#[test]
fn users_and_tokens_do_what_the_policy_says() {
    let place = with_policy();
    token(&place);
    let (_bus, address) = serve(&place, &SERVE);
    let alice = ["--user", "alice", "--password-file", "password"];
    let mut subscriber =
        place.start(&[&["sub", "--addr", &address, "--count", "1", "news/*"][..], &alice].concat());
    subscriber.wait_for("subscribed");
    publish(&place, &address, &["--token-file", "bob.token"]).success();
    assert!(subscriber.end().success().contains("rain"));

    let nobody = publish(&place, &address, &[]);
    assert_eq!(nobody.code(), 1, "{nobody:?}");
    assert!(
        nobody.errors.contains("needs credentials") && nobody.errors.contains("--token-file"),
        "{nobody:?}"
    );
    let reader = publish(&place, &address, &alice);
    assert!(reader.errors.contains("publishing to \"news/local\" is not granted"), "{reader:?}");
    place.write("password", "wrong horse\n");
    let wrong = publish(&place, &address, &alice);
    assert!(!wrong.errors.contains("horse"), "{wrong:?}");
    assert_ne!(wrong.code(), 0);
    let unasked = publish(&place, &address, &["--user", "alice"]);
    assert_eq!((unasked.code(), unasked.errors.contains("--password-file")), (2, true), "{unasked:?}");
    let both = publish(&place, &address, &["--user", "alice", "--token-file", "bob.token"]);
    assert_eq!(both.code(), 2, "{both:?}");
}

#[test]
fn a_hangup_reads_the_policy_again_and_keeps_it_when_it_is_bad() {
    let place = with_policy();
    let entry = std::fs::read_to_string(place.path("entry")).unwrap();
    let (mut bus, address) = serve(&place, &SERVE);
    let mut subscriber =
        place.start(&["sub", "--addr", &address, "news/*", "--user", "alice", "--password-file", "password"]);
    subscriber.wait_for("subscribed");

    place.write("policy.toml", "[auth.roles.reader]\nsubscribe.alow = []\n");
    bus.signal("HUP");
    let error = bus.wait_for("error: ");
    assert!(error.contains("policy.toml:2") && error.contains("alow"), "{error}");
    bus.wait_for("the policy stays as it was");

    place.write("policy.toml", &policy(&entry, "weather"));
    bus.signal("HUP");
    bus.wait_for("policy.toml read again");
    let ended = subscriber.end();
    assert!(ended.errors.contains("subscribing to \"news/*\" is not granted"), "{ended:?}");
}

#[test]
fn a_bus_does_not_start_with_a_policy_that_cannot_be_used() {
    let place = Place::new();
    let missing = place.run(&["serve", "bus", "--policy", "nowhere.toml"]);
    assert_eq!((missing.code(), missing.errors.contains("nowhere.toml")), (2, true), "{missing:?}");
    place.write("policy.toml", "[auth]\nanonymous = [\"ghosts\"]\n");
    let unknown = place.run(&["serve", "bus", "--policy", "policy.toml"]);
    assert!(unknown.errors.contains("ghosts"), "{unknown:?}");
}

#[test]
fn a_policy_that_is_given_goes_before_the_one_among_the_settings_and_that_is_said() {
    let place = Place::new();
    let who = |topic| {
        format!("[auth]\nanonymous = [\"writer\"]\n[auth.roles.writer]\npublish.allow = [\"{topic}\"]\n")
    };
    place.write("whispeer.toml", &format!("listen = [\"tcp://localhost:0\"]\n\n{}", who("news/**")));
    place.write("policy.toml", &who("weather"));
    let said = "says who may do what, in place of [auth] in whispeer.toml:3";
    let arguments = ["--config", "whispeer.toml", "--policy", "policy.toml"];
    let mut bus = place.start(&[&["serve"][..], &arguments].concat());
    let note = bus.wait_for("in place of");
    assert_eq!(note, format!("whispeer: --policy {said}"));
    let ready = bus.wait_for("ready on");
    let address = ready.split_whitespace().last().unwrap();
    place.run(&["pub", "--addr", address, "weather", "1"]).success();
    let refused = publish(&place, address, &[]);
    assert!(refused.errors.contains("is not granted"), "{refused:?}");

    let told = place.run(&[&["config"][..], &arguments].concat());
    assert!(told.errors.contains(said), "{told:?}");
    let mut command = place.command(&["config", "--config", "whispeer.toml"]);
    let told = Running::new(command.env("WHISPEER_POLICY", "policy.toml").spawn().unwrap()).end();
    assert!(told.errors.contains(&format!("WHISPEER_POLICY {said}")), "{told:?}");
    let alone = place.run(&["config", "--config", "whispeer.toml"]);
    assert_eq!((alone.code(), alone.errors.as_str()), (0, ""));
}

#[test]
fn a_policy_may_stand_among_the_settings() {
    let place = Place::new();
    place.write(
        "whispeer.toml",
        "listen = [\"tcp://localhost:0\"]\ngrace = \"1s\"\n\n[auth.roles.writer]\npublish.allow = [\"news/**\"]\n\n\
         [auth]\nanonymous = [\"writer\"]\n",
    );
    let told = place.run(&["config", "--config", "whispeer.toml"]).success();
    assert!(
        told.lines().any(|line| line.starts_with("policy ") && line.contains("whispeer.toml:7")),
        "{told}"
    );
    let (mut bus, address) = serve(&place, &["serve", "--config", "whispeer.toml"]);
    publish(&place, &address, &[]).success();
    let refused = place.run(&["pub", "--addr", &address, "alarms", "1"]);
    assert!(refused.errors.contains("publishing to \"alarms\" is not granted"), "{refused:?}");

    // Without the table nobody could do anything, which is hardly what was meant.
    place.write("whispeer.toml", "listen = [\"tcp://localhost:0\"]\ngrace = \"1s\"\n");
    bus.signal("HUP");
    bus.wait_for("the policy stays as it was");
    publish(&place, &address, &[]).success();

    place.write("whispeer.toml", "policy = \"x.toml\"\n[auth]\nanonymous = []\n");
    let both = place.run(&["config", "--config", "whispeer.toml"]);
    assert!(both.errors.contains("leave one of them out"), "{both:?}");
}
