//! Servers that are killed, and are away.

use std::time::Duration;

use whispeer::store::{Change, Outcome, Reading, Store, StoreError};
use whispeer_cluster_nats::jetstream::JetStreamOptions;
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::store_contract::{append, message, name, payloads, read_all, settings};

use super::{opened, opened_with};

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_or_done_twice_when_the_server_is_killed() {
    const PUBLISHERS: u64 = 8;
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let store = opened(&server).await;
        store.open(settings("s", &["**"])).await.unwrap();
        let tasks: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut stored = Vec::new();
                    for number in 0..200_u64 {
                        let payload = format!("{publisher} {number}");
                        loop {
                            let append = vec![Change::Append(message("a", &payload, number))];
                            match store.commit(name("s"), append).await {
                                Ok(outcomes) => {
                                    let [Outcome::Appended { sequence }] = outcomes[..] else {
                                        panic!("{outcomes:?}")
                                    };
                                    stored.push((sequence, payload));
                                    break;
                                }
                                Err(StoreError::Busy { .. }) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                    stored
                })
            })
            .collect();
        for killed in 1..=3 {
            let mut appended = store.appended(&name("s")).unwrap();
            appended.wait_for(|end| *end >= killed * 300).await.unwrap();
            server.kill();
            server.restart().await;
        }
        let mut stored = Vec::new();
        for task in tasks {
            let own = task.await.unwrap();
            assert!(own.is_sorted(), "the order of a publisher holds");
            stored.extend(own);
        }
        stored.sort();
        for store in [&store, &opened(&server).await] {
            let read = read_all(store, "s", Reading::from(0, 0), false).await;
            let read: Vec<_> = read.iter().map(|one| one.sequence).zip(payloads(&read)).collect();
            assert_eq!(read.len() as u64, PUBLISHERS * 200, "each is there once");
            assert_eq!(read, stored);
        }
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
    let send = |payload: &str| store.commit(name("s"), vec![Change::Append(message("a", payload, 1))]);
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
