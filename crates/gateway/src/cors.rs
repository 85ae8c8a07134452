//! What browsers are told of who may ask and read answers: the same as is let in.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, request};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::api::MESSAGE_HEADER_PREFIX;
use crate::routes::REQUEST_ID;
use crate::shared::{Remote, Shared};

/// How long a browser may remember what it was told of a page: Chromium's own bound. A page whose origin is taken from the list
/// is refused at once all the same, by its requests.
const REMEMBERED: Duration = Duration::from_secs(2 * 60 * 60);

/// Headers that pages may send, beside those of messages.
const SENT: [HeaderName; 7] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-api-key"),
    REQUEST_ID,
];

/// Headers of answers that pages may read, beside those that any may.
const READ: [HeaderName; 3] = [REQUEST_ID, header::RETRY_AFTER, header::WWW_AUTHENTICATE];

/// What answers depend on beside who asks: caches keep them apart by it.
const VARIES: [HeaderName; 6] = [
    header::ORIGIN,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-dest"),
];

/// Tells pages of listed origins that they may, also where they are refused for another reason: they can read that one then.
pub(crate) fn layer(shared: &Arc<Shared>) -> CorsLayer {
    let listed = Arc::clone(shared);
    let is_listed = move |origin: &HeaderValue, _: &request::Parts| listed.origins.lists(origin);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_listed))
        .allow_methods([Method::GET, Method::POST])
        // Those that `preflight` has left.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(READ)
        .max_age(REMEMBERED)
        .vary(VARIES)
}

/// Sees to a browser's question of what a page may ask before [`layer`] answers it: leaves of the headers that the page would
/// send those that it may.
///
/// It counts as a request and is not refused for the rate: to answer costs no more, and a page whose question is
/// refused is told nothing, not even to wait.
pub(crate) async fn preflight(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::OPTIONS {
        return next.run(request).await;
    }
    if let Err(problem) = shared.origins.check(request.headers(), request.uri()) {
        return problem.into_response();
    }
    if let Some(Remote(address)) = request.extensions().get() {
        let _counted = shared.rates.check(address.ip());
    }
    leave_what_may_be_sent(request.headers_mut());
    next.run(request).await
}

fn leave_what_may_be_sent(headers: &mut HeaderMap) {
    let asked = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let asked = asked.filter_map(|names| names.to_str().ok()).flat_map(|names| names.split(','));
    let names = asked.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    let left: Vec<HeaderName> = names
        .filter(|name| SENT.contains(name) || name.as_str().starts_with(MESSAGE_HEADER_PREFIX))
        .collect();
    headers.remove(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let left: Vec<&str> = left.iter().map(HeaderName::as_str).collect();
    if !left.is_empty()
        && let Ok(left) = HeaderValue::from_str(&left.join(","))
    {
        headers.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(asked: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for names in asked {
            headers.append(
                header::ACCESS_CONTROL_REQUEST_HEADERS,
                HeaderValue::from_bytes(names.as_bytes()).unwrap(),
            );
        }
        leave_what_may_be_sent(&mut headers);
        let mut left = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let first = left.next().map(|left| left.to_str().unwrap().to_owned());
        assert_eq!(left.next(), None);
        first
    }

    #[test]
    fn pages_may_send_listed_headers_and_those_of_messages_and_no_others() {
        assert_eq!(left(&["authorization,content-type"]).as_deref(), Some("authorization,content-type"));
        let asked = [
            "Whispeer-Header-Shop, cookie,x-api-key",
            "whispeer-header-a,, x whispeer-header-b",
            "content-type, ü",
        ];
        assert_eq!(left(&asked).as_deref(), Some("whispeer-header-shop,x-api-key,whispeer-header-a"));
        assert_eq!(left(&["cookie, *"]), None);
        assert_eq!(left(&[]), None);
    }
}
