//! Starting a bus.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::budget::Budget;
use super::companion::Companions;
use super::drain::Drain;
use super::handle::BusHandle;
use super::places::Places;
use super::rights::Policies;
use super::settings::Live;
use super::streams::Streams;
use super::supervisor::{Phase, Supervisor, random};
use super::table::TableBudget;
use super::workers::Workers;
use super::{Settings, Shared, introspect};
use crate::auth::Policy;
use crate::error::{BusError, BusResult};
use crate::plugin::{Hooks, Plugin, Plugins};
#[cfg(feature = "websocket")]
use crate::transport::WebSocketOptions;
#[cfg(feature = "tcp")]
use crate::transport::network::{ListenOptions, listen};
use crate::transport::{
    Address, Listener, MemoryConnector, MemoryListener, PassedSocket, UnixListener, UnixOptions,
};
#[cfg(feature = "tls")]
use crate::transport::{LiveTls, ServerTls};

/// Links that wait to be taken over by [`BusHandle::attach`].
const ATTACH_BACKLOG: usize = 256;

/// Starts a bus within this process.
///
/// Returns the bus, which stops when it is dropped, and what [`Client`](crate::Client)s connect with.
///
/// # Errors
/// [`BusError::NoRuntime`] outside a Tokio runtime.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (stopper, connector) = listen_and_serve_memory()?;
/// let client = Client::new_memory(&connector)?;
/// assert_eq!(client.publish_bytes("greetings", "to nobody").await?, 0);
/// stopper.stop().await;
/// # Ok(())
/// # }
/// ```
pub fn listen_and_serve_memory() -> BusResult<(BusHandle, MemoryConnector)> {
    let bus = Bus::builder().start()?;
    let connector = bus.connector();
    Ok((bus, connector))
}

/// Starts a bus on a Unix socket with mode 0600. It stops when what is returned is dropped.
///
/// # Errors
/// [`BusError::NoRuntime`] outside a Tokio runtime; [`BusError::AddressInUse`] when a living bus
/// listens there; [`BusError::Listen`] when the socket cannot be made.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("my_bus");
/// let stopper = listen_and_serve_unix(&path)?;
/// let client = Client::new_unix(&path).await?;
/// client.ping().await?;
/// stopper.stop().await;
/// # Ok(())
/// # }
/// ```
#[allow(clippy::ptr_arg, reason = "`&\"my_bus\".into()` has to infer its type")]
pub fn listen_and_serve_unix(path: &PathBuf) -> BusResult<BusHandle> {
    Bus::builder().listen_unix(path).start()
}

/// Starts a bus on a TCP port, such as `localhost:4242`: on all addresses of the host. It stops when what is
/// returned is dropped.
///
/// Nobody is asked who he is, so the addresses have to be of the loopback; see
/// [`allow_anyone`](BusBuilder::allow_anyone).
///
/// # Errors
/// [`BusError::Connect`] for an endpoint that is not well formed; [`BusError::AddressInUse`] and
/// [`BusError::Listen`] when the port cannot be listened on.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let bus = listen_and_serve_tcp("localhost:0").await?;
/// let client = Client::connect(&bus.local_addrs()[0].to_string()).await?;
/// client.ping().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Nothing is started when the future is dropped.
pub async fn listen_and_serve_tcp(endpoint: &str) -> BusResult<BusHandle> {
    let address = Address::Tcp(endpoint.parse()?);
    let Ok(runtime) = Handle::try_current() else {
        return Err(BusError::NoRuntime { what: "starting a bus" });
    };
    // Looking the host up may take a while.
    let start = move || Bus::builder().listen(&address).start();
    runtime
        .spawn_blocking(start)
        .await
        .unwrap_or_else(|_| Err(BusError::Closed { what: "the runtime".into() }))
}

/// A message bus; see [`Bus::builder`].
#[derive(Debug)]
pub struct Bus {}

impl Bus {
    /// Begins to set up a bus.
    ///
    /// # Examples
    /// A bus for this process and for others on the host:
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("my_bus");
    /// let bus = Bus::builder().listen_unix(&path).start()?;
    /// let inside = Client::new_memory(&bus.connector())?;
    /// let outside = Client::new_unix(&path).await?;
    ///
    /// let mut subscription = inside.subscribe_bytes("greetings/**").await?;
    /// assert_eq!(outside.publish_bytes("greetings/world", "hello").await?, 1);
    /// let message = subscription.recv().await.unwrap();
    /// # let _ = message;
    /// bus.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> BusBuilder {
        BusBuilder::default()
    }
}

/// How a bus is to run. Every bus has a memory listener; others are added.
#[derive(Default)]
#[must_use = "a builder does nothing until `start`"]
pub struct BusBuilder {
    settings: Settings,
    name: Option<String>,
    unix: Vec<(PathBuf, UnixOptions)>,
    /// With the sockets that were passed for each.
    network: Vec<(Address, Vec<PassedSocket>)>,
    anyone: bool,
    policy: Policy,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
    #[cfg(feature = "websocket")]
    websocket: WebSocketOptions,
    listeners: Vec<Box<dyn Listener>>,
    workers: usize,
    streams: Streams,
    plugins: Plugins,
    pub(super) companions: Companions,
}

impl fmt::Debug for BusBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners: Vec<_> = self.listeners.iter().map(|listener| listener.local_addr()).collect();
        let mut shown = formatter.debug_struct("BusBuilder");
        shown
            .field("settings", &self.settings)
            .field("name", &self.name)
            .field("unix", &self.unix)
            .field("network", &self.network)
            .field("anyone", &self.anyone)
            .field("policy", &self.policy);
        #[cfg(feature = "tls")]
        shown.field("tls", &self.tls);
        #[cfg(feature = "websocket")]
        shown.field("websocket", &self.websocket);
        shown
            .field("listeners", &listeners)
            .field("workers", &self.workers)
            .field("plugins", &self.plugins)
            .field("companions", &self.companions)
            .finish()
    }
}

impl BusBuilder {
    /// Replaces all settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets [`Settings::frame_limit`], in bytes.
    pub fn frame_limit(mut self, bytes: usize) -> Self {
        self.settings.frame_limit = bytes;
        self
    }

    /// Sets [`Settings::block_limit`].
    pub fn block_limit(mut self, limit: Duration) -> Self {
        self.settings.block_limit = limit;
        self
    }

    /// Sets [`Settings::keep_alive`].
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.settings.keep_alive = interval;
        self
    }

    /// Listens on the address too; `mem:NAME` names the memory listener.
    pub fn listen(mut self, address: &Address) -> Self {
        match address {
            Address::Unix(path) => self.unix.push((path.clone(), UnixOptions::default())),
            Address::Memory(name) => self.name = Some(name.clone()),
            Address::Tcp(_) | Address::Tls(_) | Address::Quic(_) | Address::WebSocket(_) => {
                self.network.push((address.clone(), Vec::new()));
            }
        }
        self
    }

    /// Listens on an address of a network by sockets that somebody else has bound, such as a service manager: there may be
    /// one for each family of addresses. The address says what is spoken there (`tcp://`, `tls://`, `ws://` and `wss://`
    /// over TCP, `quic://` over UDP) and by what name the bus is known; host and port are those of the sockets. Without any
    /// socket it is bound, as by [`listen`](Self::listen).
    ///
    /// The sockets are closed here when the bus ends. Where somebody keeps copies of them, connections that are made
    /// meanwhile wait for the next bus.
    ///
    /// [`start`](Self::start) fails with [`BusError::Listen`] for sockets of the wrong kind, ones that do not listen or have
    /// different ports, and where other hosts would reach a bus that asks nobody who he is.
    ///
    /// # Examples
    /// ```
    /// use std::net::TcpListener;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    /// let port = passed.local_addr().unwrap().port();
    /// let bus = Bus::builder().listen_passed(&"tcp://localhost:0".parse()?, [passed]).start()?;
    /// assert_eq!(bus.local_addrs()[0].to_string(), format!("tcp://localhost:{port}"));
    /// Client::connect(&format!("tcp://127.0.0.1:{port}")).await?.ping().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn listen_passed<S: Into<PassedSocket>>(
        mut self,
        address: &Address,
        sockets: impl IntoIterator<Item = S>,
    ) -> Self {
        let sockets: Vec<PassedSocket> = sockets.into_iter().map(Into::into).collect();
        if sockets.is_empty() {
            return self.listen(address);
        }
        self.network.push((address.clone(), sockets));
        self
    }

    /// Listens on a Unix socket with mode 0600.
    pub fn listen_unix(self, path: impl Into<PathBuf>) -> Self {
        self.listen_unix_with(path, UnixOptions::default())
    }

    /// Listens on a Unix socket with these options.
    pub fn listen_unix_with(mut self, path: impl Into<PathBuf>, options: UnixOptions) -> Self {
        self.unix.push((path.into(), options));
        self
    }

    /// Uses this certificate, and asks clients for theirs as it says, at all addresses whose transport uses TLS.
    /// [`BusHandle::reload`] reads its files again.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Asks whoever connects who he is, and lets him do what this policy says. By default everybody who can connect
    /// may use all topics but the bus's own. [`BusHandle::set_policy`] replaces it.
    ///
    /// # Examples
    /// ```
    /// use whispeer::auth::{AuthSettings, Policy};
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let nobody_by_the_network = Policy::new(&AuthSettings::default())?;
    /// let bus = Bus::builder()
    ///     .policy(nobody_by_the_network)
    ///     .listen(&"tcp://localhost:0".parse()?)
    ///     .start()?;
    /// Client::new_memory(&bus.connector())?.ping().await?;
    /// let refused = Client::connect(&bus.local_addrs()[0].to_string()).await;
    /// assert!(matches!(refused, Err(BusError::Denied { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Keeps what is published to the topics of these streams, in place of those given before.
    pub fn streams(mut self, streams: Streams) -> Self {
        self.streams = streams;
        self
    }

    /// Has this plugin see, change and refuse what happens at the bus, behind those that were given before; see
    /// [`plugin`](crate::plugin). Nobody is let in before all plugins have begun: whoever connects earlier waits.
    ///
    /// [`start`](Self::start) fails with [`BusError::InvalidSettings`] for more than
    /// [`PLUGINS`](crate::limits::PLUGINS), and for a name that is empty, too long or there twice.
    ///
    /// # Examples
    /// ```
    /// use whispeer::plugin::{Refused, Transform};
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let short = Transform::new("short", |message| match message.weight() {
    ///     0..=140 => Ok(()),
    ///     long => Err(Refused::new(format!("{long} bytes are too many"))),
    /// });
    /// let bus = Bus::builder().plugin(short).start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// let refused = client.publish_bytes("news", vec![b'x'; 200]).await.unwrap_err();
    /// assert_eq!(refused.to_string(), "refused by the plugin \"short\": 200 bytes are too many");
    /// # Ok(())
    /// # }
    /// ```
    pub fn plugin(mut self, plugin: impl Plugin) -> Self {
        self.plugins = self.plugins.with(plugin);
        self
    }

    /// Has these plugins in place of those that were given before.
    #[cfg(feature = "broker")]
    pub(crate) fn plugins(mut self, plugins: Plugins) -> Self {
        self.plugins = plugins;
        self
    }

    /// Says whom to let in at all addresses where WebSocket is spoken: origins of pages, and names of the bus.
    #[cfg(feature = "websocket")]
    pub fn websocket(mut self, options: WebSocketOptions) -> Self {
        self.websocket = options;
        self
    }

    /// Lets the bus listen on addresses that other hosts can reach, although it asks nobody who he is: whoever
    /// reaches them may publish, subscribe, request and serve whatever he likes, and read what others send.
    pub fn allow_anyone(mut self) -> Self {
        self.anyone = true;
        self
    }

    /// Accepts on a listener that exists already, such as
    /// [`UnixListener::from_std`] makes of a Unix socket that a service manager has passed on; for those of a network see
    /// [`listen_passed`](Self::listen_passed).
    pub fn listen_on(mut self, listener: impl Listener) -> Self {
        self.listeners.push(Box::new(listener));
        self
    }

    /// Serves the connections that it accepts on so many threads of its own, which end with it. With 0, the
    /// default, they are served on the runtime that the bus is started on; at most [`WORKERS`](crate::limits::WORKERS).
    ///
    /// A connection stays on its thread, whose scheduler is simpler than one that moves tasks about: one for
    /// each core suits a process that does little else. Connections that have been accepted are served there
    /// also while the application's own tasks keep their threads busy. Links within the process are served where they are used in any case. The threads keep real
    /// time also where the application's runtime has paused its own.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("my_bus");
    /// let cores = std::thread::available_parallelism().map_or(1, usize::from);
    /// let bus = Bus::builder().listen_unix(&path).workers(cores).start()?;
    /// Client::new_unix(&path).await?.ping().await?;
    /// bus.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Starts the bus on the current Tokio runtime. When this returns, its addresses accept.
    ///
    /// # Errors
    /// [`BusError::NoRuntime`] outside a runtime; [`BusError::InvalidSettings`], also for certificates and keys;
    /// [`BusError::AddressInUse`] and [`BusError::Listen`] for an address that cannot be listened on,
    /// in which case nothing is started.
    pub fn start(self) -> BusResult<BusHandle> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(BusError::NoRuntime { what: "starting a bus" });
        };
        self.settings.check()?;
        self.plugins.check()?;
        self.companions.check()?;
        let workers = Workers::start(self.workers)?;
        let memory = MemoryListener::bind(self.name.as_deref())?;
        let connector = memory.connector();
        let mut listeners = self.listeners;
        for (path, options) in &self.unix {
            listeners.push(Box::new(UnixListener::bind(path, options)?));
        }
        #[cfg(feature = "tls")]
        let tls = self.tls.map(LiveTls::load).transpose()?.map(Arc::new);
        #[cfg(feature = "tcp")]
        let options = ListenOptions {
            anyone: self.anyone || !self.policy.is_open(),
            #[cfg(feature = "tls")]
            tls: tls.clone(),
            #[cfg(feature = "websocket")]
            websocket: self.websocket,
        };
        #[cfg(feature = "tcp")]
        for (address, passed) in self.network {
            listeners.push(listen(&address, passed, &options)?);
        }
        #[cfg(not(feature = "tcp"))]
        if let Some((address, _)) = self.network.first() {
            return Err(BusError::Listen {
                address: address.to_string(),
                reason: "whispeer was built without the feature `tcp`".into(),
                source: None,
            });
        }
        let mut local: Vec<Address> =
            listeners.iter().map(|listener| listener.local_addr().clone()).collect();
        local.push(connector.address().clone());
        let own_uid = listeners.iter().find_map(|listener| listener.own_uid());
        listeners.push(Box::new(memory));

        let deputy = super::Deputy::default();
        let shared = Arc::new(Shared {
            budget: Arc::new(Budget::new(self.settings.byte_budget)),
            table: Arc::new(TableBudget::new(self.settings.table_budget)),
            publishes_waiting: AtomicUsize::new(0),
            live: RwLock::new(Live::of(&self.settings)),
            settings: self.settings,
            policies: Policies::new(self.policy.own_uid(own_uid)),
            places: Places::default(),
            #[cfg(feature = "tls")]
            tls,
            id: u64::from_le_bytes(random()?),
            started: Instant::now(),
            addresses: local.iter().map(ToString::to_string).collect(),
            own_uid,
            router: super::Router::with(self.streams.clone()),
            streams: self.streams,
            services: super::Services::default(),
            sweeper: super::Sweeper::default(),
            presence: Arc::new(super::Presence::new(deputy.wake())),
            deputy,
            inspection: super::Inspection::default(),
            handshakes: super::Handshakes::default(),
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            next_token: AtomicU64::new(1),
            request_times: super::RequestTimes::default(),
            links: AtomicUsize::new(0),
            session_places: AtomicUsize::new(0),
            past: Mutex::default(),
            cut_off: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            alone: AtomicBool::new(self.plugins.want(Hooks::PUBLISH | Hooks::DELIVER)),
            plugins: (!self.plugins.is_empty()).then(|| Arc::new(self.plugins)),
            drains: watch::Sender::new(Drain::No),
            stop_asked: watch::Sender::new(None),
            reported: super::links::Links::default(),
            deciding: super::claims::Deciding::default(),
            wishing: Arc::default(),
            companions: watch::Sender::new(0),
        });
        let (attach, attached) = mpsc::channel(ATTACH_BACKLOG);
        let (phase, phase_seen) = watch::channel(Phase::Running);
        let introspection = introspect::start(&shared, &attach, &runtime);
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            listeners,
            attach: attach.clone(),
            attached,
            phase: phase_seen,
            workers,
            companions: self.companions,
        };
        let task = runtime.spawn(supervisor.run());
        Ok(BusHandle::new(shared, connector, local, attach, phase, task, introspection))
    }
}
