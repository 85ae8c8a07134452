//! Where the streams of a bus are kept.

#[cfg(feature = "sqlite")]
mod file;
#[cfg(not(feature = "sqlite"))]
#[path = "storage/file_absent.rs"]
mod file;
#[cfg(feature = "nats")]
mod jetstream;
#[cfg(not(feature = "nats"))]
#[path = "storage/jetstream_absent.rs"]
mod jetstream;

use std::sync::Arc;
use std::time::Duration;

use whispeer::BusError;
use whispeer::bus::Streams;
use whispeer::store::{MemoryStore, Store, StreamSettings};

use crate::failure::Failure;
use crate::output;
#[cfg(feature = "sqlite")]
use crate::settings::StoreChoice;
use crate::settings::{Configuration, Storage, StreamChoice};

/// How long the start waits for JetStream. That is more than it takes where it is there; where it is not, the bus starts without, and its
/// streams are opened later.
const PATIENCE: Duration = Duration::from_secs(2);

/// The streams of a bus that runs, and the stores that have them.
pub(crate) struct OpenStreams {
    pub(crate) streams: Streams,
    stores: Vec<Arc<dyn Store>>,
    jetstream: Option<jetstream::Connected>,
}

impl OpenStreams {
    /// Opens the stores and streams that a configuration names. Without streams nothing is touched.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub(crate) async fn open(configuration: &Configuration) -> anyhow::Result<Self> {
        let mut all = Self { streams: Streams::default(), stores: Vec::new(), jetstream: None };
        for storage in [Storage::Memory, Storage::Sqlite, Storage::JetStream] {
            let chosen: Vec<_> =
                configuration.streams.iter().filter(|choice| choice.storage == storage).collect();
            if chosen.is_empty() {
                continue;
            }
            let store = match storage {
                Storage::Memory => Arc::new(MemoryStore::new()) as Arc<dyn Store>,
                Storage::Sqlite => file::open(&configuration.store, configuration.bus.byte_budget)?,
                Storage::JetStream => {
                    all.jetstream.insert(jetstream::open(&configuration.nats).await?).store()
                }
            };
            let settings = chosen.iter().map(|choice| choice.settings.clone());
            let opened = match storage {
                Storage::JetStream => Streams::open_within(Arc::clone(&store), settings, PATIENCE).await,
                _ => Streams::open(Arc::clone(&store), settings).await,
            };
            let streams = opened.map_err(|error| not_opened(&error, storage))?;
            if storage != Storage::JetStream {
                // There they may be those of other buses.
                tell_of_others(&*store, &chosen).await?;
            }
            all.streams = all.streams.and(&streams).map_err(|error| refused(&error.to_string()))?;
            all.stores.push(store);
        }
        Ok(all)
    }

    /// Gives a stream other bounds.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn change(&self, settings: StreamSettings) -> anyhow::Result<()> {
        Ok(self.streams.change(settings).await?)
    }

    /// Ends the stores when all that was begun is written.
    pub(crate) async fn close(&self) {
        for store in &self.stores {
            if let Err(error) = store.close().await {
                output::notice(format_args!("error: {error}"));
            }
        }
        if let Some(connected) = &self.jetstream {
            connected.close().await;
        }
    }
}

/// The store that a bus would have, where it is there, for whoever has no bus.
///
/// # Errors
/// What is wrong, and what to do about it.
#[cfg(feature = "sqlite")]
pub(crate) fn existing(store: &StoreChoice) -> anyhow::Result<Arc<dyn Store>> {
    file::open_existing(store)
}

/// A configuration or its folder does not do.
fn refused(what: &str) -> Failure {
    Failure::usage(what)
}

/// A stream cannot be opened. One that has its topics may be in the store alone, as names are checked against one another
/// where they are read.
fn not_opened(error: &BusError, storage: Storage) -> Failure {
    let failure = refused(&error.to_string());
    match error {
        BusError::InvalidSettings(text) if text.contains(" meets ") && storage == Storage::JetStream => failure.help(
            "another bus with the same nats.prefix keeps that one in JetStream: name it in the file as it is there, or take another prefix",
        ),
        BusError::InvalidSettings(text) if text.contains(" meets ") => failure.help(
            "the store has that one from before: name it in the file as it was, or end it by `whispeer streams rm NAME`",
        ),
        _ => failure,
    }
}

/// What a file has beside what the configuration names is kept, and nobody reads it: that may be a slip.
async fn tell_of_others(store: &dyn Store, chosen: &[&StreamChoice]) -> anyhow::Result<()> {
    let states = store.streams().await.map_err(|error| refused(&error.to_string()))?;
    for state in states {
        let name = &state.settings.name;
        // The dead letters of a stream are a stream of their own.
        let own = name.as_str().strip_suffix(".dead").unwrap_or(name.as_str());
        let is_chosen = |choice: &&StreamChoice| {
            let chosen = choice.settings.name.as_str();
            chosen == own || chosen == name.as_str()
        };
        if !chosen.iter().any(is_chosen) {
            output::notice(format_args!(
                "warning: the stream \"{name}\" is kept in the store and not in the configuration, so that nobody can read it; \
                 `whispeer streams rm {name}` removes it"
            ));
        }
    }
    Ok(())
}
