//! What engines make of the payloads of a client, and of those that it gets.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::dispatch::refusal;
use super::inbox::Raw;
use super::serving::UNDECODABLE;
use super::shared::{Session, Shared};
use crate::engine::{
    Chain, ChainIndex, Context, EngineError, Mark, Memories, Memory, MessageKind, Opened, Place, Rules,
    is_sealed,
};
use crate::error::{BriefResult, BusError, BusResult, ErrorReply};
use crate::limits;
use crate::proto::{ErrorCode, Payload, Refusal, dead_letter};
use crate::topic::TopicPattern;

/// The engines of a client.
pub(super) struct Sealing {
    rules: Rules,
    shared: Arc<Shared>,
    /// What is kept between the answers to requests, which come to any task.
    memories: Memories,
    /// What is sealed already is passed on as it is.
    passes: bool,
}

impl Sealing {
    /// `None` where payloads stay as they are.
    pub(super) fn new(rules: Rules, shared: &Arc<Shared>, passes: bool) -> Option<Arc<Self>> {
        let sealing = Self { rules, shared: Arc::clone(shared), memories: Memories::default(), passes };
        (!sealing.rules.are_empty()).then(|| Arc::new(sealing))
    }

    /// Whether what is sealed already is passed on as it is.
    pub(super) fn passes_sealed(&self) -> bool {
        self.passes
    }

    /// Bytes that a payload may have: as many as the frame limit allows without engines.
    fn limit(&self) -> usize {
        self.shared.session().map_or(limits::FRAME_LIMIT_MIN, Session::frame_limit)
    }

    /// How what is sent to a topic is sealed.
    ///
    /// # Errors
    /// [`EngineError::NoRule`].
    pub(super) fn seal(self: &Arc<Self>, topic: &str) -> BusResult<Seal> {
        let chain = self.rules.find(topic).map_err(|error| sealed(topic, error))?;
        Ok(Seal { sealing: Arc::clone(self), chain, topic: topic.into() })
    }

    /// Bytes that what is within a sealed payload may have: with what inner engines add.
    fn inner_limit(&self) -> usize {
        self.limit().saturating_add(limits::SEALING_SLACK)
    }

    /// Whether a payload that was opened may be so large.
    fn check(&self, length: usize) -> Result<(), EngineError> {
        let limit = self.limit();
        if length > limit { Err(EngineError::TooLarge { limit }) } else { Ok(()) }
    }

    /// The payload of an answer.
    fn open_answer(&self, context: &Context<'_>, payload: &Payload) -> Result<Payload, EngineError> {
        let chain = self.rules.find(context.topic)?;
        let Payload::Bytes(arrived) = payload else {
            self.rules.chain(chain).check_plain()?;
            return Ok(payload.clone());
        };
        let opened = self.memories.with(|memory| {
            let (place, _) = self.rules.open(context, chain, memory, arrived)?;
            self.check(memory.payload(arrived, place).len())?;
            Ok(match place {
                Place::Arrived(start) => arrived.slice(start.min(arrived.len())..),
                place @ Place::Buffer(_) => memory.take(place).unwrap_or_default().into(),
            })
        });
        Ok(Payload::Bytes(opened?))
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sealing").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// How what is sent to one topic is sealed.
#[derive(Debug, Clone)]
pub(super) struct Seal {
    sealing: Arc<Sealing>,
    chain: ChainIndex,
    topic: Box<str>,
}

impl Seal {
    /// Whether one payload may go to this topic, too. Each subscription gets it under one of the topics, and what is
    /// bound to another is of no use there.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] where engines are required, and [`EngineError::NoRule`] for a topic of another
    /// chain.
    pub(super) fn check_also(&self, topic: &str) -> BusResult<()> {
        let rules = &self.sealing.rules;
        let found = rules.find(topic).map_err(|error| sealed(topic, error))?;
        if let Err(EngineError::Missing { engine }) = rules.chain(self.chain).check_plain() {
            let what = format!(
                "one message cannot go to several topics with {engine}, which binds it to one; publish to each, or to a \
                 pattern"
            );
            return Err(BusError::InvalidSettings(what));
        }
        if found == self.chain {
            return Ok(());
        }
        Err(sealed(&self.topic, EngineError::NoRule { met: topic.to_owned() }))
    }

    /// Whether an answer may come in plain.
    pub(super) fn check_answer(&self, is_sealed: bool) -> BusResult<()> {
        if is_sealed {
            return Ok(());
        }
        let plain = self.sealing.rules.chain(self.chain).check_plain();
        plain.map_err(|error| opened(&self.topic, error))
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// For one payload.
    #[inline]
    pub(super) fn outgoing<'a>(&'a self, kind: MessageKind, fields: &'a [u8]) -> Outgoing<'a> {
        self.outgoing_by(self.sealing.rules.chain(self.chain), kind, fields)
    }

    fn outgoing_by<'a>(&'a self, chain: &'a Chain, kind: MessageKind, fields: &'a [u8]) -> Outgoing<'a> {
        let mut context = Context::new(&self.topic, kind);
        context.fields = fields;
        Outgoing { sealing: &self.sealing, chain, context, mark: OnceLock::new() }
    }

    /// The answer to a request that was marked so.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(super) fn open_answer(&self, mark: Option<Mark>, payload: &Payload) -> BusResult<Payload> {
        let context = self.incoming(MessageKind::Reply, mark);
        self.sealing.open_answer(&context, payload).map_err(|error| opened(&self.topic, error))
    }

    /// The error that a request was answered with, as sealed.
    pub(super) fn open_error(&self, mark: Option<Mark>, payload: &Payload) -> BusError {
        let context = self.incoming(MessageKind::ErrorReply, mark);
        match self.sealing.open_answer(&context, payload) {
            Ok(payload) => refusal(payload.as_bytes()).into_error(),
            Err(error) => opened(&self.topic, error),
        }
    }

    /// What to think of an error that was not sealed: anybody could have made up what a server says.
    pub(super) fn judge(&self, error: BusError) -> BusError {
        let BusError::Replied(reply) = &error else { return error };
        match self.sealing.rules.chain(self.chain).check_plain() {
            Ok(()) => error,
            Err(_) if reply.code() == UNDECODABLE => {
                let said = "somebody says that the server could not read the request";
                BusError::Replied(ErrorReply::new(UNDECODABLE, said))
            }
            Err(missing) => opened(&self.topic, missing),
        }
    }

    fn incoming(&self, kind: MessageKind, mark: Option<Mark>) -> Context<'_> {
        let mut context = Context::new(&self.topic, kind);
        (context.request, context.limit) = (mark, self.sealing.inner_limit());
        context
    }
}

/// One payload on its way out.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    sealing: &'a Sealing,
    chain: &'a Chain,
    context: Context<'a>,
    mark: OnceLock<Mark>,
}

impl<'a> Outgoing<'a> {
    /// The same, as an answer to a request that was marked so; its place in a stream is `index`.
    pub(super) fn answering(mut self, request: Option<Mark>, index: u64) -> Self {
        (self.context.request, self.context.index) = (request, index);
        self
    }

    /// Whether it is to be sealed, where this is what an application gave as bytes: what these engines leave as it is is so only
    /// if it would be taken for something sealed.
    #[inline]
    pub(super) fn seals(&self, given: &[u8]) -> bool {
        match is_sealed(given) {
            true => !self.sealing.passes,
            false => !self.chain.is_empty(),
        }
    }

    /// The number that it has got.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.mark.get().copied()
    }

    /// Appends the sealed payload to `output`.
    pub(super) fn seal(&self, payload: &[u8], output: &mut Vec<u8>) -> BriefResult<()> {
        let limit = self.sealing.limit();
        if payload.len() > limit {
            return Err(BusError::FrameTooLarge { size: payload.len(), limit }.into());
        }
        let done = self.chain.seal(&self.context, payload, output);
        if let Some(mark) = done.map_err(|error| sealed(self.context.topic, error))?.mark {
            // What is asked is sealed once.
            let _ = self.mark.set(mark);
        }
        Ok(())
    }
}

/// Opens what arrives for one subscription, serving or request.
///
/// The bus says of which topic a message is, and is believed only as far as that topic is one of those that were asked
/// for: otherwise it could choose the rule by which it is judged, and pass what was meant for one server to another.
///
/// A dead letter says in a header of which topic it was, and is judged and opened as a message of that. Nobody vouches for
/// the header: where it lies, what was bound to another topic does not open.
#[derive(Debug)]
pub(super) struct Opener {
    sealing: Arc<Sealing>,
    /// The topics of which something is due.
    due: Option<TopicPattern>,
    /// The last topic that came, and its chain: consecutive messages mostly have the same.
    last: Option<(Box<str>, ChainIndex)>,
    memory: Memory,
    /// The next message comes from a store, and may come again.
    pub(super) is_stored: bool,
}

impl Opener {
    /// For messages of topics that `due` meets.
    pub(super) fn new(sealing: &Arc<Sealing>, due: &str) -> Box<Self> {
        // What is no pattern was refused before, and nothing is due of it.
        let due = TopicPattern::new(due).ok();
        Box::new(Self {
            sealing: Arc::clone(sealing),
            due,
            last: None,
            memory: Memory::default(),
            is_stored: false,
        })
    }

    pub(super) fn sealing(&self) -> &Arc<Sealing> {
        &self.sealing
    }

    /// The chain of a topic of which something is due.
    fn chain(&mut self, topic: &str) -> Result<ChainIndex, EngineError> {
        match &self.last {
            Some((last, chain)) if **last == *topic => Ok(*chain),
            _ => self.new_chain(topic),
        }
    }

    #[inline(never)]
    fn new_chain(&mut self, topic: &str) -> Result<ChainIndex, EngineError> {
        self.check_due(topic)?;
        let chain = self.sealing.rules.find(topic)?;
        self.last = Some((topic.into(), chain));
        Ok(chain)
    }

    fn check_due(&self, topic: &str) -> Result<(), EngineError> {
        let pattern = TopicPattern::new(topic).map_err(|_| EngineError::Misrouted)?;
        let is_due = self.due.as_ref().is_some_and(|due| due.meets(&pattern));
        if is_due { Ok(()) } else { Err(EngineError::Misrouted) }
    }

    /// The topic that a dead letter was published to, and the chain for that. They are few, so nothing of it is kept.
    fn letter_chain<'a>(&self, topic: &str, fields: &'a [u8]) -> Result<(&'a str, ChainIndex), EngineError> {
        self.check_due(topic)?;
        // Nothing is published under the bus's own topics, and no engine is required there.
        let original = dead_letter::original_topic(fields).filter(|original| !original.starts_with('$'));
        let what = "it is a dead letter and does not say of which topic it was";
        let original = original.ok_or(EngineError::Malformed { what })?;
        Ok((original, self.sealing.rules.find(original)?))
    }

    /// Opens a message and reads its value.
    pub(super) fn open<T>(
        &mut self,
        kind: MessageKind,
        topic: &str,
        place: (Option<Mark>, u64),
        raw: &Raw<'_>,
        read: impl FnOnce(&Raw<'_>, &Opened) -> BriefResult<T>,
    ) -> BriefResult<(T, Opened)> {
        let opened = self.open_and_read(kind, topic, place, raw, read);
        // Also after what was of no use, which anybody can make large.
        self.memory.rest();
        opened
    }

    fn open_and_read<T>(
        &mut self,
        kind: MessageKind,
        topic: &str,
        (request, index): (Option<Mark>, u64),
        raw: &Raw<'_>,
        read: impl FnOnce(&Raw<'_>, &Opened) -> BriefResult<T>,
    ) -> BriefResult<(T, Opened)> {
        let failed = |error| opened(topic, error);
        let is_letter = kind == MessageKind::Publish && topic.starts_with(dead_letter::TOPICS);
        let (of, chain) = match is_letter {
            true => self.letter_chain(topic, raw.fields),
            false => self.chain(topic).map(|chain| (topic, chain)),
        }
        .map_err(failed)?;
        let rules = &self.sealing.rules;
        if raw.value().is_some() {
            // Made in this process, by a client without engines.
            rules.chain(chain).check_plain().map_err(failed)?;
            let known = Opened::default();
            return Ok((read(raw, &known)?, known));
        }
        let mut context = Context::new(of, kind);
        // A letter is as old as its message, and comes once more each time that it was put back and has failed again.
        (context.fields, context.stored) = (raw.fields, self.is_stored || is_letter);
        (context.request, context.index, context.limit) = (request, index, self.sealing.inner_limit());
        let arrived = raw.payload();
        let (place, known) = rules.open(&context, chain, &mut self.memory, arrived).map_err(failed)?;
        self.sealing.check(self.memory.payload(arrived, place).len()).map_err(failed)?;
        if place == Place::Arrived(0) {
            return Ok((read(raw, &known)?, known));
        }
        let length = self.memory.payload(arrived, place).len();
        if length < limits::SHARED_PAYLOAD {
            let payload = self.memory.payload(arrived, place);
            return Ok((read(&raw.opened(payload, None), &known)?, known));
        }
        let owned = Bytes::from(self.memory.take(place).unwrap_or_default());
        let value = read(&raw.opened(&owned, Some(&owned)), &known);
        // What has become a value of its own leaves the buffer to the next message.
        if let Ok(buffer) = owned.try_into_mut() {
            self.memory.put_back(place, buffer.into());
        }
        Ok((value?, known))
    }
}

/// The topic that a frame says.
pub(super) fn topic_of<'a>(raw: &Raw<'a>) -> &'a str {
    str::from_utf8(raw.topic).unwrap_or_default()
}

/// How a request that was handed over is to be answered.
#[derive(Debug)]
pub(super) struct AskSeal {
    seal: Seal,
    /// That of the request, if the one for its topic would protect less.
    chain: Option<Chain>,
    mark: Option<Mark>,
}

impl AskSeal {
    /// For a request to this topic. Who has asked in plain, where that is taken, is answered in plain; and who has asked
    /// under more protection than the rule for the topic gives, under that.
    ///
    /// # Errors
    /// [`EngineError::NoRule`].
    pub(super) fn new(
        sealing: &Arc<Sealing>,
        topic: &str,
        was_sealed: bool,
        opened: &Opened,
    ) -> BusResult<Option<Self>> {
        let seal = sealing.seal(topic)?;
        let plain = !was_sealed && sealing.rules.chain(seal.chain).check_plain().is_ok();
        let chain = sealing.rules.answering(seal.chain, opened);
        Ok((!plain).then_some(Self { seal, chain, mark: opened.mark }))
    }

    pub(super) fn outgoing(&self, kind: MessageKind, index: u64) -> Outgoing<'_> {
        let outgoing = match &self.chain {
            Some(chain) => self.seal.outgoing_by(chain, kind, &[]),
            None => self.seal.outgoing(kind, &[]),
        };
        outgoing.answering(self.mark, index)
    }

    /// The payload of an error reply: what a server says is sealed, and what anybody may know is not.
    pub(super) fn error(&self, error: &BusError) -> Vec<u8> {
        let refusal = Refusal::from(error);
        let plain = refusal.encode();
        if refusal.code != ErrorCode::Replied {
            return plain;
        }
        let mut output = Vec::new();
        match self.outgoing(MessageKind::ErrorReply, 0).seal(&plain, &mut output) {
            Ok(()) => output,
            // Nothing of what was to be said goes out in plain.
            Err(_) => Refusal::from(&BusError::Abandoned { topic: self.seal.topic.to_string() }).encode(),
        }
    }
}

fn sealed(topic: &str, error: EngineError) -> BusError {
    BusError::Engine { topic: topic.to_owned(), done: "sealed", error }
}

fn opened(topic: &str, error: EngineError) -> BusError {
    BusError::Engine { topic: topic.to_owned(), done: "opened", error }
}
