//! What is measured. Each subject is served by a process of its own and loaded by others.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::load::raw_publish::Handling;
use crate::load::raw_request::Requesting;

pub mod hello;
pub mod idle;
pub mod memory;
pub mod ping;
pub mod relay;
pub mod t2;
pub mod whispeer;

/// Something that carries messages or requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// One socket between the two sides, nothing in between.
    PingPong,
    /// Copies what each read gives.
    ChunkRelay,
    /// The chunk relay, with a requester that writes all requests due in one write.
    ChunkRelayBatched,
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
    /// Tokio's channels, both tasks on one thread.
    Mpsc,
    /// Tokio's channels, on a runtime with two threads.
    MpscTwoThreads,
    /// whispeer as its users run it: the bus on as many threads as it takes by itself.
    Whispeer,
    /// whispeer with bus and clients on one thread, within one process.
    WhispeerOneThread,
    /// As [`WhispeerOneThread`](Self::WhispeerOneThread), with bytes instead of values.
    WhispeerBytes,
    /// t2_bus 0.2.
    T2Bus,
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

impl Subject {
    /// The name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::PingPong => "raw ping-pong, one hop",
            Self::ChunkRelay => "chunk relay",
            Self::ChunkRelayBatched => "chunk relay, requests written together",
            Self::FrameRelay => "frame relay, one thread",
            Self::FrameRelayTwoThreads => "frame relay, two threads",
            Self::FrameRelayInBulk => "frame relay, load in bulk",
            Self::FrameRelayByCodec => "frame relay, load through Tokio's codec",
            Self::FrameRelayByWrite => "frame relay, one write a message",
            Self::Mpsc => "tokio mpsc, one thread",
            Self::MpscTwoThreads => "tokio mpsc, two threads",
            Self::Whispeer => "whispeer",
            Self::WhispeerOneThread => "whispeer, one thread",
            Self::WhispeerBytes => "whispeer, one thread, bytes",
            Self::T2Bus => "t2_bus 0.2",
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

    /// Whether it is whispeer in some form: what targets are for.
    pub fn is_whispeer(self) -> bool {
        matches!(
            self,
            Self::Whispeer | Self::WhispeerOneThread | Self::WhispeerBytes
        )
    }

    /// How the load on a raw subject handles messages.
    pub fn handling(self) -> Handling {
        match self {
            Self::FrameRelayInBulk | Self::ChunkRelay => Handling::InBulk,
            Self::FrameRelayByCodec => Handling::ByCodec,
            Self::FrameRelayByWrite => Handling::ByWrite,
            _ => Handling::ByMessage,
        }
    }

    /// How the load on a raw subject writes requests that are due together.
    pub fn requesting(self) -> Requesting {
        match self {
            Self::ChunkRelayBatched => Requesting::Batched,
            _ => Requesting::OneWriteEach,
        }
    }

    /// Whether requests need a process that answers them beside the subject.
    pub fn needs_answerer(self) -> bool {
        self != Self::PingPong
    }
}
