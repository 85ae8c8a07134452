//! Measures whispeer's limits and its peers side by side, in one run.
//!
//! A run starts a process for the subject (a relay, or a bus) and others for the load, all of them
//! this binary under its hidden subcommand `role`. The way of a figure is the way of the files:
//! [`plan`] says what is measured, [`run`] lets the subjects take turns, [`measure`] starts the
//! processes of one turn, [`role`] is what happens in them, [`report`] sums up, [`markdown`] writes
//! the tables.
//!
//! To add a subject, give it a variant in [`subject::Subject`], a client in [`role`], and its
//! place in [`plan`]. [`process`] pins whatever program it starts, so that a bus may be another
//! binary.

mod environment;
mod frames;
mod load;
mod markdown;
mod measure;
mod plan;
mod process;
mod quantity;
mod reference;
mod report;
mod role;
mod run;
mod subject;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::environment::Environment;
use crate::load::Phases;
use crate::measure::Setting;
use crate::plan::Family;
use crate::report::{CaseSummary, Report};
use crate::subject::Subject;

/// Rounds, warm-up and counted time of a full run. Five rounds bear one disturbed one on each side
/// of the median; the whole takes about twelve minutes.
const FULL: (u32, Duration, Duration) =
    (5, Duration::from_millis(300), Duration::from_millis(1500));

/// The same for a quick run, which shows orders of magnitude in under three minutes.
const QUICK: (u32, Duration, Duration) =
    (3, Duration::from_millis(150), Duration::from_millis(400));

/// The longest that may be counted, in milliseconds: t2_bus ends 30 s after a request.
const LONGEST_MEASURE_MILLISECONDS: u64 = 20_000;

/// Measures buses, and the limits that they are held against, side by side.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Plays one part in a measurement.
    #[command(hide = true)]
    Role(role::Role),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Fewer and shorter rounds.
    #[arg(long)]
    quick: bool,

    /// Measure only these families.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Family>,

    /// Measure only these subjects, beside the limits.
    #[arg(long, value_enum, value_delimiter = ',')]
    subjects: Vec<Subject>,

    /// Rounds of each measurement.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: Option<u32>,

    /// Time counted in each run, in milliseconds.
    #[arg(long, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(50..=LONGEST_MEASURE_MILLISECONDS))]
    measure: Option<u64>,

    /// Also write everything, each single run included, to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Also write the tables into this document, in place of those that are there.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// The `whispeer` program, which is then whispeer's bus. By default this program is.
    #[arg(long, value_name = "FILE")]
    whispeer: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Role(role)) => role.play(),
        None => measure_all(&arguments.options),
    }
}

fn measure_all(options: &Options) -> Result<()> {
    let (repetitions, warm_up, measure) = if options.quick { QUICK } else { FULL };
    let repetitions = options.repetitions.unwrap_or(repetitions);
    let phases = Phases {
        warm_up,
        measure: options.measure.map_or(measure, Duration::from_millis),
    };
    allow_many_files()?;
    let directory = tempfile::tempdir().context("cannot make a directory for sockets")?;
    let setting = Setting {
        phases,
        directory: directory.path(),
        whispeer: options.whispeer.as_deref(),
    };
    let mut report = Report {
        environment: Environment::here(),
        arguments: options.repeating(),
        is_program: options.whispeer.is_some(),
        repetitions,
        warm_up_milliseconds: phases.warm_up.as_millis(),
        measure_milliseconds: phases.measure.as_millis(),
        cases: Vec::new(),
        failures: Vec::new(),
    };
    for case in plan::cases() {
        if !options.only.is_empty() && !options.only.contains(&case.family) {
            continue;
        }
        let subjects: Vec<Subject> = case
            .subjects
            .iter()
            .copied()
            .filter(|subject| {
                options.subjects.is_empty()
                    || *subject == case.limit
                    || options.subjects.contains(subject)
            })
            .collect();
        eprintln!("measuring {} …", case.title);
        match run::run(&case, &subjects, repetitions, setting) {
            Ok(rounds) => report
                .cases
                .push(CaseSummary::new(&case, &rounds, &subjects)),
            Err(error) => report.failures.push(format!("{}: {error:#}", case.title)),
        }
    }
    ensure!(
        !report.cases.is_empty(),
        "nothing could be measured: {}",
        report.failures.join("; ")
    );
    println!("{report}");
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.write {
        markdown::write_into(path, &report)?;
    }
    Ok(())
}

/// Allows this process, and those that it starts, as many open files as the system lets it.
fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit on open files")
}

impl Options {
    /// The arguments of `bench/run` that repeat the run, without those that only say where its
    /// result goes.
    fn repeating(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.quick {
            arguments.push("--quick".to_owned());
        }
        if !self.only.is_empty() {
            arguments.push(format!("--only {}", names(&self.only)));
        }
        if !self.subjects.is_empty() {
            arguments.push(format!("--subjects {}", names(&self.subjects)));
        }
        if let Some(repetitions) = self.repetitions {
            arguments.push(format!("--repetitions {repetitions}"));
        }
        if let Some(measure) = self.measure {
            arguments.push(format!("--measure {measure}"));
        }
        arguments
    }
}

/// The values as they are written on the command line.
fn names<T: ValueEnum>(values: &[T]) -> String {
    let names: Vec<String> = values
        .iter()
        .filter_map(T::to_possible_value)
        .map(|value| value.get_name().to_owned())
        .collect();
    names.join(",")
}
