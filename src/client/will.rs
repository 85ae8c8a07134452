//! Last wills: what the bus publishes when this client is gone without having closed its connection.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Client;
use super::codec::{encode, wire_publish};
use super::options::PublishOptions;
use super::protocol::PublishProtocol;
use super::sealing::Sealing;
use super::shared::{Connection, Shared};
use crate::engine::{Engines, MessageKind};
use crate::error::{BusError, BusResult};
use crate::proto::{Content, Header, Kind};

/// A message for later, and what seals it.
#[derive(Clone)]
pub(super) struct Will {
    topic: String,
    fields: Bytes,
    /// As it was given. It is sealed anew for each session.
    payload: Bytes,
}

impl Will {
    pub(super) fn typed<P: PublishProtocol>(
        topic: &str,
        message: &P,
        options: &PublishOptions,
    ) -> BusResult<Self> {
        Self::checked(wire_publish(P::prefix(), topic)?, encode(message)?, options)
    }

    pub(super) fn bytes(topic: &str, payload: Bytes, options: &PublishOptions) -> BusResult<Self> {
        Self::checked(wire_publish("", topic)?, payload, options)
    }

    fn checked(topic: String, payload: Bytes, options: &PublishOptions) -> BusResult<Self> {
        if topic.is_empty() {
            let what = "a will needs a topic that is not empty".to_owned();
            return Err(BusError::InvalidSettings(what));
        }
        Ok(Self { topic, fields: options.fields(&[])?.into(), payload })
    }

    /// What is sent of it. It is sealed as of a sender of its own, whose only message it is: so receivers that have seen many
    /// later messages of this client do not take it for one that comes again.
    fn content(
        &self,
        shared: &Arc<Shared>,
        (engines, passes_sealed): (Engines, bool),
    ) -> BusResult<Arc<Content>> {
        let mut payload = self.payload.clone();
        if let Some(sealing) = Sealing::new(engines.checked()?, shared, passes_sealed) {
            let seal = sealing.seal(&self.topic)?;
            let outgoing = seal.outgoing(MessageKind::Publish, &self.fields);
            if outgoing.seals(&payload) {
                let mut sealed = Vec::new();
                outgoing.seal(&payload, &mut sealed)?;
                payload = sealed.into();
            }
        }
        let content = Content::new(self.fields.clone(), self.topic.clone().into(), payload);
        if let Some(session) = shared.session() {
            session.check_size(content.frame_size())?;
        }
        Ok(Arc::new(content))
    }
}

impl fmt::Debug for Will {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Will").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The will of a connection.
#[derive(Debug, Default)]
pub(super) struct Testament {
    current: Option<Arc<Will>>,
    engines: Engines,
    passes_sealed: bool,
}

/// A change of the will that the bus has not answered.
#[derive(Debug)]
pub(super) struct Change {
    told: Option<oneshot::Sender<BusResult<()>>>,
    /// What holds if the bus refuses it.
    before: Option<Arc<Will>>,
}

impl Testament {
    /// The engines of the client, of which others are made for senders of their own, and whether it passes on what is sealed.
    pub(super) fn engines(&self) -> (Engines, bool) {
        (self.engines.clone(), self.passes_sealed)
    }

    pub(super) fn new(current: Option<Will>, engines: Engines, passes_sealed: bool) -> Self {
        Self { current: current.map(Arc::new), engines, passes_sealed }
    }
}

impl Change {
    /// Nobody will answer any more.
    pub(super) fn give_up(self, error: BusError) {
        if let Some(told) = self.told {
            // The future that waited may have been dropped.
            let _ = told.send(Err(error));
        }
    }
}

impl Shared {
    /// Sends the will at a session that has just begun.
    pub(super) fn send_will(self: &Arc<Self>) {
        let (will, engines) = {
            let state = self.lock();
            (state.testament.current.clone(), state.testament.engines())
        };
        let Some(will) = will else { return };
        match will.content(self, engines) {
            Ok(content) => drop(self.change_will(Some(will), &content, None)),
            Err(error) => tracing::warn!(%error, "the will cannot be sent"),
        }
    }

    fn change_will(
        &self,
        will: Option<Arc<Will>>,
        content: &Arc<Content>,
        told: Option<oneshot::Sender<BusResult<()>>>,
    ) -> BusResult<()> {
        let mut state = self.lock();
        state.check()?;
        let before = std::mem::replace(&mut state.testament.current, will);
        let id = state.will_changes.insert(Change { told, before });
        state.lanes.data(&Header::new(Kind::Will, id, 0), &content.borrowed());
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
        Ok(())
    }

    /// The bus has answered a change of the will.
    pub(super) fn will_changed(&self, id: u32, result: BusResult<()>) {
        let mut state = self.lock();
        let Some(change) = state.will_changes.entries.remove(&id) else { return };
        if result.is_err() {
            state.testament.current = change.before;
        }
        drop(state);
        match (change.told, result) {
            (Some(told), result) => drop(told.send(result)),
            (None, Err(error)) => tracing::warn!(%error, "the bus does not take the will"),
            (None, Ok(())) => {}
        }
    }
}

impl Connection {
    pub(super) async fn set_will(&self, will: Option<Will>) -> BusResult<()> {
        let shared = &self.shared;
        shared.opened().await?;
        shared.room().await?;
        let engines = shared.lock().testament.engines();
        let content = match &will {
            Some(will) => will.content(shared, engines)?,
            None => Arc::new(Content::new(Bytes::new(), Bytes::new(), Bytes::new())),
        };
        let (told, answer) = oneshot::channel();
        shared.change_will(will.map(Arc::new), &content, Some(told))?;
        answer.await.unwrap_or_else(|_| Err(shared.reason()))
    }
}

impl Client {
    /// Has the bus publish a message when this client is gone without having closed its connection, in place of the will
    /// before.
    ///
    /// It is gone when its connection has broken and it has not come back in time (`Settings::resume_limit`), when it gives no
    /// sign of life, when its process is killed, and when the bus cuts it off. It is not when it is closed, or
    /// its last handle dropped, and not when the bus ends. A client that gets a new session sends its will there; the will of
    /// the session before has been published by then, or is. Whether it may publish there is looked at now and then.
    ///
    /// With engines the will is sealed now, and again for each session. Receivers that take only what is
    /// fresh (`Encryption::fresh_within`) refuse one that was set longer ago than that: set it anew from time to time for those.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with), for topics that this client may not publish to and a quality that their streams
    /// do not have, too; [`BusError::InvalidSettings`] for the empty topic, and for one that is to be published later. The will before
    /// stays then.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it may be set or not.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::PublishOptions;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// client.set_will_bytes("workers/7", "gone", PublishOptions::default()).await?;
    /// // Its work is done, and nobody need be told.
    /// client.clear_will().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_will_bytes(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> BusResult<()> {
        self.connection.set_will(Some(Will::bytes(topic, payload.into(), &options)?)).await
    }

    /// [`set_will_bytes`](Self::set_will_bytes) for a typed message.
    ///
    /// # Errors
    /// As [`set_will_bytes`](Self::set_will_bytes), and [`BusError::Encode`].
    ///
    /// # Cancel safety
    /// As [`set_will_bytes`](Self::set_will_bytes).
    pub async fn set_will<P: PublishProtocol>(
        &self,
        topic: &str,
        message: &P,
        options: PublishOptions,
    ) -> BusResult<()> {
        self.connection.set_will(Some(Will::typed(topic, message, &options)?)).await
    }

    /// Takes the will back. Without one, this does nothing.
    ///
    /// # Errors
    /// Why the connection ended.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the will may be there or not.
    pub async fn clear_will(&self) -> BusResult<()> {
        self.connection.set_will(None).await
    }
}
