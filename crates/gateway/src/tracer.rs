//! Spans of what is done for a request, for whoever records them.
//!
//! The gateway records none itself, and without a [`Tracer`] in its [`Settings`](crate::Settings) nothing here is ever called:
//! the trace that a caller names goes to the headers of messages as it came. With one, each request is a span, a child of the
//! caller's, and what is sent to the bus for it is one within that. The headers of a message name the latter, so that whoever
//! handles the message is a child of it.
//!
//! ```text
//!  caller ── traceparent ──► Operation::Answer ──► Operation::Publish ── traceparent ──► message ──► subscriber
//!                            (a request)           (or Operation::Request)
//! ```

use std::fmt;
use std::net::IpAddr;

use whispeer::trace::TraceContext;

/// Records spans.
///
/// It is called on the way of each request, so it must not wait: what is recorded is sent elsewhere by others.
pub trait Tracer: fmt::Debug + Send + Sync {
    /// Begins a span: a child of `parent`, or the first of a new trace where there is none. One that is not recorded, as nobody
    /// wants this trace sampled, has a context all the same, which says so.
    fn begin(&self, operation: &Operation<'_>, parent: Option<&TraceContext>) -> Box<dyn Span>;
}

/// A span that has begun. One that is dropped before its [`end`](Self::end) was given up: its caller has gone, or its time was over.
pub trait Span: Send {
    /// What is done within the span names this as its parent; `None` where nothing was begun, and the parent is named as before.
    fn context(&self) -> Option<&TraceContext>;

    /// It has ended, like this.
    fn end(self: Box<Self>, outcome: Outcome);
}

/// What a span is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// A request over HTTP is answered, up to the head of its answer.
    Answer {
        /// Its method, as it came.
        method: &'a str,
        /// The route that it took, such as `/api/v1/publish`, where there is one.
        route: Option<&'a str>,
        /// Its path, without the query, in which there may be tickets.
        path: &'a str,
        /// The minor version of HTTP/1 that it is written in.
        minor_version: u8,
        /// Where it comes from.
        client: Option<IpAddr>,
        /// What sends it, as it says.
        user_agent: Option<&'a str>,
    },
    /// Messages are published.
    Publish {
        /// Where to; `None` for a batch, in which each message has its own topic.
        topic: Option<&'a str>,
        /// How many are in a batch; `None` where it is none.
        batch: Option<usize>,
    },
    /// The server of a topic is asked.
    Request {
        /// Which.
        topic: &'a str,
    },
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A request was answered with this status.
    Answered(u16),
    /// The bus has done it.
    Done,
    /// The bus has not, for an error of this name; there is a fixed number of names.
    Failed(&'static str),
}
