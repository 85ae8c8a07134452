//! Presence: who is subscribed to what, and who comes and goes.
//!
//! As long as somebody subscribes to topics under `$presence/`, each subscription that begins or ends is told there, at
//! `$presence/` and its pattern, by the bus's deputy. Nobody waits for that: what comes faster than it is told is counted, and told as
//! missed. Who is there is answered at `$bus/presence`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use super::introspect::reply_limit;
use super::session::Session;
use super::{BusView, Rows, Shared};
use crate::auth::{Member, PresenceEvent, Principal};
use crate::error::BusResult;
use crate::limits;
use crate::proto::Content;
use crate::topic::TopicPattern;
use crate::transport::Part;

/// The first fragment of the topics where it is told.
pub(super) const PRESENCE: &str = "$presence";

/// What is to be told, and whether anybody wants to hear it.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    watchers: AtomicUsize,
    /// Those of them that are no relays.
    own_watchers: watch::Sender<usize>,
    news: Mutex<News>,
    /// Wakes the deputy.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct News {
    events: VecDeque<PresenceEvent>,
    missed: u64,
}

impl Presence {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self { changed, ..Self::default() }
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many subscriptions that are no relays' want to hear of it, as that changes.
    pub(super) fn own_watchers(&self) -> watch::Receiver<usize> {
        self.own_watchers.subscribe()
    }

    fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    fn tell(&self, event: PresenceEvent) {
        let mut news = self.news();
        if news.events.len() >= limits::PRESENCE_EVENTS || news.missed > 0 {
            news.missed += 1;
        } else {
            news.events.push_back(event);
        }
        drop(news);
        self.changed.notify_one();
    }

    /// Whether something is to be told.
    pub(super) fn has_news(&self) -> bool {
        let news = self.news();
        !news.events.is_empty() || news.missed > 0
    }

    /// What is to be told next, and where.
    pub(super) fn next(&self) -> Option<Arc<Content>> {
        loop {
            let event = {
                let mut news = self.news();
                match news.events.pop_front() {
                    Some(event) => event,
                    None if news.missed > 0 => PresenceEvent::Missed(std::mem::take(&mut news.missed)),
                    None => return None,
                }
            };
            let topic = match &event {
                PresenceEvent::Join(member) | PresenceEvent::Leave(member) => place_of(&member.pattern),
                PresenceEvent::Missed(_)
                | PresenceEvent::BusJoin { .. }
                | PresenceEvent::BusMissed { .. }
                | PresenceEvent::BusLeave { .. } => TopicPattern::new(format!("{PRESENCE}/**")).ok(),
            };
            let payload = rmp_serde::to_vec_named(&event);
            if let (Some(topic), Ok(payload)) = (topic, payload) {
                let topic = topic.as_str().to_owned();
                let payload = bytes::Bytes::from(payload);
                return Some(Arc::new(Content::new(bytes::Bytes::new(), topic.into(), payload)));
            }
            // What has no place of its own is told as missed.
            self.news().missed += 1;
        }
    }
}

/// Where is told what happens to subscriptions to this; `None` if that would be no topic, as it is too long.
pub(super) fn place_of(pattern: &str) -> Option<TopicPattern> {
    let separator = if pattern.is_empty() { "" } else { "/" };
    TopicPattern::new(format!("{PRESENCE}{separator}{pattern}")).ok()
}

/// Somebody wants to hear of it, as long as this is there.
#[derive(Debug)]
pub(crate) struct Watching {
    presence: Arc<Presence>,
    /// It is no relay's.
    is_own: bool,
}

impl Watching {
    /// A subscription of such a session to this wants to.
    pub(super) fn of(pattern: &TopicPattern, part: Part, presence: &Arc<Presence>) -> Option<Self> {
        (pattern.fragments().next() == Some(PRESENCE)).then(|| {
            presence.watchers.fetch_add(1, Ordering::Relaxed);
            let is_own = part != Part::Relay;
            if is_own {
                presence.own_watchers.send_modify(|count| *count += 1);
            }
            Self { presence: Arc::clone(presence), is_own }
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.presence.watchers.fetch_sub(1, Ordering::Relaxed);
        if self.is_own {
            self.presence.own_watchers.send_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

/// A subscription is there, as long as this is.
pub(crate) struct Present {
    session: Weak<Session>,
    presence: Arc<Presence>,
    pattern: TopicPattern,
    since: u64,
}

impl Present {
    /// A subscription begins. Those to topics of the bus's own are not shown, so that watching is not watched.
    pub(super) fn begin(
        session: &Arc<Session>,
        presence: &Arc<Presence>,
        pattern: &TopicPattern,
    ) -> Option<Self> {
        if pattern.is_reserved() || session.peer.principal == Principal::Bus {
            return None;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let present = Self {
            session: Arc::downgrade(session),
            presence: Arc::clone(presence),
            pattern: pattern.clone(),
            since: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        };
        if presence.is_watched() {
            presence.tell(PresenceEvent::Join(present.member(session)));
        }
        Some(present)
    }

    fn member(&self, session: &Session) -> Member {
        let who = (session.id, &session.peer.principal, &*session.name);
        Member::new(who, self.pattern.as_str(), self.since)
    }
}

impl Drop for Present {
    /// However the subscription has ended. It may be under its session's lock, which is not taken here.
    fn drop(&mut self) {
        if self.presence.is_watched()
            && let Some(session) = self.session.upgrade()
        {
            self.presence.tell(PresenceEvent::Leave(self.member(&session)));
        }
    }
}

impl fmt::Debug for Present {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Present").field("since", &self.since).finish_non_exhaustive()
    }
}

impl BusView {
    /// Who is subscribed now to topics that the pattern meets, in the order in which their sessions began: at most
    /// [`limits::INTROSPECTION_ROWS`], and how many there are beside. What the bus's own process subscribes to for nobody
    /// is not among them.
    ///
    /// # Errors
    /// [`BusError::Closed`](crate::BusError::Closed) when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    /// use whispeer::topic::TopicPattern;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let alice = Client::builder().name("alice").connect_memory(&bus.connector())?;
    /// let _lobby = alice.subscribe_bytes("chat/lobby").await?;
    /// let members = bus.view().presence(&TopicPattern::new("chat/**")?)?;
    /// assert_eq!((members.rows[0].name.as_str(), members.left_out), ("alice", 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn presence(&self, pattern: &TopicPattern) -> BusResult<Rows<Member>> {
        Ok(self.shared()?.members(pattern, limits::INTROSPECTION_ROWS))
    }

    /// How many subscriptions to topics under `$presence` there are, as that changes: as long as there are any, somebody
    /// [watches](crate::Client::watch_presence) who comes and goes. What a [relay](crate::transport::Peer::relay) subscribes to does not count. It is for whoever tells
    /// them of other buses.
    ///
    /// # Errors
    /// [`BusError::Closed`](crate::BusError::Closed) when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let watchers = bus.view().presence_watchers()?;
    /// assert_eq!(*watchers.borrow(), 0);
    /// let _watch = client.watch_presence("chat/**").await?;
    /// assert_eq!(*watchers.borrow(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn presence_watchers(&self) -> BusResult<watch::Receiver<usize>> {
        Ok(self.shared()?.presence.own_watchers())
    }

    /// Tells those who [watch](crate::Client::watch_presence) at this bus of who comes and goes at others, behind what this one is about to tell. Nobody
    /// waits: beyond [`limits::PRESENCE_EVENTS`] it is counted and told as missed. Where nobody watches it does nothing. It is for whoever joins
    /// buses, and believed.
    ///
    /// # Errors
    /// [`BusError::Closed`](crate::BusError::Closed) when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::PresenceEvent;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let mut watch = client.watch_presence("chat/**").await?;
    /// let joined = PresenceEvent::BusJoin { bus: 7, name: "shop-2".into() };
    /// bus.view().tell_presence(joined.clone())?;
    /// assert_eq!(watch.recv().await, Some(joined));
    /// # Ok(())
    /// # }
    /// ```
    pub fn tell_presence(&self, event: PresenceEvent) -> BusResult<()> {
        let shared = self.shared()?;
        if shared.presence.is_watched() {
            shared.presence.tell(event);
        }
        Ok(())
    }

    /// Bytes that the payload of a reply may have at this bus; a larger one fails as [`BusError::FrameTooLarge`](crate::BusError::FrameTooLarge).
    ///
    /// # Errors
    /// [`BusError::Closed`](crate::BusError::Closed) when the bus has stopped.
    pub fn reply_limit(&self) -> BusResult<usize> {
        Ok(reply_limit(&*self.shared()?))
    }
}

impl Shared {
    /// Who is subscribed to topics of this pattern.
    pub(super) fn members(&self, pattern: &TopicPattern, limit: usize) -> Rows<Member> {
        let (mut rows, mut left_out) = (Vec::new(), 0);
        for session in self.clients() {
            let state = session.lock();
            for own in state.subscriptions.iter() {
                let Some(present) = own.present.as_ref().filter(|_| own.pattern.meets(pattern)) else {
                    continue;
                };
                if rows.len() >= limit {
                    left_out += 1;
                } else {
                    rows.push(present.member(&session));
                }
            }
        }
        Rows { rows, left_out }
    }
}
