//! Which measurements there are, with which subjects, and what whispeer is to reach in each.

use clap::ValueEnum;
use serde::Serialize;

use crate::load::Streams;
use crate::load::measured::Metric;
use crate::load::message::SMALLEST_BYTES;
use crate::process::Placement;
use crate::subject::Subject::{
    self, Broadcast, ChunkRelay, FrameRelay, FrameRelayByCodec, FrameRelayByWrite,
    FrameRelayInBulk, FrameRelayTwoThreads, Iceoryx2, Mosquitto, Mpsc, MpscTwoThreads, Nats,
    NatsDebian, PingPong, Redis, T2Bus, Tarpc, Tonic, Whispeer, WhispeerBytes, WhispeerOneThread,
    ZenohTcp, ZenohUnix,
};
use crate::target::Target;

/// Groups of measurements, to choose from on the command line, and sections of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Request/response with one outstanding.
    Request,
    /// Request/response with 64 outstanding.
    Outstanding,
    /// One publisher, one subscriber.
    OneToOne,
    /// One publisher, many subscribers.
    FanOut,
    /// Four publishers with a subscriber each.
    ManyToMany,
    /// Many publishers, one subscriber.
    FanIn,
    /// How late messages come at half of the load that is possible.
    PartLoad,
    /// Wildcards, many and changing.
    Wildcards,
    /// Within one process.
    Memory,
    /// What a bus takes of the machine when nothing goes over it.
    Footprint,
}

impl Family {
    /// The heading of its section.
    pub fn title(self) -> &'static str {
        match self {
            Self::Request => "Requests, one at a time",
            Self::Outstanding => "Requests, 64 at a time",
            Self::OneToOne => "One publisher, one subscriber",
            Self::FanOut => "One publisher, many subscribers",
            Self::ManyToMany => "Four publishers with a subscriber each",
            Self::FanIn => "64 publishers, one subscriber",
            Self::PartLoad => "Latency at half load",
            Self::Wildcards => "Wildcards",
            Self::Memory => "Within one process",
            Self::Footprint => "Memory, start-up and size",
        }
    }
}

/// The load of a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Workload {
    /// Requests.
    Request {
        /// Requests under way at once.
        outstanding: u64,
    },
    /// Messages at full speed.
    Publish(Streams),
    /// Messages from one to one, at half of the rate of full speed.
    PartLoad,
    /// Messages from one to one at full speed while subscriptions come and go.
    Changes,
    /// Messages to topics that are new each time, among many wildcard subscriptions.
    Routing {
        /// Groups of patterns.
        groups: u32,
    },
    /// Connections with a subscription each, over which nothing goes.
    Idle {
        /// How many.
        connections: u32,
    },
    /// Nothing: the start is measured.
    Start,
    /// Requests within one process.
    RequestInMemory,
    /// Messages from one task to another within one process.
    PublishInMemory,
}

/// One measurement: a load, put on several subjects in turn.
#[derive(Debug, Clone)]
pub struct Case {
    /// The name on the command line, in JSON and in the references.
    pub id: String,
    /// The name in tables.
    pub title: String,
    /// What it belongs to.
    pub family: Family,
    /// What is done.
    pub workload: Workload,
    /// Bytes of each payload.
    pub payload_bytes: usize,
    /// Where the processes run.
    pub placement: Placement,
    /// The figure that is compared.
    pub metric: Metric,
    /// Figures shown beside it.
    pub beside: Vec<Metric>,
    /// The subject that the others are held against, where there is a limit.
    pub limit: Option<Subject>,
    /// What whispeer is to reach.
    pub targets: Vec<Target>,
    /// The most rounds that are worth their time.
    pub most_rounds: u32,
    /// All subjects in the order in which they take turns.
    pub subjects: Vec<Subject>,
}

/// Requests under way at once where there are several.
const OUTSTANDING: u64 = 64;

/// Connections on the side of a fan that has many.
const FAN: u16 = 64;

/// Subscribers of the fan-out that routing is compared with.
const SMALL_FAN: u16 = 10;

/// Publishers, and subscribers, of the measurement with several of both.
const MANY: u16 = 4;

/// Connections of the measurement of memory.
const IDLE: u32 = 10_000;

/// Groups of ten patterns: 100,000 subscriptions.
const GROUPS: u32 = 10_000;

/// Rounds of measurements that take long and vary little.
const FEW_ROUNDS: u32 = 2;

const KIBIBYTE: usize = 1024;

/// The payloads that are measured, and how titles and names write them.
const SIZES: [(usize, &str, &str); 3] = [
    (SMALLEST_BYTES, "16 B", "16"),
    (KIBIBYTE, "1 KiB", "1k"),
    (64 * KIBIBYTE, "64 KiB", "64k"),
];

const BUSES: [Subject; 7] = [
    Whispeer, Nats, NatsDebian, Redis, Mosquitto, ZenohUnix, ZenohTcp,
];

/// All measurements, in the order of the report.
pub fn cases() -> Vec<Case> {
    let mut cases = requests();
    let one = streams(1, 1);
    cases.extend(publishing(Family::OneToOne, "one-to-one", "1→1", one));
    let fan_out = streams(1, FAN);
    cases.extend(publishing(Family::FanOut, "fan-out", "1→64", fan_out));
    let small_fan = streams(1, SMALL_FAN);
    cases.extend(publishing(Family::FanOut, "fan-out-10", "1→10", small_fan).take(1));
    let many = streams(MANY, MANY);
    cases.extend(publishing(Family::ManyToMany, "many-to-many", "4→4", many));
    let fan_in = streams(FAN, 1);
    cases.extend(publishing(Family::FanIn, "fan-in", "64→1", fan_in));
    cases.extend(part_load());
    cases.extend(wildcards());
    cases.extend(in_memory());
    cases.extend(footprint());
    for case in &mut cases {
        case.targets = targets(&case.id);
    }
    cases
}

fn streams(publishers: u16, subscribers: u16) -> Streams {
    Streams {
        publishers,
        subscribers,
    }
}

/// `more` before the buses, and t2_bus after them where payloads have 16 bytes: its requests are
/// of that size here, and its rate makes larger ones no news.
fn with_buses(more: &[Subject], payload_bytes: usize) -> Vec<Subject> {
    let mut subjects = more.to_vec();
    subjects.extend(BUSES);
    if payload_bytes == SMALLEST_BYTES {
        subjects.push(T2Bus);
    }
    subjects
}

impl Case {
    fn new(id: String, title: String, family: Family, workload: Workload, metric: Metric) -> Self {
        Self {
            id,
            title,
            family,
            workload,
            payload_bytes: SMALLEST_BYTES,
            placement: Placement::Anywhere,
            metric,
            beside: Vec::new(),
            limit: None,
            targets: Vec::new(),
            most_rounds: u32::MAX,
            subjects: Vec::new(),
        }
    }
}

fn requests() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut request = |id: String, title: String, bytes, outstanding, placement| {
        let (family, metric) = match outstanding {
            1 => (Family::Request, Metric::P50),
            _ => (Family::Outstanding, Metric::Rate),
        };
        let mut subjects = with_buses(&[ChunkRelay, PingPong, Tarpc, Tonic], bytes);
        if outstanding == 1 {
            subjects.push(Iceoryx2);
        }
        cases.push(Case {
            payload_bytes: bytes,
            placement,
            beside: match metric {
                Metric::P50 => vec![Metric::P99, Metric::P999, Metric::Processor],
                _ => vec![Metric::Processor],
            },
            limit: Some(ChunkRelay),
            subjects,
            ..Case::new(id, title, family, Workload::Request { outstanding }, metric)
        });
    };
    for (bytes, size, name) in SIZES {
        request(
            format!("request-pinned-{name}"),
            format!("request, pinned to one core, {size}"),
            bytes,
            1,
            Placement::OneProcessor,
        );
    }
    request(
        "request-unpinned-16".to_owned(),
        "request, not pinned, 16 B".to_owned(),
        SMALLEST_BYTES,
        1,
        Placement::Anywhere,
    );
    for (bytes, size, name) in SIZES {
        request(
            format!("outstanding-{name}"),
            format!("requests, 64 outstanding, {size}"),
            bytes,
            OUTSTANDING,
            Placement::Anywhere,
        );
    }
    cases
}

/// A shape of publishing, in all sizes.
fn publishing(
    family: Family,
    id: &'static str,
    title: &'static str,
    streams: Streams,
) -> impl Iterator<Item = Case> {
    SIZES.into_iter().map(move |(bytes, size, name)| {
        let mut limits = vec![FrameRelay, FrameRelayTwoThreads];
        if family == Family::OneToOne {
            limits.push(ChunkRelay);
            if bytes == SMALLEST_BYTES {
                limits.extend([FrameRelayInBulk, FrameRelayByCodec, FrameRelayByWrite]);
            }
        }
        let mut subjects = with_buses(&limits, bytes);
        if streams.publishers == 1 {
            subjects.push(Iceoryx2);
        }
        Case {
            payload_bytes: bytes,
            beside: vec![Metric::Processor],
            limit: Some(match family {
                Family::FanOut => FrameRelayTwoThreads,
                _ => FrameRelay,
            }),
            subjects,
            ..Case::new(
                format!("{id}-{name}"),
                format!("{title}, {size}"),
                family,
                Workload::Publish(streams),
                Metric::Rate,
            )
        }
    })
}

fn part_load() -> impl Iterator<Item = Case> {
    SIZES.into_iter().map(|(bytes, size, name)| Case {
        payload_bytes: bytes,
        beside: vec![Metric::P99, Metric::P999, Metric::Rate],
        limit: Some(FrameRelay),
        subjects: with_buses(&[FrameRelay], bytes),
        ..Case::new(
            format!("part-load-{name}"),
            format!("1→1 at half load, {size}"),
            Family::PartLoad,
            Workload::PartLoad,
            Metric::P50,
        )
    })
}

fn wildcards() -> [Case; 2] {
    let routing = Case {
        beside: vec![Metric::Rate, Metric::Subscribing],
        most_rounds: FEW_ROUNDS,
        // Zenoh's router took more than two minutes to take as many subscriptions.
        subjects: BUSES
            .into_iter()
            .filter(|subject| !matches!(subject, ZenohUnix | ZenohTcp))
            .collect(),
        ..Case::new(
            "routing".to_owned(),
            "a fresh topic each message, 10 matches among 100,000 wildcard subscriptions"
                .to_owned(),
            Family::Wildcards,
            Workload::Routing { groups: GROUPS },
            Metric::Processor,
        )
    };
    let changes = Case {
        beside: vec![Metric::Share, Metric::Changes],
        subjects: BUSES.to_vec(),
        ..Case::new(
            "changes".to_owned(),
            "1→1, 16 B, while 1,000 subscriptions a second come and go".to_owned(),
            Family::Wildcards,
            Workload::Changes,
            Metric::Rate,
        )
    };
    [routing, changes]
}

fn in_memory() -> [Case; 2] {
    let subjects = vec![
        Mpsc,
        MpscTwoThreads,
        WhispeerOneThread,
        WhispeerBytes,
        Whispeer,
        T2Bus,
    ];
    let publish = Case {
        limit: Some(Mpsc),
        subjects: [&[Broadcast], &subjects[..]].concat(),
        ..Case::new(
            "memory-one-to-one-16".to_owned(),
            "1→1 in memory, 16 B".to_owned(),
            Family::Memory,
            Workload::PublishInMemory,
            Metric::Rate,
        )
    };
    let request = Case {
        beside: vec![Metric::P99, Metric::P999],
        limit: Some(Mpsc),
        subjects,
        ..Case::new(
            "memory-request".to_owned(),
            "request in memory, 16 B".to_owned(),
            Family::Memory,
            Workload::RequestInMemory,
            Metric::P50,
        )
    };
    [publish, request]
}

fn footprint() -> [Case; 2] {
    let idle = Case {
        beside: vec![Metric::Resident],
        limit: Some(FrameRelay),
        most_rounds: FEW_ROUNDS,
        // Zenoh's sessions take their time, and the router holds them alike over either transport.
        subjects: with_buses(&[FrameRelay], SMALLEST_BYTES)
            .into_iter()
            .filter(|subject| *subject != ZenohTcp)
            .collect(),
        ..Case::new(
            "idle".to_owned(),
            "memory of each of 10,000 idle connections".to_owned(),
            Family::Footprint,
            Workload::Idle { connections: IDLE },
            Metric::Connection,
        )
    };
    let start = Case {
        beside: vec![Metric::Resident, Metric::Program],
        most_rounds: FEW_ROUNDS,
        subjects: BUSES
            .into_iter()
            .filter(|subject| *subject != ZenohTcp)
            .collect(),
        ..Case::new(
            "start".to_owned(),
            "from the start of the program to its first connection".to_owned(),
            Family::Footprint,
            Workload::Start,
            Metric::Start,
        )
    };
    [idle, start]
}

/// What whispeer is to reach in the measurement `id`.
fn targets(id: &str) -> Vec<Target> {
    use Metric::{Connection, P50, Processor, Rate, Share, Subscribing};
    let at_least = Target::times_at_least;
    let at_most = Target::times_at_most;
    match id {
        "request-pinned-16" => vec![
            at_most(P50, 1.2, ChunkRelay),
            at_most(P50, 1.2, Tarpc),
            at_most(P50, 1.0, Mosquitto),
            at_most(P50, 1.0, Redis),
            at_most(P50, 1.0, Nats),
            at_most(P50, 1.0, ZenohUnix),
        ],
        "outstanding-16" => vec![
            at_least(Rate, 0.5, ChunkRelay),
            at_least(Rate, 3.0, Nats),
            at_least(Rate, 3.0, Redis),
            at_least(Rate, 1.0, Tarpc),
        ],
        "one-to-one-16" => vec![
            at_least(Rate, 0.5, FrameRelay),
            at_least(Rate, 1.8, ZenohUnix),
            at_least(Rate, 3.0, Nats),
            at_least(Rate, 20.0, T2Bus),
            Target::at_most(Processor, 0.5),
        ],
        "one-to-one-1k" => vec![
            at_least(Rate, 0.6, FrameRelay),
            at_least(Rate, 1.8, ZenohUnix),
            at_least(Rate, 3.0, Nats),
        ],
        "one-to-one-64k" => vec![
            at_least(Rate, 1.3, FrameRelay),
            at_least(Rate, 1.0, ZenohUnix),
        ],
        "fan-out-16" => vec![
            at_least(Rate, 1.3, FrameRelayTwoThreads),
            at_least(Rate, 1.0, ZenohUnix),
            at_least(Rate, 1.0, Nats),
        ],
        "fan-out-1k" => vec![
            at_least(Rate, 1.0, FrameRelayTwoThreads),
            at_least(Rate, 1.0, ZenohUnix),
            at_least(Rate, 1.0, Nats),
        ],
        "many-to-many-16" => vec![
            at_least(Rate, 0.6, FrameRelay),
            at_least(Rate, 1.5, ZenohUnix),
            at_least(Rate, 1.8, Nats),
        ],
        // A million messages at 5 µs each.
        "routing" => vec![
            Target::at_most(Processor, 5.0),
            Target::at_most(Subscribing, 2.0),
        ],
        "changes" => vec![Target::at_least(Share, 0.8)],
        "memory-one-to-one-16" => vec![at_least(Rate, 0.75, Mpsc)],
        "memory-request" => vec![at_most(P50, 4.0, Mpsc)],
        "idle" => vec![Target::at_most(Connection, 5.0 * KIBIBYTE as f64)],
        _ => Vec::new(),
    }
}

/// Whether `selected` names `case` or its family; nothing selected is all.
pub fn is_selected(case: &Case, selected: &[String]) -> bool {
    selected.is_empty()
        || selected
            .iter()
            .any(|name| *name == case.id || *name == family_name(case.family))
}

/// The name of a family on the command line and in names of files.
pub fn family_name(family: Family) -> String {
    family
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// The first of `selected` that is no name of a measurement or family.
pub fn unknown(selected: &[String]) -> Option<&String> {
    let cases = cases();
    selected.iter().find(|name| {
        let one = std::slice::from_ref(*name);
        !cases.iter().any(|case| is_selected(case, one))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_measurement_has_a_name_of_its_own_and_measures_its_limit_and_whispeer() {
        let cases = cases();
        let names: BTreeSet<_> = cases.iter().map(|case| &case.id).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            assert!(case.subjects.contains(&Whispeer), "{}", case.id);
            assert!(
                case.limit
                    .is_none_or(|limit| case.subjects.contains(&limit))
            );
        }
    }

    #[test]
    fn each_target_is_held_against_a_subject_of_its_measurement() {
        for case in cases() {
            for target in &case.targets {
                let against = target.against();
                assert!(against.is_none_or(|subject| case.subjects.contains(&subject)));
            }
        }
        // Both tables of names hold what the other does.
        assert!(
            cases()
                .iter()
                .filter(|case| !case.targets.is_empty())
                .count()
                == 13
        );
    }

    #[test]
    fn measurements_are_selected_by_name_and_by_family() {
        let select = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            cases()
                .iter()
                .filter(|case| is_selected(case, &names))
                .count()
        };
        assert_eq!(select(&["idle"]), 1);
        assert_eq!(select(&["one-to-one"]), SIZES.len());
        assert_eq!(select(&[]), cases().len());
        assert!(unknown(&["one-to-won".to_owned()]).is_some());
    }
}
