//! Answers on their way back to their requester, and what becomes of those that it leaves unread.
//!
//! Their bound has steps, so that who reads slowly is told before anybody is cut off:
//!
//! 1. As long as no more waits on the link than the session's room for answers, all of them are queued.
//! 2. Beyond it a reply becomes `Overloaded`, unless it is no larger than that, and a new request is refused
//!    in the control lane, which has a bound of its own. What was asked before still gets its answer.
//! 3. When even these small answers add up to more than a session's part of the byte budget, the session is
//!    cut off.

use std::sync::{Arc, MutexGuard};

use tokio::time::Instant;

use super::Shared;
use super::clock::Clock;
use super::request_times::RequestEnd;
use super::requests::{Asked, Pending, Replies, claim};
use super::scatter::Told;
use super::service::{Service, Waiting};
use super::session::{Session, State};
use crate::error::BusError;
use crate::limits;
use crate::proto::{ContentRef, Flags, Header, Kind, Refusal};

impl Shared {
    /// A reply of the server `session`. What takes longer than a single one is counted in `work`, in matches of a turn.
    pub(crate) fn reply(
        &self,
        session: &Arc<Session>,
        header: &Header,
        content: &ContentRef<'_>,
        clock: &Clock,
        touched: &mut Vec<Arc<Session>>,
        work: &mut u64,
    ) -> Result<(), BusError> {
        let more = header.flags.contains(Flags::MORE);
        let (requester, request, service) = {
            let mut state = session.lock();
            let Some(asked) = state.asked.get_mut(&header.sequence) else { return Ok(()) };
            if more {
                asked.spend(content.frame_size())?;
                (Arc::clone(&asked.requester), asked.request, Arc::clone(&asked.service))
            } else {
                match state.asked.remove(&header.sequence) {
                    Some(asked) => (asked.requester, asked.request, asked.service),
                    None => return Ok(()),
                }
            }
        };
        let (mut state, crowded) = requester.lock_to_answer();
        // A last reply that is as small as the refusal goes in its place.
        let refusal = crowded
            .then(|| refusal_content(&unread()))
            .filter(|refusal| more || content.frame_size() > refusal.borrowed().frame_size());
        let mut given_up = None;
        match state.requests.get(&request).map(|pending| pending.replies) {
            None => {}
            Some(Replies::Scatter { .. }) if service.tells_topics() => {
                drop(state);
                let told = Told { service: &service, flags: header.flags, payload: content.payload() };
                self.scatter_elsewhere(&requester, request, &told, clock, touched, work);
                return Ok(());
            }
            Some(Replies::Scatter { .. }) => {
                match &refusal {
                    Some(refusal) => {
                        state.scattered_reply(request, &service, Flags::ERROR, &refusal.borrowed());
                    }
                    None => state.scattered_reply(request, &service, header.flags, content),
                }
                let ended = state.end_scatter(request);
                self.note_end(ended.as_ref(), RequestEnd::Answered, || clock.now());
            }
            Some(replies) => {
                let answer = Header::new(Kind::Answer, request, 0);
                let ended = if more && refusal.is_none() { None } else { state.take_request(request) };
                let is_error = refusal.is_some() || header.flags.contains(Flags::ERROR);
                let end = if is_error { RequestEnd::Failed } else { RequestEnd::Answered };
                self.note_end(ended.as_ref(), end, || clock.now());
                match &refusal {
                    None => state.answer(&answer.flagged(header.flags), content),
                    Some(refusal) => {
                        let end = if replies == Replies::Stream { Flags::END } else { Flags::NONE };
                        state.answer(&answer.flagged(Flags::ERROR.with(end)), &refusal.borrowed());
                        given_up = ended.filter(|_| more);
                    }
                }
            }
        }
        claim(&requester, &mut state, touched);
        drop(state);
        if let Some(pending) = given_up {
            pending.cancel_at_servers();
        }
        Ok(())
    }

    /// A server has ended: whoever waits for it is told.
    pub(crate) fn fail_asked(&self, asked: impl Iterator<Item = Asked>, touched: &mut Vec<Arc<Session>>) {
        for asked in asked {
            let gone = |topic| BusError::ServerGone { topic };
            self.fail_request(&asked.requester, asked.request, &asked.service, gone, touched);
        }
    }

    /// The last server of a service has left: requests that waited there are told.
    pub(crate) fn fail_waiting(
        &self,
        service: &Service,
        waiting: impl Iterator<Item = Waiting>,
        touched: &mut Vec<Arc<Session>>,
    ) {
        for waiting in waiting {
            let (unserved, about) = (|topic| self.unserved(topic), waiting.about(service));
            self.fail_request(&waiting.requester, waiting.request, about, unserved, touched);
        }
    }

    /// Answers a request with an error about the topic that was asked, wherever it stands.
    pub(super) fn fail_request(
        &self,
        requester: &Arc<Session>,
        request: u32,
        service: &Service,
        error: impl FnOnce(String) -> BusError,
        touched: &mut Vec<Arc<Session>>,
    ) {
        let (mut state, _) = requester.lock_to_answer();
        if let Some(pending @ Pending { replies: Replies::Scatter { .. }, .. }) = state.requests.get(&request)
        {
            let content = refusal_content(&error(service.named(pending.asked().as_bytes())));
            state.scattered_reply(request, service, Flags::ERROR, &content.borrowed());
            let ended = state.end_scatter(request);
            self.note_end(ended.as_ref(), RequestEnd::Answered, Instant::now);
        } else if let Some(ended) = state.take_request(request) {
            self.note_end(Some(&ended), RequestEnd::Failed, Instant::now);
            state.totals.failed_requests += 1;
            let content = refusal_content(&error(ended.asked()));
            state.answer(&Header::new(Kind::Answer, request, 0).flagged(Flags::ERROR), &content.borrowed());
        }
        claim(requester, &mut state, touched);
    }
}

impl Session {
    /// Locks the state to queue an answer or to take a request; tells whether so much waits unread that
    /// there is room for small answers only. What one turn gathers is sent before it counts as unread.
    pub(super) fn lock_to_answer(&self) -> (MutexGuard<'_, State>, bool) {
        let most = if self.budget().is_spent() { limits::ANSWERS_WHEN_SPENT } else { usize::MAX };
        let mut state = self.lock();
        let room = state.answer_room.min(most);
        if state.lanes.waiting() > room {
            drop(state);
            self.flush();
            state = self.lock();
        }
        let waiting = state.lanes.waiting();
        if waiting <= state.answer_room {
            state.small_answers = 0;
        }
        (state, waiting > room)
    }
}

impl State {
    /// Queues an answer. Whoever leaves too many unread, small as they are, is cut off.
    pub(super) fn answer(&mut self, header: &Header, content: &ContentRef<'_>) {
        if self.lanes.waiting() > self.answer_room {
            self.small_answers += content.frame_size();
            if self.small_answers > self.small_answer_room {
                return self.cut(BusError::ControlOverrun { bytes: self.small_answers });
            }
        }
        self.data(header, content);
    }

    /// Queues one of the replies to a scattered request.
    pub(super) fn scattered_reply(
        &mut self,
        id: u32,
        service: &Service,
        flags: Flags,
        content: &ContentRef<'_>,
    ) {
        let Some(pending) = self.requests.get(&id) else { return };
        // Who tells of topics elsewhere is none of those that the requester has asked.
        let asked = service.tells_topics().then(|| pending.asked());
        let topic = asked.as_deref().unwrap_or(service.topic.as_str()).as_bytes();
        self.end_one(id);
        let payload = content.shared_payload();
        let answer = match &payload {
            Some(payload) => ContentRef::with_payload(content.fields, topic, payload),
            None => ContentRef::lent(content.fields, topic, content.payload()),
        };
        let error = if flags.contains(Flags::ERROR) { Flags::ERROR } else { Flags::NONE };
        self.answer(&Header::new(Kind::Answer, id, 0).flagged(Flags::MORE.with(error)), &answer);
    }

    /// Ends a scattered request once all that were asked have replied; returns it then.
    pub(super) fn end_scatter(&mut self, id: u32) -> Option<Pending> {
        let Some(Pending { replies: Replies::Scatter { asked, outstanding: 0, complete: true }, .. }) =
            self.requests.get(&id)
        else {
            return None;
        };
        let header = Header::new(Kind::Answer, id, *asked).flagged(Flags::END);
        let ended = self.take_request(id);
        self.answer(&header, &ContentRef::empty());
        ended
    }
}

/// Why a requester that does not read gets no reply, or may not ask.
pub(super) fn unread() -> BusError {
    BusError::Overloaded { what: "replies that this client has not read".into() }
}

/// An error as the content of an answer.
pub(crate) struct RefusalContent(Vec<u8>);

pub(crate) fn refusal_content(error: &BusError) -> RefusalContent {
    RefusalContent(Refusal::from(error).encode())
}

impl RefusalContent {
    pub(crate) fn borrowed(&self) -> ContentRef<'_> {
        ContentRef::of_payload(&self.0)
    }
}
