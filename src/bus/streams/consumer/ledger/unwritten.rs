//! What is to be written of what has changed, and put away: it is kept until a store has it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Death, Ledger};
use crate::limits;

/// What has changed since it was written last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Unwritten {
    pub(in super::super) done: BTreeSet<u64>,
    /// Attempts that have failed, by message.
    pub(in super::super) failed: BTreeMap<u64, u32>,
}

impl Ledger {
    /// Whether something is to be written or put away.
    pub(in super::super) fn owes(&self) -> bool {
        self.is_owed
            || !self.dead.is_empty()
            || !self.unwritten.done.is_empty()
            || !self.unwritten.failed.is_empty()
    }

    /// Whether so much is to be written, or put away, that no more may be done before.
    pub(in super::super) fn owes_too_much(&self) -> bool {
        self.unwritten.done.len() as u64 >= limits::CONSUMER_SPREAD
            || self.dead.len() >= limits::CONSUMER_ASIDE
    }

    /// The first message that is to be put away.
    pub(in super::super) fn next_dead(&self) -> Option<u64> {
        self.dead.keys().next().copied()
    }

    /// Messages that are to be put away, from the first of these sequences to before the last.
    pub(in super::super) fn dead_within(&self, within: Range<u64>) -> impl Iterator<Item = (u64, Death)> {
        self.dead.range(within).map(|(sequence, death)| (*sequence, *death))
    }

    /// What is to be written with dead letters so that these messages are done by it. They are dead until that is
    /// written.
    pub(in super::super) fn take_unwritten_with(&mut self, buried: &BTreeSet<u64>) -> (u64, Unwritten) {
        let floor = self.floor_without(buried);
        let mut unwritten = self.take_all(floor);
        unwritten.failed.retain(|sequence, _| !buried.contains(sequence));
        unwritten.done.extend(buried);
        (floor, unwritten)
    }

    /// These messages are put away, and that is written.
    pub(in super::super) fn put_away(&mut self, buried: &BTreeSet<u64>) {
        self.dead.retain(|sequence, _| !buried.contains(sequence));
    }

    /// What is to be written, in the order in which it is taken, and the floor. That it has passed over messages of other
    /// topics is worth that only now and then.
    pub(in super::super) fn take_unwritten(&mut self) -> Option<(u64, Unwritten)> {
        let floor = self.floor();
        let is_due = self.is_owed
            || !self.unwritten.done.is_empty()
            || !self.unwritten.failed.is_empty()
            || floor >= self.written_floor.saturating_add(limits::CONSUMER_STRIDE);
        is_due.then(|| (floor, self.take_all(floor)))
    }

    fn take_all(&mut self, floor: u64) -> Unwritten {
        self.written_floor = floor;
        self.is_owed = false;
        std::mem::take(&mut self.unwritten)
    }

    /// What was taken to be written was not: it is to be written with what has changed since. What is dead is not done by
    /// that.
    pub(in super::super) fn put_back(&mut self, unwritten: Unwritten) {
        let Unwritten { mut done, mut failed } = unwritten;
        let dead = self.dead.iter().filter(|(sequence, _)| done.remove(sequence));
        let dead = dead.map(|(sequence, death)| (*sequence, death.failed));
        // What nobody may have is dead without any attempt.
        failed.extend(dead.filter(|(_, attempts)| *attempts > 0));
        for (sequence, attempts) in failed {
            if !self.unwritten.done.contains(&sequence) {
                self.unwritten.failed.entry(sequence).or_insert(attempts);
            }
        }
        // The larger of the two takes the other in.
        if done.len() > self.unwritten.done.len() {
            std::mem::swap(&mut done, &mut self.unwritten.done);
        }
        self.unwritten.done.append(&mut done);
        self.is_owed = true;
    }
}
