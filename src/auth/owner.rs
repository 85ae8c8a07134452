//! Whose something is that is kept.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

use super::{AddressBlock, Principal};

/// Whom something belongs to that is kept for longer than a session: the same for all processes, connections and tokens
/// of one principal.
///
/// It is kept in stores as the bytes of a [`Principal`] of which only that is left, so that two are the same if their bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner(Principal);

impl Owner {
    pub(crate) fn of(principal: &Principal) -> Self {
        Self(match principal {
            Principal::Unix { uid, .. } => Principal::Unix { uid: *uid, gid: 0, pid: None },
            Principal::Network { address } => {
                Principal::Network { address: SocketAddr::new(AddressBlock::of(address.ip()).ip(), 0) }
            }
            named => named.clone(),
        })
    }

    /// Whether it is the bus itself or its own process, which may have all that there is.
    pub(crate) fn is_own_process(&self) -> bool {
        matches!(self.0, Principal::Bus | Principal::Local)
    }

    /// As it is kept: never empty.
    pub(crate) fn to_bytes(&self) -> Bytes {
        // Names, numbers and addresses have nothing that cannot be encoded.
        rmp_serde::to_vec_named(&self.0).unwrap_or_default().into()
    }

    /// What was kept; `None` for what another release has written.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok().map(|principal| Self::of(&principal))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Principal::Unix { uid, .. } => write!(formatter, "uid {uid}"),
            Principal::Network { address } => AddressBlock::of(address.ip()).fmt(formatter),
            named => named.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(principal: &Principal) -> Owner {
        Owner::of(principal)
    }

    fn from(address: &str) -> Principal {
        Principal::Network { address: address.parse().unwrap() }
    }

    #[test]
    fn all_processes_connections_and_tokens_of_one_principal_are_one_owner() {
        let process = |pid| Principal::Unix { uid: 7, gid: pid, pid: Some(8) };
        assert_eq!(owner(&process(1)), owner(&process(2)));
        assert_eq!(owner(&process(1)).to_bytes(), owner(&process(2)).to_bytes());
        assert_eq!(owner(&from("[2001:db8::1]:9")), owner(&from("[2001:db8::2]:10")));
        assert_eq!(owner(&from("192.0.2.1:9")), owner(&from("[::ffff:192.0.2.1]:10")));
        assert_ne!(owner(&from("192.0.2.1:9")), owner(&from("192.0.2.2:9")));
    }

    #[test]
    fn the_same_name_proven_in_another_way_is_another_owner() {
        let name = || "alice".to_owned();
        let token = |issuer: &str| Principal::Token { issuer: issuer.into(), subject: name() };
        let all = [
            Principal::User { name: name() },
            Principal::Certificate { name: name() },
            token("login"),
            token("other"),
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(owner(one).to_bytes() == owner(other).to_bytes(), at == other_at);
            }
        }
    }

    #[test]
    fn an_owner_is_known_again_from_what_was_kept_and_shown_without_what_does_not_count() {
        for (principal, shown) in [
            (Principal::Local, "local"),
            (Principal::Unix { uid: 7, gid: 8, pid: Some(9) }, "uid 7"),
            (from("[2001:db8::1]:9"), "2001:db8::/64"),
            (from("192.0.2.1:9"), "192.0.2.1"),
            (Principal::User { name: "a\"b".into() }, r#"user "a\"b""#),
        ] {
            let bytes = owner(&principal).to_bytes();
            assert!(!bytes.is_empty());
            let again = Owner::from_bytes(&bytes).unwrap();
            assert_eq!((again.to_bytes(), again.to_string().as_str()), (bytes, shown));
        }
        assert_eq!(Owner::from_bytes(b"of a later release"), None);
    }
}
