//! `whispeer serve`: runs a bus.

use std::path::Path;
use std::pin::pin;

use clap::Args;
use whispeer::auth::{AuthSettings, Policy};
use whispeer::bus::{Bus, BusHandle, Streams};
use whispeer::transport::{ClientAuth, ServerTls, UnixListener, UnixOptions, WebSocketOptions};
use whispeer::{Address, BusError};

use crate::connection::{ADDRESS_VARIABLE, resolve};
use crate::failure::Failure;
use crate::gateway::{RunningGateway, SCHEME, ServerEnvironment};
use crate::interrupts::{Hangup, Hangups, Interrupts};
use crate::logging::Logging;
use crate::nats::{self, NatsLink};
use crate::output;
use crate::service::{Descriptors, Passed, Watchdog, assign, notices};
use crate::settings::{Change, Configuration, Effective, Environment, Given, Source, Tls, WebSocket};
use crate::storage::OpenStreams;
use crate::telemetry::Telemetry;

const EXAMPLES: &str = "\
Examples:
  whispeer serve my_bus
  whispeer my_bus                                   the same
  whispeer serve unix:/run/app/bus --mode 0660      for the group of the folder too
  whispeer serve my_bus --frame-limit 64MiB --block-limit 200ms
  whispeer serve 'tls://[::]:4242' --tls-cert certs/server.pem --tls-key certs/server.key \
      --tls-client-ca certs/ca.pem                  between hosts; `whispeer certs` makes the files
  whispeer serve ws://localhost:8080/bus --websocket-origins https://app.example.com
  whispeer serve my_bus http://localhost:8080 --dev  for browsers and scripts, to try it out
  whispeer serve my_bus --nats nats://localhost:4222  joined to other buses over NATS
  whispeer serve --config whispeer.toml

Each flag can also be a variable (--frame-limit is WHISPEER_FRAME_LIMIT) or a line of the file that
--config or WHISPEER_CONFIG names; no other file is looked for. `whispeer config` shows what is in force.

It is ready when it says so on standard error. SIGINT and SIGTERM let what is in flight finish, at
most for --grace; a second one stops at once. SIGHUP reads the file again.";

/// Start a bus
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    #[command(flatten)]
    given: Given,
}

impl Serve {
    pub(crate) async fn run(
        self,
        before: Option<String>,
        interrupts: Interrupts,
        logging: &Logging,
        passed: Passed,
    ) -> anyhow::Result<()> {
        let environment = Environment::of_process();
        let given = complete(self.given, before, logging)?;
        let settings = Effective::load(&given, &environment)?;
        warn(&settings);
        logging.set_format(settings.configuration.log_format);
        logging.set(&settings.configuration.log);
        let descriptors = Descriptors::raise();
        warn_of_room(descriptors, &settings);
        let mut hangups = Hangups::listen()?;
        let streams = OpenStreams::open(&settings.configuration).await?;
        let addresses = Addresses::of(&settings, &passed)?;
        let nats = nats::open(&settings.configuration).await?;
        let handle = start(&settings, &addresses.of_bus, streams.streams.clone(), passed, nats)?;
        let gateway = addresses.gateway(&settings, &handle).await?;
        let watchdog = Watchdog::start(&handle)?;
        let mut running =
            Running { given, environment, settings, descriptors, logging, streams, gateway, handle };
        let status = format!("ready on {}", running.addresses());
        notices::ready(&status);
        output::notice(format_args!("{status}"));

        let mut asked_to_stop = pin!(running.handle.asked_to_stop());
        let asked = loop {
            tokio::select! {
                () = interrupts.first() => break None,
                grace = &mut asked_to_stop => break Some(grace),
                () = running.handle.join() => {
                    anyhow::bail!("the bus has ended by itself; WHISPEER_LOG=debug tells more")
                }
                hangup = hangups.next() => match hangup {
                    Hangup::Reload => running.reload(&status).await,
                    Hangup::Ended => break None,
                }
            }
        };
        let Running { handle, settings, streams, mut gateway, .. } = running;
        let grace = asked.unwrap_or(settings.configuration.grace);
        notices::stopping(grace);
        let at_once = async {
            match asked {
                Some(_) => interrupts.first().await,
                None => interrupts.second().await,
            }
        };
        match asked {
            Some(_) => output::notice(format_args!(
                "an administrator asks this bus to stop: draining; interrupt to stop at once"
            )),
            None => output::notice(format_args!("draining; interrupt again to stop at once")),
        }
        let draining = async {
            // The gateway ends with the bus.
            tokio::join!(handle.drain(grace), ended(&mut gateway));
            streams.close().await;
        };
        tokio::select! {
            () = draining => {}
            () = at_once => {}
        }
        drop(watchdog);
        Ok(())
    }
}

/// Adds to the flags of `serve` what the flags before the subcommand say, of which `address` is that of `--addr`.
pub(super) fn complete(given: Given, address: Option<String>, logging: &Logging) -> anyhow::Result<Given> {
    if given.has("listen") && address.is_some() {
        let failure = Failure::usage("--addr chooses the bus of a client; it says nothing to `serve`");
        return Err(failure.help("give all addresses to listen on as arguments, without --addr").into());
    }
    let (flag, level) = logging.asked();
    Ok(given.or("listen", "--addr", address).or("log", flag, level))
}

/// A bus, and what it was started with.
struct Running<'a> {
    given: Given,
    environment: Environment,
    /// What is in force.
    settings: Effective,
    descriptors: Descriptors,
    logging: &'a Logging,
    streams: OpenStreams,
    gateway: Option<RunningGateway>,
    handle: BusHandle,
}

impl Running<'_> {
    fn addresses(&self) -> String {
        let of_others = |address: &&Address| !matches!(address, Address::Memory(_));
        let addresses = self.handle.local_addrs().iter().filter(of_others).map(ToString::to_string);
        let of_gateway = self.gateway.iter().flat_map(RunningGateway::addresses);
        addresses.chain(of_gateway).collect::<Vec<_>>().join(", ")
    }

    /// Reads the configuration again and applies what can be, with a word on each change, and then certificates
    /// and keys. What cannot be used changes nothing.
    async fn reload(&mut self, status: &str) {
        notices::reloading();
        if let Some(file) = self.settings.file.clone() {
            match self.apply().await {
                Ok(0) => output::notice(format_args!("{} read again: no changes", file.display())),
                Ok(_) => output::notice(format_args!("{} read again", file.display())),
                Err(error) => {
                    output::notice(format_args!("error: {error:#}"));
                    output::notice(format_args!("the settings stay as they were"));
                }
            }
        }
        let tls = &self.settings.configuration.tls;
        if tls.cert.is_some() {
            match self.handle.reload() {
                Ok(()) => output::notice(format_args!("certificates read again")),
                Err(error) => {
                    output::notice(format_args!("error: {error}"));
                    output::notice(format_args!("the certificates stay as they were"));
                }
            }
        }
        if let Some(path) = &self.settings.configuration.policy {
            match policy(path, self.settings.file.as_deref()) {
                Ok(policy) => {
                    self.handle.set_policy(policy);
                    output::notice(format_args!("{} read again", path.display()));
                }
                Err(error) => {
                    output::notice(format_args!("error: {error}"));
                    output::notice(format_args!("the policy stays as it was"));
                }
            }
        }
        let configuration = &self.settings.configuration;
        if self.settings.file.is_none() && configuration.tls.cert.is_none() && configuration.policy.is_none()
        {
            output::notice(format_args!("SIGHUP: there is no configuration file to read again"));
        }
        notices::ready(status);
    }

    /// Applies what the file says now; returns how many settings differ.
    async fn apply(&mut self) -> anyhow::Result<usize> {
        let newer = Effective::load(&self.given, &self.environment)?;
        self.handle.apply(&newer.configuration.bus)?;
        warn(&newer);
        if newer.configuration.bus.max_sessions != self.settings.configuration.bus.max_sessions {
            warn_of_room(self.descriptors, &newer);
        }
        let differences = self.settings.differences(&newer);
        for difference in &differences {
            output::notice(format_args!("{}", difference.describe()));
            if difference.setting.change != Change::Restart {
                self.settings.take(difference, &newer);
            }
        }
        self.logging.set_format(self.settings.configuration.log_format);
        self.logging.set(&self.settings.configuration.log);
        Ok(differences.len() + self.apply_to_streams(&newer).await)
    }

    /// Gives streams the bounds that the file has now; returns how many settings differ.
    async fn apply_to_streams(&mut self, newer: &Effective) -> usize {
        let differences = self.settings.stream_differences(newer);
        for difference in &differences {
            if let Some(settings) = &difference.applies {
                if let Err(error) = self.streams.change(settings.clone()).await {
                    output::notice(format_args!("error: {error:#}"));
                    continue;
                }
                self.settings.take_stream(settings);
            }
            output::notice(format_args!("{}", difference.describe()));
        }
        differences.len()
    }
}

/// Says what there is to say of the settings beside their values.
pub(super) fn warn(settings: &Effective) {
    for note in &settings.notes {
        output::notice(format_args!("{note}"));
    }
    for warning in &settings.warnings {
        output::notice(format_args!("warning: {warning}"));
    }
}

fn warn_of_room(descriptors: Descriptors, settings: &Effective) {
    if let Some(warning) =
        descriptors.warning(&settings.configuration, *settings.source("max_connections") != Source::Default)
    {
        output::notice(format_args!("warning: {warning}"));
    }
}

fn start(
    settings: &Effective,
    addresses: &[String],
    streams: Streams,
    passed: Passed,
    nats: Option<NatsLink>,
) -> anyhow::Result<BusHandle> {
    let configuration = &settings.configuration;
    let mut builder = Bus::builder().settings(configuration.bus.clone()).workers(configuration.workers);
    builder = builder.streams(streams);
    if let Some(nats) = nats {
        builder = builder.companion(|bus| nats.run(bus));
    }
    let mut parsed = addresses.iter().map(|address| parse(address)).collect::<anyhow::Result<Vec<_>>>()?;
    for listener in passed.unix {
        // One that is in the configuration too is not made a second time.
        let path = listener.local_addr().ok().and_then(|local| local.as_pathname().map(Path::to_owned));
        parsed.retain(|address| !is_path(address, path.as_deref()));
        let listener = UnixListener::from_std(listener).map_err(|error| explain(&error, addresses))?;
        builder = builder.listen_on(listener);
    }
    for (address, sockets) in assign(parsed, passed.network)? {
        builder = match &address {
            Address::Unix(path) => builder.listen_unix_with(path, unix_options(configuration)),
            _ => builder.listen_passed(&address, sockets),
        };
    }
    if configuration.allow_anyone {
        builder = builder.allow_anyone();
    }
    if let Some(tls) = tls(&configuration.tls)? {
        builder = builder.tls(tls);
    }
    if let Some(path) = &configuration.policy {
        builder = builder.policy(
            policy(path, settings.file.as_deref()).map_err(|error| Failure::usage(error.to_string()))?,
        );
    }
    builder = builder.websocket(websocket(&configuration.websocket));
    builder.start().map_err(|error| explain(&error, addresses).into())
}

/// Where to listen: the bus itself, and its gateway.
struct Addresses {
    of_bus: Vec<String>,
    of_gateway: Vec<String>,
    server: ServerEnvironment,
}

impl Addresses {
    fn of(settings: &Effective, passed: &Passed) -> anyhow::Result<Self> {
        let server = ServerEnvironment::of_process();
        let mut listen = settings.configuration.listen.clone();
        if !listen.iter().any(|address| address.starts_with(SCHEME)) {
            listen.extend(server.address());
        }
        let (of_gateway, of_bus) =
            addresses(settings, listen, passed)?.into_iter().partition(|address| address.starts_with(SCHEME));
        Ok(Self { of_bus, of_gateway, server })
    }

    /// Starts the gateway, if there is to be one.
    async fn gateway(self, settings: &Effective, bus: &BusHandle) -> anyhow::Result<Option<RunningGateway>> {
        let telemetry = Telemetry::start(settings, !self.of_gateway.is_empty())?;
        if self.of_gateway.is_empty() {
            return Ok(None);
        }
        let configuration = &settings.configuration;
        let started =
            RunningGateway::start(&self.of_gateway, configuration, self.server, telemetry, bus.view());
        started.await.map(Some)
    }
}

/// Waits until the gateway has ended, where there is one.
async fn ended(gateway: &mut Option<RunningGateway>) {
    if let Some(gateway) = gateway {
        gateway.ended().await;
    }
}

/// Where to listen, beside the sockets that were passed. With those, the bus that clients of this user choose
/// is not what is meant.
fn addresses(settings: &Effective, listen: Vec<String>, passed: &Passed) -> anyhow::Result<Vec<String>> {
    let chosen_for_clients = *settings.source("listen") == Source::Environment(ADDRESS_VARIABLE.to_owned());
    if !passed.is_empty() && chosen_for_clients {
        return Ok(Vec::new());
    }
    if listen.is_empty() && passed.is_empty() {
        let failure = Failure::usage("no address to listen on was given");
        return Err(failure.help("give a socket's path, such as `whispeer serve my_bus`").into());
    }
    listen.iter().map(|address| resolve(address)).collect()
}

fn parse(address: &str) -> anyhow::Result<Address> {
    let parsed = address.parse().map_err(|error| {
        Failure::of_address(&error).help("give a socket's path, such as `whispeer serve my_bus`")
    })?;
    match parsed {
        Address::Memory(_) => {
            let failure = Failure::usage(format!("{address} cannot be reached by other processes"));
            Err(failure.help("give the path of a Unix socket, such as `whispeer serve my_bus`").into())
        }
        parsed => Ok(parsed),
    }
}

/// Whether the address is that of the Unix socket at `path`, however both are written.
fn is_path(address: &Address, path: Option<&Path>) -> bool {
    let (Address::Unix(own), Some(path)) = (address, path) else { return false };
    own == path || own.canonicalize().is_ok_and(|own| path.canonicalize().is_ok_and(|path| own == path))
}

/// What the bus does where TLS is spoken.
fn tls(settings: &Tls) -> anyhow::Result<Option<ServerTls>> {
    let Tls { cert, key, client_ca, client_auth, crl, min_version } = settings;
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) if client_ca.is_none() && crl.is_none() => return Ok(None),
        (None, _) => return Err(missing("tls.cert", "the certificate of the bus", "--tls-cert")),
        (_, None) => return Err(missing("tls.key", "the key of the bus's certificate", "--tls-key")),
    };
    let mut tls = ServerTls::files(cert, key).tls12(*min_version == Tls::VERSION_1_2);
    if let Some(ca) = client_ca {
        tls = tls.client_ca_file(ca);
    } else if crl.is_some() {
        return Err(missing("tls.client_ca", "the CA of those that tls.crl revokes", "--tls-client-ca"));
    }
    if let Some(list) = crl {
        tls = tls.revocations_file(list);
    }
    if *client_auth == Tls::OPTIONAL {
        tls = tls.client_auth(ClientAuth::Optional);
    }
    Ok(Some(tls))
}

/// Who may do what, by the file: one of its own, or the one with the settings.
fn policy(path: &Path, settings: Option<&Path>) -> Result<Policy, BusError> {
    let read = if Some(path) == settings { AuthSettings::read_section } else { AuthSettings::read };
    Policy::new(&read(path)?)
}

fn missing(key: &str, what: &str, flag: &str) -> anyhow::Error {
    let failure = Failure::usage(format!("{key} is missing: {what}"));
    failure.help(format!("give {flag} FILE; `whispeer certs` makes such files")).into()
}

/// Whom the bus lets in where WebSocket is spoken.
fn websocket(settings: &WebSocket) -> WebSocketOptions {
    let options = settings.origins.iter().fold(WebSocketOptions::new(), WebSocketOptions::origin);
    settings.hosts.iter().fold(options, WebSocketOptions::host)
}

fn unix_options(configuration: &Configuration) -> UnixOptions {
    UnixOptions::default().mode(configuration.mode)
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
