//! How long requests take at the bus: from when it takes one in to when it is over there, whichever way.
//!
//! With the feature `metrics` each end is counted, which takes two additions and, once for each turn, a look at the clock. Without
//! it nothing is.

#[cfg(feature = "metrics")]
mod counted;
#[cfg(not(feature = "metrics"))]
#[path = "uncounted.rs"]
mod counted;

pub(super) use counted::RequestTimes;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestEnd {
    /// With all replies that it takes.
    Answered,
    /// With an error, of the server or of the bus.
    Failed,
    /// Its requester no longer waited, or has gone.
    Cancelled,
    /// Its deadline has passed, and its requester has not said so.
    Expired,
}

#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "only metrics show them"))]
impl RequestEnd {
    pub(super) const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::Cancelled, Self::Expired];

    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}
