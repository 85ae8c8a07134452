//! Which bus is meant, and the connection to it.

use std::ffi::OsString;
use std::fs::File;
use std::future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use whispeer::auth::{Credentials, Secret};
use whispeer::client::{Client, ClientBuilder, ClientEvent, ClientEvents};
use whispeer::engine::Engines;
#[cfg(feature = "compression")]
use whispeer::engine::compression::{Compression, Dictionary};
#[cfg(feature = "encryption")]
use whispeer::engine::encryption::{Encryption, Keyring};
use whispeer::transport::ClientTls;
use whispeer::{Address, BusError, BusResult};
use zeroize::Zeroizing;

use crate::failure::{Failure, NO_BUS};
use crate::output;
use crate::prompt;
use crate::registry::Registry;

/// The variable of the environment that names the bus.
pub(crate) const ADDRESS_VARIABLE: &str = "WHISPEER_ADDR";

/// The variables of the environment that [`ClientFiles`] can come from.
pub(crate) const FILE_VARIABLES: [&str; 8] = [
    "WHISPEER_CA",
    "WHISPEER_CERT",
    "WHISPEER_KEY",
    "WHISPEER_TOKEN_FILE",
    "WHISPEER_USER",
    "WHISPEER_PASSWORD_FILE",
    TOKEN,
    PASSWORD,
];

/// What a command that talks to a bus is told of it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BusOptions {
    /// The bus to use: a socket's path, {tcp,tls,quic}://HOST:PORT, {ws,wss}://HOST:PORT/PATH or @NAME
    /// [default: the registered default] [env: WHISPEER_ADDR]
    #[arg(long, value_name = "ADDR")]
    addr: Option<String>,

    #[command(flatten)]
    files: ClientFiles,
}

impl BusOptions {
    /// The bus that is meant, where `before` is the address that stands before the subcommand.
    pub(crate) fn choice(&self, before: Option<String>, verbose: bool) -> BusChoice {
        let variable = || std::env::var(ADDRESS_VARIABLE).ok().filter(|address| !address.is_empty());
        let address = self.addr.clone().or(before).or_else(variable);
        BusChoice { address, files: self.files.clone(), verbose }
    }
}

/// What becomes of payloads on their way.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options for compressed and encrypted payloads")]
pub(crate) struct SealingOptions {
    /// Encrypt, and decrypt, with the keys in this file; what is not encrypted is refused then
    #[cfg(feature = "encryption")]
    #[arg(long, env = "WHISPEER_KEYRING", value_name = "FILE", hide_env_values = true)]
    keyring: Option<PathBuf>,

    /// Compress; compressed payloads are always read
    #[cfg(feature = "compression")]
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "zstd", require_equals = true)]
    compress: Option<Compressed>,

    /// Compress with this dictionary, and read with it; `whispeer dict` makes them
    #[cfg(feature = "compression")]
    #[arg(long, value_name = "FILE")]
    dictionary: Option<PathBuf>,
}

/// How payloads are compressed.
#[cfg(feature = "compression")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compressed {
    Zstd,
    Lz4,
}

impl SealingOptions {
    /// The engines that were asked for, and those that read what others have compressed.
    pub(crate) fn engines(&self) -> anyhow::Result<Engines> {
        let engines = Engines::new();
        #[cfg(feature = "compression")]
        let engines = {
            let mut compression = match (self.compress, &self.dictionary) {
                (Some(Compressed::Lz4), _) => Compression::lz4(),
                (Some(Compressed::Zstd), _) | (None, Some(_)) => Compression::new(),
                (None, None) => Compression::none(),
            };
            if let Some(path) = &self.dictionary {
                let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let dictionary = Dictionary::from_bytes(&bytes).map_err(|error| {
                    Failure::usage(format!("{} is no dictionary: {error}", path.display()))
                        .help("make one with `whispeer dict train`")
                })?;
                compression = compression.dictionary(dictionary);
            }
            let asked = self.compress.is_some() || self.dictionary.is_some();
            if asked { engines.with(compression) } else { engines.reading(compression) }
        };
        #[cfg(feature = "encryption")]
        let engines = match &self.keyring {
            Some(path) => {
                let keyring = Keyring::read(path).map_err(|error| {
                    Failure::usage(error.to_string()).help("`whispeer keys new FILE` makes a keyring")
                })?;
                engines.with(Encryption::new(&keyring).map_err(|error| Failure::usage(error.to_string()))?)
            }
            None => engines,
        };
        Ok(engines)
    }
}

/// Files for buses that are reached over TLS.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "Options for a bus that asks who you are, or is reached by tls://, quic:// or wss://"
)]
pub(crate) struct ClientFiles {
    /// CA of the bus's certificate, in PEM [default: those that the system trusts]
    #[arg(long, env = FILE_VARIABLES[0], value_name = "FILE", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,

    /// Certificate to show to the bus, in PEM
    #[arg(long, env = FILE_VARIABLES[1], value_name = "FILE", hide_env_values = true)]
    pub(crate) cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, env = FILE_VARIABLES[2], value_name = "FILE", hide_env_values = true)]
    pub(crate) key: Option<PathBuf>,

    /// File with a token to show to the bus, read again for each connection [env: WHISPEER_TOKEN has the token itself]
    #[arg(long, env = FILE_VARIABLES[3], value_name = "FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,

    /// Name of a user of the bus
    #[arg(long, env = FILE_VARIABLES[4], value_name = "NAME", hide_env_values = true)]
    pub(crate) user: Option<String>,

    /// File with the user's password [default: it is asked for; env: WHISPEER_PASSWORD has the password itself]
    #[arg(long, env = FILE_VARIABLES[5], value_name = "FILE", hide_env_values = true)]
    pub(crate) password_file: Option<PathBuf>,
}

/// The variables that hold secrets themselves.
const TOKEN: &str = "WHISPEER_TOKEN";
const PASSWORD: &str = "WHISPEER_PASSWORD";

/// Bytes of a file with a token or a password that are read.
const SECRET_FILE: u64 = 16 * 1024;

impl ClientFiles {
    fn tls(&self) -> anyhow::Result<ClientTls> {
        let mut tls = ClientTls::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_file(ca);
        }
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(tls.identity_files(cert, key)),
            (None, None) => Ok(tls),
            _ => Err(Failure::usage("a certificate and its key belong together")
                .help("give both --cert FILE and --key FILE, or neither")
                .into()),
        }
    }
}

impl ClientFiles {
    /// A client that trusts and shows what was given.
    pub(crate) async fn builder(&self) -> anyhow::Result<ClientBuilder> {
        let builder = Client::builder().tls(self.tls()?);
        Ok(match (self.credentials().await?, &self.token_file) {
            // Who renews the token in the file needs to tell nobody. What is no file can be read once only.
            (Some(Credentials::Token(_)), Some(path)) if path.is_file() => {
                let path = path.clone();
                builder.credentials_from(move || {
                    let token = secret(&path).map(Credentials::token);
                    future::ready(
                        token.map_err(|error| BusError::Disconnected { reason: format!("{error:#}") }),
                    )
                })
            }
            (Some(credentials), _) => builder.credentials(credentials),
            (None, _) => builder,
        })
    }

    /// The variables by which another process of this binary is given the same.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let file = |path: &Option<PathBuf>| path.as_ref().map(OsString::from);
        let user = self.user.as_ref().map(OsString::from);
        let [ca, cert, key, token, name, password, ..] = FILE_VARIABLES;
        [
            (ca, file(&self.ca)),
            (cert, file(&self.cert)),
            (key, file(&self.key)),
            (token, file(&self.token_file)),
            (name, user),
            (password, file(&self.password_file)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }

    /// What is shown to the bus, if anything was given.
    async fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty()).map(Secret::new);
        let token = match &self.token_file {
            Some(path) => Some(secret(path)?),
            None => variable(TOKEN),
        };
        match (token, &self.user) {
            (Some(_), Some(_)) => {
                let failure = Failure::usage("a token and a user's name say two things of who you are");
                Err(failure.help("give one of them").into())
            }
            (Some(token), None) => Ok(Some(Credentials::token(token))),
            (None, Some(user)) => {
                let password = match (&self.password_file, variable(PASSWORD)) {
                    (Some(path), _) => secret(path)?,
                    (None, Some(password)) => password,
                    (None, None) => prompt::password(user).await?,
                };
                Ok(Some(Credentials::password(user, password)))
            }
            (None, None) => Ok(None),
        }
    }
}

/// Reads a secret from a file; a line's end after it is not of it.
fn secret(path: &Path) -> anyhow::Result<Secret> {
    let mut text = Zeroizing::new(String::with_capacity(SECRET_FILE as usize));
    let read = File::open(path).and_then(|file| file.take(SECRET_FILE).read_to_string(&mut text));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// Which bus the user chose, and how to speak to them about it.
#[derive(Debug, Clone)]
pub(crate) struct BusChoice {
    /// From `--addr` or the environment.
    pub(crate) address: Option<String>,
    /// For buses that are reached over TLS.
    pub(crate) files: ClientFiles,
    /// Whether to say which bus was chosen.
    pub(crate) verbose: bool,
}

impl BusChoice {
    /// The address to connect to.
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        if let Some(address) = &self.address {
            return resolve(address);
        }
        let registry = Registry::load()?;
        let Some(name) = &registry.default else {
            let failure = Failure::usage("no bus was chosen");
            return Err(failure
                .help(format!(
                    "give --addr ADDR, set {ADDRESS_VARIABLE}, or register a default with `whispeer register home ADDR --default`"
                ))
                .into());
        };
        let address = registry.find(name)?.to_owned();
        if self.verbose {
            output::notice(format_args!("using @{name}, {address}"));
        }
        Ok(address)
    }

    /// Connects as the subcommand of this name.
    pub(crate) async fn connect(&self, subcommand: &str) -> anyhow::Result<Connection> {
        self.connect_with(subcommand, |builder| builder).await
    }

    /// Connects with a default for how long requests wait.
    pub(crate) async fn connect_for(
        &self,
        subcommand: &str,
        timeout: Duration,
    ) -> anyhow::Result<Connection> {
        self.connect_with(subcommand, |builder| builder.request_timeout(timeout)).await
    }

    /// Connects, and seals payloads.
    pub(crate) async fn connect_sealing(
        &self,
        subcommand: &str,
        sealing: &SealingOptions,
    ) -> anyhow::Result<Connection> {
        let engines = sealing.engines()?;
        self.connect_with(subcommand, |builder| builder.engines(engines)).await
    }

    /// Connects until the bus ends.
    pub(crate) async fn connect_once(&self, subcommand: &str) -> anyhow::Result<Connection> {
        self.connect_with(subcommand, ClientBuilder::no_reconnect).await
    }

    async fn connect_with(
        &self,
        subcommand: &str,
        set: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> anyhow::Result<Connection> {
        let address = self.address()?;
        let parsed =
            address.parse().map_err(|error| Failure::of_address(&error).help(instead_of(&address)))?;
        if matches!(parsed, Address::Memory(_)) {
            let failure = Failure::usage(format!("{address} is an address within one process"));
            return Err(failure.help("give the path of a Unix socket, such as --addr my_bus").into());
        }
        let builder = self.files.builder().await?.name(format!("whispeer {subcommand}"));
        match set(builder).connect(&address).await {
            Ok(client) => {
                tokio::spawn(tell(client.events(), address.clone()));
                Ok(Connection { client, address })
            }
            Err(error) => Err(Failure::of_bus(&error, &address).into()),
        }
    }
}

/// What to give instead of an address that is none.
fn instead_of(address: &str) -> &'static str {
    match address.split_once("://") {
        Some(("http" | "https", _)) => {
            "give the address of the bus at the gateway, such as --addr ws://localhost:8080/bus"
        }
        _ => "give the path of a Unix socket, such as --addr my_bus",
    }
}

/// Says on standard error what happens to the connection, until the client ends.
async fn tell(mut events: ClientEvents, address: String) {
    while let Some(event) = events.recv().await {
        match event {
            ClientEvent::Disconnected { reason } => {
                output::notice(format_args!("lost the connection to {address}: {reason}; trying again"));
            }
            ClientEvent::Reconnected { resumed: true } => {
                output::notice(format_args!("connected to {address} again, and nothing was lost"));
            }
            ClientEvent::Reconnected { resumed: false } => {
                output::notice(format_args!("connected to {address} again, with a new session"));
            }
            ClientEvent::Draining => output::notice(format_args!("{address} is about to stop")),
            _ => {}
        }
    }
}

/// A client, and where it is connected to.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) address: String,
}

impl Connection {
    /// The failure that an error on this connection is to the user.
    pub(crate) fn failure(&self, error: &BusError) -> anyhow::Error {
        Failure::of_bus(error, &self.address).into()
    }

    /// The value, or the failure that the error is to the user.
    pub(crate) fn check<T>(&self, result: BusResult<T>) -> anyhow::Result<T> {
        result.map_err(|error| self.failure(&error))
    }

    /// The failure when the bus ended what was to go on, for the reason that the bus gave.
    pub(crate) fn ended(&self, reason: Option<BusError>) -> anyhow::Error {
        let reason = reason.or_else(|| self.client.close_reason());
        let Some(reason) = reason else {
            return Failure::new(NO_BUS, format!("the connection to {} ended", self.address)).into();
        };
        let code = match crate::failure::code_of(&reason) {
            // Whatever the reason, a command that was to go on has lost what it was connected to.
            crate::failure::FAILED if self.client.close_reason().is_some() => NO_BUS,
            code => code,
        };
        Failure::new(code, format!("ended by {}: {reason}", self.address)).into()
    }
}

/// The address that was given, with a name replaced by what is registered for it.
pub(crate) fn resolve(given: &str) -> anyhow::Result<String> {
    match given.strip_prefix('@') {
        Some(name) => Ok(Registry::load()?.find(name)?.to_owned()),
        None => Ok(given.to_owned()),
    }
}
