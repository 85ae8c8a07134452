//! A session's subscriptions at the bus: credit, sequence and what waits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::backlog::{Backlog, Next, Overdue, Patience, Verdict};
use super::deadlines::Deadlines;
use super::group::Group;
use super::hold::Holds;
use super::presence::{Present, Watching};
use super::stats::Totals;
use super::streams::Reads;
use super::table::Room;
use crate::proto::fields::{GapReason, Policy, encode_gap};
use crate::proto::{ContentRef, Credit, Header, Kind};
use crate::topic::{EntryId, TopicPattern};
use crate::transport::{EncodedRun, Form, Lanes};

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: u32,
    /// What it takes of the table budget.
    pub(crate) room: Room,
    pub(crate) pattern: TopicPattern,
    pub(crate) policy: Policy,
    pub(crate) no_echo: bool,
    /// Publishers are not told of it.
    pub(crate) uncounted: bool,
    /// Its place in the routing table, once it is there; members of a group share the group's.
    pub(crate) entry: Option<EntryId>,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) window: (u32, u64),
    pub(crate) credit: Credit,
    /// Matches told to the subscriber so far: delivered, or within a gap.
    pub(crate) sequence: u64,
    pub(crate) backlog: Backlog,
    /// Matches so far, told or not; counted apart from what became of them.
    pub(crate) matched: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: [u64; GapReason::ALL.len()],
    /// It ends once its backlog is empty.
    pub(crate) draining: bool,
    /// Its client has been told that it has ended: it is there for acknowledgements alone.
    pub(crate) drained: bool,
    /// What its session has noted of its backlog.
    pub(crate) noted: Noted,
    /// What reads its stream, where it is to one.
    pub(crate) reads: Option<Reads>,
    /// What shows that it is there, once it is accepted.
    pub(crate) present: Option<Present>,
    /// It hears who comes and goes.
    pub(crate) _watching: Option<Watching>,
}

/// What a session notes of a subscription with a backlog, so that it finds those without a search.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// It is among those with a backlog.
    waits: bool,
    /// The time that is noted for it.
    due: Option<Instant>,
}

/// What became of messages that were offered to one subscription.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// So many matched: all, unless the subscription ends.
    pub(crate) matched: u64,
    /// Some wait or were counted, and whoever keeps the times has to note it: the session of a
    /// subscription, the sweeper of a group.
    pub(crate) unnoted: bool,
    /// The subscription is to be ended for falling behind.
    pub(crate) ends: bool,
}

/// Messages of one publisher to one topic, on their way to their matches.
#[derive(Debug)]
pub(crate) struct Offered<'a> {
    pub(crate) contents: &'a [ContentRef<'a>],
    /// Bytes of their frames.
    pub(crate) bytes: usize,
    /// Some are values of this process.
    pub(crate) values: bool,
    /// Their frames, where several links take them.
    pub(crate) encoded: Option<&'a EncodedRun>,
    /// The session they come from.
    pub(crate) publisher: u64,
    pub(crate) patience: Patience<'a>,
}

impl Subscription {
    /// Delivers the messages as far as there is credit, and leaves the others to the policy. What is
    /// kept without holding anybody's credit may take `room` bytes.
    #[inline]
    pub(crate) fn offer(
        &mut self,
        offered: &Offered<'_>,
        lanes: &mut Lanes,
        totals: &mut Totals,
        room: usize,
        holds: &mut Holds,
    ) -> Outcome {
        let passing = self.passing(offered, lanes);
        self.matched += passing as u64;
        self.deliver_first(passing, offered, lanes, totals);
        let mut outcome = Outcome { matched: passing as u64, ..Outcome::default() };
        for (index, content) in offered.contents.iter().enumerate().skip(passing) {
            self.matched += 1;
            outcome.matched += 1;
            let has_room = self.backlog.bytes() < room;
            let holds = &mut *holds;
            match self
                .backlog
                .offer(content, offered.publisher, offered.patience, has_room, move || holds.hold(index))
            {
                Verdict::Parked | Verdict::Kept => {}
                Verdict::Dropped(count, reason) => self.count_dropped(count, reason, totals),
                Verdict::End => {
                    outcome.ends = true;
                    return outcome;
                }
            }
        }
        outcome.unnoted = passing < offered.contents.len() && !self.is_noted();
        outcome
    }

    /// How many of the messages can be delivered now.
    #[inline]
    fn passing(&self, offered: &Offered<'_>, lanes: &Lanes) -> usize {
        if !self.backlog.is_empty() {
            return 0;
        }
        let messages = usize::try_from(self.credit.messages).unwrap_or(0).min(offered.contents.len());
        let mut credit = usize::try_from(self.credit.bytes).unwrap_or(0);
        let mut room = lanes.room_left();
        // A value that leaves the process takes what its bytes take.
        let encoded = offered.values && lanes.form() == Form::Bytes;
        if !encoded && offered.bytes < credit.min(room) {
            return messages;
        }
        let passes = |content: &&ContentRef<'_>| {
            let size = if encoded { content.encoded_size() } else { content.frame_size() };
            let passes = credit > 0 && room > 0;
            (credit, room) = (credit.saturating_sub(size), room.saturating_sub(size));
            passes
        };
        offered.contents.iter().take(messages).take_while(passes).count()
    }

    #[inline]
    fn deliver_first(&mut self, count: usize, offered: &Offered<'_>, lanes: &mut Lanes, totals: &mut Totals) {
        if count > 1
            && let Some(run) = offered.encoded
            && let Some(size) = lanes.data_run(run, count, self.id, self.sequence + 1)
        {
            self.sequence += count as u64;
            self.credit.spend_several(count, size);
            self.delivered += count as u64;
            totals.delivered += count as u64;
            totals.delivered_bytes += size as u64;
            return;
        }
        for content in offered.contents.iter().take(count) {
            self.deliver(content, lanes, totals);
        }
    }

    /// Whether its session knows of its backlog what it has to.
    fn is_noted(&self) -> bool {
        self.noted.waits && self.noted.due == self.backlog.next_expiry()
    }

    /// Queues a message on the link and spends credit for it.
    #[inline]
    pub(crate) fn deliver(&mut self, content: &ContentRef<'_>, lanes: &mut Lanes, totals: &mut Totals) {
        self.sequence += 1;
        let size = lanes.data(&Header::new(Kind::Deliver, self.id, self.sequence), content);
        self.credit.spend(size);
        self.delivered += 1;
        totals.delivered += 1;
        totals.delivered_bytes += size as u64;
    }

    /// Tells the subscriber of messages that it will not get.
    pub(crate) fn tell_gap(&mut self, count: u64, reason: GapReason, lanes: &mut Lanes) {
        self.sequence += count;
        let payload = encode_gap(count, reason);
        lanes.data(&Header::new(Kind::Gap, self.id, self.sequence), &ContentRef::of_payload(&payload));
    }

    /// Counts matches that the subscriber does not get, and tells him in their place.
    pub(crate) fn miss(&mut self, count: u64, reason: GapReason, lanes: &mut Lanes, totals: &mut Totals) {
        self.matched += count;
        totals.matched += count;
        self.count_dropped(count, reason, totals);
        self.tell_gap(count, reason, lanes);
    }

    pub(crate) fn count_dropped(&mut self, count: u64, reason: GapReason, totals: &mut Totals) {
        self.dropped[reason.index()] += count;
        totals.dropped[reason.index()] += count;
    }

    /// Delivers from the backlog as far as credit goes, and tells the gaps on the way. A gap costs no
    /// credit, and waits for some like the messages behind it.
    pub(crate) fn pump(&mut self, lanes: &mut Lanes, totals: &mut Totals) {
        if self.credit.is_left() {
            self.backlog.resume();
        }
        // The backlog lends what it delivers, so it is taken out meanwhile.
        let mut backlog = std::mem::replace(&mut self.backlog, Backlog::new(self.policy, self.window));
        while self.credit.is_left() && lanes.has_room() {
            match backlog.next(Instant::now) {
                Some(Next::Gap(count, reason)) => self.tell_gap(count, reason, lanes),
                Some(Next::Message(content)) => self.deliver(&content, lanes, totals),
                Some(Next::Expired) => {
                    self.count_dropped(1, GapReason::Expired, totals);
                    self.tell_gap(1, GapReason::Expired, lanes);
                }
                None => break,
            }
        }
        backlog.settle();
        self.backlog = backlog;
    }

    /// Takes over what waited for the group whose last member this was.
    pub(crate) fn inherit(&mut self, left: Backlog) {
        self.matched += left.messages() as u64;
        self.backlog = left;
    }

    /// Counts a match that does not get its message, which is told in its place.
    pub(crate) fn withhold(&mut self, lanes: &mut Lanes, totals: &mut Totals) {
        self.matched += 1;
        self.backlog.withhold();
        self.count_dropped(1, GapReason::Withheld, totals);
        self.pump(lanes, totals);
    }

    /// Counts matches that were lost before they came here, which are told behind what waits.
    pub(crate) fn lose(&mut self, count: u64, reason: GapReason, lanes: &mut Lanes, totals: &mut Totals) {
        self.matched += count;
        totals.matched += count;
        self.backlog.lose(count, reason);
        self.count_dropped(count, reason, totals);
        self.pump(lanes, totals);
    }

    /// Counts what waits as dropped and tells the gap.
    pub(crate) fn abandon(&mut self, lanes: &mut Lanes, totals: &mut Totals) {
        let dropped = self.backlog.abandon();
        self.count_dropped(dropped, GapReason::Link, totals);
        while let Some((count, reason)) = self.backlog.next_gap() {
            self.tell_gap(count, reason, lanes);
        }
    }

    /// Drops what has waited long enough; returns how many that were.
    pub(crate) fn expire(&mut self, now: Instant, totals: &mut Totals) -> Overdue {
        let dropped = self.backlog.expire(now);
        for (count, reason) in dropped.by_reason() {
            self.count_dropped(count, reason, totals);
        }
        dropped
    }

    /// Matches that were sent and whose credit has not come back, unless they are its client's by now.
    pub(crate) fn unacknowledged(&self) -> u64 {
        if self.drained {
            return 0;
        }
        u64::try_from(i64::from(self.window.0) - self.credit.messages).unwrap_or(0)
    }
}

/// Where a subscription lies among its session's: routes point at it without a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    index: u32,
    serial: u32,
}

/// The subscriptions of one session.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    slots: Slots,
    free: Vec<u32>,
    by_id: HashMap<u32, Slot, RandomState>,
    /// What all of them take of the table budget.
    table_bytes: usize,
    /// Places of those that have a backlog, or had one until a while ago.
    waiting: BTreeSet<u32>,
    /// Places of those that read a stream, or did until a while ago.
    cursors: BTreeSet<u32>,
    /// Where [`pump_in_turn`](Self::pump_in_turn) stopped.
    next_in_turn: u32,
    deadlines: Deadlines<Slot>,
}

type Slots = Vec<(u32, Option<Box<Subscription>>)>;

/// Whether that is the time noted for the subscription in that slot.
fn is_live(slots: &Slots, at: Instant, slot: Slot) -> bool {
    slots.get(slot.index as usize).is_some_and(|(serial, place)| {
        *serial == slot.serial && place.as_ref().is_some_and(|own| own.noted.due == Some(at))
    })
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes that all of them take of the table budget.
    pub(crate) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// A slot for tests that need no subscription in it.
    #[cfg(test)]
    pub(crate) fn any_slot() -> Slot {
        Slot { index: 0, serial: 0 }
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn slot(&self, id: u32) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    /// Adds a subscription; its id must be new.
    pub(crate) fn insert(&mut self, subscription: Subscription) -> Slot {
        let id = subscription.id;
        self.table_bytes += subscription.room.bytes();
        let subscription = Some(Box::new(subscription));
        let slot = match self.free.pop() {
            Some(index) => {
                let (serial, place) = &mut self.slots[index as usize];
                *place = subscription;
                Slot { index, serial: *serial }
            }
            None => {
                self.slots.push((0, subscription));
                Slot { index: (self.slots.len() - 1) as u32, serial: 0 }
            }
        };
        self.by_id.insert(id, slot);
        slot
    }

    /// The subscription in that slot, if it is still the one that the slot was given for.
    #[inline]
    pub(crate) fn at(&mut self, slot: Slot) -> Option<&mut Subscription> {
        match self.slots.get_mut(slot.index as usize) {
            Some((serial, Some(subscription))) if *serial == slot.serial => Some(subscription),
            _ => None,
        }
    }

    pub(crate) fn by_id(&mut self, id: u32) -> Option<&mut Subscription> {
        let slot = self.slot(id)?;
        self.at(slot)
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Subscription> {
        let slot = self.by_id.remove(&id)?;
        let (serial, place) = self.slots.get_mut(slot.index as usize)?;
        *serial = serial.wrapping_add(1);
        self.free.push(slot.index);
        let subscription = *place.take()?;
        self.table_bytes = self.table_bytes.saturating_sub(subscription.room.bytes());
        if subscription.noted.waits {
            self.waiting.remove(&slot.index);
        }
        if subscription.noted.due.is_some() {
            self.deadlines.call_off(|at, slot| is_live(&self.slots, at, slot));
        }
        Some(subscription)
    }

    /// Ids and slots of as many as there are, up to a limit.
    pub(crate) fn some(&self, limit: usize) -> Vec<(u32, Slot)> {
        self.by_id.iter().take(limit).map(|(id, slot)| (*id, *slot)).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.slots.iter().filter_map(|(_, place)| place.as_deref())
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Vec<Subscription> {
        self.by_id.clear();
        self.table_bytes = 0;
        self.free.clear();
        self.waiting.clear();
        self.deadlines = Deadlines::default();
        std::mem::take(&mut self.slots)
            .into_iter()
            .filter_map(|(_, place)| place.map(|boxed| *boxed))
            .collect()
    }

    /// Messages that wait in all backlogs.
    pub(crate) fn parked_messages(&self) -> usize {
        let places = self.waiting.iter().filter_map(|index| self.slots.get(*index as usize));
        places.filter_map(|(_, place)| place.as_ref()).map(|own| own.backlog.messages()).sum()
    }

    /// Notes that the subscription has a backlog, and when something in it is due, which is returned.
    pub(crate) fn note(&mut self, slot: Slot) -> Option<Instant> {
        let own = self.at(slot)?;
        let due = own.backlog.next_expiry();
        let listed = std::mem::replace(&mut own.noted.waits, true);
        let before = std::mem::replace(&mut own.noted.due, due);
        if !listed {
            self.waiting.insert(slot.index);
        }
        if before != due {
            if let Some(at) = due {
                self.deadlines.add(at, slot);
            }
            if before.is_some() {
                self.deadlines.call_off(|at, slot| is_live(&self.slots, at, slot));
            }
        }
        due
    }

    /// When the first of the parked messages may have waited long enough.
    pub(crate) fn next_expiry(&mut self) -> Option<Instant> {
        self.deadlines.next(|at, slot| is_live(&self.slots, at, slot))
    }

    /// One of those in which something may have waited long enough. It is to be [noted](Self::note)
    /// again afterwards.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Slot> {
        let slot = self.deadlines.take_due(now, |at, slot| is_live(&self.slots, at, slot))?;
        self.at(slot)?.noted.due = None;
        Some(slot)
    }

    /// Calls `pump` for those with a backlog until it says that there is no room for more, and goes on
    /// behind the last one when it is called again.
    pub(crate) fn pump_in_turn(&mut self, mut pump: impl FnMut(&mut Subscription) -> bool) {
        let Self { slots, waiting, next_in_turn, .. } = self;
        for index in waiting.range(*next_in_turn..).chain(waiting.range(..*next_in_turn)) {
            let Some((_, Some(own))) = slots.get_mut(*index as usize) else { continue };
            if !own.backlog.is_empty() && !pump(own) {
                *next_in_turn = index.saturating_add(1);
                return;
            }
        }
    }

    /// Begins to read a stream for the subscription in that slot, if it is still there.
    pub(crate) fn read_stream(&mut self, slot: Slot, reads: Reads) {
        if let Some(subscription) = self.at(slot) {
            subscription.reads = Some(reads);
            self.cursors.insert(slot.index);
        }
    }

    /// Has those that read a stream look whether they can go on.
    pub(crate) fn wake_cursors(&mut self) {
        let Self { slots, cursors, .. } = self;
        cursors.retain(|index| match slots.get(*index as usize) {
            Some((_, Some(own))) => own.reads.as_ref().map(Reads::go_on).is_some(),
            _ => false,
        });
    }

    /// Lets those whose backlog has gone give back its memory.
    pub(crate) fn trim(&mut self) {
        let Self { slots, waiting, .. } = self;
        waiting.retain(|index| match slots.get_mut(*index as usize) {
            Some((_, Some(own))) if own.backlog.is_empty() => {
                own.backlog.trim();
                own.noted.waits = false;
                false
            }
            Some((_, place)) => place.is_some(),
            None => false,
        });
    }
}

#[cfg(test)]
mod tests;
