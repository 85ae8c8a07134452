//! What a bus is to do, as lists: a stream, its consumers, those who read it, and its dead letters.
//!
//! Where the bus may choose, which is who of a group gets a message, there are several references afterwards, one for each
//! choice that explains all that was seen. A bus that does what none of them does is wrong.

use std::collections::BTreeMap;

use super::consumer::{Consumer, Next, PENDING};
use super::log::{Cursor, Log};
use super::member::Member;
use super::seen::{Answer, Letter, Seen};
use super::steps::{
    Begin, CONSUMERS, CURSORS, GROUP, Kept, Leaving, NAMELESS, PATTERNS, SEATS, Step, TOPICS,
};

/// Milliseconds between two looks at what is too old.
const SWEEP: u64 = 1_000;

#[derive(Debug, Clone)]
struct Delayed {
    due: u64,
    topic: &'static str,
    text: String,
    ttl: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Reference {
    now: u64,
    log: Log,
    consumers: [Option<Consumer>; CONSUMERS.len()],
    cursors: [Option<Cursor>; CURSORS],
    delayed: Vec<Delayed>,
    letters: BTreeMap<u64, Letter>,
    letters_end: u64,
    sweep: u64,
    answered: Vec<(usize, u64, bool)>,
}

impl Reference {
    /// Of a bus that begins now.
    pub(super) fn new(kept: Kept) -> Self {
        Self {
            now: 0,
            log: Log::new(kept),
            consumers: Default::default(),
            cursors: [None, None],
            delayed: Vec::new(),
            letters: BTreeMap::new(),
            letters_end: 1,
            sweep: SWEEP,
            answered: Vec::new(),
        }
    }

    fn publish(&mut self, topic: &'static str, text: &str, expires: Option<u64>) {
        self.log.append(topic, text.to_owned(), self.now, expires);
        self.read_on();
    }

    fn read_on(&mut self) {
        for cursor in self.cursors.iter_mut().flatten() {
            cursor.read_on(&self.log, self.now);
        }
    }

    /// Does at this time what was asked for, with a message of this text. Returns whether the answer is right.
    pub(super) fn act(&mut self, step: Step, text: &str, now: u64, answer: &Answer) -> bool {
        self.now = now;
        match step {
            Step::Publish { topic, quality, ttl, .. } => {
                if quality == 2 {
                    // Its client gives it an id that no other has.
                    self.log.knows(u64::MAX - self.log.end, now);
                }
                let expires = ttl.map(|seconds| now + seconds * 1_000);
                self.publish(TOPICS[topic], text, expires);
            }
            Step::Delay { topic, delay, ttl } => {
                let (due, text) = (now + delay * 1_000, text.to_owned());
                self.delayed.push(Delayed { due, topic: TOPICS[topic], text, ttl });
            }
            Step::Identified { topic, number } => {
                if !self.log.knows(number, now) {
                    self.publish(TOPICS[topic], text, None);
                }
            }
            Step::Join { seat, begin, window } => return self.join(seat, begin, window) == *answer,
            Step::Leave { seat, how } => {
                if let Some(consumer) = &mut self.consumers[SEATS[seat]] {
                    consumer.leave(seat, matches!(how, Leaving::Dropped), now);
                }
            }
            Step::Rest { seat } => self.rests(seat, true),
            Step::Take { seat } => self.rests(seat, false),
            Step::Ack { seat, which } => self.acknowledge(seat, which),
            Step::Nack { seat, which, delay } => {
                if let Some((consumer, sequence)) = self.held(seat, which) {
                    consumer.refuse(seat, sequence, delay.map(|seconds| seconds * 1_000), now);
                    consumer.member(seat).map(|member| member.held.remove(&sequence));
                }
            }
            Step::InProgress { seat, which } => {
                if let Some((consumer, sequence)) = self.held(seat, which) {
                    consumer.in_progress(seat, sequence, now);
                }
            }
            Step::Pass { .. } => {}
            Step::Restart => {
                self.cursors = [None, None];
                for (seat, consumer) in SEATS.iter().enumerate() {
                    if let Some(consumer) = &mut self.consumers[*consumer] {
                        consumer.leave(seat, false, now);
                    }
                }
                self.sweep = now + SWEEP;
            }
            Step::Open { cursor, begin, pattern } => {
                if self.cursors[cursor].is_none() {
                    self.cursors[cursor] = Some(Cursor::open(&self.log, begin, PATTERNS[pattern], now));
                }
            }
            Step::Close { cursor } => self.cursors[cursor] = None,
            Step::Page { begin, pattern, limit } => {
                let Answer::Page(page) = answer else { return false };
                return self.log.is_page(page, begin, PATTERNS[pattern], limit, now);
            }
            Step::Redrive { which } => return self.settle_letters(which, true) == *answer,
            Step::Discard { which } => return self.settle_letters(which, false) == *answer,
            Step::Remove { consumer } => {
                let is_busy =
                    self.consumers[consumer].as_ref().is_some_and(|consumer| !consumer.members.is_empty());
                let expected = match is_busy {
                    true => Answer::Busy,
                    false => Answer::Count(u64::from(self.consumers[consumer].take().is_some())),
                };
                return expected == *answer;
            }
        }
        true
    }

    fn join(&mut self, seat: usize, begin: Begin, window: u32) -> Answer {
        let index = SEATS[seat];
        let (name, pattern) = CONSUMERS[index];
        let from = self.log.find(begin, pattern);
        if index == NAMELESS {
            self.consumers[index].take_if(|consumer| consumer.members.is_empty());
        }
        let consumer =
            self.consumers[index].get_or_insert_with(|| Consumer::new(name, pattern, PENDING[index], from));
        if consumer.member(seat).is_some() {
            return Answer::None;
        }
        if index != GROUP && !consumer.members.is_empty() {
            return Answer::Busy;
        }
        consumer.members.push(Member::new(seat, window));
        Answer::Done
    }

    fn rests(&mut self, seat: usize, rests: bool) {
        let member = self.consumers[SEATS[seat]].as_mut().and_then(|consumer| consumer.member(seat));
        if let Some(member) = member {
            member.rests = rests;
        }
    }

    /// A message that an application has.
    fn held(&mut self, seat: usize, which: usize) -> Option<(&mut Consumer, u64)> {
        let consumer = self.consumers[SEATS[seat]].as_mut()?;
        let sequence = consumer.member(seat)?.held(which)?;
        Some((consumer, sequence))
    }

    fn acknowledge(&mut self, seat: usize, which: usize) {
        let Some((consumer, sequence)) = self.held(seat, which) else { return };
        let is_kept = consumer.acknowledge(seat, sequence);
        let Some(member) = consumer.member(seat) else { return };
        if is_kept || SEATS[seat] == GROUP {
            // In a group somebody else may have it by now.
            member.held.remove(&sequence);
            self.answered.push((seat, sequence, is_kept));
        } else {
            // It comes again to who has it, and is done then.
            member.held.insert(sequence, true);
            self.answer_those_who_wait();
        }
    }

    /// What was acknowledged too late, and is done or dead by now, does not come again.
    fn answer_those_who_wait(&mut self) {
        for consumer in self.consumers.iter_mut().flatten() {
            let over = consumer.over_and_acknowledged();
            for (seat, sequence) in over {
                consumer.member(seat).map(|member| member.held.remove(&sequence));
                self.answered.push((seat, sequence, true));
            }
        }
    }

    fn settle_letters(&mut self, which: Option<usize>, is_redriven: bool) -> Answer {
        let all: Vec<u64> = self.letters.keys().copied().collect();
        let those = match which {
            Some(_) if all.is_empty() => return Answer::None,
            Some(which) => vec![all[which % all.len()]],
            None => all,
        };
        for letter in those.iter().filter_map(|sequence| self.letters.remove(sequence)) {
            let topic = TOPICS.iter().find(|topic| **topic == letter.topic);
            if let Some(topic) = topic.filter(|_| is_redriven) {
                self.log.append(topic, letter.text, self.now, None);
            }
        }
        self.read_on();
        Answer::Count(those.len() as u64)
    }

    /// What can have become of it until this time, where this was seen.
    pub(super) fn explain(mut self, until: u64, mut seen: Seen) -> Vec<Self> {
        for (index, seat) in SEATS.iter().enumerate() {
            let Some(consumer) = &mut self.consumers[*seat] else { continue };
            let now = self.now;
            if consumer.member(index).is_some_and(|member| !member.take(&mut seen.got[index], now)) {
                return Vec::new();
            }
            consumer.hear(now);
        }
        let mut explained = Vec::new();
        self.go_on(until, seen, &mut explained);
        explained
    }

    fn go_on(mut self, until: u64, mut seen: Seen, explained: &mut Vec<Self>) {
        loop {
            for index in 0..CONSUMERS.len() {
                let Some(consumer) = &mut self.consumers[index] else { continue };
                consumer.reach(self.now);
                consumer.expire(self.now);
                while let Some(next) = consumer.next(&self.log, self.now) {
                    let is_over = next.message.is_over(self.now);
                    let can = |member: &&Member| is_over || seen.got[member.seat].arrived > 0;
                    let ready = consumer.members.iter().filter(|member| consumer.may_take(member));
                    let mut seats: Vec<usize> = ready.filter(can).map(|member| member.seat).collect();
                    if is_over {
                        seats.truncate(1);
                    }
                    if let [seat] = seats[..] {
                        if !hand(consumer, next, seat, self.now, &mut seen, &mut self.answered) {
                            return;
                        }
                        continue;
                    }
                    for seat in seats {
                        let (mut other, mut seen) = (self.clone(), seen.clone());
                        let Some(consumer) = &mut other.consumers[index] else { continue };
                        let Some(next) = consumer.next(&other.log, other.now) else { continue };
                        if hand(consumer, next, seat, other.now, &mut seen, &mut other.answered) {
                            other.go_on(until, seen, explained);
                        }
                    }
                    return;
                }
                consumer.bury(&self.log);
                consumer.write();
                consumer.close_if_empty();
            }
            self.answer_those_who_wait();
            let Some(now) = self.next_event(until) else { break };
            self.now = now;
            self.happens();
        }
        self.now = until;
        if self.is_seen(seen) {
            explained.push(self);
        }
    }

    fn next_event(&self, until: u64) -> Option<u64> {
        let consumers = self.consumers.iter().flatten().filter_map(|consumer| consumer.due_after(self.now));
        let delayed = self.delayed.iter().map(|delayed| delayed.due);
        consumers.chain(delayed).chain([self.sweep]).min().filter(|next| *next <= until)
    }

    fn happens(&mut self) {
        if self.sweep == self.now {
            self.sweep += SWEEP;
            self.log.sweep(self.now);
        }
        let now = self.now;
        for delayed in self.delayed.extract_if(.., |delayed| delayed.due <= now).collect::<Vec<_>>() {
            let expires = delayed.ttl.map(|seconds| now + seconds * 1_000);
            self.publish(delayed.topic, &delayed.text, expires);
        }
    }

    /// Whether all that was seen is explained, and nothing else would have been seen.
    fn is_seen(&mut self, mut seen: Seen) -> bool {
        let mut answered = std::mem::take(&mut self.answered);
        answered.sort_unstable();
        seen.answered.sort_unstable();
        let is_all_got = seen.got.iter().all(|got| got.arrived == 0 && got.given.is_empty());
        let is_read = self.cursors.iter_mut().zip(&seen.read).all(|(cursor, seen)| {
            cursor.as_mut().map(|cursor| std::mem::take(&mut cursor.read)).unwrap_or_default() == *seen
        });
        let end = self.log.end;
        let is_shown = self.consumers.iter_mut().enumerate().all(|(index, consumer)| {
            match (consumer, &seen.rows[index]) {
                (Some(consumer), None) if index == NAMELESS => {
                    std::mem::take(&mut consumer.gaps) == seen.gaps[index]
                }
                (Some(consumer), Some(row)) => {
                    std::mem::take(&mut consumer.gaps) == seen.gaps[index] && consumer.is_shown(row, end)
                }
                (consumer, row) => consumer.is_none() && row.is_none(),
            }
        });
        is_all_got
            && is_read
            && is_shown
            && answered == seen.answered
            && seen.stream == self.log.stats()
            && seen.messages == self.log.shown(self.now)
            && self.are_letters(&seen.letters)
    }

    /// Whether these are the dead letters. Those of one consumer are in the order in which they died; how they mingle with
    /// those of another is the bus's choice.
    fn are_letters(&mut self, seen: &[(u64, Letter)]) -> bool {
        let before = self.letters.len();
        let (old, new) = seen.split_at(before.min(seen.len()));
        let mut buried: Vec<_> = self
            .consumers
            .iter_mut()
            .flatten()
            .map(|consumer| std::mem::take(&mut consumer.buried))
            .collect();
        let is_old = old.iter().map(|(sequence, letter)| (sequence, letter)).eq(&self.letters);
        for (sequence, letter) in new {
            let of = buried.iter_mut().find(|letters| letters.first() == Some(letter));
            let Some(of) = of.filter(|_| *sequence == self.letters_end) else { return false };
            of.remove(0);
            self.letters.insert(*sequence, letter.clone());
            self.letters_end += 1;
        }
        is_old && buried.iter().all(Vec::is_empty)
    }
}

/// Hands a message to a member. Returns whether that can have been so.
fn hand(
    consumer: &mut Consumer,
    next: Next,
    seat: usize,
    now: u64,
    seen: &mut Seen,
    answered: &mut Vec<(usize, u64, bool)>,
) -> bool {
    let Some(copy) = consumer.hand(next, seat, now) else { return true };
    let sequence = copy.sequence;
    let arrived = consumer.member(seat).and_then(|member| member.arrives(copy, &mut seen.got[seat], now));
    consumer.hear(now);
    if arrived == Some(true) {
        consumer.acknowledge(seat, sequence);
        consumer.member(seat).map(|member| member.held.remove(&sequence));
        answered.push((seat, sequence, true));
    }
    arrived.is_some()
}
