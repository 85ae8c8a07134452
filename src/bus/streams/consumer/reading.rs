//! What a consumer reads: what its members have credit for, and nothing for those that have none.

use tokio::time::Instant;

use super::handing::Ready;
use super::judging::Judged;
use super::task::{Work, ledger};
use crate::bus::streams::held::{self, Held};
use crate::bus::streams::publishing::milliseconds;
use crate::error::BusError;
use crate::limits;
use crate::proto::fields::GapReason;
use crate::store::{Change, Page, Reading};

/// Messages that are read together for one that comes again: those behind it often do, too.
const RETRIES_READ: u64 = 64;

impl Work {
    /// Reads a page, unless the store is busy. It counts as the member's for whom it is read.
    async fn read(&mut self, member: &Ready, mut reading: Reading) -> Result<Option<(Page, Held)>, BusError> {
        let stream = &self.consumer.stream;
        let mut held = Held::reserve(&member.session, &mut reading);
        match stream.store.read(stream.name.clone(), reading).await {
            Ok(page) => {
                self.patience.answered();
                held.take(&page);
                Ok(Some((page, held)))
            }
            Err(error) => match self.patience.refused(error) {
                Ok(_) => Ok(None),
                Err(error) => Err(self.unreadable(&error)),
            },
        }
    }

    /// Reads what comes next, as much as members have credit for and may have unacknowledged.
    pub(super) async fn read_on(&mut self, member: &Ready, next: u64) -> Result<(), BusError> {
        let credit = if self.consumer.is_shared { self.credit() } else { member.credit };
        let room = ledger(&mut self.consumer.lock())?.room();
        let mut reading = Reading::from(next, milliseconds()).of(self.consumer.pattern.clone());
        reading.messages = reading.messages.min(room);
        held::within(&mut reading, credit);
        let Some((page, held)) = self.read(member, reading).await? else { return Ok(()) };
        if page.first > next {
            self.tell_gap(page.first - next, GapReason::Retention);
            // That is told once, also where the page goes before anything of it is handed over.
            ledger(&mut self.consumer.lock())?.skip_to(page.first);
        }
        self.ahead_until = page.next;
        self.ahead = page.messages.into();
        self.ahead_held = Some(held);
        Ok(())
    }

    /// Reads a message that is due again, or kept from others, and those behind it that are. Those that are not due are not
    /// kept: they may be many, and of any size, and are read again when they are.
    pub(super) async fn read_again(&mut self, member: &Ready, sequence: u64) -> Result<(), BusError> {
        let (last, room) = {
            let mut state = self.consumer.lock();
            let ledger = ledger(&mut state)?;
            (ledger.last_again(sequence..sequence + RETRIES_READ).unwrap_or(sequence), ledger.room())
        };
        let span = usize::try_from(last - sequence + 1).unwrap_or(1);
        // Those whose time is over as well, so that it is told why they do not come again.
        let reading = Reading::from(sequence, 0).of(self.consumer.pattern.clone());
        let mut reading = reading.at_most(span.min(room));
        held::within(&mut reading, member.credit);
        (self.again, self.again_held) = Default::default();
        let Some((page, held)) = self.read(member, reading).await? else { return Ok(()) };
        let mut state = self.consumer.lock();
        let ledger = ledger(&mut state)?;
        let is_there = page.messages.first().is_some_and(|first| first.sequence == sequence);
        let again = page.messages.into_iter().map(|message| (message.sequence, message));
        self.again =
            again.filter(|(sequence, _)| ledger.last_again(*sequence..*sequence + 1).is_some()).collect();
        self.again_held = Some(held);
        if !is_there {
            // Retention has dropped it.
            ledger.forget(sequence);
            drop(state);
            self.tell_gap(1, GapReason::Retention);
        }
        Ok(())
    }

    /// Keeps nothing of what was read: nobody can take it now, and what is read again then is as the stream has it then.
    pub(super) fn let_pages_go(&mut self) {
        (self.ahead, self.ahead_held, self.ahead_until) = Default::default();
        (self.again, self.again_held) = Default::default();
        self.judged = Judged::default();
    }

    /// Has the store know which messages may be handed over now. Where it does not take that, none may be before it is asked
    /// again at the time that is returned.
    pub(super) async fn mark(&mut self) -> Result<Option<Instant>, BusError> {
        let Some(sequence) = self.ahead.front().map(|first| first.sequence) else { return Ok(None) };
        let Some(name) = self.consumer.name.clone().filter(|_| sequence >= self.marked) else {
            return Ok(None);
        };
        // What lies before it is not to be read once more if the store is to have some time.
        ledger(&mut self.consumer.lock())?.skip_to(sequence);
        if let Some(then) = self.mark_at(sequence) {
            return Ok(Some(then));
        }
        let before = sequence + limits::CONSUMER_STRIDE;
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

    /// When the store may be asked to mark this one, if it is to have some time before. Nothing from there on is read until then.
    pub(super) fn mark_at(&self, sequence: u64) -> Option<Instant> {
        let is_marked = self.consumer.name.is_none() || sequence < self.marked;
        if is_marked { None } else { self.writes.until(Instant::now()) }
    }
}
