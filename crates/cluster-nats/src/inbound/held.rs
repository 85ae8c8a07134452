//! What waits for messages that were sent before it and may come by another subscription.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// What waits of one topic, by its number and whether it is a mark.
type Waiting<T> = Vec<((u64, bool), T)>;

/// What waits, by the bus and the place of its topic.
#[derive(Debug)]
pub(super) struct Held<T> {
    most: usize,
    since: Option<Instant>,
    count: usize,
    topics: HashMap<(u64, String), Waiting<T>, RandomState>,
}

impl<T> Held<T> {
    /// Nothing, of `most` at the most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, since: None, count: 0, topics: HashMap::default() }
    }

    /// Since when something waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether something of this topic waits.
    pub(super) fn holds(&self, origin: u64, place: &str) -> bool {
        self.since.is_some() && self.topics.contains_key(&(origin, place.to_owned()))
    }

    /// Lets something wait that has this number in its topic, a mark behind the message of its number; returns whether no more may.
    pub(super) fn hold(
        &mut self,
        origin: u64,
        place: String,
        (number, is_mark): (u64, bool),
        what: T,
    ) -> bool {
        self.since.get_or_insert_with(Instant::now);
        self.count += 1;
        self.topics.entry((origin, place)).or_default().push(((number, is_mark), what));
        self.count >= self.most
    }

    /// Takes all of it out, that of each topic in the order of its numbers. What has one number stays in the order in which it came.
    pub(super) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        (self.since, self.count) = (None, 0);
        std::mem::take(&mut self.topics).into_values().flat_map(|mut waiting| {
            waiting.sort_by_key(|(order, _)| *order);
            waiting.into_iter().map(|(_, what)| what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_goes_on_in_the_order_of_its_numbers() {
        let mut held = Held::new(5);
        assert!(held.since().is_none());
        for number in [7, 5, 6] {
            assert!(!held.hold(1, "a".into(), (number, false), number));
        }
        assert!(!held.hold(2, "a".into(), (1, false), 1));
        assert!(held.holds(1, "a") && held.holds(2, "a") && !held.holds(1, "b"));
        assert!(held.hold(1, "a".into(), (7, true), 8), "it is full");
        let taken: Vec<_> = held.take().collect();
        assert_eq!(taken.iter().filter(|number| **number > 1).copied().collect::<Vec<_>>(), [5, 6, 7, 8]);
        assert_eq!(taken.len(), 5);
        assert!(held.since().is_none() && !held.holds(1, "a"));
    }
}
