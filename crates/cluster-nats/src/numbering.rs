//! The numbers of what this bus sends.
//!
//! Each topic has its own, so that whoever takes some topics only finds out what is missing of these. When a topic has been quiet for a
//! while its last number is told once more, as a mark: otherwise nobody would miss the last message.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::limits;
use crate::stamp::Stamp;

/// The topics of one link, with the numbers of their last messages.
#[derive(Debug)]
pub(crate) struct Numbering {
    origin: u64,
    most: usize,
    most_bytes: usize,
    /// What all topics take.
    bytes: usize,
    quiet: Duration,
    topics: HashMap<Bytes, Topic, RandomState>,
    /// Messages so far. No topic has more, so that one that was forgotten begins behind where it was.
    total: u64,
    /// Topics whose last number is to be told, in the order in which that is to be looked at.
    unmarked: VecDeque<(Instant, Bytes)>,
    /// Topics that rest, those that have rested for longest first, with their number when they began to.
    resting: VecDeque<(u64, Bytes)>,
    /// Topics that were forgotten before their last number was told.
    forgotten: u64,
}

#[derive(Debug)]
struct Topic {
    subject: Subject,
    mark: Subject,
    last: u64,
    first: u64,
    run_first: u64,
    run_began: Instant,
    last_at: Instant,
    is_marked: bool,
}

impl Topic {
    fn stamp(&self, origin: u64, now: Instant) -> Stamp {
        Stamp {
            origin,
            number: self.last,
            known: self.last - self.first,
            run: self.last - self.run_first,
            age: now.saturating_duration_since(self.run_began),
            count: 1,
        }
    }
}

impl Numbering {
    /// No topics, of which there may be `most` that take `most_bytes`, and which are quiet after so long.
    pub(crate) fn new(origin: u64, (most, most_bytes): (usize, usize), quiet: Duration) -> Self {
        Self {
            origin,
            most,
            most_bytes,
            bytes: 0,
            quiet,
            topics: HashMap::default(),
            total: 0,
            unmarked: VecDeque::new(),
            resting: VecDeque::new(),
            forgotten: 0,
        }
    }

    /// The next number of a topic, and its subject. What the subjects of a topic and of its marks are is asked when it is new.
    pub(crate) fn next(
        &mut self,
        topic: &[u8],
        now: Instant,
        subjects: impl FnOnce() -> (Subject, Subject),
    ) -> (Subject, Stamp) {
        self.total += 1;
        if let Some(own) = self.topics.get_mut(topic) {
            own.last += 1;
            if own.is_marked {
                (own.is_marked, own.run_first, own.run_began) = (false, own.last, now);
                self.unmarked.push_back((now + self.quiet, Bytes::copy_from_slice(topic)));
            }
            own.last_at = now;
            return (own.subject.clone(), own.stamp(self.origin, now));
        }
        self.make_room(topic);
        let (subject, mark) = subjects();
        let number = self.total;
        let (last, first, run_first) = (number, number, number);
        let own =
            Topic { subject, mark, last, first, run_first, run_began: now, last_at: now, is_marked: false };
        let told = (own.subject.clone(), own.stamp(self.origin, now));
        self.bytes += room_of(topic);
        let topic = Bytes::copy_from_slice(topic);
        self.unmarked.push_back((now + self.quiet, topic.clone()));
        self.topics.insert(topic, own);
        told
    }

    /// Counts messages of a topic that are not sent, beside one that [`next`](Self::next) has numbered.
    pub(crate) fn skip(&mut self, topic: &[u8], count: u64) {
        if let Some(own) = self.topics.get_mut(topic) {
            self.total = self.total.saturating_add(count);
            own.last = own.last.saturating_add(count);
        }
    }

    fn make_room(&mut self, topic: &[u8]) {
        let needed = room_of(topic);
        while self.topics.len() >= self.most
            || (self.bytes + needed > self.most_bytes && !self.topics.is_empty())
        {
            if let Some((number, topic)) = self.resting.pop_front() {
                let rests = self.topics.get(&topic).is_some_and(|own| own.is_marked && own.last == number);
                if rests {
                    self.forget(&topic);
                }
            } else if let Some((_, topic)) = self.unmarked.pop_front() {
                self.forgotten += u64::from(self.forget(&topic));
            } else {
                // Each topic is in one of the two; without them there is nothing to keep.
                self.topics.clear();
                self.bytes = 0;
            }
        }
    }

    /// Forgets a topic, if it is known.
    fn forget(&mut self, topic: &[u8]) -> bool {
        let is_known = self.topics.remove(topic).is_some();
        if is_known {
            self.bytes = self.bytes.saturating_sub(room_of(topic));
        }
        is_known
    }

    /// When the next mark is due, at the latest.
    pub(crate) fn next_mark(&self) -> Option<Instant> {
        self.unmarked.front().map(|(at, _)| *at)
    }

    /// The next mark that is due: the subject of the topic's marks and its last stamp.
    pub(crate) fn take_mark(&mut self, now: Instant) -> Option<(Subject, Stamp)> {
        while self.unmarked.front().is_some_and(|(at, _)| *at <= now) {
            let (_, topic) = self.unmarked.pop_front()?;
            let Some(own) = self.topics.get_mut(&topic) else { continue };
            let quiet_at = own.last_at + self.quiet;
            if quiet_at > now {
                self.unmarked.push_back((quiet_at, topic));
                continue;
            }
            own.is_marked = true;
            self.resting.push_back((own.last, topic.clone()));
            self.tidy();
            let own = self.topics.get(&topic)?;
            return Some((own.mark.clone(), own.stamp(self.origin, now)));
        }
        None
    }

    /// Topics that rest are listed once more each time that they begin to; those that went on are taken out now and then.
    fn tidy(&mut self) {
        if self.resting.len() > 2 * self.topics.len() + 16 {
            let topics = &self.topics;
            self.resting.retain(|(number, topic)| {
                topics.get(topic).is_some_and(|own| own.is_marked && own.last == *number)
            });
        }
    }

    /// No mark is to be looked at before then.
    pub(crate) fn put_off(&mut self, until: Instant) {
        if let Some((at, _)) = self.unmarked.front_mut() {
            *at = (*at).max(until);
        }
    }

    /// All topics of which something was published since then are to be marked again: others may have missed their marks.
    pub(crate) fn mark_since(&mut self, since: Instant, now: Instant) {
        for (topic, own) in &mut self.topics {
            if own.is_marked && own.last_at >= since {
                // The run goes on for those who read it, as what it has may have been missed.
                own.is_marked = false;
                self.unmarked.push_back((now, topic.clone()));
            }
        }
        // What is due now goes before what is due later.
        self.unmarked.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    /// Topics that were forgotten before others could find out what was lost of them.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// Bytes that a topic is counted as: its name, its two subjects, what is known of it, and its places in tables.
fn room_of(topic: &[u8]) -> usize {
    3 * topic.len() + limits::NUMBERED_TOPIC
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(1);

    struct Bench {
        numbering: Numbering,
        now: Instant,
    }

    impl Bench {
        fn new(most: usize) -> Self {
            Self { numbering: Numbering::new(7, (most, usize::MAX), QUIET), now: Instant::now() }
        }

        fn send(&mut self, topic: &'static str) -> Stamp {
            let subjects = || (Subject::from(format!("t.{topic}")), Subject::from(format!("p.{topic}")));
            let (subject, stamp) = self.numbering.next(topic.as_bytes(), self.now, subjects);
            assert_eq!(subject.as_str(), format!("t.{topic}"));
            stamp
        }

        fn marks(&mut self) -> Vec<(String, u64)> {
            let marks = std::iter::from_fn(|| self.numbering.take_mark(self.now));
            marks.map(|(subject, stamp)| (subject.to_string(), stamp.number)).collect()
        }

        fn pass(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
        }
    }

    #[test]
    fn each_topic_has_numbers_of_its_own() {
        let mut bench = Bench::new(10);
        let first = bench.send("a");
        assert_eq!((first.origin, first.number, first.known, first.run), (7, 1, 0, 0));
        bench.pass(20);
        let second = bench.send("a");
        assert_eq!((second.number, second.known, second.run, second.age.as_millis()), (2, 1, 1, 20));
        // It begins behind all that may have had its name.
        assert_eq!(bench.send("b").number, 3);
        assert_eq!(bench.send("a").number, 3);
    }

    #[test]
    fn a_topic_that_is_quiet_is_marked_once_and_begins_another_run() {
        let mut bench = Bench::new(10);
        bench.send("a");
        bench.pass(900);
        bench.send("a");
        bench.pass(200);
        assert!(bench.marks().is_empty(), "it has not been quiet for long enough");
        bench.pass(800);
        assert_eq!(bench.marks(), [("p.a".to_owned(), 2)]);
        bench.pass(5_000);
        assert!(bench.marks().is_empty());
        let next = bench.send("a");
        assert_eq!((next.number, next.known, next.run), (3, 2, 0));
        bench.pass(1_000);
        assert_eq!(bench.marks(), [("p.a".to_owned(), 3)]);
    }

    #[test]
    fn what_was_published_lately_can_be_marked_again() {
        let mut bench = Bench::new(10);
        bench.send("old");
        bench.pass(10_000);
        bench.send("new");
        let since = bench.now;
        bench.pass(1_000);
        assert_eq!(bench.marks().len(), 2);
        bench.numbering.mark_since(since, bench.now);
        assert_eq!(bench.marks(), [("p.new".to_owned(), 2)]);
    }

    #[test]
    fn a_topic_that_was_forgotten_begins_behind_where_it_was() {
        let mut bench = Bench::new(2);
        for _ in 0..5 {
            bench.send("a");
        }
        bench.pass(1_000);
        assert_eq!(bench.marks(), [("p.a".to_owned(), 5)]);
        bench.send("b");
        bench.send("c");
        let again = bench.send("a");
        assert_eq!((again.number, again.known), (8, 0));
        assert_eq!(bench.numbering.topics.len(), 2);
        assert_eq!(bench.numbering.forgotten(), 1, "b was not marked yet");
    }

    #[test]
    fn names_that_are_long_are_fewer() {
        let now = Instant::now();
        let mut numbering = Numbering::new(7, (1_000, 10_000), QUIET);
        for letter in ["a", "b", "c", "d", "e", "f"] {
            let topic = letter.repeat(1_024);
            numbering.next(topic.as_bytes(), now, || ("t".into(), "p".into()));
            assert!(numbering.bytes <= 10_000, "{}", numbering.bytes);
        }
        assert_eq!((numbering.topics.len(), numbering.forgotten()), (2, 4), "those that came first");
        let larger = "x".repeat(20_000);
        numbering.next(larger.as_bytes(), now, || ("t".into(), "p".into()));
        assert_eq!(numbering.topics.len(), 1, "one has room however long it is");
    }

    #[test]
    fn what_is_listed_does_not_grow_with_time() {
        let mut bench = Bench::new(4);
        for round in 0..1_000 {
            bench.send(["a", "b", "c", "d", "e", "f"][round % 6]);
            bench.pass(1_100);
            bench.marks();
        }
        assert!(bench.numbering.unmarked.len() + bench.numbering.resting.len() < 40);
    }
}
