//! Whose address it is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Addresses of one customer, which count as one wherever something is bounded by where it comes from: an address of
/// IPv4, or a network of IPv6 (/64), of which each host has 2⁶⁴ addresses to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressBlock(IpAddr);

impl AddressBlock {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => network(ip).into(),
            ip => ip,
        })
    }

    /// The first of them.
    pub(crate) fn ip(self) -> IpAddr {
        self.0
    }

    /// Whether it is this host: everybody on it, and everybody behind a proxy there.
    pub(crate) fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(ip) if !ip.is_loopback() => write!(formatter, "{ip}/64"),
            ip => ip.fmt(formatter),
        }
    }
}

/// The /64 that an address is of.
fn network(ip: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(address: &str) -> AddressBlock {
        AddressBlock::of(address.parse().unwrap())
    }

    #[test]
    fn addresses_that_one_host_may_choose_from_are_one() {
        assert_eq!(block("2001:db8::1"), block("2001:db8::ffff:0:0:2"));
        assert_ne!(block("2001:db8::1"), block("2001:db8:0:1::1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
        assert_eq!(block("192.0.2.1"), block("::ffff:192.0.2.1"));
    }

    #[test]
    fn it_is_shown_as_what_it_is() {
        assert_eq!(block("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!(block("::ffff:192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(block("::1").to_string(), "::1");
    }

    #[test]
    fn this_host_is_known_by_each_of_its_names() {
        for address in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert!(block(address).is_loopback(), "{address}");
        }
        assert!(!block("::2").is_loopback() && !block("192.0.2.1").is_loopback());
    }
}
