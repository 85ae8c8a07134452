//! What stores tell of their work.

use super::*;

fn told(store: &SqliteStore) -> StoreMetrics {
    store.metrics().expect("it counts what its work takes")
}

#[tokio::test]
async fn each_transaction_is_counted_with_its_calls_and_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("db"), SqliteOptions::new()).unwrap();
    assert_eq!(told(&store), StoreMetrics::default());
    store.open(settings("s", &["**"])).await.unwrap();
    for number in 0..5 {
        append(&store, "s", message("a", "x", number)).await;
    }
    let metrics = told(&store);
    assert_eq!((metrics.writes.count(), metrics.commits.count(), metrics.failures), (6, 6, 0));
    assert_eq!((metrics.calls.count(), metrics.calls.sum()), (6, 6));
    assert!(metrics.commits.sum() > 0 && metrics.writes.sum() > 0);
}

#[tokio::test]
async fn what_waits_while_the_disk_is_busy_is_told_and_then_done_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("db"), SqliteOptions::new()).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    let before = told(&store);
    let slow = store.take_long();
    let changes = || vec![Change::Append(message("a", "x", 1))];
    // The thread may take what comes at once together with what it is slow at, but no more than one transaction may have.
    let count = crate::limits::STORE_GROUP as u64 + 10;
    let calls: Vec<_> = (0..count).map(|_| store.commit(name("s"), changes())).collect();
    let brings = message("a", "x", 1).weight() + crate::limits::STORE_CALL_BYTES as u64;
    let waiting = told(&store).waiting_to_write;
    assert!((11 * brings..=(count + 1) * brings).contains(&waiting), "{waiting} bytes, {brings} a call");
    drop(slow);
    for call in calls {
        call.await.unwrap();
    }
    let after = told(&store);
    assert_eq!(after.waiting_to_write, 0);
    assert_eq!(after.calls.sum() - before.calls.sum(), count + 1);
    assert!(after.calls.count() - before.calls.count() <= 3, "those that waited went together");
}

#[tokio::test]
async fn what_moves_the_log_to_its_place_is_counted_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("db"), SqliteOptions::new()).unwrap();
    // It keeps little, so that its log is moved from 1 MiB on.
    let small = settings("s", &["**"]).retention(Retention::new().bytes(1024 * 1024));
    store.open(small).await.unwrap();
    assert_eq!(told(&store).checkpoints.count(), 0);
    let large = "x".repeat(100_000);
    for number in 0..30 {
        append(&store, "s", message("a", &large, number)).await;
    }
    store.streams().await.unwrap();
    assert!(told(&store).checkpoints.count() > 0);
}

#[test]
fn a_store_in_memory_has_nothing_to_tell() {
    assert_eq!(MemoryStore::new().metrics(), None);
}
