//! The keys that somebody has.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::key::{Key, KeyId};
use super::key_file::check_size;
use super::scope::State;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

/// Keys that a group shares: for all topics, and for the topics of patterns.
///
/// Of all patterns that cover a topic the narrowest counts, in whatever order they were given: the one with most
/// literals, of these the one with most `*`. Only its keys encrypt and open what is sent there. What is published to a
/// pattern needs keys of a pattern that contains it, and that no narrower one meets.
///
/// A keyring is shared by its clones and changes while it is in use: what is sealed or opened after a change knows it.
/// It is never printed, and keys are overwritten when the last one lets go of them.
///
/// # Examples
/// ```
/// use whispeer::engine::encryption::{Key, Keyring};
///
/// # fn main() -> whispeer::BusResult<()> {
/// let keyring = Keyring::new();
/// let old = keyring.rotate_for("orders/**", Key::generate()?)?;
/// let new = keyring.rotate_for("orders/**", Key::generate()?)?;
/// // What was encrypted before can still be read, until
/// keyring.retire(old)?;
/// assert_eq!(keyring.keys().len(), 1);
/// assert!(keyring.keys().iter().all(|entry| entry.id == new && entry.is_sending));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Keyring(Arc<Shared>);

#[derive(Default)]
struct Shared {
    current: ArcSwap<State>,
    /// The generation of what is there: whoever has that need not look.
    generation: AtomicU64,
    /// Held by those who change it, one at a time. Those who read it never wait for them.
    changing: Mutex<()>,
}

/// A key of a [`Keyring`], without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyEntry {
    /// What it is called.
    pub id: KeyId,
    /// The topics that it is for; `None` for all that no pattern of the keyring is for.
    pub pattern: Option<TopicPattern>,
    /// Whether it encrypts what is sent there, or only opens what arrives.
    pub is_sending: bool,
}

impl Keyring {
    /// A keyring without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A keyring with one key, for all topics.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub fn with(key: Key) -> BusResult<Self> {
        let keyring = Self::new();
        keyring.rotate(key)?;
        Ok(keyring)
    }

    /// Encrypts with this key from now on, where no pattern is for the topic. The one before only opens what arrives, until
    /// it is [retired](Self::retire).
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for a key that has been retired or is for other topics, and
    /// [`BusError::LimitReached`] for more than [`limits::KEYRING_KEYS`] keys.
    pub fn rotate(&self, key: Key) -> BusResult<KeyId> {
        self.put(None, key, true)
    }

    /// [`rotate`](Self::rotate) for the topics of a pattern.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate); [`BusError::InvalidTopic`] for a pattern that is none, and
    /// [`BusError::LimitReached`] for more than [`limits::KEYRING_PATTERNS`] of them.
    pub fn rotate_for(&self, pattern: &str, key: Key) -> BusResult<KeyId> {
        self.put(Some(&TopicPattern::new(pattern)?), key, true)
    }

    /// Opens with this key, too, what arrives where no pattern is for the topic. So all can have a new key before the
    /// first one encrypts with it.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub fn add(&self, key: Key) -> BusResult<KeyId> {
        self.put(None, key, false)
    }

    /// [`add`](Self::add) for the topics of a pattern.
    ///
    /// # Errors
    /// As [`rotate_for`](Self::rotate_for).
    pub fn add_for(&self, pattern: &str, key: Key) -> BusResult<KeyId> {
        self.put(Some(&TopicPattern::new(pattern)?), key, false)
    }

    /// Encrypts with a key from now on that the keyring has already: one that was [added](Self::add), or an older one.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if the keyring does not have it.
    pub fn send_with(&self, id: KeyId) -> BusResult<()> {
        self.change(|state| {
            let Some(scope) = state.scope_with(id) else {
                let what = match state.is_retired(id) {
                    true => format!("key {id} has been retired; take a new one"),
                    false => format!("key {id} is not in the keyring, so nothing can be sent with it"),
                };
                return Err(BusError::InvalidSettings(what));
            };
            let pattern = scope.pattern.clone();
            state.scope_for(pattern.as_ref()).sending = Some(id);
            Ok(())
        })
    }

    /// Takes a key out: nothing is encrypted or opened with it any more. Its id is remembered, and it does not come back.
    ///
    /// The topics of its pattern do not fall back to other keys: without one to encrypt with, sending there fails.
    /// [`limits::KEYRING_RETIRED`] ids are remembered.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if the keyring does not have it and never had.
    pub fn retire(&self, id: KeyId) -> BusResult<()> {
        self.change(|state| {
            if !state.has(id) && !state.is_retired(id) {
                let what = format!("key {id} is not in the keyring, so it cannot be retired");
                return Err(BusError::InvalidSettings(what));
            }
            state.retire(id);
            Ok(())
        })
    }

    /// The keys, without the secrets.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyEntry> {
        let state = self.state();
        let entries = state.scopes().iter().flat_map(|scope| {
            scope.keys.iter().map(|(id, _)| KeyEntry {
                id: *id,
                pattern: scope.pattern.clone(),
                is_sending: scope.sending == Some(*id),
            })
        });
        entries.collect()
    }

    /// The ids of keys that were retired, the oldest first.
    #[must_use]
    pub fn retired(&self) -> Vec<KeyId> {
        self.state().retired().collect()
    }

    /// What it is now.
    pub(super) fn state(&self) -> Guard<Arc<State>> {
        self.0.current.load()
    }

    /// Whether this is what it is now.
    pub(super) fn is_at(&self, state: &State) -> bool {
        self.0.generation.load(Ordering::Acquire) == state.generation
    }

    fn put(&self, pattern: Option<&TopicPattern>, key: Key, is_sending: bool) -> BusResult<KeyId> {
        let id = key.id();
        self.change(|state| {
            put(state, pattern, (id, Arc::new(key)), is_sending)?;
            check_size(state)?;
            Ok(id)
        })
    }

    /// Changes it as a whole or, if that fails, not at all.
    pub(super) fn change<R, E>(&self, change: impl FnOnce(&mut State) -> Result<R, E>) -> Result<R, E> {
        let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.state());
        let changed = change(&mut state)?;
        state.generation += 1;
        // First this: whoever has seen the new keyring does not go on with the one before. Who comes in between finds that
        // one outdated, and takes it once more.
        self.0.generation.store(state.generation, Ordering::Release);
        self.0.current.store(Arc::new(state));
        Ok(changed)
    }
}

/// Puts a key into its scope.
pub(super) fn put(
    state: &mut State,
    pattern: Option<&TopicPattern>,
    (id, key): (KeyId, Arc<Key>),
    is_sending: bool,
) -> BusResult<()> {
    let refused = |what: &str| Err(BusError::InvalidSettings(format!("key {id} {what}")));
    if state.is_retired(id) {
        return refused("has been retired; take a new one");
    }
    if pattern.is_some_and(TopicPattern::is_reserved) {
        return refused("is for topics of the bus, which are never encrypted");
    }
    let elsewhere = state.scope_with(id).is_some_and(|scope| scope.pattern.as_ref() != pattern);
    if elsewhere {
        return refused("is in the keyring for other topics; each key is for one pattern");
    }
    if !state.has(id) && state.key_count() >= limits::KEYRING_KEYS {
        let what = format!("the keyring has {} keys; retire some", limits::KEYRING_KEYS);
        return Err(BusError::LimitReached { what });
    }
    let is_new = state.scopes().iter().all(|scope| scope.pattern.as_ref() != pattern);
    if is_new && state.scopes().len() > limits::KEYRING_PATTERNS {
        let what = format!("the keyring has keys for {} patterns", limits::KEYRING_PATTERNS);
        return Err(BusError::LimitReached { what });
    }
    let scope = state.scope_for(pattern);
    if scope.keys.iter().all(|(other, _)| *other != id) {
        scope.keys.push((id, key));
    }
    if is_sending {
        scope.sending = Some(id);
    }
    state.index();
    Ok(())
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keyring").field("keys", &self.keys()).finish_non_exhaustive()
    }
}
