//! The clock that all processes of a machine share, so that one can say when a message was due and
//! another how late it came; and a timer that is finer than Tokio's, which counts milliseconds.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use anyhow::Result;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

/// Nanoseconds of the monotonic clock.
pub fn nanoseconds() -> u64 {
    const NANOSECONDS_A_SECOND: u64 = 1_000_000_000;
    // Linux has this clock always; a time of zero would show as an absurd latency.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as u64 * NANOSECONDS_A_SECOND + time.tv_nsec() as u64
    })
}

/// Wakes a task at an interval.
#[derive(Debug)]
pub struct Ticks {
    timer: AsyncFd<Timer>,
}

/// A timer that Tokio can wait for.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Ticks {
    /// Ticks that come every `interval`.
    ///
    /// # Errors
    /// When the system has no timer left.
    pub fn every(interval: Duration) -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        timer.set(
            Expiration::Interval(interval.into()),
            TimerSetTimeFlags::empty(),
        )?;
        #[expect(
            deprecated,
            reason = "what takes its place is unsafe; the timer keeps its descriptor until it is \
                      dropped, which is what that asks for"
        )]
        let timer = AsyncFd::new(Timer(timer))?;
        Ok(Self { timer })
    }

    /// Waits for the next tick. Ticks that were missed count as one.
    ///
    /// # Errors
    /// When the timer fails.
    pub async fn next(&mut self) -> Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            match ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                Ok(waited) => return Ok(waited?),
                // Somebody else's readiness; the timer has not ticked.
                Err(_would_block) => {}
            }
        }
    }
}
