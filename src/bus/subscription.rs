//! A session's subscriptions at the bus: credit, sequence and what waits.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::backlog::{Backlog, Next, Patience, Verdict};
use super::group::Group;
use super::session::Hold;
use super::stats::Totals;
use super::window::Credit;
use crate::proto::fields::{GapReason, Policy, encode_gap};
use crate::proto::{ContentRef, Header, Kind};
use crate::topic::{EntryId, TopicPattern};
use crate::transport::Lanes;

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: u32,
    pub(crate) pattern: TopicPattern,
    pub(crate) policy: Policy,
    pub(crate) no_echo: bool,
    /// Its place in the routing table, once it is there; members of a group share the group's.
    pub(crate) entry: Option<EntryId>,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) window: (u32, u64),
    pub(crate) credit: Credit,
    /// Matches told to the subscriber so far: delivered, or within a gap.
    pub(crate) sequence: u64,
    pub(crate) backlog: Backlog,
    pub(crate) delivered: u64,
    pub(crate) dropped: [u64; GapReason::ALL.len()],
    /// It ends once its backlog is empty.
    pub(crate) draining: bool,
}

/// What became of a message at one subscription.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is queued on the link.
    Delivered,
    /// It waits; the session's timer has to know of it.
    Parked,
    /// It waits in a ring, or it was counted as dropped.
    Counted,
    /// The subscription is to be ended for falling behind.
    End,
}

/// A publish on its way to its matches.
#[derive(Debug)]
pub(crate) struct Offered<'a> {
    pub(crate) content: &'a ContentRef<'a>,
    pub(crate) patience: Patience,
}

impl Subscription {
    /// Delivers the message if there is credit, or leaves it to the policy.
    #[inline]
    pub(crate) fn offer(
        &mut self,
        offered: &Offered<'_>,
        lanes: &mut Lanes,
        totals: &mut Totals,
        hold: impl FnOnce() -> Arc<Hold>,
    ) -> Outcome {
        if self.credit.is_left() && self.backlog.is_empty() {
            self.deliver(offered.content, lanes, totals);
            return Outcome::Delivered;
        }
        let size = offered.content.frame_size();
        match self.backlog.offer(size, offered.patience, || offered.content.shared(), hold) {
            Verdict::Parked => Outcome::Parked,
            Verdict::Kept => Outcome::Counted,
            Verdict::Dropped(reason) => {
                self.count_dropped(1, reason, totals);
                Outcome::Counted
            }
            Verdict::End => Outcome::End,
        }
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
        lanes.data(&Header::new(Kind::Gap, self.id, self.sequence), &ContentRef::payload(&payload));
    }

    pub(crate) fn count_dropped(&mut self, count: u64, reason: GapReason, totals: &mut Totals) {
        self.dropped[reason.index()] += count;
        totals.dropped[reason.index()] += count;
    }

    /// Delivers from the backlog as far as credit goes; gaps at its head are told at once.
    pub(crate) fn pump(&mut self, lanes: &mut Lanes, totals: &mut Totals) {
        if self.credit.is_left() {
            self.backlog.resume();
        }
        while self.credit.is_left() {
            match self.backlog.next() {
                Some(Next::Gap(count, reason)) => self.tell_gap(count, reason, lanes),
                Some(Next::Message(parked)) => self.deliver(&parked.content.borrowed(), lanes, totals),
                None => return,
            }
        }
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
    pub(crate) fn expire(&mut self, now: Instant, totals: &mut Totals) -> u64 {
        let dropped = self.backlog.expire(now);
        self.count_dropped(dropped, GapReason::Lagging, totals);
        dropped
    }

    /// Matches that were sent and whose credit has not come back.
    pub(crate) fn unacknowledged(&self) -> u64 {
        u64::try_from(i64::from(self.window.0) - self.credit.messages).unwrap_or(0)
    }

    /// Matches so far, told or not.
    pub(crate) fn matched(&self) -> u64 {
        self.delivered + self.dropped.iter().sum::<u64>() + self.backlog.messages() as u64
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
    slots: Vec<(u32, Option<Box<Subscription>>)>,
    free: Vec<u32>,
    by_id: HashMap<u32, Slot, RandomState>,
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
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
        place.take().map(|subscription| *subscription)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.slots.iter().filter_map(|(_, place)| place.as_deref())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.slots.iter_mut().filter_map(|(_, place)| place.as_deref_mut())
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Vec<Subscription> {
        self.by_id.clear();
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().filter_map(|(_, place)| place.map(|boxed| *boxed)).collect()
    }

    /// Bytes that wait in all backlogs.
    pub(crate) fn parked_bytes(&self) -> usize {
        self.iter().map(|subscription| subscription.backlog.bytes()).sum()
    }

    /// When the first of the parked messages has waited long enough.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.iter().filter_map(|subscription| subscription.backlog.next_expiry()).min()
    }
}
