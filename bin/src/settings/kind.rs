//! The kinds of values: how each is written in a file and elsewhere, read and shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;
use whispeer::Address;

use super::{Configuration, Servers};
use crate::quantity;

/// What a value is, and where it stands in a configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// On or off.
    Switch(fn(&mut Configuration) -> &mut bool),
    /// A number of things.
    Count(fn(&mut Configuration) -> &mut usize),
    /// A number of bytes.
    Size(fn(&mut Configuration) -> &mut usize),
    /// A length of time.
    Time(fn(&mut Configuration) -> &mut Duration),
    /// Permission bits.
    Mode(fn(&mut Configuration) -> &mut u32),
    /// Messages and bytes.
    Window(fn(&mut Configuration) -> &mut (u32, u64)),
    /// What is logged.
    Filter(fn(&mut Configuration) -> &mut String),
    /// One of some words.
    Choice(&'static [&'static str], fn(&mut Configuration) -> &mut &'static str),
    /// Addresses of buses; in a file, relative paths are relative to the file.
    Addresses(fn(&mut Configuration) -> &mut Vec<String>),
    /// A list of words.
    Words(fn(&mut Configuration) -> &mut Vec<String>),
    /// Where a service is, or nowhere: `http://` or `https://`.
    Url(fn(&mut Configuration) -> &mut Option<String>),
    /// Servers with `,` between them, or none. Their URLs may have passwords, which are not shown.
    Servers(fn(&mut Configuration) -> &mut Option<Servers>),
    /// One word.
    Word(fn(&mut Configuration) -> &mut String),
    /// A file, or none; in a file, a relative path is relative to that file.
    Path(fn(&mut Configuration) -> &mut Option<PathBuf>),
}

impl Kind {
    /// What was written, as it may be shown.
    pub(super) fn shown_words(&self, words: &[String]) -> String {
        match self {
            Self::Servers(_) => Servers::new(&words.join(",")).shown(),
            _ => words.join(","),
        }
    }

    /// What is to be written in a file, with an example.
    pub(super) fn expected(&self) -> String {
        let expected = match self {
            Self::Choice(words, _) => return format!("\"{}\"", words.join("\" or \"")),
            Self::Switch(_) => "true or false",
            Self::Count(_) => "a number, such as 1024",
            Self::Size(_) => "a size, such as \"16MiB\" or a number of bytes",
            Self::Time(_) => "a time, such as \"500ms\" or a number of seconds",
            Self::Mode(_) => "octal permission bits as a string, such as \"0660\"",
            Self::Window(_) => "messages, or messages and bytes as a string, such as \"1024,1MiB\"",
            Self::Filter(_) => "a string, such as \"info\" or \"warn,whispeer=debug\"",
            Self::Addresses(_) => "a list of addresses, such as [\"unix:my_bus\"]",
            Self::Words(_) => "a list of strings, such as [\"one\", \"another\"]",
            Self::Path(_) => "the path of a file as a string",
            Self::Url(_) => "a URL as a string, such as \"http://localhost:4318\"",
            Self::Servers(_) => "one or more URLs as a string, such as \"nats://localhost:4222\"",
            Self::Word(_) => "a word as a string",
        };
        expected.to_owned()
    }

    /// The name of the value in a flag's help.
    pub(super) fn value_name(&self) -> String {
        let name = match self {
            Self::Choice(words, _) => return words.join("|"),
            Self::Switch(_) => "true|false",
            Self::Count(_) => "COUNT",
            Self::Size(_) => "SIZE",
            Self::Time(_) => "TIME",
            Self::Mode(_) => "MODE",
            Self::Window(_) => "MESSAGES[,SIZE]",
            Self::Filter(_) => "FILTER",
            Self::Addresses(_) => "ADDR",
            Self::Words(_) => "WORD,…",
            Self::Path(_) => "FILE",
            Self::Url(_) => "URL",
            Self::Servers(_) => "URL[,URL…]",
            Self::Word(_) => "WORD",
        };
        name.to_owned()
    }

    /// Whether several values can be given.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Addresses(_) | Self::Words(_))
    }

    /// Reads what was given on the command line or in the environment.
    ///
    /// # Errors
    /// How to write it.
    pub(super) fn read_words(&self, into: &mut Configuration, words: &[String]) -> Result<(), String> {
        match self {
            Self::Addresses(place) | Self::Words(place) => *place(into) = words.to_vec(),
            _ => {
                for word in words {
                    self.read_word(into, word)?;
                }
            }
        }
        Ok(())
    }

    fn read_word(&self, into: &mut Configuration, word: &str) -> Result<(), String> {
        match self {
            Self::Switch(place) => {
                *place(into) = match word {
                    "true" | "1" | "yes" | "on" => true,
                    "false" | "0" | "no" | "off" => false,
                    _ => return Err("write true or false".to_owned()),
                }
            }
            Self::Count(place) => {
                *place(into) =
                    word.trim().parse().map_err(|_| "write a whole number, such as 1024".to_owned())?;
            }
            Self::Size(place) => *place(into) = quantity::memory(word)?,
            Self::Time(place) => *place(into) = quantity::duration(word)?,
            Self::Mode(place) => *place(into) = quantity::mode(word)?,
            Self::Window(place) => {
                let window = quantity::window(word)?;
                let default = *place(&mut Configuration::default());
                *place(into) = (window.messages, window.bytes.unwrap_or(default.1));
            }
            Self::Filter(place) => {
                EnvFilter::try_new(word).map_err(|error| error.to_string())?;
                *place(into) = word.to_owned();
            }
            Self::Choice(words, place) => {
                let chosen = words.iter().find(|choice| **choice == word);
                *place(into) = chosen.ok_or_else(|| format!("write {}", self.expected()))?;
            }
            Self::Addresses(place) | Self::Words(place) => *place(into) = vec![word.to_owned()],
            Self::Path(place) => *place(into) = Some(word.into()),
            Self::Servers(place) => {
                let urls = word.split(',').map(str::trim);
                if !urls.clone().all(|url| url.starts_with("nats://") || url.starts_with("tls://")) {
                    return Err(
                        "write nats://HOST:PORT or tls://HOST:PORT, with `,` between several".to_owned()
                    );
                }
                *place(into) = Some(Servers::new(word));
            }
            Self::Word(place) => {
                if word.is_empty() || word.contains(char::is_whitespace) {
                    return Err("write one word".to_owned());
                }
                *place(into) = word.to_owned();
            }
            Self::Url(place) => {
                let rest = word.strip_prefix("http://").or_else(|| word.strip_prefix("https://"));
                if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
                    return Err("write http://HOST:PORT or https://HOST:PORT".to_owned());
                }
                // Settings are shown.
                if rest.is_some_and(|rest| rest.contains(['@', '?', '#'])) {
                    return Err("write it without a password or a query".to_owned());
                }
                *place(into) = Some(word.to_owned());
            }
        }
        Ok(())
    }

    /// Reads the value that stands in a file in the folder `base`.
    ///
    /// # Errors
    /// What was found instead of what is [`expected`](Self::expected), and why that does not do.
    pub(super) fn read_toml(
        &self,
        into: &mut Configuration,
        value: &DeValue<'_>,
        base: &Path,
    ) -> Result<(), String> {
        let wrong = || match (self, value) {
            (Self::Servers(_), DeValue::String(urls)) => format!("found {:?}", Servers::new(urls).shown()),
            _ => format!("found {}", found(value)),
        };
        match (self, value) {
            (Self::Switch(place), DeValue::Boolean(on)) => *place(into) = *on,
            (Self::Addresses(place), DeValue::Array(words)) => {
                let words: Option<Vec<_>> = words.iter().map(|word| word.get_ref().as_str()).collect();
                let words = words.ok_or_else(wrong)?;
                let addresses: Result<_, String> = words.iter().map(|word| address(word, base)).collect();
                *place(into) = addresses?;
            }
            (Self::Words(place), DeValue::Array(words)) => {
                let words: Option<Vec<_>> =
                    words.iter().map(|word| word.get_ref().as_str().map(str::to_owned)).collect();
                *place(into) = words.ok_or_else(wrong)?;
            }
            (Self::Path(place), DeValue::String(path)) if !path.is_empty() => {
                *place(into) = Some(base.join(&**path));
            }
            (Self::Count(_) | Self::Size(_) | Self::Time(_) | Self::Window(_), DeValue::Integer(number))
                if number.radix() == 10 =>
            {
                self.read_word(into, number.as_str()).map_err(|error| format!("{}: {error}", wrong()))?;
            }
            (Self::Time(_), DeValue::Float(number)) => {
                self.read_word(into, number.as_str()).map_err(|error| format!("{}: {error}", wrong()))?;
            }
            (
                Self::Size(_)
                | Self::Time(_)
                | Self::Mode(_)
                | Self::Window(_)
                | Self::Filter(_)
                | Self::Choice(..)
                | Self::Url(_)
                | Self::Servers(_)
                | Self::Word(_),
                DeValue::String(word),
            ) => self.read_word(into, word).map_err(|error| format!("{}: {error}", wrong()))?,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// The value as it would be written in a file; null where there is none.
    pub(crate) fn show(&self, configuration: &Configuration) -> Value {
        // The table tells where a value stands for writing; reading is rare enough for a copy.
        let from = &mut configuration.clone();
        match self {
            Self::Switch(place) => Value::from(*place(from)),
            Self::Count(place) => Value::from(*place(from)),
            Self::Size(place) => Value::from(quantity::exact_size(*place(from) as u64)),
            Self::Time(place) => Value::from(quantity::exact_duration(*place(from))),
            Self::Mode(place) => Value::from(format!("{:04o}", *place(from))),
            Self::Window(place) => {
                let (messages, bytes) = *place(from);
                Value::from(format!("{messages},{}", quantity::exact_size(bytes)))
            }
            Self::Filter(place) => Value::from(place(from).clone()),
            Self::Choice(_, place) => Value::from(*place(from)),
            Self::Addresses(place) | Self::Words(place) => Value::from(place(from).clone()),
            Self::Url(place) => place(from).clone().map_or(Value::Null, Value::from),
            Self::Servers(place) => {
                place(from).as_ref().map_or(Value::Null, |urls| Value::from(urls.shown()))
            }
            Self::Word(place) => Value::from(place(from).clone()),
            Self::Path(place) => {
                place(from).as_ref().map_or(Value::Null, |path| Value::from(path.to_string_lossy()))
            }
        }
    }

    /// Gives `into` the value that `from` has.
    pub(super) fn copy(&self, from: &Configuration, into: &mut Configuration) {
        let from = &mut from.clone();
        match self {
            Self::Switch(place) => *place(into) = *place(from),
            Self::Count(place) | Self::Size(place) => *place(into) = *place(from),
            Self::Time(place) => *place(into) = *place(from),
            Self::Mode(place) => *place(into) = *place(from),
            Self::Window(place) => *place(into) = *place(from),
            Self::Filter(place) => *place(into) = std::mem::take(place(from)),
            Self::Choice(_, place) => *place(into) = *place(from),
            Self::Addresses(place) | Self::Words(place) => *place(into) = std::mem::take(place(from)),
            Self::Path(place) => *place(into) = place(from).take(),
            Self::Url(place) => *place(into) = place(from).take(),
            Self::Servers(place) => *place(into) = place(from).take(),
            Self::Word(place) => *place(into) = std::mem::take(place(from)),
        }
    }
}

/// A shown value as TOML. JSON and TOML write all values that are shown alike, strings by their escapes.
pub(crate) fn toml_text(value: &Value) -> String {
    match value {
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(toml_text).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}

/// An address in a file: a relative path begins at the folder of the file.
fn address(word: &str, base: &Path) -> Result<String, String> {
    // The first is a name, and the other is not an address of the bus but one of its gateway.
    if word.starts_with('@') || word.starts_with("http://") {
        return Ok(word.to_owned());
    }
    match word.parse() {
        Ok(Address::Unix(path)) if path.is_relative() => Ok(Address::Unix(base.join(path)).to_string()),
        Ok(_) => Ok(word.to_owned()),
        Err(whispeer::BusError::Connect { reason, .. }) => Err(format!("found \"{word}\": {reason}")),
        Err(error) => Err(format!("found \"{word}\": {error}")),
    }
}

/// What stands in the file, for an error. Long strings are cut.
pub(super) fn found(value: &DeValue<'_>) -> String {
    const SHOWN: usize = 60;
    match value {
        DeValue::String(text) if text.chars().count() > SHOWN => {
            let beginning: String = text.chars().take(SHOWN).collect();
            format!("{:?}", beginning + "…")
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
