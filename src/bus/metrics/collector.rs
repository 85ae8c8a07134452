//! A bus, as a registry sees it when it is scraped.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::super::clock::system_time;
use super::super::request_times::RequestEnd;
use super::super::{BusHandle, BusStats, Shared};
use super::families::{About, Families};
use crate::proto::fields::GapReason;

/// The values of the label `transport`, in their order; a session over anything else is one of `other`.
const TRANSPORTS: [&str; 11] =
    ["memory", "unix", "tcp", "tls", "quic", "ws", "wss", "turbine", "popsub", "http", "other"];

/// Nanoseconds in a second.
const NANOSECONDS: f64 = 1e9;

/// What a bus tells of itself to a registry of `prometheus-client`.
///
/// It asks the bus when it is scraped: that goes over all sessions once, with each of them locked for a moment, and waits for nobody. The
/// number of its time series does not depend on clients: labels are reasons, transports, the ends of requests, kinds of stores, and the
/// names of streams and plugins, which the bus is configured with. Once the bus is gone it tells only of the release.
///
/// Of consumers it knows those that have subscriptions; what the store alone knows of the others is at `$bus/consumers`.
#[derive(Debug)]
pub struct BusCollector {
    shared: Weak<Shared>,
    /// When the bus started, in seconds since 1970 (UTC).
    started: f64,
}

impl BusCollector {
    /// Tells of this bus, as long as it is there.
    #[must_use]
    pub fn new(bus: &BusHandle) -> Self {
        Self::of(bus.shared())
    }

    pub(in crate::bus) fn of(shared: &Arc<Shared>) -> Self {
        let started = system_time().checked_sub(shared.started.elapsed()).unwrap_or(UNIX_EPOCH);
        Self { shared: Arc::downgrade(shared), started: seconds(started) }
    }
}

/// Seconds since 1970 (UTC).
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Collector for BusCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let about = About("whispeer_build", "The release of the bus");
        families.info(&about, ("version", env!("CARGO_PKG_VERSION")))?;
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        let about = About("whispeer_start_time", "When the bus started, since 1970 (UTC)");
        families.gauge(&about, Some(&Unit::Seconds), self.started)?;
        let stats = shared.stats();
        state(&mut families, &stats)?;
        sessions(&mut families, &shared, &stats)?;
        messages(&mut families, &stats)?;
        queues(&mut families, &stats)?;
        requests(&mut families, &shared, &stats)?;
        plugins(&mut families, &stats)?;
        links(&mut families, &stats)?;
        streams(&mut families, &shared)?;
        stores(&mut families, &shared)
    }
}

fn state(families: &mut Families<'_>, stats: &BusStats) -> fmt::Result {
    let about = About("whispeer_bus_draining", "1 while the bus drains, else 0");
    families.gauge(&about, None, u64::from(stats.draining))?;
    if let Some(until) = stats.certificate_until {
        let about =
            About("whispeer_bus_certificate_end_time", "When the bus's certificate ends, since 1970 (UTC)");
        families.gauge(&about, Some(&Unit::Seconds), seconds(until))?;
    }
    Ok(())
}

fn sessions(families: &mut Families<'_>, shared: &Shared, stats: &BusStats) -> fmt::Result {
    let mut by_transport = [0_u64; TRANSPORTS.len()];
    let mut lost = 0_u64;
    for session in shared.clients_in_any_order() {
        let state = session.lock();
        let known = TRANSPORTS.iter().position(|name| *name == state.peer.transport);
        lost += u64::from(state.is_lost());
        drop(state);
        if let Some(count) = by_transport.get_mut(known.unwrap_or(TRANSPORTS.len() - 1)) {
            *count += 1;
        }
    }
    let rows = TRANSPORTS.iter().zip(by_transport).map(|(name, count)| (Some(("transport", *name)), count));
    let about = About("whispeer_bus_sessions", "Sessions by the transport over which they connected last");
    families.gauges(&about, None, rows)?;
    let about =
        About("whispeer_bus_lost_sessions", "Sessions without a connection whose client may come back");
    families.gauge(&about, None, lost)?;
    let about = About("whispeer_bus_begun_sessions", "Sessions that have begun");
    families.counter(&about, None, stats.sessions_total)?;
    let about = About(
        "whispeer_bus_cut_off_sessions",
        "Connections that were turned away or cut off for breaking a rule or a limit",
    );
    families.counter(&about, None, stats.sessions_cut_off)?;
    let about = About("whispeer_bus_subscriptions", "Subscriptions");
    families.gauge(&about, None, stats.subscriptions)?;
    let about = About("whispeer_bus_served_topics", "Topics that somebody serves");
    families.gauge(&about, None, stats.served_topics)
}

fn messages(families: &mut Families<'_>, stats: &BusStats) -> fmt::Result {
    let bytes = Some(&Unit::Bytes);
    let about = About("whispeer_bus_published_messages", "Messages published");
    families.counter(&about, None, stats.published)?;
    let about = About("whispeer_bus_published", "Bytes of frames published");
    families.counter(&about, bytes, stats.published_bytes)?;
    let about = About("whispeer_bus_failed_publishes", "Publishes that failed");
    families.counter(&about, None, stats.failed_publishes)?;
    let about =
        About("whispeer_bus_matched_messages", "Matches of what was published, whatever became of them");
    families.counter(&about, None, stats.matched)?;
    let about = About("whispeer_bus_delivered_messages", "Messages delivered, once for each subscription");
    families.counter(&about, None, stats.delivered)?;
    let about = About("whispeer_bus_delivered", "Bytes of frames delivered");
    families.counter(&about, bytes, stats.delivered_bytes)?;
    let about = About(
        "whispeer_bus_untaken_messages",
        "Messages delivered that their subscriber is known not to have taken; they count as dropped, too",
    );
    families.counter(&about, None, stats.untaken)?;
    let about = About("whispeer_bus_dropped_messages", "Matches dropped, by reason");
    let rows = GapReason::ALL.map(|reason| {
        let name = reason.name();
        (Some(("reason", name)), stats.dropped.get(name).copied().unwrap_or(0))
    });
    families.counters(&about, None, rows)?;
    let about = About(
        "whispeer_bus_lapsed_messages",
        "Delayed messages whose publisher may not publish there any more",
    );
    families.counter(&about, None, stats.lapsed)
}

fn queues(families: &mut Families<'_>, stats: &BusStats) -> fmt::Result {
    let bytes = Some(&Unit::Bytes);
    let about = About("whispeer_bus_queued", "Bytes that wait in queues");
    families.gauge(&about, bytes, stats.queued_bytes)?;
    let about = About("whispeer_bus_queue_limit", "Bytes that may wait in queues: the byte budget");
    families.gauge(&about, bytes, stats.byte_budget)?;
    let about = About("whispeer_bus_parked_messages", "Matches that wait for credit");
    families.gauge(&about, None, stats.parked_messages)?;
    let about = About("whispeer_bus_parked", "Bytes of frames that wait for credit");
    families.gauge(&about, bytes, stats.parked_bytes)?;
    let about =
        About("whispeer_bus_delayed_messages", "Messages of topics without a stream that are not due yet");
    families.gauge(&about, None, stats.delayed_messages)?;
    let about =
        About("whispeer_bus_delayed", "Bytes of messages of topics without a stream that are not due yet");
    families.gauge(&about, bytes, stats.delayed_bytes)?;
    let about = About("whispeer_bus_table", "Bytes that subscriptions and servings take");
    families.gauge(&about, bytes, stats.table_bytes)?;
    let about = About("whispeer_bus_table_limit", "Bytes that subscriptions and servings may take");
    families.gauge(&about, bytes, stats.table_budget)?;
    let about = About("whispeer_bus_cached_routes", "Routes in the cache");
    families.gauge(&about, None, stats.cached_routes)
}

fn requests(families: &mut Families<'_>, shared: &Shared, stats: &BusStats) -> fmt::Result {
    let about = About("whispeer_bus_requests", "Requests made");
    families.counter(&about, None, stats.requests)?;
    let about = About("whispeer_bus_failed_requests", "Requests that the bus answered with an error");
    families.counter(&about, None, stats.failed_requests)?;
    let about = About("whispeer_bus_requests_in_flight", "Requests unanswered");
    families.gauge(&about, None, stats.requests_in_flight)?;
    let about = About(
        "whispeer_bus_requests_waiting",
        "Requests that wait for a server with credit and room on its link",
    );
    families.gauge(&about, None, stats.requests_waiting)?;
    let about = About(
        "whispeer_bus_request",
        "How long requests took from when the bus took them in, by how they ended; all of a streaming reply",
    );
    let rows = RequestEnd::ALL.map(|end| (Some(("end", end.name())), shared.request_times.of(end)));
    families.histograms(&about, (Some(&Unit::Seconds), NANOSECONDS), rows)
}

fn plugins(families: &mut Families<'_>, stats: &BusStats) -> fmt::Result {
    if stats.plugins.is_empty() {
        return Ok(());
    }
    let label = |name| Some(("plugin", name));
    let about =
        About("whispeer_plugin_refused", "Connections, subscriptions and messages that a plugin refused");
    let rows = stats.plugins.iter().map(|plugin| (label(plugin.name.as_str()), plugin.refused));
    families.counters(&about, None, rows)?;
    let about = About("whispeer_plugin_withheld_messages", "Deliveries that a plugin withheld");
    let rows = stats.plugins.iter().map(|plugin| (label(plugin.name.as_str()), plugin.withheld));
    families.counters(&about, None, rows)?;
    let about = About("whispeer_plugin_failures", "How often a plugin failed");
    let rows = stats.plugins.iter().map(|plugin| (label(plugin.name.as_str()), plugin.failed));
    families.counters(&about, None, rows)
}

/// Of links to other systems, with what each of them counts.
fn links(families: &mut Families<'_>, stats: &BusStats) -> fmt::Result {
    for link in &stats.links {
        let name = format!("whispeer_{}_connected", link.name);
        families.gauge(
            &About(&name, "1 while this link of the bus can be used, else 0"),
            None,
            u64::from(link.connected),
        )?;
        for (count, value) in &link.counts {
            let name = format!("whispeer_{}_{count}", link.name);
            let help = format!("What this link of the bus counts as {}", count.replace('_', " "));
            families.counter(&About(&name, &help), None, *value)?;
        }
    }
    Ok(())
}

fn streams(families: &mut Families<'_>, shared: &Shared) -> fmt::Result {
    let streams = shared.streams.counts();
    if streams.is_empty() {
        return Ok(());
    }
    let label = |name| Some(("stream", name));
    let about = About("whispeer_stream_stored_messages", "Messages stored in a stream since it was made");
    families.counters(&about, None, streams.iter().map(|stream| (label(&*stream.name), stream.stored)))?;
    let about =
        About("whispeer_stream_dead_letters", "Messages put among a stream's dead letters since it was made");
    families.counters(
        &about,
        None,
        streams.iter().map(|stream| (label(&*stream.name), stream.dead_letters)),
    )?;
    let about = About("whispeer_stream_consumers", "Durable consumers and groups that have subscriptions");
    families.gauges(&about, None, streams.iter().map(|stream| (label(&*stream.name), stream.consumers)))?;
    let about = About(
        "whispeer_stream_consumer_lag",
        "Sequences from where the slowest consumer that has subscriptions is to the end of the stream",
    );
    families.gauges(&about, None, streams.iter().map(|stream| (label(&*stream.name), stream.behind)))?;
    let about =
        About("whispeer_stream_pending_messages", "Messages that consumers have and have not acknowledged");
    families.gauges(&about, None, streams.iter().map(|stream| (label(&*stream.name), stream.pending)))?;
    let about =
        About("whispeer_stream_redeliveries_waiting", "Messages that are to be sent to consumers again");
    families.gauges(&about, None, streams.iter().map(|stream| (label(&*stream.name), stream.again)))
}

fn stores(families: &mut Families<'_>, shared: &Shared) -> fmt::Result {
    let stores = shared.streams.store_metrics();
    if stores.is_empty() {
        return Ok(());
    }
    let label = |kind: &'static str| Some(("storage", kind));
    let (bytes, seconds) = (Some(&Unit::Bytes), (Some(&Unit::Seconds), NANOSECONDS));
    let about =
        About("whispeer_store_write", "How long it took to prepare transactions, without their commits");
    families.histograms(&about, seconds, stores.iter().map(|(kind, of)| (label(kind), of.writes.clone())))?;
    let about =
        About("whispeer_store_commit", "How long commits took: the log is written, and synced (fsync)");
    families.histograms(
        &about,
        seconds,
        stores.iter().map(|(kind, of)| (label(kind), of.commits.clone())),
    )?;
    let about = About(
        "whispeer_store_checkpoint",
        "How long it took to move what the log has to its place, with the syncs of that",
    );
    families.histograms(
        &about,
        seconds,
        stores.iter().map(|(kind, of)| (label(kind), of.checkpoints.clone())),
    )?;
    let about = About("whispeer_store_transaction_calls", "Calls that a transaction did together");
    families.histograms(
        &about,
        (None, 1.0),
        stores.iter().map(|(kind, of)| (label(kind), of.calls.clone())),
    )?;
    let about = About("whispeer_store_failed_transactions", "Transactions that failed, and were undone");
    families.counters(&about, None, stores.iter().map(|(kind, of)| (label(kind), of.failures)))?;
    let about = About("whispeer_store_write_queue", "Bytes that calls take which wait to be written");
    families.gauges(&about, bytes, stores.iter().map(|(kind, of)| (label(kind), of.waiting_to_write)))?;
    let about = About("whispeer_store_read_queue", "Bytes that calls take which wait to be read for");
    families.gauges(&about, bytes, stores.iter().map(|(kind, of)| (label(kind), of.waiting_to_read)))
}
