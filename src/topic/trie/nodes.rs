//! The nodes of the trie and the edges between them.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::symbols::Symbol;
use super::{NONE, index_of, shrink_if_sparse, table_memory};

/// Index of a node in [`Nodes`].
pub(super) type NodeIndex = u32;

/// How a node is reached from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// It is a root.
    Root,
    /// By any one fragment.
    One,
    /// By any number of fragments.
    Many,
    /// By one fragment.
    Literal(Symbol),
}

impl Label {
    // Above all symbols, of which there are not more than nodes.
    const ROOT: u32 = u32::MAX;
    const ONE: u32 = u32::MAX - 1;
    const MANY: u32 = u32::MAX - 2;

    /// The label as a node keeps it: in half the size.
    #[inline]
    fn packed(self) -> u32 {
        match self {
            Self::Root => Self::ROOT,
            Self::One => Self::ONE,
            Self::Many => Self::MANY,
            Self::Literal(symbol) => symbol.0,
        }
    }

    #[inline]
    fn unpacked(packed: u32) -> Self {
        match packed {
            Self::ROOT => Self::Root,
            Self::ONE => Self::One,
            Self::MANY => Self::Many,
            symbol => Self::Literal(Symbol(symbol)),
        }
    }
}

/// A node: a prefix that patterns in the trie share.
///
/// The children by literal form a list through the children themselves. The first of the list is
/// compared directly and the others are found in the edge table of [`Nodes`], so that a chain of single
/// children, the common case, costs no table at all.
#[derive(Debug)]
pub(super) struct Node {
    label: u32,
    /// First of the entries that end here.
    pub(super) first_entry: u32,
    /// First child by literal.
    pub(super) first_child: NodeIndex,
    /// Next child by literal of the same parent.
    pub(super) next_sibling: NodeIndex,
    previous_sibling: NodeIndex,
    /// The child by `*`.
    pub(super) one: NodeIndex,
    /// The child by `**`.
    pub(super) many: NodeIndex,
    pub(super) parent: NodeIndex,
}

impl Node {
    fn new(label: Label, parent: NodeIndex) -> Self {
        Self {
            label: label.packed(),
            first_entry: NONE,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            one: NONE,
            many: NONE,
            parent,
        }
    }

    /// How it is reached from its parent.
    #[inline]
    pub(super) fn label(&self) -> Label {
        Label::unpacked(self.label)
    }

    /// Whether nothing ends at this node or below it.
    pub(super) fn is_unused(&self) -> bool {
        self.first_entry == NONE && self.first_child == NONE && self.one == NONE && self.many == NONE
    }
}

/// All nodes, in a slab whose free slots are used again.
#[derive(Debug)]
pub(super) struct Nodes {
    slots: Vec<Node>,
    free: Vec<NodeIndex>,
    /// Every child by literal that is not the first of its parent's list.
    edges: HashMap<(NodeIndex, Symbol), NodeIndex, RandomState>,
}

impl Nodes {
    /// Root of the patterns that are not reserved.
    pub(super) const COMMON_ROOT: NodeIndex = 0;
    /// Root of the reserved patterns. Apart from the others, no wildcard can lead to them.
    pub(super) const RESERVED_ROOT: NodeIndex = 1;

    const ROOTS: usize = 2;

    pub(super) fn new() -> Self {
        Self {
            slots: (0..Self::ROOTS).map(|_| Node::new(Label::Root, NONE)).collect(),
            free: Vec::new(),
            edges: HashMap::default(),
        }
    }

    /// Number of nodes, without the roots.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - Self::ROOTS - self.free.len()
    }

    /// Number of nodes that memory is held for.
    pub(super) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Bytes of memory that are held.
    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Node>()
            + self.free.capacity() * size_of::<NodeIndex>()
            + table_memory(&self.edges)
    }

    /// The node in this place, if there is or was one.
    #[inline]
    pub(super) fn find(&self, index: NodeIndex) -> Option<&Node> {
        self.slots.get(index as usize)
    }

    #[inline]
    pub(super) fn at(&self, index: NodeIndex) -> &Node {
        &self.slots[index as usize]
    }

    pub(super) fn at_mut(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.slots[index as usize]
    }

    /// The child of `parent` by the literal `symbol`, or `NONE`.
    #[inline]
    pub(super) fn child(&self, parent: &Node, index: NodeIndex, symbol: Symbol) -> NodeIndex {
        if parent.first_child == NONE {
            return NONE;
        }
        let first = self.at(parent.first_child);
        if first.label == symbol.0 {
            return parent.first_child;
        }
        if first.next_sibling == NONE {
            return NONE;
        }
        self.edges.get(&(index, symbol)).copied().unwrap_or(NONE)
    }

    /// Adds a child of `parent`, which must not have one by `label` yet.
    pub(super) fn add(&mut self, parent: NodeIndex, label: Label) -> NodeIndex {
        let index = self.allocate(Node::new(label, parent));
        match label {
            Label::Root => {}
            Label::One => self.at_mut(parent).one = index,
            Label::Many => self.at_mut(parent).many = index,
            Label::Literal(symbol) => self.link(parent, index, symbol),
        }
        index
    }

    /// Removes a node that has no children, and gives back its label.
    pub(super) fn remove(&mut self, index: NodeIndex) -> Label {
        let (label, parent) = (self.at(index).label(), self.at(index).parent);
        match label {
            Label::Root => return label,
            Label::One => self.at_mut(parent).one = NONE,
            Label::Many => self.at_mut(parent).many = NONE,
            Label::Literal(symbol) => self.unlink(parent, index, symbol),
        }
        self.free.push(index);
        label
    }

    fn allocate(&mut self, node: Node) -> NodeIndex {
        if let Some(index) = self.free.pop() {
            *self.at_mut(index) = node;
            return index;
        }
        self.slots.push(node);
        index_of(self.slots.len() - 1)
    }

    /// Puts a child second in the list of its parent, or first if it is the only one.
    fn link(&mut self, parent: NodeIndex, index: NodeIndex, symbol: Symbol) {
        let first = self.at(parent).first_child;
        if first == NONE {
            self.at_mut(parent).first_child = index;
            return;
        }
        self.edges.insert((parent, symbol), index);
        let second = self.at(first).next_sibling;
        self.at_mut(first).next_sibling = index;
        let node = self.at_mut(index);
        node.previous_sibling = first;
        node.next_sibling = second;
        if second != NONE {
            self.at_mut(second).previous_sibling = index;
        }
    }

    fn unlink(&mut self, parent: NodeIndex, index: NodeIndex, symbol: Symbol) {
        let node = self.at(index);
        let (previous, next) = (node.previous_sibling, node.next_sibling);
        if next != NONE {
            self.at_mut(next).previous_sibling = previous;
        }
        if previous == NONE {
            self.at_mut(parent).first_child = next;
            // The one that moves up is found without the table from now on.
            if next != NONE
                && let Label::Literal(promoted) = self.at(next).label()
            {
                self.edges.remove(&(parent, promoted));
            }
        } else {
            self.at_mut(previous).next_sibling = next;
            self.edges.remove(&(parent, symbol));
        }
        shrink_if_sparse(&mut self.edges);
    }

    #[cfg(test)]
    pub(super) fn edge_count(&self) -> usize {
        self.edges.len()
    }
}
