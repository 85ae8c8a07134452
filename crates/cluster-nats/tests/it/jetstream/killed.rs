//! Servers that are killed, and are away.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinHandle;
use whispeer::store::{Change, MessageId, NewMessage, Outcome, Reading, Store, StoreError};
use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore, Replicas};
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::store_contract::{append, message, name, payloads, read_all, settings};

use super::{opened, opened_with};

const PUBLISHERS: u64 = 8;
const EACH: u64 = 200;

/// A message that is known by its number when it is sent again.
fn numbered(publisher: u64, number: u64, payload: &str) -> Change {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&publisher.to_be_bytes());
    let id = Some(MessageId { publisher: id, number: number + 1 });
    Change::Append(NewMessage { id, ..message("a", payload, number) })
}

/// Publishers that store so many messages each, and store again what was not taken. Each gives its sequences and payloads.
fn publishing(store: &JetStreamStore) -> Vec<JoinHandle<Vec<(u64, String)>>> {
    let publisher = |publisher| {
        let store = store.clone();
        async move {
            let mut stored = Vec::new();
            for number in 0..EACH {
                let payload = format!("{publisher} {number}");
                let sequence = loop {
                    match store.commit(name("s"), vec![numbered(publisher, number, &payload)]).await {
                        Ok(outcomes) => match outcomes[..] {
                            [Outcome::Appended { sequence } | Outcome::Known { sequence }] => break sequence,
                            ref other => panic!("{other:?}"),
                        },
                        Err(StoreError::Busy { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                };
                stored.push((sequence, payload));
            }
            stored
        }
    };
    (0..PUBLISHERS).map(|number| tokio::spawn(publisher(number))).collect()
}

/// What was told as stored is there, each once, in the order of its publisher, for whoever looks.
async fn all_is_there(publishing: Vec<JoinHandle<Vec<(u64, String)>>>, stores: [&JetStreamStore; 2]) {
    let mut stored = Vec::new();
    for publisher in publishing {
        let own = publisher.await.unwrap();
        assert!(own.is_sorted_by_key(|(sequence, _)| *sequence), "the order of a publisher holds");
        stored.extend(own);
    }
    stored.sort();
    for store in stores {
        let read = read_all(store, "s", Reading::from(0, 0), false).await;
        let read: Vec<_> = read.iter().map(|one| one.sequence).zip(payloads(&read)).collect();
        assert_eq!(read.len() as u64, PUBLISHERS * EACH, "each is there once");
        assert_eq!(read, stored);
    }
}

async fn appended(store: &JetStreamStore, messages: u64) {
    store.appended(&name("s")).unwrap().wait_for(|end| *end > messages).await.unwrap();
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_or_done_twice_when_the_server_is_killed() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let store = opened(&server).await;
        store.open(settings("s", &["**"])).await.unwrap();
        let publishing = publishing(&store);
        for killed in 1..=3 {
            appended(&store, killed * 300).await;
            server.kill();
            server.restart().await;
        }
        all_is_there(publishing, [&store, &opened(&server).await]).await;
    }
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_when_each_server_of_a_cluster_is_killed_in_turn() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let cluster = version.start_cluster(3).await;
        // A cluster may take longer than the default to find another leader, where it has little of the processor.
        let patience = Duration::from_secs(20);
        let options =
            || JetStreamOptions::new("whispeer").unwrap().replicas(Replicas::Three).answer(patience);
        let open = async || {
            let client = async_nats::connect(cluster.urls()).await.unwrap();
            JetStreamStore::new(client, options()).unwrap()
        };
        let store = open().await;
        store.open(settings("s", &["**"])).await.unwrap();
        let publishing = publishing(&store);
        for killed in 0..3 {
            appended(&store, (killed as u64 + 1) * 300).await;
            cluster.nodes()[killed].kill();
            cluster.restart(killed).await;
            cluster.settled().await;
        }
        all_is_there(publishing, [&store, &open().await]).await;
    }
}

#[tokio::test]
async fn calls_are_told_that_it_is_busy_while_the_server_is_away_and_go_on_when_it_is_back() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let options = JetStreamOptions::new("whispeer").unwrap().answer(Duration::from_millis(500));
    let store = opened_with(&server, options).await;
    store.open(settings("s", &["**"])).await.unwrap();
    append(&store, "s", message("a", "first", 1)).await;
    // It takes calls, and does not answer.
    server.pause();
    let ids: HashMap<_, _> =
        ["asked for again", "given up", "unsent", "after"].into_iter().zip(1_u64..).collect();
    let send = |payload: &'static str| store.commit(name("s"), vec![numbered(1, ids[payload], payload)]);
    for payload in ["asked for again", "given up"] {
        let busy = send(payload).await;
        assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
    }
    assert_eq!(store.streams().await.unwrap()[0].end, 2, "what is known is told meanwhile");
    let again = send("asked for again");
    server.resume();
    assert_eq!(again.await.unwrap(), [Outcome::Appended { sequence: 2 }]);
    append(&store, "s", message("a", "last", 1)).await;
    let read = payloads(&read_all(&store, "s", Reading::from(0, 0), false).await);
    // Of what was given up nobody could say whether it was stored.
    assert!(
        read == ["first", "asked for again", "last"]
            || read == ["first", "asked for again", "given up", "last"],
        "{read:?}"
    );
    // It is not there at all.
    server.kill();
    let unsent = send("unsent").await;
    assert!(matches!(unsent, Err(StoreError::Busy { .. })), "{unsent:?}");
    server.restart().await;
    let count = read.len() as u64;
    let mut next = send("after").await;
    while let Err(StoreError::Busy { .. }) = next {
        next = send("after").await;
    }
    assert_eq!(next.unwrap(), [Outcome::Appended { sequence: count + 1 }]);
}

#[tokio::test]
async fn what_has_no_id_is_stored_again_behind_what_came_since() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let options = JetStreamOptions::new("whispeer").unwrap().answer(Duration::from_millis(500));
    let store = opened_with(&server, options).await;
    store.open(settings("lamps", &["**"])).await.unwrap();
    let switch = |to: &str| store.commit(name("lamps"), vec![Change::Append(message("lamp", to, 1))]);
    server.pause();
    let busy = switch("on").await;
    assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
    server.resume();
    // It is stored nevertheless.
    store.appended(&name("lamps")).unwrap().wait_for(|end| *end == 2).await.unwrap();
    assert_eq!(switch("off").await.unwrap(), [Outcome::Appended { sequence: 2 }]);
    assert_eq!(switch("on").await.unwrap(), [Outcome::Appended { sequence: 3 }]);
    let read = payloads(&read_all(&store, "lamps", Reading::from(0, 0), false).await);
    assert_eq!(read, ["on", "off", "on"]);
    // Nor does what is done to a consumer count as done by what was done to it before.
    let change = |change: Change| store.commit(name("lamps"), vec![change]);
    let make = || Change::Consumer { name: name("c"), pattern: None, from: 1, owner: "".into() };
    change(make()).await.unwrap();
    server.pause();
    let busy = change(Change::RemoveConsumer(name("c"))).await;
    assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
    server.resume();
    while store.consumer(name("lamps"), name("c")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    change(make()).await.unwrap();
    change(Change::RemoveConsumer(name("c"))).await.unwrap();
    let gone = store.consumer(name("lamps"), name("c")).await;
    assert!(matches!(gone, Err(StoreError::NoConsumer { .. })), "{gone:?}");
}
