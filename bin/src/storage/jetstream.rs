//! Streams that JetStream keeps, at the servers of NATS over which the bus is joined to others.

use std::sync::Arc;

use whispeer::store::Store;
use whispeer_cluster_nats::Connection;
use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore, Replicas};

use super::refused;
use crate::nats;
use crate::settings::NatsChoice;

/// The store, and its connection.
pub(super) struct Connected {
    store: Arc<JetStreamStore>,
    /// Not that of the link: who opens a store reads its journal, and the link's messages are not to wait for that.
    connection: Connection,
}

/// The store that the servers of the configuration keep. It does not wait for them.
///
/// # Errors
/// What is wrong with the settings, and what to do about it.
pub(super) async fn open(chosen: &NatsChoice) -> anyhow::Result<Connected> {
    let Some(settings) = nats::settings(chosen)? else {
        return Err(refused("a stream is kept in JetStream, and no server of NATS is named").into());
    };
    let options = JetStreamOptions::new(settings.subjects().prefix());
    let options = options.map_err(|error| refused(&error.to_string()))?;
    let replicas = match chosen.replicas {
        5 => Replicas::Five,
        3 => Replicas::Three,
        _ => Replicas::One,
    };
    let connection = Connection::open_beside(&settings).await.map_err(|error| nats::explain(&error))?;
    let store = JetStreamStore::new(connection.client(), options.replicas(replicas));
    let store = Arc::new(store.map_err(|error| refused(&error.to_string()))?);
    Ok(Connected { store, connection })
}

impl Connected {
    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    /// Ends the connection of a store that is closed.
    pub(super) async fn close(&self) {
        self.connection.close().await;
    }
}
