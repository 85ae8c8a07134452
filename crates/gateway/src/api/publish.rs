//! Publishing.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;
use whispeer::client::{Headers, PublishOptions, Quality};

use super::body::{self, Form};
use super::failure::Failure;
use super::params::{Params, seconds};
use super::{DIALECT, Entered, batch, json};
use crate::shared::Shared;
use crate::traced::{Sending, push_trace};
use crate::tracer::Operation;

/// By what a message's headers begin where they stand among those of a request.
pub(crate) const MESSAGE_HEADER_PREFIX: &str = "whispeer-header-";

/// The longest time that a message may be kept or be of use: what the bus takes.
const LONGEST: std::time::Duration = whispeer::limits::DELAY_MAX;

/// What became of a message.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Published {
    /// Subscriptions that it matched, a queue group as one. 0 for one that is published later.
    #[schema(example = 2)]
    pub(super) matches: usize,
    /// It was asked to be stored (`quality` 1 or 2), and is.
    #[schema(example = false)]
    pub(super) stored: bool,
}

/// How a message is published beside its topic and payload.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) quality: Option<u8>,
    pub(super) ttl: Option<f64>,
    pub(super) deliver_in: Option<f64>,
    pub(super) headers: Headers,
}

impl Options {
    /// Those of the query and the headers of a request.
    fn of(params: &Params, headers: &HeaderMap) -> Result<Self, Failure> {
        let number = |name| {
            let time = params.seconds(name, LONGEST)?;
            Ok::<_, Failure>(time.map(|time| time.as_secs_f64()))
        };
        Ok(Self {
            quality: params.number("quality", 0..=2)?,
            ttl: number("ttl")?,
            deliver_in: number("deliver_in")?,
            headers: message_headers(headers)?,
        })
    }

    /// What the bus is told, and whether the message is to be stored.
    pub(super) fn read(self) -> Result<(PublishOptions, bool), Failure> {
        let quality = match self.quality {
            None | Some(0) => Quality::AtMostOnce,
            Some(1) => Quality::AtLeastOnce,
            Some(2) => Quality::ExactlyOnce,
            Some(_) => return Err(Failure::bad_request("parameters", "`quality` is 0, 1 or 2")),
        };
        let mut options = PublishOptions::default().quality(quality).headers(self.headers);
        if let Some(time) = self.ttl {
            options = options.ttl(seconds("ttl", time, LONGEST)?);
        }
        if let Some(time) = self.deliver_in {
            options = options.deliver_in(seconds("deliver_in", time, LONGEST)?);
        }
        Ok((options, quality > Quality::AtMostOnce))
    }
}

/// Publishes a message, or many.
///
/// With `topic` the body is the payload of one message: JSON, which typed clients read as MessagePack, or a payload as it is.
/// Without, the body is a batch, `{"messages":[{"topic":"...","payload":...}]}`, of up to 1,024 messages, which are published in
/// order. Each has its own outcome; the answer is 200 whatever these are.
///
/// Headers of a request that begin with `Whispeer-Header-` become headers of the message, with the rest of their name in small
/// letters, and `traceparent` with `tracestate` likewise, if they are well-formed.
#[utoipa::path(
    post, path = "/api/v1/publish", tag = "messages",
    params(
        ("topic" = Option<String>, Query, description = "Where to publish, with wildcards to reach all that meet it. Without, the body is a batch.", example = "greetings/hello"),
        ("quality" = Option<u8>, Query, minimum = 0, maximum = 2, description = "0: it may be lost with the bus (default). 1: it is stored before this is answered; the topic has to be one of a stream. 2: and once, also if the gateway sends it again.", example = 0),
        ("ttl" = Option<f64>, Query, minimum = 0, maximum = 31622400, description = "Seconds for which it is of use; for ever by default."),
        ("deliver_in" = Option<f64>, Query, minimum = 0, maximum = 31622400, description = "Seconds after which it is published; at once by default."),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, which becomes a header of the message."),
        ("tracestate" = Option<String>, Header, description = "Likewise."),
    ),
    request_body(
        description = "The payload, or a batch.",
        content(
            (super::openapi::PublishBody = "application/json", example = json!({"greeting": "hello"})),
            (super::openapi::Octets = "application/octet-stream"),
            (super::openapi::Octets = "application/msgpack"),
        ),
    ),
    responses((status = 200, description = "What became of it.", body = super::openapi::PublishAnswer)),
)]
pub(super) async fn publish(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let params = Params::of(&parts.uri, &["topic", "quality", "ttl", "deliver_in"])?;
    let topic = params.one("topic")?;
    let form = Form::of_body(&parts.headers)?;
    let mut options = Options::of(&params, &parts.headers)?;
    if topic.is_none() {
        check_batch(form, &params, &parts)?;
    }
    let entered = Entered::by(&shared, &parts).await?;
    let (body, _claim) = body::read(body, &shared).await?;
    let Some(topic) = topic else {
        return Ok(json(&batch::publish(&shared, &entered, &body, options.headers).await?));
    };
    let payload = form.read(body)?;
    shared.metrics.came(DIALECT, &payload);
    let operation = Operation::Publish { topic: Some(topic), batch: None };
    let sending = Sending::begin(&shared, &operation, &mut options.headers);
    let (options, stored) = options.read()?;
    let published = entered.client.publish_bytes_with(topic, payload, options).await;
    sending.end(published.as_ref().err());
    let matches = published.map_err(|error| entered.failure(&error))?;
    Ok(json(&Published { matches, stored }))
}

/// What of a request is for one message is not for a batch.
fn check_batch(form: Form, params: &Params, parts: &Parts) -> Result<(), Failure> {
    let refused = |what: &str| {
        Failure::bad_request(
            "parameters",
            format!("without `topic` the body is a batch as JSON, in which each message has its own {what}"),
        )
    };
    if form != Form::Json {
        return Err(refused("payload; or give the `topic` of this one"));
    }
    if ["quality", "ttl", "deliver_in"].into_iter().any(|name| params.all(name).next().is_some()) {
        return Err(refused("`quality`, `ttl` and `deliver_in`"));
    }
    match parts.headers.keys().any(|name| name.as_str().starts_with(MESSAGE_HEADER_PREFIX)) {
        true => Err(refused("`headers`")),
        false => Ok(()),
    }
}

/// The headers of a message that come as those of a request.
pub(super) fn message_headers(given: &HeaderMap) -> Result<Headers, Failure> {
    let mut headers = Headers::new();
    for (name, value) in given {
        let Some(name) = name.as_str().strip_prefix(MESSAGE_HEADER_PREFIX).filter(|name| !name.is_empty())
        else {
            continue;
        };
        let value = str::from_utf8(value.as_bytes()).map_err(|_| {
            Failure::bad_request("headers", format!("the value of the header {name:?} is not UTF-8"))
        })?;
        headers.push(name, value);
    }
    push_trace(given, &mut headers);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn headers_of_a_message_come_with_their_prefix_and_the_trace_by_its_own_names() {
        let mut given = HeaderMap::new();
        given.append("whispeer-header-shop", "7".parse().unwrap());
        given.append("whispeer-header-shop", "8".parse().unwrap());
        given.append("x-other", "9".parse().unwrap());
        given.append("traceparent", PARENT.parse().unwrap());
        given.append("tracestate", "a=1".parse().unwrap());
        given.append("tracestate", "b=2".parse().unwrap());
        let expected = Headers::from_iter([
            ("shop", "7"),
            ("shop", "8"),
            ("traceparent", PARENT),
            ("tracestate", "a=1,b=2"),
        ]);
        assert_eq!(message_headers(&given).unwrap(), expected);
    }
}
