//! How somebody who subscribes gets from what was there to what comes, with no message twice, none missing and none before another.
//!
//! What comes from the bus, and the ring of the topic, are two subscriptions. Each has the messages of one publisher in their
//! order, but those of several may be in another order in each; and a message that is under way while somebody subscribes may be
//! in the ring alone, and get there later than what already comes. So a subscription is served from the ring when it has begun: what is
//! there, and what comes there. What the bus delivers meanwhile is compared with that by its identity:
//!
//! - what has come from the ring is passed over when the bus delivers it;
//! - what has not is held, and passed over when it comes from the ring.
//!
//! The ring may be behind the bus. So it is asked of the bus, before the subscription begins, how much its ring has been delivered
//! by then, and what is replayed are the last messages when the ring has got so far: no more than it keeps. Where that takes
//! too long, nothing is replayed, which is counted.
//!
//! The first message that comes both ways shows that the ring has got to where the subscription began. A moment after it, nothing is
//! under way that the bus would not deliver. What is held goes out then, and after it what the bus delivers, but for what came from
//! the ring. As the ring has every message of a publisher that it had before one that it has, the order stays.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;

use super::ring::{Fed, Feed};
use crate::limits;

/// A subscription that has just begun.
pub(super) struct Joining {
    pub(super) subscription: Arc<str>,
    /// While it is served from the ring.
    feed: Option<Arc<Feed>>,
    /// When the next step is due: it follows the bus by itself, or need not remember any more what came from the ring. There is none
    /// before a message has come both ways.
    until: Option<Instant>,
    /// When it no longer waits for the ring to get to where it begins.
    caught_up_by: Instant,
    /// What came from the ring and not yet from the bus. It is kept, so that nothing else lies in its place.
    sent: HashMap<usize, Fed>,
    /// So many of these were not replayed: those are as few as the ring keeps.
    sent_new: usize,
    sent_bytes: usize,
    /// What came from the bus and not yet from the ring.
    held: VecDeque<Bytes>,
    held_bytes: usize,
    /// Messages that the bus had delivered when it could not deliver any more of what came from the ring, and that are not taken
    /// yet; `None` before.
    left: Option<u64>,
}

/// Where it lies, which no other message shares while it is there.
fn place(text: &Bytes) -> usize {
    text.as_ptr() as usize
}

impl Joining {
    /// Begins when the bus has accepted the subscription; the feed has begun before.
    pub(super) fn new(subscription: Arc<str>, feed: Arc<Feed>) -> Self {
        Self {
            subscription,
            feed: Some(feed),
            until: None,
            caught_up_by: Instant::now() + limits::POPSUB_CATCH_UP_TIME,
            sent: HashMap::new(),
            sent_new: 0,
            sent_bytes: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            left: None,
        }
    }

    /// When it can go on by itself, or end.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until.or_else(|| self.awaited().map(|_| self.caught_up_by))
    }

    /// How many messages it would be replayed if the ring had got to where it begins; `None` where it has, or is no longer followed.
    pub(super) fn awaited(&self) -> Option<u64> {
        self.feed.as_ref()?.awaited()
    }

    /// What comes from the ring, to be sent; `None` when nothing more comes that way, which is told once.
    pub(super) fn poll_feed(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(feed) = &self.feed else { return Poll::Pending };
        let Some(Fed { text, is_replayed }) = ready!(feed.poll_next(context)) else {
            self.feed = None;
            return Poll::Ready(None);
        };
        if let Some(index) = self.held.iter().position(|held| place(held) == place(&text)) {
            self.held.remove(index);
            self.held_bytes -= text.len();
            self.came_both_ways();
        } else {
            self.sent.insert(place(&text), Fed { text: text.clone(), is_replayed });
            if !is_replayed {
                self.sent_new += 1;
                self.sent_bytes += text.len();
            }
        }
        Poll::Ready(Some(text))
    }

    /// What the bus has delivered: given back if it is to be sent now.
    pub(super) fn arrived(&mut self, text: Bytes) -> Option<Bytes> {
        self.left = self.left.map(|left| left.saturating_sub(1));
        if let Some(Fed { is_replayed, .. }) = self.sent.remove(&place(&text)) {
            if !is_replayed {
                self.sent_new -= 1;
                self.sent_bytes -= text.len();
            }
            self.came_both_ways();
            return None;
        }
        if self.feed.is_none() {
            return Some(text);
        }
        self.held_bytes += text.len();
        self.held.push_back(text);
        None
    }

    /// Lets it follow the bus by itself: what has been held goes out now.
    pub(super) fn follow_bus(&mut self) -> VecDeque<Bytes> {
        self.feed = None;
        self.prolong();
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// Whether it is still served from the ring.
    pub(super) fn is_fed(&self) -> bool {
        self.feed.is_some()
    }

    /// Whether so much is held, or remembered, that it cannot be served from the ring any longer: that, or the bus, is far behind.
    pub(super) fn is_full(&self) -> bool {
        let (messages, bytes) = (self.held.len().max(self.sent_new), self.held_bytes.max(self.sent_bytes));
        self.is_fed() && (messages >= limits::POPSUB_FEED_MESSAGES || bytes >= limits::POPSUB_FEED_BYTES)
    }

    /// It stays as it is a while longer.
    pub(super) fn prolong(&mut self) {
        self.until = Some(Instant::now() + limits::POPSUB_JOIN_TIME);
    }

    fn came_both_ways(&mut self) {
        if self.until.is_none() {
            self.prolong();
        }
    }

    /// Whether what came from the ring need not be remembered any more, since the bus has delivered all that it delivers of it and
    /// that was taken; `pending` is how many messages of it are not.
    pub(super) fn is_done(&mut self, pending: u64) -> bool {
        *self.left.get_or_insert(pending) == 0
    }
}

/// What comes from the ring for any of those that are joining; it waits for ever where there is none.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(super) async fn fed(joinings: &mut [Joining]) -> (usize, Option<Bytes>) {
    poll_fn(|context| {
        for (index, joining) in joinings.iter_mut().enumerate() {
            if let Poll::Ready(text) = joining.poll_feed(context) {
                return Poll::Ready((index, text));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::ring::Ring;
    use super::*;

    fn taken(joining: &mut Joining) -> Vec<Bytes> {
        let next =
            |joining: &mut Joining| poll_fn(|context| joining.poll_feed(context)).now_or_never().flatten();
        std::iter::from_fn(|| next(joining)).collect()
    }

    /// A ring with these messages, and a subscription that begins now.
    fn joining(ring: &Arc<Ring>) -> Joining {
        Joining::new("chat".into(), ring.follow(0))
    }

    #[tokio::test]
    async fn what_came_from_the_ring_is_passed_over_when_the_bus_delivers_it() {
        let ring = Arc::new(Ring::new(10));
        let [a, b, c] = ["a", "b", "c"].map(|text| Bytes::copy_from_slice(text.as_bytes()));
        ring.push(&a);
        let mut joining = joining(&ring);
        ring.push(&b);
        assert_eq!(taken(&mut joining), [&a, &b]);
        assert_eq!(joining.arrived(b), None);
        // The bus is first with this one, and with what is the same text but another message.
        assert_eq!(joining.arrived(c.clone()), None);
        ring.push(&c);
        assert_eq!(taken(&mut joining), [&c]);
        assert_eq!(joining.arrived(Bytes::copy_from_slice(b"c")), None);
        assert_eq!(joining.follow_bus(), ["c"]);
        assert_eq!(joining.arrived("d".into()), Some("d".into()));
    }

    #[tokio::test]
    async fn what_came_from_the_ring_is_passed_over_also_when_it_follows_the_bus() {
        let ring = Arc::new(Ring::new(10));
        let mut joining = joining(&ring);
        let (late, held) = (Bytes::copy_from_slice(b"late"), Bytes::copy_from_slice(b"held"));
        ring.push(&late);
        assert_eq!(taken(&mut joining), [&late]);
        assert_eq!(joining.arrived(held.clone()), None);
        ring.end();
        assert_eq!(joining.follow_bus(), [held]);
        assert!(!joining.is_fed());
        // Two are not taken yet when the bus has delivered all that came from the ring; that others come then does not matter.
        assert!(!joining.is_done(2));
        assert_eq!(joining.arrived(late), None);
        assert!(!joining.is_done(7));
        assert_eq!(joining.arrived("new".into()), Some("new".into()));
        assert!(joining.is_done(7));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_served_from_the_ring_until_a_while_after_a_message_has_come_both_ways() {
        let ring = Arc::new(Ring::new(10));
        let [a, b] = ["a", "b"].map(|text| Bytes::copy_from_slice(text.as_bytes()));
        for is_first in [true, false] {
            let mut joining = joining(&ring);
            ring.push(&a);
            taken(&mut joining);
            assert_eq!(joining.arrived(b.clone()), None);
            assert_eq!(joining.until(), None);
            if is_first {
                assert_eq!(joining.arrived(a.clone()), None);
            } else {
                ring.push(&b);
                taken(&mut joining);
            }
            assert_eq!(joining.until(), Some(Instant::now() + limits::POPSUB_JOIN_TIME));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_ring_to_get_to_where_it_begins_but_not_for_ever() {
        let ring = Arc::new(Ring::new(2));
        let [a, b, c] = ["a", "b", "c"].map(|text| Bytes::copy_from_slice(text.as_bytes()));
        ring.push(&a);
        let begun = Instant::now();
        let mut joining = Joining::new("chat".into(), ring.follow(3));
        // The bus is first with what is published later.
        assert_eq!(joining.arrived(c.clone()), None);
        ring.push(&b);
        assert_eq!(taken(&mut joining), [] as [&Bytes; 0]);
        let most = begun + limits::POPSUB_CATCH_UP_TIME;
        assert_eq!((joining.awaited(), joining.until()), (Some(2), Some(most)));
        ring.push(&b);
        ring.push(&c);
        assert_eq!(joining.awaited(), None);
        assert_eq!(taken(&mut joining), [&b, &b, &c]);
        assert!(joining.until() < Some(most) && joining.held_bytes == 0 && joining.sent_new == 0);

        let mut late = Joining::new("chat".into(), ring.follow(100));
        assert_eq!(late.arrived(c.clone()), None);
        assert_eq!(late.follow_bus(), [c]);
        assert_eq!((late.is_fed(), late.awaited()), (false, None));
    }

    #[tokio::test]
    async fn so_many_bytes_are_held_or_remembered_and_then_it_goes_on_by_itself() {
        let ring = Arc::new(Ring::new(10));
        let large = || Bytes::from(vec![0; limits::POPSUB_FEED_BYTES / 4]);
        let (mut holds, mut remembers) = (joining(&ring), joining(&ring));
        for _ in 0..4 {
            assert!(!holds.is_full() && !remembers.is_full());
            assert_eq!(holds.arrived(large()), None);
            ring.push(&large());
            taken(&mut remembers);
        }
        assert!(holds.is_full() && remembers.is_full());
        assert_eq!(holds.follow_bus().len(), 4);
        assert!(!holds.is_full() && holds.held_bytes == 0);
        // What was replayed is bounded by what the ring keeps.
        let mut replayed = joining(&ring);
        assert_eq!(taken(&mut replayed).len(), 4);
        assert!(!replayed.is_full() && replayed.sent_bytes == 0);
    }

    #[tokio::test]
    async fn so_many_are_held_and_then_it_goes_on_by_itself() {
        let ring = Arc::new(Ring::new(10));
        let mut joining = joining(&ring);
        for number in 0..limits::POPSUB_FEED_MESSAGES {
            assert!(!joining.is_full());
            joining.arrived(number.to_string().into());
        }
        assert!(joining.is_full());
    }
}
