//! The time of a turn.

use std::cell::Cell;

use tokio::time::Instant;

/// The time of a turn: read once, and only if anybody asks. Most turns never do, and reading the clock
/// costs as much as routing a message.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    read: Cell<Option<Instant>>,
}

impl Clock {
    /// The time of this turn.
    pub(crate) fn now(&self) -> Instant {
        self.read.get().unwrap_or_else(|| {
            let now = Instant::now();
            self.read.set(Some(now));
            now
        })
    }

    /// A new turn begins.
    pub(crate) fn turn(&self) {
        self.read.set(None);
    }

    /// A clock that stands still.
    #[cfg(test)]
    pub(crate) fn at(now: Instant) -> Self {
        Self { read: Cell::new(Some(now)) }
    }
}
