//! Fragments as small numbers, each text kept once however many nodes bear it.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use foldhash::fast::RandomState;

use super::{NONE, index_of, shrink_if_sparse, table_memory};

/// A fragment that some node of the trie bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Symbol(pub(super) u32);

/// The fragments in use, counted.
///
/// A published topic is hashed once per fragment here; each step in the trie is then a comparison of
/// two numbers. The hash is seeded for each trie, so that peers cannot choose fragments that collide.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// The first symbol of each hash: a third of the memory that a table with the texts would take.
    by_hash: HashMap<u32, Symbol, BuildHasherDefault<Spread>>,
    seed: RandomState,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Of the texts.
    text_bytes: usize,
}

/// Spreads what is a hash already over the bits that a table looks at.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    #[inline]
    fn write_u32(&mut self, hash: u32) {
        // An odd number without a pattern in its bits: the golden ratio's fraction.
        self.0 = u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(self.0 as u32 ^ u32::from(*byte));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Slot {
    text: Box<str>,
    uses: u32,
    /// The next symbol with the same hash.
    next: u32,
}

impl Symbols {
    /// The symbol of `text`, if any node bears it.
    #[inline]
    pub(super) fn find(&self, text: &str) -> Option<Symbol> {
        let mut symbol = self.by_hash.get(&self.hash(text))?.0;
        while let Some(slot) = self.slots.get(symbol as usize) {
            if *slot.text == *text {
                return Some(Symbol(symbol));
            }
            symbol = slot.next;
        }
        None
    }

    /// The symbol of `text` for one more node, to be given back by [`release`](Self::release).
    pub(super) fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.find(text) {
            self.slots[symbol.0 as usize].uses += 1;
            return symbol;
        }
        let hash = self.hash(text);
        let next = self.by_hash.get(&hash).map_or(NONE, |first| first.0);
        let slot = Slot { text: text.into(), uses: 1, next };
        self.text_bytes += text.len();
        let symbol = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            Symbol(index)
        } else {
            self.slots.push(slot);
            Symbol(index_of(self.slots.len() - 1))
        };
        self.by_hash.insert(hash, symbol);
        symbol
    }

    /// Says that one node less bears `symbol`; with the last one its text is forgotten.
    pub(super) fn release(&mut self, symbol: Symbol) {
        let slot = &mut self.slots[symbol.0 as usize];
        slot.uses -= 1;
        if slot.uses > 0 {
            return;
        }
        let text = std::mem::take(&mut slot.text);
        let next = std::mem::replace(&mut slot.next, NONE);
        self.text_bytes -= text.len();
        self.unlink(self.hash(&text), symbol, next);
        self.free.push(symbol.0);
        shrink_if_sparse(&mut self.by_hash);
    }

    /// Takes a symbol out of the list of its hash; `next` follows it there.
    fn unlink(&mut self, hash: u32, symbol: Symbol, next: u32) {
        match self.by_hash.get(&hash) {
            Some(first) if *first == symbol && next == NONE => {
                self.by_hash.remove(&hash);
            }
            Some(first) if *first == symbol => {
                self.by_hash.insert(hash, Symbol(next));
            }
            Some(first) => {
                let mut before = first.0;
                while let Some(slot) = self.slots.get_mut(before as usize) {
                    if slot.next == symbol.0 {
                        slot.next = next;
                        return;
                    }
                    before = slot.next;
                }
            }
            None => {}
        }
    }

    #[inline]
    fn hash(&self, text: &str) -> u32 {
        self.seed.hash_one(text) as u32
    }

    /// Bytes of memory that are held.
    pub(super) fn memory(&self) -> usize {
        self.text_bytes
            + self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * size_of::<u32>()
            + table_memory(&self.by_hash)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
