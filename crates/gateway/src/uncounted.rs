//! The gateway's own subscriptions, which are no subscribers that a publisher is told of.
//!
//! The bus counts all subscriptions that a message matches, and so those by which the gateway itself keeps what it replays. What is
//! answered to who publishes over HTTP is that count without them. Taken off is what has been there since before the message was published
//! and still is when the bus has answered, as the bus has counted that for sure. One that begins or ends meanwhile may still be
//! in the count; it never has too few.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::task::yield_now;
use whispeer::topic::{EntryId, Scratch, TopicPattern, Trie};

/// Steps of a search between which others get their turn: less than a millisecond.
const STEPS: usize = 10_000;

/// The gateway's own subscriptions, by numbers that grow.
#[derive(Default)]
pub(crate) struct Uncounted {
    trie: RwLock<Trie<u64>>,
    last: AtomicU64,
}

/// One of them, until it is dropped; it has to be before the subscription is.
pub(crate) struct Own {
    all: Arc<Uncounted>,
    entry: Option<EntryId>,
}

/// When something was about to be published: the number of the last subscription by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun(u64);

impl Uncounted {
    /// Notes a subscription that the bus has accepted.
    pub(crate) fn insert(self: &Arc<Self>, pattern: &TopicPattern) -> Own {
        let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
        // Drawn under the lock, so that whoever has seen a number finds all up to it.
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        // The bus has a table of the same size and refuses what it has no room for.
        Own { all: Arc::clone(self), entry: trie.insert(pattern, number).ok() }
    }

    /// Something is about to be published.
    pub(crate) fn begin(&self) -> Begun {
        Begun(self.last.load(Ordering::SeqCst))
    }

    /// How many subscriptions it matched without the gateway's own, where the bus has answered `matched`.
    pub(crate) async fn take_off(&self, topic: &str, begun: Begun, matched: usize) -> usize {
        match matched {
            0 => 0,
            _ => matched.saturating_sub(self.count(topic, begun.0).await),
        }
    }

    /// How many up to this number match a message to `topic`.
    async fn count(&self, topic: &str, before: u64) -> usize {
        let read = || self.trie.read().unwrap_or_else(PoisonError::into_inner);
        let (mut scratch, mut count) = (Scratch::new(), 0);
        read().begin(topic, &mut scratch);
        loop {
            let progress = {
                let found = |number: &u64| count += usize::from(*number <= before);
                read().proceed(topic, &mut scratch, STEPS, found)
            };
            match progress {
                Ok(progress) if !progress.done => yield_now().await,
                // The bus refuses what is too wide for it, too.
                _ => return count,
            }
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.all.trie.write().unwrap_or_else(PoisonError::into_inner).remove(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(all: &Arc<Uncounted>, pattern: &str) -> Own {
        all.insert(&TopicPattern::new(pattern).unwrap())
    }

    async fn matched<T>(
        all: &Uncounted,
        topic: &str,
        matched: usize,
        meanwhile: impl FnOnce() -> T,
    ) -> usize {
        let begun = all.begin();
        drop(meanwhile());
        all.take_off(topic, begun, matched).await
    }

    #[tokio::test]
    async fn what_matches_is_taken_off_and_nothing_else() {
        let all = Arc::new(Uncounted::default());
        let _owns = ["a/b", "a/c", "d"].map(|topic| own(&all, topic));
        for (topic, expected) in [("a/b", 4), ("x", 5), ("a/*", 3), ("**", 2)] {
            assert_eq!(matched(&all, topic, 5, || ()).await, expected, "{topic}");
        }
        assert_eq!(matched(&all, "**", 0, || ()).await, 0);
    }

    #[tokio::test]
    async fn one_that_begins_or_ends_meanwhile_is_not() {
        let all = Arc::new(Uncounted::default());
        let mut begun = None;
        assert_eq!(matched(&all, "a", 5, || begun = Some(own(&all, "a"))).await, 5);
        assert_eq!(matched(&all, "a", 5, || ()).await, 4);
        assert_eq!(matched(&all, "a", 5, || begun.take()).await, 5);
        assert_eq!(matched(&all, "a", 5, || ()).await, 5);
    }
}
