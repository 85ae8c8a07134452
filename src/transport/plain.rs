//! Links that end with the channel that carries their frames.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::channel::{Channel, try_send};
use super::{Batch, Form, Incoming, Link, LinkReceiver, LinkSender, Sent};

/// A link that carries frames over a channel.
pub(super) fn link(channel: impl Channel) -> Link {
    let channel = Arc::new(channel);
    let sender = Sender(Arc::clone(&channel));
    Link { sender: Arc::new(sender), receiver: Box::new(Receiver(channel)) }
}

pub(super) struct Sender<C>(pub(super) Arc<C>);

impl<C: Channel> LinkSender for Sender<C> {
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn try_send(&self, batch: &mut Batch) -> io::Result<Sent> {
        try_send(&*self.0, batch)
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_room(context)
    }

    fn close(&self) {
        self.0.close();
    }
}

struct Receiver<C>(Arc<C>);

impl<C: Channel> LinkReceiver for Receiver<C> {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<io::Result<usize>> {
        incoming.poll_read_from(context, self)
    }
}

impl<C: Channel> AsyncRead for Receiver<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(self.0.poll_read(context, buffer.initialize_unfilled()))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}
