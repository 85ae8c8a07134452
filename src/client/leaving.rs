//! Leaving a bus that drains for another one: what holds calls back meanwhile. The driver does the rest.

use std::pin::pin;
use std::sync::atomic::Ordering;

use super::shared::{Ending, Shared, State};
use crate::error::BusResult;
use crate::proto::{ContentRef, Header, Kind};

impl Shared {
    /// Waits while the client is about to go to another bus: its own takes nothing new.
    pub(super) async fn settled(&self) -> BusResult<()> {
        loop {
            let mut drained = pin!(self.drained.notified());
            drained.as_mut().enable();
            {
                let state = self.lock();
                if let Some(error) = &state.ended {
                    return Err(error.clone());
                }
                if !state.leaving {
                    return Ok(());
                }
            }
            drained.await;
        }
    }

    /// The number of the session that there is, or was last, from 0.
    pub(super) fn session_number(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The bus of the session that there is drains.
    pub(super) fn leave(&self) {
        self.leave_session(self.session_number());
    }

    /// The bus drains that was asked in the session of this number or later. Whether the client goes to another one, or has gone there by now: who had the
    /// answer may see it late.
    pub(super) fn leave_session(&self, number: u64) -> bool {
        let mut state = self.lock();
        let leaves = state.has_others && state.ended.is_none();
        if leaves && !state.leaving && self.session_number() == number {
            // What is new waits until there is a session at another bus.
            state.leaving = true;
            state.publishing.hold();
            drop(state);
            self.driver.wake();
        }
        leaves
    }

    /// Lets the bus, which drains, hand nothing more to servings that go on at another one.
    pub(super) fn move_servings(&self) {
        let mut state = self.lock();
        let State { servings, lanes, .. } = &mut *state;
        for (id, serving) in &mut servings.entries {
            if serving.ending == Ending::No {
                serving.ending = Ending::Moving;
                lanes.data(&Header::new(Kind::Unserve, *id, 0), &ContentRef::empty());
            }
        }
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
    }
}
