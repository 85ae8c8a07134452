//! The plugins of one bus: calls each hook in order, and keeps what goes wrong in one to that one.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::contained::{Failure, HookFuture, call, wait};
use super::telling::{Leaving, Untold};
use super::{
    Acknowledged, Delivery, HookResult, Hooks, OnFailure, Plugin, Publishing, Refused, Session, Startup,
    Subscribing,
};
use crate::error::{BusError, BusResult};
use crate::limits;

/// What a plugin did, as introspection shows it. Part of [`BusStats`](crate::bus::BusStats).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PluginStats {
    /// Its name.
    pub name: String,
    /// Whether it is called: it has not failed when the bus started.
    pub running: bool,
    /// What it refused: connections, subscriptions and messages.
    pub refused: u64,
    /// Deliveries that it withheld.
    pub withheld: u64,
    /// How often it failed: by a panic, by taking too long, or by an error where it has nothing to refuse. What was
    /// refused since it gave no answer is counted here and not among the refused.
    pub failed: u64,
}

/// Plugins in their order.
///
/// A bus has one of these. By itself it serves to test a plugin without a bus.
///
/// # Examples
/// ```
/// use whispeer::BusError;
/// use whispeer::auth::Principal;
/// use whispeer::plugin::{Plugins, Publishing, Session, Transform};
/// use whispeer::proto::ContentRef;
///
/// let shout = Transform::new("shout", |message| {
///     let loud = message.payload().to_ascii_uppercase();
///     Ok(message.set_payload(loud)?)
/// });
/// let plugins = Plugins::new().with(shout);
/// let session = Session::new(1, "", Principal::Local, "memory");
/// let content = ContentRef::lent(&[], b"greetings", b"hello");
/// let mut message = Publishing::new(&session, &content)?;
/// plugins.publish(&mut message)?;
/// assert_eq!(message.payload(), b"HELLO");
/// # Ok::<(), BusError>(())
/// ```
#[derive(Default)]
pub struct Plugins {
    entries: Vec<Entry>,
    /// Those that any of them wants.
    hooks: Hooks,
    /// Clients that were turned away by one.
    turned_away: AtomicU64,
    /// What they are told later.
    pub(super) untold: Untold,
}

/// What plugins say of a message that is about to go to one of its matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passes,
    /// One does not let this match have it.
    Withheld,
    /// One that has to agree has failed, so that nobody knows.
    Failed,
}

struct Entry {
    plugin: Box<dyn AnyPlugin>,
    name: String,
    hooks: Hooks,
    on_failure: OnFailure,
    /// It has failed when the bus started.
    is_out: AtomicBool,
    refused: AtomicU64,
    withheld: AtomicU64,
    failed: AtomicU64,
}

impl Plugins {
    /// No plugins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These, and one behind them.
    #[must_use]
    pub fn with(mut self, plugin: impl Plugin) -> Self {
        let entry = Entry {
            name: plugin.name().to_owned(),
            hooks: plugin.hooks(),
            on_failure: plugin.on_failure(),
            plugin: Box::new(plugin),
            is_out: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        self.hooks = self.hooks | entry.hooks;
        self.entries.push(entry);
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether any of them wants one of these hooks.
    #[inline]
    #[must_use]
    pub fn want(&self, hooks: Hooks) -> bool {
        self.hooks.contains_any(hooks)
    }

    /// That a bus can work with these.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for too many of them, and for a name that is empty, too long or there twice.
    pub fn check(&self) -> BusResult<()> {
        let invalid = |what: String| Err(BusError::InvalidSettings(what));
        if self.entries.len() > limits::PLUGINS {
            let count = self.entries.len();
            return invalid(format!("{count} plugins; a bus takes {} at the most", limits::PLUGINS));
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let name = &entry.name;
            if name.is_empty() || name.len() > limits::PLUGIN_NAME_BYTES || name.contains(char::is_control) {
                let most = limits::PLUGIN_NAME_BYTES;
                return invalid(format!(
                    "a plugin is called {name:?}; a name has 1 to {most} bytes and no control characters"
                ));
            }
            if self.entries.iter().take(index).any(|earlier| earlier.name == *name) {
                return invalid(format!("two plugins are called \"{name}\"; give one another name"));
            }
        }
        Ok(())
    }

    /// What each did so far.
    #[must_use]
    pub fn stats(&self) -> Vec<PluginStats> {
        let stats = |entry: &Entry| PluginStats {
            name: entry.name.clone(),
            running: !entry.is_out(),
            refused: entry.refused.load(Ordering::Relaxed),
            withheld: entry.withheld.load(Ordering::Relaxed),
            failed: entry.failed.load(Ordering::Relaxed),
        };
        self.entries.iter().map(stats).collect()
    }

    /// Clients that were turned away by a plugin.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    fn of(&self, hook: Hooks) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.hooks.contains(hook))
    }

    /// Calls [`on_init`](Plugin::on_init) of each. Those that fail are not called any more.
    ///
    /// # Cancel safety
    /// Those that have not been called when the future is dropped are not called.
    pub async fn init(&self, bus: &Startup) {
        for entry in self.of(Hooks::INIT) {
            let limit = limits::PLUGIN_START;
            if !entry.tell("on_init", limit, || entry.plugin.init(bus)).await {
                entry.is_out.store(true, Ordering::Relaxed);
                tracing::error!(plugin = entry.name, "a plugin has not started and is left out");
            }
        }
    }

    /// Calls [`on_connect`](Plugin::on_connect) of each, until one refuses.
    ///
    /// # Errors
    /// What the client is to be told. Those that had let it in have been told of its end.
    ///
    /// # Cancel safety
    /// Those that have not been called when the future is dropped are not called. A bus tells those that had let the client in
    /// later of its end.
    pub async fn connect(&self, session: &Session) -> BusResult<()> {
        let reason = "the connection was given up before all plugins had let it in".to_owned();
        let reason = BusError::Disconnected { reason };
        let mut leaving = Leaving::new(self, session, reason, Hooks::CONNECT | Hooks::DISCONNECT);
        for (index, entry) in self.entries.iter().enumerate() {
            if !entry.hooks.contains(Hooks::CONNECT) {
                continue;
            }
            leaving.left = index;
            let Err(error) = entry.ask("on_connect", || entry.plugin.connect(session)).await else {
                continue;
            };
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            leaving.reason = error.clone();
            leaving.tell().await;
            return Err(error);
        }
        // It is in, and its session tells when it ends.
        leaving.left = 0;
        Ok(())
    }

    /// Calls [`on_subscribe`](Plugin::on_subscribe) of each, until one refuses.
    ///
    /// # Errors
    /// What the subscriber is to be told.
    ///
    /// # Cancel safety
    /// Those that have not been called when the future is dropped are not called.
    pub async fn subscribe(&self, subscribing: &Subscribing) -> BusResult<()> {
        for entry in self.of(Hooks::SUBSCRIBE) {
            entry.ask("on_subscribe", || entry.plugin.subscribe(subscribing)).await?;
        }
        Ok(())
    }

    /// Calls [`on_publish`](Plugin::on_publish) of each, until one refuses.
    ///
    /// # Errors
    /// What the publisher is to be told.
    pub fn publish<'a>(&'a self, message: &mut Publishing<'a>) -> BusResult<()> {
        for entry in self.of(Hooks::PUBLISH) {
            message.give_to(&entry.name);
            // What a plugin has done that fails and may fail is undone.
            let before = (entry.on_failure == OnFailure::GoOn).then(|| message.save());
            let answer = entry.running().and_then(|()| call(|| entry.plugin.publish(message)));
            let failed = answer.is_err();
            entry.judge("on_publish", answer)?;
            if let Some(before) = before.filter(|_| failed) {
                message.restore(before);
            }
        }
        Ok(())
    }

    /// Calls [`on_deliver`](Plugin::on_deliver) of each, the last first, until one withholds the message; returns
    /// whether it may pass.
    #[must_use]
    pub fn deliver(&self, delivery: &Delivery<'_>) -> bool {
        self.judge(delivery) == Verdict::Passes
    }

    /// As [`deliver`](Self::deliver), for those to whom it matters why a message does not pass.
    pub(crate) fn judge(&self, delivery: &Delivery<'_>) -> Verdict {
        for entry in self.of(Hooks::DELIVER).rev() {
            let answer = entry.running().and_then(|()| call(|| entry.plugin.deliver(delivery)));
            match answer {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => {
                    entry.withheld.fetch_add(1, Ordering::Relaxed);
                    let reason = refused.into_error(&entry.name);
                    tracing::debug!(topic = delivery.topic(), %reason, "a plugin withholds a message");
                    return Verdict::Withheld;
                }
                Err(failure) => {
                    entry.note_failure("on_deliver", &failure);
                    if entry.on_failure == OnFailure::Refuse {
                        entry.withheld.fetch_add(1, Ordering::Relaxed);
                        return Verdict::Failed;
                    }
                }
            }
        }
        Verdict::Passes
    }

    /// Calls [`on_ack`](Plugin::on_ack) of each.
    ///
    /// # Cancel safety
    /// Those that have not been called when the future is dropped are not called.
    pub async fn acknowledged(&self, acknowledged: &Acknowledged) {
        for entry in self.of(Hooks::ACK) {
            entry.tell("on_ack", limits::PLUGIN_HOOK, || entry.plugin.ack(acknowledged)).await;
        }
    }

    /// Calls [`on_disconnect`](Plugin::on_disconnect) of each, the last first.
    ///
    /// # Cancel safety
    /// Those that have not been called when the future is dropped are called later by a bus.
    pub async fn disconnect(&self, session: &Session, reason: &BusError) {
        let mut leaving = Leaving::new(self, session, reason.clone(), Hooks::DISCONNECT);
        leaving.left = self.entries.len();
        leaving.tell().await;
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Tells one of the end of a session, if it wants all of these hooks.
    pub(super) async fn tell_end(&self, index: usize, hooks: Hooks, session: &Session, reason: &BusError) {
        let Some(entry) = self.entries.get(index).filter(|entry| entry.hooks.contains(hooks)) else { return };
        entry.tell("on_disconnect", limits::PLUGIN_HOOK, || entry.plugin.disconnect(session, reason)).await;
    }

    /// Calls [`on_shutdown`](Plugin::on_shutdown) of each, the last first.
    ///
    /// # Cancel safety
    /// Those that have not been called when the future is dropped are not called.
    pub async fn shutdown(&self) {
        self.tell_ends().await;
        if timeout(limits::PLUGIN_START, self.tell_acknowledged()).await.is_err() {
            tracing::warn!("plugins are not told of all that was acknowledged, as they take too long");
        }
        for entry in self.of(Hooks::SHUTDOWN).rev() {
            entry.tell("on_shutdown", limits::PLUGIN_START, || entry.plugin.shutdown()).await;
        }
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.iter().map(|entry| (&entry.name, entry.hooks));
        formatter.debug_map().entries(entries).finish()
    }
}

impl Entry {
    fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    fn running(&self) -> Result<(), Failure> {
        match self.is_out() {
            true => Err(Failure("it has not started".into())),
            false => Ok(()),
        }
    }

    /// Asks it whether something may be; `Err` with what whoever wants it is told.
    async fn ask<'a>(
        &'a self,
        hook: &str,
        call: impl FnOnce() -> HookFuture<'a, HookResult>,
    ) -> BusResult<()> {
        let answer = match self.running() {
            Ok(()) => wait(call, limits::PLUGIN_HOOK).await,
            Err(failure) => Err(failure),
        };
        self.judge(hook, answer)
    }

    fn judge(&self, hook: &str, answer: Result<HookResult, Failure>) -> BusResult<()> {
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(refused.into_error(&self.name))
            }
            Err(failure) => {
                self.note_failure(hook, &failure);
                match self.on_failure {
                    OnFailure::GoOn => Ok(()),
                    OnFailure::Refuse => {
                        // What exactly went wrong is for the log, and not for strangers.
                        let refused = Refused::new("the plugin has failed; see the log of the bus");
                        Err(refused.into_error(&self.name))
                    }
                }
            }
        }
    }

    /// Tells it something, which is not for it to refuse; returns whether that went well.
    async fn tell<'a>(
        &'a self,
        hook: &str,
        limit: Duration,
        call: impl FnOnce() -> HookFuture<'a, HookResult>,
    ) -> bool {
        if self.is_out() {
            return false;
        }
        let failure = match wait(call, limit).await {
            Ok(Ok(())) => return true,
            Ok(Err(refused)) => Failure(refused.into_error(&self.name).to_string()),
            Err(failure) => failure,
        };
        self.note_failure(hook, &failure);
        false
    }

    /// Counts a failure. Told are the first, the second, the fourth and so on: it may fail for each message.
    fn note_failure(&self, hook: &str, Failure(what): &Failure) {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        if failed.is_power_of_two() {
            tracing::error!(plugin = self.name, hook, failed, what, "a plugin has failed");
        }
    }
}

/// A plugin of any type.
trait AnyPlugin: Send + Sync {
    fn init<'a>(&'a self, bus: &'a Startup) -> HookFuture<'a, HookResult>;
    fn connect<'a>(&'a self, session: &'a Session) -> HookFuture<'a, HookResult>;
    fn subscribe<'a>(&'a self, subscribing: &'a Subscribing) -> HookFuture<'a, HookResult>;
    fn publish(&self, message: &mut Publishing<'_>) -> HookResult;
    fn deliver(&self, delivery: &Delivery<'_>) -> HookResult;
    fn ack<'a>(&'a self, acknowledged: &'a Acknowledged) -> HookFuture<'a, HookResult>;
    fn disconnect<'a>(&'a self, session: &'a Session, reason: &'a BusError) -> HookFuture<'a, HookResult>;
    fn shutdown(&self) -> HookFuture<'_, HookResult>;
}

impl<P: Plugin> AnyPlugin for P {
    fn init<'a>(&'a self, bus: &'a Startup) -> HookFuture<'a, HookResult> {
        Box::pin(self.on_init(bus))
    }

    fn connect<'a>(&'a self, session: &'a Session) -> HookFuture<'a, HookResult> {
        Box::pin(self.on_connect(session))
    }

    fn subscribe<'a>(&'a self, subscribing: &'a Subscribing) -> HookFuture<'a, HookResult> {
        Box::pin(self.on_subscribe(subscribing))
    }

    fn publish(&self, message: &mut Publishing<'_>) -> HookResult {
        self.on_publish(message)
    }

    fn deliver(&self, delivery: &Delivery<'_>) -> HookResult {
        self.on_deliver(delivery)
    }

    fn ack<'a>(&'a self, acknowledged: &'a Acknowledged) -> HookFuture<'a, HookResult> {
        Box::pin(self.on_ack(acknowledged))
    }

    fn disconnect<'a>(&'a self, session: &'a Session, reason: &'a BusError) -> HookFuture<'a, HookResult> {
        Box::pin(self.on_disconnect(session, reason))
    }

    fn shutdown(&self) -> HookFuture<'_, HookResult> {
        Box::pin(self.on_shutdown())
    }
}
