//! Settings that cannot be used, and what is said of them.

use std::path::PathBuf;

use tempfile::TempDir;
use whispeer_cluster_nats::settings::masked;
use whispeer_cluster_nats::{Connection, NatsError, NatsSettings, limits};
use whispeer_testkit::certificates::Certificates;

fn refused(servers: &str) -> String {
    NatsSettings::new(servers).unwrap_err().to_string()
}

async fn not_opened(settings: NatsSettings) -> String {
    Connection::open(&settings).await.unwrap_err().to_string()
}

#[test]
fn servers_are_one_url_or_several() {
    let settings = NatsSettings::new("localhost, tls://n2.example:5222 ,nats://[::1]").unwrap();
    assert_eq!(settings.shown_servers(), "nats://localhost:4222,tls://n2.example:5222,nats://[::1]:4222");
    assert_eq!(settings.subjects().prefix(), "whispeer");
    assert!(refused("").contains("no server is named"));
    assert!(refused(" , ").contains("no server is named"));
    assert!(refused("ws://localhost").contains("nats://"));
    assert!(refused("nats://").contains("no host"), "{}", refused("nats://"));
    assert!(refused("nats://localhost/prefix").contains("behind the host"));
    assert!(refused("nats://:secret@localhost").contains("no user"));
    let many = vec!["localhost"; limits::LINK_SERVERS + 1].join(",");
    assert!(refused(&many).contains("64 are the most"));
    assert!(refused("nats://a:1@localhost,nats://b:2@localhost").contains("different users"));
    NatsSettings::new("nats://a:1@localhost,nats://a:1@n2,nats://n3").unwrap();
    let wrong = NatsSettings::new("localhost").unwrap().prefix("a b").unwrap_err();
    assert!(matches!(wrong, NatsError::Prefix(_)), "{wrong}");
}

#[test]
fn what_is_secret_is_shown_nowhere() {
    let settings = NatsSettings::new("nats://bus:s3cret@localhost,nats://n2").unwrap();
    let shown = format!("{settings:?} {}", settings.shown_servers());
    assert!(!shown.contains("s3cret") && !shown.contains("bus:"), "{shown}");
    for url in [
        "http://bus:s3cret@localhost",
        "nats://bus:s3cret@",
        "nats://bus:s3cret@host/x",
        "bus:s3cret@host:port",
        "nats://bus:s3cret,x@host",
    ] {
        assert!(!refused(url).contains("s3cret"), "{}", refused(url));
    }
    assert_eq!(masked("nats://bus:s3cret@localhost:4222"), "nats://***@localhost:4222");
    assert_eq!(masked("bus:s3@ret@localhost"), "***@localhost");
    assert_eq!(masked("nats://a:1,2@n1,nats://b:2@n2"), "nats://***@n2");
    assert_eq!(masked("nats://localhost"), "nats://localhost");
}

#[tokio::test]
async fn an_error_of_a_file_says_which_one_and_why() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let empty = write("empty", "");
    let missing = folder.path().join("missing");
    let long = write("long", &"x".repeat(usize::try_from(limits::LINK_FILE_BYTES).unwrap() + 1));
    let bad = write("bad.nk", "SUAAAAAAAAAAA\n");
    let files = Certificates::new().files();
    let base = || NatsSettings::new("nats://localhost:1").unwrap();
    let key = files.client.key.clone();
    type Case = (NatsSettings, PathBuf, &'static str);
    let cases: [Case; 9] = [
        (base().credentials_file(&missing), missing.clone(), "credentials"),
        (base().credentials_file(&empty), empty.clone(), "JWT"),
        (base().nkey_file(&empty), empty.clone(), "begins with SU"),
        (base().nkey_file(&bad), bad.clone(), "seed cannot be read"),
        (base().ca_file(&empty), empty.clone(), "no certificate"),
        (base().ca_file(&long), long.clone(), "1048576 bytes"),
        (base().identity_files(&missing, &key), missing.clone(), "certificate"),
        (base().identity_files(&files.client.certificate, &empty), empty.clone(), "no key"),
        (base().identity_files(&files.server.certificate, &key), key.clone(), "does not fit"),
    ];
    for (settings, path, why) in cases {
        let said = not_opened(settings).await;
        assert!(said.contains(&path.display().to_string()) && said.contains(why), "{said}");
    }
    let twice = NatsSettings::new("nats://bus:secret@localhost:1").unwrap().nkey_file(&bad);
    assert!(not_opened(twice).await.contains("only one"));
}
