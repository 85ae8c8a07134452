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
use super::hold::Hold;
use crate::limits;
use crate::proto::fields::{GapReason, Policy};
use crate::proto::{Content, ContentRef, HEADER_LEN};

/// A message that waits for credit, in memory of its own size.
#[derive(Debug)]
enum Body {
    /// In the backlog's buffer, behind those of the messages before it.
    Inline { fields: u16, topic: u16, length: u32 },
    /// Shared with the other matches.
    Shared(Arc<Content>),
}

impl Body {
    /// Bytes of its frame.
    fn size(&self) -> usize {
        match self {
            Self::Inline { length, .. } => HEADER_LEN + *length as usize,
            Self::Shared(content) => content.frame_size(),
        }
    }
}

#[derive(Debug)]
enum Entry {
    Message(Body),
    /// Messages that were dropped at this place in the order.
    Gap(u64, GapReason),
}

/// What messages that were parked one after the other have in common.
#[derive(Debug)]
struct Origin {
    /// How many messages.
    count: usize,
    /// The session that published them.
    publisher: u64,
    /// Returns the publisher's credit when the last of them is resolved.
    hold: Option<Arc<Hold>>,
    /// When they have waited long enough, and whether that was the bus's whole block limit.
    deadline: Option<(Instant, bool)>,
    /// When they are of no use any more.
    expires: Option<Instant>,
}

impl Origin {
    /// The first time at which something has to be done about them.
    fn due(&self) -> Option<Instant> {
        self.deadline.map(|(at, _)| at).into_iter().chain(self.expires).min()
    }

    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    fn is_due(&self, now: Instant, whole: bool) -> bool {
        self.deadline.is_some_and(|(at, full)| at <= now && (full || !whole))
    }
}

/// What comes next out of a backlog.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// Tell the subscriber that so many were dropped here.
    Gap(u64, GapReason),
    /// Deliver this.
    Message(ContentRef<'a>),
    /// A message was here that is of no use any more; the caller counts it, and tells the subscriber.
    Expired,
}

/// Messages that have waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Overdue {
    /// For the block limit, or what the publisher allowed.
    pub(crate) lagging: u64,
    /// Until they were of no use.
    pub(crate) expired: u64,
}

impl Overdue {
    /// How many of each sort, and why.
    pub(crate) fn by_reason(self) -> [(u64, GapReason); 2] {
        [(self.lagging, GapReason::Lagging), (self.expired, GapReason::Expired)]
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What became of a message that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It waits until its time has come; see [`Backlog::next_expiry`].
    Parked,
    /// It waits in a bounded ring, which needs a timer only for what expires; the publisher is not held.
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
    /// What the publisher asks for.
    pub(crate) publisher: Asked,
}

/// What a publisher asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    /// How long the message may wait, if that is less than the bus allows.
    pub(crate) block_limit: Option<Duration>,
    /// When it is of no use any more.
    pub(crate) expires: Option<Instant>,
}

impl Asked {
    /// Whether the message is of no use by now. The clock is not looked at for one that always is of use.
    pub(crate) fn has_expired(self, clock: &Clock) -> bool {
        self.expires.is_some_and(|at| at <= clock.now())
    }
}

impl Patience<'_> {
    /// How long the message may wait, and whether that is the bus's whole block limit.
    fn limit(self) -> (Duration, bool) {
        match self.publisher.block_limit {
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
    /// Where the messages among the entries come from, in their order.
    origins: VecDeque<Origin>,
    /// Small messages, one after the other; those before `start` are gone.
    inline: Vec<u8>,
    start: usize,
    /// What is being delivered, if it is shared.
    current: Option<Arc<Content>>,
    messages: usize,
    bytes: usize,
    /// No message has waited long enough before this.
    due: Option<Instant>,
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
            origins: VecDeque::new(),
            inline: Vec::new(),
            start: 0,
            current: None,
            messages: 0,
            bytes: 0,
            due: None,
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
    pub(crate) fn offer<'h>(
        &mut self,
        content: &ContentRef<'_>,
        publisher: u64,
        patience: Patience<'_>,
        room: bool,
        hold: impl FnOnce() -> &'h Arc<Hold>,
    ) -> Verdict {
        let expires = patience.publisher.expires;
        match self.policy {
            Policy::Block => {
                let (limit, whole) = patience.limit();
                if self.lagging || limit.is_zero() {
                    return self.count(1, GapReason::Lagging);
                }
                let deadline = Some((patience.deadline(), whole));
                self.push(content, publisher, Some(hold()), deadline, expires);
                Verdict::Parked
            }
            Policy::DropNewest => self.count(1, GapReason::DroppedNewest),
            Policy::DropOldest if !room && self.messages == 0 => self.count(1, GapReason::DroppedOldest),
            Policy::DropOldest => {
                let limit = if room { self.ring.1 } else { self.ring.1.min(self.bytes) };
                self.push(content, publisher, None, None, expires);
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

    /// What comes next; the caller has credit for one message. The time is asked for where the message may have
    /// expired: timers fire later than that, and those of groups look only now and then.
    pub(crate) fn next(&mut self, now: impl FnOnce() -> Instant) -> Option<Next<'_>> {
        match self.entries.pop_front()? {
            Entry::Gap(count, reason) => Some(Next::Gap(count, reason)),
            Entry::Message(body) => {
                let expires = self.origins.front().and_then(|origin| origin.expires);
                let has_expired = expires.is_some_and(|at| at <= now());
                let content = self.take(body);
                Some(if has_expired { Next::Expired } else { Next::Message(content) })
            }
        }
    }

    /// The content of a message that was at the front.
    #[inline]
    fn take(&mut self, body: Body) -> ContentRef<'_> {
        self.messages -= 1;
        self.bytes -= body.size();
        if let Some(origin) = self.origins.front_mut() {
            origin.count -= 1;
            if origin.count == 0 {
                self.origins.pop_front();
            }
        }
        match body {
            Body::Shared(content) => self.current.insert(content).borrowed(),
            Body::Inline { fields, topic, length } => {
                let from = self.start;
                self.start += length as usize;
                let all = self.inline.get(from..self.start).unwrap_or_default();
                ContentRef::framed(all, usize::from(fields), usize::from(topic))
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
            self.origins = VecDeque::new();
        }
    }

    /// Who published the message that comes next, or `Some(None)` when a gap does.
    pub(crate) fn next_publisher(&self) -> Option<Option<u64>> {
        self.entries.front().map(|entry| match entry {
            Entry::Message(_) => self.origins.front().map(|origin| origin.publisher),
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

    /// When to call [`expire`](Self::expire) next. It may be too early, when the message that was to
    /// wait no longer has been delivered; it only moves on when `expire` is called then.
    #[inline]
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.due
    }

    /// Drops what has waited long enough, or is of no use any more, and returns how many that were. When one
    /// waited for the bus's whole block limit, the subscription lags: everything that waits is dropped.
    pub(crate) fn expire(&mut self, now: Instant) -> Overdue {
        if self.due.is_none_or(|due| due > now) {
            return Overdue::default();
        }
        let expired = match self.origins.iter().any(|origin| origin.has_expired(now)) {
            true => self.drop_messages(|origin| origin.has_expired(now), GapReason::Expired),
            false => 0,
        };
        let lagging = self.drop_due(now);
        self.due = self.origins.iter().filter_map(Origin::due).min();
        Overdue { lagging, expired }
    }

    fn drop_due(&mut self, now: Instant) -> u64 {
        if self.origins.iter().any(|origin| origin.is_due(now, true)) {
            self.lagging = true;
            return self.drop_messages(|_| true, GapReason::Lagging);
        }
        if !self.origins.iter().any(|origin| origin.is_due(now, false)) {
            return 0;
        }
        self.drop_messages(|origin| origin.is_due(now, false), GapReason::Lagging)
    }

    /// Drops everything and returns how many messages that were.
    pub(crate) fn abandon(&mut self) -> u64 {
        self.due = None;
        self.drop_messages(|_| true, GapReason::Link)
    }

    #[inline]
    fn push(
        &mut self,
        content: &ContentRef<'_>,
        publisher: u64,
        hold: Option<&Arc<Hold>>,
        deadline: Option<(Instant, bool)>,
        expires: Option<Instant>,
    ) {
        let size = content.frame_size();
        let body = if !content.is_value() && content.payload().len() < limits::SHARED_PAYLOAD {
            if self.start > self.inline.len() / 2 {
                self.inline.drain(..self.start);
                self.start = 0;
            }
            content.append_to(&mut self.inline);
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
        self.entries.push_back(Entry::Message(body));
        match self.origins.back_mut() {
            Some(last)
                if last.publisher == publisher
                    && last.deadline == deadline
                    && last.expires == expires
                    && last.hold.as_ref().map(Arc::as_ptr) == hold.map(Arc::as_ptr) =>
            {
                last.count += 1;
            }
            _ => {
                let origin = Origin { count: 1, publisher, hold: hold.cloned(), deadline, expires };
                if let Some(at) = origin.due()
                    && self.due.is_none_or(|due| at < due)
                {
                    self.due = Some(at);
                }
                self.origins.push_back(origin);
            }
        }
    }

    /// Leaves a gap for a message that was withheld, behind what waits.
    pub(crate) fn withhold(&mut self) {
        self.lose(1, GapReason::Withheld);
    }

    /// Leaves a gap for messages that never came here, behind what waits.
    pub(crate) fn lose(&mut self, count: u64, reason: GapReason) {
        add_gap(&mut self.entries, count, reason);
    }

    fn count(&mut self, count: u64, reason: GapReason) -> Verdict {
        add_gap(&mut self.entries, count, reason);
        Verdict::Dropped(count, reason)
    }

    /// Drops the oldest until the ring is within its count and `limit` bytes.
    fn shed_oldest(&mut self, limit: usize) -> u64 {
        let mut shed = 0;
        while self.messages > 1 && (self.messages > self.ring.0 || self.bytes > limit) {
            let is_message = |entry: &Entry| matches!(entry, Entry::Message(_));
            let Some(place) = self.entries.iter().position(is_message) else { break };
            let Some(Entry::Message(body)) = self.entries.remove(place) else { break };
            self.take(body);
            shed += 1;
            add_gap_at(&mut self.entries, place, 1, GapReason::DroppedOldest);
        }
        shed
    }

    fn drop_messages(&mut self, mut which: impl FnMut(&Origin) -> bool, reason: GapReason) -> u64 {
        let mut dropped = 0;
        let mut kept = VecDeque::new();
        let mut inline = Vec::new();
        let mut entries = std::mem::take(&mut self.entries).into_iter();
        // The gaps between messages stay where they are.
        let mut until_message = |kept: &mut VecDeque<Entry>| {
            entries.by_ref().find_map(|entry| match entry {
                Entry::Message(body) => Some(body),
                Entry::Gap(count, reason) => {
                    add_gap(kept, count, reason);
                    None
                }
            })
        };
        self.origins.retain(|origin| {
            let drops = which(origin);
            for _ in 0..origin.count {
                let Some(body) = until_message(&mut kept) else { break };
                let from = self.start;
                if let Body::Inline { length, .. } = body {
                    self.start += length as usize;
                }
                if drops {
                    self.messages -= 1;
                    self.bytes -= body.size();
                    dropped += 1;
                    add_gap(&mut kept, 1, reason);
                } else {
                    inline.extend_from_slice(self.inline.get(from..self.start).unwrap_or_default());
                    kept.push_back(Entry::Message(body));
                }
            }
            !drops
        });
        until_message(&mut kept);
        self.entries = kept;
        self.inline = inline;
        self.start = 0;
        dropped
    }
}

/// Adds to the gaps at the end.
fn add_gap(entries: &mut VecDeque<Entry>, count: u64, reason: GapReason) {
    add_gap_at(entries, entries.len(), count, reason);
}

/// Adds to the gaps that end before `place`. Between two messages there is one of each reason at the most, so that gaps
/// never take more entries than a few times the messages.
fn add_gap_at(entries: &mut VecDeque<Entry>, place: usize, count: u64, reason: GapReason) {
    for before in (0..place).rev() {
        match entries.get_mut(before) {
            Some(Entry::Gap(gap, own)) if *own == reason => {
                *gap += count;
                return;
            }
            Some(Entry::Gap(..)) => {}
            _ => break,
        }
    }
    entries.insert(place, Entry::Gap(count, reason));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_of_several_reasons_take_no_more_room_the_more_there_are() {
        let mut backlog = Backlog::new(Policy::DropOldest, (1, 1_000));
        let mut now = Instant::now();
        let mut dropped = [0; 2];
        for _ in 0..100 {
            let clock = Clock::at(now);
            for ttl in [1, 5] {
                let expires = Some(now + Duration::from_millis(ttl));
                let publisher = Asked { block_limit: None, expires };
                let patience = Patience { clock: &clock, bus: Duration::ZERO, publisher };
                let content = ContentRef::lent(&[], b"a", b"x");
                match backlog.offer(&content, 1, patience, true, || unreachable!("nobody is held")) {
                    Verdict::Dropped(count, GapReason::DroppedOldest) => dropped[0] += count,
                    verdict => assert_eq!(verdict, Verdict::Kept),
                }
            }
            now += Duration::from_millis(7);
            dropped[1] += backlog.expire(now).expired;
        }
        assert_eq!(dropped, [100, 100]);
        assert_eq!((backlog.messages(), backlog.bytes()), (0, 0));
        assert!(backlog.entries.len() <= GapReason::ALL.len(), "{} entries", backlog.entries.len());
        let told: u64 = std::iter::from_fn(|| backlog.next_gap()).map(|(count, _)| count).sum();
        assert_eq!(told, 200);
    }
}
