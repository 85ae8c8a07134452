//! The hot path: from a publish to the queues of its matches.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::Shared;
use super::backlog::Patience;
use super::group::Group;
use super::requests::claim;
use super::router::{Target, Targets};
use super::session::{Hold, Session, State};
use super::stats::Totals;
use super::subscription::{Offered, Outcome, Slot, Subscription};
use super::task::{Deferred, SessionTask};
use crate::auth::Principal;
use crate::error::BusError;
use crate::limits;
use crate::proto::fields::{Field, FieldsBuilder, Options, iterate};
use crate::proto::{ContentRef, Flags, Header, Kind, Refusal};
use crate::topic::{TopicPattern, validate_pattern_bytes};

/// Parked publishes whose credit is returned together. One holder for several saves most of its cost;
/// a few dozen are still a small part of a window.
const HELD_TOGETHER: u32 = 32;

impl SessionTask {
    /// Takes a publish in. An error ends the session.
    pub(super) fn publish(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        self.spend(header, content)?;
        if self.session.budget().is_spent() {
            self.keep_for_later(header, content);
            return Ok(());
        }
        self.route(header, content);
        Ok(())
    }

    /// Puts a publish behind those that wait for the byte budget. An error ends the session.
    pub(super) fn defer(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        self.spend(header, content)?;
        self.keep_for_later(header, content);
        Ok(())
    }

    /// Routes what waited for the byte budget, or fails it when it has waited long enough.
    pub(super) fn retry_deferred(&mut self) {
        while let Some(first) = self.deferred.front() {
            let spent = self.session.budget().is_spent();
            if spent && first.until > self.clock.now() {
                return;
            }
            let Some(deferred) = self.deferred.pop_front() else { return };
            let content = deferred.content.borrowed();
            if deferred.header.kind == Kind::Ping {
                let pong = Header::new(Kind::Pong, 0, deferred.header.sequence);
                self.answer(|state| state.control(&pong, &ContentRef::empty()));
            } else if spent {
                let what = "the bus's byte budget is spent".to_owned();
                self.owed.add(1, content.frame_size() as u64);
                self.refuse(&deferred.header, &BusError::Overloaded { what });
            } else {
                self.route(&deferred.header, &content);
            }
        }
    }

    fn keep_for_later(&mut self, header: &Header, content: &ContentRef<'_>) {
        let until = self.clock.now() + self.shared.settings.block_limit;
        self.deferred.push_back(Deferred { header: *header, content: content.shared(), until });
    }

    /// Checks the publish against its window and sequence.
    fn spend(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        if !self.credit.is_left() {
            return Err(BusError::CreditExceeded { what: "the session's window for publishes".into() });
        }
        self.credit.spend(content.frame_size());
        self.published += 1;
        if header.sequence != self.published {
            let what = format!("publish {} follows {}", header.sequence, self.published - 1);
            return Err(BusError::Protocol { what });
        }
        Ok(())
    }

    fn route(&mut self, header: &Header, content: &ContentRef<'_>) {
        let size = content.frame_size();
        match self.deliver_all(content) {
            Ok((matches, held)) => {
                self.matches += u64::from(matches);
                self.totals.published += 1;
                self.totals.published_bytes += size as u64;
                if held {
                    self.hold_credit(size);
                } else {
                    self.owed.add(1, size as u64);
                }
                if header.flags.contains(Flags::ACKNOWLEDGE) {
                    let sequence = header.sequence;
                    self.answer(|state| state.accept(Kind::Publish, matches, sequence));
                }
            }
            Err(error) => {
                self.owed.add(1, size as u64);
                self.refuse(header, &error);
            }
        }
    }

    /// Leaves the credit of a parked publish to the hold of this turn.
    fn hold_credit(&mut self, size: usize) {
        if let Some(hold) = self.hold.take_if(|hold| hold.add(size) >= HELD_TOGETHER) {
            drop(hold);
        }
    }

    fn refuse(&mut self, header: &Header, error: &BusError) {
        self.totals.failed_publishes += 1;
        let sequence = header.sequence;
        self.answer(|state| state.fail(Kind::Publish, 0, sequence, error));
    }

    /// Gives the message to every match; returns how many there are, and whether it is parked for one.
    fn deliver_all(&mut self, content: &ContentRef<'_>) -> Result<(u32, bool), BusError> {
        if self.shared.is_draining() {
            return Err(BusError::Draining { what: "the bus".into() });
        }
        let mut asked = None;
        if !content.fields.is_empty() {
            let options = Options::read(content.fields).map_err(Refusal::into_error)?;
            asked = options.block_limit;
            if options.several_topics {
                return self.deliver_to_several(content, asked);
            }
        }
        let fan_out = FanOut {
            shared: &self.shared,
            publisher: &self.session,
            offered: Offered {
                content,
                publisher: self.session.id,
                patience: Patience {
                    clock: &self.clock,
                    bus: self.shared.settings.block_limit,
                    publisher: asked,
                },
            },
            hold: &mut self.hold,
            held: false,
            touched: &mut self.touched,
            totals: &mut self.totals,
        };
        if let Some(route) = self.cache.cached(content.topic) {
            return Ok(fan_out.deliver(&route.targets));
        }
        let (text, shape) = validate_pattern_bytes(content.topic)?;
        may_publish(&self.session, text, shape.reserved)?;
        Ok(match self.cache.look_up(text, shape, &self.shared.router)? {
            Targets::Cached(route) => fan_out.deliver(&route.targets),
            Targets::Fresh(targets) => {
                let counts = fan_out.deliver(targets);
                targets.clear();
                counts
            }
        })
    }

    /// A publish to several topics: each subscription gets it once, under the first topic it meets.
    fn deliver_to_several(
        &mut self,
        content: &ContentRef<'_>,
        asked: Option<Duration>,
    ) -> Result<(u32, bool), BusError> {
        let mut topics = vec![TopicPattern::from_utf8(content.topic)?];
        let mut kept = FieldsBuilder::new();
        for field in iterate(content.fields) {
            match field {
                Field::Topic(topic) => topics.push(TopicPattern::new(topic)?),
                Field::Header { name, value } => kept.header(name, value)?,
                Field::Origin(bus) => kept.origin(bus)?,
                _ => {}
            }
        }
        if topics.len() > limits::PUBLISH_MANY_TOPICS {
            let what =
                format!("a publish to {} topics; at most {}", topics.len(), limits::PUBLISH_MANY_TOPICS);
            return Err(BusError::LimitReached { what });
        }
        for topic in &topics {
            may_publish(&self.session, topic.as_str(), topic.is_reserved())?;
        }
        let payload = content.shared().payload_bytes();
        let patience =
            Patience { clock: &self.clock, bus: self.shared.settings.block_limit, publisher: asked };
        let mut reached = HashSet::with_hasher(RandomState::default());
        let (mut matches, mut held) = (0, false);
        for topic in &topics {
            let mut targets = Vec::new();
            self.cache.collect(topic, &self.shared.router, &mut targets);
            targets.retain(|target| reached.insert(target.identity()));
            let one = ContentRef::with_payload(kept.as_bytes(), topic.as_str().as_bytes(), &payload);
            let fan_out = FanOut {
                shared: &self.shared,
                publisher: &self.session,
                offered: Offered { content: &one, publisher: self.session.id, patience },
                hold: &mut self.hold,
                held: false,
                touched: &mut self.touched,
                totals: &mut self.totals,
            };
            let (count, parked) = fan_out.deliver(&targets);
            matches += count;
            held |= parked;
        }
        Ok((matches, held))
    }
}

/// Whether the session may publish there.
fn may_publish(session: &Session, topic: &str, reserved: bool) -> Result<(), BusError> {
    if reserved && session.peer.principal != Principal::Bus {
        return Err(BusError::ReservedTopic { topic: topic.to_owned() });
    }
    Ok(())
}

/// One message on its way to all its matches, and where to note what was done with it.
struct FanOut<'a> {
    shared: &'a Shared,
    publisher: &'a Arc<Session>,
    offered: Offered<'a>,
    /// Holds the publisher's credit for what is parked in this turn.
    hold: &'a mut Option<Arc<Hold>>,
    /// The message is parked for some match.
    held: bool,
    touched: &'a mut Vec<Arc<Session>>,
    totals: &'a mut Totals,
}

impl FanOut<'_> {
    /// Returns how many matches there are, and whether the message is parked for one of them.
    fn deliver(mut self, targets: &[Target]) -> (u32, bool) {
        if targets.len() > 1 && self.offered.content.payload.len() >= limits::SHARED_PAYLOAD {
            // One copy for all, whatever their number.
            let _ = self.offered.content.shared();
        }
        let mut matches = 0;
        for target in targets {
            let matched = match target {
                Target::One { session, slot } => self.deliver_to(session, *slot),
                Target::Group(group) => self.deliver_in(group),
            };
            matches += u32::from(matched);
        }
        (matches, self.held)
    }

    #[inline]
    fn deliver_to(&mut self, session: &Arc<Session>, slot: Slot) -> bool {
        let mut state = session.lock();
        let State { subscriptions, lanes, totals, parked_bytes, .. } = &mut *state;
        let Some(subscription) = subscriptions.at(slot) else { return false };
        if subscription.no_echo && session.id == self.offered.publisher {
            return false;
        }
        let Self { hold, held, publisher, .. } = self;
        let hold = || {
            *held = true;
            Arc::clone(hold.get_or_insert_with(|| Hold::new(publisher)))
        };
        let before = subscription.backlog.bytes();
        let room = *parked_bytes < session.budget().per_session();
        let outcome = subscription.offer(&self.offered, lanes, totals, room, hold);
        *parked_bytes = (*parked_bytes + subscription.backlog.bytes()).saturating_sub(before);
        let id = subscription.id;
        if outcome == Outcome::Parked && state.expect(self.offered.patience.deadline()) {
            session.task.wake();
        }
        let ended = if outcome == Outcome::End { state.end_slow_consumer(id) } else { None };
        claim(session, &mut state, self.touched);
        drop(state);
        if let Some(Subscription { pattern, entry, group, .. }) = ended {
            self.shared.give_up_place(session, slot, &pattern, entry, group);
        }
        true
    }

    fn deliver_in(&mut self, group: &Arc<Group>) -> bool {
        let Self { hold, held, publisher, .. } = self;
        let hold = || {
            *held = true;
            Arc::clone(hold.get_or_insert_with(|| Hold::new(publisher)))
        };
        let outcome = group.offer(&self.offered, self.touched, self.totals, hold);
        if outcome == Some(Outcome::Parked) {
            self.shared.sweeper.watch_group(group);
        }
        outcome.is_some()
    }
}
