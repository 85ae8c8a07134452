//! `whispeer bench`: measures latency and throughput.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use whispeer::limits;

use crate::bench::figures::Figures;
use crate::bench::load;
use crate::bench::plan::{Limit, Load, Mode, Role, Run, SIZE_MIN};
use crate::bench::processes::{OwnBus, measure, measure_in_memory};
use crate::connection::{BusChoice, BusOptions, ClientFiles, resolve};
use crate::failure::{FAILED, Failure};
use crate::output;
use crate::quantity;

/// The most subscribers, pairs or requests at a time. Pairs are two processes each.
const WIDTH_MAX: u32 = 4_096;

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  whispeer bench                                all modes, on a bus of its own
  whispeer bench request --size 16 --size 1KiB
  whispeer bench one-to-one fan-out --messages 1000000 --json
  whispeer bench --addr my_bus                  on a bus that runs already
  whispeer bench --memory                       within one process
  taskset -c 0 whispeer bench request           latency, without the scheduler's wake-ups

Publishers, subscribers, requesters, servers and the bus are processes of their own. Every delivery is
counted and its sequence checked; anything lost ends in an error. The first tenth of the requests is
not recorded.";

/// Measure latency and throughput
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// What to measure [default: all]
    #[arg(value_enum, value_name = "MODE")]
    modes: Vec<Mode>,

    /// Bytes of each payload, at least 16; may be given several times
    #[arg(short, long = "size", value_parser = size, default_value = "16", value_delimiter = ',')]
    sizes: Vec<usize>,

    /// How long each run lasts
    #[arg(short, long, value_parser = quantity::duration, default_value = "2s", value_name = "TIME")]
    duration: Duration,

    /// Messages of each publisher, or requests, instead of a time
    #[arg(short = 'n', long, conflicts_with = "duration", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,

    /// Requests at a time, for `outstanding`
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = width())]
    outstanding: u32,

    /// Subscribers, for `fan-out`
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = width())]
    subscribers: u32,

    /// Publishers with a subscriber each, for `n-to-n`
    #[arg(long, default_value_t = 4, value_name = "COUNT", value_parser = width())]
    pairs: u32,

    /// Measure the memory transport: bus and clients in one process
    #[arg(long, conflicts_with = "addr")]
    memory: bool,

    /// Threads of that process
    #[arg(long, default_value_t = 1, requires = "memory", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

impl Bench {
    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        let runs = self.runs();
        let own_bus = match (&bus.address, self.memory) {
            (None, false) => Some(OwnBus::start().await?),
            _ => None,
        };
        let address = match (&own_bus, &bus.address) {
            (Some(own), _) => own.address().to_owned(),
            (None, Some(given)) if !self.memory => resolve(given)?,
            (None, _) => "memory".to_owned(),
        };
        output::notice(format_args!(
            "measuring {address}{}",
            if own_bus.is_some() { ", a bus started for it" } else { "" }
        ));
        let progress = progress(&runs);
        let mut figures = Vec::with_capacity(runs.len());
        for run in &runs {
            progress.set_message(format!("{}, {}", run.title(), quantity::human_size(run.size as u64)));
            let found = if self.memory {
                measure_in_memory(run, usize::try_from(self.threads).unwrap_or(1)).await
            } else {
                measure(run, &address, &bus.files).await
            };
            let found =
                found.with_context(|| format!("cannot measure {} with {} bytes", run.title(), run.size))?;
            figures.push(Figures::new(run, &found));
            progress.inc(1);
        }
        progress.finish_and_clear();
        if self.json {
            let version = env!("CARGO_PKG_VERSION");
            let object = serde_json::json!({ "version": version, "address": address, "runs": figures });
            output::print(format!("{object:#}\n"))?;
        } else {
            output::print(Figures::table(&figures))?;
        }
        match figures.iter().map(|figures| figures.lost).sum::<u64>() {
            0 => Ok(()),
            lost => Err(Failure::new(FAILED, format!("{lost} deliveries were lost or out of order")).into()),
        }
    }

    fn runs(&self) -> Vec<Run> {
        let limit = self.messages.map_or(Limit::Time(self.duration), Limit::Messages);
        let modes = if self.modes.is_empty() { &Mode::ALL[..] } else { &self.modes[..] };
        let mut runs = Vec::with_capacity(self.sizes.len() * modes.len());
        for &size in &self.sizes {
            for &mode in modes {
                let width = match mode {
                    Mode::Request | Mode::OneToOne => 1,
                    Mode::Outstanding => self.outstanding,
                    Mode::FanOut => self.subscribers,
                    Mode::NToN => self.pairs,
                };
                runs.push(Run { mode, size, width: usize::try_from(width).unwrap_or(1), limit });
            }
        }
        runs
    }
}

/// A process of a measurement
#[derive(Debug, Args)]
pub(crate) struct BenchLoad {
    /// What it does, as JSON
    #[arg(value_parser = parse_load)]
    load: Box<Load>,

    #[command(flatten)]
    files: ClientFiles,
}

impl BenchLoad {
    /// Threads to do it on: clients of a bus in another process have one each.
    pub(crate) fn threads(&self) -> usize {
        match self.load.role {
            Role::Memory { threads, .. } => threads,
            _ => 1,
        }
    }

    pub(crate) async fn run(self) -> anyhow::Result<()> {
        load::run(&self.load, &self.files).await
    }
}

fn parse_load(text: &str) -> Result<Box<Load>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<usize, String> {
    let size = quantity::memory(text)?;
    if (SIZE_MIN..limits::FRAME_LIMIT_MAX).contains(&size) {
        return Ok(size);
    }
    Err(format!("a payload has at least {SIZE_MIN} bytes, which hold its number"))
}

fn width() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(WIDTH_MAX))
}

/// A bar on standard error; it draws nothing where that is no terminal.
fn progress(runs: &[Run]) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(runs.len() as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {msg} ({elapsed})") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(TICK);
    bar
}
