//! What goes wrong with files.

use std::path::Path;

use super::*;

fn opened(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, SqliteOptions::new())
}

#[tokio::test]
async fn what_was_committed_is_there_when_the_file_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams.db");
    let store = opened(&path).unwrap();
    let state = store.open(settings("orders", &["orders/*"])).await.unwrap();
    append(&store, "orders", message("orders/7", "two apples", 1)).await;
    store.close().await.unwrap();
    let again = opened(&path).unwrap();
    assert_eq!(again.streams().await.unwrap()[0].epoch, state.epoch);
    assert_eq!(payloads(&read_all(&again, "orders", Reading::from(1, 0), false).await), ["two apples"]);
}

#[tokio::test]
async fn a_file_belongs_to_one_store_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams.db");
    let store = opened(&path).unwrap();
    let refused = opened(&path).unwrap_err();
    assert!(matches!(&refused, StoreError::InUse { place } if place.ends_with("streams.db")), "{refused}");
    store.close().await.unwrap();
    assert!(opened(&path).is_ok());
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_tells_where_its_file_is_behind_all_links() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let link = folder.join("current");
    std::os::unix::fs::symlink("streams.db", &link).unwrap();
    // Before there is a file, and when there is one.
    for _ in 0..2 {
        let store = opened(&link).unwrap();
        assert_eq!((store.path(), store.resolved_path()), (&*link, &*folder.join("streams.db")));
        store.close().await.unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_the_file_or_lock_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder.path().join("db")).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    append(&store, "s", message("a", "x", 1)).await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        // Whoever can open the lock can hold it, and then no store begins.
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }
}

#[tokio::test]
async fn what_is_no_store_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(
        &text,
        "this is a text and no database at all, and it is long enough for a header of one".repeat(9),
    )
    .unwrap();
    let before = std::fs::read(&text).unwrap();
    let refused = opened(&text).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    assert_eq!(std::fs::read(&text).unwrap(), before);

    let other = folder.path().join("other.db");
    let connection = rusqlite::Connection::open(&other).unwrap();
    connection.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    drop(connection);
    let before = std::fs::read(&other).unwrap();
    let refused = opened(&other).unwrap_err();
    assert!(refused.to_string().contains("another program"), "{refused}");
    assert_eq!(std::fs::read(&other).unwrap(), before);
}

#[tokio::test]
async fn a_file_of_a_later_release_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    opened(&path).unwrap().close().await.unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(opened(&path).unwrap_err(), StoreError::Newer { .. }));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let refused = opened(&folder.path().join("nowhere/db")).unwrap_err();
    assert!(
        matches!(&refused, StoreError::ReadOnly { reason, .. } if reason.contains("No such file")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_told_and_nothing_more_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = opened(&path).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    for number in 0..200 {
        append(&store, "s", message("a", &"x".repeat(1_000), number)).await;
    }
    store.close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[8_192..length].fill(0xAB);
    std::fs::write(&path, bytes).unwrap();
    // What is wrong is found where it is opened, or read.
    match opened(&path) {
        Err(refused) => assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}"),
        Ok(store) => {
            let refused = store.read(name("s"), Reading::from(1, 0)).await.unwrap_err();
            assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
            let change = Change::Append(message("a", "x", 1));
            let refused = store.commit(name("s"), vec![change]).await.unwrap_err();
            assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_large_stream_that_is_taken_out_goes_in_steps_and_the_next_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = opened(&path).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    for round in 0..10 {
        let changes = (0..1_000).map(|number| Change::Append(message("a", "x", round * 1_000 + number)));
        store.commit(name("s"), changes.collect()).await.unwrap();
    }
    let (removed, closed) = (store.remove(name("s")), store.close());
    removed.await.unwrap();
    closed.await.unwrap();
    let rows = || -> u64 {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.query_row("SELECT count(*) FROM messages", [], |row| row.get::<_, i64>(0)).unwrap() as u64
    };
    assert!((1..10_000).contains(&rows()), "{} are left", rows());

    let store = opened(&path).unwrap();
    let new = store.open(settings("s", &["**"])).await.unwrap();
    assert_eq!((new.messages, new.end), (0, 1));
    append(&store, "s", message("a", "new", 1)).await;
    assert_eq!(payloads(&read_all(&store, "s", Reading::from(1, 0), false).await), ["new"]);
    // Nobody else asks for anything, and all of it goes.
    while rows() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(payloads(&read_all(&store, "s", Reading::from(1, 0), false).await), ["new"]);
}

#[tokio::test]
async fn messages_of_a_rare_topic_are_found_among_many() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder.path().join("db")).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    // One in ten thousand, so that a page of looks has one or two.
    for round in 0..40 {
        let topic = |number| match (round * 1_000 + number) % 10_000 {
            5_000 => "rare/one",
            7_000 => "rare/*",
            _ => "ordinary",
        };
        let changes = (0..1_000).map(|number| Change::Append(message(topic(number), "x", 1)));
        store.commit(name("s"), changes.collect()).await.unwrap();
    }
    let all = [5_001, 7_001, 15_001, 17_001, 25_001, 27_001, 35_001, 37_001];
    let reading = Reading::from(1, 0).of(pattern("rare/one"));
    let page = store.read(name("s"), reading.clone()).await.unwrap();
    assert!(!page.has_more());
    assert_eq!(page.messages.iter().map(|message| message.sequence).collect::<Vec<_>>(), all);
    for at_most in [1, 3, 4, 8] {
        let found = read_all(&store, "s", reading.clone().at_most(at_most), false).await;
        assert_eq!(found.iter().map(|message| message.sequence).collect::<Vec<_>>(), all, "{at_most}");
    }
    for (count, first) in [(1, 37_001), (5, 17_001), (8, 5_001), (100, 5_001)] {
        let start = Start::Last(count, Some(pattern("rare/one")));
        assert_eq!(store.find(name("s"), start).await.unwrap(), first, "{count}");
    }
    assert_eq!(store.find(name("s"), Start::Last(10, None)).await.unwrap(), 39_991);
    assert_eq!(store.find(name("s"), Start::Last(1, Some(pattern("nobody")))).await.unwrap(), 40_001);
}

#[tokio::test]
async fn a_thread_that_panics_is_told_as_a_failure_and_what_was_acknowledged_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = opened(&path).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    append(&store, "s", message("a", "acknowledged", 1)).await;
    store.panic();
    for _ in 0..2 {
        let refused = store.commit(name("s"), vec![Change::Append(message("a", "x", 1))]).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Failed { reason, .. } if reason.contains("panicked")),
            "{refused}"
        );
    }
    assert_eq!(payloads(&read_all(&store, "s", Reading::from(1, 0), false).await), ["acknowledged"]);
    let _ = store.close().await;
    assert_eq!(store.streams().await.unwrap_err(), StoreError::Closed);
    let again = opened(&path).unwrap();
    assert_eq!(payloads(&read_all(&again, "s", Reading::from(1, 0), false).await), ["acknowledged"]);
}

#[tokio::test]
async fn many_who_wait_share_one_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder.path().join("db")).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    let sent: Vec<_> = (0..1_000)
        .map(|number| {
            store.commit(name("s"), vec![Change::Append(message("a", &number.to_string(), number))])
        })
        .collect();
    for (index, sent) in sent.into_iter().enumerate() {
        assert_eq!(sent.await.unwrap(), [Outcome::Appended { sequence: index as u64 + 1 }]);
    }
    let expected: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&read_all(&store, "s", Reading::from(1, 0), false).await), expected);
}

#[tokio::test]
async fn large_messages_are_dropped_few_at_a_time_so_that_others_are_served_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new().durability(Durability::PowerLossLosesTheLatest);
    let store = SqliteStore::open(&folder.path().join("db"), options).unwrap();
    store.open(settings("s", &["**"]).retention(Retention::new().age(Duration::from_secs(1)))).await.unwrap();
    let large = "x".repeat(1024 * 1024);
    for _ in 0..20 {
        append(&store, "s", message("a", &large, 1)).await;
    }
    append(&store, "s", NewMessage { expires: Some(2), ..message("a", &large, 9_000) }).await;
    let sweep = || store.commit(name("s"), vec![Change::Expire { now: 9_000 }]);
    assert_eq!(sweep().await.unwrap(), [Outcome::Done { dropped: 16 }]);
    assert_eq!(sweep().await.unwrap(), [Outcome::Done { dropped: 5 }]);
    assert_eq!(sweep().await.unwrap(), [Outcome::Done { dropped: 0 }]);
    assert_eq!(store.streams().await.unwrap()[0].messages, 0);
}

#[tokio::test]
async fn large_messages_that_are_named_are_dropped_few_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new().durability(Durability::PowerLossLosesTheLatest);
    let store = SqliteStore::open(&folder.path().join("db"), options).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    let large = "x".repeat(1024 * 1024);
    for _ in 0..20 {
        append(&store, "s", message("a", &large, 1)).await;
    }
    let all = || store.commit(name("s"), vec![Change::Drop { sequences: (1..=20).collect() }]);
    assert_eq!(all().await.unwrap(), [Outcome::Done { dropped: 16 }]);
    assert_eq!(all().await.unwrap(), [Outcome::Done { dropped: 4 }]);
    assert_eq!(all().await.unwrap(), [Outcome::Done { dropped: 0 }]);
}

#[tokio::test]
async fn retention_keeps_the_file_small() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let options = SqliteOptions::new().durability(Durability::PowerLossLosesTheLatest);
    let store = SqliteStore::open(&path, options).unwrap();
    let bound = 4 * 1024 * 1024;
    let retention = Retention::new().bytes(bound);
    store.open(settings("s", &["**"]).retention(retention)).await.unwrap();
    for round in 0..60 {
        let changes =
            (0..512).map(|number| Change::Append(message("a", &"x".repeat(1_000), round * 512 + number)));
        store.commit(name("s"), changes.collect()).await.unwrap();
    }
    assert!(store.streams().await.unwrap()[0].bytes <= bound);
    store.close().await.unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < bound + bound / 5, "{size} bytes for {bound}");
}
