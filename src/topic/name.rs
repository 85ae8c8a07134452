//! The concrete topic.

use std::sync::Arc;

use super::error::TopicError;
use super::pattern::TopicPattern;
use super::text::checked_text;
use super::validate::{fragments, is_reserved, text_of, validate_topic};

/// A concrete topic: the name a message is published under.
///
/// Checked when it is made, shared when it is cloned. The default is the empty topic.
///
/// # Examples
///
/// ```
/// use whispeer::topic::Topic;
///
/// let topic = Topic::new("chat:lobby/alice")?;
/// assert_eq!(topic.fragments().collect::<Vec<_>>(), ["chat:lobby", "alice"]);
/// assert!(Topic::new("chat:lobby/*").is_err(), "a topic has no wildcards");
/// # Ok::<(), whispeer::topic::TopicError>(())
/// ```
#[derive(Clone, Default)]
pub struct Topic {
    text: Arc<str>,
}

impl Topic {
    /// Checks a text and makes a topic of it.
    ///
    /// # Errors
    ///
    /// A [`TopicError`] that names the fragment at fault, or the limit that was passed.
    pub fn new(text: impl AsRef<str>) -> Result<Self, TopicError> {
        let text = text.as_ref();
        validate_topic(text)?;
        Ok(Self::from_checked(text.into()))
    }

    /// Checks bytes, such as those of a frame, and makes a topic of them.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and
    /// [`InvalidUtf8`](super::TopicErrorKind::InvalidUtf8) for bytes that are not UTF-8.
    pub fn from_utf8(bytes: &[u8]) -> Result<Self, TopicError> {
        Self::new(text_of(bytes)?)
    }

    /// The topic as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its fragments in order; the empty topic has none.
    #[must_use]
    pub fn fragments(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        fragments(&self.text)
    }

    /// Whether the first fragment begins with `$`: the topic is the bus's own.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.text)
    }

    /// This topic followed by the fragments of `rest`.
    ///
    /// # Errors
    ///
    /// [`TooLong`](super::TopicErrorKind::TooLong) or
    /// [`TooManyFragments`](super::TopicErrorKind::TooManyFragments) when the two together pass a limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use whispeer::topic::Topic;
    ///
    /// let prefix = Topic::new("hello")?;
    /// assert_eq!(prefix.join(&Topic::new("alice")?)?, "hello/alice");
    /// assert_eq!(prefix.join(&Topic::default())?, "hello");
    /// # Ok::<(), whispeer::topic::TopicError>(())
    /// ```
    pub fn join(&self, rest: &Topic) -> Result<Topic, TopicError> {
        if rest.text.is_empty() {
            return Ok(self.clone());
        }
        if self.text.is_empty() {
            return Ok(rest.clone());
        }
        Self::new(format!("{self}/{rest}"))
    }

    /// A topic from a text that is known to be valid and concrete.
    pub(super) fn from_checked(text: Arc<str>) -> Self {
        Self { text }
    }

    pub(super) fn into_text(self) -> Arc<str> {
        self.text
    }
}

checked_text!(Topic, "a topic such as \"hello/alice\"");

impl TryFrom<TopicPattern> for Topic {
    type Error = TopicError;

    fn try_from(pattern: TopicPattern) -> Result<Self, TopicError> {
        match pattern.as_topic() {
            Some(topic) => Ok(topic),
            None => Self::new(pattern.as_str()),
        }
    }
}
