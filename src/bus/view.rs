//! A running bus, as others in its process see it.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;

use super::claims::ServeClaims;
use super::drain::Drain;
use super::interest::Interest;
use super::requests::claim;
use super::router::{RouteCache, Target};
use super::served::{Served, ServedWatch};
use super::session::State;
use super::supervisor::Phase;
use super::wishes::LinkWishes;
use super::{BusStats, ServedStats, SessionStats, Shared, SubscriptionStats};
use crate::auth::Principal;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Epoch, GapReason};
use crate::topic::{Topic, TopicPattern};
use crate::transport::{Accepted, Link, Part, Peer, memory_pair};

/// What else runs in the bus's process may have of it, as a gateway: it attaches links, looks at what there is, and notices
/// when the bus drains.
///
/// Made by [`BusHandle::view`](super::BusHandle::view). A clone costs a few counters. It keeps nothing alive: the bus stops with its
/// handle, and what it kept is given back, however many views there are.
///
/// # Examples
/// A gateway that serves until the bus drains:
/// ```
/// use std::time::Duration;
///
/// use whispeer::auth::Principal;
/// use whispeer::bus::BusView;
/// use whispeer::prelude::*;
/// use whispeer::transport::Peer;
///
/// async fn serve(bus: BusView) -> BusResult<()> {
///     let alice = Principal::Token { issuer: "chat".into(), subject: "alice".into() };
///     let link = bus.connect(Peer::new(alice, "chat").granted(["reader"]))?;
///     let client = Client::builder().name("alice's browser").connect_link(link)?;
///     client.ping().await?;
///     assert_eq!(bus.sessions()?[0].transport, "chat");
///     bus.draining().await;
///     client.close().await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let bus = Bus::builder().start()?;
/// let gateway = tokio::spawn(serve(bus.view()));
/// # while bus.stats().sessions == 0 { tokio::task::yield_now().await; }
/// bus.drain(Duration::from_secs(5)).await;
/// gateway.await.expect("it does not panic")
/// # }
/// ```
#[derive(Clone)]
pub struct BusView {
    shared: Weak<Shared>,
    attach: mpsc::Sender<Accepted>,
    draining: watch::Receiver<Drain>,
    phase: watch::Receiver<Phase>,
}

impl BusView {
    pub(super) fn new(
        shared: &Arc<Shared>,
        attach: mpsc::Sender<Accepted>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self { shared: Arc::downgrade(shared), attach, draining: shared.drains.subscribe(), phase }
    }

    /// Serves a link that someone else accepted, on behalf of `peer`.
    ///
    /// # Errors
    /// [`BusError::Overloaded`] when too many links wait to be taken over: that passes when those who attach them give
    /// the bus a turn. [`BusError::Closed`] when the bus has stopped. Who is refused by the bus is told over the link.
    pub fn attach(&self, link: Link, peer: Peer) -> BusResult<()> {
        if self.has_stopped() {
            return Err(closed());
        }
        self.attach.try_send(Accepted::Open { link, peer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                BusError::Overloaded { what: "links that wait to be served".into() }
            }
            mpsc::error::TrySendError::Closed(_) => closed(),
        })
    }

    /// A memory link to the bus, at whose other end is `peer`; for
    /// [`ClientBuilder::connect_link`](crate::client::ClientBuilder::connect_link).
    ///
    /// # Errors
    /// As [`attach`](Self::attach). That the bus lets nobody of that name in is told over the link.
    pub fn connect(&self, peer: Peer) -> BusResult<Link> {
        let (bus_end, client_end) = memory_pair();
        self.attach(bus_end, peer)?;
        Ok(client_end)
    }

    /// The state of the bus now.
    ///
    /// # Errors
    /// [`BusError::Closed`] when it has stopped.
    pub fn stats(&self) -> BusResult<BusStats> {
        Ok(self.shared()?.stats())
    }

    /// The sessions now, in the order in which they connected.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    pub fn sessions(&self) -> BusResult<Vec<SessionStats>> {
        Ok(self.shared()?.session_stats(usize::MAX).rows)
    }

    /// The subscriptions now.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    pub fn subscriptions(&self) -> BusResult<Vec<SubscriptionStats>> {
        Ok(self.shared()?.subscription_stats(usize::MAX).rows)
    }

    /// How many messages a subscription has matched so far: those that it was sent, that wait for its credit, and that were
    /// dropped, of which it is told as gaps. `None` where there is none of this [id](crate::client::Subscription::id) in this
    /// [session](crate::Client::session_id).
    ///
    /// Whoever has taken so many of them, those in gaps counted, has had all that was published before this was asked. It costs
    /// a look-up, however many subscriptions there are.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let mut news = client.subscribe_bytes("news/*").await?;
    /// let session = client.session_id().expect("it has been let in");
    /// client.publish_bytes("news/local", "hello").await?;
    /// assert_eq!(bus.view().matched(session, news.id())?, Some(1));
    ///
    /// news.recv().await;
    /// assert_eq!(news.counts().taken, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn matched(&self, session: u64, subscription: u32) -> BusResult<Option<u64>> {
        let session = self.shared()?.sessions().get(&session).cloned();
        let matched = session
            .and_then(|session| session.lock().subscriptions.by_id(subscription).map(|own| own.matched));
        Ok(matched)
    }

    /// How many sessions a message to this topic, or pattern, is for now. One with several subscriptions that match counts once, and so
    /// does a queue group; those of the bus's own process that are nobody's ([`Principal::Bus`]) do not.
    ///
    /// What publishing returns is how many subscriptions there were at that moment, for nothing. This looks them up anew, in pieces
    /// between which others get their turn: it is for whoever has to tell people of sessions.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] for a pattern that meets too much at once, as for publishing to it, and [`BusError::Closed`] when the
    /// bus has stopped.
    ///
    /// # Cancel safety
    /// Nothing stays when the future is dropped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    /// use whispeer::topic::TopicPattern;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let _news = client.subscribe_bytes("news/*").await?;
    /// let _all = client.subscribe_bytes("**").await?;
    /// assert_eq!(client.publish_bytes("news/local", "hello").await?, 2);
    /// assert_eq!(bus.view().reached(&TopicPattern::new("news/local")?).await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reached(&self, topic: &TopicPattern) -> BusResult<usize> {
        let (mut cache, mut reached) = (RouteCache::default(), HashSet::new());
        loop {
            let mut steps = limits::LOOKUP_HOLD;
            let done = cache.look_up_once(topic, &self.shared()?.router, &mut steps)?;
            for target in cache.found() {
                match target {
                    Target::One { session, .. } if is_nobody(&session.peer) => {}
                    Target::One { session, .. } => _ = reached.insert((session.id, false)),
                    group @ Target::Group(_) => _ = reached.insert((group.identity().0, true)),
                }
            }
            if done {
                return Ok(reached.len());
            }
            yield_now().await;
        }
    }

    /// Which patterns are subscribed to at this bus, and how that changes: for whoever brings what is published elsewhere. What a
    /// [relay](Peer::relay) subscribes to is not among them.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    /// use whispeer::topic::TopicPattern;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let mut interest = bus.view().interest()?;
    /// let news = client.subscribe_bytes("news/*").await?;
    /// assert_eq!(interest.changed().await?, [(TopicPattern::new("news/*")?, true)]);
    ///
    /// drop(news);
    /// assert_eq!(interest.changed().await?, [(TopicPattern::new("news/*")?, false)]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn interest(&self) -> BusResult<Interest> {
        Ok(Interest::new(&self.shared()?, self.phase.clone()))
    }

    /// Tells each subscription that a message to this topic, or pattern, would be for that so many of them were lost on their way to
    /// the bus: it gets a [gap](crate::client::Event::Gap) behind what it has matched so far. A queue group is told once. Returns how many
    /// were told; what a [relay](Peer::relay) subscribes to is not among them, and neither is what reads a stream, as that has
    /// sequences of its own.
    ///
    /// A count of 0 tells nobody anything.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] for a pattern that meets too much at once, as for publishing to it, and [`BusError::Closed`] when the
    /// bus has stopped.
    ///
    /// # Cancel safety
    /// When the future is dropped, some may have been told and others not.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::{Event, GapReason};
    /// use whispeer::prelude::*;
    /// use whispeer::topic::TopicPattern;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let mut news = client.subscribe_bytes("news/*").await?;
    /// assert_eq!(bus.view().lost(&TopicPattern::new("news/local")?, 3, GapReason::Link).await?, 1);
    /// let event = news.next_event().await;
    /// assert!(matches!(event, Some(Event::Gap { count: 3, reason: GapReason::Link })));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lost(&self, topic: &TopicPattern, count: u64, reason: GapReason) -> BusResult<usize> {
        let mut cache = RouteCache::default();
        let mut told = 0;
        if count == 0 {
            return Ok(0);
        }
        loop {
            let mut steps = limits::LOOKUP_HOLD;
            let shared = self.shared()?;
            let done = cache.look_up_once(topic, &shared.router, &mut steps)?;
            for target in cache.found().filter(|target| !target.is_relay()) {
                told += usize::from(shared.lose(&target, count, reason));
            }
            drop(shared);
            if done {
                return Ok(told);
            }
            yield_now().await;
        }
    }

    /// The served topics now.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    pub fn served(&self) -> BusResult<Vec<ServedStats>> {
        Ok(self.shared()?.served_stats(usize::MAX).rows)
    }

    /// The topics that are served now and meet the pattern, as many as `most` at the most: those that a request to it would be sent to.
    ///
    /// It costs what it finds, and not what is served.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] for a pattern that leads through too much of what is served, as for
    /// [requests](crate::Client::request_many) to it, and [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    /// use whispeer::topic::{Topic, TopicPattern};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let _sensor = client.serve_bytes("sensor/1").await?;
    /// let _clock = client.serve_bytes("clock").await?;
    /// let found = bus.view().served_topics(&TopicPattern::new("sensor/*")?, 100)?;
    /// assert_eq!(found, [Topic::new("sensor/1")?]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn served_topics(&self, pattern: &TopicPattern, most: usize) -> BusResult<Vec<Topic>> {
        let (services, _) = self.shared()?.services.meeting(pattern, most)?;
        Ok(services.iter().map(|service| service.topic.clone()).collect())
    }

    /// Tells what is served at this bus, as it changes. The first news are all that is served now.
    ///
    /// It is for whoever tells others: topics that change several times before they are asked about are told once, as they are
    /// then. The bus's own topics are left out.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] beyond [`limits::SERVED_WATCHES`], and [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let _time = client.serve_bytes("time").await?;
    /// let mut watch = bus.view().watch_served()?;
    ///
    /// let news = watch.next().await.expect("the bus runs");
    /// assert!(news.is_all && news.topics[0].0.as_str() == "time");
    ///
    /// let _place = client.serve_bytes("place").await?;
    /// let news = watch.next().await.expect("the bus runs");
    /// assert_eq!(news.topics.len(), 1);
    /// assert_eq!(news.topics[0].0.as_str(), "place");
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_served(&self) -> BusResult<ServedWatch> {
        let shared = self.shared()?;
        let noted = shared.services.changes.watch()?;
        Ok(ServedWatch::new(&shared, noted, self.phase.clone()))
    }

    /// The claims of sessions to be the only server of a topic, from here on: each waits until it is agreed to or refused, for
    /// [`limits::SERVE_CLAIM`] at the most, and serves then. What this bus refuses itself is none, and neither is
    /// serving in a group or a topic of the bus's own.
    ///
    /// It is for whoever decides over several buses who serves what. There is one at a time.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] where there is one already, and [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let mut claims = bus.view().serve_claims()?;
    /// let (clock, ()) = tokio::join!(client.serve_bytes("clock"), async {
    ///     let claim = claims.next().await.expect("the bus runs");
    ///     assert_eq!(claim.topic().as_str(), "clock");
    ///     claim.refuse(BusError::AlreadyServed { topic: "clock".into() });
    /// });
    /// assert!(matches!(clock, Err(BusError::AlreadyServed { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_claims(&self) -> BusResult<ServeClaims> {
        self.shared()?.deciding.begin(self.phase.clone())
    }

    /// The wishes for links to buses that have consumers whose members are at this bus, too, from here on. A stream of a store that
    /// several buses share has its consumers at one of them each; with such a link, members at the others share their messages.
    ///
    /// It is for whoever joins buses. There is one at a time.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] where there is one already, and [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// Two buses of one process:
    /// ```
    /// use whispeer::auth::Principal;
    /// use whispeer::bus::{BusView, LinkWishes};
    /// use whispeer::prelude::*;
    /// use whispeer::transport::Peer;
    ///
    /// async fn bring(mut wishes: LinkWishes, other: BusView) -> BusResult<()> {
    ///     while let Some(wish) = wishes.next().await {
    ///         if other.has_consumer(wish.stream(), wish.epoch(), wish.consumer())? {
    ///             wish.grant(other.connect(Peer::new(Principal::Bus, "memory").sharing())?);
    ///         }
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (one, other) = (Bus::builder().start()?, Bus::builder().start()?);
    /// let bringing = tokio::spawn(bring(one.view().link_wishes()?, other.view()));
    /// one.stop().await;
    /// bringing.await.expect("it does not panic")
    /// # }
    /// ```
    pub fn link_wishes(&self) -> BusResult<LinkWishes> {
        self.shared()?.wishing.begin(self.phase.clone())
    }

    /// Whether this bus has a consumer that is shared, of a stream with this epoch: it hands out its messages, and takes in
    /// [peers that share it](Peer::sharing).
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    pub fn has_consumer(&self, stream: &str, epoch: Epoch, consumer: &str) -> BusResult<bool> {
        Ok(self.shared()?.streams.has_consumer(stream, epoch, consumer))
    }

    /// Ends all servings of a topic with this error, if it is still served like `served`, which a [watch](Self::watch_served) has told.
    /// Servers can still answer what they were asked. Whether it was so.
    ///
    /// It is for whoever decides over several buses who serves what.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let mut clock = client.serve_bytes("clock").await?;
    /// let news = bus.view().watch_served()?.next().await.expect("the bus runs");
    /// let (topic, served) = &news.topics[0];
    ///
    /// let error = BusError::AlreadyServed { topic: topic.to_string() };
    /// assert!(bus.view().end_served(topic, served.as_ref().expect("it is served"), &error)?);
    /// assert!(clock.recv().await.is_none());
    /// assert!(matches!(clock.close_reason(), Some(BusError::AlreadyServed { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn end_served(&self, topic: &Topic, served: &Served, error: &BusError) -> BusResult<bool> {
        Ok(self.shared()?.end_served(topic, served, error))
    }

    /// What tells Prometheus of the bus.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    #[cfg(feature = "metrics")]
    pub fn collector(&self) -> BusResult<super::metrics::BusCollector> {
        Ok(super::metrics::BusCollector::of(&self.shared()?))
    }

    /// Whether the bus drains or has stopped: it takes nothing new.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow() >= Drain::Begun || self.has_stopped()
    }

    /// Ends when the bus begins to drain, for whatever reason, or stops without that; at once if it has. Clients over
    /// attached links are told by the bus itself: this is for what they do not know of, such as a listener of one's own.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        self.drain_reaches(Drain::Begun)
    }

    /// Ends when a bus that drains has finished all that was in flight for its clients, or has no more time for it, and waits for
    /// its companions alone; or when it stops without that; at once if it has. What is published and asked at the bus has
    /// been handed over by then.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        self.drain_reaches(Drain::Quiet)
    }

    fn drain_reaches(&self, wanted: Drain) -> impl Future<Output = ()> + Send + use<> {
        let (mut draining, mut phase) = (self.draining.clone(), self.phase.clone());
        async move {
            // Where nobody can say so any more, the bus is gone.
            tokio::select! {
                _ = draining.wait_for(|draining| *draining >= wanted) => {}
                _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {}
            }
        }
    }

    fn has_stopped(&self) -> bool {
        *self.phase.borrow() == Phase::Stopped
    }

    pub(super) fn shared(&self) -> BusResult<Arc<Shared>> {
        self.shared.upgrade().filter(|_| !self.has_stopped()).ok_or_else(closed)
    }
}

impl Shared {
    /// Tells a target that messages were lost on their way here; returns whether it is still there.
    fn lose(&self, target: &Target, count: u64, reason: GapReason) -> bool {
        let mut touched = Vec::new();
        let is_there = match target {
            Target::Group(group) => group.lose(count, reason, &mut touched, &mut self.past()),
            Target::One { session, slot } => {
                let mut state = session.lock();
                let State { subscriptions, lanes, totals, parked_bytes, .. } = &mut *state;
                let Some(own) = subscriptions.at(*slot) else { return false };
                let before = own.backlog.bytes();
                own.lose(count, reason, lanes, totals);
                *parked_bytes = (*parked_bytes + own.backlog.bytes()).saturating_sub(before);
                if state.note_parked(*slot) {
                    session.task.wake();
                }
                claim(session, &mut state, &mut touched);
                true
            }
        };
        for session in touched {
            session.flush();
        }
        is_there
    }
}

impl fmt::Debug for BusView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BusView").field("is_draining", &self.is_draining()).finish_non_exhaustive()
    }
}

/// Whether it is the bus's own process that has subscribed, for nobody else.
fn is_nobody(peer: &Peer) -> bool {
    peer.principal == Principal::Bus || peer.part != Part::Client
}

fn closed() -> BusError {
    BusError::Closed { what: "the bus".into() }
}
