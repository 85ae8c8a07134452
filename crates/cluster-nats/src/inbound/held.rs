//! What waits for messages that were sent before it and may come by another subscription.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// What waits of one topic, by its number and whether it is a mark.
type Waiting<T> = Vec<((u64, bool), T)>;

/// What waits of one bus, by the place of its topic.
type Topics<T> = HashMap<String, Waiting<T>, RandomState>;

/// What waits.
#[derive(Debug)]
pub(super) struct Held<T> {
    most: usize,
    most_bytes: usize,
    since: Option<Instant>,
    count: usize,
    bytes: usize,
    origins: HashMap<u64, Topics<T>, RandomState>,
}

impl<T> Held<T> {
    /// Nothing, of `most` and of `most_bytes` at the most.
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self { most, most_bytes, since: None, count: 0, bytes: 0, origins: HashMap::default() }
    }

    /// Since when something waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether something of this topic waits.
    pub(super) fn holds(&self, origin: u64, place: &str) -> bool {
        self.since.is_some() && self.origins.get(&origin).is_some_and(|topics| topics.contains_key(place))
    }

    /// Lets something of so many bytes wait that has this number in its topic, a mark behind the message of its number; returns whether no more
    /// may.
    pub(super) fn hold(
        &mut self,
        origin: u64,
        place: String,
        (order, bytes): ((u64, bool), usize),
        what: T,
    ) -> bool {
        self.since.get_or_insert_with(Instant::now);
        (self.count, self.bytes) = (self.count + 1, self.bytes + bytes);
        self.origins.entry(origin).or_default().entry(place).or_default().push((order, what));
        self.count >= self.most || self.bytes >= self.most_bytes
    }

    /// Takes all of it out, that of each topic by itself, in the order of its numbers. What has one number stays in the order in which it
    /// came.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Vec<T>> + use<T> {
        (self.since, self.count, self.bytes) = (None, 0, 0);
        let topics = std::mem::take(&mut self.origins).into_values().flat_map(HashMap::into_values);
        topics.map(|mut waiting| {
            waiting.sort_by_key(|(order, _)| *order);
            waiting.into_iter().map(|(_, what)| what).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_goes_on_in_the_order_of_its_numbers() {
        let mut held = Held::new(5, 1_000);
        assert!(held.since().is_none());
        for number in [7, 5, 6] {
            assert!(!held.hold(1, "a".into(), ((number, false), 1), number));
        }
        assert!(!held.hold(2, "a".into(), ((1, false), 1), 1));
        assert!(held.holds(1, "a") && held.holds(2, "a") && !held.holds(1, "b"));
        assert!(held.hold(1, "a".into(), ((7, true), 1), 8), "it is full");
        let mut taken: Vec<_> = held.take().collect();
        taken.sort();
        assert_eq!(taken, [vec![1], vec![5, 6, 7, 8]]);
        assert!(held.since().is_none() && !held.holds(1, "a"));
    }

    #[test]
    fn bytes_are_bounded_as_well() {
        let mut held = Held::new(5, 1_000);
        assert!(!held.hold(1, "a".into(), ((1, false), 600), ()));
        assert!(held.hold(1, "b".into(), ((1, false), 600), ()));
        assert_eq!(held.take().count(), 2);
        assert!(!held.hold(1, "a".into(), ((1, false), 600), ()), "there is room again");
    }
}
