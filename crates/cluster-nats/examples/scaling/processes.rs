//! The processes that are measured: buses, each this program once more, and what they take of the machine.

use std::io::{BufRead, BufReader, Read};
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use whispeer::prelude::*;
use whispeer_cluster_nats::{LinkState, NatsCluster, NatsSettings};

use crate::{Outcome, number};

/// What a process has taken of the machine so far, or between two times.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Used {
    /// Nanoseconds of a processor.
    pub(crate) work: f64,
    /// Bytes of memory.
    pub(crate) memory: f64,
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { work: self.work - before.work, memory: self.memory - before.memory }
    }
}

/// What the process with this number has used, as Linux tells in `/proc`. Threads that have ended do not count.
pub(crate) fn used(process: u32) -> Outcome<Used> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let mut used = Used { memory: resident(&folder)?, work: 0.0 };
    for thread in std::fs::read_dir(folder.join("task"))? {
        let thread = thread?.path();
        let ran = std::fs::read_to_string(thread.join("schedstat"))?;
        used.work += number(ran.split_whitespace().next().unwrap_or_default())?;
    }
    Ok(used)
}

fn resident(folder: &Path) -> Outcome<f64> {
    let status = std::fs::read_to_string(folder.join("status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(number(kib.trim().trim_end_matches("kB").trim())? * 1024.0)
}

/// A bus in a process of its own. It ends with this.
pub(crate) struct BusProcess {
    child: Child,
    _until: ChildStdin,
    /// Its socket.
    pub(crate) socket: PathBuf,
}

impl BusProcess {
    /// Starts one, and returns when clients can connect and, with the address of a NATS, it has joined.
    pub(crate) fn start(folder: &Path, number: usize, nats: Option<&str>) -> Outcome<Self> {
        let socket = folder.join(format!("bus_{number}"));
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bus")
            .arg(&socket)
            .args(nats)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (until, said) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        BufReader::new(said).read_line(&mut String::new())?;
        Ok(Self { child, _until: until, socket })
    }

    /// What it has used.
    pub(crate) fn used(&self) -> Outcome<Used> {
        used(self.child.id())
    }
}

impl Drop for BusProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is such a bus until its input ends.
pub(crate) async fn be_a_bus(socket: &str, nats: Option<&str>) -> Outcome {
    let bus = Bus::builder().listen_unix(socket);
    let bus = match nats {
        None => bus.start()?,
        Some(nats) => {
            let cluster = NatsCluster::open(&NatsSettings::new(nats)?).await?;
            let mut state = cluster.connection().state();
            let bus = bus.companion(|bus| cluster.run(bus)).start()?;
            state.wait_for(LinkState::is_connected).await?;
            bus
        }
    };
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    bus.stop().await;
    Ok(())
}
