//! What others ask this bus.
//!
//! ```text
//! message     serves += id, REQUEST to the bus            ANSWER -> message to the requester
//! credit      CREDIT to the bus
//! cancel, requester's bus gone    serves -= id, CANCEL to the bus
//! ```
//!
//! Whoever has nothing but NATS asks likewise; he gets the payload of the reply, and cannot cancel.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::time::Instant;
use whispeer::BusError;
use whispeer::engine::is_sealed;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{ContentRef, Flags, HEADER_LEN, Header, Kind, Lane, Refusal};
use whispeer::topic::Topic;

use super::outputs::Outputs;
use super::wire::{self, Control, Origin, Request};
use crate::headers::Malformed;
use crate::limits;
use crate::members::Members;

/// The requests of others that this bus has not answered.
pub(super) struct Serves {
    own: Origin,
    members: Members,
    by_id: HashMap<u32, Serve, RandomState>,
    /// Those of other buses, by these and their numbers.
    by_origin: HashMap<(u64, u64), u32, RandomState>,
    /// Those whose buses are to be told that they have come here, if they are still there then.
    to_accept: VecDeque<(Instant, u32)>,
    last: u32,
    bytes: usize,
    /// How many there may be.
    pub(super) most: usize,
}

struct Serve {
    from: Option<(Origin, u64)>,
    reply: String,
    size: usize,
    stream: bool,
    /// Replies so far.
    replies: u64,
    /// Bytes of those that their requester has not taken yet, as its bus counts them.
    untaken: VecDeque<u64>,
}

impl Serves {
    pub(super) fn new(own: Origin, members: Members, most: usize) -> Self {
        Self {
            own,
            members,
            by_id: HashMap::default(),
            by_origin: HashMap::default(),
            to_accept: VecDeque::new(),
            last: 0,
            bytes: 0,
            most: most.min(limits::REQUESTS_IN),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Somebody asks who serves the topic here.
    pub(super) fn asked(
        &mut self,
        topic: &Topic,
        message: async_nats::Message,
        now: Instant,
        out: &mut Outputs,
    ) {
        // Nobody could be answered.
        let Some(reply) = message.reply.as_ref().map(ToString::to_string) else { return };
        let request = match wire::read_request(topic, &message) {
            Ok(request) => request,
            Err(Malformed(what)) => {
                let error = BusError::Protocol { what: format!("a request over NATS: {what}") };
                let from = message.headers.is_some().then_some((self.own, 0));
                return self.refuse(reply, from, &error, out);
            }
        };
        if let Some((origin, number)) = request.from {
            self.members.note(origin.bus, now);
            if self.by_origin.contains_key(&(origin.bus, number)) {
                return;
            }
        }
        let from = request.from;
        if let Err(error) = self.take(topic, request, &reply, message.payload, now, out) {
            self.refuse(reply, from, &error, out);
        }
    }

    /// Somebody asks for what only one bus may serve, which this one is not, or not any more.
    pub(super) fn turned_away(&self, topic: &Topic, message: &async_nats::Message, out: &mut Outputs) {
        let Some(reply) = message.reply.as_ref().map(ToString::to_string) else { return };
        let from = wire::read_request(topic, message).ok().and_then(|request| request.from);
        self.refuse(reply, from, &BusError::NoServer { topic: topic.to_string() }, out);
    }

    fn take(
        &mut self,
        topic: &Topic,
        request: Request,
        reply: &str,
        payload: Bytes,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<(), BusError> {
        let mut fields = FieldsBuilder::new();
        if let Some((origin, _)) = request.from {
            fields.origin(origin.bus)?;
        }
        if let Some((messages, bytes)) = request.window {
            fields.window(messages, bytes)?;
        }
        // What was asked may be a pattern; then it is said which topic is meant.
        let mut sent_to = topic.as_str();
        if let Some(pattern) = &request.pattern {
            fields.topic(sent_to)?;
            sent_to = pattern.as_str();
        }
        fields.append(&request.fields)?;
        let size = HEADER_LEN + fields.as_bytes().len() + sent_to.len() + payload.len();
        if size > out.frame_limit {
            return Err(BusError::FrameTooLarge { size, limit: out.frame_limit });
        }
        if self.by_id.len() >= self.most || self.bytes + size > limits::REQUEST_BYTES_IN {
            let what = format!("{} requests of others at a bus, {} bytes", self.by_id.len(), self.bytes);
            return Err(BusError::Overloaded { what });
        }
        let id = self.next_id();
        let stream = request.window.is_some();
        let left = request.left.map_or(0, |left| left.max(Duration::from_micros(1)).as_micros());
        let header = Header::new(Kind::Request, id, u64::try_from(left).unwrap_or(u64::MAX))
            .flagged(if stream { Flags::STREAM } else { Flags::NONE });
        out.frame(&header, fields.as_bytes(), sent_to, &payload);
        self.bytes += size;
        if let Some((origin, number)) = request.from {
            self.by_origin.insert((origin.bus, number), id);
            self.to_accept.push_back((now + limits::ACCEPT_AFTER, id));
        }
        let reply = reply.to_owned();
        let (from, untaken) = (request.from, VecDeque::new());
        self.by_id.insert(id, Serve { from, reply, size, stream, replies: 0, untaken });
        Ok(())
    }

    fn next_id(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.by_id.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// When somebody is to be told next that his request has come here.
    pub(super) fn next_to_accept(&self) -> Option<Instant> {
        self.to_accept.front().map(|(at, _)| *at)
    }

    /// Tells those who have waited for long enough.
    pub(super) fn accept(&mut self, now: Instant, out: &mut Outputs) {
        // Those that have been answered meanwhile are in the row until their time has come.
        while self
            .to_accept
            .front()
            .is_some_and(|(at, _)| *at <= now || self.to_accept.len() > limits::REQUESTS_IN)
        {
            let Some((_, id)) = self.to_accept.pop_front() else { return };
            // A reply says the same. An id that is used again tells the new one early, which does no harm.
            if let Some(serve) =
                self.by_id.get(&id).filter(|serve| serve.from.is_some() && serve.replies == 0)
            {
                out.tell(wire::accepted(serve.reply.clone(), self.own));
            }
        }
    }

    /// The bus has an answer.
    pub(super) fn answered(&mut self, header: &Header, content: &ContentRef<'_>, out: &mut Outputs) {
        let Some(serve) = self.by_id.get_mut(&header.id) else { return };
        let more = header.flags.contains(Flags::MORE);
        if let Some(error) = serve.not_taken(header.flags, content.payload()) {
            out.tell(wire::not_taken(serve.reply.clone(), self.own, &error));
            self.end(header.id);
            return;
        }
        let payload = Bytes::copy_from_slice(content.payload());
        let message = match serve.from {
            Some(_) => {
                let subject = serve.reply.clone();
                wire::reply(subject, self.own, header.flags, serve.replies, content.fields, payload)
            }
            None => wire::plain_reply(serve.reply.clone(), header.flags, content.fields, payload),
        };
        if more {
            // A value of the process counts for what it says here, and for its bytes at the requester's bus. Were the
            // difference not given back at once, this bus could wait for a grant that is not due there.
            let bytes = content.encoded_size() as u64;
            serve.replies += 1;
            serve.untaken.push_back(bytes);
            let difference = (content.frame_size() as u64).saturating_sub(bytes);
            if difference > 0 {
                out.grant(Lane::Stream, u64::from(header.id), 0, difference);
            }
        }
        let sent = out.publish(message);
        if let Err(error) = sent {
            let Some(mut serve) = self.end(header.id) else { return };
            if more {
                serve.replies -= 1;
                out.cancel(header.id);
            }
            out.tell(refusal(&serve, self.own, &error));
        } else if !more {
            self.end(header.id);
        }
    }

    /// Another bus has said something of a request.
    pub(super) fn told(&mut self, control: Control, out: &mut Outputs) {
        match control {
            Control::Cancel { from, number } => {
                if let Some(&id) = self.by_origin.get(&(from, number)) {
                    self.end(id);
                    out.cancel(id);
                }
            }
            Control::Credit { from, number, messages } => {
                let Some(&id) = self.by_origin.get(&(from, number)) else { return };
                let Some(serve) = self.by_id.get_mut(&id) else { return };
                let taken = serve.untaken.len().min(messages as usize);
                let bytes: u64 = serve.untaken.drain(..taken).sum();
                if taken > 0 {
                    out.grant(Lane::Stream, u64::from(id), u32::try_from(taken).unwrap_or(u32::MAX), bytes);
                }
            }
        }
    }

    /// A bus is gone, or has given up what it had asked with connections before `epoch`.
    pub(super) fn gone(&mut self, requester: u64, epoch: u64, out: &mut Outputs) {
        self.cancel_where(out, |from| from.is_some_and(|of| of.bus == requester && of.epoch < epoch));
    }

    /// Which buses are there, and with which connection: news were missed.
    pub(super) fn only(&mut self, there: impl Fn(u64) -> Option<u64>, out: &mut Outputs) {
        self.cancel_where(out, |from| {
            from.is_some_and(|of| there(of.bus).is_none_or(|epoch| epoch > of.epoch))
        });
    }

    /// There is another connection to NATS, or none: the others take what they had asked here for failed.
    pub(super) fn connected(&mut self, epoch: u64, out: &mut Outputs) {
        self.own.epoch = epoch;
        self.cancel_where(out, |_| true);
    }

    fn cancel_where(&mut self, out: &mut Outputs, is_lost: impl Fn(Option<Origin>) -> bool) {
        let is_lost = |serve: &Serve| is_lost(serve.from.map(|(origin, _)| origin));
        let lost: Vec<u32> =
            self.by_id.iter().filter(|(_, serve)| is_lost(serve)).map(|(id, _)| *id).collect();
        for id in lost {
            self.end(id);
            out.cancel(id);
        }
    }

    fn refuse(&self, reply: String, from: Option<(Origin, u64)>, error: &BusError, out: &mut Outputs) {
        let untaken = VecDeque::new();
        let serve = Serve { from, reply, size: 0, stream: false, replies: 0, untaken };
        out.tell(refusal(&serve, self.own, error));
    }

    fn end(&mut self, id: u32) -> Option<Serve> {
        let serve = self.by_id.remove(&id)?;
        if let Some((origin, number)) = serve.from {
            self.by_origin.remove(&(origin.bus, number));
        }
        self.bytes = self.bytes.saturating_sub(serve.size);
        Some(serve)
    }
}

impl Serve {
    /// Why this bus has given a request of another one to no server, if that is what it says. The other bus may ask elsewhere.
    fn not_taken(&self, flags: Flags, payload: &[u8]) -> Option<BusError> {
        if self.from.is_none() || self.replies > 0 || !flags.contains(Flags::ERROR) || is_sealed(payload) {
            return None;
        }
        let error = Refusal::decode(payload).ok()?.into_error();
        matches!(error, BusError::NoServer { .. } | BusError::Draining { .. }).then_some(error)
    }
}

/// The error that a request ends with, by this bus.
fn refusal(serve: &Serve, own: Origin, error: &BusError) -> wire::Publish {
    let payload: Bytes = Refusal::from(error).encode().into();
    let flags = if serve.stream { Flags::ERROR.with(Flags::END) } else { Flags::ERROR };
    match serve.from {
        Some(_) => wire::reply(serve.reply.clone(), own, flags, serve.replies, &[], payload),
        None => wire::plain_reply(serve.reply.clone(), flags, &[], payload),
    }
}
