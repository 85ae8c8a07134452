//! The gateway of a bus: `http://` addresses, and what is spoken there.

mod environment;
mod files;
#[cfg_attr(not(feature = "encryption"), path = "gateway/keyring_absent.rs")]
mod keyring;

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use whispeer::bus::BusView;
use whispeer_gateway::settings::{PopSub, Turbine};
use whispeer_gateway::{Development, Gateway, GatewayError, Settings};

pub(crate) use self::environment::ServerEnvironment;
use crate::failure::{FAILED, Failure, IN_USE};
use crate::output;
use crate::settings::Configuration;
use crate::telemetry::Telemetry;

/// What an address of a gateway begins with.
pub(crate) const SCHEME: &str = "http://";

/// A gateway that runs, on threads of its own: those of the bus each have their sessions.
pub(crate) struct RunningGateway {
    gateway: Gateway,
    grace: Duration,
    telemetry: Telemetry,
    _threads: Threads,
}

/// Threads, until this is dropped. What is to finish has had its time then, and waiting is not possible.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl RunningGateway {
    /// Starts it at these addresses.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub(crate) async fn start(
        addresses: &[String],
        configuration: &Configuration,
        environment: ServerEnvironment,
        telemetry: Telemetry,
        bus: BusView,
    ) -> anyhow::Result<Self> {
        let listen = sockets(addresses, configuration)?;
        let (mut settings, notices) = settings(listen, configuration, environment)?;
        settings.tracer = telemetry.tracer();
        let runtime = Builder::new_multi_thread()
            .worker_threads(configuration.workers.max(1))
            .thread_name("whispeer-http")
            .enable_all()
            .build()
            .map_err(|error| Failure::new(FAILED, format!("cannot start threads for HTTP: {error}")))?;
        let started = runtime.spawn(async move { Gateway::start_over(bus, settings).await });
        let threads = Threads(Some(runtime));
        let gateway = started.await?.map_err(|error| explain(&error))?;
        notices.iter().for_each(|notice| output::notice(format_args!("{notice}")));
        Ok(Self { gateway, grace: configuration.grace, telemetry, _threads: threads })
    }

    /// Where it listens, as addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = String> {
        self.gateway.local_addrs().iter().map(|address| format!("{SCHEME}{address}"))
    }

    /// Waits until it has ended, as it does when the bus drains, and at most as long as it may take for that; then until what it
    /// has recorded is exported, for a time that is bounded too.
    pub(crate) async fn ended(&mut self) {
        let _ = tokio::time::timeout(self.grace, self.gateway.join()).await;
        self.telemetry.end().await;
    }
}

/// Where to listen.
fn sockets(addresses: &[String], configuration: &Configuration) -> anyhow::Result<Vec<SocketAddr>> {
    let mut sockets = Vec::new();
    for address in addresses {
        let place = address.strip_prefix(SCHEME).unwrap_or(address).trim_end_matches('/');
        let wrong = |reason: String| {
            let failure = Failure::usage(format!("\"{address}\" is no address to listen on: {reason}"));
            failure.help("write http://HOST:PORT, such as http://localhost:8080")
        };
        if place.contains('/') {
            return Err(wrong("it has a path, and a gateway has all of them".into()).into());
        }
        let found = place.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
        let before = sockets.len();
        sockets.extend(found);
        if sockets.len() == before {
            return Err(wrong("the name stands for no address".into()).into());
        }
    }
    let open = sockets.iter().find(|socket| !socket.ip().to_canonical().is_loopback());
    match open {
        Some(open) if configuration.gateway.dev => {
            let failure =
                Failure::usage(format!("other hosts would reach http://{open}, and --dev is for one's own"));
            Err(failure.help("listen on http://localhost:8080, or give keys instead of --dev").into())
        }
        Some(open) if configuration.policy.is_none() && !configuration.allow_anyone => {
            let failure = Failure::usage(format!(
                "clients of other hosts would reach http://{open}, and the bus asks nobody who he is"
            ));
            Err(failure
                .help(
                    "say who may do what with --policy FILE, listen on a loopback address, or give --allow-anyone",
                )
                .into())
        }
        _ => Ok(sockets),
    }
}

/// The settings, and what the user is to be told about them.
fn settings(
    listen: Vec<SocketAddr>,
    configuration: &Configuration,
    environment: ServerEnvironment,
) -> anyhow::Result<(Settings, Vec<String>)> {
    let chosen = &configuration.gateway;
    let first = listen.first().copied();
    let mut settings = Settings::new(first.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()));
    settings.listen = listen;
    settings.origins.clone_from(&chosen.origins);
    settings.hosts.clone_from(&chosen.hosts);
    settings.pages.clone_from(&chosen.pages);
    settings.max_connections = chosen.max_connections;
    settings.max_connections_per_address = chosen.max_connections_per_address;
    settings.body_limit = chosen.body_limit;
    settings.bodies_limit = chosen.bodies_limit;
    settings.rate = narrow(chosen.rate);
    settings.request_timeout = chosen.request_timeout;
    settings.grace = configuration.grace;
    settings.metrics_token = chosen.metrics_token.as_deref().map(files::secret).transpose()?;
    let keyring = chosen.keyring.as_deref();
    settings.engines = keyring.map(|path| keyring::engines(path, &chosen.keyring_topics)).transpose()?;
    let mut notices = Vec::new();
    if let Some(path) = &configuration.turbine.key {
        let keys = configuration.turbine.api_keys.as_deref().map(files::lines).transpose()?;
        let mut turbine = Turbine::new(files::secret(path)?, "");
        turbine.api_keys = keys.unwrap_or_default();
        settings.turbine = Some(turbine);
    }
    let secret = match &configuration.popsub.key {
        Some(path) => Some(files::secret(path)?),
        None => environment.jwt_secret,
    };
    if let Some(secret) = secret {
        let users = configuration.popsub.users.as_deref().map(files::users).transpose()?;
        settings.popsub = Some(PopSub::new(secret, users.unwrap_or_default()));
    }
    if chosen.dev {
        let drawn = Development::draw().map_err(|error| explain(&error))?;
        if settings.turbine.is_none() {
            notices.push(format!("turbine: x-api-key {}", drawn.api_key.reveal()));
            notices.push(format!("turbine: token, all channels, 12 h: {}", drawn.token.reveal()));
            settings.turbine = Some(drawn.turbine);
        }
        if settings.popsub.is_none() {
            notices.push(format!("popsub: user \"dev\", password {}", drawn.password.reveal()));
            settings.popsub = Some(drawn.popsub);
        }
    }
    if let Some(turbine) = &mut settings.turbine {
        let chosen = &configuration.turbine;
        if chosen.audience.len() > 1 {
            let failure = Failure::usage("turbine.audience: tokens are made out to one audience");
            return Err(failure.help("give one word").into());
        }
        turbine.audience = chosen.audience.first().cloned();
        turbine.roles.clone_from(&chosen.roles);
        turbine.publish_roles.clone_from(&chosen.publish_roles);
        turbine.patterns = chosen.patterns;
        turbine.max_subscriptions = chosen.max_subscriptions;
        turbine.buffer = narrow(chosen.buffer);
    }
    if let Some(popsub) = &mut settings.popsub {
        let chosen = &configuration.popsub;
        popsub.roles.clone_from(&chosen.roles);
        popsub.at_root = chosen.at_root;
        popsub.token_lifetime = chosen.token_lifetime;
        popsub.replay = chosen.replay;
        popsub.replay_of = chosen.replay_of.iter().map(|word| replay_of(word)).collect::<Result<_, _>>()?;
        popsub.replay_bytes = chosen.replay_bytes;
        popsub.ack_timeout = chosen.ack_timeout;
        popsub.retries = narrow(chosen.retries);
        popsub.max_subscriptions = chosen.max_subscriptions;
        popsub.buffer = narrow(chosen.buffer);
        if popsub.users.is_empty() {
            notices.push(
                "warning: popsub has no users, so nobody can log in; name some with popsub.users".into(),
            );
        }
    }
    Ok((settings, notices))
}

/// A number that is as large as it may be.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn replay_of(word: &str) -> Result<(String, usize), Failure> {
    let read = || {
        let (topic, count) = word.rsplit_once('=')?;
        Some((topic.to_owned(), count.parse().ok()?))
    };
    read().ok_or_else(|| {
        Failure::usage(format!("popsub.replay_of: \"{word}\" is no topic with a number of messages"))
            .help("write TOPIC=COUNT, such as chat=100")
    })
}

fn explain(error: &GatewayError) -> Failure {
    match error {
        GatewayError::Listen { error: system, .. } if system.kind() == std::io::ErrorKind::AddrInUse => {
            Failure::new(IN_USE, error.to_string()).help("stop what listens there, or choose another port")
        }
        GatewayError::Settings(text) => Failure::usage(text.clone()),
        error => Failure::new(FAILED, error.to_string()),
    }
}
