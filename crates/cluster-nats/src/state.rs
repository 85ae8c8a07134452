//! How the link to NATS is.

mod observed;
mod trouble;

use tokio::time::Instant;

pub(crate) use observed::Observed;

/// How the link to NATS is now. [`Connection::state`](crate::Connection::state) tells of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkState {
    /// NATS has not been reached yet.
    Connecting {
        /// Since when it is tried.
        since: Instant,
        /// Why it did not succeed so far, once that is known: what went wrong, and what to do.
        error: Option<String>,
    },
    /// NATS is there.
    Connected {
        /// The server that the link is connected to.
        server: Server,
        /// Since when.
        since: Instant,
    },
    /// NATS was there and is not reached any more.
    Away {
        /// Since when.
        since: Instant,
        /// Why it is not reached, once that is known.
        error: Option<String>,
    },
    /// The link was closed here.
    Closed,
}

impl LinkState {
    /// One word for it: `connecting`, `connected`, `away` or `closed`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Connected { .. } => "connected",
            Self::Away { .. } => "away",
            Self::Closed => "closed",
        }
    }

    /// Whether NATS is there.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// Since when it is so; `None` once it is closed.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        match self {
            Self::Connecting { since, .. } | Self::Connected { since, .. } | Self::Away { since, .. } => {
                Some(*since)
            }
            Self::Closed => None,
        }
    }

    /// Why NATS is not reached, as far as that is known.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Connecting { error, .. } | Self::Away { error, .. } => error.as_deref(),
            Self::Connected { .. } | Self::Closed => None,
        }
    }

    /// The server that the link is connected to.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        match self {
            Self::Connected { server, .. } => Some(server),
            _ => None,
        }
    }
}

/// What a server of NATS says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// Its id, which it draws when it starts.
    pub id: String,
    /// Its name, which is its id unless it was given one.
    pub name: String,
    /// Its release.
    pub version: String,
    /// The cluster that it belongs to.
    pub cluster: Option<String>,
    /// Whether it has JetStream.
    pub jetstream: bool,
    /// Bytes of a message, headers included, at the most.
    pub max_payload: usize,
    /// The connection's number there, another one each time.
    pub(crate) client: u64,
}

/// What has happened to a link so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkCounts {
    /// How often NATS was reached, the first time included.
    pub connects: u64,
    /// How often it was lost.
    pub disconnects: u64,
    /// Messages that were dropped here because a subscription was not read for too long, as far as each was told of.
    pub slow_consumer_events: u64,
    /// How often a server announced that it is about to end.
    pub lame_ducks: u64,
    /// Messages that came.
    pub in_messages: u64,
    /// Bytes of these, without those of NATS's own protocol.
    pub in_bytes: u64,
    /// Messages that were sent.
    pub out_messages: u64,
    /// Bytes of these, without those of NATS's own protocol.
    pub out_bytes: u64,
}
