//! A durable consumer, as a list of what became of each message.
//!
//! What is handed over next follows from what was before; only which member of a group gets it is the bus's choice, so that
//! who drives this says which.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Log, Message, takes};
use super::member::{Copy, Member};
use super::seen::{Letter, Row};

/// Milliseconds until a message is sent again that is not acknowledged; twice as many with each attempt.
pub(super) const ACK_WAIT: u64 = 4_000;

/// Attempts that may fail.
pub(super) const MOST: u32 = 3;

/// Messages that may be with the members of a consumer.
pub(super) const PENDING: [usize; 3] = [4, 6, 4];

/// Milliseconds until a refused message comes again, where nothing else is said; likewise.
const RETRY: u64 = 1_000;

const LATE: &str = "not acknowledged in time";
const REFUSED: &str = "refused by the consumer";
const GONE: &str = "the consumer was gone before it acknowledged";

/// What became of a message.
#[derive(Debug, Clone, PartialEq)]
enum Is {
    /// It comes when its turn is.
    Open,
    With {
        seat: usize,
        number: u64,
        until: u64,
        /// The bus was told that the application is at work on it.
        is_begun: bool,
    },
    Again {
        from: u64,
    },
    Dead {
        reason: &'static str,
    },
    Done,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    is: Is,
    failed: u32,
}

/// What comes next for somebody.
pub(super) struct Next {
    pub(super) message: Message,
    is_again: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Consumer {
    name: &'static str,
    pattern: &'static str,
    pending: usize,
    pub(super) members: Vec<Member>,
    /// Those of which anything is known.
    entries: BTreeMap<u64, Entry>,
    /// Where it reads on, as far as it knows, and as far as is kept.
    next: u64,
    kept: u64,
    /// What lies behind the last message that it has handed over, now and before this moment.
    handed_until: u64,
    handed_before: u64,
    now: u64,
    is_unwritten: bool,
    /// What somebody has been handed.
    handed: BTreeSet<u64>,
    /// Since it was last without members everything may be marked that it hands over.
    may_mark: bool,
    /// What it has told of in gaps since the last look: as of no use any more, and as dropped.
    pub(super) gaps: (u64, u64),
    /// Dead letters that it has put away since.
    pub(super) buried: Vec<Letter>,
}

impl Consumer {
    pub(super) fn new(name: &'static str, pattern: &'static str, pending: usize, next: u64) -> Self {
        Self {
            name,
            pattern,
            pending,
            members: Vec::new(),
            entries: BTreeMap::new(),
            next,
            kept: next,
            handed_until: next,
            handed_before: next,
            now: 0,
            is_unwritten: false,
            handed: BTreeSet::new(),
            may_mark: false,
            gaps: (0, 0),
            buried: Vec::new(),
        }
    }

    pub(super) fn member(&mut self, seat: usize) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.seat == seat)
    }

    fn pending(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.is, Is::With { .. })).count()
    }

    /// Whether a member can take one more: of several each leaves as much free as it has.
    pub(super) fn may_take(&self, member: &Member) -> bool {
        let seat_of = |entry: &Entry| match entry.is {
            Is::With { seat, .. } => Some(seat),
            _ => None,
        };
        let own = self.entries.values().filter(|entry| seat_of(entry) == Some(member.seat)).count();
        let free = self.pending.saturating_sub(self.pending());
        member.has_room() && (self.members.len() < 2 || own == 0 || own < free)
    }

    /// All before this is done.
    fn floor(&self) -> u64 {
        let open = self.entries.iter().find(|(_, entry)| !matches!(entry.is, Is::Done | Is::Open));
        open.map_or(self.next, |(sequence, _)| *sequence).min(self.next)
    }

    fn done(&mut self, sequence: u64) {
        let entry = self.entries.entry(sequence).or_insert(Entry { is: Is::Done, failed: 0 });
        entry.is = Is::Done;
        self.is_unwritten = true;
    }

    /// An attempt has failed.
    fn fail(&mut self, sequence: u64, reason: &'static str, from: u64) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.failed += 1;
        entry.is = if entry.failed >= MOST { Is::Dead { reason } } else { Is::Again { from } };
        self.is_unwritten = true;
    }

    /// Whether this member has a message, as far as the bus knows.
    fn has(&self, seat: usize, sequence: u64) -> Option<u64> {
        match self.entries.get(&sequence)?.is {
            Is::With { seat: with, number, .. } if with == seat => Some(number),
            _ => None,
        }
    }

    /// Returns whether it was still this member's.
    pub(super) fn acknowledge(&mut self, seat: usize, sequence: u64) -> bool {
        let Some(number) = self.has(seat, sequence) else { return false };
        if let Some(member) = self.member(seat) {
            member.acknowledged = member.acknowledged.max(number);
        }
        self.done(sequence);
        true
    }

    /// What members have acknowledged in vain, and what is over by now.
    pub(super) fn over_and_acknowledged(&self) -> Vec<(usize, u64)> {
        let acknowledged = self.members.iter().flat_map(|member| {
            let in_vain = member.held.iter().filter(|(_, in_vain)| **in_vain);
            in_vain.map(|(sequence, _)| (member.seat, *sequence))
        });
        acknowledged
            .filter(|(_, sequence)| self.entries.get(sequence).is_some_and(|entry| entry.is == Is::Done))
            .collect()
    }

    pub(super) fn refuse(&mut self, seat: usize, sequence: u64, delay: Option<u64>, now: u64) {
        if self.has(seat, sequence).is_some() {
            let failed = self.entries[&sequence].failed;
            self.fail(sequence, REFUSED, now + delay.unwrap_or(RETRY << failed));
        }
    }

    pub(super) fn in_progress(&mut self, seat: usize, sequence: u64, now: u64) {
        if self.has(seat, sequence).is_some()
            && let Some(Entry { is: Is::With { until, is_begun, .. }, failed }) =
                self.entries.get_mut(&sequence)
        {
            *until = now + (ACK_WAIT << *failed);
            *is_begun = true;
        }
    }

    /// When something is due next after this time.
    pub(super) fn due_after(&self, now: u64) -> Option<u64> {
        let due = self.entries.values().filter_map(|entry| match entry.is {
            Is::With { until: due, .. } | Is::Again { from: due } => Some(due),
            _ => None,
        });
        due.filter(|due| *due > now).min()
    }

    /// Takes back what was not acknowledged by now.
    pub(super) fn expire(&mut self, now: u64) {
        let is_late = |entry: &Entry| matches!(entry.is, Is::With { until, .. } if until <= now);
        let late: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| is_late(entry)).map(|(sequence, _)| *sequence).collect();
        let busy: BTreeSet<usize> =
            self.begun().filter(|(_, until)| *until > now).map(|(seat, _)| seat).collect();
        for sequence in late {
            let Some(Entry { is: Is::With { seat, .. }, failed }) = self.entries.get(&sequence).cloned()
            else {
                continue;
            };
            if self.is_begun(sequence) {
                self.fail(sequence, LATE, now);
            } else if busy.contains(&seat) {
                self.wait_on(sequence, now);
            } else {
                self.entries.insert(sequence, Entry { is: Is::Again { from: now }, failed });
            }
        }
    }

    /// What waits behind another one that is being dealt with in time has its time again.
    fn wait_on(&mut self, sequence: u64, now: u64) {
        if let Some(Entry { is: Is::With { until, .. }, failed }) = self.entries.get_mut(&sequence) {
            *until = now + (ACK_WAIT << *failed);
        }
    }

    /// Whether a member may be at work on a message that it has.
    fn is_begun(&self, sequence: u64) -> bool {
        let Some(Is::With { seat, number, is_begun, .. }) =
            self.entries.get(&sequence).map(|entry| &entry.is)
        else {
            return false;
        };
        let member = self.members.iter().find(|member| member.seat == *seat);
        *is_begun || member.is_some_and(|member| *number <= member.begun())
    }

    /// What members may be at work on: who, and until when.
    fn begun(&self) -> impl Iterator<Item = (usize, u64)> {
        self.entries.iter().filter(|(sequence, _)| self.is_begun(**sequence)).filter_map(|(_, entry)| {
            match entry.is {
                Is::With { seat, until, .. } => Some((seat, until)),
                _ => None,
            }
        })
    }

    /// The bus is told what applications are at work on.
    pub(super) fn hear(&mut self, now: u64) {
        let told = self.members.iter_mut().map(|member| (member.seat, std::mem::take(&mut member.told)));
        for (seat, told) in told.collect::<Vec<_>>() {
            told.into_iter().for_each(|sequence| self.in_progress(seat, sequence, now));
        }
    }

    /// Puts away what has failed too often, unless the stream has dropped it.
    pub(super) fn bury(&mut self, log: &Log) {
        let dead = self.entries.iter().filter_map(|(sequence, entry)| match entry.is {
            Is::Dead { reason } => Some((*sequence, entry.failed, reason)),
            _ => None,
        });
        for (sequence, failed, reason) in dead.collect::<Vec<_>>() {
            if let Some(message) = log.messages.get(&sequence) {
                self.buried.push(Letter {
                    consumer: self.name.to_owned(),
                    text: message.text.clone(),
                    topic: message.topic.to_owned(),
                    reason: reason.to_owned(),
                    attempts: failed.to_string(),
                    sequence: sequence.to_string(),
                });
            }
            self.done(sequence);
        }
    }

    /// It is so late.
    pub(super) fn reach(&mut self, now: u64) {
        if now > self.now {
            (self.now, self.handed_before) = (now, self.handed_until);
        }
    }

    /// Writes what has changed. Whether what it reads at the same moment is passed over before that is the bus's choice.
    pub(super) fn write(&mut self) {
        if std::mem::take(&mut self.is_unwritten) {
            self.kept = self.kept.max(self.floor().min(self.handed_before));
        }
    }

    /// What is to be handed over now, if anything is and somebody can take it: first what comes again, in its order.
    pub(super) fn next(&mut self, log: &Log, now: u64) -> Option<Next> {
        loop {
            let is_ready = self.members.iter().any(|member| self.may_take(member));
            if self.pending() >= self.pending {
                return None;
            }
            let due = |entry: &Entry| matches!(entry.is, Is::Again { from } if from <= now);
            let due = self.entries.iter().find(|(_, entry)| due(entry)).map(|(sequence, _)| *sequence);
            if let Some(sequence) = due.filter(|_| is_ready) {
                let message = log.messages.get(&sequence);
                if let Some(message) = message.filter(|message| takes(self.pattern, message.topic)) {
                    return Some(Next { message: message.clone(), is_again: true });
                }
                self.done(sequence);
                self.gaps.1 += 1;
                continue;
            }
            if self.next >= log.end || !is_ready {
                return None;
            }
            self.gaps.1 += log.first().saturating_sub(self.next);
            let message = log.readable(self.next, self.pattern, now).next();
            let Some(message) = message.cloned() else {
                self.next = log.end;
                return None;
            };
            self.next = message.sequence;
            if self.entries.get(&message.sequence).is_some_and(|entry| entry.is == Is::Done) {
                self.next += 1;
                continue;
            }
            return Some(Next { message, is_again: false });
        }
    }

    /// Hands it to a member, or to nobody if it is of no use any more.
    pub(super) fn hand(&mut self, next: Next, seat: usize, now: u64) -> Option<Copy> {
        let Next { message, is_again } = next;
        let sequence = message.sequence;
        if !is_again {
            self.next = sequence + 1;
            self.handed_until = self.next;
        }
        let failed = self.entries.get(&sequence).map_or(0, |entry| entry.failed);
        if message.is_over(now) {
            self.done(sequence);
            self.gaps.0 += 1;
            return None;
        }
        let number = {
            let member = self.member(seat)?;
            member.handed += 1;
            member.handed
        };
        let is = Is::With { seat, number, until: now + (ACK_WAIT << failed), is_begun: false };
        self.entries.insert(sequence, Entry { is, failed });
        let must = !self.handed.insert(sequence);
        let marks: &[bool] = match (must, self.may_mark) {
            (true, _) => &[true],
            (false, true) => &[true, false],
            (false, false) => &[false],
        };
        Some(Copy { sequence, topic: message.topic, text: message.text, attempt: failed + 1, marks })
    }

    /// A member is gone, and says what it has not taken, or is not there to say so. What it may have begun with is an attempt
    /// that has failed; the others it has not looked at.
    pub(super) fn leave(&mut self, seat: usize, says: bool, now: u64) {
        if says {
            self.member(seat).map(Member::says_what_it_took);
        }
        let with: Vec<(u64, bool)> =
            self.entries.keys().map(|sequence| (*sequence, self.is_begun(*sequence))).collect();
        let Some(index) = self.members.iter().position(|member| member.seat == seat) else { return };
        self.members.remove(index);
        for (sequence, is_begun) in with {
            match self.has(seat, sequence) {
                Some(_) if is_begun => self.fail(sequence, GONE, now),
                Some(_) => {
                    let failed = self.entries[&sequence].failed;
                    self.entries.insert(sequence, Entry { is: Is::Again { from: now }, failed });
                }
                None => {}
            }
        }
    }

    /// Nobody is there any more: only what is kept is still known. Up to which position that is shows.
    pub(super) fn close_if_empty(&mut self) {
        if !self.members.is_empty() {
            return;
        }
        self.next = self.kept.max(self.floor());
        for entry in self.entries.values_mut() {
            if entry.is != Is::Done {
                entry.is = Is::Open;
            }
        }
        self.may_mark |= !self.handed.is_empty();
        self.entries = self.entries.split_off(&self.kept);
    }

    /// Whether this is how it is shown. Positions are kept when something is done, and may be behind what is known; where
    /// they are is taken from here.
    pub(super) fn is_shown(&mut self, row: &Row, end: u64) -> bool {
        let floors = self.kept..=self.kept.max(self.floor());
        let of = |is: fn(&Is) -> bool| self.entries.values().filter(|entry| is(&entry.is)).count() as u64;
        let again = of(|is| matches!(is, Is::Again { .. } | Is::Dead { .. }));
        let is_so = floors.contains(&row.floor)
            && row.behind == end.saturating_sub(row.floor)
            && (row.subscriptions, row.pending, row.again)
                == (self.members.len(), self.pending() as u64, again);
        self.kept = row.floor;
        if self.members.is_empty() {
            (self.next, self.handed_until) = (row.floor, row.floor);
        }
        is_so
    }
}
