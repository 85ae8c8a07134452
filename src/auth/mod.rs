//! Who is at the other end of a session.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Who a session acts for, as far as its transport can prove it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Principal {
    /// The bus itself: the only one that serves topics beginning with `$`.
    Bus,
    /// Code in the bus's own process, over a memory link.
    Local,
    /// A process on this host, as the kernel reports the peer of a Unix socket.
    Unix {
        /// Effective user id.
        uid: u32,
        /// Effective group id.
        gid: u32,
        /// Process id, where the system tells it.
        pid: Option<i32>,
    },
    /// Somebody who connected over a network and has proven nothing.
    Network {
        /// Where the connection comes from.
        address: SocketAddr,
    },
    /// Who has the key of a certificate that a CA of the bus's choice has signed.
    Certificate {
        /// The name in it: what follows `whispeer:` in a URI among its alternative names, or its subject's
        /// common name.
        name: String,
    },
}

impl Principal {
    /// Whether this principal may read topics beginning with `$`, on a bus that runs as user
    /// `own_uid` (`None` where the bus has no Unix listener).
    #[must_use]
    pub fn reads_reserved(&self, own_uid: Option<u32>) -> bool {
        match self {
            Self::Bus | Self::Local => true,
            Self::Unix { uid, .. } => Some(*uid) == own_uid,
            Self::Network { .. } | Self::Certificate { .. } => false,
        }
    }
}

impl Principal {
    /// Whether a session of this principal is also one of `other`, who has its secret: somebody who has proven
    /// nothing may come from elsewhere.
    pub(crate) fn may_go_on_as(&self, other: &Self) -> bool {
        self == other || matches!((self, other), (Self::Network { .. }, Self::Network { .. }))
    }
}

impl std::fmt::Display for Principal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bus => formatter.write_str("bus"),
            Self::Local => formatter.write_str("local"),
            Self::Unix { uid, gid, pid } => {
                write!(formatter, "uid {uid} gid {gid}")?;
                match pid {
                    Some(pid) => write!(formatter, " pid {pid}"),
                    None => Ok(()),
                }
            }
            Self::Network { address } => write!(formatter, "{address}"),
            Self::Certificate { name } => write!(formatter, "certificate {name}"),
        }
    }
}
