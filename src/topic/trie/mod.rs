//! The subscription trie.

mod entries;
mod lookup;
mod nodes;
mod symbols;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash};

use thiserror::Error;

pub use entries::EntryId;
pub use lookup::{Progress, Scratch};

use self::entries::Entries;
use self::nodes::{Label, NodeIndex, Nodes};
use self::symbols::Symbols;
use super::pattern::TopicPattern;
use super::steps::{MAX_STEPS, Step, Steps};
use super::validate::is_reserved;
use crate::limits::{LOOKUP_WIDTH, MAX_TRIE_ENTRIES, TRIE_RETAINED_NODES};

/// No node or entry. No index reaches it, since [`MAX_TRIE_ENTRIES`] keeps them all below.
const NONE: u32 = u32::MAX;

const _: () = assert!(MAX_TRIE_ENTRIES < (NONE as usize - 2) / MAX_STEPS);

/// The trie holds [`MAX_TRIE_ENTRIES`] entries already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the subscription table holds {MAX_TRIE_ENTRIES} entries and takes no more; remove some first")]
#[non_exhaustive]
pub struct TrieFull;

/// A lookup leads to more than [`LOOKUP_WIDTH`] places at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a wildcard stands for more than {LOOKUP_WIDTH} fragments of the subscription table; use a narrower pattern"
)]
#[non_exhaustive]
pub struct LookupTooWide;

/// Values under patterns, found by the topic or pattern they meet.
///
/// The bus keeps one entry per subscription in it. It serves the opposite question too: with concrete
/// topics as entries, a pattern finds those that it matches.
///
/// # Cost
///
/// Let a published text have `m` fragments.
///
/// - [`insert`](Self::insert) and [`remove`](Self::remove) touch one node per fragment.
/// - [`visit`](Self::visit) sees each node at most once, whatever the wildcards on either side, and looks
///   there for at most `m` children or at all of them: a published wildcard can lead to every node. For a
///   concrete topic over patterns without `**` it sees those nodes only whose path matches. A child is
///   found in constant time, however many there are. [`proceed`](Self::proceed) does the same in pieces.
/// - A node takes 32 bytes; an edge to a child that is not its parent's first about 20 more; an entry 24
///   bytes and its value; each distinct fragment is kept once and takes about 40 bytes and its text.
///   [`memory`](Self::memory) tells how much it is in all.
///
/// Memory is used again after removals. The last entry to go takes all nodes with it.
///
/// # Examples
///
/// ```
/// use whispeer::topic::{Scratch, TopicPattern, Trie};
///
/// let mut trie = Trie::new();
/// let alice = trie.insert(&TopicPattern::new("hello/alice")?, "alice")?;
/// trie.insert(&TopicPattern::new("hello/*")?, "everyone")?;
///
/// let mut scratch = Scratch::new();
/// let mut found = Vec::new();
/// trie.visit("hello/alice", &mut scratch, |name| found.push(*name));
/// found.sort();
/// assert_eq!(found, ["alice", "everyone"]);
///
/// assert_eq!(trie.remove(alice), Some("alice"));
/// assert_eq!(trie.remove(alice), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Trie<V> {
    nodes: Nodes,
    symbols: Symbols,
    entries: Entries<V>,
}

impl<V> Trie<V> {
    /// An empty trie.
    #[must_use]
    pub fn new() -> Self {
        Self { nodes: Nodes::new(), symbols: Symbols::default(), entries: Entries::new() }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of nodes that the entries need; 0 when there are none.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Bytes of memory that it holds, without what the values refer to and what the allocator adds.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.nodes.memory() + self.symbols.memory() + self.entries.memory()
    }

    /// Adds an entry. A pattern may have several; [`visit`](Self::visit) gives them in this order.
    ///
    /// # Errors
    ///
    /// [`TrieFull`] when there are [`MAX_TRIE_ENTRIES`] entries; the value is dropped.
    pub fn insert(&mut self, pattern: &TopicPattern, value: V) -> Result<EntryId, TrieFull> {
        if self.len() >= MAX_TRIE_ENTRIES {
            return Err(TrieFull);
        }
        let mut index = Self::root_for(pattern.as_str());
        for step in Steps::new(pattern.as_str()) {
            index = self.child_or_new(index, step);
        }
        let first = &mut self.nodes.at_mut(index).first_entry;
        Ok(self.entries.append(index, first, value))
    }

    /// The value of an entry, or `None` if it was removed.
    #[must_use]
    pub fn value(&self, id: EntryId) -> Option<&V> {
        self.entries.find(id)
    }

    /// The values of exactly this pattern, in the order in which they were inserted.
    ///
    /// # Examples
    /// ```
    /// use whispeer::topic::{TopicPattern, Trie};
    ///
    /// let mut trie = Trie::new();
    /// let news = TopicPattern::new("news/*")?;
    /// trie.insert(&news, 1)?;
    /// trie.insert(&TopicPattern::new("news/local")?, 2)?;
    /// trie.insert(&news, 3)?;
    /// assert_eq!(trie.at(&news).collect::<Vec<_>>(), [&1, &3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn at<'a>(&'a self, pattern: &TopicPattern) -> impl Iterator<Item = &'a V> + use<'a, V> {
        let mut index = Some(Self::root_for(pattern.as_str()));
        for step in Steps::new(pattern.as_str()) {
            index = index.and_then(|parent| self.child(parent, step));
        }
        self.entries.list(index.map_or(NONE, |index| self.nodes.at(index).first_entry))
    }

    /// Removes an entry, with the nodes that only it needed. `None` if it was removed before.
    pub fn remove(&mut self, id: EntryId) -> Option<V> {
        let index = self.entries.node_of(id)?;
        let first = &mut self.nodes.at_mut(index).first_entry;
        let value = self.entries.remove(id, first)?;
        self.prune(index);
        if self.is_empty() && self.nodes.capacity() > TRIE_RETAINED_NODES {
            self.nodes = Nodes::new();
            self.symbols = Symbols::default();
            self.entries.release_memory();
        }
        Some(value)
    }

    fn root_for(text: &str) -> NodeIndex {
        if is_reserved(text) { Nodes::RESERVED_ROOT } else { Nodes::COMMON_ROOT }
    }

    fn child(&self, parent: NodeIndex, step: Step<'_>) -> Option<NodeIndex> {
        let node = self.nodes.at(parent);
        let child = match step {
            Step::One => node.one,
            Step::Many => node.many,
            Step::Literal(text) => {
                self.symbols.find(text).map_or(NONE, |symbol| self.nodes.child(node, parent, symbol))
            }
        };
        (child != NONE).then_some(child)
    }

    fn child_or_new(&mut self, parent: NodeIndex, step: Step<'_>) -> NodeIndex {
        self.child(parent, step).unwrap_or_else(|| {
            let label = match step {
                Step::One => Label::One,
                Step::Many => Label::Many,
                Step::Literal(text) => Label::Literal(self.symbols.acquire(text)),
            };
            self.nodes.add(parent, label)
        })
    }

    /// Removes `index` and the nodes above it, as far as nothing needs them.
    fn prune(&mut self, mut index: NodeIndex) {
        loop {
            let node = self.nodes.at(index);
            if node.label() == Label::Root || !node.is_unused() {
                return;
            }
            let parent = node.parent;
            if let Label::Literal(symbol) = self.nodes.remove(index) {
                self.symbols.release(symbol);
            }
            index = parent;
        }
    }
}

/// Shows the size only: a trie may hold more than anyone wants to read.
impl<V> fmt::Debug for Trie<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Trie")
            .field("entries", &self.len())
            .field("nodes", &self.node_count())
            .finish()
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The index of a slot as it is stored. [`MAX_TRIE_ENTRIES`] keeps it below [`NONE`].
fn index_of(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(NONE)
}

/// Gives back most of a table's memory once it is mostly empty.
///
/// Half of what remains is left free, so that the cost is spread over the removals that led here.
fn shrink_if_sparse<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    const KEPT_CAPACITY: usize = 1_024;
    if table.capacity() > KEPT_CAPACITY && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

/// Bytes of memory that a table holds: a byte and a place for each bucket, of which an eighth stays empty.
fn table_memory<K, V, S>(table: &HashMap<K, V, S>) -> usize {
    match table.capacity() {
        0 => 0,
        capacity => (capacity * 8 / 7).next_power_of_two() * (1 + size_of::<(K, V)>()),
    }
}

#[cfg(test)]
mod tests;
