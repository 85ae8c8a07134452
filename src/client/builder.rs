//! Making a client.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::Client;
use super::driver::Driver;
use super::options::PublishOptions;
use super::protocol::PublishProtocol;
use super::reconnect::{CredentialSource, Places, Reconnect, Return};
use super::sealing::Sealing;
use super::shared::{Connection, Shared};
use super::will::{Testament, Will};
use crate::auth::Credentials;
use crate::engine::Engines;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::{Capabilities, Hello, Shown};
use crate::transport::{Address, ConnectOptions, Link, MemoryConnector, connect_with};

/// How a client connects.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let client = Client::builder()
///     .name("billing")
///     .request_timeout(Duration::from_secs(2))
///     .connect_memory(&connector)?;
/// client.ping().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    name: String,
    keep_alive: Duration,
    request_timeout: Duration,
    connect_timeout: Duration,
    options: ConnectOptions,
    credentials: Option<Credentials>,
    /// Gives them anew for each connection.
    credential_source: Option<CredentialSource>,
    /// `None` for what suits the address.
    reconnect: Option<Option<Reconnect>>,
    engines: Engines,
    passes_sealed: bool,
    /// What is wrong with it is told when the client connects.
    will: Option<BusResult<Will>>,
}

impl Default for ClientBuilder {
    /// No name, a sign of life every [`limits::KEEP_ALIVE`], requests that wait
    /// [`limits::REQUEST_TIMEOUT`], and [`limits::HANDSHAKE_TIMEOUT`] to connect.
    fn default() -> Self {
        Self {
            name: String::new(),
            keep_alive: limits::KEEP_ALIVE,
            request_timeout: limits::REQUEST_TIMEOUT,
            connect_timeout: limits::HANDSHAKE_TIMEOUT,
            options: ConnectOptions::default(),
            credentials: None,
            credential_source: None,
            reconnect: None,
            engines: Engines::new(),
            passes_sealed: false,
            will: None,
        }
    }
}

impl ClientBuilder {
    /// What the client calls itself where the bus lists its sessions; cut to
    /// [`limits::CLIENT_NAME_LIMIT`] bytes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How often either side gives a sign of life when it has nothing to say. The bus may shorten it.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// How long a request waits for its answer unless it says otherwise.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long connecting and the handshake may take together.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Shows these to the bus, beside what the transport proves. They go over an encrypted transport or stay on this
    /// host: they are never sent to another host as they are.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self.credential_source = None;
        self
    }

    /// Shows what `source` gives, which is asked before each connection: the first, and each by which the client
    /// [comes back](Self::reconnect). A session whose token is over, or whose client the policy knows no more, is
    /// then followed by another with new credentials. Takes the place of [`credentials`](Self::credentials).
    ///
    /// The time it takes counts as that of connecting, and an error of it fails the attempt.
    ///
    /// # Examples
    /// A token that another task renews:
    /// ```no_run
    /// use tokio::sync::watch;
    /// use whispeer::auth::{Credentials, Secret};
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (renewed, token) = watch::channel(Secret::new("the first token"));
    /// let source = move || {
    ///     let token = token.borrow().clone();
    ///     async { Ok(Credentials::token(token)) }
    /// };
    /// let client = Client::builder().credentials_from(source).connect("tls://bus.example.com:4242").await?;
    /// renewed.send_replace(Secret::new("the next one"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn credentials_from<F, A>(mut self, source: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = BusResult<Credentials>> + Send + 'static,
    {
        self.credential_source = Some(CredentialSource::new(source));
        self.credentials = None;
        self
    }

    /// Comes back in this way when the connection breaks. By default clients do so whose bus is reached over a
    /// network, with [`Reconnect::default`]; others end with the connection, as the bus or this process did.
    #[must_use]
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = Some(Some(reconnect));
        self
    }

    /// Ends when the connection breaks.
    #[must_use]
    pub fn no_reconnect(mut self) -> Self {
        self.reconnect = Some(None);
        self
    }

    /// Whom to trust, and what to prove, at addresses whose transport uses TLS. A session that ends with its certificate
    /// is followed by another, where that one is read from files and the client [comes back](Self::reconnect).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: crate::transport::ClientTls) -> Self {
        self.options.tls = tls;
        self
    }

    /// Seals all payloads with these engines, and opens what arrives with them.
    ///
    /// # Examples
    /// ```
    /// use whispeer::engine::{Chain, Engines};
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let engines = Engines::new().topic("metrics/**", Chain::new());
    /// let client = Client::builder().engines(engines).connect_memory(&connector)?;
    /// client.publish_bytes("metrics/load", "0.7").await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn engines(mut self, engines: Engines) -> Self {
        self.engines = engines;
        self
    }

    /// Passes on what is sealed already: for who hands messages of others on, as a gateway does.
    ///
    /// - A payload that is given as bytes and [is sealed](crate::engine::is_sealed) is sent as it is, and not sealed once more.
    ///   The answer to such a request is handed out as it comes.
    /// - Subscriptions, and pages of a stream, hand out what arrives as it is, as those of a client without engines do. A
    ///   [`PayloadOpener`](crate::engine::PayloadOpener) opens it, once for all who are told of it.
    ///
    /// What is not sealed yet is, and other requests, their answers and what is served are as with any client. Without
    /// [`engines`](Self::engines) a client does all of this anyway.
    ///
    /// # Examples
    /// ```
    /// # #[cfg(feature = "encryption")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use whispeer::engine::encryption::{Encryption, Key, Keyring};
    /// use whispeer::engine::{Engines, PayloadOpener, is_sealed};
    /// use whispeer::prelude::*;
    ///
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let engines = Engines::new().with(Encryption::new(&Keyring::with(Key::generate()?)?)?);
    /// let opener = PayloadOpener::new(engines.clone())?;
    /// let client = Client::builder().engines(engines).pass_sealed().connect_memory(&connector)?;
    /// let mut news = client.subscribe_bytes("news").await?;
    ///
    /// client.publish_bytes("news", "rain").await?;
    /// let (_, first) = news.recv().await.expect("the bus runs");
    /// assert!(is_sealed(&first));
    ///
    /// client.publish_bytes("news", first.clone()).await?;
    /// let (_, again) = news.recv().await.expect("the bus runs");
    /// assert_eq!(again, first);
    /// assert_eq!(&opener.open("news", &again)?[..], b"rain");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "encryption"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn pass_sealed(mut self) -> Self {
        self.passes_sealed = true;
        self
    }

    /// Has the bus publish a message when the client is gone without having closed its connection; see
    /// [`Client::set_will`]. [`connect`](Self::connect) and [`connect_any`](Self::connect_any) fail where the bus does not take it;
    /// other ways to connect do not wait for that, and say so in the log.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::PublishOptions;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("my_bus");
    /// # let bus = listen_and_serve_unix(&path)?;
    /// # let address = path.to_str().unwrap();
    /// let client = Client::builder()
    ///     .will_bytes("workers/7", "gone", PublishOptions::default())
    ///     .connect(address)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn will<P: PublishProtocol>(mut self, topic: &str, message: &P, options: PublishOptions) -> Self {
        self.will = Some(Will::typed(topic, message, &options));
        self
    }

    /// [`will`](Self::will) with a payload as it is and a whole topic.
    #[must_use]
    pub fn will_bytes(mut self, topic: &str, payload: impl Into<Bytes>, options: PublishOptions) -> Self {
        self.will = Some(Will::bytes(topic, payload.into(), &options));
        self
    }

    /// Connects to the bus at an address such as `my_bus`, `unix:/run/my_bus`, `tls://host:4242` or `mem:name`,
    /// and waits for its welcome.
    ///
    /// # Errors
    /// [`BusError::Connect`] when nothing can be reached there; [`BusError::TimedOut`] when the bus does
    /// not answer in time; what the bus refuses the client with; [`BusError::InvalidSettings`] for certificates
    /// that cannot be used.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect(self, address: &str) -> BusResult<Client> {
        self.connect_to(&address.parse()?).await
    }

    /// Connects to the first of these addresses where a bus welcomes the client, and tries the others when the
    /// connection breaks: first the one where the session is, which may go on there, or the next if that bus has
    /// said that it ends. It leaves a bus that drains once nothing of its own is in flight there.
    ///
    /// Each is tried for [`connect_timeout`](Self::connect_timeout). The client that comes back to another bus has a
    /// new session there: see [`ClientEvent::Reconnected`](super::ClientEvent::Reconnected).
    ///
    /// # Errors
    /// [`BusError::Connect`] that says what each of them answered; what [`connect`](Self::connect) ends with where
    /// there is one; [`BusError::InvalidSettings`] for none, more than
    /// [`limits::CLIENT_ADDRESSES`], or one in this process among others.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    ///
    /// # Examples
    /// ```no_run
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let buses = ["tls://one.example.com:4242", "tls://two.example.com:4242"];
    /// let client = Client::builder().connect_any(buses).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect_any<A: AsRef<str>>(
        self,
        addresses: impl IntoIterator<Item = A>,
    ) -> BusResult<Client> {
        let addresses = addresses.into_iter().take(limits::CLIENT_ADDRESSES + 1);
        let addresses =
            addresses.map(|address| address.as_ref().parse()).collect::<BusResult<Vec<Address>>>()?;
        let within = |address: &Address| matches!(address, Address::Memory(_));
        let wrong = match addresses.len() {
            0 => "no address to connect to is given".to_owned(),
            2.. if addresses.iter().any(within) => {
                "a bus within this process is connected to by its address alone".to_owned()
            }
            count if count > limits::CLIENT_ADDRESSES => {
                format!("more than {} addresses to connect to are given", limits::CLIENT_ADDRESSES)
            }
            _ => return self.connect_first(addresses).await,
        };
        Err(BusError::InvalidSettings(wrong))
    }

    pub(super) async fn connect_to(self, address: &Address) -> BusResult<Client> {
        self.connect_first(vec![address.clone()]).await
    }

    async fn connect_first(self, addresses: Vec<Address>) -> BusResult<Client> {
        let mut failed = Vec::new();
        for at in 0..addresses.len() {
            match self.clone().connect_at(Places::new(addresses.clone(), at)).await {
                Ok(client) => return Ok(client),
                Err(error) => failed.push(error),
            }
        }
        if let [only] = &failed[..] {
            return Err(only.clone());
        }
        let all = |parts: &mut dyn Iterator<Item = String>, between| parts.collect::<Vec<_>>().join(between);
        Err(BusError::Connect {
            address: all(&mut addresses.iter().map(ToString::to_string), ", "),
            reason: all(&mut failed.iter().map(ToString::to_string), "; "),
            source: None,
        })
    }

    async fn connect_at(mut self, places: Places) -> BusResult<Client> {
        let Some(address) = places.current().cloned() else {
            return Err(BusError::InvalidSettings("there is no such address".into()));
        };
        let timeout = self.connect_timeout;
        let until = Instant::now() + timeout;
        let connected = async {
            let reconnect = match self.reconnect.clone() {
                Some(reconnect) => reconnect,
                None => places.suggest_coming_back().then(Reconnect::default),
            };
            let source = self.credential_source.take();
            if let Some(source) = &source {
                self.credentials = Some(source.ask().await?);
            }
            let options = ConnectOptions {
                lasting: reconnect.is_some(),
                confidential: self.credentials.is_some(),
                ..self.options.clone()
            };
            let link = connect_with(&address, &options).await?;
            let reconnect = reconnect.map(|policy| (policy, places, options, source));
            let will = self.will.take().transpose()?;
            let client = self.open(link, reconnect)?;
            client.connection.shared.opened().await?;
            if will.is_some() {
                client.connection.set_will(will).await?;
            }
            Ok(client)
        };
        timeout_at(until, connected).await.unwrap_or_else(|_| {
            Err(BusError::TimedOut { what: format!("connecting to {address}"), after: timeout })
        })
    }

    /// Connects to a bus in this process. The handshake goes on in the background; calls wait for it.
    ///
    /// # Errors
    /// [`BusError::Connect`] when the bus has stopped; [`BusError::NoRuntime`] outside of a Tokio
    /// runtime.
    pub fn connect_memory(self, connector: &MemoryConnector) -> BusResult<Client> {
        check_runtime("connecting a client")?;
        self.connect_link(connector.connect()?)
    }

    /// Speaks to the bus at the other end of `link`. The handshake goes on in the background; calls
    /// wait for it.
    ///
    /// # Errors
    /// [`BusError::NoRuntime`] outside of a Tokio runtime; [`BusError::InvalidSettings`] with
    /// [`credentials_from`](Self::credentials_from), for which this would have to wait.
    pub fn connect_link(self, link: Link) -> BusResult<Client> {
        if self.credential_source.is_some() {
            let what = "credentials_from needs a connection by `connect`; give this one `credentials`";
            return Err(BusError::InvalidSettings(what.into()));
        }
        self.open(link, None)
    }

    fn open(self, link: Link, reconnect: Option<Coming>) -> BusResult<Client> {
        let runtime = check_runtime("connecting a client")?;
        let will = self.will.transpose()?;
        let rules = self.engines.clone().checked()?;
        let lasting = link.sender.resumable().filter(|_| reconnect.is_some());
        let capabilities = match lasting {
            Some(_) => Capabilities::SUPPORTED,
            None => Capabilities::SUPPORTED.without(Capabilities::RESUME),
        };
        if let Some(link) = lasting {
            link.keep();
        }
        let hello = Hello {
            name: self.name,
            keep_alive: self.keep_alive,
            capabilities,
            credentials: self.credentials.as_ref().map(Shown::from),
            ..Hello::default()
        };
        let coming_back = reconnect.filter(|_| lasting.is_some()).map(|(policy, places, options, source)| {
            Box::new(Return::new(policy, places, options, hello.clone(), source, self.connect_timeout))
        });
        let shared = Shared::new(link.sender);
        shared.lock().testament = Testament::new(will, self.engines, self.passes_sealed);
        // The timer of the driver belongs to the runtime that is entered here.
        let driver =
            Driver::new(Arc::clone(&shared), link.receiver, &hello, self.connect_timeout, coming_back);
        let driver = runtime.spawn(driver.run());
        let sealing = Sealing::new(rules, &shared, self.passes_sealed);
        let (request_timeout, driver) = (self.request_timeout, Mutex::new(Some(driver)));
        let sealing_later = OnceLock::new();
        let connection = Connection { shared, request_timeout, sealing, sealing_later, driver };
        Ok(Client { connection: Arc::new(connection) })
    }
}

/// How to come back, where to, in which way, and what gives the credentials if they are not always the same.
type Coming = (Reconnect, Places, ConnectOptions, Option<CredentialSource>);

fn check_runtime(what: &'static str) -> BusResult<Handle> {
    Handle::try_current().map_err(|_| BusError::NoRuntime { what })
}
