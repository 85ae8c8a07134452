//! A subscription that takes part in a consumer, and the application behind it.

use std::collections::{BTreeMap, VecDeque};

use super::seen::{Given, Got};

/// A message that is on its way to an application.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) sequence: u64,
    pub(super) topic: &'static str,
    pub(super) text: String,
    pub(super) attempt: u32,
    /// How it may be marked: as handed over before, or not.
    pub(super) marks: &'static [bool],
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) seat: usize,
    /// Messages that may wait for it.
    window: u32,
    /// It takes nothing.
    pub(super) rests: bool,
    /// What it was handed, and the number of the last of that which it has acknowledged.
    pub(super) handed: u64,
    pub(super) acknowledged: u64,
    /// Messages of which the bus knows that they were taken.
    known: u64,
    /// How many it had taken in the end, as it has said.
    took: Option<u64>,
    /// What the application has, and whether it has acknowledged that in vain: then that is done when it comes again.
    pub(super) held: BTreeMap<u64, bool>,
    /// What it has not taken.
    waiting: VecDeque<Copy>,
    /// When the bus was told last what the application is at work on, and what it is told now.
    told_at: Option<u64>,
    pub(super) told: Vec<u64>,
}

/// Milliseconds for which the bus is not told what more is taken.
const UNTOLD: u64 = 10;

impl Member {
    pub(super) fn new(seat: usize, window: u32) -> Self {
        let (held, waiting) = (BTreeMap::new(), VecDeque::new());
        let (told_at, told) = (None, Vec::new());
        Self {
            seat,
            window,
            rests: false,
            handed: 0,
            acknowledged: 0,
            known: 0,
            took: None,
            held,
            waiting,
            told_at,
            told,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.window as usize
    }

    /// Which of its messages it may have begun with: what the bus knows to have been taken, which a large window tells late,
    /// and the one behind the last that was acknowledged, unless it has said that it has not taken that.
    pub(super) fn begun(&self) -> u64 {
        let behind = self.acknowledged + 1;
        let is_taken = self.took.is_none_or(|took| took >= behind);
        self.known.min(self.handed).max(if is_taken { behind } else { self.acknowledged })
    }

    pub(super) fn says_what_it_took(&mut self) {
        self.took = Some(self.handed - self.waiting.len() as u64);
    }

    /// What the application has and has not acknowledged, counted round.
    pub(super) fn held(&self, which: usize) -> Option<u64> {
        let open: Vec<u64> =
            self.held.iter().filter(|(_, is_done)| !**is_done).map(|(sequence, _)| *sequence).collect();
        open.get(which % open.len().max(1)).copied()
    }

    /// A message arrives. Whoever has it is not given it again. `None` where that is not what was seen; otherwise whether it
    /// is acknowledged at once, as it was before.
    pub(super) fn arrives(&mut self, copy: Copy, got: &mut Got, now: u64) -> Option<bool> {
        got.arrived = got.arrived.checked_sub(1)?;
        let is_held = self.held.get(&copy.sequence).copied();
        let waits = self.waiting.iter().any(|waiting| waiting.sequence == copy.sequence);
        if is_held.is_some() || waits {
            self.known += 1;
            return Some(is_held.unwrap_or(false));
        }
        self.waiting.push_back(copy);
        self.take(got, now).then_some(false)
    }

    /// The application takes what waits, unless it rests. Returns whether that is what was seen.
    pub(super) fn take(&mut self, got: &mut Got, now: u64) -> bool {
        while !self.rests
            && let Some(copy) = self.waiting.pop_front()
        {
            if self.window == 1 {
                self.known += 1;
            }
            let Some(given) = got.given.pop_front() else { return false };
            let Given { sequence, topic, text, attempt, redelivered } = given;
            let is_so = (sequence, topic.as_str(), &text, attempt)
                == (copy.sequence, copy.topic, &copy.text, copy.attempt);
            if !is_so || !copy.marks.contains(&redelivered) {
                return false;
            }
            self.held.insert(sequence, false);
            if self.told_at.is_none_or(|told_at| now - told_at >= UNTOLD) {
                self.told_at = Some(now);
                self.told.push(sequence);
            }
        }
        true
    }
}
