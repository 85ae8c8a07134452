//! Whether two patterns meet.

use super::steps::{MAX_STEPS, Step, Steps};
use super::validate::is_reserved;

/// Positions in a pattern, one bit each; bit `n` stands before step `n`, the last after the end.
type Positions = u128;

const _: () = assert!(MAX_STEPS < Positions::BITS as usize);

/// Whether some concrete topic matches both valid patterns.
///
/// It goes through the steps of `left` once and keeps the set of positions in `right` that a common
/// topic can have led to. With `n` and `m` steps that is at most `n·m` comparisons of fragments,
/// whatever the wildcards, in a fixed amount of stack.
pub(super) fn meet(left: &str, right: &str) -> bool {
    // A wildcard never stands for the first fragment of a reserved topic, so only reserved patterns
    // match reserved topics, and they match no others.
    if is_reserved(left) != is_reserved(right) {
        return false;
    }
    let right = Row::new(right);
    let mut reached = right.with_skipped(1);
    for step in Steps::new(left) {
        reached = match step {
            Step::Many => right.all_from_first_of(reached),
            Step::One => right.with_skipped(right.after_singles(reached)),
            Step::Literal(text) => right.with_skipped(right.after_literal(reached, text)),
        };
        if reached == 0 {
            return false;
        }
    }
    reached & right.end() != 0
}

/// One pattern laid out for the walk through another.
struct Row<'a> {
    steps: [Step<'a>; MAX_STEPS],
    length: usize,
    many: Positions,
    literals: Positions,
}

impl<'a> Row<'a> {
    fn new(pattern: &'a str) -> Self {
        let mut row = Self { steps: [Step::One; MAX_STEPS], length: 0, many: 0, literals: 0 };
        for (slot, step) in row.steps.iter_mut().zip(Steps::new(pattern)) {
            *slot = step;
            let position = 1 << row.length;
            match step {
                Step::Literal(_) => row.literals |= position,
                Step::Many => row.many |= position,
                Step::One => {}
            }
            row.length += 1;
        }
        row
    }

    fn end(&self) -> Positions {
        1 << self.length
    }

    /// Adds what is reached when a `**` of this pattern takes nothing. After one there is never another.
    fn with_skipped(&self, reached: Positions) -> Positions {
        reached | ((reached & self.many) << 1)
    }

    /// All positions from the first reached one on: the other side's `**` takes what lies between.
    fn all_from_first_of(&self, reached: Positions) -> Positions {
        let up_to_end = (self.end() << 1) - 1;
        (Positions::MAX << reached.trailing_zeros()) & up_to_end
    }

    /// What is reached when both sides take one fragment and the other side takes any.
    fn after_singles(&self, reached: Positions) -> Positions {
        let single = reached & !self.many & !self.end();
        (single << 1) | (reached & self.many)
    }

    /// What is reached when both sides take the fragment `text`.
    fn after_literal(&self, reached: Positions, text: &str) -> Positions {
        let mut agreeing = reached;
        let mut unsure = reached & self.literals;
        while unsure != 0 {
            let index = unsure.trailing_zeros() as usize;
            unsure &= unsure - 1;
            if self.steps.get(index) != Some(&Step::Literal(text)) {
                agreeing &= !(1 << index);
            }
        }
        self.after_singles(agreeing)
    }
}
