//! Streams are opened when their store is there, which may be later than the bus is.
//!
//! A store that is elsewhere, as one in JetStream, may be away when a bus starts. The bus serves all else meanwhile: what is
//! published to the topics of a stream that is not open is refused, and so is whoever wants to read it, with what the store says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Stream, Streams};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::Epoch;
use crate::store::{Store, StoreError, StreamSettings, StreamState};

/// What a stream is opened with, and how far that is.
#[derive(Debug)]
pub(super) struct Opening {
    settings: StreamSettings,
    is_open: watch::Sender<bool>,
    /// Why it is not open yet.
    problem: Mutex<String>,
}

impl Opening {
    pub(super) fn new(settings: StreamSettings) -> Self {
        let problem = Mutex::new("its store has not answered yet".to_owned());
        Self { settings, is_open: watch::Sender::new(false), problem }
    }
}

impl Streams {
    /// As [`open`](Self::open), for a store that may be away. Where it says that it is busy, or nothing for so long, the streams are opened
    /// while the bus runs, as soon as it is there. Until then publishes to their topics are refused, and so are subscriptions that read them:
    /// [`BusError::NotStored`] with what the store says. All else of the bus works. That is logged once, and once when they are open.
    ///
    /// # Errors
    /// As [`open`](Self::open), for what does not pass by itself and was found out within that time. What is found out later is logged, and
    /// the streams stay as they are, to be tried again.
    ///
    /// # Cancel safety
    /// Streams may have been made in the store.
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use whispeer::bus::Streams;
    /// use whispeer::prelude::*;
    /// use whispeer::store::{MemoryStore, Name, StreamSettings};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // A store in JetStream may be away, one in memory never is.
    /// let store = Arc::new(MemoryStore::new());
    /// let orders = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
    /// let streams = Streams::open_within(store, [orders], Duration::from_secs(2)).await?;
    /// let bus = Bus::builder().streams(streams).start()?;
    /// # bus.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open_within(
        store: Arc<dyn Store>,
        settings: impl IntoIterator<Item = StreamSettings>,
        patience: Duration,
    ) -> BusResult<Self> {
        let streams = Self::of_store(&store, settings.into_iter().collect())?;
        let error = match timeout(patience, streams.open_all()).await {
            Ok(Ok(())) => return Ok(streams),
            Ok(Err(error)) if may_pass(&error) => error.to_string(),
            Ok(Err(error)) => return Err(BusError::InvalidSettings(error.to_string())),
            Err(_) => format!("the store has not answered in {patience:?}"),
        };
        tracing::warn!(
            ?streams,
            error,
            "streams are not open, as their store is away: the bus refuses what is published to them until it is there"
        );
        Ok(streams)
    }

    /// Begins to open what is not open yet, in these tasks, one for each stream.
    pub(crate) fn begin_opening(&self, tasks: &mut JoinSet<()>) {
        for stream in self.iter().filter(|stream| !stream.has_dead_letters()) {
            if stream.check_open().is_err() {
                tasks.spawn(Arc::clone(stream).open_when_there());
            }
        }
    }
}

impl Stream {
    /// Opens it, and its dead letters.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let state = self.open_in_store().await?;
        if let Some(dead) = &self.dead {
            let state = dead.open_in_store().await?;
            dead.take_open(&state);
        }
        self.take_open(&state);
        Ok(())
    }

    async fn open_in_store(&self) -> Result<StreamState, StoreError> {
        let state = self.store.open(self.opening.settings.clone()).await?;
        let consumers = self.store.consumers(self.name.clone()).await?;
        self.consumers.know(consumers.into_iter().map(|position| (position.name, position.owner)));
        Ok(state)
    }

    /// It is open, as its store says that it is like this.
    fn take_open(&self, state: &StreamState) {
        self.grow(state.end.saturating_sub(1));
        if state.delayed > 0 {
            // The store is asked for when.
            self.note_due(0);
            self.look_again();
        }
        // Only now, as nobody asks for the rest before.
        let _ = self.epoch.set(state.epoch);
        self.opening.is_open.send_replace(true);
    }

    async fn open_when_there(self: Arc<Self>) {
        let (mut delay, mut told) = (limits::STORE_RETRY, String::new());
        while let Err(error) = self.open().await {
            let text = error.to_string();
            if !may_pass(&error) && text != told {
                tracing::error!(stream = %self.name, error = text, "a stream cannot be opened, and is tried again");
                told.clone_from(&text);
            }
            for stream in [Some(&*self), self.dead.as_deref()].into_iter().flatten() {
                *stream.opening.problem.lock().unwrap_or_else(PoisonError::into_inner) = text.clone();
            }
            sleep(delay).await;
            delay = (delay * 2).min(limits::STORE_RETRY_MAX);
        }
        tracing::info!(stream = %self.name, "a stream is open, as its store is there");
    }

    /// Waits until it is open.
    pub(super) async fn opened(&self) {
        let mut is_open = self.opening.is_open.subscribe();
        // The sender is the stream's own.
        let _ = is_open.wait_for(|is_open| *is_open).await;
    }

    /// Whether it is open.
    ///
    /// # Errors
    /// [`BusError::NotStored`] with what its store says.
    pub(crate) fn check_open(&self) -> BusResult<()> {
        self.epoch().map(drop)
    }

    /// Which of all that had its name it is.
    ///
    /// # Errors
    /// As [`check_open`](Self::check_open).
    pub(crate) fn epoch(&self) -> BusResult<Epoch> {
        self.epoch.get().copied().ok_or_else(|| {
            let problem = self.problem();
            BusError::NotStored { reason: format!("the stream \"{}\" is not open yet: {problem}", self.name) }
        })
    }

    /// Why it is not open, where it is not.
    pub(super) fn problem(&self) -> String {
        self.opening.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn may_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Busy { .. })
}
