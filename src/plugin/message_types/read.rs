//! What a payload looks like, read from its MessagePack.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::schema::{Member, Shape};
use crate::limits;

/// The shape of a payload, or why it has none.
pub(super) fn shape(payload: &[u8]) -> Result<Shape, String> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(limits::TYPE_DEPTH);
    let parts = Cell::new(limits::TYPE_PARTS);
    Reader(&parts).deserialize(&mut deserializer).map_err(|error| error.to_string())
}

/// Reads one value; counts the parts that may still be kept.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a Cell<usize>);

impl Reader<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        let too_many = || E::custom(format!("it has more than {} different parts", limits::TYPE_PARTS));
        self.0.set(left.ok_or_else(too_many)?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Shape;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value that a schema can tell of")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Boolean)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Integer)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Integer)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Float)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::String)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Shape, E> {
        Ok(Shape::Binary)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Nil)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Nil)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Shape, A::Error> {
        let mut kinds: Vec<Shape> = Vec::new();
        while let Some(kind) = elements.next_element_seed(self)? {
            if kinds.contains(&kind) {
                continue;
            }
            if kinds.len() >= limits::TYPE_ALTERNATIVES {
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Shape::List(Box::new(Shape::Mixed)));
            }
            self.count()?;
            kinds.push(kind);
        }
        // An empty list has elements of no kind, so that it meets every list.
        Ok(Shape::List(Box::new(Shape::one_of(kinds))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Shape, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(Name(name)) = fields.next_key()? {
            self.count()?;
            let shape = fields.next_value_seed(self)?;
            members.insert(name, Member { shape, optional: false });
        }
        Ok(Shape::Record { members, open: false })
    }
}

/// The key of a map: a text, or a number as a text.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;

        impl Visitor<'_> for Key {
            type Value = Name;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text or a number as the name of a field")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }
        }

        deserializer.deserialize_any(Key)
    }
}
