//! Requests are not counted, as the feature `metrics` is off: nobody reads the clock for it.

use std::time::Duration;

use super::RequestEnd;

/// Nothing.
#[derive(Debug, Default)]
pub(crate) struct RequestTimes(());

impl RequestTimes {
    #[expect(clippy::unused_self, reason = "it is as where they are counted")]
    pub(in crate::bus) fn record(&self, _end: RequestEnd, _took: impl FnOnce() -> Duration) {}
}
