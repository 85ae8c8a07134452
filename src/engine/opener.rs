//! Opening payloads outside of a client.

use std::borrow::Cow;
use std::fmt;

use super::{Context, EngineError, Engines, Memories, MessageKind, Place, Rules};
use crate::error::BusResult;
use crate::limits;
use crate::proto::EncodingOwner;

/// Opens payloads of published messages outside of a client, as often as they are there: for who hands messages on to others, as
/// a gateway does, or looks at what was stored.
///
/// A topic's payloads are opened with the chain that is for it, and with engines for [reading](Engines::reading); not also, as a
/// client does, with those that are there for other topics. So what no rule is for stays sealed to whom this is shown.
///
/// Every message counts as one from a store: it may be of any age, and may come again. An engine that
/// [encrypts](super::encryption) still refuses what was made up, was bound to another topic, or is not signed by whom it
/// trusts. Whoever needs to know that a message is new subscribes with a client.
///
/// Any number of threads may open at once. Nothing is locked while one does.
///
/// # Examples
/// ```
/// # #[cfg(feature = "encryption")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use whispeer::engine::encryption::{Encryption, Key, Keyring};
/// use whispeer::engine::{Chain, Engines, PayloadOpener};
/// use whispeer::prelude::*;
///
/// let keyring = Keyring::with(Key::generate()?)?;
/// let engines = Engines::new().topic("orders/**", Chain::new().with(Encryption::new(&keyring)?));
/// let opener = PayloadOpener::new(engines.clone())?;
///
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let shop = Client::builder().engines(engines).connect_memory(&connector)?;
/// let outsider = Client::new_memory(&connector)?;
/// let mut orders = outsider.subscribe_bytes("orders/*").await?;
/// shop.publish_bytes("orders/7", "two apples").await?;
///
/// let (topic, sealed) = orders.recv().await.expect("the bus runs");
/// for _ in 0..2 {
///     assert_eq!(&opener.open(topic.as_str(), &sealed)?[..], b"two apples");
/// }
/// assert!(opener.open("orders/8", &sealed).is_err());
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "encryption"))]
/// # fn main() {}
/// ```
pub struct PayloadOpener {
    rules: Rules,
    memories: Memories,
    limit: usize,
    owner: EncodingOwner,
}

impl PayloadOpener {
    /// Opens with these engines payloads that have up to [`limits::FRAME_LIMIT`] bytes when they are open.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`](crate::BusError::InvalidTopic) for a pattern of a rule that is none, and
    /// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) for two engines of one id in a chain, a chain of more than
    /// [`limits::ENGINES`] or more than [`limits::ENGINE_RULES`] rules.
    pub fn new(engines: Engines) -> BusResult<Self> {
        Ok(Self {
            rules: engines.checked_for_opening()?,
            memories: Memories::default(),
            limit: limits::FRAME_LIMIT,
            owner: EncodingOwner::new(),
        })
    }

    /// Opens payloads that have up to so many bytes when they are open, as for a bus whose frames may be larger.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// By which what was made of opened payloads is [kept beside a message](crate::proto::Content::encoded_for), apart from what
    /// others who open it, or do not, have made of it. No other opener of this process has the same.
    #[must_use]
    pub fn owner(&self) -> EncodingOwner {
        self.owner
    }

    /// The payload within one that was published to `topic`, which is the whole topic or pattern as its publisher wrote it. One
    /// that is not sealed comes back as it is, where the chain for the topic requires nothing.
    ///
    /// A dead letter was sealed for the topic that it was published to, which a header of it tells.
    ///
    /// # Errors
    /// Why it cannot be opened: among others [`EngineError::UnknownEngine`] for what no engine of the topic has sealed, an error
    /// of the engine for what it refuses, [`EngineError::Missing`] for what is not sealed though it has to be,
    /// [`EngineError::NoRule`] for a pattern that no rule covers alone and [`EngineError::TooLarge`] for what is beyond the
    /// [limit](Self::limit).
    pub fn open<'a>(&self, topic: &str, payload: &'a [u8]) -> Result<Cow<'a, [u8]>, EngineError> {
        let chain = self.rules.find(topic)?;
        let mut context = Context::new(topic, MessageKind::Publish);
        (context.stored, context.limit) = (true, self.limit.saturating_add(limits::SEALING_SLACK));
        self.memories.with(|memory| {
            let (place, _) = self.rules.open(&context, chain, memory, payload)?;
            if memory.payload(payload, place).len() > self.limit {
                return Err(EngineError::TooLarge { limit: self.limit });
            }
            Ok(match place {
                Place::Arrived(start) => Cow::Borrowed(payload.get(start..).unwrap_or_default()),
                // The memory keeps its buffer, which is large enough for most.
                Place::Buffer(_) => Cow::Owned(memory.payload(payload, place).to_vec()),
            })
        })
    }
}

impl fmt::Debug for PayloadOpener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PayloadOpener").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
