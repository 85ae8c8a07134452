//! What holds for topics: which keys count, and who has to have signed.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::scope::State;
use super::signature::SignerKey;
use crate::error::{BusError, BusResult, EngineError};
use crate::limits;
use crate::topic::TopicPattern;

/// Topics that are remembered at a time, so that patterns are looked at once for each and not for each message.
const REMEMBERED: usize = 16;

/// What holds for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// The keys that count; `None` if those of no one pattern cover it.
    pub(super) scope: Option<usize>,
    /// Rules about signers that it falls under, as bits.
    pub(super) trusted: u64,
}

impl Rule {
    /// Works it out.
    pub(super) fn of(topic: &str, state: &State, trusted: &Trusted) -> Result<Self, EngineError> {
        if !state.has_patterns() && trusted.is_empty() {
            return Ok(Self { scope: Some(0), trusted: 0 });
        }
        let topic =
            TopicPattern::new(topic).map_err(|_| EngineError::Malformed { what: "its topic is none" })?;
        Ok(Self { scope: state.scope_of(&topic), trusted: trusted.rules(&topic) })
    }
}

/// Who is trusted for which topics.
#[derive(Debug, Clone, Default)]
pub(super) struct Trusted(Vec<(TopicPattern, Vec<SignerKey>)>);

// Rules are bits of one number.
const _: () = assert!(limits::TRUST_RULES <= u64::BITS as usize);

impl Trusted {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, pattern: &str, signers: Vec<SignerKey>) -> BusResult<()> {
        if self.0.len() >= limits::TRUST_RULES {
            let what = format!("there are {} rules about signers", limits::TRUST_RULES);
            return Err(BusError::LimitReached { what });
        }
        if signers.len() > limits::TRUSTED_SIGNERS {
            let what = format!("more than {} signers are trusted for one pattern", limits::TRUSTED_SIGNERS);
            return Err(BusError::LimitReached { what });
        }
        self.0.push((TopicPattern::new(pattern)?, signers));
        Ok(())
    }

    /// The rules that a topic, or anything that a pattern stands for, falls under.
    fn rules(&self, topic: &TopicPattern) -> u64 {
        let meets = self.0.iter().enumerate().filter(|(_, (pattern, _))| pattern.meets(topic));
        meets.fold(0, |rules, (index, _)| rules | 1 << index)
    }

    /// Whether all of these rules trust whoever has signed.
    pub(super) fn check(&self, rules: u64, signer: Option<SignerKey>) -> Result<(), EngineError> {
        if rules == 0 {
            return Ok(());
        }
        let Some(signer) = signer else { return Err(EngineError::NotSigned) };
        let mut asked = self.0.iter().enumerate().filter(|(index, _)| rules >> index & 1 == 1);
        match asked.all(|(_, (_, signers))| signers.contains(&signer)) {
            true => Ok(()),
            false => Err(EngineError::UntrustedSigner { signer: signer.to_string() }),
        }
    }
}

/// The rules of topics that came last. Each has one place, and the newest takes it.
#[derive(Debug, Default)]
pub(super) struct Topics([Option<(String, Rule)>; REMEMBERED]);

impl Topics {
    pub(super) fn rule(
        &mut self,
        topic: &str,
        state: &State,
        trusted: &Trusted,
    ) -> Result<Rule, EngineError> {
        if !state.has_patterns() && trusted.is_empty() {
            return Rule::of(topic, state, trusted);
        }
        let Some(place) = self.0.get_mut(place(topic)) else { return Rule::of(topic, state, trusted) };
        match place {
            Some((known, rule)) if known == topic => Ok(*rule),
            _ => {
                let rule = Rule::of(topic, state, trusted)?;
                let (text, known) = place.get_or_insert_with(|| (String::new(), rule));
                text.clear();
                text.push_str(topic);
                *known = rule;
                Ok(rule)
            }
        }
    }
}

/// Where a topic is remembered. Whoever chooses topics can make them meet there, which costs no more than not to
/// remember them.
pub(super) fn place(topic: &str) -> usize {
    usize::try_from(FixedState::default().hash_one(topic)).unwrap_or_default() % REMEMBERED
}

/// Places of [`place`].
pub(super) const PLACES: usize = REMEMBERED;
