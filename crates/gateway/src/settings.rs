//! What can be set.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use whispeer::auth::Secret;
use whispeer::engine::Engines;

use crate::tracer::Tracer;

/// The settings of a [`Gateway`](crate::Gateway).
///
/// # Examples
/// ```
/// use whispeer_gateway::Settings;
///
/// let settings = Settings::new("127.0.0.1:8080".parse()?);
/// assert_eq!(settings.body_limit, 1024 * 1024);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Where it listens; at least one address. Port 0 is one that the system chooses: the same for all, if it is free there.
    pub listen: Vec<SocketAddr>,
    /// Origins whose pages may use it, such as `https://app.example.com`: scheme, host, and the port if it is not the
    /// scheme's own. Pages that the gateway itself serves are of its own origin, which is listed on the loopback by itself.
    pub origins: Vec<String>,
    /// Names by which it may be asked for, beside the addresses and `localhost`: a page that has given a name of its own the
    /// address of the gateway is not let in (DNS rebinding). With a port, or without for any.
    pub hosts: Vec<String>,
    /// A folder whose files it serves at `/`; none by default.
    pub pages: Option<PathBuf>,
    /// Connections at once. 20,000 by default: each takes up to 30 KiB when it is idle.
    pub max_connections: usize,
    /// Connections at once from one address (IPv6: from one /64 network); those of the loopback are not counted. 1,024 by default.
    pub max_connections_per_address: usize,
    /// Bytes of a request's body and of a message on a WebSocket. 1 MiB by default.
    pub body_limit: usize,
    /// Bytes of all bodies and messages together that are being received; 64 MiB by default. At the bound long ones are refused with
    /// 503, or closed with 1013.
    pub bodies_limit: usize,
    /// Requests and messages of one address in a second, on the average; 10,000 by default. Twice as many may come at once.
    pub rate: u32,
    /// How long a request to the HTTP API may take; 60 s by default.
    pub request_timeout: Duration,
    /// How long connections may take to end when the bus drains; 10 s by default.
    pub grace: Duration,
    /// The dialect of Turbine, if it is spoken.
    pub turbine: Option<Turbine>,
    /// The dialect of PopSub, if it is spoken.
    pub popsub: Option<PopSub>,
    /// The bearer token that `/metrics` asks for. Without, it is served to callers on the loopback alone.
    pub metrics_token: Option<Secret>,
    /// What opens sealed payloads before they become JSON, and seals what is published and asked by HTTP, Turbine and PopSub. A
    /// payload of a topic that no rule of these is for, or that they do not open, passes as it is. Without, all do.
    ///
    /// Everybody who may subscribe reads what was opened: whoever gives keys here trusts the gateway, and the bus's policy.
    pub engines: Option<Engines>,
    /// Who records spans of requests; nobody by default. See [`tracer`](crate::tracer).
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl Settings {
    /// The defaults, at this address. No dialect is spoken.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen: vec![listen],
            origins: Vec::new(),
            hosts: Vec::new(),
            pages: None,
            max_connections: 20_000,
            max_connections_per_address: 1_024,
            body_limit: 1024 * 1024,
            bodies_limit: 64 * 1024 * 1024,
            rate: 10_000,
            request_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            turbine: None,
            popsub: None,
            metrics_token: None,
            engines: None,
            tracer: None,
        }
    }
}

/// The dialect of Turbine, at `/ws` and `/api/publish`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Turbine {
    /// The secret that tokens are signed with (HS256), at least 32 bytes.
    pub key: Secret,
    /// What tokens have to be made out to (`aud`), if anything.
    pub audience: Option<String>,
    /// What `POST /api/publish` asks for in `x-api-key`; any of them, each of at least 16 bytes.
    pub api_keys: Vec<Secret>,
    /// Roles of the bus's policy that its sessions have. A bus without a policy asks for none.
    pub roles: Vec<String>,
    /// Roles that `POST /api/publish` has.
    pub publish_roles: Vec<String>,
    /// Whether channels may be patterns. By default they are literal.
    pub patterns: bool,
    /// Subscriptions of a session; 64 by default.
    pub max_subscriptions: usize,
    /// Messages that wait for a session and channel; 256 by default. What comes when it is full is dropped and counted.
    pub buffer: u32,
}

impl Turbine {
    /// The defaults, with this key for tokens and this one for publishing.
    #[must_use]
    pub fn new(key: impl Into<Secret>, api_key: impl Into<Secret>) -> Self {
        Self {
            key: key.into(),
            audience: None,
            api_keys: vec![api_key.into()],
            roles: Vec::new(),
            publish_roles: Vec::new(),
            patterns: false,
            max_subscriptions: 64,
            buffer: 256,
        }
    }
}

/// The dialect of PopSub, at `/popsub`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PopSub {
    /// The secret that its tokens are signed with (HS256), at least 32 bytes.
    pub key: Secret,
    /// How long a token is good; 12 h by default.
    pub token_lifetime: Duration,
    /// Who may log in.
    pub users: Vec<PopSubUser>,
    /// Roles of the bus's policy that users have who have none of their own.
    pub roles: Vec<String>,
    /// Whether it is spoken at `/`, too.
    pub at_root: bool,
    /// Messages of a topic that a new subscriber gets first; 10 by default.
    pub replay: usize,
    /// The same for single topics.
    pub replay_of: Vec<(String, usize)>,
    /// Bytes of all messages that are kept for that, of all topics; 64 MiB by default.
    pub replay_bytes: usize,
    /// How long a subscriber may take to acknowledge before a message is sent again; 5 s by default.
    pub ack_timeout: Duration,
    /// How many times it is sent again; 5 by default.
    pub retries: u32,
    /// Subscriptions of a session; 64 by default.
    pub max_subscriptions: usize,
    /// Messages that wait for a session and topic; 256 by default.
    pub buffer: u32,
}

/// Who may log in to the dialect of PopSub.
#[derive(Debug, Clone)]
pub struct PopSubUser {
    /// The name.
    pub name: String,
    /// The password's Argon2id hash as a PHC string, as `whispeer passwd` makes it.
    pub password: Secret,
    /// Roles of the bus's policy; those of the dialect if there are none.
    pub roles: Vec<String>,
}

impl PopSub {
    /// The defaults, with this key for tokens and these users.
    #[must_use]
    pub fn new(key: impl Into<Secret>, users: Vec<PopSubUser>) -> Self {
        Self {
            key: key.into(),
            token_lifetime: Duration::from_secs(12 * 60 * 60),
            users,
            roles: Vec::new(),
            at_root: false,
            replay: 10,
            replay_of: Vec::new(),
            replay_bytes: 64 * 1024 * 1024,
            ack_timeout: Duration::from_secs(5),
            retries: 5,
            max_subscriptions: 64,
            buffer: 256,
        }
    }
}
