//! Hearing who comes and goes at other buses, for those who watch at this one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use async_nats::Message;
use foldhash::fast::RandomState;
use futures_util::StreamExt as _;
use tokio::sync::broadcast::error::RecvError;
use whispeer::BusResult;
use whispeer::client::PresenceEvent;

use super::{PRESENCE, Presence, Told, closed};
use crate::limits;
use crate::members::{MemberEvent, read_id};

/// Who hears it.
pub(super) struct Hearer(pub(super) Presence);

impl Hearer {
    /// Tells those who watch at this bus who comes and goes at others, until the link ends.
    ///
    /// # Errors
    /// Why it has ended.
    ///
    /// # Cancel safety
    /// What NATS has brought and it has not taken is lost.
    pub(super) async fn run(self) -> BusResult<()> {
        let mut watchers = self.0.bus.presence_watchers()?;
        loop {
            watchers.wait_for(|count| *count > 0).await.map_err(|_| closed())?;
            tokio::select! {
                ended = self.hear() => return ended,
                nobody = watchers.wait_for(|count| *count == 0) => nobody.map(drop).map_err(|_| closed())?,
            }
            self.0.members.watch(false);
        }
    }

    /// Waits for nobody: what NATS brings and is left with its client for too long would be a disturbance of the whole link.
    async fn hear(&self) -> BusResult<()> {
        let bus = &self.0.bus;
        let mut events = self.0.members.events();
        let subject = self.0.subjects.own(&format!("{PRESENCE}.*"));
        let mut told = self.0.nats.subscribe(subject).await.map_err(|_| closed())?;
        self.0.members.watch(true);
        let mut heard = Heard::default();
        loop {
            tokio::select! {
                message = told.next() => {
                    let message = message.ok_or_else(closed)?;
                    if let Some((id, told)) = self.read(&message) {
                        heard.take(id, told, || self.0.members.name(id), |event| bus.tell_presence(event))?;
                    }
                }
                event = events.recv() => match event {
                    Ok(MemberEvent::Gone { id, .. } | MemberEvent::Left { id }) => {
                        heard.lose(id).map_or(Ok(()), |event| bus.tell_presence(event))?;
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => {
                        let there: Vec<u64> = self.0.members.list().iter().map(|member| member.id).collect();
                        for id in heard.without(&there) {
                            heard.lose(id).map_or(Ok(()), |event| bus.tell_presence(event))?;
                        }
                    }
                    Err(RecvError::Closed) => return Err(closed()),
                },
            }
        }
    }

    /// What another bus has told, if it counts as there: what one that has left sent before may come behind its goodbye, and what one that is not known yet
    /// tells is told again with its next mark.
    fn read(&self, message: &Message) -> Option<(u64, Told)> {
        let id = read_id(message.subject.rsplit('.').next()?)?;
        self.0.members.epoch(id)?;
        if message.payload.len() > limits::PRESENCE_EVENT_BYTES {
            return None;
        }
        Some((id, serde_json::from_slice(&message.payload).ok()?))
    }
}

/// What each bus has told so far. It knows no more buses than those that are counted as there.
#[derive(Debug, Default)]
struct Heard {
    buses: HashMap<u64, Bus, RandomState>,
}

#[derive(Debug)]
struct Bus {
    name: String,
    /// The number of its last event that was heard, or is known to be missed.
    number: u64,
}

impl Heard {
    /// Takes what a bus has told, and yields what that means to those who watch.
    fn take(
        &mut self,
        id: u64,
        told: Told,
        name: impl Fn() -> String,
        mut tell: impl FnMut(PresenceEvent) -> BusResult<()>,
    ) -> BusResult<()> {
        let own = u64::from(told.event.is_some());
        if let Entry::Vacant(place) = self.buses.entry(id) {
            let (name, number) = (name(), told.number.saturating_sub(own));
            place.insert(Bus { name: name.clone(), number });
            tell(PresenceEvent::BusJoin { bus: id, name })?;
        }
        let Some(bus) = self.buses.get_mut(&id) else { return Ok(()) };
        let Some(new) = told.number.checked_sub(bus.number).filter(|new| *new > 0) else { return Ok(()) };
        bus.number = told.number;
        if new > own {
            tell(PresenceEvent::BusMissed { bus: id, count: new - own })?;
        }
        let Some(event) = told.event else { return Ok(()) };
        tell(match event {
            PresenceEvent::Join(member) => PresenceEvent::Join(member.at(id)),
            PresenceEvent::Leave(member) => PresenceEvent::Leave(member.at(id)),
            PresenceEvent::Missed(count) => PresenceEvent::BusMissed { bus: id, count },
            // Nobody tells others of a third one, and what a later version tells is not known here.
            _ => PresenceEvent::BusMissed { bus: id, count: 1 },
        })
    }

    /// A bus is gone.
    fn lose(&mut self, id: u64) -> Option<PresenceEvent> {
        let bus = self.buses.remove(&id)?;
        Some(PresenceEvent::BusLeave { bus: id, name: bus.name })
    }

    /// The buses that have told something and are not among these.
    fn without(&self, there: &[u64]) -> Vec<u64> {
        self.buses.keys().copied().filter(|id| !there.contains(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use whispeer::client::Member;

    use super::*;

    fn member(session: u64) -> Member {
        let text =
            format!(r#"{{"session":{session},"principal":"Local","name":"","pattern":"chat","since":1}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn at(session: u64, bus: u64) -> Member {
        member(session).at(bus)
    }

    fn join(number: u64, session: u64) -> Told {
        Told { number, event: Some(PresenceEvent::Join(member(session))) }
    }

    fn mark(number: u64) -> Told {
        Told { number, event: None }
    }

    fn taken(heard: &mut Heard, id: u64, told: Told) -> Vec<PresenceEvent> {
        let mut events = Vec::new();
        let tell = |event| {
            events.push(event);
            Ok(())
        };
        heard.take(id, told, || "other".to_owned(), tell).unwrap();
        events
    }

    fn bus_join(bus: u64) -> PresenceEvent {
        PresenceEvent::BusJoin { bus, name: "other".into() }
    }

    fn missed(count: u64) -> PresenceEvent {
        PresenceEvent::BusMissed { bus: 7, count }
    }

    #[test]
    fn a_bus_is_told_before_its_first_event_whose_bus_is_told_with_it() {
        let mut heard = Heard::default();
        assert_eq!(taken(&mut heard, 7, join(4, 1)), [bus_join(7), PresenceEvent::Join(at(1, 7))]);
        assert_eq!(taken(&mut heard, 8, mark(0)), [bus_join(8)]);
        assert_eq!(taken(&mut heard, 8, join(1, 1)), [PresenceEvent::Join(at(1, 8))]);
        let left = Told { number: 5, event: Some(PresenceEvent::Leave(member(1))) };
        assert_eq!(taken(&mut heard, 7, left), [PresenceEvent::Leave(at(1, 7))]);
    }

    #[test]
    fn what_is_missing_is_told_once_and_nothing_twice() {
        let mut heard = Heard::default();
        taken(&mut heard, 7, mark(10));
        assert_eq!(taken(&mut heard, 7, join(10, 1)), [], "it was before the mark");
        assert_eq!(taken(&mut heard, 7, join(13, 1)), [missed(2), PresenceEvent::Join(at(1, 7))]);
        assert_eq!(taken(&mut heard, 7, join(13, 1)), []);
        assert_eq!(taken(&mut heard, 7, mark(13)), []);
        assert_eq!(taken(&mut heard, 7, mark(15)), [missed(2)], "the last ones were lost");
        assert_eq!(taken(&mut heard, 7, mark(u64::MAX)), [missed(u64::MAX - 15)]);
    }

    #[test]
    fn a_bus_that_is_gone_is_told_once_and_tells_anew_when_it_is_back() {
        let mut heard = Heard::default();
        taken(&mut heard, 7, mark(3));
        assert_eq!(heard.lose(7), Some(PresenceEvent::BusLeave { bus: 7, name: "other".into() }));
        assert_eq!((heard.lose(7), heard.lose(9)), (None, None));
        assert_eq!(taken(&mut heard, 7, mark(9)), [bus_join(7)]);
        assert_eq!(heard.without(&[7]), [0_u64; 0]);
        assert_eq!(heard.without(&[]), [7]);
    }

    #[test]
    fn what_a_bus_has_missed_itself_is_told_and_what_it_says_of_others_is_not() {
        let mut heard = Heard::default();
        taken(&mut heard, 7, mark(0));
        let forged = Told { number: 1, event: Some(bus_join(9)) };
        assert_eq!(taken(&mut heard, 7, forged), [missed(1)]);
        let its_own = Told { number: 2, event: Some(PresenceEvent::Missed(4)) };
        assert_eq!(taken(&mut heard, 7, its_own), [missed(4)]);
    }
}
