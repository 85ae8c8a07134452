//! SIGINT and SIGTERM: the first asks a command to finish, the second to stop at once. SIGHUP: read the
//! configuration again.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How many times the process has been asked to end. Cheap to clone; any number may wait.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts {
    count: watch::Receiver<u32>,
    _listening: std::sync::Arc<Listening>,
}

#[derive(Debug)]
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Interrupts {
    /// Takes over both signals from their default, which is to end the process.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let (sender, count) = watch::channel(0);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { count, _listening: std::sync::Arc::new(Listening(task)) })
    }

    /// Waits until the process has been asked to end.
    pub(crate) async fn first(&self) {
        self.at_least(1).await;
    }

    /// Waits until the process has been asked to end for the second time.
    pub(crate) async fn second(&self) {
        self.at_least(2).await;
    }

    async fn at_least(&self, times: u32) {
        let mut count = self.count.clone();
        if count.wait_for(|count| *count >= times).await.is_err() {
            // The task that listens ends only with the runtime.
            std::future::pending().await
        }
    }
}

/// SIGHUP. It means one thing to a service, and another to who loses the terminal that it was started from.
#[derive(Debug)]
pub(crate) struct Hangups {
    signal: Signal,
    on_terminal: bool,
}

/// What a SIGHUP asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// To read the configuration again.
    Reload,
    /// To end: the terminal is gone.
    Ended,
}

impl Hangups {
    /// Takes the signal over from its default, which is to end the process.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let signal = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        Ok(Self { signal, on_terminal: io::stderr().is_terminal() })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// None is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Hangup {
        if self.signal.recv().await.is_none() {
            // Signals end with the runtime.
            std::future::pending::<()>().await;
        }
        // A terminal that has been closed is none any more to those who still have it open.
        match self.on_terminal && !io::stderr().is_terminal() {
            true => Hangup::Ended,
            false => Hangup::Reload,
        }
    }
}
