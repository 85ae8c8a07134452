//! Keyrings as TOML.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::handing::{Granted, Handing, Pin};
use super::identity::Stored;
use super::key::{Key, KeyId};
use super::keyring::{Keyring, put};
use super::refusal::topics;
use super::scope::State;
use super::secret_file::{self, Hexadecimal, push_digits};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

/// What stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    retired: Vec<Hexadecimal<{ KeyId::LEN }>>,
    /// Those that have no key at present, and are not to fall back to others.
    #[serde(default)]
    patterns: Vec<String>,
    #[serde(default)]
    keys: Vec<Entry>,
    /// Those whose grants are taken.
    #[serde(default)]
    granters: Vec<Granter>,
    /// The last grants that were taken or made.
    #[serde(default)]
    grants: Vec<Last>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: Option<Hexadecimal<{ KeyId::LEN }>>,
    topics: Option<String>,
    #[serde(rename = "use")]
    purpose: Purpose,
    key: Hexadecimal<{ Key::LEN }>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Granter {
    topics: Option<String>,
    identity: Stored,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    topics: Option<String>,
    generation: u64,
    key: Hexadecimal<{ KeyId::LEN }>,
    #[serde(default)]
    retires: bool,
    #[serde(default)]
    members: Vec<Stored>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Purpose {
    Send,
    Read,
}

impl Keyring {
    /// Reads a keyring from TOML, as [`to_toml`](Self::to_toml) writes it.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] with the line or the key at fault, which repeats no secret, and what
    /// [`rotate_for`](Self::rotate_for) refuses.
    ///
    /// # Examples
    /// ```
    /// use whispeer::engine::encryption::Keyring;
    ///
    /// let keyring = Keyring::from_toml(
    ///     r#"
    ///     [[keys]]
    ///     topics = "orders/**"   # without it: where no other pattern is for the topic
    ///     use = "send"           # and "read" for those that only open what arrives
    ///     key = "6e28c1a5b1a7f7d1e3c04bcd0d6b1e6be7a03b3fbaf24c53bb6f1f1e6d8a9f20"
    ///     "#,
    /// )?;
    /// assert_eq!(keyring.keys().len(), 1);
    /// # Ok::<(), whispeer::BusError>(())
    /// ```
    pub fn from_toml(text: &str) -> BusResult<Self> {
        if text.len() > limits::KEYRING_BYTES {
            let what = format!("a keyring has at most {} bytes", limits::KEYRING_BYTES);
            return Err(BusError::InvalidSettings(what));
        }
        let document: Document = secret_file::parse(text)?;
        let keyring = Self::new();
        keyring.change(|state| document.put(state).and_then(|()| check_size(state)))?;
        Ok(keyring)
    }

    /// Reads a keyring from a file, as [`from_toml`](Self::from_toml) does. It has to belong to the user that this process
    /// runs as, or to root, and nobody but its owner may read it.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if it cannot be read, is no regular file, somebody else's, open to others or larger than
    /// [`limits::KEYRING_BYTES`], and what is wrong in it.
    pub fn read(path: &Path) -> BusResult<Self> {
        let refused = |reason: String| {
            BusError::InvalidSettings(format!("cannot use the keyring in {}: {reason}", path.display()))
        };
        let text = secret_file::read(path, limits::KEYRING_BYTES).map_err(refused)?;
        Self::from_toml(&text).map_err(|error| refused(error.to_string()))
    }

    /// Reads a keyring from the text in an environment variable, as [`from_toml`](Self::from_toml) does. Others may see it
    /// there: processes of the same user, and those that this one starts. A file is safer.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if it is not set, and what is wrong in it.
    pub fn from_variable(name: &str) -> BusResult<Self> {
        let refused = |reason: String| {
            BusError::InvalidSettings(format!("cannot use the keyring in the variable {name}: {reason}"))
        };
        let text = match std::env::var(name) {
            Ok(text) => Zeroizing::new(text),
            Err(std::env::VarError::NotPresent) => return Err(refused("it is not set".to_owned())),
            Err(std::env::VarError::NotUnicode(_)) => return Err(refused("it is not text".to_owned())),
        };
        Self::from_toml(&text).map_err(|error| refused(error.to_string()))
    }

    /// All of it as TOML, secrets included.
    #[must_use]
    pub fn to_toml(&self) -> Zeroizing<String> {
        let state = self.state();
        // All at once, so that no copy is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(size(&state)));
        let ids: Vec<_> = state.retired().map(|id| format!("\"{id}\"")).collect();
        let empty = state.scopes().iter().filter(|scope| scope.keys.is_empty());
        let patterns: Vec<_> = empty.filter_map(|scope| scope.pattern.as_ref()).map(quoted).collect();
        // Writing to a text does not fail.
        let _ = writeln!(text, "retired = [{}]\npatterns = [{}]", ids.join(", "), patterns.join(", "));
        for scope in state.scopes() {
            for (id, key) in &scope.keys {
                let purpose = if scope.sending == Some(*id) { "send" } else { "read" };
                let _ = writeln!(text, "\n[[keys]]\nid = \"{id}\"");
                if let Some(pattern) = &scope.pattern {
                    let _ = writeln!(text, "topics = {}", quoted(pattern));
                }
                let _ = write!(text, "use = \"{purpose}\"\nkey = \"");
                push_digits(key.reveal(), &mut text);
                text.push_str("\"\n");
            }
        }
        push_handing(&mut text, &state.handing);
        text
    }
}

/// Whether a keyring that is written can be read again.
pub(super) fn check_size(state: &State) -> BusResult<()> {
    let most = limits::KEYRING_BYTES;
    if size(state) > most {
        let what = format!("the keyring takes more than {most} bytes as text; retire keys that nobody needs");
        return Err(BusError::LimitReached { what });
    }
    Ok(())
}

/// Bytes that the text of a keyring has at the most.
fn size(state: &State) -> usize {
    let entries = state.scopes().iter().map(|scope| {
        let topics = scope.pattern.as_ref().map_or(0, |pattern| quoted(pattern).len());
        scope.keys.len() * (160 + topics) + topics
    });
    256 + state.retired().count() * 24 + entries.sum::<usize>() + handing_size(&state.handing)
}

/// Adds who may hand out keys, and what was handed out last.
fn push_handing(text: &mut String, handing: &Handing) {
    let push_topics = |text: &mut String, pattern: &Option<TopicPattern>| {
        if let Some(pattern) = pattern {
            let _ = writeln!(text, "topics = {}", quoted(pattern));
        }
    };
    for pin in handing.pins() {
        text.push_str("\n[[granters]]\n");
        push_topics(text, &pin.pattern);
        let _ = writeln!(text, "identity = \"{}\"", pin.granter);
    }
    for last in handing.granted() {
        text.push_str("\n[[grants]]\n");
        push_topics(text, &last.pattern);
        let _ = writeln!(text, "generation = {}\nkey = \"{}\"", last.generation, last.key);
        if last.retires {
            text.push_str("retires = true\n");
        }
        if !last.members.is_empty() {
            text.push_str("members = [\n");
            last.members.iter().for_each(|member| {
                let _ = writeln!(text, "    \"{member}\",");
            });
            text.push_str("]\n");
        }
    }
}

/// Bytes that [`push_handing`] adds, at the most.
fn handing_size(handing: &Handing) -> usize {
    // The topics of a pattern, with each letter escaped, and what stands beside the identities.
    let entry = |pattern: &Option<TopicPattern>, identities: usize| {
        let topics = pattern.as_ref().map_or(0, |pattern| 2 * pattern.as_str().len());
        160 + topics + 120 * identities
    };
    let pins = handing.pins().iter().map(|pin| entry(&pin.pattern, 1));
    let granted = handing.granted().iter().map(|last| entry(&last.pattern, last.members.len()));
    pins.chain(granted).sum()
}

impl Last {
    fn put(self, state: &mut State) -> BusResult<()> {
        let pattern = self.topics.map(TopicPattern::new).transpose()?;
        let refused = |what: &str| {
            let topics = topics(pattern.as_ref());
            Err(BusError::InvalidSettings(format!("the last grant for {topics} {what}")))
        };
        if state.handing.last(pattern.as_ref()).is_some() {
            return refused("is there twice");
        }
        if self.generation == 0 || self.generation > limits::GRANT_GENERATION_MAX {
            return refused("has no generation that there can be");
        }
        let (generation, key, retires) = (self.generation, KeyId::from_bytes(*self.key.0), self.retires);
        let members = self.members.into_iter().map(|member| member.0).collect();
        state.handing.put(Granted { pattern, generation, key, retires, members })
    }
}

impl Document {
    fn put(self, state: &mut State) -> BusResult<()> {
        // To forget some of them would let them come back.
        if self.retired.len() > limits::KEYRING_RETIRED {
            let what = format!("the ids of {} retired keys are remembered", limits::KEYRING_RETIRED);
            return Err(BusError::LimitReached { what });
        }
        for id in &self.retired {
            state.retire(KeyId::from_bytes(*id.0));
        }
        for pattern in &self.patterns {
            // The same checks as for a key, and none is left behind.
            let key = Key::generate()?;
            let id = key.id();
            put(state, Some(&TopicPattern::new(pattern)?), (id, Arc::new(key)), false)?;
            state.forget(id);
        }
        for entry in &self.keys {
            entry.put(state)?;
        }
        for Granter { topics, identity } in self.granters {
            let pattern = topics.map(TopicPattern::new).transpose()?;
            state.handing.pin(Pin { pattern, granter: identity.0 })?;
        }
        self.grants.into_iter().try_for_each(|last| last.put(state))
    }
}

impl Entry {
    fn put(&self, state: &mut State) -> BusResult<()> {
        let key = Key::from_bytes(*self.key.0);
        let id = key.id();
        let refused = |what: &str| Err(BusError::InvalidSettings(format!("key {id} {what}")));
        if self.id.as_ref().is_some_and(|stated| *stated.0 != id.to_bytes()) {
            return refused("is said to be another one; its digits or its id have been changed");
        }
        if state.has(id) {
            return refused("is there twice");
        }
        let pattern = self.topics.as_deref().map(TopicPattern::new).transpose()?;
        let is_sending = self.purpose == Purpose::Send;
        let mut scopes = state.scopes().iter();
        if is_sending && scopes.any(|scope| scope.pattern == pattern && scope.sending.is_some()) {
            return refused("is the second to send with for the same topics; only one can be");
        }
        put(state, pattern.as_ref(), (id, Arc::new(key)), is_sending)
    }
}

/// A pattern as TOML has it. None has control characters.
fn quoted(pattern: &TopicPattern) -> String {
    format!("\"{}\"", pattern.as_str().replace('\\', "\\\\").replace('"', "\\\""))
}
