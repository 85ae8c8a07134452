//! The parts that processes play in a measurement. The runner starts this binary again with the
//! hidden subcommand `role` for each of them.
//!
//! A role that others wait for prints [`READY`] on a line of its own; one that measures prints
//! [`RESULT`] and the measurement as JSON. All else on standard output is ignored, because
//! subjects log there.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::address::Address;
use crate::clock;
use crate::load::client::{PubSub, Requester};
use crate::load::measured::Measured;
use crate::load::publish::{self, Pace};
use crate::load::raw_publish::{ByCodec, ByMessage, ByWrite, InBulk, Raw};
use crate::load::receiver::{self, Expecting, Receiver, WarmUp};
use crate::load::{Holding, Phases, Streams, hold, raw_request, requests, routing, subscribe};
use crate::peers::{self, t2_bus};
use crate::subject::relay::{self, Unit};
use crate::subject::whispeer::{self, Whispeer};
use crate::subject::{Program, Serving, Subject, Threads, memory, ping};

/// The line that says that a role can be used.
pub const READY: &str = "ready";

/// What a line begins with that says when a program was started, in nanoseconds of the clock.
pub const STARTING: &str = "starting ";

/// What a line with a measurement begins with.
pub const RESULT: &str = "result ";

/// The name of the file that takes what a program writes.
pub const LOG: &str = "server.log";

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Is the subject.
    Serve,
    /// Answers requests through the subject.
    Answer,
    /// Requests through the subject and measures.
    Request {
        /// Requests under way at once.
        outstanding: u64,
    },
    /// Publishes through the subject.
    Publish(Streams, Pace),
    /// Subscribes through the subject and measures.
    Subscribe(Streams, Expecting),
    /// Publishes each message to a topic of its own.
    PublishFresh {
        /// Groups of patterns.
        groups: u32,
    },
    /// Subscribes to many patterns and measures.
    SubscribeMany {
        /// Groups of patterns.
        groups: u32,
    },
    /// Holds connections over which nothing goes.
    Idle {
        /// The number of the first.
        first: u32,
        /// How many.
        connections: u32,
    },
    /// Makes and ends subscriptions.
    Change,
    /// Is subject and load at once: requests within one process.
    RequestInMemory,
    /// Is subject and load at once: publishes within one process.
    PublishInMemory,
}

/// A part in a measurement, and what there is to know for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Role {
    /// What to do.
    pub kind: Kind,
    /// With what.
    pub subject: Subject,
    /// Where the subject listens.
    pub address: Address,
    /// The program that is the subject.
    pub program: Option<PathBuf>,
    /// Bytes of each payload.
    pub payload_bytes: usize,
    /// How publishers are held back.
    pub holding: Holding,
    /// How long the load runs.
    pub phases: Phases,
}

/// Publishes on one task and receives on another.
macro_rules! between_tasks {
    ($publisher:expr, $receiving:expr, $phases:expr) => {{
        let (mut publisher, phases) = ($publisher, $phases);
        let receiving = tokio::spawn($receiving);
        let publishing = tokio::spawn(async move {
            publish::stream(&mut publisher, phases).await?;
            anyhow::Ok(publisher)
        });
        let receiver = receiving.await??;
        publishing.await??;
        receiver
    }};
}

impl Role {
    /// Plays the role until its load is done or, for what serves, until the process is ended.
    ///
    /// # Errors
    /// When the load fails or a delivery is missing, doubled or out of order.
    pub fn play(&self) -> Result<()> {
        // A role must not outlive a runner that was killed before it could end its roles.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
            .context("cannot bind the life of this process to its parent's")?;
        if let (Kind::Serve, Some(program)) = (self.kind, self.command()?) {
            return self.become_program(program);
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

    /// Says on standard output, where the runner reads, why the role could not be played.
    pub fn say_failed(error: &anyhow::Error) {
        say(&format!("{error:#}"));
    }

    /// The command of the program that is the subject, if one is.
    fn command(&self) -> Result<Option<Command>> {
        match (self.subject.serving(), &self.program) {
            (Serving::Program(Program::Whispeer), None) => Ok(None),
            (Serving::Program(Program::Whispeer), Some(path)) => {
                whispeer::command(path, &self.address).map(Some)
            }
            (Serving::Program(_), Some(path)) => {
                peers::command(self.subject, path, &self.address, &self.holding.directory).map(Some)
            }
            (Serving::Program(_), None) => self.unsupported(),
            (Serving::Role | Serving::Nothing, _) => Ok(None),
        }
    }

    fn become_program(&self, mut command: Command) -> Result<()> {
        let log = File::create(self.holding.directory.join(LOG))?;
        command
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .current_dir(&self.holding.directory);
        say(&format!("{STARTING}{}", clock::nanoseconds()));
        Err(command.exec()).with_context(|| format!("cannot run {:?}", command.get_program()))
    }

    fn threads(&self) -> Threads {
        match self.kind {
            Kind::Serve | Kind::RequestInMemory | Kind::PublishInMemory => self.subject.threads(),
            _ => self.subject.load_threads(),
        }
    }

    async fn perform(&self) -> Result<Option<Measured>> {
        match self.kind {
            Kind::Serve => self.serve().await.map(|()| None),
            Kind::RequestInMemory => self.request_in_memory().await.map(Some),
            Kind::PublishInMemory => self.publish_in_memory().await.map(Some),
            _ => self.load().await,
        }
    }

    async fn serve(&self) -> Result<()> {
        let unit = match self.subject {
            Subject::PingPong => return ping::serve(self.address.path()?, say_ready).await,
            Subject::T2Bus => return t2_bus::serve(&self.address, say_ready).await,
            Subject::Whispeer => return whispeer::serve(&self.address, say_ready).await,
            Subject::ChunkRelay => Unit::Chunk,
            _ => Unit::Frame,
        };
        relay::serve(self.address.path()?, unit, say_ready).await
    }

    /// Loads the subject through its client.
    async fn load(&self) -> Result<Option<Measured>> {
        match self.subject {
            Subject::Whispeer => self.through::<Whispeer>().await,
            Subject::T2Bus => self.through::<t2_bus::T2>().await,
            Subject::PingPong
            | Subject::ChunkRelay
            | Subject::FrameRelay
            | Subject::FrameRelayTwoThreads
            | Subject::FrameRelayInBulk
            | Subject::FrameRelayByCodec
            | Subject::FrameRelayByWrite => self.raw().await,
            _ => peers::play(self).await,
        }
    }

    async fn raw(&self) -> Result<Option<Measured>> {
        let socket = self.address.path()?;
        match self.kind {
            Kind::Answer => raw_request::answer(socket, say_ready).await.map(|()| None),
            Kind::Request { outstanding: 1 } => {
                raw_request::request(socket, self.payload_bytes, self.phases)
                    .await
                    .map(Some)
            }
            Kind::Request { outstanding } => raw_request::request_many(
                socket,
                self.payload_bytes,
                usize::try_from(outstanding)?,
                self.phases,
            )
            .await
            .map(Some),
            _ => match self.subject {
                Subject::FrameRelayInBulk | Subject::ChunkRelay => {
                    self.publishing::<Raw<InBulk>>().await
                }
                Subject::FrameRelayByCodec => self.publishing::<Raw<ByCodec>>().await,
                Subject::FrameRelayByWrite => self.publishing::<Raw<ByWrite>>().await,
                _ => self.publishing::<Raw<ByMessage>>().await,
            },
        }
    }

    /// Loads the subject through a client that can do all.
    ///
    /// # Errors
    /// When the load fails or a delivery is missing, doubled or out of order.
    pub async fn through<C: PubSub + Requester>(&self) -> Result<Option<Measured>> {
        match self.kind {
            Kind::Answer | Kind::Request { .. } => self.requesting::<C>().await,
            _ => self.publishing::<C>().await,
        }
    }

    /// Loads the subject through a client that publishes and subscribes.
    ///
    /// # Errors
    /// When the load fails or a delivery is missing, doubled or out of order.
    pub async fn publishing<C: PubSub>(&self) -> Result<Option<Measured>> {
        let (address, phases, size) = (&self.address, self.phases, self.payload_bytes);
        let holding = &self.holding;
        match self.kind {
            Kind::Publish(streams, pace) => {
                // The connections must live until the last message has arrived, and the runner
                // knows when that is.
                let _connections =
                    publish::publish::<C>(address, streams, size, pace, holding, phases).await?;
                std::future::pending().await
            }
            Kind::PublishFresh { groups } => {
                let _connection =
                    routing::publish::<C>(address, groups, size, holding, phases).await?;
                std::future::pending().await
            }
            Kind::Subscribe(streams, expecting) => {
                subscribe::subscribe::<C>(address, streams, expecting, holding, phases, say_ready)
                    .await
                    .map(Some)
            }
            Kind::SubscribeMany { groups } => {
                routing::subscribe::<C>(address, groups, holding, phases, say_ready)
                    .await
                    .map(Some)
            }
            Kind::Idle { first, connections } => {
                hold::idle::<C>(address, first, connections, say_ready)
                    .await
                    .map(|()| None)
            }
            Kind::Change => hold::change::<C>(address, phases, say_ready)
                .await
                .map(Some),
            _ => self.unsupported(),
        }
    }

    /// Loads the subject through a client that asks and answers.
    ///
    /// # Errors
    /// When the load fails or an answer is not the request's.
    pub async fn requesting<R: Requester>(&self) -> Result<Option<Measured>> {
        match self.kind {
            Kind::Answer => {
                let answerer = R::answerer(&self.address).await?;
                answerer.answer(say_ready).await.map(|()| None)
            }
            Kind::Request { outstanding } => {
                requests::request::<R>(&self.address, self.payload_bytes, outstanding, self.phases)
                    .await
                    .map(Some)
            }
            _ => self.unsupported(),
        }
    }

    async fn request_in_memory(&self) -> Result<Measured> {
        match self.subject {
            Subject::Mpsc | Subject::MpscTwoThreads => memory::request(self.phases).await,
            Subject::T2Bus => t2_bus::request_in_memory(self.phases).await,
            Subject::Whispeer | Subject::WhispeerOneThread => {
                whispeer::memory::request(self.phases).await
            }
            Subject::WhispeerBytes => {
                whispeer::memory::request_of_bytes(self.payload_bytes, self.phases).await
            }
            _ => self.unsupported(),
        }
    }

    async fn publish_in_memory(&self) -> Result<Measured> {
        let phases = self.phases;
        let receiver = Receiver::new(Expecting::Ordered, 0, 1, WarmUp::new(phases.warm_up))?;
        let receiver = match self.subject {
            Subject::Mpsc | Subject::MpscTwoThreads => {
                let (publisher, receiving) = memory::mpsc(receiver);
                between_tasks!(publisher, receiving, phases)
            }
            Subject::Broadcast => {
                let (publisher, receiving) = memory::broadcast(receiver);
                between_tasks!(publisher, receiving, phases)
            }
            Subject::T2Bus => {
                let (_bus, publisher, receiving) =
                    t2_bus::in_memory(self.payload_bytes, receiver).await?;
                between_tasks!(publisher, receiving, phases)
            }
            Subject::Whispeer | Subject::WhispeerOneThread => {
                let (_bus, publisher, receiving) = whispeer::memory::of_values(receiver).await?;
                between_tasks!(publisher, receiving, phases)
            }
            Subject::WhispeerBytes => {
                let (_bus, publisher, receiving) =
                    whispeer::memory::of_bytes(self.payload_bytes, receiver).await?;
                between_tasks!(publisher, receiving, phases)
            }
            _ => return self.unsupported(),
        };
        receiver::measured(vec![receiver])
    }

    fn unsupported<T>(&self) -> Result<T> {
        bail!("{} cannot {:?}", self.subject.title(), self.kind)
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
