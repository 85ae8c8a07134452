//! Why a text is not a topic.

use thiserror::Error;

use crate::limits::MAX_TOPIC_EXCERPT_BYTES;

/// A text that is not a valid topic or pattern, and the reason.
///
/// The message names the fragment and says what to do. It shows control characters escaped, so that a
/// text from a peer cannot forge log lines.
///
/// # Examples
///
/// ```
/// use whispeer::topic::{Topic, TopicErrorKind};
///
/// let error = Topic::new("a//b").unwrap_err();
/// assert_eq!(error.kind(), &TopicErrorKind::EmptyFragment { position: 2 });
/// assert_eq!(error.to_string(), r#"topic "a//b": fragment 2 is empty; remove the extra '/'"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("topic {topic:?}: {kind}")]
pub struct TopicError {
    topic: String,
    kind: TopicErrorKind,
}

impl TopicError {
    /// The refused text. At most [`MAX_TOPIC_EXCERPT_BYTES`] of it are kept; `…` then marks the cut.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The reason, to match on.
    #[must_use]
    pub fn kind(&self) -> &TopicErrorKind {
        &self.kind
    }

    pub(super) fn new(topic: &str, kind: TopicErrorKind) -> Self {
        Self { topic: excerpt(topic), kind }
    }

    pub(super) fn invalid_utf8(bytes: &[u8], valid_up_to: usize) -> Self {
        // Decoding a little more than the excerpt shows is enough, however long the text is.
        let beginning = bytes.get(..2 * MAX_TOPIC_EXCERPT_BYTES).unwrap_or(bytes);
        Self::new(&String::from_utf8_lossy(beginning), TopicErrorKind::InvalidUtf8 { valid_up_to })
    }
}

/// The reason for a [`TopicError`]. Positions count fragments from 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicErrorKind {
    /// The text is longer than [`MAX_TOPIC_BYTES`](crate::limits::MAX_TOPIC_BYTES).
    #[error("it has {bytes} bytes, more than the limit of {limit}; shorten it")]
    TooLong {
        /// Length of the text in bytes.
        bytes: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// The text has more fragments than [`MAX_TOPIC_FRAGMENTS`](crate::limits::MAX_TOPIC_FRAGMENTS).
    #[error("it has {count} fragments, more than the limit of {limit}; join some of them")]
    TooManyFragments {
        /// Number of fragments in the text.
        count: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A fragment is empty: the text begins or ends with `/`, or has two of them side by side.
    #[error("fragment {position} is empty; remove the extra '/'")]
    EmptyFragment {
        /// Which fragment, counted from 1.
        position: usize,
    },
    /// A fragment holds white space or a control character.
    #[error(
        "fragment {position}, {fragment:?}, contains {character:?}; white space and control characters \
         are not allowed, use '-' or '_' instead"
    )]
    ForbiddenCharacter {
        /// Which fragment, counted from 1.
        position: usize,
        /// The fragment, cut like [`TopicError::topic`].
        fragment: String,
        /// The first character in it that is not allowed.
        character: char,
    },
    /// A fragment holds `*` or `+` among other characters, or is a run such as `***`.
    #[error(
        "fragment {position}, {fragment:?}, has a wildcard inside it; '*' and '+' cannot be part of a \
         name, write the wildcard \"*\" or \"**\" as a whole fragment"
    )]
    WildcardInsideFragment {
        /// Which fragment, counted from 1.
        position: usize,
        /// The fragment, cut like [`TopicError::topic`].
        fragment: String,
    },
    /// A wildcard stands where a concrete topic is needed.
    #[error(
        "fragment {position}, {fragment:?}, is a wildcard, but a concrete topic is needed here; write \
         the name it stands for"
    )]
    WildcardNotAllowed {
        /// Which fragment, counted from 1.
        position: usize,
        /// The wildcard: `*`, `+` or `**`.
        fragment: String,
    },
    /// The pattern has more `**` than [`MAX_DOUBLE_WILDCARDS`](crate::limits::MAX_DOUBLE_WILDCARDS).
    #[error("it has {count} fragments \"**\", more than the limit of {limit}; replace some of them by \"*\"")]
    TooManyDoubleWildcards {
        /// Number of `**` in the pattern.
        count: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The bytes are not UTF-8.
    #[error("it is not UTF-8 from byte {valid_up_to} on; send topics as UTF-8 text")]
    InvalidUtf8 {
        /// Number of bytes before the first that is not UTF-8.
        valid_up_to: usize,
    },
}

/// The beginning of `text` that an error may keep, cut between characters.
pub(super) fn excerpt(text: &str) -> String {
    if text.len() <= MAX_TOPIC_EXCERPT_BYTES {
        return text.to_owned();
    }
    let mut kept = text[..text.floor_char_boundary(MAX_TOPIC_EXCERPT_BYTES)].to_owned();
    kept.push('…');
    kept
}
