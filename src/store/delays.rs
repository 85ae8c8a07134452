//! What is kept until it is due: by a store in memory, and how much of it there may be in any.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

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
    held: Held,
}

impl Delays {
    /// How many there are, and their bytes.
    pub(super) fn held(&self) -> &Held {
        &self.held
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
        self.held.add(&delayed.owner, delayed.weight());
        self.due.insert((delayed.due, self.given));
        self.messages.insert(self.given, delayed);
        self.given
    }

    pub(super) fn take(&mut self, id: u64) -> Option<Delayed> {
        let delayed = self.messages.remove(&id)?;
        self.due.remove(&(delayed.due, id));
        self.held.remove(&delayed.owner, delayed.weight());
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

/// How many messages a stream keeps that are not due yet, and their bytes: all, and those of each owner.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    all: (u64, u64),
    owners: HashMap<Bytes, (u64, u64)>,
}

impl Held {
    /// So many in all; whose they are is counted besides.
    #[cfg(feature = "sqlite")]
    pub(super) fn new(all: (u64, u64)) -> Self {
        Self { all, owners: HashMap::new() }
    }

    pub(super) fn all(&self) -> (u64, u64) {
        self.all
    }

    pub(super) fn add(&mut self, owner: &Bytes, weight: u64) {
        self.all = (self.all.0 + 1, self.all.1.saturating_add(weight));
        self.count_for(owner, weight);
    }

    /// Counts one of those that there are for its owner.
    pub(super) fn count_for(&mut self, owner: &Bytes, weight: u64) {
        if !owner.is_empty() {
            let (messages, bytes) = self.owners.entry(owner.clone()).or_default();
            (*messages, *bytes) = (*messages + 1, bytes.saturating_add(weight));
        }
    }

    pub(super) fn remove(&mut self, owner: &Bytes, weight: u64) {
        self.all = (self.all.0.saturating_sub(1), self.all.1.saturating_sub(weight));
        if let Some((messages, bytes)) = self.owners.get_mut(owner) {
            (*messages, *bytes) = (messages.saturating_sub(1), bytes.saturating_sub(weight));
            if *messages == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// Whether there is room for those among these changes: for all of them, and so that no owner has more than it leaves free.
    pub(super) fn check(&self, changes: &[Change]) -> Result<(), StoreError> {
        let ((mut messages, mut bytes), mut more) = (self.all, HashMap::<&Bytes, (u64, u64)>::new());
        for change in changes {
            if let Change::Delay { message, author, owner, .. } = change {
                let weight = message.weight() + (author.len() + owner.len()) as u64;
                (messages, bytes) = (messages + 1, bytes.saturating_add(weight));
                let (own, own_bytes) = more.entry(owner).or_default();
                (*own, *own_bytes) = (*own + 1, own_bytes.saturating_add(weight));
            }
        }
        let (most, most_bytes) = (limits::DELAYED_MESSAGES, limits::DELAYED_BYTES);
        if !more.is_empty() && (messages > most || bytes > most_bytes) {
            let what = format!(
                "a stream keeps at most {most} messages that are not due yet, and {most_bytes} bytes"
            );
            return Err(StoreError::LimitReached { what });
        }
        for (owner, (own, own_bytes)) in more.into_iter().filter(|(owner, _)| !owner.is_empty()) {
            let (before, before_bytes) = self.owners.get(owner).copied().unwrap_or_default();
            if before + own > most - messages || before_bytes + own_bytes > most_bytes - bytes {
                let owner = String::from_utf8_lossy(owner);
                let what = format!(
                    "{owner} has {before} messages in a stream that are not due yet, and {before_bytes} bytes; \
                     one keeps at most as much as is left for others"
                );
                return Err(StoreError::LimitReached { what });
            }
        }
        Ok(())
    }
}
