//! What becomes of exported spans, and who is told.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_otlp::SpanExporter as Otlp;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::time::Instant;

/// How often it is said that spans are lost.
const PAUSE: Duration = Duration::from_secs(60);

/// How exporting goes. A lock of its own, which only the exporting thread and the end of the process take.
pub(super) struct Exports {
    endpoint: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last export has failed.
    is_failing: bool,
    /// The process ends.
    is_closing: bool,
    /// Spans that no collector has, since that was said last.
    lost: usize,
    said: Option<Instant>,
    /// Why the last try has failed; the exporter itself does not tell.
    cause: Option<String>,
}

impl Exports {
    pub(super) fn new(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), state: Mutex::default() }
    }

    /// What was wrong with a try.
    pub(super) fn note(&self, cause: String) {
        self.with(|state| state.cause = Some(cause));
    }

    /// The process ends: after one more failure nothing is tried again. Returns whether it fails now.
    pub(super) fn close(&self) -> bool {
        self.with(|state| {
            state.is_closing = true;
            state.is_failing
        })
    }

    /// Says how many spans were lost that nobody was told of.
    pub(super) fn say_lost(&self) {
        let lost = self.with(|state| std::mem::take(&mut state.lost));
        if lost > 0 {
            tracing::warn!(lost, "spans were not exported to {}", self.endpoint);
        }
    }

    fn is_given_up(&self) -> bool {
        self.with(|state| state.is_closing && state.is_failing)
    }

    fn exported(&self) {
        let (was_failing, lost) = self.with(|state| {
            state.cause = None;
            (std::mem::take(&mut state.is_failing), std::mem::take(&mut state.lost))
        });
        if was_failing {
            tracing::warn!(lost, "spans are exported to {} again", self.endpoint);
        }
    }

    /// The collector has taken a batch, but for some of its spans.
    pub(super) fn partly_taken(&self) {
        if self.with(|state| state.is_due()) {
            tracing::warn!("not all spans of a batch are taken by {}; its log tells why", self.endpoint);
        }
    }

    fn failed(&self, spans: usize, error: &str) {
        let said = self.with(|state| {
            state.is_failing = true;
            state.lost += spans;
            let cause = state.cause.take();
            state.is_due().then(|| (std::mem::take(&mut state.lost), cause))
        });
        if let Some((lost, cause)) = said {
            let error = cause.as_deref().unwrap_or(error);
            tracing::warn!(lost, error, "spans cannot be exported to {}; serving goes on", self.endpoint);
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Whether it is time to say something again, which is said then.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.said.is_none_or(|said| now.duration_since(said) >= PAUSE);
        if is_due {
            self.said = Some(now);
        }
        is_due
    }
}

/// An exporter that says how it goes. To the processor before it all goes well, as that would say it for each batch.
pub(super) struct Watched {
    exporter: Otlp,
    exports: std::sync::Arc<Exports>,
}

impl Watched {
    pub(super) fn new(exporter: Otlp, exports: std::sync::Arc<Exports>) -> Self {
        Self { exporter, exports }
    }
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        if self.exports.is_given_up() {
            self.exports.failed(count, "the process ends");
            return Ok(());
        }
        match self.exporter.export(batch).await {
            Ok(()) => self.exports.exported(),
            Err(error) => self.exports.failed(count, &error.to_string()),
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The exporter has headers, which may be secrets.
impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watched").field("endpoint", &self.exports.endpoint).finish_non_exhaustive()
    }
}
