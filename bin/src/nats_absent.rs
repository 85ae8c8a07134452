//! What is left of NATS in a binary without it.

use std::convert::Infallible;

use whispeer::bus::BusView;

use crate::failure::Failure;
use crate::settings::Configuration;

/// There is none.
pub(crate) struct NatsLink(Infallible);

/// # Errors
/// Whenever one is asked for.
pub(crate) async fn open(configuration: &Configuration) -> anyhow::Result<Option<NatsLink>> {
    match &configuration.nats.url {
        None => Ok(None),
        Some(url) => {
            let text = format!("{}: whispeer was built without the feature `nats`", url.shown());
            Err(Failure::usage(text).into())
        }
    }
}

impl NatsLink {
    pub(crate) async fn run(self, _: BusView) {
        match self.0 {}
    }
}
