//! The handshake.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tungstenite::handshake::server::create_response;

use crate::problem::Problem;
use crate::stream::TimedStream;

/// A request that asks for a WebSocket.
pub(crate) struct Upgrade {
    answer: Response,
    pending: OnUpgrade,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

impl Upgrade {
    fn of(parts: &mut Parts) -> Result<Self, Problem> {
        let mut asked = http::Request::builder().method(&parts.method).uri(&parts.uri).version(parts.version);
        if let Some(headers) = asked.headers_mut() {
            headers.clone_from(&parts.headers);
        }
        let asked = asked.body(()).map_err(|error| Problem::bad_request(error.to_string()))?;
        let answer = create_response(&asked).map_err(|error| {
            let what = format!("WebSocket (RFC 6455), version 13, is spoken here: {error}");
            Problem::new(StatusCode::UPGRADE_REQUIRED, what)
        })?;
        let Some(pending) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(Problem::bad_request("this connection cannot become a WebSocket"));
        };
        Ok(Self { answer: answer.map(|()| Body::empty()), pending })
    }

    /// Adds a header to the answer.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.answer.headers_mut().insert(name, value);
        self
    }

    /// The answer. When it has left, `run` is given the connection, and what has come behind the request.
    pub(crate) fn then<R>(self, run: impl FnOnce(TimedStream, Bytes) -> R + Send + 'static) -> Response
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let pending = self.pending;
        // It ends with the connection, and the gateway waits for its sockets when it drains.
        tokio::spawn(async move {
            match pending.await.map_err(|error| error.to_string()).and_then(stream_of) {
                Ok((stream, early)) => run(stream, early).await,
                Err(reason) => tracing::debug!(reason, "a connection did not become a WebSocket"),
            }
        });
        self.answer
    }
}

/// The connection itself.
fn stream_of(upgraded: Upgraded) -> Result<(TimedStream, Bytes), String> {
    let parts =
        upgraded.downcast::<TokioIo<TimedStream>>().map_err(|_| "it is no connection of this gateway")?;
    Ok((parts.io.into_inner(), parts.read_buf))
}
