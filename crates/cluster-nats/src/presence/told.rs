//! Telling other buses who comes and goes at this one, as long as somebody watches there.

use async_nats::Client as Nats;
use async_nats::connection::State;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use whispeer::BusResult;
use whispeer::client::{Client, Event, Policy, PresenceEvent, SubscribeOptions, Subscription};

use super::{PLACES, Presence, Told, closed, place_of_bus};
use crate::limits;
use crate::members::Members;

/// Who tells it.
pub(super) struct Teller {
    client: Client,
    nats: Nats,
    members: Members,
    subject: String,
    /// Events so far, of which others are to know that there were.
    number: u64,
}

impl Teller {
    pub(super) fn new(presence: &Presence) -> Self {
        let Presence { client, nats, subjects, members, .. } = presence.clone();
        Self { client, nats, subject: place_of_bus(&subjects, members.own()), members, number: 0 }
    }

    /// Tells until the link ends.
    ///
    /// # Errors
    /// Why it has ended.
    ///
    /// # Cancel safety
    /// What was not told yet is missing elsewhere; the bus is gone by then, and its members with it.
    pub(super) async fn run(mut self) -> BusResult<()> {
        let mut watching = self.members.watching();
        loop {
            watching.wait_for(|buses| *buses > 0).await.map_err(|_| closed())?;
            // Whoever has heard it before does not know what has happened since.
            self.number += 1;
            // Who comes and goes is told as well as it can be, and holds nobody up.
            let options = SubscribeOptions::default().policy(Policy::DropOldest);
            match self.client.subscribe_bytes_with(PLACES, options).await {
                Ok(events) => self.tell(events, &mut watching).await?,
                Err(error) => {
                    tracing::warn!(%error, "other buses do not hear who comes and goes at this one; it is tried again");
                    sleep(limits::LINK_AGAIN).await;
                }
            }
        }
    }

    /// Tells until nobody watches any more, or the subscription ends.
    async fn tell(
        &mut self,
        mut events: Subscription<Bytes>,
        watching: &mut watch::Receiver<usize>,
    ) -> BusResult<()> {
        let mut mark_at = Instant::now();
        loop {
            tokio::select! {
                changed = watching.changed() => {
                    changed.map_err(|_| closed())?;
                    if *watching.borrow_and_update() == 0 {
                        return Ok(());
                    }
                    // Another one is to know from where on it hears.
                    mark_at = Instant::now();
                }
                event = events.next_event() => match event {
                    None => return Ok(()),
                    Some(Event::Message(message)) => {
                        if let Ok(event) = rmp_serde::from_slice(&message.value)
                            && is_own(&event)
                        {
                            self.number += 1;
                            self.send(Told { number: self.number, event: Some(event) }).await;
                        }
                    }
                    // A mark tells it. Some of them may have been of other buses.
                    Some(Event::Gap { count, .. }) => self.number = self.number.saturating_add(count),
                    Some(_) => self.number += 1,
                },
                () = sleep_until(mark_at) => {
                    self.send(Told { number: self.number, event: None }).await;
                    mark_at = Instant::now() + self.members.interval();
                }
            }
        }
    }

    /// What NATS does not take is missing elsewhere, as its number is.
    async fn send(&self, told: Told) {
        if self.nats.connection_state() != State::Connected {
            return;
        }
        let Ok(text) = serde_json::to_vec(&told) else { return };
        let sent = timeout(limits::SENDING, self.nats.publish(self.subject.clone(), text.into())).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(number = told.number, "other buses were not told who comes or goes");
        }
    }
}

/// Whether it is of this bus, and not told here for another one, which has told all.
fn is_own(event: &PresenceEvent) -> bool {
    match event {
        PresenceEvent::Join(member) | PresenceEvent::Leave(member) => member.bus.is_none(),
        PresenceEvent::Missed(_) => true,
        _ => false,
    }
}
