//! The pattern: a topic that may have wildcards.

use std::sync::Arc;

use super::containment::contain;
use super::error::TopicError;
use super::meeting::meet;
use super::name::Topic;
use super::text::checked_text;
use super::validate::{fragments, is_reserved, text_of, validate_pattern};

/// A topic that may have the wildcards `*` and `**`.
///
/// It is kept in its canonical form: `+` becomes `*`. Checked when it is made, shared when it is cloned.
///
/// # Examples
///
/// ```
/// use whispeer::topic::{Topic, TopicPattern};
///
/// let pattern = TopicPattern::new("hello/+/**")?;
/// assert_eq!(pattern, "hello/*/**");
/// assert!(pattern.matches(&Topic::new("hello/alice")?));
/// assert!(!pattern.matches(&Topic::new("hello")?));
/// assert!(pattern.meets(&TopicPattern::new("**/bob")?));
/// # Ok::<(), whispeer::topic::TopicError>(())
/// ```
#[derive(Clone)]
pub struct TopicPattern {
    text: Arc<str>,
}

impl TopicPattern {
    /// Checks a text and makes a pattern of it.
    ///
    /// # Errors
    ///
    /// A [`TopicError`] that names the fragment at fault, or the limit that was passed.
    pub fn new(text: impl AsRef<str>) -> Result<Self, TopicError> {
        let text = text.as_ref();
        let shape = validate_pattern(text)?;
        // In a valid pattern a '+' is always a whole fragment.
        let text = if shape.needs_canonical { text.replace('+', "*").into() } else { text.into() };
        Ok(Self { text })
    }

    /// Checks bytes, such as those of a frame, and makes a pattern of them.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and
    /// [`InvalidUtf8`](super::TopicErrorKind::InvalidUtf8) for bytes that are not UTF-8.
    pub fn from_utf8(bytes: &[u8]) -> Result<Self, TopicError> {
        Self::new(text_of(bytes)?)
    }

    /// The pattern `**`, which every topic matches that is not reserved.
    #[must_use]
    pub fn everything() -> Self {
        Self { text: "**".into() }
    }

    /// The pattern in its canonical form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its fragments in order, wildcards included; the empty pattern has none.
    #[must_use]
    pub fn fragments(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        fragments(&self.text)
    }

    /// Whether it has no wildcards and so names a single topic.
    #[must_use]
    pub fn is_concrete(&self) -> bool {
        // In a valid pattern a '*' is a wildcard wherever it stands.
        !self.text.as_bytes().contains(&b'*')
    }

    /// The single topic it names, if it has no wildcards. The text is shared.
    #[must_use]
    pub fn as_topic(&self) -> Option<Topic> {
        self.is_concrete().then(|| Topic::from_checked(Arc::clone(&self.text)))
    }

    /// Whether the first fragment begins with `$`. Exactly these patterns match topics of the bus itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.text)
    }

    /// Whether `topic` is one that this pattern stands for.
    ///
    /// With `n` and `m` fragments it takes at most `n·m` comparisons and allocates nothing.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        if self.is_concrete() {
            return *self.text == *topic.as_str();
        }
        meet(&self.text, topic.as_str())
    }

    /// Whether some concrete topic matches both patterns.
    ///
    /// With `n` and `m` fragments it takes at most `n·m` comparisons, whatever the wildcards, and
    /// allocates nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use whispeer::topic::TopicPattern;
    ///
    /// let left = TopicPattern::new("a/*/c")?;
    /// assert!(left.meets(&TopicPattern::new("**/b/*")?));
    /// assert!(!left.meets(&TopicPattern::new("a/b")?));
    /// # Ok::<(), whispeer::topic::TopicError>(())
    /// ```
    #[must_use]
    pub fn meets(&self, other: &TopicPattern) -> bool {
        if self.is_concrete() && other.is_concrete() {
            return self.text == other.text;
        }
        meet(&self.text, &other.text)
    }

    /// Whether this pattern matches every topic that `other` matches.
    ///
    /// So a right to this pattern is a right to the other one. It is exact for topics of any length, and
    /// takes at most `n·m` comparisons with `n` and `m` fragments, whatever the wildcards, without allocating.
    ///
    /// As with [`matches`](Self::matches), no wildcard stands for or before a first fragment that begins with `$`.
    ///
    /// # Examples
    ///
    /// ```
    /// use whispeer::topic::TopicPattern;
    ///
    /// let news = TopicPattern::new("news/**")?;
    /// assert!(news.contains(&TopicPattern::new("news/*/local")?));
    /// assert!(!news.contains(&TopicPattern::new("*/local")?));
    /// assert!(!TopicPattern::new("**")?.contains(&TopicPattern::new("$bus/stats")?));
    /// # Ok::<(), whispeer::topic::TopicError>(())
    /// ```
    #[must_use]
    pub fn contains(&self, other: &TopicPattern) -> bool {
        if self.is_concrete() {
            return self.text == other.text;
        }
        contain(&self.text, &other.text)
    }

    /// This pattern with `prefix` before it, as a protocol's topics are on the wire.
    ///
    /// A first fragment that begins with `$` is a common one behind a prefix.
    ///
    /// # Errors
    ///
    /// [`TooLong`](super::TopicErrorKind::TooLong) or
    /// [`TooManyFragments`](super::TopicErrorKind::TooManyFragments) when the two together pass a limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use whispeer::topic::{Topic, TopicPattern};
    ///
    /// let prefix = Topic::new("hello")?;
    /// let pattern = TopicPattern::new("*/bob")?;
    /// let whole = pattern.under(&prefix)?;
    /// assert_eq!(whole, "hello/*/bob");
    /// assert_eq!(whole.strip_prefix(&prefix), Some(pattern));
    /// # Ok::<(), whispeer::topic::TopicError>(())
    /// ```
    pub fn under(&self, prefix: &Topic) -> Result<TopicPattern, TopicError> {
        if prefix.as_str().is_empty() {
            return Ok(self.clone());
        }
        if self.text.is_empty() {
            return Ok(prefix.clone().into());
        }
        Self::new(format!("{prefix}/{self}"))
    }

    /// This pattern without the fragments of `prefix`, or `None` if it does not literally begin with
    /// them: a wildcard in their place does not count.
    #[must_use]
    pub fn strip_prefix(&self, prefix: &Topic) -> Option<TopicPattern> {
        if prefix.as_str().is_empty() {
            return Some(self.clone());
        }
        let rest = self.text.strip_prefix(prefix.as_str())?;
        let rest = match rest.strip_prefix('/') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return None,
        };
        // What remains are whole fragments of a valid pattern, and the wildcards are all among them.
        Some(Self { text: rest.into() })
    }
}

checked_text!(TopicPattern, "a topic pattern such as \"hello/*\"");

impl From<Topic> for TopicPattern {
    fn from(topic: Topic) -> Self {
        Self { text: topic.into_text() }
    }
}

impl From<&Topic> for TopicPattern {
    fn from(topic: &Topic) -> Self {
        topic.clone().into()
    }
}
