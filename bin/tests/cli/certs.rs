//! `whispeer certs`: the files, and what others make of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};
use webpki::{EndEntityCert, Error};
use whispeer_testkit::certificates::{Authority, LOCAL_NAMES, Purpose, verify};

use crate::support::{Place, has};

/// A place with a CA in `certs`.
fn with_authority() -> Place {
    let place = Place::new();
    place.run(&["certs", "init"]).success();
    place
}

fn text(place: &Place, file: &str) -> String {
    fs::read_to_string(place.path("certs").join(file)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn certificate(place: &Place, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(place.path("certs").join(format!("{name}.pem"))).unwrap()
}

/// What rustls makes of a certificate.
fn verified(place: &Place, name: &str, purpose: Purpose) -> Result<(), Error> {
    let list = CertificateRevocationListDer::from_pem_file(place.path("certs/crl.pem")).unwrap();
    verify(&certificate(place, name), &certificate(place, "ca"), purpose, Some(&list))
}

fn has_name(place: &Place, file: &str, name: &str) -> bool {
    let certificate = certificate(place, file);
    let certificate = EndEntityCert::try_from(&certificate).unwrap();
    certificate.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).is_ok()
}

/// The row of `show --json`.
fn shown(place: &Place, name: &str) -> serde_json::Value {
    let rows = place.run(&["certs", "show", name, "--json"]).success();
    serde_json::from_str::<Vec<serde_json::Value>>(&rows).unwrap().remove(0)
}

fn openssl(place: &Place, arguments: &str) -> (bool, String) {
    let ended =
        Command::new("openssl").args(arguments.split(' ')).current_dir(place.path("certs")).output().unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_ca_is_made_in_a_folder_that_only_its_user_can_use() {
    let place = Place::new();
    let made = place.run(&["certs", "init"]);
    assert!(
        made.errors
            .starts_with("whispeer: made a CA: certs/ca.pem, certs/ca.key and certs/crl.pem, valid until 20"),
        "{made:?}"
    );
    let said = made.success();
    assert!(said.contains("  whispeer certs server\n"), "{said}");
    assert!(said.contains("  whispeer certs client alice\n"), "{said}");
    assert_eq!(mode(&place.path("certs")), 0o700);
    assert_eq!(mode(&place.path("certs/ca.key")), 0o600);
    assert_eq!(mode(&place.path("certs/ca.pem")), 0o644);
    assert_eq!(mode(&place.path("certs/crl.pem")), 0o644);
    let mut files: Vec<_> =
        fs::read_dir(place.path("certs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, [".gitignore", "ca.key", "ca.pem", "crl.pem"]);
    assert_eq!(text(&place, ".gitignore"), "*.key\n*.pem\n");
}

#[test]
fn the_folder_of_this_repository_ignores_what_every_made_folder_does() {
    let place = with_authority();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../certs/.gitignore");
    assert_eq!(fs::read_to_string(own).unwrap(), text(&place, ".gitignore"));
}

#[test]
fn a_folder_that_is_there_keeps_its_mode_and_what_it_ignores() {
    let place = Place::new();
    let folder = place.path("certs");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(folder.join(".gitignore"), "*\n").unwrap();
    place.run(&["certs", "init"]).success();
    assert_eq!((mode(&folder), text(&place, ".gitignore").as_str()), (0o750, "*\n"));
}

#[test]
fn nothing_is_overwritten_unless_it_is_asked_for() {
    let place = with_authority();
    place.run(&["certs", "client", "alice"]).success();
    let files = ["ca.pem", "ca.key", "crl.pem", "alice.pem", "alice.key"];
    let before = files.map(|file| text(&place, file));

    let refused = place.run(&["certs", "init"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.errors.starts_with("error: certs/ca.pem exists already\nhelp: "), "{refused:?}");
    assert!(refused.errors.contains("--force"), "{refused:?}");
    let refused = place.run(&["certs", "client", "alice"]);
    assert_eq!(refused.code(), 1);
    assert_eq!(
        refused.errors,
        "error: certs/alice.pem exists already\n\
         help: renew it with `whispeer certs renew alice`, or replace it with --force\n"
    );
    assert_eq!(place.run(&["certs", "server", "--as", "alice"]).code(), 1);
    assert_eq!(files.map(|file| text(&place, file)), before);

    // Half of a pair is as good as the whole.
    fs::remove_file(place.path("certs/alice.pem")).unwrap();
    let refused = place.run(&["certs", "client", "alice"]);
    assert!(refused.errors.contains("certs/alice.key exists already"), "{refused:?}");

    place.run(&["certs", "client", "alice", "--force"]).success();
    assert_ne!(text(&place, "alice.key"), before[4]);
}

#[test]
fn a_server_certificate_is_for_the_names_that_were_given_and_for_servers_only() {
    let place = with_authority();
    place.run(&["certs", "server"]).success();
    assert_eq!(verified(&place, "server", Purpose::Server), Ok(()));
    assert!(verified(&place, "server", Purpose::Client).is_err());
    for name in LOCAL_NAMES {
        assert!(has_name(&place, "server", name), "{name}");
    }
    assert!(!has_name(&place, "server", "bus.example.com"));
    assert_eq!(mode(&place.path("certs/server.key")), 0o600);

    let names = ["Bus.Example.com", "*.dev.example", "192.0.2.7", "[2001:db8::7]", "bus.example.com"];
    place.run(&[&["certs", "server", "--as", "public"][..], &names].concat()).success();
    for name in ["bus.example.com", "a.dev.example", "192.0.2.7", "2001:db8::7"] {
        assert!(has_name(&place, "public", name), "{name}");
    }
    assert!(!has_name(&place, "public", "localhost"));
    assert_eq!(shown(&place, "public")["names"].as_array().unwrap().len(), 4, "doubled names are named once");
}

#[test]
fn a_client_certificate_names_the_client_and_is_for_clients_only() {
    let place = with_authority();
    place.run(&["certs", "client", "alice@example.com"]).success();
    assert_eq!(verified(&place, "alice@example.com", Purpose::Client), Ok(()));
    assert!(verified(&place, "alice@example.com", Purpose::Server).is_err());
    let row = shown(&place, "alice@example.com");
    assert_eq!(row["subject"], "alice@example.com");
    assert_eq!(row["names"], serde_json::json!(["whispeer:alice@example.com"]));
    assert_eq!(row["kind"], "client");
}

#[test]
fn ed25519_keys_are_made_and_kept_by_renewals() {
    let place = Place::new();
    place.run(&["certs", "init", "--ed25519"]).success();
    place.run(&["certs", "server", "--ed25519"]).success();
    assert_eq!(verified(&place, "server", Purpose::Server), Ok(()));
    place.run(&["certs", "renew", "server"]).success();
    assert_eq!(verified(&place, "server", Purpose::Server), Ok(()));
    assert_eq!(shown(&place, "server")["algorithm"], "Ed25519");
}

#[test]
fn renewing_keeps_names_and_length_and_changes_serial_number_and_key() {
    let place = with_authority();
    place.run(&["certs", "server", "bus.example.com", "192.0.2.7", "--days", "10"]).success();
    let (before, key) = (shown(&place, "server"), text(&place, "server.key"));
    let renewed = place.run(&["certs", "renew", "certs/server.pem"]);
    assert!(renewed.errors.contains("renewed certs/server.pem and certs/server.key"), "{renewed:?}");
    let after = shown(&place, "server");
    for same in ["names", "subject", "kind", "algorithm", "days_left"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    for other in ["serial", "fingerprint_sha256"] {
        assert_ne!(before[other], after[other], "{other}");
    }
    assert_ne!(text(&place, "server.key"), key);
    assert_eq!(mode(&place.path("certs/server.key")), 0o600);
    assert_eq!(verified(&place, "server", Purpose::Server), Ok(()));

    let key = text(&place, "server.key");
    place.run(&["certs", "renew", "server", "--keep-key", "--days", "90"]).success();
    let last = shown(&place, "server");
    assert_eq!((text(&place, "server.key"), &last["key"]), (key, &"ok".into()));
    assert_eq!((&after["days_left"], &last["days_left"]), (&9.into(), &89.into()));
}

#[test]
fn renewing_all_leaves_the_ca_and_what_holds_for_long() {
    let place = with_authority();
    let authority = text(&place, "ca.pem");
    place.run(&["certs", "server", "--days", "20"]).success();
    place.run(&["certs", "client", "alice"]).success();
    let alice = text(&place, "alice.pem");
    let renewed = place.run(&["certs", "renew", "--all", "--within", "30"]);
    assert!(renewed.errors.contains("renewed certs/server.pem"), "{renewed:?}");
    assert_eq!((text(&place, "ca.pem"), text(&place, "alice.pem")), (authority, alice));
    let idle = place.run(&["certs", "renew", "--all", "--within", "5"]);
    assert_eq!((idle.code(), idle.errors.as_str()), (0, "whispeer: there is nothing to renew\n"));
}

#[test]
fn a_new_ca_takes_over_what_the_one_before_made_only_when_told_to() {
    let place = with_authority();
    place.run(&["certs", "client", "alice"]).success();
    let replaced = place.run(&["certs", "init", "--force"]).success();
    assert!(replaced.contains("  whispeer certs renew --all --force\n"), "{replaced}");
    assert_eq!(verified(&place, "alice", Purpose::Client), Err(Error::UnknownIssuer));
    assert_eq!(shown(&place, "alice")["state"], "of another CA");
    let refused = place.run(&["certs", "renew", "alice"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.errors.contains("certs/alice.pem is of another CA"), "{refused:?}");
    let left = place.run(&["certs", "renew", "--all"]);
    assert!(left.errors.contains("left out certs/alice.pem"), "{left:?}");
    place.run(&["certs", "renew", "--all", "--force"]).success();
    assert_eq!(verified(&place, "alice", Purpose::Client), Ok(()));
}

#[test]
fn a_revoked_certificate_is_in_the_list_and_a_renewed_one_is_not() {
    let place = with_authority();
    for name in ["alice", "bob"] {
        place.run(&["certs", "client", name]).success();
    }
    let serial = shown(&place, "bob")["serial"].as_str().unwrap().to_owned();
    let revoked = place.run(&["certs", "revoke", "bob", "--reason", "key-compromise"]);
    assert!(
        revoked.errors.contains(&format!("revoked certs/bob.pem, serial number {serial}")),
        "{revoked:?}"
    );
    assert!(revoked.success().contains("--tls-crl certs/crl.pem\n"));
    assert_eq!(verified(&place, "bob", Purpose::Client), Err(Error::CertRevoked));
    assert_eq!(verified(&place, "alice", Purpose::Client), Ok(()));
    assert_eq!(shown(&place, "bob")["state"], "revoked");

    let list = text(&place, "crl.pem");
    let again = place.run(&["certs", "revoke", "bob"]);
    assert_eq!(again.errors, "whispeer: certs/bob.pem was revoked before\n");
    assert_eq!((again.code(), text(&place, "crl.pem")), (0, list));

    place.run(&["certs", "renew", "bob"]).success();
    assert_eq!(verified(&place, "bob", Purpose::Client), Ok(()));
}

#[test]
fn what_is_no_longer_there_is_revoked_by_its_serial_number() {
    let place = with_authority();
    place.run(&["certs", "client", "alice"]).success();
    let (old, row) = (text(&place, "alice.pem"), shown(&place, "alice"));
    place.run(&["certs", "renew", "alice"]).success();
    place.run(&["certs", "revoke", "--serial", row["serial"].as_str().unwrap()]).success();
    assert_eq!(verified(&place, "alice", Purpose::Client), Ok(()));
    fs::write(place.path("certs/alice.pem"), old).unwrap();
    assert_eq!(verified(&place, "alice", Purpose::Client), Err(Error::CertRevoked));

    // The same in one go.
    place.run(&["certs", "client", "bob"]).success();
    let old = text(&place, "bob.pem");
    place.run(&["certs", "renew", "bob", "--revoke"]).success();
    assert_eq!(verified(&place, "bob", Purpose::Client), Ok(()));
    fs::write(place.path("certs/bob.pem"), old).unwrap();
    assert_eq!(verified(&place, "bob", Purpose::Client), Err(Error::CertRevoked));
}

#[test]
fn what_is_made_by_another_ca_can_be_neither_revoked_nor_added_to() {
    let place = with_authority();
    let other = Authority::new("other");
    other.client("carol").write_to(&place.path("certs"), "carol");
    let refused = place.run(&["certs", "revoke", "carol"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.errors.contains("certs/carol.pem is of another CA"), "{refused:?}");

    place.run(&["certs", "client", "alice"]).success();
    fs::write(place.path("certs/crl.pem"), other.revoke(&[]).pem()).unwrap();
    let refused = place.run(&["certs", "revoke", "alice"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.errors.contains("cannot use certs/crl.pem: its list is not of this CA"), "{refused:?}");
    fs::remove_file(place.path("certs/crl.pem")).unwrap();
    place.run(&["certs", "revoke", "alice"]).success();
    assert_eq!(verified(&place, "alice", Purpose::Client), Err(Error::CertRevoked));
}

#[test]
fn how_to_use_what_was_made_is_printed_line_by_line() {
    let place = Place::new();
    place.run(&["certs", "init", "--dir", "my certs"]).success();
    let server = place.run(&["certs", "server", "bus.example.com", "--dir", "my certs"]).success();
    assert_eq!(
        server,
        "Start the bus:
  whispeer serve 'tls://[::]:4242' \\
    --tls-cert 'my certs/server.pem' --tls-key 'my certs/server.key' \\
    --tls-client-ca 'my certs/ca.pem' --tls-crl 'my certs/crl.pem'

Connect to it, with what `whispeer certs --dir 'my certs' client NAME` makes:
  whispeer info --addr tls://bus.example.com:4242 \\
    --ca 'my certs/ca.pem' --cert 'my certs/NAME.pem' --key 'my certs/NAME.key'
"
    );
    let client = place.run(&["certs", "--dir", "my certs", "client", "alice"]).success();
    assert_eq!(
        client,
        "Connect with it:
  whispeer info --addr tls://bus.example.com:4242 \\
    --ca 'my certs/ca.pem' --cert 'my certs/alice.pem' --key 'my certs/alice.key'
"
    );
}

#[test]
fn show_lists_what_is_there() {
    let place = with_authority();
    place.run(&["certs", "server", "--days", "20"]).success();
    place.run(&["certs", "client", "alice"]).success();
    fs::write(place.path("certs/broken.pem"), "nothing").unwrap();
    fs::set_permissions(place.path("certs/alice.key"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::remove_file(place.path("certs/server.key")).unwrap();
    let shown = place.run(&["certs", "show"]);
    assert!(shown.errors.contains("cannot use certs/broken.pem: it holds no certificate"), "{shown:?}");
    assert!(
        shown.errors.contains("others may read the key of alice: `chmod 600 certs/alice.key`"),
        "{shown:?}"
    );
    assert!(shown.errors.contains("`whispeer certs renew --all --within 30`"), "{shown:?}");
    let table = shown.success();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "KIND", "FOR", "KEY", "EXPIRES", "STATE", "SHA-256"]);
    assert_eq!(rows[1][..5], ["ca", "ca", "whispeer", "development", "CA"]);
    assert_eq!(rows[2][..4], ["alice", "client", "whispeer:alice", "exposed"]);
    assert_eq!(rows[3][..6], ["server", "server", "localhost,", "127.0.0.1,", "::1", "absent"]);
    assert!(table.lines().nth(3).unwrap().contains("expires soon"), "{table}");
    assert_eq!(rows.len(), 4);
    let one = place.run(&["certs", "show", "certs/alice.key"]).success();
    assert_eq!(one.lines().count(), 2, "{one}");
}

#[test]
fn a_key_that_does_not_fit_is_told() {
    let place = with_authority();
    place.run(&["certs", "client", "alice"]).success();
    place.run(&["certs", "client", "bob"]).success();
    fs::copy(place.path("certs/bob.key"), place.path("certs/alice.key")).unwrap();
    assert_eq!(shown(&place, "alice")["key"], "of another");
    let refused = place.run(&["certs", "renew", "alice", "--keep-key"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.errors.contains("certs/alice.key does not fit its certificate"), "{refused:?}");

    fs::copy(place.path("certs/bob.key"), place.path("certs/ca.key")).unwrap();
    let refused = place.run(&["certs", "server"]);
    assert!(refused.errors.contains("certs/ca.key does not fit certs/ca.pem"), "{refused:?}");
    fs::remove_file(place.path("certs/ca.key")).unwrap();
    let refused = place.run(&["certs", "server"]);
    assert!(refused.errors.contains("the key of the CA, certs/ca.key, is not there"), "{refused:?}");
    // What needs no key still works.
    place.run(&["certs", "show"]).success();
}

#[test]
fn a_certificate_holds_no_longer_than_its_ca() {
    let place = Place::new();
    place.run(&["certs", "init", "--days", "30", "--name", "Short"]).success();
    let made = place.run(&["certs", "server"]);
    assert!(made.errors.contains("this is when the CA expires"), "{made:?}");
    assert_eq!(shown(&place, "server")["not_after"], shown(&place, "ca")["not_after"]);
    assert_eq!(shown(&place, "ca")["subject"], "Short");
}

#[test]
fn every_certificate_has_a_serial_number_of_its_own() {
    let place = with_authority();
    let mut serials = vec![shown(&place, "ca")["serial"].to_string()];
    for name in ["a", "b", "c"] {
        place.run(&["certs", "client", name]).success();
        serials.push(shown(&place, name)["serial"].to_string());
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 4);
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    for (arguments, code, said) in [
        (&["server"][..], 1, "there is no CA in the folder certs\nhelp: make one with `whispeer certs init`"),
        (&["show", "--dir", "other"], 1, "`whispeer certs --dir other init`"),
        (&["renew", "--all"], 1, "`whispeer certs init`"),
        (&["revoke", "alice"], 1, "`whispeer certs init`"),
        (&["init", "--dir", "file/certs"], 1, "cannot use the folder file/certs: Not a directory"),
        (&["init", "--dir", "file"], 1, "cannot use the folder file: "),
        (&["init", "--name", ""], 2, "use 1 to 64 characters"),
        (&["init", "--days", "0"], 2, "--days"),
        (&["client", "a/b"], 2, "\"a/b\" cannot be the name of a client\nhelp: use at most 64 letters"),
        (&["client", "ca"], 2, "ca.pem has a meaning of its own"),
        (&["server", "tls://host"], 2, "without the scheme"),
        (&["server", "host:4242"], 2, "without the port"),
        (&["server", "--as", "../x"], 2, "cannot be the name of certificate files"),
        (&["renew"], 2, "required"),
        (&["revoke"], 2, "required"),
        (&["revoke", "--serial", "xyz"], 2, "hexadecimal"),
    ] {
        let ended = place.run(&[&["certs"], arguments].concat());
        assert_eq!(ended.code(), code, "{arguments:?}: {ended:?}");
        assert!(ended.errors.contains(said), "{arguments:?}: {ended:?}");
    }
    assert!(!place.path("certs").exists());

    place.run(&["certs", "init"]).success();
    place.run(&["certs", "client", "alice"]).success();
    for (arguments, code, said) in [
        (&["renew", "bob"][..], 1, "there is no certificate certs/bob.pem\nhelp: there are: alice"),
        (&["revoke", "bob"], 1, "there are: alice"),
        (&["show", "bob"], 1, "there are: alice"),
        (&["renew", "ca"], 2, "ca is a CA, which cannot be renewed"),
        (&["revoke", "ca"], 2, "certs/ca.pem is a CA"),
        (&["renew", "/tmp/alice.pem"], 2, "is not in the folder certs"),
    ] {
        let ended = place.run(&[&["certs"], arguments].concat());
        assert_eq!(ended.code(), code, "{arguments:?}: {ended:?}");
        assert!(ended.errors.contains(said), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn no_output_shows_a_key() {
    let place = Place::new();
    let mut said = String::new();
    for arguments in [
        &["init"][..],
        &["server"],
        &["client", "alice"],
        &["renew", "--all"],
        &["revoke", "alice"],
        &["show"],
        &["show", "--json"],
    ] {
        let ended = place.run(&[&["-vvv", "certs"], arguments].concat());
        assert_eq!(ended.code(), 0, "{ended:?}");
        said.push_str(&ended.output);
        said.push_str(&ended.errors);
    }
    for file in ["ca.key", "server.key", "alice.key"] {
        for line in text(&place, file).lines() {
            assert!(!said.contains(line), "{file}");
        }
    }
}

#[test]
fn openssl_takes_what_is_made() {
    if !has("openssl") {
        return;
    }
    for option in [&[][..], &["--ed25519"]] {
        let place = Place::new();
        place.run(&[&["certs", "init"], option].concat()).success();
        place.run(&[&["certs", "server"], option].concat()).success();
        for name in ["alice", "bob"] {
            place.run(&[&["certs", "client", name], option].concat()).success();
        }
        place.run(&["certs", "revoke", "bob", "--reason", "superseded"]).success();

        let verify = "verify -x509_strict -CAfile ca.pem -CRLfile crl.pem -crl_check";
        for arguments in [
            "-purpose sslserver -verify_hostname localhost server.pem",
            "-purpose sslserver -verify_ip 127.0.0.1 server.pem",
            "-purpose sslserver -verify_ip ::1 server.pem",
            "-purpose sslclient alice.pem",
        ] {
            let (good, said) = openssl(&place, &format!("{verify} {arguments}"));
            assert!(good, "{arguments}: {said}");
        }
        for (arguments, why) in [
            ("-purpose sslserver -verify_hostname other.example server.pem", "hostname mismatch"),
            ("-purpose sslclient server.pem", "unsuitable certificate purpose"),
            ("-purpose sslserver alice.pem", "unsuitable certificate purpose"),
            ("-purpose sslclient bob.pem", "certificate revoked"),
        ] {
            let (good, said) = openssl(&place, &format!("{verify} {arguments}"));
            assert!(!good && said.to_lowercase().contains(why), "{arguments}: {said}");
        }
        for key in ["ca.key", "server.key", "alice.key"] {
            let (good, said) = openssl(&place, &format!("pkey -in {key} -noout -check"));
            assert!(good, "{key}: {said}");
        }
    }
}

#[test]
fn openssl_reads_the_extensions_that_were_meant() {
    if !has("openssl") {
        return;
    }
    let place = with_authority();
    place.run(&["certs", "server"]).success();
    place.run(&["certs", "client", "alice"]).success();
    for (name, lines) in [
        ("ca", &["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign"][..]),
        (
            "server",
            &[
                "CA:FALSE",
                "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1",
                "Digital Signature",
                "TLS Web Server Authentication",
                "X509v3 Authority Key Identifier",
                "X509v3 Subject Key Identifier",
            ],
        ),
        ("alice", &["CA:FALSE", "URI:whispeer:alice", "TLS Web Client Authentication", "CN = alice"]),
    ] {
        let (_, said) = openssl(&place, &format!("x509 -in {name}.pem -noout -text"));
        for line in lines {
            assert!(said.contains(line), "{name}: {line}: {said}");
        }
        let (_, said) = openssl(&place, &format!("x509 -in {name}.pem -noout -fingerprint -sha256"));
        let fingerprint = said.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
        assert_eq!(shown(&place, name)["fingerprint_sha256"], fingerprint);
    }
}

#[test]
fn openssl_reads_each_new_list_of_revocations_as_newer() {
    if !has("openssl") {
        return;
    }
    let place = with_authority();
    let list = || {
        let (good, said) = openssl(&place, "crl -in crl.pem -noout -text -CAfile ca.pem -verify");
        assert!(good && said.contains("verify OK"), "{said}");
        let number = said.split("X509v3 CRL Number:").nth(1).unwrap().split_whitespace().next().unwrap();
        (number.parse::<u64>().unwrap(), said)
    };
    let (first, said) = list();
    assert!(said.contains("No Revoked Certificates"), "{said}");
    place.run(&["certs", "client", "alice"]).success();
    place.run(&["certs", "client", "bob"]).success();
    place.run(&["certs", "revoke", "alice", "--reason", "key-compromise"]).success();
    place.run(&["certs", "revoke", "bob"]).success();
    let (last, said) = list();
    assert_eq!(last, first + 2);
    for name in ["alice", "bob"] {
        let serial = shown(&place, name)["serial"].as_str().unwrap().to_uppercase();
        assert!(said.contains(&format!("Serial Number: {serial}")), "{said}");
    }
    assert!(said.contains("Key Compromise"), "{said}");
}
