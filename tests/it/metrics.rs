//! What Prometheus is told of a bus.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use whispeer::auth::Principal;
use whispeer::bus::metrics::{BusCollector, OPENMETRICS, TEXT, expose};
use whispeer::client::SubscribeOptions;
use whispeer::limits;
use whispeer::plugin::Metrics;
use whispeer::prelude::*;
use whispeer::proto::fields::Policy;
use whispeer::proto::{Header, Kind};
use whispeer::store::{SqliteOptions, SqliteStore, Store};
use whispeer::transport::{Peer, memory_pair};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::tools::has_module;
use whispeer_testkit::wait::eventually;

use crate::certified;
use crate::orders::{billing, bus_on, client, next, publish};

/// What is shown of a bus, and of what else is registered.
pub(crate) struct Shown(Registry);

impl Shown {
    pub(crate) fn of(bus: &BusHandle) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(BusCollector::new(bus)));
        Self(registry)
    }

    /// In the older text format.
    pub(crate) fn text(&self) -> String {
        expose(&self.0, None).unwrap().body
    }

    fn openmetrics(&self) -> String {
        expose(&self.0, Some("application/openmetrics-text")).unwrap().body
    }

    /// The value of a time series, by its name and labels as they are written.
    fn value(&self, series: &str) -> f64 {
        let text = self.text();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
    }

    fn is(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            let found = self.value(series);
            assert!((found - value).abs() < 1e-9, "{series} is {found} and not {value}");
        }
    }

    /// All that is a time series of its own, without its value.
    fn series(&self) -> BTreeSet<String> {
        let text = self.text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    }
}

#[tokio::test]
async fn messages_are_counted_with_their_bytes_and_drops_by_reason() {
    let bus = Bus::builder().start().unwrap();
    let shown = Shown::of(&bus);
    let publisher = client(&bus);
    let narrow = SubscribeOptions::default().window(1, 1 << 20).policy(Policy::DropNewest);
    let _unread = publisher.subscribe_bytes_with("news", narrow).await.unwrap();
    for _ in 0..5 {
        publisher.publish_bytes("news", "12345").await.unwrap();
    }
    let stats = bus.stats();
    let (delivered, dropped) = (stats.delivered as f64, stats.dropped["dropped_newest"] as f64);
    assert!(dropped > 0.0 && delivered > 0.0);
    shown.is(&[
        ("whispeer_bus_published_messages_total", 5.0),
        ("whispeer_bus_published_bytes_total", stats.published_bytes as f64),
        ("whispeer_bus_matched_messages_total", 5.0),
        ("whispeer_bus_delivered_messages_total", delivered),
        ("whispeer_bus_delivered_bytes_total", stats.delivered_bytes as f64),
        ("whispeer_bus_dropped_messages_total{reason=\"dropped_newest\"}", dropped),
        ("whispeer_bus_dropped_messages_total{reason=\"lagging\"}", 0.0),
        ("whispeer_bus_parked_messages", stats.parked_messages as f64),
        ("whispeer_bus_subscriptions", 1.0),
        ("whispeer_bus_queue_limit_bytes", stats.byte_budget as f64),
        ("whispeer_bus_draining", 0.0),
        (&format!("whispeer_build_info{{version=\"{}\"}}", stats.version), 1.0),
    ]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = shown.value("whispeer_start_time_seconds");
    assert!((0.0..60.0).contains(&(now - started)), "{started} is not just before {now}");
    bus.stop().await;
}

#[tokio::test]
async fn sessions_are_counted_by_transport_and_what_is_not_known_is_other() {
    let bus = Bus::builder().start().unwrap();
    let shown = Shown::of(&bus);
    let mut clients = vec![client(&bus), client(&bus)];
    for transport in ["turbine", "popsub", "pigeon", "telegraph"] {
        let (bus_end, client_end) = memory_pair();
        bus.attach(bus_end, Peer::new(Principal::Local, transport)).unwrap();
        clients.push(Client::builder().connect_link(client_end).unwrap());
    }
    for client in &clients {
        client.ping().await.unwrap();
    }
    shown.is(&[
        ("whispeer_bus_sessions{transport=\"memory\"}", 2.0),
        ("whispeer_bus_sessions{transport=\"turbine\"}", 1.0),
        ("whispeer_bus_sessions{transport=\"popsub\"}", 1.0),
        ("whispeer_bus_sessions{transport=\"quic\"}", 0.0),
        ("whispeer_bus_sessions{transport=\"other\"}", 2.0),
        ("whispeer_bus_lost_sessions", 0.0),
        ("whispeer_bus_begun_sessions_total", 6.0),
    ]);
    drop(clients);
    eventually("all have gone", || shown.value("whispeer_bus_sessions{transport=\"other\"}") == 0.0).await;
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn requests_are_timed_by_how_they_end() {
    let bus = Bus::builder().start().unwrap();
    let shown = Shown::of(&bus);
    let series = |end: &str| format!("whispeer_bus_request_seconds_count{{end=\"{end}\"}}");
    let client = client(&bus);
    let mut serving = client.serve_bytes("work").await.unwrap();
    let server = async {
        let (_, id, _) = serving.recv().await.unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
        client.respond_bytes(id, "done".into()).await.unwrap();
        let (_, id, _) = serving.recv().await.unwrap();
        client.respond_error(id, ErrorReply::new("tired", "not now")).await.unwrap();
    };
    let asked = async {
        client.request_bytes("work", "1".into()).await.unwrap();
        client.request_bytes("work", "2".into()).await.unwrap_err();
        client.request_bytes("nowhere", "3".into()).await.unwrap_err();
    };
    tokio::join!(server, asked);
    shown.is(&[
        (&series("answered"), 1.0),
        ("whispeer_bus_request_seconds_sum{end=\"answered\"}", 0.04),
        ("whispeer_bus_request_seconds_bucket{le=\"0.025\",end=\"answered\"}", 0.0),
        ("whispeer_bus_request_seconds_bucket{le=\"0.05\",end=\"answered\"}", 1.0),
        ("whispeer_bus_request_seconds_bucket{le=\"+Inf\",end=\"answered\"}", 1.0),
        // One that nobody serves was never under way.
        (&series("failed"), 1.0),
        (&series("cancelled"), 0.0),
        (&series("expired"), 0.0),
        ("whispeer_bus_requests_total", 3.0),
        ("whispeer_bus_failed_requests_total", 1.0),
    ]);
    // Its requester says that it waits no longer.
    let asking = tokio::time::timeout(Duration::from_secs(3), client.request_bytes("work", "4".into()));
    asking.await.unwrap_err();
    eventually("it is cancelled", || shown.value(&series("cancelled")) == 1.0).await;
    // This one does not, and the bus ends it.
    let (mut peer, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    let deadline = Duration::from_secs(2);
    let asks = Header::new(Kind::Request, 1, deadline.as_micros() as u64);
    peer.send(&asks, "work", b"5").await.unwrap();
    while peer.receive().await.unwrap().unwrap().header.kind != Kind::Answer {}
    let took = shown.value("whispeer_bus_request_seconds_sum{end=\"expired\"}");
    assert!(took >= (deadline + limits::REQUEST_GRACE).as_secs_f64(), "{took}");
    // And this one is gone.
    peer.send(&Header::new(Kind::Request, 2, 0), "work", b"6").await.unwrap();
    eventually("it is asked", || shown.value("whispeer_bus_requests_in_flight") == 1.0).await;
    drop(peer);
    eventually("it is cancelled", || shown.value(&series("cancelled")) == 2.0).await;
    bus.stop().await;
}

/// A bus with a stream in a file, and a consumer that has one of three messages in hand.
async fn busy_bus(folder: &Path) -> (BusHandle, Vec<Box<dyn std::any::Any>>) {
    let file = SqliteStore::open(&folder.join("db"), SqliteOptions::new()).unwrap();
    let store: Arc<dyn Store> = Arc::new(file);
    let bus = bus_on(&store).await;
    let client = client(&bus);
    publish(&client, 1..=3).await;
    let mut orders = client.consume_bytes("orders/**", billing()).await.unwrap();
    next(&mut orders).await.ack().await.unwrap();
    let second = next(&mut orders).await;
    (bus, vec![Box::new(client), Box::new(orders), Box::new(second), Box::new(store)])
}

#[tokio::test]
async fn streams_tell_how_far_their_consumers_are_and_stores_what_their_work_takes() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, _held) = busy_bus(folder.path()).await;
    let shown = Shown::of(&bus);
    let pending = "whispeer_stream_pending_messages{stream=\"orders\"}";
    eventually("the other two are handed over", || shown.value(pending) == 2.0).await;
    shown.is(&[
        ("whispeer_stream_stored_messages_total{stream=\"orders\"}", 3.0),
        ("whispeer_stream_dead_letters_total{stream=\"orders\"}", 0.0),
        ("whispeer_stream_consumers{stream=\"orders\"}", 1.0),
        ("whispeer_stream_consumer_lag{stream=\"orders\"}", 2.0),
        ("whispeer_stream_redeliveries_waiting{stream=\"orders\"}", 0.0),
        ("whispeer_store_failed_transactions_total{storage=\"sqlite\"}", 0.0),
    ]);
    eventually("nothing waits", || {
        shown.value("whispeer_store_write_queue_bytes{storage=\"sqlite\"}") == 0.0
    })
    .await;
    let counted = |family: &str| shown.value(&format!("whispeer_store_{family}_count{{storage=\"sqlite\"}}"));
    let commits = counted("commit_seconds");
    assert!(
        commits >= 4.0,
        "three publishes and an acknowledgement waited for the disk, in {commits} commits"
    );
    assert!((counted("write_seconds") - commits).abs() < 0.5, "each transaction has both");
    let calls = shown.value("whispeer_store_transaction_calls_sum{storage=\"sqlite\"}");
    assert!(calls >= 4.0, "{calls}");
    assert!(shown.value("whispeer_store_commit_seconds_sum{storage=\"sqlite\"}") > 0.0);
    bus.stop().await;
}

#[tokio::test]
async fn what_clients_choose_makes_no_time_series() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, _held) = busy_bus(folder.path()).await;
    let shown = Shown::of(&bus);
    let before = shown.series();
    let client = Client::builder().name("strange-name").connect_memory(&bus.connector()).unwrap();
    let mut all = vec![client.subscribe_bytes("strange/**").await.unwrap()];
    let _serving = client.serve_bytes("strange/served").await.unwrap();
    let _consumer = client.consume_bytes("orders/**", billing().durable("strange-consumer")).await.unwrap();
    for number in 0..50 {
        let topic = format!("strange/{number}");
        client.publish_bytes(&topic, "1").await.unwrap();
        all.push(client.subscribe_bytes(&topic).await.unwrap());
    }
    assert_eq!(shown.series(), before);
    assert!(!shown.text().contains("strange"));
    bus.stop().await;
}

#[tokio::test]
async fn a_bus_with_a_certificate_tells_when_it_ends() {
    let certified::Ground { bus, made: _made } = certified::Ground::new("tls", certified::server);
    let until = bus.stats().certificate_until.unwrap();
    let until = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    Shown::of(&bus).is(&[("whispeer_bus_certificate_end_time_seconds", until)]);
    bus.stop().await;
}

#[tokio::test]
async fn of_a_bus_that_is_gone_only_the_release_is_told() {
    let bus = Bus::builder().start().unwrap();
    let shown = Shown::of(&bus);
    assert!(shown.series().len() > 40);
    bus.stop().await;
    eventually("nothing keeps the bus", || shown.series().len() == 1).await;
    assert!(shown.text().contains("whispeer_build_info"));
}

/// What Python's parser makes of a text: the type, the unit and the number of samples of each family.
fn parsed(format: &str, text: &str) -> BTreeMap<String, (String, String, usize)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/metrics_peer.py");
    let mut python = Command::new("python3")
        .arg(script)
        .arg(format)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ended = python.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}\n{text}", String::from_utf8_lossy(&ended.stderr));
    let written = String::from_utf8(ended.stdout).unwrap();
    let families = written.lines().map(|line| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap();
        (word(), (word(), word(), word().parse().unwrap()))
    });
    families.collect()
}

/// The families of a text, by the lines that tell their types.
fn typed(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[tokio::test]
async fn the_parsers_of_python_accept_both_formats() {
    if !has_module("prometheus_client") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (bus, _held) = busy_bus(folder.path()).await;
    let mut shown = Shown::of(&bus);
    // Beside what the plugin has of it.
    let _plugin = Metrics::register(&mut shown.0, [TopicPattern::new("orders/**").unwrap()]);
    let openmetrics = parsed("openmetrics", &shown.openmetrics());
    let text = parsed("text", &shown.text());
    let names =
        |families: &BTreeMap<String, (String, String, usize)>| families.keys().cloned().collect::<Vec<_>>();
    assert_eq!(openmetrics.len(), typed(&shown.openmetrics()).len());
    let without_info: Vec<_> =
        names(&text).into_iter().map(|name| name.trim_end_matches("_info").to_owned()).collect();
    assert_eq!(names(&openmetrics), without_info, "both have the same");
    for (name, (kind, unit, samples)) in &openmetrics {
        assert!(*samples > 0, "{name} shows nothing");
        assert!(unit == "-" || name.ends_with(&format!("_{unit}")), "{name} in {unit}");
        let (of_text, _, of_text_samples) = text.get(name).unwrap_or_else(|| &text["whispeer_build_info"]);
        let expected = if kind == "info" { "gauge" } else { kind };
        assert_eq!((of_text.as_str(), *of_text_samples), (expected, *samples), "{name}");
    }
    let (kind, unit, _) = &openmetrics["whispeer_store_commit_seconds"];
    assert_eq!((kind.as_str(), unit.as_str()), ("histogram", "seconds"));
    bus.stop().await;
}

#[tokio::test]
async fn no_family_is_shown_twice_where_the_plugin_counts_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, _held) = busy_bus(folder.path()).await;
    let mut shown = Shown::of(&bus);
    let _plugin = Metrics::register(&mut shown.0, []);
    for text in [shown.text(), shown.openmetrics()] {
        let families = typed(&text);
        assert_eq!(families.len(), families.iter().collect::<BTreeSet<_>>().len(), "{text}");
    }
    assert_eq!(expose(&shown.0, Some("text/plain")).unwrap().content_type, TEXT);
    assert_eq!(expose(&shown.0, Some(OPENMETRICS)).unwrap().content_type, OPENMETRICS);
    bus.stop().await;
}
