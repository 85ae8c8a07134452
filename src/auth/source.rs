//! Where passwords come from.

use std::sync::Arc;

use super::{AddressBlock, Principal};

/// Whose tries are counted together: what nobody can change at will.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// The bus's own process.
    Process,
    /// A user of this host.
    Uid(u32),
    /// Somebody who is known by his address alone.
    Address(AddressBlock),
    /// Somebody by a name that is proven.
    Named(Arc<str>),
}

impl Source {
    pub(super) fn of(peer: &Principal) -> Self {
        match peer {
            Principal::Bus | Principal::Local => Self::Process,
            Principal::Unix { uid, .. } => Self::Uid(*uid),
            Principal::Network { address } => Self::Address(AddressBlock::of(address.ip())),
            Principal::Certificate { .. } | Principal::Token { .. } | Principal::User { .. } => {
                Self::Named(peer.to_string().into())
            }
        }
    }

    /// Whether it is many who have nothing to do with each other: what one of them does wrong is not held against
    /// the others. The loopback is everybody on this host, and everybody behind a proxy there.
    pub(super) fn is_many(&self) -> bool {
        match self {
            Self::Process => true,
            Self::Address(block) => block.is_loopback(),
            Self::Uid(_) | Self::Named(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Source {
        Source::of(&Principal::Network { address: address.parse().unwrap() })
    }

    #[test]
    fn whoever_can_change_his_address_at_will_is_one_all_the_same() {
        assert_eq!(at("192.0.2.1:1"), at("192.0.2.1:2"));
        assert_eq!(at("192.0.2.1:1"), at("[::ffff:192.0.2.1]:1"));
        assert_ne!(at("192.0.2.1:1"), at("192.0.2.2:1"));
        assert_eq!(at("[2001:db8::1]:1"), at("[2001:db8::ffff:0:0:2]:1"));
        assert_ne!(at("[2001:db8::1]:1"), at("[2001:db8:0:1::1]:1"));
        let user = |uid, pid| Source::of(&Principal::Unix { uid, gid: 0, pid: Some(pid) });
        assert_eq!(user(1, 1), user(1, 2));
        assert_ne!(user(1, 1), user(2, 1));
    }

    #[test]
    fn what_stands_for_many_is_known() {
        assert!(
            at("127.0.0.1:1").is_many() && at("[::1]:1").is_many() && at("[::ffff:127.0.0.1]:1").is_many()
        );
        assert!(Source::of(&Principal::Local).is_many());
        let alice = Source::of(&Principal::Certificate { name: "alice".into() });
        assert!(!alice.is_many() && !at("192.0.2.1:1").is_many() && !at("[2001:db8::1]:1").is_many());
    }
}
