//! What a broker has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a broker has done since it began, and what there is now.
///
/// # Examples
/// ```
/// use whispeer::broker::Broker;
///
/// # fn main() -> whispeer::BusResult<()> {
/// let broker = Broker::build_default().build()?;
/// broker.publish("to/nobody", "hello").wait()?;
/// let stats = broker.stats();
/// assert_eq!((stats.published, stats.matched, stats.refused), (1, 0, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BrokerStats {
    /// Messages that wait to be sent now.
    pub queued: usize,
    /// Bytes of these.
    pub queued_bytes: usize,
    /// Messages that were sent and of which the bus has not told yet what became of them.
    pub in_flight: usize,
    /// Subscriptions now.
    pub subscriptions: usize,
    /// Messages that were published.
    pub published: u64,
    /// Subscriptions, of anybody, that these matched.
    pub matched: u64,
    /// Publishes that were queued and then failed.
    pub failed: u64,
    /// Publishes and subscriptions that found the queue full.
    pub refused: u64,
    /// Messages that handlers have got, those counted in `panics` and `failures` included.
    pub handled: u64,
    /// Calls of handlers that panicked.
    pub panics: u64,
    /// Calls of handlers that returned an error.
    pub failures: u64,
    /// Messages whose acknowledgement the bus has kept.
    pub acknowledged: u64,
    /// Messages that were sent back, as their handler failed or panicked or they could not be read: they come again, or are
    /// dead letters.
    pub nacked: u64,
    /// Messages that were handled and may come again all the same, as the bus did not keep their acknowledgement.
    pub unacknowledged: u64,
    /// Messages that are not what their handler takes, or that no engine could open.
    pub undecodable: u64,
    /// Messages that matched and were dropped, as their subscription had no room for them or its link broke.
    pub missed: u64,
    /// Subscriptions that could not be made, or that ended otherwise than by `stop` or with the broker.
    pub lost_subscriptions: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) matched: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) handled: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) nacked: AtomicU64,
    pub(super) unacknowledged: AtomicU64,
    pub(super) undecodable: AtomicU64,
    pub(super) missed: AtomicU64,
    pub(super) lost_subscriptions: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn read(&self) -> BrokerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BrokerStats {
            published: read(&self.published),
            matched: read(&self.matched),
            failed: read(&self.failed),
            refused: read(&self.refused),
            handled: read(&self.handled),
            panics: read(&self.panics),
            failures: read(&self.failures),
            acknowledged: read(&self.acknowledged),
            nacked: read(&self.nacked),
            unacknowledged: read(&self.unacknowledged),
            undecodable: read(&self.undecodable),
            missed: read(&self.missed),
            lost_subscriptions: read(&self.lost_subscriptions),
            ..BrokerStats::default()
        }
    }
}
