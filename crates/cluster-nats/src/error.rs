//! What can be wrong with a link to NATS before it is opened. That NATS is away, or refuses, is no error: it is the link's
//! [state](crate::state::LinkState).

use std::path::PathBuf;

use crate::subject::PrefixError;

/// Why a link to NATS cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// No URL of a server of NATS.
    #[error("{given:?} is no URL of a server of NATS: {reason}; give one such as nats://localhost:4222")]
    Url {
        /// What was given, without user and password.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// URLs that do not go together.
    #[error("the servers of NATS cannot be used: {0}")]
    Servers(String),
    /// No prefix of subjects.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// The bus is somebody in more than one way.
    #[error(
        "the bus can be only one at NATS: give a user or token in the URL, a file with credentials, or one with an NKey, and leave the others out"
    )]
    Who,
    /// A file that cannot be used.
    #[error("the {what} for NATS cannot be used: {}: {reason}", path.display())]
    File {
        /// What it should have.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be spoken.
    #[error("TLS cannot be used for NATS: {0}")]
    Tls(String),
    /// The runtime ended meanwhile.
    #[error("the runtime has ended while the link to NATS was opened")]
    Ended,
}
