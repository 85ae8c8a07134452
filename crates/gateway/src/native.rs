//! The bus's own protocol at `/bus`: frames in the binary messages of a WebSocket, as at `ws://` addresses.
//!
//! The gateway does the handshake of WebSocket, which gives the page's origin and the caller's rate their say, and hands the
//! connection to the bus, which does everything else: who it is, what it may do, how long it may be silent.
//!
//! The connection counts among the gateway's, in all and of its address, for as long as it is there, as well as among the bus's
//! sessions. The bus lets one address have sixteen times as many as the gateway does, and whoever opens them here takes
//! the descriptors that the gateway's bounds are to spare.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};
use whispeer::auth::Principal;
use whispeer::transport::{Peer, WEBSOCKET_PROTOCOL, websocket_link_holding};

use crate::problem::Problem;
use crate::shared::{Remote, Shared};
use crate::stream::TimedStream;
use crate::websocket::Upgrade;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/bus", get(upgrade))
}

async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(Remote(address)): Extension<Remote>,
    headers: HeaderMap,
    upgrade: Result<Upgrade, Problem>,
) -> Response {
    let upgrade = match upgrade.and_then(|upgrade| named(&headers).map(|()| upgrade)) {
        Ok(upgrade) => upgrade,
        Err(problem) => return problem.into_response(),
    };
    let protocol = HeaderValue::from_static(WEBSOCKET_PROTOCOL);
    upgrade.header(SEC_WEBSOCKET_PROTOCOL, protocol).then(async move |stream, early| {
        if let Err(reason) = attach(&shared, stream, &early, address) {
            shared.metrics.refused("bus", "upgrade");
            tracing::debug!(%address, reason, "no session for a WebSocket at /bus");
        }
    })
}

/// Whether a request asks for a WebSocket that carries frames.
fn named(headers: &HeaderMap) -> Result<(), Problem> {
    let named = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut named = named.iter().filter_map(|names| names.to_str().ok()).flat_map(|names| names.split(','));
    match named.any(|name| name.trim() == WEBSOCKET_PROTOCOL) {
        true => Ok(()),
        false => Err(Problem::bad_request(format!(
            "the sub-protocol {WEBSOCKET_PROTOCOL} has to be named (Sec-WebSocket-Protocol)"
        ))),
    }
}

/// Hands a connection to the bus.
fn attach(shared: &Shared, stream: TimedStream, early: &[u8], address: SocketAddr) -> Result<(), String> {
    if !early.is_empty() {
        return Err("something follows the request before it was answered".into());
    }
    // It keeps its place among the gateway's connections: here it came in. The mutex, which nobody locks, makes that one shareable.
    let (stream, place) = stream.into_parts();
    let link = websocket_link_holding(stream, Mutex::new(place)).map_err(|error| error.to_string())?;
    let peer = Peer::new(Principal::Network { address }, "ws");
    shared.bus.attach(link, peer).map_err(|error| error.to_string())
}
