//! Messages that have failed too often.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ledger::Death;
use super::task::{Work, changes, ledger};
use crate::bus::streams::dead_letters;
use crate::bus::streams::patience::patiently;
use crate::error::BusError;
use crate::limits;
use crate::store::{Change, Message, Reading};

impl Work {
    /// Puts messages away among the dead letters of their stream, and is done with them, in one transaction: this first one,
    /// and those behind it that are dead as well, as far as one page of the store goes. Where the store does not take that they
    /// stay dead, and are put away later.
    pub(super) async fn bury(&mut self, first: u64) -> Result<(), BusError> {
        let consumer = Arc::clone(&self.consumer);
        let stream = &consumer.stream;
        let together = first..first.saturating_add(limits::DEAD_TOGETHER);
        let most = ledger(&mut consumer.lock())?.dead_within(together.clone()).count();
        let reading = Reading::from(first, 0).of(consumer.pattern.clone()).at_most(most.max(1));
        let read = || stream.store.read(stream.name.clone(), reading.clone());
        let page = patiently(stream, None, read).await.map_err(|error| self.unreadable(&error))?;
        // All that the stream still has of these are on the page.
        let of_page = first..page.next.clamp(first + 1, together.end);
        let (dead, floor, unwritten) = {
            let mut state = consumer.lock();
            state.note_done();
            let ledger = ledger(&mut state)?;
            let dead: Vec<(u64, Death)> = ledger.dead_within(of_page).collect();
            let (floor, unwritten) =
                ledger.take_unwritten_with(&dead.iter().map(|(sequence, _)| *sequence).collect());
            (dead, floor, unwritten)
        };
        let mut made = self.letters(&dead, &page.messages)?;
        if let Some(name) = &consumer.name {
            made.extend(changes(name, floor, &unwritten));
        }
        if !made.is_empty() {
            match stream.store.commit(stream.name.clone(), made).await {
                Ok(outcomes) => {
                    self.taken();
                    if let Some(letters) = &stream.dead {
                        letters.grow_by(&outcomes);
                    }
                }
                Err(error) => {
                    self.not_taken(error)?;
                    ledger(&mut consumer.lock())?.put_back(unwritten);
                    return Ok(());
                }
            }
        }
        let buried: BTreeSet<u64> = dead.iter().map(|(sequence, _)| *sequence).collect();
        let mut state = consumer.lock();
        ledger(&mut state)?.put_away(&buried);
        state.note_these(buried);
        drop(state);
        for (sequence, Death { failed, reason }) in dead {
            tracing::warn!(
                stream = %stream.name,
                sequence,
                attempts = failed,
                reason = reason.name(),
                is_dead_letter = stream.dead.is_some(),
                "nobody could deal with a message, and it does not come again"
            );
        }
        Ok(())
    }

    /// What is put among the dead letters of these. Where retention has dropped a message, nothing is left of it to be put away.
    fn letters(&self, dead: &[(u64, Death)], messages: &[Message]) -> Result<Vec<Change>, BusError> {
        let (stream, consumer) = (&self.consumer.stream, self.consumer.name.as_ref());
        let Some(letters) = &stream.dead else { return Ok(Vec::new()) };
        let mut made = Vec::with_capacity(dead.len() + 1);
        for (sequence, Death { failed, reason }) in dead {
            let Ok(at) = messages.binary_search_by_key(sequence, |message| message.sequence) else {
                continue;
            };
            let Some(message) = messages.get(at) else { continue };
            let message = dead_letters::letter(stream, consumer, message, *failed, reason.name())?;
            made.push(Change::AppendTo { stream: letters.name.clone(), message });
        }
        Ok(made)
    }
}
