//! How often somebody may ask.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::limits;

/// Between two times that addresses are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// Whom requests are counted for: an address, or a network of IPv6 (/64), of which each host has 2⁶⁴ to choose from.
pub(crate) fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()
        }
        ip => ip,
    }
}

/// Requests and messages of each address, by governor's leaky bucket.
pub(crate) struct Rates {
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    /// When those that need not be remembered were forgotten last.
    forgotten: Mutex<Option<Instant>>,
}

impl Rates {
    /// So many in a second on the average, and twice as many at once.
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        let quota =
            Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(1)));
        Self { limiter: RateLimiter::hashmap(quota), forgotten: Mutex::default() }
    }

    /// Counts one of this address.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        if self.limiter.len() >= limits::RATED_ADDRESSES && !self.forget() {
            return Err(FORGET_INTERVAL);
        }
        let counted = self.limiter.check_key(&block_of(address));
        counted.map_err(|wait| wait.wait_time_from(DefaultClock::default().now()))
    }
}

impl Rates {
    /// Forgets those that have not asked for a while, as they have all that they may ask for again. Returns whether there is room
    /// for others. All are looked at, so that it is not done for each who asks.
    fn forget(&self) -> bool {
        let now = Instant::now();
        {
            let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            if forgotten.is_some_and(|last| now.duration_since(last) < FORGET_INTERVAL) {
                return false;
            }
            *forgotten = Some(now);
        }
        self.limiter.retain_recent();
        self.limiter.len() < limits::RATED_ADDRESSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_rate_may_come_at_once_and_then_one_has_to_wait() {
        let rates = Rates::new(NonZeroU32::new(5).unwrap());
        let one = "192.0.2.1".parse().unwrap();
        assert!((0..10).all(|_| rates.check(one).is_ok()));
        assert!(rates.check(one).unwrap_err() <= Duration::from_millis(200));
        assert!(rates.check("192.0.2.2".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_network_counts_as_one() {
        let rates = Rates::new(NonZeroU32::MIN);
        assert!(rates.check("2001:db8::1".parse().unwrap()).is_ok());
        assert!(rates.check("2001:db8::2:0:0:1".parse().unwrap()).is_ok());
        assert!(rates.check("2001:db8::3".parse().unwrap()).is_err());
    }

    #[test]
    fn it_remembers_so_many_addresses_and_no_more() {
        let rates = Rates::new(NonZeroU32::MIN);
        let known =
            (0..200_000_u32).filter(|n| rates.check(std::net::Ipv4Addr::from_bits(*n).into()).is_ok());
        assert!(known.count() < 200_000);
        assert!(rates.limiter.len() <= limits::RATED_ADDRESSES);
    }
}
