//! What a consumer does.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use super::ledger::{Ledger, MemberId, Unwritten};
use super::{Confirmation, Consumer, State, another_pattern};
use crate::bus::presence::Present;
use crate::bus::session::{Session, State as SessionState};
use crate::bus::streams::publishing::{milliseconds, say_left};
use crate::bus::subscription::Slot;
use crate::error::BusError;
use crate::limits;
use crate::plugin::{Acknowledged, Delivery, Hooks, Receiver};
use crate::proto::fields::{Attempt, FieldsBuilder, GapReason, Position, Start};
use crate::proto::{ContentRef, Header, Kind};
use crate::store::{self, Change, ConsumerState, Message, Name, Operation, Outcome, Reading, StoreError};

/// Messages that one member of several is handed before the next gets its turn.
const SHARE: usize = 16;

/// Messages that are read together for one that comes again: those behind it often do, too.
const RETRIES_READ: usize = 64;

/// A consumer at work.
pub(super) struct Work {
    pub(super) consumer: Arc<Consumer>,
    end: tokio::sync::watch::Receiver<u64>,
    /// What lies before this was there when the work began.
    live_from: u64,
    /// Messages of the log that come next, and where it goes on behind them.
    ahead: VecDeque<Message>,
    ahead_until: u64,
    /// Messages that come again.
    again: BTreeMap<u64, Message>,
    /// Before this the store knows that messages may have been handed over.
    marked: u64,
    writing: Option<Writing>,
    /// Whose turn it is.
    turn: MemberId,
}

/// What is being written, and who waits for it.
struct Writing {
    written: Operation<Vec<Outcome>>,
    confirmations: Vec<Confirmation>,
    acknowledged: Vec<Acknowledged>,
}

/// What the work waits for.
enum Rest {
    /// Credit, room, or a change of what is known.
    Change,
    /// A message that is not there yet.
    Message,
    /// Nothing: there is more, and it is for now that others have their turn.
    Turn,
}

/// A member that has credit and room.
struct Ready {
    id: MemberId,
    session: Arc<Session>,
    slot: Slot,
}

impl Consumer {
    /// Works until the last member is gone.
    pub(super) async fn run(self: Arc<Self>, start: Start) {
        // Now, and not when the store has answered: whoever has subscribed gets what is published after that.
        let end = self.stream.end.subscribe();
        let live_from = *end.borrow();
        let ended = match self.open(start, live_from).await {
            Ok(marked) => {
                let work = Work {
                    consumer: Arc::clone(&self),
                    end,
                    live_from,
                    ahead: VecDeque::new(),
                    ahead_until: 0,
                    again: BTreeMap::new(),
                    marked,
                    writing: None,
                    turn: 0,
                };
                work.run().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.give_up(&error);
        }
    }

    /// Reads where it is from the store.
    async fn open(&self, start: Start, live_from: u64) -> Result<u64, BusError> {
        let failed = |error: StoreError| BusError::NotStored {
            reason: format!("{} cannot be read: {error}", self.label()),
        };
        let from = self.first(start, live_from).await?;
        let mut first_token = [0; 8];
        // Without it tokens are not those of before as long as the clock goes on.
        if getrandom::fill(&mut first_token).is_err() {
            first_token = milliseconds().to_le_bytes();
        }
        let pattern = Some(self.pattern.clone());
        let state = match &self.name {
            None => ConsumerState::new(self.nameless()?, pattern, from),
            Some(name) => {
                let owner = self.claim.owner();
                let make = Change::Consumer { name: name.clone(), pattern: pattern.clone(), from, owner };
                let stream = self.stream.name.clone();
                let store = &self.stream.store;
                store.commit(stream.clone(), vec![make]).await.map_err(failed)?;
                let all = store.consumers(stream).await.map_err(failed)?;
                let own = all.into_iter().find(|state| state.name == *name);
                own.unwrap_or_else(|| ConsumerState::new(name.clone(), pattern.clone(), from))
            }
        };
        if let (Some(name), Some(other)) = (&self.name, state.pattern.as_ref())
            && *other != self.pattern
        {
            return Err(another_pattern(name.as_str(), other));
        }
        if let Some(name) = &self.name {
            self.settle_owner(name, &state.owner)?;
        }
        let marked = state.handed;
        let mut own = self.lock();
        let ledger = Ledger::new(own.rules, state, u64::from_le_bytes(first_token));
        own.ledger = Some(ledger);
        Ok(marked)
    }

    fn nameless(&self) -> Result<Name, BusError> {
        Name::new("-").map_err(|error| BusError::InvalidSettings(error.to_string()))
    }

    /// The sequence that a new consumer begins with.
    async fn first(&self, start: Start, live_from: u64) -> Result<u64, BusError> {
        let start = match start {
            Start::New => return Ok(live_from),
            Start::From(sequence) => return Ok(sequence),
            Start::All => store::Start::All,
            Start::Since(time) => store::Start::Since(time),
            Start::Last(count) => store::Start::Last(count, Some(self.pattern.clone())),
            Start::LastPerTopic => {
                let what =
                    "a subscription that acknowledges does not begin with the last message of each topic";
                return Err(BusError::InvalidSettings(what.to_owned()));
            }
        };
        let found = self.stream.store.find(self.stream.name.clone(), start).await;
        found.map_err(|error| BusError::NotStored { reason: error.to_string() })
    }

    /// Takes nobody any more, if nobody is there.
    fn end_if_empty(&self) -> bool {
        let Some(name) = &self.name else { return self.lock().members.is_empty() };
        let mut registry = self.stream.consumers.lock();
        let is_over = {
            let mut state = self.lock();
            state.is_over = state.members.is_empty();
            state.is_over
        };
        if is_over {
            registry.busy.remove(name);
        }
        is_over
    }

    /// Ends all its subscriptions.
    fn give_up(&self, error: &BusError) {
        if let Some(name) = &self.name {
            let mut registry = self.stream.consumers.lock();
            registry.busy.remove(name);
            if let Some(reserved) = self.lock().reserved.take() {
                registry.forget(name, reserved);
            }
        }
        let (members, waiting) = {
            let mut state = self.lock();
            state.is_over = true;
            let mut waiting = std::mem::take(&mut state.confirmations);
            let when_done = std::mem::take(&mut state.when_done).into_values().flatten();
            waiting.extend(when_done.map(|(_, confirmation)| confirmation));
            (std::mem::take(&mut state.members), waiting)
        };
        let result = Err(error.clone());
        waiting.into_iter().for_each(|confirmation| confirmation.tell(&result));
        for member in members {
            let mut state = member.session.lock();
            if member.is_accepted {
                state.end_with(member.subscription, error);
            } else {
                state.subscriptions.remove(member.subscription);
                state.fail(Kind::Subscribe, member.subscription, 0, error);
            }
            drop(state);
            member.session.flush();
        }
    }
}

impl Work {
    async fn run(mut self) -> Result<(), BusError> {
        let consumer = Arc::clone(&self.consumer);
        loop {
            let mut changed = pin!(consumer.changed.notified());
            changed.as_mut().enable();
            self.accept();
            let now = Instant::now();
            consumer.lock().expire(now)?;
            consumer.let_go();
            self.begin_to_write()?;
            let rest = self.hand_over().await?;
            // Some of what was to be handed over may be gone.
            self.begin_to_write()?;
            let (dead, due, next) = {
                let mut state = consumer.lock();
                let ledger = ledger(&mut state)?;
                (ledger.next_dead(), ledger.next_due(now), ledger.next())
            };
            if let Some((sequence, death)) = dead {
                self.finish_writing().await?;
                self.bury(sequence, death).await?;
                continue;
            }
            if self.writing.is_none() && consumer.lock().members.is_empty() {
                self.begin_to_write()?;
                self.finish_writing().await?;
                if consumer.end_if_empty() {
                    return Ok(());
                }
                continue;
            }
            let Self { end, writing, .. } = &mut self;
            let writing = poll_fn(|context| match writing {
                Some(writing) => writing.written.as_mut().poll(context),
                None => Poll::Pending,
            });
            let written = tokio::select! {
                biased;
                written = writing => Some(written),
                () = tokio::task::yield_now(), if matches!(rest, Rest::Turn) => None,
                () = changed => None,
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => None,
                grown = end.wait_for(|end| *end > next), if matches!(rest, Rest::Message) => {
                    // A stream ends with its bus.
                    grown.map_err(|_| BusError::Closed { what: "the stream".into() })?;
                    None
                }
            };
            if let Some(written) = written {
                self.written(written)?;
            }
        }
    }

    /// Tells those who have come that they take part.
    fn accept(&self) {
        let mut accepted = Vec::new();
        for member in &mut self.consumer.lock().members {
            if !std::mem::replace(&mut member.is_accepted, true) {
                accepted.push((Arc::clone(&member.session), member.slot, member.subscription));
            }
        }
        let Consumer { stream, presence, .. } = &*self.consumer;
        for (session, slot, subscription) in accepted {
            let header = Header::answering(Kind::Accepted, Kind::Subscribe, subscription, self.live_from);
            let mut state = session.lock();
            state.control(&header, &ContentRef::of_payload(&stream.epoch));
            if let Some(own) = state.subscriptions.at(slot) {
                own.present = Present::begin(&session, presence, &own.pattern);
            }
            drop(state);
            session.flush();
        }
    }

    /// Begins to write what has changed, unless something is being written.
    fn begin_to_write(&mut self) -> Result<(), BusError> {
        if self.writing.is_some() {
            return Ok(());
        }
        let mut state = self.consumer.lock();
        state.note_done();
        let confirmations = std::mem::take(&mut state.confirmations);
        let acknowledged = std::mem::take(&mut state.acknowledged);
        let unwritten = ledger(&mut state)?.take_unwritten();
        drop(state);
        let changes = match (&self.consumer.name, unwritten) {
            (Some(name), Some((floor, unwritten))) => changes(name, floor, unwritten),
            _ => Vec::new(),
        };
        if changes.is_empty() {
            confirmations.into_iter().for_each(|confirmation| confirmation.tell(&Ok(())));
            self.consumer.tell_plugins(acknowledged);
            return Ok(());
        }
        let stream = &self.consumer.stream;
        let written = stream.store.commit(stream.name.clone(), changes);
        self.writing = Some(Writing { written, confirmations, acknowledged });
        Ok(())
    }

    /// Waits until what is being written is.
    pub(super) async fn finish_writing(&mut self) -> Result<(), BusError> {
        if let Some(writing) = &mut self.writing {
            let written = writing.written.as_mut().await;
            self.written(written)?;
        }
        Ok(())
    }

    fn written(&mut self, written: Result<Vec<Outcome>, StoreError>) -> Result<(), BusError> {
        let result = written.map(drop).map_err(|error| self.not_written(&error));
        if let Some(writing) = self.writing.take() {
            if result.is_ok() {
                self.consumer.tell_plugins(writing.acknowledged);
            }
            writing.confirmations.into_iter().for_each(|confirmation| confirmation.tell(&result));
        }
        result
    }

    pub(super) fn not_written(&self, error: &StoreError) -> BusError {
        BusError::NotStored { reason: format!("{}: {error}", self.consumer.label()) }
    }

    pub(super) fn unreadable(&self, error: &StoreError) -> BusError {
        BusError::NotStored { reason: format!("the stream cannot be read: {error}") }
    }

    /// Hands over what there is as far as members have credit, and no more than was read at once: what is acknowledged is
    /// to be written, and what is overdue to be taken back, however much there is.
    async fn hand_over(&mut self) -> Result<Rest, BusError> {
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
                if std::mem::replace(&mut has_read, true) {
                    return Ok(Rest::Turn);
                }
                self.read_on(next).await?;
                continue;
            }
            let Some(member) = self.next_member() else { return Ok(Rest::Change) };
            self.mark().await?;
            self.hand_fresh(&member)?;
        }
    }

    /// Reads what comes next.
    async fn read_on(&mut self, next: u64) -> Result<(), BusError> {
        let stream = &self.consumer.stream;
        let reading = Reading::from(next, milliseconds()).of(self.consumer.pattern.clone());
        let page = stream.store.read(stream.name.clone(), reading).await;
        let page = page.map_err(|error| self.unreadable(&error))?;
        if page.first > next {
            self.tell_gap(page.first - next);
        }
        self.ahead_until = page.next;
        self.ahead = page.messages.into();
        Ok(())
    }

    /// Reads a message that comes again, and those behind it that do.
    async fn read_again(&mut self, sequence: u64) -> Result<(), BusError> {
        let stream = &self.consumer.stream;
        // Those whose time is over as well, so that it is told why they do not come again.
        let reading = Reading::from(sequence, 0).of(self.consumer.pattern.clone()).at_most(RETRIES_READ);
        let page = stream.store.read(stream.name.clone(), reading).await;
        let page = page.map_err(|error| self.unreadable(&error))?;
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

    /// Has the store know which messages may be handed over now.
    async fn mark(&mut self) -> Result<(), BusError> {
        let Some(first) = self.ahead.front() else { return Ok(()) };
        let Some(name) = self.consumer.name.clone().filter(|_| first.sequence >= self.marked) else {
            return Ok(());
        };
        let before = first.sequence + limits::CONSUMER_STRIDE;
        let stream = &self.consumer.stream;
        let change = vec![Change::Handed { consumer: name, before }];
        let written = stream.store.commit(stream.name.clone(), change).await;
        written.map_err(|error| self.not_written(&error))?;
        self.marked = before;
        Ok(())
    }

    /// The next member that can take a message. The others are noted as waiting for room.
    fn next_member(&mut self) -> Option<Ready> {
        let members: Vec<Ready> = {
            let state = self.consumer.lock();
            let hearing = state.members.iter().filter(|member| member.is_accepted && !member.is_drained);
            let all = hearing.map(|member| Ready {
                id: member.id,
                session: Arc::clone(&member.session),
                slot: member.slot,
            });
            all.collect()
        };
        let first = members.iter().position(|member| member.id > self.turn).unwrap_or(0);
        let (before, after) = members.split_at(first);
        let found = after.iter().chain(before).find(|member| {
            let mut state = member.session.lock();
            let has_room = state.has_room();
            let has_credit = state.subscriptions.at(member.slot).is_some_and(|own| own.credit.is_left());
            if !has_room {
                state.crowded = true;
            }
            has_room && has_credit
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
    fn tell_plugins(&self, acknowledged: Vec<Acknowledged>) {
        if let Some(plugins) = &self.plugins {
            plugins.note_acknowledged(acknowledged);
        }
    }

    /// Ends the subscriptions of drained members that have no message any more. They leave by that.
    fn let_go(&self) {
        let done = self.lock().done_with();
        for (session, slot, subscription) in done {
            let mut state = session.lock();
            if state.subscriptions.at(slot).is_some() {
                state.subscriptions.remove(subscription);
            }
        }
    }

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
            let State { ledger, members, .. } = &mut *own;
            let ledger = ledger.as_mut().ok_or_else(not_opened)?;
            // It may have been drained since it was found.
            let part = members.iter_mut().find(|part| part.id == member.id && !part.is_drained);
            let Some(part) = part else { return Ok(()) };
            while subscription.credit.is_left()
                && lanes.has_room()
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

/// What is written of what has changed.
pub(super) fn changes(name: &Name, floor: u64, unwritten: Unwritten) -> Vec<Change> {
    let consumer = || name.clone();
    let failed = unwritten.failed.into_iter();
    let mut changes: Vec<Change> = failed
        .map(|(sequence, attempts)| Change::Attempted { consumer: consumer(), sequence, attempts })
        .collect();
    let sequences = unwritten.done.into_iter().filter(|sequence| *sequence >= floor).collect();
    changes.push(Change::Done { consumer: consumer(), floor, sequences });
    changes
}

pub(super) fn ledger(state: &mut State) -> Result<&mut Ledger, BusError> {
    state.ledger.as_mut().ok_or_else(not_opened)
}

pub(super) fn not_opened() -> BusError {
    BusError::Closed { what: "the consumer".into() }
}
