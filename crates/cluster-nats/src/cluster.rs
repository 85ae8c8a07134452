//! The link of a bus to the others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client as Nats;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use whispeer::auth::Principal;
use whispeer::bus::{BusView, LinkStats};
use whispeer::client::{Client, SubscribeOptions};
use whispeer::transport::Peer;
use whispeer::{BusError, BusResult};

use crate::connection::Connection;
use crate::error::NatsError;
use crate::inbound::{AGAIN, Inbound, InboundCounts, Kept};
use crate::limits;
use crate::members::{self, Members};
use crate::outbound::{Outbound, OutboundCounts};
use crate::overview::Overview;
use crate::presence;
use crate::requests::{self, LeaseSettings, Requests};
use crate::scattered::Scattered;
use crate::settings::NatsSettings;
use crate::subject::Subjects;
use crate::tunnels::Tunnels;

/// What the link is called where the state of links is shown.
const NAME: &str = "nats";

/// What a link has carried so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NatsCounts {
    /// Messages of this bus that NATS was handed, marks included.
    pub sent: u64,
    /// Messages of this bus that it was not, as it was away or too slow: gaps elsewhere.
    pub dropped: u64,
    /// Messages of this bus that it does not take, as they are too large: gaps elsewhere.
    pub too_large: u64,
    /// Topics of this bus that were forgotten while others could not know yet whether messages of them were lost.
    pub forgotten: u64,
    /// Messages of others that were published at this bus.
    pub received: u64,
    /// Messages of others that are missing: gaps at this bus, where somebody has subscribed to them.
    pub missing: u64,
    /// Messages of others that could not be published at this bus: gaps here as well.
    pub refused: u64,
    /// Messages of others that were dropped, as this bus does not take them as fast as they come. Those that have numbers are missing as well.
    pub overrun: u64,
    /// Patterns that are subscribed to at NATS by now.
    pub patterns: u64,
    /// Other buses that are there.
    pub buses: u64,
    /// How often a bus has not said in time what is served there, when it was asked for requests to many servers: those there were not asked.
    pub unheard: u64,
}

/// Makes a bus one of several that have the same servers of NATS and the same prefix: what is published at one of them reaches subscribers
/// at all, and a request finds its server wherever it is.
///
/// It joins the bus as sessions of its own and runs until that drains or stops. While NATS is away the bus serves its own; others are told as gaps
/// what they have missed of it.
///
/// # Examples
/// ```no_run
/// use whispeer::prelude::*;
/// use whispeer_cluster_nats::{NatsCluster, NatsSettings};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = NatsCluster::open(&NatsSettings::new("nats://localhost")?).await?;
/// let bus = Bus::builder().companion(|bus| cluster.run(bus)).start()?;
/// # Ok(())
/// # }
/// ```
pub struct NatsCluster {
    connection: Connection,
    subjects: Subjects,
    name: String,
    leases: Option<LeaseSettings>,
    batches: bool,
    counter: NatsCounter,
}

/// Tells what a link has carried and who else is there, also while it runs.
#[derive(Debug, Clone)]
pub struct NatsCounter {
    outbound: Arc<OutboundCounts>,
    inbound: Arc<InboundCounts>,
    unheard: Arc<AtomicU64>,
    members: watch::Sender<Members>,
}

impl NatsCounter {
    /// The counts now.
    #[must_use]
    pub fn counts(&self) -> NatsCounts {
        let (out, inside) = (&self.outbound, &self.inbound);
        NatsCounts {
            sent: out.sent.load(Ordering::Relaxed),
            dropped: out.dropped.load(Ordering::Relaxed),
            too_large: out.too_large.load(Ordering::Relaxed),
            forgotten: out.forgotten.load(Ordering::Relaxed),
            received: inside.received.load(Ordering::Relaxed),
            missing: inside.missing.load(Ordering::Relaxed),
            refused: inside.refused.load(Ordering::Relaxed),
            overrun: inside.overrun.load(Ordering::Relaxed),
            patterns: inside.patterns.load(Ordering::Relaxed),
            buses: self.members().list().len() as u64,
            unheard: self.unheard.load(Ordering::Relaxed),
        }
    }

    /// The other buses.
    #[must_use]
    pub fn members(&self) -> Members {
        self.members.borrow().clone()
    }
}

impl NatsCluster {
    /// Opens the connection to NATS; it does not wait for it.
    ///
    /// # Errors
    /// As [`Connection::open`].
    ///
    /// # Cancel safety
    /// Nothing is left when the future is dropped.
    pub async fn open(settings: &NatsSettings) -> Result<Self, NatsError> {
        Ok(Self {
            connection: Connection::open(settings).await?,
            subjects: settings.subjects().clone(),
            name: settings.shown_name().to_owned(),
            leases: settings.lease_settings().cloned(),
            batches: settings.sends_batches(),
            counter: NatsCounter {
                outbound: Arc::default(),
                inbound: Arc::default(),
                unheard: Arc::default(),
                members: watch::Sender::new(Members::new(0)),
            },
        })
    }

    /// The connection to NATS.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What tells what the link has carried.
    #[must_use]
    pub fn counter(&self) -> NatsCounter {
        self.counter.clone()
    }

    /// Runs the link until the bus drains or stops. It is for [`BusBuilder::companion`](whispeer::bus::BusBuilder::companion). Where the bus cuts
    /// it off it begins anew, which is logged, and subscribers are told what they have missed.
    ///
    /// # Cancel safety
    /// The link ends when the future is dropped. What was on its way may be lost without others being told, and they count the bus as gone after
    /// three heartbeats.
    pub async fn run(self, bus: BusView) {
        let (connection, counter) = (self.connection.clone(), self.counter.clone());
        let report = bus.report_link(NAME, move || report(&connection, &counter));
        if let Err(error) = &report {
            tracing::warn!(%error, "the state of the link to NATS is not shown");
        }
        let mut left = Left::default();
        while !bus.is_draining() {
            let Err(error) = self.run_once(&bus, &mut left).await else { break };
            if bus.is_draining() {
                break;
            }
            tracing::warn!(%error, "the link to other buses has ended, and begins anew");
            sleep(limits::LINK_AGAIN).await;
        }
        self.connection.close().await;
        drop(report);
    }

    async fn run_once(&self, bus: &BusView, left: &mut Left) -> BusResult<()> {
        let Self { connection, subjects, name, leases, batches, counter } = self;
        let nats = connection.client();
        let own = drawn()?;
        let members = Members::new(own);
        counter.members.send_replace(members.clone());
        let link = bus.connect(Peer::new(Principal::Bus, "nats").relay())?;
        let client = Client::builder().name("nats").no_reconnect().connect_link(link)?;
        let (messages, bytes) = limits::OUTBOUND_WINDOW;
        let options = SubscribeOptions::default().no_echo().window(messages, bytes);
        let published = client.subscribe_content_with("**", options).await?;
        let missed = left.missed(bus)?;
        let interest = bus.interest()?;
        let again = nats.subscribe(subjects.own(AGAIN)).await.map_err(|error| ended("subscribing", error))?;

        // What is published at this bus. It ends with the subscription, when all is sent.
        let (all_sent, mut has_sent) = oneshot::channel::<()>();
        let mut sending = JoinSet::new();
        let outbound = Outbound::new(nats.clone(), subjects.clone(), own, Arc::clone(&counter.outbound))
            .in_batches(*batches)
            .having_missed(missed);
        let drained = bus.drained();
        sending.spawn(async move {
            outbound.run(published, again, drained).await;
            drop(all_sent);
        });
        left.published = None;
        // Requests and replies. It ends when the bus has drained, and what it was asked before is answered.
        let (epochs, epoch) = watch::channel(None);
        let (moves, moved) = watch::channel(0);
        let scattered = Scattered {
            bus: bus.clone(),
            client: client.clone(),
            nats: nats.clone(),
            subjects: subjects.clone(),
            members: members.clone(),
            connection: epoch.clone(),
            silent: Arc::clone(&counter.unheard),
        };
        // Before the others hear of this bus.
        let questions = scattered.listen().await?;
        let carried = Requests {
            bus: bus.clone(),
            nats: nats.clone(),
            subjects: subjects.clone(),
            members: members.clone(),
            connection: epoch.clone(),
            leases: leases.clone(),
            moves: moved,
        };
        let mut carrying = JoinSet::new();
        carrying.spawn(requests::run(carried));
        // All else runs as long as these do.
        let mut others = JoinSet::new();
        let (leave, leaving) = oneshot::channel::<()>();
        let mut present = JoinSet::new();
        present.spawn(say_that_it_is_there(
            (nats.clone(), subjects.clone(), name.clone()),
            members.clone(),
            epoch.clone(),
            (bus.draining(), leaving),
        ));
        let overview = Overview {
            bus: bus.clone(),
            client: client.clone(),
            nats: nats.clone(),
            subjects: subjects.clone(),
            name: name.clone(),
            members: members.clone(),
        };
        others.spawn(overview.run());
        let shown = presence::Presence {
            bus: bus.clone(),
            client: client.clone(),
            nats: nats.clone(),
            subjects: subjects.clone(),
            name: name.clone(),
            members: members.clone(),
        };
        others.spawn(shown.run());
        others.spawn(scattered.run(questions));
        let tunnels = Tunnels {
            bus: bus.clone(),
            nats: nats.clone(),
            subjects: subjects.clone(),
            members: members.clone(),
            connection: epoch,
        };
        others.spawn(tunnels.run());
        others.spawn(tell_epochs(connection.clone(), epochs));
        others.spawn(tell_moves(connection.clone(), moves));
        let inbound = Inbound::new(
            bus.clone(),
            client.clone(),
            nats.clone(),
            subjects.clone(),
            members,
            Arc::clone(&counter.inbound),
            left.kept.clone(),
        );
        let (stop_taking, stopped) = oneshot::channel::<()>();
        let mut taking = JoinSet::new();
        taking.spawn(inbound.run(interest, connection.disturbances(), stopped));

        let outcome = tokio::select! {
            // Where it drains, others of these end as well.
            biased;
            () = bus.draining() => Ok(()),
            _ = sending.join_next() => Err(client.close_reason().unwrap_or_else(|| ended("publishing", "it stopped"))),
            Some(carried) = carrying.join_next() => match carried {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(ended("carrying requests", error)),
                Err(panicked) => Err(ended("carrying requests", panicked)),
            },
            Some(taken) = taking.join_next() => outcome_of(taken),
            Some(other) = others.join_next() => outcome_of(other),
            Some(spoken) = present.join_next() => {
                Err(spoken.err().map_or_else(|| ended("heartbeats", "they stopped"), |panicked| ended("heartbeats", panicked)))
            }
        };
        if outcome.is_err() {
            drop(stop_taking);
            let _ = timeout(limits::LINK_AGAIN, taking.join_next()).await;
            // What it knows of others is left by then, and nothing of theirs is published here any more.
            taking.shutdown().await;
            left.published = bus.stats().ok().map(|stats| stats.published);
            let sent = async {
                let _ = client.drain().await;
                let _ = (&mut has_sent).await;
            };
            let _ = timeout(limits::LINK_AGAIN, sent).await;
            return outcome;
        }
        // What was published before the bus drained is sent, and what it was asked is answered. The bus bounds how long that may take.
        bus.drained().await;
        let settled = async {
            let _ = (&mut has_sent).await;
            while carrying.join_next().await.is_some() {}
            drop(leave);
            while present.join_next().await.is_some() {}
            // Where it is away, what it has not taken is lost.
            let mut state = connection.state();
            tokio::select! {
                _ = nats.flush() => {}
                _ = state.wait_for(|state| !state.is_connected()) => {}
            }
        };
        let _ = timeout(limits::LINK_END, settled).await;
        Ok(())
    }
}

/// What a link that was cut off leaves to the one that begins in its place.
#[derive(Debug, Default)]
struct Left {
    kept: Kept,
    /// Messages that had been published at this bus when it ended.
    published: Option<u64>,
}

impl Left {
    /// How many messages were published at this bus since the link before has ended, at the most: what was published to all others by then is no link's.
    fn missed(&self, bus: &BusView) -> BusResult<u64> {
        match self.published {
            Some(before) => Ok(bus.stats()?.published.saturating_sub(before)),
            None => Ok(0),
        }
    }
}

/// How the link is, for `info`, metrics and readiness.
fn report(connection: &Connection, counter: &NatsCounter) -> LinkStats {
    let (state, link, carried) = (connection.state().borrow().clone(), connection.counts(), counter.counts());
    let counts = [
        ("connects", link.connects),
        ("disconnects", link.disconnects),
        ("slow_consumer_events", link.slow_consumer_events),
        ("lame_ducks", link.lame_ducks),
        ("in_messages", link.in_messages),
        ("in_bytes", link.in_bytes),
        ("out_messages", link.out_messages),
        ("out_bytes", link.out_bytes),
        ("published_messages", carried.sent),
        ("dropped_messages", carried.dropped),
        ("too_large_messages", carried.too_large),
        ("forgotten_topics", carried.forgotten),
        ("received_messages", carried.received),
        ("missing_messages", carried.missing),
        ("refused_messages", carried.refused),
        ("overrun_messages", carried.overrun),
        ("unheard_buses", carried.unheard),
    ];
    LinkStats {
        name: NAME.to_owned(),
        state: state.name().to_owned(),
        connected: state.is_connected(),
        since: state.since().map_or(Duration::ZERO, |since| Instant::now().saturating_duration_since(since)),
        peer: state.server().map(|server| format!("{}, version {}", server.name, server.version)),
        error: state.error().map(str::to_owned),
        counts: counts.map(|(name, count)| (name.to_owned(), count)).into_iter().collect(),
    }
}

/// A bus's id, which nobody else draws.
fn drawn() -> BusResult<u64> {
    let mut drawn = [0; 8];
    getrandom::fill(&mut drawn).map_err(|error| ended("the system's random generator", error))?;
    Ok(u64::from_le_bytes(drawn))
}

/// What a task has ended with.
fn outcome_of(task: Result<BusResult<()>, JoinError>) -> BusResult<()> {
    task.unwrap_or_else(|panicked| Err(ended("carrying messages", panicked)))
}

fn ended(what: &str, why: impl fmt::Display) -> BusError {
    BusError::Closed { what: format!("the link to NATS ({what}: {why})") }
}

/// Says that the bus is there until it leaves, which it says as well.
async fn say_that_it_is_there(
    (nats, subjects, name): (Nats, Subjects, String),
    members: Members,
    epoch: members::Connection,
    (draining, leaving): (impl Future<Output = ()>, oneshot::Receiver<()>),
) {
    let end = async move { _ = leaving.await };
    if let Err(error) = members::run(&nats, &subjects, &name, &members, epoch, (draining, end)).await {
        tracing::warn!(%error, "this bus does not hear any more which others there are");
    }
}

/// Tells the number of the connection, which is another one whenever something that was under way may be lost.
async fn tell_epochs(connection: Connection, epochs: watch::Sender<Option<u64>>) -> BusResult<()> {
    let (mut state, mut disturbances) = (connection.state(), connection.disturbances());
    loop {
        let is_connected = state.borrow_and_update().is_connected();
        disturbances.borrow_and_update();
        let counts = connection.counts();
        let epoch = is_connected.then(|| 1 + counts.disconnects + counts.slow_consumer_events);
        epochs.send_if_modified(|told| std::mem::replace(told, epoch) != epoch);
        tokio::select! {
            Ok(()) = state.changed() => {}
            Ok(()) = disturbances.changed() => {}
            else => return Err(ended("the connection", "it has ended")),
        }
    }
}

/// Tells that the server of NATS is about to end, where there are others to go to.
async fn tell_moves(connection: Connection, moves: watch::Sender<u64>) -> BusResult<()> {
    let mut disturbances = connection.disturbances();
    let mut known = connection.counts().lame_ducks;
    while disturbances.changed().await.is_ok() {
        let lame_ducks = connection.counts().lame_ducks;
        if std::mem::replace(&mut known, lame_ducks) < lame_ducks && connection.has_other_servers().await {
            moves.send_modify(|count| *count += 1);
        }
    }
    Err(ended("the connection", "it has ended"))
}

impl fmt::Debug for NatsCluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NatsCluster")
            .field("connection", &self.connection)
            .field("subjects", &self.subjects)
            .finish_non_exhaustive()
    }
}
