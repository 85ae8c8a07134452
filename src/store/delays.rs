//! What a store in memory keeps until it is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::change::Change;
use super::message::{Delayed, MessageId};
use crate::error::StoreError;
use crate::limits;

/// The delayed messages of one stream.
#[derive(Default)]
pub(super) struct Delays {
    /// Ids given so far.
    given: u64,
    messages: BTreeMap<u64, Delayed>,
    /// By when they are due; those of one time in the order in which they came.
    due: BTreeSet<(u64, u64)>,
    ids: HashMap<MessageId, u64>,
    bytes: u64,
}

impl Delays {
    /// How many there are, and their bytes.
    pub(super) fn held(&self) -> (u64, u64) {
        (self.messages.len() as u64, self.bytes)
    }

    /// The one that was sent with this id.
    pub(super) fn known(&self, id: &MessageId) -> Option<u64> {
        self.ids.get(id).copied()
    }

    /// Keeps one more; the id in it does not matter. Returns its id.
    pub(super) fn keep(&mut self, mut delayed: Delayed) -> u64 {
        self.given += 1;
        delayed.id = self.given;
        if let Some(id) = delayed.message.id {
            self.ids.insert(id, self.given);
        }
        self.bytes += delayed.weight();
        self.due.insert((delayed.due, self.given));
        self.messages.insert(self.given, delayed);
        self.given
    }

    pub(super) fn take(&mut self, id: u64) -> Option<Delayed> {
        let delayed = self.messages.remove(&id)?;
        self.due.remove(&(delayed.due, id));
        self.bytes -= delayed.weight();
        if let Some(id) = &delayed.message.id {
            self.ids.remove(id);
        }
        Some(delayed)
    }

    /// Those that are due by then, at most so many.
    pub(super) fn due_by(&self, until: u64, most: usize) -> Vec<Delayed> {
        let mut bytes = 0;
        let due = self.due.range(..=(until, u64::MAX)).take(most).map_while(|(_, id)| {
            let delayed = self.messages.get(id).filter(|_| bytes < limits::STORE_PAGE_BYTES)?;
            bytes += delayed.weight();
            Some(delayed.clone())
        });
        due.collect()
    }
}

/// Whether a stream that keeps so many delayed messages, and bytes of them, has room for those among these changes.
pub(super) fn check(changes: &[Change], (messages, bytes): (u64, u64)) -> Result<(), StoreError> {
    let (mut messages, mut bytes, mut more) = (messages, bytes, false);
    for change in changes {
        if let Change::Delay { message, author, .. } = change {
            more = true;
            messages += 1;
            bytes = bytes.saturating_add(message.weight() + author.len() as u64);
        }
    }
    if more && (messages > limits::DELAYED_MESSAGES || bytes > limits::DELAYED_BYTES) {
        let (most, most_bytes) = (limits::DELAYED_MESSAGES, limits::DELAYED_BYTES);
        let what =
            format!("a stream keeps at most {most} messages that are not due yet, and {most_bytes} bytes");
        return Err(StoreError::LimitReached { what });
    }
    Ok(())
}
