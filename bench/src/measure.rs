//! Puts one load on one subject: starts the processes in order, takes the result, ends them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::load::{Measured, Phases};
use crate::plan::{Case, Workload};
use crate::process::Process;
use crate::role::{Kind, Role};
use crate::subject::Subject;

/// How much longer than its phases a load may take, for what is still under way at its end to
/// arrive on a busy machine.
const SETTLING_LIMIT: Duration = Duration::from_secs(30);

/// Measures `subject` once. Its socket is made in `directory`.
///
/// # Errors
/// When a process fails, a message is missing, or nothing comes in time.
pub fn measure(
    case: &Case,
    subject: Subject,
    phases: Phases,
    directory: &Path,
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
    };
    let role = |kind| Role {
        kind,
        subject,
        socket: socket.clone(),
        payload_bytes: case.payload_bytes,
        outstanding,
        publishers,
        subscribers,
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
        Workload::RequestInMemory => start(Kind::RequestInMemory)?.wait_for_result(limit),
        Workload::PublishInMemory => start(Kind::PublishInMemory)?.wait_for_result(limit),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
