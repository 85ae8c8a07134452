//! What a receiver remembers of senders.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use foldhash::fast::RandomState;

use super::cipher::Algorithm;
use super::key::KeyId;
use super::window::Window;
use crate::limits;

/// Who encrypts, with what: each has a message key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) sender: [u8; 16],
    pub(super) key: KeyId,
    pub(super) algorithm: Algorithm,
}

/// Whose messages are numbered together: nobody without the secret of a signer can use up his numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Numbered {
    pub(super) source: Source,
    /// Who has signed, if it was signed.
    pub(super) signer: Option<[u8; 32]>,
}

/// What is known of those that have come last. At its limit it lets go of the one that has not come for the longest time.
pub(super) struct Recent<K, T> {
    most: usize,
    places: HashMap<K, u32, RandomState>,
    slots: Vec<Slot<K, T>>,
    /// A list through the slots, from the one that came last.
    first: u32,
    last: u32,
}

struct Slot<K, T> {
    key: K,
    value: T,
    before: u32,
    after: u32,
}

/// Where a list ends.
const NONE: u32 = u32::MAX;

/// Which messages have come, of whom.
#[derive(Debug)]
pub(super) struct Windows {
    of: Recent<Numbered, Box<Window>>,
    /// For those whose windows had to make room, one more than the highest number that has come.
    ended: Recent<Numbered, u64>,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self {
            of: Recent::new(limits::ENCRYPTION_SENDERS),
            ended: Recent::new(limits::ENCRYPTION_SENDERS_PAST),
        }
    }

    /// Notes that a message has come; `false` if it has come before, or is too old to tell.
    pub(super) fn note(&mut self, numbered: &Numbered, sequence: u64) -> bool {
        if let Some(window) = self.of.of(numbered) {
            return window.note(sequence);
        }
        let next = self.ended.of(numbered).copied().unwrap_or_default();
        if sequence < next {
            return false;
        }
        let mut window = Box::new(Window::beginning_at(next));
        let is_new = window.note(sequence);
        // What was there of it is behind now, and goes when others need the place.
        if let Some((ended, window)) = self.of.insert(*numbered, window) {
            match self.ended.of(&ended) {
                Some(next) => *next = window.next(),
                None => drop(self.ended.insert(ended, window.next())),
            }
        }
        is_new
    }

    /// Forgets those of which this is not true.
    pub(super) fn retain(&mut self, keeps: impl Fn(&Source) -> bool) {
        self.of.retain(|numbered| keeps(&numbered.source));
        self.ended.retain(|numbered| keeps(&numbered.source));
    }
}

impl<K: Copy + Eq + Hash, T> Recent<K, T> {
    /// A table of at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, places: HashMap::default(), slots: Vec::new(), first: NONE, last: NONE }
    }

    /// What is kept of this one, which has come last by that.
    pub(super) fn of(&mut self, key: &K) -> Option<&mut T> {
        let index = match self.slot(self.first) {
            // Most often it is the same as before.
            Some(slot) if slot.key == *key => self.first,
            _ => {
                let index = *self.places.get(key)?;
                self.unlink(index);
                self.link(index);
                index
            }
        };
        self.slots.get_mut(index as usize).map(|slot| &mut slot.value)
    }

    /// Keeps this of one of which nothing is kept. Returns what it lets go of for that.
    pub(super) fn insert(&mut self, key: K, value: T) -> Option<(K, T)> {
        let (index, before) = if self.slots.len() < self.most {
            let index = u32::try_from(self.slots.len()).unwrap_or(NONE);
            self.slots.push(Slot { key, value, before: NONE, after: NONE });
            (index, None)
        } else {
            let index = self.last;
            self.unlink(index);
            let slot = self.slots.get_mut(index as usize)?;
            self.places.remove(&slot.key);
            let before = (std::mem::replace(&mut slot.key, key), std::mem::replace(&mut slot.value, value));
            (index, Some(before))
        };
        self.places.insert(key, index);
        self.link(index);
        before
    }

    /// Forgets those of which this is not true.
    pub(super) fn retain(&mut self, keeps: impl Fn(&K) -> bool) {
        if self.slots.iter().all(|slot| keeps(&slot.key)) {
            return;
        }
        let mut order = Vec::with_capacity(self.slots.len());
        let mut index = self.last;
        while let Some(slot) = self.slot(index) {
            order.push(index);
            index = slot.before;
        }
        let mut slots: Vec<_> = std::mem::take(&mut self.slots).into_iter().map(Some).collect();
        self.places.clear();
        (self.first, self.last) = (NONE, NONE);
        // In their order, the one that came last at the end.
        for index in order {
            if let Some(slot) = slots.get_mut(index as usize).and_then(Option::take)
                && keeps(&slot.key)
            {
                self.insert(slot.key, slot.value);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, index: u32) -> Option<&Slot<K, T>> {
        self.slots.get(index as usize)
    }

    /// Takes a slot out of the list.
    fn unlink(&mut self, index: u32) {
        let Some(&Slot { before, after, .. }) = self.slot(index) else { return };
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.after = after,
            None => self.first = after,
        }
        match self.slots.get_mut(after as usize) {
            Some(slot) => slot.before = before,
            None => self.last = before,
        }
    }

    /// Puts a slot first in the list.
    fn link(&mut self, index: u32) {
        let first = std::mem::replace(&mut self.first, index);
        if let Some(slot) = self.slots.get_mut(index as usize) {
            (slot.before, slot.after) = (NONE, first);
        }
        match self.slots.get_mut(first as usize) {
            Some(slot) => slot.before = index,
            None => self.last = index,
        }
    }
}

impl<K, T> fmt::Debug for Recent<K, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Recent").field("count", &self.slots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: u8) -> Source {
        Source {
            sender: [number; 16],
            key: KeyId::from_bytes([number % 3; 8]),
            algorithm: Algorithm::default(),
        }
    }

    proptest! {
        #[test]
        fn the_one_that_has_not_come_for_the_longest_time_is_forgotten(
            steps in prop::collection::vec((0..12_u8, 0..20_u8), 0..200),
        ) {
            let mut senders = Recent::new(5);
            // The one that came last at the end.
            let mut model: Vec<u8> = Vec::new();
            for (number, what) in steps {
                if what == 0 {
                    let gone = KeyId::from_bytes([number % 3; 8]);
                    senders.retain(|source: &Source| source.key != gone);
                    model.retain(|other| other % 3 != number % 3);
                }
                let known = model.iter().position(|other| *other == number);
                prop_assert_eq!(senders.of(&source(number)).map(|value| *value), known.map(|_| number));
                match known {
                    Some(at) => drop(model.remove(at)),
                    None => {
                        let oldest = (model.len() == 5).then(|| model.remove(0));
                        let let_go = senders.insert(source(number), number);
                        prop_assert_eq!(let_go, oldest.map(|oldest| (source(oldest), oldest)));
                    }
                }
                model.push(number);
                prop_assert_eq!(senders.len(), model.len());
            }
        }
    }
}
