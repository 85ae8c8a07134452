//! What plugins are told later, as whoever has it to tell does not wait for them, or is gone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Acknowledged, Hooks, Plugins, Session};
use crate::error::BusError;
use crate::limits;

/// What waits to be told.
#[derive(Default)]
pub(super) struct Untold {
    ends: Mutex<VecDeque<End>>,
    has_ends: Notify,
    acknowledged: Mutex<VecDeque<Acknowledged>>,
    has_acknowledged: Notify,
}

/// The end of a session.
struct End {
    session: Arc<Session>,
    reason: BusError,
    /// So many of the first plugins have not been told.
    left: usize,
    /// Those among them are told that want all of these hooks.
    hooks: Hooks,
}

fn locked<T>(queue: &Mutex<VecDeque<T>>) -> MutexGuard<'_, VecDeque<T>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells plugins of the end of a session, the last first. Those that have not been told when this is dropped are told later.
pub(super) struct Leaving<'a> {
    plugins: &'a Plugins,
    session: &'a Session,
    pub(super) reason: BusError,
    /// So many of the first have not been told.
    pub(super) left: usize,
    hooks: Hooks,
}

impl<'a> Leaving<'a> {
    /// Of those plugins that want all of these hooks, none of which is to be told yet.
    pub(super) fn new(plugins: &'a Plugins, session: &'a Session, reason: BusError, hooks: Hooks) -> Self {
        Self { plugins, session, reason, left: 0, hooks }
    }

    pub(super) async fn tell(mut self) {
        while let Some(last) = self.left.checked_sub(1) {
            self.left = last;
            self.plugins.tell_end(last, self.hooks, self.session, &self.reason).await;
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            let (session, reason) = (Arc::new(self.session.clone()), self.reason.clone());
            self.plugins.note(End { session, reason, left: self.left, hooks: self.hooks });
        }
    }
}

impl Plugins {
    /// Notes the end of a session whose task was stopped, so that it cannot tell by itself.
    pub(crate) fn note_end(&self, session: Arc<Session>, reason: BusError) {
        self.note(End { session, reason, left: self.count(), hooks: Hooks::DISCONNECT });
    }

    fn note(&self, end: End) {
        let mut ends = locked(&self.untold.ends);
        if ends.len() >= limits::PLUGIN_ENDS {
            ends.pop_front();
            tracing::warn!("plugins are not told of the ends of all sessions, as too many ended at once");
        }
        ends.push_back(end);
        drop(ends);
        self.untold.has_ends.notify_one();
    }

    /// Notes what was acknowledged, for those that want to know.
    pub(crate) fn note_acknowledged(&self, acknowledged: Vec<Acknowledged>) {
        if acknowledged.is_empty() {
            return;
        }
        let mut untold = locked(&self.untold.acknowledged);
        untold.extend(acknowledged);
        let over = untold.len().saturating_sub(limits::PLUGIN_ACKS);
        untold.drain(..over);
        drop(untold);
        if over > 0 {
            tracing::warn!(
                messages = over,
                "plugins are not told of acknowledgements, as they take too long for them"
            );
        }
        self.untold.has_acknowledged.notify_one();
    }

    /// Tells the ends and acknowledgements that were noted; for ever.
    ///
    /// # Cancel safety
    /// The ends that have not been told when the future is dropped are left, and told by the next one or at the shutdown. Of an
    /// acknowledgement that is just being told the rest of the plugins does not hear.
    pub(crate) async fn run(&self) {
        let ends = async {
            loop {
                self.untold.has_ends.notified().await;
                self.tell_ends().await;
            }
        };
        let acknowledged = async {
            loop {
                self.untold.has_acknowledged.notified().await;
                self.tell_acknowledged().await;
            }
        };
        tokio::join!(ends, acknowledged);
    }

    pub(super) async fn tell_acknowledged(&self) {
        loop {
            let next = locked(&self.untold.acknowledged).pop_front();
            let Some(next) = next else { return };
            self.acknowledged(&next).await;
        }
    }

    pub(super) async fn tell_ends(&self) {
        loop {
            let next = locked(&self.untold.ends).pop_front();
            let Some(End { session, reason, left, hooks }) = next else { return };
            let mut leaving = Leaving::new(self, &session, reason, hooks);
            leaving.left = left;
            leaving.tell().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::auth::Principal;
    use crate::plugin::{HookResult, Plugin};

    /// Knows who has left.
    #[derive(Clone, Default)]
    struct Farewell(Arc<Mutex<Vec<u64>>>);

    impl Plugin for Farewell {
        fn name(&self) -> &str {
            "farewell"
        }

        async fn on_disconnect(&self, session: &Session, _reason: &BusError) -> HookResult {
            self.0.lock().unwrap().push(session.id);
            Ok(())
        }

        async fn on_shutdown(&self) -> HookResult {
            self.0.lock().unwrap().push(0);
            Ok(())
        }
    }

    fn left(plugins: &Plugins, id: u64) {
        let session = Session::new(id, "", Principal::Local, "memory");
        plugins.note_end(Arc::new(session), BusError::Closed { what: "it".into() });
    }

    #[tokio::test]
    async fn ends_that_sessions_could_not_tell_are_told_later_and_before_the_shutdown() {
        let farewell = Farewell::default();
        let plugins = Arc::new(Plugins::new().with(farewell.clone()));
        let telling = tokio::spawn({
            let plugins = Arc::clone(&plugins);
            async move { plugins.run().await }
        });
        left(&plugins, 7);
        while farewell.0.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        telling.abort();
        left(&plugins, 8);
        plugins.shutdown().await;
        assert_eq!(*farewell.0.lock().unwrap(), [7, 8, 0]);
    }

    #[tokio::test]
    async fn of_too_many_such_ends_the_oldest_are_forgotten() {
        let farewell = Farewell::default();
        let plugins = Plugins::new().with(farewell.clone());
        let most = limits::PLUGIN_ENDS as u64;
        for id in 1..=most + 2 {
            left(&plugins, id);
        }
        plugins.shutdown().await;
        let told = farewell.0.lock().unwrap();
        assert_eq!((told.len() as u64, told[0]), (most + 1, 3));
    }

    /// Neither lets anybody in nor goes on when somebody leaves.
    struct Endless(&'static str, Hooks);

    impl Plugin for Endless {
        fn name(&self) -> &str {
            self.0
        }

        fn hooks(&self) -> Hooks {
            self.1
        }

        async fn on_connect(&self, _session: &Session) -> HookResult {
            pending().await
        }

        async fn on_disconnect(&self, _session: &Session, _reason: &BusError) -> HookResult {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_were_not_told_of_an_end_when_their_teller_was_stopped_are_told_later() {
        let (first, last) = (Farewell::default(), Farewell::default());
        let silent = Endless("silent", Hooks::DISCONNECT);
        let plugins = Plugins::new().with(first.clone()).with(silent).with(Named(last.clone()));
        let session = Session::new(7, "", Principal::Local, "memory");
        let reason = BusError::Closed { what: "it".into() };
        let soon = limits::PLUGIN_HOOK / 2;
        assert!(tokio::time::timeout(soon, plugins.disconnect(&session, &reason)).await.is_err());
        assert_eq!((told(&first), told(&last)), (vec![], vec![7]));
        plugins.shutdown().await;
        assert_eq!((told(&first), told(&last)), (vec![7, 0], vec![7, 0]), "each once");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_have_let_somebody_in_hear_of_his_end_when_nobody_waits_for_the_others() {
        let (let_in, behind) = (Farewell::default(), Farewell::default());
        let guard = Endless("guard", Hooks::CONNECT);
        let plugins = Plugins::new().with(let_in.clone()).with(guard).with(Named(behind.clone()));
        let session = Session::new(7, "", Principal::Local, "memory");
        assert!(tokio::time::timeout(limits::PLUGIN_HOOK / 2, plugins.connect(&session)).await.is_err());
        assert_eq!(plugins.turned_away(), 0);
        plugins.shutdown().await;
        assert_eq!((told(&let_in), told(&behind)), (vec![7, 0], vec![0]));
    }

    fn told(farewell: &Farewell) -> Vec<u64> {
        farewell.0.lock().unwrap().clone()
    }

    /// The same by another name.
    struct Named(Farewell);

    impl Plugin for Named {
        fn name(&self) -> &str {
            "another"
        }

        async fn on_disconnect(&self, session: &Session, reason: &BusError) -> HookResult {
            self.0.on_disconnect(session, reason).await
        }

        async fn on_shutdown(&self) -> HookResult {
            self.0.on_shutdown().await
        }
    }
}
