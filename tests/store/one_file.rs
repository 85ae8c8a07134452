//! A file has one store, however it is named.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use whispeer::store::{Change, SqliteOptions, SqliteStore, Store, StoreError};

use crate::workload::{message, name, read_all, settings};

fn opened(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, SqliteOptions::new())
}

/// Ways to name a file that is in use, beside its own name: each with what it is.
pub(crate) fn other_names(path: &Path) -> Vec<(&'static str, PathBuf)> {
    let folder = path.parent().unwrap();
    let file = path.file_name().unwrap();
    let aside = folder.join("aside");
    std::fs::create_dir(&aside).unwrap();
    let link = aside.join("link");
    symlink(path, &link).unwrap();
    symlink("link", aside.join("second")).unwrap();
    symlink(folder, aside.join("folder")).unwrap();
    vec![
        ("a symbolic link", link),
        ("a link to a link", aside.join("second")),
        ("a link to its folder", aside.join("folder").join(file)),
        ("dots", aside.join("..").join(file)),
    ]
}

#[tokio::test]
async fn a_file_in_use_is_refused_by_whatever_name_and_keeps_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = opened(&path).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    for (what, other) in other_names(&path) {
        let refused = opened(&other).unwrap_err();
        assert!(matches!(refused, StoreError::InUse { .. }), "{what}: {refused:?}");
    }
    for number in 1..=10 {
        store.commit(name("s"), vec![Change::Append(message("a", number, 8))]).await.unwrap();
    }
    store.close().await.unwrap();
    let again = opened(&path).unwrap();
    assert_eq!(read_all(&again, &name("s"), false).await.len(), 10);
    again.close().await.unwrap();
}

/// SQLite keeps the log beside the name that it was given: by the other one, what is in the log would be missed.
#[tokio::test]
async fn a_file_with_a_second_name_is_refused_by_both_whether_it_is_in_use_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("db"), folder.path().join("other"));
    let store = opened(&path).unwrap();
    std::fs::hard_link(&path, &other).unwrap();
    let is_refused = |path: &Path| {
        let refused = opened(path).unwrap_err();
        assert!(matches!(refused, StoreError::SeveralNames { names: 2, .. }), "{refused:?}");
        assert!(refused.to_string().contains("hard link"), "{refused}");
    };
    is_refused(&other);
    store.open(settings("s", &["**"])).await.unwrap();
    store.close().await.unwrap();
    is_refused(&path);
    is_refused(&other);
    assert!(!folder.path().join("other.lock").exists(), "nothing is left beside it");
    std::fs::remove_file(&other).unwrap();
    let again = opened(&path).unwrap();
    assert_eq!(again.streams().await.unwrap().len(), 1);
    again.close().await.unwrap();
}

#[tokio::test]
async fn a_link_to_what_is_not_there_yet_makes_the_file_where_it_leads() {
    let folder = tempfile::tempdir().unwrap();
    let (data, links) = (folder.path().join("data"), folder.path().join("links"));
    for made in [&data, &links] {
        std::fs::create_dir(made).unwrap();
    }
    symlink("../data/streams.db", links.join("link")).unwrap();
    let store = opened(&links.join("link")).unwrap();
    assert!(data.join("streams.db").exists() && data.join("streams.db.lock").exists());
    assert_eq!(std::fs::read_dir(&links).unwrap().count(), 1, "all of it is with the file");
    let refused = opened(&data.join("streams.db")).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused:?}");
    store.close().await.unwrap();
}

#[test]
fn links_that_lead_nowhere_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink("two", at("one")).unwrap();
    symlink("one", at("two")).unwrap();
    symlink("nowhere/db", at("lost")).unwrap();
    for name in ["one", "lost", "nowhere/db"] {
        let refused = opened(&at(name)).unwrap_err();
        assert!(matches!(refused, StoreError::ReadOnly { .. }), "{name}: {refused:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing was made");
}
