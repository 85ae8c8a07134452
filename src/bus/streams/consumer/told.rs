//! What a member's client says of its messages.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Ledger, MemberId};
use super::{Confirmation, Consumer, State};
use crate::bus::budget::Share;
use crate::bus::session::Session;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::{ContentRef, Flags, Header};

/// Takes what a member's client says of its messages.
#[derive(Debug)]
pub(crate) struct Told {
    pub(super) consumer: Arc<Consumer>,
    pub(super) member: MemberId,
}

/// When an `ACK` is answered, if that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing of it is to be written.
    Now,
    /// By the consumer's task.
    Later,
}

/// That what follows the first token are no more than somebody can have been handed.
fn check_tokens(payload: &[u8]) -> BusResult<()> {
    if !payload.len().is_multiple_of(8) || payload.len() / 8 > limits::CONSUMER_PENDING_MAX as usize {
        let what = format!("an ACK with {} bytes of further tokens", payload.len());
        return Err(BusError::Protocol { what });
    }
    Ok(())
}

/// How many answers a consumer owes.
#[derive(Debug, Default)]
pub(super) struct Answers {
    of_members: HashMap<MemberId, usize>,
    all: usize,
    share: Share,
}

impl Told {
    /// Takes an `ACK`. Where the client waits for an answer, it comes from the consumer's task, unless it is to be given now.
    ///
    /// # Errors
    /// [`BusError::StaleAck`], [`BusError::LimitReached`], [`BusError::NotStored`] where another bus has the consumer by now, and
    /// [`BusError::Protocol`], which ends the session.
    pub(crate) fn acknowledge(
        &self,
        header: &Header,
        content: &ContentRef<'_>,
        session: &Arc<Session>,
    ) -> BusResult<Answer> {
        let (flags, token) = (header.flags, header.sequence);
        let (member, subscription) = (self.member, header.id);
        let confirmation =
            Confirmation { member, session: Arc::clone(session), subscription, sequence: token };
        let mut state = self.consumer.lock();
        if let Some(passed) = self.pass_on(&mut state, header, content.payload(), &confirmation) {
            drop(state);
            self.consumer.changed.notify_one();
            return passed.map(|()| Answer::Later);
        }
        let told = if flags.contains(Flags::WHEN_DONE) {
            state.wait_until_done(token, confirmation)
        } else if flags.contains(Flags::PROGRESS) {
            self.progress(&mut state, token).map(|()| Answer::Now)
        } else {
            let told = match flags.contains(Flags::REFUSE) {
                true => self.refuse(&mut state, token, content.payload()),
                false => self.finish(&mut state, token, content.payload(), session),
            };
            told.and_then(|()| match flags.contains(Flags::ACKNOWLEDGE) {
                true => state.wait_until_kept(confirmation),
                false => Ok(Answer::Later),
            })
        };
        state.count_of(self.member);
        drop(state);
        // Also where the answer is an error some of it may have been taken.
        self.consumer.changed.notify_one();
        told
    }

    /// Passes it on where another bus feeds the member: that one has the ledger, and answers.
    fn pass_on(
        &self,
        state: &mut State,
        header: &Header,
        payload: &[u8],
        confirmation: &Confirmation,
    ) -> Option<BusResult<()>> {
        if state.member(confirmation.member).is_none_or(|member| member.fed.is_none()) {
            return None;
        }
        let Flags(flags) = header.flags;
        let is_done = flags & !Flags::ACKNOWLEDGE.0 == 0;
        let payload = match is_done.then(|| check_tokens(payload)) {
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(())) => payload,
            // A delay, if it has any.
            None => payload.get(..4).unwrap_or_default(),
        };
        state.pass_on(header, payload, confirmation, || self.stale())
    }

    /// These messages are dealt with; the payload has the tokens behind the first.
    fn finish(&self, state: &mut State, token: u64, payload: &[u8], session: &Session) -> BusResult<()> {
        check_tokens(payload)?;
        let (further, _) = payload.as_chunks();
        let further = further.iter().map(|token| u64::from_le_bytes(*token));
        let mut is_stale = false;
        for token in std::iter::once(token).chain(further) {
            // Those that somebody else has by now are left to him.
            let acknowledged = self.ledger_with(state, token).map(|ledger| ledger.acknowledge(token));
            let Ok(Ok((sequence, number))) = acknowledged else {
                is_stale = true;
                continue;
            };
            self.consumer.note_for_plugins(state, session, sequence);
            if let Some(member) = state.member(self.member) {
                member.acknowledged = member.acknowledged.max(number);
            }
        }
        // Whoever takes that for an answer to all of them would be handed again what he is done with.
        if is_stale { Err(self.stale()) } else { Ok(()) }
    }

    /// A message is to come again; the payload may say when.
    fn refuse(&self, state: &mut State, token: u64, payload: &[u8]) -> BusResult<()> {
        let delay = payload.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let delay = delay.map(|milliseconds| Duration::from_millis(u64::from(milliseconds)));
        self.ledger_with(state, token)?.refuse(token, delay, Instant::now()).map_err(|_| self.stale())
    }

    /// A message is being dealt with.
    fn progress(&self, state: &mut State, token: u64) -> BusResult<()> {
        self.ledger_with(state, token)?.progress(token, Instant::now()).map_err(|_| self.stale())
    }

    /// The ledger, if this member has the message with the token.
    fn ledger_with<'a>(&self, state: &'a mut State, token: u64) -> BusResult<&'a mut Ledger> {
        let ledger = state.ledger.as_mut().filter(|ledger| ledger.has(token, self.member));
        ledger.ok_or_else(|| self.stale())
    }

    fn stale(&self) -> BusError {
        BusError::StaleAck { what: format!("a message of {}", self.consumer.label()) }
    }
}

impl State {
    /// Has a member told when what it has said is written.
    fn wait_until_kept(&mut self, confirmation: Confirmation) -> BusResult<Answer> {
        self.answers.are_owed(&confirmation)?;
        self.confirmations.push(confirmation);
        Ok(Answer::Later)
    }

    /// Has a member told when a message is done.
    fn wait_until_done(&mut self, sequence: u64, confirmation: Confirmation) -> BusResult<Answer> {
        if self.ledger.as_ref().is_some_and(|ledger| ledger.is_done(sequence)) {
            return self.wait_until_kept(confirmation);
        }
        if self.is_elsewhere {
            let reason = "another bus has the consumer by now, and the message comes again there".to_owned();
            return Err(BusError::NotStored { reason });
        }
        self.answers.are_owed(&confirmation)?;
        self.when_done.entry(sequence).or_default().push(confirmation);
        Ok(Answer::Later)
    }

    /// Moves those who wait for what is done by now to those who are told when it is written. Only what can have become done
    /// since the last time is looked at; it has to be done before what is unwritten is taken.
    pub(super) fn note_done(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        let (floor, next) = (ledger.floor(), ledger.next());
        let passed = self.noted_next.min(next)..next;
        self.noted_next = next;
        if self.when_done.is_empty() {
            return;
        }
        let waited_for = |sequence: &u64| self.when_done.contains_key(sequence);
        let mut done: Vec<u64> = ledger.newly_done().filter(waited_for).collect();
        done.extend(self.when_done.range(..floor).map(|(sequence, _)| *sequence));
        let passed = self.when_done.range(passed).map(|(sequence, _)| *sequence);
        done.extend(passed.filter(|sequence| ledger.is_done(*sequence)));
        self.note_these(done);
    }

    /// Moves those who wait for these.
    pub(super) fn note_these(&mut self, done: impl IntoIterator<Item = u64>) {
        for sequence in done {
            self.confirmations.extend(self.when_done.remove(&sequence).unwrap_or_default());
        }
    }

    /// A member has left: its client asks for nothing any more.
    pub(super) fn forget_waiting(&mut self, member: MemberId) {
        if !self.answers.of_members.contains_key(&member) {
            return;
        }
        let mut forgotten = Vec::new();
        self.when_done.retain(|_, waiting| {
            forgotten.extend(waiting.extract_if(.., |own| own.member == member));
            !waiting.is_empty()
        });
        self.answers.are_given(&forgotten);
    }
}

impl Answers {
    /// One more is owed, which is noted in the byte budget.
    pub(super) fn are_owed(&mut self, confirmation: &Confirmation) -> BusResult<()> {
        let own = self.of_members.entry(confirmation.member).or_default();
        if *own >= limits::CONSUMER_WAITING {
            let what =
                format!("{} acknowledgements of a subscription wait to be kept", limits::CONSUMER_WAITING);
            return Err(BusError::LimitReached { what });
        }
        *own += 1;
        self.all += 1;
        self.share.follow(self.all * limits::CONSUMER_WAITING_BYTES, confirmation.session.budget());
        Ok(())
    }

    /// These are owed no more.
    pub(super) fn are_given(&mut self, confirmations: &[Confirmation]) {
        for Confirmation { member, .. } in confirmations {
            if let Entry::Occupied(mut own) = self.of_members.entry(*member) {
                *own.get_mut() -= 1;
                if *own.get() == 0 {
                    own.remove();
                }
            }
        }
        if let Some(last) = confirmations.last() {
            self.all = self.all.saturating_sub(confirmations.len());
            self.share.follow(self.all * limits::CONSUMER_WAITING_BYTES, last.session.budget());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::fields::DeliveryRules;
    use crate::store::{ConsumerState, Name};

    fn wait(state: &mut State, member: MemberId, session: &Arc<Session>, sequence: u64) -> BusResult<()> {
        let confirmation = Confirmation { member, session: Arc::clone(session), subscription: 7, sequence };
        state.wait_until_done(sequence, confirmation).map(drop)
    }

    #[test]
    fn who_waits_for_much_is_in_nobodys_way_and_waits_for_nothing_when_he_is_gone() {
        let (session, _peer) = Session::alone(1);
        let mut state = State::default();
        let most = limits::CONSUMER_WAITING as u64;
        for place in 0..most {
            wait(&mut state, 1, &session, u64::MAX - place).unwrap();
        }
        let refused = wait(&mut state, 1, &session, 0).unwrap_err();
        assert!(matches!(refused, BusError::LimitReached { .. }), "{refused}");
        wait(&mut state, 2, &session, u64::MAX).unwrap();
        state.forget_waiting(1);
        assert_eq!((state.when_done.len(), state.answers.all), (1, 1));
        state.forget_waiting(2);
        assert_eq!((state.when_done.len(), state.answers.all), (0, 0));
        assert!(state.answers.of_members.is_empty());
        assert_eq!(session.budget().used(), 0);
    }

    #[test]
    fn answers_are_owed_up_to_a_bound_and_count_in_the_budget() {
        let (session, _peer) = Session::alone(1);
        let mut state = State::default();
        let most = limits::CONSUMER_WAITING;
        let mut wait = |member, sequence| {
            let confirmation =
                Confirmation { member, session: Arc::clone(&session), subscription: 7, sequence };
            state.wait_until_kept(confirmation)
        };
        for sequence in 0..most as u64 {
            assert_eq!(wait(1, sequence).unwrap(), Answer::Later);
        }
        let refused = wait(1, 0).unwrap_err();
        assert!(matches!(refused, BusError::LimitReached { .. }), "{refused}");
        wait(2, 0).unwrap();
        assert!(session.budget().used() >= most * limits::CONSUMER_WAITING_BYTES);
        let told = std::mem::take(&mut state.confirmations);
        state.answers.are_given(&told);
        assert_eq!((told.len(), session.budget().used()), (most + 1, 0));
        assert!(state.answers.of_members.is_empty());
    }

    #[test]
    fn whoever_waits_is_told_once_a_message_is_done_however_that_came() {
        let (session, _peer) = Session::alone(1);
        let kept = ConsumerState::new(Name::new("c").unwrap(), None, 1);
        let ledger = Ledger::new(DeliveryRules::default(), kept, 1);
        let mut state = State { ledger: Some(ledger), ..State::default() };
        let now = Instant::now();
        for sequence in 1..=4 {
            wait(&mut state, 1, &session, sequence).unwrap();
        }
        let told = |state: &mut State| -> Vec<u64> {
            state.note_done();
            let told = std::mem::take(&mut state.confirmations);
            state.answers.are_given(&told);
            let mut told: Vec<_> = told.into_iter().map(|waited| waited.sequence).collect();
            told.sort_unstable();
            told
        };
        assert!(told(&mut state).is_empty());
        let ledger = state.ledger.as_mut().unwrap();
        let first = ledger.hand(1, 1, 1, now).unwrap();
        let third = ledger.hand(3, 1, 2, now).unwrap();
        assert_eq!(told(&mut state), [2], "it was passed over, and is of another topic");
        state.ledger.as_mut().unwrap().acknowledge(third.token).unwrap();
        assert_eq!(told(&mut state), [3], "it was acknowledged");
        state.ledger.as_mut().unwrap().refuse(first.token, None, now).unwrap();
        assert!(told(&mut state).is_empty(), "it comes again");
        state.ledger.as_mut().unwrap().forget(1);
        assert_eq!(told(&mut state), [1], "it is gone");
        wait(&mut state, 1, &session, 2).unwrap();
        assert_eq!(told(&mut state), [2], "it was done before");
        assert_eq!((state.when_done.len(), state.answers.of_members[&1]), (1, 1));
    }
}
