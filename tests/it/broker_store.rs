//! A broker that keeps what is published, and has it again.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use whispeer::broker::{
    Broker, BrokerOptions, Compression, Encryption, Persistence, PersistenceType, WebSocket,
};
use whispeer::client::{HistoryOptions, PublishOptions, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::Retention;

/// How long something may take that has to come.
const PATIENCE: Duration = Duration::from_secs(30);

const SECRET: &str = "the eagle has landed";

/// Options of a broker whose subscriptions begin with the oldest message.
fn from_the_beginning() -> BrokerOptions {
    BrokerOptions::default().subscribe_with(SubscribeOptions::default().start(Start::All))
}

/// What comes to a subscription of this broker's.
fn received(broker: &Broker, pattern: &str) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1_000);
    broker.subscribe(pattern, move |text: String| sender.send(text).unwrap_or_default());
    receiver
}

fn next(receiver: &Receiver<String>) -> String {
    receiver.recv_timeout(PATIENCE).expect("it never came")
}

/// The payloads of what a broker's bus has kept, as they are there.
fn history(broker: &Broker, pattern: &str) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new_memory(&broker.connector().unwrap()).unwrap();
        let page = client.history_bytes(pattern, HistoryOptions::default()).await.unwrap();
        page.messages.into_iter().map(|message| message.value.to_vec()).collect()
    })
}

#[test]
fn what_was_published_is_there_when_the_broker_is_built_again_and_nobody_else_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let broker = Broker::build_default_with_persistence(PersistenceType::Sqlite(&file)).build().unwrap();
    broker.publish("some-event", SECRET);
    broker.publish::<String>("other/event", "the second".into());
    drop(broker);

    for name in ["db", "db.keys"] {
        let path = folder.path().join(name);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(5).any(|five| five == b"eagle"), "{name}");
    }
    for _ in 0..2 {
        let broker = Broker::builder(from_the_beginning())
            .with(Encryption::new())
            .with(Compression::new())
            .with(Persistence::sqlite(&file))
            .build()
            .unwrap();
        let all = received(&broker, "**");
        assert_eq!((next(&all), next(&all)), (SECRET.to_owned(), "the second".to_owned()));
    }
}

#[test]
fn a_file_has_one_broker_at_a_time_and_none_that_it_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let build = |file: &Path| Broker::build_default_with_persistence(PersistenceType::Sqlite(file)).build();
    let refused = |file: &Path, what: &str| {
        let error = build(file).err().unwrap();
        assert!(matches!(&error, BusError::InvalidSettings(text) if text.contains(what)), "{error}");
    };
    let broker = build(&file).unwrap();
    refused(&file, "is in use by another process");
    drop(broker);
    drop(build(&file).unwrap());
    std::fs::write(folder.path().join("text"), "no database, but a text".repeat(100)).unwrap();
    refused(&folder.path().join("text"), "is damaged or no store");
    refused(&folder.path().join("none/db"), "cannot be written to");
    std::fs::write(folder.path().join("db.keys"), "no keyring").unwrap();
    refused(&file, "cannot use the keyring");
}

#[test]
fn only_topics_that_were_asked_for_are_kept_within_their_bounds() {
    let kept = Persistence::memory().patterns(["kept/*", "also"]).retention(Retention::new().messages(2));
    let broker = Broker::builder(BrokerOptions::default()).with(kept).build().unwrap();
    let all = received(&broker, "**");
    for topic in ["kept/a", "kept/b", "elsewhere", "also"] {
        assert_eq!(broker.publish(topic, topic).wait().unwrap(), 1);
        assert_eq!(next(&all), topic);
    }
    assert_eq!(history(&broker, "kept/*").len(), 1, "the oldest has gone");
    assert_eq!(history(&broker, "also").len(), 1);
    let none = Persistence::memory().patterns(Vec::<String>::new());
    assert!(Broker::builder(BrokerOptions::default()).with(none).build().is_err());
    let wrong = Persistence::memory().patterns(["a b"]);
    let refused = Broker::builder(BrokerOptions::default()).with(wrong).build().err().unwrap();
    assert!(matches!(refused, BusError::InvalidTopic(_)), "{refused}");
}

#[test]
fn a_broker_in_memory_keeps_as_long_as_it_lives() {
    let broker = Broker::build_default_with_persistence(PersistenceType::Memory).build().unwrap();
    broker.publish("some-event", SECRET).wait().unwrap();
    let kept = history(&broker, "**");
    assert_eq!(kept.len(), 1);
    assert!(!kept[0].windows(5).any(|five| five == b"eagle"), "it is encrypted there, too");
    drop(broker);
    let broker = Broker::build_default_with_persistence(PersistenceType::Memory).build().unwrap();
    assert!(history(&broker, "**").is_empty());
}

#[test]
fn others_over_websocket_read_what_a_broker_has_kept_and_one_that_joins_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let place = PersistenceType::Sqlite(&file);
    let broker = Broker::build_default_with_persistence_ws("http://localhost:0", place).build().unwrap();
    broker.publish("some-event", SECRET).wait().unwrap();
    let address = broker.local_addrs()[0].to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&address).await.unwrap();
        let page = client.history_bytes("**", HistoryOptions::default()).await.unwrap();
        assert_eq!(page.messages.len(), 1);
        client.close().await.unwrap();
    });
    let joining = Broker::build_default().with(WebSocket::join(address)).with(Persistence::memory()).build();
    assert!(matches!(joining, Err(BusError::InvalidSettings(text)) if text.contains("keeps nothing")));
}

// The keyring beside the file.

/// A broker whose subscriptions begin with the oldest message, and which encrypts with the keyring beside its file.
fn built(file: &Path) -> BusResult<Broker> {
    Broker::builder(from_the_beginning())
        .with(Encryption::new())
        .with(Compression::new())
        .with(Persistence::sqlite(file))
        .build()
}

/// Stores a message that only whoever has the keyring can read.
fn store_secret(file: &Path) {
    built(file).unwrap().publish("some-event", SECRET).wait().unwrap();
}

fn assert_secret_is_readable(file: &Path) {
    assert_eq!(next(&received(&built(file).unwrap(), "**")), SECRET, "{}", file.display());
}

/// Why a broker cannot have this file.
fn refusal(file: &Path) -> String {
    match built(file) {
        Err(BusError::InvalidSettings(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[cfg(unix)]
#[test]
fn a_file_has_one_keyring_by_whatever_link_it_is_opened() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("db"), folder.path().join("current"));
    store_secret(&file);
    symlink("db", &link).unwrap();
    assert_secret_is_readable(&link);
    assert!(!names(folder.path()).contains(&"current.keys".to_owned()));
}

#[cfg(unix)]
#[test]
fn the_keyring_of_a_file_that_a_dangling_link_leads_to_lies_where_the_file_is_made() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let link = folder.path().join("current");
    symlink("data/db", &link).unwrap();
    store_secret(&link);
    assert_eq!(names(folder.path()), ["current", "data"]);
    assert!(data.join("db.keys").exists());
    assert_secret_is_readable(&data.join("db"));
    assert_secret_is_readable(&link);
}

#[cfg(unix)]
#[test]
fn a_keyring_that_is_elsewhere_for_a_moment_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let keyring = folder.path().join("db.keys");
    store_secret(&file);
    // Kept on a disk of its own, which is not there for once.
    let (secrets, away) = (folder.path().join("secrets"), folder.path().join("away"));
    std::fs::create_dir(&secrets).unwrap();
    std::fs::rename(&keyring, secrets.join("db.keys")).unwrap();
    std::os::unix::fs::symlink("secrets/db.keys", &keyring).unwrap();
    assert_secret_is_readable(&file);
    std::fs::rename(&secrets, &away).unwrap();
    let told = refusal(&file);
    assert!(told.contains("db.keys") && told.contains("cannot use the keyring"), "{told}");
    assert!(told.contains("put a copy back"), "{told}");
    assert!(keyring.is_symlink(), "the link is as it was");
    std::fs::rename(&away, &secrets).unwrap();
    assert_secret_is_readable(&file);
}

#[test]
fn no_keyring_is_made_for_what_was_encrypted_with_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let (keyring, backup) = (folder.path().join("db.keys"), folder.path().join("backup"));
    store_secret(&file);
    std::fs::rename(&keyring, &backup).unwrap();
    let told = refusal(&file);
    for part in ["db.keys", "whispeer keys new", "WHISPEER_KEYRING"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!keyring.exists());
    std::fs::rename(&backup, &keyring).unwrap();
    assert_secret_is_readable(&file);
}

#[test]
fn what_was_encrypted_is_found_also_among_much_that_was_not_and_among_what_is_not_due() {
    let plain = |file: &Path| {
        Broker::builder(BrokerOptions::default())
            .with(Compression::new())
            .with(Persistence::sqlite(file))
            .build()
            .unwrap()
    };
    let publish_many = |broker: &Broker| {
        let many: Vec<_> = (0..2_000).map(|_| broker.publish("plain", "a".repeat(1_000))).collect();
        many.into_iter().for_each(|one| assert_eq!(one.wait().unwrap(), 0));
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("between");
    publish_many(&plain(&file));
    store_secret(&file);
    publish_many(&plain(&file));
    std::fs::remove_file(folder.path().join("between.keys")).unwrap();
    assert!(refusal(&file).contains("between.keys"));

    let file = folder.path().join("delayed");
    let later = PublishOptions::default().deliver_in(Duration::from_secs(86_400));
    built(&file).unwrap().publish_with("some-event", SECRET, later).wait().unwrap();
    std::fs::remove_file(folder.path().join("delayed.keys")).unwrap();
    assert!(refusal(&file).contains("delayed.keys"));
}

#[test]
fn a_broker_that_begins_to_encrypt_gets_a_keyring_beside_what_it_has_stored_in_plain() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    // What is compressed looks sealed, too, and needs no key.
    for compresses in [false, true] {
        let mut builder = Broker::builder(BrokerOptions::default()).with(Persistence::sqlite(&file));
        if compresses {
            builder = builder.with(Compression::new());
        }
        builder.build().unwrap().publish("some-event", "a".repeat(1_000)).wait().unwrap();
    }
    assert!(!folder.path().join("db.keys").exists());
    store_secret(&file);
    assert!(folder.path().join("db.keys").exists());
    let broker = built(&file).unwrap();
    assert_eq!(next(&received(&broker, "**")), SECRET, "what is in plain is not taken any more");
}
