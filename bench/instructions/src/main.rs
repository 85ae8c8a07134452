//! Counts the instructions of whispeer's hot paths with callgrind and compares them with what is stored.
//!
//! ```text
//! whispeer-instructions FILE [--write] [--repeat N] [--only ROW]
//! whispeer-instructions --row ROW
//! ```
//!
//! The second form is what is run under callgrind: it prepares the row and calls
//! [`counted_part`](counted::counted_part), whose instructions are counted.

mod callgrind;
mod counted;
mod figures;
mod peer;
mod report;
mod rows;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use figures::{Figure, Figures, Tools};
use report::Verdict;
use rows::{ROWS, Row};

/// Runs of each row of which the least is stored, and after which a row that is over stays so.
const RUNS: usize = 5;

/// What is asked for.
#[derive(Debug)]
enum Task {
    /// Do the work of one row.
    Run(Row),
    /// Count, and compare or store.
    Count(Options),
}

#[derive(Debug)]
struct Options {
    file: PathBuf,
    write: bool,
    repeat: usize,
    only: Option<Row>,
}

fn main() -> ExitCode {
    let done = parse(std::env::args().skip(1)).and_then(|task| match task {
        Task::Run(row) => run(row),
        Task::Count(options) => count(&options),
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Task> {
    let (mut file, mut write, mut repeat, mut only) = (None, false, None, None);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--write" => write = true,
            "--repeat" => repeat = Some(value()?.parse().context("--repeat needs a number")?),
            "--only" => only = Some(find(&value()?)?),
            "--row" => return Ok(Task::Run(find(&value()?)?)),
            other if other.starts_with('-') => {
                bail!("{other} is unknown; there are --write, --repeat N and --only ROW")
            }
            _ => file = Some(PathBuf::from(&argument)),
        }
    }
    ensure!(repeat != Some(0), "--repeat needs at least 1");
    // Figures that were stored together come from the same tools.
    ensure!(
        !write || only.is_none(),
        "--write stores all rows; leave --only out"
    );
    Ok(Task::Count(Options {
        file: file.context("the file of stored figures is missing")?,
        write,
        repeat: repeat.unwrap_or(if write { RUNS } else { 1 }),
        only,
    }))
}

fn find(name: &str) -> Result<Row> {
    let names = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>();
    let row = ROWS.iter().find(|row| row.name == name).copied();
    row.with_context(|| format!("there is no row {name}; there are {}", names().join(", ")))
}

fn run(row: Row) -> Result<ExitCode> {
    println!("{}", serde_json::to_string(&(row.run)()?)?);
    Ok(ExitCode::SUCCESS)
}

/// Counts a row as often as is asked for, and again if it seems to be over.
fn measure(row: &Row, options: &Options, before: Option<&Figure>) -> Result<Figure> {
    let mut counts = Vec::new();
    loop {
        counts.push(callgrind::count(row)?);
        let now = Figure::of(&counts, row.tolerance_percent).context("no run was counted")?;
        let is_over = !options.write && before.is_some_and(|before| now.is_over(before));
        let runs = if is_over {
            options.repeat.max(RUNS)
        } else {
            options.repeat
        };
        if counts.len() >= runs {
            return Ok(now);
        }
    }
}

/// Counts the rows, and compares or stores them.
fn count(options: &Options) -> Result<ExitCode> {
    let tools = Tools::here();
    let stored = match Figures::read(&options.file) {
        Ok(figures) => Some(figures),
        Err(error) if !options.write => return Err(error),
        // There is nothing to compare with, and there will be.
        Err(_) => None,
    };
    if let Some(stored) = &stored
        && stored.tools.target != tools.target
        && !options.write
    {
        let (needed, target) = (&stored.tools.target, &tools.target);
        println!("SKIPPED: needs {needed}, for which figures are stored; this is {target}");
        let must_run = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        return Ok(code(!must_run));
    }
    let mut verdict = Verdict::default();
    let mut rows = BTreeMap::new();
    println!("{}", report::heading());
    let is_wanted = |row: &&Row| options.only.is_none_or(|only| only.name == row.name);
    for row in ROWS.iter().filter(is_wanted) {
        let before = stored.as_ref().and_then(|stored| stored.rows.get(row.name));
        let now = measure(row, options, before)?;
        println!("{}", verdict.add(*row, &now, before));
        if options.repeat > 1 {
            let (runs, spread) = (options.repeat, now.spread_percent);
            println!("{:<15} {runs} runs lie within {spread:.2} %", "");
        }
        rows.insert(row.name.to_owned(), now);
    }
    if options.write {
        Figures { tools, rows }.write(&options.file)?;
        println!("written to {}", options.file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let advice = verdict.advice(stored.as_ref(), &tools);
    if !advice.is_empty() {
        println!("{advice}");
    }
    // Another compiler or C library counts differently; then the figures are told and nothing is judged.
    let comparable = stored.as_ref().is_none_or(|stored| stored.tools == tools);
    if verdict.has_failed() && !comparable {
        println!("not judged: the stored figures are of other tools; store new ones with --write");
    }
    Ok(code(!verdict.has_failed() || !comparable))
}

fn code(is_well: bool) -> ExitCode {
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
