//! How long a store is asked again that is busy.
//!
//! A store says that it is busy by [`StoreError::Busy`] or [`StoreError::InUse`]: too much waits for it, or somebody else has
//! its file for a moment. Whoever only reads loses nothing by asking again, so that does not end his subscription. What
//! consumers write is written again as well, and that also where a disk is full ([`StoreError::Full`]): who has made room is to find
//! them at work. What publishers write is not: they are told.
//!
//! A store that several buses have is elsewhere, and may be away for as long as a network or its servers are. Nothing is wrong with it then, so it
//! is waited for until it is back.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Stream;
use crate::limits;
use crate::store::{Operation, StoreError};

/// What is known of a store that has refused to answer: how long it was waited for in all, and when it is to be asked again.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// It is elsewhere, and may be away.
    is_elsewhere: bool,
    waited: Duration,
    delay: Duration,
    next: Option<Instant>,
}

impl Patience {
    /// With the store of this stream.
    pub(super) fn with(stream: &Stream) -> Self {
        Self { is_elsewhere: stream.is_shared(), ..Self::default() }
    }

    /// The store has refused. Returns when to ask again.
    ///
    /// # Errors
    /// What it has said, where that does not pass by itself, or has not while it was waited for [`limits::STORE_PATIENCE`].
    pub(super) fn refused(&mut self, error: StoreError) -> Result<Instant, StoreError> {
        let may_pass = matches!(error, StoreError::Busy { .. } | StoreError::InUse { .. });
        let is_away = self.is_elsewhere && matches!(error, StoreError::Busy { .. });
        if !may_pass || (self.is_spent() && !is_away) {
            return Err(error);
        }
        tracing::debug!(%error, "a store is busy, and is asked again");
        Ok(self.wait())
    }

    /// The store has not taken what was to be written. Returns when to try again.
    ///
    /// # Errors
    /// As [`refused`](Self::refused), but that room on a disk is waited for as long as there is none.
    pub(super) fn not_taken(&mut self, error: StoreError) -> Result<Instant, StoreError> {
        if !matches!(error, StoreError::Full { .. }) {
            return self.refused(error);
        }
        if self.delay.is_zero() {
            tracing::warn!(%error, "what consumers have done cannot be written; it is kept, and tried again");
        }
        Ok(self.wait())
    }

    /// Whether the store was waited for as long as anybody is to wait for an answer of it.
    pub(super) fn is_spent(&self) -> bool {
        self.waited >= limits::STORE_PATIENCE
    }

    fn wait(&mut self) -> Instant {
        self.delay = (self.delay * 2).clamp(limits::STORE_RETRY, limits::STORE_RETRY_MAX);
        self.waited = self.waited.saturating_add(self.delay);
        let next = Instant::now() + self.delay;
        self.next = Some(next);
        next
    }

    /// The store has answered.
    pub(super) fn answered(&mut self) {
        *self = Self { is_elsewhere: self.is_elsewhere, ..Self::default() };
    }

    /// When it is to be asked again, if that is later than now.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.next.filter(|next| *next > now)
    }
}

/// What the store of a stream answers to what it is asked, once it is not busy any more. It may have been asked for the first time before.
///
/// # Errors
/// As [`Patience::refused`].
///
/// # Cancel safety
/// It is not asked again.
pub(super) async fn patiently<T>(
    stream: &Stream,
    begun: Option<Operation<T>>,
    ask: impl Fn() -> Operation<T>,
) -> Result<T, StoreError> {
    let mut patience = Patience::with(stream);
    let mut asked = begun.unwrap_or_else(&ask);
    loop {
        match asked.await {
            Ok(answer) => return Ok(answer),
            Err(error) => sleep_until(patience.refused(error)?).await,
        }
        asked = ask();
    }
}
