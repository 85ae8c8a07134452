//! Messages that are published twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::limits;

/// What users publish, and have published lately, with an id of their own.
///
/// A publish has no answer in this dialect, so that a client whose connection breaks says it again. It is the same if user,
/// topic, id and payload are: clients that count from 1 each time they begin publish something else.
///
/// ```text
///          begin             was_published
/// (new) ──────────► under way ────────────► published ──► forgotten, by number and time
///   ▲                   │ dropped
///   └───────────────────┘
/// ```
///
/// Only what is published makes another one a duplicate. Who says again what is under way, as over another connection, waits
/// for what becomes of that, and publishes it himself if it was not.
#[derive(Debug)]
pub(super) struct Recent {
    keys: RandomState,
    users: Mutex<HashMap<String, OfUser>>,
}

#[derive(Debug, Default)]
struct OfUser {
    /// What is under way: of each connection one message at the most. Who waits for one sees that its sender is gone.
    under_way: HashMap<u64, watch::Sender<()>>,
    published: HashSet<u64>,
    /// What was published, the oldest first.
    order: VecDeque<(Instant, u64)>,
}

/// Why a message is not to be published now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeated {
    /// It was.
    Published,
    /// It still is being published, and the time to wait for that is over.
    UnderWay,
}

/// A message that is being published by whoever has this. When it is dropped, and that was not told to
/// [have happened](Self::was_published), the message is as new.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    recent: &'a Recent,
    user: &'a str,
    message: u64,
    is_published: bool,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { keys: RandomState::new(), users: Mutex::default() }
    }

    /// Begins to publish a message. Where the same is under way, it first waits for what becomes of that, for
    /// [`limits::POPSUB_UNDER_WAY_TIME`] at the most.
    ///
    /// # Cancel safety
    /// Nothing stays when the future is dropped.
    pub(super) async fn begin<'a>(
        &'a self,
        user: &'a str,
        topic: &str,
        id: &str,
        payload: &[u8],
    ) -> Result<Begun<'a>, Repeated> {
        let message = self.keys.hash_one((topic, id, payload));
        let until = Instant::now() + limits::POPSUB_UNDER_WAY_TIME;
        loop {
            let mut other = match self.find_or_begin(user, message)? {
                None => return Ok(Begun { recent: self, user, message, is_published: false }),
                Some(other) => other,
            };
            // It never changes, but ends.
            if timeout_at(until, other.changed()).await.is_err() {
                return Err(Repeated::UnderWay);
            }
        }
    }

    /// Begins, unless another one is at it, whose end can be waited for then.
    fn find_or_begin(&self, user: &str, message: u64) -> Result<Option<watch::Receiver<()>>, Repeated> {
        let mut users = self.lock();
        if !users.contains_key(user) {
            // No more of them than may log in.
            users.insert(user.to_owned(), OfUser::default());
        }
        let Some(of_user) = users.get_mut(user) else { return Ok(None) };
        of_user.forget_old();
        if of_user.published.contains(&message) {
            return Err(Repeated::Published);
        }
        if let Some(other) = of_user.under_way.get(&message) {
            return Ok(Some(other.subscribe()));
        }
        of_user.under_way.insert(message, watch::channel(()).0);
        Ok(None)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OfUser>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfUser {
    fn forget_old(&mut self) {
        let now = Instant::now();
        while self
            .order
            .front()
            .is_some_and(|(published, _)| now.duration_since(*published) >= limits::POPSUB_RECENT_TIME)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.order.pop_front() {
            self.published.remove(&oldest);
        }
    }

    fn note(&mut self, message: u64) {
        if self.order.len() >= limits::POPSUB_RECENT {
            self.forget_oldest();
        }
        if self.published.insert(message) {
            self.order.push_back((Instant::now(), message));
        }
    }
}

impl Begun<'_> {
    pub(super) fn was_published(mut self) {
        self.is_published = true;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let mut users = self.recent.lock();
        let Some(of_user) = users.get_mut(self.user) else { return };
        if self.is_published {
            of_user.note(self.message);
        }
        of_user.under_way.remove(&self.message);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    /// Publishes it at once, if it is new.
    fn publish(recent: &Recent, user: &str, topic: &str, id: &str, payload: &str) -> bool {
        let begun = recent.begin(user, topic, id, payload.as_bytes()).now_or_never();
        begun.expect("nothing is under way").map(Begun::was_published).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_message_of_a_user_is_known_for_a_while() {
        let recent = Recent::new();
        assert!(publish(&recent, "alice", "chat", "1", "hi"));
        assert!(!publish(&recent, "alice", "chat", "1", "hi"));
        assert!(publish(&recent, "bob", "chat", "1", "hi"));
        assert!(publish(&recent, "alice", "news", "1", "hi"));
        assert!(publish(&recent, "alice", "chat", "2", "hi"));
        assert!(publish(&recent, "alice", "chat", "1", "ho"));
        advance(limits::POPSUB_RECENT_TIME).await;
        assert!(publish(&recent, "alice", "chat", "1", "hi"));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_remembered_and_the_oldest_goes_first() {
        let recent = Recent::new();
        let publish = |id: usize| publish(&recent, "alice", "chat", &id.to_string(), "");
        assert!((0..=limits::POPSUB_RECENT).all(publish));
        assert!(!publish(1));
        assert!(!publish(limits::POPSUB_RECENT));
        assert!(publish(0));
        let users = recent.lock();
        assert!(users["alice"].published.len() <= limits::POPSUB_RECENT);
        assert!(users["alice"].under_way.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_published_can_be_published_again() {
        let recent = Recent::new();
        // As where its publisher's connection ends before it is published.
        drop(recent.begin("alice", "chat", "1", b"").await.unwrap());
        assert!(publish(&recent, "alice", "chat", "1", ""));
        assert!(!publish(&recent, "alice", "chat", "1", ""));
        assert_eq!(recent.lock()["alice"].order.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_again_what_is_under_way_waits_for_what_becomes_of_it() {
        let recent = Recent::new();
        let begin = || recent.begin("alice", "chat", "1", b"");
        let first = begin().await.unwrap();
        let (mut second, mut third) = (Box::pin(begin()), Box::pin(begin()));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        // The first fails: one of the others publishes it, and the last one need not.
        drop(first);
        let second = second.await.unwrap();
        assert!((&mut third).now_or_never().is_none());
        second.was_published();
        assert_eq!(third.await.unwrap_err(), Repeated::Published);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_waited_for_for_so_long_and_never_forgotten() {
        let recent = Recent::new();
        let first = recent.begin("alice", "chat", "first", b"").await.unwrap();
        let begun = Instant::now();
        assert_eq!(recent.begin("alice", "chat", "first", b"").await.unwrap_err(), Repeated::UnderWay);
        assert_eq!(begun.elapsed(), limits::POPSUB_UNDER_WAY_TIME);
        advance(limits::POPSUB_RECENT_TIME).await;
        for id in 0..=limits::POPSUB_RECENT {
            assert!(publish(&recent, "alice", "chat", &id.to_string(), ""));
        }
        assert!(recent.begin("alice", "chat", "first", b"").now_or_never().is_none());
        first.was_published();
        assert!(!publish(&recent, "alice", "chat", "first", ""));
    }
}
