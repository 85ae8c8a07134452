//! What several buses cost, and how far they go: measured at this machine, and simulated beyond it.
//!
//! ```text
//! cargo run --release -p whispeer-cluster-nats --example scaling -- measure [COSTS]
//! cargo run --release -p whispeer-cluster-nats --example scaling -- simulate [COSTS]
//! ```
//!
//! `measure` finds out what each thing costs, writes that to the file `COSTS`, and holds the simulation against what 2, 4 and 8 buses
//! take at this machine; it needs a `nats-server` and takes some five minutes. `simulate` goes on from there to 1,000 buses with
//! 1,000,000 connections. Both print tables as docs/SCALING.md has them. Without `COSTS` it is the file that is kept beside this one.
//!
//! The server is the last one that `NATS_SERVERS` names, `:` between paths, or else the one on the `PATH`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints what it has found out")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts and times are far below what either type holds"
)]

mod calibrate;
mod clients;
mod compare;
mod costs;
mod memory;
mod place;
mod processes;
mod project;
mod random;
mod recovery;
mod simulate;
mod station;
mod system;

use std::path::{Path, PathBuf};

use costs::Costs;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: scaling measure [COSTS] | scaling simulate [COSTS]";

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure"] => runtime.block_on(measure(&kept())),
        ["measure", costs] => runtime.block_on(measure(Path::new(costs))),
        ["simulate"] => simulate(&kept()),
        ["simulate", costs] => simulate(Path::new(costs)),
        // What `measure` starts.
        ["bus", socket] => runtime.block_on(processes::be_a_bus(socket, None)),
        ["bus", socket, nats] => runtime.block_on(processes::be_a_bus(socket, Some(nats))),
        _ => Err(USAGE.into()),
    }
}

/// Where the costs are that docs/SCALING.md is made from.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scaling/costs.json")
}

async fn measure(file: &Path) -> Outcome {
    let costs = calibrate::calibrate().await?;
    std::fs::write(file, serde_json::to_string_pretty(&costs)? + "\n")?;
    print!("{}", project::table_of_costs(&costs));
    compare::compare(&costs).await
}

fn simulate(file: &Path) -> Outcome {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let costs: Costs = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    print!("{}", project::table_of_costs(&costs));
    print!("{}", project::tables(&costs));
    Ok(())
}

fn number(text: &str) -> Outcome<f64> {
    text.parse().map_err(|error| format!("{text:?} is no number: {error}").into())
}
