//! Publishing.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Client;
use super::codec::{Body, Encoder, wire_publish, with_encoded};
use super::options::{Headers, PublishOptions};
use super::protocol::PublishProtocol;
use super::sealing::Seal;
use super::shared::Connection;
use super::window::{Origin, Ticket};
use crate::engine::MessageKind;
use crate::error::{BriefResult, BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Field, FieldsBuilder, Quality, iterate};
use crate::proto::{Content, ContentRef, Payload};

/// Messages that one task sends before it lets others run. Out of credit it pauses anyway; this is
/// for one that gets new credit from another thread all the time.
const SENDS_PER_TURN: u32 = 1024;

/// Publishes to one topic without waiting for each message to be matched.
///
/// Made by [`Client::publisher`]. [`send`](Self::send) waits only for the window for publishes, and
/// many small messages travel in one write. Failures are told by [`flush`](Self::flush). It keeps the
/// connection alive, and may be used by several tasks at once. Headers of all its messages are given to
/// [`Client::publisher_with`], those of a single one to [`send_with`](Self::send_with).
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let client = Client::new_memory(&connector)?;
/// let mut subscription = client.subscribe_bytes("ticks").await?;
/// let publisher = client.publisher_bytes("ticks")?;
/// for tick in 0..100u8 {
///     publisher.send(&vec![tick].into()).await?;
/// }
/// publisher.flush().await?;
/// for tick in 0..100u8 {
///     let (_topic, payload) = subscription.recv().await.expect("the bus runs");
///     assert_eq!(payload[..], [tick]);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Publisher<T> {
    connection: Arc<Connection>,
    id: u32,
    /// The full topic, in memory that value links share.
    topic: Bytes,
    /// The fields of every message.
    fields: Bytes,
    encode: Encoder<T>,
    seal: Option<Seal>,
    sent_in_turn: AtomicU32,
}

impl<T> Publisher<T> {
    /// Sends a message as soon as the window for publishes has room.
    ///
    /// It is on its way when this returns, not yet matched; [`flush`](Self::flush) waits for that.
    ///
    /// # Errors
    /// [`BusError::Encode`] and [`BusError::FrameTooLarge`] for this message; or why the connection
    /// ended.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the message is not sent.
    pub async fn send(&self, value: &T) -> BusResult<()> {
        self.send_fields(&self.fields, value).await
    }

    /// Sends a message with headers of its own, behind those of the publisher.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`BusError::HeadersTooLarge`].
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::{Event, Headers, PublishOptions};
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let mut subscription = client.subscribe_bytes("orders").await?;
    ///
    /// let shop = PublishOptions::default().header("shop", "7");
    /// let publisher = client.publisher_bytes_with("orders", shop)?;
    /// publisher.send_with(&"two apples".into(), &Headers::new().with("trace", "ab12")).await?;
    ///
    /// let Some(Event::Message(order)) = subscription.next_event().await else { panic!("the bus runs") };
    /// assert_eq!(order.headers, Headers::from_iter([("shop", "7"), ("trace", "ab12")]));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_with(&self, value: &T, headers: &Headers) -> BusResult<()> {
        let mut fields = FieldsBuilder::new();
        fields.append(&self.fields)?;
        headers.write(&mut fields)?;
        self.send_fields(&fields.finish().into(), value).await
    }

    async fn send_fields(&self, fields: &Bytes, value: &T) -> BusResult<()> {
        // Several tasks may count past each other, which only moves the pause.
        let sent = self.sent_in_turn.load(Ordering::Relaxed);
        if sent >= SENDS_PER_TURN {
            self.sent_in_turn.store(0, Ordering::Relaxed);
            tokio::task::yield_now().await;
        } else {
            self.sent_in_turn.store(sent + 1, Ordering::Relaxed);
        }
        if self.seal.is_some() {
            // From here on the frame limit is known.
            self.connection.shared.opened().await?;
        }
        let mut sealed = None;
        if self.offer(fields, value, &mut sealed)? {
            return Ok(());
        }
        self.sent_in_turn.store(0, Ordering::Relaxed);
        let mut origin = Origin::Publisher(self.id);
        let mut ticket = Ticket::new(&self.connection.shared);
        poll_fn(|context| {
            let mut poll = |body: &Body<'_>| {
                self.with_content(fields, body, |content| ticket.poll_publish(context, &mut origin, content))
            };
            // What is sealed is so once.
            if let Some(sealed) = &sealed {
                return poll(&Body::Owned(Bytes::clone(sealed)));
            }
            let shared = &self.connection.shared;
            let outgoing = self.seal.as_ref().map(|seal| seal.outgoing(MessageKind::Publish, fields));
            let beside = self.beside(fields);
            let sent = with_encoded(shared, &self.encode, value, beside, outgoing.as_ref(), poll);
            sent.unwrap_or_else(|error| Poll::Ready(Err(error)))
        })
        .await?;
        Ok(())
    }

    /// Sends a message if the window for publishes has room at this moment.
    ///
    /// # Errors
    /// [`BusError::Full`] when it has none, or others wait for it; otherwise as [`send`](Self::send).
    #[inline]
    pub fn try_send(&self, value: &T) -> BusResult<()> {
        let shared = &self.connection.shared;
        // To seal is work and takes a number, so it is not done for what has no room as it is.
        if self.seal.is_some() && !shared.may_publish()? {
            return Err(BusError::Full);
        }
        if self.offer(&self.fields, value, &mut None)? { Ok(()) } else { Err(BusError::Full) }
    }

    /// Sends a message if the window has room; `false` if it has none. What has been sealed by then is kept.
    #[inline]
    fn offer(&self, fields: &Bytes, value: &T, sealed: &mut Option<Bytes>) -> BriefResult<bool> {
        let shared = &self.connection.shared;
        let outgoing = self.seal.as_ref().map(|seal| seal.outgoing(MessageKind::Publish, fields));
        with_encoded(shared, &self.encode, value, self.beside(fields), outgoing.as_ref(), |body| {
            let sent = self.with_content(fields, body, |content| shared.try_publish(self.id, content));
            if outgoing.is_some() && matches!(sent, Ok(false)) {
                *sealed = Some(body.keep());
            }
            sent
        })?
    }

    /// Waits until the bus has resolved everything that was sent before.
    ///
    /// # Errors
    /// The first error of the messages sent since the last flush, or why the connection ended.
    ///
    /// # Cancel safety
    /// The messages are sent whether or not anybody waits; an error is then told by the next flush.
    pub async fn flush(&self) -> BusResult<()> {
        loop {
            match self.connection.shared.barrier().await {
                // What is to be kept is sent again at a new session, and the next barrier is behind it.
                Err(BusError::OutcomeUnknown { .. }) if self.is_kept() => {}
                done => break done?,
            }
        }
        self.take_failures().map_or(Ok(()), |failures| Err(failures.first))
    }

    /// Takes what has failed of its messages since this, or [`flush`](Self::flush), was called last; `None` where nothing has.
    ///
    /// It does not wait, and is for whoever sends to many topics: after one [`Client::flush`] it tells of each publisher what became of all that
    /// was sent before that. Of what was under way when the connection was lost it counts all, as nobody knows whether it was
    /// published. Failures that come when the publisher is gone are counted by [`Client::take_stray_failures`].
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let publishers = [client.publisher_bytes("one")?, client.publisher_bytes("other")?];
    /// for publisher in &publishers {
    ///     publisher.send(&"now".into()).await?;
    /// }
    /// client.flush().await?;
    /// assert!(publishers.iter().all(|publisher| publisher.take_failures().is_none()));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "what has failed is told once"]
    pub fn take_failures(&self) -> Option<PublishFailures> {
        self.connection.shared.take_failures(self.id)
    }

    /// Whether its messages are to be kept.
    fn is_kept(&self) -> bool {
        iterate(&self.fields)
            .any(|field| matches!(field, Field::Quality(quality) if quality > Quality::AtMostOnce))
    }

    /// Bytes that a frame carries beside the payload.
    #[inline]
    fn beside(&self, fields: &Bytes) -> usize {
        fields.len() + self.topic.len()
    }

    #[inline]
    fn with_content<R>(&self, fields: &Bytes, body: &Body<'_>, send: impl FnOnce(&ContentRef<'_>) -> R) -> R {
        let payload = match body {
            Body::Lent(payload) => return send(&ContentRef::lent(fields, &self.topic, payload)),
            Body::Owned(payload) if payload.len() < limits::SHARED_PAYLOAD => {
                return send(&ContentRef::lent(fields, &self.topic, payload));
            }
            Body::Owned(payload) => Payload::Bytes(payload.clone()),
            Body::Shared(payload) => payload.clone(),
        };
        // All messages share the topic; only the payload is new.
        send(&Arc::new(Content::new(fields.clone(), self.topic.clone(), payload)).borrowed())
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.connection.shared.remove_publisher(self.id);
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = String::from_utf8_lossy(&self.topic);
        formatter.debug_struct("Publisher").field("topic", &topic).finish_non_exhaustive()
    }
}

/// What has failed of a publisher's messages. From [`Publisher::take_failures`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PublishFailures {
    /// How many messages.
    pub count: u64,
    /// Why the first of them failed.
    pub first: BusError,
}

/// What becomes of a publish that is on its way: a future of the number of matches, or of why it failed. It keeps the connection alive.
///
/// Made by [`Client::send_bytes_with`]. Dropped, the message goes all the same and nobody is told.
#[must_use = "it tells whether the message was published"]
pub struct Acknowledgement {
    receiver: oneshot::Receiver<BusResult<usize>>,
    connection: Arc<Connection>,
}

impl Future for Acknowledgement {
    type Output = BusResult<usize>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(Pin::new(&mut self.receiver).poll(context));
        Poll::Ready(told.unwrap_or_else(|_| Err(self.connection.shared.reason())))
    }
}

impl fmt::Debug for Acknowledgement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Acknowledgement").finish_non_exhaustive()
    }
}

impl Client {
    /// Publishes a message and waits until every match has it queued, parked or counted as dropped.
    /// Returns the number of matching subscriptions.
    ///
    /// The topic may have wildcards: the message then goes once to every subscription whose pattern
    /// meets it.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`], [`BusError::ReservedTopic`], [`BusError::Encode`] and
    /// [`BusError::FrameTooLarge`] before anything is sent; [`BusError::Overloaded`] and others from
    /// the bus; or why the connection ended.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the message may have been published or not.
    pub async fn publish<P: PublishProtocol>(&self, topic: &str, message: &P) -> BusResult<usize> {
        self.publish_with(topic, message, PublishOptions::default()).await
    }

    /// Publishes with headers, or with less patience for subscriptions that have no room.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`BusError::HeadersTooLarge`].
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn publish_with<P: PublishProtocol>(
        &self,
        topic: &str,
        message: &P,
        options: PublishOptions,
    ) -> BusResult<usize> {
        let topic = wire_publish(P::prefix(), topic)?;
        self.publish_raw(&topic, &options.fields(&[])?, Encoder::typed(P::weight), message).await
    }

    /// Publishes bytes as they are, to a whole topic.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn publish_bytes(&self, topic: &str, payload: impl Into<Bytes>) -> BusResult<usize> {
        self.publish_bytes_with(topic, payload, PublishOptions::default()).await
    }

    /// [`publish_bytes`](Self::publish_bytes) with options.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with).
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn publish_bytes_with(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> BusResult<usize> {
        let (topic, payload) = (wire_publish("", topic)?, payload.into());
        self.publish_raw(&topic, &options.fields(&[])?, Encoder::bytes(), &payload).await
    }

    /// Sends bytes as they are, to a whole topic, without waiting until the bus has them: when this returns the message is on its way,
    /// and what is sent after that comes behind it. It waits for the window for publishes alone. What it returns tells how the
    /// publish ended, as [`publish_bytes_with`](Self::publish_bytes_with) does.
    ///
    /// For one topic and without an answer for each message there is [`publisher_bytes`](Self::publisher_bytes).
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with), before anything is sent.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::PublishOptions;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let _subscription = client.subscribe_bytes("steps/*").await?;
    /// let mut sent = Vec::new();
    /// for topic in ["steps/first", "steps/second"] {
    ///     sent.push(client.send_bytes_with(topic, "now", PublishOptions::default()).await?);
    /// }
    /// for acknowledgement in sent {
    ///     assert_eq!(acknowledgement.await?, 1);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_bytes_with(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> BusResult<Acknowledgement> {
        self.send_encoded(topic, &options.fields(&[])?, &payload.into()).await
    }

    /// Takes how many messages of publishers have failed since this was called last that none of them tells of: the publisher was dropped
    /// before, or others have sent so much meanwhile that it is not known any more which one it was. After a [`flush`](Self::flush) it
    /// counts all that was sent before that.
    #[must_use = "what has failed is told once"]
    pub fn take_stray_failures(&self) -> u64 {
        self.connection.shared.take_strays()
    }

    /// Publishes one message to several topics. A subscription that several of them meet gets it
    /// once. Returns the number of matching subscriptions; without topics that is 0.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`BusError::LimitReached`] for more than
    /// [`limits::PUBLISH_MANY_TOPICS`] topics.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn publish_many<P: PublishProtocol>(&self, topics: &[&str], message: &P) -> BusResult<usize> {
        if topics.len() > limits::PUBLISH_MANY_TOPICS {
            return Err(BusError::LimitReached {
                what: format!(
                    "{} topics of one publish, {} were given",
                    limits::PUBLISH_MANY_TOPICS,
                    topics.len()
                ),
            });
        }
        let topics =
            topics.iter().map(|topic| wire_publish(P::prefix(), topic)).collect::<BusResult<Vec<_>>>()?;
        let Some((first, further)) = topics.split_first() else { return Ok(0) };
        let fields = PublishOptions::default().fields(further)?;
        if let Some(seal) = self.connection.seal(first)? {
            further.iter().try_for_each(|topic| seal.check_also(topic))?;
        }
        self.publish_raw(first, &fields, Encoder::typed(P::weight), message).await
    }

    /// A publisher for one topic, which sends without waiting for each message.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] and [`BusError::ReservedTopic`].
    pub fn publisher<P: PublishProtocol>(&self, topic: &str) -> BusResult<Publisher<P>> {
        self.publisher_with(topic, PublishOptions::default())
    }

    /// A publisher all of whose messages have the same options: headers, or less patience for
    /// subscriptions that have no room.
    ///
    /// # Errors
    /// As [`publisher`](Self::publisher), and [`BusError::HeadersTooLarge`].
    ///
    /// # Examples
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// use whispeer::client::{Event, PublishOptions};
    /// use whispeer::prelude::*;
    ///
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct Celsius(f64);
    /// # impl PublishProtocol for Celsius {
    /// #     fn prefix() -> &'static str { "celsius" }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let mut readings = client.subscribe::<Celsius>("*").await?;
    ///
    /// let options = PublishOptions::default().header("sensor", "roof");
    /// let publisher = client.publisher_with::<Celsius>("outside", options)?;
    /// for reading in [20.5, 20.7, 20.4] {
    ///     publisher.send(&Celsius(reading)).await?;
    /// }
    /// publisher.flush().await?;
    ///
    /// let Some(Event::Message(first)) = readings.next_event().await else { panic!("the bus runs") };
    /// assert_eq!((first.value.0, first.headers.find("sensor")), (20.5, Some("roof")));
    /// # Ok(())
    /// # }
    /// ```
    pub fn publisher_with<P: PublishProtocol>(
        &self,
        topic: &str,
        options: PublishOptions,
    ) -> BusResult<Publisher<P>> {
        self.publisher_raw(&wire_publish(P::prefix(), topic)?, &options, Encoder::typed(P::weight))
    }

    /// [`publisher`](Self::publisher) for payloads as they are and a whole topic.
    ///
    /// # Errors
    /// As [`publisher`](Self::publisher).
    pub fn publisher_bytes(&self, topic: &str) -> BusResult<Publisher<Bytes>> {
        self.publisher_bytes_with(topic, PublishOptions::default())
    }

    /// [`publisher_bytes`](Self::publisher_bytes) with options for all its messages.
    ///
    /// # Errors
    /// As [`publisher_with`](Self::publisher_with).
    pub fn publisher_bytes_with(&self, topic: &str, options: PublishOptions) -> BusResult<Publisher<Bytes>> {
        self.publisher_raw(&wire_publish("", topic)?, &options, Encoder::bytes())
    }

    fn publisher_raw<T>(
        &self,
        topic: &str,
        options: &PublishOptions,
        encode: Encoder<T>,
    ) -> BusResult<Publisher<T>> {
        let fields: Bytes = options.fields(&[])?.into();
        let shared = &self.connection.shared;
        let seal = self.connection.seal_with(topic, &fields)?;
        Ok(Publisher {
            id: shared.add_publisher(),
            connection: Arc::clone(&self.connection),
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            fields,
            encode,
            seal,
            sent_in_turn: AtomicU32::new(0),
        })
    }

    async fn publish_raw<T>(
        &self,
        topic: &str,
        fields: &[u8],
        encode: Encoder<T>,
        value: &T,
    ) -> BusResult<usize> {
        loop {
            let session = self.connection.shared.session_number();
            let (sender, receiver) = oneshot::channel();
            let origin = Origin::Acknowledged(Some(sender));
            self.send_raw(topic, fields, encode, value, origin).await?;
            match self.acknowledgement(receiver).await {
                // It waits for its turn at the next bus.
                Err(BusError::Draining { .. }) if self.connection.shared.leave_session(session) => {}
                told => return told,
            }
        }
    }

    /// Sends what [`encode`](super::encode) has made of a value. When this returns it is on its way, in the order of the
    /// calls, and what it returns tells how it went. Not even the first of them waits for anything else once the client
    /// is connected.
    pub(crate) async fn send_encoded(
        &self,
        topic: &str,
        fields: &[u8],
        payload: &Bytes,
    ) -> BusResult<Acknowledgement> {
        let (sender, receiver) = oneshot::channel();
        let origin = Origin::Queued(Some(sender));
        self.send_raw(&wire_publish("", topic)?, fields, Encoder::bytes(), payload, origin).await?;
        Ok(self.acknowledgement(receiver))
    }

    fn acknowledgement(&self, receiver: oneshot::Receiver<BusResult<usize>>) -> Acknowledgement {
        Acknowledgement { receiver, connection: Arc::clone(&self.connection) }
    }

    async fn send_raw<T>(
        &self,
        topic: &str,
        fields: &[u8],
        encode: Encoder<T>,
        value: &T,
        mut origin: Origin,
    ) -> BusResult<()> {
        let shared = &self.connection.shared;
        let seal = self.connection.seal_with(topic, fields)?;
        if seal.is_some() {
            // From here on the frame limit is known.
            shared.opened().await?;
        }
        let outgoing = seal.as_ref().map(|seal| seal.outgoing(MessageKind::Publish, fields));
        let mut ticket = Ticket::new(shared);
        let mut sealed = None;
        poll_fn(|context| {
            let mut poll = |body: &Body<'_>| {
                body.with_content(fields, topic.as_bytes(), |content| {
                    ticket.poll_publish(context, &mut origin, content)
                })
            };
            // What is sealed is so once, however often it is tried to send it.
            if let Some(sealed) = &sealed {
                return poll(&Body::Owned(Bytes::clone(sealed)));
            }
            let beside = fields.len() + topic.len();
            let sent = with_encoded(shared, &encode, value, beside, outgoing.as_ref(), |body| {
                let polled = poll(body);
                if outgoing.is_some() && polled.is_pending() {
                    sealed = Some(body.keep());
                }
                polled
            });
            sent.unwrap_or_else(|error| Poll::Ready(Err(error)))
        })
        .await?;
        Ok(())
    }
}
