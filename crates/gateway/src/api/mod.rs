//! The bus's own HTTP API, at `/api/v1`.
//!
//! Who asks is a session of the bus of his own, by what he shows or by his connection; the bus decides what he may do. What is said here is
//! described for programs by OpenAPI, at `/api/openapi.json`.
//!
//! | file | what it holds |
//! |---|---|
//! | `identity` | who asks |
//! | `clients`, `stranger` | the sessions of those who show who they are, and of those who do not |
//! | `ticket` | what stands for credentials in a URL, once |
//! | `params`, `body`, `failure` | what comes with a request, and how one fails |
//! | `publish`, `batch`, `request` | messages and requests |
//! | `subscribe`, `events` | Server-Sent Events: how a stream of them begins, and how it goes on |
//! | `history` | what a stream has, in pages |
//! | `place`, `written` | where something lies in a stream, and a message as JSON |
//! | `admin` | what the bus tells administrators |
//! | `openapi` | the description |

mod admin;
mod batch;
mod body;
mod clients;
mod events;
mod failure;
mod history;
mod identity;
mod openapi;
mod params;
mod place;
mod publish;
mod request;
mod stranger;
mod subscribe;
mod ticket;
mod written;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use ring::hmac;
use serde::Serialize;
use tokio::time::timeout;
use whispeer::{BusError, Client};

use self::clients::Clients;
use self::failure::Failure;
use self::identity::Caller;
pub(crate) use self::publish::MESSAGE_HEADER_PREFIX;
pub(crate) use self::stranger::Stranger;
use self::ticket::Tickets;
use crate::gateway::GatewayError;
use crate::shared::{Remote, Shared};

/// What the API is called where it is counted.
const DIALECT: &str = "http";

/// What the requests to the API share.
pub(crate) struct Api {
    clients: Clients,
    tickets: Tickets,
}

impl Api {
    /// It needs a Tokio runtime.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn new() -> Result<Self, GatewayError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| {
            GatewayError::Settings(format!("the system's random generator does not work: {error}"))
        })?;
        // Nobody can work out by which keys callers and tickets are known.
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Ok(Self { clients: Clients::new(key.clone()), tickets: Tickets::new(key) })
    }
}

/// The paths of the API.
pub(crate) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let answered = Router::new()
        .route("/api/openapi.json", get(openapi::document))
        .route("/api/v1/publish", post(publish::publish))
        .route("/api/v1/request", post(request::request))
        .route("/api/v1/history", get(history::history))
        .route("/api/v1/topics", get(admin::topics))
        .route("/api/v1/sessions", get(admin::sessions))
        .route("/api/v1/streams", get(admin::streams))
        .route("/api/v1/consumers", get(admin::consumers))
        .route("/api/v1/ticket", post(ticket::ticket))
        .route_layer(from_fn_with_state(Arc::clone(shared), timed));
    // A stream of events has to begin in time, and then lasts.
    answered.route("/api/v1/subscribe", get(subscribe::subscribe))
}

/// Answers for a request that takes longer than any may.
async fn timed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let answered = async { Ok(next.run(request).await) };
    in_time(&shared, answered).await.unwrap_or_else(Failure::into_response)
}

/// What somebody asks for, if it comes in time.
async fn in_time<T>(shared: &Shared, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let limit = shared.settings.request_timeout;
    timeout(limit, asked).await.unwrap_or_else(|_| {
        let detail = format!("it did not end within {limit:?}; whether it had an effect is unknown");
        Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", detail))
    })
}

/// Whoever asks, let in by the bus.
struct Entered {
    client: Arc<Client>,
    has_shown: bool,
}

impl Entered {
    /// Lets in who has sent this request.
    async fn by(shared: &Shared, parts: &Parts) -> Result<Self, Failure> {
        Self::as_caller(shared, parts, &caller(parts)?).await
    }

    /// Lets in this caller, for whom the request is.
    async fn as_caller(shared: &Shared, parts: &Parts, caller: &Caller) -> Result<Self, Failure> {
        if shared.is_draining() {
            return Err((&BusError::Draining { what: "the gateway".into() }).into());
        }
        let stranger = parts.extensions.get::<Arc<Stranger>>().ok_or_else(unknown)?;
        let client = shared.api.clients.of(shared, caller, stranger).await?;
        Ok(Self { client, has_shown: caller.has_shown() })
    }

    /// What an error means for who has asked.
    fn failure(&self, error: &BusError) -> Failure {
        Failure::of(error, &self.client, self.has_shown)
    }
}

/// Who has sent this request, as far as its headers say.
fn caller(parts: &Parts) -> Result<Caller, Failure> {
    let Remote(address) = parts.extensions.get::<Remote>().copied().ok_or_else(unknown)?;
    Caller::of(&parts.headers, address)
}

/// The server tells of each request where it comes from.
fn unknown() -> Failure {
    let detail = "it is not known where the request comes from";
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
}

/// An answer as JSON.
fn json<T: Serialize>(value: &T) -> Response {
    // Numbers, texts and lists can always be written.
    json_text(serde_json::to_vec(value).unwrap_or_default())
}

/// An answer that is JSON already.
fn json_text(text: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static(body::JSON);
    // What one caller may read is not for whoever asks a cache for the same.
    let fresh = HeaderValue::from_static("no-store");
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, fresh)], text).into_response()
}
