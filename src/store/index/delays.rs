//! What is kept until it is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::entry::Entry;
use crate::limits;
use crate::store::held::Held;
use crate::store::message::MessageId;

/// A message that is kept until it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DelayedEntry<C> {
    /// Its number among those of its stream, from 1, in the order in which they came.
    pub id: u64,
    /// When it is due: milliseconds since 1970 (UTC).
    pub due: u64,
    /// In whose name it is added then, as it was given.
    pub author: Bytes,
    /// Whom it counts for, as it was given.
    pub owner: Bytes,
    /// The message.
    pub entry: Entry<C>,
}

impl<C> DelayedEntry<C> {
    /// Bytes that it counts as.
    fn weight(&self) -> u64 {
        self.entry.weight + (self.author.len() + self.owner.len()) as u64
    }
}

/// The delayed messages of one stream.
pub(super) struct Delays<C> {
    /// Ids given so far.
    pub(super) given: u64,
    pub(super) messages: BTreeMap<u64, DelayedEntry<C>>,
    /// By when they are due; those of one time in the order in which they came.
    due: BTreeSet<(u64, u64)>,
    ids: HashMap<MessageId, u64>,
    held: Held,
}

impl<C> Default for Delays<C> {
    fn default() -> Self {
        let (messages, due, ids) = (BTreeMap::new(), BTreeSet::new(), HashMap::new());
        Self { given: 0, messages, due, ids, held: Held::default() }
    }
}

impl<C: Clone> Delays<C> {
    /// How many there are, and their bytes.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// The one that was sent with this id.
    pub(super) fn known(&self, id: &MessageId) -> Option<u64> {
        self.ids.get(id).copied()
    }

    /// Keeps one more; the id in it does not matter. Returns its id.
    pub(super) fn keep(&mut self, mut delayed: DelayedEntry<C>) -> u64 {
        self.given += 1;
        delayed.id = self.given;
        self.put_back(delayed);
        self.given
    }

    /// Keeps one that has its id already.
    pub(super) fn put_back(&mut self, delayed: DelayedEntry<C>) {
        if let Some(id) = delayed.entry.id {
            self.ids.insert(id, delayed.id);
        }
        self.held.add(&delayed.owner, delayed.weight());
        self.due.insert((delayed.due, delayed.id));
        self.messages.insert(delayed.id, delayed);
    }

    /// Takes one out.
    pub(super) fn take(&mut self, id: u64) -> Option<DelayedEntry<C>> {
        let delayed = self.messages.remove(&id)?;
        self.due.remove(&(delayed.due, id));
        self.held.remove(&delayed.owner, delayed.weight());
        if let Some(id) = &delayed.entry.id {
            self.ids.remove(id);
        }
        Some(delayed)
    }

    /// What is in all of them.
    pub(super) fn into_contents(self) -> impl Iterator<Item = C> {
        self.messages.into_values().map(|delayed| delayed.entry.content)
    }

    /// When the first is due.
    pub(super) fn first_due(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Those that are due by then, at most so many.
    pub(super) fn due_by(&self, until: u64, most: usize) -> Vec<DelayedEntry<C>> {
        let mut bytes = 0;
        let due = self.due.range(..=(until, u64::MAX)).take(most).map_while(|(_, id)| {
            let delayed = self.messages.get(id).filter(|_| bytes < limits::STORE_PAGE_BYTES)?;
            bytes += delayed.weight();
            Some(delayed.clone())
        });
        due.collect()
    }
}
