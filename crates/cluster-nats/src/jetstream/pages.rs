//! What is read, with its contents from the journal.

use bytes::BytesMut;
use futures_util::stream::{self, StreamExt as _};
use whispeer::store::index::{DelayedEntry, Row};
use whispeer::store::{Delayed, Message, Name, NewMessage, Page, Reading, StoreError};

use super::record::{self, Content};
use super::replica::Place;
use super::shared::Shared;
use crate::limits;

/// A page. What is dropped while it is read is left out.
pub(super) async fn read(
    shared: &Shared,
    stream: &Name,
    reading: &Reading,
    by_topic: bool,
) -> Result<Page, StoreError> {
    shared.ready().await?;
    let page = {
        let state = shared.lock();
        match by_topic {
            true => state.replica.index.last_per_topic(stream, reading)?,
            false => state.replica.index.read(stream, reading)?,
        }
    };
    let reading =
        stream::iter(page.rows).map(|row| async move { Ok((content(shared, &row.content).await?, row)) });
    let mut reading = reading.buffered(limits::JETSTREAM_FETCHES);
    let mut messages = Vec::new();
    while let Some(read) = reading.next().await {
        let (content, row): (Option<Content>, Row<Place>) = read?;
        if let Some(Content { fields, payload }) = content {
            let Row { sequence, topic, time, expires, .. } = row;
            messages.push(Message { sequence, topic, fields, payload, time, expires });
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
    let reading =
        stream::iter(due).map(|one| async move { Ok((content(shared, &one.entry.content).await?, one)) });
    let mut reading = reading.buffered(limits::JETSTREAM_FETCHES);
    let mut delayed = Vec::new();
    while let Some(read) = reading.next().await {
        let (content, one): (Option<Content>, DelayedEntry<Place>) = read?;
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

/// What is in a message; `None` where it is there no more.
async fn content(shared: &Shared, place: &Place) -> Result<Option<Content>, StoreError> {
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
