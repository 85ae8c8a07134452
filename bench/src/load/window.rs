//! Holds a publisher back whose bus does not: at most so many messages of a stream may be on their
//! way to the slowest of its subscriptions. Subscribers count in a file, and a publisher that has
//! used its window up looks there; nothing of it goes over the bus, and neither side waits for the
//! other to take a message of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::Ticks;

/// The file in the directory of the run.
const FILE: &str = "progress";

/// Bytes of a stream's count in it.
const COUNT_BYTES: usize = 8;

/// How often a publisher looks whose window is used up.
const LOOK: Duration = Duration::from_micros(100);

/// Counts of a window: a subscription tells its count after each of these parts of it.
const PARTS: u64 = 8;

/// The publisher's side of a stream.
#[derive(Debug)]
pub struct Window {
    file: File,
    stream: u16,
    messages: u64,
    delivered: u64,
    ticks: Ticks,
}

impl Window {
    /// The window of `stream`, of `messages` messages, whose subscribers use `directory` too.
    ///
    /// # Errors
    /// When no subscriber has begun to count there.
    pub fn open(directory: &Path, stream: u16, messages: u64) -> Result<Self> {
        Ok(Self {
            file: File::open(directory.join(FILE)).context("nobody counts what is delivered")?,
            stream,
            messages,
            delivered: 0,
            ticks: Ticks::every(LOOK)?,
        })
    }

    /// Whether message number `sequence` is within the window, as far as was last looked.
    pub fn has_room(&self, sequence: u64) -> bool {
        sequence < self.delivered + self.messages
    }

    /// Waits until message number `sequence` is within the window.
    ///
    /// # Errors
    /// When the count cannot be read.
    pub async fn wait(&mut self, sequence: u64) -> Result<()> {
        while !self.has_room(sequence) {
            let mut count = [0; COUNT_BYTES];
            // A stream that nobody has counted yet lies beyond the end of the file.
            self.file.read_at(&mut count, place(self.stream))?;
            let delivered = u64::from_le_bytes(count);
            if delivered == self.delivered {
                self.ticks.next().await?;
            }
            self.delivered = delivered;
        }
        Ok(())
    }
}

/// The subscribers' side: the counts of all subscriptions of a process.
#[derive(Debug)]
pub struct Progress {
    file: File,
    subscriptions: usize,
    interval: u64,
    /// For each stream, the counts of its subscriptions.
    counts: Mutex<Vec<Vec<u64>>>,
}

impl Progress {
    /// Begins to count in `directory`, for `subscriptions` subscriptions to each stream and windows
    /// of `messages` messages.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(directory: &Path, subscriptions: usize, messages: u64) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            file: File::create(directory.join(FILE))?,
            subscriptions,
            interval: (messages / PARTS).max(1),
            counts: Mutex::default(),
        }))
    }

    /// Notes that subscription number `subscription` has had `count` messages of `stream`.
    ///
    /// # Errors
    /// When the count cannot be written.
    #[inline]
    pub fn note(&self, subscription: usize, stream: u16, count: u64) -> Result<()> {
        if count.is_multiple_of(self.interval) {
            self.tell(subscription, stream, count)?;
        }
        Ok(())
    }

    fn tell(&self, subscription: usize, stream: u16, count: u64) -> Result<()> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = counts.len().max(usize::from(stream) + 1);
        counts.resize_with(streams, || vec![0; self.subscriptions]);
        let Some(of_stream) = counts.get_mut(usize::from(stream)) else {
            return Ok(());
        };
        if let Some(own) = of_stream.get_mut(subscription) {
            *own = count;
        }
        let slowest = of_stream.iter().min().copied().unwrap_or_default();
        Ok(self
            .file
            .write_all_at(&slowest.to_le_bytes(), place(stream))?)
    }
}

fn place(stream: u16) -> u64 {
    u64::from(stream) * COUNT_BYTES as u64
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_publisher_waits_for_the_slowest_subscription() {
        let directory = tempfile::tempdir().unwrap();
        let progress = Progress::new(directory.path(), 2, 8).unwrap();
        let mut window = Window::open(directory.path(), 3, 8).unwrap();
        window.wait(7).await.unwrap();
        assert!(matches!(
            poll!(std::pin::pin!(window.wait(8))),
            Poll::Pending
        ));
        progress.note(0, 3, 2).unwrap();
        assert!(matches!(
            poll!(std::pin::pin!(window.wait(8))),
            Poll::Pending
        ));
        progress.note(1, 3, 1).unwrap();
        window.wait(8).await.unwrap();
        assert!(matches!(
            poll!(std::pin::pin!(window.wait(9))),
            Poll::Pending
        ));
    }
}
