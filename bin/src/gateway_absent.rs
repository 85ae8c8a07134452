//! What is left of the gateway in a binary without it.

use std::convert::Infallible;

use whispeer::bus::BusView;

use crate::failure::Failure;
use crate::settings::Configuration;
use crate::telemetry::Telemetry;

/// What an address of a gateway begins with.
pub(crate) const SCHEME: &str = "http://";

/// There is none.
pub(crate) struct RunningGateway(Infallible);

impl RunningGateway {
    /// # Errors
    /// Always.
    pub(crate) async fn start(
        addresses: &[String],
        _: &Configuration,
        _: ServerEnvironment,
        _: Telemetry,
        _: BusView,
    ) -> anyhow::Result<Self> {
        let address = addresses.first().map_or(SCHEME, String::as_str);
        Err(Failure::usage(format!("{address}: whispeer was built without the feature `gateway`")).into())
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = String> {
        match self.0 {}
        #[expect(unreachable_code, reason = "it gives the type")]
        std::iter::empty()
    }

    pub(crate) async fn ended(&mut self) {
        match self.0 {}
    }
}

/// It says nothing.
pub(crate) struct ServerEnvironment;

impl ServerEnvironment {
    pub(crate) fn of_process() -> Self {
        Self
    }

    pub(crate) fn address(&self) -> Option<String> {
        None
    }
}
