//! The time of a turn, and the two clocks that a session lives by.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::limits;

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

/// The time of the system, as far as the runtime's clock has got: the two go together, unless a test has paused the latter.
/// Then this stands still and moves on with it, so that what is kept with times grows old in such a test as well.
pub(super) fn system_time() -> SystemTime {
    static BEGUN: OnceLock<(SystemTime, std::time::Instant)> = OnceLock::new();
    let before = std::time::Instant::now();
    let runtime = Instant::now().into_std();
    if (before..=std::time::Instant::now()).contains(&runtime) {
        return SystemTime::now();
    }
    let (time, begun) = *BEGUN.get_or_init(|| (SystemTime::now(), std::time::Instant::now()));
    time + runtime.saturating_duration_since(begun) - begun.saturating_duration_since(runtime)
}

/// A moment by the clock of the system, which certificates and tokens go by, to be waited for by that of the runtime,
/// which wakes. The two go apart when the first is set, or the host sleeps, so that the wait has stages.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemDeadline {
    /// The end of the stage, by the clock of the runtime.
    pub(super) at: Instant,
    /// The same by that of the system, as far as is known.
    time: SystemTime,
}

impl SystemDeadline {
    /// What is to be looked at when `end` is there, and in an hour at the latest.
    pub(super) fn new(end: SystemTime, now: SystemTime) -> Self {
        let left = end.duration_since(now).unwrap_or_default().min(limits::EXPIRY_INTERVAL);
        Self { at: Instant::now() + left, time: now + left }
    }

    /// The time at the end of the stage, where the system says that it is `now`. It is never before what was waited for:
    /// where nothing has been set, the end is not missed by the fraction of a millisecond.
    pub(super) fn reached(self, now: SystemTime) -> SystemTime {
        now.max(self.time)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_system_is_paused_with_that_of_the_runtime_and_moves_on_with_it() {
        let start = system_time();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(system_time(), start);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(system_time(), start + Duration::from_secs(3_600));
    }

    #[tokio::test]
    async fn the_time_of_the_system_is_that_where_no_clock_is_paused() {
        let (before, now, after) = (SystemTime::now(), system_time(), SystemTime::now());
        assert!(before <= now && now <= after);
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_of_the_system_is_waited_for_in_stages_of_an_hour() {
        let (start, now) = (Instant::now(), SystemTime::now());
        let end = now + Duration::from_secs(90 * 60);
        let first = SystemDeadline::new(end, now);
        assert_eq!(first.at - start, limits::EXPIRY_INTERVAL);
        tokio::time::advance(limits::EXPIRY_INTERVAL).await;
        // The clock of the system stands still in this test, and what was waited for counts.
        let second = SystemDeadline::new(end, first.reached(now));
        assert_eq!(second.at - start, Duration::from_secs(90 * 60));
        // A host that has slept for a day finds that it is over.
        let slept = first.reached(now + Duration::from_secs(24 * 60 * 60));
        assert_eq!(SystemDeadline::new(end, slept).at, Instant::now());
    }
}
