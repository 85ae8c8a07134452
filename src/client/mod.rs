//! The client: one connection to a bus, and what can be done over it.
//!
//! A [`Client`] is a cheap handle. Behind it one task, the *driver*, owns the link. It receives and
//! dispatches; sending is done by whoever has something to send, from its own task, so that a request
//! takes no detour. The driver steps in when the link is full.
//!
//! ```text
//!  Client ── publish, request, respond ──┐                        ┌── link
//!  Publisher ── send ────────────────────┤── Shared (one lock) ───┤
//!  Subscription ◄── Inbox ◄──────────────┤                        │
//!  Serving      ◄── Inbox ◄──────────────┴── Driver (one task) ───┘
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `shared` | the state under its lock, and how frames get out |
//! | `driver`, `dispatch` | the task that owns the link; what each frame does |
//! | `inbox` | what waits to be taken, within its window |
//! | `window` | the window for publishes, who waits for it, who is told of failures |
//! | `subscription`, `attached`, `publisher` | publish and subscribe |
//! | `following`, `history` | how far a subscription is in its stream; what a stream has, in pages |
//! | `presence` | who is subscribed to a topic |
//! | `will` | what is published when the client is gone |
//! | `request`, `stream`, `serving`, `request_id`, `handling` | requests, from both sides |
//! | `leaving` | what is held back while the client goes from a bus that drains to another one |
//! | `reconnect` | coming back after the connection broke |
//! | `codec`, `options`, `event`, `protocol`, `builder` | values, settings, and the way in |
//!
//! **Bounds.** A subscription holds at most its window; so does a serving and a stream of answers.
//! Publishes in flight are bounded by the window of the bus, requests by the number it allows, and all
//! that waits for a slow link by its own limit. A bus that sends past a window is cut off.
//!
//! **Ending.** Every handle keeps the connection alive. When the last one is dropped, the driver sends
//! what is queued and closes the link. When the connection ends for another reason, every call that
//! waits gets that reason, and what was received can still be taken.

mod again;
mod attached;
mod builder;
mod burst;
mod codec;
mod consumer;
mod deliveries;
mod dispatch;
mod driver;
mod event;
mod following;
mod handling;
mod held_back;
mod history;
mod inbox;
mod keeping;
mod leaving;
mod options;
mod presence;
mod protocol;
mod publisher;
mod reconnect;
mod request;
mod request_id;
mod sealing;
mod serving;
mod shared;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;
mod traced;
mod will;
mod window;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use crate::auth::{BusPresence, ClusterPresence, Member, PresenceEvent};
pub use crate::proto::fields::{Attempt, Epoch, GapReason, Policy, Position, Quality, Start};
pub use attached::Attached;
pub use builder::ClientBuilder;
#[cfg(feature = "broker")]
pub(crate) use codec::{decode_value, encode};
#[cfg(feature = "broker")]
pub(crate) use consumer::Progress;
pub use consumer::{Acknowledged, Consumer, Delivery, Receipt};
pub use event::{Counts, Event, Message};
pub use handling::Handling;
pub use history::{History, HistoryOptions};
pub use options::{Headers, ManyOptions, PublishOptions, RequestOptions, ServeOptions, SubscribeOptions};
pub use presence::PresenceWatch;
pub use protocol::{PublishProtocol, RequestProtocol};
pub use publisher::{Acknowledgement, PublishFailures, Publisher};
pub use reconnect::{ClientEvent, ClientEvents, Reconnect};
pub use request_id::RequestId;
pub use serving::{Request, Serving};
pub use stream::{ReplyStream, Responder};
pub use subscription::Subscription;

use crate::error::{BusError, BusResult};
use crate::transport::{Address, MemoryConnector};
use shared::Connection;

/// A connection to a bus. Cheap to clone; all clones share it.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let client = Client::new_memory(&connector)?;
/// let mut subscription = client.subscribe_bytes("greetings").await?;
/// assert_eq!(client.publish_bytes("greetings", "hello").await?, 1);
/// let (_topic, payload) = subscription.recv().await.expect("the bus runs");
/// assert_eq!(payload, "hello");
/// client.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    connection: Arc<Connection>,
}

impl Client {
    /// Connects to a bus in this process. The handshake goes on in the background; calls wait for it.
    ///
    /// # Errors
    /// [`BusError::Connect`] when the bus has stopped; [`BusError::NoRuntime`] outside of a Tokio
    /// runtime.
    pub fn new_memory(connector: &MemoryConnector) -> BusResult<Self> {
        Self::builder().connect_memory(connector)
    }

    /// Connects to the bus that listens on a Unix socket, and waits for its welcome, 5 s at most.
    ///
    /// # Errors
    /// [`BusError::Connect`] when nobody listens there or rights are missing; [`BusError::TimedOut`]
    /// when the bus does not answer in time; what the bus refuses the client with.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let refused = Client::new_unix(&"no_bus_is_here".into()).await;
    /// assert!(matches!(refused, Err(BusError::Connect { .. })));
    /// # }
    /// ```
    #[expect(clippy::ptr_arg, reason = "a `&Path` would not let `&\"my_bus\".into()` infer its type")]
    pub async fn new_unix(path: &PathBuf) -> BusResult<Self> {
        Self::builder().connect_to(&Address::Unix(path.clone())).await
    }

    /// Connects over TCP to the bus at `HOST:PORT`, and waits for its welcome, 5 s at most. All addresses
    /// of the host are tried.
    ///
    /// # Errors
    /// As [`new_unix`](Self::new_unix).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = listen_and_serve_tcp("localhost:0").await?;
    /// let whispeer::Address::Tcp(endpoint) = &bus.local_addrs()[0] else { panic!("it comes first") };
    /// let client = Client::new_tcp(&endpoint.to_string()).await?;
    /// client.ping().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn new_tcp(endpoint: &str) -> BusResult<Self> {
        Self::builder().connect_to(&Address::Tcp(endpoint.parse()?)).await
    }

    /// Connects to the bus at an address such as `my_bus`, `unix:/run/my_bus`, `tcp://host:4242` or `mem:name`,
    /// and waits for its welcome.
    ///
    /// # Errors
    /// As [`new_unix`](Self::new_unix).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect(address: &str) -> BusResult<Self> {
        Self::builder().connect(address).await
    }

    /// Connects with settings of one's own.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Asks the bus for a sign of life and returns the time that took, what was queued before
    /// included.
    ///
    /// # Errors
    /// Why the connection ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn ping(&self) -> BusResult<Duration> {
        let shared = &self.connection.shared;
        shared.opened().await?;
        let start = Instant::now();
        shared.barrier().await?;
        Ok(start.elapsed())
    }

    /// Waits until the bus has routed everything that this client sent before.
    ///
    /// # Errors
    /// Why the connection ended. How single publishes went is told where they were made.
    ///
    /// # Cancel safety
    /// Everything is sent whether or not anybody waits.
    pub async fn flush(&self) -> BusResult<()> {
        self.connection.shared.barrier().await
    }

    /// Ends all subscriptions and servings of this connection without losing anything, and flushes:
    /// when this returns, the bus has routed what was published and hands over nothing new. What
    /// was matched before can still be received, and requests that were handed over be answered.
    ///
    /// # Errors
    /// Why the connection ended.
    ///
    /// # Cancel safety
    /// The drain goes on when the future is dropped.
    pub async fn drain(&self) -> BusResult<()> {
        let shared = &self.connection.shared;
        shared.opened().await?;
        shared.drain_servings();
        shared.drain_subscriptions();
        shared.barrier().await
    }

    /// Flushes, and closes the connection for all clones, subscriptions and other handles.
    ///
    /// # Errors
    /// Why the connection ended before everything was flushed. It is closed in any case.
    ///
    /// # Cancel safety
    /// Dropped while it flushes, the connection stays as it is.
    pub async fn close(&self) -> BusResult<()> {
        let shared = &self.connection.shared;
        let flushed = match shared.session() {
            // Before the welcome nothing has been sent that could be flushed.
            None => shared.ended().map_or(Ok(()), Err),
            Some(_) => shared.barrier().await,
        };
        shared.begin_close();
        shared.closed().await;
        self.connection.join().await;
        match flushed {
            Err(BusError::Closed { .. }) => Ok(()),
            flushed => flushed,
        }
    }

    /// Waits until the connection has ended, and says why: [`BusError::Closed`] if this side closed it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn closed(&self) -> BusError {
        self.connection.shared.closed().await
    }

    /// What happens to the connection from now on: it breaks, the client comes back, the bus is about to end.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::ClientEvent;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = listen_and_serve_tcp("localhost:0").await?;
    /// let client = Client::connect(&bus.local_addrs()[0].to_string()).await?;
    /// let mut events = client.events();
    /// bus.stop().await;
    /// assert!(matches!(events.recv().await, Some(ClientEvent::Disconnected { .. })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> ClientEvents {
        self.connection.shared.events()
    }

    /// Why the connection has ended; `None` while it has not.
    #[must_use]
    pub fn close_reason(&self) -> Option<BusError> {
        self.connection.shared.ended()
    }

    /// The id of this session at the bus; `None` before its welcome.
    #[must_use]
    pub fn session_id(&self) -> Option<u64> {
        self.connection.shared.session().map(|session| session.id())
    }

    /// The id of the bus, which it draws when it starts; `None` before its welcome.
    #[must_use]
    pub fn bus_id(&self) -> Option<u64> {
        self.connection.shared.session().map(|session| session.bus())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Client")
            .field("session", &self.session_id())
            .field("closed", &self.close_reason())
            .finish_non_exhaustive()
    }
}
