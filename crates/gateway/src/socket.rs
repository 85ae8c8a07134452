//! A WebSocket with its bounds.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tungstenite::error::ProtocolError;

use crate::limits;
use crate::metrics::{OpenSocket, SocketCounts};
use crate::shared::{Shared, SocketPlace};

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
    /// It broke the rules of WebSocket.
    Protocol,
    /// Something is wrong on this side.
    Failed,
}

impl Closing {
    fn frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::GoingAway => (1001, "the gateway is going away"),
            Self::Policy(reason) => (1008, reason),
            Self::TooOften => (1008, "too many messages"),
            Self::NotLoggedIn => (1008, "not authenticated in time"),
            Self::Expired => (1008, "no longer authorized"),
            Self::BadData => (1007, "not what it says"),
            Self::TooLarge => (1009, "too large"),
            Self::Protocol => (1002, "not as RFC 6455 asks for"),
            Self::Failed => (1011, "internal error"),
        };
        CloseFrame { code, reason: Utf8Bytes::from_static(reason) }
    }
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(Utf8Bytes),
    Binary(Bytes),
}

/// What is told to the other side of what was wrong with what it sent; nothing where it is gone.
fn closing_for(error: axum::Error) -> Option<Closing> {
    match error.into_inner().downcast_ref::<tungstenite::Error>()? {
        tungstenite::Error::Capacity(_) => Some(Closing::TooLarge),
        tungstenite::Error::Utf8(_) => Some(Closing::BadData),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(Closing::Protocol),
        _ => None,
    }
}

/// What is told to a socket that is being set up.
pub(crate) fn configured<F>(upgrade: WebSocketUpgrade<F>, shared: &Shared) -> WebSocketUpgrade<F> {
    upgrade
        .read_buffer_size(limits::SOCKET_READ_BYTES)
        .write_buffer_size(limits::SOCKET_WRITE_BYTES)
        .max_write_buffer_size(write_limit(shared))
        .max_message_size(shared.settings.body_limit)
        .max_frame_size(shared.settings.body_limit)
}

/// Bytes that wait to be written, at the most.
fn write_limit(shared: &Shared) -> usize {
    limits::SOCKET_WRITE_LIMIT.max(shared.settings.body_limit.saturating_mul(4))
}

/// A WebSocket of one task: what comes in, with a sign of life asked for now and then, and what goes out, in time.
pub(crate) struct Socket {
    inner: WebSocket,
    shared: Arc<Shared>,
    address: IpAddr,
    dialect: &'static str,
    counts: SocketCounts,
    /// When it is asked for a sign of life, or given up. It stays among the timers, as it is waited for with each message.
    next_ping: Pin<Box<Sleep>>,
    is_asked: bool,
    /// Something has been written that may not have left yet.
    is_dirty: bool,
    _open: OpenSocket,
    _place: SocketPlace,
}

impl Socket {
    pub(crate) fn new(inner: WebSocket, shared: Arc<Shared>, address: IpAddr, dialect: &'static str) -> Self {
        let counts = shared.metrics.socket(dialect);
        Self {
            inner,
            address,
            dialect,
            _open: counts.open(),
            counts,
            next_ping: Box::pin(sleep(limits::SOCKET_PING)),
            is_asked: false,
            is_dirty: false,
            _place: shared.socket_place(),
            shared,
        }
    }

    /// What comes next; `None` when it has ended, or has to be closed for the given reason.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn recv(&mut self) -> Result<Incoming, Option<Closing>> {
        loop {
            let message = tokio::select! {
                message = self.inner.next() => message,
                () = &mut self.next_ping => {
                    if self.is_asked {
                        return Err(None);
                    }
                    self.is_asked = true;
                    self.next_ping.as_mut().reset(Instant::now() + limits::SOCKET_PING);
                    self.send_message(Message::Ping(Bytes::new())).await.map_err(|()| None)?;
                    continue;
                }
            };
            self.is_asked = false;
            let incoming = match message {
                Some(Ok(Message::Text(text))) => Incoming::Text(text),
                Some(Ok(Message::Binary(bytes))) => Incoming::Binary(bytes),
                // Pongs are sent by what reads them.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                    self.count()?;
                    continue;
                }
                Some(Ok(Message::Close(_))) | None => return Err(None),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a WebSocket has ended with an error");
                    return Err(closing_for(error));
                }
            };
            self.count()?;
            self.counts.received.inc();
            return Ok(incoming);
        }
    }

    fn count(&self) -> Result<(), Option<Closing>> {
        self.shared.rates.check(self.address).map_err(|_| Some(Closing::TooOften))
    }

    /// Puts a text to what is written; it leaves with [`flush`](Self::flush), or when there is enough of it. One that could
    /// never be written as a whole is dropped and counted.
    ///
    /// # Errors
    /// If the socket is closed, or its peer takes nothing.
    pub(crate) async fn feed(&mut self, text: Bytes) -> Result<(), ()> {
        // Every text that comes here was made as one.
        let Ok(text) = Utf8Bytes::try_from(text) else { return Err(()) };
        // Beside it there may be what is not written yet, and the heads of frames.
        if text.len() > write_limit(&self.shared) - 2 * limits::SOCKET_WRITE_BYTES {
            tracing::debug!(dialect = self.dialect, bytes = text.len(), "a text is too long for a WebSocket");
            self.shared.metrics.dropped(self.dialect, "too_large", 1);
            return Ok(());
        }
        self.counts.sent.inc();
        self.is_dirty = true;
        let sent = timeout(limits::STALL_TIME, self.inner.feed(Message::Text(text))).await;
        sent.map_err(drop)?.map_err(drop)
    }

    /// Writes what is there.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub(crate) async fn flush(&mut self) -> Result<(), ()> {
        if !std::mem::take(&mut self.is_dirty) {
            return Ok(());
        }
        timeout(limits::STALL_TIME, self.inner.flush()).await.map_err(drop)?.map_err(drop)
    }

    /// Writes a text.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub(crate) async fn send(&mut self, text: Bytes) -> Result<(), ()> {
        self.feed(text).await?;
        self.flush().await
    }

    async fn send_message(&mut self, message: Message) -> Result<(), ()> {
        timeout(limits::STALL_TIME, self.inner.send(message)).await.map_err(drop)?.map_err(drop)
    }

    /// Says why, and waits for the other side to say that it has heard, for a moment.
    pub(crate) async fn close(mut self, closing: Closing) {
        const LINGER: Duration = Duration::from_secs(1);
        let said = async {
            if self.inner.send(Message::Close(Some(closing.frame()))).await.is_ok() {
                while let Some(Ok(message)) = self.inner.next().await {
                    if matches!(message, Message::Close(_)) {
                        break;
                    }
                }
            }
        };
        let _ = timeout(LINGER, said).await;
    }
}
