//! What is large, and what there is no room for.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::limits::STORED_FIELDS_LIMIT;
use whispeer::store::{Change, NewMessage, Outcome, Reading, Retention, Store, StoreError};
use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore};
use whispeer_cluster_nats::limits::JETSTREAM_CHUNK_BYTES;
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::store_contract::{append, message, name, payloads, read_all, settings};

use super::{opened, opened_with};

const LONG: Duration = Duration::from_secs(30);

/// Messages that are given to the store together, which is much faster than one after the other.
const TOGETHER: usize = 500;

/// Bytes of the last image, and how many parts it has.
async fn last_image(server: &NatsServer) -> Option<(usize, usize)> {
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let journal = jetstream.get_stream("whispeer-streams").await.unwrap();
    let told = journal.get_last_raw_message_by_subject("whispeer.j.image").await.ok()?;
    let action = told.headers.get("Whispeer-Action").unwrap().to_string();
    let action: serde_json::Value = serde_json::from_str(action.trim_matches('|')).unwrap();
    let number = |key: &str| usize::try_from(action["image"][key].as_u64().unwrap()).unwrap();
    Some((number("bytes"), number("parts")))
}

#[tokio::test]
async fn a_store_begins_with_an_image_of_several_parts() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let options = JetStreamOptions::new("whispeer").unwrap().image_entries(1);
        let store = opened_with(&server, options.clone()).await;
        store.open(settings("s", &["**"])).await.unwrap();
        let mut stored = 0;
        let (bytes, parts) = loop {
            let batch: Vec<_> = (0..TOGETHER)
                .map(|at| {
                    let topic = format!("a/{}/of/a/name/that/takes/some/room/in/an/image", stored + at);
                    Change::Append(message(&topic, "x", 1))
                })
                .collect();
            stored += batch.len();
            store.commit(name("s"), batch).await.unwrap();
            match last_image(&server).await {
                Some((bytes, parts)) if parts > 2 => break (bytes, parts),
                _ => assert!(stored < 50_000, "no image is written"),
            }
        };
        assert_eq!(parts, bytes.div_ceil(JETSTREAM_CHUNK_BYTES));
        // Another process has the image and what came behind it, and nothing else.
        store.close().await.unwrap();
        let other = opened_with(&server, options).await;
        let state = other.open(settings("s", &["**"])).await.unwrap();
        assert_eq!((state.messages, state.end), (stored as u64, stored as u64 + 1));
        let last = Reading::from(state.end - 1, 0);
        let page = other.read(name("s"), last).await.unwrap();
        assert!(page.messages[0].topic.as_str().starts_with(&format!("a/{}/", stored - 1)));
    }
}

#[tokio::test]
async fn fields_as_large_as_a_store_keeps_and_payloads_beyond_what_nats_takes_come_back_as_they_were() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let store = opened(&server).await;
        store.open(settings("s", &["**"])).await.unwrap();
        let mut all = Vec::new();
        for (fields, payload) in [
            (STORED_FIELDS_LIMIT, 0),
            (STORED_FIELDS_LIMIT, 3 << 20),
            // In a header of its own, and beyond what one takes.
            (48 * 1024 * 3 / 4, 10),
            (48 * 1024 * 3 / 4 + 1, 10),
            (48 * 1024, (1 << 20) - 1),
            (0, (1 << 20) + 1),
        ] {
            let bytes = |count: usize| Bytes::from_iter((0..count).map(|at| (at % 251) as u8));
            let one = NewMessage { fields: bytes(fields), payload: bytes(payload), ..message("a", "", 1) };
            append(&store, "s", one.clone()).await;
            all.push(one);
        }
        // From memory, and from NATS.
        for store in [&store, &opened(&server).await] {
            let read = read_all(store, "s", Reading::from(0, 0), false).await;
            assert_eq!(read.len(), all.len());
            for (read, one) in read.iter().zip(&all) {
                assert!(read.fields == one.fields, "{} bytes of fields", one.fields.len());
                assert!(read.payload == one.payload, "{} bytes of payload", one.payload.len());
            }
        }
    }
}

/// Stores messages of 16 KiB until one is refused, and gives how many it took and why.
async fn fill(store: &JetStreamStore, stored: usize) -> (usize, StoreError) {
    let large = "x".repeat(16 * 1024);
    for stored in stored..40 {
        let storing = store.commit(name("s"), vec![Change::Append(message("a", &large, 1))]);
        if let Err(error) = timeout(LONG, storing).await.expect("an answer comes") {
            return (stored, error);
        }
    }
    panic!("there is no room for that much");
}

#[tokio::test]
async fn an_account_of_nats_that_is_full_is_told_as_a_full_disk() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let account = "jetstream: { max_file: 262144, max_mem: 0 }, users: [{ user: bus, password: bus }]";
        let config = format!("accounts {{ BUSES: {{ {account} }} }}\nno_auth_user: bus");
        let server = version.jetstream().config(config).start().await;
        let store = opened(&server).await;
        store.open(settings("s", &["**"])).await.unwrap();
        append(&store, "s", message("a", "first", 1)).await;
        let (stored, error) = fill(&store, 1).await;
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        let read = read_all(&store, "s", Reading::from(0, 0), false).await;
        assert_eq!((read.len(), &payloads(&read)[0][..]), (stored, "first"), "what was stored is there");
    }
}

#[tokio::test]
async fn a_journal_without_room_is_told_as_a_full_disk_and_all_goes_on_when_there_is_room() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let store = opened(&server).await;
        store.open(settings("s", &["**"]).retention(Retention::new().messages(40))).await.unwrap();
        append(&store, "s", message("a", "first", 1)).await;
        // As an operator may do it.
        let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let bound = async |bytes: i64| {
            let journal = jetstream.get_stream("whispeer-streams").await.unwrap();
            let mut config = journal.cached_info().config.clone();
            config.max_bytes = bytes;
            config.discard = async_nats::jetstream::stream::DiscardPolicy::New;
            jetstream.update_stream(config).await.unwrap();
        };
        bound(256 * 1024).await;
        let send = |payload: &str| store.commit(name("s"), vec![Change::Append(message("a", payload, 1))]);
        let (stored, full) = fill(&store, 1).await;
        assert!(matches!(full, StoreError::Full { .. }), "{full}");
        let read = read_all(&store, "s", Reading::from(0, 0), false).await;
        assert_eq!((read.len(), &payloads(&read)[0][..]), (stored, "first"), "what was stored is there");
        bound(64 * 1024 * 1024).await;
        let went_on = async {
            loop {
                match send("last").await {
                    Ok(outcomes) => return outcomes,
                    // What was refused is being given up.
                    Err(StoreError::Full { .. } | StoreError::Busy { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let outcomes = timeout(LONG, went_on).await.expect("there is room again");
        assert_eq!(
            outcomes,
            [Outcome::Appended { sequence: stored as u64 + 1 }],
            "what was refused is not stored"
        );
        assert_eq!(payloads(&read_all(&store, "s", Reading::from(0, 0), false).await).pop().unwrap(), "last");
    }
}
