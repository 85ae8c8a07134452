//! The right and the duty to answer a request.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::codec::Body;
use super::sealing::{AskSeal, Outgoing};
use super::shared::Shared;
use crate::engine::MessageKind;
use crate::error::{BusError, BusResult};
use crate::proto::{Credit, Flags, Header, Kind, Refusal};

/// A request that was handed over and is not answered yet, as the driver and its server share it.
#[derive(Debug)]
pub(super) struct Ask {
    /// What the bus knows the request by.
    token: u64,
    /// The full topic.
    topic: Arc<str>,
    deadline: Option<Instant>,
    /// Whether the requester takes several replies.
    pub(super) stream: bool,
    cancelled: AtomicBool,
    /// It was cancelled, or its window was widened.
    changed: Notify,
    /// How many replies of a stream may be sent.
    window: Mutex<Credit>,
    /// How it is to be answered, if not in plain.
    seal: OnceLock<AskSeal>,
}

impl Ask {
    pub(super) fn new(
        token: u64,
        topic: Arc<str>,
        time_left: Option<Duration>,
        window: Option<(u32, u64)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            token,
            topic,
            deadline: time_left.and_then(|left| Instant::now().checked_add(left)),
            stream: window.is_some(),
            cancelled: AtomicBool::new(false),
            changed: Notify::new(),
            window: Mutex::new(Credit::new(window.unwrap_or_default())),
            seal: OnceLock::new(),
        })
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// How an answer is sealed, if it is; `index` is its place in a stream.
    pub(super) fn outgoing(&self, kind: MessageKind, index: u64) -> Option<Outgoing<'_>> {
        self.seal.get().map(|seal| seal.outgoing(kind, index))
    }

    /// The payload of an answer that is an error.
    pub(super) fn error(&self, error: &BusError) -> Vec<u8> {
        match self.seal.get() {
            Some(seal) => seal.error(error),
            None => Refusal::from(error).encode(),
        }
    }

    fn window(&self) -> MutexGuard<'_, Credit> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for the answer any more.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// The requester took replies.
    pub(super) fn grant(&self, messages: u32, bytes: u64) {
        self.window().grant(messages, bytes);
        self.changed.notify_waiters();
    }

    /// Waits until a reply of a stream may be sent.
    pub(super) async fn allowed(&self) -> BusResult<()> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_cancelled() {
                return Err(BusError::Cancelled);
            }
            if self.window().is_left() {
                return Ok(());
            }
            changed.await;
        }
    }

    async fn cancelled(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }
}

/// The right to answer one request, once.
///
/// It cannot be copied. Give it to [`Client::respond`](super::Client::respond) or one of its kin, on
/// a client of the connection that it came from. Dropped unanswered, it fails the request at the
/// requester as [`BusError::Abandoned`].
pub struct RequestId {
    shared: Arc<Shared>,
    ask: Arc<Ask>,
    answered: bool,
}

impl RequestId {
    pub(super) fn new(shared: Arc<Shared>, ask: Arc<Ask>) -> Self {
        Self { shared, ask, answered: false }
    }

    /// Whether the requester has gone away or given up. An answer would not reach anybody.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.ask.is_cancelled()
    }

    /// Waits until the requester has gone away or given up, or the connection has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; any number of tasks may wait.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use whispeer::client::RequestOptions;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let server = Client::new_memory(&connector)?;
    /// let mut serving = server.serve_bytes("slow").await?;
    ///
    /// let client = Client::new_memory(&connector)?;
    /// let options = RequestOptions::default().timeout(Duration::from_millis(20));
    /// let request = client.request_bytes_with("slow", "now?".into(), options);
    /// let work = async {
    ///     let (_topic, id, _payload) = serving.recv().await.expect("a request was made");
    ///     id.cancelled().await;
    /// };
    /// let (answer, ()) = tokio::join!(request, work);
    /// assert!(matches!(answer, Err(BusError::TimedOut { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancelled(&self) {
        self.ask.cancelled().await;
    }

    /// When the requester gives up, as far as it said so.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.ask.deadline
    }

    /// The time left until the deadline; zero when it has passed.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the requester takes a stream of replies.
    #[must_use]
    pub fn wants_stream(&self) -> bool {
        self.ask.stream
    }

    /// The full topic of the request.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.ask.topic
    }

    /// Notes how the request is to be answered.
    pub(super) fn answer_as(&self, seal: Option<AskSeal>) {
        if let Some(seal) = seal {
            // It is opened once.
            let _ = self.ask.seal.set(seal);
        }
    }

    pub(super) fn ask(&self) -> Arc<Ask> {
        Arc::clone(&self.ask)
    }

    pub(super) fn belongs_to(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Answers, once and for all.
    pub(super) fn answer(mut self, body: &Body<'_>) -> BusResult<()> {
        let sent = self.shared.reply(&self.ask, Flags::NONE, body);
        match &sent {
            // The requester learns why there is no answer, rather than that it was abandoned.
            Err(error @ BusError::FrameTooLarge { .. }) => self.refuse(error),
            _ => self.answered = true,
        }
        sent
    }

    /// Answers with an error.
    pub(super) fn fail(mut self, error: &BusError) -> BusResult<()> {
        self.answered = true;
        self.shared.reply(&self.ask, Flags::ERROR, &Body::Lent(&self.ask.error(error)))
    }

    fn refuse(&mut self, error: &BusError) {
        self.answered = true;
        // Whoever cannot be reached does not wait either.
        let _ = self.shared.reply(&self.ask, Flags::ERROR, &Body::Lent(&self.ask.error(error)));
    }

    /// Hands the duty to answer to a stream of replies.
    pub(super) fn into_ask(mut self) -> Arc<Ask> {
        self.answered = true;
        Arc::clone(&self.ask)
    }
}

impl Drop for RequestId {
    fn drop(&mut self) {
        if !self.answered && !self.is_cancelled() {
            let topic = self.ask.topic.to_string();
            self.refuse(&BusError::Abandoned { topic });
        }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RequestId")
            .field("topic", &self.ask.topic)
            .field("token", &self.ask.token)
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Sends a reply. One without the flag `MORE` is the last.
    ///
    /// # Errors
    /// [`BusError::Cancelled`] when nobody waits for it, or that it is too large; then the request can
    /// still be answered otherwise.
    pub(super) fn reply(&self, ask: &Ask, flags: Flags, body: &Body<'_>) -> BusResult<()> {
        let header = Header::new(Kind::Reply, 0, ask.token).flagged(flags);
        body.with_content(&[], &[], |content| {
            let size = content.frame_size();
            if let Some(session) = self.session() {
                session.check_size(size)?;
            }
            let mut state = self.lock();
            state.check_link()?;
            let more = flags.contains(Flags::MORE);
            let live = if more {
                state.asks.contains_key(&ask.token)
            } else {
                state.asks.remove(&ask.token).is_some()
            };
            if !live {
                return Err(BusError::Cancelled);
            }
            if more {
                ask.window().spend(size);
            } else if state.leaving && state.asks.is_empty() {
                self.driver.wake();
            }
            state.lanes.data(&header, content);
            self.send_call(state);
            Ok(())
        })
    }
}
