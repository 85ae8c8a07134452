//! The entries of the trie: for each node a list, in the order of their insertion.

use super::nodes::NodeIndex;
use super::{NONE, index_of};

/// Names one entry of a [`Trie`](super::Trie), to remove it.
///
/// An id is never given twice by the same trie; after the entry is removed it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId {
    index: u32,
    serial: u64,
}

/// Where a visit of a list stopped: before this entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    index: u32,
    serial: u64,
}

#[derive(Debug)]
struct Entry<V> {
    /// `None` while the slot is free.
    value: Option<V>,
    node: NodeIndex,
    next: u32,
    /// The entry before this one; for the first of a list, its last.
    previous: u32,
    serial: u64,
}

/// All entries, in a slab whose free slots are used again.
#[derive(Debug)]
pub(super) struct Entries<V> {
    slots: Vec<Entry<V>>,
    free: Vec<u32>,
    next_serial: u64,
}

impl<V> Entries<V> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), next_serial: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Gives the memory back. There must be no entries.
    pub(super) fn release_memory(&mut self) {
        self.slots = Vec::new();
        self.free = Vec::new();
    }

    /// Bytes of memory that are held.
    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Entry<V>>() + self.free.capacity() * size_of::<u32>()
    }

    pub(super) fn find(&self, id: EntryId) -> Option<&V> {
        let entry = self.slots.get(id.index as usize)?;
        entry.value.as_ref().filter(|_| entry.serial == id.serial)
    }

    /// Appends a value to the list that begins at `first`.
    pub(super) fn append(&mut self, node: NodeIndex, first: &mut u32, value: V) -> EntryId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let entry = Entry { value: Some(value), node, next: NONE, previous: NONE, serial };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = entry;
            index
        } else {
            self.slots.push(entry);
            index_of(self.slots.len() - 1)
        };
        if *first == NONE {
            *first = index;
            self.slots[index as usize].previous = index;
        } else {
            let last = std::mem::replace(&mut self.slots[*first as usize].previous, index);
            self.slots[last as usize].next = index;
            self.slots[index as usize].previous = last;
        }
        EntryId { index, serial }
    }

    /// The node whose list holds the entry, if there is such an entry.
    pub(super) fn node_of(&self, id: EntryId) -> Option<NodeIndex> {
        self.find(id)?;
        Some(self.slots[id.index as usize].node)
    }

    /// Takes an entry out of the list that begins at `first`.
    pub(super) fn remove(&mut self, id: EntryId, first: &mut u32) -> Option<V> {
        self.find(id)?;
        let index = id.index;
        let entry = &mut self.slots[index as usize];
        let value = entry.value.take();
        let (previous, next) = (entry.previous, entry.next);
        if index == *first {
            *first = next;
        } else {
            self.slots[previous as usize].next = next;
        }
        // Whoever kept the link back to this entry: the one after it, or the first of the list.
        let keeper = if next == NONE { *first } else { next };
        if keeper != NONE {
            self.slots[keeper as usize].previous = previous;
        }
        self.free.push(index);
        value
    }

    /// The serial of the next entry; all so far have smaller ones.
    #[inline]
    /// The values of the list that begins at `first`.
    pub(super) fn list(&self, first: u32) -> impl Iterator<Item = &V> {
        let entry = |index: u32| self.slots.get(index as usize);
        std::iter::successors(entry(first), move |before| entry(before.next))
            .filter_map(|entry| entry.value.as_ref())
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// Calls `found` for the values of the list that begins at `first`, in the order of their serials:
    /// those below `until`, beginning at the `place` where an earlier call stopped, about `steps` of them.
    /// Returns how many there were, and where to go on.
    #[inline]
    pub(super) fn visit(
        &self,
        first: u32,
        place: Option<Place>,
        until: u64,
        steps: usize,
        found: &mut impl FnMut(&V),
    ) -> (usize, Option<Place>) {
        let (mut index, from) = match place {
            None => (first, 0),
            Some(Place { index, serial }) => (self.resume(first, index, serial), serial),
        };
        let mut taken = 0;
        while index != NONE {
            let entry = &self.slots[index as usize];
            if entry.serial >= until {
                break;
            }
            if entry.serial >= from
                && let Some(value) = &entry.value
            {
                if taken == steps {
                    return (taken, Some(Place { index, serial: entry.serial }));
                }
                found(value);
                taken += 1;
            }
            index = entry.next;
        }
        (taken, None)
    }

    /// The entry to go on with: the one at `index`, or all from the first if it was removed.
    fn resume(&self, first: u32, index: u32, serial: u64) -> u32 {
        let stays = |entry: &Entry<V>| entry.serial == serial && entry.value.is_some();
        if self.slots.get(index as usize).is_some_and(stays) { index } else { first }
    }
}
