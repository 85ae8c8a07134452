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
use super::codec::{Decoder, TopicReader, decode_bytes, decode_content, decode_typed, wire_pattern};
use super::deliveries::{Deliveries, Frame, Kept, Taken as Admitted};
use super::event::{Counts, Event, Message};
use super::following::Following;
use super::inbox::{Inbox, Raw, Reader, Taken};
use super::options::{Headers, SubscribeOptions};
use super::protocol::PublishProtocol;
use super::sealing::{Opener, topic_of};
use super::shared::{Connection, Ending, Registration, Shared, wake};
use crate::engine::{MessageKind, Opened};
use crate::error::{BriefResult, BusError, BusResult};
use crate::proto::fields::{Attempt, Epoch, GapReason, Quality, Start, attempt_of, position_of};
use crate::proto::{Content, ContentRef, Flags, Header, Kind, Lane};
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
    /// What it has been handed, where it acknowledges.
    deliveries: Option<Arc<Deliveries>>,
    /// What it acknowledges when the next message is asked for.
    unacknowledged: Option<u64>,
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
    pub(crate) fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        self.reader.poll_ready(context)
    }

    pub(super) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<(TopicPattern, T)>> {
        let progress = ready!(coop::poll_proceed(context));
        self.acknowledge_last();
        loop {
            if !ready!(self.poll_ready(context)) {
                progress.made_progress();
                return Poll::Ready(None);
            }
            let generation = self.reader.restarts();
            let skipped = match self.reader.take() {
                None => return Poll::Ready(None),
                Some(Taken::GoesOn) => 0,
                Some(Taken::Gap { count, reason }) => {
                    if reason == GapReason::Recreated {
                        tracing::warn!(
                            pattern = &*self.pattern,
                            "a stream is not the one that was read before"
                        );
                    }
                    count
                }
                Some(Taken::Message { raw, .. }) => {
                    let attempt = attempt_in(self.deliveries.as_ref(), &raw);
                    if let Some((deliveries, (sequence, attempt))) = self.deliveries.as_ref().zip(attempt)
                        && !admit(
                            &self.connection.shared,
                            self.id,
                            deliveries,
                            generation,
                            (sequence, attempt),
                        )
                    {
                        self.settle();
                        continue;
                    }
                    if let Ok(topic) = self.topics.read(raw.topic)
                        && let Ok(value) = self.opener.as_mut().map_or_else(
                            || (self.decode)(&raw),
                            |opener| Ok(open(opener, &raw, self.decode, self.reads_stream)?.0),
                        )
                    {
                        let topic = topic.clone();
                        self.unacknowledged = attempt.map(|(sequence, _)| sequence);
                        self.settle();
                        progress.made_progress();
                        return Poll::Ready(Some((topic, value)));
                    }
                    self.settle();
                    self.refuse(attempt);
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

    /// Waits until something can be taken. What is acknowledged by then is on its way first.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let ready = self.reader.poll_ready(context);
        if !matches!(ready, Poll::Ready(true))
            && let Some(frame) = self.deliveries.as_ref().and_then(|deliveries| deliveries.flush())
        {
            send(&self.connection.shared, self.id, &frame);
        }
        ready
    }

    /// The next message is asked for, so that the last one is done with.
    fn acknowledge_last(&mut self) {
        if let Some(sequence) = self.unacknowledged.take()
            && let Some(deliveries) = &self.deliveries
            && let Some(frame) = deliveries.acknowledge_later(sequence)
        {
            send(&self.connection.shared, self.id, &frame);
        }
    }

    /// What cannot be read goes to the dead letters in the end, and is not lost.
    fn refuse(&self, attempt: Option<(u64, Attempt)>) {
        if let Some((sequence, _)) = attempt
            && let Some(deliveries) = &self.deliveries
            && let Some(frame) = deliveries.refuse(sequence, None)
        {
            send(&self.connection.shared, self.id, &frame);
        }
    }

    /// Counts messages that were skipped.
    pub(super) fn skip(&mut self, count: u64) {
        if count > 0 {
            self.skipped += count;
            self.log.note(count, &self.pattern);
        }
    }

    /// Leaves the last message to somebody else to acknowledge.
    pub(super) fn hand_out(&mut self) -> Option<(Arc<Connection>, u32, Arc<Deliveries>, u64)> {
        let sequence = self.unacknowledged.take()?;
        let deliveries = Arc::clone(self.deliveries.as_ref()?);
        Some((Arc::clone(&self.connection), self.id, deliveries, sequence))
    }

    /// Whom to tell what is under way, and of what.
    #[cfg(feature = "broker")]
    pub(super) fn at_work(&self) -> Option<(Arc<Connection>, u32, Arc<Deliveries>)> {
        Some((Arc::clone(&self.connection), self.id, Arc::clone(self.deliveries.as_ref()?)))
    }

    /// Done with a message: tells the bus of it once half of the window is taken.
    #[inline]
    fn settle(&mut self) {
        if let Some(granted) = self.reader.finish() {
            self.connection.shared.grant(Lane::Subscription, self.id, granted);
        }
    }

    pub(super) fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event<T>>> {
        let progress = ready!(coop::poll_proceed(context));
        self.acknowledge_last();
        let mut attempt = None;
        let taken = loop {
            if !ready!(self.poll_ready(context)) {
                progress.made_progress();
                return Poll::Ready(None);
            }
            let generation = self.reader.restarts();
            match self.reader.take() {
                Some(Taken::GoesOn) => self.settle(),
                Some(Taken::Message { raw, stamp }) => {
                    attempt = attempt_in(self.deliveries.as_ref(), &raw);
                    if let Some((deliveries, attempt)) = self.deliveries.as_ref().zip(attempt)
                        && !admit(&self.connection.shared, self.id, deliveries, generation, attempt)
                    {
                        self.settle();
                        continue;
                    }
                    break Some(Taken::Message { raw, stamp });
                }
                taken => break taken,
            }
        };
        progress.made_progress();
        let event = match taken {
            None | Some(Taken::GoesOn) => return Poll::Ready(None),
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
                        let attempt = attempt.map(|(_, attempt)| attempt);
                        let message =
                            Message { topic, value, headers, origin, signer, position, attempt, expires_in };
                        Event::Message(message)
                    }
                    Err(error) => Event::Undecodable { topic: topic.clone(), error: error.into() },
                },
                Err(error) => Event::Undecodable { topic: empty_pattern(), error: error.into() },
            },
        };
        self.settle();
        match event {
            Event::Undecodable { .. } => {
                self.undecodable += 1;
                self.refuse(attempt);
            }
            Event::Message(_) => self.unacknowledged = attempt.map(|(sequence, _)| sequence),
            Event::Gap { .. } => {}
        }
        Poll::Ready(Some(event))
    }

    /// The full pattern, with the prefix of the protocol.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Its number within its session, as the bus has it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
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

    /// The epoch of the stream that it reads; `None` for one that reads none.
    ///
    /// It goes with the sequences of its messages: whoever notes how far he has read notes it, too, and begins there by
    /// [`SubscribeOptions::epoch`].
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.reader.inbox().with_following(|following| following.epoch())?
    }

    /// Where to go on in the stream, once it has ended by its [limit](SubscribeOptions::limit) and everything is taken. That
    /// there is nothing more yet it tells by [`end_sequence`](Self::end_sequence).
    #[must_use]
    pub fn next_sequence(&self) -> Option<u64> {
        self.reader.inbox().with_following(|following| following.next())?
    }

    /// The first sequence of the stream that was not there when the subscription began, at the session that there is now; `None`
    /// for one that reads no stream.
    #[must_use]
    pub fn end_sequence(&self) -> Option<u64> {
        self.reader.inbox().with_following(|following| following.end())
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
    /// One that acknowledges gets what the bus has handed it by then, and may acknowledge that as long as it lives, its
    /// session lasts and the time for each message is not over; see [`Consumer::drain`](super::Consumer::drain).
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

/// By what a message is acknowledged, if it is to be.
fn attempt_in(deliveries: Option<&Arc<Deliveries>>, raw: &Raw<'_>) -> Option<(u64, Attempt)> {
    deliveries.and_then(|_| attempt_of(raw.fields))
}

/// Whether the application gets a message; it has it already where it does not.
fn admit(
    shared: &Shared,
    id: u32,
    deliveries: &Deliveries,
    generation: u32,
    (sequence, attempt): (u64, Attempt),
) -> bool {
    let taken = deliveries.take(generation, sequence, attempt);
    let is_new = matches!(taken, Admitted::New(_));
    let (Admitted::New(frame) | Admitted::Known(frame)) = taken;
    if let Some(frame) = frame {
        send(shared, id, &frame);
    }
    is_new
}

/// Sends an acknowledgement.
pub(super) fn send(shared: &Shared, id: u32, frame: &Frame) {
    let (header, payload) = frame.parts(id);
    shared.control(&header, payload);
}

/// Opens a message and reads its value.
fn open<T>(
    opener: &mut Opener,
    raw: &Raw<'_>,
    decode: Decoder<T>,
    reads_stream: bool,
) -> BriefResult<(T, Opened)> {
    // What was there before may have come before, and so may what is sent until it is acknowledged: a dead letter that was
    // put back is the same message at another place.
    let may_come_again = |fields| {
        attempt_of(fields).is_some() || position_of(fields).is_some_and(|position| position.replayed)
    };
    opener.is_stored = reads_stream && may_come_again(raw.fields);
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

    /// Subscribes to messages as the bus shares them: topics are whole, as with [`subscribe_bytes`](Self::subscribe_bytes).
    ///
    /// It is for whoever hands messages on in another form, as a gateway does. Over a link within the process it yields the
    /// very [`Content`] that the bus has given to all other subscribers, so that
    /// [`encoded`](Content::encoded) makes each form once for all of them, whatever their sessions. A message that came
    /// over a byte link, that has waited at the bus for credit, or that engines have opened has a content of its own.
    ///
    /// Without engines, sealed payloads come as they are; [`is_sealed`](crate::engine::is_sealed) tells them from others.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    /// use whispeer::proto::Encoding;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let (one, other) = (Client::new_memory(&connector)?, Client::new_memory(&connector)?);
    /// let mut first = one.subscribe_content("news/*").await?;
    /// let mut second = other.subscribe_content("news/*").await?;
    /// one.publish_bytes("news/local", "the bakery reopens").await?;
    ///
    /// let (topic, content) = first.recv().await.expect("the bus runs");
    /// let length = content.payload().len();
    /// let event = content.encoded(Encoding::Event, || format!("data: {topic}, {length} bytes\n\n").into());
    /// assert_eq!(&event[..], b"data: news/local, 18 bytes\n\n");
    ///
    /// let (_, content) = second.recv().await.expect("the bus runs");
    /// assert_eq!(content.encoded(Encoding::Event, || unreachable!("it is made once")), event);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_content(&self, topic: &str) -> BusResult<Subscription<Arc<Content>>> {
        self.subscribe_content_with(topic, SubscribeOptions::default()).await
    }

    /// [`subscribe_content`](Self::subscribe_content) with options.
    ///
    /// # Errors
    /// As [`subscribe_with`](Self::subscribe_with).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    pub async fn subscribe_content_with(
        &self,
        topic: &str,
        options: SubscribeOptions,
    ) -> BusResult<Subscription<Arc<Content>>> {
        self.subscribe_raw("", topic, &options, decode_content).await
    }

    pub(super) async fn subscribe_raw<T>(
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
        let deliveries = (options.quality > Quality::AtMostOnce).then(|| {
            let kept = match (&options.group, &options.durable) {
                (Some(_), _) => Kept::Shared,
                (None, Some(_)) => Kept::AtBus,
                (None, None) => Kept::Here,
            };
            Arc::new(Deliveries::new(options.quality, kept))
        });
        let reads_stream = options.start.is_some() || deliveries.is_some();
        if reads_stream {
            let start = options.start.unwrap_or(Start::New);
            let following = Following::new(start, options.epoch, options.limit);
            inbox.follow_stream(following, deliveries.clone());
        }
        let pattern: Arc<str> = pattern.into();
        let flags = if options.no_echo { Flags::NO_ECHO } else { Flags::NONE };
        let (id, accepted) = shared.subscribe(&inbox, &pattern, flags, &fields, deliveries.clone())?;
        // It exists before the bus has accepted it, so that dropping this future undoes it.
        let opener = self.connection.subscription_opener(&pattern);
        let subscription = Subscription {
            connection: Arc::clone(&self.connection),
            id,
            pattern,
            reader: Reader::new(inbox, options.window),
            topics: TopicReader::new(prefix),
            opener,
            reads_stream,
            deliveries,
            unacknowledged: None,
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
        deliveries: Option<Arc<Deliveries>>,
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
            ending: Ending::No,
            deliveries,
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
        let mut gone = None;
        match (registration.ending, flags.contains(DRAIN)) {
            (Ending::Drained, true) => return false,
            // It has ended but for its acknowledgements, or has not begun, and the bus says nothing more of it.
            (Ending::Drained, false) | (Ending::Refused, _) => {
                gone = state.subscriptions.entries.remove(&id);
            }
            (Ending::Asked, true) => {}
            (_, true) => registration.ending = Ending::Draining,
            (_, false) => registration.ending = Ending::Asked,
        }
        // Behind what was published before: a drained subscription still gets it.
        state.lanes.data(&Header::new(Kind::Unsubscribe, id, taken).flagged(flags), &ContentRef::empty());
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
        if let Some(gone) = gone {
            gone.end_deliveries(&BusError::Closed { what: "the subscription".into() });
            wake(gone.inbox.end(None, None));
        }
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
