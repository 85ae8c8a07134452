//! Reads the journal, from the last image on, and goes on with what comes.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};
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
enum Ended {
    /// It is to be gone on with.
    Interrupted,
    /// Entries are missing, so that there has to be a newer image.
    Behind,
}

/// Goes on until the store cannot.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut known: Option<Extent> = None;
    let mut retry = RETRY;
    loop {
        match follow(&shared, &mut known).await {
            Ok(Ended::Interrupted) => retry = RETRY,
            Ok(Ended::Behind) => {
                if let Err(error) = load(&shared).await {
                    if !may_pass(&error) {
                        return shared.fail(&error);
                    }
                    sleep(retry).await;
                }
            }
            Err(error) if may_pass(&error) => {
                tracing::debug!(%error, "the journal in JetStream cannot be read, and is tried again");
                sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
            Err(error) => return shared.fail(&error),
        }
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

async fn follow(shared: &Arc<Shared>, known: &mut Option<Extent>) -> Result<Ended, StoreError> {
    let journal = &shared.journal;
    let extent = soon(journal, journal.open()).await?;
    let gone = |reason: &str| StoreError::Failed {
        place: format!("the stream {} of JetStream", journal.addresses.journal()),
        reason: reason.to_owned(),
    };
    match known {
        None => {
            load(shared).await?;
            *known = Some(extent);
        }
        Some(before) if before.made != extent.made => {
            return Err(gone("it was taken out and made anew, with all that was in it lost"));
        }
        Some(_) => {}
    }
    let applied = shared.lock().replica.applied;
    if extent.last < applied {
        return Err(gone("it ends before what JetStream had told as stored"));
    }
    let mut entries = soon(journal, journal.follow(applied + 1)).await?;
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
    loop {
        let entry = tokio::select! {
            entry = entries.next() => entry,
            () = shared.follow.notified() => return Ok(Ended::Interrupted),
        };
        let Some(Ok(entry)) = entry else { return Err(journal.away("reading was interrupted")) };
        if !take(shared, &entry)? {
            return Ok(Ended::Behind);
        }
        if *shared.phase.borrow() == Phase::Starting {
            is_ready(shared);
        }
    }
}

/// Reads an entry; `false` if those before it are missing.
fn take(shared: &Shared, entry: &Message) -> Result<bool, StoreError> {
    let info = entry.info().map_err(|error| shared.journal.away(error))?;
    let at = info.stream_sequence;
    let stored = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    let none = async_nats::HeaderMap::new();
    let headers = entry.headers.as_ref().unwrap_or(&none);
    let read = record::decode(&shared.journal.addresses, &entry.subject, headers, stored);
    let mut state = shared.lock();
    let applied = state.replica.applied;
    if at <= applied {
        return Ok(true);
    }
    if at != applied + 1 {
        return Ok(false);
    }
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
    Ok(true)
}

/// Begins with the last image that there is.
async fn load(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let journal = &shared.journal;
    let place = format!("the stream {} of JetStream", journal.addresses.images());
    let corrupt = |reason: &str| StoreError::Corrupt { place: place.clone(), reason: reason.to_owned() };
    let applied = shared.lock().replica.applied;
    let Some(headers) = journal.last_image().await? else {
        // Without one, all is read from the beginning.
        if applied > 0 {
            return Err(corrupt("entries of the journal were deleted, and there is no image of them"));
        }
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
        return Err(corrupt("entries of the journal were deleted that it does not have"));
    }
    if image.bytes > limits::JETSTREAM_IMAGE_BYTES {
        return Err(corrupt("an image is larger than any that is written"));
    }
    let Some(bytes) = journal.read_image(image).await? else {
        return Err(journal.away("an image is being replaced by a newer one"));
    };
    let replica = Replica::from_image(&bytes, &place)?;
    shared.lock().catch_up(replica);
    Ok(())
}
