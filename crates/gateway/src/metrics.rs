//! What the gateway counts, for `/metrics`. No label comes from outside: routes, methods, dialects and reasons are known.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use whispeer::bus::metrics::BusCollector;
use whispeer::client::GapReason;
use whispeer::engine::is_sealed;

/// The routes that there are, by which requests are counted.
const ROUTES: &[&str] = &[
    "/api/openapi.json",
    "/api/publish",
    "/api/v1/consumers",
    "/api/v1/history",
    "/api/v1/publish",
    "/api/v1/request",
    "/api/v1/sessions",
    "/api/v1/streams",
    "/api/v1/subscribe",
    "/api/v1/ticket",
    "/api/v1/topics",
    "/bus",
    "/healthz",
    "/metrics",
    "/popsub",
    "/readyz",
    "/ws",
];

/// Bounds of the buckets of times: from a tenth of a millisecond to half a minute.
const SECONDS: [f64; 13] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What is spoken over sockets and streams of events.
const DIALECTS: [&str; 3] = ["events", "popsub", "turbine"];

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Spoken {
    dialect: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Directed {
    dialect: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    dialect: &'static str,
    reason: &'static str,
}

/// The gateway's counts, in a registry to which others may add theirs.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
    sockets: Family<Spoken, Gauge>,
    messages: Family<Directed, Counter>,
    dropped: Family<Because, Counter>,
    refused: Family<Because, Counter>,
    sealed: Family<Spoken, Counter>,
    connections: Gauge,
}

/// What is spoken over a socket, and its counts, which it holds: a message then costs one addition.
#[derive(Clone)]
pub(crate) struct SocketCounts {
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    open: Gauge,
}

/// A socket that is open, for as long as this is there.
pub(crate) struct OpenSocket(Gauge);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl SocketCounts {
    pub(crate) fn open(&self) -> OpenSocket {
        self.open.inc();
        OpenSocket(self.open.clone())
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("whispeer");
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            sockets: Family::default(),
            messages: Family::default(),
            dropped: Family::default(),
            refused: Family::default(),
            sealed: Family::default(),
            connections: Gauge::default(),
        };
        registry.register("http_requests", "Requests that were answered", metrics.requests.clone());
        let what = "Time from a request's head to the head of its answer";
        registry.register_with_unit("http_request", what, Unit::Seconds, metrics.seconds.clone());
        registry.register("gateway_connections", "Connections that are open", metrics.connections.clone());
        registry.register(
            "gateway_sockets",
            "WebSockets and streams of events that are open",
            metrics.sockets.clone(),
        );
        let what = "Messages that came over WebSockets and streams of events, and that went";
        registry.register("gateway_messages", what, metrics.messages.clone());
        let what = "Messages that a session did not get, as it took them too slowly or could not";
        registry.register("gateway_dropped", what, metrics.dropped.clone());
        registry.register("gateway_refused", "What was asked for and refused", metrics.refused.clone());
        let what = "Messages that went without being read, as they are sealed; each time that one was pushed to somebody, or came in, counts";
        registry.register("gateway_sealed", what, metrics.sealed.clone());
        let metrics = Self { registry: Mutex::new(all), ..metrics };
        metrics.begin();
        metrics
    }

    /// Those of the bus beside them.
    #[must_use]
    pub(crate) fn with(self, bus: BusCollector) -> Self {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(bus));
        drop(registry);
        self
    }

    /// Makes the series that there will be, so that what has not happened yet is there as 0.
    fn begin(&self) {
        for dialect in DIALECTS {
            self.socket(dialect);
            GapReason::ALL.into_iter().for_each(|reason| self.dropped(dialect, reason.name(), 0));
        }
        for reason in ["rate", "connections", "connections_of_address"] {
            drop(self.refused.get_or_create(&Because { dialect: "http", reason }));
        }
    }

    /// The route as it is counted: one that there is, or `other`.
    pub(crate) fn route(&self, matched: Option<&str>) -> &'static str {
        matched.and_then(|path| ROUTES.iter().find(|route| **route == path)).copied().unwrap_or("other")
    }

    pub(crate) fn answered(&self, route: &'static str, method: &Method, status: StatusCode, time: Duration) {
        // Methods are as many as somebody makes up.
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "OPTIONS" => "OPTIONS",
            _ => "other",
        };
        self.requests.get_or_create(&Answered { route, method, status: status.as_u16() }).inc();
        self.seconds.get_or_create(&Route { route }).observe(time.as_secs_f64());
    }

    /// The counts of a socket on which this is spoken.
    pub(crate) fn socket(&self, dialect: &'static str) -> SocketCounts {
        let messages = |direction| self.messages.get_or_create(&Directed { dialect, direction }).clone();
        SocketCounts {
            received: messages("in"),
            sent: messages("out"),
            open: self.sockets.get_or_create(&Spoken { dialect }).clone(),
        }
    }

    pub(crate) fn dropped(&self, dialect: &'static str, reason: &'static str, count: u64) {
        self.dropped.get_or_create(&Because { dialect, reason }).inc_by(count);
    }

    /// A payload has come in.
    pub(crate) fn came(&self, dialect: &'static str, payload: &[u8]) {
        if is_sealed(payload) {
            self.sealed(dialect);
        }
    }

    pub(crate) fn refused(&self, dialect: &'static str, reason: &'static str) {
        self.refused.get_or_create(&Because { dialect, reason }).inc();
    }

    /// A message was pushed to a subscriber with the mark of a sealed payload, or was published with it. What is pushed to many, or to
    /// one again, counts as often, in all dialects.
    pub(crate) fn sealed(&self, dialect: &'static str) {
        self.sealed.get_or_create(&Spoken { dialect }).inc();
    }

    pub(crate) fn connected(&self) -> OpenSocket {
        self.connections.inc();
        OpenSocket(self.connections.clone())
    }

    /// Lets somebody read all.
    pub(crate) fn with_registry<R>(&self, act: impl FnOnce(&Registry) -> R) -> R {
        act(&self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
