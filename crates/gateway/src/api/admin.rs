//! What the bus tells administrators: what it serves at `$bus/...`, asked for by the caller's own session, so that the bus
//! decides who learns it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use whispeer::bus::{ConsumerStats, ServedStats, SessionStats, StreamStats, SubscriptionStats};

use super::failure::Failure;
use super::params::Params;
use super::{Entered, json};
use crate::shared::Shared;

/// Rows, and how many were left out.
#[derive(Serialize, ToSchema)]
pub(super) struct Rows<T> {
    /// At most 10,000, and no more than fit a frame of the bus.
    rows: Vec<T>,
    /// Rows that there are beside these.
    left_out: usize,
}

/// Which topics there are: a bus knows those that somebody waits for.
#[derive(Serialize, ToSchema)]
pub(super) struct Topics {
    /// Patterns that are subscribed to.
    subscriptions: Rows<SubscriptionRow>,
    /// Topics on which requests are answered.
    served: Rows<ServedRow>,
}

/// A subscription.
#[derive(Serialize, ToSchema)]
pub(super) struct SubscriptionRow {
    /// Whose it is.
    session: u64,
    /// Its id within the session.
    id: u32,
    /// Its pattern.
    pattern: String,
    /// Its queue group.
    group: Option<String>,
    /// What happens when its window is used up.
    policy: String,
    /// Matches so far.
    matched: u64,
    /// Matches sent to the subscriber.
    delivered: u64,
    /// Matches dropped, by reason.
    dropped: BTreeMap<String, u64>,
    /// Matches that wait for credit.
    parked: u64,
    /// Messages that may be sent before the subscriber has to take one.
    credit: i64,
    /// Whether it fell behind and what matches is counted at once.
    lagging: bool,
}

impl From<SubscriptionStats> for SubscriptionRow {
    fn from(stats: SubscriptionStats) -> Self {
        Self {
            session: stats.session,
            id: stats.id,
            pattern: stats.pattern,
            group: stats.group,
            policy: stats.policy,
            matched: stats.matched,
            delivered: stats.delivered,
            dropped: stats.dropped,
            parked: stats.parked,
            credit: stats.credit,
            lagging: stats.lagging,
        }
    }
}

/// A served topic.
#[derive(Serialize, ToSchema)]
pub(super) struct ServedRow {
    /// The topic.
    topic: String,
    /// The group that shares it.
    group: Option<String>,
    /// The sessions that serve it.
    sessions: Vec<u64>,
    /// Requests that wait for a server.
    waiting: usize,
}

impl From<ServedStats> for ServedRow {
    fn from(stats: ServedStats) -> Self {
        Self { topic: stats.topic, group: stats.group, sessions: stats.sessions, waiting: stats.waiting }
    }
}

/// A session.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionRow {
    /// Its id.
    id: u64,
    /// What the client calls itself.
    name: String,
    /// Whom it acts for.
    #[schema(example = "token \"alice\" of \"https://login.example\"")]
    principal: String,
    /// The transport over which it is connected.
    #[schema(example = "http")]
    transport: String,
    /// Whether its connection lives.
    connected: bool,
    /// Its subscriptions.
    subscriptions: usize,
    /// Its servings.
    servings: usize,
    /// Requests it made or was asked and that are unanswered.
    requests_in_flight: usize,
    /// Bytes that wait to be sent to it.
    queued_bytes: usize,
    /// Bytes that are parked for its subscriptions.
    parked_bytes: usize,
    /// Bytes that its subscriptions and servings take.
    table_bytes: usize,
    /// Messages it published.
    published: u64,
    /// Messages delivered to it.
    delivered: u64,
    /// Matches dropped for it, by reason.
    dropped: BTreeMap<String, u64>,
}

impl From<SessionStats> for SessionRow {
    fn from(stats: SessionStats) -> Self {
        Self {
            id: stats.id,
            name: stats.name,
            principal: stats.principal.to_string(),
            transport: stats.transport,
            connected: stats.connected,
            subscriptions: stats.subscriptions,
            servings: stats.servings,
            requests_in_flight: stats.requests_in_flight,
            queued_bytes: stats.queued_bytes,
            parked_bytes: stats.parked_bytes,
            table_bytes: stats.table_bytes,
            published: stats.published,
            delivered: stats.delivered,
            dropped: stats.dropped,
        }
    }
}

/// A stream.
#[derive(Serialize, ToSchema)]
pub(super) struct StreamRow {
    /// What it is called.
    name: String,
    /// The topics that it has.
    patterns: Vec<String>,
    /// The kind of store that it is in.
    storage: String,
    /// What it is told from one of the same name by that was there before.
    epoch: String,
    /// Messages that there are.
    messages: u64,
    /// Bytes that they count as.
    bytes: u64,
    /// The sequence of the oldest.
    first: u64,
    /// The sequence of the one that comes next.
    next: u64,
    /// Messages that are not due yet.
    delayed: u64,
    /// Ids of messages that it knows.
    ids: u64,
    /// Ids that were forgotten too early.
    forgotten_ids: u64,
    /// Messages that no consumer could deal with.
    dead_letters: u64,
    /// What is wrong with its store, if anything is.
    problem: Option<String>,
}

impl From<StreamStats> for StreamRow {
    fn from(stats: StreamStats) -> Self {
        Self {
            name: stats.name,
            patterns: stats.patterns,
            storage: stats.storage,
            epoch: stats.epoch,
            messages: stats.messages,
            bytes: stats.bytes,
            first: stats.first,
            next: stats.next,
            delayed: stats.delayed,
            ids: stats.ids,
            forgotten_ids: stats.forgotten_ids,
            dead_letters: stats.dead_letters,
            problem: stats.problem,
        }
    }
}

/// A durable consumer.
#[derive(Serialize, ToSchema)]
pub(super) struct ConsumerRow {
    /// The stream that it reads.
    stream: String,
    /// What it is called.
    name: String,
    /// Whose it is.
    owner: Option<String>,
    /// The topics that it takes.
    pattern: String,
    /// How many subscriptions it has now.
    subscriptions: usize,
    /// All messages before this sequence are done.
    floor: u64,
    /// Sequences from there to the end of the stream.
    behind: u64,
    /// Messages that somebody has and has not acknowledged.
    pending: u64,
    /// Messages that are to be sent again.
    again: u64,
    /// What it waits for beside those who take its messages: `floor`, `pending`, `memory`, `store` or `withheld`.
    waits_for: Option<String>,
}

impl From<ConsumerStats> for ConsumerRow {
    fn from(stats: ConsumerStats) -> Self {
        Self {
            stream: stats.stream,
            name: stats.name,
            owner: stats.owner,
            pattern: stats.pattern,
            subscriptions: stats.subscriptions,
            floor: stats.floor,
            behind: stats.behind,
            pending: stats.pending,
            again: stats.again,
            waits_for: stats.waits_for,
        }
    }
}

/// Lists topics: patterns that are subscribed to, and topics on which requests are answered.
#[utoipa::path(
    get, path = "/api/v1/topics", tag = "administration",
    responses((status = 200, description = "The topics.", body = Topics)),
)]
pub(super) async fn topics(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let entered = enter(&shared, &parts).await?;
    let subscriptions = ask::<SubscriptionStats, _>(&entered, "$bus/subscriptions").await?;
    let served = ask::<ServedStats, _>(&entered, "$bus/served").await?;
    Ok(json(&Topics { subscriptions, served }))
}

/// Lists sessions.
#[utoipa::path(
    get, path = "/api/v1/sessions", tag = "administration",
    responses((status = 200, description = "The sessions.", body = Rows<SessionRow>)),
)]
pub(super) async fn sessions(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let entered = enter(&shared, &parts).await?;
    Ok(json(&ask::<SessionStats, SessionRow>(&entered, "$bus/sessions").await?))
}

/// Lists streams.
#[utoipa::path(
    get, path = "/api/v1/streams", tag = "administration",
    responses((status = 200, description = "The streams.", body = Rows<StreamRow>)),
)]
pub(super) async fn streams(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let entered = enter(&shared, &parts).await?;
    Ok(json(&ask::<StreamStats, StreamRow>(&entered, "$bus/streams").await?))
}

/// Lists the durable consumers of streams.
#[utoipa::path(
    get, path = "/api/v1/consumers", tag = "administration",
    responses((status = 200, description = "The consumers.", body = Rows<ConsumerRow>)),
)]
pub(super) async fn consumers(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let entered = enter(&shared, &parts).await?;
    Ok(json(&ask::<ConsumerStats, ConsumerRow>(&entered, "$bus/consumers").await?))
}

async fn enter(shared: &Shared, parts: &Parts) -> Result<Entered, Failure> {
    Params::of(&parts.uri, &[])?;
    Entered::by(shared, parts).await
}

/// What the bus answers the caller on this topic.
async fn ask<S, R>(entered: &Entered, topic: &str) -> Result<Rows<R>, Failure>
where
    S: DeserializeOwned,
    R: From<S>,
{
    let answer = entered.client.request_bytes(topic, Bytes::new()).await;
    let answer = answer.map_err(|error| entered.failure(&error))?;
    let told: whispeer::bus::Rows<S> = rmp_serde::from_slice(&answer).map_err(|error| {
        let detail = format!("the bus's answer on {topic} is not understood: {error}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
    })?;
    Ok(Rows { rows: told.rows.into_iter().map(R::from).collect(), left_out: told.left_out })
}
