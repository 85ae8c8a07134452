use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use whispeer::auth::{AuthSettings, IssuerSettings, PasswordHash, Secret, TokenAlgorithm, TokenVerifier};

use crate::support::{Place, has};

const PASSWORD: &str = "correct horse";

fn is_hash_of(hash: &str, password: &str) -> bool {
    PasswordHash::parse(hash).unwrap().matches(&Secret::new(password)).unwrap()
}

#[test]
fn a_password_from_a_pipe_becomes_a_hash_that_matches_it() {
    let place = Place::new();
    for input in ["correct horse\n", "correct horse", "correct horse\r\n"] {
        let ended = place.run_with_input(&["passwd"], input.as_bytes());
        assert_eq!(ended.errors, "");
        let hash = ended.success();
        assert!(is_hash_of(hash.strip_suffix('\n').unwrap(), PASSWORD), "{hash}");
    }
}

#[test]
fn the_entry_for_a_user_reads_as_a_configuration() {
    #[derive(serde::Deserialize)]
    struct Configuration {
        auth: AuthSettings,
    }
    let place = Place::new();
    let arguments = ["passwd", "--user", "al \"ice\"", "--role", "reader", "--role", "writer"];
    let entry = place.run_with_input(&arguments, PASSWORD.as_bytes()).success();
    let read: Configuration = toml::from_str(&entry).unwrap();
    let [user] = &read.auth.users[..] else { panic!("{entry}") };
    assert_eq!(
        (user.name.as_str(), &user.roles[..]),
        ("al \"ice\"", &["reader".into(), "writer".into()][..])
    );
    assert!(is_hash_of(user.password.reveal(), PASSWORD));
    let without_roles = place.run_with_input(&["passwd", "--user", "bob"], PASSWORD.as_bytes()).success();
    assert!(without_roles.ends_with("roles = []\n"), "{without_roles}");
}

#[test]
fn a_password_that_cannot_be_one_is_refused_and_not_repeated() {
    let place = Place::new();
    let long = "marker".repeat(1_000);
    for (input, why) in [
        (&b"marker\n"[..], "6 characters"),
        (b"", "0 characters"),
        (b"marker marker\nmarker marker\n", "more than one line"),
        (b"marker marker \xff\n", "not UTF-8"),
        (long.as_bytes(), "more than the limit of 1024"),
    ] {
        let ended = place.run_with_input(&["passwd"], input);
        assert_eq!((ended.code(), ended.output.as_str()), (2, ""), "{ended:?}");
        assert!(ended.errors.contains(why) && !ended.errors.contains("marker"), "{ended:?}");
    }
    assert_eq!(place.run(&["passwd", "--role", "reader"]).code(), 2, "roles belong to a user");
}

#[test]
fn a_terminal_is_asked_twice_and_does_not_show_the_password() {
    let place = Place::new();
    for (answers, code) in [([PASSWORD, PASSWORD], 0), ([PASSWORD, "correct hrose"], 2)] {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
        let mut command = place.command(&["passwd"]);
        command
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stderr(Stdio::from(theirs.try_clone().unwrap()));
        let mut child = command.spawn().unwrap();
        let mut ours = fs::File::from(ours);
        let mut shown = String::new();
        for (question, answer) in ["New password: ", "Once more: "].into_iter().zip(answers) {
            while !shown.ends_with(question) {
                let mut bytes = [0; 256];
                let length = ours.read(&mut bytes).unwrap();
                shown.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
            }
            assert!(!tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ECHO));
            ours.write_all(format!("{answer}\n").as_bytes()).unwrap();
        }
        let mut hash = String::new();
        child.stdout.take().unwrap().read_to_string(&mut hash).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ECHO), "it shows again");
        assert!(!shown.contains("correct"), "{shown:?}");
        match code {
            0 => assert!(is_hash_of(hash.trim_end(), PASSWORD)),
            _ => assert_eq!(hash, ""),
        }
    }
}

/// Checks tokens by this key as a bus does.
fn verifier(algorithm: TokenAlgorithm, key: String) -> TokenVerifier {
    let issuer = IssuerSettings {
        issuer: "login".into(),
        audience: "my_bus".into(),
        algorithm,
        key: Some(key.into()),
        key_file: None,
        roles: vec!["reader".into(), "writer".into()],
        default_roles: vec!["guest".into()],
    };
    TokenVerifier::new(&[issuer]).unwrap()
}

const WHOM: [&str; 7] = ["token", "--issuer", "login", "--audience", "my_bus", "--subject", "alice"];

fn token(place: &Place, more: &[&str]) -> String {
    let mut token = place.run(&[&WHOM[..], more].concat()).success();
    assert_eq!(token.pop(), Some('\n'));
    token
}

#[test]
fn a_token_is_accepted_by_whoever_has_the_public_key_that_was_printed_with_the_private_one() {
    let place = Place::new();
    let made = place.run(&["token", "--new-key", "login.key"]);
    assert!(made.errors.contains("login.key is the private key"), "{made:?}");
    let public = made.success();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{public}");
    assert_eq!(fs::metadata(place.path("login.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(place.run(&["token", "--key", "login.key", "--public-key"]).success(), public);

    let verifier = verifier(TokenAlgorithm::EdDSA, public);
    let token_of = token(&place, &["--key", "login.key", "--role", "reader", "--role", "writer"]);
    let verified = verifier.verify(&token_of).unwrap();
    assert_eq!(verified.principal.to_string(), "token \"alice\" of \"login\"");
    assert_eq!(verified.roles, ["reader", "writer"]);
    let hour = verified.expires.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((3_500..=3_630).contains(&hour), "{hour}");
    let long = verifier.verify(&token(&place, &["--key", "login.key", "--expires", "30d"])).unwrap();
    assert_eq!(long.roles, ["guest"]);
    let days = long.expires.duration_since(SystemTime::now()).unwrap().as_secs() / 86_400;
    assert!((29..=30).contains(&days), "{days}");
}

#[test]
fn a_secret_signs_tokens_that_whoever_has_it_accepts() {
    let place = Place::new();
    let made = place.run(&["token", "--new-key", "login.key", "--algorithm", "hs256"]);
    assert!(made.errors.contains("login.key is a secret"), "{made:?}");
    assert_eq!(made.success(), "", "a secret is not shown");
    let secret = fs::read_to_string(place.path("login.key")).unwrap();
    let accepted = verifier(TokenAlgorithm::HS256, secret).verify(&token(&place, &["--key", "login.key"]));
    assert_eq!(accepted.unwrap().roles, ["guest"]);
    let public = place.run(&["token", "--key", "login.key", "--public-key"]);
    assert_eq!(public.code(), 2);
    assert!(public.errors.contains("secret for HS256"), "{public:?}");
}

#[test]
fn openssl_and_whispeer_take_each_others_keys_and_openssl_agrees_with_the_signature() {
    if !has("openssl") {
        return;
    }
    let place = Place::new();
    let openssl = |arguments: &str| {
        let ended =
            Command::new("openssl").args(arguments.split(' ')).current_dir(place.path("")).output().unwrap();
        assert!(ended.status.success(), "{arguments}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    };
    openssl("genpkey -algorithm ed25519 -out theirs.key");
    let theirs = openssl("pkey -in theirs.key -pubout");
    assert_eq!(place.run(&["token", "--key", "theirs.key", "--public-key"]).success(), theirs);
    let ours = place.run(&["token", "--new-key", "ours.key"]).success();
    assert_eq!(openssl("pkey -in ours.key -pubout"), ours);
    fs::write(place.path("ours.pub"), ours).unwrap();

    let token = token(&place, &["--key", "ours.key"]);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    fs::write(place.path("signed"), signed).unwrap();
    fs::write(place.path("signature"), URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let said = openssl("pkeyutl -verify -rawin -in signed -sigfile signature -pubin -inkey ours.pub");
    assert!(said.contains("Verified Successfully"), "{said}");

    let secret = openssl("rand -base64 64");
    fs::write(place.path("secret"), &secret).unwrap();
    let accepted = verifier(TokenAlgorithm::HS256, secret).verify(&self::token(&place, &["--key", "secret"]));
    assert_eq!(accepted.unwrap().roles, ["guest"]);
}

#[test]
fn a_key_that_is_there_is_not_replaced() {
    let place = Place::new();
    fs::write(place.path("login.key"), "mine").unwrap();
    let refused = place.run(&["token", "--new-key", "login.key"]);
    assert_eq!((refused.code(), refused.output.as_str()), (2, ""));
    assert!(refused.errors.contains("login.key is there already\nhelp: choose another name"), "{refused:?}");
    assert_eq!(fs::read_to_string(place.path("login.key")).unwrap(), "mine");
    let nowhere = place.run(&["token", "--new-key", "no/folder/login.key"]);
    assert_eq!((nowhere.code(), nowhere.output.as_str()), (1, ""));
}

#[test]
fn a_key_that_others_can_read_is_used_with_a_warning() {
    let place = Place::new();
    place.run(&["token", "--new-key", "login.key"]).success();
    fs::set_permissions(place.path("login.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let warned = place.run(&[&WHOM[..], &["--key", "login.key"]].concat());
    assert!(warned.errors.contains("`chmod 600 login.key`"), "{warned:?}");
    assert!(warned.success().starts_with("ey"));
}

#[test]
fn what_cannot_be_a_token_is_refused_with_what_to_give() {
    let place = Place::new();
    place.run(&["token", "--new-key", "login.key"]).success();
    fs::write(place.path("weak"), "c2hvcnQ=").unwrap();
    fs::write(place.path("public"), place.run(&["token", "--key", "login.key", "--public-key"]).success())
        .unwrap();
    let with = |more: &[&'static str]| [&WHOM[..], more].concat();
    for (arguments, why) in [
        (vec!["token"], "--key <FILE>"),
        (vec!["token", "--key", "login.key"], "--issuer <NAME>"),
        (with(&["--key", "absent"]), "cannot read the key absent: No such file"),
        (with(&["--key", "weak"]), "weak: the secret for HS256 has 5 bytes"),
        (with(&["--key", "public"]), "public: the key is not a private key"),
        (with(&["--key", "login.key", "--expires", "0s"]), "a second at least"),
        (with(&["--key", "login.key", "--expires", "soon"]), "no unit of time"),
        (with(&["--key", "login.key", "--role", ""]), "a role is empty"),
        (with(&["--new-key", "other.key"]), "cannot be used with"),
        (vec!["token", "--key", "login.key", "--algorithm", "HS256", "--public-key"], "cannot be used with"),
        (vec!["token", "--new-key", "other.key", "--algorithm", "none"], "invalid value 'none'"),
    ] {
        let refused = place.run(&arguments);
        assert_eq!((refused.code(), refused.output.as_str()), (2, ""), "{arguments:?} {refused:?}");
        assert!(refused.errors.contains(why), "{arguments:?} {refused:?}");
    }
    assert!(!place.path("other.key").exists());
}
