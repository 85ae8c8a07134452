//! How a stream of events begins.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::request::Parts;
use http::{HeaderName, HeaderValue, header};
use tokio::time::Instant;
use whispeer::client::{Policy, Start, SubscribeOptions, Subscription};
use whispeer::proto::Content;
use whispeer::{BusError, BusResult, Client};

use super::events::{Events, Followed, SentEvent};
use super::failure::Failure;
use super::identity::Caller;
use super::params::Params;
use super::place::{Place, start};
use super::{Entered, caller, in_time};
use crate::limits;
use crate::problem::Problem;
use crate::shared::Shared;

/// As far as scripts count: numbers above that are not whole there.
const COUNTED: u64 = (1 << 53) - 1;

/// What a reader has seen of the stream of a pattern.
type Seen = Option<Place>;

/// Subscribes, as Server-Sent Events.
///
/// Of each message there is an event `message`, whose data is one line of JSON: `topic`, `payload`, `headers` (pairs of a name
/// and a value), and where a stream keeps the topics `sequence` and `time` (milliseconds since 1970, UTC) and an id. By the
/// id of the last event, in the header `Last-Event-ID` as browsers send it or in `last_event_id`, a reader goes on behind that
/// one. Other events are `ready` at the beginning, `gap` for messages that were not delivered (`count` and `reason`; the count
/// is 0 where nobody knows, as with another stream of the same name), and `end` before the last word (`code` and `detail`).
#[utoipa::path(
    get, path = "/api/v1/subscribe", tag = "messages",
    params(
        ("pattern" = Vec<String>, Query, explode, min_items = 1, max_items = 16, description = "What to subscribe to, with wildcards; once for each.", example = json!(["greetings/**"])),
        ("start" = Option<String>, Query, description = "Where to begin in the stream of the topics: `new` (default), `all`, `last:COUNT`, `last-per-topic`, `from:SEQUENCE` or `since:MILLISECONDS`. All but `new` need a stream.", example = "new"),
        ("last_event_id" = Option<String>, Query, description = "As the header `Last-Event-ID`, which goes before it."),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 9007199254740991i64, description = "Ends after so many messages."),
        ("duration" = Option<f64>, Query, minimum = 0, maximum = 86400, description = "Ends after so many seconds.", example = 0),
        ("ticket" = Option<String>, Query, description = "A ticket in place of `Authorization`."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was read."),
    ),
    responses(
        (status = 200, description = "The events.", body = SentEvent, content_type = "text/event-stream"),
        (status = 409, description = "`start` is given and no stream keeps these topics (`not-durable`).", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn subscribe(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    // It begins in time, and then lasts.
    let events = in_time(&shared, begin(&shared, &parts)).await?;
    let body = Body::from_stream(stream::unfold(events, Events::next));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that gather answers are told not to.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// Lets the caller in, and subscribes for him.
async fn begin(shared: &Arc<Shared>, parts: &Parts) -> Result<Events, Failure> {
    let known = ["pattern", "start", "last_event_id", "limit", "duration", "ticket"];
    let params = Params::of(&parts.uri, &known)?;
    let patterns = patterns(&params)?;
    let start_at = params.one("start")?.map(start).transpose()?;
    let seen = last_seen(parts, &params, patterns.len())?;
    let limit = params.number("limit", 1..=COUNTED)?.unwrap_or(u64::MAX);
    let duration = params.seconds("duration", limits::API_EVENTS_DURATION)?;
    let caller = who(shared, parts, &params)?;
    let entered = Entered::as_caller(shared, parts, &caller).await?;

    let until = duration.map(|duration| Instant::now() + duration);
    let mut events = Events::new(Arc::clone(shared), Arc::clone(&entered.client), limit, until);
    for (pattern, seen) in patterns.into_iter().zip(seen) {
        let (subscription, is_lost) = match open(&entered.client, pattern, start_at, seen).await {
            Ok(opened) => opened,
            Err(error) => return Err(entered.failure(&error)),
        };
        let epoch = subscription.epoch();
        let seen = match (seen, start_at) {
            // Of another stream than before it has seen nothing.
            (Some(place), _) => Some(place.sequence).filter(|_| !is_lost && epoch == Some(place.epoch)),
            // What comes first is what comes behind all that there is.
            (None, None | Some(Start::New)) => subscription.end_sequence().map(|end| end.saturating_sub(1)),
            (None, Some(_)) => None,
        };
        events.follow(pattern, subscription, Followed { epoch, seen }, is_lost);
    }
    events.begin();
    Ok(events)
}

/// The patterns that are asked for.
fn patterns(params: &Params) -> Result<Vec<&str>, Failure> {
    let mut patterns = Vec::new();
    for pattern in params.all("pattern") {
        if patterns.contains(&pattern) {
            return Err(Failure::bad_request("parameters", "a pattern is given twice"));
        }
        if patterns.len() == limits::API_PATTERNS {
            return Err(Failure::bad_request(
                "parameters",
                format!("a stream of events has {} patterns at the most; open another", limits::API_PATTERNS),
            ));
        }
        patterns.push(pattern);
    }
    match patterns.is_empty() {
        true => Err(Failure::bad_request(
            "parameters",
            "`pattern` is missing; say which, such as ?pattern=greetings/**",
        )),
        false => Ok(patterns),
    }
}

/// What the reader has seen of each pattern's stream: as an id has it, in the order of the patterns, with `-` for none.
fn last_seen(parts: &Parts, params: &Params, count: usize) -> Result<Vec<Seen>, Failure> {
    let given = match parts.headers.get("last-event-id") {
        Some(id) => Some(String::from_utf8_lossy(id.as_bytes()).into_owned()),
        None => params.one("last_event_id")?.map(str::to_owned),
    };
    // A browser that has seen no id sends none, or an empty one.
    let Some(id) = given.filter(|id| !id.is_empty()) else { return Ok(vec![None; count]) };
    let places = id.split(',').take(count + 1).map(|place| match place {
        "-" => Ok(None),
        place => Place::read(place, "Last-Event-ID").map(Some),
    });
    let places = places.collect::<Result<Vec<Seen>, Failure>>()?;
    if places.len() != count {
        return Err(Failure::bad_request(
            "place",
            "the id of the last event is that of other patterns than these",
        ));
    }
    Ok(places)
}

/// Who asks: by a ticket, or as with any other request.
fn who(shared: &Shared, parts: &Parts, params: &Params) -> Result<Caller, Failure> {
    let caller = caller(parts)?;
    match params.one("ticket")? {
        Some(_) if caller.has_shown() => {
            let detail = "who asks is told by a ticket or by `Authorization`; give one";
            Err(Failure::bad_request("authorization", detail))
        }
        Some(ticket) => shared.api.tickets.redeem(ticket, caller.address.ip()),
        None => Ok(caller),
    }
}

/// Subscribes to a pattern: to its stream if it has one, and else to what is published. Also tells whether the stream is gone
/// of which something was seen.
async fn open(
    client: &Client,
    pattern: &str,
    begin: Option<Start>,
    seen: Seen,
) -> BusResult<(Subscription<Arc<Content>>, bool)> {
    let plain = SubscribeOptions::default()
        .policy(Policy::DropNewest)
        .window(limits::API_EVENT_WINDOW, limits::API_EVENT_WINDOW_BYTES);
    let reading = match (seen, begin) {
        (Some(Place { epoch, sequence }), _) => {
            plain.clone().start(Start::From(sequence.saturating_add(1))).epoch(epoch)
        }
        (None, begin) => plain.clone().start(begin.unwrap_or(Start::New)),
    };
    match client.subscribe_content_with(pattern, reading).await {
        Ok(subscription) => Ok((subscription, false)),
        // No stream keeps it, or several do, each a part.
        Err(BusError::NotDurable { .. } | BusError::InvalidSettings(_))
            if seen.is_some() || matches!(begin, None | Some(Start::New)) =>
        {
            Ok((client.subscribe_content_with(pattern, plain).await?, seen.is_some()))
        }
        Err(error) => Err(error),
    }
}
