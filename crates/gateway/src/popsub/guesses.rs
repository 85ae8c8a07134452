//! Slows down who guesses passwords, by the bus's own rules for it (`docs/AUTHENTICATION.md`).
//!
//! A wrong password costs the address that it came from and the name that it was tried for. After a few of them the next is looked at
//! only after a time that doubles with each. By the name alone a stranger could keep its owner out, so that a name is slowed down
//! for a short time only.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use whispeer::limits as bus;

use crate::rates::block_of;

/// Wrong passwords that count together.
#[derive(Debug, Clone, Copy)]
struct Wrong {
    count: u32,
    last: Instant,
}

/// How fast tries may follow each other, and who has tried.
#[derive(Debug)]
struct Tally<K> {
    /// Wrong ones that cost nothing.
    free: u32,
    longest: Duration,
    wrong: HashMap<K, Wrong>,
}

impl<K: Eq + Hash + Copy> Tally<K> {
    fn new(free: u32, longest: Duration) -> Self {
        Self { free, longest, wrong: HashMap::new() }
    }

    fn left(&self, key: K, now: Instant) -> Duration {
        let Some(wrong) = self.wrong.get(&key) else { return Duration::ZERO };
        if is_forgotten(wrong, now) {
            return Duration::ZERO;
        }
        let delay = match wrong.count.checked_sub(self.free + 1) {
            None => Duration::ZERO,
            Some(doubled) => bus::GUESS_DELAY.saturating_mul(1 << doubled.min(20)).min(self.longest),
        };
        (wrong.last + delay).saturating_duration_since(now)
    }

    /// Where there is no room, whoever has the fewest gives way, of these the oldest: many who try once each do not make
    /// room for one who has tried often.
    fn add(&mut self, key: K, now: Instant) {
        if !self.wrong.contains_key(&key) && self.wrong.len() >= bus::GUESSES_TABLE {
            self.wrong.retain(|_, wrong| !is_forgotten(wrong, now));
            if self.wrong.len() >= bus::GUESSES_TABLE {
                let least = self.wrong.iter().min_by_key(|(_, wrong)| (wrong.count, wrong.last));
                if let Some(least) = least.map(|(key, _)| *key) {
                    self.wrong.remove(&least);
                }
            }
        }
        let wrong = self.wrong.entry(key).or_insert(Wrong { count: 0, last: now });
        if is_forgotten(wrong, now) {
            wrong.count = 0;
        }
        *wrong = Wrong { count: wrong.count.saturating_add(1), last: now };
    }
}

fn is_forgotten(wrong: &Wrong, now: Instant) -> bool {
    now.duration_since(wrong.last) >= bus::GUESSES_FORGOTTEN
}

/// What has been tried, from where and for whom.
#[derive(Debug)]
pub(super) struct Guesses {
    /// Names stand by their hashes, whatever their length; nobody outside can tell which two would be taken for one.
    names: RandomState,
    by_address: Tally<IpAddr>,
    by_name: Tally<u64>,
}

impl Guesses {
    pub(super) fn new() -> Self {
        Self {
            names: RandomState::new(),
            by_address: Tally::new(bus::GUESSES_OF_A_SOURCE, bus::GUESS_DELAY_OF_A_SOURCE_MAX),
            by_name: Tally::new(bus::GUESSES_OF_A_NAME, bus::GUESS_DELAY_OF_A_NAME_MAX),
        }
    }

    /// How long it is until a password for this name is looked at that comes from there; zero if it is now.
    pub(super) fn left(&self, address: IpAddr, name: &str) -> Duration {
        let now = Instant::now();
        self.by_address.left(block_of(address), now).max(self.by_name.left(self.names.hash_one(name), now))
    }

    /// Counts a wrong one.
    pub(super) fn note_wrong(&mut self, address: IpAddr, name: &str) {
        let now = Instant::now();
        self.by_address.add(block_of(address), now);
        self.by_name.add(self.names.hash_one(name), now);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_waits_longer_and_longer_and_others_do_not() {
        let mut guesses = Guesses::new();
        for number in 0..=bus::GUESSES_OF_A_SOURCE {
            assert_eq!(guesses.left(address(1), "alice"), Duration::ZERO);
            guesses.note_wrong(address(1), &number.to_string());
        }
        assert_eq!(guesses.left(address(1), "alice"), bus::GUESS_DELAY);
        assert_eq!(guesses.left(address(2), "alice"), Duration::ZERO);
        advance(bus::GUESS_DELAY).await;
        guesses.note_wrong(address(1), "alice");
        assert_eq!(guesses.left(address(1), "alice"), 2 * bus::GUESS_DELAY);
        for _ in 0..40 {
            guesses.note_wrong(address(1), "alice");
        }
        assert_eq!(guesses.left(address(1), "alice"), bus::GUESS_DELAY_OF_A_SOURCE_MAX);
        advance(bus::GUESSES_FORGOTTEN).await;
        assert_eq!(guesses.left(address(1), "alice"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_waits_wherever_it_is_tried_from_but_not_for_long() {
        let mut guesses = Guesses::new();
        for last in 0..60 {
            guesses.note_wrong(address(last), "alice");
        }
        assert_eq!(guesses.left(address(100), "alice"), bus::GUESS_DELAY_OF_A_NAME_MAX);
        assert_eq!(guesses.left(address(100), "bob"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_remembers_so_many_and_those_who_have_tried_most() {
        let mut guesses = Guesses::new();
        for _ in 0..20 {
            guesses.note_wrong(address(1), "alice");
        }
        for number in 0..bus::GUESSES_TABLE as u32 + 10 {
            let block = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
            guesses.note_wrong(block.into(), &number.to_string());
        }
        assert_eq!(guesses.by_address.wrong.len(), bus::GUESSES_TABLE);
        assert!(guesses.left(address(1), "") > Duration::ZERO);
    }
}
