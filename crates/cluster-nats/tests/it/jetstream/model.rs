//! JetStream against memory, and buses that keep their streams there against lists: whatever is done to both, both say the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use whispeer::store::Store;
use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore};
use whispeer_testkit::durable_model::{self, RealTime, Storage};
use whispeer_testkit::{nats, store_contract};

use super::opened_with;

/// Cases of the model of durable topics, each some hundred calls of real time, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 12;

#[test]
fn jetstream_says_what_memory_says_also_where_it_was_opened_again_by_an_image() {
    if !nats::available() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for version in nats::versions() {
        let server = runtime.block_on(version.jetstream().start());
        let case = AtomicU32::new(0);
        // It is real time, and each step asks for all that there is.
        proptest!(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }, |(
            steps in store_contract::steps()
        )| {
            let prefix = format!("case{}", case.fetch_add(1, Ordering::Relaxed));
            let options = JetStreamOptions::new(&prefix).unwrap().image_entries(7);
            runtime.block_on(async {
                let open = async || opened_with(&server, options.clone()).await;
                store_contract::says_what_memory_says(steps, open).await;
            });
        });
    }
}

#[test]
fn durable_topics_in_jetstream_do_what_lists_do() {
    if !nats::available() {
        return;
    }
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    for version in nats::versions() {
        let server = version.jetstream().start_blocking();
        let case = AtomicU32::new(0);
        durable_model::run(file!(), cases, async || {
            let prefix = format!("bus{}", case.fetch_add(1, Ordering::Relaxed));
            let options = JetStreamOptions::new(&prefix).unwrap().image_entries(50);
            let url = server.url();
            Storage::opened(move || {
                let (options, url) = (options.clone(), url.clone());
                Box::pin(async move {
                    let open = async move {
                        let client = async_nats::connect(url).await.unwrap();
                        JetStreamStore::new(client, options).unwrap()
                    };
                    Arc::new(RealTime::open(open).await) as Arc<dyn Store>
                })
            })
            .await
        });
    }
}
