//! The books: what matched, what arrived, what was dropped; and whether anything is left over.

use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use whispeer::BusError;
use whispeer::bus::{BusHandle, BusStats};
use whispeer::client::{Counts, Subscription};

use crate::wait::{PATIENCE, now_or_never};

/// A subscription of any type, as far as its counts go.
pub trait Counted: Send {
    /// Its full pattern.
    fn pattern(&self) -> &str;
    /// What it has received, taken and missed.
    fn counts(&self) -> Counts;
    /// Why it ended, if it did.
    fn close_reason(&self) -> Option<BusError>;
    /// Takes the next event and throws it away; `false` at the end.
    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<bool>;
}

impl<T: Send> Counted for Subscription<T> {
    fn pattern(&self) -> &str {
        self.pattern()
    }

    fn counts(&self) -> Counts {
        self.counts()
    }

    fn close_reason(&self) -> Option<BusError> {
        self.close_reason()
    }

    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let event = std::pin::pin!(self.next_event());
        std::future::Future::poll(event, context).map(|event| event.is_some())
    }
}

/// The subscriptions that are alive at the end of a case. Their books are checked before they go.
#[derive(Default)]
#[must_use]
pub struct Live {
    subscriptions: Vec<Box<dyn Counted>>,
}

impl Live {
    /// No subscription is left.
    pub fn none() -> Self {
        Self::default()
    }

    /// This one is alive.
    pub fn of(subscription: impl Counted + 'static) -> Self {
        Self::none().and(subscription)
    }

    /// And this one.
    pub fn and(mut self, subscription: impl Counted + 'static) -> Self {
        self.subscriptions.push(Box::new(subscription));
        self
    }
}

/// The sums of all subscriptions to one pattern. Rows of the bus know patterns and not handles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    matched: u64,
    delivered: u64,
    dropped: u64,
    parked: u64,
}

/// Takes what is left and checks that every match is accounted for: at the bus, matched = delivered +
/// dropped + parked; at the clients, received = delivered, dropped = dropped, nothing pending. The bus's
/// totals, in which those that have ended stay, balance too.
///
/// # Panics
/// When the books do not balance within [`PATIENCE`].
pub async fn settle(bus: &BusHandle, live: &mut Live) {
    for subscription in &live.subscriptions {
        let reason = subscription.close_reason();
        assert!(reason.is_none(), "\"{}\" has ended: {reason:?}", subscription.pattern());
    }
    let until = Instant::now() + PATIENCE;
    loop {
        for subscription in &mut live.subscriptions {
            let take = std::future::poll_fn(|context| subscription.poll_take(context));
            let mut take = std::pin::pin!(take);
            while now_or_never(take.as_mut()).await == Some(true) {}
        }
        let (bus_side, client_side) = (bus_sums(bus), client_sums(live));
        let balanced = client_side
            .iter()
            .all(|(pattern, own)| bus_side.get(pattern).is_some_and(|other| other == own) && own.parked == 0);
        let totals = totals_balance(&bus.stats());
        if balanced && totals.is_ok() {
            return;
        }
        assert!(
            Instant::now() < until,
            "the books do not balance; the bus has {bus_side:?}, the clients have {client_side:?}; {totals:?}"
        );
        sleep(Duration::from_millis(1)).await;
    }
}

/// Whether all matches since the bus started are taken or pending at a subscriber, dropped, or parked.
/// While publishes are under way they may not be yet.
///
/// # Errors
/// The counts.
pub fn totals_balance(stats: &BusStats) -> Result<(), String> {
    let BusStats { matched, delivered, untaken, parked_messages, .. } = *stats;
    let dropped: u64 = stats.dropped.values().sum();
    if matched + untaken == delivered + dropped + parked_messages as u64 {
        return Ok(());
    }
    Err(format!(
        "of {matched} matches {delivered} were delivered, {untaken} of them never taken, \
         {dropped} dropped and {parked_messages} are parked"
    ))
}

fn bus_sums(bus: &BusHandle) -> BTreeMap<String, Sums> {
    let mut sums = BTreeMap::<String, Sums>::new();
    for row in bus.subscriptions() {
        let dropped: u64 = row.dropped.values().sum();
        assert_eq!(row.matched, row.delivered + dropped + row.parked, "a row does not add up: {row:?}");
        let sum = sums.entry(row.pattern).or_default();
        sum.matched += row.matched;
        sum.delivered += row.delivered;
        sum.dropped += dropped;
        sum.parked += row.parked;
    }
    sums
}

fn client_sums(live: &Live) -> BTreeMap<String, Sums> {
    let mut sums = BTreeMap::<String, Sums>::new();
    for subscription in &live.subscriptions {
        let counts = subscription.counts();
        assert_eq!(counts.received, counts.taken + counts.pending, "counts do not add up: {counts:?}");
        let sum = sums.entry(subscription.pattern().to_owned()).or_default();
        sum.matched += counts.taken + counts.dropped();
        sum.delivered += counts.received;
        sum.dropped += counts.dropped();
        sum.parked += counts.pending;
    }
    sums
}

/// Checks that nothing is left of clients that have gone: no session, subscription, served topic,
/// request or queued byte; and that nothing of them has vanished from the totals.
///
/// # Panics
/// When something is left after [`PATIENCE`].
pub async fn nothing_left(bus: &BusHandle) {
    let until = Instant::now() + PATIENCE;
    loop {
        let stats = bus.stats();
        let left = [
            ("sessions", stats.sessions),
            ("subscriptions", stats.subscriptions),
            ("served topics", stats.served_topics),
            ("requests", stats.requests_in_flight),
            ("requests that wait", stats.requests_waiting),
            ("queued bytes", stats.queued_bytes),
            ("parked messages", stats.parked_messages),
        ];
        let totals = totals_balance(&stats);
        if left.iter().all(|(_, count)| *count == 0) && totals.is_ok() {
            return;
        }
        assert!(
            Instant::now() < until,
            "something is left of clients that have gone: {left:?}; or has vanished: {totals:?}"
        );
        sleep(Duration::from_millis(1)).await;
    }
}
