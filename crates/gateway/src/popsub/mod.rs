//! The dialect of PopSub: JSON over WebSocket, with logins, replay and acknowledgements.
//!
//! ```text
//! login ─► users ─► a token          auth ─► a session of the bus
//! publish ─► recent ─► the bus ─┬─► subscriptions ─► joining ─► unacked ─► the socket
//!                               └─► rings ──feed──────▲
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `messages` | what clients say and are answered |
//! | `session`, `operations` | a socket's task, and what takes its time beside it |
//! | `deadline` | until when a session may go on |
//! | `users`, `guesses` | who may log in, tokens, and what wrong passwords cost |
//! | `broadcast` | messages of the bus in the form of the dialect, made once for all sockets |
//! | `ring`, `rings` | the last messages of each topic |
//! | `joining` | how a subscription gets from these to what comes |
//! | `unacked` | what is sent again until it is acknowledged |
//! | `recent` | what was published twice |

mod broadcast;
mod deadline;
mod guesses;
mod joining;
mod messages;
mod operations;
mod recent;
mod ring;
mod rings;
mod session;
mod unacked;
mod users;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::{Method, StatusCode, header};
use whispeer::limits as bus;

use self::broadcast::Ids;
use self::recent::Recent;
use self::rings::Rings;
use self::session::Session;
use self::users::Users;
use crate::gateway::GatewayError;
use crate::limits;
use crate::problem::Problem;
use crate::settings::PopSub as Settings;
use crate::shared::{Remote, Shared};
use crate::socket::Socket;
use crate::websocket::Upgrade;

/// The dialect, as it is counted.
const NAME: &str = "popsub";

/// Who has issued what its users are known by.
const ISSUER: &str = "popsub";

/// What all sessions of the dialect share.
pub(crate) struct PopSub {
    users: Users,
    rings: Rings,
    recent: Recent,
    ids: Ids,
}

impl PopSub {
    /// # Errors
    /// For a setting that cannot be used.
    pub(crate) fn new(settings: &Settings) -> Result<Self, GatewayError> {
        let refused = |why: String| Err(GatewayError::Settings(format!("in the settings of PopSub, {why}")));
        let most = limits::POPSUB_REPLAY;
        let replays = settings.replay_of.iter().map(|(_, replay)| replay);
        if replays.chain([&settings.replay]).any(|replay| *replay > most) {
            return refused(format!(
                "a replay of more than {most} messages is too long; keep them in a stream of the bus"
            ));
        }
        if settings.buffer == 0 || settings.buffer > bus::WINDOW_MESSAGES_MAX {
            let most = bus::WINDOW_MESSAGES_MAX;
            return refused(format!(
                "a buffer of {} messages cannot be; give one of 1 to {most}",
                settings.buffer
            ));
        }
        if settings.ack_timeout.as_millis() == 0 {
            return refused("an ack timeout of 0 would send all the time; give one of 1 ms or more".into());
        }
        Ok(Self {
            users: Users::new(settings)?,
            rings: Rings::new(settings),
            recent: Recent::new(),
            ids: Ids::new(),
        })
    }
}

/// Where it is spoken.
pub(crate) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    match &shared.popsub {
        Some(_) => Router::new().route("/popsub", get(open)),
        None => Router::new(),
    }
}

/// Takes WebSockets at `/` where the settings say so, and lets everything else pass.
pub(crate) async fn at_root(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_spoken = shared.settings.popsub.as_ref().is_some_and(|popsub| popsub.at_root);
    let asks = |name: &str| name.eq_ignore_ascii_case("websocket");
    let is_upgrade =
        request.headers().get(header::UPGRADE).is_some_and(|value| value.to_str().is_ok_and(asks));
    if !(is_spoken && is_upgrade && request.method() == Method::GET && request.uri().path() == "/") {
        return next.run(request).await;
    }
    let (mut parts, _) = request.into_parts();
    let Some(remote) = parts.extensions.get::<Remote>().copied() else { return missing_remote() };
    let upgrade = Upgrade::from_request_parts(&mut parts, &()).await;
    open(State(shared), Extension(remote), upgrade).await
}

async fn open(
    State(shared): State<Arc<Shared>>,
    Extension(Remote(address)): Extension<Remote>,
    upgrade: Result<Upgrade, Problem>,
) -> Response {
    if shared.is_draining() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "it is draining; go elsewhere").into_response();
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(refused) => {
            let why = "this path is for WebSocket (RFC 6455), with the dialect of PopSub";
            return Problem::new(refused.status(), why).into_response();
        }
    };
    let place = shared.socket_place();
    upgrade.then(move |stream, early| {
        let socket = Socket::new(stream, early, Arc::clone(&shared), place, address.ip(), NAME);
        Box::pin(Session::new(shared, socket, address.ip()).run())
    })
}

/// The server notes for each request where it comes from.
fn missing_remote() -> Response {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "it is not known where the request comes from")
        .into_response()
}
