//! WebSocket (RFC 6455), the server's end, for messages of text.
//!
//! | file | what it holds |
//! |---|---|
//! | `upgrade` | the handshake |
//! | `reader` | what arrives, put together to messages; no I/O |
//! | `writer` | what waits to be written |
//!
//! The handshake and the headers of frames are tungstenite's. Its socket is not used: that has buffers of its own for each
//! connection, into which everything is copied, and which stay as large as the largest message that there was; and it makes
//! room for a message as soon as its length is announced. Here what is written is what all sockets share, what is read takes
//! as much room as has arrived of it, and a socket that is idle has no buffer at all.

mod reader;
mod upgrade;
mod writer;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::Utf8Bytes;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use self::reader::{Reader, Received};
use self::writer::Writer;
use crate::limits;
use crate::received::Budget;

pub(crate) use self::upgrade::Upgrade;

/// Bytes of the payload of a control frame at the most (RFC 6455, section 5.5).
const CONTROL_LIMIT: usize = 125;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// It is answered already.
    Ping,
    Pong,
    /// The other side says that nothing follows. The answer is written with what is written next.
    Close,
}

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It broke the rules of the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    #[error("a text is not UTF-8")]
    Text,
    #[error("a message is longer than it may be")]
    TooLarge,
    #[error("there is no room for a message, as others are sending too much")]
    Busy,
}

/// A WebSocket after its handshake.
pub(crate) struct WebSocket<S> {
    stream: S,
    reader: Reader,
    /// What was read behind a message, which is no longer than what is read at once.
    rest: Bytes,
    writer: Writer,
    /// It has broken the rules, and nothing that it sends is looked at any more.
    is_broken: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Over this stream, behind whose handshake something may have come already. Messages have `limit` bytes at the most.
    pub(crate) fn new(stream: S, early: Bytes, limit: usize, budget: &Arc<Budget>) -> Self {
        Self {
            stream,
            reader: Reader::new(limit, budget),
            rest: early,
            writer: Writer::default(),
            is_broken: false,
        }
    }

    /// Has messages have so many bytes at the most from now on.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.reader.set_limit(limit);
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_midway(&self) -> bool {
        self.reader.is_midway()
    }

    /// What comes next; `None` when the connection has ended. Meanwhile it goes on with what waits to be written.
    ///
    /// The room of a message before is given back to the budget. Behind an error nothing comes but the end.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Message>, Fault>> {
        self.reader.release();
        if let Poll::Ready(Err(error)) = self.poll_flush(context) {
            return Poll::Ready(Err(error.into()));
        }
        let received = ready!(self.poll_received(context));
        self.is_broken |= received.is_err();
        Poll::Ready(match received {
            Ok(Some(received)) => self.answer(received, context).map(Some),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        })
    }

    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Received>, Fault>> {
        loop {
            if !self.rest.is_empty() && !self.is_broken {
                let (count, received) = self.reader.take(&self.rest)?;
                self.rest.advance(count);
                if self.rest.is_empty() {
                    // What it was a part of is not kept.
                    self.rest = Bytes::new();
                }
                if received.is_some() {
                    return Poll::Ready(Ok(received));
                }
            }
            let mut space = [const { MaybeUninit::uninit() }; limits::SOCKET_READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let arrived = buffer.filled();
            if arrived.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if !self.is_broken {
                let (count, received) = self.reader.take(arrived)?;
                self.rest = Bytes::copy_from_slice(arrived.get(count..).unwrap_or_default());
                if received.is_some() {
                    return Poll::Ready(Ok(received));
                }
            }
        }
    }

    /// Answers what has to be answered.
    fn answer(&mut self, received: Received, context: &mut Context<'_>) -> Result<Message, Fault> {
        let message = match received {
            Received::Text(text) => return Ok(Message::Text(text)),
            Received::Binary(bytes) => return Ok(Message::Binary(bytes)),
            Received::Pong => return Ok(Message::Pong),
            Received::Ping(payload) => {
                self.writer.pong(payload);
                Message::Ping
            }
            Received::Close(code) => {
                // The answer repeats the code.
                let code = code.map_or(Bytes::new(), |code| Bytes::copy_from_slice(&code.to_be_bytes()));
                self.writer.push(OpCode::Control(Control::Close), code);
                Message::Close
            }
        };
        match self.poll_flush(context) {
            Poll::Ready(Err(error)) => Err(error.into()),
            _ => Ok(message),
        }
    }

    /// Waits until there is room for one more text.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        if self.writer.len() < limits::SOCKET_WRITE_BYTES {
            return Ok(());
        }
        poll_fn(|context| match self.poll_flush(context)? {
            Poll::Pending if self.writer.len() >= limits::SOCKET_WRITE_BYTES => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Puts a text behind what waits to be written, when there is [room](Self::ready) for it.
    pub(crate) fn push(&mut self, text: Bytes) {
        self.writer.push(OpCode::Data(Data::Text), text);
    }

    /// How many texts are not written yet, or not as a whole.
    pub(crate) fn waiting(&self) -> usize {
        self.writer.count(OpCode::Data(Data::Text))
    }

    /// Writes what waits.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// Asks for a sign of life.
    pub(crate) fn ping(&mut self) {
        self.writer.push(OpCode::Control(Control::Ping), Bytes::new());
    }

    /// Says why it ends, in no more than 123 bytes, behind what waits.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        self.writer.push(OpCode::Control(Control::Close), payload.into());
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.writer.poll_write(Pin::new(&mut self.stream), context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }
}

#[cfg(test)]
impl<S> WebSocket<S> {
    /// Bytes that it keeps room for, on the heap.
    fn kept(&self) -> usize {
        self.rest.len() + self.reader.kept() + self.writer.kept()
    }
}

#[cfg(test)]
mod tests;
