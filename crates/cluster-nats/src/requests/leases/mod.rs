//! Topics with a single server among all buses.
//!
//! A bucket of JetStream says which bus that is: the entry `topic/{topic}` has the name of a lease, and the entry `bus/{lease}` says
//! whether that is alive. A bus has one lease for all of its topics, which it renews by writing that entry again. All writes are
//! compare-and-set on the entry's revision:
//!
//! ```text
//! acquire   topic: none -> own lease       another lease is there: is it ended? -> topic: that revision -> own lease
//!                                          not renewed for LEASE and a tenth of that: its entry: that revision -> ended
//!                                          otherwise: the topic is served already
//! renew     own entry: alive -> alive      it is ended: all topics are lost, and begun anew with another lease
//! release   the entry of the topic is deleted by its revision
//! take over the other bus is asked to release it
//! ```
//!
//! No clocks are compared. A bus counts its lease from before it sends what renews it, and another one from when it has seen that; so
//! the lease has ended here before anybody ends it there, as long as their clocks do not differ by a tenth in how fast they run. A lease that is
//! ended stays so: whoever comes back begins another one.
//!
//! | file | what it holds |
//! |---|---|
//! | `bucket` | reading and writing the bucket |
//! | `steps` | acquiring, renewing and releasing, step by step |
//! | `wish` | a topic that this bus wants, or has |
//! | `life` | the bucket and the bus's own lease |
//! | `topics` | what is done for each topic |
//! | this one | what comes in, and when something is due |

mod bucket;
mod life;
mod steps;
mod topics;
mod wish;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};
use whispeer::BusError;
use whispeer::bus::{ServeClaim, ServeClaims};
use whispeer::topic::Topic;

use self::bucket::{Bucket, NoBucket};
use self::life::Life;
use self::steps::{Acquired, Lease, Renewed};
use self::topics::Seen;
use self::wish::Wish;
use crate::limits;
use crate::members::Members;
use crate::subject::Subjects;

/// How topics with a single server are leased.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer_cluster_nats::requests::LeaseSettings;
///
/// let settings = LeaseSettings { replicas: 3, ..LeaseSettings::default() };
/// assert_eq!(settings.lasts, Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Copies of the bucket that the servers of NATS keep, 1 to 5; 3 to outlive one of them. The default is 1. A bucket that is there already stays as
    /// it is.
    pub replicas: usize,
    /// How long a bus has its topics without renewing its lease, the same for all buses: [`LEASE`](limits::LEASE) by default. Less than a
    /// second counts as one.
    pub lasts: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { replicas: 1, lasts: limits::LEASE }
    }
}

impl LeaseSettings {
    /// How long JetStream may take to answer: a renewal that has none can be tried again before the lease is over.
    fn patience(&self) -> Duration {
        self.lasts / 2
    }

    /// How long another bus's lease has to be without a renewal before it is ended.
    fn outlives(&self) -> Duration {
        self.lasts + self.lasts / limits::LEASE_MARGIN
    }
}

/// What has become of topics.
#[derive(Debug)]
pub(super) enum LeaseNews {
    /// This bus is the only one to serve it.
    Held(Topic),
    /// Another bus is, and this one is not to serve it any more. It may have had it before.
    Refused { topic: Topic, was_held: bool },
    /// There is no JetStream: each bus decides by itself.
    Alone,
    /// A bus is to be asked to release it.
    Yield { bus: u64, topic: Topic },
}

/// The topics that this bus serves alone, or wants to.
pub(super) struct Leases {
    members: Members,
    settings: LeaseSettings,
    jetstream: jetstream::Context,
    name: String,
    claims: ServeClaims,
    /// Claims that are not answered yet.
    waiting: usize,
    state: State,
    is_connected: bool,
    /// The number of the next lease.
    next: u64,
    life: Option<Life>,
    /// The renewal that is under way, by its number.
    renewing: Option<u64>,
    last_renewal: u64,
    topics: HashMap<Topic, Wish, RandomState>,
    told_full: bool,
    queue: VecDeque<Topic>,
    /// Other leases, as this bus has seen them.
    seen: HashMap<Lease, Seen, RandomState>,
    doing: FuturesUnordered<BoxFuture<'static, Done>>,
    /// When topics are to be looked at again.
    due: BTreeMap<(Instant, u64), Topic>,
    last_due: u64,
    open_at: Option<Instant>,
    renew_at: Option<Instant>,
    rewrite_at: Option<Instant>,
    /// There was a bucket.
    had_bucket: bool,
    /// Why there is no bucket, as it was told last.
    told: Option<String>,
    news: VecDeque<LeaseNews>,
}

enum State {
    /// It is being looked for, or will be.
    Unknown {
        is_opening: bool,
    },
    Open(Arc<Bucket>),
    /// There is no JetStream, as far as this bus has seen.
    Alone {
        is_opening: bool,
    },
    /// The bus drains.
    Ended,
}

enum Done {
    Opened(Result<Arc<Bucket>, NoBucket>),
    Renewed { number: u64, lease: Lease, begun: Instant, renewed: Renewed },
    Acquired { topic: Topic, lease: Lease, begun: Instant, acquired: Acquired },
    OtherEnded { topic: Topic },
    Released { topic: Topic, lease: Lease, done: bool },
    Ended,
}

impl Leases {
    pub(super) fn new(
        members: Members,
        nats: async_nats::Client,
        subjects: &Subjects,
        settings: LeaseSettings,
        claims: ServeClaims,
    ) -> Self {
        let lasts = settings.lasts.max(limits::LEASE_SHORTEST);
        Self {
            members,
            settings: LeaseSettings { lasts, ..settings },
            jetstream: jetstream::new(nats),
            name: bucket::name_of(subjects.prefix()),
            claims,
            waiting: 0,
            state: State::Unknown { is_opening: false },
            is_connected: false,
            next: 1,
            life: None,
            renewing: None,
            last_renewal: 0,
            topics: HashMap::default(),
            told_full: false,
            queue: VecDeque::new(),
            seen: HashMap::default(),
            doing: FuturesUnordered::new(),
            due: BTreeMap::new(),
            last_due: 0,
            open_at: None,
            renew_at: None,
            rewrite_at: None,
            had_bucket: false,
            told: None,
            news: VecDeque::new(),
        }
    }

    /// What happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> LeaseNews {
        loop {
            if let Some(news) = self.news.pop_front() {
                return news;
            }
            self.begin(Instant::now());
            let due = self.next_due();
            let takes_claims = self.waiting < limits::LEASE_CLAIMS;
            tokio::select! {
                Some(done) = self.doing.next(), if !self.doing.is_empty() => self.done(done, Instant::now()),
                Some(claim) = self.claims.next(), if takes_claims => self.claimed(claim, Instant::now()),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.fall_due(Instant::now()),
                // The bus has stopped: whoever runs this learns it, too.
                else => std::future::pending().await,
            }
        }
    }

    /// This bus serves the topic alone now. Returns whether others may be told; otherwise that comes as news.
    pub(super) fn serve(&mut self, topic: &Topic) -> bool {
        if matches!(self.state, State::Alone { .. }) {
            if let Some(wish) = self.wish(topic) {
                wish.served = true;
            }
            return true;
        }
        let Some(wish) = self.wish(topic) else { return false };
        (wish.served, wish.reserved_until) = (true, None);
        let is_held = wish.held.is_some();
        self.examine(topic.clone(), Instant::now());
        is_held
    }

    /// It does not serve it any more.
    pub(super) fn gone(&mut self, topic: &Topic) {
        if let Some(wish) = self.topics.get_mut(topic) {
            wish.served = false;
            self.examine(topic.clone(), Instant::now());
        }
    }

    /// Whether this bus may serve the topic for others now.
    pub(super) fn holds(&self, topic: &Topic, now: Instant) -> bool {
        match self.state {
            State::Alone { .. } => true,
            _ => {
                self.life.as_ref().is_some_and(|life| now < life.until)
                    && self.topics.get(topic).is_some_and(|wish| wish.held.is_some())
            }
        }
    }

    /// There is a connection to NATS, or none.
    pub(super) fn connected(&mut self, is_connected: bool) {
        let now = Instant::now();
        self.is_connected = is_connected;
        // What was under way may be lost.
        self.renewing = None;
        if let State::Unknown { is_opening } | State::Alone { is_opening } = &mut self.state {
            *is_opening = false;
        }
        if is_connected {
            (self.open_at, self.renew_at) = (Some(now), Some(now));
        }
        // Nobody waits for those who cannot be asked, and all others are asked at once.
        self.examine_all(now);
    }

    /// The bus drains: others may serve its topics from now on.
    pub(super) fn drain(&mut self) {
        let before = std::mem::replace(&mut self.state, State::Ended);
        self.answer_all();
        // Without a connection it ends by itself.
        if let (State::Open(bucket), Some(Life { lease, revision, .. })) = (before, self.life.take())
            && self.is_connected
        {
            let ending = async move {
                steps::end_own(&bucket, lease, revision).await;
                Done::Ended
            };
            self.doing.push(ending.boxed());
        }
    }

    /// Ends the lease, so that others need not wait until it has lasted.
    pub(super) async fn finish(mut self) {
        self.drain();
        let ending = async { while self.doing.next().await.is_some() {} };
        // Nobody waits for that for long: the lease ends by itself.
        let _ = timeout(limits::HEARTBEAT, ending).await;
    }

    fn wish(&mut self, topic: &Topic) -> Option<&mut Wish> {
        if self.topics.len() >= limits::SERVED_TOPICS && !self.topics.contains_key(topic) {
            if !std::mem::replace(&mut self.told_full, true) {
                let most = limits::SERVED_TOPICS;
                tracing::warn!(
                    most,
                    "more topics have a single server here than leases; others cannot ask those beyond"
                );
            }
            return None;
        }
        Some(self.topics.entry(topic.clone()).or_default())
    }

    fn claimed(&mut self, claim: ServeClaim, now: Instant) {
        if !self.is_connected || matches!(self.state, State::Alone { .. } | State::Ended) {
            return claim.agree();
        }
        let topic = claim.topic().clone();
        let Some(wish) = self.wish(&topic) else {
            let what = format!("{} topics with a single server at this bus", limits::SERVED_TOPICS);
            return claim.refuse(BusError::LimitReached { what });
        };
        (wish.looked, wish.refused, wish.retry_at) = (false, false, None);
        wish.claims.push((claim, now + limits::LEASE_CLAIM));
        self.waiting += 1;
        self.wake(now + limits::LEASE_CLAIM, topic.clone());
        self.examine(topic, now);
    }

    fn wake(&mut self, at: Instant, topic: Topic) {
        self.last_due += 1;
        self.due.insert((at, self.last_due), topic);
    }

    /// When something is to be done next.
    fn next_due(&self) -> Option<Instant> {
        let topic = self.due.first_key_value().map(|((at, _), _)| *at);
        let expiry = self.life.as_ref().map(|life| life.until);
        [self.open_at, self.renew_at, self.rewrite_at, expiry, topic].into_iter().flatten().min()
    }

    fn fall_due(&mut self, now: Instant) {
        let is_due = |at: &mut Instant| *at <= now;
        if self.life.as_ref().is_some_and(|life| life.until <= now) {
            self.lose(now);
        }
        if self.open_at.take_if(is_due).is_some() {
            self.open();
        }
        if self.renew_at.take_if(is_due).is_some() {
            self.renew(now);
        }
        if self.rewrite_at.take_if(is_due).is_some() {
            self.rewrite(now);
        }
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let topic = entry.remove();
            self.examine(topic, now);
        }
    }

    fn done(&mut self, done: Done, now: Instant) {
        match done {
            Done::Opened(opened) => self.opened(opened, now),
            Done::Renewed { number, lease, begun, renewed } => {
                if self.renewing.take_if(|current| *current == number).is_some() {
                    self.renewed(lease, begun, renewed, now);
                }
            }
            Done::Acquired { topic, lease, begun, acquired } => {
                if let Some(wish) = self.topics.get_mut(&topic) {
                    wish.is_busy = false;
                    let is_own = self.life.as_ref().is_some_and(|life| life.lease == lease);
                    match acquired {
                        // What an ended lease has got is nobody's.
                        _ if !is_own => self.examine(topic, now),
                        acquired => self.acquired(topic, acquired, begun, now),
                    }
                }
            }
            Done::OtherEnded { topic } => {
                if let Some(wish) = self.topics.get_mut(&topic) {
                    wish.is_busy = false;
                    self.examine(topic, now);
                }
            }
            Done::Released { topic, lease, done } => {
                let is_own = self.life.as_ref().is_some_and(|life| life.lease == lease);
                if let Some(wish) = self.topics.get_mut(&topic) {
                    wish.is_busy = false;
                    wish.is_uncertain &= is_own && !done;
                    match wish.is_uncertain {
                        true => self.retry(topic, now + limits::LEASE_RETRY),
                        false => self.examine(topic, now),
                    }
                }
            }
            Done::Ended => {}
        }
    }

    fn answer_all(&mut self) {
        for wish in self.topics.values_mut() {
            wish.agree_all();
        }
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests;
