//! A bus on a given transport, and clients to it.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use whispeer::bus::{Bus, BusHandle, Settings};
use whispeer::transport::{Link, connect, connect_unix};
use whispeer::{BusResult, Client};

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
    /// The first over the Unix socket, the second over memory, and so on; on two threads.
    UnixAndMemory,
    /// The first over memory, the second over the Unix socket, and so on; on two threads.
    MemoryAndUnix,
}

impl Transport {
    fn is_unix(self, client: usize) -> bool {
        match self {
            Self::Memory | Self::Tcp => false,
            Self::Unix | Self::UnixWorkers => true,
            Self::UnixAndMemory => client.is_multiple_of(2),
            Self::MemoryAndUnix => !client.is_multiple_of(2),
        }
    }

    fn runtime(self) -> io::Result<Runtime> {
        match self {
            Self::Memory => Builder::new_current_thread().enable_all().start_paused(true).build(),
            Self::Unix | Self::UnixWorkers | Self::Tcp => Builder::new_current_thread().enable_all().build(),
            _ => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        }
    }
}

/// What a case works with: one bus, and as many clients as it asks for.
pub struct Kit {
    transport: Transport,
    fault: Fault,
    directory: TempDir,
    bus: OnceLock<BusHandle>,
    clients: AtomicUsize,
    cut_off_expected: AtomicBool,
    relays: Mutex<JoinSet<io::Result<()>>>,
}

impl Kit {
    /// A kit without a bus.
    ///
    /// # Errors
    /// No folder for the socket can be made.
    pub fn new(transport: Transport, fault: Fault) -> io::Result<Self> {
        Ok(Self {
            transport,
            fault,
            directory: tempfile::tempdir()?,
            bus: OnceLock::new(),
            clients: AtomicUsize::new(0),
            cut_off_expected: AtomicBool::new(false),
            relays: Mutex::default(),
        })
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
        let builder = Bus::builder().settings(settings);
        let builder = match self.transport {
            Transport::Memory => builder,
            Transport::Tcp => builder.listen(&"tcp://localhost:0".parse().expect("an address")),
            Transport::UnixWorkers => builder.listen_unix(self.socket()).workers(2),
            _ => builder.listen_unix(self.socket()),
        };
        assert!(self.bus.set(builder.start().expect("the bus starts")).is_ok(), "a kit has one bus");
        self.bus()
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

    /// A link of the next client.
    ///
    /// # Errors
    /// The bus cannot be reached.
    pub async fn link(&self) -> BusResult<Link> {
        let client = self.clients.fetch_add(1, Ordering::Relaxed);
        let link = if self.transport.is_unix(client) {
            connect_unix(&self.socket()).await?
        } else if self.transport == Transport::Tcp {
            connect(&self.bus().local_addrs()[0]).await?
        } else {
            self.bus().connector().connect()?
        };
        if self.fault == Fault::None {
            return Ok(link);
        }
        let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(faulty_link(link, self.fault, &mut relays))
    }

    /// The next client, welcomed by the bus.
    pub async fn client(&self) -> Client {
        let link = self.link().await.expect("the bus can be reached");
        let client = Client::builder().connect_link(link).expect("there is a runtime");
        client.ping().await.expect("the bus answers");
        client
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

/// Runs one case over one transport, and checks the books and for leftovers.
///
/// # Errors
/// What the case, or the checks after it, found.
pub fn run(name: &str, transport: Transport, fault: Fault) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("there is no case {name}"))?;
    let run = case.run;
    let runtime = transport.runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async move {
        let task = tokio::spawn(async move {
            let kit = Kit::new(transport, fault).expect("there is room for a socket");
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
