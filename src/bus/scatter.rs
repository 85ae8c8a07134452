//! Requests to one server of each topic that a pattern meets, at this bus and, where it is joined to others, at these.
//!
//! ```text
//! SCATTER   a copy to a server of each topic here          a reply -> ANSWER+MORE
//!           ASK to $bus/uplink/topics: what is elsewhere   the topics -> a copy to the uplink for each that was not asked here
//! ```
//!
//! The question to the uplink is one of the copies that are outstanding, so that the request does not end before it is answered. A copy for the
//! uplink is an ordinary request, whose first `TOPIC` names what it is for; what it was sent to remains the pattern, to which its payload may be
//! bound. Deadlines, cancelling and the ends of sessions are those of other requests, therefore.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::Shared;
use super::answers::refusal_content;
use super::clock::Clock;
use super::request_times::RequestEnd;
use super::requests::{About, Pending, Replies, Request, claim};
use super::service::Service;
use super::session::{Session, State};
use crate::auth::Principal;
use crate::error::BusError;
use crate::limits;
use crate::proto::fields::FieldsBuilder;
use crate::proto::{Content, ContentRef, Flags, Refusal, ServedElsewhere, topic_of_request};
use crate::topic::{Topic, TopicPattern};

/// What is needed to ask at other buses, as soon as it is known what they serve.
#[derive(Debug)]
pub(super) struct Elsewhere {
    content: Arc<Content>,
    /// The topics that are asked already.
    asked: HashSet<Topic, RandomState>,
}

impl Elsewhere {
    fn new(request: &Request<'_>, here: &[Arc<Service>]) -> Self {
        let asked = here.iter().map(|service| service.topic.clone()).collect();
        Self { content: request.content.shared(), asked }
    }

    /// What was asked.
    pub(super) fn pattern(&self) -> String {
        String::from_utf8_lossy(self.content.topic()).into_owned()
    }
}

impl Pending {
    fn take_elsewhere(&mut self) -> Option<Box<Elsewhere>> {
        let text = About::Text(self.asked().into());
        match std::mem::replace(&mut self.about, text) {
            About::Elsewhere(elsewhere) => Some(elsewhere),
            other => {
                self.about = other;
                None
            }
        }
    }
}

/// What the uplink has answered to the question which topics there are.
pub(super) struct Told<'a> {
    pub(super) service: &'a Service,
    pub(super) flags: Flags,
    pub(super) payload: &'a [u8],
}

impl Told<'_> {
    fn read(&self) -> Result<ServedElsewhere, BusError> {
        if self.flags.contains(Flags::ERROR) {
            return Err(Refusal::decode(self.payload)?.into_error());
        }
        Ok(ServedElsewhere::decode(self.payload)?)
    }
}

impl Shared {
    /// Asks one server of each topic that the pattern meets.
    pub(super) fn scatter(
        &self,
        requester: &Arc<Session>,
        request: &Request<'_>,
        pattern: &TopicPattern,
        touched: &mut Vec<Arc<Session>>,
        work: &mut u64,
    ) -> Result<(), BusError> {
        let (services, steps) = self.services.meeting(pattern, limits::SCATTER_LIMIT)?;
        *work += (steps * limits::MATCHES_PER_STEP + services.len()) as u64;
        let others = self.others_for(requester, pattern).filter(|_| services.len() < limits::SCATTER_LIMIT);
        let asked = services.len() as u64;
        let outstanding = asked + u64::from(others.is_some());
        let about = match &others {
            Some(_) => About::Elsewhere(Box::new(Elsewhere::new(request, &services))),
            None => About::Text(pattern.as_str().into()),
        };
        self.note(requester, request, about, Replies::Scatter { asked, outstanding, complete: false })?;
        if let Some(others) = &others {
            self.ask_for_topics(requester, request, others, touched);
        }
        for service in &services {
            if let Err(error) = self.hand_over(requester, request, service, None, touched) {
                requester.lock_to_answer().0.scattered_error(request.id, service, &error);
            }
        }
        let mut state = requester.lock();
        if let Some(Pending { replies: Replies::Scatter { complete, .. }, .. }) =
            state.requests.get_mut(&request.id)
        {
            *complete = true;
        }
        self.end_scatter(requester, state, request.id, request.clock, touched);
        Ok(())
    }

    /// Who tells what is served elsewhere, if somebody does. What sessions of the bus's own ask stays here, as in
    /// [`uplink_for`](Self::uplink_for).
    fn others_for(&self, requester: &Session, pattern: &TopicPattern) -> Option<Arc<Service>> {
        let is_own = requester.peer.principal == Principal::Bus || pattern.is_reserved();
        if is_own { None } else { self.services.uplink_topics() }
    }

    /// Asks the uplink which topics are served elsewhere.
    fn ask_for_topics(
        &self,
        requester: &Arc<Session>,
        request: &Request<'_>,
        others: &Arc<Service>,
        touched: &mut Vec<Arc<Session>>,
    ) {
        let question = ContentRef::lent(&[], request.content.topic, &[]);
        let question = Request { content: &question, flags: Flags::NONE, ..*request };
        if let Err(error) = self.hand_over(requester, &question, others, None, touched) {
            requester.lock_to_answer().0.scattered_error(request.id, others, &error);
        }
    }

    /// Asks one server of each topic that is served elsewhere and was not asked here.
    pub(super) fn scatter_elsewhere(
        &self,
        requester: &Arc<Session>,
        id: u32,
        told: &Told<'_>,
        clock: &Clock,
        touched: &mut Vec<Arc<Session>>,
        work: &mut u64,
    ) {
        let elsewhere = requester.lock().requests.get_mut(&id).and_then(Pending::take_elsewhere);
        let Some(elsewhere) = elsewhere else { return };
        let Elsewhere { content, mut asked } = *elsewhere;
        let content = content.borrowed();
        let (topics, problem) = match told.read() {
            Ok(served) => chosen(served, &content, &mut asked),
            Err(error) => (Vec::new(), Some(error)),
        };
        *work += topics.len() as u64;
        let room = {
            let (mut state, _) = requester.lock_to_answer();
            let room = state.ask_more(id, topics.len(), self.settings.request_bytes);
            match &problem {
                Some(error) => state.scattered_error(id, told.service, error),
                None => state.end_one(id),
            }
            room
        };
        for (place, topic) in topics.into_iter().enumerate() {
            let named = Arc::new(Service::elsewhere(topic, requester.shared_budget()));
            let asked = match place < room {
                true => self.ask_elsewhere(requester, id, &named, &content, clock, touched),
                false => {
                    let most = self.settings.request_bytes;
                    let what = format!("{most} bytes of requests of this session that are unanswered");
                    Err(BusError::LimitReached { what })
                }
            };
            if let Err(error) = asked {
                requester.lock_to_answer().0.scattered_error(id, &named, &error);
            }
        }
        let state = requester.lock();
        self.end_scatter(requester, state, id, clock, touched);
    }

    /// Asks for one topic of another bus, or here, where it has got a server meanwhile.
    fn ask_elsewhere(
        &self,
        requester: &Arc<Session>,
        id: u32,
        named: &Arc<Service>,
        content: &ContentRef<'_>,
        clock: &Clock,
        touched: &mut Vec<Arc<Session>>,
    ) -> Result<(), BusError> {
        if let Some(service) = self.services.find(named.topic.as_str()) {
            return self.hand_over(requester, &copy(id, content, clock), &service, None, touched);
        }
        let uplink = self.uplink_for(requester, named.topic.as_str(), false)?;
        let mut fields = FieldsBuilder::new();
        fields.topic(named.topic.as_str())?;
        fields.append_without_topics(content.fields)?;
        let payload = content.shared_payload();
        let content = match &payload {
            Some(payload) => ContentRef::with_payload(fields.as_bytes(), content.topic, payload),
            None => ContentRef::lent(fields.as_bytes(), content.topic, content.payload()),
        };
        self.hand_over(requester, &copy(id, &content, clock), &uplink, Some(named), touched)
    }

    /// The server of the one topic that a request to a pattern names: a copy of a scattered request that another bus has handed on.
    ///
    /// # Errors
    /// [`BusError::NoServer`], and [`BusError::InvalidSettings`] for any other request to a pattern.
    pub(super) fn named_service(
        &self,
        requester: &Session,
        request: &Request<'_>,
        pattern: &str,
    ) -> Result<Arc<Service>, BusError> {
        let is_own = requester.peer.principal == Principal::Bus;
        let Some(topic) = is_own.then(|| topic_of_request(request.content)).flatten() else {
            return Err(BusError::InvalidSettings(format!(
                "a request goes to one topic, and \"{pattern}\" has wildcards; use `request_many` to ask several servers"
            )));
        };
        self.services.find(topic.as_str()).ok_or_else(|| BusError::NoServer { topic: topic.to_string() })
    }

    /// Ends a scattered request once all that were asked have replied.
    fn end_scatter(
        &self,
        requester: &Arc<Session>,
        mut state: MutexGuard<'_, State>,
        id: u32,
        clock: &Clock,
        touched: &mut Vec<Arc<Session>>,
    ) {
        let ended = state.end_scatter(id);
        self.note_end(ended.as_ref(), RequestEnd::Answered, || clock.now());
        claim(requester, &mut state, touched);
    }
}

/// A copy of a scattered request that has been noted.
fn copy<'a>(id: u32, content: &'a ContentRef<'a>, clock: &'a Clock) -> Request<'a> {
    Request { id, flags: Flags::NONE, left: Duration::ZERO, content, clock }
}

/// Which of the topics that are served elsewhere are to be asked, and why there are others that are not.
fn chosen(
    served: ServedElsewhere,
    content: &ContentRef<'_>,
    asked: &mut HashSet<Topic, RandomState>,
) -> (Vec<Topic>, Option<BusError>) {
    let pattern = str::from_utf8(content.topic).ok().and_then(|text| TopicPattern::new(text).ok());
    let (mut topics, mut left_out) = (Vec::new(), u64::from(served.left_out));
    for topic in served.topics {
        let is_meant = pattern.as_ref().is_some_and(|pattern| pattern.meets(&topic.clone().into()));
        if !is_meant || asked.contains(&topic) {
            continue;
        }
        if asked.len() >= limits::SCATTER_LIMIT {
            left_out += 1;
            continue;
        }
        asked.insert(topic.clone());
        topics.push(topic);
    }
    let problem = (left_out > 0).then(|| {
        let what = format!(
            "topics that one request is sent to: {}, and {left_out} more that other buses have named are left out; name more of the topic",
            asked.len()
        );
        BusError::LimitReached { what }
    });
    (topics, problem)
}

impl State {
    /// Counts so many more servers that a scattered request is to reach. Returns how many of these have room within `most` bytes of
    /// requests.
    fn ask_more(&mut self, id: u32, more: usize, most: usize) -> usize {
        let Some(Pending { replies: Replies::Scatter { asked, outstanding, .. }, size, .. }) =
            self.requests.get_mut(&id)
        else {
            return 0;
        };
        *asked += more as u64;
        *outstanding += more as u64;
        // That of the question is about to be free.
        let free = (most + *size).saturating_sub(self.request_bytes);
        self.request_bytes = self.request_bytes.saturating_add(size.saturating_mul(more));
        free / (*size).max(1)
    }

    /// One of those that were asked has answered.
    pub(super) fn end_one(&mut self, id: u32) {
        if let Some(Pending { replies: Replies::Scatter { outstanding, .. }, size, .. }) =
            self.requests.get_mut(&id)
            && *outstanding > 0
        {
            *outstanding -= 1;
            self.request_bytes = self.request_bytes.saturating_sub(*size);
        }
    }

    /// Queues the error of one of those that were asked.
    fn scattered_error(&mut self, id: u32, service: &Service, error: &BusError) {
        self.scattered_reply(id, service, Flags::ERROR, &refusal_content(error).borrowed());
    }
}
