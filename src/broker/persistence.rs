//! A broker that keeps what is published.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::builder::BrokerBuilder;
use super::keyring;
use super::parts::sealed;
use crate::bus::Streams;
use crate::engine::encryption::Keyring;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Field, FieldsBuilder, Quality, iterate};
#[cfg(feature = "sqlite")]
use crate::store::Durability;
use crate::store::{MemoryStore, Name, Retention, Store, StreamSettings};
use crate::topic::TopicPattern;

/// What the stream of a broker is called.
const STREAM: &str = "broker";

/// Where a broker keeps what is published; see [`Broker::build_default_with_persistence`](super::Broker).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PersistenceType<'a> {
    /// In this file, by SQLite. It needs the feature `sqlite`.
    Sqlite(&'a Path),
    /// In the process, with which it ends.
    Memory,
}

/// Keeps what is published, before it goes live, in a stream of the broker's bus.
///
/// A publish is done when its message is stored: [`Publishing`](super::Publishing) tells. What is kept is read by subscriptions
/// that say where they begin ([`Broker::subscribe_with`](super::Broker::subscribe_with) with
/// [`SubscribeOptions::start`](crate::client::SubscribeOptions::start)), also such that the bus keeps the position of
/// ([`SubscribeOptions::durable`](crate::client::SubscribeOptions::durable)), and by every client of the bus
/// ([`Client::history`](crate::Client::history)). By default that is all that is published, for ever.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::broker::{Broker, BrokerOptions, Persistence};
/// use whispeer::client::HistoryOptions;
/// use whispeer::store::Retention;
///
/// # fn main() -> whispeer::BusResult<()> {
/// let kept = Persistence::memory()
///     .patterns(["orders/**"])
///     .retention(Retention::new().age(Duration::from_secs(30 * 86_400)));
/// let broker = Broker::builder(BrokerOptions::default()).with(kept).build()?;
/// broker.publish("orders/7", "two pears").wait()?;
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(async {
/// let client = whispeer::Client::new_memory(&broker.connector().expect("it has a bus"))?;
/// assert_eq!(client.history_bytes("orders/*", HistoryOptions::default()).await?.messages.len(), 1);
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Persistence {
    file: Option<PathBuf>,
    patterns: Vec<String>,
    retention: Retention,
    #[cfg(feature = "sqlite")]
    durability: Durability,
}

impl Persistence {
    /// In that place.
    #[must_use]
    pub fn new(place: PersistenceType<'_>) -> Self {
        let file = match place {
            PersistenceType::Sqlite(path) => Some(path.to_owned()),
            PersistenceType::Memory => None,
        };
        Self {
            file,
            patterns: vec!["**".to_owned()],
            retention: Retention::new(),
            #[cfg(feature = "sqlite")]
            durability: Durability::default(),
        }
    }

    /// In this file, which is made if it is not there, readable by its owner alone. Others lie beside it whose names begin
    /// likewise, among them the keyring of a broker that encrypts ([`Encryption::new`](super::Encryption::new)); where the path is a
    /// link, beside what it leads to. One broker at a time has it. It needs the feature `sqlite`.
    ///
    /// # Examples
    /// ```
    /// use std::path::Path;
    /// use whispeer::broker::{Broker, BrokerOptions, Compression, Encryption, Persistence};
    /// # #[cfg(feature = "websocket")]
    /// use whispeer::broker::WebSocket;
    ///
    /// # #[cfg(all(feature = "sqlite", feature = "websocket"))]
    /// # fn main() -> whispeer::BusResult<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # std::env::set_current_dir(folder.path()).unwrap();
    /// let broker = Broker::builder(BrokerOptions::default())
    ///     .with(Encryption::new()).with(Compression::new())
    ///     .with(WebSocket::new("http://localhost:0"))
    ///     .with(Persistence::sqlite(Path::new("./db"))).build()?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(all(feature = "sqlite", feature = "websocket")))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn sqlite(path: impl AsRef<Path>) -> Self {
        Self::new(PersistenceType::Sqlite(path.as_ref()))
    }

    /// In the process, with which it ends.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(PersistenceType::Memory)
    }

    /// Keeps what is published to these topics only. All else is published as ever.
    #[must_use]
    pub fn patterns<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        self.patterns = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// Keeps no more than this.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// What becomes of messages that are stored if the machine fails.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Opens the store and its stream.
    pub(super) async fn open(self) -> BusResult<Kept> {
        let patterns: Vec<_> =
            self.patterns.iter().map(TopicPattern::new).collect::<Result<_, _>>().map_err(BusError::from)?;
        if patterns.is_empty() {
            let what = "a broker that keeps nothing needs no persistence; give it patterns".to_owned();
            return Err(BusError::InvalidSettings(what));
        }
        let refused = |error: crate::store::StoreError| BusError::InvalidSettings(error.to_string());
        let name = Name::new(STREAM).map_err(refused)?;
        let settings = StreamSettings::new(name, patterns.clone()).retention(self.retention);
        let (store, file) = self.store()?;
        let streams = match Streams::open(Arc::clone(&store), [settings]).await {
            Ok(streams) => streams,
            Err(error) => {
                close_within(&*store, limits::BROKER_HALT).await;
                return Err(error);
            }
        };
        let mut fields = FieldsBuilder::new();
        fields.quality(Quality::AtLeastOnce)?;
        Ok(Kept { streams, store, patterns, file, fields: fields.finish() })
    }

    /// The store, and the path that its file has behind all links.
    #[cfg(feature = "sqlite")]
    fn store(&self) -> BusResult<(Arc<dyn Store>, Option<PathBuf>)> {
        use crate::store::{SqliteOptions, SqliteStore};

        let Some(file) = &self.file else { return Ok((Arc::new(MemoryStore::new()), None)) };
        let options = SqliteOptions::new().durability(self.durability);
        let opened = SqliteStore::open(file, options);
        let store = opened.map_err(|error| BusError::InvalidSettings(error.to_string()))?;
        let file = store.resolved_path().to_owned();
        Ok((Arc::new(store), Some(file)))
    }

    #[cfg(not(feature = "sqlite"))]
    fn store(&self) -> BusResult<(Arc<dyn Store>, Option<PathBuf>)> {
        match &self.file {
            None => Ok((Arc::new(MemoryStore::new()), None)),
            Some(_) => Err(BusError::InvalidSettings(
                "feature not enabled: a broker keeps messages in a file with the feature `sqlite`".into(),
            )),
        }
    }
}

impl sealed::Add for Persistence {
    fn add(self, builder: &mut BrokerBuilder) {
        builder.persistence = Some(self);
    }
}

/// What a broker keeps, and where.
pub(super) struct Kept {
    pub(super) streams: Streams,
    store: Arc<dyn Store>,
    patterns: Vec<TopicPattern>,
    /// By the one path that it has behind all links.
    file: Option<PathBuf>,
    /// Those by which a publish is done when it is stored.
    fields: Vec<u8>,
}

impl Kept {
    /// The fields of a publish to this topic: those that were given, by which it is done when it is stored, if it is to be.
    pub(super) fn fields<'a>(&'a self, topic: &str, given: &'a [u8]) -> BusResult<Cow<'a, [u8]>> {
        let is_kept = |topic: &TopicPattern| self.patterns.iter().any(|pattern| pattern.contains(topic));
        // Options name no quality but one by which it is stored. What is no topic is refused where it is sent.
        if iterate(given).any(|field| matches!(field, Field::Quality(_)))
            || !TopicPattern::new(topic).is_ok_and(|topic| is_kept(&topic))
        {
            return Ok(given.into());
        }
        if given.is_empty() {
            return Ok(self.fields.as_slice().into());
        }
        let mut fields = FieldsBuilder::new();
        fields.append(&self.fields)?;
        fields.append(given)?;
        Ok(fields.finish().into())
    }

    /// The keyring beside the file, which is made if it is not there; `None` without a file.
    pub(super) async fn keyring(&self) -> BusResult<Option<Keyring>> {
        match &self.file {
            Some(file) => keyring::beside(file, &*self.store).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether what is kept is there when the broker is not any more.
    pub(super) fn outlives_broker(&self) -> bool {
        self.file.is_some()
    }

    /// Ends the store when all that was begun is stored, or this time is over.
    pub(super) async fn close_within(&self, limit: Duration) {
        close_within(&*self.store, limit).await;
    }
}

async fn close_within(store: &dyn Store, limit: Duration) {
    match timeout(limit, store.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the store of a broker did not end well"),
        Err(_) => {
            tracing::error!(?limit, "the store of a broker did not end in time; its disk does not answer")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::PublishOptions;

    #[tokio::test]
    async fn what_is_kept_is_published_with_a_quality_whatever_its_options_say() {
        let kept = Persistence::memory().patterns(["kept/*"]).open().await.unwrap();
        let read = |topic: &str, options: PublishOptions| {
            let given = options.fields(&[]).unwrap();
            let fields = kept.fields(topic, &given).unwrap().into_owned();
            let qualities: Vec<_> = iterate(&fields)
                .filter_map(|field| match field {
                    Field::Quality(quality) => Some(quality),
                    _ => None,
                })
                .collect();
            let headers = iterate(&fields).filter(|field| matches!(field, Field::Header { .. })).count();
            (qualities, headers)
        };
        let options = || PublishOptions::default().header("shop", "7");
        assert_eq!(read("kept/a", PublishOptions::default()), (vec![Quality::AtLeastOnce], 0));
        assert_eq!(read("kept/a", options()), (vec![Quality::AtLeastOnce], 1));
        let never = options().quality(Quality::AtMostOnce);
        assert_eq!(read("kept/a", never), (vec![Quality::AtLeastOnce], 1));
        let once = options().quality(Quality::ExactlyOnce);
        assert_eq!(read("kept/a", once.clone()), (vec![Quality::ExactlyOnce], 1));
        assert_eq!(read("elsewhere", options()), (vec![], 1));
        assert_eq!(read("elsewhere", once), (vec![Quality::ExactlyOnce], 1));
        assert_eq!(read("no topic", PublishOptions::default()), (vec![], 0));
    }
}
