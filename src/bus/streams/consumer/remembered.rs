//! How much consumers may know of messages that are not done: it counts in the byte budget, and in a session's part of it.
//!
//! What a member has counts as its session's, and what nobody has as that of the member that came first. Where the budget or that
//! part is spent nobody is handed a message who has one already, so that everybody goes on, one message at a time. That is looked
//! at anew with each acknowledgement, and now and then, as others may have given room back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ledger::{Ledger, MemberId};
use super::{Member, State};
use crate::bus::budget::{Budget, Share};
use crate::bus::session::Session;
use crate::limits;

/// Bytes that count, in the steps of a [`Share`]. They are given back when it is dropped.
#[derive(Debug)]
pub(super) struct Remembered {
    budget: Arc<Budget>,
    /// Whose part they are of; `None` where nobody is there any more.
    session: Option<Arc<Session>>,
    share: Share,
}

/// What of it a member is to be handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What nobody has had yet, and nothing is known of.
    Fresh,
    /// What comes again, and is known of already.
    Again,
}

impl Remembered {
    pub(super) fn of(session: &Arc<Session>) -> Self {
        Self { budget: session.shared_budget(), session: Some(Arc::clone(session)), share: Share::default() }
    }

    fn follow(&mut self, bytes: usize) {
        let before = self.share.reserved();
        self.share.follow(bytes, &self.budget);
        let after = self.share.reserved();
        if let Some(session) = self.session.as_ref().filter(|_| before != after) {
            let counter = &session.remembered_bytes;
            if after > before {
                counter.fetch_add(after - before, Ordering::Relaxed);
            } else {
                counter.fetch_sub(before - after, Ordering::Relaxed);
            }
        }
    }

    /// It is of nothing any more.
    pub(super) fn nothing(&mut self) {
        self.follow(0);
    }

    fn is_of(&self, session: Option<&Arc<Session>>) -> bool {
        match (&self.session, session) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        self.follow(0);
    }
}

/// Messages of which a session's consumers may know besides what they do.
fn left(session: &Session) -> usize {
    let budget = session.budget();
    if budget.is_spent() {
        return 0;
    }
    let known = session.remembered_bytes.load(Ordering::Relaxed);
    budget.per_session().saturating_sub(known).div_ceil(limits::CONSUMER_ENTRY_BYTES)
}

impl State {
    /// Notes what is known now. What has not changed by much costs no more than to see that.
    pub(super) fn count(&mut self) {
        let Self { ledger: Some(ledger), members, unheld, being_written, .. } = self else { return };
        for member in members.iter_mut() {
            member.remembered.follow(beside_one(ledger.share_of(member.id) * limits::CONSUMER_ENTRY_BYTES));
        }
        count_unheld(ledger, members, unheld, *being_written);
    }

    /// Notes what is known now, where only this member's messages have changed.
    pub(super) fn count_of(&mut self, id: MemberId) {
        let Self { ledger: Some(ledger), members, unheld, being_written, .. } = self else { return };
        if let Some(member) = members.iter_mut().find(|member| member.id == id) {
            member.remembered.follow(beside_one(ledger.share_of(id) * limits::CONSUMER_ENTRY_BYTES));
        }
        count_unheld(ledger, members, unheld, *being_written);
    }

    /// Messages of this kind that a member may be handed as far as the budget goes.
    pub(super) fn may_know(&self, member: &Member, kind: Kind) -> usize {
        let Some(ledger) = &self.ledger else { return 0 };
        may_know(ledger, &self.members, member, kind)
    }

    /// Whether somebody is held up by the budget who else could be handed more.
    pub(super) fn is_short(&self, is_shared: bool) -> bool {
        let sharers = self.sharers(is_shared);
        let Some(ledger) = &self.ledger else { return false };
        self.hearing()
            .any(|member| ledger.room_for(member.id, sharers) > 0 && self.may_know(member, Kind::Fresh) == 0)
    }

    /// Those who are handed messages.
    pub(super) fn hearing(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_accepted && !member.is_drained)
    }
}

/// See [`State::may_know`].
pub(super) fn may_know(ledger: &Ledger, members: &[Member], member: &Member, kind: Kind) -> usize {
    // What nobody has counts as the first one's, whose other consumers are of no account where there is none.
    let first = members.first().filter(|_| ledger.unheld().0 > 1);
    let first = first.map_or(usize::MAX, |first| left(&first.session));
    match left(&member.session).min(first) {
        0 => {
            let has_none = ledger.share_of(member.id) == 0;
            let passes = has_none && (kind == Kind::Again || !ledger.knows_unheld());
            usize::from(passes)
        }
        left => left,
    }
}

/// What counts of so many bytes. One message may pass whatever the budget says, and does not count: there are no more of these than
/// subscriptions, which the table budget bounds, and a step of the budget for each could spend all of it.
fn beside_one(bytes: usize) -> usize {
    bytes.saturating_sub(limits::CONSUMER_ENTRY_BYTES)
}

/// Notes what is known of messages that nobody has.
fn count_unheld(ledger: &Ledger, members: &[Member], unheld: &mut Option<Remembered>, being_written: usize) {
    let (entries, marks) = ledger.unheld();
    let marks = marks + being_written;
    let bytes = beside_one(entries * limits::CONSUMER_ENTRY_BYTES + marks * limits::CONSUMER_MARK_BYTES);
    let first = members.first().map(|first| &first.session);
    match unheld {
        Some(remembered) if remembered.is_of(first) => remembered.follow(bytes),
        // Whoever came first has gone.
        Some(remembered) => {
            let budget = Arc::clone(&remembered.budget);
            let session = first.cloned();
            *remembered = Remembered { budget, session, share: Share::default() };
            remembered.follow(bytes);
        }
        None if bytes > 0 => {
            let Some(session) = first else { return };
            unheld.insert(Remembered::of(session)).follow(bytes);
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::bus::subscription::Subscriptions;
    use crate::proto::fields::{Attempt, DeliveryRules};
    use crate::store::{ConsumerState, Name};

    fn member(session: &Arc<Session>) -> Member {
        Member {
            id: 0,
            session: Arc::clone(session),
            slot: Subscriptions::any_slot(),
            subscription: 1,
            is_accepted: true,
            knows_another: false,
            is_drained: false,
            remembered: Remembered::of(session),
            handed: 0,
            taken: 0,
            acknowledged: 0,
            told_at_end: None,
            fed: None,
            left_out: None,
        }
    }

    /// A consumer that these take part in, which may have as many unacknowledged as there are.
    fn consumer(sessions: &[&Arc<Session>]) -> State {
        let kept = ConsumerState::new(Name::new("c").unwrap(), None, 1);
        let rules = DeliveryRules { max_pending: u32::MAX, ..DeliveryRules::default() };
        let mut state = State { ledger: Some(Ledger::new(rules, kept, 1)), rules, ..State::default() };
        for session in sessions {
            state.admit(member(session));
        }
        state
    }

    /// Hands a member as many as the budget allows, or so many.
    fn hand(state: &mut State, id: MemberId, most: usize) -> Vec<Attempt> {
        let member = state.members.iter().find(|member| member.id == id).unwrap();
        let count = state.may_know(member, Kind::Fresh).min(most);
        let ledger = state.ledger.as_mut().unwrap();
        let now = Instant::now();
        let handed = (0..count).map(|_| ledger.hand(ledger.next(), id, 1, now).unwrap()).collect();
        state.count_of(id);
        handed
    }

    #[test]
    fn what_a_session_has_not_acknowledged_is_bounded_by_its_part_and_everybody_goes_on() {
        let (session, _peer) = Session::alone(1);
        let (other, _peer) = Session::alone(2);
        let budget = session.shared_budget();
        let part = budget.per_session() / limits::CONSUMER_ENTRY_BYTES;
        let mut first = consumer(&[&session]);
        let mut handed = hand(&mut first, 1, usize::MAX);
        assert!((part..part + 3).contains(&handed.len()), "{} of {part}", handed.len());
        assert!(first.is_short(false));
        assert!(budget.used() >= (handed.len() - 1) * limits::CONSUMER_ENTRY_BYTES);
        // Those behind it have one message each, and no more.
        let mut second = consumer(&[&session]);
        assert_eq!(hand(&mut second, 1, usize::MAX).len(), 1);
        assert!(hand(&mut second, 1, usize::MAX).is_empty());
        // A session of its own has a part of its own.
        assert!(!hand(&mut consumer(&[&other]), 1, usize::MAX).is_empty());
        // What is acknowledged gives it back, in steps.
        for attempt in handed.drain(..part / 2) {
            first.ledger.as_mut().unwrap().acknowledge(attempt.token).unwrap();
        }
        first.ledger.as_mut().unwrap().take_unwritten();
        first.count();
        assert!(hand(&mut second, 1, usize::MAX).len() > part / 4);
        drop((first, second));
        assert_eq!((session.remembered_bytes.load(Ordering::Relaxed), session.budget().used()), (0, 0));
    }

    #[test]
    fn what_nobody_has_counts_as_the_first_members_and_then_the_next_ones() {
        let (one, _peer) = Session::alone(1);
        let (other, _peer) = Session::alone(2);
        let bytes = |session: &Session| session.remembered_bytes.load(Ordering::Relaxed);
        let mut group = consumer(&[&one, &other]);
        let now = Instant::now();
        let late = Some(Duration::from_secs(3600));
        for attempt in hand(&mut group, 2, 400) {
            group.ledger.as_mut().unwrap().refuse(attempt.token, late, now).unwrap();
        }
        group.count();
        assert!(bytes(&one) >= 399 * limits::CONSUMER_ENTRY_BYTES);
        assert_eq!(bytes(&other), 0);
        group.members.remove(0);
        group.count();
        assert_eq!(bytes(&one), 0);
        assert!(bytes(&other) >= 399 * limits::CONSUMER_ENTRY_BYTES);
        group.members.clear();
        group.count();
        assert_eq!(bytes(&other), 0);
    }

    #[test]
    fn a_member_whose_session_has_spent_its_part_elsewhere_slows_nobody_of_its_group() {
        let (stuck, _peer) = Session::alone(1);
        let (other, _peer) = Session::alone(2);
        let mut spent = consumer(&[&stuck]);
        hand(&mut spent, 1, usize::MAX);
        let mut group = consumer(&[&stuck, &other]);
        assert_eq!(hand(&mut group, 1, usize::MAX).len(), 1);
        assert_eq!(hand(&mut group, 2, 100).len(), 100);
        assert!(group.is_short(true), "the first may have no more");
    }

    #[test]
    fn what_comes_again_passes_where_the_part_is_spent_and_what_is_fresh_waits_for_it() {
        let (session, _peer) = Session::alone(1);
        let mut spent = consumer(&[&session]);
        hand(&mut spent, 1, usize::MAX);
        let mut own = consumer(&[&session]);
        let [attempt] = hand(&mut own, 1, 1)[..] else { panic!("one passes") };
        own.ledger.as_mut().unwrap().refuse(attempt.token, None, Instant::now()).unwrap();
        let member = &own.members[0];
        assert_eq!((own.may_know(member, Kind::Fresh), own.may_know(member, Kind::Again)), (0, 1));
    }
}
