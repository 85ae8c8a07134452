//! Messages as plugins see them, on their way in and on their way out.

use std::fmt;

use bytes::Bytes;

use super::Session;
use crate::auth::Principal;
use crate::engine::is_sealed;
use crate::error::{BusError, BusResult};
use crate::proto::ContentRef;
use crate::proto::fields::{Field, FieldsBuilder, iterate};
use crate::topic::TopicPattern;

/// A message that somebody publishes and may publish, before it is stored or routed.
///
/// A message to several topics comes once for each of them, as it was sent: what is changed for one topic is changed
/// for that one alone.
///
/// What was sealed end to end, by encryption or compression, cannot be changed: its receivers would not be able to open
/// it. Headers are not sealed.
///
/// # Examples
/// ```
/// use whispeer::auth::Principal;
/// use whispeer::plugin::{Publishing, Session};
/// use whispeer::proto::ContentRef;
///
/// let session = Session::new(1, "shop", Principal::Local, "memory");
/// let content = ContentRef::lent(&[], b"orders/7", b"two apples");
/// let mut message = Publishing::new(&session, &content)?;
/// message.set_header("checked", "yes");
/// message.set_topic("orders/checked/7")?;
/// assert_eq!(message.topic().as_str(), "orders/checked/7");
/// assert_eq!(message.header("checked"), Some("yes"));
/// # Ok::<(), whispeer::BusError>(())
/// ```
pub struct Publishing<'a> {
    session: &'a Session,
    content: &'a ContentRef<'a>,
    /// The topic as it is now.
    topic: TopicPattern,
    changes: Changes,
    /// The plugin that has it, for errors.
    plugin: &'a str,
}

/// What plugins have changed so far.
#[derive(Clone, Default)]
struct Changes {
    moved: bool,
    headers: Option<Vec<(String, String)>>,
    payload: Option<Bytes>,
}

/// What stood in a message before a plugin had it.
pub(super) struct Saved(TopicPattern, Changes);

/// What plugins have made of a message.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) fields: Vec<u8>,
    pub(crate) topic: TopicPattern,
    /// `None` where it is the one that came.
    pub(crate) payload: Option<Bytes>,
}

impl<'a> Publishing<'a> {
    /// The message with this content, published by a session.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] where its topic is none.
    pub fn new(session: &'a Session, content: &'a ContentRef<'a>) -> BusResult<Self> {
        let topic = TopicPattern::from_utf8(content.topic)?;
        Ok(Self { session, content, topic, changes: Changes::default(), plugin: "" })
    }

    /// Who publishes it.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.session
    }

    /// The topic, as the plugins before have left it; with wildcards if the publisher used some.
    #[must_use]
    pub fn topic(&self) -> &TopicPattern {
        &self.topic
    }

    /// Whether the payload was sealed end to end, so that nobody but its receivers can read or change it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        // Engines give bytes; a value of the process is what it is.
        self.changes.payload.is_none() && !self.content.is_value() && is_sealed(self.content.payload())
    }

    /// The payload as bytes. A typed value that is on its way within the process is encoded at the first call, once for
    /// all who need its bytes; one that cannot be encoded is empty.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.changes.payload {
            Some(payload) => payload,
            None => self.content.payload(),
        }
    }

    /// What the payload counts for in windows and budgets, in bytes; nothing is encoded for that.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.changes.payload.as_ref().map_or_else(|| self.content.weight(), Bytes::len)
    }

    /// All headers in order, as name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let changed = self.changes.headers.as_deref();
        let came = if changed.is_some() { &[] } else { self.content.fields };
        let own = changed.unwrap_or_default().iter().map(|(name, value)| (name.as_str(), value.as_str()));
        headers_of(came).chain(own)
    }

    /// The value of the first header of that name; upper and lower case differ.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Gives a header this value, in place of all that the message has of that name. Whether all headers together have
    /// room is found out when the last plugin has seen the message.
    pub fn set_header(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        self.remove_header(&name);
        self.own_headers().push((name, value.into()));
    }

    /// Takes all headers of that name away.
    pub fn remove_header(&mut self, name: &str) {
        self.own_headers().retain(|(own, _)| own != name);
    }

    fn own_headers(&mut self) -> &mut Vec<(String, String)> {
        let fields = self.content.fields;
        self.changes.headers.get_or_insert_with(|| {
            headers_of(fields).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        })
    }

    /// Replaces the payload.
    ///
    /// # Errors
    /// [`BusError::Sealed`] where the message is sealed, [`BusError::InvalidSettings`] for bytes that receivers would
    /// take for a sealed payload. Nothing is changed then.
    pub fn set_payload(&mut self, payload: impl Into<Bytes>) -> BusResult<()> {
        self.check_open("change its payload")?;
        let payload = payload.into();
        if is_sealed(&payload) {
            let what = format!(
                "the plugin \"{}\" gave a payload that begins like a sealed one (C1 57); receivers could not open it",
                self.plugin
            );
            return Err(BusError::InvalidSettings(what));
        }
        self.changes.payload = Some(payload);
        Ok(())
    }

    /// Sends the message elsewhere. Its publisher needs the permission to publish there, and a `$` is not to be had: the
    /// bus checks that when the last plugin has seen the message.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`], and [`BusError::Sealed`] where the message is sealed, as a seal is for one topic.
    /// Nothing is changed then.
    pub fn set_topic(&mut self, topic: impl AsRef<str>) -> BusResult<()> {
        let topic = TopicPattern::new(topic)?;
        if topic != self.topic {
            self.check_open("change its topic")?;
            self.topic = topic;
            self.changes.moved = true;
        }
        Ok(())
    }

    /// That the payload can be read here, which is not so where it is sealed.
    ///
    /// # Errors
    /// [`BusError::Sealed`].
    pub fn require_open(&self) -> BusResult<()> {
        self.check_open("read its payload")
    }

    fn check_open(&self, what: &str) -> BusResult<()> {
        if !self.is_sealed() {
            return Ok(());
        }
        let what = format!("the plugin \"{}\" cannot {what}", self.plugin);
        Err(BusError::Sealed { topic: self.topic.to_string(), what })
    }

    /// Hands the message to a plugin.
    pub(super) fn give_to(&mut self, plugin: &'a str) {
        self.plugin = plugin;
    }

    pub(super) fn save(&self) -> Saved {
        Saved(self.topic.clone(), self.changes.clone())
    }

    /// Undoes what a plugin has done that has failed.
    pub(super) fn restore(&mut self, Saved(topic, changes): Saved) {
        (self.topic, self.changes) = (topic, changes);
    }

    /// What has become of the message; `None` if it is as it came.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`].
    pub(crate) fn finish(self) -> BusResult<Option<Changed>> {
        let Changes { moved, headers, payload } = self.changes;
        if !moved && headers.is_none() && payload.is_none() {
            return Ok(None);
        }
        let mut fields = FieldsBuilder::new();
        match headers {
            None => fields.append(self.content.fields)?,
            Some(headers) => {
                fields.append_without_headers(self.content.fields)?;
                for (name, value) in headers {
                    fields.header(&name, &value)?;
                }
            }
        }
        Ok(Some(Changed { fields: fields.finish(), topic: self.topic, payload }))
    }
}

impl fmt::Debug for Publishing<'_> {
    /// Never what the payload says: it may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Publishing")
            .field("session", &self.session.id)
            .field("topic", &self.topic)
            .field("weight", &self.weight())
            .finish_non_exhaustive()
    }
}

/// A message on its way to one of its matches.
///
/// The bus gives it to plugins when it has found the match: what finds no credit then waits, and is not shown again when
/// it is sent. What a subscription reads of a stream is shown when it is read.
pub struct Delivery<'a> {
    receiver: Receiver<'a>,
    content: &'a ContentRef<'a>,
}

/// The subscription, or queue group, that a message goes to.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Receiver<'a> {
    /// The session whose subscription it is; `None` for a queue group, which chooses a member when it has the message.
    pub session: Option<u64>,
    /// Who that session acts for.
    pub principal: Option<&'a Principal>,
    /// The pattern.
    pub pattern: &'a TopicPattern,
    /// The name of the queue group.
    pub group: Option<&'a str>,
}

impl<'a> Receiver<'a> {
    /// A subscription of a session.
    #[must_use]
    pub fn subscription(session: u64, principal: &'a Principal, pattern: &'a TopicPattern) -> Self {
        Self { session: Some(session), principal: Some(principal), pattern, group: None }
    }

    /// A queue group.
    #[must_use]
    pub fn group(name: &'a str, pattern: &'a TopicPattern) -> Self {
        Self { session: None, principal: None, pattern, group: Some(name) }
    }
}

impl<'a> Delivery<'a> {
    /// The message with this content, on its way to a receiver.
    #[must_use]
    pub fn new(receiver: Receiver<'a>, content: &'a ContentRef<'a>) -> Self {
        Self { receiver, content }
    }

    /// Who gets it.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<'a> {
        &self.receiver
    }

    /// The topic or pattern that it was published to.
    #[must_use]
    pub fn topic(&self) -> &str {
        // It was checked when it came in.
        std::str::from_utf8(self.content.topic).unwrap_or_default()
    }

    /// Whether the payload was sealed end to end.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        !self.content.is_value() && is_sealed(self.content.payload())
    }

    /// The payload as bytes; as of [`Publishing::payload`], a value is encoded for that.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.content.payload()
    }

    /// What the payload counts for in windows and budgets, in bytes; nothing is encoded for that.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.content.weight()
    }

    /// All headers in order, as name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        headers_of(self.content.fields)
    }

    /// The value of the first header of that name; upper and lower case differ.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

impl fmt::Debug for Delivery<'_> {
    /// Never what the payload says: it may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Delivery")
            .field("receiver", &self.receiver)
            .field("topic", &self.topic())
            .field("weight", &self.weight())
            .finish_non_exhaustive()
    }
}

fn headers_of(section: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    iterate(section).filter_map(|field| match field {
        Field::Header { name, value } => Some((name, value)),
        _ => None,
    })
}
