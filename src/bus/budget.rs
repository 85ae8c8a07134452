//! The byte budget that stands above every queue of the bus.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::{BUDGET_QUANTUM, SESSION_PART};

/// Bytes that all queues together hold, and may hold.
///
/// The count is of memory that exists already; it never refuses. Whoever would add more for a new
/// publish asks [`is_spent`](Self::is_spent) first.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that one session may have waiting on its link, and again parked: a part of the budget, so
    /// that no peer alone can spend it.
    pub(crate) fn per_session(&self) -> usize {
        self.limit / SESSION_PART
    }

    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.used() >= self.limit
    }
}

/// One holder's part of the budget, taken in quanta so that the shared counter is touched rarely.
#[derive(Debug, Default)]
pub(crate) struct Share {
    reserved: usize,
}

impl Share {
    /// Bytes that it has taken of the budget.
    pub(crate) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Makes the share follow what its holder has.
    #[inline]
    pub(crate) fn follow(&mut self, held: usize, budget: &Budget) {
        if held > self.reserved {
            let target = held.next_multiple_of(BUDGET_QUANTUM);
            budget.used.fetch_add(target - self.reserved, Ordering::Relaxed);
            self.reserved = target;
        } else if held == 0 || held + 2 * BUDGET_QUANTUM < self.reserved {
            let target = held.next_multiple_of(BUDGET_QUANTUM);
            budget.used.fetch_sub(self.reserved - target, Ordering::Relaxed);
            self.reserved = target;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_return_to_nothing() {
        let budget = Budget::new(10 * BUDGET_QUANTUM);
        let (mut one, mut other) = (Share::default(), Share::default());
        one.follow(1, &budget);
        assert_eq!(budget.used(), BUDGET_QUANTUM);
        other.follow(9 * BUDGET_QUANTUM, &budget);
        assert!(budget.is_spent());
        other.follow(1, &budget);
        assert!(!budget.is_spent());
        one.follow(0, &budget);
        other.follow(0, &budget);
        assert_eq!(budget.used(), 0);
    }
}
