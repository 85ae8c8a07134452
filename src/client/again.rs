//! What a new session refuses for now is asked for again.
//!
//! A bus whose store is away refuses to read streams. Who begins to read is told so. Who has read at an earlier session goes on when the store is
//! there, as he does at a bus that has not ended meanwhile.

use tokio::time::Instant;

use super::driver::Driver;
use super::shared::Ending;
use crate::error::BusError;
use crate::limits;
use crate::proto::{ContentRef, Header, Kind};

/// When subscriptions are to be asked for again that the session has refused: all together, after times that double as those between attempts to
/// connect do.
pub(super) struct Again {
    /// Where there are some.
    pub(super) at: Option<Instant>,
    /// When the session began, and how often it was asked since.
    since: Instant,
    asked: u32,
}

impl Again {
    /// For a session that begins.
    pub(super) fn new() -> Self {
        Self { at: None, since: Instant::now(), asked: 0 }
    }
}

impl Driver {
    /// Keeps a subscription that the bus has refused, to be asked for again: it was accepted at an earlier session, the reason may pass by itself, and the
    /// client still has the patience that it has with a bus that is away.
    pub(super) fn keeps_for_later(&mut self, id: u32, error: &BusError) -> bool {
        let Some(coming_back) = &self.coming_back else { return false };
        if !matches!(error, BusError::NotStored { .. }) || coming_back.is_spent(self.again.since) {
            return false;
        }
        {
            let mut state = self.shared.lock();
            let Some(own) = state.subscriptions.entries.get_mut(&id) else { return false };
            if own.accepted.is_some() || own.ending != Ending::No {
                return false;
            }
            own.ending = Ending::Refused;
        }
        if self.again.asked == 0 {
            tracing::info!(%error, "a subscription cannot go on yet, and is asked for again");
        }
        let delay = coming_back.delay(self.again.asked.saturating_add(1)).max(limits::ASK_AGAIN_LEAST);
        self.again.at.get_or_insert_with(|| Instant::now() + delay);
        self.look_again();
        true
    }

    /// Sees to it that the clock is looked at by then.
    pub(super) fn look_again(&mut self) {
        if let Some(at) = self.again.at {
            self.keep_alive.look_by(at);
        }
    }

    /// Asks for them if that is due.
    pub(super) fn ask_again(&mut self, now: Instant) {
        if self.again.at.is_none_or(|at| now < at) {
            return;
        }
        self.again.at = None;
        self.again.asked = self.again.asked.saturating_add(1);
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        for (id, own) in &mut state.subscriptions.entries {
            if own.ending == Ending::Refused {
                own.ending = Ending::No;
                let header = Header::new(Kind::Subscribe, *id, 0).flagged(own.flags);
                state.lanes.control(&header, &ContentRef::lent(&own.fields, own.topic.as_bytes(), &[]));
            }
        }
        let step = state.lanes.begin();
        drop(guard);
        self.shared.write(step);
    }
}
