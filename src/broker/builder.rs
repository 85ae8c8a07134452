//! Putting a broker together.

use std::fmt;
use std::sync::Arc;

use super::keeper::{self, Plan};
use super::options::BrokerOptions;
use super::parts::{Encryption, Part};
use super::persistence::{Kept, Persistence};
use super::queue::Shared;
use super::waiting::block_on;
use super::{Broker, WeakBroker};
use crate::engine::compression::Compression;
use crate::engine::encryption;
use crate::error::BusResult;
use crate::plugin::{Plugin, Plugins};

#[cfg(feature = "websocket")]
use super::parts::WebSocket;

/// A broker that is being put together; see [`Broker::builder`].
#[must_use = "a builder does nothing until `build`"]
pub struct BrokerBuilder {
    options: BrokerOptions,
    pub(super) encryption: Option<Encrypting>,
    pub(super) compression: Option<Compression>,
    pub(super) persistence: Option<Persistence>,
    plugins: Plugins,
    #[cfg(feature = "websocket")]
    pub(super) websocket: Option<WebSocket>,
}

/// How a broker encrypts.
pub(super) enum Encrypting {
    Keys(Encryption),
    Engine(encryption::Encryption),
}

impl Encrypting {
    /// The engine, with the keys of those who have named none.
    pub(super) async fn engine(self, kept: Option<&Kept>) -> BusResult<encryption::Encryption> {
        match self {
            Self::Keys(keys) => keys.engine(kept).await,
            Self::Engine(engine) => Ok(engine),
        }
    }
}

impl BrokerBuilder {
    pub(super) fn new(options: BrokerOptions) -> Self {
        Self {
            options,
            encryption: None,
            compression: None,
            persistence: None,
            plugins: Plugins::new(),
            #[cfg(feature = "websocket")]
            websocket: None,
        }
    }

    /// Adds a part: [`Encryption`], [`Compression`], [`Persistence`], [`WebSocket`](super::WebSocket).
    pub fn with(mut self, part: impl Part) -> Self {
        part.add(&mut self);
        self
    }

    /// Has this plugin see, change and refuse what happens at the broker's bus, behind those that were given before; see
    /// [`plugin`](crate::plugin). It sees what the broker itself publishes and subscribes to as well as what others do.
    ///
    /// What a broker encrypts or compresses its plugins see sealed: its topic and headers, and a payload that they can neither read
    /// nor change ([`BusError::Sealed`](crate::BusError::Sealed)). For [`MessageTypes`](crate::plugin::MessageTypes) and the like it
    /// has to be built without [`Encryption`] and [`Compression`]; payloads are MessagePack then.
    ///
    /// Plugins are called on the thread that the bus has, which all of the broker waits for: one that blocks it holds everything up, and
    /// one that waits for its own broker there does for ever. `build` waits for [`on_init`](Plugin::on_init), and the end of the broker
    /// for [`on_shutdown`](Plugin::on_shutdown) beyond [`BrokerOptions::drain_limit`], of each for
    /// [`PLUGIN_START`](crate::limits::PLUGIN_START) at the most.
    ///
    /// [`build`](Self::build) fails with [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) for more than
    /// [`PLUGINS`](crate::limits::PLUGINS), for a name that is empty, too long or there twice, and for a broker that joins another's bus,
    /// which has the plugins.
    ///
    /// # Examples
    /// ```
    /// use whispeer::broker::{Broker, BrokerOptions};
    /// use whispeer::plugin::{Logging, MessageTypes};
    /// use whispeer::prelude::*;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices = MessageTypes::new().schema(TopicPattern::new("prices/*")?, "{cents: integer}".parse()?);
    /// let broker =
    ///     Broker::builder(BrokerOptions::default()).plugin(prices).plugin(Logging::new()).build()?;
    /// let refused = broker.publish("prices/pears", "three").wait().unwrap_err();
    /// assert!(refused.to_string().contains("\"message-types\""), "{refused}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn plugin(mut self, plugin: impl Plugin) -> Self {
        self.plugins = self.plugins.with(plugin);
        self
    }

    /// Starts the broker, and blocks the thread until it runs or says why it cannot. Without a bus to join that is as long
    /// as it takes to start some threads, and [plugins](Self::plugin); with one, 5 s at the most.
    ///
    /// It needs no Tokio runtime. Within one, [`build_async`](Self::build_async) leaves the thread to others; a broker that
    /// joins a bus that runs on the very thread that waits here would not find it.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) for options that cannot be, keyrings that cannot be
    /// read or are missing ([`Encryption::new`]), and stores that cannot be opened; what [`BusBuilder::start`](crate::bus::BusBuilder::start) says of an address that cannot be listened on, and
    /// [`ClientBuilder::connect`](crate::client::ClientBuilder::connect) of one where no bus is.
    pub fn build(self) -> BusResult<Broker> {
        block_on(self.build_async())
    }

    /// [`build`](Self::build) without blocking the thread.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    ///
    /// # Cancel safety
    /// When dropped, the broker ends as soon as it has begun.
    pub async fn build_async(self) -> BusResult<Broker> {
        self.options.check()?;
        let plan = Plan {
            encryption: self.encryption,
            compression: self.compression,
            persistence: self.persistence,
            plugins: self.plugins,
            #[cfg(feature = "websocket")]
            websocket: match self.websocket {
                Some(websocket) => Some((websocket.parsed()?, websocket)),
                None => None,
            },
        };
        let shared = Shared::new(self.options);
        let keeper = keeper::start(Arc::clone(&shared), plan)?.await?;
        Ok(Broker { weak: WeakBroker { shared }, keeper: Some(keeper) })
    }
}

impl fmt::Debug for BrokerBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("BrokerBuilder");
        shown
            .field("options", &self.options)
            .field("encryption", &self.encryption.is_some())
            .field("compression", &self.compression)
            .field("persistence", &self.persistence)
            .field("plugins", &self.plugins);
        #[cfg(feature = "websocket")]
        shown.field("websocket", &self.websocket);
        shown.finish()
    }
}
