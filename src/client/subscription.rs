//! Subscriptions.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::oneshot;
use tokio::task::coop;
use tokio::time::Instant;

use super::Client;
use super::codec::{Decoder, TopicReader, decode_bytes, decode_typed, wire_pattern};
use super::event::{Counts, Event, Message};
use super::inbox::{Inbox, Raw, Reader, Taken};
use super::options::{Headers, SubscribeOptions};
use super::protocol::PublishProtocol;
use super::sealing::{Opener, topic_of};
use super::shared::{Connection, Registration, Shared};
use crate::engine::{MessageKind, Opened};
use crate::error::{BriefResult, BusError, BusResult};
use crate::proto::fields::position_of;
use crate::proto::{ContentRef, Flags, Header, Kind, Lane};
use crate::topic::TopicPattern;

/// The flag of `UNSUBSCRIBE` that lets the bus deliver what it holds first.
const DRAIN: Flags = Flags(1);

/// The least time between two log lines about gaps of one subscription.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Messages of one pattern, in order.
///
/// Made by [`Client::subscribe`] and its kin. It keeps the connection alive by itself, also when the
/// client that made it is gone. Dropping it ends it at the bus; what it had not taken is thrown away.
///
/// A subscription that is not read never holds up others of the same client. Once its window is used
/// up, its [policy](super::Policy) decides at the bus, and what is dropped is told as a gap.
///
/// It is a `Stream` too, of what [`recv`](Self::recv) gives.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let client = Client::new_memory(&connector)?;
/// let mut subscription = client.subscribe_bytes("news/*").await?;
/// client.publish_bytes("news/local", "the bakery reopens").await?;
/// client.publish_bytes("news/world", "nothing happened").await?;
///
/// let (topic, payload) = subscription.recv().await.expect("the bus runs");
/// assert_eq!((topic.as_str(), &payload[..]), ("news/local", &b"the bakery reopens"[..]));
///
/// // What was delivered before the drain is still received.
/// subscription.drain().await?;
/// assert_eq!(subscription.recv().await.expect("the last one").0, "news/world");
/// assert!(subscription.recv().await.is_none());
/// # Ok(())
/// # }
/// ```
pub struct Subscription<T> {
    connection: Arc<Connection>,
    id: u32,
    pattern: Arc<str>,
    reader: Reader<()>,
    topics: TopicReader,
    opener: Option<Box<Opener>>,
    /// It reads a stream.
    reads_stream: bool,
    decode: Decoder<T>,
    skipped: u64,
    undecodable: u64,
    log: GapLog,
}

/// Log lines about gaps, so many at a time that a lagging subscription does not fill a disk.
#[derive(Debug, Default)]
struct GapLog {
    last: Option<Instant>,
    untold: u64,
}

impl GapLog {
    fn note(&mut self, count: u64, pattern: &str) {
        self.untold += count;
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < LOG_INTERVAL) {
            return;
        }
        tracing::warn!(
            pattern,
            skipped = self.untold,
            "messages of a subscription were dropped or not decodable"
        );
        self.last = Some(now);
        self.untold = 0;
    }
}

impl<T> Subscription<T> {
    /// The next message, or `None` once the subscription has ended and everything is taken;
    /// [`close_reason`](Self::close_reason) then says why.
    ///
    /// The topic is the one that the publisher used, without the prefix of the protocol. What lies
    /// between two messages, gaps and payloads that do not decode, is added to [`gaps`](Self::gaps).
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<(TopicPattern, T)> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The next thing that happened: a message, a gap or a payload that does not decode.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next_event(&mut self) -> Option<Event<T>> {
        poll_fn(|context| self.poll_event(context)).await
    }

    /// Waits until something can be taken, without taking it; `false` when nothing will come any more.
    pub(super) fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        self.reader.poll_ready(context)
    }

    pub(super) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<(TopicPattern, T)>> {
        let progress = ready!(coop::poll_proceed(context));
        loop {
            if !ready!(self.reader.poll_ready(context)) {
                progress.made_progress();
                return Poll::Ready(None);
            }
            let skipped = match self.reader.take() {
                None => return Poll::Ready(None),
                Some(Taken::Gap { count, .. }) => count,
                Some(Taken::Message { raw, .. }) => {
                    if let Ok(topic) = self.topics.read(raw.topic)
                        && let Ok(value) = self.opener.as_mut().map_or_else(
                            || (self.decode)(&raw),
                            |opener| Ok(open(opener, &raw, self.decode, self.reads_stream)?.0),
                        )
                    {
                        let topic = topic.clone();
                        self.settle();
                        progress.made_progress();
                        return Poll::Ready(Some((topic, value)));
                    }
                    self.settle();
                    self.undecodable += 1;
                    1
                }
            };
            if skipped > 0 {
                self.skipped += skipped;
                self.log.note(skipped, &self.pattern);
            }
        }
    }

    /// Done with a message: tells the bus of it once half of the window is taken.
    #[inline]
    fn settle(&mut self) {
        if let Some(granted) = self.reader.finish() {
            self.connection.shared.grant(Lane::Subscription, self.id, granted);
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event<T>>> {
        let progress = ready!(coop::poll_proceed(context));
        let taken = loop {
            if !ready!(self.reader.poll_ready(context)) {
                progress.made_progress();
                return Poll::Ready(None);
            }
            match self.reader.take() {
                // A new session goes on in the stream where the one before has ended.
                Some(Taken::Gap { count: 0, .. }) if self.reads_stream => self.settle(),
                taken => break taken,
            }
        };
        progress.made_progress();
        let event = match taken {
            None => return Poll::Ready(None),
            Some(Taken::Gap { count, reason }) => Event::Gap { count, reason },
            Some(Taken::Message { raw, .. }) => match self.topics.read(raw.topic) {
                Ok(topic) => match self.opener.as_mut().map_or_else(
                    || Ok(((self.decode)(&raw)?, Opened::default())),
                    |opener| open(opener, &raw, self.decode, self.reads_stream),
                ) {
                    Ok((value, Opened { signer, .. })) => {
                        let (headers, origin) = Headers::read(raw.fields);
                        let position = if self.reads_stream { position_of(raw.fields) } else { None };
                        let expires_in = Headers::expires_in(raw.fields);
                        let topic = topic.clone();
                        let message = Message { topic, value, headers, origin, signer, position, expires_in };
                        Event::Message(message)
                    }
                    Err(error) => Event::Undecodable { topic: topic.clone(), error: error.into() },
                },
                Err(error) => Event::Undecodable { topic: empty_pattern(), error: error.into() },
            },
        };
        if matches!(event, Event::Undecodable { .. }) {
            self.undecodable += 1;
        }
        self.settle();
        Poll::Ready(Some(event))
    }

    /// The full pattern, with the prefix of the protocol.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// How many messages [`recv`](Self::recv) has skipped: those in gaps, and those that did not
    /// decode.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.skipped
    }

    /// How many messages did not decode.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// What became of the matches so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (received, gaps) = self.reader.inbox().counts();
        let taken = self.reader.taken();
        Counts { received, taken, pending: received - taken, gaps }
    }

    /// Why it ended; `None` while it has not. Messages may still be there to be taken.
    #[must_use]
    pub fn close_reason(&self) -> Option<BusError> {
        let end = self.reader.inbox().ended()?;
        Some(end.error.unwrap_or_else(|| BusError::Closed {
            what: format!("the subscription to \"{}\"", self.pattern),
        }))
    }

    /// Stops it at the bus without losing anything: when this returns, nothing new is matched, and
    /// what was matched before can still be received; then [`recv`](Self::recv) gives `None`.
    ///
    /// # Errors
    /// Why the connection ended, if it did meanwhile.
    ///
    /// # Cancel safety
    /// The drain goes on when the future is dropped.
    pub async fn drain(&mut self) -> BusResult<()> {
        if self.connection.shared.unsubscribe(self.id, 0, DRAIN) {
            self.connection.shared.barrier().await?;
        }
        Ok(())
    }

    /// Ends it and throws away what was not taken. Dropping it does the same.
    pub fn unsubscribe(self) {}
}

/// Opens a message and reads its value.
fn open<T>(
    opener: &mut Opener,
    raw: &Raw<'_>,
    decode: Decoder<T>,
    reads_stream: bool,
) -> BriefResult<(T, Opened)> {
    // What was there before may have come before.
    opener.is_stored = reads_stream && position_of(raw.fields).is_some_and(|position| position.replayed);
    opener.open(MessageKind::Publish, topic_of(raw), (None, 0), raw, |raw, _| decode(raw))
}

fn empty_pattern() -> TopicPattern {
    crate::topic::Topic::default().into()
}

impl<T> Stream for Subscription<T> {
    type Item = (TopicPattern, T);

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(context)
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.connection.shared.unsubscribe(self.id, self.reader.taken_of_session(), Flags::NONE);
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Subscription")
            .field("pattern", &self.pattern)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Subscribes to messages of type `P` whose topic meets `topic`, which may have wildcards.
    ///
    /// When this returns, the bus has the subscription: whatever is published from then on matches.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] before anything is sent; [`BusError::LimitReached`] at the limit of
    /// subscriptions; what the bus refuses it with; or why the connection ended.
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    ///
    /// # Examples
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// use whispeer::prelude::*;
    ///
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct HelloProtocol(String);
    /// # impl PublishProtocol for HelloProtocol {
    /// #     fn prefix() -> &'static str { "hello" }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let mut subscription = client.subscribe::<HelloProtocol>("alice").await?;
    /// let count = client.publish("alice", &HelloProtocol("Hello".into())).await?;
    /// assert_eq!(count, 1);
    /// let (topic, message) = subscription.recv().await.expect("the bus runs");
    /// assert_eq!((topic.as_str(), message.0.as_str()), ("alice", "Hello"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe<P: PublishProtocol>(&self, topic: &str) -> BusResult<Subscription<P>> {
        self.subscribe_with(topic, SubscribeOptions::default()).await
    }

    /// Subscribes with a policy, a window, in a queue group, or without echo.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe), and [`BusError::InvalidSettings`] for options that cannot be.
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    pub async fn subscribe_with<P: PublishProtocol>(
        &self,
        topic: &str,
        options: SubscribeOptions,
    ) -> BusResult<Subscription<P>> {
        self.subscribe_raw(P::prefix(), topic, &options, decode_typed::<P>).await
    }

    /// Subscribes to payloads as they are. Topics are whole here: no prefix is put before the pattern
    /// or taken from what arrives.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    pub async fn subscribe_bytes(&self, topic: &str) -> BusResult<Subscription<Bytes>> {
        self.subscribe_bytes_with(topic, SubscribeOptions::default()).await
    }

    /// [`subscribe_bytes`](Self::subscribe_bytes) with options.
    ///
    /// # Errors
    /// As [`subscribe_with`](Self::subscribe_with).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    pub async fn subscribe_bytes_with(
        &self,
        topic: &str,
        options: SubscribeOptions,
    ) -> BusResult<Subscription<Bytes>> {
        self.subscribe_raw("", topic, &options, decode_bytes).await
    }

    async fn subscribe_raw<T>(
        &self,
        prefix: &'static str,
        topic: &str,
        options: &SubscribeOptions,
        decode: Decoder<T>,
    ) -> BusResult<Subscription<T>> {
        let (pattern, _) = wire_pattern(prefix, topic)?;
        let fields = options.fields()?;
        let shared = &self.connection.shared;
        shared.opened().await?;
        shared.room().await?;
        let inbox = Inbox::new(options.window);
        if options.start.is_some() {
            inbox.follow_stream();
        }
        let pattern: Arc<str> = pattern.into();
        let flags = if options.no_echo { Flags::NO_ECHO } else { Flags::NONE };
        let (id, accepted) = shared.subscribe(&inbox, &pattern, flags, &fields)?;
        // It exists before the bus has accepted it, so that dropping this future undoes it.
        let opener = self.connection.opener(&pattern);
        let subscription = Subscription {
            connection: Arc::clone(&self.connection),
            id,
            pattern,
            reader: Reader::new(inbox, options.window),
            topics: TopicReader::new(prefix),
            opener,
            reads_stream: options.start.is_some(),
            decode,
            skipped: 0,
            undecodable: 0,
            log: GapLog::default(),
        };
        accepted.await.unwrap_or_else(|_| Err(shared.reason()))?;
        Ok(subscription)
    }
}

impl Shared {
    fn subscribe(
        &self,
        inbox: &Arc<Inbox<()>>,
        pattern: &Arc<str>,
        flags: Flags,
        fields: &[u8],
    ) -> BusResult<(u32, oneshot::Receiver<BusResult<()>>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.check()?;
        if let Some(session) = self.session() {
            session.check_subscriptions(state.subscriptions.entries.len())?;
        }
        let registration = Registration {
            inbox: Arc::clone(inbox),
            topic: Arc::clone(pattern),
            flags,
            fields: fields.into(),
            accepted: Some(sender),
            ending: false,
        };
        let id = state.subscriptions.insert(registration);
        let header = Header::new(Kind::Subscribe, id, 0).flagged(flags);
        state.lanes.control(&header, &ContentRef::lent(fields, pattern.as_bytes(), &[]));
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
        Ok((id, receiver))
    }

    /// Ends a subscription at the bus, unless it has ended already. Without [`DRAIN`], the bus counts as
    /// dropped what it has delivered beyond the `taken` messages.
    fn unsubscribe(&self, id: u32, taken: u64, flags: Flags) -> bool {
        let mut state = self.lock();
        let Some(registration) = state.subscriptions.entries.get_mut(&id) else { return false };
        registration.ending = true;
        // Behind what was published before: a drained subscription still gets it.
        state.lanes.data(&Header::new(Kind::Unsubscribe, id, taken).flagged(flags), &ContentRef::empty());
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
        true
    }

    /// Lets every subscription end once what the bus holds for it is delivered.
    pub(super) fn drain_subscriptions(&self) {
        let ids: Vec<u32> = self.lock().subscriptions.entries.keys().copied().collect();
        for id in ids {
            self.unsubscribe(id, 0, DRAIN);
        }
    }
}
