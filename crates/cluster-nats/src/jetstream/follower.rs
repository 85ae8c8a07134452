//! Reads the journal, from the last image on, and goes on with what comes.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use whispeer::store::StoreError;

use super::journal::{Extent, Journal};
use super::record::{self, Action, Image, Part};
use super::replica::Replica;
use super::shared::{Phase, Shared};
use crate::limits;

/// How soon it is tried again where NATS does not answer; it doubles each time, up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Why reading has ended.
enum Stop {
    /// It is to be gone on with.
    Interrupted,
    /// Entries are missing, so that there has to be a newer image.
    Behind,
    /// What pushes the journal is behind, and is to be another.
    Slow,
    /// Servers tell less than was read. Where they go on so, this is lost.
    Doubtful(StoreError),
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Goes on until the store cannot.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut known: Option<Extent> = None;
    let mut retry = RETRY;
    // Since when what servers tell is doubted, where nothing was read since; and what was read by the last look.
    let (mut doubted, mut before) = (None, 0);
    // How long an entry that is stored may take to come.
    let mut patience = limits::JETSTREAM_SILENCE;
    loop {
        let Err(mut stop) = follow(&shared, &mut known, patience).await;
        if matches!(stop, Stop::Behind) {
            stop = load(&shared, true).await.err().unwrap_or(Stop::Interrupted);
        }
        let applied = shared.lock().replica.applied;
        if std::mem::replace(&mut before, applied) != applied {
            (retry, doubted, patience) = (RETRY, None, limits::JETSTREAM_SILENCE);
        }
        let error = match stop {
            Stop::Interrupted | Stop::Behind => {
                (retry, doubted) = (RETRY, None);
                continue;
            }
            Stop::Slow => {
                tracing::debug!(applied, ?patience, "what pushes the journal in JetStream is behind");
                patience = (patience * 2).min(limits::JETSTREAM_PATIENCE);
                continue;
            }
            Stop::Doubtful(error) => {
                if doubted.get_or_insert_with(Instant::now).elapsed() >= shared.journal.doubt() {
                    return shared.fail(&error);
                }
                error
            }
            Stop::Failed(error) if may_pass(&error) => {
                // Nobody has said so meanwhile.
                doubted = None;
                error
            }
            Stop::Failed(error) => return shared.fail(&error),
        };
        tracing::debug!(%error, "the journal in JetStream cannot be read, and is tried again");
        sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// What NATS answers, if it does soon.
async fn soon<T>(
    journal: &Journal,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answered = timeout(limits::JETSTREAM_ASK, asked).await;
    answered.unwrap_or_else(|_| Err(journal.away(format!("not within {:?}", limits::JETSTREAM_ASK))))
}

fn may_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Busy { .. })
}

/// Reads on until there is a reason to stop.
async fn follow(
    shared: &Arc<Shared>,
    known: &mut Option<Extent>,
    patience: Duration,
) -> Result<Infallible, Stop> {
    let journal = &shared.journal;
    let gone = |reason: &str| StoreError::Failed {
        place: format!("the stream {} of JetStream", journal.addresses.journal()),
        reason: reason.to_owned(),
    };
    let extent = match known {
        None => {
            let extent = soon(journal, journal.open()).await?;
            load(shared, false).await?;
            *known = Some(extent);
            extent
        }
        Some(before) => {
            let extent = soon(journal, journal.extent()).await?;
            let extent = extent.ok_or_else(|| Stop::Doubtful(gone("it was taken out")))?;
            if before.made != extent.made {
                return Err(gone("it was taken out and made anew, with all that was in it lost").into());
            }
            extent
        }
    };
    let applied = {
        let mut state = shared.lock();
        // What was told to be stored and is not is sent again.
        state.told = state.told.min(extent.last);
        state.replica.applied
    };
    if extent.last < applied {
        return Err(Stop::Doubtful(gone("it ends before what was read of it")));
    }
    // The last one that was read comes once more, so that it is seen that it is the same.
    let mut entries = soon(journal, journal.follow(applied.max(1))).await?;
    let is_ready = |shared: &Shared| {
        if shared.lock().replica.applied >= extent.last {
            shared.phase.send_if_modified(|phase| {
                let begins = *phase == Phase::Starting;
                if begins {
                    *phase = Phase::Ready;
                }
                begins
            });
            shared.work.notify_one();
        }
    };
    is_ready(shared);
    let mut ticks = interval(limits::JETSTREAM_RESEND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The last entry that is known of, when that was asked for, and when a new one has come.
    let (mut last, mut asked, mut heard) = (extent.last, Instant::now(), Instant::now());
    // An entry that is stored and has not come, and since when that is known.
    let mut missing: Option<(u64, Instant)> = None;
    loop {
        let entry = tokio::select! {
            entry = entries.next() => entry?,
            () = shared.follow.notified() => return Err(Stop::Interrupted),
            _ = ticks.tick() => {
                if asked.max(heard).elapsed() >= limits::JETSTREAM_LOOK {
                    asked = Instant::now();
                    // Where the leader is gone, the one that pushes need not be.
                    if let Ok(Some(extent)) = soon(journal, journal.extent()).await {
                        last = extent.last;
                    }
                }
                let (applied, told) = shared.lock().read_and_told();
                missing = missing.filter(|(entry, _)| applied < *entry);
                if missing.is_none() && applied < told.max(last) {
                    missing = Some((told.max(last), Instant::now()));
                }
                let waited = missing.map_or(Duration::ZERO, |(_, since)| since.max(heard).elapsed());
                if waited >= patience {
                    return Err(Stop::Slow);
                }
                continue;
            }
        };
        match take(shared, &entry)? {
            Taken::New => heard = Instant::now(),
            Taken::Before => {}
            Taken::Missing => return Err(Stop::Behind),
            Taken::Other => {
                let error = gone("other entries have taken the place of some that were read");
                return Err(Stop::Doubtful(error));
            }
        }
        if *shared.phase.borrow() == Phase::Starting {
            is_ready(shared);
        }
    }
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It was read.
    New,
    /// It was read before.
    Before,
    /// Those before it are missing.
    Missing,
    /// It is not the one that was read before.
    Other,
}

/// Reads an entry.
fn take(shared: &Shared, entry: &Message) -> Result<Taken, StoreError> {
    let info = entry.info().map_err(|error| shared.journal.away(error))?;
    let (at, nanoseconds) = (info.stream_sequence, info.published.unix_timestamp_nanos());
    let stored = u64::try_from(nanoseconds / 1_000_000).unwrap_or_default();
    let none = async_nats::HeaderMap::new();
    let headers = entry.headers.as_ref().unwrap_or(&none);
    let read = record::decode(&shared.journal.addresses, &entry.subject, headers, stored);
    let mut state = shared.lock();
    let applied = state.replica.applied;
    if at <= applied {
        let is_other = state.last.is_some_and(|(last, stored)| last == at && stored != nanoseconds);
        return Ok(if is_other { Taken::Other } else { Taken::Before });
    }
    if at != applied + 1 {
        return Ok(Taken::Missing);
    }
    state.last = Some((at, nanoseconds));
    let effect = state.replica.apply(at, stored, read);
    state.set_clock(stored);
    let is_own = effect.done.as_ref().is_some_and(|done| done.writer == state.writer);
    let wakes = effect.broken.is_some() || effect.heard == Some(state.writer) || is_own;
    state.take(effect);
    let begins_image = is_own && state.begins_image(shared.journal.image_entries());
    drop(state);
    if begins_image {
        shared.image.notify_one();
    }
    if wakes {
        shared.work.notify_one();
    }
    Ok(Taken::New)
}

/// Begins with the last image that there is. There has to be one where entries are missing.
async fn load(shared: &Arc<Shared>, is_missing_some: bool) -> Result<(), Stop> {
    let journal = &shared.journal;
    let place = format!("the stream {} of JetStream", journal.addresses.images());
    let corrupt = |reason: &str| StoreError::Corrupt { place: place.clone(), reason: reason.to_owned() };
    let applied = shared.lock().replica.applied;
    let Some(headers) = journal.last_image().await? else {
        if is_missing_some {
            let error = corrupt("entries of the journal were deleted, and there is no image of them");
            return Err(Stop::Doubtful(error));
        }
        // All is read from the beginning.
        return Ok(());
    };
    let told = record::decode(&journal.addresses, &journal.addresses.of_imaged(), &headers, 0);
    let image: Option<Image> = match told {
        Some((_, Part::Action(_, text))) => match serde_json::from_str(&text) {
            Ok(Action::Image(image)) => Some(image),
            _ => None,
        },
        _ => None,
    };
    let image = image.ok_or_else(|| corrupt("what the journal tells of it cannot be read"))?;
    if image.at <= applied && applied > 0 {
        return Err(Stop::Doubtful(corrupt("entries of the journal were deleted that it does not have")));
    }
    if image.bytes > limits::JETSTREAM_IMAGE_BYTES {
        return Err(corrupt("an image is larger than any that is written").into());
    }
    let Some(bytes) = journal.read_image(image).await? else {
        return Err(journal.away("an image is being replaced by a newer one").into());
    };
    let replica = Replica::from_image(&bytes, &place)?;
    shared.lock().catch_up(replica);
    Ok(())
}
