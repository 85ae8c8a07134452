//! Messages that plugins keep from some members of a consumer: the others are offered them, and what nobody may have is dead.

use std::ops::Range;

use tokio::time::Instant;

use super::{Death, Failure, Ledger, MemberId, Pending, Stale};
use crate::limits;

/// A message that is kept from some members.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) failed: u32,
    pub(super) redelivered: bool,
    pub(super) withheld_from: Vec<MemberId>,
}

impl Ledger {
    /// The last of these messages that is due again, or kept from some.
    pub(in super::super) fn last_again(&self, within: Range<u64>) -> Option<u64> {
        let aside = self.aside.range(within.clone()).next_back().map(|(sequence, _)| *sequence);
        self.ripe.range(within).next_back().copied().max(aside)
    }

    /// Whether there is any that is due again, or is kept from some.
    pub(in super::super) fn has_again(&mut self, now: Instant) -> bool {
        self.next_retry(now).is_some() || !self.aside.is_empty()
    }

    /// The first message that this member is to be handed of those that are due again or kept from others.
    pub(in super::super) fn next_again(&mut self, member: MemberId, now: Instant) -> Option<u64> {
        let retry = self.next_retry(now);
        let aside = self.aside.iter().find(|(_, aside)| !aside.withheld_from.contains(&member));
        retry.into_iter().chain(aside.map(|(sequence, _)| *sequence)).min()
    }

    /// Whether this message is due again, or kept from others, and may be offered to this member.
    pub(in super::super) fn is_again_for(&self, sequence: u64, member: MemberId) -> bool {
        let aside = self.aside.get(&sequence);
        self.ripe.contains(&sequence) || aside.is_some_and(|aside| !aside.withheld_from.contains(&member))
    }

    /// A message is not for the member that it was to be handed to. Those of `members` that were not asked about are offered it;
    /// where there are none it is dead. Returns whether it is.
    pub(in super::super) fn withhold(
        &mut self,
        token: u64,
        mut members: impl Iterator<Item = MemberId>,
    ) -> Result<bool, Stale> {
        let sequence = self.tokens.get(&token).copied().ok_or(Stale)?;
        let pending = self.take_pending(sequence).ok_or(Stale)?;
        let Pending { failed, redelivered, mut withheld_from, .. } = pending;
        withheld_from.push(pending.member);
        let is_dead = members.all(|member| withheld_from.contains(&member));
        if is_dead {
            self.dead.insert(sequence, Death { failed, reason: Failure::Withheld });
        } else {
            self.aside.insert(sequence, Aside { failed, redelivered, withheld_from });
        }
        Ok(is_dead)
    }

    /// Whether so many are kept from some members that the others are to take these first.
    pub(in super::super) fn withholds_too_much(&self) -> bool {
        self.aside.len() >= limits::CONSUMER_ASIDE
    }

    /// Whether any message is kept from some members.
    pub(in super::super) fn has_aside(&self) -> bool {
        !self.aside.is_empty()
    }

    /// These are the members now. What may be had by none of them is dead; returns how many that are. Where there are no
    /// members it waits for the next.
    pub(in super::super) fn settle_aside(&mut self, members: &[MemberId]) -> u64 {
        if members.is_empty() {
            return 0;
        }
        let is_for_none = |aside: &Aside| members.iter().all(|member| aside.withheld_from.contains(member));
        let over: Vec<(u64, u32)> = self
            .aside
            .iter()
            .filter(|(_, aside)| is_for_none(aside))
            .map(|(sequence, aside)| (*sequence, aside.failed))
            .collect();
        for (sequence, failed) in &over {
            self.aside.remove(sequence);
            self.dead.insert(*sequence, Death { failed: *failed, reason: Failure::Withheld });
        }
        over.len() as u64
    }
}
