//! Measures whispeer's limits and its peers side by side, in one run.
//!
//! A run starts a process for the subject (a relay, or a bus) and others for the load, which are
//! this binary under its hidden subcommand `role`, or the program that is the bus. The way of a
//! figure is the way of the files: [`plan`] says what is measured, [`run`] lets the subjects take
//! turns, [`measure`] starts the processes of one turn, [`role`] is what happens in them,
//! [`report`] sums up, [`markdown`] writes the tables and [`plot`] draws them.
//!
//! To add a peer, give it a variant in [`subject::Subject`] and a file in [`peers`] that implements
//! the traits of [`load::client`]; [`plan`] says where it takes part.

mod address;
mod clock;
mod environment;
mod frames;
mod installation;
mod load;
mod markdown;
mod measure;
mod notes;
mod peers;
mod plan;
mod plot;
mod process;
mod quantity;
mod reference;
mod report;
mod role;
mod run;
mod subject;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::environment::Environment;
use crate::installation::{Installation, Missing};
use crate::load::Phases;
use crate::measure::Setting;
use crate::plan::Case;
use crate::report::{CaseSummary, Report};
use crate::role::Role;
use crate::subject::Subject;

/// Rounds, warm-up and counted time of a full run, which takes about half an hour with all peers.
/// Three rounds bear one disturbed one.
const FULL: (u32, Duration, Duration) =
    (3, Duration::from_millis(200), Duration::from_millis(1000));

/// The same for a quick run, which shows orders of magnitude.
const QUICK: (u32, Duration, Duration) =
    (1, Duration::from_millis(100), Duration::from_millis(300));

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
    Role {
        /// What to do, as JSON.
        role: String,
    },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Fewer and shorter rounds.
    #[arg(long)]
    quick: bool,

    /// Measure only these families or single measurements; `--list` names them.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,

    /// Measure only these subjects, beside the limits and whispeer.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SUBJECT")]
    subjects: Vec<Subject>,

    /// Say which measurements there are, with which subjects, and what is missing; measure nothing.
    #[arg(long)]
    list: bool,

    /// Rounds of each measurement.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

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

    /// Where `bench/run --install` put the programs of peers.
    #[arg(long, value_name = "DIRECTORY")]
    peers: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Role { role }) => {
            if let Err(error) = serde_json::from_str::<Role>(&role)?.play() {
                Role::say_failed(&error);
                return Ok(ExitCode::FAILURE);
            }
        }
        None if arguments.options.list => arguments.options.list()?,
        None => measure_all(&arguments.options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure_all(options: &Options) -> Result<()> {
    let (rounds, warm_up, measure) = if options.quick { QUICK } else { FULL };
    let rounds = options.rounds.unwrap_or(rounds);
    let phases = Phases {
        warm_up,
        measure: options.measure.map_or(measure, Duration::from_millis),
    };
    let cases = options.cases()?;
    let installation = options.installation();
    allow_many_files()?;
    let directory = tempfile::tempdir().context("cannot make a directory for sockets")?;
    let setting = Setting {
        phases,
        directory: directory.path(),
        installation: &installation,
    };
    let mut report = Report {
        environment: Environment::here(installation.versions()),
        arguments: options.repeating(),
        is_program: options.whispeer.is_some(),
        rounds,
        warm_up_milliseconds: phases.warm_up.as_millis(),
        measure_milliseconds: phases.measure.as_millis(),
        cases: Vec::new(),
        missing: missing(&cases, &installation),
    };
    for (case, number) in cases.iter().zip(1..) {
        let subjects = options.subjects(case, &installation);
        eprintln!("{number} of {}: {} …", cases.len(), case.title);
        let rounds = run::run(case, &subjects, rounds, setting);
        report
            .cases
            .push(CaseSummary::new(case, &rounds, &subjects));
    }
    peers::tidy();
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

/// The subjects of `cases` that cannot be measured here.
fn missing(cases: &[Case], installation: &Installation) -> Vec<Missing> {
    let subjects: std::collections::BTreeSet<Subject> = cases
        .iter()
        .flat_map(|case| case.subjects.iter().copied())
        .collect();
    subjects
        .into_iter()
        .filter_map(|subject| installation.missing(subject))
        .collect()
}

/// Allows this process, and those that it starts, as many open files as the system lets it.
fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit on open files")
}

impl Options {
    /// The measurements that are wanted.
    fn cases(&self) -> Result<Vec<Case>> {
        if let Some(name) = plan::unknown(&self.only) {
            bail!("there is no measurement `{name}`; `--list` names those that there are");
        }
        let mut cases = plan::cases();
        cases.retain(|case| plan::is_selected(case, &self.only));
        ensure!(!cases.is_empty(), "nothing is to be measured");
        Ok(cases)
    }

    /// The subjects of `case` that are wanted and can be measured.
    fn subjects(&self, case: &Case, installation: &Installation) -> Vec<Subject> {
        case.subjects
            .iter()
            .copied()
            .filter(|subject| installation.missing(*subject).is_none())
            .filter(|subject| {
                self.subjects.is_empty()
                    || case.limit == Some(*subject)
                    || *subject == Subject::Whispeer
                    || self.subjects.contains(subject)
            })
            .collect()
    }

    fn installation(&self) -> Installation {
        Installation::find(self.peers.as_deref(), self.whispeer.as_deref())
    }

    /// Says what would be measured.
    fn list(&self) -> Result<()> {
        let cases = self.cases()?;
        let installation = self.installation();
        for case in &cases {
            let subjects = self.subjects(case, &installation);
            println!("{:<21} {}", case.id, names(&subjects));
        }
        for (name, version) in Environment::here(installation.versions()).versions {
            println!("version: {name} {version}");
        }
        for missing in missing(&cases, &installation) {
            println!("missing: {}: {}", missing.title, missing.why);
        }
        Ok(())
    }

    /// The arguments of `bench/run` that repeat the run, without those that only say where its
    /// result goes.
    fn repeating(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.quick {
            arguments.push("--quick".to_owned());
        }
        if !self.only.is_empty() {
            arguments.push(format!("--only {}", self.only.join(",")));
        }
        if !self.subjects.is_empty() {
            arguments.push(format!("--subjects {}", names(&self.subjects)));
        }
        if let Some(rounds) = self.rounds {
            arguments.push(format!("--rounds {rounds}"));
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
