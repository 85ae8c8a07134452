//! The trace that a request over HTTP is part of (W3C Trace Context), on its way to the headers of a message.

use http::HeaderMap;
use whispeer::client::Headers;
use whispeer::trace::{TRACEPARENT, TRACESTATE, TraceContext};

/// Adds the trace of a request to the headers of a message, if there is one.
pub(crate) fn push_trace(given: &HeaderMap, headers: &mut Headers) {
    let Some(trace) = trace_of(given) else { return };
    headers.push(TRACEPARENT, trace.to_string());
    if let Some(state) = trace.tracestate() {
        headers.push(TRACESTATE, state);
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
