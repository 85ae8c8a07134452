//! How a consumer hands messages to its members.

use std::sync::Arc;

use tokio::time::Instant;

use super::ledger::{Ledger, MemberId};
use super::remembered::{Kind, may_know};
use super::task::{Work, ledger, not_opened};
use super::{Consumer, State};
use crate::bus::session::{Session, State as SessionState};
use crate::bus::streams::publishing::say_left;
use crate::bus::subscription::Slot;
use crate::error::BusError;
use crate::plugin::Verdict;
use crate::proto::fields::{Attempt, FieldsBuilder, GapReason, Position};
use crate::proto::{ContentRef, Credit};
use crate::store::Message;

/// Messages that one member of several is handed before the next gets its turn.
const SHARE: usize = 16;

/// What the work waits for.
pub(super) enum Rest {
    /// Credit, room, or a change of what is known.
    Change,
    /// A message that is not there yet.
    Message,
    /// A store that is busy, and is to be asked again then.
    Store(Instant),
    /// Nothing: there is more, and it is for now that others have their turn.
    Turn,
}

/// A member that is there.
struct Present {
    id: MemberId,
    session: Arc<Session>,
    slot: Slot,
    /// Messages that it may be handed of those that may be unacknowledged.
    part: usize,
}

/// A member that has credit and room, and may have more unacknowledged.
pub(super) struct Ready {
    pub(super) id: MemberId,
    pub(super) session: Arc<Session>,
    slot: Slot,
    /// For no more messages than it may be handed.
    pub(super) credit: Credit,
    /// Bytes that its link has room for.
    pub(super) room: usize,
}

impl Present {
    /// It, if it can take a message. Otherwise it is noted as waiting for room, where it has none.
    fn ready(self) -> Option<Ready> {
        let mut state = self.session.lock();
        if !state.has_room_for_readers() {
            return None;
        }
        let credit =
            state.subscriptions.at(self.slot).map(|own| own.credit).filter(|credit| credit.is_left());
        let room = state.lanes.room_left();
        drop(state);
        let Self { id, session, slot, part } = self;
        let mut credit = credit.filter(|_| part > 0)?;
        credit.messages = credit.messages.min(i64::try_from(part).unwrap_or(i64::MAX));
        Some(Ready { id, session, slot, credit, room })
    }
}

impl Work {
    /// Hands over what there is as far as members have credit, and no more than was read at once: what is acknowledged is
    /// to be written, and what is overdue to be taken back, however much there is.
    pub(super) async fn hand_over(&mut self) -> Result<Rest, BusError> {
        let consumer = Arc::clone(&self.consumer);
        let mut has_read = false;
        loop {
            // While a page was read, somebody may have gone: what he had comes first.
            self.settle_aside()?;
            let now = Instant::now();
            let (is_again, may_read_on, next) = {
                let mut state = consumer.lock();
                let ledger = ledger(&mut state)?;
                (ledger.has_room() && ledger.has_again(now), ledger.may_read_on(), ledger.next())
            };
            if is_again && let Some((member, sequence)) = self.next_for_again(now)? {
                if !self.again.contains_key(&sequence) {
                    if let Some(then) = self.patience.until(now) {
                        return Ok(Rest::Store(then));
                    }
                    if std::mem::replace(&mut has_read, true) {
                        return Ok(Rest::Turn);
                    }
                    self.read_again(&member, sequence).await?;
                    continue;
                }
                self.hand_again(&member)?;
                continue;
            }
            if !may_read_on {
                return Ok(Rest::Change);
            }
            while self.ahead.front().is_some_and(|message| message.sequence < next) {
                self.ahead.pop_front();
            }
            if self.ahead.is_empty() {
                self.ahead_held = None;
                if next < self.ahead_until {
                    ledger(&mut consumer.lock())?.skip_to(self.ahead_until);
                    continue;
                }
                if *self.end.borrow() <= next {
                    return Ok(Rest::Message);
                }
            }
            // Nobody reads for members that cannot take anything.
            let Some(member) = self.next_member() else { return Ok(Rest::Change) };
            if self.ahead.is_empty() {
                if let Some(then) = self.patience.until(now).or_else(|| self.mark_at(next)) {
                    return Ok(Rest::Store(then));
                }
                if std::mem::replace(&mut has_read, true) {
                    return Ok(Rest::Turn);
                }
                self.read_on(&member, next).await?;
                continue;
            }
            if let Some(then) = self.mark().await? {
                return Ok(Rest::Store(then));
            }
            self.hand_fresh(&member)?;
        }
    }

    /// Those that take part, the one whose turn it is first.
    fn in_turn(&self, kind: Kind) -> impl Iterator<Item = Present> + use<> {
        let state = self.consumer.lock();
        let (ledger, sharers) = (state.ledger.as_ref(), state.sharers(self.consumer.is_shared));
        let room = |id| ledger.map_or(0, |ledger| ledger.room_for(id, sharers));
        let mut members: Vec<Present> = state
            .hearing()
            .map(|member| {
                let (id, session) = (member.id, Arc::clone(&member.session));
                let part = room(id).min(state.may_know(member, kind));
                Present { id, session, slot: member.slot, part }
            })
            .collect();
        drop(state);
        let first = members.iter().position(|member| member.id > self.turn).unwrap_or(0);
        members.rotate_left(first);
        members.into_iter()
    }

    /// The next member that can take a message. Those before it are noted as waiting for room.
    fn next_member(&self) -> Option<Ready> {
        self.in_turn(Kind::Fresh).find_map(Present::ready)
    }

    /// What all members together have credit for, as far as it matters for a page.
    pub(super) fn credit(&self) -> Credit {
        let ready = self.in_turn(Kind::Fresh).filter_map(Present::ready);
        ready.fold(Credit::default(), |all, own| Credit {
            messages: all.messages.saturating_add(own.credit.messages),
            bytes: all.bytes.saturating_add(own.credit.bytes),
        })
    }

    /// The next member for which there is something that is due again or kept from others, and the first such message.
    fn next_for_again(&self, now: Instant) -> Result<Option<(Ready, u64)>, BusError> {
        for member in self.in_turn(Kind::Again) {
            let sequence = ledger(&mut self.consumer.lock())?.next_again(member.id, now);
            if let Some(sequence) = sequence
                && let Some(ready) = member.ready()
            {
                return Ok(Some((ready, sequence)));
            }
        }
        Ok(None)
    }

    /// Finds out anew whom messages that are kept from some are for, where members have come or gone.
    fn settle_aside(&mut self) -> Result<(), BusError> {
        let count = {
            let mut state = self.consumer.lock();
            let State { ledger, members, .. } = &mut *state;
            let ledger = ledger.as_mut().ok_or_else(not_opened)?;
            let hearing = || members.iter().filter(|member| !member.is_drained).map(|member| member.id);
            if !ledger.has_aside() || hearing().eq(self.settled_for.iter().copied()) {
                return Ok(());
            }
            self.settled_for = hearing().collect();
            ledger.settle_aside(&self.settled_for)
        };
        if count > 0 {
            self.tell_gap(count, GapReason::Withheld);
        }
        Ok(())
    }

    /// Messages that this member may be handed before the others have their turn.
    fn share(&self) -> usize {
        if self.consumer.is_shared { SHARE } else { usize::MAX }
    }

    /// Hands messages of the log to a member, unless some come again by now: those of somebody who has gone since they
    /// were looked for come first.
    fn hand_fresh(&mut self, member: &Ready) -> Result<(), BusError> {
        self.turn = member.id;
        let mut left = self.share();
        let marked = if self.consumer.name.is_some() { self.marked } else { u64::MAX };
        let Self { consumer, ahead, judged, live_from, .. } = self;
        judged.ask(consumer, member, left, ahead.iter(), |ledger, sequence| {
            sequence < marked && !ledger.is_done(sequence)
        })?;
        let mut is_first = true;
        consumer.hand_all(*live_from, member, Kind::Fresh, |ledger, now| {
            if std::mem::take(&mut is_first) && ledger.next_retry(now).is_some() {
                left = 0;
            }
            let sequence = ahead.front()?.sequence;
            // What is done already is not handed over, and nobody was asked about it.
            let is_next = sequence < marked && (judged.knows(sequence) || ledger.is_done(sequence));
            left = left.checked_sub(1)?;
            if !is_next || !ledger.may_read_on() {
                return None;
            }
            Some((ahead.pop_front()?, judged.take(sequence)))
        })
    }

    /// Hands messages that come again, or are kept from others, to a member.
    fn hand_again(&mut self, member: &Ready) -> Result<(), BusError> {
        self.turn = member.id;
        let mut left = self.share();
        let Self { consumer, again, again_held, judged, live_from, .. } = self;
        judged.ask(consumer, member, left, again.values(), |ledger, sequence| {
            ledger.is_again_for(sequence, member.id)
        })?;
        let handed = consumer.hand_all(*live_from, member, Kind::Again, |ledger, now| {
            left = left.checked_sub(1)?;
            let sequence = ledger.next_again(member.id, now).filter(|_| ledger.has_room())?;
            if !judged.knows(sequence) {
                return None;
            }
            Some((again.remove(&sequence)?, judged.take(sequence)))
        });
        if again.is_empty() {
            *again_held = None;
        }
        handed
    }

    /// Tells somebody of messages that nobody can get any more.
    pub(super) fn tell_gap(&self, count: u64, reason: GapReason) {
        let member = {
            let state = self.consumer.lock();
            let mut hearing = state.members.iter().filter(|member| !member.is_drained);
            hearing.next().map(|member| (Arc::clone(&member.session), member.slot))
        };
        let Some((session, slot)) = member else { return };
        let mut state = session.lock();
        let SessionState { subscriptions, lanes, totals, .. } = &mut *state;
        if let Some(subscription) = subscriptions.at(slot) {
            subscription.miss(count, reason, lanes, totals);
        }
        drop(state);
        session.flush();
    }
}

impl Consumer {
    /// Hands messages to a member as long as it has credit and room, and there are any.
    fn hand_all(
        &self,
        live_from: u64,
        member: &Ready,
        kind: Kind,
        mut next: impl FnMut(&mut Ledger, Instant) -> Option<(Message, Verdict)>,
    ) -> Result<(), BusError> {
        {
            let mut session = member.session.lock();
            let SessionState { subscriptions, lanes, totals, .. } = &mut *session;
            let Some(subscription) = subscriptions.at(member.slot) else { return Ok(()) };
            let mut own = self.lock();
            // Nobody comes or goes from here on.
            let now = Instant::now();
            let sharers = own.sharers(self.is_shared);
            let State { ledger, members, .. } = &mut *own;
            let ledger = ledger.as_mut().ok_or_else(not_opened)?;
            // It may have been drained since it was found.
            let part = members.iter().position(|part| part.id == member.id && !part.is_drained);
            let Some(part) = part else { return Ok(()) };
            let mut may_know = may_know(ledger, members, &members[part], kind);
            while may_know > 0
                && subscription.credit.is_left()
                && lanes.has_room()
                && ledger.room_for(member.id, sharers) > 0
                && let Some((message, verdict)) = next(ledger, now)
            {
                let number = members[part].handed + 1;
                let Some(attempt) = ledger.hand(message.sequence, member.id, number, now) else { continue };
                may_know -= 1;
                // What is not handed over is none of the messages that the member is handed, as it costs no credit: the next
                // one has its number.
                match (fields(&message, attempt, live_from), verdict) {
                    (Some(fields), Verdict::Passes) => {
                        members[part].handed = number;
                        subscription.matched += 1;
                        totals.matched += 1;
                        let topic = message.topic.as_str().as_bytes();
                        let content = ContentRef::lent(&fields, topic, &message.payload);
                        subscription.deliver(&content, lanes, totals);
                    }
                    (Some(_), Verdict::Withheld) => {
                        let others = members.iter().filter(|member| !member.is_drained);
                        let others = others.map(|member| member.id);
                        if ledger.withhold(attempt.token, others) == Ok(true) {
                            subscription.miss(1, GapReason::Withheld, lanes, totals);
                        }
                    }
                    // It comes again, or is told as a dead letter.
                    (Some(_), Verdict::Failed) => {
                        let _ = ledger.fail_at_plugin(attempt.token, now);
                    }
                    (None, _) => {
                        // Nobody is to have it, and so it is done.
                        let _ = ledger.acknowledge(attempt.token);
                        subscription.miss(1, GapReason::Expired, lanes, totals);
                    }
                }
            }
            own.count_of(member.id);
        }
        member.session.flush();
        Ok(())
    }
}

/// Whether a message is of use still.
pub(super) fn is_of_use(message: &Message) -> bool {
    say_left(message, &mut FieldsBuilder::new())
}

/// The fields of a message that is handed over: how long it is of use, where it lies, and by what it is acknowledged;
/// `None` if it is of no use any more.
fn fields(message: &Message, attempt: Attempt, live_from: u64) -> Option<Vec<u8>> {
    let mut fields = FieldsBuilder::new();
    let replayed = attempt.redelivered || message.sequence < live_from;
    // There was room for this before it was published.
    let _ = fields.append(&message.fields);
    let is_of_use = say_left(message, &mut fields);
    let _ = fields.position(Position::new(message.sequence, message.time, replayed));
    let _ = fields.attempt(attempt);
    is_of_use.then(|| fields.finish())
}
