//! What is subscribed to at this bus, for those who bring it from elsewhere.
//!
//! Whoever watches has a list of patterns of which subscriptions have begun or ended since he looked last, and asks for each whether
//! anybody is subscribed to it. So a pattern that many subscribe to, or that comes and goes while he does something else, is one
//! entry, and nobody who subscribes waits for him. Where the list would become too long, and at the beginning, all that there is
//! is looked up, in pieces between which others get their turn.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use foldhash::fast::RandomState;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;

use super::Shared;
use super::router::{RouteCache, Target};
use super::supervisor::Phase;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

type Patterns = HashSet<TopicPattern, RandomState>;

/// Who wants to hear which patterns change.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    count: AtomicUsize,
    watchers: Mutex<Vec<Arc<Watcher>>>,
}

/// One of them.
#[derive(Debug)]
struct Watcher {
    news: Mutex<News>,
    changed: Notify,
}

/// What he has not looked at.
#[derive(Debug, Default)]
struct News {
    patterns: Patterns,
    /// They are too many to be listed, or none was listed yet.
    all: bool,
}

impl Watched {
    fn watchers(&self) -> MutexGuard<'_, Vec<Arc<Watcher>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A subscription to this begins or ends.
    #[inline]
    pub(crate) fn note(&self, pattern: &TopicPattern) {
        if self.count.load(Ordering::Acquire) > 0 && !pattern.is_reserved() {
            self.note_for_all(pattern);
        }
    }

    fn note_for_all(&self, pattern: &TopicPattern) {
        for watcher in &*self.watchers() {
            let mut news = watcher.news();
            if news.all {
                continue;
            }
            if news.patterns.len() < limits::INTEREST_CHANGES || news.patterns.contains(pattern) {
                news.patterns.insert(pattern.clone());
            } else {
                *news = News { all: true, ..News::default() };
            }
            drop(news);
            watcher.changed.notify_one();
        }
    }

    fn begin(&self) -> Arc<Watcher> {
        let news = Mutex::new(News { all: true, ..News::default() });
        let watcher = Arc::new(Watcher { news, changed: Notify::new() });
        let mut watchers = self.watchers();
        watchers.push(Arc::clone(&watcher));
        self.count.store(watchers.len(), Ordering::Release);
        watcher
    }

    fn end(&self, ended: &Arc<Watcher>) {
        let mut watchers = self.watchers();
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, ended));
        self.count.store(watchers.len(), Ordering::Release);
    }
}

impl Watcher {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes again what was taken and not told.
    fn put_back(&self, taken: News) {
        let mut news = self.news();
        news.all |= taken.all;
        news.patterns.extend(taken.patterns);
    }
}

/// The patterns that others than relays are subscribed to at a bus, and how they change. Those of streams are among them whose store
/// no other bus has: what is published elsewhere is kept there, too.
///
/// Made by [`BusView::interest`](super::BusView::interest). Topics of the bus's own, such as `$bus/stats`, are not among them.
pub struct Interest {
    shared: Weak<Shared>,
    phase: watch::Receiver<Phase>,
    watcher: Arc<Watcher>,
    /// What was told to be wanted.
    wanted: Patterns,
}

impl Interest {
    pub(super) fn new(shared: &Arc<Shared>, phase: watch::Receiver<Phase>) -> Self {
        let watcher = shared.router.watched().begin();
        Self { shared: Arc::downgrade(shared), phase, watcher, wanted: Patterns::default() }
    }

    /// Waits until patterns have changed that were told last, and returns all of them that have: `true` for one that somebody is
    /// subscribed to now, `false` for one that nobody is any more. The first time it returns all that are subscribed to, if any are.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: what it would have told is told by the next one.
    pub async fn changed(&mut self) -> BusResult<Vec<(TopicPattern, bool)>> {
        loop {
            let news = std::mem::take(&mut *self.watcher.news());
            let mut taken = Taken { watcher: &self.watcher, news: Some(news) };
            let changes = match &taken.news {
                Some(News { all: true, .. }) => self.all().await?,
                Some(News { patterns, .. }) => self.some(patterns)?,
                None => Vec::new(),
            };
            taken.news = None;
            drop(taken);
            for (pattern, is_wanted) in &changes {
                match is_wanted {
                    true => _ = self.wanted.insert(pattern.clone()),
                    false => _ = self.wanted.remove(pattern),
                }
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
            let mut phase = self.phase.clone();
            tokio::select! {
                () = self.watcher.changed.notified() => {}
                _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {}
            }
        }
    }

    /// What has changed among these.
    fn some(&self, patterns: &Patterns) -> BusResult<Vec<(TopicPattern, bool)>> {
        let shared = self.shared()?;
        let is_wanted = |pattern: &TopicPattern| (pattern.clone(), shared.router.is_wanted(pattern));
        let has_changed =
            |(pattern, is_wanted): &(TopicPattern, bool)| self.wanted.contains(pattern) != *is_wanted;
        Ok(patterns.iter().map(is_wanted).filter(has_changed).collect())
    }

    /// What has changed among all that there are.
    async fn all(&self) -> BusResult<Vec<(TopicPattern, bool)>> {
        let everything = TopicPattern::everything();
        let (mut cache, mut found) = (RouteCache::default(), Patterns::default());
        loop {
            let mut steps = limits::LOOKUP_HOLD;
            let done = cache.look_up_once(&everything, &self.shared()?.router, &mut steps)?;
            found.extend(cache.found().filter_map(|target| pattern_of(&target)));
            if done {
                break;
            }
            yield_now().await;
        }
        found.extend(self.shared()?.streams.kept_here().cloned());
        let ended = self.wanted.iter().filter(|pattern| !found.contains(*pattern));
        let ended: Vec<_> = ended.map(|pattern| (pattern.clone(), false)).collect();
        let begun = found.into_iter().filter(|pattern| !self.wanted.contains(pattern));
        Ok(begun.map(|pattern| (pattern, true)).chain(ended).collect())
    }

    fn shared(&self) -> BusResult<Arc<Shared>> {
        let has_stopped = *self.phase.borrow() == Phase::Stopped;
        self.shared
            .upgrade()
            .filter(|_| !has_stopped)
            .ok_or_else(|| BusError::Closed { what: "the bus".into() })
    }
}

/// The pattern of a subscription that is no relay's, if it is still there.
fn pattern_of(target: &Target) -> Option<TopicPattern> {
    match target {
        Target::Group(group) => Some(group.pattern.clone()),
        _ if target.is_relay() => None,
        Target::One { session, slot } => {
            session.lock().subscriptions.at(*slot).map(|own| own.pattern.clone())
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.router.watched().end(&self.watcher);
        }
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Interest").field("wanted", &self.wanted.len()).finish_non_exhaustive()
    }
}

/// News that were taken; they are put back unless they are told.
struct Taken<'a> {
    watcher: &'a Watcher,
    news: Option<News>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(news) = self.news.take() {
            self.watcher.put_back(news);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_faster_than_it_is_looked_at_is_not_listed() {
        let watched = Watched::default();
        let note = |number: usize| watched.note(&TopicPattern::new(format!("passing/{number}")).unwrap());
        note(0);
        let watcher = watched.begin();
        *watcher.news() = News::default();
        (0..limits::INTEREST_CHANGES).chain(0..limits::INTEREST_CHANGES).for_each(note);
        assert_eq!(watcher.news().patterns.len(), limits::INTEREST_CHANGES, "each once");
        assert!(!watcher.news().all);
        note(limits::INTEREST_CHANGES);
        assert!(watcher.news().all && watcher.news().patterns.is_empty());

        watched.end(&watcher);
        *watcher.news() = News::default();
        note(0);
        assert!(watcher.news().patterns.is_empty(), "nobody watches");
    }
}
