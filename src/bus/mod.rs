//! The bus: sessions, routing, queues and requests.
//!
//! A message's way through, file by file:
//!
//! 1. `supervisor` accepts links, and `opening` makes a session of each; `handshakes` and `places` bound them;
//! 2. `task` owns one link: it reads what has arrived and hands each frame on;
//! 3. `publish` finds the targets (`router`) and offers them the message; `underway` does so in pieces
//!    where it takes long;
//! 4. `subscription` spends credit and queues the frame, or leaves it to the policy (`backlog`);
//! 5. `session` writes what is queued, once per turn and destination.
//!
//! `calls` is everything else that a session asks for, `requests`, `service`, `answers` and `scatter` are
//! request/response,
//! `group` shares messages, `request_times` counts how long they take, `deadlines` keeps the times of a session and `sweeper` those outside of
//! any. `drain` ends a bus in good order, `certificates` looks again at what clients have shown,
//! `plugged` is where plugins have their say, `deputy` publishes what is due later, `will` what a session leaves,
//! `presence` who comes and goes, `claims` asks those who join buses who may serve a topic alone, `wishes` asks them for links to buses that have shared consumers, `view` is what others in the process have of a bus, `companion` those that run beside it, `links` what they report, `own_certificate` tells of the end of the bus's own, and `introspect` is a session of the bus's own that answers
//! questions about it. `metrics` shows all of it to Prometheus.
//!
//! Locks, in the order in which they may be nested: the counts of sessions that have ended, the routing
//! table or the table of services or the list of sessions, then a group or service, then one session.
//! Two sessions are never locked at once.

mod answers;
mod backlog;
mod budget;
mod builder;
mod calls;
mod certificates;
mod claims;
mod clock;
mod companion;
mod deadlines;
mod deputy;
mod drain;
mod ending;
mod group;
mod handle;
mod handshakes;
mod hold;
mod interest;
mod introspect;
mod links;
#[cfg(feature = "metrics")]
pub mod metrics;
mod opening;
mod own_certificate;
mod places;
mod plugged;
mod presence;
mod publish;
mod request_times;
mod requests;
mod rights;
mod router;
mod scatter;
mod served;
mod service;
mod session;
mod settings;
mod stats;
mod streams;
mod subscription;
mod supervisor;
mod sweeper;
mod table;
mod task;
mod underway;
mod view;
mod will;
mod wishes;
mod workers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::watch;
use tokio::time::Instant;

pub use builder::{Bus, BusBuilder, listen_and_serve_memory, listen_and_serve_tcp, listen_and_serve_unix};
pub use claims::{ServeClaim, ServeClaims};
pub use handle::BusHandle;
pub use interest::Interest;
pub use introspect::StopRequest;
pub use links::{LinkReport, LinkStats};
pub use served::{Served, ServedNews, ServedWatch};
pub use settings::{Applied, Settings};
pub use stats::{
    BusStats, ClusterBus, ClusterStats, ConsumerStats, Dropped, Rows, ServedStats, SessionStats, StreamStats,
    SubscriptionStats,
};
pub use view::BusView;
pub use wishes::{LinkWish, LinkWishes};

use self::budget::Budget;
use self::certificates::Inspection;
use self::deputy::Deputy;
use self::drain::Drain;
use self::handshakes::Handshakes;
use self::places::Places;
use self::presence::Presence;
use self::request_times::RequestTimes;
use self::rights::Policies;
use self::router::Router;
use self::service::Services;
use self::session::Session;
use self::settings::Live;
use self::stats::Totals;
pub use self::streams::{StreamChange, StreamChanged, Streams};
use self::sweeper::Sweeper;
use self::table::TableBudget;
use crate::auth::Principal;
use crate::error::{BusError, ErrorClass};
pub use crate::plugin::PluginStats;
use crate::plugin::Plugins;

/// What all parts of one bus share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// As the bus was started. What stands in `live` may have changed since.
    pub(crate) settings: Settings,
    live: RwLock<Live>,
    policies: Policies,
    places: Places,
    #[cfg(feature = "tls")]
    tls: Option<Arc<crate::transport::LiveTls>>,
    pub(crate) id: u64,
    started: Instant,
    addresses: Vec<String>,
    own_uid: Option<u32>,
    router: Router,
    streams: Streams,
    services: Services,
    budget: Arc<Budget>,
    /// What subscriptions take.
    table: Arc<TableBudget>,
    /// Publishes that the bus has taken in and not given to all their matches yet.
    publishes_waiting: AtomicUsize,
    sweeper: Sweeper,
    deputy: Deputy,
    presence: Arc<Presence>,
    inspection: Inspection,
    handshakes: Handshakes,
    sessions: Mutex<HashMap<u64, Arc<Session>, RandomState>>,
    next_session: AtomicU64,
    next_token: AtomicU64,
    request_times: RequestTimes,
    /// Links that are open, those in the handshake included.
    links: AtomicUsize,
    /// Those that have a session, without the bus's own.
    session_places: AtomicUsize,
    /// Counts of sessions that have ended.
    past: Mutex<Totals>,
    cut_off: AtomicU64,
    draining: AtomicBool,
    /// Says how far a drain is to who waits for that.
    drains: watch::Sender<Drain>,
    /// Publishes go one by one: the bus drains, or plugins want to see each.
    alone: AtomicBool,
    plugins: Option<Arc<Plugins>>,
    /// An administrator has asked the bus to stop, and what is in flight may take so long.
    stop_asked: watch::Sender<Option<Duration>>,
    /// What is reported of links to other systems.
    reported: links::Links,
    /// Whoever decides with other buses who is the only server of a topic.
    deciding: claims::Deciding,
    /// Whoever brings links to buses that have consumers of shared stores.
    wishing: Arc<wishes::Wishing>,
    /// How many companions run.
    companions: watch::Sender<usize>,
}

impl Shared {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether publishes may be taken as one that came one after the other.
    fn takes_runs(&self) -> bool {
        !self.alone.load(Ordering::Relaxed)
    }

    /// The settings that can be changed while the bus runs, as they are now.
    fn live(&self) -> Live {
        *self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_uid(&self) -> Option<u32> {
        self.own_uid
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Arc<Session>, RandomState>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All sessions but the bus's own, in the order in which they began.
    fn clients(&self) -> Vec<Arc<Session>> {
        let mut clients = self.clients_in_any_order();
        clients.sort_unstable_by_key(|session| session.id);
        clients
    }

    fn clients_in_any_order(&self) -> Vec<Arc<Session>> {
        let sessions = self.sessions();
        sessions.values().filter(|session| session.peer.principal != Principal::Bus).cloned().collect()
    }

    /// The bus's own sessions.
    fn own_sessions(&self) -> Vec<Arc<Session>> {
        let sessions = self.sessions();
        sessions.values().filter(|session| session.peer.principal == Principal::Bus).cloned().collect()
    }

    fn past(&self) -> MutexGuard<'_, Totals> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a session off the list and keeps its counts.
    fn session_ended(&self, session: &Session, reason: &BusError) {
        let peer = {
            let mut past = self.past();
            self.sessions().remove(&session.id);
            let state = session.lock();
            past.add(&state.totals);
            state.peer.principal.clone()
        };
        match reason.class() {
            ErrorClass::Peer => {
                self.cut_off.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(session = session.id, %peer, %reason, "cut off");
            }
            _ => {
                tracing::debug!(session = session.id, %peer, %reason, "session ended")
            }
        }
    }

    /// Ends every session.
    fn stop_sessions(&self) {
        let sessions: Vec<_> = self.sessions().values().cloned().collect();
        for session in sessions {
            session.cut_off(BusError::Closed { what: "the bus".into() });
        }
    }
}
