//! Spans of the gateway, with the names and attributes that OpenTelemetry's semantic conventions have for HTTP and messaging.

use std::borrow::Cow;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};
use whispeer::trace::TraceContext;
use whispeer_gateway::tracer::{Operation, Outcome, Span, Tracer};

/// Characters of an attribute that comes from outside.
const ATTRIBUTE_CHARS: usize = 256;

/// The methods that there are; somebody may make up others.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// Records spans of the gateway.
#[derive(Debug)]
pub(super) struct Spans(SdkTracer);

impl Spans {
    pub(super) fn new(tracer: SdkTracer) -> Self {
        Self(tracer)
    }
}

impl Tracer for Spans {
    fn begin(&self, operation: &Operation<'_>, parent: Option<&TraceContext>) -> Box<dyn Span> {
        let (name, kind) = named(operation);
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let context = parent
            .map_or_else(Context::new, |parent| Context::new().with_remote_span_context(remote(parent)));
        let mut span = self.0.build_with_context(builder, &context);
        // Most of what there is to say is not worth its time for a span that nobody will see.
        if span.is_recording() {
            span.set_attributes(attributes(operation));
        }
        let context = own(span.span_context(), parent);
        Box::new(Begun { span: Some(span), context })
    }
}

/// A span that has begun, until it has ended.
struct Begun {
    span: Option<SdkSpan>,
    context: Option<TraceContext>,
}

impl Span for Begun {
    fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    fn end(mut self: Box<Self>, outcome: Outcome) {
        let Some(mut span) = self.span.take() else { return };
        match outcome {
            Outcome::Answered(status) => {
                span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
                // What is wrong with a request is not an error of who answers it.
                if status >= 500 {
                    fail(&mut span, status.to_string());
                }
            }
            Outcome::Failed(name) => fail(&mut span, name),
            _ => {}
        }
        span.end();
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(mut span) = self.span.take() {
            fail(&mut span, "cancelled");
            span.end();
        }
    }
}

fn fail(span: &mut SdkSpan, kind: impl Into<Cow<'static, str>>) {
    span.set_attribute(KeyValue::new("error.type", kind.into()));
    span.set_status(Status::error(""));
}

/// What it is called: by what there is a bounded number of, so not by a topic.
fn named(operation: &Operation<'_>) -> (Cow<'static, str>, SpanKind) {
    match operation {
        Operation::Answer { method, route, .. } => {
            let method = METHODS.iter().find(|known| *known == method).copied();
            let name = match (method, route) {
                (Some(method), Some(route)) => format!("{method} {route}").into(),
                (Some(method), None) => method.into(),
                (None, Some(route)) => format!("HTTP {route}").into(),
                (None, None) => "HTTP".into(),
            };
            (name, SpanKind::Server)
        }
        Operation::Publish { .. } => ("publish".into(), SpanKind::Producer),
        Operation::Request { .. } => ("request".into(), SpanKind::Client),
        _ => ("other".into(), SpanKind::Internal),
    }
}

fn attributes(operation: &Operation<'_>) -> Vec<KeyValue> {
    let text =
        |name, value: &str| KeyValue::new(name, value.chars().take(ATTRIBUTE_CHARS).collect::<String>());
    let sent = |name| {
        vec![
            KeyValue::new("messaging.system", super::NAME),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.operation.name", name),
        ]
    };
    match operation {
        Operation::Answer { method, route, path, minor_version, client, user_agent } => {
            let known = METHODS.iter().find(|known| *known == method);
            let mut all = vec![
                KeyValue::new("http.request.method", *known.unwrap_or(&"_OTHER")),
                KeyValue::new("url.scheme", "http"),
                text("url.path", path),
                KeyValue::new("network.protocol.version", format!("1.{minor_version}")),
            ];
            if known.is_none() {
                all.push(text("http.request.method_original", method));
            }
            all.extend(route.map(|route| text("http.route", route)));
            all.extend(client.map(|address| KeyValue::new("client.address", address.to_string())));
            all.extend(user_agent.map(|name| text("user_agent.original", name)));
            all
        }
        Operation::Publish { topic, batch } => {
            let mut all = sent("publish");
            all.extend(topic.map(|topic| text("messaging.destination.name", topic)));
            let count = batch.and_then(|count| i64::try_from(count).ok());
            all.extend(count.map(|count| KeyValue::new("messaging.batch.message_count", count)));
            all
        }
        Operation::Request { topic } => {
            let mut all = sent("request");
            all.push(text("messaging.destination.name", topic));
            all
        }
        _ => Vec::new(),
    }
}

/// A span of somebody else, as OpenTelemetry has it.
fn remote(parent: &TraceContext) -> SpanContext {
    let flags = if parent.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    // A list that is not valid there counts for nothing here.
    let state = parent.tracestate().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let (trace, span) = (TraceId::from_bytes(parent.trace_id()), SpanId::from_bytes(parent.parent_id()));
    SpanContext::new(trace, span, flags, true, state)
}

/// The context of a span of ours, with what other systems have added to that of its parent. `None` where there is no span, as
/// after the end.
fn own(span: &SpanContext, parent: Option<&TraceContext>) -> Option<TraceContext> {
    let (trace, id) = (span.trace_id().to_bytes(), span.span_id().to_bytes());
    let context = TraceContext::new(trace, id, span.is_sampled())?;
    match parent.and_then(TraceContext::tracestate) {
        Some(state) => TraceContext::parse(&context.to_string(), Some(state)),
        None => Some(context),
    }
}
