//! JetStream against memory: whatever is done to both, both say the same.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use whispeer_cluster_nats::jetstream::JetStreamOptions;
use whispeer_testkit::{nats, store_contract};

use super::opened_with;

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
