//! Streams that JetStream keeps, in a build without the feature `nats`.

use std::convert::Infallible;
use std::sync::Arc;

use whispeer::store::Store;

use super::refused;
use crate::settings::NatsChoice;

/// There is none.
pub(super) struct Connected(Infallible);

/// # Errors
/// That this build has no such feature.
#[expect(clippy::unused_async, reason = "where there is the feature, files are read")]
pub(super) async fn open(_: &NatsChoice) -> anyhow::Result<Connected> {
    let failure = refused("this build of whispeer has no feature `nats`, which keeps streams in JetStream");
    Err(failure.help("write storage = \"sqlite\" or \"memory\" for each stream, or use another build").into())
}

impl Connected {
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self.0 {}
    }

    pub(super) async fn close(&self) {
        match self.0 {}
    }
}
