//! The timer of a task that has far more turns than due times.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is only polled when it has been set anew or has fired. Its task always has the same
/// waker, so that nothing is lost by that.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// The task will be woken by it.
    armed: bool,
}

impl Timer {
    pub(crate) fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(at)), armed: false }
    }

    /// Sets the timer to `at`, if it is not yet.
    #[inline]
    pub(crate) fn set(&mut self, at: Instant) {
        if self.sleep.deadline() != at {
            self.sleep.as_mut().reset(at);
            self.armed = false;
        }
    }

    /// Sets the timer to `at` if that is earlier.
    #[inline]
    pub(crate) fn bring_forward(&mut self, at: Instant) {
        if at < self.sleep.deadline() {
            self.set(at);
        }
    }

    /// Ready once the time has come.
    #[inline]
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.armed && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        let poll = self.sleep.as_mut().poll(context);
        // Out of its cooperative budget, a task is woken at once and polls again.
        self.armed = poll.is_pending() && tokio::task::coop::has_budget_remaining();
        poll
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_fires_when_it_was_set_to_last() {
        let start = Instant::now();
        let mut timer = Timer::new(start + Duration::from_secs(1));
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(timer.poll(&mut context).is_pending());
        timer.set(start + Duration::from_secs(5));
        let mut turns = 0;
        poll_fn(|context| {
            turns += 1;
            timer.poll(context)
        })
        .await;
        assert_eq!((start.elapsed(), turns), (Duration::from_secs(5), 2));
        timer.set(start + Duration::from_secs(6));
        poll_fn(|context| timer.poll(context)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(6));
    }
}
