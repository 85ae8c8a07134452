//! What a stream has, in pages.

use bytes::Bytes;

use super::Client;
use super::event::{Event, Message};
use super::options::SubscribeOptions;
use super::protocol::PublishProtocol;
use super::subscription::Subscription;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Epoch, GapReason, Start};
use crate::topic::TopicPattern;

/// Which page of a stream to ask for.
///
/// # Examples
/// ```
/// use whispeer::client::{HistoryOptions, Start};
///
/// let options = HistoryOptions::default().start(Start::Last(10)).limit(10, 64 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryOptions {
    start: Start,
    epoch: Option<Epoch>,
    limit: (u32, u64),
}

impl Default for HistoryOptions {
    /// From the oldest message on, [`limits::HISTORY_MESSAGES`] messages and [`limits::HISTORY_BYTES`] bytes.
    fn default() -> Self {
        let limit = (limits::HISTORY_MESSAGES, limits::HISTORY_BYTES);
        Self { start: Start::All, epoch: None, limit }
    }
}

impl HistoryOptions {
    /// Where the page begins. With [`Start::LastPerTopic`] it has the last message of each topic, in the order of their
    /// sequences; the pages behind it have all messages from there on.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// The epoch of the stream that the start is of; see [`SubscribeOptions::epoch`].
    #[must_use]
    pub fn epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Messages of the page, and bytes of their frames, of which the last message may exceed what is left; at least 1 of
    /// each, and at most [`limits::HISTORY_MESSAGES_MAX`] and [`limits::HISTORY_BYTES_MAX`]. The client holds the whole
    /// page.
    #[must_use]
    pub fn limit(mut self, messages: u32, bytes: u64) -> Self {
        self.limit = (messages, bytes);
        self
    }

    fn subscribing(&self) -> BusResult<SubscribeOptions> {
        let (messages, bytes) = self.limit;
        if messages > limits::HISTORY_MESSAGES_MAX || bytes > limits::HISTORY_BYTES_MAX {
            return Err(BusError::LimitReached {
                what: format!(
                    "a page of {messages} messages and {bytes} bytes; at most {} and {}",
                    limits::HISTORY_MESSAGES_MAX,
                    limits::HISTORY_BYTES_MAX
                ),
            });
        }
        let options = SubscribeOptions::default().start(self.start).limit(messages, bytes);
        Ok(match self.epoch {
            Some(epoch) => options.epoch(epoch),
            None => options,
        })
    }
}

/// A page of what a stream has.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct History<T> {
    /// The messages that decode, in the order of the stream. Each has a [`position`](Message::position).
    pub messages: Vec<Message<T>>,
    /// Where the next page begins; `None` when nothing is left of what was there when this page was asked for.
    pub next: Option<u64>,
    /// The first sequence that was not there then.
    pub end: u64,
    /// The epoch of the stream that the sequences are of.
    pub epoch: Epoch,
    /// Messages that were to be in the page and that the stream has dropped by then, as far as they can be counted: those of
    /// other topics count, too.
    pub dropped: u64,
    /// The stream is not the one of the epoch that was asked for, or ends before the sequence to begin with. The page
    /// begins with its oldest message then, or is empty.
    pub recreated: bool,
    /// Messages that do not decode, by their topics.
    pub undecodable: Vec<(TopicPattern, BusError)>,
}

impl Client {
    /// A page of the messages of type `P` that the stream of these topics has now. It never waits for new ones.
    ///
    /// # Errors
    /// [`BusError::NotDurable`] where no stream keeps these topics, [`BusError::LimitReached`] and
    /// [`BusError::InvalidSettings`] for a limit that cannot be or a pattern that no single stream keeps,
    /// [`BusError::NotStored`] where the stream cannot be read, and what [`subscribe`](Self::subscribe) fails with.
    ///
    /// # Cancel safety
    /// Nothing is left behind when the future is dropped.
    ///
    /// # Examples
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use std::sync::Arc;
    /// use whispeer::client::{HistoryOptions, Start};
    /// # use whispeer::bus::Streams;
    /// use whispeer::prelude::*;
    /// # use whispeer::store::{MemoryStore, Name, StreamSettings};
    ///
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct Order(u32);
    /// # impl PublishProtocol for Order {
    /// #     fn prefix() -> &'static str { "orders" }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let settings = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
    /// # let streams = Streams::open(Arc::new(MemoryStore::new()), [settings]).await?;
    /// # let bus = Bus::builder().streams(streams).start()?;
    /// # let client = Client::new_memory(&bus.connector())?;
    /// for number in 1..=5 {
    ///     client.publish("shop/7", &Order(number)).await?;
    /// }
    /// let mut options = HistoryOptions::default().limit(2, 1024 * 1024);
    /// let mut seen = Vec::new();
    /// loop {
    ///     let page = client.history::<Order>("shop/*", options.clone()).await?;
    ///     seen.extend(page.messages.iter().map(|message| message.value.0));
    ///     let Some(next) = page.next else { break };
    ///     options = options.start(Start::From(next)).epoch(page.epoch);
    /// }
    /// assert_eq!(seen, [1, 2, 3, 4, 5]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn history<P: PublishProtocol>(
        &self,
        topic: &str,
        options: HistoryOptions,
    ) -> BusResult<History<P>> {
        collect(self.subscribe_with(topic, options.subscribing()?).await?).await
    }

    /// [`history`](Self::history) with payloads as they are. Topics are whole here, as for
    /// [`subscribe_bytes`](Self::subscribe_bytes).
    ///
    /// # Errors
    /// As [`history`](Self::history).
    ///
    /// # Cancel safety
    /// Nothing is left behind when the future is dropped.
    pub async fn history_bytes(&self, topic: &str, options: HistoryOptions) -> BusResult<History<Bytes>> {
        collect(self.subscribe_bytes_with(topic, options.subscribing()?).await?).await
    }
}

/// Takes what there is until the bus ends the subscription.
async fn collect<T>(mut subscription: Subscription<T>) -> BusResult<History<T>> {
    let mut page = History {
        messages: Vec::new(),
        next: None,
        end: 0,
        epoch: Epoch::default(),
        dropped: 0,
        recreated: false,
        undecodable: Vec::new(),
    };
    while let Some(event) = subscription.next_event().await {
        match event {
            Event::Message(message) => page.messages.push(message),
            Event::Gap { reason: GapReason::Recreated, .. } => page.recreated = true,
            Event::Gap { count, .. } => page.dropped += count,
            Event::Undecodable { topic, error } => page.undecodable.push((topic, error)),
        }
    }
    let next = subscription.next_sequence();
    let reason = || subscription.close_reason().unwrap_or(BusError::Closed { what: "the page".into() });
    let next = next.ok_or_else(reason)?;
    page.end = subscription.end_sequence().unwrap_or(next);
    page.epoch = subscription.epoch().unwrap_or_default();
    page.next = (next < page.end).then_some(next);
    Ok(page)
}
