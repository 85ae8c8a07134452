//! What is measured. Each subject is served by a process of its own and loaded by others.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub mod hello;
pub mod memory;
pub mod ping;
pub mod relay;
pub mod whispeer;

/// Something that carries messages or requests.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// One socket between the two sides, nothing in between.
    PingPong,
    /// Copies what each read gives.
    ChunkRelay,
    /// Forwards each frame, on one thread.
    FrameRelay,
    /// Forwards each frame, on two threads.
    FrameRelayTwoThreads,
    /// The frame relay on one thread, with load that never looks at single messages.
    FrameRelayInBulk,
    /// The frame relay on one thread, with load through Tokio's length-delimited codec.
    FrameRelayByCodec,
    /// The frame relay on one thread, with a publisher that writes each message at once.
    FrameRelayByWrite,
    /// Tokio's bounded channel, both tasks on one thread.
    Mpsc,
    /// Tokio's bounded channel, on a runtime with two threads.
    MpscTwoThreads,
    /// Tokio's broadcast channel, both tasks on one thread.
    Broadcast,
    /// whispeer as its users run it: the bus on as many threads as it takes by itself.
    Whispeer,
    /// whispeer with bus and clients on one thread, within one process.
    WhispeerOneThread,
    /// As [`WhispeerOneThread`](Self::WhispeerOneThread), with bytes instead of values.
    WhispeerBytes,
    /// t2_bus 0.2.
    T2Bus,
    /// nats-server from PyPI.
    Nats,
    /// nats-server from Debian.
    NatsDebian,
    /// Redis.
    Redis,
    /// Mosquitto.
    Mosquitto,
    /// Zenoh's router over Unix sockets.
    ZenohUnix,
    /// Zenoh's router over TCP.
    ZenohTcp,
    /// tarpc, client to server.
    Tarpc,
    /// tonic, client to server.
    Tonic,
    /// iceoryx2, through shared memory.
    Iceoryx2,
}

/// The threads of the runtime on which a process runs its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// A current-thread runtime.
    One,
    /// A multi-thread runtime with two workers.
    Two,
    /// A multi-thread runtime with as many workers as processors may be used, as the `whispeer`
    /// program has it.
    OnePerProcessor,
}

/// What a subject is for the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// A limit of the machine, which does less than any bus.
    Limit,
    /// whispeer in some form.
    Whispeer,
    /// Another bus.
    Peer,
    /// Another system that has no bus between client and server.
    Direct,
}

/// What runs as the process of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// This binary.
    Role,
    /// Another program.
    Program(Program),
    /// Nothing: the clients talk to each other.
    Nothing,
}

/// A program that is a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `whispeer`, without which this binary serves the library.
    Whispeer,
    /// `nats-server` of the newest version.
    Nats,
    /// `nats-server` as the system has it.
    NatsDebian,
    /// `redis-server`.
    Redis,
    /// `mosquitto`.
    Mosquitto,
    /// `zenohd`.
    Zenohd,
}

impl Subject {
    /// The name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::PingPong => "raw ping-pong, one hop",
            Self::ChunkRelay => "chunk relay",
            Self::FrameRelay => "frame relay, one thread",
            Self::FrameRelayTwoThreads => "frame relay, two threads",
            Self::FrameRelayInBulk => "frame relay, load in bulk",
            Self::FrameRelayByCodec => "frame relay, load through Tokio's codec",
            Self::FrameRelayByWrite => "frame relay, one write a message",
            Self::Mpsc => "tokio mpsc, one thread",
            Self::MpscTwoThreads => "tokio mpsc, two threads",
            Self::Broadcast => "tokio broadcast, one thread",
            Self::Whispeer => "whispeer",
            Self::WhispeerOneThread => "whispeer, one thread",
            Self::WhispeerBytes => "whispeer, one thread, bytes",
            Self::T2Bus => "t2_bus 0.2",
            Self::Nats => "NATS",
            Self::NatsDebian => "NATS, Debian's",
            Self::Redis => "Redis",
            Self::Mosquitto => "Mosquitto",
            Self::ZenohUnix => "Zenoh's router, Unix",
            Self::ZenohTcp => "Zenoh's router, TCP",
            Self::Tarpc => "tarpc, no bus",
            Self::Tonic => "tonic, no bus",
            Self::Iceoryx2 => "iceoryx2, shared memory",
        }
    }

    /// What it is for the comparison.
    pub fn standing(self) -> Standing {
        match self {
            Self::Whispeer | Self::WhispeerOneThread | Self::WhispeerBytes => Standing::Whispeer,
            Self::T2Bus
            | Self::Nats
            | Self::NatsDebian
            | Self::Redis
            | Self::Mosquitto
            | Self::ZenohUnix
            | Self::ZenohTcp => Standing::Peer,
            Self::Tarpc | Self::Tonic => Standing::Direct,
            // Shared memory has no bus either, and no copy: it is a limit too.
            _ => Standing::Limit,
        }
    }

    /// What runs as its process.
    pub fn serving(self) -> Serving {
        match self {
            Self::Whispeer => Serving::Program(Program::Whispeer),
            Self::Nats => Serving::Program(Program::Nats),
            Self::NatsDebian => Serving::Program(Program::NatsDebian),
            Self::Redis => Serving::Program(Program::Redis),
            Self::Mosquitto => Serving::Program(Program::Mosquitto),
            Self::ZenohUnix | Self::ZenohTcp => Serving::Program(Program::Zenohd),
            Self::Iceoryx2 | Self::Tarpc | Self::Tonic => Serving::Nothing,
            _ => Serving::Role,
        }
    }

    /// Whether it is served at a port of the loopback, for want of Unix sockets or to compare.
    pub fn is_over_tcp(self) -> bool {
        matches!(self, Self::Nats | Self::NatsDebian | Self::ZenohTcp)
    }

    /// Whether nothing holds its publishers back, so that at full speed it would drop messages, cut
    /// its subscribers off or fill the memory; or only when the buffers of its sockets are full,
    /// which over TCP hold seconds of small messages. Then the measurement keeps a window.
    pub fn needs_window(self) -> bool {
        matches!(
            self,
            Self::Nats | Self::NatsDebian | Self::Redis | Self::Mosquitto | Self::ZenohTcp
        )
    }

    /// Whether its client is built only with the feature `peers`.
    pub fn needs_peers(self) -> bool {
        match self.standing() {
            Standing::Peer => self != Self::T2Bus,
            Standing::Direct => true,
            Standing::Limit => self == Self::Iceoryx2,
            Standing::Whispeer => false,
        }
    }

    /// The threads on which the subject itself runs. Two are what a bus gets by default on the two
    /// cores of the machine described by the references.
    pub fn threads(self) -> Threads {
        match self {
            Self::FrameRelayTwoThreads | Self::MpscTwoThreads | Self::T2Bus => Threads::Two,
            Self::Whispeer => Threads::OnePerProcessor,
            _ => Threads::One,
        }
    }

    /// The threads of the load on it. One, so that subjects differ only in the client; Zenoh's
    /// client refuses to run on a single-threaded runtime.
    pub fn load_threads(self) -> Threads {
        match self {
            Self::ZenohUnix | Self::ZenohTcp => Threads::OnePerProcessor,
            _ => Threads::One,
        }
    }

    /// Whether requests need a process that answers them beside the subject.
    pub fn needs_answerer(self) -> bool {
        self != Self::PingPong
    }
}
