//! Calls that wait for a file that is slow.

use std::task::{Context, Poll, Waker};

use super::*;

async fn opened(folder: &tempfile::TempDir, options: SqliteOptions) -> SqliteStore {
    let store = SqliteStore::open(&folder.path().join("db"), options).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    store
}

/// What a call has come to already.
fn answered<T>(call: &mut Operation<T>) -> Option<Result<T, StoreError>> {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn what_many_give_to_a_slow_disk_waits_in_its_order_and_none_of_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder, SqliteOptions::new()).await;
    let slow = store.take_long();
    // As many as ten publishers have under way.
    let calls: Vec<_> = (0..10 * u64::from(crate::limits::PUBLISH_WINDOW_MESSAGES))
        .map(|number| store.commit(name("s"), vec![Change::Append(message("a", "x", number))]))
        .collect();
    drop(slow);
    for (index, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), [Outcome::Appended { sequence: index as u64 + 1 }]);
    }
}

#[tokio::test]
async fn as_many_may_read_at_once_as_there_are_subscriptions() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder, SqliteOptions::new()).await;
    append(&store, "s", message("a", "x", 1)).await;
    let reads: Vec<_> = (0..20_000).map(|_| store.read(name("s"), Reading::from(1, 0))).collect();
    for read in reads {
        assert_eq!(read.await.unwrap().messages.len(), 1);
    }
}

#[tokio::test]
async fn messages_that_take_more_than_the_queue_are_refused_and_what_consumers_write_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder, SqliteOptions::new().queue_bytes(1024 * 1024)).await;
    let slow = store.take_long();
    // What comes behind waits in the queue, and is not taken from it together with this.
    slow.send(()).unwrap();
    let large = "x".repeat(100_000);
    let publish = || store.commit(name("s"), vec![Change::Append(message("a", &large, 1))]);
    let mut taken: Vec<_> = (0..10).map(|_| publish()).collect();
    assert!(taken.iter_mut().all(|call| answered(call).is_none()), "there is room for ten of them");
    let Some(Err(StoreError::Busy { what })) = answered(&mut publish()) else {
        panic!("there is no room for another")
    };
    assert!(what.starts_with("1 MiB of calls wait for the store"), "{what}");
    let mut position = store.commit(name("s"), vec![Change::Purge { before: 0 }]);
    assert!(answered(&mut position).is_none(), "it waits for its turn");
    drop(slow);
    for call in taken {
        call.await.unwrap();
    }
    assert_eq!(position.await.unwrap(), [Outcome::Done { dropped: 0 }]);
    publish().await.unwrap();
}

#[tokio::test]
async fn who_drops_much_is_not_waited_for_by_what_is_written_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder, SqliteOptions::new().durability(Durability::PowerLossLosesTheLatest)).await;
    let large = "x".repeat(1024 * 1024);
    for _ in 0..17 {
        append(&store, "s", message("a", &large, 1)).await;
    }
    let slow = store.take_long();
    let dropping = store.commit(name("s"), vec![Change::Drop { sequences: (1..=17).collect() }]);
    // It is taken up together with what comes behind it, which takes until the test is over.
    let slower = store.take_long();
    let purging = store.commit(name("s"), vec![Change::Purge { before: 18 }]);
    drop(slow);
    let dropped = tokio::time::timeout(Duration::from_secs(20), dropping).await;
    assert_eq!(dropped.expect("it has a transaction of its own").unwrap(), [Outcome::Done { dropped: 16 }]);
    drop(slower);
    assert_eq!(purging.await.unwrap(), [Outcome::Done { dropped: 1 }]);
}

#[tokio::test]
async fn a_message_that_is_larger_than_the_queue_has_it_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder, SqliteOptions::new().queue_bytes(1_000)).await;
    let large = Change::Append(message("a", &"x".repeat(10_000), 1));
    assert_eq!(store.commit(name("s"), vec![large]).await.unwrap(), [Outcome::Appended { sequence: 1 }]);
}
