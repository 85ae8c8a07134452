//! whispeer's bus in a process of its own, with a stream in SQLite, and what is asked of it over its Unix socket.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};
use whispeer::bus::Streams;
use whispeer::client::{PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::store::{
    Change, Name, NewMessage, SqliteOptions, SqliteStore, Store, StreamSettings,
};
use whispeer::{Bus, Client, TopicPattern};

use crate::address::Address;
use crate::clock::{self, Ticks};
use crate::load::{InFlight, PAYLOAD};

/// How long the bus may take to begin.
const START: Duration = Duration::from_secs(15);

/// How often it is tried meanwhile.
const LOOK: Duration = Duration::from_millis(2);

/// The file of the store, as `whispeer serve` names it.
const FILE: &str = "streams.db";

const PATTERN: &str = "durable/**";
const TOPIC: &str = "durable/orders";

/// Messages that the store takes at once where a stream is filled.
const FILLED: u64 = 4096;

/// How long deliveries are timed, and how long they are made before that.
const TIMED: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_millis(500);

/// The number in the last message of all.
const END: u64 = u64::MAX;

/// A bus that serves until this is dropped, when it is killed: what it has acknowledged is on the disk.
pub struct Serving {
    process: Child,
    socket: String,
}

impl Serving {
    /// Starts the program, or this one in its place, with the store in `folder`.
    ///
    /// # Errors
    /// When it does not begin.
    pub fn start(program: Option<&Path>, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let socket = folder.join("socket");
        let mut command = match program {
            None => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("bus").arg(folder).arg(&socket);
                command
            }
            Some(program) => {
                let settings = folder.join("whispeer.toml");
                fs::write(
                    &settings,
                    format!("[streams.durable]\npatterns = [\"{PATTERN}\"]\n"),
                )?;
                let mut command = Command::new(program);
                command
                    .arg("serve")
                    .arg(format!("unix:{}", socket.display()))
                    .arg("--config")
                    .arg(settings)
                    .arg("--store-folder")
                    .arg(folder);
                command
            }
        };
        let log = File::create(folder.join("log"))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the bus")?;
        let address = Address::Unix(socket);
        let mut serving = Self {
            process,
            socket: address.to_string(),
        };
        let until = Instant::now() + START;
        while !address.is_open() {
            if let Some(status) = serving.process.try_wait()? {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                bail!("the bus ended with {status}: {}", log.trim_end());
            }
            ensure!(Instant::now() < until, "the bus did not begin in {START:?}");
            thread::sleep(LOOK);
        }
        Ok(serving)
    }

    /// Publishers of quality 1 that wait until theirs is acknowledged.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    pub async fn publishers(
        &self,
        in_flight: InFlight,
    ) -> Result<Vec<impl AsyncFn() -> Result<()> + use<>>> {
        let mut publishers = Vec::new();
        for _ in 0..in_flight.connections {
            let client = Client::connect(&self.socket).await?;
            publishers.extend((0..in_flight.each).map(|_| {
                let client = client.clone();
                async move || {
                    let payload = Bytes::from_static(&[7; PAYLOAD]);
                    client.publish_bytes_with(TOPIC, payload, kept()).await?;
                    Ok(())
                }
            }));
        }
        Ok(publishers)
    }

    /// Messages a second that a new client gets from the beginning of the stream, until it has had `count`.
    ///
    /// # Errors
    /// When one is missing, or not in its place.
    pub async fn replay(&self, count: u64) -> Result<f64> {
        let client = Client::connect(&self.socket).await?;
        let begin = Instant::now();
        let all = SubscribeOptions::default().start(Start::All);
        let mut messages = client.subscribe_bytes_with(PATTERN, all).await?;
        for number in 0..count {
            let (_, payload) = messages.recv().await.context("the bus has hung up")?;
            ensure!(
                number_in(&payload) == Some(number),
                "message {number} is not in its place"
            );
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// How late messages come that are due at this rate, whatever became of those before: nanoseconds from when each was
    /// due to be published until a subscriber of quality 1 has it, who acknowledges it by asking for the next.
    ///
    /// # Errors
    /// When one is lost, doubled or out of order.
    pub async fn latency(&self, rate: f64) -> Result<Histogram<u64>> {
        let (ready, is_ready) = mpsc::channel();
        let socket = self.socket.clone();
        let subscriber =
            thread::spawn(move || runtime()?.block_on(time_deliveries(&socket, ready)));
        if is_ready.recv().is_ok() {
            let client = Client::connect(&self.socket).await?;
            let publisher = client.publisher_bytes_with(TOPIC, kept())?;
            let interval = Duration::from_secs_f64(1.0 / rate);
            let mut ticks = Ticks::every(interval)?;
            let step = u64::try_from(interval.as_nanos())?;
            let begin = clock::nanoseconds();
            let until = begin + u64::try_from((WARM_UP + TIMED).as_nanos())?;
            let mut due = begin;
            while due < until {
                while due <= clock::nanoseconds() {
                    publisher.send(&payload(due)).await?;
                    due += step;
                }
                // What was sent is on its way before this waits.
                ticks.next().await?;
            }
            publisher.send(&payload(END)).await?;
            publisher.flush().await?;
        }
        let timed = subscriber.join();
        timed.map_err(|_| anyhow::anyhow!("the subscriber has panicked"))?
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Both fail only for a process that has ended, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Is the bus, until the process is ended.
///
/// # Errors
/// When it cannot begin.
pub fn serve(folder: &Path, socket: &Path) -> Result<()> {
    // It must not outlive a run that was killed.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let store = SqliteStore::open(&file(folder), SqliteOptions::new())?;
    runtime()?.block_on(async {
        let streams = Streams::open(Arc::new(store), [settings()?]).await?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let bus = Bus::builder().workers(cores).streams(streams);
        let _bus = bus.listen_unix(socket).start()?;
        std::future::pending().await
    })
}

/// The file of a store in `folder`.
pub fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Puts so many messages into the stream in `folder`, each with its number, to so many topics in turn.
///
/// # Errors
/// What the store says.
pub async fn fill(folder: &Path, count: u64, topics: u64) -> Result<()> {
    fs::create_dir_all(folder)?;
    let store = SqliteStore::open(&file(folder), SqliteOptions::new())?;
    let settings = settings()?;
    let name = settings.name.clone();
    store.open(settings).await?;
    let topics = (0..topics)
        .map(|topic| TopicPattern::new(format!("durable/hall-{topic}/temperature")))
        .collect::<Result<Vec<_>, _>>()?;
    let mut all = (0..count).zip(topics.iter().cycle());
    loop {
        let message = |(number, topic): (u64, &TopicPattern)| {
            Change::Append(NewMessage {
                topic: topic.clone(),
                fields: Bytes::new(),
                payload: payload(number),
                time: 1,
                expires: None,
                id: None,
            })
        };
        let changes: Vec<_> = all
            .by_ref()
            .take(usize::try_from(FILLED)?)
            .map(message)
            .collect();
        if changes.is_empty() {
            break;
        }
        store.commit(name.clone(), changes).await?;
    }
    Ok(store.close().await?)
}

async fn time_deliveries(socket: &str, ready: mpsc::Sender<()>) -> Result<Histogram<u64>> {
    let client = Client::connect(socket).await?;
    let options = SubscribeOptions::default().quality(Quality::AtLeastOnce);
    let mut messages = client.subscribe_bytes_with(TOPIC, options).await?;
    // Who waits for this may have failed.
    let _ = ready.send(());
    let mut times = Histogram::new(3)?;
    let (mut first, mut last) = (None, 0);
    loop {
        let (_, payload) = messages.recv().await.context("the bus has hung up")?;
        let now = clock::nanoseconds();
        let due = number_in(&payload).context("a message without its time")?;
        if due == END {
            return Ok(times);
        }
        ensure!(due > last, "a message came twice, or too late");
        last = due;
        let warm = *first.get_or_insert(due) + u64::try_from(WARM_UP.as_nanos())?;
        if due >= warm {
            times.record(now.saturating_sub(due))?;
        }
    }
}

fn settings() -> Result<StreamSettings> {
    let patterns = vec![TopicPattern::new(PATTERN)?];
    Ok(StreamSettings::new(Name::new("durable")?, patterns))
}

fn kept() -> PublishOptions {
    PublishOptions::default().quality(Quality::AtLeastOnce)
}

fn payload(number: u64) -> Bytes {
    let mut payload = vec![7; PAYLOAD];
    if let Some(first) = payload.first_chunk_mut() {
        *first = number.to_le_bytes();
    }
    payload.into()
}

fn number_in(payload: &[u8]) -> Option<u64> {
    payload
        .first_chunk()
        .map(|number| u64::from_le_bytes(*number))
}

/// A runtime for a client, or for what a bus does beside its workers.
///
/// # Errors
/// What the system says.
pub fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
