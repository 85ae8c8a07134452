//! Publishes what is due later, in the name of those who have asked for it.
//!
//! It has sessions of the bus's own, over memory links, and publishes there like any client: so order, credit, the byte
//! budget and stores are as they are for everybody, and the router knows nothing of it. There is one for the topics of each stream, and
//! one for all others, so that a store that stalls holds up what is for its own streams only. A session begins when it is first
//! needed. What is due is published in turn; whoever has asked for it must still be allowed to publish there by the policy
//! of that time.
//!
//! Delayed messages of a stream are kept by its store (`delayed`), which adds what is due to the log before it goes live. All
//! others are kept here, and end with the bus.

mod holders;
mod part;
mod session;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::holders::Holders;
use self::part::Part;
use super::Shared;
use super::budget::{Budget, Share};
use super::clock::system_time;
use super::streams::Stream;
use crate::auth::{Action, Author};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::Content;
use crate::store::Name;
use crate::topic::TopicPattern;
use crate::transport::Accepted;

/// How long to wait before a store that failed is asked again, or a session that ended is begun anew.
const RETRY: Duration = Duration::from_secs(1);

/// What is to be published, and in whose name.
#[derive(Debug)]
pub(crate) struct Mandate {
    pub(crate) author: Author,
    /// Topic, fields and payload, as they are published then.
    pub(crate) content: Arc<Content>,
}

/// What waits to be published.
#[derive(Debug, Default)]
pub(super) struct Deputy {
    state: Mutex<Waiting>,
    /// Something has come that is for no stream, and due earlier than all before.
    changed: Arc<Notify>,
    /// Sessions that it has begun.
    sessions: AtomicU64,
    /// What was not published, as it was not allowed any more.
    lapsed: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By when they are due; those of one time in the order in which they came.
    later: BTreeMap<(Instant, u64), Mandate>,
    /// What is to be published at once, by the stream that it is for, if it is for one; none is empty.
    now: HashMap<Option<Name>, VecDeque<Mandate>>,
    count: u64,
    /// Bytes of `later`.
    bytes: usize,
    /// How many are in `now`.
    wills: usize,
    /// Bytes of `now`. They have a bound of their own, so that what is due later takes no room from wills.
    will_bytes: usize,
    /// Who has what of `later`, and of `now`.
    holders: Holders,
    will_holders: Holders,
    share: Share,
}

impl Deputy {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What wakes it.
    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Keeps a message until it is due.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] where so many are kept, or bytes of them, as may be: of all, or of one principal, which
    /// has at most as much as it leaves free for others.
    pub(super) fn keep(&self, due: Instant, mandate: Mandate, budget: &Budget) -> BusResult<()> {
        let mut state = self.lock();
        state.check(&mandate, budget)?;
        state.bytes += mandate.content.size();
        state.holders.add(&mandate);
        state.count += 1;
        let place = (due, state.count);
        state.later.insert(place, mandate);
        state.account(budget);
        let is_first = state.later.first_key_value().is_some_and(|(first, _)| *first == place);
        drop(state);
        if is_first {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Publishes as soon as it can, to topics of this stream or of none. What it holds was held by a session before, so that it needs no more of the budget.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] where so much waits to be published that nothing more is taken: of all, or of one
    /// principal, which has at most as much as it leaves free for others.
    pub(super) fn publish(
        &self,
        stream: Option<&Stream>,
        mandate: Mandate,
        budget: &Budget,
    ) -> BusResult<()> {
        let mut state = self.lock();
        let refused = |what: String| Err(BusError::LimitReached { what });
        let Some(free) = limits::WILLS_WAITING.checked_sub(state.wills + 1) else {
            return refused(format!("{} wills wait to be published", limits::WILLS_WAITING));
        };
        let bytes = state.will_bytes.saturating_add(mandate.content.size());
        let Some(free_bytes) = budget.per_session().checked_sub(bytes) else {
            return refused(format!("wills of {} bytes wait to be published", state.will_bytes));
        };
        state.will_holders.check(&mandate, free, free_bytes).or_else(|holds| {
            refused(format!(
                "{holds} in wills that wait to be published; one has at most as much as is left for others"
            ))
        })?;
        state.will_holders.add(&mandate);
        state.will_bytes = bytes;
        state.wills += 1;
        state.now.entry(stream.map(|stream| stream.name.clone())).or_default().push_back(mandate);
        state.account(budget);
        drop(state);
        match stream {
            Some(stream) => stream.look_again(),
            None => self.changed.notify_one(),
        }
        Ok(())
    }

    /// Publishes what could not be published now before anything else for this stream or for none. It had a place before.
    fn put_back(&self, stream: Option<&Stream>, mandate: Mandate, budget: &Budget) {
        let mut state = self.lock();
        state.will_holders.add(&mandate);
        state.will_bytes = state.will_bytes.saturating_add(mandate.content.size());
        state.wills += 1;
        state.now.entry(stream.map(|stream| stream.name.clone())).or_default().push_front(mandate);
        state.account(budget);
    }

    /// What is to be published next to topics of this stream or of none, if anything is by now.
    fn next(&self, stream: Option<&Stream>, now: Instant, budget: &Budget) -> Option<Mandate> {
        let mut state = self.lock();
        let next = match state.take_will(stream) {
            Some(will) => will,
            None if stream.is_none() => state.take_due(now)?,
            None => return None,
        };
        state.account(budget);
        Some(next)
    }

    /// When the next message is due that is kept here for topics of this stream or of none.
    fn next_due(&self, stream: Option<&Stream>) -> Option<Instant> {
        let state = self.lock();
        if state.now.contains_key(&stream.map(|stream| stream.name.clone())) {
            return Some(Instant::now());
        }
        let later = state.later.first_key_value().filter(|_| stream.is_none());
        later.map(|((due, _), _)| *due)
    }

    /// Messages that are kept here, and their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        let state = self.lock();
        (state.later.len() + state.wills, state.bytes + state.will_bytes)
    }

    /// How often something was not published, as it was not allowed any more.
    pub(super) fn lapsed(&self) -> u64 {
        self.lapsed.load(Ordering::Relaxed)
    }

    /// Sessions of the bus's own that it has begun.
    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}

impl Waiting {
    /// Whether there is room for one more that is due later.
    fn check(&self, mandate: &Mandate, budget: &Budget) -> BusResult<()> {
        let most = usize::try_from(limits::DELAYED_MESSAGES).unwrap_or(usize::MAX);
        let refused = |what: String| Err(BusError::LimitReached { what });
        let free = most.checked_sub(self.later.len() + 1);
        let Some(free) = free else {
            return refused(format!("the bus keeps {most} messages that are not due yet"));
        };
        let size = mandate.content.size();
        // What is kept here is a part of the budget that nobody can wait for.
        let free_bytes = budget.per_session().checked_sub(self.bytes.saturating_add(size));
        let Some(free_bytes) = free_bytes.filter(|_| !budget.is_spent()) else {
            return refused(format!("the bus keeps {} bytes that are to be published later", self.bytes));
        };
        self.holders.check(mandate, free, free_bytes).or_else(|holds| {
            refused(format!(
                "{holds} in messages that are not due yet; one keeps at most as much as is left for others"
            ))
        })
    }

    /// The first that is to be published at once to topics of this stream or of none.
    fn take_will(&mut self, stream: Option<&Stream>) -> Option<Mandate> {
        let stream = stream.map(|stream| stream.name.clone());
        let wills = self.now.get_mut(&stream)?;
        let will = wills.pop_front();
        if wills.is_empty() {
            self.now.remove(&stream);
        }
        let will = will?;
        self.wills -= 1;
        self.will_bytes = self.will_bytes.saturating_sub(will.content.size());
        self.will_holders.remove(&will);
        Some(will)
    }

    /// The first that is due by now.
    fn take_due(&mut self, now: Instant) -> Option<Mandate> {
        let first = self.later.first_entry().filter(|first| first.key().0 <= now)?;
        let mandate = first.remove();
        let size = mandate.content.size();
        self.bytes = self.bytes.saturating_sub(size);
        self.holders.remove(&mandate);
        Some(mandate)
    }

    fn account(&mut self, budget: &Budget) {
        let entries = self.later.len() + self.wills;
        self.share
            .follow(self.bytes + self.will_bytes + entries * size_of::<((Instant, u64), Mandate)>(), budget);
    }
}

impl Shared {
    /// Begins to publish what is due, in these tasks.
    pub(super) fn begin_deputy(self: &Arc<Self>, attach: &mpsc::Sender<Accepted>, tasks: &mut JoinSet<()>) {
        // Nothing is published to dead letters.
        let streams = self.streams.iter().filter(|stream| !stream.has_dead_letters()).map(Some);
        for stream in streams.chain([None]) {
            tasks.spawn(Part::new(self, stream).act(attach.clone()));
        }
    }

    /// Whether somebody may still publish there.
    fn may_still_publish(&self, author: &Author, topic: &TopicPattern) -> bool {
        let (policy, _) = self.policies.current();
        let permissions = policy.permissions_later(author, system_time());
        let allowed = permissions.is_some_and(|rights| rights.allows(Action::Publish, topic).is_ok());
        if !allowed {
            self.deputy.lapsed.fetch_add(1, Ordering::Relaxed);
            let principal = author.principal();
            tracing::warn!(%principal, %topic, "not published, as that is not allowed any more");
        }
        allowed
    }
}
