//! What can be asked for beyond the defaults.

use std::time::{Duration, SystemTime};

use crate::error::BusResult;
use crate::limits;
use crate::proto::fields::{
    DeliveryRules, Due, Epoch, Field, FieldsBuilder, Policy, Quality, ServeMode, Start, iterate,
};

/// Pairs of strings that travel with a message, for tracing and for applications.
///
/// Names may repeat, order is kept. All headers of a message together have room for
/// [`limits::FIELDS_LIMIT`] bytes.
///
/// # Examples
/// ```
/// use whispeer::client::Headers;
///
/// let headers = Headers::new().with("traceparent", "00-ab-cd-01").with("shop", "7");
/// assert_eq!(headers.find("shop"), Some("7"));
/// assert_eq!(headers.iter().count(), 2);
/// assert_eq!(headers, Headers::from_iter([("traceparent", "00-ab-cd-01"), ("shop", "7")]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    pairs: Vec<(String, String)>,
}

impl Headers {
    /// No headers; nothing is allocated.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These headers and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.push(name, value);
        self
    }

    /// Adds a header.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.pairs.push((name.into(), value.into()));
    }

    /// The value of the first header of that name; upper and lower case differ.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        self.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// All headers in order, as name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Reads the headers of a field section, and the bus that the message comes from.
    pub(super) fn read(section: &[u8]) -> (Self, Option<u64>) {
        let mut headers = Self::default();
        let mut origin = None;
        for field in iterate(section) {
            match field {
                Field::Header { name, value } => headers.push(name, value),
                Field::Origin(bus) => origin = Some(bus),
                _ => {}
            }
        }
        (headers, origin)
    }

    /// How long the message with this field section is of use.
    pub(super) fn expires_in(section: &[u8]) -> Option<Duration> {
        let expiries = iterate(section).filter_map(|field| match field {
            Field::Expires(left) => Some(left),
            _ => None,
        });
        expiries.last()
    }

    pub(super) fn write(&self, fields: &mut FieldsBuilder) -> BusResult<()> {
        self.iter().try_for_each(|(name, value)| fields.header(name, value))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self { pairs: pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }
}

/// How to subscribe.
///
/// # Examples
/// ```
/// use whispeer::client::{Policy, SubscribeOptions};
///
/// // A display that only cares for what is recent.
/// let options = SubscribeOptions::default().policy(Policy::DropOldest).window(16, 64 * 1024);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubscribeOptions {
    pub(super) policy: Policy,
    pub(super) window: (u32, u64),
    pub(super) group: Option<String>,
    pub(super) no_echo: bool,
    pub(super) start: Option<Start>,
    pub(super) quality: Quality,
    pub(super) durable: Option<String>,
    rules: DeliveryRules,
    pub(super) epoch: Option<Epoch>,
    pub(super) limit: Option<(u32, u64)>,
    pub(super) headers: Headers,
}

impl Default for SubscribeOptions {
    /// Policy [`Policy::Block`], a window of [`limits::WINDOW_MESSAGES`] messages and
    /// [`limits::WINDOW_BYTES`] bytes, no group, with echo.
    fn default() -> Self {
        Self {
            policy: Policy::Block,
            window: (limits::WINDOW_MESSAGES, limits::WINDOW_BYTES),
            group: None,
            no_echo: false,
            start: None,
            quality: Quality::AtMostOnce,
            durable: None,
            rules: DeliveryRules::default(),
            epoch: None,
            limit: None,
            headers: Headers::new(),
        }
    }
}

impl SubscribeOptions {
    /// What the bus does with a message while the window is used up.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How many messages and bytes may be on their way, sent by the bus and not yet taken by the
    /// application. At least 1 of each; at most [`limits::WINDOW_MESSAGES_MAX`] and
    /// [`limits::WINDOW_BYTES_MAX`]. This is also the memory that the subscription may take here.
    #[must_use]
    pub fn window(mut self, messages: u32, bytes: u64) -> Self {
        self.window = (messages, bytes);
        self
    }

    /// Joins a queue group: each message goes to one of its members that has room. Where the subscription has a
    /// [`quality`](Self::quality), the group is a durable consumer of that name, which all members subscribe to with the same
    /// pattern, [`ack_wait`](Self::ack_wait), [`max_deliver`](Self::max_deliver) and [`max_pending`](Self::max_pending): one with
    /// others is refused with [`BusError::InvalidSettings`](crate::BusError::InvalidSettings), as long as another is there. On a bus with a policy a group of a
    /// stream is its maker's, as a [`durable`](Self::durable) consumer is.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Leaves out what this client publishes itself.
    #[must_use]
    pub fn no_echo(mut self) -> Self {
        self.no_echo = true;
        self
    }

    /// Reads the stream that keeps these topics, from there on: first what is there, then what comes. It reads at its own
    /// pace, so that the policy does not matter, and a new session goes on where the one before has ended.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self
    }

    /// How sure delivery is to be. From [`Quality::AtLeastOnce`] on, a message of a stream is sent again until it is
    /// acknowledged, and goes to the dead letters after too many attempts. A [`Subscription`](super::Subscription)
    /// acknowledges a message when the next one is asked for; a [`Consumer`](super::Consumer) leaves that to the application.
    /// Unless [`start`](Self::start) says otherwise it begins with what is stored from now on.
    #[must_use]
    pub fn quality(mut self, quality: Quality) -> Self {
        self.quality = quality;
        self
    }

    /// Takes part in the durable consumer of this name, which keeps its position at the bus, also while nobody
    /// subscribes. It is made at the first subscription, and `start` is where it begins then. One subscription at a time may
    /// have it; for several there is [`group`](Self::group). The quality is [`Quality::AtLeastOnce`] unless it is set.
    /// [`ack_wait`](Self::ack_wait), [`max_deliver`](Self::max_deliver) and [`max_pending`](Self::max_pending) are those of the
    /// subscription that has it. On a bus with a policy it is its maker's: others are refused with
    /// [`BusError::Denied`](crate::BusError::Denied), unless a role of theirs [allows](crate::auth::Permissions::consume) it.
    #[must_use]
    pub fn durable(mut self, name: impl Into<String>) -> Self {
        self.durable = Some(name.into());
        self.quality = self.quality.max(Quality::AtLeastOnce);
        self
    }

    /// How long an acknowledgement is waited for before a message is sent again. It doubles with each attempt. Default
    /// [`limits::ACK_WAIT`]; [`limits::ACK_WAIT_MIN`] to [`limits::ACK_WAIT_MAX`].
    #[must_use]
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.rules.ack_wait = wait;
        self
    }

    /// How many attempts may fail before a message goes to the dead letters. Default [`limits::MAX_DELIVER`].
    #[must_use]
    pub fn max_deliver(mut self, attempts: u32) -> Self {
        self.rules.max_deliver = attempts;
        self
    }

    /// How many messages may be handed over that are not acknowledged. Default [`limits::CONSUMER_PENDING`], at most
    /// [`limits::CONSUMER_PENDING_MAX`].
    ///
    /// The members of a group share them: each takes no more than it leaves free to the others, but always one where any is free,
    /// and a member that is alone leaves one in [`limits::GROUP_RESERVE`] to those that come. So one that is stuck does not stop the
    /// others, as long as there are more of these than members.
    #[must_use]
    pub fn max_pending(mut self, messages: u32) -> Self {
        self.rules.max_pending = messages;
        self
    }

    /// The epoch of the stream that the [`start`](Self::start) is of, for those who note themselves how far they have read.
    ///
    /// Where the stream has another epoch, or ends before the sequence to begin with, it is not the one that was read before:
    /// the subscription gets a gap ([`GapReason::Recreated`](super::GapReason::Recreated)), and begins with the oldest
    /// message, or with what comes; a [durable](Self::durable) consumer goes on at the position that the stream has of it, if it
    /// has one. A client that comes back by itself does all that by itself. A stream that was put back to an
    /// earlier state and has grown past the sequence since is noticed only if it was given
    /// [another epoch](crate::store::Change::Renew).
    #[must_use]
    pub fn epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Reads no more of the stream than what is there when the subscription begins, and of that no more than so many messages,
    /// and no more once their frames have so many bytes; at least 1 of each. The subscription ends behind it, and
    /// [`Subscription::next_sequence`](super::Subscription::next_sequence) tells where another one would go on. It takes a
    /// [`start`](Self::start).
    #[must_use]
    pub fn limit(mut self, messages: u32, bytes: u64) -> Self {
        self.limit = Some((messages, bytes));
        self
    }

    /// Whether the bus keeps how far it has come, for whoever subscribes next.
    #[cfg(feature = "broker")]
    pub(crate) fn keeps_position(&self) -> bool {
        self.quality > Quality::AtMostOnce && (self.durable.is_some() || self.group.is_some())
    }

    /// The time for the first attempt of a message.
    #[cfg(feature = "broker")]
    pub(crate) fn patience(&self) -> Duration {
        self.rules.ack_wait
    }

    /// Tells plugins of the bus something; see [`Subscribing::headers`](crate::plugin::Subscribing::headers).
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(name, value);
        self
    }

    pub(super) fn fields(&self) -> BusResult<Vec<u8>> {
        let mut fields = window_and_group(self.window, self.group.as_deref())?;
        if self.quality != Quality::default() {
            fields.quality(self.quality)?;
        }
        if let Some(name) = &self.durable {
            fields.consumer(name)?;
        }
        if self.rules != DeliveryRules::default() {
            fields.delivery(self.rules)?;
        }
        if self.policy != Policy::default() {
            fields.policy(self.policy)?;
        }
        if let Some(start) = self.start {
            fields.start(start)?;
        }
        if let Some(epoch) = self.epoch {
            fields.epoch(epoch)?;
        }
        if let Some(limit) = self.limit {
            check_limit(limit, self.start)?;
            fields.limit(limit.0, limit.1)?;
        }
        self.headers.write(&mut fields)?;
        Ok(fields.finish())
    }
}

/// How to serve.
///
/// # Examples
/// ```
/// use whispeer::client::ServeOptions;
///
/// // One of several workers, which takes one request at a time.
/// let options = ServeOptions::default().group("workers").window(1, 1024 * 1024);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServeOptions {
    pub(super) window: (u32, u64),
    pub(super) group: Option<String>,
    pub(super) take_over: bool,
}

impl Default for ServeOptions {
    /// The only server of the topic, refused where there is one, with a window of
    /// [`limits::SERVING_WINDOW`] requests and [`limits::WINDOW_BYTES`] bytes.
    fn default() -> Self {
        Self { window: (limits::SERVING_WINDOW, limits::WINDOW_BYTES), group: None, take_over: false }
    }
}

impl ServeOptions {
    /// How many requests and bytes may be handed over that the application has not yet taken.
    #[must_use]
    pub fn window(mut self, requests: u32, bytes: u64) -> Self {
        self.window = (requests, bytes);
        self
    }

    /// Shares the topic with the other members of the group.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Replaces the server that is there: it gets no new requests and finishes what it has.
    #[must_use]
    pub fn take_over(mut self) -> Self {
        self.take_over = true;
        self
    }

    pub(super) fn fields(&self) -> BusResult<Vec<u8>> {
        let mut fields = window_and_group(self.window, self.group.as_deref())?;
        if self.take_over {
            fields.mode(ServeMode::TakeOver)?;
        }
        Ok(fields.finish())
    }
}

/// How to publish.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::client::PublishOptions;
///
/// let options = PublishOptions::default().header("shop", "7").block_limit(Duration::from_millis(20));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PublishOptions {
    headers: Headers,
    block_limit: Option<Duration>,
    quality: Quality,
    ttl: Option<Duration>,
    due: Option<Due>,
    origin: Option<u64>,
}

impl PublishOptions {
    /// Sends a header along.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Sends these headers along, in place of those given before.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// How long a subscription without room may hold this publish up, in milliseconds' steps. The
    /// bus's own limit (1 s by default) is the most; 0 never waits.
    #[must_use]
    pub fn block_limit(mut self, limit: Duration) -> Self {
        self.block_limit = Some(limit);
        self
    }

    /// How sure it is to be. With [`Quality::AtLeastOnce`] it counts as published when it is kept.
    #[must_use]
    pub fn quality(mut self, quality: Quality) -> Self {
        self.quality = quality;
        self
    }

    /// How long the message is of use, in milliseconds' steps, from when the bus takes it in. By default it
    /// always is.
    ///
    /// What a subscription had no room for by then is dropped and told as a gap
    /// ([`GapReason::Expired`](crate::client::GapReason::Expired)), and a stream gives it to nobody any more. With a time of 0 it
    /// reaches those that can take it at once. What is on its way to a subscriber, or waits there to be taken, is not taken
    /// back; [`Message::expires_in`](crate::client::Message::expires_in) tells how long it was of use.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// # use whispeer::prelude::*;
    /// use whispeer::client::{Event, PublishOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// # let (_bus, connector) = listen_and_serve_memory()?;
    /// # let client = Client::new_memory(&connector)?;
    /// let mut prices = client.subscribe_bytes("price/*").await?;
    /// let quote = PublishOptions::default().ttl(Duration::from_secs(5));
    /// client.publish_bytes_with("price/eth", "3100", quote).await?;
    /// let Some(Event::Message(quote)) = prices.next_event().await else { panic!("the bus runs") };
    /// assert_eq!(quote.expires_in, Some(Duration::from_secs(5)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ttl(mut self, time: Duration) -> Self {
        self.ttl = Some(time);
        self
    }

    /// Publishes it so much later than the bus takes it in, in milliseconds' steps. No clocks need to agree.
    ///
    /// The bus accepts it at once and keeps it until then, at most [`limits::DELAY_MAX`]; publishing returns 0 matches when
    /// it does. It keeps a message for a topic of a stream in the store of that: it outlives the bus, and gets its sequence and
    /// time when it is due. All others end with the bus. What is due is published in the order of its times, and whoever has
    /// published it must still be allowed to publish there by then: otherwise it is dropped, and the bus says so in its log.
    /// A [`ttl`](Self::ttl) begins when it is due.
    ///
    /// [`BusError::LimitReached`](crate::BusError::LimitReached) tells that it is too long, or that too much is kept already;
    /// [`BusError::Denied`](crate::BusError::Denied) that the publisher's token ends sooner.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// # use whispeer::prelude::*;
    /// use whispeer::client::PublishOptions;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> BusResult<()> {
    /// # let (_bus, connector) = listen_and_serve_memory()?;
    /// # let client = Client::new_memory(&connector)?;
    /// let mut reminders = client.subscribe_bytes("reminder/*").await?;
    /// let tomorrow = PublishOptions::default().deliver_in(Duration::from_secs(24 * 60 * 60));
    /// client.publish_bytes_with("reminder/7", "water the plants", tomorrow).await?;
    /// assert_eq!(reminders.recv().await.expect("the bus runs").1, "water the plants");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn deliver_in(mut self, time: Duration) -> Self {
        self.due = Some(Due::In(time));
        self
    }

    /// Publishes it at this time by the clock of the bus, in milliseconds' steps, or at once if that is over. Otherwise as
    /// [`deliver_in`](Self::deliver_in).
    #[must_use]
    pub fn deliver_at(mut self, time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.due = Some(Due::At(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
        self
    }

    /// Says which bus it was first published on, for whoever hands on what comes from another one: subscribers see it as
    /// [`Message::origin`](super::Message::origin). It is what the publisher says, as headers are.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::{Event, PublishOptions};
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let mut news = client.subscribe_bytes("news").await?;
    /// client.publish_bytes_with("news", "from afar", PublishOptions::default().origin(7)).await?;
    /// let Some(Event::Message(message)) = news.next_event().await else { panic!("the bus runs") };
    /// assert_eq!(message.origin, Some(7));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn origin(mut self, bus: u64) -> Self {
        self.origin = Some(bus);
        self
    }

    /// The fields of a publish, also to these topics.
    pub(crate) fn fields(&self, further_topics: &[String]) -> BusResult<Vec<u8>> {
        let mut fields = FieldsBuilder::new();
        self.headers.write(&mut fields)?;
        if let Some(bus) = self.origin {
            fields.origin(bus)?;
        }
        if let Some(time) = self.ttl {
            fields.expires(time)?;
        }
        if let Some(due) = self.due {
            fields.deliver_at(due)?;
        }
        if let Some(limit) = self.block_limit {
            fields.block_limit(limit)?;
        }
        if self.quality != Quality::default() {
            fields.quality(self.quality)?;
        }
        for topic in further_topics {
            fields.topic(topic)?;
        }
        Ok(fields.finish())
    }
}

/// How to make a request.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::client::RequestOptions;
///
/// let options = RequestOptions::default().timeout(Duration::from_secs(2)).header("shop", "7");
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RequestOptions {
    pub(super) timeout: Option<Duration>,
    headers: Headers,
    window: Option<(u32, u64)>,
}

impl RequestOptions {
    /// How long to wait for the answer, or for the last one of a stream. The default is that of the
    /// client, [`limits::REQUEST_TIMEOUT`] unless it was built with another; at most
    /// [`limits::REQUEST_TIMEOUT_MAX`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends a header along.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Sends these headers along, in place of those given before.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// How many answers of a stream, and bytes of them, may be on their way and not yet taken; a
    /// request with a single answer has none. The default is [`limits::STREAM_WINDOW`] answers and
    /// [`limits::WINDOW_BYTES`] bytes; at least 1 of each, at most [`limits::WINDOW_MESSAGES_MAX`] and
    /// [`limits::WINDOW_BYTES_MAX`].
    #[must_use]
    pub fn window(mut self, answers: u32, bytes: u64) -> Self {
        self.window = Some((answers, bytes));
        self
    }

    /// The window for the answers of a stream.
    pub(super) fn stream_window(&self) -> BusResult<(u32, u64)> {
        let window = self.window.unwrap_or((limits::STREAM_WINDOW, limits::WINDOW_BYTES));
        check_window(window).map(|()| window)
    }

    pub(super) fn fields(&self, window: Option<(u32, u64)>) -> BusResult<Vec<u8>> {
        let mut fields = FieldsBuilder::new();
        self.headers.write(&mut fields)?;
        if let Some((messages, bytes)) = window {
            fields.window(messages, bytes)?;
        }
        Ok(fields.finish())
    }
}

/// How to ask many servers.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::client::ManyOptions;
///
/// // Content with the first three, or with what comes within 200 ms.
/// let options = ManyOptions::default().count(3).timeout(Duration::from_millis(200));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ManyOptions {
    pub(super) count: Option<usize>,
    pub(super) request: RequestOptions,
}

impl ManyOptions {
    /// Is content with that many answers. By default it waits for all servers that were asked.
    #[must_use]
    pub fn count(mut self, count: usize) -> Self {
        self.count = Some(count);
        self
    }

    /// How long to gather answers; see [`RequestOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request = self.request.timeout(timeout);
        self
    }

    /// Sends a header along.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Sends these headers along, in place of those given before.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.request = self.request.headers(headers);
        self
    }
}

/// The fields that subscribing and serving have in common.
fn window_and_group(window: (u32, u64), group: Option<&str>) -> BusResult<FieldsBuilder> {
    check_window(window)?;
    let mut fields = FieldsBuilder::new();
    fields.window(window.0, window.1)?;
    if let Some(group) = group {
        check_group(group)?;
        fields.group(group)?;
    }
    Ok(fields)
}

/// Checked here, so that a window of nothing is refused before the wire.
fn check_window((messages, bytes): (u32, u64)) -> BusResult<()> {
    use crate::BusError::{InvalidSettings, LimitReached};
    if messages == 0 || bytes == 0 {
        return Err(InvalidSettings("a window of 0 would never let a message pass; use at least 1".into()));
    }
    if messages > limits::WINDOW_MESSAGES_MAX || bytes > limits::WINDOW_BYTES_MAX {
        return Err(LimitReached {
            what: format!(
                "a window of {messages} messages and {bytes} bytes; at most {} and {}",
                limits::WINDOW_MESSAGES_MAX,
                limits::WINDOW_BYTES_MAX
            ),
        });
    }
    Ok(())
}

fn check_limit((messages, bytes): (u32, u64), start: Option<Start>) -> BusResult<()> {
    use crate::BusError::InvalidSettings;
    if messages == 0 || bytes == 0 {
        return Err(InvalidSettings("a limit of 0 would never let a message pass; use at least 1".into()));
    }
    if start.is_none() {
        return Err(InvalidSettings("a limit is for what is read of a stream; say where to begin".into()));
    }
    Ok(())
}

fn check_group(name: &str) -> BusResult<()> {
    if name.is_empty() || name.len() > limits::GROUP_NAME_LIMIT {
        return Err(crate::BusError::InvalidSettings(format!(
            "a group's name has 1 to {} bytes, not {}",
            limits::GROUP_NAME_LIMIT,
            name.len()
        )));
    }
    Ok(())
}
