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
            if envelope::looks_sealed(payload) {
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
    /// All engines that there are, one of each id.
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
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    use proptest::prelude::*;

    use super::super::{MessageKind, Stage};
    use super::*;

    /// Adds its id to every byte; its stage is its id, too.
    #[derive(Debug)]
    struct Adding {
        id: u8,
        required: bool,
    }

    impl Engine for Adding {
        fn id(&self) -> u8 {
            self.id
        }

        fn name(&self) -> &str {
            "adding"
        }

        fn stage(&self) -> Stage {
            Stage::new(self.id)
        }

        fn is_required(&self) -> bool {
            self.required
        }

        fn seal(
            &self,
            _context: &Context<'_>,
            content: Content<'_>,
            output: &mut Vec<u8>,
        ) -> Result<Sealed, EngineError> {
            output.push(content.tag);
            output.extend(content.bytes.iter().map(|byte| byte.wrapping_add(self.id)));
            Ok(Sealed::default())
        }

        fn open(
            &self,
            context: &Context<'_>,
            _memory: &mut Memory,
            sealed: &[u8],
            output: &mut Vec<u8>,
        ) -> Result<Opened, EngineError> {
            let (tag, bytes) = sealed.split_first().ok_or(EngineError::Malformed { what: "it is empty" })?;
            if bytes.len() > context.limit {
                return Err(EngineError::TooLarge { limit: context.limit });
            }
            output.extend(bytes.iter().map(|byte| byte.wrapping_sub(self.id)));
            Ok(Opened::tagged(*tag))
        }
    }

    fn adding(id: u8) -> Adding {
        Adding { id, required: false }
    }

    fn rules(ids: &[u8]) -> Rules {
        ids.iter().fold(Engines::new(), |engines, id| engines.with(adding(*id))).checked().unwrap()
    }

    fn context() -> Context<'static> {
        Context::new("a/topic", MessageKind::Publish)
    }

    fn sealed(rules: &Rules, payload: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        rules.chain(rules.find("a/topic").unwrap()).seal(&context(), payload, &mut output).unwrap();
        output
    }

    fn open(rules: &Rules, arrived: &[u8]) -> Result<Vec<u8>, EngineError> {
        let mut memory = Memory::default();
        let chain = rules.find(context().topic)?;
        let (place, _) = rules.open(&context(), chain, &mut memory, arrived)?;
        Ok(memory.payload(arrived, place).to_vec())
    }

    #[test]
    fn engines_seal_by_their_stage_whatever_the_order_in_which_they_are_given() {
        for ids in [[3, 1, 2], [1, 2, 3], [2, 3, 1]] {
            let sealed = sealed(&rules(&ids), b"payload");
            // Each has the tag of the one before it, and nothing of the payload is as it was.
            assert_eq!(sealed[7..], b"payload".map(|byte| byte + 6));
            assert_eq!(sealed[..5], [0xC1, 0x57, 1, 3, 2]);
            assert_eq!(open(&rules(&[1, 2, 3]), &sealed).unwrap(), b"payload");
        }
    }

    #[test]
    fn engines_in_another_order_or_more_than_once_are_refused() {
        let rules = rules(&[1, 2, 3]);
        let head = |tags: &[u8]| [&[0xC1, 0x57, 1][..], tags].concat();
        // The inner one first, and one within itself for ever.
        for tags in [&[1, 3, 0][..], &[2, 2, 2, 0], &[3, 3]] {
            let error = open(&rules, &head(tags)).unwrap_err();
            assert!(matches!(error, EngineError::Malformed { .. }), "{tags:?}: {error:?}");
        }
        let again: Vec<u8> = std::iter::repeat_n(3, 1_000).collect();
        assert!(open(&rules, &head(&again)).is_err());
    }

    #[test]
    fn what_is_not_sealed_is_itself_and_what_looks_so_is_wrapped() {
        let none = rules(&[]);
        assert_eq!(sealed(&none, b"plain"), b"plain");
        let look_alike = [0xC1, 0x57, 1, 9, 9];
        let wrapped = sealed(&none, &look_alike);
        assert_eq!(wrapped, [&[0xC1, 0x57, 1, 0][..], &look_alike].concat());
        for rules in [none, rules(&[1])] {
            assert_eq!(open(&rules, &wrapped).unwrap(), look_alike);
            assert_eq!(open(&rules, b"plain").unwrap(), b"plain");
            assert_eq!(open(&rules, b"").unwrap(), b"");
        }
    }

    #[test]
    fn what_is_required_has_to_be_there_and_what_is_known_elsewhere_is_opened_too() {
        let required = || Adding { id: 9, required: true };
        let secret = Chain::new().with(required()).with(adding(1));
        let rules = Engines::new().topic("a/**", secret).with(adding(5)).checked().unwrap();
        let missing = EngineError::Missing { engine: "adding".into() };
        assert_eq!(open(&rules, b"plain").unwrap_err(), missing);
        let with_five = sealed(&Engines::new().with(adding(5)).checked().unwrap(), b"x");
        assert_eq!(open(&rules, &with_five).unwrap_err(), missing);
        let with_both = sealed(&Engines::new().with(adding(5)).with(required()).checked().unwrap(), b"x");
        assert_eq!(open(&rules, &with_both).unwrap(), b"x");
        let unknown = sealed(&Engines::new().with(adding(7)).checked().unwrap(), b"x");
        assert_eq!(open(&rules, &unknown).unwrap_err(), EngineError::UnknownEngine { id: 7 });
    }

    #[test]
    fn what_is_for_reading_opens_where_the_chain_has_none_of_its_id() {
        /// Of the id 9, turning bits by its own number.
        #[derive(Debug)]
        struct Numbered(u8);

        impl Engine for Numbered {
            fn id(&self) -> u8 {
                9
            }

            fn name(&self) -> &str {
                "numbered"
            }

            fn stage(&self) -> Stage {
                Stage::TRANSFORM
            }

            fn is_required(&self) -> bool {
                true
            }

            fn seal(
                &self,
                _context: &Context<'_>,
                content: Content<'_>,
                output: &mut Vec<u8>,
            ) -> Result<Sealed, EngineError> {
                output.extend([content.tag, self.0]);
                Ok(Sealed::default())
            }

            fn open(
                &self,
                _context: &Context<'_>,
                _memory: &mut Memory,
                sealed: &[u8],
                output: &mut Vec<u8>,
            ) -> Result<Opened, EngineError> {
                output.push(self.0);
                Ok(Opened::tagged(sealed[0]))
            }
        }

        let with = |number| Chain::new().with(Numbered(number));
        let rules = Engines::new().topic("a/**", with(1)).reading(Numbered(2)).with(adding(5));
        let rules = rules.checked().unwrap();
        let opened = |topic: &str| {
            let context = Context::new(topic, MessageKind::Request);
            let chain = rules.find(topic).unwrap();
            let mut memory = Memory::default();
            let arrived = [0xC1, 0x57, 1, 9, 0, 0];
            let (place, opened) = rules.open(&context, chain, &mut memory, &arrived).unwrap();
            let answering = rules.answering(chain, &opened);
            (memory.payload(&arrived, place)[0], answering.map(|chain| chain.0.len()))
        };
        assert_eq!(opened("a/topic"), (1, None));
        // What was asked with more than the chain for the topic has is answered with that, too.
        assert_eq!(opened("other"), (2, Some(2)));
    }

    #[test]
    fn each_client_has_an_engine_of_its_own_where_the_engine_says_so() {
        /// Counts how many there are.
        #[derive(Debug)]
        struct Apart(Arc<AtomicU8>);

        impl Engine for Apart {
            fn id(&self) -> u8 {
                7
            }

            fn name(&self) -> &str {
                "apart"
            }

            fn stage(&self) -> Stage {
                Stage::TRANSFORM
            }

            fn for_client(&self) -> BusResult<Option<Arc<dyn Engine>>> {
                self.0.fetch_add(1, Relaxed);
                Ok(Some(Arc::new(Self(Arc::clone(&self.0)))))
            }

            fn seal(
                &self,
                _context: &Context<'_>,
                _content: Content<'_>,
                _output: &mut Vec<u8>,
            ) -> Result<Sealed, EngineError> {
                Ok(Sealed::default())
            }

            fn open(
                &self,
                _context: &Context<'_>,
                _memory: &mut Memory,
                _sealed: &[u8],
                _output: &mut Vec<u8>,
            ) -> Result<Opened, EngineError> {
                Ok(Opened::default())
            }
        }

        let made = Arc::new(AtomicU8::new(0));
        let apart: Arc<dyn Engine> = Arc::new(Apart(Arc::clone(&made)));
        let chain = || Chain::new().with_shared(Arc::clone(&apart));
        let engines = Engines::new().topic("a", chain()).topic("b", chain()).with_shared(Arc::clone(&apart));
        for clients in 1..3 {
            let rules = engines.clone().checked().unwrap();
            assert_eq!(made.load(Relaxed), clients, "its chains share one");
            let engine = |topic| Arc::as_ptr(&rules.chain(rules.find(topic).unwrap()).0[0]);
            assert!(
                std::ptr::addr_eq(engine("a"), engine("b")) && std::ptr::addr_eq(engine("a"), engine("c"))
            );
            assert!(!std::ptr::addr_eq(engine("a"), Arc::as_ptr(&apart)));
        }
    }

    #[test]
    fn nothing_is_opened_that_lacks_what_is_required_further_out() {
        /// Fails whoever has it open something.
        #[derive(Debug)]
        struct Untouchable;

        impl Engine for Untouchable {
            fn id(&self) -> u8 {
                1
            }

            fn name(&self) -> &str {
                "untouchable"
            }

            fn stage(&self) -> Stage {
                Stage::COMPRESS
            }

            fn seal(
                &self,
                _context: &Context<'_>,
                _content: Content<'_>,
                _output: &mut Vec<u8>,
            ) -> Result<Sealed, EngineError> {
                Ok(Sealed::default())
            }

            fn open(
                &self,
                _context: &Context<'_>,
                _memory: &mut Memory,
                _sealed: &[u8],
                _output: &mut Vec<u8>,
            ) -> Result<Opened, EngineError> {
                panic!("nobody has vouched for it")
            }
        }

        let required = Adding { id: 200, required: true };
        let rules = Engines::new().with(Untouchable).with(required).checked().unwrap();
        let missing = EngineError::Missing { engine: "adding".into() };
        assert_eq!(open(&rules, &[0xC1, 0x57, 1, 1, 0, 7]).unwrap_err(), missing);
    }

    #[test]
    fn a_pattern_goes_by_the_first_rule_that_covers_it_unless_one_before_asks_for_more() {
        let required = |id| Chain::new().with(Adding { id, required: true });
        let rules = Engines::new()
            .topic("open/**", Chain::new())
            .topic("secret/**", required(9))
            .topic("*/both", required(9).with(adding(1)))
            .with(adding(5));
        let rules = rules.checked().unwrap();
        let found = |topic: &str| {
            rules
                .find(topic)
                .map(|index| rules.chain(index).0.iter().map(|engine| engine.id()).collect::<Vec<_>>())
        };
        assert!(found("open/a").unwrap().is_empty());
        assert_eq!(found("secret/both").unwrap(), [9]);
        assert_eq!(found("else/both").unwrap(), [1, 9]);
        assert_eq!(found("else").unwrap(), [5]);
        // It may be "secret/both" as well, and has what that requires.
        assert_eq!(found("*/both").unwrap(), [1, 9]);
        // Less than is required for some of it.
        assert_eq!(found("*/a").unwrap_err(), EngineError::NoRule { met: "secret/**".into() });
        assert_eq!(found("**").unwrap_err(), EngineError::NoRule { met: "secret/**".into() });
        assert!(found("$bus/stats").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_payload_comes_out_of_any_chain_as_it_went_in(
            ids in prop::collection::btree_set(1..=255_u8, 0..6),
            payload in prop::collection::vec(any::<u8>(), 0..3_000),
        ) {
            let rules = rules(&ids.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(open(&rules, &sealed(&rules, &payload)).unwrap(), payload);
        }

        #[test]
        fn whatever_arrives_is_opened_or_refused(
            arrived in prop::collection::vec(any::<u8>(), 0..200),
            sealed in any::<bool>(),
        ) {
            let rules = rules(&[1, 2, 200]);
            let arrived = if sealed { [&[0xC1, 0x57, 1][..], &arrived].concat() } else { arrived };
            let _ = open(&rules, &arrived);
        }
    }
}
