//! Puts one load on one subject: starts the processes in order, takes the result, ends them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit};

use crate::load::{Measured, Phases};
use crate::plan::{Case, Workload};
use crate::process::Process;
use crate::role::{Kind, Role};
use crate::subject::Subject;

/// How much longer than its phases a load may take, for what is still under way at its end to
/// arrive on a busy machine.
const SETTLING_LIMIT: Duration = Duration::from_secs(30);

/// Load processes over which idle connections are spread, so that each stays far below the files
/// that a process may have open.
const IDLE_PROCESSES: u16 = 2;

/// Files that a bus may have open beside its connections.
const OTHER_FILES: u64 = 64;

/// How often the resident memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);

/// What all measurements of a run share.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// How long each load runs.
    pub phases: Phases,
    /// Where sockets are made.
    pub directory: &'a Path,
    /// The `whispeer` program, if it is to be the bus.
    pub whispeer: Option<&'a Path>,
}

/// Measures `subject` once.
///
/// # Errors
/// When a process fails, a message is missing, or nothing comes in time.
pub fn measure(
    case: &Case,
    subject: Subject,
    Setting {
        phases,
        directory,
        whispeer,
    }: Setting<'_>,
) -> Result<Measured> {
    let socket = directory.join("bench.sock");
    if socket.exists() {
        std::fs::remove_file(&socket)?;
    }
    let (outstanding, publishers, subscribers) = match case.workload {
        Workload::Request { outstanding } => (outstanding, 0, 0),
        Workload::Publish {
            publishers,
            subscribers,
        } => (0, publishers, subscribers),
        Workload::RequestInMemory | Workload::PublishInMemory => (1, 1, 1),
        Workload::Idle { connections } => (0, 0, connections / IDLE_PROCESSES),
    };
    let role = |kind| Role {
        kind,
        subject,
        socket: socket.clone(),
        payload_bytes: case.payload_bytes,
        outstanding,
        publishers,
        subscribers,
        first: 0,
        whispeer: whispeer.map(Path::to_path_buf),
        warm_up: milliseconds(phases.warm_up),
        measure: milliseconds(phases.measure),
    };
    let start = |kind| Process::start(&role(kind), case.placement);
    let start_ready = |kind| {
        let mut process = start(kind)?;
        process.wait_until_ready()?;
        anyhow::Ok(process)
    };
    let limit = phases.warm_up + phases.measure + SETTLING_LIMIT;
    match case.workload {
        Workload::Request { .. } => {
            let _subject = start_ready(Kind::Serve)?;
            let _answerer = subject
                .needs_answerer()
                .then(|| start_ready(Kind::Answer))
                .transpose()?;
            start(Kind::Request)?.wait_for_result(limit)
        }
        Workload::Publish { .. } => {
            let _subject = start_ready(Kind::Serve)?;
            let mut subscriber = start_ready(Kind::Subscribe)?;
            let mut publisher = start(Kind::Publish)?;
            let measured = subscriber.wait_for_result(limit);
            publisher.check()?;
            measured
        }
        Workload::Idle { connections } => {
            check_files(connections)?;
            let bus = start_ready(Kind::Serve)?;
            let before = bus.resident_bytes()?;
            let _load = (0..IDLE_PROCESSES)
                .map(|number| {
                    let role = Role {
                        first: number * subscribers,
                        ..role(Kind::Idle)
                    };
                    let mut process = Process::start(&role, case.placement)?;
                    process.wait_until_ready()?;
                    Ok(process)
                })
                .collect::<Result<Vec<_>>>()?;
            let after = most_resident(&bus, phases.measure)?;
            let held = subscribers * IDLE_PROCESSES;
            Ok(Measured::memory(u64::from(held), before, after))
        }
        Workload::RequestInMemory => start(Kind::RequestInMemory)?.wait_for_result(limit),
        Workload::PublishInMemory => start(Kind::PublishInMemory)?.wait_for_result(limit),
    }
}

/// Fails unless a process may have so many connections.
fn check_files(connections: u16) -> Result<()> {
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = u64::from(connections) + OTHER_FILES;
    ensure!(
        allowed >= needed,
        "a process may have only {allowed} files open and {needed} are needed; raise the hard \
         limit (`ulimit -Hn`) to measure this"
    );
    Ok(())
}

/// The most that was resident in `process` during `duration`, in bytes.
fn most_resident(process: &Process, duration: Duration) -> Result<u64> {
    let until = Instant::now() + duration;
    let mut most = process.resident_bytes()?;
    while Instant::now() < until {
        std::thread::sleep(MEMORY_INTERVAL);
        most = most.max(process.resident_bytes()?);
    }
    Ok(most)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
