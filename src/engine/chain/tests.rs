//! What chains and rules promise.

use std::fmt;
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

/// How a [`Scripted`] engine opens.
type Opens = Box<dyn Fn(&[u8], &mut Vec<u8>) -> Opened + Send + Sync>;

/// Opens as a test says, and seals nothing.
struct Scripted {
    id: u8,
    stage: Stage,
    is_required: bool,
    opens: Opens,
    /// Counts how many are made for clients, if each is to have one of its own.
    made: Option<Arc<AtomicU8>>,
}

impl Scripted {
    fn new(id: u8, stage: Stage) -> Self {
        Self { id, stage, is_required: false, opens: Box::new(|_, _| Opened::default()), made: None }
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Scripted({})", self.id)
    }
}

impl Engine for Scripted {
    fn id(&self) -> u8 {
        self.id
    }

    fn name(&self) -> &str {
        "scripted"
    }

    fn stage(&self) -> Stage {
        self.stage
    }

    fn is_required(&self) -> bool {
        self.is_required
    }

    fn for_client(&self) -> BusResult<Option<Arc<dyn Engine>>> {
        let Some(made) = &self.made else { return Ok(None) };
        made.fetch_add(1, Relaxed);
        Ok(Some(Arc::new(Self { made: Some(Arc::clone(made)), ..Self::new(self.id, self.stage) })))
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
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        Ok((self.opens)(sealed, output))
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
    // Each opens whatever comes as its own number.
    let numbered = |number| Scripted {
        is_required: true,
        opens: Box::new(move |sealed, output| {
            output.push(number);
            Opened::tagged(sealed[0])
        }),
        ..Scripted::new(9, Stage::TRANSFORM)
    };
    let with = |number| Chain::new().with(numbered(number));
    let rules = Engines::new().topic("a/**", with(1)).reading(numbered(2)).with(adding(5));
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
    let made = Arc::new(AtomicU8::new(0));
    let counted = Some(Arc::clone(&made));
    let apart: Arc<dyn Engine> = Arc::new(Scripted { made: counted, ..Scripted::new(7, Stage::TRANSFORM) });
    let chain = || Chain::new().with_shared(Arc::clone(&apart));
    let engines = Engines::new().topic("a", chain()).topic("b", chain()).with_shared(Arc::clone(&apart));
    for clients in 1..3 {
        let rules = engines.clone().checked().unwrap();
        assert_eq!(made.load(Relaxed), clients, "its chains share one");
        let engine = |topic| Arc::as_ptr(&rules.chain(rules.find(topic).unwrap()).0[0]);
        assert!(std::ptr::addr_eq(engine("a"), engine("b")) && std::ptr::addr_eq(engine("a"), engine("c")));
        assert!(!std::ptr::addr_eq(engine("a"), Arc::as_ptr(&apart)));
    }
}

#[test]
fn nothing_is_opened_that_lacks_what_is_required_further_out() {
    let untouchable = Scripted {
        opens: Box::new(|_, _| panic!("nobody has vouched for it")),
        ..Scripted::new(1, Stage::COMPRESS)
    };
    let required = Adding { id: 200, required: true };
    let rules = Engines::new().with(untouchable).with(required).checked().unwrap();
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
