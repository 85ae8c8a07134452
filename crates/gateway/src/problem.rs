//! Errors as `application/problem+json` (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use whispeer::BusError;

/// What went wrong with a request.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// What kind of problem this is, in words that do not change: `about:blank`, as the status says it.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The name of the status.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 404)]
    status: u16,
    /// What was tried, what went wrong, and what to do.
    detail: String,
    /// The name of the error, where it is one of the bus's: what programs may look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "no-server")]
    code: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code: None,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    #[must_use]
    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The name of the error, if it has one.
    pub(crate) fn code_name(&self) -> Option<&'static str> {
        self.code
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<&BusError> for Problem {
    /// What the bus says, with the status that HTTP has for it.
    fn from(error: &BusError) -> Self {
        use BusError as E;
        let (status, code) = match error {
            E::InvalidTopic(_) => (StatusCode::BAD_REQUEST, "invalid-topic"),
            E::InvalidSettings(_) => (StatusCode::BAD_REQUEST, "invalid-settings"),
            E::Encode { .. } => (StatusCode::BAD_REQUEST, "encode"),
            E::ReservedTopic { .. } => (StatusCode::FORBIDDEN, "reserved-topic"),
            E::Denied { .. } => (StatusCode::FORBIDDEN, "denied"),
            E::FrameTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            E::HeadersTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "headers-too-large"),
            E::AlreadyServed { .. } => (StatusCode::CONFLICT, "already-served"),
            E::NotDurable { .. } => (StatusCode::CONFLICT, "not-durable"),
            E::ConsumerBusy { .. } => (StatusCode::CONFLICT, "consumer-busy"),
            E::Decode { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "decode"),
            E::Refused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            E::Sealed { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "sealed"),
            E::LimitReached { .. } => (StatusCode::TOO_MANY_REQUESTS, "limit-reached"),
            E::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            E::Full | E::QueueFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "full"),
            E::NotStored { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not-stored"),
            E::NoServer { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no-server"),
            E::Draining { .. } | E::Closed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            E::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "timed-out"),
            E::Replied(_) => (StatusCode::BAD_GATEWAY, "error-reply"),
            E::Abandoned { .. } => (StatusCode::BAD_GATEWAY, "abandoned"),
            E::ServerGone { .. } => (StatusCode::BAD_GATEWAY, "server-gone"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        Self::new(status, error.to_string()).code(code)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        // A structure of texts and numbers can always be written.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}
