//! What messages look like, as text, and how two of these differ.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::parse::Parser;
use super::read;
use crate::limits;

/// What the payloads of a topic look like: which fields they have, and of which kinds.
///
/// As text it is one of
///
/// | text | is met by |
/// |---|---|
/// | `nil`, `boolean`, `integer`, `float`, `string`, `binary` | such a value; a `float` by an integer as well |
/// | `any` | everything |
/// | `[T]` | a list, all of whose elements meet `T` |
/// | `{name: T, other?: T}` | a map with these fields and no others; those with `?` may be missing or nil |
/// | `{name: T, ...}` | one that may have others |
/// | `{*: T}` | a map, all of whose values meet `T` |
/// | `T?` | nil, and what meets `T` |
/// | `T \| U` | what meets either |
///
/// Names that have other characters than letters, digits, `_` and `-` stand in double quotes. Two texts that mean the
/// same read as equal schemas, whose canonical text has the fields in the order of their names. The [fingerprint](Self::fingerprint) is
/// made of that.
///
/// # Examples
/// ```
/// use whispeer::plugin::Schema;
///
/// let order: Schema = "{pieces: integer, customer: string, note?: string}".parse()?;
/// assert_eq!(order.to_string(), "{customer: string, note?: string, pieces: integer}");
/// let other: Schema = "{customer: string, pieces: string}".parse()?;
/// assert_eq!(order.differences(&other), ["`pieces` is a string and not an integer"]);
/// # Ok::<(), whispeer::plugin::SchemaError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema(pub(super) Shape);

/// Why something is not a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a schema: {what}, at byte {at}")]
#[non_exhaustive]
pub struct SchemaError {
    /// Where in the text, or in the encoded value.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Any,
    Nil,
    Boolean,
    Integer,
    Float,
    String,
    Binary,
    List(Box<Shape>),
    Record {
        members: BTreeMap<String, Member>,
        open: bool,
    },
    Map(Box<Shape>),
    /// In order, each once, none of them a choice itself: at least two, and none for the elements of a list that has none.
    OneOf(Vec<Shape>),
    /// More different values than are worth to tell apart: meets `any` only.
    Mixed,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) shape: Shape,
    pub(super) optional: bool,
}

impl Schema {
    /// The schema that a value has by itself. What the value leaves open stays open: an empty list has elements of any
    /// kind, and what is nil may be anything.
    ///
    /// # Errors
    /// [`SchemaError`] for a value that cannot be encoded, or has more parts or levels than a schema may have.
    ///
    /// # Examples
    /// ```
    /// use whispeer::plugin::Schema;
    ///
    /// let schema = Schema::of(&("two apples", [1, 2]))?;
    /// assert_eq!(schema.to_string(), "[string | [integer]]");
    /// # Ok::<(), whispeer::plugin::SchemaError>(())
    /// ```
    pub fn of<T: Serialize>(value: &T) -> Result<Self, SchemaError> {
        let error = |what: String| SchemaError { at: 0, what };
        let payload = rmp_serde::to_vec_named(value).map_err(|reason| error(reason.to_string()))?;
        Ok(Self(read::shape(&payload).map_err(error)?.opened()))
    }

    /// A number that is the same for equal schemas and, but by chance, different for others: 64 bits (FNV-1a) of the
    /// canonical text, in 16 hexadecimal digits behind `#`. It tells releases apart, and keeps nobody from lying.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let hash = self.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, step);
        format!("#{hash:016x}")
    }

    /// In what something of the schema `actual` would differ from this one, in words: nothing if all of it fits. At most
    /// [`TYPE_DIFFERENCES`](limits::TYPE_DIFFERENCES) are told.
    #[must_use]
    pub fn differences(&self, actual: &Self) -> Vec<String> {
        let mut found = Vec::new();
        compare(&self.0, &actual.0, "", &mut found);
        found
    }
}

impl FromStr for Schema {
    type Err = SchemaError;

    fn from_str(text: &str) -> Result<Self, SchemaError> {
        if text.len() > limits::SCHEMA_BYTES {
            let what = format!("it has {} bytes, {} are allowed", text.len(), limits::SCHEMA_BYTES);
            return Err(SchemaError { at: limits::SCHEMA_BYTES, what });
        }
        Parser::new(text).whole().map(Self)
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Shape {
    /// What is met by either of these.
    pub(super) fn one_of(shapes: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for shape in shapes {
            match shape {
                Self::OneOf(inner) => all.extend(inner),
                shape => all.push(shape),
            }
        }
        all.sort_unstable();
        all.dedup();
        match all.len() {
            1 => all.swap_remove(0),
            _ => Self::OneOf(all),
        }
    }

    /// What is met by this and by nil.
    pub(super) fn or_nil(self) -> Self {
        Self::one_of([self, Self::Nil])
    }

    fn takes_nil(&self) -> bool {
        match self {
            Self::Any | Self::Nil => true,
            Self::OneOf(shapes) => shapes.contains(&Self::Nil),
            _ => false,
        }
    }

    /// Without nil, which an optional member has anyway.
    pub(super) fn without_nil(self) -> (Self, bool) {
        match self {
            Self::OneOf(mut shapes) if shapes.contains(&Self::Nil) => {
                shapes.retain(|shape| *shape != Self::Nil);
                (Self::one_of(shapes), true)
            }
            shape => (shape, false),
        }
    }

    /// What a sample leaves open: nil and the elements of an empty list may be anything.
    fn opened(self) -> Self {
        match self {
            Self::Nil | Self::Mixed => Self::Any,
            Self::OneOf(shapes) if shapes.is_empty() => Self::Any,
            Self::List(inner) => Self::List(Box::new(inner.opened())),
            Self::OneOf(shapes) => Self::one_of(shapes.into_iter().map(|shape| match shape {
                Self::Nil => Self::Nil,
                shape => shape.opened(),
            })),
            Self::Record { members, open } => {
                let members = members.into_iter().map(|(name, member)| {
                    let optional = member.optional || member.shape == Self::Nil;
                    (name, Member { shape: member.shape.opened(), optional })
                });
                Self::Record { members: members.collect(), open }
            }
            shape => shape,
        }
    }

    fn alternatives(&self) -> &[Self] {
        match self {
            Self::OneOf(shapes) => shapes,
            one => std::slice::from_ref(one),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("any"),
            Self::Nil => formatter.write_str("nil"),
            Self::Boolean => formatter.write_str("boolean"),
            Self::Integer => formatter.write_str("integer"),
            Self::Float => formatter.write_str("float"),
            Self::String => formatter.write_str("string"),
            Self::Binary => formatter.write_str("binary"),
            Self::Mixed => formatter.write_str("mixed"),
            Self::List(inner) => write!(formatter, "[{inner}]"),
            Self::Map(inner) => write!(formatter, "{{*: {inner}}}"),
            Self::Record { members, open } => {
                formatter.write_str("{")?;
                for (index, (name, Member { shape, optional })) in members.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    let mark = if *optional { "?" } else { "" };
                    write!(formatter, "{comma}{}{mark}: {shape}", Name(name))?;
                }
                match (open, members.is_empty()) {
                    (true, true) => formatter.write_str("...}"),
                    (true, false) => formatter.write_str(", ...}"),
                    (false, _) => formatter.write_str("}"),
                }
            }
            Self::OneOf(shapes) => {
                for (index, shape) in shapes.iter().enumerate() {
                    let bar = if index == 0 { "" } else { " | " };
                    write!(formatter, "{bar}{shape}")?;
                }
                Ok(())
            }
        }
    }
}

/// A name as it stands in a schema.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_plain) {
            return formatter.write_str(self.0);
        }
        formatter.write_str("\"")?;
        for character in self.0.chars() {
            if matches!(character, '"' | '\\') {
                formatter.write_str("\\")?;
            }
            write!(formatter, "{character}")?;
        }
        formatter.write_str("\"")
    }
}

/// Whether a name may have this character without quotes.
pub(super) fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-')
}

/// Notes where what is there differs from what is expected.
fn compare(expected: &Shape, actual: &Shape, path: &str, found: &mut Vec<String>) {
    for alternative in actual.alternatives() {
        if found.len() >= limits::TYPE_DIFFERENCES {
            return;
        }
        compare_one(expected, alternative, path, found);
    }
}

fn compare_one(expected: &Shape, actual: &Shape, path: &str, found: &mut Vec<String>) {
    match (expected, actual) {
        (Shape::Any, _) => {}
        (Shape::Float, Shape::Integer) => {}
        (Shape::OneOf(shapes), _) => compare_choice(shapes, actual, path, found),
        (Shape::List(expected), Shape::List(actual)) => {
            compare(expected, actual, &format!("{path}[]"), found);
        }
        (Shape::Map(expected), Shape::Map(actual)) => compare(expected, actual, &below(path, "*"), found),
        (Shape::Map(expected), Shape::Record { members, .. }) => {
            for (name, member) in members {
                compare(expected, &member.shape, &below(path, name), found);
            }
        }
        (Shape::Record { members, open }, Shape::Record { members: actual, .. }) => {
            compare_members((members, *open), actual, path, found);
        }
        (expected, actual) if expected == actual => {}
        (expected, actual) => found.push(mismatch(expected, actual, path)),
    }
    found.truncate(limits::TYPE_DIFFERENCES);
}

/// Each alternative is compared once: with a second look at those that do not fit, a choice within a choice would be looked at
/// four times, and so on.
fn compare_choice(shapes: &[Shape], actual: &Shape, path: &str, found: &mut Vec<String>) {
    let mut of_kin = Vec::new();
    for shape in shapes {
        let mut differences = Vec::new();
        compare_one(shape, actual, path, &mut differences);
        if differences.is_empty() {
            return;
        }
        if is_kin(shape, actual) {
            of_kin.push(differences);
        }
    }
    match &mut of_kin[..] {
        // What it was meant to be is clear, so that is told in full.
        [only] => found.append(only),
        _ => found.push(mismatch(&Shape::OneOf(shapes.to_vec()), actual, path)),
    }
}

fn compare_members(
    (expected, open): (&BTreeMap<String, Member>, bool),
    actual: &BTreeMap<String, Member>,
    path: &str,
    found: &mut Vec<String>,
) {
    for (name, member) in expected {
        let path = below(path, name);
        match actual.get(name) {
            None if member.optional || member.shape == Shape::Any => {}
            None => found.push(format!("`{path}` is missing")),
            Some(there) if there.shape == Shape::Nil && member.optional => {}
            Some(there) => {
                compare(&member.shape, &there.shape.clone().without_nil().0, &path, found);
                let may_be_nil =
                    there.optional || matches!(&there.shape, Shape::OneOf(_)) && there.shape.takes_nil();
                if may_be_nil && !member.optional && !member.shape.takes_nil() {
                    found.push(format!("`{path}` may be missing"));
                }
            }
        }
        if found.len() >= limits::TYPE_DIFFERENCES {
            return;
        }
    }
    if !open {
        let unknown = actual.keys().filter(|name| !expected.contains_key(*name));
        found.extend(
            unknown
                .take(limits::TYPE_DIFFERENCES)
                .map(|name| format!("`{}` is not known", below(path, name))),
        );
    }
}

/// Whether both are compounds of the same kind, so that it is worth to tell how they differ within.
fn is_kin(expected: &Shape, actual: &Shape) -> bool {
    use Shape::{List, Map, Record};
    matches!((expected, actual), (List(_), List(_)) | (Map(_) | Record { .. }, Map(_) | Record { .. }))
}

fn mismatch(expected: &Shape, actual: &Shape, path: &str) -> String {
    let place = if path.is_empty() { "it".to_owned() } else { format!("`{path}`") };
    format!("{place} is {} and not {}", described(actual), described(expected))
}

/// A kind of value with its article. Names come from outside and are shortened.
fn described(shape: &Shape) -> String {
    match shape {
        Shape::Any => "anything".into(),
        Shape::Nil => "nil".into(),
        Shape::Integer => "an integer".into(),
        Shape::Boolean | Shape::Float | Shape::String => format!("a {shape}"),
        Shape::Binary => "binary".into(),
        Shape::List(_) => "a list".into(),
        Shape::Record { .. } | Shape::Map(_) => "a map".into(),
        Shape::Mixed => "of too many kinds".into(),
        Shape::OneOf(shapes) => {
            let mut all: Vec<String> = shapes.iter().map(described).collect();
            all.dedup();
            all.join(" or ")
        }
    }
}

fn below(path: &str, name: &str) -> String {
    /// Characters of a name that are told.
    const SHOWN: usize = 64;
    let shown: String = name.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if path.is_empty() { shown } else { format!("{path}.{shown}") }
}
