//! The contract that every transport keeps, and the transports.
//!
//! A transport makes [`Link`]s: a [`LinkSender`] and a [`LinkReceiver`] that carry frames in order.
//! It knows frames, but neither sessions nor routing.
//!
//! **Who does what.** A transport never logs, never retries and never spawns: it reports, and the bus
//! or the client that owns the link decides. Nothing in the contract blocks or awaits: sending takes
//! what goes without waiting, and the owner's task polls for room and for input. Dropping both halves
//! closes the link; the peer then reads what was sent before, and the end.
//!
//! **Byte links and value links.** Most links carry encoded frames ([`Form::Bytes`]). Memory links hand
//! frames over as values ([`Form::Values`]), whose content is shared and never copied.

mod address;
mod batch;
#[cfg(any(feature = "tcp", feature = "unix"))]
mod channel;
mod in_place;
mod incoming;
mod lanes;
mod memory;
#[cfg(feature = "tcp")]
pub(crate) mod network;
mod passed;
#[cfg(any(feature = "unix", feature = "quic", all(test, feature = "tcp")))]
mod plain;
mod pool;
#[cfg(feature = "quic")]
mod quic;
#[cfg(any(feature = "tcp", feature = "unix"))]
mod resume;
#[cfg(not(any(feature = "tcp", feature = "unix")))]
#[path = "resume_absent.rs"]
mod resume;
#[cfg(not(feature = "tls"))]
#[path = "shown_absent.rs"]
mod shown;
#[cfg(any(feature = "tcp", feature = "unix"))]
mod socket;
#[cfg(feature = "tcp")]
mod tcp;
mod timer;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "unix")]
mod unix;
#[cfg(not(feature = "unix"))]
#[path = "unix_absent.rs"]
mod unix;
#[cfg(feature = "websocket")]
mod websocket;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::SystemTime;

pub use address::{Address, Endpoint, WebSocketAddress};
pub use batch::Batch;
pub(crate) use batch::EncodedRun;
pub use in_place::RunInPlace;
pub(crate) use in_place::{InPlace, Turn};
pub(crate) use incoming::Arrived;
pub use incoming::Incoming;
pub(crate) use lanes::{Lanes, Step};
pub use memory::{MemoryConnector, MemoryListener, memory_pair};
pub use passed::PassedSocket;
pub(crate) use resume::Attachment;
pub use resume::ResumableLink;
#[cfg(not(feature = "tls"))]
pub(crate) use shown::ShownCertificate;
pub(crate) use timer::Timer;
#[cfg(feature = "tls")]
pub use tls::{ClientAuth, ClientTls, ServerTls};
#[cfg(feature = "tls")]
pub(crate) use tls::{LiveTls, ShownCertificate};
pub use unix::{UnixListener, UnixOptions, connect_unix};
#[cfg(feature = "websocket")]
pub use websocket::{WEBSOCKET_PROTOCOL, WebSocketOptions, websocket_link, websocket_link_holding};

use crate::auth::{GrantedRoles, Principal};
#[cfg(not(feature = "tcp"))]
use crate::error::BusError;
use crate::error::BusResult;

/// How a link carries frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Encoded, in a stream of bytes.
    Bytes,
    /// As values within the process.
    Values,
}

/// One connection, as its two halves.
pub struct Link {
    /// The half that sends; shared by all tasks that have something for the peer.
    pub sender: Arc<dyn LinkSender>,
    /// The half that receives; it belongs to one task.
    pub receiver: Box<dyn LinkReceiver>,
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("form", &self.sender.form()).finish_non_exhaustive()
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// All of it was taken.
    All,
    /// The link took what it could; the rest is still in the batch.
    Blocked,
}

/// The sending half of a link.
pub trait LinkSender: Send + Sync + 'static {
    /// What kind of batches this link takes.
    fn form(&self) -> Form;

    /// Sends as much of `batch` as goes without waiting and removes it from the batch.
    ///
    /// Callers see to it that two calls never overlap, or frames would mix.
    ///
    /// # Errors
    /// The system's error; the link is then of no further use.
    fn try_send(&self, batch: &mut Batch) -> io::Result<Sent>;

    /// Waits for room after [`Sent::Blocked`]. Only the task that owns the link calls this.
    ///
    /// # Errors
    /// The system's error; the link is then of no further use.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the sending direction: the peer reads what was sent before, then the end.
    fn close(&self);

    /// What lets the link outlive the connection under it, where that is possible.
    fn resumable(&self) -> Option<&ResumableLink> {
        None
    }
}

/// The receiving half of a link.
pub trait LinkReceiver: Send + 'static {
    /// Adds what has arrived to `incoming` and returns how many bytes or frames that was; 0 is the end.
    ///
    /// # Errors
    /// The system's error; the link is then of no further use.
    fn poll_receive(&mut self, context: &mut Context<'_>, incoming: &mut Incoming)
    -> Poll<io::Result<usize>>;

    /// Offers a link within the process to run the task that reads from it where something is sent to
    /// it, instead of waking the task. Other links need not know of it.
    fn run_in_place(&mut self, task: Weak<dyn RunInPlace>) {
        drop(task);
    }
}

/// Who is at the other end of an accepted link.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What the transport can prove of the peer.
    pub principal: Principal,
    /// The transport's name: `memory`, `unix`, `tcp`, `tls`, `quic`, `ws`, `wss`, or what whoever attaches a link calls it.
    pub transport: &'static str,
    /// What it has shown for that; the session ends when it is no longer good.
    pub(crate) certificate: Option<Arc<ShownCertificate>>,
    /// What the process that attaches the link vouches for.
    pub(crate) granted: Option<Arc<GrantedRoles>>,
    /// What its subscriptions are for.
    pub(crate) part: Part,
}

/// What the subscriptions of a peer are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Part {
    /// Itself, as far as the bus knows.
    #[default]
    Client,
    /// Whoever attaches it, who is no subscriber that publishers count.
    Uncounted,
    /// Others elsewhere, who have subscribed there.
    Relay,
    /// Another bus, whose members share consumers that this one has.
    Sharing,
}

impl Peer {
    /// Somebody of whom a transport of this name can prove so much.
    #[must_use]
    pub fn new(principal: Principal, transport: &'static str) -> Self {
        Self { principal, transport, certificate: None, granted: None, part: Part::Client }
    }

    /// The same, with the rights of these roles of the bus's policy: whoever attaches the link has checked by itself who is
    /// at its other end, as a gateway does that has tokens and users of its own.
    ///
    /// A bus without authentication gives it what it gives everybody: all but administering, whatever the principal and the
    /// roles. Without any role it may do nothing elsewhere. A role that the policy does not have, and more roles than
    /// [`limits::ROLES_PER_PRINCIPAL`](crate::limits::ROLES_PER_PRINCIPAL), refuse the session with
    /// [`BusError::Denied`](crate::BusError::Denied), and the bus's log says which; a policy that replaces another
    /// gives it the roles' new rights, and ends it where one has gone. What it asks for that is done later, as a
    /// delayed message, is done by the roles.
    ///
    /// The principal is what others see, and what keeps what belongs to one from another. So it should be one that nobody
    /// can prove to the bus itself: that of a [`Token`](Principal::Token) has an issuer that the policy does not
    /// know. [`Principal::Bus`] has all rights, whatever it is granted.
    ///
    /// Credentials that come over the link count before this, as before what a transport proves.
    ///
    /// # Examples
    /// ```
    /// use whispeer::auth::{Policy, Principal};
    /// use whispeer::prelude::*;
    /// use whispeer::transport::{Peer, memory_pair};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let policy = Policy::from_toml(r#"auth.roles.reader.subscribe.allow = ["news/**"]"#)?;
    /// let bus = Bus::builder().policy(policy).start()?;
    ///
    /// let alice = Principal::Token { issuer: "chat".into(), subject: "alice".into() };
    /// let (link, other_end) = memory_pair();
    /// bus.attach(link, Peer::new(alice, "chat").granted(["reader"]))?;
    /// let client = Client::builder().connect_link(other_end)?;
    /// client.subscribe_bytes("news/*").await?;
    /// assert!(matches!(client.publish_bytes("news/local", "").await, Err(BusError::Denied { .. })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn granted(self, roles: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.granted_until(roles, None)
    }

    /// The same, whose subscriptions are not among the matches that publishers are told: what it takes is for the process that
    /// attaches the link, as what a gateway keeps to replay. They are in all other counts.
    ///
    /// # Examples
    /// ```
    /// use whispeer::auth::Principal;
    /// use whispeer::prelude::*;
    /// use whispeer::transport::Peer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let link = bus.view().connect(Peer::new(Principal::Bus, "recorder").uncounted())?;
    /// let recorder = Client::builder().connect_link(link)?;
    /// let mut recorded = recorder.subscribe_bytes("news/*").await?;
    ///
    /// let client = Client::new_memory(&bus.connector())?;
    /// assert_eq!(client.publish_bytes("news/local", "the bakery reopens").await?, 0);
    /// assert_eq!(recorded.recv().await.expect("the bus runs").1, "the bakery reopens");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn uncounted(self) -> Self {
        Self { part: Part::Uncounted, ..self }
    }

    /// The same, that takes messages to where others have subscribed to them, as a link between buses does.
    ///
    /// Its subscriptions are [uncounted](Self::uncounted), nobody is told that they come and go
    /// ([presence](crate::Client::presence)), and they are no [interest](crate::bus::BusView::interest) of this bus. What is published to
    /// several topics comes to them once for each topic that they match, as they are not those who are to get it once.
    #[must_use]
    pub fn relay(self) -> Self {
        Self { part: Part::Relay, ..self }
    }

    /// The same, which is another bus with the same store: its members take part in shared consumers that this bus has, and in nothing else.
    ///
    /// Where this bus does not have the consumer, or not any more, the subscription is refused, or ends, with
    /// [`BusError::Closed`](crate::BusError::Closed): whoever asks looks for it again. Who may take part has been checked at the other bus, so
    /// that the principal is to be [`Principal::Bus`]. Publishers, presence and [interest](crate::bus::BusView::interest) do not count it; what it
    /// asks for beside subscriptions that acknowledge in a group ends the session.
    #[must_use]
    pub fn sharing(self) -> Self {
        Self { part: Part::Sharing, ..self }
    }

    /// [`granted`](Self::granted) up to a moment, as by a token that ends: the session ends then, on a bus without
    /// authentication, too. `None` is for no end.
    #[must_use]
    pub fn granted_until(
        self,
        roles: impl IntoIterator<Item = impl Into<String>>,
        end: impl Into<Option<SystemTime>>,
    ) -> Self {
        let roles = roles.into_iter().map(Into::into).collect();
        Self { granted: Some(Arc::new(GrantedRoles::new(roles, end.into()))), ..self }
    }
}

/// A connection that a listener accepted.
#[derive(Debug)]
pub enum Accepted {
    /// It carries frames already.
    Open {
        /// The link.
        link: Link,
        /// Who is at its other end.
        peer: Peer,
    },
    /// Its transport has a handshake of its own, which whoever takes the connection over waits for, as long
    /// as it wants to.
    Opening(Opening),
}

/// What a transport's handshake ends with.
pub type Opened = BusResult<(Link, Peer)>;

/// The handshake of a transport.
pub struct Opening {
    /// Where the connection comes from, for the log; an address and a port where it is over a network.
    pub remote: String,
    /// Somebody answers there, so that what he does may count as his. Anybody can make up where a datagram comes
    /// from.
    pub validated: bool,
    /// Ends with the link and who is at its other end, or with why there is none. Dropped before, it closes
    /// the connection.
    pub handshake: Pin<Box<dyn Future<Output = Opened> + Send>>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Opening").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// Where links come in.
///
/// Dropping a listener stops it: its address is free again.
pub trait Listener: Send + 'static {
    /// Waits for the next link.
    ///
    /// # Errors
    /// The system's error. The listener may still be used: the caller waits a little and tries
    /// again, as when file descriptors run out.
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>>;

    /// The address it listens on.
    fn local_addr(&self) -> &Address;

    /// The user that this process runs as, where the transport knows users.
    fn own_uid(&self) -> Option<u32> {
        None
    }
}

/// A link to the bus at `address`.
///
/// # Errors
/// [`BusError::Connect`](crate::BusError::Connect) that says why there is none.
///
/// # Cancel safety
/// Dropping the future closes the connection.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
/// use whispeer::transport::connect;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let bus = listen_and_serve_tcp("localhost:0").await?;
/// let link = connect(&bus.local_addrs()[0]).await?;
/// Client::builder().connect_link(link)?.ping().await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect(address: &Address) -> BusResult<Link> {
    connect_with(address, &ConnectOptions::default()).await
}

/// What connecting to an address may need beside the address.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// For addresses whose transport uses TLS. By default the CAs of the system are trusted, and nothing is
    /// proven.
    #[cfg(feature = "tls")]
    pub tls: ClientTls,
    /// What nobody else may read is sent first: not over a network as it is.
    #[cfg_attr(not(feature = "tcp"), expect(dead_code, reason = "there is no network"))]
    pub(crate) confidential: bool,
    /// The link is to outlive its connection, also on a Unix socket.
    pub(crate) lasting: bool,
}

impl ConnectOptions {
    /// Whether what is proven may be something else the next time.
    pub(crate) fn may_prove_otherwise(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.reads_identity();
        #[cfg(not(feature = "tls"))]
        false
    }
}

/// A link to the bus at `address`, as [`connect`] makes it, with options.
///
/// # Errors
/// [`BusError::Connect`](crate::BusError::Connect) that says why there is none;
/// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) for options that cannot be used.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect_with(address: &Address, options: &ConnectOptions) -> BusResult<Link> {
    match address {
        Address::Memory(name) => MemoryConnector::find(name)?.connect(),
        Address::Unix(path) if options.lasting => unix::connect_lasting(path).await,
        Address::Unix(path) => connect_unix(path).await,
        #[cfg(feature = "tcp")]
        Address::Tcp(_) | Address::Tls(_) | Address::Quic(_) | Address::WebSocket(_) => {
            network::connect(address, options).await
        }
        #[cfg(not(feature = "tcp"))]
        Address::Tcp(_) | Address::Tls(_) | Address::Quic(_) | Address::WebSocket(_) => {
            let _ = options;
            Err(BusError::Connect {
                address: address.to_string(),
                reason: "whispeer was built without the feature `tcp`".into(),
                source: None,
            })
        }
    }
}
