//! One server: a process, its folder, its address and its log.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::log::Log;
use super::probe::Probe;
use super::{NatsBuilder, blocking};
use crate::wait::PATIENCE;

/// How often a start is tried whose port somebody else has: between the choice of a port and its use, and while a
/// server is away, another connection of this machine may be given it.
const TRIES: usize = 50;

/// A server of NATS, killed when the last handle to it is dropped.
#[derive(Clone, Debug)]
pub struct NatsServer {
    address: SocketAddr,
    log: Log,
    node: Arc<Mutex<Node>>,
}

/// What other nodes need to know of one.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    /// Where this one listens for the others.
    pub(super) own: u16,
    /// Where all of them do.
    pub(super) all: Vec<u16>,
}

#[derive(Debug)]
struct Node {
    settings: NatsBuilder,
    routes: Option<Routes>,
    folder: TempDir,
    log: Log,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: Child,
    reader: JoinHandle<()>,
}

impl NatsServer {
    /// Starts one alone with the newest program, as [`NatsBuilder`] does without more.
    ///
    /// # Panics
    /// When it does not come up; its log is shown.
    pub async fn start() -> Self {
        NatsBuilder::newest().start().await
    }

    /// As [`NatsServer::start`], to be furnished first.
    pub fn builder() -> NatsBuilder {
        NatsBuilder::newest()
    }

    pub(super) fn launch(settings: NatsBuilder, routes: Option<Routes>) -> Self {
        Self::try_launch(settings, routes).unwrap_or_else(|why| panic!("nats-server did not start:\n{why}"))
    }

    /// As [`NatsServer::launch`]; the error is what its log says.
    pub(super) fn try_launch(settings: NatsBuilder, routes: Option<Routes>) -> Result<Self, String> {
        let log = Log::default();
        let folder = TempDir::new().map_err(|error| format!("no folder for it: {error}"))?;
        let mut node = Node { settings, routes, folder, log: log.clone(), running: None };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.run(None)?));
        Ok(Self { address, log, node: Arc::new(Mutex::new(node)) })
    }

    /// Where clients connect to: `nats://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// As [`NatsServer::url`], with a scheme and perhaps somebody's name, such as `("tls", "user:password@")`.
    #[must_use]
    pub fn url_with(&self, scheme: &str, who: &str) -> String {
        format!("{scheme}://{who}{}", self.address)
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that it has said, over all of its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Kills it, as `kill -9` does. Returns when it is gone.
    pub fn kill(&self) {
        self.locked().kill();
    }

    /// Ends it in order, as `SIGTERM` does. Returns when it is gone, which one that is paused never is.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&self) {
        let mut node = self.locked();
        node.signal(Signal::TERM);
        node.ended();
    }

    /// Lets it announce that it is about to end, and ask its clients to go elsewhere ("lame duck").
    ///
    /// # Panics
    /// When it does not run.
    pub fn lame_duck(&self) {
        self.locked().signal(Signal::USR2);
    }

    /// Ends it as an operator does who has others: it is a lame duck, waits until its clients have gone elsewhere, for a part of
    /// its `lame_duck_duration` each, and ends. Returns when it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn retire(&self) {
        let server = self.clone();
        blocking(move || {
            let mut node = server.locked();
            node.signal(Signal::USR2);
            node.ended();
        })
        .await;
    }

    /// Lets it stand still, as one does that is out of memory or behind a cut link: its connections stay open and
    /// nothing comes from it. Returns when it does, where the system tells.
    ///
    /// # Panics
    /// When it does not run, or does not stand still within [`PATIENCE`].
    pub fn pause(&self) {
        let process = {
            let running = self.locked();
            running.signal(Signal::STOP);
            running.running.as_ref().map(|running| running.process.id())
        };
        let begun = Instant::now();
        while process.is_some_and(|process| !stands_still(process)) {
            assert!(begun.elapsed() < PATIENCE, "nats-server does not stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        self.locked().signal(Signal::CONT);
    }

    /// Starts it again at the same address with what its store has, killing it first if it runs. Returns when it can
    /// be connected to.
    ///
    /// # Panics
    /// When it does not come up; its log is shown.
    pub async fn restart(&self) {
        let server = self.clone();
        blocking(move || server.restart_blocking()).await;
    }

    /// As [`NatsServer::restart`], for tests without a runtime.
    ///
    /// # Panics
    /// As it does.
    pub fn restart_blocking(&self) {
        let mut node = self.locked();
        node.kill();
        if let Err(why) = node.run(Some(self.address.port())) {
            drop(node);
            panic!("nats-server did not start again:\n{why}");
        }
    }

    /// Waits until a line of its log, from its beginning on, has `words` in it.
    ///
    /// # Panics
    /// When it ends or says nothing like it for long.
    pub async fn says(&self, words: &'static str) {
        let log = self.log.clone();
        let found = blocking(move || log.wait(0, |line| line.contains(words).then_some(()))).await;
        found.unwrap_or_else(|said| panic!("the server never said {words:?}:\n{said}"));
    }

    /// The number of its process, to look at what that takes.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.locked().running.as_ref().expect("the server runs").process.id()
    }

    fn locked(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Runs the program, again while its port is somebody else's. Gives the port for clients.
    fn run(&mut self, port: Option<u16>) -> Result<u16, String> {
        let mut tried = 1;
        loop {
            match self.run_once(port) {
                Err(why) if why.contains("address already in use") && tried < TRIES => {
                    tried += 1;
                    std::thread::yield_now();
                }
                ended => return ended,
            }
        }
    }

    fn run_once(&mut self, port: Option<u16>) -> Result<u16, String> {
        let program = self.settings.program.clone();
        let path = self.folder.path().join("nats.conf");
        std::fs::write(&path, self.configuration(port))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut process = Command::new(&program)
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let from = self.log.len();
        let reader = self.log.follow(process.stderr.take().ok_or("its log cannot be read")?);
        self.running = Some(Running { process, reader });
        let came_up = self.port(from);
        if came_up.is_err() {
            self.kill();
        }
        came_up
    }

    /// The port for clients, once it greets whoever connects.
    fn port(&self, from: usize) -> Result<u16, String> {
        const LISTENS: &str = "Listening for client connections on ";
        // Said with the port that it got. The file of `--ports_file_dir` has no more, and comes unannounced.
        let port =
            self.log.wait(from, |line| line.split_once(LISTENS)?.1.rsplit(':').next()?.parse().ok())?;
        self.log.wait(from, |line| line.contains("Server is ready").then_some(()))?;
        if self.routes.is_some() {
            self.log.wait(from, |line| line.contains("Listening for route connections").then_some(()))?;
        }
        match Probe::greeted((Ipv4Addr::LOCALHOST, port).into()) {
            Ok(_) => Ok(port),
            Err(error) => Err(format!("port {port} greets nobody: {error}\n{}", self.log.tail())),
        }
    }

    fn configuration(&self, port: Option<u16>) -> String {
        let port = port.map_or(-1, i32::from);
        let mut lines =
            format!("host: \"127.0.0.1\"\nport: {port}\nserver_name: \"{}\"\n", self.settings.name);
        if self.settings.jetstream {
            let store = self.folder.path().join("store");
            let domain = self.settings.domain.as_deref();
            let domain = domain.map(|domain| format!(", domain: \"{domain}\"")).unwrap_or_default();
            lines.push_str(&format!("jetstream {{ store_dir: \"{}\"{domain} }}\n", store.display()));
        }
        if let Some(Routes { own, all }) = &self.routes {
            let all: Vec<String> = all.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            let all = all.join(", ");
            lines.push_str(&format!(
                "cluster {{ name: \"testkit\", listen: \"127.0.0.1:{own}\", routes: [{all}] }}\n"
            ));
        }
        lines + &self.settings.config
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server does not run");
        let pid =
            i32::try_from(running.process.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(pid, signal).expect("a process of our own can be sent signals");
    }

    fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            // It may have ended by itself.
            let _ = running.process.kill();
        }
        self.ended();
    }

    /// Waits for the end of the process, and of what reads its log.
    fn ended(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.process.wait();
            let _ = running.reader.join();
        }
    }
}

impl Drop for Node {
    #[allow(
        clippy::print_stderr,
        reason = "the output of a test that fails is where its reasons are looked for"
    )]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- nats-server {} said last:\n{}", self.settings.name, self.log.tail());
        }
    }
}

/// Whether all threads of a process are stopped. A signal says only that they are to be.
fn stands_still(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return true };
    threads.flatten().all(|thread| {
        // The state follows the name, which is in brackets. A thread that is gone does nothing.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
    })
}
