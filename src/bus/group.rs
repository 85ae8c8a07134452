//! Queue groups: subscriptions that share their messages.
//!
//! A group counts as one match and gives a message to one member that has credit, in turn. While no
//! member has any, the group's own backlog keeps to the policy of the member that founded it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::backlog::{Backlog, Next, Verdict};
use super::budget::{Budget, Share};
use super::hold::Holds;
use super::requests::claim;
use super::session::{Session, State};
use super::stats::Totals;
use super::subscription::{Offered, Outcome, Slot, Subscription};
use crate::proto::fields::{GapReason, Policy};
use crate::topic::{EntryId, TopicPattern};
use crate::transport::Lanes;

/// Subscriptions with the same pattern and group name.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) pattern: TopicPattern,
    pub(crate) name: String,
    budget: Arc<Budget>,
    state: Mutex<GroupState>,
}

#[derive(Debug)]
struct GroupState {
    members: VecDeque<Member>,
    backlog: Backlog,
    /// Its place in the routing table, once it is there.
    entry: Option<EntryId>,
    /// The sweeper knows of what waits.
    watched: bool,
    /// Its part of the byte budget.
    share: Share,
}

#[derive(Debug, Clone)]
struct Member {
    session: Arc<Session>,
    slot: Slot,
}

impl Group {
    pub(crate) fn new(
        pattern: TopicPattern,
        name: String,
        policy: Policy,
        window: (u32, u64),
        budget: Arc<Budget>,
    ) -> Self {
        let backlog = Backlog::new(policy, window);
        let members = VecDeque::new();
        let state = GroupState { members, backlog, entry: None, watched: false, share: Share::default() };
        Self { pattern, name, budget, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_entry(&self, entry: EntryId) {
        self.lock().entry = Some(entry);
    }

    pub(crate) fn entry(&self) -> Option<EntryId> {
        self.lock().entry
    }

    pub(crate) fn join(&self, session: &Arc<Session>, slot: Slot) {
        self.lock().members.push_back(Member { session: Arc::clone(session), slot });
    }

    /// Removes a member; returns whether it was the last one.
    pub(crate) fn leave(&self, session: &Session, slot: Slot) -> bool {
        let mut state = self.lock();
        state.members.retain(|member| !(member.session.id == session.id && member.slot == slot));
        state.members.is_empty()
    }

    /// Gives each message to the next member with credit, or leaves it to the policy. None matches when
    /// no member takes what this publisher sends. The sessions written to are added to `touched`.
    pub(crate) fn offer(
        self: &Arc<Self>,
        offered: &Offered<'_>,
        touched: &mut Vec<Arc<Session>>,
        totals: &mut Totals,
        holds: &mut Holds,
    ) -> Outcome {
        let publisher = offered.publisher;
        let mut state = self.lock();
        let GroupState { members, backlog, watched, share, .. } = &mut *state;
        let mut outcome = Outcome::default();
        // What waits goes first, to whoever has credit by now.
        feed(self, members, backlog, touched);
        for (index, content) in offered.contents.iter().enumerate() {
            let given = backlog.is_empty()
                && give(self, members, Some(publisher), touched, &mut |subscription, lanes, totals| {
                    subscription.matched += 1;
                    subscription.deliver(content, lanes, totals);
                });
            if given {
                outcome.matched += 1;
                continue;
            }
            if !members.iter().any(|member| member.takes_from(publisher)) {
                break;
            }
            outcome.matched += 1;
            let room = backlog.bytes() < self.budget.per_session();
            let holds = &mut *holds;
            match backlog.offer(content, publisher, offered.patience, room, move || holds.hold(index)) {
                Verdict::Parked => outcome.unnoted |= !std::mem::replace(watched, true),
                Verdict::Dropped(count, reason) => totals.dropped[reason.index()] += count,
                Verdict::Kept if backlog.next_expiry().is_some() => {
                    outcome.unnoted |= !std::mem::replace(watched, true);
                }
                // `join` does not admit the policy that ends a subscription.
                Verdict::Kept | Verdict::End => {}
            }
        }
        share.follow(backlog.bytes(), &self.budget);
        outcome
    }

    /// Counts a match that does not get its message; one member is told so. None matches when no member takes what this
    /// publisher sends.
    pub(crate) fn withhold(
        self: &Arc<Self>,
        publisher: u64,
        touched: &mut Vec<Arc<Session>>,
        totals: &mut Totals,
    ) -> u64 {
        let mut state = self.lock();
        let GroupState { members, backlog, .. } = &mut *state;
        if !members.iter().any(|member| member.takes_from(publisher)) {
            return 0;
        }
        backlog.withhold();
        totals.dropped[GapReason::Withheld.index()] += 1;
        feed(self, members, backlog, touched);
        1
    }

    /// Counts matches that were lost before they came here; one member is told so. Returns whether it has members.
    pub(crate) fn lose(
        self: &Arc<Self>,
        count: u64,
        reason: GapReason,
        touched: &mut Vec<Arc<Session>>,
        totals: &mut Totals,
    ) -> bool {
        let mut state = self.lock();
        let GroupState { members, backlog, .. } = &mut *state;
        if members.is_empty() {
            return false;
        }
        totals.matched += count;
        backlog.lose(count, reason);
        totals.dropped[reason.index()] += count;
        feed(self, members, backlog, touched);
        true
    }

    /// Gives what waits to members that have credit again.
    pub(crate) fn pump(self: &Arc<Self>, touched: &mut Vec<Arc<Session>>) {
        let mut state = self.lock();
        let GroupState { members, backlog, share, .. } = &mut *state;
        feed(self, members, backlog, touched);
        share.follow(backlog.bytes(), &self.budget);
    }

    /// Drops what has waited long enough; returns whether it is to be watched on.
    pub(crate) fn expire(&self, now: Instant, totals: &mut Totals) -> bool {
        let mut state = self.lock();
        for (count, reason) in state.backlog.expire(now).by_reason() {
            totals.dropped[reason.index()] += count;
        }
        let GroupState { backlog, watched, share, .. } = &mut *state;
        share.follow(backlog.bytes(), &self.budget);
        *watched = backlog.next_expiry().is_some();
        *watched
    }

    /// Messages that wait, and their bytes.
    pub(crate) fn parked(&self) -> (usize, usize) {
        let state = self.lock();
        (state.backlog.messages(), state.backlog.bytes())
    }

    /// What waits, for the last member to take with it.
    pub(crate) fn take_backlog(&self) -> Backlog {
        let mut state = self.lock();
        state.share.follow(0, &self.budget);
        let empty = Backlog::new(Policy::DropNewest, (1, 1));
        std::mem::replace(&mut state.backlog, empty)
    }
}

impl Member {
    fn takes_from(&self, publisher: u64) -> bool {
        self.session.id != publisher
            || self.session.lock().subscriptions.at(self.slot).is_some_and(|own| !own.no_echo)
    }
}

/// Gives what waits to members that have credit and room.
fn feed(
    group: &Arc<Group>,
    members: &mut VecDeque<Member>,
    backlog: &mut Backlog,
    touched: &mut Vec<Arc<Session>>,
) {
    while let Some(publisher) = backlog.next_publisher() {
        let given = give(group, members, publisher, touched, &mut |subscription, lanes, totals| {
            backlog.resume();
            match backlog.next(Instant::now) {
                Some(Next::Gap(count, reason)) => {
                    subscription.matched += count;
                    subscription.dropped[reason.index()] += count;
                    subscription.tell_gap(count, reason, lanes);
                }
                Some(Next::Message(content)) => {
                    subscription.matched += 1;
                    subscription.deliver(&content, lanes, totals);
                }
                Some(Next::Expired) => {
                    subscription.matched += 1;
                    subscription.count_dropped(1, GapReason::Expired, totals);
                    subscription.tell_gap(1, GapReason::Expired, lanes);
                }
                None => {}
            }
        });
        if !given {
            break;
        }
    }
    backlog.settle();
}

/// Lets `deliver` write to the next member that has credit and room, and takes what `publisher` sends.
/// A member that has credit only is noted, so that the group is looked at again when it has room.
fn give(
    group: &Arc<Group>,
    members: &mut VecDeque<Member>,
    publisher: Option<u64>,
    touched: &mut Vec<Arc<Session>>,
    deliver: &mut dyn FnMut(&mut Subscription, &mut Lanes, &mut Totals),
) -> bool {
    for _ in 0..members.len() {
        members.rotate_left(1);
        let Some(Member { session, slot }) = members.back() else { break };
        let mut state = session.lock();
        let has_room = state.has_room();
        let State { subscriptions, lanes, totals, crowded, groups_without_room, .. } = &mut *state;
        let Some(subscription) = subscriptions.at(*slot) else { continue };
        let own = publisher == Some(session.id);
        if !subscription.credit.is_left() || (own && subscription.no_echo) {
            continue;
        }
        if !has_room {
            *crowded = true;
            if !groups_without_room.iter().any(|other| Arc::ptr_eq(other, group)) {
                groups_without_room.push(Arc::clone(group));
            }
            continue;
        }
        deliver(subscription, lanes, totals);
        claim(session, &mut state, touched);
        return true;
    }
    false
}
