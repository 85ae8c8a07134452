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
//! A while after the bus has accepted the subscription, all that it would not deliver has been given to the ring. When the ring has got
//! that, what is held goes out, and after it what the bus delivers, but for what came from the ring, which is remembered for long
//! enough that nothing of it is still under way. As the ring has every message of a publisher that it had before one that it has,
//! the order stays.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;
use whispeer::bus::BusView;

use super::ring::{Fed, Feed, Ring};
use crate::limits;

/// A subscription that has just begun.
pub(super) struct Joining {
    pub(super) subscription: Arc<str>,
    /// While it is served from the ring.
    feed: Option<Arc<Feed>>,
    ring: Arc<Ring>,
    /// When the next step is due: it follows the bus by itself, or need not remember any more what came from the ring.
    until: Instant,
    /// How far the ring has to have got before it follows the bus, once that is known.
    target: Option<u64>,
    /// When it no longer waits for that.
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
    pub(super) fn new(subscription: Arc<str>, ring: Arc<Ring>, feed: Arc<Feed>) -> Self {
        let now = Instant::now();
        Self {
            subscription,
            ring,
            feed: Some(feed),
            until: now + limits::POPSUB_JOIN_TIME,
            target: None,
            caught_up_by: now + limits::POPSUB_CATCH_UP_TIME,
            sent: HashMap::new(),
            sent_new: 0,
            sent_bytes: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            left: None,
        }
    }

    /// When the next step is due.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Whether it may follow the bus by itself now, where it is time to look: if not, it is looked again a moment later.
    pub(super) fn has_caught_up(&mut self, bus: &BusView) -> bool {
        let target = *self.target.get_or_insert_with(|| self.ring.matched(bus));
        let now = Instant::now();
        self.until = self.caught_up_by.min(now + limits::POPSUB_CATCH_UP_INTERVAL);
        self.ring.taken() >= target || now >= self.caught_up_by
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
            return None;
        }
        if self.feed.is_none() {
            return Some(text);
        }
        self.held_bytes += text.len();
        self.held.push_back(text);
        None
    }

    /// Lets it follow the bus by itself: what has been held goes out now. What was replayed is older than the subscription, and is no
    /// longer remembered.
    pub(super) fn follow_bus(&mut self) -> VecDeque<Bytes> {
        self.feed = None;
        self.sent.retain(|_, fed| !fed.is_replayed);
        self.remember();
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// How many messages of the bus it holds.
    pub(super) fn held(&self) -> usize {
        self.held.len()
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

    /// What came from the ring is remembered a while longer.
    pub(super) fn remember(&mut self) {
        self.until = Instant::now() + limits::POPSUB_REMEMBER_TIME;
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

    use whispeer::prelude::*;

    use super::*;

    fn taken(joining: &mut Joining) -> Vec<Bytes> {
        let next =
            |joining: &mut Joining| poll_fn(|context| joining.poll_feed(context)).now_or_never().flatten();
        std::iter::from_fn(|| next(joining)).collect()
    }

    /// A ring with these messages, and a subscription that begins now.
    fn joining(ring: &Arc<Ring>) -> Joining {
        Joining::new("chat".into(), Arc::clone(ring), ring.follow(0))
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

    /// A ring that is filled by this subscription of the bus, when the test does it.
    fn ring_of(client: &Client, subscription: &whispeer::client::Subscription<Bytes>) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(10));
        ring.set_source(client.session_id().unwrap(), subscription.id());
        ring
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_served_from_the_ring_until_that_has_what_was_published_by_then() {
        let bus = Bus::builder().start().unwrap();
        let client = Client::new_memory(&bus.connector()).unwrap();
        let subscription = client.subscribe_bytes("chat").await.unwrap();
        let (ring, begun) = (ring_of(&client, &subscription), Instant::now());
        let mut joining = joining(&ring);
        assert_eq!(joining.until(), begun + limits::POPSUB_JOIN_TIME);
        client.publish_bytes("chat", "a").await.unwrap();
        assert!(!joining.has_caught_up(&bus.view()));
        // What comes later, the bus delivers.
        client.publish_bytes("chat", "b").await.unwrap();
        ring.push(&Bytes::from_static(b"a"));
        assert!(joining.has_caught_up(&bus.view()));

        // It does not wait for ever.
        let mut late = Joining::new("chat".into(), Arc::clone(&ring), ring.follow(1));
        while !late.has_caught_up(&bus.view()) {
            tokio::time::sleep_until(late.until()).await;
        }
        assert_eq!(begun.elapsed(), limits::POPSUB_CATCH_UP_TIME);
        late.follow_bus();
        assert_eq!(late.until(), Instant::now() + limits::POPSUB_REMEMBER_TIME);
        bus.stop().await;
    }

    #[tokio::test]
    async fn what_was_replayed_is_not_remembered_when_it_follows_the_bus() {
        let ring = Arc::new(Ring::new(10));
        ring.push(&Bytes::from_static(b"old"));
        let mut joining = joining(&ring);
        ring.push(&Bytes::from_static(b"new"));
        taken(&mut joining);
        assert_eq!(joining.sent.len(), 2);
        joining.follow_bus();
        assert_eq!((joining.sent.len(), joining.sent_new), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_ring_to_get_to_where_it_begins_but_not_for_ever() {
        let ring = Arc::new(Ring::new(2));
        let [a, b, c] = ["a", "b", "c"].map(|text| Bytes::copy_from_slice(text.as_bytes()));
        ring.push(&a);
        let mut joining = Joining::new("chat".into(), Arc::clone(&ring), ring.follow(3));
        // The bus is first with what is published later.
        assert_eq!(joining.arrived(c.clone()), None);
        ring.push(&b);
        assert_eq!(taken(&mut joining), [] as [&Bytes; 0]);
        assert_eq!(joining.awaited(), Some(2));
        ring.push(&b);
        ring.push(&c);
        assert_eq!(joining.awaited(), None);
        assert_eq!(taken(&mut joining), [&b, &b, &c]);
        assert!(joining.held_bytes == 0 && joining.sent_new == 0);

        let mut late = Joining::new("chat".into(), Arc::clone(&ring), ring.follow(100));
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
