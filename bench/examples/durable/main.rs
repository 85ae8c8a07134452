//! What durable topics reach, beside the disk that they are on and beside JetStream, in one run.
//!
//! ```sh
//! bench/run --install --list                # once: fetches nats-server, among others
//! cd bench && cargo run --release --example durable -- 5
//! ```
//!
//! Each round measures, one after the other: the disk alone; publishes that are answered when they are on the disk, with 1, 8
//! and 64 under way, at whispeer and at `nats-server` with JetStream; a replay of a million messages, at first with none of them in
//! memory; and how late messages come at a tenth of the rate that 64 under way have reached. Both servers are processes of
//! their own with a new folder each round; the clients are in this one. It tells medians of the rounds, and the least and most.

mod bus;
mod disk;
mod figures;
mod jetstream;
mod load;
mod tables;

#[path = "../../src/address.rs"]
#[expect(dead_code, reason = "the rest of it is for other measurements")]
mod address;
#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/environment.rs"]
mod environment;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::bus::Serving;
use crate::environment::Environment;
use crate::figures::Series;
use crate::jetstream::JetStream;
use crate::load::{InFlight, PAYLOAD};

/// How often the disk, whispeer and JetStream take turns in each round, for each number of publishes under way.
const SLICES: usize = 4;

/// Measures durable topics.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Is the bus.
    #[command(hide = true)]
    Bus { folder: PathBuf, socket: PathBuf },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// How often all is measured.
    #[arg(default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// A folder on the disk to measure.
    #[arg(long, default_value = ".")]
    folder: PathBuf,

    /// The `whispeer` program, which is then the bus. By default this program is.
    #[arg(long, value_name = "FILE")]
    whispeer: Option<PathBuf>,

    /// The `nats-server` program. By default that of `bench/run --install`.
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,

    /// Messages that are replayed.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,

    /// Topics that those go to in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    topics: u64,
}

/// What the rounds have shown.
#[derive(Debug, Default)]
struct Found {
    appends: Series,
    overwrites: Series,
    /// For each of [`InFlight::ALL`].
    publishes: [Publishes; InFlight::ALL.len()],
    /// Syncs of JetStream's for each publish, where they could be counted.
    their_syncs: Option<f64>,
    from_disk: Series,
    from_memory: Series,
    /// Messages a second of which the times below are.
    timed: Series,
    /// Nanoseconds, for each of [`tables::QUANTILES`].
    times: [Series; tables::QUANTILES.len()],
}

/// What was measured in turns.
#[derive(Debug, Default)]
struct Publishes {
    /// Appends a second of the disk alone.
    syncs: Series,
    /// Publishes a second.
    ours: Series,
    /// The same of JetStream; empty without a `nats-server`.
    theirs: Series,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Bus { folder, socket }) => bus::serve(&folder, &socket),
        None => bus::runtime()?.block_on(arguments.options.measure()),
    }
}

impl Options {
    async fn measure(&self) -> Result<()> {
        let file_system = disk::file_system(&self.folder)?;
        let folder = tempfile::tempdir_in(&self.folder)
            .with_context(|| format!("cannot write in {}", self.folder.display()))?;
        let replayed = folder.path().join("replayed");
        eprintln!("{} messages are stored to be replayed …", self.messages);
        bus::fill(&replayed, self.messages, self.topics).await?;
        let nats = self.nats_server();
        let mut found = Found::default();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {} …", self.rounds);
            let folder = tempfile::tempdir_in(folder.path())?;
            self.round(folder.path(), &replayed, nats.as_deref(), &mut found)
                .await?;
        }
        let version = nats.as_deref().map(version).into_iter();
        let environment = Environment::here(version.map(|found| ("nats-server", found)).collect());
        print!(
            "{}",
            tables::Report {
                found: &found,
                environment: &environment,
                file_system: &file_system,
                rounds: self.rounds,
                messages: self.messages,
                is_program: self.whispeer.is_some(),
            }
            .written()?
        );
        Ok(())
    }

    async fn round(
        &self,
        folder: &Path,
        replayed: &Path,
        nats: Option<&Path>,
        found: &mut Found,
    ) -> Result<()> {
        let program = self.whispeer.as_deref();
        let serving = Serving::start(program, &folder.join("whispeer"))?;
        let jetstream = match nats {
            Some(nats) => Some(JetStream::start(nats, &folder.join("jetstream")).await?),
            None => None,
        };
        let (mut appends, mut overwrites, mut most) = (Vec::new(), Vec::new(), 0.0);
        for (in_flight, noted) in InFlight::ALL.into_iter().zip(&mut found.publishes) {
            let ours = serving.publishers(in_flight).await?;
            let theirs = match &jetstream {
                Some(jetstream) => Some(jetstream.publishers(in_flight).await?),
                None => None,
            };
            let mut rates = [const { Vec::new() }; 3];
            let [of_disk, of_ours, of_theirs] = &mut rates;
            // The disk is not the same from one second to the next, so they take turns.
            for _ in 0..SLICES {
                overwrites.push(disk::overwrites(folder, PAYLOAD)?);
                of_disk.push(disk::appends(folder, PAYLOAD)?);
                of_ours.push(load::rate(&ours).await?);
                if let Some(theirs) = &theirs {
                    of_theirs.push(load::rate(theirs).await?);
                }
            }
            appends.extend_from_slice(of_disk);
            noted.syncs.push(mean(of_disk));
            noted.ours.push(mean(of_ours));
            if theirs.is_some() {
                noted.theirs.push(mean(of_theirs));
            }
            if in_flight == InFlight::MOST {
                most = mean(of_ours);
            }
        }
        found.appends.push(mean(&appends));
        found.overwrites.push(mean(&overwrites));
        if let (Some(jetstream), None) = (&jetstream, found.their_syncs) {
            found.their_syncs = jetstream.syncs_of_each().await?;
        }
        drop(jetstream);

        let rate = most / 10.0;
        let times = serving.latency(rate).await?;
        found.timed.push(rate);
        for (series, quantile) in found.times.iter_mut().zip(tables::QUANTILES) {
            series.push(times.value_at_quantile(quantile) as f64);
        }
        drop(serving);

        disk::forget(&bus::file(replayed))?;
        let serving = Serving::start(program, replayed)?;
        found.from_disk.push(serving.replay(self.messages).await?);
        found.from_memory.push(serving.replay(self.messages).await?);
        Ok(())
    }

    /// The program, where it was named or `bench/run --install` has put it.
    fn nats_server(&self) -> Option<PathBuf> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
            PathBuf::from,
        );
        let installed = target.join("peers/bin/nats-server");
        self.nats_server
            .clone()
            .or_else(|| installed.is_file().then_some(installed))
    }
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

/// What the program says of its version.
fn version(program: &Path) -> String {
    let told = Command::new(program).arg("--version").output();
    told.map_or_else(
        |error| error.to_string(),
        |told| {
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            let number = told.trim().rsplit([' ', 'v']).next();
            number.unwrap_or_default().to_owned()
        },
    )
}
