//! Consumers of a store that several buses have: each is one bus's at a time, whose members get its messages.
//!
//! Members at another bus take part and wait: their bus has nothing to hand them until that bus has given the consumer up, which it does when its last
//! member goes, or is gone itself for as long as the store leaves it its own. Then theirs goes on where it was. So a consumer with
//! members at several buses always has somebody who takes its messages, and one ledger. A bus that was cut off for so long finds the consumer
//! another one's, and has its members wait.
//!
//! Where whoever joins the buses brings a link to that bus, the members of a group are fed by it meanwhile ([`across`](super::across)), and share its messages with
//! its own. As long as that lasts the store is not asked for the consumer.

use tokio::time::{Instant, sleep_until};

use super::Consumer;
use super::across::Across;
use crate::bus::streams::patience::Patience;
use crate::error::BusError;
use crate::limits;
use crate::store::{Change, Name, StoreError};
use crate::transport::Part;

/// What asking for a consumer has come to.
pub(super) enum Asked {
    /// It is this bus's.
    Own,
    /// It was there already, and its store has no room for more.
    Full(StoreError),
    /// Nobody waits for it any more, and nobody is let in.
    Over,
}

impl Consumer {
    /// Makes it this bus's by this change, and waits for it as long as it is another one's.
    ///
    /// # Errors
    /// What the store says, and that it is another than is asked for.
    pub(super) async fn obtain(
        &self,
        name: &Name,
        make: Change,
        live_from: u64,
        failed: impl Fn(StoreError) -> BusError,
    ) -> Result<Asked, BusError> {
        let mut patience = Patience::with(&self.stream);
        let mut across = Across::default();
        loop {
            match self.stream.commit(vec![make.clone()]).await {
                Ok(_) => {
                    self.lock().is_elsewhere = false;
                    return Ok(Asked::Own);
                }
                Err(error @ StoreError::Full { .. }) => {
                    self.lock().is_elsewhere = false;
                    return Ok(Asked::Full(error));
                }
                Err(StoreError::InUse { .. }) if self.stream.is_shared() => {
                    patience.answered();
                    if !self.wait_for_its_turn(name, live_from, &mut across, &failed).await? {
                        return Ok(Asked::Over);
                    }
                }
                Err(error) => tokio::time::sleep_until(patience.refused(error).map_err(&failed)?).await,
            }
        }
    }

    /// Waits a while for a consumer that another bus has, and for as long as that feeds the members; whether somebody is there.
    async fn wait_for_its_turn(
        &self,
        name: &Name,
        live_from: u64,
        across: &mut Across,
        failed: &impl Fn(StoreError) -> BusError,
    ) -> Result<bool, BusError> {
        let is_first = !std::mem::replace(&mut self.lock().is_elsewhere, true);
        if is_first {
            // Whoever would be refused is not to wait for that.
            let state = self.stream.store.consumer(self.stream.name.clone(), name.clone()).await;
            match state {
                Ok(state) => self.check(&state)?,
                // That bus has removed it by now.
                Err(StoreError::NoConsumer { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let again = Instant::now() + limits::CONSUMER_HAND_OVER;
        across.ask(self, name);
        loop {
            self.accept(live_from);
            self.let_go();
            // What the last one has said of messages is to get to the other bus.
            if !across.has_more_to_send(self) && self.end_if_empty() {
                return Ok(false);
            }
            if let Some(link) = across.take_granted() {
                // The bus at its other end takes this one for one of its own, whoever waits here.
                match self.may_still_have(name).await {
                    Ok(true) => across.open(link),
                    Ok(false) => link.sender.close(),
                    Err(error) => {
                        link.sender.close();
                        return Err(error);
                    }
                }
            }
            let is_waiting = !across.is_open();
            tokio::select! {
                // Somebody may have come or gone, or said something.
                () = self.changed.notified() => {}
                () = across.step(self) => {}
                () = sleep_until(again), if is_waiting => return Ok(true),
            }
        }
    }

    /// Whether the consumer is one that its members may have: it may have been removed and made anew since they came. `false` where the store does
    /// not say, and it is asked again.
    ///
    /// # Errors
    /// That it is somebody else's, or of another pattern.
    async fn may_still_have(&self, name: &Name) -> Result<bool, BusError> {
        match self.stream.store.consumer(self.stream.name.clone(), name.clone()).await {
            Ok(state) => self.check(&state).map(|()| true),
            Err(error) => {
                tracing::debug!(consumer = self.label(), %error, "its store does not say whose it is");
                Ok(false)
            }
        }
    }

    /// Whether another bus has it by now, as this one was not heard of for too long, and this error says so. Then its members wait as those of
    /// any other bus: what they have comes again there, and who acknowledges is told so.
    pub(super) fn is_lost(&self, error: &BusError) -> bool {
        let (waiting, others) = {
            let mut state = self.lock();
            if !state.is_elsewhere || state.ledger.take().is_none() {
                return false;
            }
            // Other buses are to ask the one that has it now.
            let others = state.members.extract_if(.., |member| member.session.peer.part == Part::Sharing);
            let others: Vec<_> = others.collect();
            let mut waiting = std::mem::take(&mut state.confirmations);
            waiting.extend(std::mem::take(&mut state.when_done).into_values().flatten());
            state.acknowledged.clear();
            (state.unheld, state.being_written, state.noted_next) = (None, 0, 0);
            state.is_refused = false;
            for member in &mut state.members {
                member.remembered.nothing();
            }
            (waiting, others)
        };
        let consumer = self.label();
        tracing::warn!(
            consumer,
            "another bus has it, as this one was cut off for too long: its members wait"
        );
        self.tell(waiting, &Err(error.clone()));
        for member in others {
            let mut state = member.session.lock();
            state.end_with(member.subscription, &BusError::Closed { what: self.label() });
            drop(state);
            member.session.flush();
        }
        true
    }

    /// Lets other buses have it, behind all that was written before.
    pub(super) fn give_back(&self) {
        let is_own = self.lock().ledger.is_some();
        if let Some(name) = self.name.clone().filter(|_| is_own && self.stream.is_shared()) {
            // It is given to the store at once, and nobody waits for it.
            drop(self.stream.commit(vec![Change::FreeConsumer(name)]));
        }
    }
}
