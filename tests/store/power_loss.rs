//! The power goes, and what was acknowledged is there.

use std::collections::VecDeque;
use std::path::Path;

use whispeer::store::{Durability, MemoryStore, SqliteOptions, SqliteStore, Store, StoreError};
use whispeer_frail_disk::Disk;

use crate::workload::{Call, Workload, examine, is_a_state_of, number_from};

/// Crashes in one file, one after the other.
const CRASHES_OF_A_FILE: u64 = 12;

/// Calls, and what has come of those that were answered.
struct Session {
    calls: Vec<Call>,
    /// All of these were acknowledged.
    acknowledged: usize,
}

/// Whether the store has done with a call what it was to do with it, be that a refusal.
fn is_acknowledged<T>(answer: &Result<T, StoreError>) -> bool {
    match answer {
        Ok(_) | Err(StoreError::NoStream { .. } | StoreError::NoConsumer { .. }) => true,
        Err(StoreError::Failed { .. } | StoreError::Full { .. } | StoreError::Closed) => false,
        // Where SQLite cannot open its log.
        Err(StoreError::ReadOnly { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

/// Works with the file until the power goes, or for a while.
async fn work(disk: &Disk, path: &Path, options: SqliteOptions, workload: &mut Workload) -> Session {
    let mut session = Session { calls: Vec::new(), acknowledged: 0 };
    let store = match SqliteStore::open(path, options) {
        Ok(store) => store,
        Err(_) if disk.is_off() => return session,
        Err(error) => panic!("{error}"),
    };
    let (count, in_flight) = (1 + workload.random.below(150), 1 + workload.random.below(40));
    let mut waiting = VecDeque::new();
    let mut is_over = false;
    let mut openings: VecDeque<_> = Workload::openings().into();
    let mut left = count;
    while left > 0 || !waiting.is_empty() {
        if left > 0 && (waiting.len() as u64) < in_flight {
            let call = openings.pop_front().unwrap_or_else(|| workload.call());
            waiting.push_back(call.clone().on(&store));
            session.calls.push(call);
            left -= 1;
            continue;
        }
        let Some(next) = waiting.pop_front() else { break };
        let answer = next.await;
        match is_acknowledged(&answer) {
            true => {
                assert!(!is_over, "nothing is acknowledged behind what was not: {answer:?}");
                session.acknowledged += 1;
            }
            false => (is_over, left) = (true, 0),
        }
    }
    if workload.random.below(3) > 0 {
        disk.crash(workload.random.next());
    }
    let _ = store.close().await;
    session
}

async fn crashes(durability: Durability, count: u64, seed: u64) {
    println!("WHISPEER_SEED={seed} WHISPEER_CRASHES={count}");
    let disk = Disk::new().unwrap();
    let options = SqliteOptions::new().durability(durability).file_system(disk.name());
    let (mut events, mut kept, mut lost) = (2_000, 0, 0);
    for file in 0..count.div_ceil(CRASHES_OF_A_FILE) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let model = MemoryStore::new();
        let mut workload = Workload::new(seed.wrapping_add(file));
        for crash in 0..CRASHES_OF_A_FILE {
            let place = format!("seed {seed}, file {file}, crash {crash}");
            // Now and then while it is opened.
            let most = if workload.random.below(5) == 0 { 40 } else { events };
            disk.crash_after(workload.random.below(most), workload.random.next());
            let before = disk.events();
            let session = work(&disk, &path, options.clone(), &mut workload).await;
            events = (events * 7 + (disk.events() - before).max(100) * 2) / 8;
            disk.crash(workload.random.next());
            disk.power_on().unwrap();

            let store = SqliteStore::open(&path, options.clone()).expect(&place);
            let least = match durability {
                Durability::SurvivesPowerLoss => session.acknowledged,
                _ => 0,
            };
            let state = is_a_state_of(&model, &store, &session.calls, least).await;
            let Some(state) = state else {
                panic!(
                    "{place}: of {} calls {} were acknowledged, and the file is at none from {least} on",
                    session.calls.len(),
                    session.acknowledged
                )
            };
            (kept, lost) = (kept + state, lost + session.calls.len() - state);
            store.close().await.unwrap();
            // What it has moved is on the disk, so that this changes nothing.
            disk.crash(workload.random.next());
            disk.power_on().unwrap();
            examine(&path);
        }
    }
    println!("{kept} calls were kept, {lost} lost that nobody had been told of");
}

#[tokio::test]
async fn what_was_acknowledged_outlives_any_loss_of_power() {
    let count = number_from("WHISPEER_CRASHES", 240);
    crashes(Durability::SurvivesPowerLoss, count, number_from("WHISPEER_SEED", 1)).await;
}

#[tokio::test]
async fn where_the_latest_may_be_lost_it_is_the_latest_and_nothing_else() {
    let count = number_from("WHISPEER_CRASHES", 120);
    crashes(Durability::PowerLossLosesTheLatest, count, number_from("WHISPEER_SEED", 1)).await;
}
