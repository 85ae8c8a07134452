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

use tokio::sync::Notify;

use super::session::Session;
use super::{Rows, Shared};
use crate::auth::{Member, PresenceEvent, Principal};
use crate::limits;
use crate::proto::Content;
use crate::topic::TopicPattern;

/// The first fragment of the topics where it is told.
pub(super) const PRESENCE: &str = "$presence";

/// What is to be told, and whether anybody wants to hear it.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    watchers: AtomicUsize,
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
                PresenceEvent::Missed(_) => TopicPattern::new(format!("{PRESENCE}/**")).ok(),
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
pub(crate) struct Watching(Arc<Presence>);

impl Watching {
    /// A subscription to this wants to.
    pub(super) fn of(pattern: &TopicPattern, presence: &Arc<Presence>) -> Option<Self> {
        (pattern.fragments().next() == Some(PRESENCE)).then(|| {
            presence.watchers.fetch_add(1, Ordering::Relaxed);
            Self(Arc::clone(presence))
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
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
