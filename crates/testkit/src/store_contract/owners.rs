//! Whose consumers are.

use super::*;

pub async fn a_consumer_is_the_first_owners_who_comes(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let make = |consumer: &str, owner: &'static str| {
        let change = Change::Consumer { name: name(consumer), pattern: None, from: 3, owner: owner.into() };
        store.commit(name("s"), vec![change])
    };
    make("worker", "").await.unwrap();
    make("billing", "alice").await.unwrap();
    assert_eq!(owners(store).await, ["billing alice", "worker "]);
    // Nobody takes one from somebody, and one that is nobody's is taken once.
    for owner in ["", "bob"] {
        make("billing", owner).await.unwrap();
    }
    for owner in ["", "bob", "alice"] {
        make("worker", owner).await.unwrap();
    }
    assert_eq!(owners(store).await, ["billing alice", "worker bob"]);
    store.commit(name("s"), vec![Change::RemoveConsumer(name("billing"))]).await.unwrap();
    make("billing", "bob").await.unwrap();
    assert_eq!(owners(store).await, ["billing bob", "worker bob"]);
    let nowhere = store.consumers(name("t")).await.unwrap_err();
    assert_eq!(nowhere, StoreError::NoStream { stream: "t".into() });
}

/// Each with its owner. All ways to ask for that say the same.
pub async fn owners(store: &dyn Store) -> Vec<String> {
    let mut told = Vec::new();
    for ConsumerPosition { name: consumer, owner, .. } in store.consumers(name("s")).await.unwrap() {
        assert_eq!(store.consumer(name("s"), consumer.clone()).await.unwrap().owner, owner);
        told.push(format!("{consumer} {}", String::from_utf8_lossy(&owner)));
    }
    told
}
