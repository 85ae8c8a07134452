//! Where NATS is, and who the bus is there.

mod files;
mod servers;

use std::fmt;
use std::path::{Path, PathBuf};

pub use self::servers::masked;
pub(crate) use self::servers::shown;
use self::servers::{Servers, Who};
use crate::error::NatsError;
use crate::requests::LeaseSettings;
use crate::subject::Subjects;

/// How a bus is joined to others over NATS.
///
/// Files are named here and read when the link is opened. What is secret is not shown by `Debug`.
///
/// # Examples
/// ```
/// use whispeer_cluster_nats::settings::NatsSettings;
///
/// let settings = NatsSettings::new("tls://n1.example:4222,tls://n2.example:4222")?
///     .prefix("shop")?
///     .credentials_file("/etc/whispeer/bus.creds")
///     .ca_file("/etc/whispeer/nats-ca.pem")
///     .name("bus 1");
/// assert_eq!(settings.subjects().prefix(), "shop");
///
/// let local = NatsSettings::new("nats://bus:secret@localhost")?;
/// assert!(!format!("{local:?}").contains("secret"));
/// # Ok::<(), whispeer_cluster_nats::NatsError>(())
/// ```
#[derive(Clone)]
pub struct NatsSettings {
    servers: Servers,
    subjects: Subjects,
    credentials: Option<PathBuf>,
    nkey: Option<PathBuf>,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    tls_required: bool,
    name: String,
    leases: Option<LeaseSettings>,
    batches: bool,
}

/// The prefix unless another one is given.
pub const PREFIX: &str = "whispeer";

/// The name that NATS shows of a bus unless another one is given.
pub const NAME: &str = "whispeer";

impl NatsSettings {
    /// The servers to connect to, as URLs with `,` between them: `nats://HOST:PORT` or `tls://HOST:PORT`, where the port is 4222 unless it
    /// is given. One of them is enough for a cluster: it tells of the others. `USER:PASSWORD@` or `TOKEN@` before a host says who the bus is, for
    /// all of them; what has a meaning in URLs is written in percents there (`%40` for `@`).
    ///
    /// # Errors
    /// [`NatsError::Url`] for what is no such URL, [`NatsError::Servers`] for none, for more than [`LINK_SERVERS`](crate::limits::LINK_SERVERS) and
    /// where URLs have different users.
    pub fn new(servers: &str) -> Result<Self, NatsError> {
        Ok(Self {
            servers: Servers::parse(servers)?,
            subjects: Subjects::new(PREFIX)?,
            credentials: None,
            nkey: None,
            ca: None,
            identity: None,
            tls_required: false,
            name: NAME.into(),
            leases: Some(LeaseSettings::default()),
            batches: false,
        })
    }

    /// What all subjects of the cluster begin with; `whispeer` unless it is given. Buses with different prefixes do not hear each other.
    ///
    /// # Errors
    /// [`NatsError::Prefix`] for what NATS has no subject for, or keeps to itself.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, NatsError> {
        self.subjects = Subjects::new(prefix)?;
        Ok(self)
    }

    /// A file with the bus's credentials at NATS, as `nsc` writes it: a token (JWT) and the seed of its key.
    #[must_use]
    pub fn credentials_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials = Some(path.into());
        self
    }

    /// A file with the seed of the bus's NKey, one line that begins with `SU`.
    #[must_use]
    pub fn nkey_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.nkey = Some(path.into());
        self
    }

    /// A file with the certificates, in PEM, of those that sign for servers of NATS, in place of the system's. The link uses TLS then.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// Files with the certificate that the bus shows to NATS, and its key, in PEM. The link uses TLS then.
    #[must_use]
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Whether no server is talked to without TLS. It is so anyway where an URL begins with `tls://`, and with a CA or a certificate; a
    /// server that asks for TLS gets it in any case.
    #[must_use]
    pub fn tls_required(mut self, required: bool) -> Self {
        self.tls_required = required;
        self
    }

    /// The name that NATS shows of the bus, in its monitoring and its log.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How a topic is kept to a single server among all buses, the same for all of them; `None` where each bus may have one, as it is where the
    /// servers of NATS have no JetStream.
    #[must_use]
    pub fn leases(mut self, leases: Option<LeaseSettings>) -> Self {
        self.leases = leases;
        self
    }

    /// Whether messages of one topic that follow each other closely are sent to NATS as one, with all their payloads: up to 256 of them, of up to 4 KiB each and 64 KiB
    /// in all. That takes a fraction of the time that they take one by one. Nothing waits for it: what there is, is sent. All buses read such messages, whatever
    /// they send themselves; programs that know nothing but NATS do not, so that it is off unless it is asked for.
    #[must_use]
    pub fn batches(mut self, batches: bool) -> Self {
        self.batches = batches;
        self
    }

    pub(crate) fn sends_batches(&self) -> bool {
        self.batches
    }

    pub(crate) fn lease_settings(&self) -> Option<&LeaseSettings> {
        self.leases.as_ref()
    }

    /// What the bus is called at NATS.
    pub(crate) fn shown_name(&self) -> &str {
        &self.name
    }

    /// The subjects of the cluster.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// The servers without whom the bus is there, as they may be shown: `nats://n1:4222,nats://n2:4222`.
    #[must_use]
    pub fn shown_servers(&self) -> String {
        self.servers.shown()
    }

    /// What the link is opened with, for which files are read.
    pub(crate) async fn options(
        &self,
    ) -> Result<(Vec<async_nats::ServerAddr>, async_nats::ConnectOptions), NatsError> {
        let settings = self.clone();
        let reading = tokio::task::spawn_blocking(move || settings.read());
        // It ends without a value only where the runtime ends, too, or it panics.
        let options = reading.await.map_err(|_| NatsError::Ended)??;
        Ok((self.servers.addresses(), options))
    }

    fn read(&self) -> Result<async_nats::ConnectOptions, NatsError> {
        let mut options = async_nats::ConnectOptions::new();
        let ways = [self.credentials.is_some(), self.nkey.is_some(), self.servers.who.is_some()];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Err(NatsError::Who);
        }
        match &self.servers.who {
            Some(Who::User { name, password }) => {
                options = options.user_and_password(name.clone(), password.to_string());
            }
            Some(Who::Token(token)) => options = options.token(token.to_string()),
            None => {}
        }
        if let Some(path) = &self.credentials {
            let text = files::text("credentials", path)?;
            options =
                options.credentials(&text).map_err(|error| files::unusable("credentials", path, &error))?;
        }
        if let Some(path) = &self.nkey {
            options = options.nkey(files::seed(path)?.to_string());
        }
        let required = self.requires_tls();
        let tls = files::tls(self.ca.as_deref(), self.identity_paths(), required)?;
        Ok(options.require_tls(required).tls_client_config(tls).name(&self.name))
    }

    fn requires_tls(&self) -> bool {
        // A server that was told of by another one has no scheme: what holds for one holds for all.
        self.tls_required || self.ca.is_some() || self.identity.is_some() || self.servers.ask_for_tls()
    }

    fn identity_paths(&self) -> Option<(&Path, &Path)> {
        self.identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()))
    }

    /// The host that a password would go to in the clear.
    pub(crate) fn told_in_the_clear(&self) -> Option<String> {
        if self.requires_tls() || self.servers.who.is_none() { None } else { self.servers.beyond_loopback() }
    }
}

impl fmt::Debug for NatsSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NatsSettings")
            .field("servers", &self.servers.shown())
            .field("has_user", &self.servers.who.is_some())
            .field("prefix", &self.subjects.prefix())
            .field("credentials", &self.credentials)
            .field("nkey", &self.nkey)
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("tls_required", &self.tls_required)
            .field("name", &self.name)
            .field("leases", &self.leases)
            .field("batches", &self.batches)
            .finish()
    }
}
