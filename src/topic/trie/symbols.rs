//! Fragments as small numbers, each text kept once however many nodes bear it.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::shrink_if_sparse;

/// A fragment that some node of the trie bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Symbol(u32);

/// The fragments in use, counted.
///
/// A published topic is hashed once per fragment here; each step in the trie is then a comparison of
/// two numbers. The hash is seeded for each trie, so that peers cannot choose fragments that collide.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    by_text: HashMap<Arc<str>, Symbol, RandomState>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    text: Arc<str>,
    uses: u32,
}

impl Symbols {
    /// The symbol of `text`, if any node bears it.
    #[inline]
    pub(super) fn find(&self, text: &str) -> Option<Symbol> {
        self.by_text.get(text).copied()
    }

    /// The symbol of `text` for one more node, to be given back by [`release`](Self::release).
    pub(super) fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.by_text.get(text) {
            self.slots[symbol.0 as usize].uses += 1;
            return symbol;
        }
        let text: Arc<str> = text.into();
        let slot = Slot { text: Arc::clone(&text), uses: 1 };
        let symbol = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            Symbol(index)
        } else {
            self.slots.push(slot);
            Symbol(super::index_of(self.slots.len() - 1))
        };
        self.by_text.insert(text, symbol);
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
        self.by_text.remove(&text);
        self.free.push(symbol.0);
        shrink_if_sparse(&mut self.by_text);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_text.len()
    }
}
