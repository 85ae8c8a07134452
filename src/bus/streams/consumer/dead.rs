//! Messages that have failed too often.

use std::sync::Arc;

use super::ledger::Death;
use super::task::{Work, changes, ledger};
use crate::bus::streams::dead_letters;
use crate::bus::streams::patience::patiently;
use crate::error::BusError;
use crate::store::{Change, Reading};

impl Work {
    /// Puts a message away among the dead letters of its stream, and is done with it, in one transaction.
    pub(super) async fn bury(&mut self, sequence: u64, death: Death) -> Result<(), BusError> {
        let consumer = Arc::clone(&self.consumer);
        let stream = &consumer.stream;
        let read = || stream.store.read(stream.name.clone(), Reading::from(sequence, 0).at_most(1));
        let page = patiently(None, read).await.map_err(|error| self.unreadable(&error))?;
        // Where retention has dropped it, nothing is left to be put away.
        let message = page.messages.into_iter().find(|message| message.sequence == sequence);
        let name = consumer.name.as_ref();
        let mut letters = Vec::new();
        if let (Some(message), Some(dead)) = (message, &stream.dead) {
            let message = dead_letters::letter(stream, name, &message, death.failed, death.reason.name())?;
            letters.push(Change::AppendTo { stream: dead.name.clone(), message });
        }
        let unwritten = {
            let mut state = consumer.lock();
            ledger(&mut state)?.forget(sequence);
            state.note_done();
            ledger(&mut state)?.take_unwritten()
        };
        if let (Some(name), Some((floor, unwritten))) = (name, unwritten) {
            letters.extend(changes(name, floor, unwritten));
        }
        if letters.is_empty() {
            return Ok(());
        }
        let written = stream.store.commit(stream.name.clone(), letters).await;
        let outcomes = written.map_err(|error| self.not_written(&error))?;
        if let Some(dead) = &stream.dead {
            dead.grow_by(&outcomes);
        }
        tracing::warn!(
            stream = %stream.name,
            sequence,
            attempts = death.failed,
            reason = death.reason.name(),
            "a message has failed too often and is among the dead letters"
        );
        Ok(())
    }
}
