//! Which path leads where, and what every request passes.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tower_http::compression::CompressionLayer;
use tracing::Instrument;

use crate::cors;
use crate::limits;
use crate::native;
use crate::origins::Origins;
use crate::pages;
use crate::problem::Problem;
use crate::scrape;
use crate::shared::{Remote, Shared};
use crate::traced;
use crate::tracer::Outcome;

/// Which request it is, in the log and in the answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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
        .layer(from_fn_with_state(Arc::clone(shared), pass))
        .layer(cors::layer(shared))
        .layer(from_fn_with_state(Arc::clone(shared), cors::preflight))
        .layer(from_fn_with_state(Arc::clone(shared), note))
}

/// Whether it can serve: `200` and `ready`, with a line for each of the bus's links to other systems, or `503` while it drains.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.is_draining() || shared.bus.is_draining() {
        // The bus serves its own whatever its links are like.
        false => {
            let links = shared.bus.links().unwrap_or_default();
            let ready = links
                .iter()
                .fold("ready".to_owned(), |text, link| text + &format!("\n{}: {}", link.name, link.state));
            ready.into_response()
        }
        true => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "it is draining; go elsewhere").into_response(),
    }
}

/// Gives each request an id, counts and logs it, whatever is answered.
async fn note(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    // What is in no route is one more, so that nobody makes up series of counts.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let recorded = traced::answering(&shared, route.as_deref(), &mut request);
    let route = shared.metrics.route(route.as_deref());
    let id = request_id(request.headers());
    let remote = request.extensions().get::<Remote>().copied();
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        %method,
        route,
        trace_id = traced::trace_id(request.headers()),
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let (status, took) = (response.status(), begun.elapsed());
    shared.metrics.answered(route, &method, status, took);
    if let Some(recorded) = recorded {
        recorded.end(Outcome::Answered(status.as_u16()));
    }
    span.in_scope(|| match remote {
        Some(Remote(address)) => tracing::info!(status = status.as_u16(), ?took, %address, "answered"),
        None => tracing::info!(status = status.as_u16(), ?took, "answered"),
    });
    response
}

/// Lets a request pass if it may: asks for origin, site and rate.
async fn pass(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // What is in no route is a page, if there are any.
    let is_page = shared.settings.pages.is_some() && request.extensions().get::<MatchedPath>().is_none();
    let (headers, uri) = (request.headers(), request.uri());
    let checked = shared.origins.check(headers, uri);
    let checked = checked.and_then(|()| Origins::check_site(request.method(), headers, is_page));
    if let Err(problem) = checked {
        return problem.into_response();
    }
    let remote = request.extensions().get::<Remote>().copied();
    match remote.and_then(|remote| too_often(&shared, remote)) {
        Some(refused) => refused,
        None => next.run(request).await,
    }
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
