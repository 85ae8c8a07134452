//! What a handler can take.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::client::{Message, decode_value};
use crate::error::BusResult;

/// What a handler can take: the value of a message, of any type that can be read ([`DeserializeOwned`]), or a [`Message`] of
/// one, which has the topic that it was published to, its headers, where it lies in its stream and since when, and
/// whether it was delivered before.
///
/// It is of these two kinds only: [`Message`] cannot be read itself, so that a closure's argument always tells which is meant.
///
/// # Examples
/// ```
/// use whispeer::broker::{Broker, BrokerOptions, Message, Persistence};
/// use whispeer::client::SubscribeOptions;
///
/// # fn main() -> whispeer::BusResult<()> {
/// let broker = Broker::builder(BrokerOptions::default()).with(Persistence::memory()).build()?;
/// let billing = SubscribeOptions::default().durable("billing");
/// # let (tell, told) = std::sync::mpsc::channel();
/// broker.subscribe_with("orders/*", billing, move |order: Message<String>| {
///     assert_eq!(order.topic.as_str(), "orders/7");
///     assert_eq!(order.value, "two pears");
///     // It is durable, so it has a place and a number of attempts. A plain subscription's messages have neither.
///     let (position, attempt) = (order.position.unwrap(), order.attempt.unwrap());
///     assert_eq!((position.sequence, attempt.number, attempt.redelivered), (1, 1, false));
///     println!("stored {} ms after 1970", position.time);
/// #   tell.send(()).unwrap();
/// });
/// broker.publish("orders/7", "two pears").wait()?;
/// # told.recv_timeout(std::time::Duration::from_secs(30)).expect("the handler is called and does not panic");
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `{Self}`",
    label = "neither a type that can be read nor a `Message` of one",
    note = "a handler takes a type that implements `serde::de::DeserializeOwned`, or `Message` of such a type"
)]
pub trait FromMessage: Sized {
    /// Reads it.
    #[doc(hidden)]
    fn from_message(message: Message<Bytes>, sealed: Sealed) -> BusResult<Self>;
}

impl<T: DeserializeOwned> FromMessage for T {
    fn from_message(message: Message<Bytes>, _: Sealed) -> BusResult<Self> {
        decode_value(&message.value, message.topic.as_str())
    }
}

impl<T: DeserializeOwned> FromMessage for Message<T> {
    fn from_message(message: Message<Bytes>, _: Sealed) -> BusResult<Self> {
        message.try_map(|payload, topic| decode_value(&payload, topic.as_str()))
    }
}

/// What only a broker has, so that nobody else can ask for a message to be read, nor be one that is.
#[doc(hidden)]
#[derive(Debug)]
pub struct Sealed(());

/// Reads what a handler takes.
pub(super) fn read<T: FromMessage>(message: Message<Bytes>) -> BusResult<T> {
    T::from_message(message, Sealed(()))
}
