//! The embedded broker: a bus and a client in one process, in a few calls and with callbacks.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use whispeer::broker::Broker;
//!
//! #[derive(Debug, Clone, Serialize, Deserialize)]
//! struct MyData {
//!     name: String,
//!     id: i32,
//! }
//!
//! # fn main() -> whispeer::BusResult<()> {
//! let broker = Broker::build_default().build()?;
//! broker.subscribe("some-event", |my_data: MyData| println!("{my_data:?}"));
//! broker.subscribe::<MyData>("some-event", |my_data| println!("{} has {}", my_data.name, my_data.id));
//! broker.subscribe_async("some-event", |my_data: MyData| async move { println!("{my_data:?}") });
//!
//! let my_data = MyData { name: "myname".into(), id: 123 };
//! broker.publish("some-event", my_data.clone());
//! assert_eq!(broker.publish::<MyData>("some-event", my_data).wait()?, 3);
//! // What was published is sent and handled before the broker is gone.
//! drop(broker);
//! # Ok(())
//! # }
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `builder`, `options`, `parts` | putting one together |
//! | `persistence`, `keyring` | keeping what is published, and the keys for it |
//! | `queue` | what was asked for and is not done, within its bounds |
//! | `keeper` | the thread that owns all of it: sending, settling, draining |
//! | `control` | the handle of a subscription, and what it shares with its task |
//! | `subscription`, `consumer` | a task for each subscription, which has the handler called, and acknowledges if it is to |
//! | `handling` | calling it, counting and logging what came of that |
//! | `handler`, `from_message` | what a handler can be and take, and how it is contained |
//! | `publishing`, `stats`, `waiting` | handles, counts, and waiting without a runtime |
//!
//! # What holds
//! - **Order.** What is asked of a broker is done in the order in which it is asked: a publish is seen by the subscriptions
//!   that the same broker was asked for before, and not by those that it is asked for later. Each subscription gives its
//!   messages to its handler one after the other, in that order, unless
//!   [`handlers_of_subscription`](BrokerOptions::handlers_of_subscription) allows more at a time. Subscriptions do not wait
//!   for one another.
//! - **Types.** The topic alone decides where a message goes. It travels as MessagePack with named fields, as a typed
//!   client with an empty prefix sends it, and is read as what the handler takes; a type that looks the same is the same.
//!   What cannot be read so is counted ([`BrokerStats::undecodable`]) and stands in the log: somebody publishes something
//!   else there. The bus cannot choose by type, as it sees no more than ciphertext. Topics may have wildcards, on both sides.
//! - **Threads.** A broker has its own, and needs no runtime of its caller's: it works the same where there is none, and
//!   where there is one whose only thread is blocked. The bus has one thread, on which no handler ever runs, but its
//!   [plugins](BrokerBuilder::plugin) do. Handlers that
//!   are not asynchronous may block: each takes a thread while it runs, up to [`BrokerOptions::handlers`]. Handlers may
//!   publish and subscribe, with a [`WeakBroker`].
//! - **Nothing is lost in silence.** A full queue, a message that could not be sent, one that a handler missed because it was
//!   too slow, one that it could not read, and a handler that failed or panicked: each is counted ([`Broker::stats`]) and
//!   stands in the log. A panic ends the call in which it happens and nothing else.
//! - **What is kept.** With [`Persistence`] a publish is done when its message is stored, and what is stored outlives the
//!   broker, where that is in a file. Subscriptions get what comes unless they are told where to begin
//!   ([`subscribe_with`](Broker::subscribe_with)). A durable one goes on where it was, at the next broker too: a message is
//!   done when its handler has returned without an error, and comes again until then.
//! - **An end.** A broker that is dropped or [closed](Broker::close) sends what was published, lets handlers finish, with what
//!   they publish meanwhile, and gives up after [`BrokerOptions::drain_limit`]. What durable subscriptions have not begun with
//!   stays for the next broker.

mod builder;
mod consumer;
mod control;
mod from_message;
mod handler;
mod handling;
mod keeper;
mod keyring;
mod options;
mod parts;
mod persistence;
mod publishing;
mod queue;
mod stats;
mod subscription;
mod waiting;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub use crate::client::Message;
pub use crate::engine::compression::Compression;
pub use builder::BrokerBuilder;
pub use control::BrokerSubscription;
pub use from_message::FromMessage;
pub use handler::{AsyncHandler, Handler, Outcome};
pub use options::BrokerOptions;
#[cfg(feature = "websocket")]
pub use parts::WebSocket;
pub use parts::{Encryption, Part};
pub use persistence::{Persistence, PersistenceType};
pub use publishing::Publishing;
pub use stats::BrokerStats;

use crate::client::{PublishOptions, SubscribeOptions, encode};
use crate::error::{BusError, BusResult};
use crate::transport::{Address, MemoryConnector};
use handler::Call;
use keeper::Keeper;
use queue::Shared;

/// A bus and a client in one process; see the [module](self).
///
/// Dropping it blocks the thread until what was published is sent and handlers have finished, for
/// [`BrokerOptions::drain_limit`] at the most (5 s by default), and until its [plugins](BrokerBuilder::plugin), if it has some, have
/// ended; in asynchronous code [`close`](Self::close) does the same
/// without blocking. A broker that is dropped by one of its own handlers, which cannot wait for itself, drains behind its back.
pub struct Broker {
    weak: WeakBroker,
    /// `None` once somebody waits for the end.
    keeper: Option<Keeper>,
}

impl Broker {
    /// Begins to put a broker together. Without any part it neither compresses nor encrypts, and is for this process.
    ///
    /// # Examples
    /// ```
    /// use whispeer::broker::{Broker, BrokerOptions, Compression, Encryption};
    /// # #[cfg(feature = "websocket")]
    /// use whispeer::broker::WebSocket;
    ///
    /// # fn main() -> whispeer::BusResult<()> {
    /// # #[cfg(feature = "websocket")]
    /// let broker = Broker::builder(BrokerOptions::default())
    ///     .with(Encryption::new())
    ///     .with(Compression::new())
    ///     .with(WebSocket::new("http://localhost:0"))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(options: BrokerOptions) -> BrokerBuilder {
        BrokerBuilder::new(options)
    }

    /// A broker for this process that compresses and encrypts; see [`Encryption::new`] for the key.
    pub fn build_default() -> BrokerBuilder {
        Self::builder(BrokerOptions::default()).with(Encryption::new()).with(Compression::new())
    }

    /// As [`build_default`](Self::build_default), listening for others at an address such as `http://localhost:8080`; see
    /// [`WebSocket::new`].
    #[cfg(feature = "websocket")]
    pub fn build_default_with_ws(address: impl Into<String>) -> BrokerBuilder {
        Self::build_default().with(WebSocket::new(address))
    }

    /// As [`build_default`](Self::build_default), keeping all that is published; see [`Persistence`].
    ///
    /// # Examples
    /// ```
    /// use std::path::Path;
    /// use whispeer::broker::{Broker, PersistenceType};
    ///
    /// # #[cfg(feature = "sqlite")]
    /// # fn main() -> whispeer::BusResult<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # std::env::set_current_dir(folder.path()).unwrap();
    /// let broker = Broker::build_default_with_persistence(PersistenceType::Sqlite(Path::new("./db"))).build()?;
    /// // It is on the disk when this returns, encrypted with the keyring beside it.
    /// broker.publish("some-event", 7).wait()?;
    /// assert!(Path::new("./db.keys").exists());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    pub fn build_default_with_persistence(place: PersistenceType<'_>) -> BrokerBuilder {
        Self::build_default().with(Persistence::new(place))
    }

    /// As [`build_default_with_persistence`](Self::build_default_with_persistence), listening for others at an address as
    /// [`build_default_with_ws`](Self::build_default_with_ws) does.
    ///
    /// # Examples
    /// ```no_run
    /// use std::path::Path;
    /// use whispeer::broker::{Broker, PersistenceType};
    ///
    /// # fn main() -> whispeer::BusResult<()> {
    /// let broker = Broker::build_default_with_persistence_ws("http://localhost:8080", PersistenceType::Sqlite(Path::new("./db"))).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "websocket")]
    pub fn build_default_with_persistence_ws(
        address: impl Into<String>,
        place: PersistenceType<'_>,
    ) -> BrokerBuilder {
        Self::build_default_with_persistence(place).with(WebSocket::new(address))
    }

    /// Publishes a message. It is encoded and queued at once, and this never waits.
    ///
    /// What is returned may be awaited, [waited for](Publishing::wait) or dropped. It says
    /// [`QueueFull`](BusError::QueueFull) when there was no room; nothing is published then.
    pub fn publish<T: Serialize>(&self, topic: &str, message: T) -> Publishing {
        self.weak.publish(topic, message)
    }

    /// As [`publish`](Self::publish), with options: headers, how sure it is to be, for how long it is of use, when it is to be
    /// delivered.
    ///
    /// It is queued at once as well, and times count from when the bus takes it in, which is when its turn in the queue has
    /// come. What the broker keeps ([`Persistence`]) is published with
    /// [`Quality::AtLeastOnce`](crate::client::Quality::AtLeastOnce) at the least, as by `publish`. A quality on a topic that
    /// nobody keeps fails as [`BusError::NotDurable`]. A message that is to be
    /// [delivered later](PublishOptions::deliver_in) counts as published, to 0 subscriptions, when the bus has accepted it; it
    /// outlives the broker where it is kept in a file, and otherwise ends with the bus.
    ///
    /// What is returned says [`HeadersTooLarge`](BusError::HeadersTooLarge) for headers that no message can have; nothing is
    /// published then.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use whispeer::broker::{Broker, Message};
    /// use whispeer::client::PublishOptions;
    ///
    /// # fn main() -> whispeer::BusResult<()> {
    /// let broker = Broker::build_default().build()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// broker.subscribe("prices/*", move |quote: Message<u32>| {
    ///     let shop = quote.headers.find("shop").map(str::to_owned);
    ///     println!("{} costs {} in shop {shop:?}, for {:?}", quote.topic, quote.value, quote.expires_in);
    /// #   tell.send((shop, quote.expires_in)).unwrap();
    /// });
    /// let options = PublishOptions::default().header("shop", "7").ttl(Duration::from_secs(5));
    /// assert_eq!(broker.publish_with("prices/pears", 3, options).wait()?, 1);
    /// # let told = told.recv_timeout(Duration::from_secs(30)).expect("it comes");
    /// # assert_eq!(told, (Some("7".to_owned()), Some(Duration::from_secs(5))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn publish_with<T: Serialize>(&self, topic: &str, message: T, options: PublishOptions) -> Publishing {
        self.weak.publish_with(topic, message, options)
    }

    /// Calls `handler` with each message on `topic`, which may have wildcards, on a thread where it may block.
    ///
    /// The handler takes the value, or a [`Message`] of it, which has the topic, too; see [`FromMessage`]. Dropping what is
    /// returned lets the subscription go on; see [`BrokerSubscription`].
    pub fn subscribe<T: FromMessage>(&self, topic: &str, handler: impl Handler<T>) -> BrokerSubscription {
        self.weak.subscribe(topic, handler)
    }

    /// As [`subscribe`](Self::subscribe), with a handler that is awaited. It runs on one of the broker's own
    /// [`workers`](BrokerOptions::workers), within a Tokio runtime, and must not block its thread.
    pub fn subscribe_async<T: FromMessage>(
        &self,
        topic: &str,
        handler: impl AsyncHandler<T>,
    ) -> BrokerSubscription {
        self.weak.subscribe_async(topic, handler)
    }

    /// As [`subscribe`](Self::subscribe), with options of its own in place of
    /// [those of the broker](BrokerOptions::subscribe_with): where in the stream it begins
    /// ([`start`](SubscribeOptions::start)), how sure delivery is to be ([`quality`](SubscribeOptions::quality)), a
    /// [`durable`](SubscribeOptions::durable) name under which the bus keeps how far it has come, or a
    /// [`group`](SubscribeOptions::group) that shares the messages. All but a group take topics that are kept
    /// ([`Persistence`], or a bus with streams that the broker has [joined](WebSocket::join)); others are told by
    /// [`BrokerSubscription::ready`], as [`BusError::NotDurable`].
    ///
    /// From [`Quality::AtLeastOnce`](crate::client::Quality::AtLeastOnce) on, which a durable name implies, the handler's end
    /// decides about the message. Such a subscription cannot begin with
    /// [the last of each topic](crate::client::Start::LastPerTopic).
    ///
    /// | the handler | the message |
    /// |---|---|
    /// | returns `()` or `Ok(())` | is acknowledged |
    /// | returns an error, whichever, or panics | is sent back (nacked) |
    /// | is not called, as the message cannot be opened or read | is sent back |
    /// | runs | is said to be in progress, and goes to nobody else however long that takes |
    ///
    /// What is sent back comes again after [`RETRY_DELAY`](crate::limits::RETRY_DELAY), which doubles with each attempt, and
    /// is among the dead letters (`$dead/broker/NAME`) after [`max_deliver`](SubscribeOptions::max_deliver) of them. Other
    /// messages come meanwhile. A handler that never returns keeps its message for as long as the broker lives.
    /// All this is counted: [`BrokerStats::acknowledged`], [`nacked`](BrokerStats::nacked),
    /// [`unacknowledged`](BrokerStats::unacknowledged).
    ///
    /// A durable subscription, or one in a group with a quality, begins with no further message when the broker is dropped
    /// or closed. Calls that run then may end, and their acknowledgements are on the disk before the broker has ended,
    /// within [`BrokerOptions::drain_limit`]. The rest is there for the next one. Where its store ends with the broker
    /// ([`Persistence::memory`]), and where no name keeps its place, what the bus has handed to it by then is handled
    /// first; what was sent back is not waited for.
    ///
    /// # Examples
    /// ```
    /// use std::path::Path;
    /// use whispeer::broker::{Broker, PersistenceType};
    /// use whispeer::client::{Start, SubscribeOptions};
    ///
    /// # #[cfg(feature = "sqlite")]
    /// # fn main() -> whispeer::BusResult<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let file = folder.path().join("db");
    /// # let file = file.as_path();
    /// let place = PersistenceType::Sqlite(file);
    /// Broker::build_default_with_persistence(place).build()?.publish("orders/7", "two pears").wait()?;
    ///
    /// // Another broker, perhaps after years: "billing" has not had the order.
    /// let broker = Broker::build_default_with_persistence(place).build()?;
    /// let billing = SubscribeOptions::default().durable("billing").start(Start::All);
    /// let (tell, told) = std::sync::mpsc::channel();
    /// broker.subscribe_with("orders/**", billing, move |order: String| tell.send(order));
    /// assert_eq!(told.recv().unwrap(), "two pears");
    /// // It is acknowledged when this returns, and does not come to "billing" again.
    /// drop(broker);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    pub fn subscribe_with<T: FromMessage>(
        &self,
        topic: &str,
        options: SubscribeOptions,
        handler: impl Handler<T>,
    ) -> BrokerSubscription {
        self.weak.subscribe_with(topic, options, handler)
    }

    /// As [`subscribe_with`](Self::subscribe_with), with a handler that is awaited, as by
    /// [`subscribe_async`](Self::subscribe_async).
    ///
    /// # Examples
    /// ```
    /// use whispeer::broker::{Broker, BrokerOptions, Message, Persistence};
    /// use whispeer::client::{Quality, Start, SubscribeOptions};
    ///
    /// # fn main() -> whispeer::BusResult<()> {
    /// let broker = Broker::builder(BrokerOptions::default()).with(Persistence::memory()).build()?;
    /// broker.publish("orders/7", "two pears").wait()?;
    /// let surely = SubscribeOptions::default().quality(Quality::AtLeastOnce).start(Start::All);
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// broker.subscribe_async_with("orders/**", surely, move |order: Message<String>| {
    /// #   let tell = tell.clone();
    ///     async move {
    /// #       tell.send(()).unwrap();
    ///         match order.value.as_str() {
    ///             "two pears" => Ok(()),
    ///             other => Err(format!("{}: nobody sells {other}", order.topic)),
    ///         }
    ///     }
    /// });
    /// # told.recv().unwrap();
    /// let weak = broker.weak();
    /// drop(broker);
    /// assert_eq!(weak.stats().acknowledged, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe_async_with<T: FromMessage>(
        &self,
        topic: &str,
        options: SubscribeOptions,
        handler: impl AsyncHandler<T>,
    ) -> BrokerSubscription {
        self.weak.subscribe_async_with(topic, options, handler)
    }

    /// What does not keep the broker alive: for handlers, which would otherwise keep the broker that keeps them.
    #[must_use]
    pub fn weak(&self) -> WeakBroker {
        self.weak.clone()
    }

    /// What it has done, and what there is now.
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        self.weak.shared.stats()
    }

    /// Where its bus listens for others, with the port that was chosen for 0. Nowhere if it has joined another's.
    #[must_use]
    pub fn local_addrs(&self) -> &[Address] {
        self.keeper.as_ref().map(|keeper| &*keeper.addresses).unwrap_or_default()
    }

    /// What other [clients](crate::Client) in this process connect to its bus with. They have to have the same engines.
    /// `None` if it has joined another's bus.
    #[must_use]
    pub fn connector(&self) -> Option<MemoryConnector> {
        self.keeper.as_ref()?.connector.clone()
    }

    /// Sends what was published, lets handlers finish, and ends. In a handler of its own it only begins to, and returns.
    ///
    /// # Errors
    /// [`BusError::TimedOut`] when [`BrokerOptions::drain_limit`] was not enough, with what was left.
    ///
    /// # Cancel safety
    /// The broker drains and ends by itself when the future is dropped; one that was never polled is dropped with it, which
    /// blocks.
    pub async fn close(mut self) -> BusResult<()> {
        let Some(mut keeper) = self.keeper.take() else { return Ok(()) };
        let shared = &self.weak.shared;
        shared.closing.send_replace(true);
        if keeper::is_own_thread(shared.id) {
            return Ok(());
        }
        // The sender goes when the bus has ended; the last that it has said stays.
        while keeper.end.changed().await.is_ok() {}
        let left = match *keeper.end.borrow() {
            Some(Ok(())) => return Ok(()),
            Some(Err(left)) => left,
            None => {
                tracing::error!("a broker ended abnormally");
                return Err(BusError::Closed { what: "the broker, which ended abnormally,".into() });
            }
        };
        let what = format!(
            "draining the broker, with {} messages queued, {} on their way, and {} subscriptions at work,",
            left.queued, left.in_flight, left.subscriptions
        );
        Err(BusError::TimedOut { what, after: shared.options.drain_limit })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        let shared = &self.weak.shared;
        shared.closing.send_replace(true);
        if !keeper::is_own_thread(shared.id) && keeper.thread.join().is_err() {
            tracing::error!("a broker ended abnormally");
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Broker")
            .field("addresses", &self.local_addrs())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// A [`Broker`] for those who must not keep it alive, such as its own handlers. Cheap to clone.
///
/// Once the broker has ended, all of its calls fail with [`BusError::Closed`]. While it drains they go on.
///
/// # Examples
/// ```
/// use whispeer::broker::Broker;
///
/// # fn main() -> whispeer::BusResult<()> {
/// let broker = Broker::build_default().build()?;
/// let answers = broker.weak();
/// broker.subscribe("questions", move |question: u32| {
///     answers.publish("answers", question + 1);
/// });
/// broker.subscribe("answers", |answer: u32| println!("{answer}"));
/// broker.publish("questions", 41);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WeakBroker {
    shared: Arc<Shared>,
}

impl WeakBroker {
    /// As [`Broker::publish`].
    pub fn publish<T: Serialize>(&self, topic: &str, message: T) -> Publishing {
        self.shared.publish(topic, encode(&message).map(|payload| (Vec::new(), payload)))
    }

    /// As [`Broker::publish_with`].
    #[allow(clippy::needless_pass_by_value, reason = "options are given as to a client")]
    pub fn publish_with<T: Serialize>(&self, topic: &str, message: T, options: PublishOptions) -> Publishing {
        let encoded = options.fields(&[]).and_then(|fields| Ok((fields, encode(&message)?)));
        self.shared.publish(topic, encoded)
    }

    /// As [`Broker::subscribe`].
    pub fn subscribe<T: FromMessage>(&self, topic: &str, handler: impl Handler<T>) -> BrokerSubscription {
        self.shared.subscribe(topic, None, Call::blocking(handler))
    }

    /// As [`Broker::subscribe_async`].
    pub fn subscribe_async<T: FromMessage>(
        &self,
        topic: &str,
        handler: impl AsyncHandler<T>,
    ) -> BrokerSubscription {
        self.shared.subscribe(topic, None, Call::asynchronous(handler))
    }

    /// As [`Broker::subscribe_with`].
    pub fn subscribe_with<T: FromMessage>(
        &self,
        topic: &str,
        options: SubscribeOptions,
        handler: impl Handler<T>,
    ) -> BrokerSubscription {
        self.shared.subscribe(topic, Some(options), Call::blocking(handler))
    }

    /// As [`Broker::subscribe_async_with`].
    pub fn subscribe_async_with<T: FromMessage>(
        &self,
        topic: &str,
        options: SubscribeOptions,
        handler: impl AsyncHandler<T>,
    ) -> BrokerSubscription {
        self.shared.subscribe(topic, Some(options), Call::asynchronous(handler))
    }

    /// As [`Broker::stats`].
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        self.shared.stats()
    }
}

impl fmt::Debug for WeakBroker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WeakBroker").finish_non_exhaustive()
    }
}
