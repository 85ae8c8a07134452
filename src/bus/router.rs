//! From a published topic to its targets.
//!
//! One table for the whole bus, read by every session and changed in place. Beside the trie of
//! subscriptions lies an index of the routes that sessions have cached: a change to a subscription
//! finds exactly the cached routes that it touches and marks them stale.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::RandomState;

use super::backlog::Backlog;
use super::group::Group;
use super::session::Session;
use super::subscription::Slot;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::{EntryId, Scratch, Shape, TopicPattern, Trie};

/// Where a message goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A subscription of its own.
    One {
        /// Whose it is.
        session: Arc<Session>,
        /// Which of them.
        slot: Slot,
    },
    /// Subscriptions that share.
    Group(Arc<Group>),
}

impl Target {
    /// Tells targets apart.
    pub(crate) fn identity(&self) -> (u64, Option<Slot>) {
        match self {
            Self::One { session, slot } => (session.id, Some(*slot)),
            Self::Group(group) => (Arc::as_ptr(group) as u64, None),
        }
    }
}

/// The targets of one published topic or pattern, as long as no subscription that it meets changes.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) targets: Box<[Target]>,
    stale: AtomicBool,
}

impl Route {
    #[inline]
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }
}

/// The shared table.
#[derive(Debug, Default)]
pub(crate) struct Router {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    subscriptions: Trie<Target>,
    groups: HashMap<(TopicPattern, String), Arc<Group>, RandomState>,
    routes: HashMap<TopicPattern, (Arc<Route>, EntryId), RandomState>,
    index: Trie<TopicPattern>,
    /// Targets of all cached routes together.
    route_targets: usize,
    scratch: Scratch,
}

impl Router {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscription and returns its place.
    pub(crate) fn insert(&self, pattern: &TopicPattern, target: Target) -> BusResult<EntryId> {
        let mut tables = self.write();
        let entry = tables
            .subscriptions
            .insert(pattern, target)
            .map_err(|full| BusError::LimitReached { what: full.to_string() })?;
        tables.invalidate(pattern);
        Ok(entry)
    }

    /// Removes a subscription.
    pub(crate) fn remove(&self, pattern: &TopicPattern, entry: EntryId) {
        let mut tables = self.write();
        let removed = tables.subscriptions.remove(entry);
        tables.invalidate(pattern);
        drop(tables);
        drop(removed);
    }

    /// Makes the subscription in `slot` a member of the group, which is made if it is the first.
    pub(crate) fn join(
        &self,
        pattern: &TopicPattern,
        name: &str,
        found: impl FnOnce() -> Group,
        session: &Arc<Session>,
        slot: Slot,
    ) -> BusResult<Arc<Group>> {
        let mut tables = self.write();
        let key = (pattern.clone(), name.to_owned());
        if let Some(group) = tables.groups.get(&key) {
            group.join(session, slot);
            return Ok(Arc::clone(group));
        }
        let group = Arc::new(found());
        group.join(session, slot);
        let entry = tables
            .subscriptions
            .insert(pattern, Target::Group(Arc::clone(&group)))
            .map_err(|full| BusError::LimitReached { what: full.to_string() })?;
        group.set_entry(entry);
        tables.groups.insert(key, Arc::clone(&group));
        tables.invalidate(pattern);
        Ok(group)
    }

    /// Takes a member out of its group; the group goes with its last member, which gets what waits.
    pub(crate) fn leave(&self, group: &Arc<Group>, session: &Session, slot: Slot) -> Option<Backlog> {
        let mut tables = self.write();
        if !group.leave(session, slot) {
            return None;
        }
        tables.groups.remove(&(group.pattern.clone(), group.name.clone()));
        if let Some(entry) = group.entry() {
            tables.subscriptions.remove(entry);
        }
        tables.invalidate(&group.pattern);
        drop(tables);
        Some(group.take_backlog())
    }

    /// Adds the targets of `published`, which must be valid and canonical, to `targets`.
    pub(crate) fn collect(&self, published: &str, scratch: &mut Scratch, targets: &mut Vec<Target>) {
        self.read().subscriptions.visit(published, scratch, |target| targets.push(target.clone()));
    }

    /// The route of `published`, to be kept until it is stale.
    pub(crate) fn route(&self, published: &TopicPattern, scratch: &mut Scratch) -> Arc<Route> {
        if let Some((route, _)) = self.read().routes.get(published) {
            return Arc::clone(route);
        }
        let mut tables = self.write();
        if let Some((route, _)) = tables.routes.get(published) {
            return Arc::clone(route);
        }
        let mut targets = Vec::new();
        tables.subscriptions.visit(published.as_str(), scratch, |target| targets.push(target.clone()));
        let large = targets.len() > limits::ROUTE_TARGETS;
        let route = Arc::new(Route { targets: targets.into(), stale: AtomicBool::new(large) });
        if large {
            // So many targets cost more than finding them, and their memory adds up: not kept.
            return route;
        }
        if tables.routes.len() >= limits::ROUTES || tables.route_targets >= limits::ROUTES_TARGETS {
            tables.forget_routes();
        }
        tables.route_targets += route.targets.len();
        match tables.index.insert(published, published.clone()) {
            Ok(entry) => {
                tables.routes.insert(published.clone(), (Arc::clone(&route), entry));
            }
            // Without a place in the index nobody would mark it: it serves this once.
            Err(_) => route.stale.store(true, Ordering::Release),
        }
        route
    }

    /// Messages that wait for groups, and their bytes.
    pub(crate) fn parked_in_groups(&self) -> (usize, usize) {
        self.read()
            .groups
            .values()
            .map(|group| group.parked())
            .fold((0, 0), |(messages, bytes), parked| (messages + parked.0, bytes + parked.1))
    }

    /// Subscriptions, groups counting once, and cached routes.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let tables = self.read();
        (tables.subscriptions.len(), tables.routes.len())
    }
}

impl Tables {
    /// Marks the cached routes that a change at `pattern` touches, and forgets them.
    fn invalidate(&mut self, pattern: &TopicPattern) {
        if self.routes.is_empty() {
            return;
        }
        let mut touched = Vec::new();
        self.index.visit(pattern.as_str(), &mut self.scratch, |published| touched.push(published.clone()));
        for published in touched {
            if let Some((route, entry)) = self.routes.remove(&published) {
                self.route_targets = self.route_targets.saturating_sub(route.targets.len());
                route.stale.store(true, Ordering::Release);
                self.index.remove(entry);
            }
        }
    }

    fn forget_routes(&mut self) {
        self.route_targets = 0;
        for (_, (route, entry)) in self.routes.drain() {
            route.stale.store(true, Ordering::Release);
            self.index.remove(entry);
        }
    }
}

/// A session's own cache of routes, so that a topic in use costs one look-up in a small table.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    /// The topic of the last publish; most publishers stay with one for a while.
    last: Option<(Box<[u8]>, Arc<Route>)>,
    routes: HashMap<Box<[u8]>, Arc<Route>, RandomState>,
    /// Fingerprints of topics seen once: only a topic that comes again is worth a cached route.
    seen: Box<[u32]>,
    scratch: Scratch,
    targets: Vec<Target>,
}

/// Fingerprints kept by [`RouteCache`].
const SEEN: usize = 256;

/// The targets of a published topic.
pub(crate) enum Targets {
    /// Cached, and shared with other sessions.
    Cached(Arc<Route>),
    /// Looked up for this publish alone; the memory goes back by [`RouteCache::keep`].
    Fresh(Vec<Target>),
}

impl RouteCache {
    /// The route of a topic that was published before, if it still holds.
    #[inline]
    pub(crate) fn cached(&mut self, topic: &[u8]) -> Option<Arc<Route>> {
        if let Some((last, route)) = &self.last
            && **last == *topic
            && !route.is_stale()
        {
            return Some(Arc::clone(route));
        }
        let route = self.routes.get(topic)?;
        if route.is_stale() {
            self.routes.remove(topic);
            self.last = None;
            return None;
        }
        let route = Arc::clone(route);
        self.last = Some((topic.into(), Arc::clone(&route)));
        Some(route)
    }

    /// The targets of a topic that is not cached: the text of `shape`, as the publisher wrote it.
    pub(crate) fn look_up(&mut self, text: &str, shape: Shape, router: &Router) -> BusResult<Targets> {
        let again = self.comes_again(text.as_bytes());
        if !again && !shape.needs_canonical {
            let mut targets = std::mem::take(&mut self.targets);
            router.collect(text, &mut self.scratch, &mut targets);
            return Ok(Targets::Fresh(targets));
        }
        let route = router.route(&TopicPattern::new(text)?, &mut self.scratch);
        if self.routes.len() >= limits::ROUTES_PER_SESSION {
            self.routes.clear();
        }
        if !route.is_stale() {
            self.routes.insert(text.as_bytes().into(), Arc::clone(&route));
        }
        Ok(Targets::Cached(route))
    }

    /// Takes the memory of fresh targets back, for the next ones.
    pub(crate) fn keep(&mut self, targets: Vec<Target>) {
        self.targets = targets;
    }

    /// The topic that [`cached`](Self::cached) found last.
    pub(crate) fn last_topic(&self) -> &[u8] {
        self.last.as_ref().map_or(&[], |(topic, _)| topic)
    }

    /// Adds the targets of one of several topics.
    pub(crate) fn collect(&mut self, published: &TopicPattern, router: &Router, targets: &mut Vec<Target>) {
        router.collect(published.as_str(), &mut self.scratch, targets);
    }

    /// Lets go of routes that no longer hold, and with them of sessions that have ended.
    pub(crate) fn tidy(&mut self) {
        self.targets = Vec::new();
        self.routes.retain(|_, route| !route.is_stale());
        self.last.take_if(|(_, route)| route.is_stale());
        if self.routes.is_empty() {
            self.routes.shrink_to_fit();
            self.seen = Box::default();
        }
    }

    fn comes_again(&mut self, topic: &[u8]) -> bool {
        use std::hash::BuildHasher;
        if self.seen.is_empty() {
            self.seen = vec![0; SEEN].into();
        }
        let hash = self.routes.hasher().hash_one(topic);
        let fingerprint = (hash >> 32) as u32 | 1;
        let place = &mut self.seen[hash as usize % SEEN];
        std::mem::replace(place, fingerprint) == fingerprint
    }
}
