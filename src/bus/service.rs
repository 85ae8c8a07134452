//! Served topics: who serves what, and requests that wait for a server with credit and room on its link.
//!
//! The *uplink* is a service beside them: it gets the requests to topics that nobody serves here, as a session that joins this bus to
//! others wants them. Another one tells what is served there. They are in no table, so that neither requests to them nor patterns find
//! them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::budget::{Budget, Share};
use super::served::{Served, ServedChanges};
use super::session::Session;
use super::stats::ServedStats;
use super::table::Room;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::ServeMode;
use crate::proto::{Content, Credit, Flags};
use crate::topic::{EntryId, Scratch, Topic, TopicPattern, Trie};

/// One served topic.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) topic: Topic,
    budget: Arc<Budget>,
    state: Mutex<ServiceState>,
}

/// What a session of the bus's own serves to become the uplink.
pub(crate) const UPLINK: &str = "$bus/uplink";

/// What a session of the bus's own serves to be asked which topics are served elsewhere.
pub(crate) const UPLINK_TOPICS: &str = "$bus/uplink/topics";

#[derive(Debug, Default)]
struct ServiceState {
    group: Option<String>,
    /// How its first server, or the one that replaced those before, has come.
    mode: ServeMode,
    /// Tells its first server, or the one that replaced those before, from all others of the bus.
    number: u64,
    members: VecDeque<Server>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The sweeper knows of what waits.
    watched: bool,
    /// Its part of the byte budget.
    share: Share,
}

/// A session that serves a topic.
#[derive(Debug)]
struct Server {
    session: Arc<Session>,
    id: u32,
    window: (u32, u64),
    credit: Credit,
}

impl Server {
    fn is(&self, session: &Session, id: u32) -> bool {
        self.session.id == session.id && self.id == id
    }

    /// Whether its connection is gone, and it was the same principal's as this session is.
    fn is_ghost_of(&self, session: &Session) -> bool {
        self.session.peer.principal.is_also(&session.peer.principal) && self.session.lock().is_lost()
    }
}

/// A request that waits for a server that can take it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) requester: Arc<Session>,
    pub(crate) request: u32,
    pub(crate) content: Arc<Content>,
    pub(crate) flags: Flags,
    /// What stands for the topic that is asked for, where that is not the service's.
    pub(crate) elsewhere: Option<Arc<Service>>,
    pub(crate) deadline: Instant,
    /// Bytes of the frame that a server will get.
    pub(crate) size: usize,
}

impl Waiting {
    /// What stands for the topic that is asked for.
    pub(super) fn about<'a>(&'a self, service: &'a Service) -> &'a Service {
        self.elsewhere.as_deref().unwrap_or(service)
    }
}

/// The server that a request goes to.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) session: Arc<Session>,
    pub(crate) serving: u32,
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Choice {
    /// To this server.
    Server(Chosen),
    /// It waits; whether the sweeper watches the service already.
    Waits { watched: bool },
}

/// Who wants to serve, and how.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) session: &'a Arc<Session>,
    pub(crate) id: u32,
    pub(crate) window: (u32, u64),
    pub(crate) group: Option<&'a str>,
    pub(crate) mode: ServeMode,
}

impl Service {
    /// What stands for a topic of another bus that the uplink is asked for: nobody joins it, and no table has it.
    pub(super) fn elsewhere(topic: Topic, budget: Arc<Budget>) -> Self {
        Self { topic, budget, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, ServiceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_uplink(&self) -> bool {
        self.topic.as_str() == UPLINK
    }

    /// Whether it is asked which topics are served elsewhere.
    pub(super) fn tells_topics(&self) -> bool {
        self.topic.as_str() == UPLINK_TOPICS
    }

    /// The topic to name in errors of a request to `asked`, which may be a pattern.
    pub(crate) fn named(&self, asked: &[u8]) -> String {
        match self.is_uplink() || self.tells_topics() {
            true => String::from_utf8_lossy(asked).into_owned(),
            false => self.topic.to_string(),
        }
    }

    /// The next server with credit and room on its link; the credit is spent for `size` bytes. If there is
    /// none the request waits, unless too much does already.
    pub(crate) fn choose(
        &self,
        asked: &[u8],
        size: usize,
        wait: impl FnOnce() -> Waiting,
    ) -> BusResult<Choice> {
        let mut state = self.lock();
        if state.waiting.is_empty()
            && let Some(chosen) = state.next_server(size)
        {
            return Ok(Choice::Server(chosen));
        }
        if state.members.is_empty() {
            return Err(BusError::NoServer { topic: self.named(asked) });
        }
        let bytes = limits::REQUEST_BYTES_PER_SESSION.min(self.budget.per_session());
        let full = state.waiting.len() >= limits::REQUESTS_WAITING_PER_SERVICE
            || (!state.waiting.is_empty() && state.waiting_bytes + size > bytes);
        if full {
            return Err(BusError::Overloaded {
                what: format!("{} requests wait for the server of \"{}\"", state.waiting.len(), self.topic),
            });
        }
        state.waiting_bytes += size;
        state.waiting.push_back(wait());
        state.account(&self.budget);
        Ok(Choice::Waits { watched: std::mem::replace(&mut state.watched, true) })
    }

    /// Notes at the session that it serves here, unless another session has taken over since it joined:
    /// that one would have found nothing to take back.
    pub(crate) fn note_at(self: &Arc<Self>, session: &Session, id: u32, room: Option<Room>) {
        let state = self.lock();
        if state.members.iter().any(|server| server.is(session, id)) {
            session.lock().servings.insert(id, Arc::clone(self), room);
        }
    }

    /// Whether this server is there.
    pub(super) fn has(&self, session: &Session, id: u32) -> bool {
        self.lock().members.iter().any(|server| server.is(session, id))
    }

    /// Adds credit to a server.
    pub(crate) fn grant(&self, session: &Session, id: u32, messages: u32, bytes: u64) {
        let mut state = self.lock();
        if let Some(server) = state.members.iter_mut().find(|server| server.is(session, id)) {
            server.credit.grant_within(messages, bytes, server.window);
        }
    }

    /// The next request that waits, with the server that can take it.
    pub(crate) fn next_waiting(&self) -> Option<(Waiting, Chosen)> {
        let mut state = self.lock();
        let size = state.waiting.front()?.size;
        let chosen = state.next_server(size)?;
        let waiting = state.waiting.pop_front()?;
        state.waiting_bytes = state.waiting_bytes.saturating_sub(size);
        state.account(&self.budget);
        Some((waiting, chosen))
    }

    /// Gives back the credit that was spent for a request which is not sent after all.
    pub(crate) fn refund(&self, chosen: &Chosen, size: usize) {
        self.grant(&chosen.session, chosen.serving, 1, size as u64);
    }

    /// Takes out the requests for which `keep` is false; returns whether others still wait and the
    /// service is to be watched on.
    pub(crate) fn prune(&self, mut keep: impl FnMut(&Waiting) -> bool) -> bool {
        let mut pruned = Vec::new();
        let mut state = self.lock();
        let ServiceState { waiting, waiting_bytes, .. } = &mut *state;
        for entry in std::mem::take(waiting) {
            if keep(&entry) {
                waiting.push_back(entry);
            } else {
                *waiting_bytes = waiting_bytes.saturating_sub(entry.size);
                pruned.push(entry);
            }
        }
        let left = !waiting.is_empty();
        state.watched = left;
        state.account(&self.budget);
        drop(state);
        drop(pruned);
        left
    }

    /// How it is served now.
    pub(super) fn served(&self) -> Served {
        let state = self.lock();
        Served { group: state.group.clone(), mode: state.mode, number: state.number }
    }

    fn stats(&self) -> ServedStats {
        let state = self.lock();
        ServedStats {
            topic: self.topic.to_string(),
            group: state.group.clone(),
            sessions: state.members.iter().map(|server| server.session.id).collect(),
            waiting: state.waiting.len(),
        }
    }
}

impl ServiceState {
    fn account(&mut self, budget: &Budget) {
        self.share.follow(self.waiting_bytes, budget);
    }

    /// Whether all servers are what this session was before: one that was restarted need not wait until that is given up.
    fn is_given_up_to(&self, session: &Session) -> bool {
        self.members.iter().all(|server| server.is_ghost_of(session))
    }

    fn next_server(&mut self, size: usize) -> Option<Chosen> {
        for _ in 0..self.members.len() {
            let server = self.members.front_mut()?;
            if server.credit.is_left() && server.session.lock().has_room_for(server.id) {
                server.credit.spend(size);
                let chosen = Chosen { session: Arc::clone(&server.session), serving: server.id };
                self.members.rotate_left(1);
                return Some(chosen);
            }
            self.members.rotate_left(1);
        }
        None
    }
}

/// What one session serves, by its ids.
#[derive(Debug, Default)]
pub(crate) struct Servings {
    by_id: HashMap<u32, (Arc<Service>, Option<Room>), RandomState>,
    /// Bytes that they take of the table budget.
    table_bytes: usize,
}

impl Servings {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Arc<Service>> {
        self.by_id.get(&id).map(|(service, _)| service)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Service>)> {
        self.by_id.iter().map(|(id, (service, _))| (*id, service))
    }

    fn insert(&mut self, id: u32, service: Arc<Service>, room: Option<Room>) {
        self.table_bytes += room.as_ref().map_or(0, Room::bytes);
        self.by_id.insert(id, (service, room));
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Arc<Service>> {
        let (service, room) = self.by_id.remove(&id)?;
        self.table_bytes = self.table_bytes.saturating_sub(room.as_ref().map_or(0, Room::bytes));
        Some(service)
    }

    /// Takes all of them out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (u32, Arc<Service>)> + use<> {
        let taken = std::mem::take(self);
        taken.by_id.into_iter().map(|(id, (service, _))| (id, service))
    }
}

/// What became of a wish to serve.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) service: Arc<Service>,
    /// Servers that were replaced, by session and serving id.
    pub(crate) replaced: Vec<(Arc<Session>, u32)>,
}

/// A service that was ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) service: Arc<Service>,
    /// Its servers, by session and serving id.
    pub(super) servers: Vec<(Arc<Session>, u32)>,
    pub(super) waiting: VecDeque<Waiting>,
}

/// All served topics.
#[derive(Debug, Default)]
pub(crate) struct Services {
    table: RwLock<Table>,
    pub(super) changes: ServedChanges,
}

#[derive(Debug, Default)]
struct Table {
    by_topic: HashMap<Topic, (Arc<Service>, EntryId), RandomState>,
    trie: Trie<Arc<Service>>,
    uplink: Option<Arc<Service>>,
    uplink_topics: Option<Arc<Service>>,
    /// How often a topic has got a first server, or another in place of all.
    last_number: u64,
}

impl Table {
    fn find(&self, topic: &Topic) -> Option<&Arc<Service>> {
        match topic.as_str() {
            UPLINK => self.uplink.as_ref(),
            UPLINK_TOPICS => self.uplink_topics.as_ref(),
            _ => self.by_topic.get(topic).map(|(service, _)| service),
        }
    }

    /// The place of a service that is not found by its topic.
    fn place_beside(&mut self, topic: &Topic) -> Option<&mut Option<Arc<Service>>> {
        match topic.as_str() {
            UPLINK => Some(&mut self.uplink),
            UPLINK_TOPICS => Some(&mut self.uplink_topics),
            _ => None,
        }
    }

    fn insert(&mut self, service: &Arc<Service>) -> BusResult<()> {
        if let Some(place) = self.place_beside(&service.topic) {
            *place = Some(Arc::clone(service));
            return Ok(());
        }
        let topic = service.topic.clone();
        let entry = self
            .trie
            .insert(&TopicPattern::from(topic.clone()), Arc::clone(service))
            .map_err(|full| BusError::LimitReached { what: full.to_string() })?;
        self.by_topic.insert(topic, (Arc::clone(service), entry));
        Ok(())
    }

    /// Takes a service out, unless another one has come in its place.
    fn remove(&mut self, service: &Arc<Service>) {
        if !self.find(&service.topic).is_some_and(|current| Arc::ptr_eq(current, service)) {
            return;
        }
        if let Some(place) = self.place_beside(&service.topic) {
            *place = None;
        } else if let Some((_, entry)) = self.by_topic.remove(&service.topic) {
            self.trie.remove(entry);
        }
    }
}

impl Services {
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who serves the topic.
    pub(crate) fn find(&self, topic: &str) -> Option<Arc<Service>> {
        self.read().by_topic.get(topic).map(|(service, _)| Arc::clone(service))
    }

    /// Who gets the requests to topics that nobody serves here.
    pub(crate) fn uplink(&self) -> Option<Arc<Service>> {
        self.read().uplink.clone()
    }

    /// Who is asked which topics are served elsewhere.
    pub(super) fn uplink_topics(&self) -> Option<Arc<Service>> {
        self.read().uplink_topics.clone()
    }

    /// How a topic is served; `None` where it is not.
    pub(super) fn served(&self, topic: &Topic) -> Option<Served> {
        self.find(topic.as_str()).map(|service| service.served())
    }

    /// All served topics but the bus's own, and how they are served.
    pub(super) fn all_served(&self) -> Vec<(Topic, Served)> {
        let table = self.read();
        let served = table.by_topic.iter().filter(|(topic, _)| !topic.is_reserved());
        served.map(|(topic, (service, _))| (topic.clone(), service.served())).collect()
    }

    /// The services whose topic the pattern meets, as many as `most` at the most, and the steps that it took to find them.
    /// The look-up goes in pieces, between which the lock is free.
    pub(crate) fn meeting(
        &self,
        pattern: &TopicPattern,
        most: usize,
    ) -> BusResult<(Vec<Arc<Service>>, usize)> {
        let pattern = pattern.as_str();
        let mut services = Vec::new();
        let mut scratch = Scratch::new();
        let mut steps = 0;
        self.read().trie.begin(pattern, &mut scratch);
        while services.len() < most {
            let found = |service: &Arc<Service>| services.push(Arc::clone(service));
            let piece = self.read().trie.proceed(pattern, &mut scratch, limits::LOOKUP_HOLD, found);
            let progress = piece.map_err(|wide| BusError::LimitReached { what: wide.to_string() })?;
            steps += progress.steps;
            if progress.done {
                break;
            }
            if steps >= limits::SCATTER_STEPS {
                let what = format!(
                    "to find who serves \"{pattern}\" leads through more than {} places among the served \
                     topics; name more of the topic",
                    limits::SCATTER_STEPS
                );
                return Err(BusError::LimitReached { what });
            }
        }
        services.truncate(most);
        Ok((services, steps))
    }

    /// Whether a session may be the only server of the topic by now.
    ///
    /// # Errors
    /// That it has one.
    pub(super) fn check_free(&self, topic: &Topic, session: &Session, mode: ServeMode) -> BusResult<()> {
        match self.find(topic.as_str()) {
            Some(service) if mode != ServeMode::TakeOver && !service.lock().is_given_up_to(session) => {
                Err(BusError::AlreadyServed { topic: topic.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Lets a session serve the topic, alone, in a group or in place of another.
    pub(crate) fn join(&self, topic: &Topic, candidate: &Candidate<'_>) -> BusResult<Joined> {
        let server = Server {
            session: Arc::clone(candidate.session),
            id: candidate.id,
            window: candidate.window,
            credit: Credit::new(candidate.window),
        };
        let mut table = self.write();
        let number = table.last_number + 1;
        let Some(service) = table.find(topic).cloned() else {
            let service = Arc::new(Service {
                topic: topic.clone(),
                budget: candidate.session.shared_budget(),
                state: Mutex::new(ServiceState {
                    group: candidate.group.map(str::to_owned),
                    mode: candidate.mode,
                    number,
                    members: VecDeque::from([server]),
                    waiting: VecDeque::new(),
                    waiting_bytes: 0,
                    watched: false,
                    share: Share::default(),
                }),
            });
            table.insert(&service)?;
            table.last_number = number;
            self.changes.note(topic);
            return Ok(Joined { service, replaced: Vec::new() });
        };
        let mut state = service.lock();
        let mut replaced = Vec::new();
        let joins = candidate.group.is_some() && state.group.as_deref() == candidate.group;
        if candidate.mode == ServeMode::TakeOver || !joins {
            if candidate.mode != ServeMode::TakeOver && !state.is_given_up_to(candidate.session) {
                return Err(BusError::AlreadyServed { topic: topic.to_string() });
            }
            replaced = state.members.drain(..).map(|server| (server.session, server.id)).collect();
            state.group = candidate.group.map(str::to_owned);
            state.mode = candidate.mode;
            state.number = number;
            table.last_number = number;
            self.changes.note(topic);
        }
        state.members.push_front(server);
        drop(state);
        Ok(Joined { service, replaced })
    }

    /// Takes a server out; the service goes with its last one. Returns the requests that waited for it.
    pub(crate) fn leave(&self, service: &Arc<Service>, session: &Session, id: u32) -> VecDeque<Waiting> {
        let mut table = self.write();
        let mut state = service.lock();
        state.members.retain(|server| !server.is(session, id));
        if !state.members.is_empty() {
            return VecDeque::new();
        }
        table.remove(service);
        self.changes.note(&service.topic);
        state.waiting_bytes = 0;
        state.account(&service.budget);
        std::mem::take(&mut state.waiting)
    }

    /// Takes all servers of a topic out, if it is still served like this. Returns them, and the requests that waited.
    pub(super) fn end(&self, topic: &Topic, served: &Served) -> Option<Ended> {
        let mut table = self.write();
        let service = table.by_topic.get(topic).map(|(service, _)| Arc::clone(service))?;
        if service.served() != *served {
            return None;
        }
        table.remove(&service);
        self.changes.note(topic);
        let mut state = service.lock();
        let servers = state.members.drain(..).map(|server| (server.session, server.id)).collect();
        state.waiting_bytes = 0;
        state.account(&service.budget);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        Some(Ended { service, servers, waiting })
    }

    /// Requests that wait for a server that can take them.
    pub(crate) fn waiting(&self) -> usize {
        let table = self.read();
        let services = table
            .by_topic
            .values()
            .map(|(service, _)| service)
            .chain(&table.uplink)
            .chain(&table.uplink_topics);
        services.map(|service| service.lock().waiting.len()).sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.read().by_topic.len()
    }

    pub(crate) fn stats(&self) -> Vec<ServedStats> {
        let services: Vec<_> =
            self.read().by_topic.values().map(|(service, _)| Arc::clone(service)).collect();
        services.iter().map(|service| service.stats()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::TableBudget;
    use super::*;

    fn candidate(session: &Arc<Session>, mode: ServeMode) -> Candidate<'_> {
        Candidate { session, id: 1, window: (1, 1024), group: None, mode }
    }

    #[test]
    fn a_server_that_is_replaced_before_its_serving_is_noted_keeps_none() {
        let services = Services::default();
        let topic = Topic::new("work").unwrap();
        let ((one, _peer), (other, _other_peer)) = (Session::alone(1), Session::alone(2));
        let first = services.join(&topic, &candidate(&one, ServeMode::Join)).unwrap();
        let second = services.join(&topic, &candidate(&other, ServeMode::TakeOver)).unwrap();
        assert_eq!(second.replaced.len(), 1);
        let table = Arc::new(TableBudget::new(usize::MAX));
        let room = || Some(table.reserve(&topic.clone().into(), None, 0).unwrap());
        first.service.note_at(&one, 1, room());
        second.service.note_at(&other, 1, room());
        assert_eq!((one.lock().servings.len(), other.lock().servings.len()), (0, 1));
        assert_eq!(table.used(), other.lock().servings.table_bytes());
    }

    #[test]
    fn what_a_scattered_request_meets_is_sought_within_bounds() {
        let services = Services::default();
        let (session, _peer) = Session::alone(1);
        let candidate = candidate(&session, ServeMode::Join);
        let serve = |topic: String| services.join(&Topic::new(topic).unwrap(), &candidate).unwrap();
        let meeting =
            |pattern: &str| services.meeting(&TopicPattern::new(pattern).unwrap(), limits::SCATTER_LIMIT);
        for number in 0..limits::SCATTER_LIMIT * 2 {
            serve(format!("{number}/part"));
        }
        let (found, steps) = meeting("17/*").unwrap();
        assert!(found.len() == 1 && steps < 10, "{} in {steps}", found.len());
        let (found, steps) = meeting("**").unwrap();
        assert_eq!(found.len(), limits::SCATTER_LIMIT, "it stops with the last that is asked");
        assert!(steps < limits::SCATTER_LIMIT * 8, "{steps}");
        serve("needle/whole".to_owned());
        assert_eq!(meeting("*/whole").unwrap().0.len(), 1);
        for number in limits::SCATTER_LIMIT * 2..limits::SCATTER_STEPS {
            serve(format!("{number}/part"));
        }
        let refused = meeting("*/whole").map(|(found, _)| found.len());
        assert!(
            matches!(&refused, Err(BusError::LimitReached { what }) if what.contains("*/whole")),
            "{refused:?}"
        );
    }
}
