//! JetStream with `sync_interval: always`, through `async-nats`.
//!
//! A publish is a request to the stream's subject; its answer (`PubAck`) says that it is stored. That is what the
//! client's own JetStream context does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::Client;
use bytes::Bytes;
use serde::Deserialize;

use crate::address::Address;
use crate::load::{InFlight, PAYLOAD};

/// How long the server may take to begin.
const START: Duration = Duration::from_secs(15);

/// How often it is tried meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// Publishes whose syncs are counted.
const WATCHED: u32 = 200;

const SUBJECT: &str = "durable.orders";

/// Two answers of the server's, or an error in their place.
#[derive(Debug, Deserialize)]
struct Answer {
    /// The sequence of a stored message.
    seq: Option<u64>,
    error: Option<serde_json::Value>,
}

/// A server with a stream in a file.
pub struct JetStream {
    server: Child,
    address: String,
    folder: PathBuf,
}

impl JetStream {
    /// Starts the server; its files are in `folder`.
    ///
    /// # Errors
    /// When it does not begin, or refuses the stream.
    pub async fn start(program: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let address = Address::free_port()?;
        let settings = folder.join("nats.conf");
        let store = folder.join("store");
        fs::write(
            &settings,
            format!(
                "jetstream {{ store_dir: \"{}\", sync_interval: always }}\n",
                store.display()
            ),
        )?;
        let log = File::create(folder.join("log"))?;
        let server = Command::new(program)
            .arg("--config")
            .arg(settings)
            .args(["--addr", &address.tcp()?.ip().to_string()])
            .args(["--port", &address.tcp()?.port().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut started = Self {
            server,
            address: address.tcp()?.to_string(),
            folder: folder.to_owned(),
        };
        let until = Instant::now() + START;
        while !address.is_open() {
            if let Some(status) = started.server.try_wait()? {
                bail!("nats-server ended with {status}: {}", started.last_words());
            }
            ensure!(
                Instant::now() < until,
                "nats-server did not begin in {START:?}"
            );
            thread::sleep(LOOK);
        }
        started.make_stream().await?;
        Ok(started)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    async fn connect(&self) -> Result<Client> {
        Ok(async_nats::connect(&self.address).await?)
    }

    async fn make_stream(&self) -> Result<()> {
        let settings = serde_json::json!({
            "name": "durable",
            "subjects": ["durable.>"],
            "storage": "file",
            "retention": "limits",
            "num_replicas": 1,
        });
        let client = self.connect().await?;
        let asked = client.request("$JS.API.STREAM.CREATE.durable", settings.to_string().into());
        let answer: Answer = serde_json::from_slice(&asked.await?.payload)?;
        match answer.error {
            Some(error) => bail!("JetStream refuses the stream: {error}"),
            None => Ok(()),
        }
    }

    /// Publishers that wait until theirs is stored.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn publishers(
        &self,
        in_flight: InFlight,
    ) -> Result<Vec<impl AsyncFn() -> Result<()> + use<>>> {
        let mut publishers = Vec::new();
        for _ in 0..in_flight.connections {
            let client = self.connect().await?;
            publishers.extend((0..in_flight.each).map(|_| {
                let client = client.clone();
                async move || publish(&client).await
            }));
        }
        Ok(publishers)
    }

    /// Syncs that the server makes for each publish, one publish at a time, as `strace` counts them; and whether it writes
    /// to files that sync each write. `None` where there is no `strace`, or it may not look.
    ///
    /// # Errors
    /// When a publish fails.
    pub async fn syncs_of_each(&self) -> Result<Option<f64>> {
        let counts = self.folder.join("counts");
        let watching = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
            .arg(&counts)
            .args(["-p", &self.server.id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut watching) = watching else {
            return Ok(None);
        };
        let client = self.connect().await?;
        let told = || fs::read_to_string(&counts).unwrap_or_default();
        // It takes strace a moment to be there: until then nothing of what is made shows.
        let until = Instant::now() + START;
        while told().is_empty() {
            if watching.try_wait()?.is_some() || Instant::now() >= until {
                let _ = watching.kill();
                let _ = watching.wait();
                return Ok(None);
            }
            publish(&client).await?;
        }
        let before = syncs(&told());
        for _ in 0..WATCHED {
            publish(&client).await?;
        }
        let after = syncs(&told());
        let _ = watching.kill();
        let _ = watching.wait();
        Ok(Some((after - before) as f64 / f64::from(WATCHED)))
    }
}

impl Drop for JetStream {
    fn drop(&mut self) {
        // Both fail only for a process that has ended, which is what is wanted.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Calls that have begun, by the lines of `strace`.
fn syncs(lines: &str) -> usize {
    let begun = |line: &&str| line.contains("sync(") && !line.contains("resumed");
    lines.lines().filter(begun).count()
}

async fn publish(client: &Client) -> Result<()> {
    let payload = Bytes::from_static(&[7; PAYLOAD]);
    let answer = client.request(SUBJECT, payload).await?;
    let answer: Answer = serde_json::from_slice(&answer.payload)?;
    ensure!(
        answer.seq.is_some() && answer.error.is_none(),
        "JetStream has not stored a message: {answer:?}"
    );
    Ok(())
}
