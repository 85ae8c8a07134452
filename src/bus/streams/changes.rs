//! What an administrator can do to streams while the bus runs.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::dead_letters::Fate;
use super::{Stream, Streams};
use crate::error::{BusError, BusResult};
use crate::store::{Change, Name, StoreError};
use crate::topic::TopicPattern;

/// Something to be done to a stream, as a request to `$bus/streams/change`. The bus answers a [`StreamChanged`].
///
/// It needs a permission with `administer = true`; on a bus without a policy it is for the bus's own user and process.
/// On the wire it is a MessagePack map with `change`, one of `redrive`, `drop` and `remove-consumer`, and the fields below.
///
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use whispeer::bus::Streams;
/// # use whispeer::prelude::*;
/// # use whispeer::store::{MemoryStore, Name, StreamSettings};
/// use whispeer::bus::StreamChange;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let settings = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
/// # let streams = Streams::open(Arc::new(MemoryStore::new()), [settings]).await?;
/// # let bus = Bus::builder().streams(streams).start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// let change = StreamChange::Redrive { stream: "orders".into(), sequences: None };
/// client.request_bytes("$bus/streams/change", change.to_bytes()).await?;
/// # bus.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StreamChange {
    /// Puts dead letters back at the end of their stream, as they were published: each once, however many ask for it, with all
    /// their headers, and for no longer than they were to be of use. Whoever asks needs the right to publish to all topics of the
    /// stream. Those of no use any more stay, to be read or dropped.
    ///
    /// They reach those who read the stream: consumers, groups that acknowledge, and subscriptions that say where they begin. Subscriptions to
    /// what is published have had them before, and do not get them again.
    Redrive {
        /// The stream.
        stream: String,
        /// Their sequences among the dead letters, at most [`limits::DEAD_LETTERS`](crate::limits::DEAD_LETTERS); all that there are
        /// without them.
        #[serde(default)]
        sequences: Option<Vec<u64>>,
    },
    /// Drops dead letters.
    Drop {
        /// The stream.
        stream: String,
        /// Their sequences among the dead letters, at most [`limits::DEAD_LETTERS`](crate::limits::DEAD_LETTERS); all that there are
        /// without them.
        #[serde(default)]
        sequences: Option<Vec<u64>>,
    },
    /// Forgets the position of a durable consumer that has no subscriptions.
    RemoveConsumer {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
}

impl StreamChange {
    /// The payload of the request.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        // Names and numbers have nothing that cannot be encoded.
        rmp_serde::to_vec_named(self).unwrap_or_default().into()
    }
}

/// What has come of a [`StreamChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamChanged {
    /// How many dead letters were put back or dropped, or consumers removed.
    pub count: u64,
    /// How many dead letters were to be put back and stay: their stream has not their topics any more, or what they were
    /// published to cannot be read, or the time is over for which they were of use.
    #[serde(default)]
    pub left: u64,
}

impl Streams {
    /// Does what an administrator has asked for.
    pub(crate) async fn make(&self, change: StreamChange) -> BusResult<StreamChanged> {
        match change {
            StreamChange::Redrive { stream, sequences } => {
                self.named(&stream)?.settle_dead(sequences, Fate::Redrive).await
            }
            StreamChange::Drop { stream, sequences } => {
                self.named(&stream)?.settle_dead(sequences, Fate::Drop).await
            }
            StreamChange::RemoveConsumer { stream, consumer } => {
                let count = self.named(&stream)?.remove_consumer(&consumer).await?;
                Ok(StreamChanged { count, left: 0 })
            }
        }
    }

    /// The topics to which a change publishes. None of a stream that there is not.
    pub(crate) fn published_by(&self, change: &StreamChange) -> &[TopicPattern] {
        match change {
            StreamChange::Redrive { stream, .. } => self.named(stream).map_or(&[], |stream| &stream.patterns),
            _ => &[],
        }
    }

    fn named(&self, name: &str) -> BusResult<&Arc<Stream>> {
        let found = self.0.iter().find(|stream| !stream.has_dead_letters() && stream.name.as_str() == name);
        found.ok_or_else(|| {
            BusError::InvalidSettings(format!(
                "there is no stream \"{name}\"; `whispeer info` shows those there are"
            ))
        })
    }
}

impl Stream {
    async fn remove_consumer(&self, consumer: &str) -> BusResult<u64> {
        let name = Name::new(consumer).map_err(|error| BusError::InvalidSettings(error.to_string()))?;
        let remove = vec![Change::RemoveConsumer(name.clone())];
        let (removing, owner) =
            self.consumers.remove(&name, || self.store.commit(self.name.clone(), remove))?;
        match removing.await {
            Ok(_) => Ok(1),
            Err(StoreError::NoConsumer { .. }) => Ok(0),
            Err(error) => {
                self.consumers.put_back(name, owner);
                Err(BusError::NotStored { reason: error.to_string() })
            }
        }
    }
}
