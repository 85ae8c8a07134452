//! `whispeer serve tls://…` with the certificates of `whispeer certs`, and what other programs make of it.

use std::fs;
use std::process::{Command, Stdio};

use whispeer_testkit::certificates::{Authority, LOCAL_NAMES, Validity, damaged};

use crate::support::{Place, has, serve, with_certificates};

const SERVE: [&str; 10] = [
    "serve",
    "tls://localhost:0",
    "--tls-cert",
    "certs/server.pem",
    "--tls-key",
    "certs/server.key",
    "--tls-client-ca",
    "certs/ca.pem",
    "--tls-crl",
    "certs/crl.pem",
];

/// The flags of a client with this certificate.
fn shown_by(name: &str) -> Vec<String> {
    let file = |ending: &str| format!("certs/{name}.{ending}");
    vec!["--ca".into(), "certs/ca.pem".into(), "--cert".into(), file("pem"), "--key".into(), file("key")]
}

fn publish(place: &Place, address: &str, files: &[String]) -> crate::support::Ended {
    let mut arguments = vec!["pub", "--addr", address, "greetings", "\"hello\""];
    arguments.extend(files.iter().map(String::as_str));
    place.run(&arguments)
}

/// `openssl s_client`, which is done once the handshake has ended or the bus has answered it.
fn s_client(place: &Place, address: &str, arguments: &[&str]) -> (bool, String) {
    let port = address.rsplit_once(':').unwrap().1;
    let ended = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost"])
        .args(["-CAfile", "certs/ca.pem", "-verify_return_error", "-alpn", "whispeer/1", "-ign_eof"])
        .args(arguments)
        .current_dir(place.path("."))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_bus_and_its_clients_know_each_other_by_certificates() {
    let place = with_certificates();
    let (_bus, address) = serve(&place, &SERVE);
    assert!(address.starts_with("tls://localhost:"), "{address}");
    let mut subscribe = vec!["sub", "--addr", &address, "--count", "1", "greetings"];
    let alice = shown_by("alice");
    subscribe.extend(alice.iter().map(String::as_str));
    let mut subscriber = place.start(&subscribe);
    subscriber.wait_for("subscribed");
    publish(&place, &address, &alice).success();
    assert!(subscriber.end().success().contains("hello"));

    let stranger = publish(&place, &address, &["--ca".into(), "certs/ca.pem".into()]);
    assert_ne!(stranger.code(), 0);
    assert!(stranger.errors.contains("the bus asks for a certificate"), "{stranger:?}");
    let revoked = publish(&place, &address, &shown_by("mallory"));
    assert!(revoked.errors.contains("revoked"), "{revoked:?}");
    let untrusting = publish(&place, &address, &[]);
    assert!(untrusting.errors.contains("its CA is not trusted"), "{untrusting:?}");
    let half = publish(&place, &address, &["--cert".into(), "certs/alice.pem".into()]);
    assert_eq!((half.code(), half.errors.contains("--key")), (2, true), "{half:?}");
}

#[test]
fn a_hangup_reads_the_certificates_again_and_keeps_what_it_has_when_they_are_bad() {
    let place = with_certificates();
    let (mut bus, address) = serve(&place, &SERVE);
    let alice = shown_by("alice");
    publish(&place, &address, &alice).success();

    let list = fs::read(place.path("certs/crl.pem")).unwrap();
    place.write("certs/crl.pem", "nonsense");
    bus.signal("HUP");
    bus.wait_for("error: certs/crl.pem cannot be used as a list of revocations");
    bus.wait_for("the certificates stay as they were");
    publish(&place, &address, &alice).success();
    fs::write(place.path("certs/crl.pem"), list).unwrap();

    let listen = |client: &[String]| {
        let mut arguments = vec!["sub", "--addr", &address, "--count", "1", "greetings"];
        arguments.extend(client.iter().map(String::as_str));
        let mut subscriber = place.start(&arguments);
        subscriber.wait_for("subscribed");
        subscriber
    };
    place.run(&["certs", "client", "bob"]).success();
    let (mut connected, other) = (listen(&alice), listen(&shown_by("bob")));
    place.run(&["certs", "revoke", "alice"]).success();
    bus.signal("HUP");
    bus.wait_for("certificates read again");
    connected.wait_for("no longer good: it is revoked");
    publish(&place, &address, &shown_by("bob")).success();
    assert!(other.end().success().contains("hello"));
    assert!(publish(&place, &address, &alice).errors.contains("revoked"));
    place.run(&["certs", "renew", "alice"]).success();
    // It reads the new one and comes back by itself.
    connected.wait_for("again, with a new session");
    publish(&place, &address, &alice).success();
    assert!(connected.end().success().contains("hello"));
}

#[test]
fn a_hangup_takes_no_list_of_revocations_that_would_keep_everybody_out() {
    let place = with_certificates();
    let (mut bus, address) = serve(&place, &SERVE);
    let alice = shown_by("alice");
    let mut arguments = vec!["sub", "--addr", &address, "--count", "1", "greetings"];
    arguments.extend(alice.iter().map(String::as_str));
    let mut subscriber = place.start(&arguments);
    subscriber.wait_for("subscribed");
    let good = fs::read_to_string(place.path("certs/crl.pem")).unwrap();
    let authority = fs::read_to_string(place.path("certs/ca.pem")).unwrap();
    let another = Authority::new("another");
    let strange = another.revoke(&[]).pem().to_owned();
    let both = authority.clone() + another.pem();
    for (authority, list, reason) in [
        (&authority, &strange, "error: certs/crl.pem cannot be used as a list of revocations: its issuer"),
        (&authority, &damaged(&good), "it is damaged, or not signed by"),
        (&both, &good, "error: the CA \"CN=another\" in certs/ca.pem has no list"),
        (&authority, &String::new(), "it holds none (BEGIN X509 CRL)"),
    ] {
        place.write("certs/ca.pem", authority);
        place.write("certs/crl.pem", list);
        bus.signal("HUP");
        bus.wait_for(reason);
        bus.wait_for("the certificates stay as they were");
        let refused = place.run(&SERVE);
        assert!(refused.code() != 0 && refused.errors.contains(reason), "{refused:?}");
    }
    place.write("certs/ca.pem", &authority);
    place.write("certs/crl.pem", &good);
    publish(&place, &address, &alice).success();
    assert!(subscriber.end().success().contains("hello"));
}

#[test]
fn a_bus_tells_of_the_end_of_its_certificate_in_time_and_takes_none_that_is_over() {
    let place = with_certificates();
    let (mut bus, address) = serve(&place, &SERVE);
    let alice = shown_by("alice");
    let authority = Authority::new("another");
    for (validity, reason) in [
        (Validity::Expired, "certs/server.pem cannot be used as a certificate: it has expired"),
        (Validity::Future, "certs/server.pem cannot be used as a certificate: it does not hold before"),
    ] {
        authority.server_within(&LOCAL_NAMES, validity).write_to(&place.path("certs"), "server");
        bus.signal("HUP");
        bus.wait_for(reason);
        bus.wait_for("the certificates stay as they were");
        let refused = place.run(&SERVE);
        assert!(refused.code() != 0 && refused.errors.contains(reason), "{refused:?}");
    }
    publish(&place, &address, &alice).success();

    place.run(&["certs", "server", "--days", "9", "--force"]).success();
    bus.signal("HUP");
    bus.wait_for("the certificate of this bus ends in ");
    bus.wait_for("certificates read again");
    publish(&place, &address, &alice).success();
    let mut another = place.start(&SERVE);
    another.wait_for("the certificate of this bus ends in ");
}

#[test]
fn settings_that_lack_their_other_half_are_refused_with_the_flag_to_give() {
    let place = Place::new();
    for (arguments, help) in [
        (&["--tls-cert", "a.pem"][..], "--tls-key"),
        (&["--tls-key", "a.key"], "--tls-cert"),
        (&["--tls-client-ca", "a.pem"], "--tls-cert"),
        (&["--tls-cert", "a.pem", "--tls-key", "a.key", "--tls-crl", "a.pem"], "--tls-client-ca"),
        (&[], "--tls-cert"),
        (&["--tls-min-version", "1.1"], "1.3"),
    ] {
        let refused = place.run(&[&["serve", "tls://localhost:0"][..], arguments].concat());
        assert_ne!(refused.code(), 0, "{arguments:?}");
        assert!(refused.errors.contains(help), "{arguments:?}: {refused:?}");
    }
}

#[test]
fn openssl_gets_in_with_the_right_certificate_and_with_no_other() {
    if !has("openssl") {
        return;
    }
    let place = with_certificates();
    // Another CA, and a client of the right one whose time is over, which only the test's own can be.
    let authority = Authority::new("another");
    authority.client("alice").write_to(&place.path("certs"), "strange");
    let old = Authority::new("old");
    old.client_within("late", Validity::Expired).write_to(&place.path("certs"), "late");
    let both = fs::read_to_string(place.path("certs/ca.pem")).unwrap() + old.pem();
    place.write("certs/both.pem", &both);
    let serve_both =
        SERVE.map(|argument| if argument == "certs/ca.pem" { "certs/both.pem" } else { argument });
    // The list is of one of the two CAs only, so this bus has none.
    let (_bus, address) = serve(&place, &serve_both[..8]);
    let (_strict, revoking) = serve(&place, &SERVE);

    let shown = |name: &str| [format!("certs/{name}.pem"), format!("certs/{name}.key")];
    let tried = |address: &str, name: &str| {
        let [cert, key] = shown(name);
        s_client(&place, address, &["-cert", &cert, "-key", &key]).1
    };
    // A good client that says nothing is sent away by the handshake of the bus, not by TLS.
    let good = tried(&address, "alice");
    assert!(good.contains("Verify return code: 0 (ok)") && good.contains("TLSv1.3"), "{good}");
    assert!(good.contains("ALPN protocol: whispeer/1"), "{good}");
    assert!(!good.contains("alert"), "{good}");
    let none = s_client(&place, &address, &[]).1;
    assert!(none.contains("alert certificate required") || none.contains("alert number 116"), "{none}");
    let strange = tried(&address, "strange");
    assert!(strange.contains("alert unknown ca") || strange.contains("alert number 48"), "{strange}");
    let late = tried(&address, "late");
    assert!(late.contains("alert certificate expired") || late.contains("alert number 45"), "{late}");
    let revoked = tried(&revoking, "mallory");
    assert!(
        revoked.contains("alert certificate revoked") || revoked.contains("alert number 44"),
        "{revoked}"
    );
    // Nothing older than TLS 1.3, and nothing else than whispeer.
    let (old, said) = s_client(&place, &address, &["-tls1_2"]);
    assert!(!old, "{said}");
    let (http, said) = s_client(&place, &address, &["-alpn", "http/1.1"]);
    assert!(!http && said.contains("no application protocol"), "{said}");
}

#[test]
fn sslscan_finds_no_weakness() {
    if !has("sslscan") {
        return;
    }
    let place = with_certificates();
    for (version, expected) in [("1.3", &["TLSv1.3"][..]), ("1.2", &["TLSv1.2", "TLSv1.3"])] {
        let arguments = [&SERVE[..6], &["--tls-min-version", version]].concat();
        let (_bus, address) = serve(&place, &arguments);
        let port = address.rsplit_once(':').unwrap().1.to_owned();
        let scanned = Command::new("sslscan")
            .args(["--no-colour", "--xml=-", "--show-certificate", &format!("localhost:{port}")])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&scanned.stdout).into_owned();
        for old in ["ssl\" version=\"2", "ssl\" version=\"3", "tls\" version=\"1.0", "tls\" version=\"1.1"] {
            let line =
                said.lines().find(|line| line.contains(old)).unwrap_or_else(|| panic!("{old}: {said}"));
            assert!(line.contains("enabled=\"0\""), "{line}");
        }
        let ciphers: Vec<&str> = said.lines().filter(|line| line.contains("<cipher ")).collect();
        assert!(!ciphers.is_empty(), "{said}");
        for cipher in ciphers {
            assert!(expected.iter().any(|version| cipher.contains(version)), "{cipher}");
            assert!(
                cipher.contains("strength=\"strong\"") || cipher.contains("strength=\"acceptable\""),
                "{cipher}"
            );
            assert!(cipher.contains("GCM") || cipher.contains("CHACHA20"), "{cipher}");
            assert!(cipher.contains("ecdhe=") || cipher.contains("curve="), "no forward secrecy: {cipher}");
        }
        for weakness in ["heartbleed", "compression", "renegotiation"] {
            for line in said.lines().filter(|line| line.contains(&format!("<{weakness} "))) {
                let safe = ["vulnerable=\"0\"", "supported=\"0\"", "secure=\"1\""];
                assert!(safe.iter().any(|safe| line.contains(safe)), "{line}");
            }
        }
    }
}
