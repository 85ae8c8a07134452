//! What a consumer knows of its messages: which are done, which are with somebody, and which come again.
//!
//! No clock, no store, no session: what happens is told to it, and it says what is to be done.

mod aside;
mod unwritten;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use self::aside::Aside;
pub(super) use self::unwritten::Unwritten;
use crate::limits;
use crate::proto::fields::{Attempt, DeliveryRules};
use crate::store::ConsumerState;

/// One of those who share a consumer's messages.
pub(super) type MemberId = u64;

/// The messages of one consumer.
#[derive(Debug)]
pub(super) struct Ledger {
    rules: DeliveryRules,
    /// The first sequence that nobody has been handed since the ledger was opened, and that is not known to be done.
    next: u64,
    /// Before this somebody may have been handed any of them before the ledger was opened.
    handed_before: u64,
    /// What was known of messages that come yet: whether they are done, or how often they have failed.
    known: BTreeMap<u64, crate::store::Progress>,
    /// Those that somebody has.
    pending: BTreeMap<u64, Pending>,
    /// Those that are to be handed over again.
    retries: BTreeMap<u64, Retry>,
    /// Those that some members may not have, and others are to be offered.
    aside: BTreeMap<u64, Aside>,
    /// Those that have failed too often, or that nobody may have, until they are put away.
    dead: BTreeMap<u64, Death>,
    /// When something of `pending` is due.
    deadlines: BTreeSet<(Instant, u64)>,
    /// When something of `retries` is due, as far as it was not when it was last looked.
    delayed: BTreeSet<(Instant, u64)>,
    /// What of `retries` is due. The first of them in the stream comes first, whenever it was given up: so those of who
    /// is gone come to his successor in their order.
    ripe: BTreeSet<u64>,
    tokens: HashMap<u64, u64>,
    /// How many of `pending` each member has that has any.
    shares: HashMap<MemberId, usize>,
    next_token: u64,
    /// What has not been written yet, and the floor that was written last.
    unwritten: Unwritten,
    written_floor: u64,
    /// What was to be written was not, and is to be, however little it is.
    is_owed: bool,
}

#[derive(Debug)]
struct Pending {
    member: MemberId,
    token: u64,
    /// Which of the member's messages it was, from 1.
    number: u64,
    /// The member has said that it is at work on it.
    is_begun: bool,
    failed: u32,
    redelivered: bool,
    /// Members that may not have it, as far as they were asked about before this one.
    withheld_from: Vec<MemberId>,
    deadline: Instant,
}

impl Pending {
    /// Whether its member may have begun with it, of whose messages that is so up to this number.
    fn is_begun(&self, begun: u64) -> bool {
        self.is_begun || self.number <= begun
    }
}

#[derive(Debug)]
struct Retry {
    failed: u32,
    due: Instant,
}

/// Why a message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Death {
    /// Attempts that have failed.
    pub(super) failed: u32,
    pub(super) reason: Failure,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    NotAcknowledged,
    Refused,
    /// Whoever had it is gone.
    Gone,
    /// A plugin that has to agree to it has failed.
    Plugin,
    /// Plugins let no member have it.
    Withheld,
}

impl Failure {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NotAcknowledged => "not acknowledged in time",
            Self::Refused => "refused by the consumer",
            Self::Gone => "the consumer was gone before it acknowledged",
            Self::Plugin => "a plugin failed when it was to be delivered",
            Self::Withheld => "withheld by a plugin",
        }
    }
}

/// The token is of no message that is pending.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stale;

impl Ledger {
    /// What is known from the store. Tokens begin at a number that was drawn at random, so that those of an earlier
    /// ledger are none of this one.
    pub(super) fn new(rules: DeliveryRules, state: ConsumerState, first_token: u64) -> Self {
        Self {
            rules,
            next: state.floor,
            handed_before: state.handed,
            known: state.known,
            pending: BTreeMap::new(),
            retries: BTreeMap::new(),
            aside: BTreeMap::new(),
            dead: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            delayed: BTreeSet::new(),
            ripe: BTreeSet::new(),
            tokens: HashMap::new(),
            shares: HashMap::new(),
            next_token: first_token,
            unwritten: Unwritten::default(),
            written_floor: state.floor,
            is_owed: false,
        }
    }

    /// Follows other rules from now on.
    pub(super) fn follow(&mut self, rules: DeliveryRules) {
        self.rules = rules;
    }

    /// All before this sequence are done.
    pub(super) fn floor(&self) -> u64 {
        self.floor_without(&BTreeSet::new())
    }

    /// What the floor is once these of the dead are put away.
    fn floor_without(&self, buried: &BTreeSet<u64>) -> u64 {
        let first = |sequence: Option<&u64>| sequence.copied().unwrap_or(self.next);
        first(self.pending.keys().next())
            .min(first(self.retries.keys().next()))
            .min(first(self.aside.keys().next()))
            .min(first(self.dead.keys().find(|sequence| !buried.contains(sequence))))
    }

    /// The sequence from which on the log is to be read.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Messages that somebody has, and those that come again.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.pending.len() as u64, (self.retries.len() + self.aside.len() + self.dead.len()) as u64)
    }

    /// How many messages a member has.
    pub(super) fn share_of(&self, member: MemberId) -> usize {
        self.shares.get(&member).copied().unwrap_or(0)
    }

    /// Messages that nobody has and that are not done, and those of which less is known: what is done and not written, and
    /// what the store has told of those that come yet.
    pub(super) fn unheld(&self) -> (usize, usize) {
        let Unwritten { done, failed } = &self.unwritten;
        let entries = self.retries.len() + self.aside.len() + self.dead.len();
        (entries, self.known.len() + done.len() + failed.len())
    }

    /// Whether there is anything of that which goes without more being handed over.
    pub(super) fn knows_unheld(&self) -> bool {
        let (entries, marks) = self.unheld();
        entries > 0 || marks > self.known.len()
    }

    /// Whether one more may be handed over.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < self.rules.max_pending as usize
    }

    /// How many more a member may be handed. Of a group with so many members each leaves as much free as it has, so that one
    /// that is stuck stops no other; and one that is alone leaves a part to those that may come.
    pub(super) fn room_for(&self, member: MemberId, of_group: Option<usize>) -> usize {
        let (most, free) = (self.rules.max_pending as usize, self.room());
        let own = self.share_of(member);
        match of_group {
            None => free,
            Some(0 | 1) => free.saturating_sub(most / limits::GROUP_RESERVE),
            // Each one that it is handed is one more of its own, and one less that is free.
            Some(_) => free.saturating_sub(own).div_ceil(2),
        }
    }

    /// Whether one may be handed over that nobody has had yet.
    pub(super) fn may_read_on(&self) -> bool {
        self.has_room() && !self.is_too_far() && !self.withholds_too_much() && !self.owes_too_much()
    }

    /// Whether it has read as far behind the first message that is not done as it may.
    pub(super) fn is_too_far(&self) -> bool {
        self.next.saturating_sub(self.floor()) >= limits::CONSUMER_SPREAD
    }

    /// Passes over what lies before this sequence: it is of other topics, or gone.
    pub(super) fn skip_to(&mut self, sequence: u64) {
        if sequence > self.next {
            self.next = sequence;
            self.known = self.known.split_off(&sequence);
        }
    }

    /// The message that comes again next, if one is due by now.
    pub(super) fn next_retry(&mut self, now: Instant) -> Option<u64> {
        while let Some((due, sequence)) = self.delayed.first().copied()
            && due <= now
        {
            self.delayed.pop_first();
            self.ripe.insert(sequence);
        }
        self.ripe.first().copied()
    }

    /// Messages that may be handed over now.
    pub(super) fn room(&self) -> usize {
        (self.rules.max_pending as usize).saturating_sub(self.pending.len())
    }

    /// When something is due next after this moment.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let next = |all: &BTreeSet<(Instant, u64)>| {
            all.range((now, u64::MAX)..).map(|(due, _)| *due).find(|due| *due > now)
        };
        next(&self.deadlines).into_iter().chain(next(&self.delayed)).min()
    }

    /// Hands a message to a member, of which it is the one with this number. `None` where it is done already, or dead.
    pub(super) fn hand(
        &mut self,
        sequence: u64,
        member: MemberId,
        number: u64,
        now: Instant,
    ) -> Option<Attempt> {
        let mut withheld_from = Vec::new();
        let (failed, redelivered) = match (self.take_retry(sequence), self.aside.remove(&sequence)) {
            (Some(retry), _) => (retry.failed, true),
            (None, Some(aside)) => {
                withheld_from = aside.withheld_from;
                (aside.failed, aside.redelivered)
            }
            (None, None) if sequence < self.next => return None,
            (None, None) => {
                let known = self.known.remove(&sequence).unwrap_or_default();
                self.skip_to(sequence);
                self.next = sequence + 1;
                if known.is_done {
                    return None;
                }
                if known.attempts >= self.rules.max_deliver {
                    let death = Death { failed: known.attempts, reason: Failure::NotAcknowledged };
                    self.dead.insert(sequence, death);
                    return None;
                }
                (known.attempts, known.attempts > 0 || sequence < self.handed_before)
            }
        };
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        self.tokens.insert(token, sequence);
        let deadline = now + doubled(self.rules.ack_wait, failed, limits::ACK_WAIT_MAX);
        self.deadlines.insert((deadline, sequence));
        let is_begun = false;
        let pending =
            Pending { member, token, number, is_begun, failed, redelivered, withheld_from, deadline };
        self.pending.insert(sequence, pending);
        *self.shares.entry(member).or_default() += 1;
        Some(Attempt::new(token, failed + 1, redelivered))
    }

    /// Whether a member has the message with this token.
    pub(super) fn has(&self, token: u64, member: MemberId) -> bool {
        let pending = self.tokens.get(&token).and_then(|sequence| self.pending.get(sequence));
        pending.is_some_and(|pending| pending.member == member)
    }

    /// Whether a member has any message.
    pub(super) fn has_any(&self, member: MemberId) -> bool {
        self.shares.contains_key(&member)
    }

    /// A message is dealt with. Returns its sequence, and which of its member's messages it was.
    pub(super) fn acknowledge(&mut self, token: u64) -> Result<(u64, u64), Stale> {
        let sequence = self.tokens.get(&token).copied().ok_or(Stale)?;
        let pending = self.take_pending(sequence).ok_or(Stale)?;
        self.unwritten.done.insert(sequence);
        self.unwritten.failed.remove(&sequence);
        Ok((sequence, pending.number))
    }

    /// A message was not dealt with, and comes again after this time.
    pub(super) fn refuse(&mut self, token: u64, delay: Option<Duration>, now: Instant) -> Result<(), Stale> {
        self.put_off(token, delay, Failure::Refused, now)
    }

    /// A message could not be handed over as a plugin failed. That is a failed attempt.
    pub(super) fn fail_at_plugin(&mut self, token: u64, now: Instant) -> Result<(), Stale> {
        self.put_off(token, None, Failure::Plugin, now)
    }

    fn put_off(
        &mut self,
        token: u64,
        delay: Option<Duration>,
        reason: Failure,
        now: Instant,
    ) -> Result<(), Stale> {
        let sequence = self.tokens.get(&token).copied().ok_or(Stale)?;
        let pending = self.take_pending(sequence).ok_or(Stale)?;
        let delay =
            delay.unwrap_or_else(|| doubled(limits::RETRY_DELAY, pending.failed, limits::RETRY_DELAY_MAX));
        let due = now + delay.min(limits::ACK_WAIT_MAX);
        self.fail(sequence, pending.failed, reason, due);
        Ok(())
    }

    /// A message is being dealt with; it may take as long again.
    pub(super) fn progress(&mut self, token: u64, now: Instant) -> Result<(), Stale> {
        let sequence = self.tokens.get(&token).copied().ok_or(Stale)?;
        let pending = self.pending.get_mut(&sequence).ok_or(Stale)?;
        self.deadlines.remove(&(pending.deadline, sequence));
        pending.deadline = now + doubled(self.rules.ack_wait, pending.failed, limits::ACK_WAIT_MAX);
        pending.is_begun = true;
        self.deadlines.insert((pending.deadline, sequence));
        Ok(())
    }

    /// Whether a message is done: nobody has it, and it does not come again.
    pub(super) fn is_done(&self, sequence: u64) -> bool {
        let is_open = self.pending.contains_key(&sequence)
            || self.retries.contains_key(&sequence)
            || self.aside.contains_key(&sequence)
            || self.dead.contains_key(&sequence);
        match self.known.get(&sequence) {
            Some(known) => known.is_done,
            None => sequence < self.next && !is_open,
        }
    }

    /// When the first message is overdue.
    pub(super) fn next_due_at(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// What has become done since it was written last, and nobody has passed over.
    pub(super) fn newly_done(&self) -> impl Iterator<Item = u64> {
        self.unwritten.done.iter().copied()
    }

    /// Takes back what was not acknowledged in time. That is a failed attempt of what its member may have begun with, which
    /// are its messages up to the number that is told for it. What waits behind a message that the member is at work on
    /// waits on; where it is at work on none in time, somebody else is to have it, and no attempt has failed.
    pub(super) fn expire(&mut self, now: Instant, begun: impl Fn(MemberId) -> u64) {
        let due = self.deadlines.iter().take_while(|(due, _)| *due <= now);
        let over: Vec<u64> = due.map(|(_, sequence)| *sequence).collect();
        if over.is_empty() {
            return;
        }
        let in_time = self.pending.values().filter(|pending| pending.deadline > now);
        let at_work: HashSet<MemberId> =
            in_time.filter(|own| own.is_begun(begun(own.member))).map(|own| own.member).collect();
        for sequence in over {
            let Some(pending) = self.pending.get_mut(&sequence) else { continue };
            let is_begun = pending.is_begun(begun(pending.member));
            if !is_begun && at_work.contains(&pending.member) {
                self.deadlines.remove(&(pending.deadline, sequence));
                pending.deadline = now + doubled(self.rules.ack_wait, pending.failed, limits::ACK_WAIT_MAX);
                self.deadlines.insert((pending.deadline, sequence));
                continue;
            }
            let Some(pending) = self.take_pending(sequence) else { continue };
            if is_begun {
                self.fail(sequence, pending.failed, Failure::NotAcknowledged, now);
            } else {
                self.retry(sequence, pending.failed, now);
            }
        }
    }

    /// Takes back what a member had that is gone. Only what it may have begun with counts as an attempt: its messages up to
    /// this number, and what it has said so of. The others it has not even looked at.
    pub(super) fn leave(&mut self, member: MemberId, begun: u64, now: Instant) {
        let of_member = self.pending.iter().filter(|(_, pending)| pending.member == member);
        let left: Vec<u64> = of_member.map(|(sequence, _)| *sequence).collect();
        for sequence in left {
            let Some(pending) = self.take_pending(sequence) else { continue };
            if pending.is_begun(begun) {
                self.fail(sequence, pending.failed, Failure::Gone, now);
            } else {
                self.retry(sequence, pending.failed, now);
            }
        }
    }

    /// A message that was to come again is not there any more.
    pub(super) fn forget(&mut self, sequence: u64) {
        self.take_retry(sequence);
        self.aside.remove(&sequence);
        self.dead.remove(&sequence);
        self.unwritten.failed.remove(&sequence);
        self.unwritten.done.insert(sequence);
    }

    fn take_pending(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.pending.remove(&sequence)?;
        if let Entry::Occupied(mut share) = self.shares.entry(pending.member) {
            *share.get_mut() -= 1;
            if *share.get() == 0 {
                share.remove();
            }
        }
        self.tokens.remove(&pending.token);
        self.deadlines.remove(&(pending.deadline, sequence));
        Some(pending)
    }

    fn take_retry(&mut self, sequence: u64) -> Option<Retry> {
        let retry = self.retries.remove(&sequence)?;
        self.delayed.remove(&(retry.due, sequence));
        self.ripe.remove(&sequence);
        Some(retry)
    }

    fn fail(&mut self, sequence: u64, failed: u32, reason: Failure, due: Instant) {
        let failed = failed.saturating_add(1);
        self.unwritten.failed.insert(sequence, failed);
        if failed >= self.rules.max_deliver {
            self.dead.insert(sequence, Death { failed, reason });
        } else {
            self.retry(sequence, failed, due);
        }
    }

    fn retry(&mut self, sequence: u64, failed: u32, due: Instant) {
        self.delayed.insert((due, sequence));
        self.retries.insert(sequence, Retry { failed, due });
    }
}

/// A time that doubles so many times, up to this.
fn doubled(time: Duration, times: u32, most: Duration) -> Duration {
    time.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(most)
}
