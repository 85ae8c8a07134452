//! The memory that subscriptions and servings take, bounded for each session and for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{BusError, BusResult};
use crate::limits::{FRAGMENT_BYTES, GROUP_BYTES, SUBSCRIPTION_BYTES, TABLE_PART};
use crate::topic::TopicPattern;

/// Bytes that the subscriptions and servings of all sessions may take, and do.
///
/// Each counts with what it would take if it shared nothing of its pattern with others: so what it counts
/// does not change when others come and go.
#[derive(Debug)]
pub(crate) struct TableBudget {
    used: AtomicUsize,
    limit: usize,
}

impl TableBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that those of one session may take.
    fn per_session(&self) -> usize {
        self.limit / TABLE_PART
    }

    /// Room for one more subscription or serving of a session whose others take `held` bytes.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        pattern: &TopicPattern,
        group: Option<&str>,
        held: usize,
    ) -> BusResult<Room> {
        let bytes = bytes_of(pattern, group);
        if held + bytes > self.per_session() {
            let what = format!(
                "subscriptions and servings of this session take {held} bytes of {}, its part of the bus's table budget",
                self.per_session()
            );
            return Err(BusError::LimitReached { what });
        }
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        let room = Room { budget: Arc::clone(self), bytes };
        if used + bytes > self.limit {
            let what = format!(
                "subscriptions and servings of all sessions take {used} bytes of the bus's table budget, {} bytes",
                self.limit
            );
            return Err(BusError::LimitReached { what });
        }
        Ok(room)
    }
}

/// What one of them takes; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    budget: Arc<TableBudget>,
    bytes: usize,
}

impl Room {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that a subscription to this pattern takes at most, or a serving of this topic.
pub(crate) fn bytes_of(pattern: &TopicPattern, group: Option<&str>) -> usize {
    let text = pattern.as_str();
    let separators = text.bytes().filter(|byte| *byte == b'/').count();
    // The text is kept whole and, where no other has the same fragments, in parts.
    let own = SUBSCRIPTION_BYTES + (separators + 1) * FRAGMENT_BYTES + 2 * text.len();
    own + group.map_or(0, |name| GROUP_BYTES + 2 * name.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Trie;

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::new(text).unwrap()
    }

    #[test]
    fn room_is_counted_as_long_as_it_is_held() {
        let budget = Arc::new(TableBudget::new(1 << 20));
        let one = budget.reserve(&pattern("a/b"), None, 0).unwrap();
        let other = budget.reserve(&pattern("a/b"), Some("workers"), one.bytes()).unwrap();
        assert_eq!(budget.used(), one.bytes() + other.bytes());
        assert!(other.bytes() > one.bytes());
        drop((one, other));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_session_finds_room_in_its_part_and_all_together_in_the_whole() {
        let size = bytes_of(&pattern("a"), None);
        let budget = Arc::new(TableBudget::new(size * TABLE_PART * 2));
        let mut rooms = Vec::new();
        for session in 0..TABLE_PART {
            for held in 0..2 {
                rooms.push(budget.reserve(&pattern("a"), None, held * size).unwrap());
            }
            let full = budget.reserve(&pattern("a"), None, 2 * size);
            assert!(matches!(full, Err(BusError::LimitReached { .. })), "{session}: {full:?}");
        }
        let full = budget.reserve(&pattern("a"), None, 0);
        assert!(matches!(full, Err(BusError::LimitReached { .. })), "{full:?}");
        assert_eq!(budget.used(), rooms.len() * size, "what found no room is not counted");
        rooms.pop();
        assert!(budget.reserve(&pattern("a"), None, 0).is_ok());
    }

    #[test]
    fn what_is_counted_covers_what_the_trie_takes() {
        let ordinary = |number: usize| format!("building/{number}/temperature");
        let worst = |number: usize| {
            let fragments: Vec<_> = (0..64).map(|fragment| format!("{number:07}{fragment:06}")).collect();
            fragments.join("/")
        };
        for (texts, count) in [(&ordinary as &dyn Fn(usize) -> String, 60_000), (&worst, 3_000)] {
            let mut trie = Trie::new();
            let mut counted = 0;
            for number in 0..count {
                let pattern = pattern(&texts(number));
                counted += bytes_of(&pattern, None) - SUBSCRIPTION_BYTES;
                trie.insert(&pattern, number).unwrap();
                assert!(trie.memory() <= counted + 64 * 1024, "{} of {counted}", trie.memory());
            }
        }
    }
}
