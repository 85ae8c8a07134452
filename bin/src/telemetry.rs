//! Spans of what the gateway does, on their way to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! ```text
//!  gateway ──ends a span──► queue, bounded ──a thread of the SDK's──► Watched ──► OTLP ──► Https ──► collector
//! ```
//!
//! Whoever ends a span never waits: where the queue is full the span is dropped and counted. The thread waits for the collector,
//! and says when that fails, once a minute at the most. Settings are the variables that OpenTelemetry has for them, which the SDK
//! and the exporter read; what is read here besides is only what they leave to others.

mod https;
mod spans;
mod watched;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::oneshot;
use whispeer_gateway::tracer::Tracer;

use self::https::Https;
use self::spans::Spans;
use self::watched::{Exports, Watched};
use crate::failure::Failure;
use crate::output;
use crate::settings::{Configuration, Effective, Source};

/// How long the end of the process waits for what has not been exported. A collector that takes longer gets no more.
const FLUSH_TIME: Duration = Duration::from_secs(5);

/// The same, where the collector did not take what it got last.
const FLUSH_TIME_FAILING: Duration = Duration::from_secs(1);

/// How long a process that ends at once waits for a thread that has nothing to do.
const DROP_TIME: Duration = Duration::from_millis(100);

/// By what the spans say who has made them.
const NAME: &str = "whispeer";

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const SERVICE_NAME: &str = "service.name";

/// The export of spans, if there is one. Dropping it exports nothing more.
pub(crate) struct Telemetry(Option<Running>);

struct Running {
    provider: SdkTracerProvider,
    exports: Arc<Exports>,
    tracer: Arc<dyn Tracer>,
}

impl Telemetry {
    /// Starts it if there is an endpoint to export to, and an address over which there is something to tell.
    ///
    /// # Errors
    /// For an endpoint, or a certificate, that cannot be used.
    pub(crate) fn start(settings: &Effective, has_gateway: bool) -> anyhow::Result<Self> {
        let Some(endpoint) = endpoint(&settings.configuration, settings.source("telemetry.endpoint")) else {
            return Ok(Self(None));
        };
        let is = |name, value: &str| variable(name).is_some_and(|given| given.eq_ignore_ascii_case(value));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(Self(None));
        }
        if !has_gateway {
            output::notice(format_args!(
                "no spans are exported, as they are of requests by HTTP: listen on http://HOST:PORT too"
            ));
            return Ok(Self(None));
        }
        if !endpoint.is_https && !endpoint.shown.starts_with("http://") {
            let failure =
                Failure::usage(format!("{} is no place that spans can be exported to", endpoint.shown));
            return Err(failure.help("give an endpoint such as http://localhost:4318").into());
        }
        for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
            if let Some(other) = variable(name).filter(|protocol| protocol != "http/protobuf") {
                output::notice(format_args!(
                    "warning: {name} is {other}, and spans are exported by http/protobuf; give the collector's endpoint for that, which has port 4318 by default"
                ));
            }
        }
        let exports = Arc::new(Exports::new(&endpoint.shown));
        let client = Https::new(endpoint.is_https, timeout(), Arc::clone(&exports))?;
        let mut builder = SpanExporter::builder().with_http().with_http_client(client);
        if let Some(url) = endpoint.given {
            builder = builder.with_endpoint(url);
        }
        let exporter = builder.build().map_err(|error| {
            Failure::usage(format!("spans cannot be exported: {error}"))
                .help("give an endpoint such as http://localhost:4318")
        })?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Watched::new(exporter, Arc::clone(&exports)))
            .with_resource(resource())
            .build();
        let scope = InstrumentationScope::builder(NAME).with_version(env!("CARGO_PKG_VERSION")).build();
        let tracer = Arc::new(Spans::new(provider.tracer_with_scope(scope)));
        Ok(Self(Some(Running { provider, exports, tracer })))
    }

    /// Who records spans, if somebody does.
    pub(crate) fn tracer(&self) -> Option<Arc<dyn Tracer>> {
        self.0.as_ref().map(|running| Arc::clone(&running.tracer))
    }

    /// Exports what is left, for as long as [`FLUSH_TIME`] at the most, and records no more.
    ///
    /// # Cancel safety
    /// When the future is dropped, the rest is exported while the process goes on.
    pub(crate) async fn end(&mut self) {
        let Some(Running { provider, exports, .. }) = self.0.take() else { return };
        let time = if exports.close() { FLUSH_TIME_FAILING } else { FLUSH_TIME };
        let (ended, wait) = oneshot::channel();
        // The call blocks. A runtime would wait for a thread of its own before the process ends; this one goes with the process.
        thread::spawn(move || {
            let flushed = provider.shutdown_with_timeout(time);
            let _ = ended.send(flushed.is_ok());
        });
        let flushed = wait.await.unwrap_or_default();
        if !flushed {
            tracing::warn!(
                ?time,
                "the collector has not taken all spans in time; those that are left are lost"
            );
        }
        exports.say_lost();
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            // The provider's own drop would wait for longer.
            let _ = running.provider.shutdown_with_timeout(DROP_TIME);
        }
    }
}

/// Where to export to.
struct Endpoint {
    /// What the exporter is told; `None` for what it finds in its variables.
    given: Option<String>,
    is_https: bool,
    /// Without what may be a secret.
    shown: String,
}

/// The endpoint, if there is one: a flag, and a variable of this project's, go before those of OpenTelemetry, and these before a file.
fn endpoint(configuration: &Configuration, source: &Source) -> Option<Endpoint> {
    let own = configuration.telemetry_endpoint.clone();
    let of_file = matches!(source, Source::File { .. });
    let standard = variable(TRACES_ENDPOINT).or_else(|| variable(ENDPOINT));
    let (url, is_own) = match (own, standard) {
        (Some(own), None) => (own, true),
        (Some(own), Some(_)) if !of_file => (own, true),
        (_, Some(standard)) => (standard, false),
        (None, None) => return None,
    };
    let is_https = url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    let given = is_own.then(|| format!("{}/v1/traces", url.trim_end_matches('/')));
    Some(Endpoint { given, is_https, shown: shown(&url) })
}

/// A URL without a name, a password or a query.
fn shown(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{}://", scheme.to_ascii_lowercase()), rest),
        None => (String::new(), url),
    };
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}{host}{path}")
}

/// How long an export may take, all tries together: 10 s by default.
fn timeout() -> Duration {
    let given =
        variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| variable("OTEL_EXPORTER_OTLP_TIMEOUT"));
    let given = given.and_then(|milliseconds| milliseconds.trim().parse().ok());
    given.map_or(opentelemetry_otlp::OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis)
}

/// Who exports: what the environment says, with a name and a version where it says none.
fn resource() -> Resource {
    let environment = EnvResourceDetector::new().detect();
    let name = variable("OTEL_SERVICE_NAME").map(Into::into);
    let name = name.or_else(|| environment.get(&Key::new(SERVICE_NAME)));
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())])
        .with_attribute(KeyValue::new(SERVICE_NAME, name.unwrap_or_else(|| NAME.into())))
        .build()
}

/// A variable of the environment. An empty one counts as one that is not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_what_may_be_a_secret() {
        for (url, expected) in [
            ("https://name:secret@collector:4318/v1?key=secret", "https://collector:4318/v1"),
            ("http://collector?key=se/cr@et", "http://collector"),
            ("http://[::1]:4318/", "http://[::1]:4318/"),
            ("HTTP://collector", "http://collector"),
            ("collector:4318", "collector:4318"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
