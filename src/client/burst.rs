//! Writing together what is called one after the other.
//!
//! A read from the link may bring many answers or requests at once, and each lets the application call
//! again. A system call for each of these costs more than all the rest of them. So as long as more calls
//! are expected and come quickly, their frames wait for the last one. The first goes at once, so that the
//! bus has something to begin with, and a call that took its time waits for nobody.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::Form;

/// Calls that come within this time of each other are written together. It is what a few system calls
/// take; whoever does more than that for each call gains nothing.
const QUICK: Duration = Duration::from_micros(20);

/// Bytes that are written without waiting for more of them.
const ENOUGH: usize = 16 * 1024;

/// The calls that what has arrived together is likely to cause.
#[derive(Debug, Default)]
pub(super) struct Burst {
    expected: u32,
    last: Option<Instant>,
    /// Something waits, and the driver knows.
    held: bool,
}

/// What is to become of the frame of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is written, with all that waits.
    Write,
    /// It waits for the next call. The driver writes it if there is none, and is to be told of the first.
    Wait { tell: bool },
}

impl Burst {
    /// Something was handed over that may cause a call.
    #[inline]
    pub(super) fn expect(&mut self) {
        self.expected = self.expected.saturating_add(1);
    }

    /// A call has put its frame behind others; now `waiting` bytes are to be written.
    pub(super) fn call(&mut self, form: Form, waiting: usize) -> Next {
        if self.expected == 0 || form != Form::Bytes {
            return Next::Write;
        }
        self.expected -= 1;
        let now = Instant::now();
        let quick = self.last.replace(now).is_some_and(|last| now - last < QUICK);
        if !quick || self.expected == 0 || waiting >= ENOUGH {
            self.held = false;
            return Next::Write;
        }
        Next::Wait { tell: !std::mem::replace(&mut self.held, true) }
    }

    /// All that waits is written now, and no more is expected.
    #[inline]
    pub(super) fn end(&mut self) {
        (self.expected, self.held) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(expected: u32) -> Burst {
        let mut burst = Burst::default();
        (0..expected).for_each(|_| burst.expect());
        burst
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_come_quickly_are_written_with_the_last_one() {
        let mut burst = burst(4);
        let calls: Vec<_> = (0..6).map(|_| burst.call(Form::Bytes, 100)).collect();
        let (told, wait) = (Next::Wait { tell: true }, Next::Wait { tell: false });
        assert_eq!(calls, [Next::Write, told, wait, Next::Write, Next::Write, Next::Write]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_took_its_time_waits_for_nobody() {
        let mut burst = burst(10);
        assert_eq!(burst.call(Form::Bytes, 100), Next::Write);
        tokio::time::advance(QUICK).await;
        assert_eq!(burst.call(Form::Bytes, 100), Next::Write);
        assert_eq!(burst.call(Form::Bytes, 200), Next::Wait { tell: true });
        tokio::time::advance(QUICK).await;
        assert_eq!(burst.call(Form::Bytes, 300), Next::Write, "with what waited");
        assert_eq!(burst.call(Form::Bytes, 100), Next::Wait { tell: true }, "the driver is told again");
    }

    #[tokio::test(start_paused = true)]
    async fn enough_is_written_at_once_and_so_is_what_stays_within_the_process() {
        let mut burst = burst(10);
        assert_eq!(burst.call(Form::Bytes, 100), Next::Write);
        assert_eq!(burst.call(Form::Bytes, ENOUGH), Next::Write);
        assert_eq!(burst.call(Form::Values, 100), Next::Write);
        assert_eq!(burst.call(Form::Bytes, 100), Next::Wait { tell: true });
        burst.end();
        assert_eq!(burst.call(Form::Bytes, 100), Next::Write);
    }
}
