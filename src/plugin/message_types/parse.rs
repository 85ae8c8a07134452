//! Reads the text of a schema.

use std::collections::BTreeMap;

use super::schema::{Member, SchemaError, Shape, is_plain};
use crate::limits;

/// A reader of one text.
pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// The whole text as one shape.
    pub(super) fn whole(mut self) -> Result<Shape, SchemaError> {
        let shape = self.shape()?;
        match self.rest() {
            "" => Ok(shape),
            _ => Err(self.error("something follows its end")),
        }
    }

    fn rest(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn take(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        self.at += if found { expected.len() } else { 0 };
        found
    }

    fn expect(&mut self, expected: &str) -> Result<(), SchemaError> {
        match self.take(expected) {
            true => Ok(()),
            false => Err(self.error(format!("`{expected}` is expected"))),
        }
    }

    fn error(&self, what: impl Into<String>) -> SchemaError {
        SchemaError { at: self.at, what: what.into() }
    }

    fn shape(&mut self) -> Result<Shape, SchemaError> {
        self.depth += 1;
        if self.depth > limits::TYPE_DEPTH {
            return Err(self.error(format!("more than {} levels", limits::TYPE_DEPTH)));
        }
        let mut shapes = vec![self.one()?];
        while self.take("|") {
            shapes.push(self.one()?);
        }
        self.depth -= 1;
        Ok(Shape::one_of(shapes))
    }

    fn one(&mut self) -> Result<Shape, SchemaError> {
        let shape = if self.take("[") {
            let inner = self.shape()?;
            self.expect("]")?;
            Shape::List(Box::new(inner))
        } else if self.take("{") {
            self.members()?
        } else {
            let word = self.word();
            match word {
                "any" => Shape::Any,
                "nil" => Shape::Nil,
                "boolean" => Shape::Boolean,
                "integer" => Shape::Integer,
                "float" => Shape::Float,
                "string" => Shape::String,
                "binary" => Shape::Binary,
                _ => {
                    self.at -= word.len();
                    return Err(self.error(
                        "a kind is expected: any, nil, boolean, integer, float, string, binary, [ ] or { }",
                    ));
                }
            }
        };
        Ok(if self.take("?") { shape.or_nil() } else { shape })
    }

    /// What stands between braces.
    fn members(&mut self) -> Result<Shape, SchemaError> {
        if self.take("*") {
            self.expect(":")?;
            let inner = self.shape()?;
            self.expect("}")?;
            return Ok(Shape::Map(Box::new(inner)));
        }
        let mut members = BTreeMap::new();
        loop {
            if self.take("}") {
                return Ok(Shape::Record { members, open: false });
            }
            if self.take("...") {
                self.expect("}")?;
                return Ok(Shape::Record { members, open: true });
            }
            let name = self.name()?;
            let optional = self.take("?");
            self.expect(":")?;
            let (shape, takes_nil) = self.shape()?.without_nil();
            if members.insert(name, Member { shape, optional: optional || takes_nil }).is_some() {
                return Err(self.error("a field has the name of an earlier one"));
            }
            if !self.take(",") && !self.rest().starts_with('}') {
                return Err(self.error("`,` or `}` is expected"));
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|character| !is_plain(character)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn name(&mut self) -> Result<String, SchemaError> {
        if !self.take("\"") {
            let word = self.word();
            return match word {
                "" => Err(self.error("the name of a field is expected")),
                word => Ok(word.to_owned()),
            };
        }
        let mut name = String::new();
        let mut escaped = false;
        for character in self.text.get(self.at..).unwrap_or_default().chars() {
            self.at += character.len_utf8();
            match character {
                _ if escaped => {
                    name.push(character);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => return Ok(name),
                _ => name.push(character),
            }
        }
        Err(self.error("a name in quotes has no end"))
    }
}
