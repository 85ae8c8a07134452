//! TLS over TCP.
//!
//! | file | what it holds |
//! |---|---|
//! | `stream` | the encrypted stream over a socket |
//! | `server` | what a bus proves, and whom it lets in; read again while it runs |
//! | `client` | whom a client trusts, and what it proves |
//! | `pem` | certificates, keys and lists of revocations, from files or text |
//! | `revocations` | lists of revocations, looked at before they count |
//! | `identity` | the name that a client's certificate gives it |
//! | `shown` | what a client has shown, to be looked at again |
//! | `validity` | when certificates hold |
//! | `explain` | what went wrong, in words for the person who has to mend it |
//!
//! Keys and algorithms are ring's and rustls'. TLS 1.3 is spoken, and 1.2 where a setting allows it. Sessions
//! are not resumed: each connection proves anew who it is, so that what has been revoked stays out.

mod client;
mod explain;
mod identity;
mod pem;
mod revocations;
mod server;
mod shown;
mod stream;
mod validity;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};

pub use client::ClientTls;
#[cfg(feature = "quic")]
pub(super) use explain::explain;
pub(crate) use server::LiveTls;
pub use server::{ClientAuth, ServerTls};
pub(crate) use shown::ShownCertificate;
#[cfg(feature = "quic")]
pub(super) use shown::peer;
pub(super) use stream::{accept, connect};

/// The name of frames as they are, for that.
pub(super) const FRAMES: &[u8] = b"whispeer/1";

/// What is spoken over the encrypted stream, as the two ends agree on it in the handshake (ALPN). A server that
/// speaks something else under the same certificate is never mistaken for a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// Frames as they are.
    Frames,
    /// HTTP, with which a WebSocket begins.
    #[cfg(feature = "websocket")]
    Http,
}

impl Spoken {
    fn protocols(self) -> Vec<Vec<u8>> {
        let name: &[u8] = match self {
            Self::Frames => FRAMES,
            #[cfg(feature = "websocket")]
            Self::Http => b"http/1.1",
        };
        vec![name.to_vec()]
    }
}

/// The algorithms, always these: what else the process has chosen as its default says nothing here.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The versions of TLS that are spoken.
fn versions(tls12: bool) -> &'static [&'static SupportedProtocolVersion] {
    const NEW: &[&SupportedProtocolVersion] = &[&TLS13];
    const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    if tls12 { BOTH } else { NEW }
}
