//! A channel that holds something for as long as it is there.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use crate::transport::channel::Channel;

/// A channel, and what is given back when it is closed: a link may outlive its connection, and this does not.
pub(super) struct Holding<C, H> {
    channel: C,
    _held: H,
}

impl<C, H> Holding<C, H> {
    pub(super) fn new(channel: C, held: H) -> Self {
        Self { channel, _held: held }
    }
}

impl<C: Channel, H: Send + Sync + 'static> Channel for Holding<C, H> {
    #[inline]
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.channel.try_write(slices)
    }

    fn finish(&self) {
        self.channel.finish();
    }

    #[inline]
    fn try_flush(&self) -> io::Result<()> {
        self.channel.try_flush()
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel.poll_room(context)
    }

    #[inline]
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.channel.poll_read(context, buffer)
    }

    fn close(&self) {
        self.channel.close();
    }
}
