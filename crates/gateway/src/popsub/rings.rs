//! The rings of all topics that clients of this dialect use.
//!
//! A topic has a ring from when somebody is about to subscribe to it or to publish on it, and keeps it if the bus allowed that. The
//! gateway fills it by a subscription of its own, so that it has what other clients of the bus publish, too. How many there are, and
//! how many bytes they keep, is bounded; what has not been used for the longest time goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use whispeer::auth::Principal;
use whispeer::client::{Event, Policy, SubscribeOptions, Subscription};
use whispeer::proto::Content;
use whispeer::transport::Peer;
use whispeer::{BusResult, Client};

use super::NAME;
use super::broadcast::broadcast;
use super::ring::{Feed, Ring};
use crate::limits;
use crate::settings::PopSub;
use crate::shared::Shared;

pub(super) struct Rings {
    /// How many messages a ring keeps.
    replay: usize,
    replay_of: HashMap<String, usize>,
    most: usize,
    most_tentative: usize,
    most_bytes: i64,
    /// What all of them keep. It may be off for a moment, as rings and it change one after the other.
    bytes: AtomicI64,
    clock: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    rings: HashMap<Arc<str>, Slot>,
    /// Those that stay, in the order in which they are looked at when one has to go, and when each was used by then.
    hand: VecDeque<(u64, Arc<str>)>,
    /// How many have not been allowed yet.
    tentative: usize,
    /// The gateway's own session, by which rings are filled.
    client: Option<Client>,
}

struct Slot {
    ring: Arc<Ring>,
    ready: watch::Receiver<bool>,
    /// Somebody was allowed to subscribe or to publish there.
    stays: bool,
    /// Who is about to.
    users: usize,
    _filler: Filler,
}

/// Who fills a ring, until this is dropped.
struct Filler(JoinHandle<()>);

impl Drop for Filler {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A ring for somebody who is about to subscribe or to publish there. It goes when nobody was allowed to.
pub(super) struct Opened {
    shared: Arc<Shared>,
    topic: Arc<str>,
    pub(super) ring: Arc<Ring>,
}

/// What it would take to begin a ring.
enum Lacks {
    Room,
    /// The gateway's own session.
    Client,
}

impl Rings {
    pub(super) fn new(settings: &PopSub) -> Self {
        Self {
            replay: settings.replay,
            replay_of: settings.replay_of.iter().cloned().collect(),
            most: limits::POPSUB_RINGS,
            most_tentative: limits::POPSUB_RINGS_TENTATIVE,
            most_bytes: i64::try_from(settings.replay_bytes).unwrap_or(i64::MAX),
            bytes: AtomicI64::new(0),
            clock: AtomicU64::new(0),
            inner: Mutex::default(),
        }
    }

    /// The ring of a topic, which has all that is published from now on. `None` if none is kept: its replay is set to 0, or, which is
    /// counted, there are too many that wait to be allowed, or the bus does not let it be filled.
    ///
    /// # Cancel safety
    /// Nothing stays when the future is dropped.
    pub(super) async fn open(shared: &Arc<Shared>, topic: &str) -> Option<Opened> {
        let rings = &shared.popsub.as_ref()?.rings;
        let capacity = rings.replay_of.get(topic).copied().unwrap_or(rings.replay);
        if capacity == 0 || rings.most_bytes == 0 {
            return None;
        }
        let opened = rings.begun(shared, topic, capacity).await;
        if opened.is_none() {
            shared.metrics.refused(NAME, "replay");
        }
        opened
    }

    async fn begun(&self, shared: &Arc<Shared>, topic: &str, capacity: usize) -> Option<Opened> {
        let mut client = self.client();
        let (opened, mut ready) = loop {
            match self.find_or_begin(shared, topic, capacity, client.as_ref()) {
                Ok(found) => break found,
                Err(Lacks::Room) => return None,
                Err(Lacks::Client) => {
                    let joined = self.join(shared).await;
                    joined.as_ref().err().inspect(|error| tracing::warn!(%error, "nothing is replayed"));
                    client = Some(joined.ok()?);
                }
            }
        };
        let is_ready = ready.wait_for(|is_ready| *is_ready).await.is_ok();
        is_ready.then_some(opened)
    }

    /// The gateway's own session, if there is one that has not ended.
    fn client(&self) -> Option<Client> {
        self.lock().client.as_ref().filter(|client| client.close_reason().is_none()).cloned()
    }

    /// Begins the gateway's own session, unless somebody else has meanwhile.
    async fn join(&self, shared: &Shared) -> BusResult<Client> {
        // It reads what those may read that are served from it, each of whom the bus has allowed it.
        let link = shared.link(Peer::new(Principal::Bus, "popsub").uncounted()).await?;
        let mut inner = self.lock();
        if let Some(client) = inner.client.as_ref().filter(|client| client.close_reason().is_none()) {
            return Ok(client.clone());
        }
        let client = shared.join(link, "popsub replay")?;
        Ok(inner.client.insert(client).clone())
    }

    fn find_or_begin(
        &self,
        shared: &Arc<Shared>,
        topic: &str,
        capacity: usize,
        client: Option<&Client>,
    ) -> Result<(Opened, watch::Receiver<bool>), Lacks> {
        let mut inner = self.lock();
        if !inner.rings.contains_key(topic) {
            if inner.tentative >= self.most_tentative {
                return Err(Lacks::Room);
            }
            let client = client.ok_or(Lacks::Client)?.clone();
            let topic: Arc<str> = topic.into();
            let ring = Arc::new(Ring::new(capacity));
            let (begun, ready) = watch::channel(false);
            let filled = fill(Arc::downgrade(shared), client, Arc::clone(&topic), Arc::clone(&ring), begun);
            let filler = Filler(tokio::spawn(filled));
            let slot = Slot { ring, ready, stays: false, users: 0, _filler: filler };
            inner.rings.insert(topic, slot);
            inner.tentative += 1;
        }
        let topic = inner.rings.get_key_value(topic).map(|(topic, _)| Arc::clone(topic));
        let topic = topic.ok_or(Lacks::Room)?;
        let slot = inner.rings.get_mut(&topic).ok_or(Lacks::Room)?;
        slot.users += 1;
        slot.ring.touch(self.tick());
        let ready = slot.ready.clone();
        Ok((Opened { shared: Arc::clone(shared), topic, ring: Arc::clone(&slot.ring) }, ready))
    }

    /// Lets a ring stay, as its topic is one that clients use.
    fn stays(&self, topic: &Arc<str>) {
        let mut inner = self.lock();
        let Some(slot) = inner.rings.get_mut(topic).filter(|slot| !slot.stays) else { return };
        slot.stays = true;
        let used = slot.ring.used();
        inner.tentative -= 1;
        inner.hand.push_back((used, Arc::clone(topic)));
        if inner.hand.len() > self.most
            && let Some(oldest) = inner.least_used()
        {
            self.remove(&mut inner, &oldest);
        }
    }

    /// Somebody who was about to use a ring is done with that.
    fn leave(&self, topic: &Arc<str>, ring: &Arc<Ring>) {
        let mut inner = self.lock();
        let Some(slot) = inner.rings.get_mut(topic).filter(|slot| Arc::ptr_eq(&slot.ring, ring)) else {
            return;
        };
        slot.users -= 1;
        if slot.users == 0 && !slot.stays {
            self.remove(&mut inner, topic);
        }
    }

    /// Ends one that is not in the hand.
    fn remove(&self, inner: &mut Inner, topic: &Arc<str>) {
        let Some(slot) = inner.rings.remove(topic) else { return };
        if !slot.stays {
            inner.tentative -= 1;
        }
        self.add_bytes(0, slot.ring.end());
    }

    /// Counts what a ring keeps more and less, and lets rings that were not used for long forget until the budget is kept.
    fn add_bytes(&self, more: usize, less: usize) -> i64 {
        let change = signed(more) - signed(less);
        self.bytes.fetch_add(change, Ordering::Relaxed) + change
    }

    fn shrink(&self) {
        let mut inner = self.lock();
        // Each is passed over once if it was used since, and then again for each message that it has.
        let mut steps = 2 * inner.hand.len();
        while self.bytes.load(Ordering::Relaxed) > self.most_bytes && steps > 0 {
            let Some(topic) = inner.least_used() else { return };
            let Some(slot) = inner.rings.get(&topic) else { continue };
            let mut is_over = true;
            while is_over && let Some(less) = slot.ring.forget_oldest() {
                is_over = self.add_bytes(0, less) > self.most_bytes;
            }
            let used = slot.ring.used();
            inner.hand.push_back((used, topic));
            steps -= 1;
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes out of the hand the ring that has not been used for about the longest time.
    fn least_used(&mut self) -> Option<Arc<str>> {
        loop {
            let (used, topic) = self.hand.pop_front()?;
            match self.rings.get(&topic).map(|slot| slot.ring.used()) {
                Some(later) if later > used => self.hand.push_back((later, topic)),
                _ => return Some(topic),
            }
        }
    }
}

impl Opened {
    /// What the ring has when it has got all that the bus has given it by now, and what comes then.
    pub(super) fn follow(&self) -> Arc<Feed> {
        self.ring.follow(self.ring.matched(&self.shared.bus))
    }

    /// The bus has allowed it.
    pub(super) fn stays(&self) {
        if let Some(popsub) = &self.shared.popsub {
            popsub.rings.stays(&self.topic);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(popsub) = &self.shared.popsub {
            popsub.rings.leave(&self.topic, &self.ring);
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Fills a ring until the bus or the gateway ends.
async fn fill(
    shared: Weak<Shared>,
    client: Client,
    topic: Arc<str>,
    ring: Arc<Ring>,
    begun: watch::Sender<bool>,
) {
    // What is older than what it keeps need not wait.
    let messages =
        u32::try_from(ring.capacity()).unwrap_or(u32::MAX).clamp(limits::POPSUB_RING_WINDOW, 1 << 20);
    let options = SubscribeOptions::default()
        .policy(Policy::DropOldest)
        .window(messages, limits::POPSUB_RING_WINDOW_BYTES);
    match client.subscribe_content_with(&topic, options).await {
        Ok(subscription) => {
            if let Some(session) = client.session_id() {
                ring.set_source(session, subscription.id());
            }
            // From here on it keeps the session by itself.
            drop(client);
            begun.send_replace(true);
            take_all(&shared, subscription, &ring).await;
        }
        Err(error) => tracing::warn!(%error, "a topic of the dialect of PopSub has no replay"),
    }
    drop(begun);
    if let Some(popsub) = shared.upgrade().as_ref().and_then(|shared| shared.popsub.as_ref()) {
        let mut inner = popsub.rings.lock();
        if inner.rings.get(&topic).is_some_and(|slot| Arc::ptr_eq(&slot.ring, &ring)) {
            inner.hand.retain(|(_, other)| *other != topic);
            popsub.rings.remove(&mut inner, &topic);
        }
    }
}

async fn take_all(shared: &Weak<Shared>, mut subscription: Subscription<Arc<Content>>, ring: &Ring) {
    loop {
        let event = subscription.next_event().await;
        let Some(shared) = shared.upgrade() else { return };
        let Some(popsub) = &shared.popsub else { return };
        match event {
            Some(Event::Message(message)) => {
                ring.touch(popsub.rings.tick());
                let (more, less) = ring.push(&broadcast(&shared, &popsub.ids, &message));
                if popsub.rings.add_bytes(more, less) > popsub.rings.most_bytes {
                    popsub.rings.shrink();
                }
            }
            Some(Event::Gap { count, .. }) => {
                popsub.rings.add_bytes(0, ring.lose(count));
                shared.metrics.dropped("popsub", "replay", count);
            }
            // Content is as it comes; and an event that is not known yet is one that was missed.
            Some(_) => {
                popsub.rings.add_bytes(0, ring.lose(1));
                shared.metrics.dropped("popsub", "undecodable", 1);
            }
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use tokio::sync::watch;
    use whispeer::prelude::*;

    use super::*;
    use crate::Settings;
    use crate::gateway::Phase;

    /// Rings in these tests, and as many that are tentative.
    const MOST: usize = 50;

    fn shared(bus: &BusHandle) -> Arc<Shared> {
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
        let mut popsub = PopSub::new("a key that is long enough for HS256", Vec::new());
        popsub.replay_of = vec![("none".into(), 0)];
        settings.popsub = Some(popsub);
        let (listen, phase) = (settings.listen.clone(), watch::channel(Phase::Running).1);
        let mut shared = Shared::new(bus.view(), settings, &listen, phase).unwrap();
        let rings = &mut shared.popsub.as_mut().unwrap().rings;
        (rings.most, rings.most_tentative) = (MOST, MOST);
        Arc::new(shared)
    }

    fn kept(shared: &Shared) -> (usize, usize, i64) {
        let rings = &shared.popsub.as_ref().unwrap().rings;
        let inner = rings.lock();
        assert_eq!(inner.rings.len(), inner.hand.len() + inner.tentative);
        (inner.hand.len(), inner.tentative, rings.bytes.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_ring_stays_if_somebody_was_allowed_to_use_its_topic() {
        let bus = Bus::builder().start().unwrap();
        let shared = shared(&bus);
        let (one, other) =
            (Rings::open(&shared, "a").await.unwrap(), Rings::open(&shared, "a").await.unwrap());
        assert!(Arc::ptr_eq(&one.ring, &other.ring));
        drop(one);
        assert_eq!(kept(&shared), (0, 1, 0));
        drop(other);
        assert_eq!(kept(&shared), (0, 0, 0));
        let one = Rings::open(&shared, "a").await.unwrap();
        one.stays();
        one.stays();
        drop(one);
        assert_eq!(kept(&shared), (1, 0, 0));
        assert!(Rings::open(&shared, "none").await.is_none());
        bus.stop().await;
    }

    #[tokio::test]
    async fn there_are_so_many_and_the_one_that_was_not_used_for_the_longest_time_goes() {
        let bus = Bus::builder().start().unwrap();
        let shared = shared(&bus);
        let open = async |topic: String| {
            let opened = Rings::open(&shared, &topic).await.unwrap();
            opened.stays();
            opened.follow()
        };
        let first = open("0".into()).await;
        let second = open("1".into()).await;
        for number in 2..MOST {
            open(number.to_string()).await;
        }
        open("0".into()).await;
        open("one-more".into()).await;
        assert_eq!(kept(&shared), (MOST, 0, 0));
        let ends = |feed: &Feed| poll_fn(|context| feed.poll_next(context)).now_or_never();
        assert_eq!((ends(&first), ends(&second)), (None, Some(None)));
        bus.stop().await;
    }

    #[tokio::test]
    async fn those_that_nobody_was_allowed_to_use_yet_are_bounded_and_displace_none() {
        let bus = Bus::builder().start().unwrap();
        let shared = shared(&bus);
        let mut tentative = Vec::new();
        for number in 0..MOST {
            tentative.push(Rings::open(&shared, &number.to_string()).await.unwrap());
        }
        assert!(Rings::open(&shared, "one-more").await.is_none());
        tentative.pop();
        assert!(Rings::open(&shared, "one-more").await.is_some());
        bus.stop().await;
    }

    #[tokio::test]
    async fn when_the_bus_has_ended_the_gateway_s_session_it_begins_another() {
        let bus = Bus::builder().start().unwrap();
        let shared = shared(&bus);
        Rings::open(&shared, "a").await.unwrap().stays();
        let client = shared.popsub.as_ref().unwrap().rings.lock().client.clone().unwrap();
        client.close().await.unwrap();
        whispeer_testkit::wait::eventually("the ring is gone", || kept(&shared) == (0, 0, 0)).await;
        assert!(Rings::open(&shared, "a").await.is_some());
        bus.stop().await;
    }
}
