//! Publishing over HTTP.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use whispeer::BusError;
use whispeer::client::PublishOptions;

use super::channels::channel_of;
use super::commands::{Fault, error};
use super::{Context, NAME};
use crate::limits;
use crate::message::payload_of;

/// The header that has a key.
const API_KEY: &str = "x-api-key";

/// What was published reached so many sessions, or why it was not.
type Published = Result<usize, (StatusCode, Fault)>;

/// `POST /api/publish`: a channel and data, of whoever has a key.
pub(super) async fn publish(State(context): State<Context>, request: Request) -> Response {
    let (status, body) = match receive(&context, request).await {
        Ok(delivered) => (StatusCode::OK, format!(r#"{{"ok":true,"delivered":{delivered}}}"#)),
        Err((status, fault)) => {
            context.shared.metrics.refused(NAME, fault.reason());
            (status, format!(r#"{{"ok":false,"error":{}}}"#, error(fault)))
        }
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn receive(context: &Context, request: Request) -> Published {
    // Nothing of a body is read for who has no key.
    let mut keys = request.headers().get_all(API_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if context.turbine.is_api_key(key.as_bytes()) => {}
        _ => return Err((StatusCode::UNAUTHORIZED, Fault::NotAuthenticated)),
    }
    let options = traced(request.headers());
    let body = match timeout(limits::BODY_TIME, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(refused)) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, Fault::TooLarge));
        }
        Ok(Err(_)) => return Err((StatusCode::BAD_REQUEST, Fault::BadCommand)),
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, Fault::BadCommand)),
    };
    pass_on(context, &body, options).await
}

async fn pass_on(context: &Context, body: &[u8], options: PublishOptions) -> Published {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        channel: Cow<'a, str>,
        #[serde(borrow)]
        data: &'a RawValue,
    }

    let bad = |fault| (StatusCode::BAD_REQUEST, fault);
    let body = std::str::from_utf8(body).map_err(|_| bad(Fault::BadText))?;
    let body: Body<'_> = serde_json::from_str(body).map_err(|_| bad(Fault::BadCommand))?;
    let channel = channel_of(&body.channel, context.turbine.settings.patterns).map_err(bad)?;
    let payload = payload_of(body.data.get()).map_err(|_| bad(Fault::BadData))?;
    let published = async {
        let publisher = context.turbine.publisher(&context.shared)?;
        publisher.publish_bytes_with(channel.as_str(), payload, options).await
    };
    let matched = match timeout(context.shared.settings.request_timeout, published).await {
        Ok(Ok(matched)) => matched,
        Ok(Err(error)) => return Err(refused(&error)),
        Err(_) => return Err((StatusCode::GATEWAY_TIMEOUT, Fault::Failed)),
    };
    Ok(matched.saturating_sub(context.turbine.sessions.surplus(&channel).await))
}

/// What the bus says, with the status that HTTP has for it.
fn refused(error: &BusError) -> (StatusCode, Fault) {
    let fault = Fault::from(error);
    tracing::debug!(%error, "a message of the API was not published");
    let status = match error {
        BusError::Draining { .. } | BusError::Closed { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::from_u16(fault.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    (status, fault)
}

/// Sends the trace along that a request is part of (W3C Trace Context), if it says so in the form that it has to.
fn traced(headers: &HeaderMap) -> PublishOptions {
    let options = PublishOptions::default();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(parent) = text("traceparent").filter(|parent| is_parent(parent)) else { return options };
    let options = options.header("traceparent", parent);
    match text("tracestate").filter(|state| (1..=limits::TRACE_STATE_BYTES).contains(&state.len())) {
        Some(state) => options.header("tracestate", state),
        None => options,
    }
}

/// Whether it is version, trace, span and flags in hexadecimal, with ids that are not 0. Later versions may add to that.
fn is_parent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut part = |chars: usize| {
        let part = parts.next().unwrap_or_default();
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == chars && is_hex).then_some(part)
    };
    let (version, trace, span, flags) = (part(2), part(32), part(16), part(2));
    let is_some = |id: Option<&str>| id.is_some_and(|id| id.bytes().any(|digit| digit != b'0'));
    let fits = is_some(trace) && is_some(span) && flags.is_some();
    fits && match version {
        Some("00") => text.len() == 55,
        Some("ff") | None => false,
        Some(_) => text.len() <= limits::TRACE_PARENT_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_passed_on_if_it_is_one() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_parent(parent));
        assert!(is_parent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later"));
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(!is_parent(wrong), "{wrong}");
        }
        assert!(!is_parent(&format!("cc{}-{}", &parent[2..], "x".repeat(1_000))));
    }
}
