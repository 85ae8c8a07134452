//! Who is subscribed by patterns, so that sessions can be counted.
//!
//! The bus counts the subscriptions that a message matches, and the dialect the sessions. Both are the same as long as
//! channels are literal, as a session subscribes to each once. Patterns may overlap, and meet several channels: where they are
//! allowed, all that sessions are subscribed to is kept here, and what one has matched more than once is taken off.

use std::sync::{PoisonError, RwLock};

use tokio::task::yield_now;
use whispeer::topic::{EntryId, Scratch, TopicPattern, Trie};

/// Steps of a search between which others get their turn: less than a millisecond.
const STEPS: usize = 10_000;

/// The channels of all sessions, where patterns are allowed.
pub(super) struct Sessions(Option<RwLock<Channels>>);

#[derive(Default)]
struct Channels {
    /// The numbers of sessions, by what they are subscribed to.
    trie: Trie<u64>,
    last: u64,
}

/// A session, until it is dropped.
pub(super) struct Counted<'a> {
    channels: Option<&'a RwLock<Channels>>,
    number: u64,
    /// What it is subscribed to. There are as few as the settings say.
    entries: Vec<(TopicPattern, EntryId)>,
}

impl Sessions {
    pub(super) fn new(patterns: bool) -> Self {
        Self(patterns.then(RwLock::default))
    }

    pub(super) fn session(&self) -> Counted<'_> {
        let channels = self.0.as_ref();
        let number = channels.map(|channels| {
            let mut channels = channels.write().unwrap_or_else(PoisonError::into_inner);
            channels.last += 1;
            channels.last
        });
        Counted { channels, number: number.unwrap_or_default(), entries: Vec::new() }
    }

    /// How many of the subscriptions that a message to this channel matches are of a session that another one of them is of.
    pub(super) async fn surplus(&self, channel: &TopicPattern) -> usize {
        let Some(channels) = &self.0 else { return 0 };
        let (mut scratch, mut found) = (Scratch::new(), Vec::new());
        channels.read().unwrap_or_else(PoisonError::into_inner).trie.begin(channel.as_str(), &mut scratch);
        loop {
            let progress = {
                let channels = channels.read().unwrap_or_else(PoisonError::into_inner);
                channels.trie.proceed(channel.as_str(), &mut scratch, STEPS, |number| found.push(*number))
            };
            match progress {
                Ok(progress) if !progress.done => yield_now().await,
                // The bus refuses what is too wide for it, too.
                _ => break,
            }
        }
        let matched = found.len();
        found.sort_unstable();
        found.dedup();
        matched - found.len()
    }
}

impl Counted<'_> {
    pub(super) fn subscribed(&mut self, channel: &TopicPattern) {
        let Some(channels) = self.channels else { return };
        let mut channels = channels.write().unwrap_or_else(PoisonError::into_inner);
        // The bus has a table of the same size and refuses what it has no room for.
        if let Ok(entry) = channels.trie.insert(channel, self.number) {
            self.entries.push((channel.clone(), entry));
        }
    }

    pub(super) fn unsubscribed(&mut self, channel: &str) {
        let Some(channels) = self.channels else { return };
        let mut channels = channels.write().unwrap_or_else(PoisonError::into_inner);
        for (_, entry) in self.entries.extract_if(.., |(own, _)| *own == *channel) {
            channels.trie.remove(entry);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let Some(channels) = self.channels else { return };
        let mut channels = channels.write().unwrap_or_else(PoisonError::into_inner);
        for (_, entry) in self.entries.drain(..) {
            channels.trie.remove(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(text: &str) -> TopicPattern {
        TopicPattern::new(text).unwrap()
    }

    #[tokio::test]
    async fn what_a_session_matches_more_than_once_is_told() {
        let sessions = Sessions::new(true);
        let (mut one, mut other) = (sessions.session(), sessions.session());
        for pattern in ["a/*", "a/**", "a/b", "c"] {
            one.subscribed(&channel(pattern));
        }
        other.subscribed(&channel("a/*"));
        assert_eq!(sessions.surplus(&channel("a/b")).await, 2);
        assert_eq!(sessions.surplus(&channel("a/x")).await, 1);
        assert_eq!(sessions.surplus(&channel("c")).await, 0);
        assert_eq!(sessions.surplus(&channel("**")).await, 3);
        one.unsubscribed("a/**");
        assert_eq!(sessions.surplus(&channel("a/b")).await, 1);
        other.subscribed(&channel("**"));
        assert_eq!(sessions.surplus(&channel("a/b")).await, 2);
        drop(one);
        assert_eq!(sessions.surplus(&channel("a/b")).await, 1);
        drop(other);
        assert_eq!(sessions.surplus(&channel("a/b")).await, 0);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_literal_channels() {
        let sessions = Sessions::new(false);
        let mut one = sessions.session();
        one.subscribed(&channel("a"));
        one.subscribed(&channel("b"));
        assert_eq!((one.entries.len(), sessions.surplus(&channel("**")).await), (0, 0));
    }
}
