//! Publishing over HTTP.

use std::borrow::Cow;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use whispeer::client::{Headers, PublishOptions};
use whispeer::{BusError, BusResult};

use super::channels::channel_of;
use super::commands::{Fault, error};
use super::{Context, NAME};
use crate::message::payload_of;
use crate::received::{self, BodyFault};
use crate::traced::{Sending, push_trace};
use crate::tracer::Operation;

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
    let mut headers = Headers::new();
    push_trace(request.headers(), &mut headers);
    let limit = context.shared.settings.body_limit;
    let received = received::body(request.into_body(), limit, &context.shared.budget).await;
    let (body, _claim) = received.map_err(|fault| match fault {
        BodyFault::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Fault::TooLarge),
        BodyFault::TooSlow => (StatusCode::REQUEST_TIMEOUT, Fault::BadCommand),
        BodyFault::Busy => (StatusCode::SERVICE_UNAVAILABLE, Fault::Failed),
        BodyFault::Broken(_) => (StatusCode::BAD_REQUEST, Fault::BadCommand),
    })?;
    pass_on(context, &body, headers).await
}

async fn pass_on(context: &Context, body: &[u8], mut headers: Headers) -> Published {
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
    context.shared.metrics.came(NAME, &payload);
    let published = async {
        let publisher = context.turbine.publisher(&context.shared).await?;
        let operation = Operation::Publish { topic: Some(channel.as_str()), batch: None };
        let sending = Sending::begin(&context.shared, &operation, &mut headers);
        let options = PublishOptions::default().headers(headers);
        let published = publisher.publish_bytes_with(channel.as_str(), payload, options).await;
        sending.end(published.as_ref().err());
        let matched = published?;
        // Of the subscriptions that the bus has counted, several may be of one session. It is published, whatever is said of that.
        let reached = context.shared.bus.reached(&channel).await.unwrap_or(matched);
        BusResult::Ok(reached.min(matched))
    };
    match timeout(context.shared.settings.request_timeout, published).await {
        Ok(published) => published.map_err(|error| refused(&error)),
        Err(_) => Err((StatusCode::GATEWAY_TIMEOUT, Fault::Failed)),
    }
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
