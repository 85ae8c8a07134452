//! What a session asks of the bus beside publishing: subscribe, serve, grant credit, and the reverse.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::answers::refusal_content;
use super::backlog::Backlog;
use super::deadlines::Deadlines;
use super::group::Group;
use super::introspect;
use super::presence::{self, Present, Watching};
use super::request_times::RequestEnd;
use super::requests::{Asked, Request, claim};
use super::router::Target;
use super::service::Candidate;
use super::session::{Session, State};
use super::streams::{Answer, Cursor, Drained, Membership, Place, Reads, Stream, StreamChange, Wanted, join};
use super::subscription::{Noted, Slot, Subscription};
use super::task::SessionTask;
use crate::auth::{Action, Principal};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{FieldsBuilder, GapReason, Options, Policy, Quality, Start};
use crate::proto::{ContentRef, Credit, Flags, Header, Kind, Lane, MalformedFrame, Refusal};
use crate::store::Name;
use crate::topic::{EntryId, Topic, TopicPattern};
use crate::transport::Part;

/// `UNSUBSCRIBE`: deliver what waits before the end.
const DRAIN: Flags = Flags(1);

/// A stream that a subscription is to read.
struct ToRead {
    slot: Slot,
    stream: Arc<Stream>,
    how: How,
}

/// How a subscription reads a stream.
enum How {
    /// At its own pace, from there on.
    Freely(TopicPattern, Place),
    /// As a part of a consumer, which knows what is acknowledged.
    Acknowledged(Box<Wanted>),
}

impl SessionTask {
    pub(super) fn subscribe(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        if self.session.lock().subscriptions.contains(header.id) || self.is_asked_about(header.id) {
            return Err(BusError::Protocol { what: format!("subscription {} exists already", header.id) });
        }
        if self.plugged.is_some() {
            match self.ask_to_subscribe(header, content) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    self.answer(|state| state.fail(Kind::Subscribe, header.id, 0, &error));
                    return Ok(());
                }
            }
        }
        self.admit_subscription(header, content);
        Ok(())
    }

    /// Makes a subscription, unless it is refused, and answers it.
    pub(super) fn admit_subscription(&mut self, header: &Header, content: &ContentRef<'_>) {
        let result = self.try_subscribe(header, content);
        let id = header.id;
        let (session, presence) = (Arc::clone(&self.session), Arc::clone(&self.shared.presence));
        self.answer(|state| match &result {
            // Its task answers when it has been read from the store.
            Ok(Some(ToRead { how: How::Acknowledged(_), .. })) => {}
            Ok(to_read) => {
                match to_read {
                    Some(ToRead { how: How::Freely(_, place), .. }) => {
                        let header = Header::answering(Kind::Accepted, Kind::Subscribe, id, place.live_from);
                        state.control(&header, &ContentRef::of_payload(&place.own_epoch));
                    }
                    _ => state.accept(Kind::Subscribe, id, 0),
                }
                if let Some(own) = state.subscriptions.by_id(id)
                    && session.peer.part != Part::Relay
                {
                    own.present = Present::begin(&session, &presence, &own.pattern);
                }
            }
            Err(error) => state.fail(Kind::Subscribe, id, 0, error),
        });
        if let Ok(Some(ToRead { slot, stream, how })) = result {
            self.begin_to_read((slot, id), &stream, how);
        }
    }

    /// Begins behind the answer, as the messages do.
    fn begin_to_read(&mut self, (slot, id): (Slot, u32), stream: &Arc<Stream>, how: How) {
        let place = (&self.session, slot, id);
        let plugins = self.shared.plugins.clone();
        let reads = match how {
            How::Freely(pattern, from) => {
                Reads::Cursor(Cursor::start(&self.runtime, place, stream, pattern, from, plugins))
            }
            How::Acknowledged(wanted) => {
                let Shared { presence, wishing, .. } = &*self.shared;
                match join(stream, *wanted, place, &self.runtime, (plugins, presence, wishing)) {
                    Ok(membership) => Reads::Member(membership),
                    Err(error) => {
                        self.session.lock().subscriptions.remove(id);
                        return self.answer(|state| state.fail(Kind::Subscribe, id, 0, &error));
                    }
                }
            }
        };
        self.session.lock().subscriptions.read_stream(slot, reads);
    }

    /// The stream that a subscription is to read, where it says where it begins.
    fn stream_to_read(
        &self,
        pattern: &TopicPattern,
        options: &Options<'_>,
    ) -> BusResult<Option<(Arc<Stream>, How)>> {
        let acknowledges = options.quality > Quality::AtMostOnce;
        let invalid = |what: &str| Err(BusError::InvalidSettings(what.to_owned()));
        match (options.start, acknowledges) {
            (None, false) if options.consumer.is_some() => {
                return invalid("a durable consumer acknowledges; subscribe with `Quality::AtLeastOnce`");
            }
            (None, _) if options.limit.is_some() => {
                return invalid("a limit is for what is read of a stream; say where to begin");
            }
            (_, true) if options.limit.is_some() => {
                return invalid("what is read up to a limit is not acknowledged");
            }
            (None, false) if self.shared.streams.are_dead_letters(pattern) => {
                return invalid(
                    "dead letters are not published, they are read; say where to begin, with `Start::New` for those to come",
                );
            }
            (None, false) => return Ok(None),
            (Some(_), false) if options.group.is_some() => {
                return invalid(
                    "a queue group does not begin at a place of a stream unless it acknowledges; \
                     subscribe with `Quality::AtLeastOnce`",
                );
            }
            _ => {}
        }
        if options.group.is_some() && options.consumer.is_some() {
            return invalid("a queue group is a durable consumer of its own; give one name, not two");
        }
        let topic = || pattern.to_string();
        let found =
            self.shared.streams.of(pattern)?.ok_or_else(|| BusError::NotDurable { topic: topic() })?;
        if !found.contains(pattern) {
            let what = format!(
                "\"{pattern}\" has topics that the stream \"{}\" does not keep; subscribe to those by themselves",
                found.name
            );
            return Err(BusError::InvalidSettings(what));
        }
        let own_epoch = found.epoch()?;
        let start = match options.start {
            None => Start::New,
            // Sequences begin with 1, so that nothing is missing before it.
            Some(Start::From(0)) => Start::From(1),
            Some(start) => start,
        };
        let how = if acknowledges {
            let name = options.group.or(options.consumer).map(Name::new).transpose();
            let name = name.map_err(|error| BusError::InvalidSettings(error.to_string()))?;
            How::Acknowledged(Box::new(Wanted {
                name,
                is_shared: options.group.is_some(),
                pattern: pattern.clone(),
                start,
                epoch: options.epoch,
                rules: options.delivery,
                claim: self.claim(),
            }))
        } else {
            let (epoch, limit, live_from) = (options.epoch, options.limit, found.live_from());
            How::Freely(pattern.clone(), Place { start, own_epoch, epoch, limit, live_from })
        };
        Ok(Some((Arc::clone(found), how)))
    }

    fn try_subscribe(&mut self, header: &Header, content: &ContentRef<'_>) -> BusResult<Option<ToRead>> {
        let options = Options::read(content.fields).map_err(Refusal::into_error)?;
        let pattern = TopicPattern::from_utf8(content.topic)?;
        let settings = &self.shared.settings;
        if self.shared.is_draining() {
            return Err(BusError::Draining { what: "the bus".into() });
        }
        self.check(Action::Subscribe, &pattern)?;
        if options.policy == Policy::Block && !self.shared.live().allow_block {
            let what =
                "this bus does not let subscriptions block publishers; choose another policy".to_owned();
            return Err(BusError::Denied { what });
        }
        if options.group.is_some() && options.policy == Policy::Disconnect {
            let what =
                "the policy Disconnect is not for queue groups: a group is not one consumer".to_owned();
            return Err(BusError::InvalidSettings(what));
        }
        if self.session.peer.part == Part::Sharing
            && (options.quality == Quality::AtMostOnce || options.group.is_none())
        {
            let what = "another bus takes part in groups that acknowledge, and in nothing else".to_owned();
            return Err(BusError::Denied { what });
        }
        let window = options.window.unwrap_or((limits::WINDOW_MESSAGES, limits::WINDOW_BYTES));
        let stream = self.stream_to_read(&pattern, &options)?;
        let slot = {
            let mut state = self.session.lock();
            if state.subscriptions.len() >= settings.max_subscriptions {
                let what = format!("this session has {} subscriptions", settings.max_subscriptions);
                return Err(BusError::LimitReached { what });
            }
            let held = state.table_bytes();
            let room = self.shared.table.reserve(&pattern, options.group, held)?;
            state.subscriptions.insert(Subscription {
                id: header.id,
                room,
                pattern: pattern.clone(),
                policy: options.policy,
                no_echo: header.flags.contains(Flags::NO_ECHO),
                uncounted: self.session.peer.part != Part::Client,
                entry: None,
                group: None,
                window,
                credit: Credit::new(window),
                sequence: 0,
                backlog: Backlog::new(options.policy, window),
                matched: 0,
                delivered: 0,
                dropped: [0; GapReason::ALL.len()],
                draining: false,
                drained: false,
                noted: Noted::default(),
                reads: None,
                present: None,
                _watching: Watching::of(&pattern, self.session.peer.part, &self.shared.presence),
            })
        };
        if let Some((stream, how)) = stream {
            return Ok(Some(ToRead { slot, stream, how }));
        }
        let routed = self.enter_table(&pattern, slot, &options, window);
        if routed.is_err() {
            self.session.lock().subscriptions.remove(header.id);
        }
        routed.map(|()| None)
    }

    /// Makes the subscription known to the router.
    fn enter_table(
        &mut self,
        pattern: &TopicPattern,
        slot: Slot,
        options: &Options<'_>,
        window: (u32, u64),
    ) -> BusResult<()> {
        let router = &self.shared.router;
        let (entry, group) = match options.group {
            None => {
                let target = Target::One { session: Arc::clone(&self.session), slot };
                (Some(router.insert(pattern, target)?), None)
            }
            Some(name) => {
                let budget = Arc::clone(&self.shared.budget);
                let found = || Group::new(pattern.clone(), name.to_owned(), options.policy, window, budget);
                (None, Some(router.join(pattern, name, found, &self.session, slot)?))
            }
        };
        {
            let mut state = self.session.lock();
            if let Some(subscription) = state.subscriptions.at(slot) {
                subscription.entry = entry;
                subscription.group.clone_from(&group);
                drop(state);
                if let Some(group) = group {
                    // What waits for the group waits no longer.
                    group.pump(&mut self.touched);
                }
                return Ok(());
            }
        }
        // A match ended it before its place was known: the place is given up.
        if let Some(mut left) = self.shared.give_up_place(&self.session, slot, pattern, entry, group) {
            self.shared.past().dropped[GapReason::Link.index()] += left.abandon();
        }
        Ok(())
    }

    /// Whether the session may do something with this pattern. Where nobody is asked who he is, all may do all
    /// but with topics of the bus's own, which are for its own user and process.
    pub(super) fn check(&self, action: Action, pattern: &TopicPattern) -> BusResult<()> {
        match &self.rights {
            Some(rights) => rights.check(action, pattern),
            None if !pattern.is_reserved() => Ok(()),
            None if self.session.peer.principal.reads_reserved(self.shared.own_uid()) => Ok(()),
            None => {
                let what = format!("{action} \"{pattern}\" is for the bus's own user");
                Err(BusError::Denied { what })
            }
        }
    }

    fn may_request(&self, content: &ContentRef<'_>) -> BusResult<()> {
        let topic = content.topic;
        if topic == introspect::PRESENCE.as_bytes() || topic == introspect::PRESENCE_OF_ALL.as_bytes() {
            // Who may watch it may ask for it.
            let asked = str::from_utf8(content.payload()).ok().and_then(presence::place_of);
            let what = "a request for presence needs a topic or pattern as its payload";
            return self
                .check(Action::Subscribe, &asked.ok_or_else(|| BusError::InvalidSettings(what.into()))?);
        }
        // A topic that is none is refused as such.
        if self.rights.is_none() && topic.first() != Some(&b'$') {
            return Ok(());
        }
        let pattern = TopicPattern::from_utf8(topic)?;
        self.check(Action::Request, &pattern)?;
        match &self.rights {
            // Whatever patterns allow.
            Some(rights) if pattern.is_reserved() && introspect::is_administered(&pattern) => {
                rights.identity().permissions.allows_administering()?;
                self.may_change(content)
            }
            _ => Ok(()),
        }
    }

    /// Whether this session may publish what it asks the bus to publish once more.
    fn may_change(&self, content: &ContentRef<'_>) -> BusResult<()> {
        // What cannot be read is refused by who makes the change, and reads it in the same way.
        let Ok(change) = rmp_serde::from_slice::<StreamChange>(content.payload()) else { return Ok(()) };
        let topics = self.shared.streams.published_by(&change);
        topics.iter().try_for_each(|topics| self.check(Action::Publish, topics))
    }

    pub(super) fn unsubscribe(&mut self, header: &Header) -> Result<(), BusError> {
        if !self.give_up_asking(header.id) {
            self.end_subscription(header.id, header.sequence, header.flags.contains(DRAIN), None);
        }
        Ok(())
    }

    /// Ends a subscription of which so many deliveries were taken: at once, or when what is held for it has been
    /// delivered.
    pub(super) fn end_subscription(&mut self, id: u32, taken: u64, drain: bool, error: Option<&BusError>) {
        let Some(slot) = self.session.lock().subscriptions.slot(id) else {
            // It has ended by itself while this was under way.
            return;
        };
        let left = self.shared.leave_table(&self.session, slot);
        let mut state = self.session.lock();
        if drain && state.drain_consumer(slot) {
            return claim(&self.session, &mut state, &mut self.touched);
        }
        let State { subscriptions, lanes, totals, parked_bytes, .. } = &mut *state;
        if !drain
            && error.is_none()
            && let Some(reads) = subscriptions.at(slot).and_then(|own| own.reads.as_ref())
            && let Some(membership) = reads.membership()
        {
            membership.ended_by_client(taken);
        }
        if let Some(subscription) = subscriptions.at(slot).filter(|own| !own.drained) {
            let before = subscription.backlog.bytes();
            let inherited = left.is_some();
            if let Some(left) = left {
                subscription.inherit(left);
            }
            if drain {
                subscription.draining = true;
                subscription.pump(lanes, totals);
            } else {
                // What is on its way, or lies unread at the client, nobody will take any more.
                totals.count_untaken(subscription.delivered.saturating_sub(taken));
                subscription.abandon(lanes, totals);
            }
            *parked_bytes = (*parked_bytes + subscription.backlog.bytes()).saturating_sub(before);
            if inherited {
                state.note_parked(slot);
            }
        }
        match error {
            None => state.end_if_drained(id, !drain),
            Some(error) => state.end_with(id, error),
        }
        claim(&self.session, &mut state, &mut self.touched);
    }

    pub(super) fn serve(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        if self.session.lock().servings.get(header.id).is_some() || self.is_claimed(header.id) {
            return Err(BusError::Protocol { what: format!("serving {} exists already", header.id) });
        }
        let served = match self.claim_to_serve(header, content) {
            Ok(true) => return Ok(()),
            Ok(false) => self.try_serve(header, content),
            Err(error) => Err(error),
        };
        self.answer_serve(header.id, &served);
        Ok(())
    }

    pub(super) fn answer_serve(&mut self, id: u32, served: &BusResult<()>) {
        self.answer(|state| match served {
            Ok(()) => state.accept(Kind::Serve, id, 0),
            Err(error) => state.fail(Kind::Serve, id, 0, error),
        });
    }

    /// The topic that the session wants to serve, if it may do so as far as it alone is concerned.
    pub(super) fn may_serve(&self, content: &ContentRef<'_>) -> BusResult<Topic> {
        let topic = Topic::from_utf8(content.topic)?;
        if topic.is_reserved() && self.session.peer.principal != Principal::Bus {
            return Err(BusError::ReservedTopic { topic: topic.to_string() });
        }
        if let Some(rights) = &self.rights {
            rights.check(Action::Serve, &TopicPattern::from(topic.clone()))?;
        }
        if self.shared.is_draining() {
            return Err(BusError::Draining { what: "the bus".into() });
        }
        let limit = self.shared.live().max_servings;
        let claims = self.claiming.as_ref().map_or(0, |claiming| claiming.len());
        if self.session.lock().servings.len() + claims >= limit {
            return Err(BusError::LimitReached { what: format!("this session has {limit} servings") });
        }
        Ok(topic)
    }

    pub(super) fn try_serve(&mut self, header: &Header, content: &ContentRef<'_>) -> BusResult<()> {
        let options = Options::read(content.fields).map_err(Refusal::into_error)?;
        let topic = self.may_serve(content)?;
        let held = self.session.lock().table_bytes();
        // The bus's own are few and always the same.
        let room = match self.session.peer.principal {
            Principal::Bus => None,
            _ => Some(self.shared.table.reserve(&topic.clone().into(), options.group, held)?),
        };
        let joined = self.shared.services.join(
            &topic,
            &Candidate {
                session: &self.session,
                id: header.id,
                window: options.window.unwrap_or((limits::SERVING_WINDOW, limits::WINDOW_BYTES)),
                group: options.group,
                mode: options.mode,
            },
        )?;
        joined.service.note_at(&self.session, header.id, room);
        for (session, id) in joined.replaced {
            let content = refusal_content(&BusError::TakenOver { topic: topic.to_string() });
            let mut state = session.lock();
            state.forget_serving(id);
            state.data(&Header::answering(Kind::Ended, Kind::Serve, id, 0), &content.borrowed());
            claim(&session, &mut state, &mut self.touched);
        }
        self.shared.serve_waiting(&joined.service, self.clock.now(), &mut self.touched);
        Ok(())
    }

    pub(super) fn unserve(&mut self, header: &Header) -> Result<(), BusError> {
        if !self.give_up_claim(header.id) {
            self.end_serving(header.id, None);
        }
        Ok(())
    }

    pub(super) fn end_serving(&mut self, id: u32, error: Option<&BusError>) {
        let Some(service) = self.session.lock().forget_serving(id) else { return };
        let waiting = self.shared.services.leave(&service, &self.session, id);
        self.shared.fail_waiting(&service, waiting.into_iter(), &mut self.touched);
        self.answer(|state| {
            let header = Header::answering(Kind::Ended, Kind::Serve, id, 0);
            match error {
                None => state.data(&header, &ContentRef::empty()),
                Some(error) => state.data(&header, &refusal_content(error).borrowed()),
            };
        });
    }

    pub(super) fn request(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        if self.session.lock().requests.contains_key(&header.id) {
            return Err(BusError::Protocol { what: format!("request {} is under way already", header.id) });
        }
        self.totals.requests += 1;
        let request = Request {
            id: header.id,
            flags: header.flags,
            left: Duration::from_micros(header.sequence),
            content,
            clock: &self.clock,
        };
        // The bus still tells of itself, and takes it when an administrator wants it to end sooner. What others had asked over a
        // link of the bus's own before they knew is answered, as long as it has a server.
        let is_own = self.session.peer.principal == Principal::Bus;
        let result = if self.shared.is_draining() && !is_own && content.topic.first() != Some(&b'$') {
            Err(BusError::Draining { what: "the bus".into() })
        } else {
            self.may_request(content).and_then(|()| {
                self.shared.request(&self.session, &request, &mut self.touched, &mut self.matches)
            })
        };
        if let Err(error) = result {
            self.totals.failed_requests += 1;
            let refusal = refusal_content(&error);
            let answer = Header::new(Kind::Answer, header.id, 0).flagged(Flags::ERROR);
            self.answer(|state| {
                state.control(&answer, &refusal.borrowed());
            });
        }
        Ok(())
    }

    pub(super) fn credit(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        let malformed = || MalformedFrame::Content("a CREDIT without its number of bytes");
        let bytes = u64::from_le_bytes(*content.payload().first_chunk().ok_or_else(malformed)?);
        let messages = header.id;
        let Ok(id) = u32::try_from(header.sequence) else { return Ok(()) };
        match Lane::from_u8(header.flags.0) {
            Some(Lane::Subscription) => self.grant_subscription(id, messages, bytes),
            Some(Lane::Serving) => {
                let service = self.session.lock().servings.get(id).cloned();
                if let Some(service) = service {
                    service.grant(&self.session, id, messages, bytes);
                    self.shared.serve_waiting(&service, self.clock.now(), &mut self.touched);
                }
            }
            Some(Lane::Stream) => self.shared.grant_stream(&self.session, id, messages, bytes),
            Some(Lane::Publish) | None => {
                return Err(BusError::Protocol { what: format!("credit for window {}", header.flags.0) });
            }
        }
        Ok(())
    }

    /// Takes what a client says of messages that it was handed.
    pub(super) fn acknowledge(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), BusError> {
        let told = {
            let mut state = self.session.lock();
            let subscription = state.subscriptions.by_id(header.id);
            let reads = subscription.and_then(|own| own.reads.as_ref());
            reads.and_then(Reads::membership).map(Membership::told)
        };
        let gone = || BusError::StaleAck { what: "a message of a subscription that has ended".into() };
        let session = Arc::clone(&self.session);
        let result = told.ok_or_else(gone).and_then(|told| told.acknowledge(header, content, &session));
        match result {
            Err(error @ BusError::Protocol { .. }) => return Err(error),
            Err(error) if header.flags.contains(Flags::ACKNOWLEDGE) => {
                self.answer(|state| state.fail(Kind::Ack, header.id, header.sequence, &error));
            }
            Ok(Answer::Now) if header.flags.contains(Flags::ACKNOWLEDGE) => {
                self.answer(|state| state.accept(Kind::Ack, header.id, header.sequence));
            }
            // Whoever does not ask gets the message again.
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    fn grant_subscription(&mut self, id: u32, messages: u32, bytes: u64) {
        let group = {
            let mut state = self.session.lock();
            let State { subscriptions, lanes, totals, parked_bytes, .. } = &mut *state;
            let Some(subscription) = subscriptions.by_id(id) else { return };
            let (messages, bytes) = subscription.credit.grant_within(messages, bytes, subscription.window);
            if let Some(reads) = &subscription.reads {
                if let Some(membership) = reads.membership() {
                    membership.taken(messages, bytes);
                }
                reads.go_on();
            }
            let group = subscription.group.clone();
            if !subscription.backlog.is_empty() || subscription.backlog.is_lagging() {
                let before = subscription.backlog.bytes();
                subscription.pump(lanes, totals);
                *parked_bytes = (*parked_bytes + subscription.backlog.bytes()).saturating_sub(before);
                let draining = subscription.draining;
                if draining {
                    state.end_if_drained(id, false);
                }
                claim(&self.session, &mut state, &mut self.touched);
            }
            group
        };
        if let Some(group) = group {
            group.pump(&mut self.touched);
        }
    }
}

impl Shared {
    /// Takes a subscription out of the routing table: nothing more will match it.
    /// Returns what waited for a group whose last member it was.
    pub(super) fn leave_table(&self, session: &Session, slot: Slot) -> Option<Backlog> {
        let place = session
            .lock()
            .subscriptions
            .at(slot)
            .map(|own| (own.pattern.clone(), own.entry.take(), own.group.take()));
        let (pattern, entry, group) = place?;
        self.give_up_place(session, slot, &pattern, entry, group)
    }

    pub(super) fn give_up_place(
        &self,
        session: &Session,
        slot: Slot,
        pattern: &TopicPattern,
        entry: Option<EntryId>,
        group: Option<Arc<Group>>,
    ) -> Option<Backlog> {
        if let Some(entry) = entry {
            self.router.remove(pattern, entry);
        }
        self.router.leave(&group?, session, slot)
    }

    /// Undoes what an ended session had: subscriptions, servings and requests. Returns what it was
    /// asked and has not answered. Unless the client ended it, what was not acknowledged is lost.
    pub(super) fn undo(&self, session: &Arc<Session>, clean: bool) -> Vec<Asked> {
        let slots: Vec<Slot> = {
            let mut state = session.lock();
            state.closed = true;
            let ids: Vec<u32> = state.subscriptions.iter().map(|own| own.id).collect();
            ids.into_iter().filter_map(|id| state.subscriptions.slot(id)).collect()
        };
        for slot in slots {
            if let Some(mut left) = self.leave_table(session, slot) {
                self.past().dropped[GapReason::Link.index()] += left.abandon();
            }
        }
        let (subscriptions, servings, requests, asked) = {
            let mut state = session.lock();
            state.parked_bytes = 0;
            state.request_bytes = 0;
            state.groups_without_room.clear();
            state.request_times = Deadlines::default();
            (
                state.subscriptions.take(),
                state.servings.take(),
                std::mem::take(&mut state.requests),
                std::mem::take(&mut state.asked),
            )
        };
        let mut past = self.past();
        for mut subscription in subscriptions {
            past.dropped[GapReason::Link.index()] += subscription.backlog.abandon();
            if !clean {
                past.count_untaken(subscription.unacknowledged());
            }
        }
        drop(past);
        let mut touched = Vec::new();
        for (id, service) in servings {
            let waiting = self.services.leave(&service, session, id);
            self.fail_waiting(&service, waiting.into_iter(), &mut touched);
        }
        for pending in requests.into_values() {
            self.note_end(Some(&pending), RequestEnd::Cancelled, Instant::now);
            pending.cancel_at_servers();
        }
        for session in touched {
            session.flush();
        }
        asked.into_values().collect()
    }
}

impl State {
    /// Ends a subscription that has left the table, once nothing waits for it or `at_once`.
    pub(super) fn end_if_drained(&mut self, id: u32, at_once: bool) {
        let done = self.subscriptions.by_id(id).is_some_and(|own| at_once || own.backlog.is_empty());
        if !done {
            return;
        }
        if let Some(subscription) = self.subscriptions.remove(id).filter(|own| !own.drained) {
            let header = Header::answering(Kind::Ended, Kind::Subscribe, id, subscription.sequence);
            self.data(&header, &ContentRef::empty());
        }
    }

    /// Hands a subscription nothing new, where it acknowledges and still has messages: its client is told that it has ended,
    /// and it goes when none of them is with it any more. `false` where it is to end like others.
    fn drain_consumer(&mut self, slot: Slot) -> bool {
        let Some(subscription) = self.subscriptions.at(slot) else { return false };
        if subscription.drained {
            return true;
        }
        match subscription.reads.as_ref().and_then(Reads::membership).map(Membership::drain) {
            None | Some(Drained::NothingLeft) => return false,
            Some(Drained::SomeLeft) => self.end_drained(slot),
            Some(Drained::SomeToCome) => {}
        }
        true
    }

    /// Tells the client that a drained subscription has ended, which is there for acknowledgements alone from here on.
    pub(super) fn end_drained(&mut self, slot: Slot) {
        let Some(subscription) = self.subscriptions.at(slot).filter(|own| !own.drained) else { return };
        subscription.drained = true;
        let header = Header::answering(Kind::Ended, Kind::Subscribe, subscription.id, subscription.sequence);
        let present = subscription.present.take();
        self.data(&header, &ContentRef::empty());
        drop(present);
    }

    /// Ends a subscription for this reason, which its client is told.
    pub(super) fn end_with(&mut self, id: u32, error: &BusError) {
        if let Some(subscription) = self.subscriptions.remove(id).filter(|own| !own.drained) {
            let header = Header::answering(Kind::Ended, Kind::Subscribe, id, subscription.sequence);
            self.data(&header, &refusal_content(error).borrowed());
        }
    }

    /// Ends a subscription that has read all that it asked for, to before this sequence, which its client is told.
    pub(super) fn end_reading(&mut self, id: u32, next: u64) {
        if let Some(subscription) = self.subscriptions.remove(id) {
            let mut fields = FieldsBuilder::new();
            // An empty section has room.
            let _ = fields.start(Start::From(next));
            let header = Header::answering(Kind::Ended, Kind::Subscribe, id, subscription.sequence);
            self.data(&header, &ContentRef::lent(fields.as_bytes(), &[], &[]));
        }
    }

    /// Ends a subscription that fell behind under the policy `Disconnect`; the message that found no
    /// credit is the one it misses. Returns its place in the routing table, to be given up.
    pub(super) fn end_slow_consumer(&mut self, id: u32) -> Option<Subscription> {
        let mut subscription = self.subscriptions.remove(id)?;
        let error = BusError::SlowConsumer { topic: subscription.pattern.to_string() };
        subscription.count_dropped(1, GapReason::Lagging, &mut self.totals);
        subscription.tell_gap(1, GapReason::Lagging, &mut self.lanes);
        let header = Header::answering(Kind::Ended, Kind::Subscribe, id, subscription.sequence);
        self.data(&header, &refusal_content(&error).borrowed());
        Some(subscription)
    }
}
