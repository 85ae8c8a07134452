//! The end of a bus in good order: it takes nothing new and finishes what is in flight.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::proto::{Header, Kind};

/// How often a draining bus looks whether everything is finished.
const DRAIN_POLL: Duration = Duration::from_millis(10);

impl Shared {
    /// Takes nothing new, tells clients so, and waits until what is in flight has been finished or `grace` has passed.
    pub(super) async fn drain(&self, grace: Duration) {
        if !self.draining.swap(true, Ordering::Relaxed) {
            for session in self.clients() {
                session.send_control(&Header::new(Kind::Draining, 0, 0), &[]);
            }
        }
        let until = Instant::now() + grace;
        while Instant::now() < until && !self.is_quiet() {
            tokio::time::sleep(DRAIN_POLL.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Does so once an administrator has asked for it.
    pub(super) async fn drain_when_asked(&self) {
        let mut asked = self.stop_asked.subscribe();
        loop {
            let grace = asked.wait_for(Option::is_some).await.ok().and_then(|asked| *asked);
            let Some(grace) = grace else { return std::future::pending().await };
            tokio::select! {
                () = self.drain(grace) => return,
                // It is asked again, with another time.
                changed = asked.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether nothing is in flight for any client.
    fn is_quiet(&self) -> bool {
        // A request that waits for a server is in flight at its requester. What leaves a publish that
        // waits is seen at a group or a session, and what leaves a group at the session that it goes to:
        // they are looked at in this order.
        let none_waits = self.publishes_waiting.load(Ordering::Relaxed) == 0;
        let groups_are_empty = self.router.parked_in_groups() == (0, 0);
        none_waits
            && groups_are_empty
            && self.clients().iter().all(|session| {
                // What a broken connection has not brought over waits for its client to come back.
                let link = session.sender().resumable().filter(|link| link.is_lost());
                let state = session.lock();
                link.is_none_or(|link| link.held() == 0)
                    && state.in_flight() == 0
                    && state.parked_bytes == 0
                    && state.lanes.waiting() == 0
            })
    }
}
