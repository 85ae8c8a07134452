//! Puts one load on one subject: starts the processes in order, takes the result, ends them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit};

use crate::address::Address;
use crate::installation::Installation;
use crate::load::measured::{Measured, Metric};
use crate::load::publish::Pace;
use crate::load::receiver::Expecting;
use crate::load::{Holding, Phases, Streams};
use crate::plan::{Case, Workload};
use crate::process::{Placement, Process};
use crate::role::{Kind, Role};
use crate::subject::{Serving, Subject};

/// How much longer than its phases a load may take, for what is still under way at its end to
/// arrive on a busy machine.
const SETTLING_LIMIT: Duration = Duration::from_secs(30);

/// Time to make ten thousand connections, or a hundred thousand subscriptions, at the slowest bus.
const MANY_LIMIT: Duration = Duration::from_secs(120);

/// Load processes over which idle connections are spread, so that each stays far below the files
/// that a process may have open.
const IDLE_PROCESSES: u32 = 2;

/// Files that a bus may have open beside its connections.
const OTHER_FILES: u64 = 64;

/// How often the resident memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);

/// How long a bus is left alone before its idle memory is looked at.
const REST: Duration = Duration::from_millis(200);

/// Starts whose median is one figure.
const STARTS: usize = 5;

/// The share of the rate at full speed at which latency is measured.
const PART_LOAD: f64 = 0.5;

/// Messages that may be under way over all streams where a bus does not hold publishers back
/// itself: tens of milliseconds of them, which is enough for every client to batch.
const MOST_WINDOW: u64 = 16_384;

/// The same for large messages, so that those of a fan-out fit the memory of the machine.
const WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// The least of either.
const LEAST_WINDOW: u64 = 256;

/// The part of it where a message takes some brokers milliseconds.
const ROUTING_WINDOW_PART: u64 = 64;

const MILLION: f64 = 1e6;

/// What all measurements of a run share.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// How long each load runs.
    pub phases: Phases,
    /// Where sockets are made.
    pub directory: &'a Path,
    /// Where the programs are.
    pub installation: &'a Installation,
}

/// Measures `subject` once.
///
/// # Errors
/// When a process fails, a message is missing, or nothing comes in time.
pub fn measure(case: &Case, subject: Subject, setting: Setting<'_>) -> Result<Measured> {
    let turn = Turn {
        case,
        subject,
        setting,
    };
    match case.workload {
        Workload::Request { outstanding } => turn.request(outstanding),
        Workload::Publish(streams) => turn.publish(streams),
        Workload::PartLoad => turn.part_load(),
        Workload::Changes => turn.changes(),
        Workload::Routing { groups } => turn.routing(groups),
        Workload::Idle { connections } => turn.idle(connections),
        Workload::Start => turn.start(),
        Workload::RequestInMemory => turn.in_memory(Kind::RequestInMemory),
        Workload::PublishInMemory => turn.in_memory(Kind::PublishInMemory),
    }
}

/// One subject's turn in one measurement.
#[derive(Clone, Copy)]
struct Turn<'a> {
    case: &'a Case,
    subject: Subject,
    setting: Setting<'a>,
}

/// A subject that is being served, with what its clients need to know.
struct Served {
    process: Option<Process>,
    role: Role,
    placement: Placement,
    starting: Duration,
    /// Sockets, settings and logs. Removed last, after the process has ended.
    _directory: tempfile::TempDir,
}

impl Turn<'_> {
    /// Starts the subject, if it is a process.
    fn serve(&self, phases: Phases) -> Result<Served> {
        let directory = tempfile::tempdir_in(self.setting.directory)?;
        let address = if self.subject.is_over_tcp() {
            Address::free_port()?
        } else {
            Address::Unix(directory.path().join("bus.sock"))
        };
        let program = match self.subject.serving() {
            Serving::Program(program) => self.setting.installation.path(program),
            Serving::Role | Serving::Nothing => None,
        };
        let role = Role {
            kind: Kind::Serve,
            subject: self.subject,
            address,
            holding: Holding {
                directory: directory.path().to_path_buf(),
                messages: self.subject.needs_window().then(|| self.window()),
            },
            program: program.map(Path::to_path_buf),
            payload_bytes: self.case.payload_bytes,
            phases,
        };
        let mut starting = Duration::ZERO;
        let mut process = None;
        if self.subject.serving() != Serving::Nothing {
            let mut served = Process::start(&role, self.case.placement)?;
            if role.program.is_some() {
                starting = served.wait_until_open(&role.address, directory.path())?;
            } else {
                served.wait_until_ready(Duration::ZERO)?;
            }
            process = Some(served);
        }
        Ok(Served {
            process,
            role,
            placement: self.case.placement,
            starting,
            _directory: directory,
        })
    }

    /// Messages of a stream that may be under way where the bus sets no limit.
    fn window(&self) -> u64 {
        let by_bytes = WINDOW_BYTES / self.case.payload_bytes as u64;
        let streams = match self.case.workload {
            Workload::Publish(streams) => u64::from(streams.publishers),
            // Where each message is compared with all patterns, a few are many.
            Workload::Routing { .. } => ROUTING_WINDOW_PART,
            _ => 1,
        };
        (by_bytes.clamp(LEAST_WINDOW, MOST_WINDOW) / streams).max(LEAST_WINDOW / streams)
    }

    fn request(&self, outstanding: u64) -> Result<Measured> {
        let phases = self.setting.phases;
        let mut served = self.serve(phases)?;
        let _answerer = self
            .subject
            .needs_answerer()
            .then(|| served.start_ready(Kind::Answer, Duration::ZERO))
            .transpose()?;
        let before = served.processor_seconds()?;
        let mut requester = served.start(Kind::Request { outstanding })?;
        let measured = requester.wait_for_result(limit(phases), &mut [])?;
        served.with_processor(measured, before)
    }

    fn publish(&self, streams: Streams) -> Result<Measured> {
        let expecting = Expecting::Ordered;
        self.serve(self.setting.phases)?
            .publish(streams, expecting, Pace::Full)
    }

    /// The latency at [`PART_LOAD`] of what the subject can do, which is measured just before, for
    /// half as long.
    fn part_load(&self) -> Result<Measured> {
        let one = Streams {
            publishers: 1,
            subscribers: 1,
        };
        let short = Phases {
            measure: self.setting.phases.measure / 2,
            ..self.setting.phases
        };
        let full = self
            .serve(short)?
            .publish(one, Expecting::Ordered, Pace::Full)?;
        let rate = full.figure(Metric::Rate).context("no rate was measured")?;
        let pace = Pace::Rate(rate * PART_LOAD);
        self.serve(self.setting.phases)?
            .publish(one, Expecting::Timed, pace)
    }

    /// The rate while subscriptions come and go, beside the rate just before while none did.
    fn changes(&self) -> Result<Measured> {
        let one = Streams {
            publishers: 1,
            subscribers: 1,
        };
        let phases = self.setting.phases;
        let rate = |measured: &Measured| measured.figure(Metric::Rate).context("no rate");
        let undisturbed = rate(&self.serve(phases)?.publish(
            one,
            Expecting::Ordered,
            Pace::Full,
        )?)?;
        let mut served = self.serve(phases)?;
        let mut changing = served.start_ready(Kind::Change, Duration::ZERO)?;
        let mut measured = served.publish(one, Expecting::Ordered, Pace::Full)?;
        let changes = changing.wait_for_result(limit(phases), &mut [])?;
        measured.set(Metric::Share, rate(&measured)? / undisturbed);
        measured.figures.extend(changes.figures);
        Ok(measured)
    }

    fn routing(&self, groups: u32) -> Result<Measured> {
        let phases = self.setting.phases;
        let mut served = self.serve(phases)?;
        let mut subscriber = served.start_ready(Kind::SubscribeMany { groups }, MANY_LIMIT)?;
        let before = served.processor_seconds()?;
        let mut publisher = served.start(Kind::PublishFresh { groups })?;
        let measured = subscriber.wait_for_result(limit(phases), &mut [&mut publisher])?;
        served.with_processor(measured, before)
    }

    fn idle(&self, connections: u32) -> Result<Measured> {
        check_files(connections)?;
        let mut served = self.serve(self.setting.phases)?;
        let before = served.bus()?.resident_bytes()?;
        let each = connections / IDLE_PROCESSES;
        let mut loads = Vec::new();
        for number in 0..IDLE_PROCESSES {
            let kind = Kind::Idle {
                first: number * each,
                connections: each,
            };
            loads.push(served.start_ready(kind, MANY_LIMIT)?);
        }
        let after = most_resident(served.bus()?, self.setting.phases.measure)?;
        let taken = after.saturating_sub(before) as f64;
        let held = f64::from(each * IDLE_PROCESSES);
        let mut measured = Measured::of(Metric::Connection, taken / held);
        measured.set(Metric::Resident, before as f64);
        Ok(measured)
    }

    fn start(&self) -> Result<Measured> {
        let mut times = Vec::new();
        let mut resident = 0;
        for _ in 0..STARTS {
            let mut served = self.serve(self.setting.phases)?;
            times.push(served.starting);
            std::thread::sleep(REST);
            resident = served.bus()?.resident_bytes()?;
        }
        times.sort();
        let median = times.get(STARTS / 2).copied().unwrap_or_default();
        let mut measured = Measured::of(Metric::Start, median.as_nanos() as f64);
        measured.set(Metric::Resident, resident as f64);
        if let Serving::Program(program) = self.subject.serving()
            && let Some(path) = self.setting.installation.path(program)
        {
            measured.set(Metric::Program, std::fs::metadata(path)?.len() as f64);
        }
        Ok(measured)
    }

    fn in_memory(&self, kind: Kind) -> Result<Measured> {
        let phases = self.setting.phases;
        let role = Role {
            kind,
            subject: self.subject,
            address: Address::Unix(self.setting.directory.join("unused")),
            holding: Holding {
                directory: self.setting.directory.to_path_buf(),
                messages: None,
            },
            program: None,
            payload_bytes: self.case.payload_bytes,
            phases,
        };
        Process::start(&role, self.case.placement)?.wait_for_result(limit(phases), &mut [])
    }
}

impl Served {
    fn start(&self, kind: Kind) -> Result<Process> {
        let role = Role {
            kind,
            ..self.role.clone()
        };
        Process::start(&role, self.placement)
    }

    fn start_ready(&mut self, kind: Kind, beside: Duration) -> Result<Process> {
        let mut process = self.start(kind)?;
        process.wait_until_ready(beside)?;
        Ok(process)
    }

    fn publish(&mut self, streams: Streams, expecting: Expecting, pace: Pace) -> Result<Measured> {
        let mut subscriber =
            self.start_ready(Kind::Subscribe(streams, expecting), Duration::ZERO)?;
        let before = self.processor_seconds()?;
        let mut publisher = self.start(Kind::Publish(streams, pace))?;
        let limit = limit(self.role.phases);
        let measured = subscriber.wait_for_result(limit, &mut [&mut publisher])?;
        self.with_processor(measured, before)
    }

    fn bus(&mut self) -> Result<&Process> {
        self.process
            .as_ref()
            .context("there is no process to look at")
    }

    /// The processor time of the bus, if there is one.
    fn processor_seconds(&self) -> Result<Option<f64>> {
        self.process
            .as_ref()
            .map(Process::processor_seconds)
            .transpose()
    }

    /// Adds to `measured` what its operations took of the processors since `before`.
    fn with_processor(&self, mut measured: Measured, before: Option<f64>) -> Result<Measured> {
        if let Some((before, after)) = before.zip(self.processor_seconds()?) {
            let millions = measured.operations as f64 / MILLION;
            measured.set(Metric::Processor, (after - before) / millions);
        }
        Ok(measured)
    }
}

/// How long a load may take.
fn limit(phases: Phases) -> Duration {
    phases.total() + SETTLING_LIMIT
}

/// Fails unless a process may have so many connections.
fn check_files(connections: u32) -> Result<()> {
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
