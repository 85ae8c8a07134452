//! Durable topics in JetStream.

mod contract;

use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore};
use whispeer_testkit::nats::NatsServer;

/// The store that this server keeps.
async fn opened(server: &NatsServer) -> JetStreamStore {
    let client = async_nats::connect(server.url()).await.unwrap();
    JetStreamStore::new(client, JetStreamOptions::new("whispeer").unwrap()).unwrap()
}
