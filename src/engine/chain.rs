//! Engines in their order, and which topics they are for.

use std::cell::Cell;
use std::sync::Arc;

use super::envelope::{self, HEAD, PAYLOAD};
use super::memory::{Memory, Place};
use super::{Content, Context, Engine, Opened, Sealed};
use crate::error::{BusError, BusResult, EngineError};
use crate::limits;
use crate::topic::TopicPattern;

/// Engines that seal one after the other, by their [`Stage`](super::Stage).
///
/// # Examples
/// ```
/// use whispeer::engine::Chain;
///
/// let as_it_is = Chain::new();
/// assert!(as_it_is.is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Chain(Vec<Arc<dyn Engine>>);

impl Chain {
    /// A chain of none, which leaves payloads as they are.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an engine. Its stage says where it stands, not the order in which engines are added.
    #[must_use]
    pub fn with(self, engine: impl Engine) -> Self {
        self.with_shared(Arc::new(engine))
    }

    /// [`with`](Self::with) an engine that other chains have, too.
    #[must_use]
    pub fn with_shared(mut self, engine: Arc<dyn Engine>) -> Self {
        let place = self.0.partition_point(|other| other.stage() <= engine.stage());
        self.0.insert(place, engine);
        self
    }

    /// Whether payloads are left as they are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, id: u8) -> bool {
        self.0.iter().any(|engine| engine.id() == id)
    }

    /// Whether it has all that the other one requires.
    fn protects_as(&self, other: &Self) -> bool {
        other.0.iter().all(|engine| !engine.is_required() || self.has(engine.id()))
    }

    /// Whether something that comes without it is taken.
    pub(crate) fn check_plain(&self) -> Result<(), EngineError> {
        match self.0.iter().find(|engine| engine.is_required()) {
            Some(engine) => Err(EngineError::Missing { engine: engine.name().to_owned() }),
            None => Ok(()),
        }
    }

    fn check(&self) -> BusResult<()> {
        if self.0.len() > limits::ENGINES {
            let what = format!("a chain of {} engines is longer than {}", self.0.len(), limits::ENGINES);
            return Err(BusError::InvalidSettings(what));
        }
        for (index, engine) in self.0.iter().enumerate() {
            if engine.id() == PAYLOAD {
                let what =
                    format!("the engine \"{}\" has the id 0, which stands for the payload", engine.name());
                return Err(BusError::InvalidSettings(what));
            }
            let before = self.0.get(..index).unwrap_or_default();
            if let Some(other) = before.iter().find(|other| other.id() == engine.id()) {
                let (one, two) = (other.name(), engine.name());
                let what = format!("the engines \"{one}\" and \"{two}\" of one chain have the same id");
                return Err(BusError::InvalidSettings(what));
            }
        }
        Ok(())
    }

    /// Appends the sealed payload to `output`, its envelope included. Without engines it is the payload itself, unless
    /// that would be taken for a sealed one.
    pub(crate) fn seal(
        &self,
        context: &Context<'_>,
        payload: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Sealed, EngineError> {
        let Some((last, inner)) = self.0.split_last() else {
            output.reserve(HEAD + payload.len());
            if envelope::is_sealed(payload) {
                output.extend_from_slice(&envelope::head(PAYLOAD));
            }
            output.extend_from_slice(payload);
            return Ok(Sealed::default());
        };
        let mut sealed = Sealed::default();
        with_scratch(|[one, other]| {
            let (mut from, mut to) = (one, other);
            let mut tag = PAYLOAD;
            for (index, engine) in inner.iter().enumerate() {
                to.clear();
                let bytes = if index == 0 { payload } else { &from[..] };
                sealed.mark = engine.seal(context, Content { tag, bytes }, to)?.mark.or(sealed.mark);
                tag = engine.id();
                std::mem::swap(&mut from, &mut to);
            }
            let bytes = if inner.is_empty() { payload } else { &from[..] };
            output.reserve(HEAD + bytes.len() + last.overhead(bytes.len()));
            output.extend_from_slice(&envelope::head(last.id()));
            sealed.mark = last.seal(context, Content { tag, bytes }, output)?.mark.or(sealed.mark);
            Ok(sealed)
        })
    }
}

thread_local! {
    static SCRATCH: Cell<[Vec<u8>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Calls `work` with two buffers of this thread. An engine that itself seals something gets others.
fn with_scratch<R>(work: impl FnOnce([&mut Vec<u8>; 2]) -> R) -> R {
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    let [one, other] = &mut scratch;
    let result = work([one, other]);
    if scratch.iter().all(|buffer| buffer.capacity() <= limits::POOLED_BUFFER_BYTES) {
        // A thread that is ending has no place for it any more.
        let _ = SCRATCH.try_with(|place| place.set(scratch));
    }
    result
}

/// Which chain is for which topics.
///
/// The first rule whose pattern covers a topic counts, and the engines given by [`with`](Self::with) where none does.
/// A message to a pattern goes by the first rule that covers all that the pattern can match; it is refused if another
/// rule before that, which it may also match, requires what this one does not have.
///
/// Topics of the bus's own (`$bus/…`) are never sealed.
///
/// # Examples
/// ```
/// use whispeer::engine::{Chain, Engines};
///
/// let engines = Engines::new().topic("metrics/**", Chain::new());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Engines {
    rules: Vec<(String, Chain)>,
    default: Chain,
    /// Those that only open.
    reading: Vec<Arc<dyn Engine>>,
}

impl Engines {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an engine to the chain for all topics that no rule is for.
    #[must_use]
    pub fn with(mut self, engine: impl Engine) -> Self {
        self.default = self.default.with(engine);
        self
    }

    /// [`with`](Self::with) an engine that others have, too.
    #[must_use]
    pub fn with_shared(mut self, engine: Arc<dyn Engine>) -> Self {
        self.default = self.default.with_shared(engine);
        self
    }

    /// Adds an engine that opens what others have sealed with it, where the chain for the topic has none of its id. It
    /// seals nothing but answers to what it has opened, if it [is required](Engine::is_required) where it stands.
    #[must_use]
    pub fn reading(mut self, engine: impl Engine) -> Self {
        self.reading.push(Arc::new(engine));
        self
    }

    /// Adds a rule: this chain is for topics that `pattern` covers and no rule before it does. A pattern that is none is
    /// told when the client connects.
    #[must_use]
    pub fn topic(mut self, pattern: impl Into<String>, chain: Chain) -> Self {
        self.rules.push((pattern.into(), chain));
        self
    }

    /// Makes of it what opens by the rules alone: not also with engines that are there for other topics.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub(crate) fn checked_for_opening(self) -> BusResult<Rules> {
        let reading = self.reading.len();
        let mut rules = self.checked()?;
        // Those for reading stand first.
        rules.known.truncate(reading);
        Ok(rules)
    }

    /// Makes of it what clients use.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] for a pattern that is none, and [`BusError::InvalidSettings`] for two engines of one id
    /// in a chain, a chain of more than [`limits::ENGINES`] or more than [`limits::ENGINE_RULES`] rules.
    pub(crate) fn checked(self) -> BusResult<Rules> {
        if self.rules.len() > limits::ENGINE_RULES {
            let what = format!("more than {} rules for engines are given", limits::ENGINE_RULES);
            return Err(BusError::InvalidSettings(what));
        }
        let mut rules = Vec::with_capacity(self.rules.len());
        for (pattern, chain) in self.rules {
            rules.push((TopicPattern::new(pattern)?, chain));
        }
        let (patterns, mut chains): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        // Those for reading first: what is said to be for that comes before what is there for other topics.
        chains.insert(0, Chain(self.reading));
        chains.push(self.default);
        let mut known: Vec<Arc<dyn Engine>> = Vec::new();
        let mut own = Vec::new();
        for chain in &mut chains {
            chain.check()?;
            for engine in &mut chain.0 {
                *engine = for_client(&mut own, engine)?;
                if !known.iter().any(|other| other.id() == engine.id()) {
                    known.push(Arc::clone(engine));
                }
            }
        }
        chains.remove(0);
        chains.push(Chain::new());
        Ok(Rules { patterns, chains, known })
    }
}

/// What a client gets of an engine; `own` has those that it has got already, beside those that it was given.
fn for_client(own: &mut Vec<[Arc<dyn Engine>; 2]>, given: &Arc<dyn Engine>) -> BusResult<Arc<dyn Engine>> {
    if let Some([_, got]) = own.iter().find(|[other, _]| Arc::ptr_eq(other, given)) {
        return Ok(Arc::clone(got));
    }
    let got = given.for_client()?.unwrap_or_else(|| Arc::clone(given));
    own.push([Arc::clone(given), Arc::clone(&got)]);
    Ok(got)
}

/// [`Engines`] whose patterns are right.
#[derive(Debug)]
pub(crate) struct Rules {
    patterns: Vec<TopicPattern>,
    /// One for each pattern; then the one for all other topics, and the one of none.
    chains: Vec<Chain>,
    /// What opens where the chain for the topic has no engine of an id: all that there are, one of each id, or those for
    /// reading alone.
    known: Vec<Arc<dyn Engine>>,
}

/// Which of the chains it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChainIndex(usize);

impl Rules {
    /// Whether all payloads stay as they are.
    pub(crate) fn are_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Which chain is for what is sent to a topic or pattern, or comes from there.
    pub(crate) fn find(&self, topic: &str) -> Result<ChainIndex, EngineError> {
        let default = self.patterns.len();
        if topic.starts_with('$') {
            return Ok(ChainIndex(default + 1));
        }
        if self.patterns.is_empty() {
            return Ok(ChainIndex(default));
        }
        // What is no topic is refused as such elsewhere.
        let Ok(topic) = TopicPattern::new(topic) else { return Ok(ChainIndex(default)) };
        let covering = self.patterns.iter().position(|pattern| pattern.contains(&topic)).unwrap_or(default);
        let chain = self.chain(ChainIndex(covering));
        let mut before = self.patterns.iter().zip(&self.chains).take(covering);
        match before.find(|(pattern, other)| !chain.protects_as(other) && pattern.meets(&topic)) {
            Some((pattern, _)) => Err(EngineError::NoRule { met: pattern.to_string() }),
            None => Ok(ChainIndex(covering)),
        }
    }

    /// The chain of this index.
    pub(crate) fn chain(&self, index: ChainIndex) -> &Chain {
        static NONE: Chain = Chain(Vec::new());
        self.chains.get(index.0).unwrap_or(&NONE)
    }

    /// Opens a payload that has arrived by the chain for its topic; says where it lies then.
    pub(crate) fn open(
        &self,
        context: &Context<'_>,
        chain: ChainIndex,
        memory: &mut Memory,
        arrived: &[u8],
    ) -> Result<(Place, Opened), EngineError> {
        let chain = self.chain(chain);
        let Some((tag, sealed)) = envelope::split(arrived)? else {
            chain.check_plain()?;
            return Ok((Place::Arrived(0), Opened::default()));
        };
        let mut buffers = memory.take_buffers();
        let opened = self.open_sealed(chain, context, memory, (tag, sealed), &mut buffers);
        memory.give_back(buffers);
        opened
    }

    fn open_sealed(
        &self,
        chain: &Chain,
        context: &Context<'_>,
        memory: &mut Memory,
        (mut tag, sealed): (u8, &[u8]),
        buffers: &mut [Vec<u8>; 2],
    ) -> Result<(Place, Opened), EngineError> {
        let mut all = Opened::default();
        let mut place = Place::Arrived(HEAD);
        let mut seen: [u8; limits::ENGINES] = [PAYLOAD; limits::ENGINES];
        let mut count = 0;
        let mut last_stage = None;
        while tag != PAYLOAD {
            let engine = self.engine(chain, tag)?;
            // Outermost first, each at most once: so nobody can make a payload that takes for ever.
            let stage = engine.stage();
            // What is required further out cannot come any more: so nothing is unpacked of what nobody vouches for.
            let lacks = |other: &&Arc<dyn Engine>| {
                other.is_required() && other.stage() > stage && !seen.contains(&other.id())
            };
            if let Some(missing) = chain.0.iter().find(lacks) {
                return Err(EngineError::Missing { engine: missing.name().to_owned() });
            }
            let again = seen.iter().take(count).any(|id| *id == tag);
            let Some(slot) =
                seen.get_mut(count).filter(|_| !again && last_stage.is_none_or(|last| stage <= last))
            else {
                return Err(EngineError::Malformed { what: "its engines are not in their order" });
            };
            (*slot, last_stage) = (tag, Some(stage));
            let [one, other] = buffers;
            let (from, to, next) = match place {
                Place::Arrived(_) => (sealed, one, 0),
                Place::Buffer(0) => (&one[..], other, 1),
                Place::Buffer(_) => (&other[..], one, 0),
            };
            to.clear();
            let opened = engine.open(context, memory, from, to)?;
            place = Place::Buffer(next);
            (tag, count) = (opened.tag, count + 1);
            let (mark, signer) = (all.mark.or(opened.mark), all.signer.or(opened.signer));
            all = Opened { tag, mark, signer, by: seen };
        }
        match chain.0.iter().find(|engine| engine.is_required() && !seen.contains(&engine.id())) {
            Some(engine) => Err(EngineError::Missing { engine: engine.name().to_owned() }),
            None => Ok((place, all)),
        }
    }

    /// The chain for answers to what engines have opened that the chain lacks, if it lacks one that is required: no answer
    /// tells in plain what was asked in secret.
    pub(crate) fn answering(&self, chain: ChainIndex, opened: &Opened) -> Option<Chain> {
        let chain = self.chain(chain);
        let lacking = opened.by.iter().filter(|id| !chain.has(**id));
        let lacking = lacking.filter_map(|id| self.known.iter().find(|engine| engine.id() == *id));
        let mut lacking = lacking.filter(|engine| engine.is_required()).peekable();
        lacking.peek()?;
        Some(lacking.fold(chain.clone(), |chain, engine| chain.with_shared(Arc::clone(engine))))
    }

    /// The engine of this id: that of the chain, or else one that the client has for other topics.
    fn engine<'a>(&'a self, chain: &'a Chain, id: u8) -> Result<&'a Arc<dyn Engine>, EngineError> {
        let mut all = chain.0.iter().chain(&self.known);
        all.find(|engine| engine.id() == id).ok_or(EngineError::UnknownEngine { id })
    }
}

#[cfg(test)]
mod tests;
