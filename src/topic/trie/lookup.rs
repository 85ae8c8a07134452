//! Finding the entries that a published text meets.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::nodes::{Label, Node, NodeIndex, Nodes};
use super::symbols::Symbol;
use super::{NONE, Trie};
use crate::limits::{MAX_TOPIC_BYTES, SCRATCH_RETAINED_STATES};
use crate::topic::steps::{Step, Steps};

/// Memory that a lookup works in, kept from one lookup to the next.
///
/// A lookup of a concrete topic allocates nothing once the scratch has served a few. Each thread that
/// looks up needs its own. What a single large lookup needed is given back beyond
/// [`SCRATCH_RETAINED_STATES`].
#[derive(Debug, Default)]
pub struct Scratch {
    steps: Vec<Sought>,
    pending: Vec<State>,
    seen: HashSet<(NodeIndex, u16), RandomState>,
}

impl Scratch {
    /// A scratch that holds no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> (usize, usize) {
        (self.pending.capacity(), self.seen.capacity())
    }

    fn clear(&mut self) {
        self.pending.clear();
        self.pending.shrink_to(SCRATCH_RETAINED_STATES);
        self.seen.clear();
        // The table keeps its capacity when it is cleared, and clearing costs as much.
        if self.seen.capacity() > 2 * SCRATCH_RETAINED_STATES {
            self.seen.shrink_to(SCRATCH_RETAINED_STATES);
        }
    }
}

/// A step of the published text, as the trie sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sought {
    Literal(Symbol),
    /// A literal that no node bears: only wildcards take it.
    Unknown,
    One,
    Many,
}

/// A node together with the number of published steps that its path has used up.
#[derive(Clone, Copy, Debug)]
struct State {
    node: NodeIndex,
    position: u16,
    /// How many `**` there are on the path to the node and among the published steps up to and including
    /// the one at `position`. Both follow from the state itself, so all ways to it agree.
    ///
    /// Below two there is a single way to a state: with one `**` in all, the lengths of the two sides
    /// leave no choice how many fragments it takes. Only from two on can a state come up again.
    doubles: u8,
}

/// Doubles at which a state may be reached in more than one way.
const AMBIGUOUS_DOUBLES: u8 = 2;

impl<V> Trie<V> {
    /// Calls `found` once for each entry whose pattern meets `published`.
    ///
    /// `published` is the text of a [`Topic`](crate::topic::Topic) or of a
    /// [`TopicPattern`](crate::topic::TopicPattern), or one that
    /// [`validate_pattern`](crate::topic::validate_pattern) accepted. Entries of the same pattern come in
    /// the order of their insertion; there is no order between patterns.
    ///
    /// The lookup changes nothing, so many threads may look up at once, each with its own `scratch`. See
    /// [`Trie`] for the cost.
    pub fn visit(&self, published: &str, scratch: &mut Scratch, mut found: impl FnMut(&V)) {
        if published.len() > MAX_TOPIC_BYTES {
            return;
        }
        let root = Self::root_for(published);
        if self.nodes.at(root).is_unused() {
            return;
        }
        // A `found` that panicked may have left a lookup half done.
        scratch.clear();
        self.resolve(published, &mut scratch.steps);
        let mut walk = Walk { nodes: &self.nodes, steps: &scratch.steps, pending: &mut scratch.pending };
        walk.push_at(root, 0, 0);
        while let Some(mut state) = walk.pending.pop() {
            let node = self.nodes.at(state.node);
            if node.label == Label::Many && node.first_child == NONE {
                // A `**` at the end of its patterns takes all that is left.
                state.position = walk.end();
            }
            if state.doubles >= AMBIGUOUS_DOUBLES && !scratch.seen.insert((state.node, state.position)) {
                continue;
            }
            if state.position == walk.end() {
                self.entries.visit(node.first_entry, &mut found);
            }
            walk.advance(state, node);
        }
        scratch.clear();
    }

    fn resolve(&self, published: &str, steps: &mut Vec<Sought>) {
        steps.clear();
        steps.extend(Steps::new(published).map(|step| match step {
            Step::One => Sought::One,
            Step::Many => Sought::Many,
            Step::Literal(text) => self.symbols.find(text).map_or(Sought::Unknown, Sought::Literal),
        }));
    }
}

/// A lookup under way.
struct Walk<'a> {
    nodes: &'a Nodes,
    steps: &'a [Sought],
    pending: &'a mut Vec<State>,
}

impl Walk<'_> {
    /// The position after the last step. There are at most `MAX_TOPIC_BYTES` steps.
    #[inline]
    fn end(&self) -> u16 {
        u16::try_from(self.steps.len()).unwrap_or(u16::MAX)
    }

    /// Notes all states that follow from this one.
    #[inline]
    fn advance(&mut self, state: State, node: &Node) {
        let State { node: index, position, doubles } = state;
        if node.many != NONE {
            self.push(node.many, position, doubles.saturating_add(1));
        }
        let Some(&sought) = self.steps.get(usize::from(position)) else {
            return;
        };
        if sought == Sought::Many {
            // The published `**` takes nothing more, or it takes one step of the trie and stays. A `**`
            // of the trie needs no step of its own here: it is left by the first and entered above.
            self.push_at(index, position + 1, doubles);
            self.push_children(node, |walk, child| walk.push(child, position, doubles));
            if node.one != NONE {
                self.push(node.one, position, doubles);
            }
            return;
        }
        match sought {
            Sought::Literal(symbol) => {
                let child = self.nodes.child(node, index, symbol);
                if child != NONE {
                    self.push_at(child, position + 1, doubles);
                }
            }
            Sought::One => {
                self.push_children(node, |walk, child| {
                    walk.push_at(child, position + 1, doubles);
                });
            }
            Sought::Unknown | Sought::Many => {}
        }
        if node.one != NONE {
            self.push_at(node.one, position + 1, doubles);
        }
        if node.label == Label::Many {
            self.push_at(index, position + 1, doubles);
        }
    }

    #[inline]
    fn push_children(&mut self, node: &Node, push: impl Fn(&mut Self, NodeIndex)) {
        let mut child = node.first_child;
        while child != NONE {
            push(self, child);
            child = self.nodes.at(child).next_sibling;
        }
    }

    /// Notes a state at a position that was reached before.
    #[inline]
    fn push(&mut self, node: NodeIndex, position: u16, doubles: u8) {
        self.pending.push(State { node, position, doubles });
    }

    /// Notes a state at a position that is new to its path, and counts the `**` that may stand there.
    #[inline]
    fn push_at(&mut self, node: NodeIndex, position: u16, doubles: u8) {
        let at_double = self.steps.get(usize::from(position)) == Some(&Sought::Many);
        self.push(node, position, doubles.saturating_add(at_double.into()));
    }
}
