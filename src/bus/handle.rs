//! A running bus, as its owner sees it.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
#[cfg(feature = "tls")]
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::settings::Live;
use super::stats::{Rows, dropped_by_name};
use super::supervisor::Phase;
use super::{Applied, BusStats, BusView, ServedStats, SessionStats, Settings, Shared, SubscriptionStats};
use crate::auth::Policy;
use crate::error::BusResult;
use crate::limits;
use crate::transport::{Accepted, Address, Link, MemoryConnector, Peer};

/// A running bus. Dropping it stops the bus.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let bus = Bus::builder().start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// client.ping().await?;
/// assert_eq!(bus.stats().sessions, 1);
/// bus.stop().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the handle stops the bus"]
pub struct BusHandle {
    shared: Arc<Shared>,
    connector: MemoryConnector,
    local: Vec<Address>,
    view: BusView,
    phase: watch::Sender<Phase>,
    task: Option<JoinHandle<()>>,
    introspection: JoinHandle<()>,
}

impl BusHandle {
    pub(super) fn new(
        shared: Arc<Shared>,
        connector: MemoryConnector,
        local: Vec<Address>,
        attach: mpsc::Sender<Accepted>,
        phase: watch::Sender<Phase>,
        task: JoinHandle<()>,
        introspection: JoinHandle<()>,
    ) -> Self {
        let view = BusView::new(&shared, attach, phase.subscribe());
        Self { shared, connector, local, view, phase, task: Some(task), introspection }
    }

    #[cfg(any(test, feature = "metrics"))]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What clients in this process connect with.
    #[must_use]
    pub fn connector(&self) -> MemoryConnector {
        self.connector.clone()
    }

    /// Serves a link that someone else accepted, on behalf of `peer`.
    ///
    /// # Errors
    /// [`BusError::Overloaded`](crate::BusError::Overloaded) when too many links wait to be taken over, [`BusError::Closed`](crate::BusError::Closed) when
    /// the bus has stopped.
    pub fn attach(&self, link: Link, peer: Peer) -> BusResult<()> {
        self.view.attach(link, peer)
    }

    /// What others in this process may have of the bus, as a gateway that attaches links to it. It does not keep the bus alive.
    #[must_use]
    pub fn view(&self) -> BusView {
        self.view.clone()
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn local_addrs(&self) -> &[Address] {
        &self.local
    }

    /// The state of the bus now.
    #[must_use]
    pub fn stats(&self) -> BusStats {
        self.shared.stats()
    }

    /// The sessions now, in the order in which they connected.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionStats> {
        self.shared.session_stats(usize::MAX).rows
    }

    /// The subscriptions now.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<SubscriptionStats> {
        self.shared.subscription_stats(usize::MAX).rows
    }

    /// The served topics now.
    #[must_use]
    pub fn served(&self) -> Vec<ServedStats> {
        self.shared.served_stats(usize::MAX).rows
    }

    /// Changes the settings of the running bus, as far as that can be done without ending connections, and
    /// tells what became of each that differs.
    ///
    /// These change: [`allow_block`](Settings::allow_block), [`max_servings`](Settings::max_servings) and
    /// [`max_consumers_per_principal`](Settings::max_consumers_per_principal) for what is asked for from now on; [`max_sessions`](Settings::max_sessions),
    /// [`handshake_timeout`](Settings::handshake_timeout) and [`keep_alive`](Settings::keep_alive) for
    /// connections that are made from now on; [`stall_limit`](Settings::stall_limit) for all. What there is
    /// beyond a lowered limit stays. The other settings are told to clients when they connect, or are the
    /// size of something that exists: they need a restart.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) for settings that [`Settings::check`] refuses; nothing has changed then.
    ///
    /// # Examples
    /// ```
    /// use whispeer::bus::Settings;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let settings = Settings { max_sessions: 10, frame_limit: 1024 * 1024, ..Settings::default() };
    /// let applied = bus.apply(&settings)?;
    /// assert_eq!(applied.now, ["max_sessions"]);
    /// assert_eq!(applied.at_restart, ["frame_limit"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply(&self, settings: &Settings) -> BusResult<Applied> {
        settings.check()?;
        let asked = Live::of(settings);
        let before = {
            let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *live, asked)
        };
        Ok(Applied {
            now: before.differences(&asked),
            at_restart: self.shared.settings.fixed_differences(settings),
        })
    }

    /// Replaces the policy. Sessions that are there go on with the rights that they have by the new one:
    /// subscriptions and servings that are not allowed any more end with [`BusError::Denied`](crate::BusError::Denied), and so do sessions
    /// that would not be let in.
    pub fn set_policy(&self, policy: Policy) {
        self.shared.policies.replace(policy.own_uid(self.shared.own_uid()));
        for session in self.shared.sessions().values() {
            session.task.wake();
        }
    }

    /// Reads certificates, keys and lists of revocations again from the files that the bus was started with.
    ///
    /// The files are read before this returns, and hold for connections from then on. What the clients of those that
    /// there are have shown is looked at once more soon after, on a thread of its own: who would not be let in with it
    /// any more is told so by [`BusError::Denied`](crate::BusError::Denied), and his session ends. All others go on.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) that says which file cannot be used, and why; all stays as it was then.
    pub fn reload(&self) -> BusResult<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.shared.tls {
            tls.reload()?;
            self.shared.tell_certificate_end(SystemTime::now());
            self.shared.inspection.begin();
        }
        Ok(())
    }

    /// Takes nothing new, tells clients so, waits until what is in flight has been finished or
    /// `grace` has passed, and stops.
    ///
    /// In flight are unanswered requests, those that wait for a server included, publishes that wait for
    /// the byte budget or are under way, parked messages, those of queue groups included, and bytes that
    /// clients have yet to read. A client whose connection breaks meanwhile may come back to finish its part; whoever
    /// else connects is told [`BusError::Draining`](crate::BusError::Draining).
    ///
    /// # Cancel safety
    /// When dropped, the bus stops at once, as its handle is gone.
    pub async fn drain(mut self, grace: Duration) {
        self.shared.drain(grace).await;
        self.halt().await;
    }

    /// Waits until an administrator has asked the bus to stop, by a [`StopRequest`](super::StopRequest), and tells how
    /// long what is in flight may take to finish. The bus drains by itself then, and [`join`](Self::join) returns.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub fn asked_to_stop(&self) -> impl Future<Output = Duration> + Send + use<> {
        let mut asked = self.shared.stop_asked.subscribe();
        async move {
            match asked.wait_for(Option::is_some).await.map(|asked| *asked) {
                Ok(Some(grace)) => grace,
                // Nobody can ask any more.
                _ => std::future::pending().await,
            }
        }
    }

    /// Stops: closes the listeners, tells every client, and waits until all sessions have ended.
    ///
    /// # Cancel safety
    /// When dropped, the bus stops all the same.
    pub async fn stop(mut self) {
        self.halt().await;
    }

    /// Waits until the bus has ended.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn join(&mut self) {
        if let Some(task) = &mut self.task {
            if let Err(error) = task.await {
                tracing::error!(%error, "the bus ended abnormally");
            }
            self.task = None;
        }
    }

    async fn halt(&mut self) {
        self.phase.send_replace(Phase::Stopped);
        self.join().await;
        self.introspection.abort();
    }
}

impl Drop for BusHandle {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Stopped);
        self.introspection.abort();
    }
}

impl fmt::Debug for BusHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BusHandle").field("addresses", &self.shared.addresses).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn stats(&self) -> BusStats {
        // Held until all are counted, so that a session that ends meanwhile is counted once.
        let past = self.past();
        let clients = self.clients();
        let mut totals = *past;
        let mut requests_in_flight = 0;
        let (mut parked_messages, mut parked_bytes) = self.router.parked_in_groups();
        for session in &clients {
            let state = session.lock();
            totals.add(&state.totals);
            requests_in_flight += state.requests.len();
            parked_messages += state.subscriptions.parked_messages();
            parked_bytes += state.parked_bytes;
        }
        // What it publishes itself has matches, too.
        for own in self.own_sessions() {
            totals.add(&own.lock().totals);
        }
        drop(past);
        let (delayed_messages, delayed_bytes) = self.deputy.held();
        let (subscriptions, cached_routes) = self.router.sizes();
        let turned_away = self.plugins.as_ref().map_or(0, |plugins| plugins.turned_away());
        BusStats {
            version: env!("CARGO_PKG_VERSION").into(),
            bus_id: self.id,
            uptime: self.started.elapsed(),
            addresses: self.addresses.clone(),
            certificate_until: self.certificate_until(),
            draining: self.is_draining(),
            sessions: clients.len(),
            sessions_total: self
                .next_session
                .load(Ordering::Relaxed)
                .saturating_sub(2 + turned_away + self.deputy.sessions()),
            sessions_cut_off: self.cut_off.load(Ordering::Relaxed),
            subscriptions,
            served_topics: self.services.len().saturating_sub(super::introspect::TOPICS.len()),
            cached_routes,
            requests_in_flight,
            requests_waiting: self.services.waiting(),
            queued_bytes: self.budget.used(),
            byte_budget: self.settings.byte_budget,
            table_bytes: self.table.used(),
            table_budget: self.settings.table_budget,
            parked_messages,
            parked_bytes,
            delayed_messages,
            delayed_bytes,
            lapsed: self.deputy.lapsed(),
            published: totals.published,
            published_bytes: totals.published_bytes,
            failed_publishes: totals.failed_publishes,
            matched: totals.matched,
            delivered: totals.delivered,
            delivered_bytes: totals.delivered_bytes,
            untaken: totals.untaken,
            dropped: dropped_by_name(&totals.dropped),
            requests: totals.requests,
            failed_requests: totals.failed_requests,
            plugins: self.plugins.as_ref().map(|plugins| plugins.stats()).unwrap_or_default(),
            links: self.reported.stats(),
        }
    }

    pub(super) fn session_stats(&self, limit: usize) -> Rows<SessionStats> {
        let clients = self.clients();
        let left_out = clients.len().saturating_sub(limit);
        let rows = clients.iter().take(limit).map(|session| {
            let state = session.lock();
            SessionStats {
                id: session.id,
                name: session.name.clone(),
                principal: state.peer.principal.clone(),
                transport: state.peer.transport.into(),
                connected: !state.is_lost(),
                subscriptions: state.subscriptions.len(),
                servings: state.servings.len(),
                requests_in_flight: state.in_flight(),
                queued_bytes: state.lanes.waiting(),
                parked_bytes: state.parked_bytes,
                table_bytes: state.table_bytes(),
                published: state.totals.published,
                delivered: state.totals.delivered,
                dropped: dropped_by_name(&state.totals.dropped),
            }
        });
        Rows { rows: rows.collect(), left_out }
    }

    pub(super) fn subscription_stats(&self, limit: usize) -> Rows<SubscriptionStats> {
        let (mut rows, mut left_out) = (Vec::new(), 0);
        for session in self.clients() {
            let state = session.lock();
            for own in state.subscriptions.iter() {
                if rows.len() >= limit {
                    left_out += 1;
                    continue;
                }
                rows.push(SubscriptionStats {
                    session: session.id,
                    id: own.id,
                    pattern: own.pattern.to_string(),
                    group: own.group.as_ref().map(|group| group.name.clone()),
                    policy: own.policy.name().into(),
                    matched: own.matched,
                    delivered: own.delivered,
                    dropped: dropped_by_name(&own.dropped),
                    parked: own.backlog.messages() as u64,
                    credit: own.credit.messages,
                    lagging: own.backlog.is_lagging(),
                });
            }
        }
        Rows { rows, left_out }
    }

    pub(super) fn served_stats(&self, limit: usize) -> Rows<ServedStats> {
        let mut rows = self.services.stats();
        rows.retain(|served| !served.topic.starts_with('$'));
        rows.sort_unstable_by(|one, other| one.topic.cmp(&other.topic));
        let left_out = rows.len().saturating_sub(limit);
        rows.truncate(limit);
        Rows { rows, left_out }
    }
}

/// Rows of one introspection reply.
pub(super) const ROWS: usize = limits::INTROSPECTION_ROWS;
