//! Code of your own in the bus: it sees who connects, subscribes and publishes, and may change or refuse it.
//!
//! A [`Plugin`] is given to the bus by [`BusBuilder::plugin`](crate::bus::BusBuilder::plugin). Several are called in the
//! order in which they were given, and in the reverse one on the way out.
//!
//! | hook | called | its error |
//! |---|---|---|
//! | [`on_init`](Plugin::on_init) | before anybody is let in | the plugin has failed |
//! | [`on_connect`](Plugin::on_connect) | after a client has shown who it is | it is turned away |
//! | [`on_subscribe`](Plugin::on_subscribe) | for a subscription that its session may have | it is refused |
//! | [`on_publish`](Plugin::on_publish) | for a message that its session may publish, before it is stored | it is refused |
//! | [`on_deliver`](Plugin::on_deliver), reversed | for each match of a message | that match does not get it |
//! | [`on_ack`](Plugin::on_ack) | when a durable consumer has acknowledged a message | told in the log |
//! | [`on_disconnect`](Plugin::on_disconnect), reversed | when a session has ended | told in the log |
//! | [`on_shutdown`](Plugin::on_shutdown), reversed | when all sessions have ended | told in the log |
//!
//! `on_publish` and `on_deliver` answer at once, on the task that routes the message: they hold up its publisher, and
//! all sessions that share its worker thread. The others may wait, each at most [`PLUGIN_HOOK`](crate::limits::PLUGIN_HOOK), the first and the last at
//! most [`PLUGIN_START`](crate::limits::PLUGIN_START).
//!
//! # When a plugin fails
//! A panic, also in what is dropped when a hook has ended or is given up, or a wait that is too long, is caught, told in the log and counted
//! ([`PluginStats::failed`]); bus, session and other plugins go on. What the plugin was asked about then is
//! refused: a bus does not let pass what a plugin should have looked at. A plugin that only looks on says
//! otherwise by [`OnFailure::GoOn`]. One that fails in `on_init` is not called any more, and what it was to decide
//! about is refused or goes on in the same way.
//!
//! # What plugins do not see
//! Requests and replies; sessions of the bus itself, and what these publish; the payload of what is sealed end to end,
//! which they can neither read nor change ([`BusError::Sealed`]).
//!
//! # Built in
//! [`Logging`], [`MessageTypes`] and [`Transform`]; `Metrics` with the feature `metrics`; `RateLimit` with the feature
//! `rate-limit`.

mod contained;
mod hooks;
mod logging;
mod message;
mod message_types;
#[cfg(feature = "metrics")]
mod metrics;
mod plugins;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod session;
mod telling;
mod transform;

use std::future::Future;
use std::sync::Arc;

pub use self::hooks::Hooks;
pub use self::logging::Logging;
pub(crate) use self::message::Changed;
pub use self::message::{Delivery, Publishing, Receiver};
pub use self::message_types::{MessageTypes, Schema, SchemaError};
#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
pub(crate) use self::plugins::Verdict;
pub use self::plugins::{PluginStats, Plugins};
#[cfg(feature = "rate-limit")]
pub use self::rate_limit::{Rate, RateLimit};
pub use self::session::{Acknowledged, Session, Startup, Subscribing};
pub use self::transform::Transform;
use crate::error::BusError;

/// What a hook answers.
pub type HookResult = Result<(), Refused>;

/// Why a plugin refuses something.
///
/// Whoever asked gets a text as [`BusError::Refused`] with the name of the plugin, and any other error as it is.
///
/// # Examples
/// ```
/// use whispeer::plugin::{HookResult, Publishing, Refused};
///
/// fn on_publish(message: &mut Publishing<'_>) -> HookResult {
///     if message.payload().is_empty() {
///         return Err(Refused::new("an empty message tells nothing"));
///     }
///     // An error of the bus is a refusal, too.
///     message.set_topic("checked/in")?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct Refused(Cause);

#[derive(Debug, Clone, thiserror::Error)]
enum Cause {
    #[error("{0}")]
    Reason(String),
    #[error(transparent)]
    Error(BusError),
}

impl Refused {
    /// For this reason, in words for the person who is refused.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(Cause::Reason(reason.into()))
    }

    /// What whoever asked is told.
    pub(crate) fn into_error(self, plugin: &str) -> BusError {
        match self.0 {
            Cause::Reason(reason) => BusError::Refused { plugin: plugin.to_owned(), reason },
            Cause::Error(error) => error,
        }
    }
}

impl From<BusError> for Refused {
    fn from(error: BusError) -> Self {
        Self(Cause::Error(error))
    }
}

/// What becomes of something when a plugin that was asked about it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnFailure {
    /// It is refused, and a delivery withheld: nothing passes that the plugin has not looked at.
    #[default]
    Refuse,
    /// It goes on as if there were no such plugin. For those that only look on.
    GoOn,
}

/// Code that a bus calls as things happen; see the [module](self).
///
/// # Examples
/// A plugin that lets each session publish to its own topic only:
/// ```
/// use whispeer::plugin::{HookResult, Hooks, Plugin, Publishing, Refused};
/// use whispeer::prelude::*;
///
/// struct OwnTopic;
///
/// impl Plugin for OwnTopic {
///     fn name(&self) -> &str {
///         "own-topic"
///     }
///
///     fn hooks(&self) -> Hooks {
///         Hooks::PUBLISH
///     }
///
///     fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
///         let own = message.session().name.as_str();
///         match message.topic().fragments().next() {
///             Some(first) if first == own => Ok(()),
///             _ => Err(Refused::new(format!("publish below \"{own}\""))),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let bus = Bus::builder().plugin(OwnTopic).start()?;
/// let ann = Client::builder().name("ann").connect_memory(&bus.connector())?;
/// ann.publish_bytes("ann/news", "hello").await?;
/// let refused = ann.publish_bytes("bob/news", "hello").await;
/// assert!(matches!(refused, Err(BusError::Refused { plugin, .. }) if plugin == "own-topic"));
/// # Ok(())
/// # }
/// ```
pub trait Plugin: Send + Sync + 'static {
    /// What it is called in errors, logs and counts: 1 to [`PLUGIN_NAME_BYTES`](crate::limits::PLUGIN_NAME_BYTES) bytes,
    /// and no other plugin of the bus has the same. Asked once.
    fn name(&self) -> &str;

    /// The hooks that it wants to be called at (default: all). Asked once. What no plugin wants costs nothing, so it is
    /// worth while to name them.
    fn hooks(&self) -> Hooks {
        Hooks::ALL
    }

    /// What becomes of what it is asked about when it fails (default: it is refused). Asked once.
    fn on_failure(&self) -> OnFailure {
        OnFailure::Refuse
    }

    /// The bus starts. Whoever connects waits until this has ended, so no client of this bus is to be waited for here.
    ///
    /// # Cancel safety
    /// Dropped when it takes longer than [`PLUGIN_START`](crate::limits::PLUGIN_START), or the bus stops; as all that
    /// wait.
    fn on_init(&self, bus: &Startup) -> impl Future<Output = HookResult> + Send {
        let _ = bus;
        async { Ok(()) }
    }

    /// Somebody begins a session. An error turns him away with it; plugins that have let him in are told by
    /// [`on_disconnect`](Self::on_disconnect) then, and so they are when the bus stops before all have been asked. Who comes
    /// back to his session does not begin one.
    fn on_connect(&self, session: &Session) -> impl Future<Output = HookResult> + Send {
        let _ = session;
        async { Ok(()) }
    }

    /// Somebody asks for a subscription. An error refuses it.
    fn on_subscribe(&self, subscribing: &Subscribing) -> impl Future<Output = HookResult> + Send {
        let _ = subscribing;
        async { Ok(()) }
    }

    /// Somebody publishes. The message may be changed; an error refuses it, so that nobody gets it. A plugin must not wait
    /// here.
    ///
    /// A publish of quality 2 whose answer was lost comes again. Where it is refused then, though it is stored, its publisher is told
    /// that it is published.
    ///
    /// # Errors
    /// What its publisher is told.
    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        let _ = message;
        Ok(())
    }

    /// A message goes to one of its matches. An error withholds it from this one, which is told a gap with the reason
    /// [`Withheld`](crate::proto::fields::GapReason::Withheld). A plugin must not wait here.
    ///
    /// It is called once for each time that a message is about to be handed over. Where its receiver acknowledges, an error
    /// means "not to this subscription": others that share its messages are offered it, and what none of them may have
    /// becomes a dead letter with the reason `withheld by a plugin`, and is told as a gap to the last one that was asked about. A panic
    /// is a failed attempt of that message: it comes again after [`RETRY_DELAY`](crate::limits::RETRY_DELAY), later each time, and
    /// becomes a dead letter after `max_deliver` of them.
    ///
    /// # Errors
    /// Why it is withheld, for the log.
    fn on_deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        let _ = delivery;
        Ok(())
    }

    /// A durable consumer has acknowledged a message, and its position is stored. Neither the consumer nor who connects waits
    /// for this.
    fn on_ack(&self, acknowledged: &Acknowledged) -> impl Future<Output = HookResult> + Send {
        let _ = acknowledged;
        async { Ok(()) }
    }

    /// A session that [`on_connect`](Self::on_connect) has let in has ended, for this reason. Called once for each.
    fn on_disconnect(&self, session: &Session, reason: &BusError) -> impl Future<Output = HookResult> + Send {
        let _ = (session, reason);
        async { Ok(()) }
    }

    /// The bus has ended all sessions, and stops when this has ended.
    fn on_shutdown(&self) -> impl Future<Output = HookResult> + Send {
        async { Ok(()) }
    }
}

/// A plugin that its owner keeps a hold of.
impl<P: Plugin> Plugin for Arc<P> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn hooks(&self) -> Hooks {
        (**self).hooks()
    }

    fn on_failure(&self) -> OnFailure {
        (**self).on_failure()
    }

    fn on_init(&self, bus: &Startup) -> impl Future<Output = HookResult> + Send {
        (**self).on_init(bus)
    }

    fn on_connect(&self, session: &Session) -> impl Future<Output = HookResult> + Send {
        (**self).on_connect(session)
    }

    fn on_subscribe(&self, subscribing: &Subscribing) -> impl Future<Output = HookResult> + Send {
        (**self).on_subscribe(subscribing)
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        (**self).on_publish(message)
    }

    fn on_deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        (**self).on_deliver(delivery)
    }

    fn on_ack(&self, acknowledged: &Acknowledged) -> impl Future<Output = HookResult> + Send {
        (**self).on_ack(acknowledged)
    }

    fn on_disconnect(&self, session: &Session, reason: &BusError) -> impl Future<Output = HookResult> + Send {
        (**self).on_disconnect(session, reason)
    }

    fn on_shutdown(&self) -> impl Future<Output = HookResult> + Send {
        (**self).on_shutdown()
    }
}
