//! What every store promises, by one in JetStream.

use whispeer_testkit::nats;
use whispeer_testkit::store_contract::StoreCase;

use super::opened;

async fn run(case: StoreCase) {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        case(&opened(&server).await).await;
    }
}

whispeer_testkit::for_each_store_case!(run);
