//! What the bus knows of its streams without asking their stores, for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Streams;
use crate::store::{Store, StoreMetrics};

/// One stream, and its consumers that have subscriptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamCounts {
    pub(crate) name: String,
    /// Messages that were stored in it, since it was made.
    pub(crate) stored: u64,
    /// Messages that were put among its dead letters, since it was made.
    pub(crate) dead_letters: u64,
    /// Durable consumers and groups with subscriptions.
    pub(crate) consumers: u64,
    /// How far the one that is farthest behind has to go to the end, in sequences.
    pub(crate) behind: u64,
    /// Messages that somebody has and has not acknowledged.
    pub(crate) pending: u64,
    /// Messages that are to be sent again.
    pub(crate) again: u64,
}

impl Streams {
    /// All streams but those of dead letters, which are told of with theirs.
    pub(crate) fn counts(&self) -> Vec<StreamCounts> {
        let streams = self.iter().filter(|stream| !stream.has_dead_letters());
        let counts = streams.map(|stream| {
            let end = stream.live_from();
            let mut counts = StreamCounts {
                name: stream.name.to_string(),
                stored: end.saturating_sub(1),
                dead_letters: stream.dead.as_ref().map_or(0, |dead| dead.live_from().saturating_sub(1)),
                ..StreamCounts::default()
            };
            for consumer in stream.consumers.busy(end).into_values() {
                counts.consumers += 1;
                counts.behind =
                    counts.behind.max(consumer.floor.map_or(0, |floor| end.saturating_sub(floor)));
                counts.pending += consumer.pending;
                counts.again += consumer.again;
            }
            counts
        });
        counts.collect()
    }

    /// What the work of their stores takes, those of one kind together.
    pub(crate) fn store_metrics(&self) -> BTreeMap<&'static str, StoreMetrics> {
        let mut stores: Vec<&Arc<dyn Store>> = Vec::new();
        for stream in self.iter() {
            if !stores.iter().any(|store| Arc::ptr_eq(store, &stream.store)) {
                stores.push(&stream.store);
            }
        }
        let mut by_kind: BTreeMap<_, StoreMetrics> = BTreeMap::new();
        for store in stores {
            if let Some(metrics) = store.metrics() {
                by_kind.entry(store.kind()).or_default().add(&metrics);
            }
        }
        by_kind
    }
}
