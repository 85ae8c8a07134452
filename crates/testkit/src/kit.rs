//! A bus on a given transport, and clients to it.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use whispeer::bus::{Bus, BusBuilder, BusHandle, Settings, Streams};
use whispeer::client::ClientBuilder;
use whispeer::engine::Engines;
use whispeer::transport::{ClientTls, ConnectOptions, Link, LinkSender, ServerTls, connect_with};
use whispeer::{Address, BusResult, Client};

use crate::certificates::Certificates;
use crate::conformance::CASES;
use crate::fault::{Fault, faulty_link};
use crate::ledger::{Live, nothing_left, settle};

/// How the clients of a case reach the bus. Odd clients are publishers and servers in most cases,
/// even ones subscribers and requesters, so that both mixtures put each transport on both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// All over memory, on one thread whose time is paused.
    Memory,
    /// All over a Unix socket, on one thread.
    Unix,
    /// All over a Unix socket, with a bus on two threads of its own.
    UnixWorkers,
    /// All over TCP, on one thread.
    Tcp,
    /// All over TLS, on one thread.
    Tls,
    /// All over WebSocket, on one thread.
    Ws,
    /// All over WebSocket over TLS, on one thread.
    Wss,
    /// All over QUIC, on one thread.
    Quic,
    /// The first over the Unix socket, the second over memory, and so on; on two threads.
    UnixAndMemory,
    /// The first over memory, the second over the Unix socket, and so on; on two threads.
    MemoryAndUnix,
    /// The first over TLS, the second over TCP, and so on; on two threads.
    TlsAndTcp,
    /// The first over a Unix socket, the second over TLS, and so on; on two threads.
    UnixAndTls,
    /// The first over WebSocket, the second over a Unix socket, and so on; on two threads.
    WsAndUnix,
    /// The first over QUIC, the second over TCP, and so on; on two threads.
    QuicAndTcp,
    /// The first over TCP, the second over TLS, and so on; on two threads.
    TcpAndTls,
    /// The first over TLS, the second over a Unix socket, and so on; on two threads.
    TlsAndUnix,
    /// The first over a Unix socket, the second over WebSocket, and so on; on two threads.
    UnixAndWs,
    /// The first over TCP, the second over QUIC, and so on; on two threads.
    TcpAndQuic,
    /// The first over WebSocket over TLS, the second over QUIC, and so on; on two threads.
    WssAndQuic,
    /// The first over QUIC, the second over WebSocket over TLS, and so on; on two threads.
    QuicAndWss,
}

/// What one client's connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Memory,
    Unix,
    Tcp,
    Tls,
    Ws,
    Wss,
    Quic,
}

impl Transport {
    /// What the even clients and the odd ones connect over.
    fn ways(self) -> [Over; 2] {
        match self {
            Self::Memory => [Over::Memory; 2],
            Self::Unix | Self::UnixWorkers => [Over::Unix; 2],
            Self::Tcp => [Over::Tcp; 2],
            Self::Tls => [Over::Tls; 2],
            Self::Ws => [Over::Ws; 2],
            Self::Wss => [Over::Wss; 2],
            Self::Quic => [Over::Quic; 2],
            Self::UnixAndMemory => [Over::Unix, Over::Memory],
            Self::MemoryAndUnix => [Over::Memory, Over::Unix],
            Self::TlsAndTcp => [Over::Tls, Over::Tcp],
            Self::UnixAndTls => [Over::Unix, Over::Tls],
            Self::WsAndUnix => [Over::Ws, Over::Unix],
            Self::QuicAndTcp => [Over::Quic, Over::Tcp],
            Self::TcpAndTls => [Over::Tcp, Over::Tls],
            Self::TlsAndUnix => [Over::Tls, Over::Unix],
            Self::UnixAndWs => [Over::Unix, Over::Ws],
            Self::TcpAndQuic => [Over::Tcp, Over::Quic],
            Self::WssAndQuic => [Over::Wss, Over::Quic],
            Self::QuicAndWss => [Over::Quic, Over::Wss],
        }
    }

    fn runtime(self) -> io::Result<Runtime> {
        match self {
            Self::Memory => Builder::new_current_thread().enable_all().start_paused(true).build(),
            _ if self.ways()[0] == self.ways()[1] => Builder::new_current_thread().enable_all().build(),
            _ => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        }
    }
}

impl Over {
    fn is_of(self, address: &Address) -> bool {
        match self {
            Self::Memory => matches!(address, Address::Memory(_)),
            Self::Unix => matches!(address, Address::Unix(_)),
            Self::Tcp => matches!(address, Address::Tcp(_)),
            Self::Tls => matches!(address, Address::Tls(_)),
            Self::Ws => matches!(address, Address::WebSocket(address) if !address.is_secure()),
            Self::Wss => matches!(address, Address::WebSocket(address) if address.is_secure()),
            Self::Quic => matches!(address, Address::Quic(_)),
        }
    }
}

/// What becomes of the payloads of all clients.
#[derive(Debug, Clone, Copy)]
pub struct Sealing {
    /// Makes the engines of one client.
    pub engines: fn() -> Engines,
    /// Bytes by which they make each payload longer. Cases about the largest frame need to know.
    pub growth: usize,
}

/// Gives a bus something beside its transports, such as plugins.
pub type Furnish = fn(BusBuilder) -> BusBuilder;

/// What a case works with: one bus, and as many clients as it asks for.
pub struct Kit {
    transport: Transport,
    fault: Fault,
    sealing: Sealing,
    /// What else the bus is given.
    furnish: Furnish,
    /// The streams that the bus keeps topics in.
    streams: Option<Streams>,
    directory: TempDir,
    bus: OnceLock<BusHandle>,
    clients: AtomicUsize,
    cut_off_expected: AtomicBool,
    relays: Mutex<JoinSet<io::Result<()>>>,
    certificates: LazyLock<Certificates>,
}

impl Kit {
    /// A kit without a bus.
    ///
    /// # Errors
    /// No folder for the socket can be made.
    pub fn new(transport: Transport, fault: Fault, sealing: Sealing, furnish: Furnish) -> io::Result<Self> {
        Ok(Self {
            transport,
            fault,
            sealing,
            furnish,
            streams: None,
            directory: tempfile::tempdir()?,
            bus: OnceLock::new(),
            clients: AtomicUsize::new(0),
            cut_off_expected: AtomicBool::new(false),
            relays: Mutex::default(),
            certificates: LazyLock::new(Certificates::new),
        })
    }

    /// The same, with a bus that keeps topics in these streams.
    #[must_use]
    pub fn with_streams(self, streams: Streams) -> Self {
        Self { streams: Some(streams), ..self }
    }

    /// Where the bus's socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("bus")
    }

    /// Starts the bus with its defaults.
    pub fn start(&self) -> &BusHandle {
        self.start_with(|_| {})
    }

    /// Starts the bus with other settings.
    pub fn start_with(&self, change: impl FnOnce(&mut Settings)) -> &BusHandle {
        let mut settings = Settings::default();
        change(&mut settings);
        let mut builder = (self.furnish)(Bus::builder().settings(settings));
        if let Some(streams) = &self.streams {
            builder = builder.streams(streams.clone());
        }
        if self.transport == Transport::UnixWorkers {
            builder = builder.workers(2);
        }
        let [even, odd] = self.transport.ways();
        let ways = if even == odd { vec![even] } else { vec![even, odd] };
        let local = |scheme: &str| format!("{scheme}://localhost:0").parse().expect("an address");
        for way in ways {
            builder = match way {
                Over::Memory => builder,
                Over::Unix => builder.listen_unix(self.socket()),
                Over::Tcp => builder.listen(&local("tcp")),
                Over::Ws => builder.listen(&local("ws")),
                Over::Tls => builder.tls(self.server_tls()).listen(&local("tls")),
                Over::Wss => builder.tls(self.server_tls()).listen(&local("wss")),
                Over::Quic => builder.tls(self.server_tls()).listen(&local("quic")),
            };
        }
        assert!(self.bus.set(builder.start().expect("the bus starts")).is_ok(), "a kit has one bus");
        self.bus()
    }

    fn server_tls(&self) -> ServerTls {
        ServerTls::pem(self.certificates.server.pem(), self.certificates.server.key_pem())
    }

    /// The bus.
    pub fn bus(&self) -> &BusHandle {
        self.bus.get().expect("the bus has been started")
    }

    /// A time that a case can wait out: short where time is real.
    #[must_use]
    pub fn short_time(&self) -> Duration {
        if self.transport == Transport::Memory { Duration::from_secs(1) } else { Duration::from_millis(50) }
    }

    /// Bytes by which engines make a payload of this case longer.
    #[must_use]
    pub fn growth(&self) -> usize {
        self.sealing.growth
    }

    /// A link of the next client.
    ///
    /// # Errors
    /// The bus cannot be reached.
    pub async fn link(&self) -> BusResult<Link> {
        let client = self.clients.fetch_add(1, Ordering::Relaxed);
        let way = self.transport.ways()[client % 2];
        let link = if way == Over::Memory {
            self.bus().connector().connect()?
        } else {
            let address = self.bus().local_addrs().iter().find(|address| way.is_of(address));
            let mut options = ConnectOptions::default();
            options.tls = ClientTls::new().ca_pem(self.certificates.authority.pem());
            connect_with(address.expect("the bus listens for it"), &options).await?
        };
        if self.fault == Fault::None {
            return Ok(link);
        }
        let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(faulty_link(link, self.fault, &mut relays))
    }

    /// A client that is not connected yet.
    pub fn builder(&self) -> ClientBuilder {
        Client::builder().engines((self.sealing.engines)())
    }

    /// The next client, welcomed by the bus.
    pub async fn client(&self) -> Client {
        let link = self.link().await.expect("the bus can be reached");
        let client = self.builder().connect_link(link).expect("there is a runtime");
        client.ping().await.expect("the bus answers");
        client
    }

    /// The next client, and what breaks its connection without a goodbye when it is closed.
    pub async fn breakable_client(&self) -> (Client, Arc<dyn LinkSender>) {
        let link = self.link().await.expect("the bus can be reached");
        let breaking = Arc::clone(&link.sender);
        let client = self.builder().connect_link(link).expect("there is a runtime");
        client.ping().await.expect("the bus answers");
        (client, breaking)
    }

    /// This case has the bus cut somebody off; otherwise that is a failure.
    pub fn expect_cut_off(&self) {
        self.cut_off_expected.store(true, Ordering::Relaxed);
    }

    /// What holds after every case, whatever it did.
    async fn check(self, mut live: Live) {
        let Some(bus) = self.bus.get() else { return };
        settle(bus, &mut live).await;
        drop(live);
        nothing_left(bus).await;
        if !self.cut_off_expected.load(Ordering::Relaxed) {
            assert_eq!(bus.stats().sessions_cut_off, 0, "somebody was cut off for breaking a rule");
        }
        if let Some(bus) = self.bus.into_inner() {
            bus.stop().await;
        }
    }
}

impl fmt::Debug for Kit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kit").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// A promise, and how it is tested.
pub struct Case {
    /// The promise, as a sentence.
    pub name: &'static str,
    pub(crate) run: for<'a> fn(&'a Kit) -> Pin<Box<dyn Future<Output = Live> + Send + 'a>>,
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Case").field(&self.name).finish()
    }
}

/// How long a case may take, in the time of its runtime.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// Payloads as they are.
const OPEN: Sealing = Sealing { engines: Engines::new, growth: 0 };

/// Runs one case over one transport, and checks the books and for leftovers.
///
/// # Errors
/// What the case, or the checks after it, found.
pub fn run(name: &str, transport: Transport, fault: Fault) -> Result<(), String> {
    run_sealed(name, transport, fault, OPEN)
}

/// [`run`], with clients whose payloads go through engines.
///
/// # Errors
/// As [`run`].
pub fn run_sealed(name: &str, transport: Transport, fault: Fault, sealing: Sealing) -> Result<(), String> {
    run_with(name, transport, async || Kit::new(transport, fault, sealing, |builder| builder))
}

/// [`run`], on a bus that is given something more.
///
/// # Errors
/// As [`run`].
pub fn run_furnished(name: &str, transport: Transport, furnish: Furnish) -> Result<(), String> {
    run_with(name, transport, async || Kit::new(transport, Fault::None, OPEN, furnish))
}

/// [`run`], on a bus that keeps topics in streams.
///
/// # Errors
/// As [`run`].
pub fn run_with_streams(
    name: &str,
    transport: Transport,
    open: impl AsyncFnOnce() -> Streams,
) -> Result<(), String> {
    run_with(name, transport, async || {
        let kit = Kit::new(transport, Fault::None, OPEN, |builder| builder)?;
        Ok(kit.with_streams(open().await))
    })
}

fn run_with(
    name: &str,
    transport: Transport,
    kit: impl AsyncFnOnce() -> io::Result<Kit>,
) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("there is no case {name}"))?;
    let run = case.run;
    let runtime = transport.runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async move {
        let kit = kit().await.expect("there is room for a socket");
        let task = tokio::spawn(async move {
            let live = run(&kit).await;
            kit.check(live).await;
        });
        let abort = task.abort_handle();
        match tokio::time::timeout(CASE_LIMIT, task).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.is_panic() => Err(panic_text(&*error.into_panic())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                abort.abort();
                Err(format!("it did not end within {CASE_LIMIT:?}"))
            }
        }
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
}
