//! A WebSocket with its bounds.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tungstenite::Utf8Bytes;

use crate::limits;
use crate::metrics::{OpenSocket, SocketCounts};
use crate::shared::{Shared, SocketPlace};
use crate::stream::TimedStream;
use crate::websocket::{Fault, Message, WebSocket};

/// How long it is waited for the other side to take what is said last.
const LINGER: Duration = Duration::from_secs(1);

/// Why this side closes a socket; codes of RFC 6455, 7.4.1, and above 4000 our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The gateway ends.
    GoingAway,
    /// It broke the rules of what is spoken.
    Policy(&'static str),
    /// It sends more than it may.
    TooOften,
    /// It did not say in time who it is.
    NotLoggedIn,
    /// Its rights have ended, as its token has, or the bus gives it none any more.
    Expired,
    /// What it sent is not what it says, such as a text that is not UTF-8.
    BadData,
    /// It sent more at once than it may.
    TooLarge,
    /// A message did not come to its end in time.
    TooSlow,
    /// It sent a long message while others do so, and there is no room for all.
    Busy,
    /// It broke the rules of WebSocket.
    Protocol,
    /// Something is wrong on this side.
    Failed,
}

impl Closing {
    fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::GoingAway => (1001, "the gateway is going away"),
            Self::Policy(reason) => (1008, reason),
            Self::TooOften => (1008, "too many messages"),
            Self::NotLoggedIn => (1008, "not authenticated in time"),
            Self::Expired => (1008, "no longer authorized"),
            Self::BadData => (1007, "not what it says"),
            Self::TooLarge => (1009, "too large"),
            Self::TooSlow => (1008, "a message took too long"),
            Self::Busy => (1013, "too much is being sent; try again later"),
            Self::Protocol => (1002, "not as RFC 6455 asks for"),
            Self::Failed => (1011, "internal error"),
        }
    }
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(Utf8Bytes),
    Binary(Bytes),
}

impl Fault {
    /// What is told to the other side of what was wrong with what it sent; nothing where it is gone.
    fn closing(&self) -> Option<Closing> {
        match self {
            Self::Io(_) => None,
            Self::Protocol(_) => Some(Closing::Protocol),
            Self::Text => Some(Closing::BadData),
            Self::TooLarge => Some(Closing::TooLarge),
            Self::Busy => Some(Closing::Busy),
        }
    }
}

/// A WebSocket of one task: what comes in, with a sign of life asked for now and then, and what goes out.
///
/// Nobody may have it wait for ever: the connection fails when nothing of what is written is taken for
/// [`limits::STALL_TIME`], and a message has to be complete in [`limits::BODY_TIME`].
pub(crate) struct Socket {
    inner: WebSocket<TimedStream>,
    shared: Arc<Shared>,
    address: IpAddr,
    counts: SocketCounts,
    /// When it is asked for a sign of life, or given up.
    next_ping: Instant,
    is_asked: bool,
    /// When the message that has begun has to be complete.
    complete_by: Option<Instant>,
    /// It goes off at the first of these. It stays among the timers, as it is waited for with each message.
    timer: Pin<Box<Sleep>>,
    _open: OpenSocket,
    _place: SocketPlace,
}

impl Socket {
    /// A socket of somebody of whom it is not known yet who he is. What he sends is [short](limits::SOCKET_STRANGER_BYTES). Its place was
    /// taken when it was asked for, so that a gateway that drains meanwhile waits for it.
    pub(crate) fn new(
        stream: TimedStream,
        early: Bytes,
        shared: Arc<Shared>,
        place: SocketPlace,
        address: IpAddr,
        dialect: &'static str,
    ) -> Self {
        let counts = shared.metrics.socket(dialect);
        let limit = limits::SOCKET_STRANGER_BYTES.min(shared.settings.body_limit);
        Self {
            inner: WebSocket::new(stream, early, limit, &shared.budget),
            address,
            _open: counts.open(),
            counts,
            next_ping: Instant::now() + limits::SOCKET_PING,
            is_asked: false,
            complete_by: None,
            timer: Box::pin(sleep(limits::SOCKET_PING)),
            _place: place,
            shared,
        }
    }

    /// Lets it send messages as long as the settings allow, now that it is known who sends them.
    pub(crate) fn trust(&mut self) {
        self.inner.set_limit(self.shared.settings.body_limit);
    }

    /// What comes next; `None` when it has ended, or has to be closed for the given reason.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn recv(&mut self) -> Result<Incoming, Option<Closing>> {
        loop {
            let message = poll_fn(|context| self.poll_message(context)).await?;
            self.is_asked = false;
            let incoming = match message {
                Some(Message::Text(text)) => Incoming::Text(text),
                Some(Message::Binary(bytes)) => Incoming::Binary(bytes),
                Some(Message::Ping | Message::Pong) => {
                    self.count()?;
                    continue;
                }
                Some(Message::Close) => {
                    // The other side hears that it was heard.
                    let _ = timeout(LINGER, self.inner.flush()).await;
                    return Err(None);
                }
                None => return Err(None),
            };
            self.count()?;
            self.counts.received.inc();
            return Ok(incoming);
        }
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Message>, Option<Closing>>> {
        loop {
            let next = self.inner.poll_next(context);
            if !self.inner.is_midway() {
                self.complete_by = None;
            }
            if let Poll::Ready(next) = next {
                return Poll::Ready(next.map_err(|fault| {
                    tracing::debug!(%fault, "a WebSocket has ended with an error");
                    fault.closing()
                }));
            }
            if self.inner.is_midway() && self.complete_by.is_none() {
                self.complete_by = Some(Instant::now() + limits::BODY_TIME);
            }
            let first =
                self.complete_by.map_or(self.next_ping, |complete_by| complete_by.min(self.next_ping));
            if self.timer.deadline() != first {
                self.timer.as_mut().reset(first);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.complete_by == Some(first) {
                return Poll::Ready(Err(Some(Closing::TooSlow)));
            }
            if self.is_asked {
                return Poll::Ready(Err(None));
            }
            self.is_asked = true;
            self.next_ping = Instant::now() + limits::SOCKET_PING;
            self.inner.ping();
        }
    }

    fn count(&self) -> Result<(), Option<Closing>> {
        self.shared.rates.check(self.address).map_err(|_| Some(Closing::TooOften))
    }

    /// Puts a text to what is written; it leaves with [`flush`](Self::flush), or when there is enough of it.
    ///
    /// # Errors
    /// If the connection is closed, or its peer takes nothing.
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, the text is not sent; unless [`ready`](Self::ready) was waited for before, when it is
    /// ready at once.
    pub(crate) async fn feed(&mut self, text: Bytes) -> Result<(), ()> {
        self.ready().await?;
        self.counts.sent.inc();
        self.inner.push(text);
        Ok(())
    }

    /// Waits until there is room for one more text.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn ready(&mut self) -> Result<(), ()> {
        self.inner.ready().await.map_err(drop)
    }

    /// How many texts have been fed and are not written yet.
    pub(crate) fn waiting(&self) -> usize {
        self.inner.waiting()
    }

    /// Writes what is there.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub(crate) async fn flush(&mut self) -> Result<(), ()> {
        self.inner.flush().await.map_err(drop)
    }

    /// Writes a text.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub(crate) async fn send(&mut self, text: Bytes) -> Result<(), ()> {
        self.feed(text).await?;
        self.flush().await
    }

    /// Says why, and waits for the other side to say that it has heard, for a moment.
    pub(crate) async fn close(mut self, closing: Closing) {
        let (code, reason) = closing.code_and_reason();
        self.inner.close(code, reason);
        let said = async {
            if self.inner.flush().await.is_ok() {
                let mut next = async || poll_fn(|context| self.inner.poll_next(context)).await;
                while let Ok(Some(message)) = next().await {
                    if matches!(message, Message::Close) {
                        break;
                    }
                }
            }
        };
        let _ = timeout(LINGER, said).await;
    }
}
