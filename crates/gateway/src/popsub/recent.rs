//! Messages that were published twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::limits;

/// What users have published lately with an id of their own.
///
/// A publish has no answer in this dialect, so that a client whose connection breaks says it again. It is the same if user,
/// topic, id and payload are: clients that count from 1 each time they begin publish something else.
pub(super) struct Recent {
    keys: RandomState,
    users: Mutex<HashMap<String, OfUser>>,
}

#[derive(Default)]
struct OfUser {
    known: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<(Instant, u64)>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { keys: RandomState::new(), users: Mutex::default() }
    }

    /// Notes a message; `None` if it was there already. What comes back undoes it.
    pub(super) fn note(&self, user: &str, topic: &str, id: &str, payload: &[u8]) -> Option<u64> {
        let message = self.keys.hash_one((topic, id, payload));
        let mut users = self.lock();
        if !users.contains_key(user) {
            // No more of them than may log in.
            users.insert(user.to_owned(), OfUser::default());
        }
        let now = Instant::now();
        let of_user = users.get_mut(user)?;
        while of_user
            .order
            .front()
            .is_some_and(|(noted, _)| now.duration_since(*noted) >= limits::POPSUB_RECENT_TIME)
        {
            of_user.forget_oldest();
        }
        if !of_user.known.insert(message) {
            return None;
        }
        if of_user.order.len() >= limits::POPSUB_RECENT {
            of_user.forget_oldest();
        }
        of_user.order.push_back((now, message));
        Some(message)
    }

    /// It was not published after all.
    pub(super) fn undo(&self, user: &str, message: u64) {
        if let Some(of_user) = self.lock().get_mut(user) {
            of_user.known.remove(&message);
            of_user.order.retain(|(_, noted)| *noted != message);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OfUser>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfUser {
    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.order.pop_front() {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_message_of_a_user_is_known_for_a_while() {
        let recent = Recent::new();
        let note =
            |user, topic, id, payload: &str| recent.note(user, topic, id, payload.as_bytes()).is_some();
        assert!(note("alice", "chat", "1", "hi"));
        assert!(!note("alice", "chat", "1", "hi"));
        assert!(note("bob", "chat", "1", "hi"));
        assert!(note("alice", "news", "1", "hi"));
        assert!(note("alice", "chat", "2", "hi"));
        assert!(note("alice", "chat", "1", "ho"));
        advance(limits::POPSUB_RECENT_TIME).await;
        assert!(note("alice", "chat", "1", "hi"));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_remembered_and_the_oldest_goes_first() {
        let recent = Recent::new();
        let note = |id: usize| recent.note("alice", "chat", &id.to_string(), b"").is_some();
        assert!((0..=limits::POPSUB_RECENT).all(note));
        assert!(!note(1));
        assert!(!note(limits::POPSUB_RECENT));
        assert!(note(0));
        assert!(recent.lock()["alice"].known.len() <= limits::POPSUB_RECENT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_published_can_be_published_again() {
        let recent = Recent::new();
        let noted = recent.note("alice", "chat", "1", b"").unwrap();
        recent.undo("alice", noted);
        assert!(recent.note("alice", "chat", "1", b"").is_some());
        assert_eq!(recent.lock()["alice"].order.len(), 1);
    }
}
