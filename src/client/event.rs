//! What a subscription yields.

use std::time::Duration;

use super::options::Headers;
use crate::error::BusError;
#[cfg(feature = "broker")]
use crate::error::BusResult;
use crate::proto::fields::{Attempt, GapReason, Position};
use crate::topic::TopicPattern;

/// A message with all that came with it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Message<T> {
    /// The topic as the publisher wrote it, without the protocol's prefix; with wildcards if the
    /// publisher used some.
    pub topic: TopicPattern,
    /// The value.
    pub value: T,
    /// What the publisher sent along.
    pub headers: Headers,
    /// The id of the bus that the message was first published on, where it is not this one.
    pub origin: Option<u64>,
    /// The public key, of Ed25519, of whoever has signed the message, where that has been checked.
    pub signer: Option<[u8; 32]>,
    /// Where it lies in its stream, if the subscription reads one.
    pub position: Option<Position>,
    /// How often it was tried, where the subscription acknowledges.
    pub attempt: Option<Attempt>,
    /// How long it is of use, if its publisher has said so: what was left of that when the bus took it in, or read it
    /// from its stream. What it has waited since then is not taken off.
    pub expires_in: Option<Duration>,
}

#[cfg(feature = "broker")]
impl<T> Message<T> {
    /// The same message with another value, which is read from this one's and the topic.
    pub(crate) fn try_map<U>(
        self,
        read: impl FnOnce(T, &TopicPattern) -> BusResult<U>,
    ) -> BusResult<Message<U>> {
        let Self { topic, value, headers, origin, signer, position, attempt, expires_in } = self;
        let value = read(value, &topic)?;
        Ok(Message { topic, value, headers, origin, signer, position, attempt, expires_in })
    }
}

/// The next thing that happened to a subscription, in order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<T> {
    /// A message.
    Message(Message<T>),
    /// Messages that matched and were dropped. After a new session has begun, with the reason
    /// [`Link`](GapReason::Link) and the count 0: so many as nobody can tell, perhaps none. A subscription that reads a stream
    /// goes on where it was instead, unless it had begun with the last messages and none had come; where that is another
    /// stream by then, it is told the reason [`Recreated`](GapReason::Recreated) and the count 0.
    Gap {
        /// How many.
        count: u64,
        /// Why.
        reason: GapReason,
    },
    /// A message that is not what this subscription decodes. Its connection and all that follows are
    /// unharmed.
    Undecodable {
        /// The topic as the publisher wrote it, without the prefix.
        topic: TopicPattern,
        /// What the decoder says.
        error: BusError,
    },
}

/// What became of the matches of a subscription, as far as this client knows.
///
/// At all times `received = taken + pending`; with the sum of `gaps` that is every match that the bus
/// has counted for the subscription up to the last frame that arrived.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let client = Client::new_memory(&connector)?;
/// let mut subscription = client.subscribe_bytes("news").await?;
/// client.publish_bytes("news", "first").await?;
/// subscription.recv().await;
/// let counts = subscription.counts();
/// assert_eq!((counts.received, counts.taken, counts.pending), (1, 1, 0));
/// assert_eq!(counts.dropped(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Messages that arrived.
    pub received: u64,
    /// Messages that the application took, undecodable ones included.
    pub taken: u64,
    /// Messages that arrived and wait to be taken.
    pub pending: u64,
    /// Matches that were dropped, in the order of [`GapReason::ALL`].
    pub gaps: [u64; GapReason::ALL.len()],
}

impl Counts {
    /// Matches that were dropped for this reason.
    #[must_use]
    pub fn dropped_for(&self, reason: GapReason) -> u64 {
        self.gaps.get(reason.index()).copied().unwrap_or_default()
    }

    /// Matches that were dropped for any reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.gaps.iter().sum()
    }
}
