//! What is found by its time, where times go up with sequences; and times of a clock that was wrong.

use crate::limits;

/// The first of these sequences whose time is so, with that time: found by halving. `next` says what there is in a range, by its
/// first sequence and its end. Where times go down in between, as a clock was set back, it is the first behind one that is not so.
pub(super) fn first_that<E>(
    (mut low, mut high): (u64, u64),
    is_so: impl Fn(u64) -> bool,
    mut next: impl FnMut(u64, u64) -> Result<Option<(u64, u64)>, E>,
) -> Result<Option<(u64, u64)>, E> {
    // None before `low` is so, and `found` is the first that is known to be.
    let mut found = None;
    while low < high {
        let middle = low + (high - low) / 2;
        match next(middle, high)? {
            Some((sequence, time)) if !is_so(time) => low = sequence + 1,
            Some(first) => (found, high) = (Some(first), middle),
            // There is nothing from the middle on.
            None => high = middle,
        }
    }
    Ok(found)
}

/// How old what lies first in this range counts as, by its time. Nobody can say when something was stored whose time lies ahead of
/// the clock: it is older than what was stored behind it, by a clock that had been set right. So it is the first that does not lie
/// ahead; none if all do.
pub(super) fn sure_time<E>(
    (first, end): (u64, u64),
    now: u64,
    mut next: impl FnMut(u64, u64) -> Result<Option<(u64, u64)>, E>,
) -> Result<Option<(u64, u64)>, E> {
    let is_sure = |time| !is_ahead(time, now);
    match next(first, end)? {
        Some((_, time)) if !is_sure(time) => first_that((first, end), is_sure, next),
        oldest => Ok(oldest),
    }
}

/// The time of what is stored now behind something of that time: times do not go back, unless the clock was ahead.
pub(super) fn time_behind(last: u64, now: u64) -> u64 {
    if is_ahead(last, now) { now } else { now.max(last) }
}

/// Whether this is a time of a clock that was wrong.
fn is_ahead(time: u64, now: u64) -> bool {
    let ahead = u64::try_from(limits::CLOCK_AHEAD.as_millis()).unwrap_or(u64::MAX);
    time > now.saturating_add(ahead)
}
