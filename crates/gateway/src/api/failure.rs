//! How a request to the API fails: a problem, and what HTTP says beside it.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use whispeer::{BusError, Client, ErrorClass};

use crate::problem::Problem;

/// Seconds after which somebody may try again who is told that there is no room at the moment.
const RETRY_AFTER: u64 = 1;

/// The answer to a request that fails.
#[derive(Debug)]
pub(crate) struct Failure {
    problem: Problem,
    /// What was wrong with the credentials, if that is why.
    challenge: Option<Challenge>,
}

/// How somebody is asked who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Challenge {
    /// He has shown nothing.
    Missing,
    /// What he has shown is not good, or no longer.
    Wrong,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Problem::new(status, detail).code(code).into()
    }

    pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(super) fn unauthorized(challenge: Challenge, detail: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, detail).code("unauthenticated");
        Self { problem, challenge: Some(challenge) }
    }

    /// Why the bus has not let somebody in.
    pub(super) fn of_handshake(error: &BusError, has_shown: bool) -> Self {
        match error {
            BusError::Denied { what } if has_shown => Self::unauthorized(
                Challenge::Wrong,
                format!("the credentials are not good: {what}; get new ones"),
            ),
            BusError::Denied { what } => Self::unauthorized(
                Challenge::Missing,
                format!("who asks has to say who he is, by `Authorization: Bearer TOKEN` or `Basic`: {what}"),
            ),
            // Whoever guesses passwords is slowed down.
            BusError::Overloaded { .. } if has_shown => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", error.to_string())
            }
            BusError::LimitReached { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "limit-reached", error.to_string())
            }
            error => error.into(),
        }
    }

    /// Why the bus did not do what this client asked for. What it says of a session that has ended is about who asks.
    pub(super) fn of(error: &BusError, client: &Client, has_shown: bool) -> Self {
        match client.close_reason() {
            Some(ended @ BusError::Denied { .. }) => Self::of_handshake(&ended, has_shown),
            _ => error.into(),
        }
    }

    pub(super) fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Its answer with another body, that says more.
    pub(super) fn into_response_with(self, body: Vec<u8>) -> Response {
        let kind = HeaderValue::from_static("application/problem+json");
        self.complete((self.problem.status(), [(header::CONTENT_TYPE, kind)], body).into_response())
    }

    fn complete(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        let status = self.problem.status();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
        }
        if let Some(challenge) = self.challenge {
            let bearer = match challenge {
                Challenge::Missing => "Bearer realm=\"whispeer\"",
                Challenge::Wrong => "Bearer realm=\"whispeer\", error=\"invalid_token\"",
            };
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
            let basic = HeaderValue::from_static("Basic realm=\"whispeer\", charset=\"UTF-8\"");
            headers.append(header::WWW_AUTHENTICATE, basic);
        }
        response
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { problem, challenge: None }
    }
}

impl From<&BusError> for Failure {
    fn from(error: &BusError) -> Self {
        match error {
            BusError::Closed { .. } => Problem::from(error).into(),
            // The caller's session has ended, as the bus may; who asks again has another.
            error if error.class() == ErrorClass::Link => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "disconnected", error.to_string())
            }
            error => Problem::from(error).into(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let response = self.problem.clone().into_response();
        self.complete(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_go_well_at_another_time_says_when_to_try_again() {
        let lost = BusError::Disconnected { reason: "the bus has ended".into() };
        let busy = BusError::Overloaded { what: "passwords".into() };
        for (failure, status) in [
            (Failure::from(&lost), 503),
            (Failure::from(&busy), 503),
            (Failure::of_handshake(&busy, false), 503),
            (Failure::of_handshake(&busy, true), 429),
            (Failure::of_handshake(&BusError::LimitReached { what: "sessions".into() }, true), 503),
        ] {
            let response = failure.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
        let wrong = Failure::bad_request("json", "no JSON").into_response();
        assert!(wrong.headers().get(header::RETRY_AFTER).is_none());
    }
}
