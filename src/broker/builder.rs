//! Putting a broker together.

use std::fmt;
use std::sync::Arc;

use super::keeper::{self, Plan};
use super::options::BrokerOptions;
use super::parts::{Encryption, Part};
use super::queue::Shared;
use super::waiting::block_on;
use super::{Broker, WeakBroker};
use crate::engine::compression::Compression;
use crate::engine::{Engines, encryption};
use crate::error::BusResult;

#[cfg(feature = "websocket")]
use super::parts::WebSocket;

/// A broker that is being put together; see [`Broker::builder`].
#[must_use = "a builder does nothing until `build`"]
pub struct BrokerBuilder {
    options: BrokerOptions,
    pub(super) encryption: Option<Encrypting>,
    pub(super) compression: Option<Compression>,
    #[cfg(feature = "websocket")]
    pub(super) websocket: Option<WebSocket>,
}

/// How a broker encrypts.
pub(super) enum Encrypting {
    Keys(Encryption),
    Engine(encryption::Encryption),
}

impl BrokerBuilder {
    pub(super) fn new(options: BrokerOptions) -> Self {
        Self {
            options,
            encryption: None,
            compression: None,
            #[cfg(feature = "websocket")]
            websocket: None,
        }
    }

    /// Adds a part: [`Encryption`], [`Compression`], [`WebSocket`](super::WebSocket).
    pub fn with(mut self, part: impl Part) -> Self {
        part.add(&mut self);
        self
    }

    /// Starts the broker, and blocks the thread until it runs or says why it cannot. Without a bus to join that is as long
    /// as it takes to start some threads; with one, 5 s at the most.
    ///
    /// It needs no Tokio runtime. Within one, [`build_async`](Self::build_async) leaves the thread to others; a broker that
    /// joins a bus that runs on the very thread that waits here would not find it.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) for options that cannot be, and keyrings that cannot be
    /// read; what [`BusBuilder::start`](crate::bus::BusBuilder::start) says of an address that cannot be listened on, and
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
        let mut engines = Engines::new();
        if let Some(compression) = self.compression {
            engines = engines.with(compression);
        }
        engines = match self.encryption {
            Some(Encrypting::Keys(keys)) => engines.with(keys.engine()?),
            Some(Encrypting::Engine(engine)) => engines.with(engine),
            None => engines,
        };
        let plan = Plan {
            engines,
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
            .field("compression", &self.compression);
        #[cfg(feature = "websocket")]
        shown.field("websocket", &self.websocket);
        shown.finish()
    }
}
