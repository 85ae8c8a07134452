//! Slows down who guesses passwords.
//!
//! A wrong password costs the source that it came from, and the name that it was tried for: after a few of them the
//! next is looked at only after a time that doubles with each, up to a bound. What is refused meanwhile costs
//! nothing, neither the bus nor whoever asks. All is forgotten after a time without another.
//!
//! By the name alone a stranger could keep its owner out. So a source from which the name has been entered lately
//! is known: there only what was wrong for this name from this source counts. A guesser who shares it, behind the
//! same address, is slowed down by that as well.
//!
//! All of it is the same for names that there are and names that there are not, and a success takes nothing back
//! from the source: whoever has a name of his own could otherwise go on guessing others.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::source::Source;
use crate::limits;

/// How fast tries may follow each other.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Wrong ones that cost nothing.
    free: u32,
    /// The longest time between two.
    longest: Duration,
}

const OF_A_SOURCE: Pace =
    Pace { free: limits::GUESSES_OF_A_SOURCE, longest: limits::GUESS_DELAY_OF_A_SOURCE_MAX };
const OF_A_NAME: Pace = Pace { free: limits::GUESSES_OF_A_NAME, longest: limits::GUESS_DELAY_OF_A_NAME_MAX };

impl Pace {
    /// How long to wait after so many wrong ones.
    fn delay(self, wrong: u32) -> Duration {
        match wrong.checked_sub(self.free + 1) {
            None => Duration::ZERO,
            Some(doubled) => limits::GUESS_DELAY.saturating_mul(1 << doubled.min(20)).min(self.longest),
        }
    }
}

/// Wrong passwords that count together.
#[derive(Debug, Clone, Copy)]
struct Wrong {
    count: u32,
    last: Instant,
}

impl Wrong {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.duration_since(self.last) >= limits::GUESSES_FORGOTTEN
    }
}

/// Wrong passwords by what they count for.
#[derive(Debug)]
struct Tally<K> {
    pace: Pace,
    entries: HashMap<K, Wrong, RandomState>,
}

impl<K: Eq + Hash + Clone> Tally<K> {
    fn new(pace: Pace) -> Self {
        Self { pace, entries: HashMap::default() }
    }

    /// How long it is until the next try is looked at.
    fn left(&self, key: &K, now: Instant) -> Duration {
        let Some(wrong) = self.entries.get(key).filter(|wrong| !wrong.is_forgotten(now)) else {
            return Duration::ZERO;
        };
        (wrong.last + self.pace.delay(wrong.count)).saturating_duration_since(now)
    }

    /// Counts a wrong one. Where there is no room, whoever has the fewest gives way, of these the one that is
    /// the oldest: so many who try once each do not make room for one who has tried often.
    fn add(&mut self, key: K, now: Instant) {
        if !self.entries.contains_key(&key) && self.entries.len() >= limits::GUESSES_TABLE {
            self.entries.retain(|_, wrong| !wrong.is_forgotten(now));
            if self.entries.len() >= limits::GUESSES_TABLE {
                let least = self.entries.iter().min_by_key(|(_, wrong)| (wrong.count, wrong.last));
                if let Some(least) = least.map(|(key, _)| key.clone()) {
                    self.entries.remove(&least);
                }
            }
        }
        let wrong = self.entries.entry(key).or_insert(Wrong { count: 0, last: now });
        if wrong.is_forgotten(now) {
            wrong.count = 0;
        }
        wrong.count = wrong.count.saturating_add(1);
        wrong.last = now;
    }
}

/// A name, whatever its length; nobody outside can tell which two would be taken for one.
type Name = u64;

/// What has been tried, from where and for whom.
#[derive(Debug)]
pub(super) struct Guesses {
    names: RandomState,
    by_source: Tally<Source>,
    by_name: Tally<Name>,
    /// Wrong ones for a name from where it is known.
    by_both: Tally<(Source, Name)>,
    /// When a name was last entered with its password, from there.
    known: HashMap<(Source, Name), Instant, RandomState>,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            names: RandomState::new(),
            by_source: Tally::new(OF_A_SOURCE),
            by_name: Tally::new(OF_A_NAME),
            by_both: Tally::new(OF_A_NAME),
            known: HashMap::default(),
        }
    }
}

impl Guesses {
    /// How long it is until a password for this name is looked at that comes from there; zero if it is now.
    pub(super) fn left(&self, source: &Source, name: &str, now: Instant) -> Duration {
        let name = self.names.hash_one(name);
        let both = (source.clone(), name);
        if self.is_known(&both, now) {
            return self.by_both.left(&both, now);
        }
        self.by_source.left(source, now).max(self.by_name.left(&name, now))
    }

    /// Notes whether the password was the right one.
    pub(super) fn note(&mut self, source: &Source, name: &str, right: bool, now: Instant) {
        let name = self.names.hash_one(name);
        let both = (source.clone(), name);
        if right {
            self.by_both.entries.remove(&both);
            self.get_to_know(both, now);
            return;
        }
        if !source.is_many() {
            self.by_source.add(source.clone(), now);
        }
        if self.is_known(&both, now) {
            self.by_both.add(both, now);
        } else {
            self.by_name.add(name, now);
        }
    }

    fn is_known(&self, both: &(Source, Name), now: Instant) -> bool {
        self.known.get(both).is_some_and(|last| now.duration_since(*last) < limits::PASSWORD_KNOWN)
    }

    /// Where there is no room, whoever has not come for the longest time gives way.
    fn get_to_know(&mut self, both: (Source, Name), now: Instant) {
        if !self.known.contains_key(&both) && self.known.len() >= limits::GUESSES_TABLE {
            let oldest = self.known.iter().min_by_key(|(_, last)| **last).map(|(both, _)| both.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(both, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AddressBlock;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(last: u8) -> Source {
        Source::Address(AddressBlock::of([192, 0, 2, last].into()))
    }

    /// Guesses, and a clock that is set forward by hand.
    struct Ground {
        guesses: Guesses,
        now: Instant,
    }

    impl Ground {
        fn new() -> Self {
            Self { guesses: Guesses::default(), now: Instant::now() }
        }

        fn left(&self, source: &Source, name: &str) -> Duration {
            self.guesses.left(source, name, self.now)
        }

        fn wrong(&mut self, source: &Source, name: &str) {
            self.guesses.note(source, name, false, self.now);
        }

        fn right(&mut self, source: &Source, name: &str) {
            self.guesses.note(source, name, true, self.now);
        }

        /// Tries as fast as it is let, until it would have to wait for too long; how many passwords were looked at.
        fn guess(&mut self, source: &Source, name: impl Fn(u32) -> String, time: Duration) -> u32 {
            let (end, mut tried) = (self.now + time, 0);
            loop {
                let left = self.left(source, &name(tried));
                if self.now + left >= end {
                    return tried;
                }
                self.now += left;
                self.wrong(source, &name(tried));
                tried += 1;
            }
        }
    }

    #[test]
    fn who_mistypes_a_few_times_waits_for_nothing_and_then_longer_each_time_up_to_a_bound() {
        let mut ground = Ground::new();
        let mut waits = Vec::new();
        // Names that differ, so that only the source counts.
        for number in 0..20 {
            let left = ground.left(&at(1), "anybody");
            waits.push(left);
            ground.now += left;
            ground.wrong(&at(1), &format!("name {number}"));
        }
        let free = limits::GUESSES_OF_A_SOURCE as usize;
        assert!(waits[..=free].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[free + 1..free + 5], [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND]);
        assert_eq!(waits[19], limits::GUESS_DELAY_OF_A_SOURCE_MAX);
        assert!(ground.left(&at(2), "anybody").is_zero(), "others have done nothing");
        ground.now += limits::GUESSES_FORGOTTEN;
        assert!(ground.left(&at(1), "anybody").is_zero());
        ground.wrong(&at(1), "anybody");
        assert!(ground.left(&at(1), "anybody").is_zero(), "it begins anew");
    }

    #[test]
    fn a_refused_try_does_not_make_the_wait_longer() {
        let mut ground = Ground::new();
        ground.guess(&at(1), |_| "alice".into(), 10 * SECOND);
        let left = ground.left(&at(1), "alice");
        assert!(!left.is_zero());
        assert_eq!(ground.left(&at(1), "alice"), left);
        ground.now += left;
        assert!(ground.left(&at(1), "alice").is_zero());
    }

    #[test]
    fn one_source_gets_few_guesses_in_a_day_whatever_the_names() {
        let day = 24 * 60 * 60 * SECOND;
        let one = Ground::new().guess(&at(1), |_| "alice".into(), day);
        let many = Ground::new().guess(&at(1), |number| format!("user {number}"), day);
        assert!(one < 320 && many < 320, "{one} {many}");
    }

    #[test]
    fn who_comes_from_many_sources_is_slowed_down_by_the_name() {
        let mut ground = Ground::new();
        let (hour, mut tried) = (60 * 60 * SECOND, 0);
        let end = ground.now + hour;
        while ground.now < end {
            for last in 0..=255 {
                if ground.left(&at(last), "alice").is_zero() {
                    ground.wrong(&at(last), "alice");
                    tried += 1;
                }
            }
            ground.now += SECOND;
        }
        assert!(tried < 150, "{tried}");
    }

    #[test]
    fn a_stranger_cannot_keep_a_user_out_where_that_one_has_been_let_in() {
        let mut ground = Ground::new();
        ground.right(&at(1), "alice");
        ground.guess(&at(2), |_| "alice".into(), 60 * SECOND);
        assert!(!ground.left(&at(3), "alice").is_zero(), "from elsewhere nobody can tell them apart");
        assert!(ground.left(&at(1), "alice").is_zero());
        // Nor by what else comes from the same address.
        ground.guess(&at(1), |number| format!("user {number}"), 60 * SECOND);
        assert!(!ground.left(&at(1), "bob").is_zero());
        assert!(ground.left(&at(1), "alice").is_zero());
        ground.now += limits::PASSWORD_KNOWN;
        ground.guess(&at(2), |_| "alice".into(), 60 * SECOND);
        assert!(!ground.left(&at(1), "alice").is_zero(), "it was too long ago");
    }

    #[test]
    fn who_guesses_from_where_the_user_is_known_is_slowed_down_as_well() {
        let mut ground = Ground::new();
        ground.right(&at(1), "alice");
        let tried = ground.guess(&at(1), |_| "alice".into(), 60 * 60 * SECOND);
        assert!(tried < 150, "{tried}");
        assert!(ground.left(&at(2), "alice").is_zero(), "that is nothing to her elsewhere");
        ground.now += limits::GUESS_DELAY_OF_A_NAME_MAX;
        ground.right(&at(1), "alice");
        assert!(ground.left(&at(1), "alice").is_zero());
    }

    #[test]
    fn whoever_has_a_name_of_his_own_does_not_get_more_guesses_by_it() {
        let mut ground = Ground::new();
        for number in 0..10 {
            ground.wrong(&at(1), &format!("user {number}"));
            ground.right(&at(1), "mallory");
        }
        assert!(!ground.left(&at(1), "alice").is_zero());
    }

    #[test]
    fn a_source_that_is_many_pays_by_the_name_alone() {
        let mut ground = Ground::new();
        let everybody = Source::Address(AddressBlock::of([127, 0, 0, 1].into()));
        ground.guess(&everybody, |_| "alice".into(), 60 * SECOND);
        assert!(!ground.left(&everybody, "alice").is_zero());
        assert!(ground.left(&everybody, "bob").is_zero());
    }

    #[test]
    fn many_who_try_once_do_not_make_room_for_one_who_tries_often() {
        let mut ground = Ground::new();
        ground.guess(&at(1), |_| "alice".into(), 600 * SECOND);
        let left = (ground.left(&at(1), "alice"), ground.left(&at(2), "alice"));
        for number in 0..limits::GUESSES_TABLE as u32 + 100 {
            let source = Source::Address(AddressBlock::of(std::net::Ipv4Addr::from_bits(number).into()));
            ground.wrong(&source, &format!("user {number}"));
            ground.right(&source, &format!("user {number}"));
        }
        assert_eq!(left, (ground.left(&at(1), "alice"), ground.left(&at(2), "alice")));
        for count in [ground.guesses.by_source.entries.len(), ground.guesses.by_name.entries.len()] {
            assert_eq!(count, limits::GUESSES_TABLE);
        }
        assert_eq!(ground.guesses.known.len(), limits::GUESSES_TABLE);
    }
}
