//! The headers that say which operation a message belongs to.

use super::Headers;
use crate::trace::{TRACEPARENT, TRACESTATE, TraceContext};

impl Headers {
    /// The operation that they name, if they name one: see [`trace`](crate::trace). Several headers `traceparent` name none; several
    /// `tracestate` are one list.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::{Headers, PublishOptions};
    /// use whispeer::trace::TraceContext;
    ///
    /// let received = Headers::new().with("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    /// let caller = received.trace().expect("it is valid");
    /// // What is published for it belongs to the same trace.
    /// let headers = Headers::new().with("shop", "7").with_trace(&caller.child()?);
    /// assert_eq!(headers.trace().map(|own| own.trace_id()), Some(caller.trace_id()));
    /// let options = PublishOptions::default().headers(headers);
    /// # drop(options);
    /// # Ok::<(), whispeer::BusError>(())
    /// ```
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        let mut parents = self.values(TRACEPARENT);
        let (parent, None) = (parents.next()?, parents.next()) else { return None };
        let states: Vec<&str> = self.values(TRACESTATE).collect();
        TraceContext::parse(parent, (!states.is_empty()).then(|| states.join(",")).as_deref())
    }

    /// These headers with the operation that what is sent with them belongs to, in place of any other.
    #[must_use]
    pub fn with_trace(&self, trace: &TraceContext) -> Self {
        let is_other = |(name, _): &(&str, &str)| *name != TRACEPARENT && *name != TRACESTATE;
        let mut headers: Self = self.iter().filter(is_other).collect();
        headers.push(TRACEPARENT, trace.to_string());
        if let Some(state) = trace.tracestate() {
            headers.push(TRACESTATE, state);
        }
        headers
    }

    /// The values of all headers of that name.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(candidate, _)| *candidate == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn several_states_are_one_list_and_several_parents_are_none() {
        let headers =
            Headers::new().with(TRACESTATE, "a=1").with(TRACEPARENT, PARENT).with(TRACESTATE, "b=2");
        assert_eq!(headers.trace().unwrap().tracestate(), Some("a=1,b=2"));
        assert_eq!(headers.with(TRACEPARENT, PARENT).trace(), None);
        assert_eq!(Headers::new().trace(), None);
        assert_eq!(Headers::new().with("Traceparent", PARENT).trace(), None);
    }

    #[test]
    fn an_operation_takes_the_place_of_another_one() {
        let other = TraceContext::begin(false).unwrap();
        let headers = Headers::new().with(TRACEPARENT, PARENT).with("shop", "7").with(TRACESTATE, "a=1");
        let headers = headers.with_trace(&other);
        assert_eq!(headers, Headers::new().with("shop", "7").with(TRACEPARENT, other.to_string()));
        assert_eq!(headers.trace(), Some(other));
    }
}
