//! When things are due, many of them at once, at the cost of those that are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

/// Entries that were called off and may stay, beside as many as there are others.
const STALE: usize = 32;

/// Times at which something is due. What is called off stays until it comes to the front or half of all
/// entries are such, so that adding and calling off cost next to nothing. The owner knows what still
/// holds: an entry is live while `is_live` says so of its time and key.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
    stale: usize,
}

impl<K: Ord> Default for Deadlines<K> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), stale: 0 }
    }
}

impl<K: Copy + Ord> Deadlines<K> {
    pub(crate) fn add(&mut self, at: Instant, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    /// One entry holds no longer.
    pub(crate) fn call_off(&mut self, is_live: impl Fn(Instant, K) -> bool) {
        self.stale += 1;
        if self.stale > STALE + self.heap.len() / 2 {
            self.heap.retain(|Reverse((at, key))| is_live(*at, *key));
            self.heap.shrink_to(2 * self.heap.len() + 4 * STALE);
            self.stale = 0;
        }
    }

    /// When the first one is due.
    pub(crate) fn next(&mut self, is_live: impl Fn(Instant, K) -> bool) -> Option<Instant> {
        loop {
            let Reverse((at, key)) = *self.heap.peek()?;
            if is_live(at, key) {
                return Some(at);
            }
            self.pop_stale();
        }
    }

    /// Takes one that is due at `now`.
    pub(crate) fn take_due(&mut self, now: Instant, is_live: impl Fn(Instant, K) -> bool) -> Option<K> {
        loop {
            let Reverse((at, key)) = *self.heap.peek()?;
            if !is_live(at, key) {
                self.pop_stale();
            } else if at <= now {
                self.heap.pop();
                return Some(key);
            } else {
                return None;
            }
        }
    }

    fn pop_stale(&mut self) {
        self.heap.pop();
        self.stale = self.stale.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Action {
        /// Sets the time of a key, in place of the one that it had.
        Set(u8, u64),
        CallOff(u8),
        Pass(u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (0u8..8, 0u64..50).prop_map(|(key, after)| Action::Set(key, after)),
            3 => (0u8..8).prop_map(Action::CallOff),
            1 => (1u64..20).prop_map(Action::Pass),
        ]
    }

    proptest! {
        #[test]
        fn what_is_due_comes_in_time_and_what_was_called_off_never(
            actions in proptest::collection::vec(action(), 1..400),
        ) {
            let mut now = Instant::now();
            let mut deadlines = Deadlines::default();
            let mut live = BTreeMap::<u8, Instant>::new();
            for action in actions {
                match action {
                    Action::Set(key, after) => {
                        let at = now + Duration::from_millis(after);
                        // What holds one entry for a key holds one only: the same time is no change.
                        if live.get(&key) != Some(&at) {
                            deadlines.add(at, key);
                            if live.insert(key, at).is_some() {
                                deadlines.call_off(|at, key| live.get(&key) == Some(&at));
                            }
                        }
                    }
                    Action::CallOff(key) => {
                        if live.remove(&key).is_some() {
                            deadlines.call_off(|at, key| live.get(&key) == Some(&at));
                        }
                    }
                    Action::Pass(millis) => now += Duration::from_millis(millis),
                }
                while let Some(key) = deadlines.take_due(now, |at, key| live.get(&key) == Some(&at)) {
                    let at = live.remove(&key);
                    prop_assert!(at.is_some_and(|at| at <= now));
                }
                prop_assert!(live.values().all(|at| *at > now), "one was forgotten");
                let next = deadlines.next(|at, key| live.get(&key) == Some(&at));
                prop_assert_eq!(next, live.values().min().copied());
                prop_assert!(deadlines.heap.len() <= 2 * live.len() + 2 * STALE + 2, "no bound");
            }
        }
    }

    #[test]
    fn one_that_is_due_among_ten_thousand_is_all_that_is_looked_at() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        for key in 0..10_000u32 {
            deadlines.add(now + Duration::from_millis(u64::from(1 + 7 * key % 10_000)), key);
        }
        let looked_at = Cell::new(0);
        let is_live = |_, _| {
            looked_at.set(looked_at.get() + 1);
            true
        };
        assert_eq!(deadlines.take_due(now + Duration::from_millis(1), is_live), Some(0));
        assert_eq!(deadlines.take_due(now + Duration::from_millis(1), is_live), None);
        assert!(deadlines.next(is_live).is_some());
        assert!(looked_at.get() <= 3, "{} were looked at", looked_at.get());
    }
}
