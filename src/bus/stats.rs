//! What the bus tells about itself.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::LinkStats;
use crate::auth::Principal;
use crate::plugin::PluginStats;
use crate::proto::fields::GapReason;

/// Counts of one session, or of the whole bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) published_bytes: u64,
    /// Matches of these publishes.
    pub(crate) matched: u64,
    pub(crate) delivered: u64,
    pub(crate) delivered_bytes: u64,
    /// Of those delivered, what the subscriber is known not to have taken; counted as dropped, too.
    pub(crate) untaken: u64,
    pub(crate) dropped: [u64; GapReason::ALL.len()],
    pub(crate) failed_publishes: u64,
    pub(crate) requests: u64,
    pub(crate) failed_requests: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.published_bytes += other.published_bytes;
        self.matched += other.matched;
        self.delivered += other.delivered;
        self.delivered_bytes += other.delivered_bytes;
        self.untaken += other.untaken;
        for (own, more) in self.dropped.iter_mut().zip(other.dropped) {
            *own += more;
        }
        self.failed_publishes += other.failed_publishes;
        self.requests += other.requests;
        self.failed_requests += other.failed_requests;
    }

    /// Counts deliveries that nobody will take, as their subscription has ended.
    pub(crate) fn count_untaken(&mut self, count: u64) {
        self.untaken += count;
        self.dropped[GapReason::Link.index()] += count;
    }
}

/// Dropped matches by reason; reasons with none are left out.
pub type Dropped = BTreeMap<String, u64>;

pub(crate) fn dropped_by_name(dropped: &[u64; GapReason::ALL.len()]) -> Dropped {
    GapReason::ALL
        .into_iter()
        .zip(dropped)
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| (reason.name().to_owned(), *count))
        .collect()
}

/// The state of a bus at one moment. Counts are since it started, unless they say otherwise.
///
/// When no publish is under way, `matched` = `delivered` − `untaken` + all of `dropped` +
/// `parked_messages`: every match was handed to its subscriber, was dropped, or is parked. What has ended
/// stays in these counts.
///
/// Served at `$bus/stats`, and given by [`BusHandle::stats`](super::BusHandle::stats).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BusStats {
    /// The release of the bus.
    pub version: String,
    /// The bus's id, drawn at random when it started.
    pub bus_id: u64,
    /// How long it has been running.
    pub uptime: Duration,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// When the bus's own certificate ends, if it has one: the first moment at which clients refuse it.
    pub certificate_until: Option<SystemTime>,
    /// Whether it is draining.
    pub draining: bool,
    /// Sessions now.
    pub sessions: usize,
    /// Sessions so far, those now included.
    pub sessions_total: u64,
    /// Connections that were turned away or cut off for breaking a rule or a limit.
    pub sessions_cut_off: u64,
    /// Subscriptions now.
    pub subscriptions: usize,
    /// Served topics now.
    pub served_topics: usize,
    /// Routes in the cache now.
    pub cached_routes: usize,
    /// Requests unanswered now.
    pub requests_in_flight: usize,
    /// Of these, how many wait for a server with credit and room on its link. One that was given up is counted until the bus
    /// looks there again, a few times a second.
    pub requests_waiting: usize,
    /// Bytes that wait in queues now, in steps of 4 KiB per session.
    pub queued_bytes: usize,
    /// Bytes that may wait.
    pub byte_budget: usize,
    /// Bytes that subscriptions and servings take now. Each counts as if it shared nothing of its pattern with
    /// others.
    pub table_bytes: usize,
    /// Bytes that they may take.
    pub table_budget: usize,
    /// Matches that wait for credit now, those of queue groups included.
    pub parked_messages: usize,
    /// Bytes of their frames.
    pub parked_bytes: usize,
    /// Messages of topics without a stream that are kept until they are due.
    #[serde(default)]
    pub delayed_messages: usize,
    /// Bytes of these.
    #[serde(default)]
    pub delayed_bytes: usize,
    /// What was to be published later, and was not, as its publisher may not publish there any more.
    #[serde(default)]
    pub lapsed: u64,
    /// Messages published.
    pub published: u64,
    /// Bytes of their frames.
    pub published_bytes: u64,
    /// Publishes that failed.
    pub failed_publishes: u64,
    /// Matches of what was published, whatever became of them; a queue group is one match.
    pub matched: u64,
    /// Messages delivered, once for each subscription.
    pub delivered: u64,
    /// Bytes of their frames.
    pub delivered_bytes: u64,
    /// Of those delivered, how many their subscriber had not taken when it ended its subscription, or when its
    /// link broke. They are among the dropped, too, with the reason `link`.
    ///
    /// What a subscription was delivered that ended by a drain, for falling behind (policy `Disconnect`), or
    /// with a client that said goodbye, is its client's and not counted here, whether or not it is taken and
    /// whatever becomes of the link: the bus keeps nothing of a subscription that has ended.
    pub untaken: u64,
    /// Matches dropped, by reason.
    pub dropped: Dropped,
    /// Requests made.
    pub requests: u64,
    /// Requests that the bus answered with an error.
    pub failed_requests: u64,
    /// What its plugins did, in their order.
    #[serde(default)]
    pub plugins: Vec<PluginStats>,
    /// Its links to other systems, as they are reported.
    #[serde(default)]
    pub links: Vec<LinkStats>,
}

/// The buses that act as one, as one of them sees them. Served at `$bus/cluster` by what joins the bus to the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStats {
    /// Those that have answered, in the order of their ids; the one that was asked is among them.
    pub buses: Vec<ClusterBus>,
    /// The ids of those that are there and have not answered in time.
    pub silent: Vec<u64>,
}

/// A bus among others that it is joined with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterBus {
    /// Its id among them, which it draws when it joins.
    pub id: u64,
    /// What it is called there.
    pub name: String,
    /// Its state, as `$bus/stats` has it.
    pub stats: BusStats,
}

/// One session, as introspection shows it. Served at `$bus/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionStats {
    /// Its id.
    pub id: u64,
    /// What the client calls itself.
    pub name: String,
    /// Who it acts for; of somebody who has proven nothing, where he connected from last.
    pub principal: Principal,
    /// The transport over which he did.
    pub transport: String,
    /// Whether its connection lives. One without waits for its client to come back.
    pub connected: bool,
    /// Its subscriptions.
    pub subscriptions: usize,
    /// Its servings.
    pub servings: usize,
    /// Requests it made or was asked and that are unanswered.
    pub requests_in_flight: usize,
    /// Bytes that wait to be sent to it.
    pub queued_bytes: usize,
    /// Bytes that are parked for its subscriptions.
    pub parked_bytes: usize,
    /// Bytes that its subscriptions and servings take.
    pub table_bytes: usize,
    /// Messages it published.
    pub published: u64,
    /// Messages delivered to it.
    pub delivered: u64,
    /// Matches dropped for it, by reason.
    pub dropped: Dropped,
}

/// One subscription, as introspection shows it. Served at `$bus/subscriptions`.
///
/// At all times `matched` = `delivered` + all of `dropped` + `parked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SubscriptionStats {
    /// Whose it is.
    pub session: u64,
    /// Its id within the session.
    pub id: u32,
    /// Its pattern.
    pub pattern: String,
    /// Its queue group.
    pub group: Option<String>,
    /// What happens when its window is used up.
    pub policy: String,
    /// Matches so far.
    pub matched: u64,
    /// Matches sent to the subscriber.
    pub delivered: u64,
    /// Matches dropped, by reason.
    pub dropped: Dropped,
    /// Matches that wait for credit.
    pub parked: u64,
    /// Messages that may be sent before the subscriber has to take one.
    pub credit: i64,
    /// Whether it fell behind and what matches is counted at once.
    pub lagging: bool,
}

/// One served topic, as introspection shows it. Served at `$bus/served`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServedStats {
    /// The topic.
    pub topic: String,
    /// The group that shares it.
    pub group: Option<String>,
    /// The sessions that serve it.
    pub sessions: Vec<u64>,
    /// Requests that wait for a server with credit and room on its link.
    pub waiting: usize,
}

/// One stream, as introspection shows it. Served at `$bus/streams`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamStats {
    /// What it is called.
    pub name: String,
    /// The topics that it has.
    pub patterns: Vec<String>,
    /// The kind of store that it is in: `memory`, `sqlite`, or what another calls itself.
    pub storage: String,
    /// What it is told from one of the same name by that was there before, in hexadecimal digits.
    pub epoch: String,
    /// Messages that there are.
    pub messages: u64,
    /// Bytes that they count as: the [`weight`](crate::store::weight) of each.
    pub bytes: u64,
    /// The sequence of the oldest; without messages that of the one that comes next.
    pub first: u64,
    /// The sequence of the one that comes next.
    pub next: u64,
    /// Messages that are not due yet.
    #[serde(default)]
    pub delayed: u64,
    /// Ids of messages that it knows, so that one that is sent again is not stored twice.
    #[serde(default)]
    pub ids: u64,
    /// Ids that were forgotten before `known_for` was over, as there were too many for `known_messages` or the bytes that the
    /// stream may take. A message of theirs that was sent again would have been stored twice.
    #[serde(default)]
    pub forgotten_ids: u64,
    /// Messages that no consumer could deal with, among its dead letters.
    #[serde(default)]
    pub dead_letters: u64,
    /// What is wrong with its store, if anything is. The numbers are not known then.
    pub problem: Option<String>,
}

/// One durable consumer, as introspection shows it. Served at `$bus/consumers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// The stream that it reads.
    pub stream: String,
    /// What it is called.
    pub name: String,
    /// Whose it is, as a session of its owner's is called; `None` where it is nobody's.
    #[serde(default)]
    pub owner: Option<String>,
    /// The topics that it takes.
    pub pattern: String,
    /// How many subscriptions it has now.
    pub subscriptions: usize,
    /// All messages before this sequence are done.
    pub floor: u64,
    /// Sequences from there to the end of the stream; some may be done, gone, or of other topics.
    pub behind: u64,
    /// Messages that somebody has and has not acknowledged.
    pub pending: u64,
    /// Messages that are to be sent again.
    pub again: u64,
    /// What it waits for, beside those who take its messages, where there are more, or some that are done and not written yet:
    ///
    /// - `floor`: that the first message which is not done is done, as what it has been handed since reaches as far behind that as
    ///   [`CONSUMER_SPREAD`](crate::limits::CONSUMER_SPREAD). That message was refused with a long delay, or somebody has it for long.
    /// - `pending`: acknowledgements, as its subscriptions have as many messages as they may.
    /// - `memory`: acknowledgements, of it or of others, as what the bus knows of messages that their sessions have not acknowledged fills
    ///   the sessions' [part](crate::limits::SESSION_PART) of the byte budget, or that budget is spent. It goes on one message at a time.
    /// - `store`: that its store takes what is acknowledged; its disk may be full.
    /// - `bus`: that another bus, whose subscriptions take its messages, gives it up or is gone.
    /// - `withheld`: that those of its subscriptions take messages which may, as plugins keep
    ///   [`CONSUMER_ASIDE`](crate::limits::CONSUMER_ASIDE) of these from others.
    #[serde(default)]
    pub waits_for: Option<String>,
}

/// Rows of introspection, and how many were left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows<T> {
    /// At most [`INTROSPECTION_ROWS`](crate::limits::INTROSPECTION_ROWS), and no more than fit a frame.
    pub rows: Vec<T>,
    /// Rows that there are beside these.
    pub left_out: usize,
}
