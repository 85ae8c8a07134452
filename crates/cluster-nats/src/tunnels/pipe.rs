//! An end of a tunnel as a link of frames.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use whispeer::transport::{Batch, Form, Incoming, Link, LinkReceiver, LinkSender, Sent};

use super::ends::{Broken, Ends};

/// Parts of a batch that are taken by one call.
const VECTORS: usize = 64;

/// An end that several hold: the two halves of its link, the task that sends, and whoever gives it what comes.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Mutex<Ends>,
    /// There is something to be sent, or nothing goes on.
    pub(super) changed: Notify,
}

impl Pipe {
    pub(super) fn new(ends: Ends) -> Arc<Self> {
        Arc::new(Self { ends: Mutex::new(ends), changed: Notify::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link over it.
    pub(super) fn link(self: &Arc<Self>) -> Link {
        Link { sender: Arc::new(Sender(Arc::clone(self))), receiver: Box::new(Receiver(Arc::clone(self))) }
    }

    /// Has those go on who wait for it.
    pub(super) fn wake(&self) {
        let (reader, writer) = {
            let mut ends = self.lock();
            (ends.reader.take(), ends.writer.take())
        };
        reader.into_iter().chain(writer).for_each(Waker::wake);
        self.changed.notify_one();
    }

    /// Ends it without a word.
    pub(super) fn breaks(&self, why: Broken) {
        self.lock().broken.get_or_insert(why);
        self.wake();
    }

    fn close(&self) {
        self.lock().is_closing = true;
        self.changed.notify_one();
    }
}

struct Sender(Arc<Pipe>);

impl LinkSender for Sender {
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn try_send(&self, batch: &mut Batch) -> io::Result<Sent> {
        let mut ends = self.0.lock();
        let mut has_written = false;
        while !batch.is_empty() {
            check(&ends)?;
            let mut room = ends.room();
            if room == 0 {
                break;
            }
            let mut slices = [IoSlice::new(&[]); VECTORS];
            let filled = batch.slices(&mut slices);
            let mut written = 0;
            for slice in slices.iter().take(filled) {
                let part = slice.get(..slice.len().min(room)).unwrap_or_default();
                ends.write(part);
                (written, room) = (written + part.len(), room - part.len());
            }
            batch.advance(written);
            has_written = true;
        }
        drop(ends);
        if has_written {
            self.0.changed.notify_one();
        }
        Ok(if batch.is_empty() { Sent::All } else { Sent::Blocked })
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.0.lock();
        check(&ends)?;
        if ends.room() > 0 {
            return Poll::Ready(Ok(()));
        }
        ends.writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn close(&self) {
        self.0.close();
    }
}

struct Receiver(Arc<Pipe>);

impl LinkReceiver for Receiver {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<io::Result<usize>> {
        incoming.poll_read_from(context, self)
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.0.lock();
        let mut has_read = false;
        while buffer.remaining() > 0
            && let Some(bytes) = ends.read(buffer.remaining())
        {
            buffer.put_slice(&bytes);
            has_read = true;
        }
        if has_read {
            drop(ends);
            // The other end may be waiting to hear of it.
            self.0.changed.notify_one();
            return Poll::Ready(Ok(()));
        }
        if let Some(broken) = &ends.broken {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, broken.clone())));
        }
        if ends.is_over() {
            return Poll::Ready(Ok(()));
        }
        ends.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// That something can be sent.
fn check(ends: &Ends) -> io::Result<()> {
    if let Some(broken) = &ends.broken {
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, broken.clone()));
    }
    if ends.is_over() || ends.is_closing {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}
