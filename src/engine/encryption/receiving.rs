//! What an engine keeps in the memory of a receiver.

use std::sync::Arc;

use super::cipher::Cipher;
use super::keyring::Keyring;
use super::scope::State;
use super::senders::{Recent, Source, Windows};
use super::topics::{Rule, Topics};
use crate::error::EngineError;
use crate::limits;

/// Of all engines that the receiver has; it is one, most often.
#[derive(Debug, Default)]
pub(super) struct Receivings(Vec<Receiving>);

/// Of one engine.
#[derive(Debug)]
pub(super) struct Receiving {
    /// The sender id of the engine, which no other has.
    owner: [u8; 16],
    /// The keyring as it was when it was last looked at.
    pub(super) state: Arc<State>,
    /// Topics that came last.
    topics: Topics,
    /// Made of a key for a sender; costly to make again.
    pub(super) ciphers: Recent<Source, Cipher>,
    /// What has come of messages that come once each.
    pub(super) windows: Windows,
}

impl Receivings {
    /// What the engine of this id keeps, up to date with its keyring.
    pub(super) fn of(&mut self, owner: &[u8; 16], keyring: &Keyring) -> &mut Receiving {
        let index = self.0.iter().position(|kept| kept.owner == *owner).unwrap_or_else(|| {
            self.0.push(Receiving {
                owner: *owner,
                state: Arc::clone(&keyring.state()),
                topics: Topics::default(),
                ciphers: Recent::new(limits::ENCRYPTION_CIPHERS),
                windows: Windows::new(),
            });
            self.0.len() - 1
        });
        let receiving = &mut self.0[index];
        if !keyring.is_at(&receiving.state) {
            let state = Arc::clone(&keyring.state());
            receiving.state = Arc::clone(&state);
            receiving.topics = Topics::default();
            // Keys that nobody may use any more are not kept.
            receiving.ciphers.retain(|source| state.has(source.key));
            receiving.windows.retain(|source| state.has(source.key));
        }
        receiving
    }
}

impl Receiving {
    /// What holds for a topic.
    pub(super) fn rule(
        &mut self,
        topic: &str,
        trusted: &super::topics::Trusted,
    ) -> Result<Rule, EngineError> {
        self.topics.rule(topic, &self.state, trusted)
    }
}
