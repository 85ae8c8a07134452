//! JSON to MessagePack.
//!
//! The header of an array or a map in MessagePack says how many items follow, which JSON does not. So the text is read twice: the
//! first time they are counted, and the second time they are written.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rmp::encode;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::de::SliceRead;
use thiserror::Error;

/// The keys that mark what JSON has no form for.
const BINARY: &str = "$binary";
const EXTENSION: &str = "$extension";
const DATA: &str = "data";

/// A text is no JSON: what is wrong with it, and where.
#[derive(Debug, Error)]
#[error("not JSON: {0}")]
pub struct JsonError(serde_json::Error);

/// What an array or an object is, in the order in which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// So many items, or pairs of them.
    Items(u32),
    Binary,
    Extension,
}

/// The MessagePack of a JSON text.
///
/// # Errors
/// [`JsonError`] for a text that is not exactly one JSON value, and for one that is nested more than 127 levels deep.
///
/// # Examples
/// ```
/// use whispeer::json::from_json;
///
/// assert_eq!(from_json(b"[1, true]")?, [0x92, 0x01, 0xc3][..]);
/// assert_eq!(from_json(br#"{"$binary": "AQI="}"#)?, [0xc4, 2, 1, 2][..]);
///
/// let error = from_json(b"[1, tru]").unwrap_err();
/// assert_eq!(error.to_string(), "not JSON: expected ident at line 1 column 8");
/// # Ok::<(), whispeer::json::JsonError>(())
/// ```
pub fn from_json(text: &[u8]) -> Result<Bytes, JsonError> {
    let mut shapes = Vec::new();
    read(text, Count { shapes: &mut shapes, wanted: Wanted::Any })?;
    let mut payload = Vec::with_capacity(text.len());
    read(text, Write { shapes: &mut shapes.into_iter(), payload: &mut payload })?;
    Ok(payload.into())
}

fn read<'de, S: DeserializeSeed<'de>>(text: &'de [u8], seed: S) -> Result<S::Value, JsonError> {
    let mut deserializer = serde_json::Deserializer::<SliceRead<'de>>::from_slice(text);
    let value = seed.deserialize(&mut deserializer).map_err(JsonError)?;
    deserializer.end().map_err(JsonError)?;
    Ok(value)
}

/// What the value behind a key has to be for a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Base64,
    /// The number of an extension type.
    Number,
}

/// Reads a value, counts what is in it, and tells whether it is what was wanted.
struct Count<'s> {
    shapes: &'s mut Vec<Shape>,
    wanted: Wanted,
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        Ok(self.wanted == Wanted::Number && i8::try_from(number).is_ok())
    }

    fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
        Ok(self.wanted == Wanted::Number && i8::try_from(number).is_ok())
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.wanted == Wanted::Base64 && STANDARD.decode(text).is_ok())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let index = begin(self.shapes);
        let mut count = 0;
        while items.next_element_seed(Count { shapes: self.shapes, wanted: Wanted::Any })?.is_some() {
            count = next(count)?;
        }
        end(self.shapes, index, Shape::Items(count));
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
        let index = begin(self.shapes);
        let (mut count, mut found) = (0, Marks::default());
        while let Some(key) = members.next_key_seed(KeyOf)? {
            let fits = members.next_value_seed(Count { shapes: self.shapes, wanted: key.wanted() })?;
            found.note(key, fits);
            count = next(count)?;
        }
        end(self.shapes, index, found.shape(count));
        Ok(false)
    }
}

fn begin(shapes: &mut Vec<Shape>) -> usize {
    shapes.push(Shape::Items(0));
    shapes.len() - 1
}

fn end(shapes: &mut [Shape], index: usize, shape: Shape) {
    if let Some(begun) = shapes.get_mut(index) {
        *begun = shape;
    }
}

fn next<E: Error>(count: u32) -> Result<u32, E> {
    count.checked_add(1).ok_or_else(|| E::custom("more than 4,294,967,295 items"))
}

/// A key, as far as it may be one of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Binary,
    Extension,
    Data,
    Other,
}

impl Key {
    fn wanted(self) -> Wanted {
        match self {
            Self::Binary | Self::Data => Wanted::Base64,
            Self::Extension => Wanted::Number,
            Self::Other => Wanted::Any,
        }
    }
}

/// Reads a [`Key`].
struct KeyOf;

impl<'de> DeserializeSeed<'de> for KeyOf {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf {
    type Value = Key;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            BINARY => Key::Binary,
            EXTENSION => Key::Extension,
            DATA => Key::Data,
            _ => Key::Other,
        })
    }
}

/// Which parts of marks an object has.
#[derive(Debug, Default)]
struct Marks {
    binary: bool,
    extension: bool,
    data: bool,
}

impl Marks {
    fn note(&mut self, key: Key, fits: bool) {
        match key {
            Key::Binary => self.binary = fits,
            Key::Extension => self.extension = fits,
            Key::Data => self.data = fits,
            Key::Other => {}
        }
    }

    fn shape(&self, count: u32) -> Shape {
        match count {
            1 if self.binary => Shape::Binary,
            2 if self.extension && self.data => Shape::Extension,
            count => Shape::Items(count),
        }
    }
}

/// Writes a value.
struct Write<'s> {
    shapes: &'s mut std::vec::IntoIter<Shape>,
    payload: &'s mut Vec<u8>,
}

impl Write<'_> {
    fn again(&mut self) -> Write<'_> {
        Write { shapes: self.shapes, payload: self.payload }
    }
}

/// What writing to memory has returned, which cannot fail.
fn written<T, E: Error>(result: Result<T, impl fmt::Display>) -> Result<(), E> {
    result.map(drop).map_err(E::custom)
}

impl<'de> DeserializeSeed<'de> for Write<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Write<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        written(encode::write_nil(self.payload))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        written(encode::write_bool(self.payload, value))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        written(encode::write_uint(self.payload, number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        written(encode::write_sint(self.payload, number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        written(encode::write_f64(self.payload, number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        length::<E>(text.len())?;
        written(encode::write_str(self.payload, text))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let Some(Shape::Items(count)) = self.shapes.next() else { return Err(changed()) };
        written(encode::write_array_len(self.payload, count))?;
        while items.next_element_seed(self.again())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        match self.shapes.next().ok_or_else(changed)? {
            Shape::Items(count) => {
                written(encode::write_map_len(self.payload, count))?;
                while members.next_key_seed(self.again())?.is_some() {
                    members.next_value_seed(self.again())?;
                }
                Ok(())
            }
            Shape::Binary => {
                members.next_key::<IgnoredAny>()?;
                let data = decoded(&members.next_value::<Cow<'de, str>>()?)?;
                length::<A::Error>(data.len())?;
                written(encode::write_bin(self.payload, &data))?;
                end_of(members)
            }
            Shape::Extension => {
                let (mut number, mut data) = (0, Vec::new());
                while let Some(key) = members.next_key_seed(KeyOf)? {
                    match key {
                        Key::Extension => number = members.next_value::<i8>()?,
                        _ => data = decoded(&members.next_value::<Cow<'de, str>>()?)?,
                    }
                }
                let length = length::<A::Error>(data.len())?;
                written(encode::write_ext_meta(self.payload, length, number))?;
                self.payload.extend_from_slice(&data);
                Ok(())
            }
        }
    }
}

fn decoded<E: Error>(text: &str) -> Result<Vec<u8>, E> {
    STANDARD.decode(text).map_err(E::custom)
}

/// A length as MessagePack can say it.
fn length<E: Error>(length: usize) -> Result<u32, E> {
    u32::try_from(length).map_err(|_| E::custom("more than 4 GiB in one piece"))
}

fn end_of<'de, A: MapAccess<'de>>(mut members: A) -> Result<(), A::Error> {
    match members.next_key::<IgnoredAny>()? {
        None => Ok(()),
        Some(_) => Err(changed()),
    }
}

/// The text is not the one that was counted.
fn changed<E: Error>() -> E {
    E::custom("the text has changed while it was read")
}
