//! How much of a disk a store takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use whispeer::bus::Streams;
use whispeer::limits;
use whispeer::store::{
    Change, Durability, MessageId, NewMessage, Outcome, Reading, Retention, SqliteOptions, SqliteStore,
    Start, Store,
};

use crate::workload::{Random, message, name, number_from, pattern, settings};

const MIB: u64 = 1 << 20;

/// Bytes of the file and of those beside it.
fn size(path: &Path) -> u64 {
    let beside = |suffix: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        std::fs::metadata(path).map_or(0, |file| file.len())
    };
    beside("") + beside("-wal")
}

/// A message with an id, of one of so many publishers, each of which counts its own.
fn known(message: NewMessage, number: u64, publishers: u64) -> NewMessage {
    let mut random = Random::new(number % publishers);
    let publisher = u128::from(random.next()) << 64 | u128::from(random.next());
    let id = MessageId { publisher: publisher.to_be_bytes(), number: number / publishers };
    NewMessage { id: Some(id), ..message }
}

/// What the disk does is for other tests.
fn opened(path: &Path) -> SqliteStore {
    let options = SqliteOptions::new().durability(Durability::PowerLossLosesTheLatest);
    SqliteStore::open(path, options).unwrap()
}

/// Appends so many bytes of mixed sizes to so many topics, and returns the largest size that the files had.
async fn load(store: &SqliteStore, path: &Path, topics: u64, bytes: u64) -> u64 {
    let mut random = Random::new(number_from("WHISPEER_SEED", 1));
    let (mut number, mut written, mut largest) = (1, 0, 0);
    while written < bytes {
        let mut changes = Vec::new();
        for _ in 0..1 + random.below(40) {
            // 16 B to 64 KiB, and from 1 KiB on as many bytes of each size.
            let length = 16_u64 << random.below(13);
            let length = if random.below(length / 1024) == 0 { length } else { 16 + random.below(100) };
            let topic = format!("a/{}", random.below(topics));
            let message = message(&topic, number, length as usize);
            changes.push(Change::Append(match random.below(2) {
                0 => message,
                _ => known(message, number, 100),
            }));
            (number, written) = (number + 1, written + length);
        }
        changes.push(Change::Expire { now: number });
        store.commit(name("s"), changes).await.unwrap();
        largest = largest.max(size(path));
    }
    largest
}

#[tokio::test]
async fn file_and_log_stay_close_to_what_the_streams_keep() {
    let bound = number_from("WHISPEER_MIB", 16) * MIB;
    for (topics, retention) in [(10, Retention::new()), (2_000, Retention::new().topic_bytes(8_000))] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let store = opened(&path);
        store.open(settings("s", &["**"]).retention(retention.bytes(bound))).await.unwrap();
        let largest = load(&store, &path, topics, 2 * bound).await;
        let state = store.streams().await.unwrap().remove(0);
        println!(
            "{topics} topics: {} messages of {} KiB in {} KiB, {} KiB at the most",
            state.messages,
            state.bytes / 1024,
            size(&path) / 1024,
            largest / 1024
        );
        assert!(state.bytes <= bound);
        assert!(largest < bound + bound / 5, "{topics} topics, {retention:?}: {largest} of {bound}");
        store.close().await.unwrap();
    }
}

/// A bus has a stream of dead letters beside each.
#[tokio::test]
async fn a_bus_keeps_the_disk_to_what_its_streams_are_bounded_to() {
    let bound = number_from("WHISPEER_MIB", 16) * MIB;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = opened(&path);
    let bounded = settings("s", &["**"]).retention(Retention::new().bytes(bound));
    let streams = Streams::open(Arc::new(store.clone()), [bounded]).await.unwrap();
    let largest = load(&store, &path, 10, 2 * bound).await;
    println!("{} KiB at the most for {} KiB", largest / 1024, bound / 1024);
    assert!(largest < bound + bound / 5, "{largest} of {bound}");
    drop(streams);
    store.close().await.unwrap();
}

/// Each of these sizes leaves another part of its pages empty.
#[tokio::test]
async fn messages_of_any_size_take_what_they_count_as() {
    let bound = number_from("WHISPEER_MIB", 16) * MIB;
    for length in [50, 1_400, 2_100, 4_200, 6_300, 33_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let store = opened(&path);
        store.open(settings("s", &["**"]).retention(Retention::new().bytes(bound))).await.unwrap();
        let (mut number, mut largest) = (0, 0);
        while number * length < bound + bound / 8 {
            let changes = (0..(200_000 / length).max(1))
                .map(|index| Change::Append(message("a", number + index, length as usize)));
            number += store.commit(name("s"), changes.collect()).await.unwrap().len() as u64;
            largest = largest.max(size(&path));
        }
        let state = store.streams().await.unwrap().remove(0);
        println!(
            "{length} B: {} messages count {} KiB and have {} KiB, {} KiB at the most",
            state.messages,
            state.bytes / 1024,
            state.messages * length / 1024,
            largest / 1024,
        );
        assert!(state.bytes <= bound && state.bytes > bound - bound / 20);
        assert!(
            (bound - bound / 5..bound + bound / 5).contains(&largest),
            "{length} B: {largest} of {bound}"
        );
        store.close().await.unwrap();
    }
}

/// A stream is published to with quality 2, faster than the ids fit that it is to know.
#[tokio::test]
async fn ids_count_towards_the_bound_and_the_oldest_go_when_they_take_more_than_their_part() {
    let bound = number_from("WHISPEER_MIB", 16) * MIB;
    let most = bound / limits::MESSAGE_IDS_PART / limits::MESSAGE_ID_BYTES;
    for publishers in [1, 3_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let store = opened(&path);
        store.open(settings("s", &["**"]).retention(Retention::new().bytes(bound))).await.unwrap();
        let (count, mut largest) = (bound / 160 / 1_000 * 1_000, 0);
        for first in (0..count).step_by(1_000) {
            let changes = (first..first + 1_000)
                .map(|number| Change::Append(known(message("a", number / 10, 100), number, publishers)));
            store.commit(name("s"), changes.collect()).await.unwrap();
            largest = largest.max(size(&path));
        }
        let state = store.streams().await.unwrap().remove(0);
        println!(
            "{publishers} publishers: {} messages count {} KiB, {} ids, {} KiB on the disk, {} KiB at the most",
            state.messages,
            state.bytes / 1024,
            state.ids,
            size(&path) / 1024,
            largest / 1024,
        );
        assert!((most - 1..=most).contains(&state.ids), "{} of {most}", state.ids);
        assert!(state.bytes + state.ids * limits::MESSAGE_ID_BYTES <= bound && state.bytes > bound / 2);
        assert!(
            (bound - bound / 5..bound + bound / 5).contains(&largest),
            "{publishers} publishers: {largest} of {bound}"
        );
        // Nobody who sends one of these again would be told that it was known; that is not kept from anybody.
        assert_eq!(state.forgotten, state.end - 1 - state.ids);
        let again = |number| vec![Change::Append(known(message("a", number, 100), number, publishers))];
        let latest = state.end - 2;
        let told = store.commit(name("s"), again(latest)).await.unwrap();
        assert_eq!(told, [Outcome::Known { sequence: latest + 1 }]);
        let told = store.commit(name("s"), again(0)).await.unwrap();
        assert_eq!(told, [Outcome::Appended { sequence: latest + 2 }]);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_log_stays_short_while_somebody_always_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = Arc::new(opened(&path));
    store.open(settings("s", &["**"])).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut reading = Reading::from(1, 0);
                while !is_over.load(Ordering::Relaxed) {
                    let page = store.read(name("s"), reading.clone()).await.unwrap();
                    reading.from = if page.has_more() { page.next } else { 1 };
                }
            })
        })
        .collect();
    let mut longest = 0;
    for round in 0..150 {
        let changes = (0..100).map(|number| Change::Append(message("a", round * 100 + number, 10_000)));
        store.commit(name("s"), changes.collect()).await.unwrap();
        let log = std::fs::metadata(folder.path().join("db-wal")).unwrap().len();
        longest = longest.max(log);
    }
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    println!("the log had {} KiB at the most", longest / 1024);
    assert!(longest < 48 * MIB, "{longest}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_large_stream_opens_at_once_and_says_where_readers_begin() {
    let count = number_from("WHISPEER_MESSAGES", 30_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = opened(&path);
    store.open(settings("s", &["**"])).await.unwrap();
    for round in 0..count / 1_000 {
        let message = |number| message("plant/hall/press", round * 1_000 + number, 100);
        let changes = (1..=1_000).map(|number| Change::Append(message(number)));
        store.commit(name("s"), changes.collect()).await.unwrap();
    }
    store.close().await.unwrap();
    let bytes = size(&path) / count;
    let begin = Instant::now();
    let store = opened(&path);
    let state = store.streams().await.unwrap().remove(0);
    let opened = begin.elapsed();
    assert_eq!(state.messages, count);
    println!("{count} messages of 100 B, {bytes} B each in the file, opened in {opened:?}");
    for start in [
        Start::Last(count / 2, None),
        Start::Since(count / 2),
        Start::Last(10, Some(pattern("rare"))),
        Start::Last(10, Some(pattern("plant/**"))),
    ] {
        let begin = Instant::now();
        let found = store.find(name("s"), start.clone()).await.unwrap();
        println!("{start:?} is {found}, in {:?}", begin.elapsed());
    }
    let begin = Instant::now();
    let page = store.read(name("s"), Reading::from(1, 0).of(pattern("rare"))).await.unwrap();
    println!("no message of a rare topic, in {:?}", begin.elapsed());
    assert!(page.messages.is_empty() && !page.has_more());
    assert!(opened < Duration::from_secs(1), "{opened:?}");
    store.close().await.unwrap();
}
