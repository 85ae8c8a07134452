//! What can be set about `whispeer serve`, and where each value comes from.
//!
//! [`SETTINGS`] is the one table of all settings: the flags, the variables of the environment, the keys of
//! the file, `whispeer config` and its example are all made from it. A setting is added by a field of
//! [`Configuration`], its default there, and an entry in the table.
//!
//! | file | what it holds |
//! |---|---|
//! | `table` | the settings |
//! | `kind` | the kinds of values: how each is written, read and shown |
//! | `given` | flags, and the environment |
//! | `file` | the file |
//! | `effective` | all of them together: a flag goes before a variable, that before the file |
//! | `gateway` | the defaults of what is spoken over HTTP |
//! | `nats` | the defaults of what joins buses over NATS |
//! | `streams` | the tables of streams, which stand in the file alone |
//! | `example` | the commented file |

mod effective;
mod example;
mod file;
mod gateway;
mod given;
mod kind;
mod nats;
mod streams;
mod table;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use whispeer::bus::Settings;

use crate::logging;

pub(crate) use effective::Effective;
pub(crate) use example::example;
pub(crate) use gateway::{GatewayChoice, PopSubChoice, TurbineChoice};
pub(crate) use given::{Environment, Given};
pub(crate) use nats::{NatsChoice, Servers};
pub(crate) use streams::{Storage, StreamChoice};
pub(crate) use table::{Change, SETTINGS, Setting};

/// The values of all settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Configuration {
    pub(crate) listen: Vec<String>,
    pub(crate) mode: u32,
    pub(crate) allow_anyone: bool,
    pub(crate) policy: Option<PathBuf>,
    pub(crate) grace: Duration,
    pub(crate) log: String,
    pub(crate) log_format: &'static str,
    pub(crate) telemetry_endpoint: Option<String>,
    pub(crate) workers: usize,
    pub(crate) bus: Settings,
    pub(crate) tls: Tls,
    pub(crate) websocket: WebSocket,
    pub(crate) gateway: GatewayChoice,
    pub(crate) turbine: TurbineChoice,
    pub(crate) popsub: PopSubChoice,
    pub(crate) nats: NatsChoice,
    pub(crate) store: StoreChoice,
    /// In the order of the file.
    pub(crate) streams: Vec<StreamChoice>,
}

/// The file in which streams are kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoreChoice {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) durability: &'static str,
}

impl StoreChoice {
    /// What was acknowledged is on the disk.
    pub(crate) const SURVIVES_POWER_LOSS: &'static str = "survives-power-loss";
    /// It is with the system, which writes it soon.
    pub(crate) const POWER_LOSS_LOSES_THE_LATEST: &'static str = "power-loss-loses-the-latest";
}

impl Default for StoreChoice {
    fn default() -> Self {
        Self { folder: None, durability: Self::SURVIVES_POWER_LOSS }
    }
}

/// Whom a bus lets in where WebSocket is spoken.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WebSocket {
    pub(crate) origins: Vec<String>,
    pub(crate) hosts: Vec<String>,
}

/// The certificate of a bus, and what it asks of its clients.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tls {
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) client_auth: &'static str,
    pub(crate) crl: Option<PathBuf>,
    pub(crate) min_version: &'static str,
}

impl Tls {
    /// Clients without a certificate are not let in, where clients are asked for one.
    pub(crate) const REQUIRED: &'static str = "required";
    /// They are.
    pub(crate) const OPTIONAL: &'static str = "optional";
    /// The lowest version of TLS that is spoken unless an older one is allowed.
    pub(crate) const VERSION_1_3: &'static str = "1.3";
    /// The older one.
    pub(crate) const VERSION_1_2: &'static str = "1.2";
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            cert: None,
            key: None,
            client_ca: None,
            client_auth: Self::REQUIRED,
            crl: None,
            min_version: Self::VERSION_1_3,
        }
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            mode: 0o600,
            allow_anyone: false,
            policy: None,
            grace: Duration::from_secs(5),
            log: "warn".to_owned(),
            log_format: logging::TEXT,
            telemetry_endpoint: None,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            bus: Settings::default(),
            tls: Tls::default(),
            websocket: WebSocket::default(),
            gateway: GatewayChoice::default(),
            turbine: TurbineChoice::default(),
            popsub: PopSubChoice::default(),
            nats: NatsChoice::default(),
            store: StoreChoice::default(),
            streams: Vec::new(),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody has set it.
    Default,
    /// A line of the configuration file.
    File { path: PathBuf, line: usize },
    /// A variable of the environment.
    Environment(String),
    /// The command line.
    Flag(String),
}

impl Source {
    /// The source without its place, for programs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => formatter.write_str(name),
        }
    }
}
