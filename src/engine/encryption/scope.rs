//! Which keys are for which topics.

use std::cmp::{Ordering, Reverse};
use std::collections::VecDeque;
use std::sync::Arc;

use super::handing::Handing;
use super::key::{Key, KeyId};
use crate::error::EngineError;
use crate::limits;
use crate::topic::TopicPattern;

/// All of a keyring at one time. Nothing of it ever changes: a keyring that does has another one.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Which of all that this keyring has had it is.
    pub(super) generation: u64,
    /// The first is for all topics that no other is for. The others are in the order of [`narrowness`].
    scopes: Vec<Scope>,
    /// All keys, by their id.
    places: Vec<(KeyId, Place)>,
    /// The oldest first.
    retired: VecDeque<KeyId>,
    pub(super) handing: Handing,
}

/// The keys for some topics.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// `None` for all that no pattern is for.
    pub(super) pattern: Option<TopicPattern>,
    pub(super) keys: Vec<(KeyId, Arc<Key>)>,
    /// The one to encrypt with.
    pub(super) sending: Option<KeyId>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    scope: usize,
    key: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            generation: 0,
            scopes: vec![Scope::default()],
            places: Vec::new(),
            retired: VecDeque::new(),
            handing: Handing::default(),
        }
    }
}

impl State {
    pub(super) fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    pub(super) fn scope(&self, index: usize) -> Option<&Scope> {
        self.scopes.get(index)
    }

    pub(super) fn retired(&self) -> impl Iterator<Item = KeyId> {
        self.retired.iter().copied()
    }

    /// Whether topics matter at all.
    pub(super) fn has_patterns(&self) -> bool {
        self.scopes.len() > 1
    }

    /// The keys that count for a topic or pattern: those of the narrowest pattern that covers it. `None` if a still
    /// narrower one covers some of it.
    pub(super) fn scope_of(&self, topic: &TopicPattern) -> Option<usize> {
        for (index, scope) in self.scopes.iter().enumerate().skip(1) {
            let Some(pattern) = &scope.pattern else { continue };
            if pattern.contains(topic) {
                return Some(index);
            }
            if pattern.meets(topic) {
                return None;
            }
        }
        Some(0)
    }

    /// The narrower pattern for which there is no [`scope_of`](Self::scope_of) a pattern.
    pub(super) fn narrower(&self, topic: &TopicPattern) -> Option<&TopicPattern> {
        let patterns = self.scopes.iter().filter_map(|scope| scope.pattern.as_ref());
        patterns.into_iter().find(|pattern| pattern.meets(topic) && !pattern.contains(topic))
    }

    /// The key of this id, if it is for topics of this scope.
    pub(super) fn key(&self, id: KeyId, scope: Option<usize>) -> Result<&Key, EngineError> {
        let Some(place) = self.place(id) else {
            let key = id.to_string();
            return Err(match self.is_retired(id) {
                true => EngineError::RetiredKey { key },
                false => EngineError::UnknownKey { key },
            });
        };
        let key = self.scopes.get(place.scope).and_then(|scope| scope.keys.get(place.key));
        match key.filter(|_| scope == Some(place.scope)) {
            Some((_, key)) => Ok(key),
            None => Err(EngineError::KeyOutOfScope { key: id.to_string() }),
        }
    }

    pub(super) fn has(&self, id: KeyId) -> bool {
        self.place(id).is_some()
    }

    pub(super) fn is_retired(&self, id: KeyId) -> bool {
        self.retired.contains(&id)
    }

    /// The scope that a key is in.
    pub(super) fn scope_with(&self, id: KeyId) -> Option<&Scope> {
        self.scopes.get(self.place(id)?.scope)
    }

    fn place(&self, id: KeyId) -> Option<Place> {
        let index = self.places.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.places.get(index).map(|(_, place)| *place)
    }

    pub(super) fn key_count(&self) -> usize {
        self.places.len()
    }

    /// The keys of a pattern, which are none yet if it is new.
    pub(super) fn scope_for(&mut self, pattern: Option<&TopicPattern>) -> &mut Scope {
        let index =
            self.scopes.iter().position(|scope| scope.pattern.as_ref() == pattern).unwrap_or_else(|| {
                let new = Scope { pattern: pattern.cloned(), ..Scope::default() };
                let at = self.scopes.partition_point(|scope| order(scope, &new) == Ordering::Less);
                self.scopes.insert(at, new);
                at
            });
        &mut self.scopes[index]
    }

    /// Takes a key out, but not the pattern that it is for.
    pub(super) fn forget(&mut self, id: KeyId) {
        for scope in &mut self.scopes {
            scope.keys.retain(|(other, _)| *other != id);
            scope.sending = scope.sending.filter(|sending| *sending != id);
        }
        self.index();
    }

    /// Takes a pattern out that has no keys.
    pub(super) fn forget_pattern(&mut self, pattern: &TopicPattern) {
        self.scopes.retain(|scope| scope.pattern.as_ref() != Some(pattern) || !scope.keys.is_empty());
        self.index();
    }

    /// Takes a key out for good.
    pub(super) fn retire(&mut self, id: KeyId) {
        self.forget(id);
        if !self.is_retired(id) {
            self.retired.push_back(id);
        }
        while self.retired.len() > limits::KEYRING_RETIRED {
            self.retired.pop_front();
        }
    }

    /// Takes all keys of a pattern out for good but this one, and returns which.
    pub(super) fn retire_others(&mut self, pattern: Option<&TopicPattern>, kept: KeyId) -> Vec<KeyId> {
        let scope = self.scopes.iter().find(|scope| scope.pattern.as_ref() == pattern);
        let keys = scope.map(|scope| scope.keys.as_slice()).unwrap_or_default();
        let others: Vec<_> = keys.iter().map(|(id, _)| *id).filter(|id| *id != kept).collect();
        others.iter().for_each(|id| self.retire(*id));
        others
    }

    /// The key that encrypts what is sent to the topics of exactly this pattern.
    pub(super) fn sending(&self, pattern: Option<&TopicPattern>) -> Option<(KeyId, Arc<Key>)> {
        let scope = self.scopes.iter().find(|scope| scope.pattern.as_ref() == pattern)?;
        let id = scope.sending?;
        scope.keys.iter().find(|(other, _)| *other == id).cloned()
    }

    /// Enters where the keys are, after all that changes it.
    pub(super) fn index(&mut self) {
        self.places.clear();
        for (scope, keys) in self.scopes.iter().enumerate() {
            let places = keys.keys.iter().enumerate().map(|(key, (id, _))| (*id, Place { scope, key }));
            self.places.extend(places);
        }
        self.places.sort_unstable_by_key(|(id, _)| *id);
    }
}

/// That of all topics first, then the narrower before the wider.
fn order(one: &Scope, other: &Scope) -> Ordering {
    let key =
        |scope: &Scope| scope.pattern.as_ref().map(|pattern| (narrowness(pattern), pattern.to_string()));
    key(one).cmp(&key(other))
}

/// Orders patterns so that none comes behind one that it lies within, whatever order they were given in: every member of
/// a group has to arrive at the same key.
///
/// A pattern within another has at least its literals, in the same order. With no more of them it has at least its `*`
/// between any two; and with no more of these, a `**` at most where the other one has it, too.
fn narrowness(pattern: &TopicPattern) -> (Reverse<usize>, Reverse<usize>, usize) {
    let (mut literals, mut ones, mut gaps) = (0, 0, 0);
    let mut is_open = false;
    for fragment in pattern.fragments() {
        match fragment {
            "**" => {
                gaps += usize::from(!is_open);
                is_open = true;
            }
            "*" => ones += 1,
            _ => {
                literals += 1;
                is_open = false;
            }
        }
    }
    (Reverse(literals), Reverse(ones), gaps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = TopicPattern> {
        let fragment = prop_oneof![3 => "[ab]", 1 => Just("*".to_owned()), 1 => Just("**".to_owned())];
        prop::collection::vec(fragment, 0..6)
            .prop_map(|fragments| TopicPattern::new(fragments.join("/")).unwrap())
    }

    proptest! {
        #[test]
        fn no_pattern_comes_behind_one_that_it_lies_within(one in pattern(), other in pattern()) {
            if one.contains(&other) && !other.contains(&one) {
                prop_assert!(narrowness(&other) < narrowness(&one), "{} lies within {}", other, one);
            }
        }
    }

    #[test]
    fn the_narrowest_pattern_counts_and_nothing_reaches_into_a_narrower_one() {
        for order in [["a/**", "a/b/**"], ["a/b/**", "a/**"]] {
            let mut state = State::default();
            for text in order {
                state.scope_for(Some(&TopicPattern::new(text).unwrap()));
            }
            let scope = |text: &str| {
                let index = state.scope_of(&TopicPattern::new(text).unwrap())?;
                Some(state.scopes[index].pattern.as_ref().map(ToString::to_string).unwrap_or_default())
            };
            assert_eq!(scope("a/b/c").as_deref(), Some("a/b/**"));
            assert_eq!(scope("a/c").as_deref(), Some("a/**"));
            assert_eq!(scope("a/c/*").as_deref(), Some("a/**"));
            assert_eq!(scope("c").as_deref(), Some(""));
            assert_eq!(scope("a/**"), None);
            assert_eq!(scope("**"), None);
        }
    }
}
