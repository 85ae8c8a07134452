//! What an engine keeps to seal with.

use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::cipher::{Algorithm, Cipher, Implementation};
use super::key::KeyId;
use super::keyring::Keyring;
use super::scope::State;
use super::topics::{PLACES, Rule, Trusted, place};
use crate::error::EngineError;
use crate::topic::TopicPattern;

/// A keyring at one time, and the ciphers that one sender has made of it.
#[derive(Debug)]
pub(super) struct Sending {
    state: Arc<State>,
    /// As many as there are scopes; each is made when it is first needed.
    ciphers: Box<[OnceLock<(KeyId, Cipher)>]>,
    /// Topics that were sent to last, and their scopes.
    topics: [ArcSwapOption<(String, Option<usize>)>; PLACES],
}

impl Sending {
    fn new(state: Arc<State>) -> Self {
        let ciphers = state.scopes().iter().map(|_| OnceLock::new()).collect();
        Self { state, ciphers, topics: Default::default() }
    }

    /// The cipher for a topic, and what its key is called.
    pub(super) fn cipher(
        &self,
        topic: &str,
        (algorithm, implementation): (Algorithm, Implementation),
        sender: &[u8; 16],
    ) -> Result<&(KeyId, Cipher), EngineError> {
        let Some(index) = self.scope(topic)? else { return Err(self.several_keys(topic)) };
        let made = self.ciphers.get(index).ok_or(EngineError::NoKey)?;
        if let Some(cipher) = made.get() {
            return Ok(cipher);
        }
        let scope = self.state.scope(index).ok_or(EngineError::NoKey)?;
        let id = scope.sending.ok_or(EngineError::NoKey)?;
        let key = self.state.key(id, Some(index))?;
        Ok(made.get_or_init(|| (id, Cipher::of_sender(algorithm, implementation, (id, key), sender))))
    }

    /// Why there is no scope for a pattern.
    #[cold]
    fn several_keys(&self, topic: &str) -> EngineError {
        let topic = TopicPattern::new(topic).ok();
        match topic.as_ref().and_then(|topic| self.state.narrower(topic)) {
            Some(narrower) => EngineError::SeveralKeys { narrower: narrower.to_string() },
            None => EngineError::NoKey,
        }
    }

    fn scope(&self, topic: &str) -> Result<Option<usize>, EngineError> {
        if !self.state.has_patterns() {
            return Ok(Some(0));
        }
        let remembered = self.topics.get(place(topic));
        if let Some(known) = remembered.map(ArcSwapOption::load).as_deref().and_then(Option::as_ref)
            && known.0 == topic
        {
            return Ok(known.1);
        }
        let scope = Rule::of(topic, &self.state, &Trusted::default())?.scope;
        if let Some(remembered) = remembered {
            remembered.store(Some(Arc::new((topic.to_owned(), scope))));
        }
        Ok(scope)
    }
}

/// What a sender seals with, which follows its keyring.
#[derive(Debug)]
pub(super) struct Current(ArcSwap<Sending>);

impl Current {
    pub(super) fn new(keyring: &Keyring) -> Self {
        Self(ArcSwap::from_pointee(Sending::new(Arc::clone(&keyring.state()))))
    }

    /// Calls `work` with what the keyring is now.
    pub(super) fn with<R>(&self, keyring: &Keyring, work: impl FnOnce(&Sending) -> R) -> R {
        let sending = self.0.load();
        if keyring.is_at(&sending.state) {
            return work(&sending);
        }
        let renewed = Arc::new(Sending::new(Arc::clone(&keyring.state())));
        // If another thread stores an older one, the next call sees that.
        self.0.store(Arc::clone(&renewed));
        work(&renewed)
    }

    /// Forgets the ciphers, as they are to be others.
    pub(super) fn reset(&self, keyring: &Keyring) {
        self.0.store(Arc::new(Sending::new(Arc::clone(&keyring.state()))));
    }
}
