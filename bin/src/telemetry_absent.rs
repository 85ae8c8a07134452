//! What is left of the export of spans in a binary without it.

use crate::output;
use crate::settings::Effective;

/// There is none.
pub(crate) struct Telemetry;

impl Telemetry {
    /// # Errors
    /// None.
    pub(crate) fn start(settings: &Effective, _: bool) -> anyhow::Result<Self> {
        let standard = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let mut given =
            standard.into_iter().filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        let own = settings.configuration.telemetry_endpoint.as_ref().map(|_| "telemetry.endpoint");
        if let Some(name) = own.or_else(|| given.next()) {
            output::notice(format_args!(
                "warning: {name} is set, and nothing is exported: whispeer was built without the feature `otel`"
            ));
        }
        Ok(Self)
    }

    #[cfg(feature = "gateway")]
    pub(crate) fn tracer(&self) -> Option<std::sync::Arc<dyn whispeer_gateway::tracer::Tracer>> {
        None
    }

    #[cfg(feature = "gateway")]
    pub(crate) async fn end(&mut self) {}
}
