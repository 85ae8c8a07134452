//! Starts the processes of a measurement, waits for what they say, and ends them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::address::Address;
use crate::clock;
use crate::load::measured::Measured;
use crate::role::{LOG, READY, RESULT, Role, STARTING};

/// Time for a process to begin; it includes loading the binary on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Lines of output kept for the runner. Subjects log a few lines for each connection.
const OUTPUT_LINES: usize = 1024;

/// How often a program is tried that has to open its address.
const CONNECT_INTERVAL: Duration = Duration::from_micros(200);

/// How often the processes that a result depends on are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

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
        command
            .arg("role")
            .arg(serde_json::to_string(role)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let name = format!("{:?} {}", role.kind, role.subject.title());
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
                let is_wanted = match sender.try_send(line) {
                    Ok(()) => true,
                    // What a subject logs must not hold it up.
                    Err(TrySendError::Full(line)) if is_for_runner(&line) => {
                        sender.send(line).is_ok()
                    }
                    Err(TrySendError::Full(_)) => true,
                    Err(TrySendError::Disconnected(_)) => false,
                };
                if !is_wanted {
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

    /// Waits until the process says that it can be used, which may take it `limit` beside its
    /// start.
    ///
    /// # Errors
    /// When it ends before, or is silent for too long.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<()> {
        self.wait_for_line(START_LIMIT + limit, &mut [], |line| {
            (line == READY).then_some(())
        })
    }

    /// Waits until the program that this process becomes listens at `address`, and says how long
    /// that took it from its start. Its log is in `directory`.
    ///
    /// # Errors
    /// When it ends before, or does not listen for too long.
    pub fn wait_until_open(&mut self, address: &Address, directory: &Path) -> Result<Duration> {
        let starting: u64 = self
            .wait_for_line(START_LIMIT, &mut [], |line| {
                line.strip_prefix(STARTING).map(ToOwned::to_owned)
            })?
            .parse()?;
        let until = Instant::now() + START_LIMIT;
        while !address.is_open() {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(directory.join(LOG)).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                bail!("{} ended with {status}: {last}", self.name);
            }
            if Instant::now() >= until {
                bail!("{} did not listen for {START_LIMIT:?}", self.name);
            }
            std::thread::sleep(CONNECT_INTERVAL);
        }
        Ok(Duration::from_nanos(
            clock::nanoseconds().saturating_sub(starting),
        ))
    }

    /// Waits for the measurement, which fails with any of the processes that it depends on.
    ///
    /// # Errors
    /// When one of the processes ends without one, or `limit` passes.
    pub fn wait_for_result(
        &mut self,
        limit: Duration,
        others: &mut [&mut Process],
    ) -> Result<Measured> {
        let json = self.wait_for_line(limit, others, |line| {
            line.strip_prefix(RESULT).map(ToOwned::to_owned)
        })?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Fails if the process has ended.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => {
                self.last_line = self.lines.iter().last().unwrap_or_default();
                bail!("{} ended with {status}: {}", self.name, self.last_line)
            }
            None => Ok(()),
        }
    }

    /// The memory of the process that is resident now, in bytes.
    ///
    /// # Errors
    /// When it has ended, or the system does not say.
    pub fn resident_bytes(&self) -> Result<u64> {
        const KIBIBYTE: u64 = 1024;
        let status = self.told("status")?;
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))
            .context("the system does not say how much memory is resident")?
            .trim()
            .parse()?;
        Ok(kibibytes * KIBIBYTE)
    }

    /// The processor time that the process has taken, in seconds, in user space and for it in the
    /// kernel.
    ///
    /// # Errors
    /// When it has ended, or the system does not say.
    pub fn processor_seconds(&self) -> Result<f64> {
        let ticks_a_second = sysconf(SysconfVar::CLK_TCK)?.context("the system has no ticks")?;
        let ticks = processor_ticks(&self.told("stat")?)
            .with_context(|| format!("the system says nothing of {}", self.name))?;
        Ok(ticks as f64 / ticks_a_second as f64)
    }

    fn told(&self, what: &str) -> Result<String> {
        std::fs::read_to_string(format!("/proc/{}/{what}", self.child.id()))
            .with_context(|| format!("{} has ended", self.name))
    }

    fn wait_for_line<T>(
        &mut self,
        limit: Duration,
        others: &mut [&mut Process],
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(WATCH_INTERVAL)) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                    self.last_line = line;
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    bail!(
                        "{} was not done after {limit:?}; a subscriber waits so long for messages \
                         that are missing",
                        self.name
                    );
                }
                Err(RecvTimeoutError::Timeout) => {
                    for other in others.iter_mut() {
                        other.check()?;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{} ended with {status}: {}", self.name, self.last_line);
                }
            }
        }
    }
}

/// Whether the runner waits for a line like this.
fn is_for_runner(line: &str) -> bool {
    line == READY || line.starts_with(STARTING) || line.starts_with(RESULT)
}

/// The ticks in user space and in the kernel that a line of `/proc/PID/stat` tells.
fn processor_ticks(line: &str) -> Option<u64> {
    // The name, in parentheses, may itself hold spaces and parentheses.
    let (_, fields) = line.rsplit_once(')')?;
    // Counted from the state, which follows the name.
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_whatever_the_name_of_the_program() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 1000 10";
        assert_eq!(processor_ticks(line), Some(42));
        assert_eq!(processor_ticks("nothing"), None);
    }
}
