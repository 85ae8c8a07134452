//! Searches for the last messages of a large stream.

use super::*;

const MESSAGES: u64 = 3 * crate::limits::STORE_LOOKS as u64;

/// A store with many messages of many topics, one of a hundred of each.
async fn filled(folder: &tempfile::TempDir) -> SqliteStore {
    let options = SqliteOptions::new().durability(Durability::PowerLossLosesTheLatest);
    let store = SqliteStore::open(&folder.path().join("db"), options).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    let mut numbers = 0..MESSAGES;
    while !numbers.is_empty() {
        let some = numbers.by_ref().take(1_024);
        let changes = some.map(|number| Change::Append(message(&format!("a/{}", number % 100), "x", number)));
        store.commit(name("s"), changes.collect()).await.unwrap();
    }
    store
}

#[tokio::test]
async fn a_search_of_several_steps_finds_what_one_step_would() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder).await;
    let last = |count, text| store.find(name("s"), Start::Last(count, Some(pattern(text))));
    assert_eq!(last(MESSAGES - 1, "a/*").await.unwrap(), 2);
    assert_eq!(last(MESSAGES / 2, "a/*").await.unwrap(), MESSAGES / 2 + 1);
    assert_eq!(last(MESSAGES - 1, "none").await.unwrap(), MESSAGES + 1);
    assert_eq!(last(MESSAGES - 1, "a/7").await.unwrap(), 8, "the index has all of a rare topic");
    assert_eq!(last(MESSAGES, "none").await.unwrap(), 1, "whoever wants all begins at the first");
}

#[tokio::test]
async fn searches_leave_others_who_read_their_turns() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder).await;
    let mut searches: Vec<_> = (0..16)
        .map(|_| {
            let all_but_one = Start::Last(MESSAGES - 1, Some(pattern("a/*")));
            tokio::spawn(store.find(name("s"), all_but_one))
        })
        .collect();
    let page = store.read(name("s"), Reading::from(1, 0).at_most(1)).await.unwrap();
    assert_eq!(page.messages[0].sequence, 1);
    assert!(searches.iter().any(|search| !search.is_finished()), "they are not waited for");
    for search in &mut searches {
        assert_eq!(search.await.unwrap().unwrap(), 2);
    }
}
