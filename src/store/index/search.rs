//! Where a reader begins, found without looking at all messages.
//!
//! The store is locked while it looks, so what may take long goes in steps, and others have their turns in between.

use std::collections::BinaryHeap;
use std::convert::Infallible;

use super::log::Log;
use crate::limits;
use crate::store::halving::first_that;
use crate::topic::TopicPattern;

/// Topics whose messages are found one topic after the other. For more, looking at all messages is as good.
const FEW: usize = 64;

/// Messages that are looked at before topics are: most who begin with some of the last ones find these here.
const FIRST_LOOKS: usize = 1024;

/// The first message of that time or later. Returns with it how many messages were looked at.
pub(super) fn first_since<C: Clone>(log: &Log<C>, time: u64) -> (u64, usize) {
    let mut looked_at = 0;
    let Ok(found) = first_that(
        (log.first(), log.end),
        |at| at >= time,
        |from, to| {
            looked_at += 1;
            let next = log.messages.range(from..to).next();
            Ok::<_, Infallible>(next.map(|(sequence, message)| (*sequence, message.time)))
        },
    );
    (found.map_or(log.end, |(sequence, _)| sequence), looked_at)
}

/// A search for the first of the last so many messages.
#[derive(Debug)]
pub(super) struct Search {
    count: u64,
    pattern: Option<TopicPattern>,
    /// How far it is, once it has begun.
    reached: Option<Reached>,
    /// Messages and topics that it has looked at.
    looked_at: usize,
}

#[derive(Debug)]
struct Reached {
    /// Messages that are still to be found.
    left: u64,
    /// The last that was found.
    found: Option<u64>,
    /// All from this sequence on have been looked at.
    before: u64,
    /// The end of the stream when it began.
    end: u64,
    /// The topics that the pattern meets, if they are known to be few.
    few: Option<Vec<String>>,
}

impl Search {
    pub(super) fn new(count: u64, pattern: Option<TopicPattern>) -> Self {
        Self { count, pattern, reached: None, looked_at: 0 }
    }

    /// Looks at [`limits::STORE_LOOKS`] messages and as many topics at the most. Returns where a reader begins, if that is known
    /// by then.
    pub(super) fn step<C: Clone>(&mut self, log: &Log<C>) -> Option<u64> {
        if let Some(reached) = &mut self.reached {
            let is_over = match reached.few.take() {
                Some(few) => {
                    let is_over = reached.look_at_topics(log, &few, &mut self.looked_at);
                    reached.few = Some(few);
                    is_over
                }
                None => reached.look(log, self.pattern.as_ref(), limits::STORE_LOOKS, &mut self.looked_at),
            };
            return is_over.then(|| reached.begin());
        }
        if self.count == 0 {
            return Some(log.end);
        }
        let messages = log.messages.len() as u64;
        if self.count >= messages {
            // These are all, and what is not of the pattern is left out by who reads.
            return Some(log.first());
        }
        // Without holes it is known where it is.
        if self.pattern.is_none() && log.end - log.first() == messages {
            return Some(log.end - self.count);
        }
        let mut reached = Reached { left: self.count, found: None, before: log.end, end: log.end, few: None };
        if reached.look(log, self.pattern.as_ref(), FIRST_LOOKS, &mut self.looked_at) {
            return Some(reached.begin());
        }
        if let Some(pattern) = &self.pattern {
            reached.few = few_topics(log, pattern, &mut self.looked_at);
        }
        self.reached = Some(reached);
        None
    }
}

impl Reached {
    fn begin(&self) -> u64 {
        self.found.unwrap_or(self.end)
    }

    fn find(&mut self, sequence: u64) {
        (self.left, self.found) = (self.left - 1, Some(sequence));
    }

    /// Goes back by so many messages; whether that was all that is to be looked at.
    fn look<C: Clone>(
        &mut self,
        log: &Log<C>,
        pattern: Option<&TopicPattern>,
        looks: usize,
        sum: &mut usize,
    ) -> bool {
        let mut looked_at = 0;
        for (sequence, message) in log.messages.range(..self.before).rev().take(looks) {
            self.before = *sequence;
            looked_at += 1;
            if pattern.is_none_or(|pattern| pattern.meets(&message.topic)) {
                self.find(*sequence);
            }
            if self.left == 0 {
                break;
            }
        }
        *sum += looked_at;
        self.left == 0 || looked_at < looks
    }

    /// Goes back by as many messages of these topics as a step looks at; whether that was all.
    fn look_at_topics<C: Clone>(&mut self, log: &Log<C>, few: &[String], sum: &mut usize) -> bool {
        let last = |topic: &str, before| {
            let sequences = &log.topics.get(topic)?.sequences;
            sequences.range(..before).next_back().copied()
        };
        let heads = few.iter().filter_map(|topic| Some((last(topic, self.before)?, topic)));
        let mut heads: BinaryHeap<_> = heads.collect();
        for _ in 0..limits::STORE_LOOKS {
            let Some((sequence, topic)) = heads.pop() else { return true };
            *sum += 1;
            self.before = sequence;
            self.find(sequence);
            if self.left == 0 {
                return true;
            }
            heads.extend(last(topic, sequence).map(|next| (next, topic)));
        }
        false
    }
}

/// The topics of a stream that meet the pattern, if they are few, and those that there are can be looked at in a step.
fn few_topics<C: Clone>(log: &Log<C>, pattern: &TopicPattern, sum: &mut usize) -> Option<Vec<String>> {
    if log.topics.len() > limits::STORE_LOOKS {
        return None;
    }
    let mut few = Vec::new();
    for (text, topic) in &log.topics {
        *sum += 1;
        // They are kept by the text of one of their messages.
        let first = topic.sequences.first().and_then(|sequence| log.messages.get(sequence));
        if first.is_some_and(|message| pattern.meets(&message.topic)) {
            few.push(text.clone());
        }
        if few.len() > FEW {
            return None;
        }
    }
    Some(few)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::change::Change;
    use crate::store::index::Entry;
    use crate::store::settings::{Name, StreamSettings};

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::new(text).unwrap()
    }

    /// A stream of so many messages, a second after one another. One of a hundred is of the topic `rare`, and only among the
    /// first five thousand; the others have a hundred topics.
    fn filled(messages: u64) -> Log<()> {
        let settings = StreamSettings::new(Name::new("s").unwrap(), vec![pattern("**")]);
        let mut log = Log::new(settings, [0; 16]);
        for number in 0..messages {
            let topic = match number {
                ..5_000 if number % 100 == 0 => pattern("rare"),
                _ => pattern(&format!("often/{}", number % 100)),
            };
            let time = number * 1_000;
            log.append(Entry { topic, weight: 50, time, expires: None, id: None, content: () });
        }
        log
    }

    /// Drops every seventh message.
    fn with_holes(mut log: Log<()>) -> Log<()> {
        let sequences: Vec<u64> = (1..log.end).step_by(7).collect();
        for some in sequences.chunks(512) {
            log.change(Change::Drop { sequences: some.to_vec() }, &mut 512);
        }
        log
    }

    /// Where a reader begins, how many messages and topics were looked at for it, and in how many steps.
    fn search(log: &Log<()>, count: u64, topics: Option<&str>) -> (u64, usize, usize) {
        let mut search = Search::new(count, topics.map(pattern));
        for steps in 1.. {
            let before = search.looked_at;
            let found = search.step(log);
            assert!(search.looked_at - before <= 2 * limits::STORE_LOOKS);
            if let Some(found) = found {
                return (found, search.looked_at, steps);
            }
        }
        unreachable!("a search ends")
    }

    /// What looking at all messages finds.
    fn sought(log: &Log<()>, count: u64, topics: Option<&str>) -> u64 {
        let topics = topics.map(pattern);
        let takes = |topic| topics.as_ref().is_none_or(|pattern| pattern.meets(topic));
        let mut found: Vec<u64> =
            log.messages.values().filter(|one| takes(&one.topic)).map(|one| one.sequence).collect();
        let first = found.len().saturating_sub(usize::try_from(count).unwrap());
        found.drain(..first);
        found.first().copied().unwrap_or(log.end)
    }

    #[test]
    fn a_search_finds_what_looking_at_all_messages_finds() {
        for log in [filled(6_000), with_holes(filled(6_000)), with_holes(filled(40_000))] {
            let most = log.messages.len() as u64 - 1;
            for count in [1, 7, 49, 1_000, 1_500, 20_000, most] {
                for topics in [None, Some("rare"), Some("often/*"), Some("often/3"), Some("**"), Some("none")]
                {
                    if count <= most {
                        let found = search(&log, count, topics).0;
                        assert_eq!(found, sought(&log, count, topics), "{count} of {topics:?}");
                    }
                }
            }
            for time in [0, 1, 999, 1_000, 2_500_000, 5_999_000, 39_999_000, 39_999_001] {
                let first = log.messages.values().find(|message| message.time >= time);
                let sought = first.map_or(log.end, |message| message.sequence);
                assert_eq!(first_since(&log, time).0, sought, "{time}");
            }
        }
    }

    #[test]
    fn what_is_looked_at_does_not_grow_with_the_stream() {
        for (log, is_whole) in [
            (filled(10_000), true),
            (filled(200_000), true),
            (with_holes(filled(10_000)), false),
            (with_holes(filled(200_000)), false),
        ] {
            let (messages, looks) = (log.messages.len(), |count, topics| search(&log, count, topics).1);
            assert!(first_since(&log, 5_000_000).1 <= 20, "of {messages}");
            assert_eq!(looks(10, None), if is_whole { 0 } else { 10 }, "of {messages}");
            if is_whole {
                assert_eq!(looks(messages as u64 / 2, None), 0, "of {messages}");
            }
            assert_eq!(looks(10, Some("often/*")), 10, "of {messages}");
            assert_eq!(looks(5, Some("rare")), FIRST_LOOKS + 101 + 5, "of {messages}");
            assert_eq!(looks(5, Some("none")), FIRST_LOOKS + 101, "of {messages}");
        }
    }

    #[test]
    fn a_search_that_has_to_look_at_many_messages_goes_in_steps() {
        let log = with_holes(filled(100_000));
        let most = log.messages.len();
        let count = most as u64 - 1;
        for topics in [None, Some("**"), Some("often/*")] {
            let (_, looked_at, steps) = search(&log, count, topics);
            assert!(looked_at <= most + 101, "{looked_at}");
            assert!(steps > most / limits::STORE_LOOKS, "{steps} for {topics:?}");
        }
    }
}
