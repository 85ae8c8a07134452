//! What readers of streams have in memory: how much they may read, and what counts of it.
//!
//! A reader reads what its subscription has credit for, and keeps nothing while it waits for credit or room on the link: so
//! subscriptions that take nothing cost nothing, however many there are. What it has in its hands counts in the byte budget and in its
//! session's part of it. Where one of these is spent it reads one message at a time, so that everybody goes on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::bus::budget::Share;
use crate::bus::session::Session;
use crate::proto::Credit;
use crate::store::{Message, Page, Reading};

/// Bytes that a reader has in its hands, or has asked a store for. They are given back when it is dropped.
pub(super) struct Held {
    session: Arc<Session>,
    bytes: usize,
    share: Share,
}

impl Held {
    /// Room for what is to be read, which is made smaller where there is less.
    pub(super) fn reserve(session: &Arc<Session>, reading: &mut Reading) -> Self {
        let mut held = Self { session: Arc::clone(session), bytes: 0, share: Share::default() };
        let budget = session.budget();
        let left = if budget.is_spent() {
            0
        } else {
            budget.per_session().saturating_sub(session.read_bytes.load(Ordering::Relaxed))
        };
        // One message is read in any case.
        reading.bytes = reading.bytes.min(left as u64).max(1);
        held.follow(usize::try_from(reading.bytes).unwrap_or(usize::MAX));
        held
    }

    /// It has these messages now.
    pub(super) fn take(&mut self, page: &Page) {
        self.follow(page.messages.iter().map(size).sum());
    }

    fn follow(&mut self, bytes: usize) {
        let counter = &self.session.read_bytes;
        if bytes > self.bytes {
            counter.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            counter.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        self.share.follow(bytes, self.session.budget());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.follow(0);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Held").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Bytes that a message takes of the memory.
pub(super) fn size(message: &Message) -> usize {
    let content = message.topic.as_str().len() + message.fields.len() + message.payload.len();
    size_of::<Message>() + content
}

/// No more than there is credit for. There has to be some.
pub(super) fn within(reading: &mut Reading, credit: Credit) {
    reading.messages = reading.messages.min(usize::try_from(credit.messages).unwrap_or(0)).max(1);
    reading.bytes = reading.bytes.min(u64::try_from(credit.bytes).unwrap_or(0)).max(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn what_readers_hold_is_bounded_by_their_sessions_part_and_counts_until_it_is_dropped() {
        let (session, _peer) = Session::alone(1);
        let budget = session.shared_budget();
        let reading = || Reading::from(1, 0);
        let mut held = Vec::new();
        let part = budget.per_session() as u64;
        for _ in 0..100 {
            let mut reading = reading();
            held.push(Held::reserve(&session, &mut reading));
            assert!(reading.bytes >= 1, "everybody goes on");
        }
        let bytes: u64 = held.iter().map(|held| held.bytes as u64).sum();
        assert!((part..part + 100).contains(&bytes), "{bytes} of {part}");
        assert!(budget.used() as u64 >= part);
        drop(held);
        assert_eq!((budget.used(), session.read_bytes.load(Ordering::Relaxed)), (0, 0));
        let mut reading = reading();
        let _held = Held::reserve(&session, &mut reading);
        assert_eq!(reading.bytes, limits::STORE_PAGE_BYTES.min(part));
    }
}
