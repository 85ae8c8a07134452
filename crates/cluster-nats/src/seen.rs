//! What has come of other buses' topics, so that nothing is taken twice and what is missing is noticed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::limits;
use crate::stamp::Stamp;

/// Messages that are missing at once, at the most: what is beyond no bus has sent.
pub(crate) const MOST: u64 = u32::MAX as u64;

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one.
    Take,
    /// It has come before.
    Known,
    /// So many before it have not come.
    Missing(u64),
}

/// The topics of other buses, with what is kept for each.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    most: usize,
    most_bytes: usize,
    /// What all of them take.
    bytes: usize,
    settling: Duration,
    origins: HashMap<u64, Topics<T>, RandomState>,
    /// All of them, in the order in which they came.
    order: VecDeque<(u64, Bytes)>,
    /// When the last one was forgotten: what is seen as new from then on may have been seen before.
    forgot_at: Option<Instant>,
}

/// The topics of one bus.
type Topics<T> = HashMap<Bytes, Topic<T>, RandomState>;

#[derive(Debug)]
struct Topic<T> {
    /// The number of the last one that was taken, or is missing.
    last: u64,
    /// The number with which the sender began to know the topic.
    first: u64,
    /// When something of it came last.
    at: Instant,
    kept: T,
}

impl<T> Seen<T> {
    /// Nothing yet, of up to `most` topics that take up to `most_bytes`; where a subscription is `settling` for so long, what was sent before is none of its.
    pub(crate) fn new((most, most_bytes): (usize, usize), settling: Duration) -> Self {
        let (origins, order) = (HashMap::default(), VecDeque::new());
        Self { most, most_bytes, bytes: 0, settling, origins, order, forgot_at: None }
    }

    /// What to do with a message that came by a subscription that was made at `since`. One that is missing some is to be shown again,
    /// when those before it cannot come any more, to [`pass`](Self::pass).
    pub(crate) fn message(
        &mut self,
        topic: &[u8],
        stamp: &Stamp,
        (since, now): (Instant, Instant),
        keep: impl FnOnce() -> T,
    ) -> Verdict {
        if let Some((verdict, _)) = self.known(topic, stamp, (since, now)) {
            return verdict;
        }
        let expected = self.expected(topic, stamp, stamp.number, (since, now), keep);
        self.topic(stamp.origin, topic).map_or(Verdict::Known, |own| own.take(stamp, expected))
    }

    /// What to do with a message of a topic of which something has come, and what is kept for that; `None` where nothing has.
    pub(crate) fn known(
        &mut self,
        topic: &[u8],
        stamp: &Stamp,
        times: (Instant, Instant),
    ) -> Option<(Verdict, &mut T)> {
        let settling = self.settling;
        let own = self.topic(stamp.origin, topic)?;
        let expected = own.expected(stamp, stamp.number, times, settling);
        Some((own.take(stamp, expected), &mut own.kept))
    }

    /// How many messages are missing up to a mark. Who says so is to show it to [`pass`](Self::pass) later.
    pub(crate) fn mark(
        &mut self,
        topic: &[u8],
        stamp: &Stamp,
        (since, now): (Instant, Instant),
        keep: impl FnOnce() -> T,
    ) -> u64 {
        let behind = stamp.number.saturating_add(1);
        behind.saturating_sub(self.expected(topic, stamp, behind, (since, now), keep)).min(MOST)
    }

    /// What comes before the message, or up to the mark, will not come any more. The message is the next one by then.
    pub(crate) fn pass(&mut self, topic: &[u8], stamp: &Stamp, is_mark: bool) {
        let last = if is_mark { stamp.number } else { stamp.number.saturating_sub(1) };
        if let Some(own) = self.topic(stamp.origin, topic) {
            own.last = own.last.max(last);
            own.first = stamp.number - stamp.known;
        }
    }

    /// Keeps something else for each topic.
    pub(crate) fn keep_anew(&mut self, mut keep: impl FnMut() -> T) {
        self.origins.values_mut().flat_map(HashMap::values_mut).for_each(|topic| topic.kept = keep());
    }

    /// What is kept for a topic.
    pub(crate) fn kept(&mut self, origin: u64, topic: &[u8]) -> Option<&mut T> {
        self.topic(origin, topic).map(|own| &mut own.kept)
    }

    fn topic(&mut self, origin: u64, topic: &[u8]) -> Option<&mut Topic<T>> {
        self.origins.get_mut(&origin)?.get_mut(topic)
    }

    /// The number of the message of a topic that is the next to come. Of a topic that has not been seen it is `fresh`, or the first of the
    /// run where all of that should have come.
    fn expected(
        &mut self,
        topic: &[u8],
        stamp: &Stamp,
        fresh: u64,
        (since, now): (Instant, Instant),
        keep: impl FnOnce() -> T,
    ) -> u64 {
        let settling = self.settling;
        if let Some(own) = self.topic(stamp.origin, topic) {
            return own.expected(stamp, fresh, (since, now), settling);
        }
        let first = stamp.number - stamp.known;
        self.make_room(topic, now);
        let began = now.checked_sub(stamp.age);
        let should_have_come = began
            .is_some_and(|began| began >= self.forgot_at.map_or(since, |at| at.max(since)) + self.settling);
        let expected = if should_have_come { stamp.number - stamp.run } else { fresh };
        self.bytes += room_of(topic);
        let topic = Bytes::copy_from_slice(topic);
        self.order.push_back((stamp.origin, topic.clone()));
        self.origins
            .entry(stamp.origin)
            .or_default()
            .insert(topic, Topic { last: expected.saturating_sub(1), first, at: now, kept: keep() });
        expected
    }

    /// Forgets topics, those first that came first, until another one has room.
    fn make_room(&mut self, topic: &[u8], now: Instant) {
        while self.order.len() >= self.most || self.bytes + room_of(topic) > self.most_bytes {
            let Some((origin, oldest)) = self.order.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(room_of(&oldest));
            self.forgot_at = Some(now);
            let Some(topics) = self.origins.get_mut(&origin) else { continue };
            topics.remove(&oldest);
            if topics.is_empty() {
                self.origins.remove(&origin);
            }
        }
    }

    /// Whether something of this bus has come.
    pub(crate) fn knows(&self, origin: u64) -> bool {
        self.origins.contains_key(&origin)
    }

    /// Whether something of this topic of a bus has come.
    pub(crate) fn knows_topic(&self, origin: u64, topic: &[u8]) -> bool {
        self.origins.get(&origin).is_some_and(|topics| topics.contains_key(topic))
    }
}

impl<T> Topic<T> {
    /// Takes a message, if it is the expected one.
    fn take(&mut self, stamp: &Stamp, expected: u64) -> Verdict {
        match stamp.number.checked_sub(expected) {
            None => Verdict::Known,
            Some(0) => {
                (self.last, self.first) = (stamp.last(), stamp.number - stamp.known);
                Verdict::Take
            }
            Some(missing) => Verdict::Missing(missing.min(MOST)),
        }
    }

    /// The number of the message that is the next to come, by what has come before.
    fn expected(
        &mut self,
        stamp: &Stamp,
        fresh: u64,
        (since, now): (Instant, Instant),
        settling: Duration,
    ) -> u64 {
        let first = stamp.number - stamp.known;
        // Where the sender has begun anew, what came before that was told by its marks.
        let next = self.last.saturating_add(1).max(if self.first < first { first } else { 0 });
        // What brings it now is younger: what came in between, while nobody wanted it, is not missing.
        let is_anew = self.at < since;
        self.at = now;
        if !is_anew {
            return next;
        }
        let began = now.checked_sub(stamp.age);
        let should_have_come = began.is_some_and(|began| began >= since + settling);
        let expected = next.max(if should_have_come { stamp.number - stamp.run } else { fresh });
        // Nor is it for what comes after this.
        self.last = self.last.max(expected.saturating_sub(1));
        expected
    }
}

/// Bytes that a topic is counted as: its name here and where it is published to, what is known of it, and its places in tables.
fn room_of(topic: &[u8]) -> usize {
    2 * topic.len() + limits::KNOWN_TOPIC
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLING: Duration = Duration::from_secs(1);

    struct Bench {
        seen: Seen<()>,
        since: Instant,
        now: Instant,
    }

    impl Bench {
        /// Something that has been subscribed for ten seconds.
        fn new() -> Self {
            let since = Instant::now();
            Self { seen: Seen::new((3, usize::MAX), SETTLING), since, now: since + Duration::from_secs(10) }
        }

        fn stamp(number: u64, known: u64, run: u64, age: u64) -> Stamp {
            Stamp { origin: 1, number, known, run, age: Duration::from_secs(age), count: 1 }
        }

        fn message(&mut self, subject: &'static str, stamp: &Stamp) -> Verdict {
            let times = (self.since, self.now);
            self.seen.message(subject.as_bytes(), stamp, times, || ())
        }

        fn mark(&mut self, subject: &'static str, stamp: &Stamp) -> u64 {
            let times = (self.since, self.now);
            self.seen.mark(subject.as_bytes(), stamp, times, || ())
        }
    }

    #[test]
    fn each_message_is_taken_once_and_in_its_order() {
        let mut bench = Bench::new();
        for number in 1..4 {
            let stamp = Bench::stamp(number, number - 1, number - 1, 0);
            assert_eq!(bench.message("a", &stamp), Verdict::Take);
            assert_eq!(bench.message("a", &stamp), Verdict::Known);
        }
        assert_eq!(bench.message("b", &Bench::stamp(9, 0, 0, 0)), Verdict::Take, "another topic");
        assert_eq!(bench.message("a", &Bench::stamp(2, 1, 1, 0)), Verdict::Known);
    }

    #[test]
    fn a_hole_is_missing_until_it_is_passed_over() {
        let mut bench = Bench::new();
        assert_eq!(bench.message("a", &Bench::stamp(1, 0, 0, 0)), Verdict::Take);
        let late = Bench::stamp(4, 3, 3, 0);
        assert_eq!(bench.message("a", &late), Verdict::Missing(2));
        assert_eq!(bench.message("a", &Bench::stamp(2, 1, 1, 0)), Verdict::Take, "it was late only");
        assert_eq!(bench.message("a", &late), Verdict::Missing(1));
        bench.seen.pass(b"a", &late, false);
        assert_eq!(bench.message("a", &late), Verdict::Take);
        assert_eq!(bench.message("a", &late), Verdict::Known);
        assert_eq!(bench.message("a", &Bench::stamp(5, 4, 4, 0)), Verdict::Take);
    }

    #[test]
    fn a_batch_counts_as_all_its_messages() {
        let mut bench = Bench::new();
        let batch = |number: u64, count| Stamp { count, ..Bench::stamp(number, number - 1, number - 1, 0) };
        assert_eq!(bench.message("a", &batch(1, 10)), Verdict::Take);
        assert_eq!(bench.message("a", &batch(1, 10)), Verdict::Known);
        let late = batch(14, 5);
        assert_eq!(bench.message("a", &late), Verdict::Missing(3));
        bench.seen.pass(b"a", &late, false);
        assert_eq!(bench.message("a", &late), Verdict::Take);
        assert_eq!(bench.message("a", &batch(19, 1)), Verdict::Take);
        assert_eq!(bench.mark("a", &Bench::stamp(21, 20, 20, 1)), 2);
    }

    #[test]
    fn a_mark_shows_that_the_last_ones_are_missing() {
        let mut bench = Bench::new();
        assert_eq!(bench.message("a", &Bench::stamp(1, 0, 0, 0)), Verdict::Take);
        assert_eq!(bench.mark("a", &Bench::stamp(1, 0, 0, 1)), 0);
        let mark = Bench::stamp(3, 2, 1, 1);
        assert_eq!(bench.mark("a", &mark), 2);
        bench.seen.pass(b"a", &mark, true);
        assert_eq!(bench.mark("a", &mark), 0);
    }

    #[test]
    fn of_a_topic_that_was_not_seen_what_came_without_a_rest_should_have_come() {
        let mut bench = Bench::new();
        assert_eq!(bench.message("a", &Bench::stamp(9, 8, 2, 3)), Verdict::Missing(2));
        assert_eq!(bench.mark("b", &Bench::stamp(9, 8, 2, 3)), 3, "the message of the mark is missing, too");
    }

    #[test]
    fn what_was_sent_before_a_subscription_is_none_of_its() {
        let mut bench = Bench::new();
        assert_eq!(bench.message("a", &Bench::stamp(9, 8, 2, 11)), Verdict::Take, "the run began before it");
        assert_eq!(bench.message("a", &Bench::stamp(10, 9, 3, 11)), Verdict::Take);
        assert_eq!(bench.mark("b", &Bench::stamp(9, 8, 2, 11)), 0);
        let settling = Bench::stamp(9, 8, 2, 10);
        assert_eq!(
            bench.message("c", &settling),
            Verdict::Take,
            "it may not have reached all servers by then"
        );
    }

    #[test]
    fn a_sender_that_begins_a_topic_anew_has_not_lost_what_lies_between() {
        let mut bench = Bench::new();
        assert_eq!(bench.message("a", &Bench::stamp(5, 4, 0, 0)), Verdict::Take);
        assert_eq!(bench.message("a", &Bench::stamp(1_000, 0, 0, 0)), Verdict::Take);
        assert_eq!(bench.message("a", &Bench::stamp(1_001, 1, 1, 0)), Verdict::Take);
        let late = Bench::stamp(5_003, 3, 3, 0);
        assert_eq!(bench.message("a", &late), Verdict::Missing(3), "of those since");
    }

    #[test]
    fn what_came_while_nobody_had_subscribed_is_not_missing_and_nothing_is_taken_again() {
        let mut bench = Bench::new();
        assert_eq!(bench.message("a", &Bench::stamp(10, 9, 9, 20)), Verdict::Take);
        bench.now += Duration::from_secs(60);
        bench.since = bench.now;
        bench.now += Duration::from_secs(5);
        assert_eq!(bench.message("a", &Bench::stamp(10, 9, 9, 85)), Verdict::Known);
        bench.now += Duration::from_secs(1);
        bench.since = bench.now;
        bench.now += Duration::from_secs(5);
        assert_eq!(bench.message("a", &Bench::stamp(51, 50, 50, 91)), Verdict::Take);
        bench.now += Duration::from_secs(1);
        assert_eq!(
            bench.message("a", &Bench::stamp(53, 52, 52, 92)),
            Verdict::Missing(1),
            "since then it is"
        );
    }

    #[test]
    fn what_came_while_nobody_had_subscribed_is_not_missing_for_what_comes_behind_a_mark_either() {
        let mut bench = Bench::new();
        assert_eq!(bench.message("a", &Bench::stamp(10, 9, 9, 20)), Verdict::Take);
        bench.now += Duration::from_secs(60);
        bench.since = bench.now;
        bench.now += Duration::from_millis(100);
        assert_eq!(bench.mark("a", &Bench::stamp(50, 49, 39, 30)), 0);
        assert_eq!(bench.message("a", &Bench::stamp(51, 50, 40, 31)), Verdict::Take);
        // What should have come, and has not, is counted from the same place whenever it is looked at.
        bench.now += Duration::from_secs(60);
        bench.since = bench.now;
        bench.now += Duration::from_secs(5);
        let late = Bench::stamp(90, 89, 2, 3);
        assert_eq!(bench.message("a", &late), Verdict::Missing(2));
        assert_eq!(bench.message("a", &late), Verdict::Missing(2));
        assert_eq!(bench.message("a", &Bench::stamp(88, 87, 0, 3)), Verdict::Take);
    }

    #[test]
    fn numbers_that_no_bus_sends_are_a_bounded_loss() {
        let mut bench = Bench::new();
        let forged = Bench::stamp(u64::MAX - 1, u64::MAX - 2, u64::MAX - 2, 0);
        assert_eq!(bench.message("a", &forged), Verdict::Missing(u64::from(u32::MAX)));
    }

    #[test]
    fn there_are_no_more_topics_than_may_be() {
        let mut bench = Bench::new();
        for subject in ["a", "b", "c", "d"] {
            assert_eq!(bench.message(subject, &Bench::stamp(5, 4, 0, 0)), Verdict::Take);
        }
        assert_eq!(bench.seen.order.len(), 3);
        assert!(bench.seen.kept(1, b"a").is_none());
        let again = Bench::stamp(8, 7, 3, 5);
        assert_eq!(bench.message("a", &again), Verdict::Take, "nobody knows any more what has come of it");
        assert!(bench.seen.knows(1) && bench.seen.knows_topic(1, b"a") && !bench.seen.knows(2));
    }

    #[test]
    fn names_that_are_long_are_fewer() {
        let mut bench = Bench::new();
        bench.seen = Seen::new((1_000, 10_000), SETTLING);
        let long = |letter: &str| letter.repeat(1_024);
        let mut see = |topic: &str| {
            let times = (bench.since, bench.now);
            bench.seen.message(topic.as_bytes(), &Bench::stamp(5, 4, 0, 0), times, || ());
            (bench.seen.order.len(), bench.seen.bytes)
        };
        let known: Vec<_> = ["a", "b", "c", "d", "e", "f"].iter().map(|letter| see(&long(letter))).collect();
        assert!(known.iter().all(|(_, bytes)| *bytes <= 10_000), "{known:?}");
        let most = known.iter().map(|(topics, _)| *topics).max();
        assert_eq!((most, known.last().map(|(topics, _)| *topics)), (Some(3), Some(3)));
        assert_eq!(see("a").0, 4, "a short one has room beside them");
    }
}
