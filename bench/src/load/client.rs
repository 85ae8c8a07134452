//! What a client can do, whatever the bus: the load is written once, against these traits.

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use super::receiver::Receiver;
use crate::address::Address;

/// Ends with the receiver once every stream has ended.
pub type Receiving = LocalBoxFuture<'static, Result<Receiver>>;

/// A connection that publishes or subscribes.
///
/// Topics are written `a/b`; in patterns `*` is one fragment, and `**` at the end one or more. A
/// client whose bus writes them otherwise translates.
pub trait PubSub: Sized {
    /// Publishes to one topic.
    type Publisher: Publisher;
    /// A subscription that nothing is received from.
    type Held;

    /// Connects to the bus.
    ///
    /// # Errors
    /// When it cannot be reached.
    async fn connect(address: &Address) -> Result<Self>;

    /// A publisher of payloads of one size.
    ///
    /// # Errors
    /// When the bus refuses.
    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<Self::Publisher>;

    /// Subscribes to all `patterns`, and once the bus has them all gives what receives from them.
    ///
    /// # Errors
    /// When the bus refuses.
    async fn subscribe(&self, patterns: Vec<String>, receiver: Receiver) -> Result<Receiving>;

    /// Subscribes to a topic where nobody publishes.
    ///
    /// # Errors
    /// When the bus refuses.
    async fn hold(&self, pattern: &str) -> Result<Self::Held>;

    /// Ends a held subscription.
    ///
    /// # Errors
    /// When the bus has gone.
    async fn release(&self, held: Self::Held) -> Result<()>;
}

/// Publishes to one topic.
pub trait Publisher {
    /// Sends a message as soon as there is room for it. `write` is given the payload's memory,
    /// which holds whatever an earlier message left there.
    ///
    /// # Errors
    /// When the bus has gone or refuses the message.
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()>;

    /// As [`send`](Self::send), to another topic.
    ///
    /// # Errors
    /// As [`send`](Self::send); or when the client cannot.
    async fn send_to(&mut self, _topic: &str, _write: impl FnOnce(&mut [u8])) -> Result<()> {
        bail!("this client publishes to one topic only")
    }

    /// Sees to it that nothing that was sent waits for more to come. A client that does so by
    /// itself has nothing to do.
    ///
    /// # Errors
    /// When the bus has gone.
    async fn push(&mut self) -> Result<()> {
        Ok(())
    }

    /// As [`push`](Self::push), at the end of the load.
    ///
    /// # Errors
    /// When the bus has gone, or refused a message before.
    async fn finish(&mut self) -> Result<()> {
        self.push().await
    }
}

/// A connection that asks, or answers.
pub trait Requester: Sized {
    /// Connects to the bus, or to the server.
    ///
    /// # Errors
    /// When it cannot be reached.
    async fn connect(address: &Address) -> Result<Self>;

    /// Connects to the bus to answer there, or becomes the server.
    ///
    /// # Errors
    /// When the bus cannot be reached, or the server cannot listen.
    async fn answerer(address: &Address) -> Result<Self> {
        Self::connect(address).await
    }

    /// Answers each request with its own payload, until the process is ended; calls `ready` once
    /// requests will be answered.
    ///
    /// # Errors
    /// When the bus goes away.
    async fn answer(self, ready: impl FnOnce()) -> Result<()>;

    /// Makes a request, and gives its answer to `look`.
    ///
    /// # Errors
    /// When it is not answered.
    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T>;
}
