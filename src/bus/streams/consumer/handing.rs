//! What a consumer reads, and hands to its members.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::ledger::{Ledger, MemberId};
use super::task::{Work, ledger, not_opened};
use super::{Consumer, State};
use crate::bus::session::{Session, State as SessionState};
use crate::bus::streams::publishing::{milliseconds, say_left};
use crate::bus::subscription::Slot;
use crate::error::BusError;
use crate::limits;
use crate::plugin::{Delivery, Hooks, Receiver};
use crate::proto::ContentRef;
use crate::proto::fields::{Attempt, FieldsBuilder, GapReason, Position};
use crate::store::{Change, Message, Page, Reading};

/// Messages that one member of several is handed before the next gets its turn.
const SHARE: usize = 16;

/// Messages that are read together for one that comes again: those behind it often do, too.
const RETRIES_READ: usize = 64;

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

/// A member that has credit and room.
struct Ready {
    id: MemberId,
    session: Arc<Session>,
    slot: Slot,
}

impl Work {
    /// Hands over what there is as far as members have credit, and no more than was read at once: what is acknowledged is
    /// to be written, and what is overdue to be taken back, however much there is.
    pub(super) async fn hand_over(&mut self) -> Result<Rest, BusError> {
        let consumer = Arc::clone(&self.consumer);
        let mut has_read = false;
        loop {
            // While a page was read, somebody may have gone: what he had comes first.
            let now = Instant::now();
            let (retry, may_read_on, next) = {
                let mut state = consumer.lock();
                let ledger = ledger(&mut state)?;
                (ledger.next_retry(now).filter(|_| ledger.has_room()), ledger.may_read_on(), ledger.next())
            };
            if let Some(sequence) = retry {
                if !self.again.contains_key(&sequence) {
                    if let Some(then) = self.patience.until(now) {
                        return Ok(Rest::Store(then));
                    }
                    if std::mem::replace(&mut has_read, true) {
                        return Ok(Rest::Turn);
                    }
                    self.read_again(sequence).await?;
                    continue;
                }
                let Some(member) = self.next_member() else { return Ok(Rest::Change) };
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
                if next < self.ahead_until {
                    ledger(&mut consumer.lock())?.skip_to(self.ahead_until);
                    continue;
                }
                if *self.end.borrow() <= next {
                    return Ok(Rest::Message);
                }
                // Nobody reads for members that cannot take anything.
                if self.next_member().is_none() {
                    return Ok(Rest::Change);
                }
                if let Some(then) = self.patience.until(now) {
                    return Ok(Rest::Store(then));
                }
                if std::mem::replace(&mut has_read, true) {
                    return Ok(Rest::Turn);
                }
                self.read_on(next).await?;
                continue;
            }
            let Some(member) = self.next_member() else { return Ok(Rest::Change) };
            if let Some(then) = self.mark().await? {
                return Ok(Rest::Store(then));
            }
            self.hand_fresh(&member)?;
        }
    }

    /// Reads a page, unless the store is busy.
    async fn read(&mut self, reading: Reading) -> Result<Option<Page>, BusError> {
        let stream = &self.consumer.stream;
        match stream.store.read(stream.name.clone(), reading).await {
            Ok(page) => {
                self.patience.answered();
                Ok(Some(page))
            }
            Err(error) => match self.patience.refused(error) {
                Ok(_) => Ok(None),
                Err(error) => Err(self.unreadable(&error)),
            },
        }
    }

    /// Reads what comes next.
    async fn read_on(&mut self, next: u64) -> Result<(), BusError> {
        let reading = Reading::from(next, milliseconds()).of(self.consumer.pattern.clone());
        let Some(page) = self.read(reading).await? else { return Ok(()) };
        if page.first > next {
            self.tell_gap(page.first - next);
        }
        self.ahead_until = page.next;
        self.ahead = page.messages.into();
        Ok(())
    }

    /// Reads a message that comes again, and those behind it that do.
    async fn read_again(&mut self, sequence: u64) -> Result<(), BusError> {
        // Those whose time is over as well, so that it is told why they do not come again.
        let reading = Reading::from(sequence, 0).of(self.consumer.pattern.clone()).at_most(RETRIES_READ);
        let Some(page) = self.read(reading).await? else { return Ok(()) };
        let mut state = self.consumer.lock();
        let ledger = ledger(&mut state)?;
        // Those that were read for others which are done by now are not kept.
        self.again.retain(|sequence, _| ledger.is_retry(*sequence));
        for message in page.messages {
            if ledger.is_retry(message.sequence) && self.again.len() < limits::CONSUMER_PENDING_MAX as usize {
                self.again.insert(message.sequence, message);
            }
        }
        if !self.again.contains_key(&sequence) {
            // Retention has dropped it.
            ledger.forget(sequence);
            drop(state);
            self.tell_gap(1);
        }
        Ok(())
    }

    /// Has the store know which messages may be handed over now. Where it does not take that, none may be before it is asked
    /// again at the time that is returned.
    async fn mark(&mut self) -> Result<Option<Instant>, BusError> {
        let Some(first) = self.ahead.front() else { return Ok(None) };
        let Some(name) = self.consumer.name.clone().filter(|_| first.sequence >= self.marked) else {
            return Ok(None);
        };
        if let Some(then) = self.writes.until(Instant::now()) {
            return Ok(Some(then));
        }
        let before = first.sequence + limits::CONSUMER_STRIDE;
        let stream = &self.consumer.stream;
        let change = vec![Change::Handed { consumer: name, before }];
        match stream.store.commit(stream.name.clone(), change).await {
            Ok(_) => {
                self.taken();
                self.marked = before;
                Ok(None)
            }
            Err(error) => self.not_taken(error).map(Some),
        }
    }

    /// The next member that can take a message. The others are noted as waiting for room.
    fn next_member(&mut self) -> Option<Ready> {
        let members: Vec<(Ready, bool)> = {
            let state = self.consumer.lock();
            let (ledger, sharers) = (state.ledger.as_ref(), state.sharers(self.consumer.is_shared));
            let may_take = |id| ledger.is_some_and(|ledger| ledger.may_take(id, sharers));
            let hearing = state.members.iter().filter(|member| member.is_accepted && !member.is_drained);
            let all = hearing.map(|member| {
                let (id, session) = (member.id, Arc::clone(&member.session));
                (Ready { id, session, slot: member.slot }, may_take(id))
            });
            all.collect()
        };
        let first = members.iter().position(|(member, _)| member.id > self.turn).unwrap_or(0);
        let (before, after) = members.split_at(first);
        let (found, _) = after.iter().chain(before).find(|(member, may_take)| {
            let mut state = member.session.lock();
            let has_room = state.has_room();
            let has_credit = state.subscriptions.at(member.slot).is_some_and(|own| own.credit.is_left());
            if !has_room {
                state.crowded = true;
            }
            has_room && has_credit && *may_take
        })?;
        self.turn = found.id;
        Some(Ready { id: found.id, session: Arc::clone(&found.session), slot: found.slot })
    }

    /// Hands messages of the log to a member, unless some come again by now: those of somebody who has gone since they
    /// were looked for come first.
    fn hand_fresh(&mut self, member: &Ready) -> Result<(), BusError> {
        let mut left = if self.consumer.is_shared { SHARE } else { usize::MAX };
        let marked = if self.consumer.name.is_some() { self.marked } else { u64::MAX };
        let withheld = self.withheld(member, self.ahead.iter());
        let (ahead, mut is_first) = (&mut self.ahead, true);
        self.consumer.hand_all(self.live_from, member, &withheld, |ledger, now| {
            if std::mem::take(&mut is_first) && ledger.next_retry(now).is_some() {
                left = 0;
            }
            let is_next = ahead.front().is_some_and(|message| message.sequence < marked);
            left = left.checked_sub(1)?;
            if is_next && ledger.may_read_on() { ahead.pop_front() } else { None }
        })
    }

    /// Hands messages that come again to a member.
    fn hand_again(&mut self, member: &Ready) -> Result<(), BusError> {
        let mut left = if self.consumer.is_shared { SHARE } else { usize::MAX };
        let withheld = self.withheld(member, self.again.values());
        let again = &mut self.again;
        self.consumer.hand_all(self.live_from, member, &withheld, |ledger, now| {
            left = left.checked_sub(1)?;
            let sequence = ledger.next_retry(now).filter(|_| ledger.has_room())?;
            again.remove(&sequence)
        })
    }

    /// Which of these messages plugins do not let a member have. They are asked without any lock held.
    fn withheld<'m>(&self, member: &Ready, messages: impl Iterator<Item = &'m Message>) -> HashSet<u64> {
        let Some(plugins) = self.consumer.plugins.as_ref().filter(|plugins| plugins.want(Hooks::DELIVER))
        else {
            return HashSet::new();
        };
        let (session, pattern) = (&member.session, &self.consumer.pattern);
        let withheld = messages.filter(|message| {
            let topic = message.topic.as_str().as_bytes();
            let content = ContentRef::lent(&message.fields, topic, &message.payload);
            let receiver = Receiver::subscription(session.id, &session.peer.principal, pattern);
            !plugins.deliver(&Delivery::new(receiver, &content))
        });
        withheld.map(|message| message.sequence).collect()
    }

    /// Tells somebody of messages that nobody can get any more.
    fn tell_gap(&self, count: u64) {
        let member = {
            let state = self.consumer.lock();
            let mut hearing = state.members.iter().filter(|member| !member.is_drained);
            hearing.next().map(|member| (Arc::clone(&member.session), member.slot))
        };
        let Some((session, slot)) = member else { return };
        let mut state = session.lock();
        let SessionState { subscriptions, lanes, totals, .. } = &mut *state;
        if let Some(subscription) = subscriptions.at(slot) {
            subscription.miss(count, GapReason::Retention, lanes, totals);
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
        withheld: &HashSet<u64>,
        mut next: impl FnMut(&mut Ledger, Instant) -> Option<Message>,
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
            let part = members.iter_mut().find(|part| part.id == member.id && !part.is_drained);
            let Some(part) = part else { return Ok(()) };
            while subscription.credit.is_left()
                && lanes.has_room()
                && ledger.may_take(member.id, sharers)
                && let Some(message) = next(ledger, now)
            {
                let number = part.handed + 1;
                let Some(attempt) = ledger.hand(message.sequence, member.id, number, now) else { continue };
                let fields = match withheld.contains(&message.sequence) {
                    true => Err(GapReason::Withheld),
                    false => fields(&message, attempt, live_from).ok_or(GapReason::Expired),
                };
                match fields {
                    Ok(fields) => {
                        part.handed = number;
                        subscription.matched += 1;
                        totals.matched += 1;
                        let topic = message.topic.as_str().as_bytes();
                        let content = ContentRef::lent(&fields, topic, &message.payload);
                        subscription.deliver(&content, lanes, totals);
                    }
                    Err(reason) => {
                        // Nobody is to have it, and so it is done. It is none of the messages that the member is handed,
                        // as it costs no credit: the next one has its number.
                        let _ = ledger.acknowledge(attempt.token);
                        subscription.miss(1, reason, lanes, totals);
                    }
                }
            }
        }
        member.session.flush();
        Ok(())
    }
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
