//! From a published topic to its targets.
//!
//! One table for the whole bus, read by every session and changed in place. Beside the trie of
//! subscriptions lies an index of the routes that sessions have cached: a change to a subscription
//! finds exactly the cached routes that it touches and marks them stale.
//!
//! A published wildcard may lead through the whole trie. So a look-up goes in pieces, with the lock free
//! between them and for as many as the turn of its session allows, and a change that has to look at too
//! many routes forgets all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::RandomState;

use super::backlog::Backlog;
use super::group::Group;
use super::interest::Watched;
use super::session::Session;
use super::streams::{Stream, Streams};
use super::subscription::Slot;
use super::table::bytes_of;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::{EntryId, LookupTooWide, Progress, Scratch, Shape, TopicPattern, Trie};
use crate::transport::Part;

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

    /// Whether it takes messages to where others have subscribed.
    pub(crate) fn is_relay(&self) -> bool {
        matches!(self, Self::One { session, .. } if session.peer.part == Part::Relay)
    }
}

/// The targets of one published topic or pattern, as long as no subscription that it meets changes.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) targets: Box<[Target]>,
    /// Where what is published there is stored before it goes this way.
    pub(crate) stream: Option<Arc<Stream>>,
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
    /// Steps that changes have taken to find the routes that they touch.
    steps: AtomicU64,
    streams: Streams,
    watched: Watched,
}

#[derive(Debug, Default)]
struct Tables {
    subscriptions: Trie<Target>,
    groups: HashMap<(TopicPattern, String), Arc<Group>, RandomState>,
    routes: HashMap<TopicPattern, (Arc<Route>, EntryId), RandomState>,
    index: Trie<TopicPattern>,
    /// Targets of all cached routes together.
    route_targets: usize,
    /// Bytes that the topics of all cached routes take.
    route_bytes: usize,
    /// Changes to the subscriptions so far.
    changes: u64,
    scratch: Scratch,
}

/// Cached routes that no longer hold, to be dropped when the lock is free.
type Forgotten = Option<Box<(HashMap<TopicPattern, (Arc<Route>, EntryId), RandomState>, Trie<TopicPattern>)>>;

/// What a piece of a look-up has come to.
#[derive(Debug)]
pub(crate) struct Piece {
    progress: Progress,
    /// Changes to the subscriptions before it.
    changes: u64,
}

impl Router {
    /// A table whose routes say which stream a topic belongs to.
    pub(crate) fn with(streams: Streams) -> Self {
        Self { streams, ..Self::default() }
    }

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
        self.changed(tables, pattern);
        Ok(entry)
    }

    /// Removes a subscription.
    pub(crate) fn remove(&self, pattern: &TopicPattern, entry: EntryId) {
        let mut tables = self.write();
        let removed = tables.subscriptions.remove(entry);
        self.changed(tables, pattern);
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
        self.changed(tables, pattern);
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
        self.changed(tables, &group.pattern);
        Some(group.take_backlog())
    }

    /// Marks the cached routes that a change at `pattern` touches, and lets go of the lock.
    fn changed(&self, mut tables: RwLockWriteGuard<'_, Tables>, pattern: &TopicPattern) {
        tables.changes += 1;
        self.watched.note(pattern);
        if tables.routes.is_empty() {
            return;
        }
        let (steps, forgotten) = tables.invalidate(pattern);
        drop(tables);
        drop(forgotten);
        self.steps.fetch_add(steps as u64, Ordering::Relaxed);
    }

    /// Steps that all changes so far have taken to find the routes that they touch.
    pub(crate) fn steps_of_changes(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Begins to look up `published`, which must be valid and canonical, and adds what a first piece of
    /// about `steps` finds to `targets`.
    fn begin(
        &self,
        published: &str,
        scratch: &mut Scratch,
        steps: usize,
        targets: &mut Vec<Target>,
    ) -> Result<Piece, LookupTooWide> {
        let tables = self.read();
        tables.subscriptions.begin(published, scratch);
        tables.look_up(published, scratch, steps, targets)
    }

    /// Adds what one more piece finds.
    fn proceed(
        &self,
        published: &str,
        scratch: &mut Scratch,
        steps: usize,
        targets: &mut Vec<Target>,
    ) -> Result<Piece, LookupTooWide> {
        self.read().look_up(published, scratch, steps, targets)
    }

    /// The route of `published`, if a session has cached it.
    fn cached(&self, published: &TopicPattern) -> Option<Arc<Route>> {
        self.read().routes.get(published).map(|(route, _)| Arc::clone(route))
    }

    /// Keeps the targets of `published` as a route for all sessions, if no subscription has changed since
    /// there were so many `changes`.
    fn keep(&self, published: &TopicPattern, targets: &[Target], changes: u64) -> Option<Arc<Route>> {
        let mut tables = self.write();
        if let Some((route, _)) = tables.routes.get(published) {
            return Some(Arc::clone(route));
        }
        if tables.changes != changes {
            return None;
        }
        let bytes = bytes_of(published, None);
        let full = tables.routes.len() >= limits::ROUTES
            || tables.route_targets >= limits::ROUTES_TARGETS
            || tables.route_bytes + bytes > limits::ROUTES_BYTES;
        let forgotten = if full { tables.forget_routes() } else { None };
        let entry = tables.index.insert(published, published.clone()).ok()?;
        // Where it meets several it is refused before it gets here.
        let stream = self.streams.of(published).ok().flatten().cloned();
        let route = Arc::new(Route { targets: targets.into(), stream, stale: AtomicBool::new(false) });
        tables.route_targets += targets.len();
        tables.route_bytes += bytes;
        tables.routes.insert(published.clone(), (Arc::clone(&route), entry));
        drop(tables);
        drop(forgotten);
        Some(route)
    }

    /// Whether anybody has subscribed to exactly this, who is no relay, or it is kept here.
    pub(crate) fn is_wanted(&self, pattern: &TopicPattern) -> bool {
        self.streams.kept_here().any(|kept| kept == pattern)
            || self.read().subscriptions.at(pattern).any(|target| !target.is_relay())
    }

    /// Who wants to hear which patterns change.
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
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
    fn look_up(
        &self,
        published: &str,
        scratch: &mut Scratch,
        steps: usize,
        targets: &mut Vec<Target>,
    ) -> Result<Piece, LookupTooWide> {
        let found = |target: &Target| targets.push(target.clone());
        let progress = self.subscriptions.proceed(published, scratch, steps, found)?;
        Ok(Piece { progress, changes: self.changes })
    }

    /// Marks the cached routes that a change at `pattern` touches, and forgets them. Returns how many
    /// steps it took to find them.
    fn invalidate(&mut self, pattern: &TopicPattern) -> (usize, Forgotten) {
        let Self { index, scratch, .. } = self;
        let mut touched = Vec::new();
        index.begin(pattern.as_str(), scratch);
        let found = |published: &TopicPattern| touched.push(published.clone());
        let progress = index.proceed(pattern.as_str(), scratch, limits::ROUTES_STEPS, found);
        let steps = progress.map_or(limits::ROUTES_STEPS, |progress| progress.steps);
        let found_all = progress.is_ok_and(|progress| progress.done);
        if !found_all || touched.len() > limits::ROUTES_TOUCHED {
            return (steps, self.forget_routes());
        }
        for published in touched {
            if let Some((route, entry)) = self.routes.remove(&published) {
                self.route_targets = self.route_targets.saturating_sub(route.targets.len());
                let bytes = bytes_of(&published, None);
                self.route_bytes = self.route_bytes.saturating_sub(bytes);
                route.stale.store(true, Ordering::Release);
                self.index.remove(entry);
            }
        }
        (steps, None)
    }

    fn forget_routes(&mut self) -> Forgotten {
        (self.route_targets, self.route_bytes) = (0, 0);
        for (route, _) in self.routes.values() {
            route.stale.store(true, Ordering::Release);
        }
        Some(Box::new((std::mem::take(&mut self.routes), std::mem::take(&mut self.index))))
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
    /// The look-up that waits for its next piece.
    search: Option<Search>,
    scratch: Scratch,
    /// What it has found.
    targets: Vec<Target>,
}

/// A look-up that is under way.
#[derive(Debug)]
struct Search {
    /// What is looked up in canonical form, if the route is to be kept or the text was not in that form.
    pattern: Option<TopicPattern>,
    /// Whether the route is to be kept.
    keep: bool,
    /// Changes to the subscriptions before its first piece.
    changes: Option<u64>,
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
    /// Forgets all routes; a look-up that is under way goes on.
    pub(crate) fn forget_routes(&mut self) {
        self.last = None;
        self.routes = HashMap::default();
    }

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

    /// The targets of a topic that is not cached: the text of `shape`, as the publisher wrote it. `None`
    /// if the `steps` that are left, which are counted down, do not suffice: the next call goes on.
    pub(crate) fn look_up(
        &mut self,
        text: &str,
        shape: Shape,
        router: &Router,
        steps: &mut usize,
    ) -> BusResult<Option<Targets>> {
        if self.search.is_none() {
            let keep = self.comes_again(text.as_bytes());
            let pattern = if keep || shape.needs_canonical { Some(TopicPattern::new(text)?) } else { None };
            if let Some(pattern) = &pattern
                && let Some(route) = router.cached(pattern)
            {
                return Ok(Some(self.remember(text, route)));
            }
            self.search = Some(Search { pattern, keep, changes: None });
        }
        let Some(search) = self.go_on(text, router, steps)? else { return Ok(None) };
        if let Search { pattern: Some(pattern), keep: true, changes: Some(changes) } = &search
            && self.targets.len() <= limits::ROUTE_TARGETS
            && let Some(route) = router.keep(pattern, &self.targets, *changes)
        {
            self.targets.clear();
            return Ok(Some(self.remember(text, route)));
        }
        Ok(Some(Targets::Fresh(std::mem::take(&mut self.targets))))
    }

    /// Looks up one of several topics, which no route is kept for, as [`look_up`](Self::look_up) does.
    /// Whether that was all; what was found meanwhile is [taken](Self::found) after each call.
    pub(crate) fn look_up_once(
        &mut self,
        topic: &TopicPattern,
        router: &Router,
        steps: &mut usize,
    ) -> BusResult<bool> {
        if self.search.is_none() {
            self.search = Some(Search { pattern: None, keep: false, changes: None });
        }
        Ok(self.go_on(topic.as_str(), router, steps)?.is_some())
    }

    /// Takes what was found so far.
    pub(crate) fn found(&mut self) -> impl ExactSizeIterator<Item = Target> {
        self.targets.drain(..)
    }

    /// Does pieces of the look-up that is under way until it is done or no steps are left.
    fn go_on(&mut self, text: &str, router: &Router, steps: &mut usize) -> BusResult<Option<Search>> {
        let Some(mut search) = self.search.take() else { return Ok(None) };
        let Self { scratch, targets, .. } = self;
        let sought = search.pattern.as_ref().map_or(text, TopicPattern::as_str);
        while *steps > 0 {
            let most = limits::LOOKUP_HOLD.min(*steps);
            let piece = match search.changes {
                None => router.begin(sought, scratch, most, targets),
                Some(_) => router.proceed(sought, scratch, most, targets),
            };
            let Piece { progress, changes } = match piece {
                Ok(piece) => piece,
                Err(wide) => {
                    self.targets = Vec::new();
                    let what = format!("publishing to \"{sought}\": {wide}");
                    return Err(BusError::LimitReached { what });
                }
            };
            search.changes.get_or_insert(changes);
            *steps = steps.saturating_sub(progress.steps);
            if progress.done {
                return Ok(Some(search));
            }
        }
        self.search = Some(search);
        Ok(None)
    }

    fn remember(&mut self, text: &str, route: Arc<Route>) -> Targets {
        if self.routes.len() >= limits::ROUTES_PER_SESSION {
            self.routes.clear();
        }
        self.routes.insert(text.as_bytes().into(), Arc::clone(&route));
        Targets::Cached(route)
    }

    /// Bytes of memory that the look-up under way holds.
    pub(crate) fn held(&self) -> usize {
        self.scratch.held() + self.targets.capacity() * size_of::<Target>()
    }

    /// Takes the memory of fresh targets back, for the next ones.
    pub(crate) fn keep(&mut self, mut targets: Vec<Target>) {
        targets.clear();
        if targets.capacity() <= limits::ROUTE_TARGETS {
            self.targets = targets;
        }
    }

    /// The topic that [`cached`](Self::cached) found last.
    pub(crate) fn last_topic(&self) -> &[u8] {
        self.last.as_ref().map_or(&[], |(topic, _)| topic)
    }

    /// Lets go of routes that no longer hold, and with them of sessions that have ended.
    pub(crate) fn tidy(&mut self) {
        if self.search.is_none() {
            self.targets = Vec::new();
        }
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

#[cfg(test)]
mod tests;
