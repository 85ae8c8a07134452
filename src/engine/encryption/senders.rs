//! What a receiver remembers of senders.

use std::collections::HashMap;
use std::fmt;

use foldhash::fast::RandomState;

use super::cipher::{Algorithm, Cipher};
use super::key::KeyId;
use super::window::Window;

/// Who encrypts, with what: each has a message key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) sender: [u8; 16],
    pub(super) key: KeyId,
    pub(super) algorithm: Algorithm,
}

/// Of the sources that have come last, what is costly to find out again. At its limit it forgets the one that has not
/// come for the longest time.
pub(super) struct Senders<T> {
    most: usize,
    places: HashMap<Source, u32, RandomState>,
    slots: Vec<Slot<T>>,
    /// A list through the slots, from the one that came last.
    first: u32,
    last: u32,
}

struct Slot<T> {
    source: Source,
    value: T,
    before: u32,
    after: u32,
}

/// Where a list ends.
const NONE: u32 = u32::MAX;

/// What is kept of a source whose messages come once each.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) cipher: Cipher,
    pub(super) window: Box<Window>,
}

impl<T> Senders<T> {
    /// A table of at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, places: HashMap::default(), slots: Vec::new(), first: NONE, last: NONE }
    }

    /// What is kept of this source, which has come last by that.
    pub(super) fn of(&mut self, source: &Source) -> Option<&mut T> {
        let index = match self.slot(self.first) {
            // Most often it is the same as before.
            Some(slot) if slot.source == *source => self.first,
            _ => {
                let index = *self.places.get(source)?;
                self.unlink(index);
                self.link(index);
                index
            }
        };
        self.slots.get_mut(index as usize).map(|slot| &mut slot.value)
    }

    /// Keeps this of a source of which nothing is kept.
    pub(super) fn insert(&mut self, source: Source, value: T) {
        let index = if self.slots.len() < self.most {
            let index = u32::try_from(self.slots.len()).unwrap_or(NONE);
            self.slots.push(Slot { source, value, before: NONE, after: NONE });
            index
        } else {
            let index = self.last;
            self.unlink(index);
            let Some(slot) = self.slots.get_mut(index as usize) else { return };
            self.places.remove(&slot.source);
            (slot.source, slot.value) = (source, value);
            index
        };
        self.places.insert(source, index);
        self.link(index);
    }

    /// Forgets those of which this is not true.
    pub(super) fn retain(&mut self, keeps: impl Fn(&Source) -> bool) {
        if self.slots.iter().all(|slot| keeps(&slot.source)) {
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
                && keeps(&slot.source)
            {
                self.insert(slot.source, slot.value);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
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

impl<T> fmt::Debug for Senders<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Senders").field("count", &self.slots.len()).finish_non_exhaustive()
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
            let mut senders = Senders::new(5);
            // The one that came last at the end.
            let mut model: Vec<u8> = Vec::new();
            for (number, what) in steps {
                if what == 0 {
                    let gone = KeyId::from_bytes([number % 3; 8]);
                    senders.retain(|source| source.key != gone);
                    model.retain(|other| other % 3 != number % 3);
                }
                let known = model.iter().position(|other| *other == number);
                prop_assert_eq!(senders.of(&source(number)).map(|value| *value), known.map(|_| number));
                match known {
                    Some(at) => drop(model.remove(at)),
                    None => {
                        senders.insert(source(number), number);
                        if model.len() == 5 {
                            model.remove(0);
                        }
                    }
                }
                model.push(number);
                prop_assert_eq!(senders.len(), model.len());
            }
        }
    }
}
