//! How often somebody may ask.
//!
//! Each address has a bucket of its own. So many are remembered; where one more asks, the one is forgotten that has been
//! silent for longest. So nobody is turned away because many others ask, a crowd of addresses costs each of its members no
//! more than it does alone, and whoever goes on asking is not forgotten by it. Who is forgotten has a full bucket when he comes
//! back: that takes [`limits::RATED_ADDRESSES`] others in between, each of which may do as much anyway.

use std::hash::RandomState;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use lru::LruCache;

use crate::limits;

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
    limiter: RateLimiter<IpAddr, Remembered, DefaultClock>,
}

impl Rates {
    /// So many in a second on the average, and twice as many at once.
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        let quota =
            Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(1)));
        let clock = DefaultClock::default();
        Self { limiter: RateLimiter::new(quota, Remembered::new(limits::RATED_ADDRESSES), clock) }
    }

    /// Counts one of this address, at the same cost however many others ask.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let counted = self.limiter.check_key(&block_of(address));
        counted.map_err(|wait| wait.wait_time_from(self.limiter.clock().now()))
    }
}

/// The buckets of the addresses that have asked last.
struct Remembered {
    /// Nobody outside knows by which hash, so that nobody can choose addresses that are slow to find.
    buckets: Mutex<LruCache<IpAddr, Nanos, RandomState>>,
    most: usize,
}

impl Remembered {
    fn new(most: usize) -> Self {
        // It takes room as it is filled.
        Self { buckets: Mutex::new(LruCache::unbounded_with_hasher(RandomState::new())), most }
    }
}

impl StateStore for Remembered {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, address: &IpAddr, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is turned away has asked, too: to be forgotten he has to be silent.
        if let Some(bucket) = buckets.get_mut(address) {
            let (outcome, filled) = measure(Some(*bucket))?;
            *bucket = filled;
            return Ok(outcome);
        }
        let (outcome, filled) = measure(None)?;
        if buckets.len() >= self.most {
            buckets.pop_lru();
        }
        buckets.put(*address, filled);
        Ok(outcome)
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

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    /// A crowd of twice as many as are remembered, beside which somebody asks once for each thousand of it.
    fn beside_a_crowd(rates: &Rates, mut ask: impl FnMut(&Rates)) {
        for number in 0..2 * u32::try_from(limits::RATED_ADDRESSES).unwrap() {
            assert_eq!(rates.check(address(number)), Ok(()), "a newcomer, the {number}th");
            if number % 1_000 == 0 {
                ask(rates);
            }
        }
    }

    #[test]
    fn a_crowd_of_addresses_turns_no_newcomer_away_and_takes_no_more_room() {
        let rates = Rates::new(NonZeroU32::MIN);
        beside_a_crowd(&rates, |_| {});
        assert_eq!(rates.limiter.into_state_store().buckets.lock().unwrap().len(), limits::RATED_ADDRESSES);
    }

    #[test]
    fn who_keeps_asking_is_served_and_counted_through_a_crowd() {
        let rates = Rates::new(NonZeroU32::new(1_000_000).unwrap());
        let known = "192.0.2.1".parse().unwrap();
        beside_a_crowd(&rates, |rates| assert_eq!(rates.check(known), Ok(())));

        // One whose bucket takes longer to drain than this test does.
        let hourly = Quota::with_period(Duration::from_secs(3_600)).unwrap();
        let remembered = Remembered::new(limits::RATED_ADDRESSES);
        let rates = Rates { limiter: RateLimiter::new(hourly, remembered, DefaultClock::default()) };
        assert_eq!(rates.check(known), Ok(()));
        beside_a_crowd(&rates, |rates| assert!(rates.check(known).is_err(), "he was forgotten"));
    }

    #[test]
    fn who_is_silent_is_forgotten_before_others_are() {
        let buckets = Remembered::new(2);
        let count =
            |number| buckets.measure_and_replace(&address(number), |_| Ok::<_, ()>(((), Nanos::new(1))));
        let known = |number| buckets.buckets.lock().unwrap().contains(&address(number));
        for number in [1, 2, 1, 3] {
            count(number).unwrap();
        }
        assert_eq!([1, 2, 3].map(known), [true, false, true]);
        // One that is turned away is asking, too.
        buckets.measure_and_replace(&address(1), |_| Err::<((), Nanos), _>(())).unwrap_err();
        count(4).unwrap();
        assert_eq!([1, 3, 4].map(known), [true, false, true]);
    }
}
