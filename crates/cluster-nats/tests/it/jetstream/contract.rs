//! What every store promises, by one in JetStream.

use std::time::Duration;

use whispeer_cluster_nats::jetstream::JetStreamOptions;
use whispeer_testkit::nats;
use whispeer_testkit::store_contract::StoreCase;

use super::opened_with;

async fn run(case: StoreCase) {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        // Some cases make calls of thousands of parts, which take long where there is little of the processor.
        let options = JetStreamOptions::new("whispeer").unwrap().answer(Duration::from_secs(60));
        case(&opened_with(&server, options).await).await;
    }
}

whispeer_testkit::for_each_store_case!(run);
