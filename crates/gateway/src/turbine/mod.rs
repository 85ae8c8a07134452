//! The dialect of Turbine: at `/ws` commands and publications in JSON, and `POST /api/publish`.
//!
//! | file | what it holds |
//! |---|---|
//! | `commands` | what a socket may say, and what it is told |
//! | `channels` | which channels there are, and which a token lists |
//! | `session` | a socket from its opening to its end |
//! | `publish` | publishing over HTTP |
//!
//! A channel is a topic of the bus, as it is written. Each socket that has connected is a session of the bus, of the principal
//! that its token is made out to; what is published over HTTP comes from one session that all share.

mod channels;
mod commands;
mod publish;
mod session;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};
use whispeer::auth::Principal;
use whispeer::transport::Peer;
use whispeer::{BusResult, Client};

use crate::gateway::GatewayError;
use crate::limits;
use crate::problem::Problem;
use crate::settings;
use crate::shared::{Remote, Shared};
use crate::socket::Socket;
use crate::token::TokenKey;
use crate::websocket::Upgrade;

/// By which it is counted, and its sessions are listed at the bus.
const NAME: &str = "turbine";

/// What its sockets and requests share.
pub(crate) struct Turbine {
    settings: settings::Turbine,
    key: TokenKey,
    /// Keys are compared by their hashes, which all have one length.
    api_keys: Vec<[u8; 32]>,
    /// The session that publishes what comes over HTTP; another takes its place when it has ended.
    publisher: Mutex<Option<Client>>,
}

impl Turbine {
    /// # Errors
    /// For a setting that cannot be used.
    pub(crate) fn new(settings: &settings::Turbine) -> Result<Self, GatewayError> {
        let refused = |text: String| Err(GatewayError::Settings(text));
        for key in &settings.api_keys {
            let bytes = key.reveal().len();
            if bytes < limits::API_KEY_BYTES {
                return refused(format!(
                    "a key of Turbine's API has {bytes} bytes, and one of fewer than {} can be guessed; draw one with \
                     `openssl rand -base64 24`",
                    limits::API_KEY_BYTES
                ));
            }
        }
        let most = whispeer::limits::WINDOW_MESSAGES_MAX;
        if !(1..=most).contains(&settings.buffer) {
            return refused(format!(
                "a buffer of Turbine's of {} messages cannot be; give it from 1 to {most}",
                settings.buffer
            ));
        }
        Ok(Self {
            key: TokenKey::new("Turbine", &settings.key, settings.audience.as_deref())?,
            api_keys: settings.api_keys.iter().map(|key| hash(key.reveal().as_bytes())).collect(),
            publisher: Mutex::default(),
            settings: settings.clone(),
        })
    }

    /// Whether it is one of the keys. All are compared, each in a time that does not tell how much of it fits.
    fn is_api_key(&self, key: &[u8]) -> bool {
        let key = hash(key);
        let none = Choice::from(0);
        self.api_keys.iter().fold(none, |found, known| found | known.ct_eq(&key)).into()
    }

    async fn publisher(&self, shared: &Shared) -> BusResult<Client> {
        let known = || {
            let publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
            publisher.as_ref().filter(|client| client.close_reason().is_none()).cloned()
        };
        if let Some(client) = known() {
            return Ok(client);
        }
        let principal = Principal::Token { issuer: NAME.into(), subject: "api".into() };
        let peer = Peer::new(principal, NAME).granted(self.settings.publish_roles.clone());
        let client = shared.join_to_publish(shared.link(peer).await?, "turbine api")?;
        // Where several have made one at once, the last stays; the others end with what they publish now.
        *self.publisher.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // SHA-256 has 32 bytes.
    hash.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// What each socket and request is handed.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    turbine: Arc<Turbine>,
}

/// Its routes, if it is spoken.
pub(crate) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let Some(turbine) = &shared.turbine else { return Router::new() };
    let context = Context { shared: Arc::clone(shared), turbine: Arc::clone(turbine) };
    Router::new().route("/ws", get(socket)).route("/api/publish", post(publish::publish)).with_state(context)
}

async fn socket(
    State(context): State<Context>,
    Extension(Remote(address)): Extension<Remote>,
    upgrade: Result<Upgrade, Problem>,
) -> Response {
    match upgrade {
        Ok(upgrade) => open(upgrade, context, address),
        Err(refused) => {
            let what = "this path is for WebSocket (RFC 6455); open it with `new WebSocket(\"ws://…/ws\")` or the like";
            Problem::new(refused.status(), what).into_response()
        }
    }
}

fn open(upgrade: Upgrade, context: Context, address: SocketAddr) -> Response {
    if context.shared.is_draining() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "it is draining; go elsewhere").into_response();
    }
    let place = context.shared.socket_place();
    upgrade.then(move |stream, early| {
        let socket = Socket::new(stream, early, Arc::clone(&context.shared), place, address.ip(), NAME);
        Box::pin(session::run(socket, context))
    })
}

#[cfg(test)]
mod tests;
