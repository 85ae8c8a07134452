//! Which path leads where, and what every request passes.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;

use crate::limits;
use crate::native;
use crate::pages;
use crate::problem::Problem;
use crate::scrape;
use crate::shared::{Remote, Shared};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// All that it serves.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    let nothing =
        async || Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path; see /api/openapi.json");
    let routes = match &shared.settings.pages {
        None => Router::new().fallback(nothing),
        Some(folder) => Router::new().fallback_service(pages::routes(folder)),
    };
    routes
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .merge(native::routes())
        .merge(scrape::routes())
        .merge(crate::turbine::routes(shared))
        .merge(crate::popsub::routes(shared))
        .merge(crate::api::routes(shared))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path is not asked so; see /api/openapi.json")
        })
        .with_state(Arc::clone(shared))
        .layer(from_fn_with_state(Arc::clone(shared), crate::popsub::at_root))
        .layer(DefaultBodyLimit::max(shared.settings.body_limit))
        .layer(CompressionLayer::new())
        .layer(cors(shared))
        .layer(from_fn_with_state(Arc::clone(shared), pass))
}

/// Whether it can serve: `200` and `ready`, or `503` while it drains.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.is_draining() || shared.bus.is_draining() {
        false => "ready".into_response(),
        true => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "it is draining; go elsewhere").into_response(),
    }
}

/// What browsers are told of who may read answers: the same as is let in.
fn cors(shared: &Arc<Shared>) -> CorsLayer {
    let listed = Arc::clone(shared);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| listed.origins.lists(origin)))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
            HeaderName::from_static("x-api-key"),
            REQUEST_ID,
        ])
        .expose_headers([REQUEST_ID, header::RETRY_AFTER])
}

/// Lets a request pass if it may: gives it an id, asks for origin and rate, counts and logs it.
async fn pass(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    // What is in no route is one more, so that nobody makes up series of counts.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = shared.metrics.route(route.as_deref());
    let id = request_id(request.headers());
    let remote = request.extensions().get::<Remote>().copied();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), %method, route);
    let refused =
        shared.origins.check(request.headers(), request.uri()).err().map(IntoResponse::into_response);
    let refused = refused.or_else(|| remote.and_then(|remote| too_often(&shared, remote)));
    let mut response = match refused {
        Some(refused) => refused,
        None => next.run(request).instrument(span.clone()).await,
    };
    response.headers_mut().insert(REQUEST_ID, id);
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let (status, took) = (response.status(), begun.elapsed());
    shared.metrics.answered(route, &method, status, took);
    span.in_scope(|| match remote {
        Some(Remote(address)) => tracing::info!(status = status.as_u16(), ?took, %address, "answered"),
        None => tracing::info!(status = status.as_u16(), ?took, "answered"),
    });
    response
}

/// The answer to who asks too often.
fn too_often(shared: &Shared, Remote(address): Remote) -> Option<Response> {
    let wait = shared.rates.check(address.ip()).err()?;
    shared.metrics.refused("http", "rate");
    let seconds = wait.as_secs().max(1);
    let problem = Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        format!(
            "more requests come from {} than {} in a second; try again in {seconds} s",
            address.ip(),
            shared.settings.rate
        ),
    );
    let mut response = problem.into_response();
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    Some(response)
}

/// The id of a request: its own if it brings one that can be put into a log, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=limits::REQUEST_ID_CHARS).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(fits).cloned().unwrap_or_else(|| {
        let mut bytes = [0; 16];
        // Where the system has no random numbers it is one that others may have, too.
        let _ = getrandom::fill(&mut bytes);
        HeaderValue::from_str(&format!("{:032x}", u128::from_be_bytes(bytes)))
            .unwrap_or_else(|_| HeaderValue::from_static("0"))
    })
}
