//! Finding the entries that a published text meets.

use super::entries::Place;
use super::nodes::{Label, Node, NodeIndex, Nodes};
use super::symbols::{Symbol, Symbols};
use super::{LookupTooWide, NONE, Trie};
use crate::limits::{LOOKUP_WIDTH, MAX_TOPIC_BYTES, SCRATCH_RETAINED_STATES};
use crate::topic::steps::{MAX_STEPS, Step, Steps};

/// Positions in the published text, one bit each; bit `n` stands before step `n`, the last after the end.
type Positions = u128;

const _: () = assert!(MAX_STEPS < Positions::BITS as usize);

/// Memory that a lookup works in, kept from one lookup to the next, and how far the lookup has come.
///
/// A lookup of a concrete topic allocates nothing once the scratch has served a few. Each thread that
/// looks up needs its own. What a single large lookup needed is given back beyond
/// [`SCRATCH_RETAINED_STATES`].
#[derive(Debug, Default)]
pub struct Scratch {
    sought: Sought,
    pending: Vec<State>,
    /// The node among whose entries it stopped, and where.
    stopped: Option<(NodeIndex, Place)>,
    /// Entries that were added later are not looked for.
    until: u64,
}

impl Scratch {
    /// A scratch that holds no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pending.capacity() * size_of::<State>()
    }

    fn clear(&mut self) {
        self.stopped = None;
        self.pending.clear();
        self.pending.shrink_to(SCRATCH_RETAINED_STATES);
    }
}

/// How far a lookup has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps it has taken this time.
    pub steps: usize,
    /// Nothing is left to be found.
    pub done: bool,
}

/// The steps of the published text, as the trie sees them: which positions stand before a step of each
/// kind.
#[derive(Debug)]
struct Sought {
    /// Before a `*`.
    one: Positions,
    /// Before a `**`.
    many: Positions,
    /// After the last step.
    end: Positions,
    /// Before a literal that some node bears. Only wildcards take the other literals.
    known: Positions,
    /// These literals, with the positions before each; in the order of their symbols if there are
    /// wildcards.
    literals: Vec<(Symbol, Positions)>,
    /// Which of them stands behind a known position.
    which: [u8; MAX_STEPS],
}

impl Default for Sought {
    fn default() -> Self {
        Self { one: 0, many: 0, end: 0, known: 0, literals: Vec::new(), which: [0; MAX_STEPS] }
    }
}

impl Sought {
    /// Reads a text; `false` if it has more steps than any that is valid.
    fn read(&mut self, published: &str, symbols: &Symbols) -> bool {
        self.literals.clear();
        (self.one, self.many, self.known) = (0, 0, 0);
        let mut position: Positions = 1;
        for (index, step) in Steps::new(published).enumerate() {
            let Some(which) = self.which.get_mut(index) else { return false };
            match step {
                Step::One => self.one |= position,
                Step::Many => self.many |= position,
                Step::Literal(text) => {
                    if let Some(symbol) = symbols.find(text) {
                        self.known |= position;
                        *which = match self.literals.iter_mut().position(|(known, _)| *known == symbol) {
                            Some(place) => {
                                self.literals[place].1 |= position;
                                place as u8
                            }
                            None => {
                                self.literals.push((symbol, position));
                                (self.literals.len() - 1) as u8
                            }
                        };
                    }
                }
            }
            position <<= 1;
        }
        self.end = position;
        if self.one | self.many != 0 {
            self.sort();
        }
        true
    }

    /// Puts the literals in the order of their symbols, in which [`before`](Self::before) finds them.
    fn sort(&mut self) {
        self.literals.sort_unstable_by_key(|(symbol, _)| *symbol);
        for (place, (_, before)) in self.literals.iter().enumerate() {
            let mut left = *before;
            while left != 0 {
                if let Some(which) = self.which.get_mut(left.trailing_zeros() as usize) {
                    *which = place as u8;
                }
                left &= left - 1;
            }
        }
    }

    /// Adds what is reached when a published `**` takes nothing. After one there is never another.
    #[inline]
    fn with_skipped(&self, reached: Positions) -> Positions {
        reached | ((reached & self.many) << 1)
    }

    /// All positions from the first reached one on: a `**` of the trie takes what lies between.
    #[inline]
    fn all_from_first_of(&self, reached: Positions) -> Positions {
        let up_to_end = (self.end << 1) - 1;
        // Everything from the lowest bit on, and that bit.
        (reached | reached.wrapping_neg()) & up_to_end
    }

    /// The literal behind a known position, and all positions before it.
    #[inline]
    fn at(&self, position: u32) -> Option<(Symbol, Positions)> {
        let which = self.which.get(position as usize)?;
        self.literals.get(usize::from(*which)).copied()
    }

    /// The positions before the literal, if there are wildcards.
    #[inline]
    fn before(&self, symbol: Symbol) -> Positions {
        let found = self.literals.binary_search_by_key(&symbol, |(symbol, _)| *symbol);
        found.ok().and_then(|index| self.literals.get(index)).map_or(0, |(_, before)| *before)
    }
}

/// A node together with the positions in the published text that its path can have led to.
#[derive(Clone, Copy, Debug)]
struct State {
    node: NodeIndex,
    // In two parts, as a whole one would be aligned to twice the size of both.
    high: u32,
    low: u64,
}

const _: () = assert!(MAX_STEPS < 64 + 32);

impl State {
    #[inline]
    fn new(node: NodeIndex, reached: Positions) -> Self {
        Self { node, high: (reached >> 64) as u32, low: reached as u64 }
    }

    #[inline]
    fn reached(self) -> Positions {
        (Positions::from(self.high) << 64) | Positions::from(self.low)
    }
}

impl<V> Trie<V> {
    /// Calls `found` once for each entry whose pattern meets `published`.
    ///
    /// `published` is the text of a [`Topic`](crate::topic::Topic) or of a
    /// [`TopicPattern`](crate::topic::TopicPattern), or one that
    /// [`validate_pattern`](crate::topic::validate_pattern) accepted. Entries of the same pattern come in
    /// the order of their insertion; there is no order between patterns.
    ///
    /// The lookup changes nothing, so many threads may look up at once, each with its own `scratch`. See
    /// [`Trie`] for the cost, and [`proceed`](Self::proceed) for a lookup whose cost has to be bounded.
    pub fn visit(&self, published: &str, scratch: &mut Scratch, found: impl FnMut(&V)) {
        self.begin(published, scratch);
        let bounds = Bounds { steps: usize::MAX, width: usize::MAX };
        // Without bounds it comes to its end.
        let _ = self.walk(published, scratch, bounds, found);
    }

    /// Begins a lookup that [`proceed`](Self::proceed) does in pieces.
    pub fn begin(&self, published: &str, scratch: &mut Scratch) {
        // A lookup may have been left half done.
        scratch.clear();
        scratch.until = self.entries.next_serial();
        let root = Self::root_for(published);
        if published.len() <= MAX_TOPIC_BYTES && !self.nodes.at(root).is_unused() {
            scratch.pending.push(State::new(root, 1));
        }
    }

    /// Goes on with the lookup of `published` that was begun with this `scratch`, for about so many
    /// `steps`, until [`Progress::done`]. What is found is as with [`visit`](Self::visit).
    ///
    /// A step is a node that is seen, a child that is looked at or looked for, or an entry that is found. A
    /// piece may take more of them than asked for, by the children of one node.
    ///
    /// The trie may change between two pieces. Entries that are there from the beginning to the end are
    /// found, once each, and those that are added meanwhile are not.
    ///
    /// # Errors
    ///
    /// [`LookupTooWide`] when the lookup leads to more than [`LOOKUP_WIDTH`] places at once. It is at its
    /// end then; some entries may have been found.
    ///
    /// # Examples
    ///
    /// ```
    /// use whispeer::topic::{Scratch, TopicPattern, Trie};
    ///
    /// let mut trie = Trie::new();
    /// for number in 0..1_000 {
    ///     trie.insert(&TopicPattern::new(format!("hello/{number}/*"))?, number)?;
    /// }
    /// let (mut scratch, mut found) = (Scratch::new(), Vec::new());
    /// trie.begin("hello/*/alice", &mut scratch);
    /// loop {
    ///     let progress = trie.proceed("hello/*/alice", &mut scratch, 100, |number| found.push(*number))?;
    ///     if progress.done {
    ///         break;
    ///     }
    ///     // Others may change the trie here.
    /// }
    /// assert_eq!(found.len(), 1_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn proceed(
        &self,
        published: &str,
        scratch: &mut Scratch,
        steps: usize,
        found: impl FnMut(&V),
    ) -> Result<Progress, LookupTooWide> {
        self.walk(published, scratch, Bounds { steps, width: LOOKUP_WIDTH }, found)
    }

    fn walk(
        &self,
        published: &str,
        scratch: &mut Scratch,
        bounds: Bounds,
        mut found: impl FnMut(&V),
    ) -> Result<Progress, LookupTooWide> {
        if scratch.pending.is_empty() && scratch.stopped.is_none() {
            return Ok(Progress { steps: 0, done: true });
        }
        // With each piece, since symbols may stand for other texts when the trie has changed.
        if !scratch.sought.read(published, &self.symbols) {
            scratch.clear();
            return Ok(Progress { steps: 0, done: true });
        }
        let Scratch { sought, pending, stopped, until } = scratch;
        let mut walk = Walk { nodes: &self.nodes, sought, pending, width: bounds.width };
        let mut steps = 0;
        if let Some((index, place)) = stopped.take() {
            let first = self.nodes.find(index).map_or(NONE, |node| node.first_entry);
            let (taken, place) = self.entries.visit(first, Some(place), *until, bounds.steps, &mut found);
            steps = taken;
            *stopped = place.map(|place| (index, place));
        }
        while steps < bounds.steps
            && let Some(state) = walk.pending.pop()
        {
            let index = state.node;
            steps += 1;
            // A node that was removed since has no entries and no children. What has taken its place
            // leads to entries that were added since, and those are not looked for.
            let Some(node) = self.nodes.find(index) else { continue };
            let reached = walk.sought.with_skipped(state.reached());
            steps += walk.advance(index, node, reached);
            if walk.pending.len() > bounds.width {
                scratch.clear();
                return Err(LookupTooWide);
            }
            if reached & walk.sought.end != 0 {
                let left = bounds.steps.saturating_sub(steps);
                let (taken, place) = self.entries.visit(node.first_entry, None, *until, left, &mut found);
                steps += taken;
                *stopped = place.map(|place| (index, place));
            }
        }
        let done = walk.pending.is_empty() && stopped.is_none();
        if done {
            scratch.clear();
        }
        Ok(Progress { steps, done })
    }
}

/// What a piece of a lookup may take.
struct Bounds {
    steps: usize,
    /// Places that it may lead to at once.
    width: usize,
}

/// A lookup under way.
struct Walk<'a> {
    nodes: &'a Nodes,
    sought: &'a Sought,
    pending: &'a mut Vec<State>,
    width: usize,
}

impl Walk<'_> {
    /// Notes each child that the positions lead to, with those that follow. Returns how many children
    /// were looked at or looked for.
    ///
    /// A single path leads to a node, and of what was published only these positions matter: so each node
    /// is seen once, whatever the wildcards on either side.
    #[inline]
    fn advance(&mut self, index: NodeIndex, node: &Node, reached: Positions) -> usize {
        let sought = self.sought;
        if node.many != NONE {
            self.push(node.many, sought.all_from_first_of(reached));
        }
        let reached = reached & !sought.end;
        if reached == 0 {
            return 0;
        }
        // A published `**` that takes a fragment stays where it is; all else is used up.
        let staying = reached & sought.many;
        if node.one != NONE {
            self.push(node.one, ((reached & !sought.many) << 1) | staying);
        }
        if node.first_child == NONE {
            return 0;
        }
        match ((reached & sought.one) << 1) | staying {
            0 => self.push_known(index, node, reached & sought.known),
            by_any => self.push_all(node, by_any, reached & sought.known),
        }
    }

    /// Notes the children by the literals behind the positions.
    #[inline]
    fn push_known(&mut self, index: NodeIndex, node: &Node, mut known: Positions) -> usize {
        let mut looked_for = 0;
        while known != 0 {
            let Some((symbol, before)) = self.sought.at(known.trailing_zeros()) else { break };
            let child = self.nodes.child(node, index, symbol);
            if child != NONE {
                self.push(child, (known & before) << 1);
            }
            known &= !before;
            looked_for += 1;
        }
        looked_for
    }

    /// Notes all children by literals: any of them leads to the positions `by_any`, and to those behind
    /// its own literal.
    fn push_all(&mut self, node: &Node, by_any: Positions, known: Positions) -> usize {
        let mut looked_at = 0;
        let mut index = node.first_child;
        while index != NONE && self.pending.len() <= self.width {
            let child = self.nodes.at(index);
            let hits = match child.label() {
                Label::Literal(symbol) if known != 0 => known & self.sought.before(symbol),
                _ => 0,
            };
            self.push(index, by_any | (hits << 1));
            index = child.next_sibling;
            looked_at += 1;
        }
        looked_at
    }

    #[inline]
    fn push(&mut self, node: NodeIndex, reached: Positions) {
        self.pending.push(State::new(node, reached));
    }
}
