//! `/metrics`: what the bus and the gateway count, for Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, VARY, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use whispeer::bus::metrics::expose;

use crate::problem::Problem;
use crate::shared::{Remote, Shared};

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(
    State(shared): State<Arc<Shared>>,
    Extension(Remote(address)): Extension<Remote>,
    headers: HeaderMap,
) -> Response {
    let may = match &shared.settings.metrics_token {
        Some(token) => shows(&headers, token.reveal()),
        None => address.ip().to_canonical().is_loopback(),
    };
    if !may {
        return refused(shared.settings.metrics_token.is_some());
    }
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    match shared.metrics.with_registry(|registry| expose(registry, accept)) {
        Ok(exposition) => {
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static(exposition.content_type)),
                (VARY, HeaderValue::from_static("accept")),
            ];
            (headers, exposition.body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written; see the log")
                .into_response()
        }
    }
}

/// Whether a request shows this token. How much of it is right the time does not tell, as hashes are compared.
fn shows(headers: &HeaderMap, token: &str) -> bool {
    let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let shown = shown.strip_prefix(b"Bearer ").unwrap_or_default();
    digest(&SHA256, shown).as_ref().ct_eq(digest(&SHA256, token.as_bytes()).as_ref()).into()
}

fn refused(has_token: bool) -> Response {
    if !has_token {
        let detail =
            "without a token, metrics are served to this host alone; set one (`gateway.metrics_token`)";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    let mut response =
        Problem::new(StatusCode::UNAUTHORIZED, "metrics ask for a bearer token").into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
