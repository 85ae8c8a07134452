//! The parts that processes play in a measurement. The runner starts this binary again with the
//! hidden subcommand `role` for each of them.
//!
//! A role that others wait for prints [`READY`] on a line of its own; one that measures prints
//! [`RESULT`] and the measurement as JSON. All else on standard output is ignored, because
//! subjects log there.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::load::{Measured, Phases, raw_publish, raw_request};
use crate::subject::relay::{self, Unit};
use crate::subject::{Subject, Threads, idle, memory, ping, t2, whispeer};

/// The line that says that a role can be used.
pub const READY: &str = "ready";

/// What a line with a measurement begins with.
pub const RESULT: &str = "result ";

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Is the subject.
    Serve,
    /// Answers requests through the subject.
    Answer,
    /// Requests through the subject and measures.
    Request,
    /// Publishes through the subject.
    Publish,
    /// Subscribes through the subject and measures.
    Subscribe,
    /// Holds connections over which nothing goes.
    Idle,
    /// Is subject and load at once: requests within one process.
    RequestInMemory,
    /// Is subject and load at once: publishes within one process.
    PublishInMemory,
}

/// A part in a measurement, and what there is to know for it.
#[derive(Debug, Clone, Args)]
pub struct Role {
    /// What to do.
    pub kind: Kind,
    /// With what.
    pub subject: Subject,
    /// Where the subject listens.
    #[arg(long)]
    pub socket: PathBuf,
    /// Bytes of each payload.
    #[arg(long)]
    pub payload_bytes: usize,
    /// Requests under way at once.
    #[arg(long)]
    pub outstanding: u64,
    /// Streams that are published at once, each on a connection of its own.
    #[arg(long)]
    pub publishers: u16,
    /// Connections that subscribe, dealt out over the publishers; or that are held idle.
    #[arg(long)]
    pub subscribers: u16,
    /// The number of the first idle connection.
    #[arg(long)]
    pub first: u16,
    /// The `whispeer` program, which is then the bus.
    #[arg(long)]
    pub whispeer: Option<PathBuf>,
    /// Time before counting, in milliseconds.
    #[arg(long)]
    pub warm_up: u64,
    /// Time that is counted, in milliseconds.
    #[arg(long)]
    pub measure: u64,
}

impl Role {
    /// The arguments that make this binary play the role.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["role".to_owned()];
        for value in [
            self.kind.to_possible_value(),
            self.subject.to_possible_value(),
        ] {
            arguments.extend(value.map(|value| value.get_name().to_owned()));
        }
        let options = [
            ("--socket", self.socket.display().to_string()),
            ("--payload-bytes", self.payload_bytes.to_string()),
            ("--outstanding", self.outstanding.to_string()),
            ("--publishers", self.publishers.to_string()),
            ("--subscribers", self.subscribers.to_string()),
            ("--first", self.first.to_string()),
            ("--warm-up", self.warm_up.to_string()),
            ("--measure", self.measure.to_string()),
        ];
        for (name, value) in options {
            arguments.push(name.to_owned());
            arguments.push(value);
        }
        if let Some(program) = &self.whispeer {
            arguments.push("--whispeer".to_owned());
            arguments.push(program.display().to_string());
        }
        arguments
    }

    /// Plays the role until its load is done or, for what serves, until the process is ended.
    ///
    /// # Errors
    /// When the load fails or a delivery is missing, doubled or out of order.
    pub fn play(&self) -> Result<()> {
        // A role must not outlive a runner that was killed before it could end its roles.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
            .context("cannot bind the life of this process to its parent's")?;
        if let (Kind::Serve, Subject::Whispeer, Some(program)) =
            (self.kind, self.subject, &self.whispeer)
        {
            match whispeer::become_program(program, &self.socket)? {}
        }
        let runtime = runtime(self.threads())?;
        match runtime.block_on(self.perform())? {
            Some(measured) => {
                say(&format!("{RESULT}{}", serde_json::to_string(&measured)?));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Load generators run on one thread whatever their subject, so that they differ only in the
    /// client that they use.
    fn threads(&self) -> Threads {
        match self.kind {
            Kind::Serve | Kind::RequestInMemory | Kind::PublishInMemory => self.subject.threads(),
            Kind::Answer | Kind::Request | Kind::Publish | Kind::Subscribe | Kind::Idle => {
                Threads::One
            }
        }
    }

    async fn perform(&self) -> Result<Option<Measured>> {
        match self.kind {
            Kind::Serve => self.serve().await.map(|()| None),
            Kind::Answer => self.answer().await.map(|()| None),
            Kind::Publish => self.publish().await.map(|()| None),
            Kind::Idle => self.idle().await.map(|()| None),
            Kind::Request => self.request().await.map(Some),
            Kind::Subscribe => self.subscribe().await.map(Some),
            Kind::RequestInMemory => self.request_in_memory().await.map(Some),
            Kind::PublishInMemory => self.publish_in_memory().await.map(Some),
        }
    }

    async fn serve(&self) -> Result<()> {
        match Client::of(self.subject) {
            Client::Raw if self.subject == Subject::PingPong => {
                ping::serve(&self.socket, say_ready).await
            }
            Client::Raw => relay::serve(&self.socket, unit(self.subject), say_ready).await,
            Client::T2 => t2::serve(&self.socket, say_ready).await,
            Client::Whispeer => whispeer::serve(&self.socket, say_ready).await,
            Client::None => self.unsupported(),
        }
    }

    async fn answer(&self) -> Result<()> {
        match Client::of(self.subject) {
            Client::Raw => raw_request::answer(&self.socket, say_ready).await,
            Client::T2 => t2::answer(&self.socket, say_ready).await,
            Client::Whispeer => whispeer::answer(&self.socket, say_ready).await,
            Client::None => self.unsupported(),
        }
    }

    async fn request(&self) -> Result<Measured> {
        let (socket, phases) = (&self.socket, self.phases());
        match (Client::of(self.subject), self.outstanding) {
            (Client::Raw, 1) => raw_request::request(socket, self.payload_bytes, phases).await,
            (Client::Raw, many) => {
                let requesting = self.subject.requesting();
                raw_request::request_many(socket, self.payload_bytes, many, requesting, phases)
                    .await
            }
            (Client::T2, 1) => t2::request(socket, phases).await,
            (Client::T2, many) => t2::request_many(socket, many, phases).await,
            (Client::Whispeer, 1) => whispeer::request(socket, self.payload_bytes, phases).await,
            (Client::Whispeer, many) => {
                whispeer::request_many(socket, self.payload_bytes, many, phases).await
            }
            (Client::None, _) => self.unsupported(),
        }
    }

    async fn publish(&self) -> Result<()> {
        let (socket, phases) = (&self.socket, self.phases());
        match Client::of(self.subject) {
            Client::Raw => {
                let handling = self.subject.handling();
                raw_publish::publish(
                    socket,
                    self.publishers,
                    self.payload_bytes,
                    handling,
                    phases,
                )
                .await
            }
            Client::T2 => t2::publish(socket, self.payload_bytes, phases).await,
            Client::Whispeer => {
                whispeer::publish(socket, self.publishers, self.payload_bytes, phases).await
            }
            Client::None => self.unsupported(),
        }
    }

    async fn subscribe(&self) -> Result<Measured> {
        let (socket, phases) = (&self.socket, self.phases());
        let (connections, channels) = (self.subscribers, self.publishers);
        match Client::of(self.subject) {
            Client::Raw => {
                let handling = self.subject.handling();
                raw_publish::subscribe(socket, connections, channels, handling, phases, say_ready)
                    .await
            }
            Client::T2 => t2::subscribe(socket, phases, say_ready).await,
            Client::Whispeer => {
                whispeer::subscribe(socket, connections, channels, phases, say_ready).await
            }
            Client::None => self.unsupported(),
        }
    }

    async fn idle(&self) -> Result<()> {
        let (socket, first, connections) = (&self.socket, self.first, self.subscribers);
        match Client::of(self.subject) {
            Client::Raw => idle::hold(socket, first, connections, say_ready).await,
            Client::Whispeer => whispeer::idle(socket, first, connections, say_ready).await,
            Client::T2 | Client::None => self.unsupported(),
        }
    }

    async fn request_in_memory(&self) -> Result<Measured> {
        match self.subject {
            Subject::Mpsc | Subject::MpscTwoThreads => memory::request(self.phases()).await,
            Subject::T2Bus => t2::request_in_memory(self.phases()).await,
            Subject::Whispeer | Subject::WhispeerOneThread => {
                whispeer::memory::request(self.phases()).await
            }
            Subject::WhispeerBytes => {
                whispeer::memory::request_of_bytes(self.payload_bytes, self.phases()).await
            }
            _ => self.unsupported(),
        }
    }

    async fn publish_in_memory(&self) -> Result<Measured> {
        let phases = self.phases();
        match self.subject {
            Subject::Mpsc | Subject::MpscTwoThreads => memory::one_to_one(phases).await,
            Subject::T2Bus => t2::one_to_one_in_memory(self.payload_bytes, phases).await,
            Subject::Whispeer | Subject::WhispeerOneThread => {
                whispeer::memory::one_to_one(phases).await
            }
            Subject::WhispeerBytes => {
                whispeer::memory::one_to_one_of_bytes(self.payload_bytes, phases).await
            }
            _ => self.unsupported(),
        }
    }

    fn phases(&self) -> Phases {
        Phases {
            warm_up: Duration::from_millis(self.warm_up),
            measure: Duration::from_millis(self.measure),
        }
    }

    fn unsupported<T>(&self) -> Result<T> {
        bail!("{} cannot {:?}", self.subject.title(), self.kind)
    }
}

/// Whose client the load on a subject uses over sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Raw,
    T2,
    Whispeer,
    None,
}

impl Client {
    fn of(subject: Subject) -> Self {
        match subject {
            Subject::PingPong
            | Subject::ChunkRelay
            | Subject::ChunkRelayBatched
            | Subject::FrameRelay
            | Subject::FrameRelayTwoThreads
            | Subject::FrameRelayInBulk
            | Subject::FrameRelayByCodec
            | Subject::FrameRelayByWrite => Self::Raw,
            Subject::T2Bus => Self::T2,
            Subject::Whispeer => Self::Whispeer,
            Subject::Mpsc
            | Subject::MpscTwoThreads
            | Subject::WhispeerOneThread
            | Subject::WhispeerBytes => Self::None,
        }
    }
}

fn unit(relay: Subject) -> Unit {
    match relay {
        Subject::ChunkRelay | Subject::ChunkRelayBatched => Unit::Chunk,
        _ => Unit::Frame,
    }
}

fn runtime(threads: Threads) -> Result<Runtime> {
    let mut builder = match threads {
        Threads::One => Builder::new_current_thread(),
        Threads::Two | Threads::OnePerProcessor => Builder::new_multi_thread(),
    };
    if threads == Threads::Two {
        builder.worker_threads(2);
    }
    builder
        .enable_all()
        .build()
        .context("cannot start a Tokio runtime")
}

fn say_ready() {
    say(READY);
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    // The runner reads this to its end; when it has gone, the role is about to be ended anyway.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
