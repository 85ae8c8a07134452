//! Who may hand keys over, what was handed over last, and to whom.

use super::fingerprint::Fingerprint;
use super::grant::Terms;
use super::identity::PublicIdentity;
use super::key::KeyId;
use super::refusal::GrantError;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

/// A granter whose grants are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pin {
    /// The topics whose keys it may hand out, and those of all narrower patterns; `None` for all that there are.
    pub pattern: Option<TopicPattern>,
    /// Who it is.
    pub granter: PublicIdentity,
}

/// The last grant for some topics that a keyring has taken or made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantEntry {
    /// The topics; `None` for all that no pattern is for.
    pub pattern: Option<TopicPattern>,
    /// Its number among all for these topics.
    pub generation: u64,
    /// The key that it was of.
    pub key: KeyId,
    /// Those whom this keyring has granted it to. Empty in the keyring of whoever has only taken it.
    pub members: Vec<PublicIdentity>,
}

/// What a keyring knows of grants.
#[derive(Debug, Clone, Default)]
pub(super) struct Handing {
    pins: Vec<Pin>,
    granted: Vec<Granted>,
}

/// The last grant for some topics.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) pattern: Option<TopicPattern>,
    pub(super) generation: u64,
    pub(super) key: KeyId,
    /// Whether it had all other keys retired. What is granted of this key later does, too: somebody may get only that.
    pub(super) retires: bool,
    /// In the order of their fingerprints.
    pub(super) members: Vec<PublicIdentity>,
}

impl Handing {
    pub(super) fn pins(&self) -> &[Pin] {
        &self.pins
    }

    pub(super) fn granted(&self) -> &[Granted] {
        &self.granted
    }

    /// The identity of these bytes, if it may hand out keys of these topics.
    pub(super) fn granter(
        &self,
        identity: &[u8; PublicIdentity::LEN],
        pattern: Option<&TopicPattern>,
    ) -> Option<PublicIdentity> {
        let pin = self.pins.iter().find(|pin| pin.covers(pattern) && pin.granter.to_bytes() == *identity);
        pin.map(|pin| pin.granter)
    }

    pub(super) fn pin(&mut self, pin: Pin) -> BusResult<()> {
        if pin.pattern.as_ref().is_some_and(TopicPattern::is_reserved) {
            let what = "nobody hands out keys for topics of the bus, which are never encrypted";
            return Err(BusError::InvalidSettings(what.to_owned()));
        }
        if self.pins.contains(&pin) {
            return Ok(());
        }
        if self.pins.len() >= limits::KEYRING_PINS {
            let what = format!("the keyring has {} pins; unpin some", limits::KEYRING_PINS);
            return Err(BusError::LimitReached { what });
        }
        self.pins.push(pin);
        Ok(())
    }

    pub(super) fn unpin(&mut self, pattern: Option<&TopicPattern>, granter: &Fingerprint) -> BusResult<()> {
        let before = self.pins.len();
        self.pins.retain(|pin| pin.pattern.as_ref() != pattern || pin.granter.fingerprint() != *granter);
        if self.pins.len() == before {
            let topics = pattern.map_or("all topics".to_owned(), |pattern| format!("\"{pattern}\""));
            let what = format!("{granter} is not pinned for {topics}, so it cannot be unpinned");
            return Err(BusError::InvalidSettings(what));
        }
        Ok(())
    }

    /// Forgets what was granted for a pattern.
    pub(super) fn forget(&mut self, pattern: &TopicPattern) {
        self.granted.retain(|granted| granted.pattern.as_ref() != Some(pattern));
    }

    /// Whether a grant comes after all that there were for its topics. If not, it is the last one.
    pub(super) fn is_next(&self, terms: &Terms) -> Result<bool, GrantError> {
        let (generation, pattern) = (terms.generation, terms.pattern.clone());
        let last = self.last(terms.pattern.as_ref());
        let highest = last.map_or(0, |last| last.generation);
        if generation.saturating_sub(highest) > limits::GRANT_LEAP {
            return Err(GrantError::TooFarAhead { generation, last: highest, pattern });
        }
        let Some(last) = last else { return Ok(true) };
        if generation < last.generation {
            return Err(GrantError::RolledBack { generation, last: last.generation, pattern });
        }
        if generation > last.generation {
            return Ok(true);
        }
        // The flag of a grant stays with its key, so that the same grant has the same.
        match terms.key == last.key && terms.retires == last.retires {
            true => Ok(false),
            false => Err(GrantError::Conflict { generation, key: terms.key, taken: last.key, pattern }),
        }
    }

    pub(super) fn last(&self, pattern: Option<&TopicPattern>) -> Option<&Granted> {
        self.granted.iter().find(|granted| granted.pattern.as_ref() == pattern)
    }

    /// Puts down the last grant for its topics, in place of the one before.
    pub(super) fn put(&mut self, mut granted: Granted) -> BusResult<()> {
        let full = |what: String| Err(BusError::LimitReached { what });
        granted.members.sort_by_cached_key(PublicIdentity::fingerprint);
        granted.members.dedup();
        if granted.members.len() > limits::GRANT_RECIPIENTS {
            return full(format!("a grant has at most {} recipients", limits::GRANT_RECIPIENTS));
        }
        self.granted.retain(|other| other.pattern != granted.pattern);
        let others = self.granted.iter().map(|other| other.members.len()).sum::<usize>();
        if granted.members.len() + others > limits::KEYRING_MEMBERS {
            return full(format!("a keyring has at most {} members in all", limits::KEYRING_MEMBERS));
        }
        // As many as there can be patterns with keys, and one for all other topics.
        if self.granted.len() > limits::KEYRING_PATTERNS {
            return full(format!("the keyring has taken grants for {} patterns", limits::KEYRING_PATTERNS));
        }
        self.granted.push(granted);
        Ok(())
    }
}

impl Granted {
    /// What the last grant becomes with this one.
    pub(super) fn after(last: Option<&Self>, terms: &Terms) -> Self {
        let same_key = last.filter(|last| last.key == terms.key);
        Self {
            pattern: terms.pattern.clone(),
            generation: terms.generation,
            key: terms.key,
            retires: terms.retires || same_key.is_some_and(|last| last.retires),
            members: last.map(|last| last.members.clone()).unwrap_or_default(),
        }
    }
}

impl Pin {
    /// Whether it is for all of these topics.
    pub(super) fn covers(&self, pattern: Option<&TopicPattern>) -> bool {
        self.pattern.as_ref().is_none_or(|own| pattern.is_some_and(|other| own.contains(other)))
    }
}
