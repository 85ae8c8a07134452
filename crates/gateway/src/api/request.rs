//! Requests to servers on the bus.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;
use whispeer::BusError;
use whispeer::client::RequestOptions;

use super::body::{self, Form};
use super::failure::Failure;
use super::params::Params;
use super::publish::message_headers;
use super::{DIALECT, Entered};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::traced::Sending;
use crate::tracer::Operation;

/// An error that the server answered with.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorReplied {
    #[serde(flatten)]
    problem: Problem,
    /// What the server said, where it is `error-reply`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Reply>,
}

/// What the server said.
#[derive(Serialize, ToSchema)]
pub(super) struct Reply {
    /// For programs.
    #[schema(example = "out_of_stock")]
    code: String,
    /// For people.
    #[schema(example = "none left of article 7")]
    message: String,
}

/// Asks the server of a topic.
///
/// The body is the request's payload, and the answer's body that of the answer: as JSON, or as it is where `Accept` asks for
/// `application/msgpack` or `application/octet-stream` first. Headers become those of the request as with publishing.
#[utoipa::path(
    post, path = "/api/v1/request", tag = "messages",
    params(
        ("topic" = String, Query, description = "Whose server to ask.", example = "echo"),
        ("timeout" = Option<f64>, Query, minimum = 0, description = "Seconds to wait for the answer; 30 by default, or what the gateway allows if that is less.", example = 5),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, which becomes a header of the request."),
        ("tracestate" = Option<String>, Header, description = "Likewise."),
    ),
    request_body(
        description = "The payload.",
        content(
            (super::openapi::Payload = "application/json", example = json!({"question": 42})),
            (super::openapi::Octets = "application/octet-stream"),
            (super::openapi::Octets = "application/msgpack"),
        ),
    ),
    responses(
        (status = 200, description = "The answer.", content(
            (super::openapi::Payload = "application/json"),
            (super::openapi::Octets = "application/octet-stream"),
            (super::openapi::Octets = "application/msgpack"),
        )),
        (status = 502, description = "The server answered with an error (`error-reply`), dropped the request (`abandoned`), or went away (`server-gone`).", body = ErrorReplied, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn request(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let params = Params::of(&parts.uri, &["topic", "timeout"])?;
    let topic = params.required("topic", "echo")?;
    let longest = shared.settings.request_timeout;
    let timeout =
        params.seconds("timeout", longest)?.unwrap_or(whispeer::limits::REQUEST_TIMEOUT.min(longest));
    let form = Form::of_body(&parts.headers)?;
    let mut headers = message_headers(&parts.headers)?;
    let entered = Entered::by(&shared, &parts).await?;
    let (body, _claim) = body::read(body, &shared).await?;
    let payload = form.read(body)?;
    shared.metrics.came(DIALECT, &payload);
    let sending = Sending::begin(&shared, &Operation::Request { topic }, &mut headers);
    let options = RequestOptions::default().timeout(timeout).headers(headers);
    let asked = entered.client.request_bytes_with(topic, payload, options).await;
    sending.end(asked.as_ref().err());
    match asked {
        Ok(answer) => {
            let form = Form::of_answer(&parts.headers);
            let (body, sealed) = form.write(answer);
            if sealed {
                shared.metrics.sealed(DIALECT);
            }
            let kind = HeaderValue::from_static(form.name());
            let fresh = HeaderValue::from_static("no-store");
            Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, fresh)], body).into_response())
        }
        Err(BusError::Replied(reply)) => {
            let failure = Failure::from(&BusError::Replied(reply.clone()));
            let reply = Reply { code: reply.code().to_owned(), message: reply.message().to_owned() };
            let said = ErrorReplied { problem: failure.problem().clone(), reply: Some(reply) };
            // Texts and numbers can always be written.
            Ok(failure.into_response_with(serde_json::to_vec(&said).unwrap_or_default()))
        }
        Err(error) => Err(entered.failure(&error)),
    }
}
