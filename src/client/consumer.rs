//! Subscriptions whose application acknowledges each message.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Client;
use super::codec::{decode_bytes, decode_typed};
use super::deliveries::Deliveries;
use super::event::{Counts, Event, Message};
use super::options::SubscribeOptions;
use super::protocol::PublishProtocol;
use super::shared::Connection;
use super::subscription::{Subscription, send};
use crate::error::{BusError, BusResult};
use crate::proto::fields::Quality;

/// Messages of durable topics, each of which the application acknowledges.
///
/// Made by [`Client::consume`]. A message that is not acknowledged in time is sent again, with more patience each time,
/// and goes to the stream's dead letters after too many attempts; see [`SubscribeOptions`] for the times. Whoever has a
/// [`Delivery`] is not handed the same message again while this process lives, whatever happens to the bus or the
/// connection: only the bus's knowledge of it is renewed.
///
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use whispeer::bus::Streams;
/// # use whispeer::store::{MemoryStore, Name, StreamSettings};
/// use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let settings = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
/// # let streams = Streams::open(Arc::new(MemoryStore::new()), [settings]).await?;
/// # let bus = Bus::builder().streams(streams).start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
/// client.publish_bytes_with("orders/7", "two apples", kept).await?;
///
/// // "billing" keeps its position at the bus, whoever comes for it.
/// let billing = SubscribeOptions::default().durable("billing").start(Start::All);
/// let mut orders = client.consume_bytes("orders/**", billing).await?;
/// let order = orders.recv().await.expect("the bus runs");
/// assert_eq!(order.value, "two apples");
/// // When this returns, the bus has it on disk.
/// order.ack().await?;
/// # bus.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct Consumer<T> {
    subscription: Subscription<T>,
}

impl<T> Consumer<T> {
    /// The next message, or `None` once the subscription has ended and everything is taken;
    /// [`close_reason`](Self::close_reason) then says why. Gaps are added to [`gaps`](Self::gaps); what does not decode
    /// is refused, so that it goes to the dead letters.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Delivery<T>> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Delivery<T>>> {
        loop {
            match ready!(self.subscription.poll_event(context)) {
                None => return Poll::Ready(None),
                Some(Event::Message(message)) => {
                    let Some(receipt) = self.subscription.receipt() else { continue };
                    return Poll::Ready(Some(Delivery { message, receipt }));
                }
                Some(Event::Gap { count, .. }) => self.subscription.skip(count),
                Some(Event::Undecodable { .. }) => self.subscription.skip(1),
            }
        }
    }

    /// Stops it at the bus: when this returns, nothing more is handed over. What was on its way by then can still be
    /// received; then [`recv`](Self::recv) gives `None`.
    ///
    /// All that was handed over can be acknowledged, refused and said to be [in progress](Delivery::in_progress) as before: as
    /// long as this consumer lives, its session lasts, and the [time](SubscribeOptions::ack_wait) for each message is not
    /// over. What is left then comes again to whoever comes next, and its acknowledgement is [`BusError::StaleAck`].
    /// A durable consumer is this one's until nothing is left.
    ///
    /// # Errors
    /// Why the connection ended, if it did meanwhile.
    ///
    /// # Cancel safety
    /// The drain goes on when the future is dropped.
    ///
    /// # Examples
    /// ```
    /// # use std::sync::Arc;
    /// # use whispeer::bus::Streams;
    /// # use whispeer::store::{MemoryStore, Name, StreamSettings};
    /// use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let settings = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
    /// # let streams = Streams::open(Arc::new(MemoryStore::new()), [settings]).await?;
    /// # let bus = Bus::builder().streams(streams).start()?;
    /// # let client = Client::new_memory(&bus.connector())?;
    /// # let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    /// # client.publish_bytes_with("orders/7", "two apples", kept).await?;
    /// let billing = SubscribeOptions::default().durable("billing").start(Start::All);
    /// let mut orders = client.consume_bytes("orders/**", billing).await?;
    /// let order = orders.recv().await.expect("the bus runs");
    /// // The program is to end: it takes nothing new, and finishes what it has.
    /// orders.drain().await?;
    /// while let Some(waiting) = orders.recv().await {
    ///     waiting.ack().await?;
    /// }
    /// order.ack().await?;
    /// # bus.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain(&mut self) -> BusResult<()> {
        self.subscription.drain().await
    }

    /// The full pattern, with the prefix of the protocol.
    #[must_use]
    pub fn pattern(&self) -> &str {
        self.subscription.pattern()
    }

    /// How many messages [`recv`](Self::recv) has skipped: those in gaps, and those that did not decode.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.subscription.gaps()
    }

    /// How many messages did not decode.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.subscription.undecodable()
    }

    /// What became of the matches so far. A message that comes again is one more.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.subscription.counts()
    }

    /// Why it ended; `None` while it has not.
    #[must_use]
    pub fn close_reason(&self) -> Option<BusError> {
        self.subscription.close_reason()
    }
}

impl<T> futures_core::Stream for Consumer<T> {
    type Item = Delivery<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(context)
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Consumer").field("pattern", &self.pattern()).finish_non_exhaustive()
    }
}

impl<T> Subscription<T> {
    /// What the last message is acknowledged with, by somebody else from here on; `None` where that is not to be
    /// acknowledged.
    pub(crate) fn receipt(&mut self) -> Option<Receipt> {
        let (connection, id, deliveries, sequence) = self.hand_out()?;
        Some(Receipt { connection, id, deliveries, sequence, is_open: true })
    }

    /// What tells the bus that the application is at work; `None` for a subscription that does not acknowledge.
    #[cfg(feature = "broker")]
    pub(crate) fn progress(&self) -> Option<Progress> {
        let (connection, id, deliveries) = self.at_work()?;
        Some(Progress { connection, id, deliveries })
    }
}

/// Tells the bus that the application is at work on what it has of a subscription. It keeps the connection alive.
#[cfg(feature = "broker")]
pub(crate) struct Progress {
    connection: Arc<Connection>,
    id: u32,
    deliveries: Arc<Deliveries>,
}

#[cfg(feature = "broker")]
impl Progress {
    /// The time of each message whose receipt somebody has begins anew.
    pub(crate) fn tell(&self) {
        for frame in self.deliveries.progress_of_all() {
            send(&self.connection.shared, self.id, &frame);
        }
    }
}

/// A message that is to be acknowledged. It can be used as the [`Message`] that it is.
///
/// Dropped without a word it is refused, and comes again after a while: a handler that panics or returns early loses nothing.
#[derive(Debug)]
#[must_use = "a message that is dropped without a word is refused and comes again"]
pub struct Delivery<T> {
    /// The message.
    pub message: Message<T>,
    /// What it is acknowledged with.
    pub receipt: Receipt,
}

impl<T> Delivery<T> {
    /// [`Receipt::ack`].
    pub fn ack(self) -> Acknowledged {
        self.receipt.ack()
    }

    /// [`Receipt::nack`].
    pub fn nack(self, delay: impl Into<Option<Duration>>) {
        self.receipt.nack(delay);
    }

    /// [`Receipt::in_progress`].
    pub fn in_progress(&self) {
        self.receipt.in_progress();
    }
}

impl<T> Deref for Delivery<T> {
    type Target = Message<T>;

    fn deref(&self) -> &Message<T> {
        &self.message
    }
}

/// What a message is acknowledged with. It keeps the connection alive.
#[must_use = "a message whose receipt is dropped is refused and comes again"]
pub struct Receipt {
    connection: Arc<Connection>,
    id: u32,
    deliveries: Arc<Deliveries>,
    sequence: u64,
    is_open: bool,
}

impl Receipt {
    /// The message is dealt with. The bus is told at once; what is returned can be awaited until the bus has it on disk, or
    /// dropped.
    ///
    /// While the bus's store takes nothing (its disk is full, it is busy) that waits. After
    /// [`STORE_PATIENCE`](crate::limits::STORE_PATIENCE) it is [`BusError::NotStored`](crate::BusError::NotStored): the bus knows that the
    /// message is dealt with and writes it as soon as it can, but the message comes again if the bus ends before.
    pub fn ack(mut self) -> Acknowledged {
        self.is_open = false;
        let (sender, receiver) = oneshot::channel();
        if let Some(frame) = self.deliveries.acknowledge(self.sequence, sender) {
            send(&self.connection.shared, self.id, &frame);
        }
        Acknowledged { receiver, connection: Arc::clone(&self.connection) }
    }

    /// The message was not dealt with, and is to come again after this time: at once for zero, and without one
    /// after [`RETRY_DELAY`](crate::limits::RETRY_DELAY), which doubles with each attempt. It counts as one that has failed.
    ///
    /// A consumer reads at most [`CONSUMER_SPREAD`](crate::limits::CONSUMER_SPREAD) messages on behind one that is not done. Where
    /// more than that come within a long delay, it is handed nothing until the delay is over, which
    /// `whispeer consumers ls` shows as `floor`. To put a message off for long, publish it again with
    /// [`PublishOptions::deliver_in`](crate::client::PublishOptions::deliver_in) and acknowledge this one.
    pub fn nack(mut self, delay: impl Into<Option<Duration>>) {
        self.refuse(delay.into());
    }

    /// The message is being dealt with: the time for it begins anew.
    pub fn in_progress(&self) {
        if let Some(frame) = self.deliveries.progress(self.sequence) {
            send(&self.connection.shared, self.id, &frame);
        }
    }

    /// Where the message lies in its stream.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn refuse(&mut self, delay: Option<Duration>) {
        if std::mem::take(&mut self.is_open)
            && let Some(frame) = self.deliveries.refuse(self.sequence, delay)
        {
            send(&self.connection.shared, self.id, &frame);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.refuse(None);
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Receipt").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// An acknowledgement on its way; made by [`Receipt::ack`].
///
/// One that comes too late, when the bus has taken the message back, is sent again with the message if that comes again to
/// this subscription. It is ready without an error when the message does not come again to anybody: also where it is among
/// the dead letters by then, or retention has dropped it.
///
/// # Errors
/// [`BusError::StaleAck`] when the message was sent to somebody else meanwhile; [`BusError::NotStored`] with what the
/// store says; [`BusError::OutcomeUnknown`] where the session was lost and the bus does not say; and why the connection
/// or the subscription ended.
///
/// # Cancel safety
/// The acknowledgement is sent whether or not anybody waits.
pub struct Acknowledged {
    receiver: oneshot::Receiver<BusResult<()>>,
    connection: Arc<Connection>,
}

impl fmt::Debug for Acknowledged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Acknowledged").finish_non_exhaustive()
    }
}

impl Future for Acknowledged {
    type Output = BusResult<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(Pin::new(&mut self.receiver).poll(context));
        Poll::Ready(told.unwrap_or_else(|_| Err(self.connection.shared.reason())))
    }
}

impl Client {
    /// Subscribes to messages of type `P` on durable topics that the application acknowledges one by one. The quality is
    /// [`Quality::AtLeastOnce`] unless the options say otherwise.
    ///
    /// # Errors
    /// As [`subscribe_with`](Self::subscribe_with); [`BusError::NotDurable`] for topics without a stream;
    /// [`BusError::ConsumerBusy`] where the durable consumer has a subscription.
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    pub async fn consume<P: PublishProtocol>(
        &self,
        topic: &str,
        options: SubscribeOptions,
    ) -> BusResult<Consumer<P>> {
        let options = acknowledging(options);
        Ok(Consumer {
            subscription: self.subscribe_raw(P::prefix(), topic, &options, decode_typed::<P>).await?,
        })
    }

    /// [`consume`](Self::consume) for payloads as they are and whole topics.
    ///
    /// # Errors
    /// As [`consume`](Self::consume).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    pub async fn consume_bytes(&self, topic: &str, options: SubscribeOptions) -> BusResult<Consumer<Bytes>> {
        let options = acknowledging(options);
        Ok(Consumer { subscription: self.subscribe_raw("", topic, &options, decode_bytes).await? })
    }
}

fn acknowledging(mut options: SubscribeOptions) -> SubscribeOptions {
    options.quality = options.quality.max(Quality::AtLeastOnce);
    options
}
