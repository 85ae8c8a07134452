//! Durable topics in JetStream.

mod behind;
mod buses;
mod conformance;
mod consumers;
mod contract;
mod delayed;
mod groups;
mod killed;
mod large;
mod model;
mod several;

use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore};
use whispeer_testkit::nats::NatsServer;

/// The store that this server keeps.
pub(crate) async fn opened(server: &NatsServer) -> JetStreamStore {
    opened_with(server, JetStreamOptions::new("whispeer").unwrap()).await
}

async fn opened_with(server: &NatsServer, options: JetStreamOptions) -> JetStreamStore {
    let client = async_nats::connect(server.url()).await.unwrap();
    JetStreamStore::new(client, options).unwrap()
}
