//! The disk says that it cannot.

use std::collections::VecDeque;
use std::path::Path;

use whispeer::store::{
    Change, Durability, MemoryStore, Reading, SqliteOptions, SqliteStore, Store, StoreError,
};
use whispeer_frail_disk::{Disk, Fault};

use crate::workload::{
    Call, Random, Workload, all_of, is_a_state_of, message, name, number_from, read_all, settings,
};

fn seed() -> u64 {
    let seed = number_from("WHISPEER_SEED", 1);
    println!("WHISPEER_SEED={seed}");
    seed
}

fn is_full<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Full { .. }))
}

#[tokio::test]
async fn a_full_disk_is_told_at_once_and_the_store_goes_on_when_there_is_room() {
    let seed = seed();
    let disk = Disk::new().unwrap();
    let mut told = 0;
    for round in 0..number_from("WHISPEER_CRASHES", 60) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let options = SqliteOptions::new().file_system(disk.name());
        let store = SqliteStore::open(&path, options.clone()).unwrap();
        let model = MemoryStore::new();
        let mut workload = Workload::new(seed.wrapping_mul(1_000) + round);
        let mut calls: VecDeque<_> = Workload::openings().into();
        calls.extend((0..150).map(|_| workload.call()));
        disk.fail_after(workload.random.below(400), Fault::Full, workload.random.next());
        let (mut waiting, mut refused) = (VecDeque::new(), 0);
        while !calls.is_empty() || !waiting.is_empty() {
            if waiting.len() < 16
                && let Some(call) = calls.pop_front()
            {
                waiting.push_back((call.clone(), call.on(&store)));
                continue;
            }
            let Some((call, answer)) = waiting.pop_front() else { break };
            let answer = answer.await;
            if is_full(&answer) {
                refused += 1;
                assert!(store.metrics().unwrap().failures > 0, "it is counted");
                if refused == 10 {
                    disk.mend();
                }
                continue;
            }
            // A call that was refused for want of room has left nothing, and all others have all of theirs.
            assert_eq!(answer, call.on(&model).await, "round {round}");
        }
        disk.mend();
        told += u64::from(refused > 0);
        assert_eq!(all_of(&store).await, all_of(&model).await, "round {round}");
        store.close().await.unwrap();
        let again = SqliteStore::open(&path, options).unwrap();
        assert_eq!(all_of(&again).await, all_of(&model).await, "round {round}");
        again.close().await.unwrap();
        disk.crash(1);
        disk.power_on().unwrap();
    }
    assert!(told > 0);
}

/// Works until a sync, or a write, has failed. Nothing that is asked from then on is acknowledged, and what was before is
/// there.
async fn nothing_is_acknowledged_after(fault: Fault, durability: Durability, round: u64, seed: u64) {
    let disk = Disk::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let options = SqliteOptions::new().durability(durability).file_system(disk.name());
    let store = SqliteStore::open(&path, options.clone()).unwrap();
    let mut workload = Workload::new(seed.wrapping_mul(1_000) + round);
    disk.fail_after(workload.random.below(1_500), fault, workload.random.next());
    let (mut calls, mut acknowledged): (Vec<Call>, usize) = (Workload::openings(), 0);
    let mut had_failed = 0;
    for index in 0..400 {
        if calls.len() == index {
            calls.push(workload.call());
        }
        let was_to_fail = disk.has_failed();
        match calls[index].clone().on(&store).await {
            Err(StoreError::Failed { .. }) => {
                assert!(disk.has_failed());
                had_failed += 1;
            }
            answer => {
                assert!(!was_to_fail && had_failed == 0, "round {round}: acknowledged {index}: {answer:?}");
                acknowledged = index + 1;
            }
        }
        if had_failed > 5 {
            break;
        }
    }
    let has_failed = disk.has_failed();
    let closed = store.close().await;
    assert!(closed.is_err() || !has_failed, "round {round}");
    disk.crash(workload.random.next());
    disk.power_on().unwrap();
    let again = SqliteStore::open(&path, options).unwrap();
    let least = match durability {
        Durability::SurvivesPowerLoss => acknowledged,
        _ => 0,
    };
    let state = is_a_state_of(&MemoryStore::new(), &again, &calls, least).await;
    assert!(state.is_some(), "round {round}: {acknowledged} of {} were acknowledged", calls.len());
    again.close().await.unwrap();
}

#[tokio::test]
async fn after_a_sync_that_failed_nothing_is_acknowledged_any_more() {
    let seed = seed();
    for round in 0..number_from("WHISPEER_CRASHES", 60) {
        for durability in [Durability::SurvivesPowerLoss, Durability::PowerLossLosesTheLatest] {
            nothing_is_acknowledged_after(Fault::Sync, durability, round, seed).await;
        }
    }
}

#[tokio::test]
async fn after_a_write_that_failed_nothing_is_acknowledged_any_more() {
    let seed = seed();
    for round in 0..number_from("WHISPEER_CRASHES", 20) {
        nothing_is_acknowledged_after(Fault::Write, Durability::SurvivesPowerLoss, round, seed).await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_read_when_it_can() {
    let disk = Disk::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let options = SqliteOptions::new().file_system(disk.name());
    let store = SqliteStore::open(&path, options.clone()).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    for number in 1..=500 {
        store.commit(name("s"), vec![Change::Append(message("a", number, 2_000))]).await.unwrap();
    }
    store.close().await.unwrap();
    for seed in 0..20 {
        let store = SqliteStore::open(&path, options.clone()).unwrap();
        disk.fail_after(Random::new(seed).below(300), Fault::Read, seed);
        let mut reading = Reading::from(1, 0);
        let told = loop {
            match store.read(name("s"), reading.clone()).await {
                Ok(page) if page.has_more() => reading.from = page.next,
                Ok(_) => break None,
                Err(error) => break Some(error),
            }
        };
        assert_eq!(told.is_some(), disk.has_failed());
        assert!(matches!(told, None | Some(StoreError::Failed { .. })), "{told:?}");
        disk.mend();
        assert_eq!(read_all(&store, &name("s"), false).await.len(), 500);
        store.close().await.unwrap();
    }
}

#[cfg(unix)]
fn forbid(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_may_not_be_written_to_is_told_when_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = SqliteStore::open(&path, SqliteOptions::new()).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    store.close().await.unwrap();
    let may_not = |what: &str| {
        let refused = SqliteStore::open(&path, SqliteOptions::new()).unwrap_err();
        assert!(matches!(refused, StoreError::ReadOnly { .. }), "{what}: {refused:?}");
    };
    forbid(&path, 0o400);
    if std::fs::OpenOptions::new().write(true).open(&path).is_ok() {
        println!("SKIPPED: root may write to files that are read-only");
        return;
    }
    may_not("a file");
    forbid(&path, 0o600);
    std::fs::remove_file(folder.path().join("db.lock")).unwrap();
    forbid(folder.path(), 0o500);
    may_not("a folder");
    forbid(folder.path(), 0o700);
    assert!(SqliteStore::open(&path, SqliteOptions::new()).is_ok());
}
