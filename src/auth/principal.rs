//! Who is at the other end.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Who a session acts for, as far as its transport or its credentials prove it.
///
/// Shown, it names the principal and holds nothing secret; names that come from outside are quoted and
/// escaped, so that none can pass for another or forge a line of a log.
///
/// # Examples
/// ```
/// use whispeer::auth::Principal;
///
/// assert_eq!(Principal::User { name: "alice".into() }.to_string(), r#"user "alice""#);
/// ```
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
    /// Whoever holds the key of a certificate that an authority of the bus has signed.
    Certificate {
        /// The name in the certificate: what stands behind `whispeer:` in the only URI of that scheme among its
        /// subject's alternative names; without such a URI, the only common name of its subject.
        name: String,
    },
    /// The subject of a token.
    Token {
        /// Who issued it.
        issuer: String,
        /// Whom it was issued to; unique for this issuer only.
        subject: String,
    },
    /// A user of the bus who knows the password.
    User {
        /// The user's name.
        name: String,
    },
}

impl Principal {
    /// Whether this principal may read topics beginning with `$` by itself, on a bus that runs as user
    /// `own_uid` (`None` where the bus has no Unix listener). All others need a permission.
    #[must_use]
    pub fn reads_reserved(&self, own_uid: Option<u32>) -> bool {
        match self {
            Self::Bus | Self::Local => true,
            Self::Unix { uid, .. } => Some(*uid) == own_uid,
            Self::Network { .. } | Self::Certificate { .. } | Self::Token { .. } | Self::User { .. } => false,
        }
    }
}

impl Principal {
    /// Whether a session of this principal is also one of `other`, who has its secret: somebody who has proven
    /// nothing may come from elsewhere.
    pub(crate) fn may_go_on_as(&self, other: &Self) -> bool {
        self == other || matches!((self, other), (Self::Network { .. }, Self::Network { .. }))
    }

    /// Whether both are the same, as far as that is known: another process of a user, another connection of a host that
    /// has proven nothing.
    pub(crate) fn is_also(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix { uid: one, .. }, Self::Unix { uid: two, .. }) => one == two,
            (Self::Network { address: one }, Self::Network { address: two }) => {
                one.ip().to_canonical() == two.ip().to_canonical()
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            Self::Certificate { name } => write!(formatter, "certificate {name:?}"),
            Self::Token { issuer, subject } => write!(formatter, "token {subject:?} of {issuer:?}"),
            Self::User { name } => write!(formatter, "user {name:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_outside_can_neither_forge_a_line_nor_pass_for_another_principal() {
        let forged = Principal::User { name: "eve\"\nuser \"alice".into() };
        assert_eq!(forged.to_string(), r#"user "eve\"\nuser \"alice""#);
        let subject = Principal::Token { issuer: "login".into(), subject: "alice".into() };
        assert_eq!(subject.to_string(), r#"token "alice" of "login""#);
        let stranger = Principal::Network { address: ([127, 0, 0, 1], 4242).into() };
        assert_eq!(stranger.to_string(), "127.0.0.1:4242");
    }

    #[test]
    fn only_the_bus_its_process_and_its_user_read_reserved_topics_by_themselves() {
        let user = |uid| Principal::Unix { uid, gid: 0, pid: None };
        assert!(Principal::Bus.reads_reserved(None) && Principal::Local.reads_reserved(None));
        assert!(user(7).reads_reserved(Some(7)));
        assert!(!user(7).reads_reserved(Some(8)) && !user(7).reads_reserved(None));
        assert!(!Principal::Certificate { name: "bus".into() }.reads_reserved(Some(7)));
        assert!(!Principal::User { name: "bus".into() }.reads_reserved(Some(7)));
    }

    #[test]
    fn a_principal_reads_again_as_it_was_written() {
        for principal in [
            Principal::Local,
            Principal::Unix { uid: 1, gid: 2, pid: Some(3) },
            Principal::Network { address: "[::1]:9".parse().unwrap() },
            Principal::Certificate { name: "a".into() },
            Principal::Token { issuer: "i".into(), subject: "s".into() },
        ] {
            let bytes = rmp_serde::to_vec_named(&principal).unwrap();
            assert_eq!(rmp_serde::from_slice::<Principal>(&bytes).unwrap(), principal);
        }
    }
}
