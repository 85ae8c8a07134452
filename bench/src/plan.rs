//! Which measurements there are, with which subjects, and which subject is the limit of each.

use clap::ValueEnum;

use crate::load::message::SMALLEST_BYTES;
use crate::process::Placement;
use crate::quantity::Unit;
use crate::subject::Subject;
use crate::target::Target;

/// Groups of measurements, to choose from on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Family {
    /// Request/response with one outstanding: latency, pinned and unpinned.
    Request,
    /// Request/response with 64 outstanding: rate.
    Outstanding,
    /// One publisher, one subscriber.
    OneToOne,
    /// One publisher, 64 subscribers.
    FanOut,
    /// Four publishers with a subscriber each.
    ManyToMany,
    /// Within one process.
    Memory,
    /// Many connections over which nothing goes.
    Idle,
}

/// The load of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Requests over a socket.
    Request {
        /// Requests under way at once.
        outstanding: u64,
    },
    /// Messages over sockets.
    Publish {
        /// Connections that publish, each on a topic of its own.
        publishers: u16,
        /// Connections that subscribe, dealt out over the topics.
        subscribers: u16,
    },
    /// Requests within one process.
    RequestInMemory,
    /// Messages from one task to another within one process.
    PublishInMemory,
    /// Connections with a subscription each, over which nothing goes.
    Idle {
        /// How many.
        connections: u16,
    },
}

/// One measurement: a load, put on several subjects in turn.
#[derive(Debug, Clone)]
pub struct Case {
    /// The name in JSON and in the references.
    pub id: &'static str,
    /// The name in tables.
    pub title: &'static str,
    /// What it belongs to.
    pub family: Family,
    /// What is done.
    pub workload: Workload,
    /// Bytes of each payload.
    pub payload_bytes: usize,
    /// Where the processes run.
    pub placement: Placement,
    /// The subject that the others are held against.
    pub limit: Subject,
    /// What whispeer is to reach.
    pub target: Option<Target>,
    /// All subjects, the limit among them, in the order in which they take turns.
    pub subjects: &'static [Subject],
}

impl Case {
    /// What its figure counts.
    pub fn unit(&self) -> Unit {
        match self.workload {
            Workload::Request { outstanding: 1 } | Workload::RequestInMemory => Unit::Nanoseconds,
            Workload::Idle { .. } => Unit::Bytes,
            Workload::Request { .. } | Workload::Publish { .. } | Workload::PublishInMemory => {
                Unit::PerSecond
            }
        }
    }
}

/// Requests under way at once where there are several.
const OUTSTANDING: u64 = 64;

/// Subscribers of a fan-out.
const FAN_OUT: u16 = 64;

/// Publishers, and subscribers, of the measurement with several of both.
const MANY: u16 = 4;

/// Connections of the measurement of memory.
const IDLE: u16 = 10_000;

const KIBIBYTE: usize = 1024;

use Subject::{
    ChunkRelay, ChunkRelayBatched, FrameRelay, FrameRelayByCodec, FrameRelayByWrite,
    FrameRelayInBulk, FrameRelayTwoThreads, Mpsc, MpscTwoThreads, PingPong, T2Bus, Whispeer,
    WhispeerBytes, WhispeerOneThread,
};

/// What publishing over sockets is held against. Its load handles messages one by one, as the
/// users of a bus do; load in bulk shows what the sockets could carry beyond that.
const PUBLISH_LIMIT: Subject = FrameRelay;

const REQUEST_SUBJECTS: &[Subject] = &[ChunkRelay, Whispeer, PingPong, FrameRelay, T2Bus];
const OUTSTANDING_SUBJECTS: &[Subject] = &[
    ChunkRelay,
    Whispeer,
    ChunkRelayBatched,
    PingPong,
    FrameRelay,
    T2Bus,
];
const ONE_TO_ONE_SUBJECTS: &[Subject] = &[
    FrameRelay,
    Whispeer,
    FrameRelayTwoThreads,
    FrameRelayByCodec,
    FrameRelayInBulk,
    FrameRelayByWrite,
    ChunkRelay,
];
const ONE_TO_ONE_SMALL_SUBJECTS: &[Subject] = &[
    FrameRelay,
    Whispeer,
    FrameRelayTwoThreads,
    FrameRelayByCodec,
    FrameRelayInBulk,
    FrameRelayByWrite,
    ChunkRelay,
    T2Bus,
];
const MANY_SUBJECTS: &[Subject] = &[
    FrameRelay,
    Whispeer,
    FrameRelayTwoThreads,
    FrameRelayByCodec,
    FrameRelayInBulk,
    FrameRelayByWrite,
];
const MEMORY_SUBJECTS: &[Subject] = &[
    Mpsc,
    WhispeerOneThread,
    WhispeerBytes,
    MpscTwoThreads,
    Whispeer,
    T2Bus,
];
const IDLE_SUBJECTS: &[Subject] = &[FrameRelay, Whispeer];

/// All measurements, in the order of the report.
pub fn cases() -> Vec<Case> {
    use Target::{AtLeast, AtMost, RatioAtLeast, RatioAtMost};
    let many_to_many = Workload::Publish {
        publishers: MANY,
        subscribers: MANY,
    };
    let idle = Workload::Idle { connections: IDLE };
    let mut cases = vec![
        request("request-pinned", "request, 1 outstanding, pinned")
            .with_target(RatioAtMost(1.5))
            .pinned(),
        request("request-unpinned", "request, 1 outstanding, unpinned"),
        outstanding("outstanding-64", "request, 64 outstanding").with_target(RatioAtLeast(0.3)),
        one_to_one("one-to-one-16", "1→1, 16 B", 16, ONE_TO_ONE_SMALL_SUBJECTS)
            .with_target(RatioAtLeast(0.3)),
        one_to_one("one-to-one-1k", "1→1, 1 KiB", KIBIBYTE, ONE_TO_ONE_SUBJECTS)
            .with_target(RatioAtLeast(0.4)),
        one_to_one(
            "one-to-one-64k",
            "1→1, 64 KiB",
            64 * KIBIBYTE,
            ONE_TO_ONE_SUBJECTS,
        )
        .with_target(RatioAtLeast(1.0)),
        fan_out("fan-out-16", "1→64, 16 B", 16).with_target(RatioAtLeast(1.0)),
        fan_out("fan-out-1k", "1→64, 1 KiB", KIBIBYTE),
    ];
    cases.extend([
        Case::new(
            "many-to-many-16",
            "4→4, 16 B",
            Family::ManyToMany,
            many_to_many,
        )
        .held_against(PUBLISH_LIMIT, MANY_SUBJECTS),
        memory(
            "memory-one-to-one-16",
            "1→1 in memory, 16 B",
            Workload::PublishInMemory,
        )
        .with_target(AtLeast(1_500_000.0)),
        memory(
            "memory-request",
            "request in memory, 1 outstanding",
            Workload::RequestInMemory,
        )
        .with_target(RatioAtMost(6.0)),
        Case::new("idle", "10,000 idle connections, each", Family::Idle, idle)
            .held_against(FrameRelay, IDLE_SUBJECTS)
            .with_target(AtMost(10.0 * KIBIBYTE as f64)),
    ]);
    cases
}

impl Case {
    /// A measurement of [`SMALLEST_BYTES`] where the scheduler likes, held against the chunk relay
    /// alone.
    fn new(id: &'static str, title: &'static str, family: Family, workload: Workload) -> Self {
        Self {
            id,
            title,
            family,
            workload,
            payload_bytes: SMALLEST_BYTES,
            placement: Placement::Anywhere,
            limit: ChunkRelay,
            target: None,
            subjects: &[ChunkRelay],
        }
    }

    fn held_against(mut self, limit: Subject, subjects: &'static [Subject]) -> Self {
        self.limit = limit;
        self.subjects = subjects;
        self
    }

    fn with_target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    fn with_payload_bytes(mut self, payload_bytes: usize) -> Self {
        self.payload_bytes = payload_bytes;
        self
    }

    fn pinned(mut self) -> Self {
        self.placement = Placement::OneProcessor;
        self
    }
}

fn request(id: &'static str, title: &'static str) -> Case {
    let workload = Workload::Request { outstanding: 1 };
    Case::new(id, title, Family::Request, workload).held_against(ChunkRelay, REQUEST_SUBJECTS)
}

fn outstanding(id: &'static str, title: &'static str) -> Case {
    let workload = Workload::Request {
        outstanding: OUTSTANDING,
    };
    Case::new(id, title, Family::Outstanding, workload)
        .held_against(ChunkRelay, OUTSTANDING_SUBJECTS)
}

fn one_to_one(
    id: &'static str,
    title: &'static str,
    payload_bytes: usize,
    subjects: &'static [Subject],
) -> Case {
    let workload = Workload::Publish {
        publishers: 1,
        subscribers: 1,
    };
    Case::new(id, title, Family::OneToOne, workload)
        .held_against(PUBLISH_LIMIT, subjects)
        .with_payload_bytes(payload_bytes)
}

fn fan_out(id: &'static str, title: &'static str, payload_bytes: usize) -> Case {
    let workload = Workload::Publish {
        publishers: 1,
        subscribers: FAN_OUT,
    };
    Case::new(id, title, Family::FanOut, workload)
        .held_against(PUBLISH_LIMIT, MANY_SUBJECTS)
        .with_payload_bytes(payload_bytes)
}

fn memory(id: &'static str, title: &'static str, workload: Workload) -> Case {
    Case::new(id, title, Family::Memory, workload).held_against(Mpsc, MEMORY_SUBJECTS)
}
