//! What a consumer does.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use super::elsewhere::Asked;
use super::handing::Rest;
use super::judging::Judged;
use super::ledger::{Ledger, MemberId, Unwritten};
use super::{Confirmation, Consumer, First, State, another_pattern};
use crate::bus::presence::Present;
use crate::bus::session::State as SessionState;
use crate::bus::streams::held::Held;
use crate::bus::streams::patience::{Patience, patiently};
use crate::bus::streams::publishing::milliseconds;
use crate::error::BusError;
use crate::limits;
use crate::plugin::Acknowledged;
use crate::proto::fields::{GapReason, Start};
use crate::proto::{ContentRef, Header, Kind};
use crate::store::{self, Change, ConsumerState, Message, Name, Operation, Outcome, StoreError};
use crate::transport::Part;

/// A consumer at work.
pub(super) struct Work {
    pub(super) consumer: Arc<Consumer>,
    pub(super) end: tokio::sync::watch::Receiver<u64>,
    /// What lies before this was there when the work began.
    pub(super) live_from: u64,
    /// Messages of the log that come next, and where it goes on behind them.
    pub(super) ahead: VecDeque<Message>,
    pub(super) ahead_until: u64,
    pub(super) ahead_held: Option<Held>,
    /// Messages that are due again, or kept from some members, as far as they were read together.
    pub(super) again: BTreeMap<u64, Message>,
    pub(super) again_held: Option<Held>,
    /// What plugins have said of messages that are about to be handed over.
    pub(super) judged: Judged,
    /// The members by whom it was found out last whom messages that are kept from some are for.
    pub(super) settled_for: Vec<MemberId>,
    /// Before this the store knows that messages may have been handed over.
    pub(super) marked: u64,
    writing: Option<Writing>,
    /// With the store, where it is busy as messages are to be read.
    pub(super) patience: Patience,
    /// With the store, where it does not take what is to be written.
    pub(super) writes: Patience,
    /// Since when it has had no member, and something that is to be written.
    alone_since: Option<Instant>,
    /// Whose turn it is.
    pub(super) turn: MemberId,
}

/// What is being written, and who waits for it.
struct Writing {
    written: Operation<Vec<Outcome>>,
    /// It is kept until the store has it.
    unwritten: Unwritten,
    confirmations: Vec<Confirmation>,
    acknowledged: Vec<Acknowledged>,
}

impl Consumer {
    /// Works until the last member is gone.
    pub(super) async fn run(self: Arc<Self>, first: First) {
        // Now, and not when the store has answered: whoever has subscribed gets what is published after that.
        let live_from = *self.stream.end.borrow();
        while let Err(error) = Arc::clone(&self).work(first, live_from).await {
            if !self.is_lost(&error) {
                return self.give_up(&error);
            }
        }
    }

    /// Works, once it has it, until the last member is gone.
    async fn work(self: Arc<Self>, first: First, live_from: u64) -> Result<(), BusError> {
        match self.open(first, live_from).await {
            Ok(None) => Ok(()),
            Ok(Some(marked)) => {
                let work = Work {
                    end: self.stream.end.subscribe(),
                    consumer: Arc::clone(&self),
                    live_from,
                    ahead: VecDeque::new(),
                    ahead_until: 0,
                    ahead_held: None,
                    again: BTreeMap::new(),
                    again_held: None,
                    judged: Judged::default(),
                    settled_for: Vec::new(),
                    marked,
                    writing: None,
                    patience: Patience::with(&self.stream),
                    writes: Patience::with(&self.stream),
                    alone_since: None,
                    turn: 0,
                };
                work.run().await
            }
            Err(error) => Err(error),
        }
    }

    /// Reads where it is from the store; `None` if nobody is there any more.
    async fn open(&self, first: First, live_from: u64) -> Result<Option<u64>, BusError> {
        let failed = |error: StoreError| match error {
            StoreError::LimitReached { what } => BusError::LimitReached { what },
            error => BusError::NotStored { reason: format!("{} cannot be read: {error}", self.label()) },
        };
        let from = self.first(first, live_from).await?;
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
                // One that was there already needs no room.
                let full = match self.obtain(name, make, live_from, failed).await? {
                    Asked::Own => None,
                    Asked::Full(error) => Some(error),
                    Asked::Over => return Ok(None),
                };
                let read =
                    patiently(&self.stream, None, || store.consumer(stream.clone(), name.clone())).await;
                match (read, full) {
                    (Ok(own), _) => own,
                    (Err(StoreError::NoConsumer { .. }), None) => {
                        ConsumerState::new(name.clone(), pattern, from)
                    }
                    (Err(_), Some(error)) | (Err(error), None) => return Err(failed(error)),
                }
            }
        };
        self.check(&state)?;
        let marked = state.handed;
        let mut own = self.lock();
        let ledger = Ledger::new(own.rules, state, u64::from_le_bytes(first_token));
        own.ledger = Some(ledger);
        Ok(Some(marked))
    }

    /// Whether it is the one that is asked for, and whose.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for one of other topics, and [`BusError::Denied`] for one of somebody else.
    pub(super) fn check(&self, state: &ConsumerState) -> Result<(), BusError> {
        let Some(name) = &self.name else { return Ok(()) };
        if let Some(other) = state.pattern.as_ref()
            && *other != self.pattern
        {
            return Err(another_pattern(name.as_str(), other));
        }
        self.settle_owner(name, &state.owner)
    }

    fn nameless(&self) -> Result<Name, BusError> {
        Name::new("-").map_err(|error| BusError::InvalidSettings(error.to_string()))
    }

    /// The sequence that a new consumer begins with.
    async fn first(&self, first: First, live_from: u64) -> Result<u64, BusError> {
        let start = match first.start {
            Start::New => return Ok(live_from),
            Start::From(sequence) => store::Start::From(sequence),
            Start::All => store::Start::All,
            Start::Since(time) => store::Start::Since(time),
            Start::Last(count) => store::Start::Last(count, Some(self.pattern.clone())),
            Start::LastPerTopic => {
                let what =
                    "a subscription that acknowledges does not begin with the last message of each topic";
                return Err(BusError::InvalidSettings(what.to_owned()));
            }
        };
        let find = || self.stream.store.find(self.stream.name.clone(), start.clone());
        let found = patiently(&self.stream, None, find).await;
        let found = found.map_err(|error| BusError::NotStored { reason: error.to_string() })?;
        if let Start::From(sequence) = first.start
            && first.knows_epoch
            && sequence > found
        {
            // It ends before what was read of it: it has been put back to an earlier state.
            self.lock().members.iter_mut().take(1).for_each(|member| member.knows_another = true);
        }
        Ok(found)
    }

    /// Tells those who have come that they take part.
    pub(super) fn accept(&self, live_from: u64) {
        let mut accepted = Vec::new();
        for member in &mut self.lock().members {
            if !std::mem::replace(&mut member.is_accepted, true) {
                let place = (Arc::clone(&member.session), member.slot, member.subscription);
                accepted.push((place, std::mem::take(&mut member.knows_another)));
            }
        }
        let Self { stream, presence, .. } = self;
        for ((session, slot, subscription), knows_another) in accepted {
            let header = Header::answering(Kind::Accepted, Kind::Subscribe, subscription, live_from);
            let mut state = session.lock();
            // Nobody takes part in a stream that is not open.
            state.control(&header, &ContentRef::of_payload(&stream.epoch().unwrap_or_default()));
            let SessionState { subscriptions, lanes, totals, .. } = &mut *state;
            if let Some(own) = subscriptions.at(slot) {
                if session.peer.part != Part::Sharing {
                    own.present = Present::begin(&session, presence, &own.pattern);
                }
                if knows_another {
                    own.miss(0, GapReason::Recreated, lanes, totals);
                }
            }
            drop(state);
            session.flush();
        }
    }

    /// Takes nobody any more, if nobody is there.
    pub(super) fn end_if_empty(&self) -> bool {
        let Some(name) = &self.name else { return self.lock().members.is_empty() };
        let mut registry = self.stream.consumers.lock();
        let is_over = {
            let mut state = self.lock();
            state.is_over = state.members.is_empty();
            state.is_over
        };
        if is_over {
            registry.busy.remove(name);
            if let Some(reserved) = self.lock().reserved.take() {
                // Nobody has waited for it long enough.
                registry.forget(name, reserved);
            }
            // Before anybody can ask for it again, as stores take calls in their order.
            self.give_back();
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
            self.give_back();
        }
        let (members, waiting) = {
            let mut state = self.lock();
            state.is_over = true;
            let mut waiting = std::mem::take(&mut state.confirmations);
            waiting.extend(std::mem::take(&mut state.when_done).into_values().flatten());
            (std::mem::take(&mut state.members), waiting)
        };
        let result = Err(error.clone());
        self.tell(waiting, &result);
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
            consumer.accept(self.live_from);
            let now = Instant::now();
            consumer.lock().expire(now)?;
            consumer.let_go();
            self.begin_to_write()?;
            let rest = self.hand_over().await?;
            self.let_pages_go();
            // Some of what was to be handed over may be gone.
            self.begin_to_write()?;
            let (dead, due, next) = {
                let mut state = consumer.lock();
                state.count();
                let is_short = state.is_short(consumer.is_shared);
                // Others may give back what it waits for.
                let again = is_short.then(|| now + limits::CONSUMER_LOOK_AGAIN);
                let ledger = ledger(&mut state)?;
                let due = ledger.next_due(now).into_iter().chain(again).min();
                (ledger.next_dead(), due, ledger.next())
            };
            if let Some(first) = dead.filter(|_| self.writes.until(now).is_none()) {
                self.finish_writing().await?;
                self.bury(first).await?;
                continue;
            }
            if self.writing.is_none() && consumer.lock().members.is_empty() {
                self.begin_to_write()?;
                self.finish_writing().await?;
                if self.is_finished()? && consumer.end_if_empty() {
                    return Ok(());
                }
                if self.writes.until(now).is_none() {
                    continue;
                }
            }
            let then = match rest {
                Rest::Store(then) => Some(then),
                _ => None,
            };
            let due = due.into_iter().chain(then).chain(self.writes.until(now)).min();
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

    /// Whether nothing is left to be written, or nobody has been there for as long as the store is waited for: then it comes
    /// again.
    fn is_finished(&mut self) -> Result<bool, BusError> {
        let mut state = self.consumer.lock();
        if !state.members.is_empty() || !ledger(&mut state)?.owes() {
            self.alone_since = None;
            return Ok(true);
        }
        drop(state);
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        let is_over = since.elapsed() >= limits::STORE_PATIENCE;
        if is_over {
            let consumer = self.consumer.label();
            tracing::warn!(consumer, "what was done cannot be written, and nobody is there: it comes again");
        }
        Ok(is_over)
    }

    /// Begins to write what has changed, unless something is being written, or the store is to have some time.
    fn begin_to_write(&mut self) -> Result<(), BusError> {
        if self.writing.is_some() || self.writes.until(Instant::now()).is_some() {
            return Ok(());
        }
        let mut state = self.consumer.lock();
        state.note_done();
        let confirmations = std::mem::take(&mut state.confirmations);
        let acknowledged = std::mem::take(&mut state.acknowledged);
        let unwritten = ledger(&mut state)?.take_unwritten();
        if let (Some(_), Some((_, unwritten))) = (&self.consumer.name, &unwritten) {
            state.being_written = unwritten.done.len() + unwritten.failed.len();
        }
        drop(state);
        let (Some(name), Some((floor, unwritten))) = (&self.consumer.name, unwritten) else {
            self.consumer.tell(confirmations, &Ok(()));
            self.consumer.tell_plugins(acknowledged);
            return Ok(());
        };
        let stream = &self.consumer.stream;
        let written = stream.store.commit(stream.name.clone(), changes(name, floor, &unwritten));
        self.writing = Some(Writing { written, unwritten, confirmations, acknowledged });
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
        let Some(Writing { unwritten, confirmations, acknowledged, .. }) = self.writing.take() else {
            return Ok(());
        };
        let consumer = Arc::clone(&self.consumer);
        consumer.lock().being_written = 0;
        let Err(error) = written else {
            self.taken();
            consumer.tell_plugins(acknowledged);
            consumer.tell(confirmations, &Ok(()));
            return Ok(());
        };
        let told = Err(self.not_written(&error));
        let is_spent = self.writes.is_spent();
        if let Err(error) = self.not_taken(error) {
            consumer.tell(confirmations, &told);
            return Err(error);
        }
        let mut state = consumer.lock();
        ledger(&mut state)?.put_back(unwritten);
        state.acknowledged.splice(..0, acknowledged);
        if is_spent {
            drop(state);
            consumer.tell(confirmations, &told);
        } else {
            state.confirmations.splice(..0, confirmations);
        }
        Ok(())
    }

    /// The store takes what is written.
    pub(super) fn taken(&mut self) {
        self.writes.answered();
        self.consumer.lock().is_refused = false;
    }

    /// The store has not taken what was to be written. Returns when to try again.
    ///
    /// # Errors
    /// What it says, where that does not pass.
    pub(super) fn not_taken(&mut self, error: StoreError) -> Result<Instant, BusError> {
        if self.consumer.stream.is_shared() && matches!(error, StoreError::InUse { .. }) {
            self.consumer.lock().is_elsewhere = true;
            return Err(self.not_written(&error));
        }
        let then = self.writes.not_taken(error).map_err(|error| self.not_written(&error))?;
        self.consumer.lock().is_refused = true;
        Ok(then)
    }

    pub(super) fn not_written(&self, error: &StoreError) -> BusError {
        BusError::NotStored { reason: format!("{}: {error}", self.consumer.label()) }
    }

    pub(super) fn unreadable(&self, error: &StoreError) -> BusError {
        BusError::NotStored { reason: format!("the stream cannot be read: {error}") }
    }
}

impl Consumer {
    /// Tells those who wait what has come of their acknowledgements.
    pub(super) fn tell(&self, confirmations: Vec<Confirmation>, result: &Result<(), BusError>) {
        if confirmations.is_empty() {
            return;
        }
        self.lock().answers.are_given(&confirmations);
        confirmations.into_iter().for_each(|confirmation| confirmation.tell(result));
    }

    fn tell_plugins(&self, acknowledged: Vec<Acknowledged>) {
        if let Some(plugins) = &self.plugins {
            plugins.note_acknowledged(acknowledged);
        }
    }

    /// Ends the subscriptions of drained members that have no message any more. They leave by that.
    pub(super) fn let_go(&self) {
        let done = self.lock().done_with();
        for (session, slot, subscription) in done {
            let mut state = session.lock();
            if state.subscriptions.at(slot).is_some() {
                state.subscriptions.remove(subscription);
            }
        }
    }
}

/// What is written of what has changed.
pub(super) fn changes(name: &Name, floor: u64, unwritten: &Unwritten) -> Vec<Change> {
    let consumer = || name.clone();
    let failed = unwritten.failed.iter();
    let mut changes: Vec<Change> = failed
        .map(|(&sequence, &attempts)| Change::Attempted { consumer: consumer(), sequence, attempts })
        .collect();
    let sequences = unwritten.done.range(floor..).copied().collect();
    changes.push(Change::Done { consumer: consumer(), floor, sequences });
    changes
}

pub(super) fn ledger(state: &mut State) -> Result<&mut Ledger, BusError> {
    state.ledger.as_mut().ok_or_else(not_opened)
}

pub(super) fn not_opened() -> BusError {
    BusError::Closed { what: "the consumer".into() }
}
