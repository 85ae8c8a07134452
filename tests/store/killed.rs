//! A process is killed while it stores, and what it was told is there.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use whispeer::store::{Change, Outcome, Retention, SqliteOptions, SqliteStore, Store, StoreError};

use crate::workload::{Random, examine, message, name, number_from, read_all, settings};

/// Where the process that is killed finds its file.
const FILE: &str = "WHISPEER_TEST_STORE";

/// Appends that are not answered, at the most.
const IN_FLIGHT: usize = 64;

/// What the process does that is killed: it appends, and says which sequences were acknowledged.
#[tokio::test]
async fn whoever_is_killed() {
    let Some(path) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    let store = SqliteStore::open(&path, SqliteOptions::new()).unwrap();
    let retention = Retention::new().bytes(4 << 20);
    let mut number = store.open(settings("s", &["**"]).retention(retention)).await.unwrap().end;
    let mut output = std::io::stdout();
    let mut waiting = VecDeque::new();
    loop {
        while waiting.len() < IN_FLIGHT {
            let length = if number % 50 == 0 { 40_000 } else { 100 };
            let append = Change::Append(message("a", number, length));
            waiting.push_back(store.commit(name("s"), vec![append]));
            number += 1;
        }
        let Some(next) = waiting.pop_front() else { return };
        let outcomes = next.await.unwrap();
        let [Outcome::Appended { sequence }] = outcomes[..] else { panic!("{outcomes:?}") };
        // Beside what keeps the output of tests back.
        writeln!(output, "acknowledged {sequence}").unwrap();
    }
}

/// Lets it work until so many are acknowledged, and a little longer. Returns the last.
fn killed_after(path: &Path, names: &[PathBuf], count: u64, random: &mut Random) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["killed::whoever_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut last, mut left) = (0, count);
    for line in lines.map_while(Result::ok) {
        let Some(sequence) = line.strip_prefix("acknowledged ") else { continue };
        let Ok(sequence) = sequence.parse::<u64>() else { continue };
        assert!(last == 0 || sequence == last + 1, "{sequence} behind {last}");
        last = sequence;
        if left == count {
            for name in names {
                let refused = SqliteStore::open(name, SqliteOptions::new()).unwrap_err();
                assert!(matches!(refused, StoreError::InUse { .. }), "{name:?}: {refused:?}");
            }
        }
        left = left.saturating_sub(1);
        if left == 0 {
            // Not always right behind an answer.
            std::thread::sleep(std::time::Duration::from_micros(random.below(3_000)));
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    last
}

#[tokio::test]
async fn what_was_acknowledged_outlives_the_process() {
    let (seed, rounds) = (number_from("WHISPEER_SEED", 1), number_from("WHISPEER_CRASHES", 24));
    println!("WHISPEER_SEED={seed} WHISPEER_CRASHES={rounds}");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let mut names = vec![path.clone()];
    #[cfg(unix)]
    names.extend(crate::one_file::other_names(&path).into_iter().map(|(_, name)| name));
    let mut end_before = 1;
    for round in 0..rounds {
        let last = killed_after(&path, &names, 1 + random.below(3_000), &mut random);
        let store = SqliteStore::open(&path, SqliteOptions::new()).unwrap();
        let state = store.streams().await.unwrap().remove(0);
        assert!(state.end > last && last >= end_before, "round {round}: {last} of {state:?}");
        assert!(state.end <= last + 1 + IN_FLIGHT as u64, "round {round}: {last} of {state:?}");
        let messages = read_all(&store, &name("s"), false).await;
        assert_eq!(messages.len() as u64, state.end - state.first, "round {round}");
        for (message, sequence) in messages.iter().zip(state.first..) {
            assert_eq!((message.sequence, message.time), (sequence, sequence), "round {round}");
            assert!(message.payload.chunks(8).all(|part| *part == sequence.to_le_bytes()[..part.len()]));
        }
        end_before = state.end;
        store.close().await.unwrap();
        examine(&path);
    }
}
