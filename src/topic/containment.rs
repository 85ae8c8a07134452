//! Whether one pattern covers another.
//!
//! The outer pattern is its literals and `*` in runs, with a `**` between one run and the next. Where
//! wildcards stand side by side, [`Steps`] has put the `*` first, so that what lies between two runs is "at
//! least so many fragments", and every run but the first begins with a literal.
//!
//! To show that a topic of the inner pattern escapes the outer one, put a name that neither pattern mentions
//! in place of each inner `*`, and a number of such names in place of each inner `**`. Other names could only
//! match more. What remains to choose are these numbers:
//!
//! - Matching the outer runs one after the other, each as early as it can be, finds a match if there is one;
//!   and the later a run ends, the less is left for those behind it.
//! - A run between two `**` begins and ends with a literal (what follows its last literal counts as "at
//!   least so many"), so it cannot begin or end among new names, and does not reach over more of them than
//!   it is long. So the latest that it can be made to match is its first place without an inner `**` inside,
//!   by many new names wherever an inner `**` stands before that place.
//! - "At least so many" gets furthest through the inner pattern when each inner `**` on its way takes nothing.
//! - The first run is held to the beginning and the last to the end; with many new names for the inner `**`
//!   beside them they match only if the inner pattern has enough steps there.
//!
//! The stretches for which numbers are chosen follow each other, so one choice never contradicts another,
//! and the walk below decides exactly. (Numbers that would make a topic longer than the limit count too: of
//! patterns that differ only in topics nobody can write, neither contains the other.)

use super::steps::{MAX_STEPS, Step, Steps};
use super::validate::is_reserved;

/// Whether every topic that matches the valid pattern `inner` matches the valid pattern `outer`.
///
/// With `n` and `m` steps that is at most `n·m` comparisons of fragments, whatever the wildcards, in a fixed
/// amount of stack.
pub(super) fn contain(outer: &str, inner: &str) -> bool {
    // Only reserved patterns match reserved topics, and they match no others; every pattern matches some.
    if is_reserved(outer) != is_reserved(inner) {
        return false;
    }
    let (mut outer_steps, mut inner_steps) = ([Step::One; MAX_STEPS], [Step::One; MAX_STEPS]);
    let outer = laid_out(outer, &mut outer_steps);
    let inner = laid_out(inner, &mut inner_steps);
    let mut runs = outer.split(|step| *step == Step::Many);
    let (Some(first), last) = (runs.next(), runs.next_back()) else { return false };
    let Some(last) = last else {
        return first.len() == inner.len() && covers(first, inner);
    };
    let (core, mut least) = without_trailing_ones(first);
    if !begins_with(inner, core) {
        return false;
    }
    let mut rest = inner.get(core.len()..).unwrap_or_default();
    for run in runs {
        let (core, least_behind) = without_trailing_ones(run);
        let Some(behind) = after(rest, least).and_then(|rest| after_first(rest, core)) else { return false };
        rest = behind;
        least = least_behind;
    }
    let Some(rest) = after(rest, least) else { return false };
    rest.len().checked_sub(last.len()).and_then(|at| rest.get(at..)).is_some_and(|end| covers(last, end))
}

/// The steps of a pattern in one piece.
fn laid_out<'a, 'b>(pattern: &'a str, steps: &'b mut [Step<'a>; MAX_STEPS]) -> &'b [Step<'a>] {
    let mut length = 0;
    for (slot, step) in steps.iter_mut().zip(Steps::new(pattern)) {
        *slot = step;
        length += 1;
    }
    steps.get(..length).unwrap_or_default()
}

/// A run up to its last literal, and how many `*` follow there.
fn without_trailing_ones<'a, 'b>(run: &'b [Step<'a>]) -> (&'b [Step<'a>], usize) {
    let length = run.iter().rposition(|step| *step != Step::One).map_or(0, |last| last + 1);
    (run.get(..length).unwrap_or_default(), run.len() - length)
}

/// Whether a run without `**` matches whatever steps as many as its own stand for.
fn covers(run: &[Step<'_>], steps: &[Step<'_>]) -> bool {
    run.iter().zip(steps).all(|(own, step)| match own {
        Step::One => *step != Step::Many,
        own => own == step,
    })
}

fn begins_with(steps: &[Step<'_>], run: &[Step<'_>]) -> bool {
    steps.get(..run.len()).is_some_and(|beginning| covers(run, beginning))
}

/// What is left behind the first place that the run covers.
fn after_first<'a, 'b>(steps: &'b [Step<'a>], run: &[Step<'_>]) -> Option<&'b [Step<'a>]> {
    let at = (0..steps.len()).find(|at| steps.get(*at..).is_some_and(|rest| begins_with(rest, run)))?;
    steps.get(at + run.len()..)
}

/// What is left behind the shortest stretch that surely has `least` fragments.
fn after<'a, 'b>(steps: &'b [Step<'a>], least: usize) -> Option<&'b [Step<'a>]> {
    let Some(before) = least.checked_sub(1) else { return Some(steps) };
    let mut fragments = steps.iter().enumerate().filter(|(_, step)| **step != Step::Many);
    let (at, _) = fragments.nth(before)?;
    steps.get(at + 1..)
}
