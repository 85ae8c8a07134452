//! What makes a text a topic or a pattern, checked in one pass without allocating.

use super::error::{TopicError, TopicErrorKind, excerpt};
use crate::limits::{MAX_DOUBLE_WILDCARDS, MAX_TOPIC_BYTES, MAX_TOPIC_FRAGMENTS};

/// The mark of the bus's own topics, at the start of their first fragment.
pub(super) const RESERVED_MARK: u8 = b'$';

/// What a valid pattern is like, as [`validate_pattern`] found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shape {
    /// No fragment is a wildcard: the text is also a [`Topic`](super::Topic).
    pub concrete: bool,
    /// The first fragment begins with `$`: the text names topics of the bus itself.
    pub reserved: bool,
    /// A fragment is written `+`. [`TopicPattern::new`](super::TopicPattern::new) writes it as `*`;
    /// until then the text must not be compared with others or used as a key.
    pub needs_canonical: bool,
}

/// Checks that `text` is a valid pattern, without building one.
///
/// It allocates only for an error, which makes it fit for texts that arrive with each message.
///
/// # Errors
///
/// A [`TopicError`] that names the first fragment at fault, or the limit that was passed.
///
/// # Examples
///
/// ```
/// use whispeer::topic::validate_pattern;
///
/// let shape = validate_pattern("hello/+/alice")?;
/// assert!(!shape.concrete && !shape.reserved && shape.needs_canonical);
/// assert!(validate_pattern("hello/al ice").is_err());
/// # Ok::<(), whispeer::topic::TopicError>(())
/// ```
#[inline]
pub fn validate_pattern(text: &str) -> Result<Shape, TopicError> {
    if is_plainly_concrete(text.as_bytes()) {
        return Ok(Shape { concrete: true, reserved: is_reserved(text), needs_canonical: false });
    }
    inspect(text).map_err(|kind| TopicError::new(text, kind))
}

/// Checks that `bytes` are UTF-8 and a valid pattern, and gives them back as text.
///
/// # Errors
///
/// As [`validate_pattern`]; bytes that are not UTF-8 are refused as
/// [`InvalidUtf8`](TopicErrorKind::InvalidUtf8).
///
/// # Examples
///
/// ```
/// use whispeer::topic::validate_pattern_bytes;
///
/// let (text, shape) = validate_pattern_bytes(b"hello/alice")?;
/// assert_eq!(text, "hello/alice");
/// assert!(shape.concrete);
/// assert!(validate_pattern_bytes(b"hello/\xff").is_err());
/// # Ok::<(), whispeer::topic::TopicError>(())
/// ```
pub fn validate_pattern_bytes(bytes: &[u8]) -> Result<(&str, Shape), TopicError> {
    let text = text_of(bytes)?;
    let shape = validate_pattern(text)?;
    Ok((text, shape))
}

/// Checks that `text` is a valid concrete topic, without building one.
///
/// # Errors
///
/// As [`validate_pattern`]; a wildcard is refused as
/// [`WildcardNotAllowed`](TopicErrorKind::WildcardNotAllowed).
///
/// # Examples
///
/// ```
/// use whispeer::topic::validate_topic;
///
/// assert!(validate_topic("chat:lobby/v1.2").is_ok());
/// assert!(validate_topic("chat:lobby/*").is_err());
/// ```
#[inline]
pub fn validate_topic(text: &str) -> Result<Shape, TopicError> {
    let shape = validate_pattern(text)?;
    if shape.concrete {
        return Ok(shape);
    }
    Err(TopicError::new(text, wildcard_not_allowed(text)))
}

/// The bytes as text, refused before they are decoded when they are too many.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, TopicError> {
    if bytes.len() > MAX_TOPIC_BYTES {
        let beginning = bytes.get(..MAX_TOPIC_BYTES).unwrap_or(bytes);
        return Err(TopicError::new(&String::from_utf8_lossy(beginning), too_long(bytes.len())));
    }
    std::str::from_utf8(bytes).map_err(|error| TopicError::invalid_utf8(bytes, error.valid_up_to()))
}

/// Whether the first fragment of a valid text begins with `$`.
#[inline]
pub(super) fn is_reserved(text: &str) -> bool {
    text.as_bytes().first() == Some(&RESERVED_MARK)
}

/// The fragments of a valid text: none for the empty one.
#[inline]
pub(super) fn fragments(text: &str) -> std::str::Split<'_, char> {
    let mut fragments = text.split('/');
    if text.is_empty() {
        fragments.next();
    }
    fragments
}

fn too_long(bytes: usize) -> TopicErrorKind {
    TopicErrorKind::TooLong { bytes, limit: MAX_TOPIC_BYTES }
}

fn wildcard_not_allowed(text: &str) -> TopicErrorKind {
    let (index, fragment) = fragments(text)
        .enumerate()
        .find(|(_, fragment)| matches!(*fragment, "*" | "+" | "**"))
        .unwrap_or_default();
    TopicErrorKind::WildcardNotAllowed { position: index + 1, fragment: excerpt(fragment) }
}

/// Marks of a byte, so that one look at a text can gather what it holds.
mod class {
    /// A byte that any fragment may hold.
    pub(super) const PLAIN: u8 = 0;
    pub(super) const SEPARATOR: u8 = 1;
    /// Two separators side by side, made from the marks of both.
    pub(super) const EMPTY: u8 = SEPARATOR << 1;
    /// A wildcard, white space, a control character or part of a character beyond ASCII.
    pub(super) const SUSPECT: u8 = 1 << 7;

    pub(super) const OF_BYTE: [u8; 256] = {
        let mut classes = [SUSPECT; 256];
        let mut byte = b'!';
        while byte <= b'~' {
            classes[byte as usize] = match byte {
                b'/' => SEPARATOR,
                b'*' | b'+' => SUSPECT,
                _ => PLAIN,
            };
            byte += 1;
        }
        classes
    };
}

/// Whether the text is a concrete topic that needs no closer look: ASCII, without wildcards.
///
/// Nearly every topic on the hot path is; `inspect` decides about the others.
fn is_plainly_concrete(bytes: &[u8]) -> bool {
    if bytes.len() > MAX_TOPIC_BYTES {
        return false;
    }
    let ([first, ..], [.., last]) = (bytes, bytes) else {
        return true;
    };
    if *first == b'/' || *last == b'/' {
        return false;
    }
    let mut found = class::PLAIN;
    let mut separators = 0;
    let mut previous = class::PLAIN;
    for &byte in bytes {
        let current = class::OF_BYTE[usize::from(byte)];
        found |= current | ((current & previous) << 1);
        separators += usize::from(current & class::SEPARATOR);
        previous = current;
    }
    found & (class::SUSPECT | class::EMPTY) == 0 && separators < MAX_TOPIC_FRAGMENTS
}

/// Looks at each fragment and names the first that is at fault.
fn inspect(text: &str) -> Result<Shape, TopicErrorKind> {
    if text.len() > MAX_TOPIC_BYTES {
        return Err(too_long(text.len()));
    }
    let mut shape = Shape { concrete: true, reserved: is_reserved(text), needs_canonical: false };
    let mut double_wildcards = 0;
    for (index, fragment) in fragments(text).enumerate() {
        if index == MAX_TOPIC_FRAGMENTS {
            return Err(TopicErrorKind::TooManyFragments {
                count: fragments(text).count(),
                limit: MAX_TOPIC_FRAGMENTS,
            });
        }
        match fragment {
            "*" => shape.concrete = false,
            "+" => {
                shape.concrete = false;
                shape.needs_canonical = true;
            }
            "**" => {
                shape.concrete = false;
                double_wildcards += 1;
            }
            name => inspect_name(index + 1, name)?,
        }
    }
    if double_wildcards > MAX_DOUBLE_WILDCARDS {
        return Err(TopicErrorKind::TooManyDoubleWildcards {
            count: double_wildcards,
            limit: MAX_DOUBLE_WILDCARDS,
        });
    }
    Ok(shape)
}

fn inspect_name(position: usize, name: &str) -> Result<(), TopicErrorKind> {
    if name.is_empty() {
        return Err(TopicErrorKind::EmptyFragment { position });
    }
    if name.bytes().all(|byte| class::OF_BYTE[usize::from(byte)] == class::PLAIN) {
        return Ok(());
    }
    for character in name.chars() {
        if character == '*' || character == '+' {
            return Err(TopicErrorKind::WildcardInsideFragment { position, fragment: excerpt(name) });
        }
        if character.is_whitespace() || character.is_control() {
            return Err(TopicErrorKind::ForbiddenCharacter { position, fragment: excerpt(name), character });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_quick_look_agrees_with_the_close_one(text in "[a$/*+ é\u{7f}]{0,12}") {
            if is_plainly_concrete(text.as_bytes()) {
                let shape = inspect(&text);
                prop_assert_eq!(shape.as_ref().map(|shape| shape.concrete), Ok(true));
                prop_assert_eq!(validate_pattern(&text).ok(), shape.ok());
            }
        }
    }

    #[test]
    fn the_quick_look_settles_ascii_topics() {
        for text in ["", "a", "a/b", "chat:lobby/v1.2/Some-Event", "$bus/info"] {
            assert!(is_plainly_concrete(text.as_bytes()), "{text}");
        }
        for text in ["/", "a/", "/a", "a//b", "*", "a/+", "a b", "é", "a\u{7f}"] {
            assert!(!is_plainly_concrete(text.as_bytes()), "{text}");
        }
    }
}
