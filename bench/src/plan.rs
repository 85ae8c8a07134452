//! Which measurements there are, with which subjects, and which subject is the limit of each.

use clap::ValueEnum;

use crate::process::Placement;
use crate::subject::Subject;

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
    /// All subjects, the limit among them, in the order in which they take turns.
    pub subjects: &'static [Subject],
}

impl Case {
    /// Whether the figure is a time, so that less is better.
    pub fn is_latency(&self) -> bool {
        matches!(
            self.workload,
            Workload::Request { outstanding: 1 } | Workload::RequestInMemory
        )
    }
}

/// Requests under way at once where there are several.
const OUTSTANDING: u64 = 64;

/// Subscribers of a fan-out.
const FAN_OUT: u16 = 64;

/// Publishers, and subscribers, of the measurement with several of both.
const MANY: u16 = 4;

const KIBIBYTE: usize = 1024;

use Subject::{
    ChunkRelay, ChunkRelayBatched, FrameRelay, FrameRelayByCodec, FrameRelayByWrite,
    FrameRelayInBulk, FrameRelayTwoThreads, Mpsc, MpscTwoThreads, PingPong, T2Bus,
};

/// What publishing over sockets is held against. Its load handles messages one by one, as the
/// users of a bus do; load in bulk shows what the sockets could carry beyond that.
const PUBLISH_LIMIT: Subject = FrameRelay;

const REQUEST_SUBJECTS: &[Subject] = &[ChunkRelay, PingPong, FrameRelay, T2Bus];
const OUTSTANDING_SUBJECTS: &[Subject] =
    &[ChunkRelay, ChunkRelayBatched, PingPong, FrameRelay, T2Bus];
const ONE_TO_ONE_SUBJECTS: &[Subject] = &[
    FrameRelay,
    FrameRelayTwoThreads,
    FrameRelayByCodec,
    FrameRelayInBulk,
    FrameRelayByWrite,
    ChunkRelay,
];
const ONE_TO_ONE_SMALL_SUBJECTS: &[Subject] = &[
    FrameRelay,
    FrameRelayTwoThreads,
    FrameRelayByCodec,
    FrameRelayInBulk,
    FrameRelayByWrite,
    ChunkRelay,
    T2Bus,
];
const MANY_SUBJECTS: &[Subject] = &[
    FrameRelay,
    FrameRelayTwoThreads,
    FrameRelayByCodec,
    FrameRelayInBulk,
    FrameRelayByWrite,
];
const MEMORY_SUBJECTS: &[Subject] = &[Mpsc, MpscTwoThreads, T2Bus];

/// All measurements, in the order of the report.
pub fn cases() -> Vec<Case> {
    vec![
        request(
            "request-pinned",
            "request, 1 outstanding, pinned",
            Placement::OneProcessor,
        ),
        request(
            "request-unpinned",
            "request, 1 outstanding, unpinned",
            Placement::Anywhere,
        ),
        Case {
            id: "outstanding-64",
            title: "request, 64 outstanding",
            family: Family::Outstanding,
            workload: Workload::Request {
                outstanding: OUTSTANDING,
            },
            payload_bytes: 16,
            placement: Placement::Anywhere,
            limit: ChunkRelay,
            subjects: OUTSTANDING_SUBJECTS,
        },
        one_to_one("one-to-one-16", "1→1, 16 B", 16, ONE_TO_ONE_SMALL_SUBJECTS),
        one_to_one("one-to-one-1k", "1→1, 1 KiB", KIBIBYTE, ONE_TO_ONE_SUBJECTS),
        one_to_one(
            "one-to-one-64k",
            "1→1, 64 KiB",
            64 * KIBIBYTE,
            ONE_TO_ONE_SUBJECTS,
        ),
        fan_out("fan-out-16", "1→64, 16 B", 16),
        fan_out("fan-out-1k", "1→64, 1 KiB", KIBIBYTE),
        Case {
            id: "many-to-many-16",
            title: "4→4, 16 B",
            family: Family::ManyToMany,
            workload: Workload::Publish {
                publishers: MANY,
                subscribers: MANY,
            },
            payload_bytes: 16,
            placement: Placement::Anywhere,
            limit: PUBLISH_LIMIT,
            subjects: MANY_SUBJECTS,
        },
        memory(
            "memory-one-to-one-16",
            "1→1 in memory, 16 B",
            Workload::PublishInMemory,
        ),
        memory(
            "memory-request",
            "request in memory, 1 outstanding",
            Workload::RequestInMemory,
        ),
    ]
}

fn request(id: &'static str, title: &'static str, placement: Placement) -> Case {
    Case {
        id,
        title,
        family: Family::Request,
        workload: Workload::Request { outstanding: 1 },
        payload_bytes: 16,
        placement,
        limit: ChunkRelay,
        subjects: REQUEST_SUBJECTS,
    }
}

fn one_to_one(
    id: &'static str,
    title: &'static str,
    payload_bytes: usize,
    subjects: &'static [Subject],
) -> Case {
    Case {
        id,
        title,
        family: Family::OneToOne,
        workload: Workload::Publish {
            publishers: 1,
            subscribers: 1,
        },
        payload_bytes,
        placement: Placement::Anywhere,
        limit: PUBLISH_LIMIT,
        subjects,
    }
}

fn fan_out(id: &'static str, title: &'static str, payload_bytes: usize) -> Case {
    Case {
        id,
        title,
        family: Family::FanOut,
        workload: Workload::Publish {
            publishers: 1,
            subscribers: FAN_OUT,
        },
        payload_bytes,
        placement: Placement::Anywhere,
        limit: PUBLISH_LIMIT,
        subjects: MANY_SUBJECTS,
    }
}

fn memory(id: &'static str, title: &'static str, workload: Workload) -> Case {
    Case {
        id,
        title,
        family: Family::Memory,
        workload,
        payload_bytes: 16,
        placement: Placement::Anywhere,
        limit: Mpsc,
        subjects: MEMORY_SUBJECTS,
    }
}
