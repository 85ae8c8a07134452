//! What a stream has, in pages.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;
use whispeer::client::{History, HistoryOptions, Start};
use whispeer::engine::PayloadOpener;

use super::failure::Failure;
use super::params::Params;
use super::place::{Place, start};
use super::written::{push_head, push_rest};
use super::{DIALECT, Entered, json_text};
use crate::limits;
use crate::problem::Problem;
use crate::shared::Shared;

/// A page of a stream.
#[derive(Serialize, ToSchema)]
pub(super) struct HistoryPage {
    /// The messages, in the order of the stream.
    messages: Vec<StoredMessage>,
    /// The `cursor` of the next page; `null` when nothing is left of what was there when this one was asked for.
    next: Option<String>,
    /// Where to go on later: the `cursor` of a page of what is not there yet.
    end: String,
    /// Messages that were to be in the page and that the stream has dropped by then, as far as they can be counted.
    dropped: u64,
    /// The stream is not the one of the cursor: the page begins with its oldest message.
    recreated: bool,
}

/// A message of a stream.
#[derive(Serialize, ToSchema)]
pub(super) struct StoredMessage {
    /// Its number in the stream, from 1.
    sequence: u64,
    /// When it was stored: milliseconds since 1970 (UTC).
    time: u64,
    /// Where it was published.
    topic: String,
    /// Pairs of a name and a value.
    headers: Vec<Vec<String>>,
    /// Any JSON; `{"$sealed":"BASE64"}` for one that is encrypted, or compressed by its publisher.
    #[schema(value_type = super::openapi::Payload)]
    payload: serde_json::Value,
}

/// Reads a stream in pages.
///
/// It never waits for new messages. The next page begins at `cursor`, which is `next` of the page before.
#[utoipa::path(
    get, path = "/api/v1/history", tag = "streams",
    params(
        ("pattern" = String, Query, description = "Whose messages; one stream has to keep all of these topics.", example = "orders/**"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1024, description = "Messages of the page; 100 by default. It ends earlier behind 1 MiB of them."),
        ("start" = Option<String>, Query, description = "Where to begin: `all` (default), `last:COUNT`, `last-per-topic`, `from:SEQUENCE` or `since:MILLISECONDS`.", example = "all"),
        ("cursor" = Option<String>, Query, description = "Where the page before has ended."),
    ),
    responses(
        (status = 200, description = "The page.", body = HistoryPage),
        (status = 409, description = "No stream keeps these topics (`not-durable`).", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let params = Params::of(&parts.uri, &["pattern", "limit", "start", "cursor"])?;
    let pattern = params.required("pattern", "orders/**")?;
    let messages = params.number("limit", 1..=limits::API_HISTORY_MESSAGES)?;
    let messages = messages.unwrap_or(limits::API_HISTORY_DEFAULT);
    let mut options = HistoryOptions::default().limit(messages, limits::API_HISTORY_BYTES);
    match (params.one("start")?, params.one("cursor")?) {
        (Some(_), Some(_)) => {
            return Err(Failure::bad_request(
                "parameters",
                "a page begins at `start` or at `cursor`; give one",
            ));
        }
        (Some(text), None) => match start(text)? {
            Start::New => {
                let detail = "nothing that is there is `new`; subscribe to what comes";
                return Err(Failure::bad_request("parameters", detail));
            }
            start => options = options.start(start),
        },
        (None, Some(cursor)) => {
            let Place { epoch, sequence } = Place::read(cursor, "cursor")?;
            options = options.start(Start::From(sequence)).epoch(epoch);
        }
        (None, None) => {}
    }
    let entered = Entered::by(&shared, &parts).await?;
    let page = entered.client.history_bytes(pattern, options).await;
    let page = page.map_err(|error| entered.failure(&error))?;
    let (text, sealed) = written(shared.opener.as_ref(), &page);
    (0..sealed).for_each(|_| shared.metrics.sealed(DIALECT));
    Ok(json_text(text))
}

/// The page as JSON, and how many of its payloads are sealed.
fn written(opener: Option<&PayloadOpener>, page: &History<Bytes>) -> (Vec<u8>, usize) {
    let mut text = b"{\"messages\":[".to_vec();
    let mut sealed = 0;
    for (index, message) in page.messages.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        push_head(message.position, &mut text);
        sealed += usize::from(push_rest(opener, &message.topic, &message.headers, &message.value, &mut text));
    }
    let place = |sequence| Place { epoch: page.epoch, sequence };
    text.extend_from_slice(b"],\"next\":");
    match page.next {
        Some(next) => text.extend_from_slice(format!("\"{}\"", place(next)).as_bytes()),
        None => text.extend_from_slice(b"null"),
    }
    let (end, History { dropped, recreated, .. }) = (place(page.end), page);
    text.extend_from_slice(
        format!(",\"end\":\"{end}\",\"dropped\":{dropped},\"recreated\":{recreated}}}").as_bytes(),
    );
    (text, sealed)
}
