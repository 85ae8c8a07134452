//! Servers of NATS for tests: one alone ([`NatsServer`]), or several as a cluster ([`NatsCluster`]).
//!
//! They are real processes on ports that the kernel chooses, with a folder of their own, killed when they are
//! dropped. When a test fails, the last lines of their logs are among its output. What starts one returns when it can
//! be connected to; the cluster's, when each node reaches each other one and JetStream keeps as many replicas as
//! there are nodes.
//!
//! The programs are what the variable `NATS_SERVERS` names (paths with `:` between them, which `.ci/run` sets: one of
//! each major line that is supported), otherwise the `nats-server` on the `PATH`.
//!
//! ```
//! use whispeer_testkit::nats;
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! if !nats::available() {
//!     return;
//! }
//! for version in nats::versions() {
//!     let server = version.jetstream().start().await;
//!     assert!(server.url().starts_with("nats://127.0.0.1:"));
//!     server.kill();
//!     // It has the same address, and what JetStream had kept.
//!     server.restart().await;
//! }
//! # });
//! ```

mod cluster;
mod log;
mod probe;
mod server;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use cluster::NatsCluster;
pub use server::NatsServer;

use crate::tools;

/// Names programs to be tested with, `:` between their paths.
const VARIABLE: &str = "NATS_SERVERS";

/// Whether servers of NATS can be started here. Where not, the test says that it is skipped; CI has to have them.
///
/// # Panics
/// In CI, when there are none.
#[must_use]
pub fn available() -> bool {
    programs().iter().all(|program| tools::has(&program.to_string_lossy()))
}

/// All versions of the server that a test is to be run with, oldest first as `.ci/run` names them.
#[must_use]
pub fn versions() -> Vec<NatsBuilder> {
    programs()
        .into_iter()
        .map(|program| NatsBuilder {
            program,
            name: "n1".into(),
            jetstream: false,
            domain: None,
            config: String::new(),
        })
        .collect()
}

/// What a server is started with.
///
/// Without more it lets in everybody and has no JetStream.
#[derive(Clone, Debug)]
#[must_use = "it starts nothing by itself"]
pub struct NatsBuilder {
    program: PathBuf,
    name: String,
    jetstream: bool,
    domain: Option<String>,
    config: String,
}

impl NatsBuilder {
    /// The last of [`versions`], which is the newest: for tests that need no more than one.
    pub fn newest() -> Self {
        versions().pop().expect("there is always one program at least")
    }

    /// With JetStream, whose store outlives [`NatsServer::restart`].
    pub fn jetstream(mut self) -> Self {
        self.jetstream = true;
        self
    }

    /// With JetStream, which is asked by the subjects of this domain, too: where those without one are
    /// mapped to something else, it still is.
    pub fn jetstream_in(mut self, domain: &str) -> Self {
        self.domain = Some(domain.to_owned());
        self.jetstream()
    }

    /// Adds lines to the server's configuration file: users, TLS, limits.
    pub fn config(mut self, lines: impl AsRef<str>) -> Self {
        self.config.push_str(lines.as_ref());
        self.config.push('\n');
        self
    }

    /// What the program says that it is, such as `2.9.10`.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[must_use]
    pub fn version(&self) -> String {
        let said = Command::new(&self.program).arg("--version").stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        said.trim().rsplit('v').next().unwrap_or_default().to_owned()
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts it, and returns when it can be connected to.
    ///
    /// # Panics
    /// When it does not come up; its log is shown.
    pub async fn start(self) -> NatsServer {
        blocking(move || self.start_blocking()).await
    }

    /// As [`NatsBuilder::start`], for tests without a runtime.
    ///
    /// # Panics
    /// As it does.
    #[must_use]
    pub fn start_blocking(self) -> NatsServer {
        NatsServer::launch(self, None)
    }

    /// Starts a cluster of `size` nodes with JetStream, and returns when they are joined and have a leader. The
    /// lines of [`NatsBuilder::config`] must let in clients without a name.
    ///
    /// # Panics
    /// When it does not come up; the logs are shown.
    pub async fn start_cluster(self, size: usize) -> NatsCluster {
        blocking(move || NatsCluster::launch(&self, size)).await
    }
}

/// The programs, at least one.
fn programs() -> Vec<PathBuf> {
    let named = std::env::var(VARIABLE).unwrap_or_default();
    let named: Vec<PathBuf> = named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if named.is_empty() { vec![PathBuf::from("nats-server")] } else { named }
}

/// Runs what waits for a process where it keeps nothing of the runtime waiting, nor lets a paused clock run on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}
