//! The command line.

use clap::{CommandFactory, Parser, Subcommand};

#[cfg(feature = "compression")]
use crate::commands::dict;
#[cfg(feature = "encryption")]
use crate::commands::keys;
#[cfg(feature = "sqlite")]
use crate::commands::streams;
use crate::commands::{
    bench, certs, completions, config, consumers, dlq, info, list, manual, passwd, publish, register, replay,
    reply, request, serve, stop, subscribe, token, top,
};
use crate::connection::BusOptions;
use crate::failure::EXIT_CODES;

const EXAMPLES: &str = "\
Examples:
  whispeer my_bus                          start a bus on the Unix socket my_bus
  export WHISPEER_ADDR=my_bus              use it from here on
  whispeer sub 'news/**'                   print what is published below news
  whispeer pub news/local '\"rain\"'         publish a JSON value
  whispeer reply time --text --exec date   answer requests by a command
  whispeer req time                        ask
  whispeer register home my_bus --default  use it without WHISPEER_ADDR too";

/// A message bus: publish/subscribe and request/response between processes
///
/// `whispeer ADDR...` is short for `whispeer serve ADDR...`. An address is the path of a Unix socket,
/// `unix:PATH`, `tcp://HOST:PORT`, `tls://HOST:PORT`, `quic://HOST:PORT`, `ws://HOST:PORT/PATH`,
/// `wss://HOST:PORT/PATH`, or `@NAME` for a bus registered under that name.
#[derive(Debug, Parser)]
#[command(name = "whispeer", version, subcommand_required = true, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// The bus that the subcommand is to use; it may also stand behind the subcommand
    #[arg(long, value_name = "ADDR")]
    pub(crate) addr: Option<String>,

    /// Say more on standard error; twice for details (else WHISPEER_LOG=FILTER chooses)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(serve::Serve),
    Config(config::Config),
    Pub(publish::Publish),
    Sub(subscribe::Subscribe),
    Replay(replay::Replay),
    Ls(list::List),
    Req(request::Request),
    Reply(reply::Reply),
    Info(info::Info),
    Top(top::Top),
    Stop(stop::Stop),
    #[cfg(feature = "sqlite")]
    Streams(streams::Streams),
    Consumers(consumers::Consumers),
    Dlq(dlq::Dlq),
    Bench(bench::Bench),
    Register(register::Register),
    Unregister(register::Unregister),
    Certs(certs::Certs),
    Passwd(passwd::Passwd),
    Token(token::Token),
    #[cfg(feature = "compression")]
    Dict(dict::Dict),
    #[cfg(feature = "encryption")]
    Keys(keys::Keys),
    Completions(completions::Completions),
    Man(manual::Manual),
    #[command(hide = true)]
    BenchLoad(bench::BenchLoad),
}

impl Command {
    /// What it is told of the bus that it talks to, if it talks to one.
    pub(crate) fn bus(&self) -> Option<&BusOptions> {
        match self {
            Self::Pub(publish) => Some(&publish.bus),
            Self::Sub(subscribe) => Some(&subscribe.bus),
            Self::Replay(replay) => Some(&replay.bus),
            Self::Ls(list) => Some(&list.bus),
            Self::Req(request) => Some(&request.bus),
            Self::Reply(reply) => Some(&reply.bus),
            Self::Info(info) => Some(&info.bus),
            Self::Top(top) => Some(&top.bus),
            Self::Stop(stop) => Some(&stop.bus),
            Self::Consumers(consumers) => Some(consumers.bus()),
            Self::Dlq(dlq) => Some(dlq.bus()),
            Self::Bench(bench) => Some(&bench.bus),
            Self::Serve(_)
            | Self::Config(_)
            | Self::Register(_)
            | Self::Unregister(_)
            | Self::Certs(_)
            | Self::Passwd(_)
            | Self::Token(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::BenchLoad(_) => None,
            #[cfg(feature = "sqlite")]
            Self::Streams(_) => None,
            #[cfg(feature = "compression")]
            Self::Dict(_) => None,
            #[cfg(feature = "encryption")]
            Self::Keys(_) => None,
        }
    }
}

/// The whole command line, as clap knows it.
pub(crate) fn command() -> clap::Command {
    Cli::command().after_help(format!("{EXAMPLES}\n\n{EXIT_CODES}"))
}

#[cfg(test)]
mod tests {
    use crate::settings::{SETTINGS, Setting};

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }

    #[test]
    fn the_options_of_clients_are_those_of_commands_that_talk_to_a_bus() {
        let clients = ["pub", "sub", "replay", "ls", "req", "reply", "info", "top", "stop", "bench"];
        for subcommand in super::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = subcommand.get_name();
            for option in ["addr", "ca", "cert", "key", "token_file", "user", "password_file"] {
                // `passwd` and `token` have a user and a key of their own.
                let own = matches!((name, option), ("passwd", "user") | ("token", "key"));
                let has = subcommand.get_arguments().any(|argument| argument.get_id() == option);
                assert_eq!(has, own || clients.contains(&name), "{name} {option}");
            }
        }
    }

    #[test]
    fn every_setting_has_its_flag_and_every_flag_of_serve_and_config_is_a_setting() {
        let command = super::command();
        let named = |setting: &Setting, argument: &clap::Arg| match argument.get_long() {
            Some(long) => long.strip_prefix("no-").unwrap_or(long) == setting.flag(),
            None => argument.get_id() == setting.key,
        };
        for (name, others) in [("serve", &["config"][..]), ("config", &["config", "json", "example"])] {
            let arguments: Vec<_> = command.find_subcommand(name).unwrap().get_arguments().collect();
            for setting in SETTINGS {
                assert!(arguments.iter().any(|argument| named(setting, argument)), "{name}: {}", setting.key);
            }
            for argument in arguments.iter().filter(|argument| !others.contains(&argument.get_id().as_str()))
            {
                assert!(SETTINGS.iter().any(|setting| named(setting, argument)), "{name}: {argument:?}");
            }
        }
    }
}
