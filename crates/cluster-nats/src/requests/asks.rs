//! What this bus asks the others.
//!
//! ```text
//! bus: ASK      asks += number, message to the servers     reply -> REPLY to the bus
//! bus: CREDIT   its server's bus is told                   no responders -> NO_SERVER
//! bus: CANCEL   asks -= number, its server's bus is told   server's bus gone -> SERVER_GONE
//! ```
//!
//! What the server's bus has given to nobody, as it drains or its server has gone meanwhile, is asked again elsewhere, by another number.
//!
//! While another bus ends subscriptions nothing is sent, as it asks for: see `run/moving`.

mod replies;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::time::Instant;
use whispeer::BusError;
use whispeer::limits::{REQUEST_TIMEOUT, STREAM_WINDOW, WINDOW_BYTES};
use whispeer::proto::fields::Options;
use whispeer::proto::{ContentRef, Flags, Header, Lane, Refusal, topic_of_request};
use whispeer::topic::{Topic, TopicPattern};

use self::replies::{Reply, Stream};
use super::outputs::Outputs;
use super::wire::{self, Answer, Asked, Control, Origin, Said};
use crate::limits;
use crate::members::Members;
use crate::subject::Subjects;

/// The requests that other buses have not answered.
pub(super) struct Asks {
    own: Origin,
    subjects: Subjects,
    members: Members,
    /// When it is looked for requests that nobody has, if it may be so.
    doubted_until: Option<Instant>,
    by_number: HashMap<u64, Ask, RandomState>,
    by_token: HashMap<u64, u64, RandomState>,
    /// Those that are to be asked, and when, in this order. They may be gone by then.
    to_ask: VecDeque<(Instant, u64)>,
    /// Nothing is asked for a while.
    is_held: bool,
    /// Buses that end subscriptions, and until when nothing is asked for that at the most.
    pauses: HashMap<u64, Instant, RandomState>,
    last: u64,
    bytes: usize,
}

struct Ask {
    token: u64,
    topic: Topic,
    /// When it was sent; `None` while it is to be asked.
    sent: Option<Instant>,
    until: Instant,
    /// Since when all who were asked have not taken it.
    refused: Option<Instant>,
    /// Nobody was there, and it is waited for news of why.
    was_unserved: bool,
    /// What is asked, until a bus works on it.
    asked: Option<Asked>,
    /// The bus that works on it, as far as it has said so.
    server: Option<Origin>,
    /// A bus is gone that may have had it.
    doubted: bool,
    size: usize,
    /// Replies so far.
    replies: u64,
    /// Where several are taken.
    stream: Option<Stream>,
}

impl Asks {
    pub(super) fn new(own: Origin, subjects: Subjects, members: Members) -> Self {
        Self {
            own,
            subjects,
            members,
            doubted_until: None,
            by_number: HashMap::default(),
            by_token: HashMap::default(),
            to_ask: VecDeque::new(),
            is_held: false,
            pauses: HashMap::default(),
            last: 0,
            bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Whether some have been sent.
    pub(super) fn are_under_way(&self) -> bool {
        self.by_number.values().any(|ask| ask.sent.is_some())
    }

    /// From here on nothing is sent.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// Whether what is asked waits.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Another bus ends subscriptions: nothing is sent until it has, or until then.
    pub(super) fn pause(&mut self, by: u64, until: Instant) {
        if self.pauses.len() < limits::MEMBERS || self.pauses.contains_key(&by) {
            self.pauses.insert(by, until);
        }
    }

    /// It has ended them.
    pub(super) fn go_on(&mut self, by: u64) {
        self.pauses.remove(&by);
    }

    /// Whether nothing is sent for the sake of other buses.
    fn is_paused(&mut self, now: Instant) -> bool {
        self.pauses.retain(|_, until| *until > now);
        !self.pauses.is_empty()
    }

    /// Lets what was held be sent, or fail where there is nobody.
    pub(super) fn release(&mut self, is_connected: bool, out: &mut Outputs) {
        self.is_held = false;
        if !is_connected {
            for (_, number) in std::mem::take(&mut self.to_ask) {
                self.fail_unserved(number, out);
            }
        }
    }

    /// When something is to be sent again.
    pub(super) fn next_to_ask(&self) -> Option<Instant> {
        let (at, _) = self.to_ask.front().filter(|_| !self.is_held)?;
        Some(self.pauses.values().copied().fold(*at, Instant::max))
    }

    /// Asks what has waited for long enough: this bus itself, if it serves it by now, as NATS does not bring back what it sends.
    pub(super) fn ask_waiting(&mut self, now: Instant, is_here: impl Fn(&Topic) -> bool, out: &mut Outputs) {
        if self.is_paused(now) {
            return;
        }
        while let Some((_, before)) = self.to_ask.pop_front_if(|(at, _)| *at <= now) {
            if self
                .by_number
                .get(&before)
                .is_some_and(|ask| ask.was_unserved && !self.members.servers_move(now))
            {
                self.fail_unserved(before, out);
                continue;
            }
            let Some(mut ask) = self.by_number.remove(&before) else { continue };
            ask.was_unserved = false;
            // What somebody still says to the number before is not about this.
            self.last += 1;
            let number = self.last;
            let is_here = is_here(&ask.topic);
            self.by_token.insert(ask.token, number);
            self.by_number.insert(number, ask);
            if let Err(error) = self.send(number, is_here, now, out) {
                self.fail(number, &error, out);
            }
        }
    }

    fn send(&mut self, number: u64, is_here: bool, now: Instant, out: &mut Outputs) -> Result<(), BusError> {
        let Some(ask) = self.by_number.get_mut(&number) else { return Ok(()) };
        let Some(asked) = &ask.asked else { return Ok(()) };
        let message = wire::request(
            self.subjects.of_requests(&ask.topic),
            format!("{}.{number}", self.subjects.of_replies(self.own.bus)),
            self.own,
            ask.until.saturating_duration_since(now),
            asked,
        );
        ask.sent = Some(now);
        if is_here {
            out.ask_itself(ask.topic.clone(), message);
            return Ok(());
        }
        out.publish(message)
    }

    /// The bus asks for somebody who serves the topic elsewhere.
    pub(super) fn asked(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        now: Instant,
        out: &mut Outputs,
    ) {
        let size = content.frame_size();
        out.grant(Lane::Serving, u64::from(header.id), 1, size as u64);
        if let Err(error) = self.ask(header, content, now, out) {
            out.refuse(header.sequence, Flags::NONE, &error);
        }
    }

    fn ask(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<(), BusError> {
        let topic = topic_of_request(content).ok_or_else(|| protocol("a request that names no topic"))?;
        let options = Options::read(content.fields).map_err(Refusal::into_error)?;
        let size = content.frame_size();
        if self.by_number.len() >= limits::REQUESTS_OUT || self.bytes + size > limits::REQUEST_BYTES_OUT {
            let what =
                format!("{} requests of this bus to others, {} bytes", self.by_number.len(), self.bytes);
            return Err(BusError::Overloaded { what });
        }
        let window = header
            .flags
            .contains(Flags::STREAM)
            .then(|| options.window.unwrap_or((STREAM_WINDOW, WINDOW_BYTES)));
        let fields = Bytes::copy_from_slice(content.fields);
        let payload = Bytes::copy_from_slice(content.payload());
        // Where it is one of those that a pattern meets, its server is told the pattern.
        let pattern = TopicPattern::from_utf8(content.topic)?;
        let pattern = (pattern.as_str() != topic.as_str()).then_some(pattern);
        let asked = Some(Asked { window, pattern, fields, payload });
        self.last += 1;
        let number = self.last;
        self.bytes += size;
        let stream = window.map(|(messages, bytes)| Stream {
            room: (i64::from(messages), i64::try_from(bytes).unwrap_or(i64::MAX)),
            allowed: u64::from(messages),
            waiting: VecDeque::new(),
        });
        let token = header.sequence;
        self.by_token.insert(token, number);
        let until = now + options.deadline.unwrap_or(REQUEST_TIMEOUT);
        let (sent, refused, server, doubted, replies) = (None, None, None, false, 0);
        let ask = Ask {
            token,
            topic,
            sent,
            until,
            refused,
            was_unserved: false,
            asked,
            server,
            doubted,
            size,
            replies,
            stream,
        };
        self.by_number.insert(number, ask);
        if self.is_held || self.is_paused(now) {
            self.ask_at(now, number);
            return Ok(());
        }
        let sent = self.send(number, false, now, out);
        if sent.is_err() {
            self.end(number);
        }
        sent
    }

    /// The requester does not wait any more.
    pub(super) fn cancelled(&mut self, token: u64, out: &mut Outputs) {
        let Some(&number) = self.by_token.get(&token) else { return };
        // Whoever says later that he works on it is told then.
        if let Some(server) = self.end(number).and_then(|ask| ask.server) {
            self.tell_cancel(server, number, out);
        }
    }

    fn tell_cancel(&self, server: Origin, number: u64, out: &mut Outputs) {
        let cancel = Control::Cancel { from: self.own.bus, number };
        out.tell(wire::control(self.subjects.of_cancels(server.bus), cancel));
    }

    /// Something has come as an answer.
    pub(super) fn answered(&mut self, message: async_nats::Message, now: Instant, out: &mut Outputs) {
        let Some(number) = wire::number_of(&message.subject) else { return };
        let answer = match wire::read_answer(message) {
            Ok(answer) => answer,
            Err(malformed) => return self.fail(number, &protocol(&malformed.to_string()), out),
        };
        let Some(ask) = self.by_number.get_mut(&number) else {
            // It was given up. Who still works on it may stop.
            return match answer {
                Answer { from: Some(server), said: Said::Accepted } => self.tell_cancel(server, number, out),
                Answer { from: Some(server), said: Said::Reply { flags, .. } }
                    if flags.contains(Flags::MORE) =>
                {
                    self.tell_cancel(server, number, out);
                }
                _ => {}
            };
        };
        if let Some(from) = answer.from {
            if ask.server.is_some_and(|server| server != from) {
                return self.tell_cancel(from, number, out);
            }
            ask.server = Some(from);
            if !self.members.note(from.bus, now) {
                let what = format!("buses of the cluster; the one that serves \"{}\" is left out", ask.topic);
                return self.fail(number, &BusError::LimitReached { what }, out);
            }
        }
        match answer.said {
            Said::Accepted => ask.asked = None,
            Said::NotTaken(error) => self.refused(number, &error, limits::SERVERS_MOVE, now, out),
            Said::NoResponders => self.unserved(number, now, out),
            Said::Reply { flags, number: place, fields, payload } => {
                if place != ask.replies {
                    let lost = format!("reply {place} of \"{}\" where {} was due", ask.topic, ask.replies);
                    return self.fail(number, &protocol(&lost), out);
                }
                ask.asked = None;
                self.replied(number, Reply { flags, fields, payload }, out);
            }
        }
    }

    /// Nobody is there. Where a bus drains, the servers that it had may be about to be at another one.
    fn unserved(&mut self, number: u64, now: Instant, out: &mut Outputs) {
        let Some(ask) = self.by_number.get_mut(&number) else { return };
        if self.members.servers_move(now) {
            let error = BusError::NoServer { topic: ask.topic.to_string() };
            self.refused(number, &error, limits::LINK_MOVE + limits::SERVERS_MOVE, now, out);
        } else if self.members.is_alone() || ask.was_unserved {
            self.fail_unserved(number, out);
        } else {
            // It may have been told a moment ago.
            (ask.was_unserved, ask.sent) = (true, None);
            self.ask_at(now + limits::NEWS, number);
        }
    }

    /// Nobody has had it: it is asked again in a moment, for as long as that may help.
    fn refused(
        &mut self,
        number: u64,
        error: &BusError,
        patience: Duration,
        now: Instant,
        out: &mut Outputs,
    ) {
        let Some(ask) = self.by_number.get_mut(&number) else { return };
        let since = *ask.refused.get_or_insert(now);
        let again = now + limits::ASK_PAUSE;
        if ask.asked.is_none() || again >= (since + patience).min(ask.until) {
            ask.server = None;
            return self.fail(number, error, out);
        }
        (ask.server, ask.sent, ask.doubted) = (None, None, false);
        self.ask_at(again, number);
    }

    fn ask_at(&mut self, at: Instant, number: u64) {
        // Those that were cancelled meanwhile are in the row until their time has come.
        if self.to_ask.len() >= 2 * limits::REQUESTS_OUT {
            self.to_ask.retain(|(_, number)| self.by_number.contains_key(number));
        }
        self.to_ask.push_back((at, number));
    }

    fn fail_unserved(&mut self, number: u64, out: &mut Outputs) {
        let Some(ask) = self.by_number.get(&number) else { return };
        let error = BusError::NoServer { topic: ask.topic.to_string() };
        self.fail(number, &error, out);
    }

    /// A bus is gone, or has lost what it had with connections before `epoch`. It was last heard at that time, if it has not said
    /// that it leaves.
    pub(super) fn gone(
        &mut self,
        server: u64,
        epoch: u64,
        heard: Option<Instant>,
        now: Instant,
        out: &mut Outputs,
    ) {
        self.fail_where(out, |ask| ask.server.is_some_and(|of| of.bus == server && of.epoch < epoch));
        let Some(heard) = heard else { return };
        // What has been sent since and nobody has said to have may have gone there. It may also be with somebody who is about to
        // say so.
        let since = heard.checked_sub(limits::HEARTBEAT).unwrap_or(heard);
        for ask in self
            .by_number
            .values_mut()
            .filter(|ask| ask.server.is_none() && ask.sent.is_some_and(|sent| sent >= since))
        {
            ask.doubted = true;
            self.doubted_until = Some(now + limits::DOUBT);
        }
    }

    /// When it is to be looked for requests that nobody has.
    pub(super) fn doubted_until(&self) -> Option<Instant> {
        self.doubted_until
    }

    /// Fails requests that nobody has said to have since a bus was gone.
    pub(super) fn end_doubts(&mut self, out: &mut Outputs) {
        self.doubted_until = None;
        self.fail_where(out, |ask| ask.doubted && ask.server.is_none());
    }

    /// Which buses are there, and with which connection: news were missed.
    pub(super) fn only(&mut self, there: impl Fn(u64) -> Option<u64>, out: &mut Outputs) {
        self.fail_where(out, |ask| {
            ask.server.is_some_and(|of| there(of.bus).is_none_or(|epoch| epoch > of.epoch))
        });
    }

    /// There is another connection to NATS, or none: answers may have been on their way. What is held was not sent.
    pub(super) fn connected(&mut self, epoch: u64, out: &mut Outputs) {
        self.own.epoch = epoch;
        let is_held = self.is_held;
        self.fail_where(out, |ask| !is_held || ask.sent.is_some());
    }

    fn fail_where(&mut self, out: &mut Outputs, mut is_lost: impl FnMut(&Ask) -> bool) {
        let lost: Vec<(u64, Topic)> = self
            .by_number
            .iter()
            .filter(|(_, ask)| is_lost(ask))
            .map(|(number, ask)| (*number, ask.topic.clone()))
            .collect();
        for (number, topic) in lost {
            self.fail(number, &BusError::ServerGone { topic: topic.to_string() }, out);
        }
    }

    /// Ends a request with an error of this bus, which its requester and its server are told.
    fn fail(&mut self, number: u64, error: &BusError, out: &mut Outputs) {
        let Some(ask) = self.end(number) else { return };
        if let Some(server) = ask.server {
            self.tell_cancel(server, number, out);
        }
        let end = if ask.stream.is_some() { Flags::END } else { Flags::NONE };
        out.refuse(ask.token, end, error);
    }

    fn end(&mut self, number: u64) -> Option<Ask> {
        let ask = self.by_number.remove(&number)?;
        self.by_token.remove(&ask.token);
        self.bytes = self.bytes.saturating_sub(ask.size);
        Some(ask)
    }
}

fn protocol(what: &str) -> BusError {
    BusError::Protocol { what: format!("from another bus: {what}") }
}
