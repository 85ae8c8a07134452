//! What a subscription or queue group without credit does with messages: the delivery policies.
//!
//! Pure: messages and times go in, what to do comes out. The state machine of `Block`:
//!
//! ```text
//!            no credit                    parked for the whole block limit
//!  flowing ------------> parking (held) ------------------------------------> lagging (all counted)
//!     ^                     | credit                                             | credit
//!     +---------------------+----------------------------------------------------+
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Clock;
use super::session::Hold;
use super::subscription::Offered;
use crate::limits;
use crate::proto::fields::{GapReason, Policy};
use crate::proto::{Content, ContentRef, HEADER_LEN};

/// A message that waits for credit, in memory of its own size.
#[derive(Debug)]
struct Parked {
    body: Body,
    /// Bytes of its frame.
    size: usize,
    /// The session that published it.
    publisher: u64,
    /// Returns the publisher's credit when the message is resolved.
    _hold: Option<Arc<Hold>>,
    /// When it has waited long enough, and whether that was the bus's whole block limit.
    deadline: Option<(Instant, bool)>,
}

#[derive(Debug)]
enum Body {
    /// In the backlog's buffer, behind those of the messages before it.
    Inline { fields: u16, topic: u16, length: u32 },
    /// Shared with the other matches.
    Shared(Arc<Content>),
}

#[derive(Debug)]
enum Entry {
    Message(Parked),
    /// Messages that were dropped at this place in the order.
    Gap(u64, GapReason),
}

/// What comes next out of a backlog.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// Tell the subscriber that so many were dropped here.
    Gap(u64, GapReason),
    /// Deliver this.
    Message(ContentRef<'a>),
}

/// What became of a message that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It waits; if it is the first, the owner's timer has to know.
    Parked,
    /// It waits in a bounded ring that needs no timer; the publisher is not held.
    Kept,
    /// It, or older ones in its place, are counted as dropped: so many.
    Dropped(u64, GapReason),
    /// The subscription is to be ended.
    End,
}

/// Bytes that a backlog keeps for reuse between two rounds: a window of small messages. Those that
/// stay unused are given back at the session's next tick.
const RETAINED_BYTES: usize = 64 * 1024;

/// How long a message may wait, as bus and publisher ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience<'a> {
    pub(crate) clock: &'a Clock,
    /// The bus's block limit.
    pub(crate) bus: Duration,
    /// What the publisher asks for, if that is less.
    pub(crate) publisher: Option<Duration>,
}

impl Patience<'_> {
    /// How long the message may wait, and whether that is the bus's whole block limit.
    fn limit(self) -> (Duration, bool) {
        match self.publisher {
            Some(asked) if asked < self.bus => (asked, false),
            _ => (self.bus, true),
        }
    }

    /// Until when the message may wait.
    pub(crate) fn deadline(self) -> Instant {
        self.clock.now() + self.limit().0
    }
}

#[derive(Debug)]
pub(crate) struct Backlog {
    policy: Policy,
    entries: VecDeque<Entry>,
    /// Small messages, one after the other; those before `start` are gone.
    inline: Vec<u8>,
    start: usize,
    /// What is being delivered, if it is shared.
    current: Option<Arc<Content>>,
    messages: usize,
    bytes: usize,
    /// Bounds of the ring that `DropOldest` keeps.
    ring: (usize, usize),
    lagging: bool,
}

impl Backlog {
    pub(crate) fn new(policy: Policy, window: (u32, u64)) -> Self {
        let ring = (window.0 as usize, usize::try_from(window.1).unwrap_or(usize::MAX));
        Self {
            policy,
            entries: VecDeque::new(),
            inline: Vec::new(),
            start: 0,
            current: None,
            messages: 0,
            bytes: 0,
            ring,
            lagging: false,
        }
    }

    /// Whether there is nothing to tell or deliver.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages that wait.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// Bytes of the messages that wait.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_lagging(&self) -> bool {
        self.lagging
    }

    /// Offers a message for which there is no credit. `hold` is called when it is parked on behalf of
    /// its publisher; what is kept without holding anybody's credit may not grow without `room`.
    pub(crate) fn offer(
        &mut self,
        offered: &Offered<'_>,
        room: bool,
        hold: impl FnOnce() -> Arc<Hold>,
    ) -> Verdict {
        match self.policy {
            Policy::Block => {
                let (limit, whole) = offered.patience.limit();
                if self.lagging || limit.is_zero() {
                    return self.count(1, GapReason::Lagging);
                }
                let deadline = Some((offered.patience.deadline(), whole));
                self.push(offered, Some(hold()), deadline);
                Verdict::Parked
            }
            Policy::DropNewest => self.count(1, GapReason::DroppedNewest),
            Policy::DropOldest if !room && self.messages == 0 => self.count(1, GapReason::DroppedOldest),
            Policy::DropOldest => {
                let limit = if room { self.ring.1 } else { self.ring.1.min(self.bytes) };
                self.push(offered, None, None);
                match self.shed_oldest(limit) {
                    0 => Verdict::Kept,
                    shed => Verdict::Dropped(shed, GapReason::DroppedOldest),
                }
            }
            Policy::Disconnect => Verdict::End,
        }
    }

    /// Credit arrived: the subscriber takes messages again.
    pub(crate) fn resume(&mut self) {
        self.lagging = false;
    }

    /// What comes next; the caller has credit for one message.
    pub(crate) fn next(&mut self) -> Option<Next<'_>> {
        match self.entries.pop_front()? {
            Entry::Gap(count, reason) => Some(Next::Gap(count, reason)),
            Entry::Message(parked) => Some(Next::Message(self.take(parked))),
        }
    }

    /// The content of a message that was at the front.
    fn take(&mut self, parked: Parked) -> ContentRef<'_> {
        self.messages -= 1;
        self.bytes -= parked.size;
        match parked.body {
            Body::Shared(content) => self.current.insert(content).borrowed(),
            Body::Inline { fields, topic, length } => {
                let from = self.start;
                self.start += length as usize;
                let all = self.inline.get(from..self.start).unwrap_or_default();
                let (fields, rest) = all.split_at_checked(usize::from(fields)).unwrap_or_default();
                let (topic, payload) = rest.split_at_checked(usize::from(topic)).unwrap_or_default();
                ContentRef::lent(fields, topic, payload)
            }
        }
    }

    /// Ends a round of [`next`](Self::next).
    pub(crate) fn settle(&mut self) {
        self.current = None;
        if self.messages == 0 {
            self.start = 0;
            self.inline.clear();
            self.inline.shrink_to(RETAINED_BYTES);
        }
    }

    /// Gives memory back that is not needed while nothing waits.
    pub(crate) fn trim(&mut self) {
        if self.entries.is_empty() {
            self.inline = Vec::new();
            self.entries = VecDeque::new();
        }
    }

    /// Who published the message that comes next, or `Some(None)` when a gap does.
    pub(crate) fn next_publisher(&self) -> Option<Option<u64>> {
        self.entries.front().map(|entry| match entry {
            Entry::Message(parked) => Some(parked.publisher),
            Entry::Gap(..) => None,
        })
    }

    /// A gap that stands before anything else; telling it needs no credit.
    pub(crate) fn next_gap(&mut self) -> Option<(u64, GapReason)> {
        match self.entries.front()? {
            Entry::Gap(count, reason) => {
                let gap = (*count, *reason);
                self.entries.pop_front();
                Some(gap)
            }
            Entry::Message(_) => None,
        }
    }

    /// When the next message will have waited long enough.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Message(parked) => parked.deadline.map(|(at, _)| at),
                Entry::Gap(..) => None,
            })
            .min()
    }

    /// Drops what has waited long enough and returns how many that were. When one waited for the
    /// bus's whole block limit, the subscription lags: everything that waits is dropped.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let due = |entry: &Entry, whole: bool| match entry {
            Entry::Message(Parked { deadline: Some((at, full)), .. }) => *at <= now && (*full || !whole),
            _ => false,
        };
        if self.entries.iter().any(|entry| due(entry, true)) {
            self.lagging = true;
            return self.drop_messages(|_| true, GapReason::Lagging);
        }
        self.drop_messages(|entry| due(entry, false), GapReason::Lagging)
    }

    /// Drops everything and returns how many messages that were.
    pub(crate) fn abandon(&mut self) -> u64 {
        self.drop_messages(|_| true, GapReason::Link)
    }

    fn push(&mut self, offered: &Offered<'_>, hold: Option<Arc<Hold>>, deadline: Option<(Instant, bool)>) {
        let content = offered.content;
        let size = content.frame_size();
        let body = if content.payload.len() < limits::SHARED_PAYLOAD {
            if self.start > self.inline.len() / 2 {
                self.inline.drain(..self.start);
                self.start = 0;
            }
            self.inline.extend_from_slice(content.fields);
            self.inline.extend_from_slice(content.topic);
            self.inline.extend_from_slice(content.payload);
            // The lengths come out of a frame, which has 16 bits for them.
            Body::Inline {
                fields: content.fields.len() as u16,
                topic: content.topic.len() as u16,
                length: (size - HEADER_LEN) as u32,
            }
        } else {
            Body::Shared(content.shared())
        };
        self.messages += 1;
        self.bytes += size;
        let publisher = offered.publisher;
        self.entries.push_back(Entry::Message(Parked { body, size, publisher, _hold: hold, deadline }));
    }

    fn count(&mut self, count: u64, reason: GapReason) -> Verdict {
        add_gap(&mut self.entries, count, reason);
        Verdict::Dropped(count, reason)
    }

    /// Drops the oldest until the ring is within its count and `limit` bytes.
    fn shed_oldest(&mut self, limit: usize) -> u64 {
        let mut shed = 0;
        while self.messages > 1 && (self.messages > self.ring.0 || self.bytes > limit) {
            // The gap that may stand before the oldest message grows by one.
            let before = self.next_gap().map_or(0, |(count, _)| count);
            let Some(Next::Message(_)) = self.next() else { break };
            shed += 1;
            self.entries.push_front(Entry::Gap(before + 1, GapReason::DroppedOldest));
        }
        shed
    }

    fn drop_messages(&mut self, mut which: impl FnMut(&Entry) -> bool, reason: GapReason) -> u64 {
        let mut dropped = 0;
        let mut kept = VecDeque::new();
        let mut inline = Vec::new();
        for entry in std::mem::take(&mut self.entries) {
            match entry {
                Entry::Gap(count, reason) => add_gap(&mut kept, count, reason),
                Entry::Message(ref parked) => {
                    let from = self.start;
                    if let Body::Inline { length, .. } = parked.body {
                        self.start += length as usize;
                    }
                    if which(&entry) {
                        self.messages -= 1;
                        self.bytes -= parked.size;
                        dropped += 1;
                        add_gap(&mut kept, 1, reason);
                    } else {
                        inline.extend_from_slice(self.inline.get(from..self.start).unwrap_or_default());
                        kept.push_back(entry);
                    }
                }
            }
        }
        self.entries = kept;
        self.inline = inline;
        self.start = 0;
        dropped
    }
}

/// Adds to the gap at the end, so that gaps never take more entries than messages.
fn add_gap(entries: &mut VecDeque<Entry>, count: u64, reason: GapReason) {
    if let Some(Entry::Gap(last, last_reason)) = entries.back_mut()
        && *last_reason == reason
    {
        *last += count;
        return;
    }
    entries.push_back(Entry::Gap(count, reason));
}
