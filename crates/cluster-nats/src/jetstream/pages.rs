//! What is read, with its contents from the journal.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep};
use whispeer::store::index::{DelayedEntry, Index, Row};
use whispeer::store::{Delayed, Message, Name, NewMessage, Page, Reading, StoreError};

use super::record::{self, Content};
use super::replica::Place;
use super::shared::Shared;
use crate::limits;

/// A page. What is dropped while it is read is left out. It ends before a message that is gone without having been dropped; a page that begins with one
/// is an error.
pub(super) async fn read(
    shared: &Shared,
    stream: &Name,
    reading: &Reading,
    by_topic: bool,
) -> Result<Page, StoreError> {
    shared.ready().await?;
    let mut page = {
        let state = shared.lock();
        match by_topic {
            true => state.replica.index.last_per_topic(stream, reading)?,
            false => state.replica.index.read(stream, reading)?,
        }
    };
    let rows = page.rows.into_iter().enumerate();
    let reading = stream::iter(rows).map(|(at, row)| async move {
        let is_there = |index: &Index<Place>| {
            let one = Reading { messages: 1, ..Reading::from(row.sequence, 0) };
            let found = index.read(stream, &one).ok().and_then(|page| page.rows.into_iter().next());
            found.is_some_and(|found| found.sequence == row.sequence && found.content == row.content)
        };
        // What comes before one that is not there is read first.
        let patience = if at == 0 { shared.journal.answer() } else { Duration::ZERO };
        (content(shared, &row.content, patience, is_there).await, row)
    });
    let mut reading = reading.buffered(limits::JETSTREAM_FETCHES);
    let mut messages: Vec<Message> = Vec::new();
    while let Some((read, row)) = reading.next().await {
        let Row { sequence, topic, time, expires, .. } = row;
        match read {
            Ok(Some(Content { fields, payload })) => {
                messages.push(Message { sequence, topic, fields, payload, time, expires });
            }
            Ok(None) => {}
            Err(_) if !messages.is_empty() => {
                page.next = sequence;
                break;
            }
            Err(StoreError::Corrupt { place, reason }) => {
                let reason = format!("{reason}; it is message {sequence} of the stream \"{stream}\"");
                return Err(StoreError::Corrupt { place, reason });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Page { messages, next: page.next, first: page.first, end: page.end })
}

/// What is due by then.
pub(super) async fn delayed(
    shared: &Shared,
    stream: &Name,
    until: u64,
    most: usize,
) -> Result<Vec<Delayed>, StoreError> {
    shared.ready().await?;
    let due = shared.lock().replica.index.delayed(stream, until, most)?;
    let reading = stream::iter(due).map(|one| async move {
        let is_there = |index: &Index<Place>| {
            let due = index.delayed(stream, until, most);
            due.is_ok_and(|due| due.iter().any(|other| other.id == one.id))
        };
        (content(shared, &one.entry.content, Duration::ZERO, is_there).await, one)
    });
    let mut reading = reading.buffered(limits::JETSTREAM_FETCHES);
    let mut delayed = Vec::new();
    while let Some((read, one)) = reading.next().await {
        let (read, one): (Result<Option<Content>, StoreError>, DelayedEntry<Place>) = (read, one);
        let content = match read {
            // The others are not to wait for it.
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%stream, delayed = one.id, %error, "a delayed message cannot be published");
                None
            }
            read => read?,
        };
        if let Some(Content { fields, payload }) = content {
            let DelayedEntry { id, due, author, owner, entry, .. } = one;
            let message = NewMessage {
                topic: entry.topic,
                fields,
                payload,
                time: entry.time,
                expires: entry.expires,
                id: entry.id,
            };
            delayed.push(Delayed { id, due, author, owner, message });
        }
    }
    Ok(delayed)
}

/// What is in a message; `None` where it was dropped meanwhile.
///
/// That there is no such entry is not taken from one answer: a server that is cut off, or has just been elected, may not have it yet, and what
/// drops a message may not have been read here. Nobody may pass over a message for that. Who asks again for [long
/// enough](super::JetStreamOptions::doubt) is told that it is gone.
async fn content(
    shared: &Shared,
    place: &Place,
    patience: Duration,
    is_there: impl Fn(&Index<Place>) -> bool,
) -> Result<Option<Content>, StoreError> {
    let (began, mut delay) = (Instant::now(), limits::JETSTREAM_MISSING);
    loop {
        if let Some(content) = find(shared, place).await? {
            return Ok(Some(content));
        }
        // It is not waited for where nothing goes on.
        shared.ready().await?;
        let missed = {
            let mut state = shared.lock();
            if !is_there(&state.replica.index) {
                return Ok(None);
            }
            state.miss(place.at)
        };
        if missed >= shared.journal.doubt() {
            let extent = shared.journal.extent().await?;
            let state = shared.lock();
            let has_read_all = extent.is_some_and(|extent| state.replica.applied >= extent.last);
            // What drops it may have come by now.
            if has_read_all && is_there(&state.replica.index) {
                return Err(StoreError::Corrupt {
                    place: format!("entry {} of the journal in JetStream", place.at),
                    reason: "it is gone, and nothing in the journal says that its message was dropped"
                        .to_owned(),
                });
            }
        }
        if began.elapsed() >= patience {
            let what = format!("entry {} of its journal is not there yet", place.at);
            return Err(shared.journal.away(what));
        }
        sleep(delay).await;
        delay *= 2;
    }
}

/// What is in a message; `None` where JetStream does not have all of it.
async fn find(shared: &Shared, place: &Place) -> Result<Option<Content>, StoreError> {
    if let Some(content) = shared.lock().cached(place.at) {
        return Ok(Some(content));
    }
    let Some(found) = shared.journal.entry(place.at).await? else { return Ok(None) };
    let mut joined = None;
    if let Some(pieces) = &place.pieces {
        let mut payload = BytesMut::new();
        let reading = stream::iter(pieces.iter().copied()).map(|at| shared.journal.entry(at));
        let mut reading = reading.buffered(4);
        while let Some(piece) = reading.next().await {
            let Some(piece) = piece? else { return Ok(None) };
            payload.extend_from_slice(&piece.payload);
        }
        joined = Some(payload.freeze());
    }
    let content = record::content(&found.headers, found.payload, joined);
    content.map(Some).ok_or_else(|| StoreError::Corrupt {
        place: format!("entry {} of the journal in JetStream", place.at),
        reason: "its headers are none that whispeer has written".to_owned(),
    })
}
