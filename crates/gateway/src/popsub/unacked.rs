//! What a subscriber has been sent and has not acknowledged.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::broadcast::id_as_json;
use crate::limits;

/// Messages of one socket that it has not acknowledged, and when each is sent again.
///
/// All wait as long, so that who was sent last is due last: one queue and one timer do for all.
pub(super) struct Unacked {
    wait: Duration,
    retries: u32,
    entries: HashMap<Bytes, Entry>,
    /// By when they are due. What stands here and is not the entry's ticket any more is passed over.
    queue: VecDeque<(Bytes, u64)>,
    next_ticket: u64,
    messages: usize,
    bytes: usize,
}

struct Entry {
    ticket: u64,
    due: Instant,
    resent: u32,
    /// What it came of.
    subscription: Arc<str>,
    text: Bytes,
    /// Others that have the same id. An acknowledgement is of all of them, as it names no more than that.
    others: Vec<Bytes>,
}

impl Entry {
    fn len(&self) -> (usize, usize) {
        let others: usize = self.others.iter().map(Bytes::len).sum();
        (1 + self.others.len(), self.text.len() + others)
    }
}

/// What is due.
#[derive(Debug, PartialEq)]
pub(super) enum Due {
    /// Send these again.
    Again(Vec<Bytes>),
    /// So many were sent again as often as they are, and are given up.
    GivenUp(u64),
}

impl Unacked {
    pub(super) fn new(wait: Duration, retries: u32) -> Self {
        let (entries, queue) = (HashMap::new(), VecDeque::new());
        Self { wait, retries, entries, queue, next_ticket: 0, messages: 0, bytes: 0 }
    }

    /// Whether one more has to wait until others are acknowledged or given up.
    pub(super) fn is_full(&self) -> bool {
        self.messages >= limits::POPSUB_UNACKED || self.bytes >= limits::POPSUB_UNACKED_BYTES
    }

    /// Notes one that is sent now.
    pub(super) fn insert(&mut self, id: Bytes, subscription: &Arc<str>, text: Bytes) {
        self.messages += 1;
        self.bytes += text.len();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.others.push(text);
            return;
        }
        let (ticket, due) = (self.next_ticket, Instant::now() + self.wait);
        self.next_ticket += 1;
        let subscription = Arc::clone(subscription);
        let entry = Entry { ticket, due, resent: 0, subscription, text, others: Vec::new() };
        self.entries.insert(id.clone(), entry);
        self.enqueue(id, ticket);
    }

    /// Forgets what has this id. One that is not known, or was acknowledged before, changes nothing.
    pub(super) fn acknowledge(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(&id_as_json(id)[..]) {
            self.take_off(&entry);
        }
    }

    /// Forgets what came of a subscription that has ended.
    pub(super) fn end(&mut self, subscription: &str) {
        self.entries.retain(|_, entry| &*entry.subscription != subscription);
        let lens = self.entries.values().map(Entry::len);
        (self.messages, self.bytes) = lens.fold((0, 0), |sum, len| (sum.0 + len.0, sum.1 + len.1));
    }

    /// When something is due next.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        self.skip_stale();
        let (id, _) = self.queue.front()?;
        self.entries.get(id).map(|entry| entry.due)
    }

    /// What is due by now, one after the other.
    pub(super) fn poll_due(&mut self) -> Option<Due> {
        let now = Instant::now();
        if self.next_due()? > now {
            return None;
        }
        let (id, _) = self.queue.pop_front()?;
        let entry = self.entries.get_mut(&id)?;
        if entry.resent >= self.retries {
            let entry = self.entries.remove(&id)?;
            self.take_off(&entry);
            return Some(Due::GivenUp(entry.len().0 as u64));
        }
        entry.resent += 1;
        entry.due = now + self.wait;
        entry.ticket = self.next_ticket;
        let texts = std::iter::once(&entry.text).chain(&entry.others).cloned().collect();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.enqueue(id, ticket);
        Some(Due::Again(texts))
    }

    fn take_off(&mut self, entry: &Entry) {
        let (messages, bytes) = entry.len();
        self.messages -= messages;
        self.bytes -= bytes;
    }

    fn enqueue(&mut self, id: Bytes, ticket: u64) {
        // What is acknowledged in time would otherwise stay until it would have been due.
        if self.queue.len() > 2 * self.entries.len() + 32 {
            self.queue
                .retain(|(id, ticket)| self.entries.get(id).is_some_and(|entry| entry.ticket == *ticket));
        }
        self.queue.push_back((id, ticket));
    }

    fn skip_stale(&mut self) {
        while let Some((id, ticket)) = self.queue.front()
            && self.entries.get(id).is_none_or(|entry| entry.ticket != *ticket)
        {
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    fn insert(unacked: &mut Unacked, id: &str) {
        unacked.insert(id_as_json(id).into(), &"chat".into(), id.to_owned().into());
    }

    fn due(unacked: &mut Unacked) -> Vec<Due> {
        std::iter::from_fn(|| unacked.poll_due()).collect()
    }

    fn again(text: &str) -> Due {
        Due::Again(vec![text.to_owned().into()])
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acknowledged_is_sent_again_so_many_times_and_then_given_up() {
        let mut unacked = Unacked::new(WAIT, 2);
        insert(&mut unacked, "1");
        advance(WAIT / 2).await;
        insert(&mut unacked, "2");
        assert_eq!(due(&mut unacked), []);
        advance(WAIT / 2).await;
        assert_eq!(due(&mut unacked), [again("1")]);
        unacked.acknowledge("2");
        advance(WAIT).await;
        assert_eq!(due(&mut unacked), [again("1")]);
        advance(WAIT).await;
        assert_eq!(due(&mut unacked), [Due::GivenUp(1)]);
        assert_eq!(unacked.next_due(), None);
        assert_eq!((unacked.messages, unacked.bytes), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_is_of_its_id_alone_and_harmless_where_there_is_none() {
        let mut unacked = Unacked::new(WAIT, 1);
        insert(&mut unacked, "1");
        insert(&mut unacked, "\"");
        unacked.acknowledge("\"");
        unacked.acknowledge("\"");
        unacked.acknowledge("3");
        advance(WAIT).await;
        assert_eq!(due(&mut unacked), [again("1")]);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_of_one_id_are_acknowledged_and_sent_again_together() {
        let mut unacked = Unacked::new(WAIT, 1);
        insert(&mut unacked, "1");
        insert(&mut unacked, "1");
        advance(WAIT).await;
        assert_eq!(due(&mut unacked), [Due::Again(vec!["1".into(), "1".into()])]);
        unacked.acknowledge("1");
        advance(WAIT).await;
        assert_eq!(due(&mut unacked), []);
        assert_eq!((unacked.messages, unacked.bytes), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn it_has_bounds_and_does_not_grow_with_what_was_acknowledged() {
        let mut unacked = Unacked::new(WAIT, 1);
        for number in 0..limits::POPSUB_UNACKED {
            assert!(!unacked.is_full());
            insert(&mut unacked, &number.to_string());
        }
        assert!(unacked.is_full());
        unacked.acknowledge("7");
        assert!(!unacked.is_full());
        unacked.end("chat");
        for number in 0..10_000 {
            insert(&mut unacked, &number.to_string());
            unacked.acknowledge(&number.to_string());
        }
        assert!(unacked.queue.len() < 64);
        unacked.insert("\"1\"".into(), &"chat".into(), vec![0; limits::POPSUB_UNACKED_BYTES].into());
        assert!(unacked.is_full());
        unacked.end("others");
        assert!(unacked.is_full());
        unacked.end("chat");
        assert!(!unacked.is_full() && unacked.next_due().is_none());
    }
}
