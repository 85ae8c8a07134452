//! The subcommands, a file each.

pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod config;
mod consume;
pub(crate) mod consumers;
#[cfg(feature = "compression")]
pub(crate) mod dict;
pub(crate) mod dlq;
pub(crate) mod info;
#[cfg(feature = "encryption")]
pub(crate) mod keys;
pub(crate) mod list;
pub(crate) mod manual;
pub(crate) mod passwd;
pub(crate) mod publish;
pub(crate) mod register;
pub(crate) mod replay;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod serve;
pub(crate) mod stop;
#[cfg(feature = "sqlite")]
pub(crate) mod streams;
pub(crate) mod subscribe;
pub(crate) mod token;
pub(crate) mod top;

use crate::arguments::{Cli, Command};
use crate::connection::BusChoice;
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::logging::Logging;
use crate::service::Passed;

/// Runs what the command line asks for.
///
/// Commands that have something to finish take the interrupts themselves; the others are dropped at
/// the first one, which cancels at the bus what they wait for.
pub(crate) async fn run(
    cli: Cli,
    interrupts: Interrupts,
    logging: &Logging,
    passed: Passed,
) -> anyhow::Result<()> {
    let (before, verbose) = (cli.addr, cli.verbose > 0);
    let bus = cli.command.bus().map(|options| options.choice(before.clone(), verbose));
    match (cli.command, bus) {
        (Command::Serve(serve), _) => serve.run(before, interrupts, logging, passed).await,
        (Command::Config(config), _) => config.run(before, logging),
        (Command::Pub(publish), Some(bus)) => publish.run(&bus, interrupts).await,
        (Command::Sub(subscribe), Some(bus)) => subscribe.run(&bus, interrupts).await,
        (Command::Replay(replay), Some(bus)) => replay.run(&bus, interrupts).await,
        (Command::Reply(reply), Some(bus)) => reply.run(&bus, interrupts).await,
        (command, bus) => tokio::select! {
            outcome = Box::pin(run_whole(command, bus, before)) => outcome,
            () = interrupts.first() => Ok(()),
        },
    }
}

async fn run_whole(command: Command, bus: Option<BusChoice>, before: Option<String>) -> anyhow::Result<()> {
    match (command, &bus) {
        (Command::Ls(list), Some(bus)) => list.run(bus).await,
        (Command::Req(request), Some(bus)) => request.run(bus).await,
        (Command::Info(info), Some(bus)) => info.run(bus).await,
        (Command::Consumers(consumers), Some(bus)) => consumers.run(bus).await,
        (Command::Dlq(dlq), Some(bus)) => dlq.run(bus).await,
        (Command::Top(top), Some(bus)) => top.run(bus).await,
        (Command::Stop(stop), Some(bus)) => stop.run(bus).await,
        (Command::Bench(bench), Some(bus)) => bench.run(bus).await,
        (command, _) if before.is_none() => run_alone(command).await,
        _ => {
            let failure = Failure::usage("--addr chooses a bus, and this command uses none");
            Err(failure.help("leave --addr out").into())
        }
    }
}

/// Runs a command that talks to no bus.
async fn run_alone(command: Command) -> anyhow::Result<()> {
    match command {
        Command::BenchLoad(load) => load.run().await,
        Command::Register(register) => register.run(),
        Command::Unregister(unregister) => unregister.run(),
        Command::Certs(certs) => certs.run(),
        #[cfg(feature = "compression")]
        Command::Dict(dict) => dict.run().await,
        #[cfg(feature = "encryption")]
        Command::Keys(keys) => keys.run().await,
        #[cfg(feature = "sqlite")]
        Command::Streams(streams) => streams.run().await,
        Command::Passwd(passwd) => passwd.run().await,
        Command::Token(token) => token.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(manual) => manual.run(),
        _ => Ok(()),
    }
}
