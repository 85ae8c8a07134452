//! The hot path: from a publish to the queues of its matches.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::backlog::{Asked, Patience};
use super::group::Group;
use super::hold::Holds;
use super::requests::claim;
use super::router::{Target, Targets};
use super::session::{Session, State};
use super::stats::Totals;
use super::subscription::{Offered, Slot, Subscription};
use super::task::{Deferred, SessionTask};
use super::underway::Waiting;
use crate::auth::{Action, Principal};
use crate::error::BusError;
use crate::limits;
use crate::proto::fields::{Options, Quality};
use crate::proto::{ContentRef, Flags, Header, Kind, Refusal};
use crate::topic::{Shape, TopicPattern, validate_pattern_bytes};
use crate::transport::{Arrived, EncodedRun, Form, Incoming, Part};

/// Publishes that are routed together at most: what one read brings of small messages.
const RUN: usize = 1024;

impl SessionTask {
    /// Takes a publish in. An error ends the session.
    pub(super) fn publish(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        self.spend(header, content.frame_size())?;
        if self.refused_by_draining(header, content) {
            return Ok(());
        }
        if self.session.budget().is_spent() {
            self.keep_for_later(header, content);
            return Ok(());
        }
        self.route(header, content, Duration::ZERO);
        Ok(())
    }

    /// Puts a publish behind those that wait for the byte budget. An error ends the session.
    pub(super) fn defer(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        self.spend(header, content.frame_size())?;
        if !self.refused_by_draining(header, content) {
            self.keep_for_later(header, content);
        }
        Ok(())
    }

    /// A draining bus takes no more publishes; those that it has taken find their way.
    fn refused_by_draining(&mut self, header: &Header, content: &ContentRef<'_>) -> bool {
        // What other buses have taken in finds its way, too: nobody sends it again.
        let draining = self.shared.is_draining() && self.session.peer.part != Part::Relay;
        if draining {
            let error = BusError::Draining { what: "the bus".into() };
            self.conclude(header, content.frame_size(), Err(error));
        }
        draining
    }

    /// Routes what waited for the byte budget, or fails it when it has waited long enough, as far as the
    /// turn allows.
    pub(super) fn retry_deferred(&mut self) {
        while let Some(first) = self.deferred.front()
            && self.matches_left() > 0
        {
            let spent = self.session.budget().is_spent();
            if spent && first.until > self.clock.now() {
                return;
            }
            let Some(deferred) = self.deferred.pop_front() else { return };
            let content = deferred.content.borrowed();
            if deferred.header.kind == Kind::Ping && self.storing.flush(deferred.header.sequence) {
                // It is answered behind what is being stored.
            } else if deferred.header.kind == Kind::Ping {
                let pong = Header::new(Kind::Pong, 0, deferred.header.sequence);
                self.answer(|state| state.control(&pong, &ContentRef::empty()));
            } else if spent {
                let what = "the bus's byte budget is spent".to_owned();
                self.conclude(&deferred.header, content.frame_size(), Err(BusError::Overloaded { what }));
            } else {
                self.matches += 1;
                let left = deferred.until.saturating_duration_since(self.clock.now());
                let waited = self.shared.settings.block_limit.saturating_sub(left);
                self.route(&deferred.header, &content, waited);
            }
        }
    }

    fn keep_for_later(&mut self, header: &Header, content: &ContentRef<'_>) {
        let until = self.clock.now() + self.shared.settings.block_limit;
        let _waiting = Some(Waiting::new(&self.shared));
        self.deferred.push_back(Deferred { header: *header, content: content.shared(), until, _waiting });
    }

    /// Takes publishes in that came one after the other, have the same topic and ask for nothing more:
    /// each destination is locked once for all of them. `first` is taken already. Returns `false` if it
    /// has to go its way alone. An error ends the session.
    pub(super) fn publish_run(
        &mut self,
        first: &Arrived,
        incoming: &mut Incoming,
        run: &mut Vec<Arrived>,
    ) -> Result<bool, BusError> {
        if !is_plain(&first.header) || self.session.budget().is_spent() || !self.shared.takes_runs() {
            return Ok(false);
        }
        let route = {
            let content = incoming.content(first);
            let route = if content.fields.is_empty() { self.cache.cached(content.topic) } else { None };
            let Some(route) = route.filter(|route| route.stream.is_none()) else { return Ok(false) };
            route
        };
        run.clear();
        run.push(*first);
        let matches = (limits::TURN_MATCHES as usize).saturating_sub(self.matches as usize);
        let most = (matches / route.targets.len().max(1)).clamp(1, RUN);
        let topic = self.cache.last_topic();
        incoming.take_run(run, most, |next| {
            is_plain(&next.header) && next.fields.is_empty() && next.topic == topic
        });
        let mut result = Ok(true);
        for (index, publish) in run.iter().enumerate() {
            if let Err(error) = self.spend(&publish.header, publish.size) {
                result = Err(error);
                run.truncate(index);
                break;
            }
        }
        let bytes = run.iter().map(|publish| publish.size).sum();
        let matches = match &run[..] {
            [] => 0,
            [one] => self.fan_out(&route.targets, &[incoming.content(one)], bytes, Asked::default()),
            several => self.fan_out(&route.targets, &contents_of(several, incoming), bytes, Asked::default()),
        };
        self.frames.0 += run.len() as u64;
        self.matches += matches + run.len() as u64;
        self.totals.matched += matches;
        self.totals.published += run.len() as u64;
        self.totals.published_bytes += bytes as u64;
        let (messages, bytes) = self.holds.settle(run.iter().map(|publish| publish.size));
        self.owed.add(messages, bytes);
        result
    }

    /// Gives the messages, which are of one topic, to every target; returns the number of matches.
    pub(super) fn fan_out(
        &mut self,
        targets: &[Target],
        contents: &[ContentRef<'_>],
        bytes: usize,
        asked: Asked,
    ) -> u64 {
        let bus = self.shared.settings.block_limit;
        let encoded = encode_for(targets, contents);
        let fan_out = FanOut {
            shared: &self.shared,
            offered: Offered {
                contents,
                bytes,
                values: contents.iter().any(ContentRef::is_value),
                encoded: encoded.as_ref(),
                publisher: self.session.id,
                patience: Patience { clock: &self.clock, bus, publisher: asked },
            },
            holds: &mut self.holds,
            touched: &mut self.touched,
            totals: &mut self.totals,
        };
        fan_out.deliver(targets)
    }

    /// Checks the publish against its window and sequence.
    fn spend(&mut self, header: &Header, size: usize) -> Result<(), BusError> {
        if !self.credit.is_left() {
            return Err(BusError::CreditExceeded { what: "the session's window for publishes".into() });
        }
        self.credit.spend(size);
        self.published += 1;
        if header.sequence != self.published {
            let what = format!("publish {} follows {}", header.sequence, self.published - 1);
            return Err(BusError::Protocol { what });
        }
        Ok(())
    }

    /// Routes a publish that has waited for so long.
    fn route(&mut self, header: &Header, content: &ContentRef<'_>, waited: Duration) {
        let delivered = match self.plugged {
            None => self.deliver_all(header, content, waited),
            Some(_) => self.judge_and_deliver(header, content, waited),
        };
        match delivered {
            Ok(Some(matches)) => self.conclude(header, content.frame_size(), Ok(matches)),
            Ok(None) => {}
            Err(error) => self.conclude(header, content.frame_size(), Err(error)),
        }
    }

    /// Counts a publish of this size that every match has, or that failed, and answers it.
    pub(super) fn conclude(&mut self, header: &Header, size: usize, result: Result<u64, BusError>) {
        let sequence = header.sequence;
        match result {
            Ok(matches) => {
                self.totals.published += 1;
                self.totals.published_bytes += size as u64;
                let (messages, bytes) = self.holds.settle([size].into_iter());
                self.owed.add(messages, bytes);
                if header.flags.contains(Flags::ACKNOWLEDGE) {
                    let matches = u32::try_from(matches).unwrap_or(u32::MAX);
                    self.answer(|state| state.accept(Kind::Publish, matches, sequence));
                }
            }
            Err(error) => {
                self.owed.add(1, size as u64);
                self.totals.failed_publishes += 1;
                self.answer(|state| state.fail(Kind::Publish, 0, sequence, &error));
            }
        }
    }

    /// Answers a publish of this size that is kept until it is due. It counts as published then.
    pub(super) fn accept_delayed(&mut self, header: &Header, size: usize) {
        let (messages, bytes) = self.holds.settle([size].into_iter());
        self.owed.add(messages, bytes);
        if header.flags.contains(Flags::ACKNOWLEDGE) {
            self.answer(|state| state.accept(Kind::Publish, 0, header.sequence));
        }
    }

    /// Gives the message to every match; returns how many there are, or `None` if that takes more than
    /// the turn.
    pub(super) fn deliver_all(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        waited: Duration,
    ) -> Result<Option<u64>, BusError> {
        let (mut asked, mut quality) = (Asked::default(), Quality::AtMostOnce);
        if !content.fields.is_empty() {
            let options = Options::read(content.fields).map_err(Refusal::into_error)?;
            asked.block_limit = options.block_limit;
            if let Some(left) = options.expires {
                let Some(left) = left.checked_sub(waited) else {
                    // It was of no use any more before it had any match.
                    return Ok(Some(0));
                };
                asked.expires = self.clock.now().checked_add(left);
            }
            quality = options.quality;
            // What is due by now is published as ever.
            if let Some(due) = options.deliver_at
                && !due.is_over()
            {
                if options.several_topics {
                    let what = "a message to several topics cannot be delayed; publish to each".to_owned();
                    return Err(BusError::InvalidSettings(what));
                }
                return self.delay(header, content, due, quality).map(|()| None);
            }
            if options.several_topics {
                return self.begin_several(header, content, (asked, quality));
            }
        }
        if let Some(route) = self.cache.cached(content.topic) {
            return match &route.stream {
                Some(stream) => self.store(stream, header, content, asked).map(|()| None),
                None if quality > Quality::AtMostOnce => {
                    let topic = String::from_utf8_lossy(content.topic).into_owned();
                    Err(BusError::NotDurable { topic })
                }
                None => Ok(Some(self.deliver(&route.targets, content, content.frame_size(), asked))),
            };
        }
        let (text, shape) = validate_pattern_bytes(content.topic)?;
        self.may_publish(text, shape.reserved)?;
        if (quality > Quality::AtMostOnce || !self.shared.streams.is_empty())
            && let Some(stream) = self.stream_of(&TopicPattern::new(text)?, quality)?
        {
            return self.store(&stream, header, content, asked).map(|()| None);
        }
        self.look_up_and_deliver(header, content, asked, (text, shape))
    }

    /// Delivers what has been stored, of a frame of so many bytes.
    pub(super) fn route_stored(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        asked: Asked,
        arrived: usize,
    ) {
        let size = content.frame_size();
        self.arrived_size = (arrived != size).then_some(arrived);
        let delivered = match self.cache.cached(content.topic) {
            _ if asked.has_expired(&self.clock) => Ok(Some(0)),
            Some(route) => Ok(Some(self.deliver(&route.targets, content, size, asked))),
            None => validate_pattern_bytes(content.topic)
                .map_err(BusError::from)
                .and_then(|checked| self.look_up_and_deliver(header, content, asked, checked)),
        };
        self.arrived_size = None;
        match delivered {
            Ok(Some(matches)) => self.conclude(header, arrived, Ok(matches)),
            Ok(None) => {}
            Err(error) => self.conclude(header, arrived, Err(error)),
        }
    }

    fn look_up_and_deliver(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        asked: Asked,
        (text, shape): (&str, Shape),
    ) -> Result<Option<u64>, BusError> {
        let size = content.frame_size();
        let looked_up =
            self.with_steps(|task, steps| task.cache.look_up(text, shape, &task.shared.router, steps))?;
        match looked_up {
            None => self.begin_one(header, content, asked, Vec::new()),
            Some(Targets::Cached(route)) => Ok(Some(self.deliver(&route.targets, content, size, asked))),
            Some(Targets::Fresh(targets)) if targets.len() > limits::ROUTE_TARGETS => {
                self.begin_one(header, content, asked, targets)
            }
            Some(Targets::Fresh(targets)) => {
                let matches = self.deliver(&targets, content, size, asked);
                self.cache.keep(targets);
                Ok(Some(matches))
            }
        }
    }

    /// Gives one message to every target and counts the matches; returns their number.
    pub(super) fn deliver(
        &mut self,
        targets: &[Target],
        content: &ContentRef<'_>,
        size: usize,
        asked: Asked,
    ) -> u64 {
        let matches = match self.plugged {
            None => self.fan_out(targets, std::slice::from_ref(content), size, asked),
            Some(_) => self.deliver_judged(targets, content, size, asked),
        };
        self.matches += targets.len() as u64;
        self.totals.matched += matches;
        matches
    }
}

/// The contents of a run. By itself, as the loop is worse where it is part of a large function.
#[inline(never)]
fn contents_of<'a>(run: &[Arrived], incoming: &'a Incoming) -> Vec<ContentRef<'a>> {
    run.iter().map(|publish| incoming.content(publish)).collect()
}

/// Whether a frame is a publish of which nobody wants to know how it went.
fn is_plain(header: &Header) -> bool {
    header.kind == Kind::Publish && header.flags == Flags::NONE
}

/// Encodes small messages once if several byte links are to take several of them.
fn encode_for(targets: &[Target], contents: &[ContentRef<'_>]) -> Option<EncodedRun> {
    let several = targets.len() > 1 && contents.len() > 1;
    let encoded = several
        && contents
            .iter()
            .all(|content| !content.is_value() && content.payload().len() < limits::SHARED_PAYLOAD)
        && targets.iter().any(|target| match target {
            Target::One { session, .. } => session.sender().form() == Form::Bytes,
            Target::Group(_) => false,
        });
    encoded.then(|| EncodedRun::new(Kind::Deliver, contents))
}

impl SessionTask {
    /// Whether the session may publish there.
    pub(super) fn may_publish(&self, topic: &str, reserved: bool) -> Result<(), BusError> {
        if reserved && self.session.peer.principal != Principal::Bus {
            return Err(BusError::ReservedTopic { topic: topic.to_owned() });
        }
        match &self.rights {
            Some(rights) if !rights.publishes_freely() => {
                rights.check(Action::Publish, &TopicPattern::new(topic)?)
            }
            _ => Ok(()),
        }
    }
}

/// Messages on their way to all their matches, and where to note what was done with them.
struct FanOut<'a> {
    shared: &'a Shared,
    offered: Offered<'a>,
    holds: &'a mut Holds,
    touched: &'a mut Vec<Arc<Session>>,
    totals: &'a mut Totals,
}

impl FanOut<'_> {
    /// Returns how many matches there are.
    fn deliver(mut self, targets: &[Target]) -> u64 {
        if targets.len() > 1 {
            for content in self.offered.contents {
                if !content.is_value() && content.payload().len() >= limits::SHARED_PAYLOAD {
                    // One copy for all, whatever their number.
                    let _ = content.shared();
                }
            }
        }
        let matches = targets.iter().map(|target| match target {
            Target::One { session, slot } => self.deliver_to(session, *slot),
            Target::Group(group) => self.deliver_in(group),
        });
        matches.sum()
    }

    #[inline]
    fn deliver_to(&mut self, session: &Arc<Session>, slot: Slot) -> u64 {
        let mut state = session.lock();
        let State { subscriptions, lanes, totals, parked_bytes, .. } = &mut *state;
        let Some(subscription) = subscriptions.at(slot) else { return 0 };
        if subscription.no_echo && session.id == self.offered.publisher {
            return 0;
        }
        let before = subscription.backlog.bytes();
        let others = parked_bytes.saturating_sub(before);
        let room = session.budget().per_session().saturating_sub(others);
        let outcome = subscription.offer(&self.offered, lanes, totals, room, self.holds);
        *parked_bytes = others + subscription.backlog.bytes();
        let (id, uncounted) = (subscription.id, subscription.uncounted);
        if outcome.unnoted && state.note_parked(slot) {
            session.task.wake();
        }
        let ended = if outcome.ends { state.end_slow_consumer(id) } else { None };
        claim(session, &mut state, self.touched);
        drop(state);
        let told = if uncounted { self.leave_out(outcome.matched) } else { outcome.matched };
        if let Some(Subscription { pattern, entry, group, .. }) = ended {
            self.shared.give_up_place(session, slot, &pattern, entry, group);
        }
        told
    }

    /// Counts matches that the publisher is not told of.
    #[cold]
    fn leave_out(&mut self, matched: u64) -> u64 {
        self.totals.matched += matched;
        0
    }

    fn deliver_in(&mut self, group: &Arc<Group>) -> u64 {
        let outcome = group.offer(&self.offered, self.touched, self.totals, self.holds);
        if outcome.unnoted {
            self.shared.sweeper.watch_group(group);
        }
        outcome.matched
    }
}
