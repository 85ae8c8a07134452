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
/// All wait as long, so that who was sent last is due last: one queue and one timer do for all. Each message has its own schedule
/// and topic; only an acknowledgement goes by the id, and is of all that have it, as it names no more than that.
pub(super) struct Unacked {
    wait: Duration,
    retries: u32,
    /// By their numbers, which are never used again.
    messages: HashMap<u64, Message>,
    by_id: HashMap<Bytes, Vec<u64>>,
    /// By when they are due, with how often each had been sent again by then. What is no longer so is passed over.
    queue: VecDeque<(u64, u32)>,
    next_number: u64,
    bytes: usize,
}

struct Message {
    id: Bytes,
    due: Instant,
    resent: u32,
    /// What it came of.
    subscription: Arc<str>,
    text: Bytes,
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
        Self {
            wait,
            retries,
            messages: HashMap::new(),
            by_id: HashMap::new(),
            queue: VecDeque::new(),
            next_number: 0,
            bytes: 0,
        }
    }

    /// Whether one more has to wait until others are acknowledged or given up.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= limits::POPSUB_UNACKED || self.bytes >= limits::POPSUB_UNACKED_BYTES
    }

    /// Notes one that is sent now.
    pub(super) fn insert(&mut self, id: Bytes, subscription: &Arc<str>, text: Bytes) {
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += text.len();
        self.by_id.entry(id.clone()).or_default().push(number);
        let (due, subscription) = (Instant::now() + self.wait, Arc::clone(subscription));
        self.messages.insert(number, Message { id, due, resent: 0, subscription, text });
        self.enqueue(number, 0);
    }

    /// Forgets what has this id. One that is not known, or was acknowledged before, changes nothing.
    pub(super) fn acknowledge(&mut self, id: &str) {
        for number in self.by_id.remove(&id_as_json(id)[..]).unwrap_or_default() {
            if let Some(message) = self.messages.remove(&number) {
                self.bytes -= message.text.len();
            }
        }
    }

    /// Forgets what came of a subscription that has ended.
    pub(super) fn end(&mut self, subscription: &str) {
        self.messages.retain(|_, message| &*message.subscription != subscription);
        self.by_id.retain(|_, numbers| {
            numbers.retain(|number| self.messages.contains_key(number));
            !numbers.is_empty()
        });
        self.bytes = self.messages.values().map(|message| message.text.len()).sum();
    }

    /// When something is due next.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        while let Some((number, resent)) = self.queue.front() {
            match self.messages.get(number) {
                Some(message) if message.resent == *resent => return Some(message.due),
                _ => self.queue.pop_front(),
            };
        }
        None
    }

    /// What is due by now, in its order: all up to the first that is given up where others are sent again, or the reverse.
    pub(super) fn poll_due(&mut self) -> Option<Due> {
        let now = Instant::now();
        let (mut again, mut given_up) = (Vec::new(), 0);
        while self.next_due().is_some_and(|due| due <= now)
            && let Some((number, _)) = self.queue.front().copied()
            && let Some(message) = self.messages.get_mut(&number)
        {
            let is_over = message.resent >= self.retries;
            let is_other = if is_over { !again.is_empty() } else { given_up > 0 };
            if is_other {
                break;
            }
            self.queue.pop_front();
            if is_over {
                self.give_up(number);
                given_up += 1;
            } else {
                message.resent += 1;
                message.due = now + self.wait;
                again.push(message.text.clone());
                let resent = message.resent;
                self.enqueue(number, resent);
            }
        }
        match given_up {
            0 if again.is_empty() => None,
            0 => Some(Due::Again(again)),
            count => Some(Due::GivenUp(count)),
        }
    }

    fn give_up(&mut self, number: u64) {
        let Some(message) = self.messages.remove(&number) else { return };
        self.bytes -= message.text.len();
        if let Some(numbers) = self.by_id.get_mut(&message.id) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_id.remove(&message.id);
            }
        }
    }

    fn enqueue(&mut self, number: u64, resent: u32) {
        // What is acknowledged in time would otherwise stay until it would have been due.
        if self.queue.len() > 2 * self.messages.len() + 32 {
            let messages = &self.messages;
            self.queue.retain(|(number, resent)| {
                messages.get(number).is_some_and(|message| message.resent == *resent)
            });
        }
        self.queue.push_back((number, resent));
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
        assert_eq!((unacked.messages.len(), unacked.bytes), (0, 0));
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
        assert_eq!((unacked.messages.len(), unacked.bytes), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn each_message_of_an_id_has_a_schedule_and_a_topic_of_its_own() {
        let mut unacked = Unacked::new(WAIT, 1);
        insert(&mut unacked, "1");
        advance(WAIT).await;
        assert_eq!(due(&mut unacked), [again("1")]);
        advance(WAIT / 2).await;
        unacked.insert(id_as_json("1").into(), &"other".into(), "later".into());
        advance(WAIT / 2).await;
        assert_eq!(due(&mut unacked), [Due::GivenUp(1)]);
        unacked.end("chat");
        advance(WAIT / 2).await;
        assert_eq!(due(&mut unacked), [again("later")]);
        unacked.acknowledge("1");
        assert_eq!((unacked.messages.len(), unacked.bytes, unacked.by_id.len()), (0, 0, 0));
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
