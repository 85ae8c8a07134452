//! Starting the processes of a measurement and hearing from them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::load::{GO, READY};
use super::plan::{Finding, Limit, Load, Mode, Role, Run};
use crate::connection::ClientFiles;
use crate::output;

/// How long a process may take to say that it is ready, on a machine with much else to do.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a process may take beyond the time of its load, to receive what is still on its way.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A bus that only this measurement uses, in a process of its own. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct OwnBus {
    address: String,
    _process: Child,
    words: JoinHandle<()>,
    _folder: TempDir,
}

impl OwnBus {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("whispeer-bench-").tempdir().context("cannot make a folder")?;
        let address = format!("unix:{}", folder.path().join("bus").display());
        let mut process = command()?
            .args(["serve", &address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the bus")?;
        let stderr = process.stderr.take().context("the bus has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        timeout(START_LIMIT, async {
            while let Some(line) = lines.next_line().await? {
                if line.contains("ready on") {
                    return Ok(());
                }
                output::notice(format_args!("bus: {line}"));
            }
            bail!("the bus ended before it was ready")
        })
        .await
        .context("the bus is not ready in time")??;
        let words = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                output::notice(format_args!("bus: {line}"));
            }
        });
        Ok(Self { address, _process: process, words, _folder: folder })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for OwnBus {
    fn drop(&mut self) {
        self.words.abort();
    }
}

/// Measures one run over the bus at `address`.
pub(crate) async fn measure(run: &Run, address: &str, files: &ClientFiles) -> anyhow::Result<Finding> {
    let load = |role, index, width| Load {
        role,
        address: address.to_owned(),
        topic: run.topic(index),
        size: run.size,
        width,
        limit: run.limit,
    };
    match run.mode {
        Mode::Request | Mode::Outstanding => {
            let _server = Process::start(&load(Role::Serve, 0, 1), files).await?;
            let mut requester = Process::start(&load(Role::Request, 0, run.width), files).await?;
            requester.go().await?;
            requester.finding(run.limit).await
        }
        Mode::OneToOne | Mode::FanOut | Mode::NToN => {
            let (pairs, connections) = if run.mode == Mode::FanOut { (1, run.width) } else { (run.width, 1) };
            let (mut subscribers, mut publishers) = (Vec::new(), Vec::new());
            for index in 0..pairs {
                subscribers.push(Process::start(&load(Role::Subscribe, index, connections), files).await?);
                publishers.push(Process::start(&load(Role::Publish, index, 1), files).await?);
            }
            for publisher in &mut publishers {
                publisher.go().await?;
            }
            let (mut sent, mut received) = (0, Finding::default());
            for publisher in &mut publishers {
                sent += publisher.finding(run.limit).await?.count;
            }
            for subscriber in &mut subscribers {
                received.add(&subscriber.finding(run.limit).await?);
            }
            // Each subscriber has counted what came to it; here nothing may be missing on the whole.
            let expected = sent * connections as u64;
            received.lost = received.lost.max(expected.abs_diff(received.count));
            Ok(received)
        }
    }
}

/// Measures one run over the memory transport, in a process of its own.
pub(crate) async fn measure_in_memory(run: &Run, threads: usize) -> anyhow::Result<Finding> {
    let load = Load {
        role: Role::Memory { run: run.clone(), threads },
        address: String::new(),
        topic: String::new(),
        size: run.size,
        width: run.width,
        limit: run.limit,
    };
    Process::spawn(&load, &ClientFiles::default())?.finding(run.limit).await
}

/// A process of the measurement. It is killed when it is dropped.
struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it and waits until it is ready.
    async fn start(load: &Load, files: &ClientFiles) -> anyhow::Result<Self> {
        let mut process = Self::spawn(load, files)?;
        let line = timeout(START_LIMIT, process.lines.next_line())
            .await
            .context("a process is not ready in time")??;
        if line.as_deref() != Some(READY) {
            return Err(process.failed().await);
        }
        Ok(process)
    }

    fn spawn(load: &Load, files: &ClientFiles) -> anyhow::Result<Self> {
        let mut child = command()?
            .args(["bench-load", &serde_json::to_string(load)?])
            .envs(files.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process")?;
        let orders = child.stdin.take();
        let stdout = child.stdout.take().context("a process has no standard output")?;
        Ok(Self { child, orders, lines: BufReader::new(stdout).lines() })
    }

    async fn go(&mut self) -> anyhow::Result<()> {
        if let Some(orders) = &mut self.orders {
            orders.write_all(format!("{GO}\n").as_bytes()).await.context("a process does not listen")?;
        }
        Ok(())
    }

    async fn finding(&mut self, limit: Limit) -> anyhow::Result<Finding> {
        let load_time = match limit {
            Limit::Time(time) => time,
            // Whatever the number, a load that reports nothing for an hour is stuck.
            Limit::Messages(_) => Duration::from_secs(3_600),
        };
        let line = timeout(load_time + END_LIMIT, self.lines.next_line()).await;
        match line.context("a process did not end in time")?? {
            Some(line) => {
                serde_json::from_str(&line).context("a process gave an answer that is not understood")
            }
            None => Err(self.failed().await),
        }
    }

    /// It said itself, on standard error, what went wrong.
    async fn failed(&mut self) -> anyhow::Error {
        match timeout(START_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) => anyhow::anyhow!("a process of the measurement failed ({status})"),
            _ => anyhow::anyhow!("a process of the measurement failed"),
        }
    }
}

/// This binary again, killed when it is not needed any more.
fn command() -> anyhow::Result<Command> {
    let binary: PathBuf = std::env::current_exe().context("cannot find the own binary")?;
    let mut command = Command::new(binary);
    // The address goes with each load; a variable for the user's own bus must not get in between.
    command.env_remove(crate::connection::ADDRESS_VARIABLE).kill_on_drop(true);
    Ok(command)
}
