//! The link of a bus to the others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use whispeer::auth::Principal;
use whispeer::bus::BusView;
use whispeer::client::{Client, SubscribeOptions};
use whispeer::transport::Peer;
use whispeer::{BusError, BusResult};

use crate::inbound::{AGAIN, Inbound, InboundCounts};
use crate::limits;
use crate::outbound::{Outbound, OutboundCounts};
use crate::subject::Subjects;

/// How long the end of a bus waits until NATS has what was published there.
const ENDING: Duration = Duration::from_secs(2);

/// How often it is looked at whether the connection has been made anew.
const LOOK: Duration = Duration::from_millis(250);

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
    /// Messages of others that could not be published at this bus.
    pub refused: u64,
    /// Patterns that are subscribed to at NATS by now.
    pub patterns: u64,
}

/// Makes one of several buses that have the same servers of NATS and the same prefix: what is published at one of them reaches subscribers
/// at all.
///
/// It joins the bus as a session and runs until that drains or stops. While NATS is away the bus serves its own; others are told as gaps
/// what they have missed of it.
///
/// # Examples
/// ```no_run
/// use whispeer::prelude::*;
/// use whispeer_cluster_nats::NatsCluster;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let nats = async_nats::connect("nats://localhost").await?;
/// let bus = Bus::builder().start()?;
/// let cluster = NatsCluster::over(nats, "whispeer")?;
/// tokio::spawn(cluster.run(bus.view()));
/// # Ok(())
/// # }
/// ```
pub struct NatsCluster {
    nats: async_nats::Client,
    subjects: Subjects,
    disturbed: Option<watch::Receiver<u64>>,
    outbound: Arc<OutboundCounts>,
    inbound: Arc<InboundCounts>,
}

/// Tells what a link has carried, also while it runs.
#[derive(Debug, Clone)]
pub struct NatsCounter {
    outbound: Arc<OutboundCounts>,
    inbound: Arc<InboundCounts>,
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
            patterns: inside.patterns.load(Ordering::Relaxed),
        }
    }
}

impl NatsCluster {
    /// A link over a connection that somebody has made.
    ///
    /// # Errors
    /// [`PrefixError`](crate::subject::PrefixError) for what is no prefix of subjects.
    pub fn over(nats: async_nats::Client, prefix: &str) -> Result<Self, crate::subject::PrefixError> {
        let subjects = Subjects::new(prefix)?;
        Ok(Self { nats, subjects, disturbed: None, outbound: Arc::default(), inbound: Arc::default() })
    }

    /// What tells what the link has carried.
    #[must_use]
    pub fn counter(&self) -> NatsCounter {
        NatsCounter { outbound: Arc::clone(&self.outbound), inbound: Arc::clone(&self.inbound) }
    }

    /// Runs the link until the bus drains or stops.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus, or the connection to NATS, has ended for good before.
    ///
    /// # Cancel safety
    /// The link ends when the future is dropped. What was on its way may be lost; others are not told of that.
    pub async fn run(self, bus: BusView) -> BusResult<()> {
        let Self { nats, subjects, disturbed, outbound, inbound } = self;
        let mut drawn = [0; 8];
        getrandom::fill(&mut drawn).map_err(|error| BusError::Closed {
            what: format!("the link to NATS: the system's random generator: {error}"),
        })?;
        let origin = u64::from_le_bytes(drawn);
        let link = bus.connect(Peer::new(Principal::Bus, "nats").relay())?;
        let client = Client::builder().name("nats").no_reconnect().connect_link(link)?;
        let (messages, bytes) = limits::OUTBOUND_WINDOW;
        let options = SubscribeOptions::default().no_echo().window(messages, bytes);
        let published = client.subscribe_content_with("**", options).await?;
        let interest = bus.interest()?;
        let mut parts = JoinSet::new();
        let disturbed = disturbed.unwrap_or_else(|| watch_connection(&nats, &mut parts));
        let again = nats
            .subscribe(subjects.own(AGAIN))
            .await
            .map_err(|error| BusError::Closed { what: format!("the connection to NATS: {error}") })?;
        let sending = Outbound::new(nats.clone(), subjects.clone(), origin, outbound);
        let (ended_sending, mut has_sent) = oneshot::channel();
        let mut senders = JoinSet::new();
        senders.spawn(async move {
            sending.run(published, again).await;
            let _ = ended_sending.send(());
        });
        let taking = Inbound::new(bus.clone(), client.clone(), nats.clone(), subjects, origin, inbound);
        parts.spawn(taking.run(interest, disturbed));
        let draining = bus.draining();
        let ended = tokio::select! {
            () = draining => Ok(()),
            _ = senders.join_next() => Err(client.closed().await),
            Some(ended) = parts.join_next() => match ended {
                Ok(ended) => ended,
                Err(panicked) => Err(BusError::Closed { what: format!("the link to NATS: {panicked}") }),
            },
        };
        // What was published before the bus drained is sent.
        let sent = async {
            let _ = (&mut has_sent).await;
            nats.flush().await
        };
        let _ = timeout(ENDING, sent).await;
        match ended {
            Err(BusError::Closed { .. }) if bus.is_draining() => Ok(()),
            ended => ended,
        }
    }
}

/// Counts how often the connection was made anew.
fn watch_connection(nats: &async_nats::Client, parts: &mut JoinSet<BusResult<()>>) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    let statistics = nats.statistics();
    parts.spawn(async move {
        let mut before = statistics.connects.load(Ordering::Relaxed);
        loop {
            sleep(LOOK).await;
            let now = statistics.connects.load(Ordering::Relaxed);
            if now != before {
                before = now;
                sender.send_replace(now);
            }
        }
    });
    receiver
}

impl fmt::Debug for NatsCluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NatsCluster").field("subjects", &self.subjects).finish_non_exhaustive()
    }
}
