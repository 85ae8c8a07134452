//! Streams of bytes that any thread may write to without waiting.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use super::{Batch, Sent};

/// Parts that are taken by one call.
pub(super) const VECTORS: usize = 64;

/// A stream of bytes in both directions: a socket, or what is spoken over one. Any thread may write to it,
/// one at a time; one task reads and waits.
pub(super) trait Channel: Send + Sync + 'static {
    /// Takes what goes without waiting, at least one byte. What it has taken it may hold back itself, as far
    /// as the channel below had no room.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is no room.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// The last frame has been written. Where the end of a channel takes what was written with it, flushing goes on
    /// until it has arrived.
    fn finish(&self) {}

    /// Passes on what is held back.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) while something still is.
    #[inline]
    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Waits for room, after a call found none.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what has arrived into `buffer`, or waits for it; 0 is the end.
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Ends the sending direction.
    fn close(&self);
}

/// Sends as much of a batch as goes without waiting.
pub(super) fn try_send<C: Channel + ?Sized>(channel: &C, batch: &mut Batch) -> io::Result<Sent> {
    let blocked = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => Ok(Sent::Blocked),
        _ => Err(error),
    };
    while !batch.is_empty() {
        let mut slices = [IoSlice::new(&[]); VECTORS];
        let filled = batch.slices(&mut slices);
        match channel.try_write(&slices[..filled]) {
            Ok(count) => batch.advance(count),
            Err(error) => return blocked(error),
        }
    }
    if batch.is_last() {
        channel.finish();
    }
    channel.try_flush().map_or_else(blocked, |()| Ok(Sent::All))
}
