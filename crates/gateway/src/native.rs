//! The bus's own protocol at `/bus`: frames in the binary messages of a WebSocket, as at `ws://` addresses.
//!
//! The gateway does the handshake of WebSocket, which gives the page's origin and the caller's rate their say, and hands the
//! connection to the bus, which does everything else: who it is, what it may do, how long it may be silent.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tungstenite::handshake::server::create_response;
use whispeer::auth::Principal;
use whispeer::transport::{Peer, WEBSOCKET_PROTOCOL, websocket_link};

use crate::problem::Problem;
use crate::shared::{Remote, Shared};
use crate::stream::TimedStream;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/bus", get(upgrade))
}

async fn upgrade(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    let Some(Remote(address)) = request.extensions().get::<Remote>().copied() else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "it is not known who asks").into_response();
    };
    let answer = match answer(&request) {
        Ok(answer) => answer,
        Err(problem) => return problem.into_response(),
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Problem::bad_request("this connection cannot become a WebSocket").into_response();
    };
    // It ends when the answer has left, or the connection has.
    tokio::spawn(async move {
        let attached = match upgrade.await {
            Ok(upgraded) => attach(&shared, upgraded, address),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = attached {
            shared.metrics.refused("bus", "upgrade");
            tracing::debug!(%address, reason, "no session for a WebSocket at /bus");
        }
    });
    answer
}

/// The answer to a request that asks for a WebSocket which carries frames.
fn answer(request: &Request) -> Result<Response, Problem> {
    let named = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut named = named.iter().filter_map(|names| names.to_str().ok()).flat_map(|names| names.split(','));
    if !named.any(|name| name.trim() == WEBSOCKET_PROTOCOL) {
        return Err(Problem::bad_request(format!(
            "the sub-protocol {WEBSOCKET_PROTOCOL} has to be named (Sec-WebSocket-Protocol)"
        )));
    }
    let mut asked =
        http::Request::builder().method(request.method()).uri(request.uri()).version(request.version());
    if let Some(headers) = asked.headers_mut() {
        headers.extend(request.headers().clone());
    }
    let asked = asked.body(()).map_err(|error| Problem::bad_request(error.to_string()))?;
    let mut answer = create_response(&asked).map_err(|error| {
        Problem::new(StatusCode::UPGRADE_REQUIRED, format!("WebSocket, version 13, is spoken here: {error}"))
    })?;
    answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(WEBSOCKET_PROTOCOL));
    Ok(answer.map(|()| Body::empty()))
}

/// Hands a connection to the bus.
fn attach(shared: &Shared, upgraded: Upgraded, address: std::net::SocketAddr) -> Result<(), String> {
    let parts =
        upgraded.downcast::<TokioIo<TimedStream>>().map_err(|_| "it is no connection of this gateway")?;
    if !parts.read_buf.is_empty() {
        return Err("something follows the request before it was answered".into());
    }
    // Its place among the gateway's connections is free: it is one of the bus's own.
    let (stream, _place) = parts.io.into_inner().into_parts();
    let link = websocket_link(stream).map_err(|error| error.to_string())?;
    let peer = Peer::new(Principal::Network { address }, "ws");
    shared.bus.attach(link, peer).map_err(|error| error.to_string())
}
