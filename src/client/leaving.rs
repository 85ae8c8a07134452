//! Leaving a bus that drains for another one: what holds calls back meanwhile. The driver does the rest.

use std::pin::pin;

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

    /// The bus drains. Whether the client goes to another one.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        let leaves = state.has_others && state.ended.is_none();
        if leaves && !state.leaving {
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
