//! Which messages of a sender have come already.

use crate::limits;

const BITS: u64 = u64::BITS as u64;

/// Words of a window: one more than count, as the one that the newest is in is not full.
const WORDS: usize = (limits::REPLAY_WINDOW / BITS) as usize + 1;

/// A sliding window over the sequences of one sender: a ring of bits, as in RFC 6479, so that nothing is ever shifted.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// One more than the highest sequence that has come.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }
}

impl Window {
    /// A window that takes all from this sequence before anything older has come: all before it has, or will not.
    pub(super) fn beginning_at(next: u64) -> Self {
        let mut window = Self { next, seen: [0; WORDS] };
        if let Some(newest) = next.checked_sub(1) {
            window.seen = [u64::MAX; WORDS];
            if let Some(seen) = window.seen.get_mut(place(newest / BITS)) {
                *seen = u64::MAX >> (BITS - 1 - newest % BITS);
            }
        }
        window
    }

    /// One more than the highest sequence that has come.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Notes that this one has come; `false` if it has come before, or is too old to tell.
    pub(super) fn note(&mut self, sequence: u64) -> bool {
        let word = sequence / BITS;
        if sequence >= self.next {
            self.forget(word);
            self.next = sequence.saturating_add(1);
        } else if self.next - 1 - sequence >= limits::REPLAY_WINDOW {
            return false;
        }
        let bit = 1 << (sequence % BITS);
        let Some(seen) = self.seen.get_mut(place(word)) else { return false };
        let is_new = *seen & bit == 0;
        *seen |= bit;
        is_new
    }

    /// Empties the words from behind the newest up to this one, in which older sequences have left their bits.
    fn forget(&mut self, word: u64) {
        let newest = self.next.checked_sub(1).map(|sequence| sequence / BITS);
        let first = newest.map_or(0, |newest| newest + 1);
        for word in (first..=word).take(WORDS) {
            if let Some(seen) = self.seen.get_mut(place(word)) {
                *seen = 0;
            }
        }
    }
}

/// Where a word lies in the ring.
fn place(word: u64) -> usize {
    (word % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The same with a set of all that has come.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn note(&mut self, sequence: u64) -> bool {
            let old = self
                .seen
                .last()
                .is_some_and(|newest| *newest > sequence && newest - sequence >= limits::REPLAY_WINDOW);
            !old && self.seen.insert(sequence)
        }
    }

    fn step() -> impl Strategy<Value = i64> {
        let window = limits::REPLAY_WINDOW.cast_signed();
        prop_oneof![
            8 => 1..3_i64,
            8 => -70..70_i64,
            2 => -window - 2..=window + 2,
            1 => -3 * window..3 * window,
            1 => prop_oneof![Just(i64::MAX / 8), Just(i64::MIN / 8)],
        ]
    }

    proptest! {
        #[test]
        fn a_window_decides_as_a_set_of_all_that_has_come(
            first in prop_oneof![0..200_u64, any::<u64>()],
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let (mut window, mut model) = (Window::default(), Model::default());
            let mut at = first;
            for step in std::iter::once(0).chain(steps) {
                // The last number of all is never used.
                at = at.saturating_add_signed(step).min(u64::MAX - 1);
                prop_assert_eq!(window.note(at), model.note(at), "{}", at);
            }
        }
    }

    proptest! {
        #[test]
        fn a_window_that_goes_on_takes_nothing_that_is_before_its_beginning(
            next in 0..10_000_u64,
            steps in prop::collection::vec(-5_000..5_000_i64, 1..100),
        ) {
            let (mut window, mut model) = (Window::beginning_at(next), Model::default());
            model.seen.extend(0..next);
            let mut at = next;
            for step in steps {
                at = at.saturating_add_signed(step);
                prop_assert_eq!(window.note(at), model.note(at), "{}", at);
            }
        }
    }

    #[test]
    fn each_message_counts_once_and_the_oldest_that_counts_is_at_the_edge() {
        let mut window = Window::default();
        assert!(window.note(10_000));
        assert!(!window.note(10_000));
        assert!(window.note(10_001 - limits::REPLAY_WINDOW));
        assert!(!window.note(10_000 - limits::REPLAY_WINDOW));
    }
}
