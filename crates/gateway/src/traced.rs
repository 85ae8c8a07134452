//! The trace that a request over HTTP is part of (W3C Trace Context), on its way to the headers of a message.

use std::fmt::Write as _;

use axum::extract::Request;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use whispeer::BusError;
use whispeer::client::Headers;
use whispeer::trace::{TRACEPARENT, TRACESTATE, TraceContext};

use crate::problem::Problem;
use crate::shared::{Remote, Shared};
use crate::tracer::{Operation, Outcome, Span};

/// Those who operate it ask for these all the time, and nobody wants to read of it.
const PROBES: [&str; 3] = ["/healthz", "/metrics", "/readyz"];

/// Adds the trace of a request to the headers of a message, if there is one.
pub(crate) fn push_trace(given: &HeaderMap, headers: &mut Headers) {
    let Some(trace) = trace_of(given) else { return };
    headers.push(TRACEPARENT, trace.to_string());
    if let Some(state) = trace.tracestate() {
        headers.push(TRACESTATE, state);
    }
}

/// The id of the trace of a request, as it is written, if it is part of one.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let trace = trace_of(headers)?;
    Some(trace.trace_id().iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Begins the span of a request, where spans are recorded. From here on the request names that as its parent, in place of
/// what its caller has named.
pub(crate) fn answering(
    shared: &Shared,
    route: Option<&str>,
    request: &mut Request,
) -> Option<Box<dyn Span>> {
    let tracer = shared.settings.tracer.as_ref()?;
    if route.is_some_and(|route| PROBES.contains(&route)) {
        return None;
    }
    let operation = Operation::Answer {
        method: request.method().as_str(),
        route,
        path: request.uri().path(),
        minor_version: u8::from(request.version() != Version::HTTP_10),
        client: request.extensions().get::<Remote>().map(|Remote(address)| address.ip()),
        user_agent: request.headers().get(header::USER_AGENT).and_then(|name| name.to_str().ok()),
    };
    let span = tracer.begin(&operation, trace_of(request.headers()).as_ref());
    if let Some(context) = span.context() {
        put(context, request.headers_mut());
    }
    Some(span)
}

/// What is sent to the bus for a request, as a span of its own where spans are recorded.
pub(crate) struct Sending(Option<Box<dyn Span>>);

impl Sending {
    /// Begins it as a child of what the headers of the message name; from here on they name it.
    pub(crate) fn begin(shared: &Shared, operation: &Operation<'_>, headers: &mut Headers) -> Self {
        let Some(tracer) = &shared.settings.tracer else { return Self(None) };
        let span = tracer.begin(operation, headers.trace().as_ref());
        if let Some(context) = span.context() {
            *headers = headers.with_trace(context);
        }
        Self(Some(span))
    }

    /// The bus has said what became of it.
    pub(crate) fn end(self, error: Option<&BusError>) {
        let Some(span) = self.0 else { return };
        span.end(match error {
            None => Outcome::Done,
            Some(error) => Outcome::Failed(Problem::from(error).code_name().unwrap_or("internal")),
        });
    }
}

/// Makes a trace that of a request.
fn put(trace: &TraceContext, headers: &mut HeaderMap) {
    // What a trace is written in, a header takes.
    let value = |text: &str| HeaderValue::from_str(text).ok();
    headers.remove(TRACESTATE);
    if let Some(parent) = value(&trace.to_string()) {
        headers.insert(HeaderName::from_static(TRACEPARENT), parent);
    }
    if let Some(state) = trace.tracestate().and_then(value) {
        headers.insert(HeaderName::from_static(TRACESTATE), state);
    }
}

/// The trace of a request, if what it says of it is valid. Several headers of the second name are one, in their order.
fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let states: Vec<_> = headers.get_all(TRACESTATE).iter().filter_map(|state| state.to_str().ok()).collect();
    TraceContext::parse(parent.to_str().ok()?, Some(&states.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn trace(given: &[(&'static str, &str)]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().unwrap());
        }
        trace_of(&headers)
    }

    #[test]
    fn states_of_several_headers_are_one() {
        let trace = trace(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]).unwrap();
        assert_eq!((&*trace.to_string(), trace.tracestate()), (PARENT, Some("a=1,b=2")));
    }

    #[test]
    fn what_is_none_or_two_is_passed_over() {
        assert_eq!(trace(&[]), None);
        assert_eq!(trace(&[("traceparent", "00-0-0-00")]), None);
        assert_eq!(trace(&[("traceparent", PARENT), ("traceparent", PARENT)]), None);
        assert_eq!(trace(&[("tracestate", "a=1")]), None);
    }
}
