//! Topics and patterns as subjects of NATS.
//!
//! A topic is the subject of its fragments, behind a prefix and the token `t`: `shop/orders` is `whispeer.t.shop.orders`. So whoever has
//! nothing but NATS finds it, and subscribes to it with the wildcards that he knows. What a token of NATS may not have is
//! written as `%` and two hexadecimal digits: `v1.2` is `v1%2E2`. The empty topic is the prefix and `t` alone.
//!
//! | pattern | subjects | |
//! |---|---|---|
//! | `shop/*` | `whispeer.t.shop.*` | |
//! | `shop/**` | `whispeer.t.shop`, `whispeer.t.shop.>` | `>` stands for one token and more |
//! | `shop/**/new` | `whispeer.t.shop.>` | wider: what comes has to be matched |
//!
//! What is published to a pattern is no subject that others could find by theirs. It goes to `whispeer.w`, which every bus hears.
//!
//! A topic has [`MAX_TOPIC_BYTES`](whispeer::limits::MAX_TOPIC_BYTES), so that a subject has no more than three times as many and the
//! prefix: less than the 4,096 bytes that NATS has for a line of its protocol (`max_control_line`).

use std::fmt;
use std::sync::Arc;

use whispeer::topic::{Topic, TopicPattern};

/// Bytes of a prefix, at the most.
pub const PREFIX_BYTES: usize = 128;

/// The token before those of a topic.
const TOPIC: &str = "t";

/// The token before those of a topic that is served.
const REQUEST: &str = "r";

/// The token of what is published to patterns, and to several topics.
const WILDCARD: &str = "w";

/// The token of their last number.
const WILDCARD_MARK: &str = "pw";

/// The token before those of a topic whose last number is told once more.
const MARK: &str = "p";

/// What a subject is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Messages to a topic.
    Messages,
    /// The last number of a topic.
    Marks,
    /// Requests to a topic.
    Requests,
}

impl Kind {
    fn token(self) -> &'static str {
        match self {
            Self::Messages => TOPIC,
            Self::Marks => MARK,
            Self::Requests => REQUEST,
        }
    }
}

/// The subjects of a cluster: those behind one prefix.
///
/// # Examples
/// ```
/// use whispeer::topic::{Topic, TopicPattern};
/// use whispeer_cluster_nats::subject::Subjects;
///
/// let subjects = Subjects::new("whispeer")?;
/// let topic = Topic::new("shop/v1.2")?;
/// assert_eq!(subjects.of_topic(&topic), "whispeer.t.shop.v1%2E2");
/// assert_eq!(subjects.topic_of("whispeer.t.shop.v1%2E2"), Some(topic));
///
/// let interest = subjects.of_pattern(&TopicPattern::new("shop/**")?);
/// assert_eq!(interest.subjects, ["whispeer.t.shop", "whispeer.t.shop.>"]);
/// assert!(interest.is_exact);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: Arc<str>,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no prefix of subjects: {reason}; give one such as `whispeer` or `shop.buses`")]
pub struct PrefixError {
    given: String,
    reason: &'static str,
}

/// What a bus subscribes to at NATS for a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// One or two subjects, of which no message matches both.
    pub subjects: Vec<String>,
    /// Whether nothing else comes by them. What comes otherwise has to be matched.
    pub is_exact: bool,
}

impl Subjects {
    /// The subjects behind this prefix: tokens of visible characters, joined by `.`.
    ///
    /// # Errors
    /// [`PrefixError`] for what NATS has no subject for, or keeps to itself.
    pub fn new(prefix: &str) -> Result<Self, PrefixError> {
        let wrong = |reason| Err(PrefixError { given: prefix.chars().take(PREFIX_BYTES).collect(), reason });
        if prefix.len() > PREFIX_BYTES {
            return wrong("it has more than 128 bytes");
        }
        if prefix.split('.').any(str::is_empty) {
            return wrong("a part of it is empty");
        }
        if prefix.contains(['*', '>']) {
            return wrong("it has wildcards");
        }
        if !prefix.chars().all(|letter| letter.is_ascii_graphic()) {
            return wrong("it has other characters than the visible ones of ASCII");
        }
        match prefix.starts_with('$') || prefix.starts_with("_INBOX") {
            true => wrong("NATS keeps what begins like this to itself"),
            false => Ok(Self { prefix: prefix.into() }),
        }
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The subject of a topic.
    #[must_use]
    pub fn of_topic(&self, topic: &Topic) -> String {
        self.joined(Kind::Messages, topic.fragments())
    }

    /// Where the last number of a topic is told.
    pub(crate) fn of_marks(&self, topic: &Topic) -> String {
        self.joined(Kind::Marks, topic.fragments())
    }

    /// Where the servers of a topic are asked.
    #[must_use]
    pub fn of_requests(&self, topic: &Topic) -> String {
        self.joined(Kind::Requests, topic.fragments())
    }

    /// Where a bus is answered: behind this comes the number of its request, as one token.
    #[must_use]
    pub fn of_replies(&self, bus: u64) -> String {
        format!("{}.reply.{bus:016x}", self.prefix)
    }

    /// Where a bus is told of what it does for others: that nobody waits any more, or takes more.
    #[must_use]
    pub fn of_cancels(&self, bus: u64) -> String {
        format!("{}.cancel.{bus:016x}", self.prefix)
    }

    /// A subject of the link's own.
    pub(crate) fn own(&self, token: &str) -> String {
        format!("{}.{token}", self.prefix)
    }

    /// Where messages go that are published to a pattern.
    #[must_use]
    pub fn of_wildcards(&self) -> String {
        format!("{}.{WILDCARD}", self.prefix)
    }

    /// Where the last number of these is told.
    pub(crate) fn of_wildcard_marks(&self) -> String {
        format!("{}.{WILDCARD_MARK}", self.prefix)
    }

    /// What to subscribe to for what is published to topics of a pattern.
    #[must_use]
    pub fn of_pattern(&self, pattern: &TopicPattern) -> Interest {
        self.interest(Kind::Messages, pattern)
    }

    /// What to subscribe to for messages, or marks, of topics of a pattern.
    pub(crate) fn interest(&self, kind: Kind, pattern: &TopicPattern) -> Interest {
        let head: Vec<&str> = pattern.fragments().take_while(|fragment| *fragment != "**").collect();
        let tail: Vec<&str> = pattern.fragments().skip(head.len()).collect();
        let subject = self.joined(kind, head.into_iter());
        // At the beginning wildcards do not match reserved topics, and those of NATS do.
        let is_exact = !matches!(pattern.fragments().next(), Some("*" | "**"));
        if tail.is_empty() {
            return Interest { subjects: vec![subject], is_exact };
        }
        let deeper = format!("{subject}.>");
        match tail.iter().all(|fragment| *fragment == "**") {
            true => Interest { subjects: vec![subject, deeper], is_exact },
            false => Interest { subjects: vec![deeper], is_exact: false },
        }
    }

    /// The topic of a subject; `None` for what is no subject of a topic of this prefix, as somebody else may have sent.
    #[must_use]
    pub fn topic_of(&self, subject: &str) -> Option<Topic> {
        let rest = self.place(Kind::Messages, subject)?;
        if rest.is_empty() {
            return Topic::new("").ok();
        }
        let mut topic = Vec::with_capacity(rest.len());
        for (number, token) in rest.strip_prefix('.')?.split('.').enumerate() {
            if number > 0 {
                topic.push(b'/');
            }
            unescape(token, &mut topic)?;
        }
        let topic = Topic::from_utf8(&topic).ok()?;
        // Each topic has one subject, so that nothing is found by another.
        (self.of_topic(&topic) == subject).then_some(topic)
    }

    /// What tells a topic from others, in its subject of this kind: what is behind the token.
    pub(crate) fn place<'a>(&self, kind: Kind, subject: &'a str) -> Option<&'a str> {
        let rest = subject.strip_prefix(&*self.prefix)?.strip_prefix('.')?.strip_prefix(kind.token())?;
        (rest.is_empty() || rest.starts_with('.')).then_some(rest)
    }

    /// The topic at a place.
    pub(crate) fn topic_at(&self, place: &str) -> Option<Topic> {
        self.topic_of(&format!("{}.{TOPIC}{place}", self.prefix))
    }

    fn joined<'a>(&self, kind: Kind, fragments: impl Iterator<Item = &'a str>) -> String {
        let mut subject = format!("{}.{}", self.prefix, kind.token());
        for fragment in fragments {
            subject.push('.');
            match fragment {
                "*" => subject.push('*'),
                other => escape(other, &mut subject),
            }
        }
        subject
    }
}

impl fmt::Display for Subjects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.prefix)
    }
}

/// Writes a fragment as a token. Fragments have no white space, no control characters and no `*`.
fn escape(fragment: &str, token: &mut String) {
    for letter in fragment.chars() {
        match letter {
            '.' => token.push_str("%2E"),
            '>' => token.push_str("%3E"),
            '%' => token.push_str("%25"),
            other => token.push(other),
        }
    }
}

/// Reads a token as a fragment.
fn unescape(token: &str, fragment: &mut Vec<u8>) -> Option<()> {
    let mut rest = token.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = str::from_utf8(&digits).ok()?;
                fragment.push(u8::from_str_radix(digits, 16).ok()?);
            }
            // They would divide the topic otherwise than the subject is.
            b'/' => return None,
            other => fragment.push(other),
        }
    }
    Some(())
}

#[cfg(test)]
mod tests;
