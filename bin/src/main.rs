//! `whispeer`: runs a message bus and talks to one.
//!
//! Each subcommand has a file of its own under `commands`; what they share is beside this file:
//!
//! | file | what it holds |
//! |---|---|
//! | `arguments`, `first_word`, `quantity` | what can be written on the command line |
//! | `settings` | what can be set about `serve`: flags, environment and file |
//! | `service` | what `serve` and a service manager such as systemd tell each other |
//! | `registry`, `connection` | which bus is meant, and connecting to it |
//! | `payload` | JSON to MessagePack and back |
//! | `input`, `output` | standard input and output, by threads of their own |
//! | `prompt` | a password, from a terminal or a pipe |
//! | `interrupts` | SIGINT, SIGTERM and SIGHUP |
//! | `logging` | what is logged on standard error |
//! | `telemetry` | spans of what the gateway does, exported by OpenTelemetry |
//! | `nats` | what joins the bus to others over NATS |
//! | `failure` | what an error says, and the exit code it becomes |
//! | `certificates` | the development CA of `whispeer certs`, and what it signs |
//! | `bench` | the load and the figures of `whispeer bench` |

mod arguments;
mod bench;
mod certificates;
mod commands;
mod connection;
mod failure;
mod first_word;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(not(feature = "gateway"))]
#[path = "gateway_absent.rs"]
mod gateway;
mod input;
mod interrupts;
mod logging;
#[cfg(feature = "nats")]
mod nats;
#[cfg(not(feature = "nats"))]
#[path = "nats_absent.rs"]
mod nats;
mod output;
mod payload;
mod prompt;
mod quantity;
mod registry;
mod service;
mod settings;
mod storage;
#[cfg(feature = "otel")]
mod telemetry;
#[cfg(not(feature = "otel"))]
#[path = "telemetry_absent.rs"]
mod telemetry;

use std::io;
use std::process::ExitCode;

use clap::FromArgMatches;
use tokio::runtime::{Builder, Runtime};

use arguments::{Cli, Command};
use interrupts::Interrupts;
use logging::Logging;
use service::Passed;

/// The system's allocator is slower at what a bus does most: short-lived blocks that one thread makes
/// and another frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code when a second signal ends a command that was still finishing: 128 + SIGINT.
const INTERRUPTED_TWICE: u8 = 130;

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let logging = Logging::start(cli.verbose);
    // The descriptors that were passed are taken before there is a thread that could open others.
    let passed = match matches!(cli.command, Command::Serve(_)).then(Passed::take).transpose() {
        Ok(passed) => passed.unwrap_or_default(),
        Err(error) => return failure::report(&error),
    };
    let runtime = match start_runtime(&cli.command) {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let outcome = runtime.block_on(async {
        let interrupts = Interrupts::listen()?;
        if matches!(cli.command, Command::Serve(_)) {
            return commands::run(cli, interrupts, &logging, passed).await.map(|()| ExitCode::SUCCESS);
        }
        tokio::select! {
            outcome = commands::run(cli, interrupts.clone(), &logging, passed) => outcome.map(|()| ExitCode::SUCCESS),
            () = interrupts.second() => Ok(ExitCode::from(INTERRUPTED_TWICE)),
        }
    });
    // Dropping the tasks removes socket files, so it must happen before the process ends.
    drop(runtime);
    outcome.unwrap_or_else(|error| failure::report(&error))
}

fn parse() -> Result<Cli, ExitCode> {
    let words =
        first_word::resolve(std::env::args_os().collect()).map_err(|error| failure::report(&error))?;
    let parsed =
        arguments::command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // Help asked for goes to standard output; a reader that has seen enough of it is no failure.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE))
    })
}

/// Everything but a measurement does its work on one thread: handing messages from thread to thread would
/// cost more than it gains. A bus has threads of its own beside it.
fn start_runtime(command: &Command) -> io::Result<Runtime> {
    let threads = match command {
        Command::BenchLoad(load) => load.threads(),
        _ => 1,
    };
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}
