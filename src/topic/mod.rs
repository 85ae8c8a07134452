//! Topics, patterns, and the trie that finds who a message is for.
//!
//! A topic is a text of fragments joined by `/`, such as `hello/alice`. A fragment is non-empty UTF-8
//! without `/`, `*`, `+`, white space or control characters. The empty topic has no fragments and is
//! valid. A topic has at most [`MAX_TOPIC_FRAGMENTS`](crate::limits::MAX_TOPIC_FRAGMENTS) fragments and
//! [`MAX_TOPIC_BYTES`](crate::limits::MAX_TOPIC_BYTES).
//!
//! In a pattern a whole fragment may be a wildcard:
//!
//! | fragment | stands for |
//! |---|---|
//! | `*` | exactly one fragment; `+` is read as `*` and written so from then on |
//! | `**` | any number of fragments, also none; at most [`MAX_DOUBLE_WILDCARDS`](crate::limits::MAX_DOUBLE_WILDCARDS) in a pattern |
//!
//! Patterns may be subscribed to and published to. Two of them *meet* when some concrete topic matches
//! both.
//!
//! A topic whose first fragment begins with `$` is reserved: it is the bus's own. Only a pattern that
//! begins with the very same fragment matches it. `**` does not match `$bus/info`, `$bus/**` does;
//! `**/$a` matches `x/$a` but not `$a`. Further on, `$` is a character like any other.
//!
//! The types are checked once, where a text comes in, and there is no way around it:
//!
//! - [`Topic`] is concrete, [`TopicPattern`] may have wildcards. Both are cheap to clone.
//! - [`validate_pattern`] and its kin check a text from a peer without building a value.
//! - [`Trie`] holds one entry per subscription and finds those that a published text meets.
//!
//! Nothing here does I/O, waits or reads a clock.

mod containment;
mod error;
mod meeting;
mod name;
mod pattern;
mod steps;
mod text;
mod trie;
mod validate;

pub use error::{TopicError, TopicErrorKind};
pub use name::Topic;
pub use pattern::TopicPattern;
pub use trie::{EntryId, LookupTooWide, Progress, Scratch, Trie, TrieFull};
pub use validate::{Shape, validate_pattern, validate_pattern_bytes, validate_topic};

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
