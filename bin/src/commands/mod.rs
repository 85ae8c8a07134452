//! The subcommands, a file each.

pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod manual;
pub(crate) mod passwd;
pub(crate) mod publish;
pub(crate) mod register;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod serve;
pub(crate) mod stop;
pub(crate) mod subscribe;
pub(crate) mod token;
pub(crate) mod top;

use crate::arguments::{Cli, Command};
use crate::connection::BusChoice;
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
    let bus = BusChoice { address: cli.addr, files: cli.tls, verbose: cli.verbose > 0 };
    match cli.command {
        Command::Serve(serve) => serve.run(&bus, interrupts, logging, passed).await,
        Command::Config(config) => config.run(&bus, logging),
        Command::Pub(publish) => publish.run(&bus, interrupts).await,
        Command::Sub(subscribe) => subscribe.run(&bus, interrupts).await,
        Command::Reply(reply) => reply.run(&bus, interrupts).await,
        other => tokio::select! {
            outcome = Box::pin(run_whole(other, &bus)) => outcome,
            () = interrupts.first() => Ok(()),
        },
    }
}

async fn run_whole(command: Command, bus: &BusChoice) -> anyhow::Result<()> {
    match command {
        Command::Ls(list) => list.run(bus).await,
        Command::Req(request) => request.run(bus).await,
        Command::Info(info) => info.run(bus).await,
        Command::Top(top) => top.run(bus).await,
        Command::Stop(stop) => stop.run(bus).await,
        Command::Bench(bench) => bench.run(bus).await,
        Command::BenchLoad(load) => load.run(bus).await,
        Command::Register(register) => register.run(),
        Command::Unregister(unregister) => unregister.run(),
        Command::Certs(certs) => certs.run(),
        Command::Passwd(passwd) => passwd.run().await,
        Command::Token(token) => token.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(manual) => manual.run(),
        Command::Serve(_) | Command::Config(_) | Command::Pub(_) | Command::Sub(_) | Command::Reply(_) => {
            Ok(())
        }
    }
}
