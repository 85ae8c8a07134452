//! `whispeer serve`: runs a bus.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use whispeer::bus::{Bus, BusHandle, Settings};
use whispeer::transport::UnixOptions;
use whispeer::{Address, BusError};

use crate::connection::{ADDRESS_VARIABLE, BusChoice, resolve};
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::output;
use crate::quantity;

const EXAMPLES: &str = "\
Examples:
  whispeer serve my_bus
  whispeer my_bus                                   the same
  whispeer serve unix:/run/app/bus --mode 0660      for the group of the folder too
  whispeer serve my_bus --frame-limit 64MiB --block-limit 200ms

It is ready when it says so on standard error. SIGINT and SIGTERM let what is in flight finish, at
most for --grace; a second one stops at once.";

/// Start a bus
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Where to listen: a socket's path, unix:PATH, tcp://HOST:PORT or @NAME
    #[arg(value_name = "ADDR")]
    addresses: Vec<String>,

    /// Permission bits of the sockets, in octal; whoever may write to a socket may connect
    #[arg(long, value_parser = quantity::mode, default_value = "0600", value_name = "MODE")]
    mode: u32,

    /// How long to let clients finish when asked to end
    #[arg(long, value_parser = quantity::duration, default_value = "5s", value_name = "TIME")]
    grace: Duration,

    /// Listen on addresses that other hosts can reach, although nobody is asked who he is
    #[arg(long)]
    allow_anyone: bool,

    /// Threads that serve connections [default: one for each core]
    #[arg(long, value_name = "COUNT")]
    workers: Option<usize>,

    /// Largest frame: a payload with its topic and headers [default: 16MiB]
    #[arg(long, value_parser = quantity::memory, value_name = "SIZE")]
    frame_limit: Option<usize>,

    /// Bytes that all queues together may hold [default: 512MiB]
    #[arg(long, value_parser = quantity::memory, value_name = "SIZE")]
    byte_budget: Option<usize>,

    /// Bytes that all subscriptions and servings may take; one connection may take a quarter [default: 1GiB]
    #[arg(long, value_parser = quantity::memory, value_name = "SIZE")]
    table_budget: Option<usize>,

    /// How long a subscription without room may hold a publisher up [default: 1s]
    #[arg(long, value_parser = quantity::duration, value_name = "TIME")]
    block_limit: Option<Duration>,

    /// Refuse subscriptions that may hold publishers up (policy block)
    #[arg(long)]
    no_block: bool,

    /// Messages, and bytes, that a session may have published and not yet resolved [default: 1024,1MiB]
    #[arg(long, value_parser = quantity::window, value_name = "MESSAGES[,SIZE]")]
    publish_window: Option<quantity::Window>,

    /// Connections [default: 65536]
    #[arg(long, value_name = "COUNT")]
    max_connections: Option<usize>,

    /// Subscriptions of one connection [default: 131072]
    #[arg(long, value_name = "COUNT")]
    max_subscriptions: Option<usize>,

    /// Topics that one connection may serve [default: 16384]
    #[arg(long, value_name = "COUNT")]
    max_servings: Option<usize>,

    /// Unanswered requests of one connection [default: 8192]
    #[arg(long, value_name = "COUNT")]
    max_requests: Option<usize>,

    /// Bytes of unanswered requests of one connection [default: 64MiB]
    #[arg(long, value_parser = quantity::memory, value_name = "SIZE")]
    request_bytes: Option<usize>,

    /// How often each side gives a sign of life [default: 10s]
    #[arg(long, value_parser = quantity::duration, value_name = "TIME")]
    keep_alive: Option<Duration>,

    /// How long a client may leave everything unread before it is cut off [default: 30s]
    #[arg(long, value_parser = quantity::duration, value_name = "TIME")]
    stall_limit: Option<Duration>,

    /// How long a client may take to introduce itself [default: 5s]
    #[arg(long, value_parser = quantity::duration, value_name = "TIME")]
    handshake_timeout: Option<Duration>,
}

impl Serve {
    pub(crate) async fn run(self, bus: &BusChoice, interrupts: Interrupts) -> anyhow::Result<()> {
        let addresses = self.addresses(bus)?;
        let mut handle = self.start(&addresses)?;
        let listening: Vec<_> = handle
            .local_addrs()
            .iter()
            .filter(|address| !matches!(address, Address::Memory(_)))
            .map(ToString::to_string)
            .collect();
        output::notice(format_args!("ready on {}", listening.join(", ")));

        tokio::select! {
            () = interrupts.first() => {}
            () = handle.join() => anyhow::bail!("the bus has ended by itself; WHISPEER_LOG=debug tells more"),
        }
        output::notice(format_args!("draining; interrupt again to stop at once"));
        tokio::select! {
            () = handle.drain(self.grace) => {}
            () = interrupts.second() => {}
        }
        Ok(())
    }

    fn addresses(&self, bus: &BusChoice) -> anyhow::Result<Vec<String>> {
        if self.addresses.is_empty() {
            let Some(address) = &bus.address else {
                let failure = Failure::usage("no address to listen on was given");
                return Err(failure.help("give a socket's path, such as `whispeer serve my_bus`").into());
            };
            return Ok(vec![resolve(address)?]);
        }
        let from_environment = std::env::var(ADDRESS_VARIABLE).ok();
        if bus.address.is_some() && bus.address != from_environment {
            let failure = Failure::usage("--addr chooses the bus of a client; it says nothing to `serve`");
            return Err(failure.help("give all addresses to listen on as arguments, without --addr").into());
        }
        self.addresses.iter().map(|address| resolve(address)).collect()
    }

    fn start(&self, addresses: &[String]) -> anyhow::Result<BusHandle> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.workers.unwrap_or_else(cores);
        let mut builder = Bus::builder().settings(self.settings()).workers(workers);
        for address in addresses {
            let parsed: Address = address.parse().map_err(|error| {
                Failure::of_address(&error).help("give a socket's path, such as `whispeer serve my_bus`")
            })?;
            builder = match &parsed {
                Address::Unix(path) => builder.listen_unix_with(path, UnixOptions::default().mode(self.mode)),
                Address::Tcp(_) => builder.listen(&parsed),
                _ => {
                    let failure = Failure::usage(format!("{address} cannot be reached by other processes"));
                    return Err(failure
                        .help("give the path of a Unix socket, such as `whispeer serve my_bus`")
                        .into());
                }
            };
        }
        if self.allow_anyone {
            builder = builder.allow_anyone();
        }
        builder.start().map_err(|error| explain(&error, addresses).into())
    }

    fn settings(&self) -> Settings {
        let default = Settings::default();
        let (messages, bytes) = default.publish_window;
        let publish_window = self
            .publish_window
            .map_or((messages, bytes), |window| (window.messages, window.bytes.unwrap_or(bytes)));
        Settings {
            frame_limit: self.frame_limit.unwrap_or(default.frame_limit),
            byte_budget: self.byte_budget.unwrap_or(default.byte_budget),
            table_budget: self.table_budget.unwrap_or(default.table_budget),
            block_limit: self.block_limit.unwrap_or(default.block_limit),
            allow_block: !self.no_block,
            publish_window,
            max_sessions: self.max_connections.unwrap_or(default.max_sessions),
            max_subscriptions: self.max_subscriptions.unwrap_or(default.max_subscriptions),
            max_servings: self.max_servings.unwrap_or(default.max_servings),
            max_requests: self.max_requests.unwrap_or(default.max_requests),
            request_bytes: self.request_bytes.unwrap_or(default.request_bytes),
            keep_alive: self.keep_alive.unwrap_or(default.keep_alive),
            stall_limit: self.stall_limit.unwrap_or(default.stall_limit),
            handshake_timeout: self.handshake_timeout.unwrap_or(default.handshake_timeout),
        }
    }
}

fn explain(error: &BusError, addresses: &[String]) -> Failure {
    let failure = Failure::of_bus(error, addresses.first().map_or("", String::as_str));
    match error {
        BusError::Listen { address, .. } => {
            let Some(path) = address.strip_prefix("unix:") else { return failure };
            match Path::new(path).parent() {
                Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                    let folder = crate::failure::shell_word(&folder.to_string_lossy());
                    failure.help(format!("make the folder first: `mkdir -p {folder}`"))
                }
                _ => failure,
            }
        }
        _ => failure,
    }
}
