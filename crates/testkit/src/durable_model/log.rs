//! A stream as a list.

use std::collections::BTreeMap;

use whispeer::limits::MESSAGE_IDS_AGED;

use super::seen::{Page, Read};
use super::steps::{Begin, Kept};

/// What each message counts as beside its topic and its payload.
const OVERHEAD: u64 = 48;

/// What each id counts as, and which part of the bytes all of them may take.
const ID: u64 = 100;
const PART_OF_IDS: u64 = 4;

/// Milliseconds that the ids of messages are known for.
pub(super) const KNOWN_FOR: u64 = 20_000;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) sequence: u64,
    pub(super) topic: &'static str,
    pub(super) text: String,
    pub(super) time: u64,
    pub(super) expires: Option<u64>,
}

impl Message {
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn bytes(&self) -> u64 {
        (self.topic.len() + self.text.len()) as u64 + OVERHEAD
    }

    fn shown(&self) -> (u64, String, String) {
        (self.sequence, self.topic.to_owned(), self.text.clone())
    }
}

#[derive(Debug, Clone)]
pub(super) struct Log {
    kept: Kept,
    pub(super) messages: BTreeMap<u64, Message>,
    /// The sequence of the message that comes next.
    pub(super) end: u64,
    /// Ids, and when they came first. The oldest are the first.
    known: Vec<(u64, u64)>,
}

/// Whether a pattern takes a topic, for those of the model.
pub(super) fn takes(pattern: &str, topic: &str) -> bool {
    match pattern {
        "log/**" => true,
        "log/*" => topic.matches('/').count() == 1,
        exact => exact == topic,
    }
}

impl Log {
    pub(super) fn new(kept: Kept) -> Self {
        Self { kept, messages: BTreeMap::new(), end: 1, known: Vec::new() }
    }

    pub(super) fn first(&self) -> u64 {
        self.messages.keys().next().copied().unwrap_or(self.end)
    }

    /// Whether this id is new, and notes it then.
    pub(super) fn knows(&mut self, id: u64, now: u64) -> bool {
        self.forget(now);
        let is_known = self.known.iter().any(|(known, _)| *known == id);
        if !is_known {
            self.known.push((id, now));
        }
        is_known
    }

    /// Forgets ids that are too old, and those that there is no room for.
    fn forget(&mut self, now: u64) {
        let aged = self.known.iter().take(MESSAGE_IDS_AGED);
        let aged = aged.take_while(|(_, time)| time + KNOWN_FOR <= now).count();
        self.known.drain(..aged);
        let most = self.kept.bytes.map_or(usize::MAX, |bytes| ((bytes / PART_OF_IDS / ID).max(1)) as usize);
        self.known.drain(..self.known.len().saturating_sub(most));
    }

    pub(super) fn append(&mut self, topic: &'static str, text: String, time: u64, expires: Option<u64>) {
        let sequence = self.end;
        self.end += 1;
        self.messages.insert(sequence, Message { sequence, topic, text, time, expires });
        let Kept { messages, bytes, topic_messages, topic_bytes, .. } = self.kept;
        self.drop_while(|message| message.topic == topic, topic_messages, topic_bytes);
        let weight = |log: &Self| log.stats().1 + ID * log.known.len() as u64;
        if bytes.is_some_and(|most| weight(self) > most) {
            self.forget(time);
        }
        let of_ids = ID * self.known.len() as u64;
        self.drop_while(|_| true, messages, bytes.map(|most| most.saturating_sub(of_ids)));
    }

    /// Drops the oldest of these messages while they are more than that; the newest stays.
    fn drop_while(&mut self, of: impl Fn(&Message) -> bool, count: Option<u64>, bytes: Option<u64>) {
        loop {
            let those: Vec<&Message> = self.messages.values().filter(|message| of(message)).collect();
            let is_over = count.is_some_and(|most| those.len() as u64 > most)
                || bytes.is_some_and(|most| those.iter().map(|message| message.bytes()).sum::<u64>() > most);
            if !is_over || those.len() == 1 {
                return;
            }
            let oldest = those[0].sequence;
            self.messages.remove(&oldest);
        }
    }

    /// Drops what is too old, or of no use any more.
    pub(super) fn sweep(&mut self, now: u64) {
        let age = self.kept.age.map(|seconds| seconds * 1_000);
        self.messages.retain(|_, message| {
            !message.is_over(now) && age.is_none_or(|age| message.time >= now.saturating_sub(age))
        });
    }

    /// Messages, bytes, the first sequence and the next.
    pub(super) fn stats(&self) -> (u64, u64, u64, u64) {
        let bytes = self.messages.values().map(Message::bytes).sum();
        (self.messages.len() as u64, bytes, self.first(), self.end)
    }

    /// What somebody who asks for all of it is shown.
    pub(super) fn shown(&self, now: u64) -> Vec<(u64, String, String)> {
        self.messages.values().filter(|message| !message.is_over(now)).map(Message::shown).collect()
    }

    /// What a page has of the messages from this sequence on.
    pub(super) fn readable<'a>(
        &'a self,
        from: u64,
        pattern: &'a str,
        now: u64,
    ) -> impl Iterator<Item = &'a Message> {
        let there = self.messages.range(from..).map(|(_, message)| message);
        there.filter(move |message| !message.is_over(now) && takes(pattern, message.topic))
    }

    /// Where somebody begins who does not begin with the last message of each topic.
    pub(super) fn find(&self, begin: Begin, pattern: &str) -> u64 {
        match begin {
            Begin::New | Begin::LastPerTopic => self.end,
            Begin::All => self.first(),
            Begin::From(sequence) => sequence.min(self.end),
            // These are all, and what is of other topics is left out by who reads.
            Begin::Last(count) if count >= self.messages.len() as u64 => self.first(),
            Begin::Last(count) => {
                let those = self.messages.values().rev().filter(|message| takes(pattern, message.topic));
                let first = those.take(count as usize).last();
                first.map_or(self.end, |message| message.sequence)
            }
        }
    }

    /// The last message of each topic.
    fn last_per_topic<'a>(&'a self, pattern: &'a str, now: u64) -> impl Iterator<Item = &'a Message> {
        self.readable(0, pattern, now).filter(|one| {
            !self.messages.values().any(|other| other.topic == one.topic && other.sequence > one.sequence)
        })
    }

    /// Whether this is the page that somebody gets now. Where the next one begins is the store's choice, as long as nothing
    /// lies in between.
    pub(super) fn is_page(&self, page: &Page, begin: Begin, pattern: &str, limit: u32, now: u64) -> bool {
        let from = self.find(begin, pattern);
        let those: Vec<&Message> = match begin {
            Begin::LastPerTopic => self.last_per_topic(pattern, now).collect(),
            _ => self.readable(from, pattern, now).collect(),
        };
        let shown: Vec<_> = those.iter().take(limit as usize).map(|message| message.shown()).collect();
        let dropped = match begin {
            Begin::LastPerTopic => 0,
            _ => self.first().saturating_sub(from),
        };
        let is_next = match (page.next, those.get(limit as usize)) {
            (None, None) => true,
            (Some(next), left) => {
                let behind = shown.last().map_or(0, |(sequence, _, _)| sequence + 1);
                (behind..=left.map_or(self.end - 1, |message| message.sequence)).contains(&next)
            }
            (None, Some(_)) => false,
        };
        is_next && page.messages == shown && page.end == self.end && page.dropped == dropped
    }
}

/// A plain subscription.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    pattern: &'static str,
    next: u64,
    /// What lies before this was there when it came.
    live_from: u64,
    /// What it was given since the last look.
    pub(super) read: Vec<Read>,
}

impl Cursor {
    pub(super) fn open(log: &Log, begin: Begin, pattern: &'static str, now: u64) -> Self {
        let next = log.find(begin, pattern);
        let mut cursor = Self { pattern, next, live_from: log.end, read: Vec::new() };
        if matches!(begin, Begin::LastPerTopic) {
            cursor.give(log.last_per_topic(pattern, now));
        }
        cursor.read_on(log, now);
        cursor
    }

    /// Reads all that is there.
    pub(super) fn read_on(&mut self, log: &Log, now: u64) {
        if log.first() > self.next {
            self.read.push(Read::Gap(log.first() - self.next));
        }
        self.give(log.readable(self.next, self.pattern, now));
        self.next = log.end;
    }

    fn give<'a>(&mut self, messages: impl Iterator<Item = &'a Message>) {
        for message in messages {
            let (sequence, topic, text) = message.shown();
            self.read.push(Read::Message { sequence, topic, text, replayed: sequence < self.live_from });
        }
    }
}
