//! Requests on their way to a server and replies on their way back.
//!
//! A request is noted at both sessions: the requester's `requests` by its id, the server's `asked` by
//! a token. Each side is changed under its own lock, never both at once, and each step copes with the
//! other side having ended in between:
//!
//! ```text
//! requester's task        requests += id       asked += token, ASK         requests[id] -> token
//! server's task                                            asked -= token, then requests -= id, ANSWER
//! server ends                                              asked is drained: ServerGone
//! requester cancels       requests -= id, then asked -= token, CANCEL
//! ```
//!
//! What goes back stands in `answers`, and requests to many servers in `scatter`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::Shared;
use super::answers::{refusal_content, unread};
use super::clock::Clock;
use super::request_times::RequestEnd;
use super::scatter::Elsewhere;
use super::service::{Choice, Chosen, Service, Waiting};
use super::session::{Session, State};
use crate::auth::Principal;
use crate::error::BusError;
use crate::limits;
use crate::proto::fields::{FieldsBuilder, Options};
use crate::proto::{ContentRef, Credit, Flags, HEADER_LEN, Header, Kind, Lane, Owed, Refusal};
use crate::topic::{TopicPattern, validate_pattern_bytes};

/// Bytes that the deadline adds to a request on its way to the server.
const DEADLINE_FIELD: usize = 11;

/// How often another server is chosen, as the one before has left at that moment.
const LEAVING_SERVERS: usize = 16;

/// A request that its requester waits for.
#[derive(Debug)]
pub(crate) struct Pending {
    /// What it was sent to, for error messages.
    pub(super) about: About,
    /// Bytes of its frame.
    pub(super) size: usize,
    deadline: Instant,
    timeout: Duration,
    pub(super) replies: Replies,
    servers: Vec<(Arc<Session>, u64)>,
}

#[derive(Debug)]
pub(super) enum About {
    Service(Arc<Service>),
    /// A pattern, or a topic that nobody serves here.
    Text(Box<str>),
    /// A pattern of which other buses are asked when it is known what they serve.
    Elsewhere(Box<Elsewhere>),
}

impl About {
    fn name(&self) -> String {
        match self {
            Self::Service(service) => service.topic.to_string(),
            Self::Text(text) => text.to_string(),
            Self::Elsewhere(elsewhere) => elsewhere.pattern(),
        }
    }
}

/// How many replies a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    One,
    Stream,
    /// One of each server asked.
    Scatter {
        asked: u64,
        outstanding: u64,
        /// All servers have been asked.
        complete: bool,
    },
}

impl Replies {
    /// Servers that have a copy of the request, or a reference to it, and have not answered.
    fn copies(self) -> usize {
        match self {
            Self::One | Self::Stream => 1,
            Self::Scatter { outstanding, .. } => usize::try_from(outstanding).unwrap_or(usize::MAX),
        }
    }
}

/// A request that a server has been asked and has not answered.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(super) requester: Arc<Session>,
    pub(super) request: u32,
    pub(super) service: Arc<Service>,
    /// Whether several replies are taken.
    stream: bool,
    window: (u32, u64),
    credit: Credit,
    /// Credit that the requester has granted and the server has not been told of.
    owed: Owed,
}

impl Asked {
    /// Checks one of several replies against their window.
    pub(super) fn spend(&mut self, size: usize) -> Result<(), BusError> {
        if !self.stream {
            let what = "several replies to a request that takes one".into();
            return Err(BusError::Protocol { what });
        }
        if !self.credit.is_left() {
            return Err(BusError::CreditExceeded { what: "a streaming reply's window".into() });
        }
        self.credit.spend(size);
        Ok(())
    }
}

/// Bytes of the `ASK` frame for content of that size.
fn ask_size(content: usize) -> usize {
    HEADER_LEN + content + DEADLINE_FIELD
}

/// A request as it came in.
pub(crate) struct Request<'a> {
    pub(crate) id: u32,
    pub(crate) flags: Flags,
    /// Time left, as the requester sees it.
    pub(crate) left: Duration,
    pub(crate) content: &'a ContentRef<'a>,
    pub(crate) clock: &'a Clock,
}

impl Request<'_> {
    fn is_scatter(&self) -> bool {
        self.flags.contains(Flags::SCATTER)
    }

    fn is_stream(&self) -> bool {
        self.flags.contains(Flags::STREAM) && !self.is_scatter()
    }
}

impl Shared {
    /// Takes a request in. An error is to be sent back as its answer. What takes longer than a single
    /// request is counted in `work`, in matches of a turn.
    pub(crate) fn request(
        &self,
        requester: &Arc<Session>,
        request: &Request<'_>,
        touched: &mut Vec<Arc<Session>>,
        work: &mut u64,
    ) -> Result<(), BusError> {
        let (text, shape) = validate_pattern_bytes(request.content.topic)?;
        let room = limits::FIELDS_LIMIT - DEADLINE_FIELD;
        if request.content.fields.len() > room {
            return Err(BusError::HeadersTooLarge { size: request.content.fields.len(), limit: room });
        }
        Options::read(request.content.fields).map_err(Refusal::into_error)?;
        // The bus tells about itself also when it has no room for anything else.
        if !shape.reserved && self.budget.is_spent() {
            return Err(BusError::Overloaded { what: "the bus's byte budget is spent".into() });
        }
        if request.is_scatter() {
            return self.scatter(requester, request, &TopicPattern::new(text)?, touched, work);
        }
        let (service, about) = if shape.concrete {
            match self.services.find(text) {
                Some(service) => (Arc::clone(&service), About::Service(service)),
                None => (self.uplink_for(requester, text, shape.reserved)?, About::Text(text.into())),
            }
        } else {
            let service = self.named_service(requester, request, text)?;
            (Arc::clone(&service), About::Service(service))
        };
        let replies = if request.is_stream() { Replies::Stream } else { Replies::One };
        self.note(requester, request, about, replies)?;
        let asked = self.hand_over(requester, request, &service, None, touched);
        if asked.is_err() {
            let ended = requester.lock().take_request(request.id);
            self.note_end(ended.as_ref(), RequestEnd::Failed, || request.clock.now());
        }
        asked
    }

    /// Who is asked about a topic that nobody serves here. What sessions of the bus's own ask stays here: it came from elsewhere
    /// already, and would go round.
    pub(super) fn uplink_for(
        &self,
        requester: &Session,
        topic: &str,
        reserved: bool,
    ) -> Result<Arc<Service>, BusError> {
        let uplink = match reserved || requester.peer.principal == Principal::Bus {
            true => None,
            false => self.services.uplink(),
        };
        uplink.ok_or_else(|| BusError::NoServer { topic: topic.to_owned() })
    }

    /// Notes the request at its requester, within the limits.
    pub(super) fn note(
        &self,
        requester: &Arc<Session>,
        request: &Request<'_>,
        about: About,
        replies: Replies,
    ) -> Result<(), BusError> {
        let settings = &self.settings;
        let size = request.content.frame_size();
        let copies = replies.copies();
        let bytes = size.saturating_mul(copies);
        let timeout = match request.left {
            Duration::ZERO => limits::REQUEST_TIMEOUT,
            left => left.min(limits::REQUEST_TIMEOUT_MAX),
        };
        let deadline = request.clock.now() + timeout;
        let (mut state, crowded) = requester.lock_to_answer();
        if crowded {
            return Err(unread());
        }
        if state.requests.len() >= settings.max_requests {
            let what = format!("{} requests of this session are unanswered", settings.max_requests);
            return Err(BusError::LimitReached { what });
        }
        // One to a single server always passes when nothing is outstanding.
        let alone = state.request_bytes == 0 && copies <= 1;
        if !alone && state.request_bytes.saturating_add(bytes) > settings.request_bytes {
            let what = format!(
                "{} bytes of requests of this session are unanswered and {copies} x {size} more",
                state.request_bytes
            );
            return Err(BusError::LimitReached { what });
        }
        state.request_bytes += bytes;
        let pending = Pending { about, size, deadline, timeout, replies, servers: Vec::new() };
        state.expect(pending.given_up_at());
        state.request_times.add(pending.given_up_at(), request.id);
        state.requests.insert(request.id, pending);
        Ok(())
    }

    /// Gives the request to a server of the service, or leaves it waiting there. The uplink may be asked for one topic of many, that
    /// `elsewhere` stands for.
    pub(super) fn hand_over(
        &self,
        requester: &Arc<Session>,
        request: &Request<'_>,
        service: &Arc<Service>,
        elsewhere: Option<&Arc<Service>>,
        touched: &mut Vec<Arc<Session>>,
    ) -> Result<(), BusError> {
        let content = request.content;
        let size = ask_size(content.frame_size() - HEADER_LEN);
        let deadline = requester.lock().requests.get(&request.id).map(|pending| pending.deadline);
        let Some(deadline) = deadline else { return Ok(()) };
        let wait = || Waiting {
            requester: Arc::clone(requester),
            request: request.id,
            content: content.shared(),
            flags: request.flags,
            elsewhere: elsewhere.cloned(),
            deadline,
            size,
        };
        for _ in 0..LEAVING_SERVERS {
            match service.choose(content.topic, size, wait)? {
                Choice::Server(chosen) => {
                    let (request_id, flags) = (request.id, request.flags);
                    let ask = Ask { requester, request: request_id, flags, content, elsewhere, deadline };
                    if self.ask(&ask, service, &chosen, request.clock.now(), touched)? {
                        return Ok(());
                    }
                }
                Choice::Waits { watched } => {
                    if !watched {
                        self.sweeper.watch_service(service);
                    }
                    return Ok(());
                }
            }
        }
        Err(self.unserved(elsewhere.unwrap_or(service).named(content.topic)))
    }

    /// The error of a request that no server was given, as there is none, or those that were chosen have left meanwhile.
    pub(super) fn unserved(&self, topic: String) -> BusError {
        // Where the bus drains, its servers go elsewhere, and so may the request.
        match self.is_draining() {
            true => BusError::Draining { what: "the bus".into() },
            false => BusError::NoServer { topic },
        }
    }

    /// Sends the request to the chosen server; `false` if that has left since it was chosen, and gets nothing any more.
    fn ask(
        &self,
        ask: &Ask<'_>,
        service: &Arc<Service>,
        chosen: &Chosen,
        now: Instant,
        touched: &mut Vec<Arc<Session>>,
    ) -> Result<bool, BusError> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let stream = ask.flags.contains(Flags::STREAM) && !ask.flags.contains(Flags::SCATTER);
        let window = Options::read(ask.content.fields)
            .ok()
            .and_then(|options| options.window)
            .unwrap_or((limits::STREAM_WINDOW, limits::WINDOW_BYTES));
        let mut fields = FieldsBuilder::new();
        fields.deadline(ask.deadline.saturating_duration_since(now))?;
        fields.append_without_deadline(ask.content.fields)?;
        let payload = ask.content.shared_payload();
        let content = match &payload {
            Some(payload) => ContentRef::with_payload(fields.as_bytes(), ask.content.topic, payload),
            None => ContentRef::lent(fields.as_bytes(), ask.content.topic, ask.content.payload()),
        };
        {
            let mut state = chosen.session.lock();
            // One that has just come is noted at its service first.
            if state.servings.get(chosen.serving).is_none() {
                drop(state);
                if !service.has(&chosen.session, chosen.serving) {
                    return Ok(false);
                }
                state = chosen.session.lock();
            }
            if state.closed {
                return Ok(false);
            }
            state.asked.insert(
                token,
                Asked {
                    requester: Arc::clone(ask.requester),
                    request: ask.request,
                    service: Arc::clone(ask.elsewhere.unwrap_or(service)),
                    stream,
                    window,
                    credit: Credit::new(window),
                    owed: Owed::default(),
                },
            );
            let flags = if stream { Flags::STREAM } else { Flags::NONE };
            state.data(&Header::new(Kind::Ask, chosen.serving, token).flagged(flags), &content);
            claim(&chosen.session, &mut state, touched);
        }
        let noted = match ask.requester.lock().requests.get_mut(&ask.request) {
            Some(pending) => {
                pending.servers.push((Arc::clone(&chosen.session), token));
                true
            }
            None => false,
        };
        if !noted {
            // The requester gave up meanwhile, unless the answer has come already.
            let mut state = chosen.session.lock();
            state.cancel_asked(token);
            claim(&chosen.session, &mut state, touched);
        }
        Ok(true)
    }

    /// A serving's window was widened: requests that wait may go there.
    pub(crate) fn serve_waiting(
        &self,
        service: &Arc<Service>,
        now: Instant,
        touched: &mut Vec<Arc<Session>>,
    ) {
        while let Some((waiting, chosen)) = service.next_waiting() {
            if !waiting.requester.lock().requests.contains_key(&waiting.request) {
                // Nobody waits any more; the server keeps its credit for the next one.
                service.refund(&chosen, waiting.size);
                continue;
            }
            let content = waiting.content.borrowed();
            let ask = Ask {
                requester: &waiting.requester,
                request: waiting.request,
                flags: waiting.flags,
                content: &content,
                elsewhere: waiting.elsewhere.as_ref(),
                deadline: waiting.deadline,
            };
            match self.ask(&ask, service, &chosen, now, touched) {
                Ok(true) => {}
                Ok(false) => {
                    let (unserved, about) = (|topic| self.unserved(topic), waiting.about(service));
                    self.fail_request(&waiting.requester, waiting.request, about, unserved, touched);
                }
                Err(error) => {
                    let about = waiting.about(service);
                    self.fail_request(&waiting.requester, waiting.request, about, |_| error, touched);
                }
            }
        }
    }

    /// The requester wants more of a streaming reply.
    pub(crate) fn grant_stream(&self, requester: &Session, request: u32, messages: u32, bytes: u64) {
        let server = {
            let state = requester.lock();
            state.requests.get(&request).and_then(|pending| pending.servers.first().cloned())
        };
        let Some((server, token)) = server else { return };
        let mut state = server.lock();
        let Some(asked) = state.asked.get_mut(&token) else { return };
        let before = asked.credit;
        asked.credit.grant_within(messages, bytes, asked.window);
        // The server is told what the window really gained, or it would send past it.
        let messages = u32::try_from(asked.credit.messages - before.messages).unwrap_or(0);
        let bytes = u64::try_from(asked.credit.bytes - before.bytes).unwrap_or(0);
        // Small grants are gathered: a requester must not fill its server's control lane.
        asked.owed.add(messages, bytes);
        if !asked.owed.is_due(asked.window) {
            return;
        }
        let Owed { messages, bytes } = std::mem::take(&mut asked.owed);
        let header = Header::new(Kind::Credit, messages, token).flagged(Flags(Lane::Stream as u8));
        state.control(&header, &ContentRef::of_payload(&bytes.to_le_bytes()));
        drop(state);
        server.flush();
    }

    /// The requester no longer waits.
    pub(crate) fn cancel(&self, requester: &Session, request: u32) {
        let pending = {
            let mut state = requester.lock();
            state.take_request(request)
        };
        self.note_end(pending.as_ref(), RequestEnd::Cancelled, Instant::now);
        if let Some(pending) = pending {
            pending.cancel_at_servers();
        }
    }

    /// Gives up requests whose deadline has passed.
    pub(crate) fn expire_requests(
        &self,
        requester: &Arc<Session>,
        now: Instant,
        touched: &mut Vec<Arc<Session>>,
    ) {
        loop {
            let (mut state, _) = requester.lock_to_answer();
            let Some((id, pending)) = state.take_expired_request(now) else { break };
            self.note_end(Some(&pending), RequestEnd::Expired, || now);
            let error = BusError::TimedOut {
                what: format!("the request to \"{}\"", pending.asked()),
                after: pending.timeout,
            };
            let header = Header::new(Kind::Answer, id, 0).flagged(Flags::ERROR);
            state.answer(&header, &refusal_content(&error).borrowed());
            state.totals.failed_requests += 1;
            claim(requester, &mut state, touched);
            drop(state);
            pending.cancel_at_servers();
        }
    }

    /// Notes how long a request took that is over, if there was one.
    pub(super) fn note_end(&self, ended: Option<&Pending>, end: RequestEnd, now: impl FnOnce() -> Instant) {
        if let Some(pending) = ended {
            self.request_times.record(end, || now().saturating_duration_since(pending.begun()));
        }
    }
}

/// A request about to be sent to a server.
struct Ask<'a> {
    requester: &'a Arc<Session>,
    request: u32,
    flags: Flags,
    content: &'a ContentRef<'a>,
    /// What stands for the topic that is asked for, where that is not the service's.
    elsewhere: Option<&'a Arc<Service>>,
    deadline: Instant,
}

impl Pending {
    /// The topic or pattern that was asked.
    pub(super) fn asked(&self) -> String {
        self.about.name()
    }

    /// When the bus took it in.
    fn begun(&self) -> Instant {
        self.deadline - self.timeout
    }

    /// When the bus answers it by itself.
    fn given_up_at(&self) -> Instant {
        self.deadline + limits::REQUEST_GRACE
    }

    /// Tells the servers that nobody waits any more.
    pub(crate) fn cancel_at_servers(self) {
        for (server, token) in self.servers {
            let mut state = server.lock();
            state.cancel_asked(token);
            drop(state);
            server.flush();
        }
    }
}

impl State {
    /// Tells this server that nobody waits for an answer any more, if it still owes one. The frame
    /// follows its `ASK`, and there is at most one for each.
    fn cancel_asked(&mut self, token: u64) {
        if self.asked.remove(&token).is_some() {
            self.data(&Header::new(Kind::Cancel, 0, token), &ContentRef::empty());
        }
    }

    pub(super) fn take_request(&mut self, id: u32) -> Option<Pending> {
        let pending = self.remove_request(id)?;
        let Self { requests, request_times, .. } = self;
        request_times.call_off(|at, id| is_live(requests, at, id));
        Some(pending)
    }

    /// One that has to be given up at `now`.
    fn take_expired_request(&mut self, now: Instant) -> Option<(u32, Pending)> {
        let Self { requests, request_times, .. } = self;
        let id = request_times.take_due(now, |at, id| is_live(requests, at, id))?;
        Some((id, self.remove_request(id)?))
    }

    /// When the first of the requests has to be given up.
    pub(super) fn next_request_expiry(&mut self) -> Option<Instant> {
        let Self { requests, request_times, .. } = self;
        request_times.next(|at, id| is_live(requests, at, id))
    }

    fn remove_request(&mut self, id: u32) -> Option<Pending> {
        let pending = self.requests.remove(&id)?;
        let bytes = pending.size.saturating_mul(pending.replies.copies());
        self.request_bytes = self.request_bytes.saturating_sub(bytes);
        Some(pending)
    }
}

/// Whether that is when the request is given up.
fn is_live(requests: &HashMap<u32, Pending, RandomState>, at: Instant, id: u32) -> bool {
    requests.get(&id).is_some_and(|pending| pending.given_up_at() == at)
}

/// Notes that the session has to be flushed at the end of the turn, once.
pub(crate) fn claim(session: &Arc<Session>, state: &mut State, touched: &mut Vec<Arc<Session>>) {
    state.account(session.budget());
    state.crowded |= !state.lanes.has_room();
    if state.claim_flush() {
        touched.push(Arc::clone(session));
    }
}
