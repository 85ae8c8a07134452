//! Durable topics as their users see them, against a plain model of them: with a stream in memory, and in a file.

use whispeer_testkit::durable_model::{self, Storage};

/// Cases of the model, unless `PROPTEST_CASES` says otherwise, and how many times as many as of those with a file.
const CASES: u32 = 96;
#[cfg(feature = "sqlite")]
const FEWER: u32 = 12;

/// How many cases there are to be.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

#[test]
fn durable_topics_do_what_lists_do() {
    durable_model::run(file!(), cases(), async || Storage::memory());
}

#[cfg(feature = "sqlite")]
#[test]
fn durable_topics_in_a_file_do_what_lists_do() {
    use std::sync::Arc;

    use whispeer::store::{SqliteOptions, SqliteStore, Store};
    use whispeer_testkit::durable_model::RealTime;

    durable_model::run(file!(), cases().div_ceil(FEWER), async || {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Storage::opened(move || {
            let folder = Arc::clone(&folder);
            Box::pin(async move {
                let open = async move {
                    SqliteStore::open(&folder.path().join("store"), SqliteOptions::new()).unwrap()
                };
                Arc::new(RealTime::open(open).await) as Arc<dyn Store>
            })
        })
        .await
    });
}
