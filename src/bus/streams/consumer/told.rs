//! What a member's client says of its messages.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Ledger, MemberId};
use super::{Confirmation, Consumer, State};
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

impl Told {
    /// Takes an `ACK`. Where the client waits for an answer, it comes from here or from the consumer's task.
    ///
    /// # Errors
    /// [`BusError::StaleAck`], [`BusError::LimitReached`], and [`BusError::Protocol`], which ends the session.
    pub(crate) fn acknowledge(
        &self,
        header: &Header,
        content: &ContentRef<'_>,
        session: &Arc<Session>,
    ) -> BusResult<()> {
        let (flags, token) = (header.flags, header.sequence);
        let confirmation =
            Confirmation { session: Arc::clone(session), subscription: header.id, sequence: token };
        let mut state = self.consumer.lock();
        if flags.contains(Flags::WHEN_DONE) {
            state.wait_until_done(token, confirmation)?;
        } else {
            if flags.contains(Flags::PROGRESS) {
                self.progress(&mut state, token)?;
            } else if flags.contains(Flags::REFUSE) {
                self.refuse(&mut state, token, content.payload())?;
            } else {
                self.finish(&mut state, token, content.payload(), session)?;
            }
            if flags.contains(Flags::ACKNOWLEDGE) {
                state.confirmations.push(confirmation);
            }
        }
        drop(state);
        self.consumer.changed.notify_one();
        Ok(())
    }

    /// These messages are dealt with; the payload has the tokens behind the first.
    fn finish(&self, state: &mut State, token: u64, payload: &[u8], session: &Session) -> BusResult<()> {
        if !payload.len().is_multiple_of(8) || payload.len() / 8 > limits::CONSUMER_PENDING_MAX as usize {
            let what = format!("an ACK with {} bytes of further tokens", payload.len());
            return Err(BusError::Protocol { what });
        }
        let (further, _) = payload.as_chunks();
        let further = further.iter().map(|token| u64::from_le_bytes(*token));
        let mut done = 0;
        for token in std::iter::once(token).chain(further) {
            // Those that somebody else has by now are left to him.
            let Ok(ledger) = self.ledger_with(state, token) else { continue };
            if let Ok((sequence, number)) = ledger.acknowledge(token) {
                done += 1;
                self.consumer.note_for_plugins(state, session, sequence);
                if let Some(member) = state.member(self.member) {
                    member.acknowledged = member.acknowledged.max(number);
                }
            }
        }
        if done == 0 { Err(self.stale()) } else { Ok(()) }
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
    /// Has somebody told when a message is done.
    fn wait_until_done(&mut self, sequence: u64, confirmation: Confirmation) -> BusResult<()> {
        if self.waiting_when_done >= limits::CONSUMER_PENDING_MAX as usize {
            let what = format!("{} acknowledgements wait to be kept", limits::CONSUMER_PENDING_MAX);
            return Err(BusError::LimitReached { what });
        }
        self.when_done.entry(sequence).or_default().push(confirmation);
        self.waiting_when_done += 1;
        Ok(())
    }

    /// Moves those who wait for what is done by now to those who are told when it is written.
    pub(super) fn note_done(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        let done: Vec<u64> =
            self.when_done.keys().copied().filter(|sequence| ledger.is_done(*sequence)).collect();
        for sequence in done {
            let waited = self.when_done.remove(&sequence).unwrap_or_default();
            self.waiting_when_done -= waited.len();
            self.confirmations.extend(waited);
        }
    }

    /// A subscription has ended: its client asks for nothing any more.
    pub(super) fn forget_waiting(&mut self, session: &Arc<Session>, subscription: u32) {
        self.when_done.retain(|_, waiting| {
            let before = waiting.len();
            waiting.retain(|own| !(Arc::ptr_eq(&own.session, session) && own.subscription == subscription));
            self.waiting_when_done -= before - waiting.len();
            !waiting.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::session::Session;

    fn confirmation(session: &Arc<Session>, subscription: u32, sequence: u64) -> Confirmation {
        Confirmation { session: Arc::clone(session), subscription, sequence }
    }

    #[test]
    fn who_is_gone_waits_for_nothing_and_makes_room_for_others() {
        let ((one, _peer), (other, _other_peer)) = (Session::alone(1), Session::alone(2));
        let mut state = State::default();
        let most = limits::CONSUMER_PENDING_MAX as usize;
        for place in 0..most as u64 {
            let session = if place % 2 == 0 { &one } else { &other };
            state.wait_until_done(place / 4, confirmation(session, 7, place / 4)).unwrap();
        }
        let refused = state.wait_until_done(0, confirmation(&other, 7, 0)).unwrap_err();
        assert!(matches!(refused, BusError::LimitReached { .. }), "{refused}");
        state.forget_waiting(&one, 8);
        assert_eq!(state.waiting_when_done, most, "that is another subscription of its session");
        state.forget_waiting(&one, 7);
        assert_eq!((state.waiting_when_done, state.when_done.len()), (most / 2, most / 4));
        state.forget_waiting(&other, 7);
        assert_eq!((state.waiting_when_done, state.when_done.len()), (0, 0));
        state.wait_until_done(0, confirmation(&other, 7, 0)).unwrap();
    }
}
