//! Starts the processes of a measurement, waits for what they say, and ends them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::load::Measured;
use crate::role::{READY, RESULT, Role};
use crate::subject::whispeer::PROGRAM_READY;

/// Time for a process to begin; it includes loading the binary on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Lines of output kept for the runner. Subjects log a few lines for each connection.
const OUTPUT_LINES: usize = 1024;

/// The processors on which the processes of a measurement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the scheduler puts them.
    Anywhere,
    /// All on one and the same processor.
    OneProcessor,
}

/// A running role. It is ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    last_line: String,
    name: String,
}

impl Process {
    /// Starts `role` in a process of its own.
    ///
    /// # Errors
    /// When the process or its place cannot be had.
    pub fn start(role: &Role, placement: Placement) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(role.arguments());
        Self::spawn(
            command,
            placement,
            format!("{:?} {}", role.kind, role.subject.title()),
        )
    }

    /// Starts any program.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    fn spawn(mut command: Command, placement: Placement, name: String) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // A child inherits the processors of its parent, whatever the program.
        let affinity = Affinity::enter(placement)?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"));
        affinity.leave()?;
        let mut child = child?;
        let output = child
            .stdout
            .take()
            .context("a process was started without output")?;
        let (sender, lines) = sync_channel(OUTPUT_LINES);
        std::thread::spawn(move || {
            // Ends with the process, whose output it is, or with the runner's interest in it.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            last_line: String::new(),
            name,
        })
    }

    /// Waits until the process says that it can be used.
    ///
    /// # Errors
    /// When it ends before, or is silent for too long.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        self.wait_for_line(START_LIMIT, |line| {
            (line == READY || line.starts_with(PROGRAM_READY)).then_some(())
        })
    }

    /// Waits for the measurement.
    ///
    /// # Errors
    /// When the process ends without one, or `limit` passes.
    pub fn wait_for_result(&mut self, limit: Duration) -> Result<Measured> {
        let json = self.wait_for_line(limit, |line| {
            line.strip_prefix(RESULT).map(ToOwned::to_owned)
        })?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Fails if the process has failed.
    ///
    /// # Errors
    /// With its exit status.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) if !status.success() => bail!("{} ended with {status}", self.name),
            _ => Ok(()),
        }
    }

    /// The memory of the process that is resident now, in bytes.
    ///
    /// # Errors
    /// When it has ended, or the system does not say.
    pub fn resident_bytes(&self) -> Result<u64> {
        const KIBIBYTE: u64 = 1024;
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .with_context(|| format!("{} has ended", self.name))?;
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))
            .context("the system does not say how much memory is resident")?
            .trim()
            .parse()?;
        Ok(kibibytes * KIBIBYTE)
    }

    fn wait_for_line<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                    self.last_line = line;
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} said nothing for {limit:?}", self.name);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{} ended with {status}: {}", self.name, self.last_line);
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processors of this process while it starts another.
struct Affinity {
    usual: CpuSet,
}

impl Affinity {
    fn enter(placement: Placement) -> Result<Self> {
        let this = Pid::from_raw(0);
        let usual = sched_getaffinity(this).context("cannot see which processors may be used")?;
        if placement == Placement::OneProcessor {
            // The last one: interrupts tend to be served by the first.
            let last = (0..CpuSet::count())
                .rev()
                .find(|number| usual.is_set(*number).unwrap_or(false))
                .ok_or_else(|| anyhow!("no processor may be used"))?;
            let mut one = CpuSet::new();
            one.set(last)?;
            sched_setaffinity(this, &one).context("cannot pin processes to one processor")?;
        }
        Ok(Self { usual })
    }

    fn leave(self) -> Result<()> {
        sched_setaffinity(Pid::from_raw(0), &self.usual).context("cannot undo the pinning")
    }
}
