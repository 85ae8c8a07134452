//! What an opener promises whose rules have engines of any sort.

use super::super::{Chain, Content, Engine, Memory, Opened, Sealed, Stage};
use super::*;

/// Adds its id to every byte, and opens one message once unless it is stored.
#[derive(Debug)]
struct Adding(u8);

impl Engine for Adding {
    fn id(&self) -> u8 {
        self.0
    }

    fn name(&self) -> &str {
        "adding"
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
        output.push(content.tag);
        output.extend(content.bytes.iter().map(|byte| byte.wrapping_add(self.0)));
        Ok(Sealed::default())
    }

    fn open(
        &self,
        context: &Context<'_>,
        _memory: &mut Memory,
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        if !context.stored || context.kind != MessageKind::Publish {
            return Err(EngineError::Replayed { sequence: 0 });
        }
        let (tag, bytes) = sealed.split_first().ok_or(EngineError::Malformed { what: "it is empty" })?;
        if bytes.len() > context.limit {
            return Err(EngineError::TooLarge { limit: context.limit });
        }
        output.extend(bytes.iter().map(|byte| byte.wrapping_sub(self.0)));
        Ok(Opened::tagged(*tag))
    }
}

fn sealed(engine: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
    let context = Context::new(topic, MessageKind::Publish);
    let mut output = Vec::new();
    Chain::new().with(Adding(engine)).seal(&context, payload, &mut output).unwrap();
    output
}

fn opener() -> PayloadOpener {
    let engines = Engines::new()
        .topic("orders/**", Chain::new().with(Adding(200)))
        .topic("plain/**", Chain::new())
        .with(Adding(201))
        .reading(Adding(202));
    PayloadOpener::new(engines).unwrap()
}

#[test]
fn a_payload_is_opened_by_the_rule_for_its_topic_as_often_as_it_comes() {
    let (opener, sealed) = (opener(), sealed(200, "orders/7", b"pears"));
    for _ in 0..3 {
        assert_eq!(&opener.open("orders/7", &sealed).unwrap()[..], b"pears");
    }
}

#[test]
fn engines_of_other_topics_open_nothing_but_those_for_reading_do() {
    let opener = opener();
    for (engine, topic, opens) in [
        (200, "orders/7", true),
        (201, "other", true),
        (200, "other", false),
        (201, "orders/7", false),
        (200, "plain/1", false),
        (202, "plain/1", true),
        (200, "$dead/orders/7", false),
    ] {
        match opener.open(topic, &sealed(engine, topic, b"pears")) {
            Ok(open) => assert!(opens && &open[..] == b"pears", "{engine} {topic}"),
            Err(error) => assert!(!opens && error == EngineError::UnknownEngine { id: engine }, "{error:?}"),
        }
    }
}

#[test]
fn what_is_not_sealed_is_taken_only_where_nothing_is_required() {
    let opener = opener();
    assert!(matches!(opener.open("plain/1", b"pears").unwrap(), Cow::Borrowed(b"pears")));
    let missing = EngineError::Missing { engine: "adding".into() };
    assert_eq!(opener.open("orders/7", b"pears"), Err(missing));
}

#[test]
fn a_pattern_that_no_rule_covers_alone_has_no_rule() {
    let error = opener().open("*/7", &sealed(201, "*/7", b"pears")).unwrap_err();
    assert!(matches!(error, EngineError::NoRule { .. }), "{error:?}");
}

#[test]
fn what_is_too_large_when_it_is_open_is_refused() {
    let (opener, sealed) = (opener().limit(5), |payload| sealed(200, "orders/7", payload));
    assert_eq!(&opener.open("orders/7", &sealed(b"pears")).unwrap()[..], b"pears");
    let open = sealed(b"apples");
    assert_eq!(opener.open("orders/7", &open), Err(EngineError::TooLarge { limit: 5 }));
}

#[test]
fn many_threads_open_at_once() {
    let (opener, payloads) = (opener(), [&b"pears"[..], b"apples", b"plums"]);
    std::thread::scope(|scope| {
        for payload in payloads.iter().cycle().take(9) {
            let opener = &opener;
            scope.spawn(move || {
                let sealed = sealed(200, "orders/7", payload);
                for _ in 0..100 {
                    assert_eq!(&opener.open("orders/7", &sealed).unwrap()[..], *payload);
                }
            });
        }
    });
}

#[test]
fn rules_that_cannot_be_are_told() {
    assert!(PayloadOpener::new(Engines::new().topic("a/**/b/**/", Chain::new())).is_err());
    assert!(PayloadOpener::new(Engines::new().with(Adding(1)).with(Adding(1))).is_err());
}

#[cfg(feature = "encryption")]
mod encrypted {
    use std::time::Duration;

    use super::super::super::encryption::{Encryption, Key, Keyring};
    use super::*;

    fn encryption(key: &[u8; 32]) -> Encryption {
        let keyring = Keyring::with(Key::from_bytes(*key)).unwrap();
        Encryption::new(&keyring).unwrap()
    }

    fn sealed(encryption: Encryption, topic: &str) -> Vec<u8> {
        let mut output = Vec::new();
        let context = Context::new(topic, MessageKind::Publish);
        Chain::new().with(encryption).seal(&context, b"pears", &mut output).unwrap();
        output
    }

    #[test]
    fn what_is_encrypted_opens_again_and_however_old_it_is() {
        let opening = encryption(&[7; 32]).fresh_within(Duration::from_millis(1));
        let opener = PayloadOpener::new(Engines::new().with(opening)).unwrap();
        // It is not even dated.
        let sealed = sealed(encryption(&[7; 32]), "orders/7");
        for _ in 0..3 {
            assert_eq!(&opener.open("orders/7", &sealed).unwrap()[..], b"pears");
        }
    }

    #[test]
    fn what_was_changed_or_is_of_another_topic_or_key_is_refused() {
        let opener = PayloadOpener::new(Engines::new().with(encryption(&[7; 32]))).unwrap();
        let good = sealed(encryption(&[7; 32]), "orders/7");
        assert_eq!(opener.open("orders/8", &good), Err(EngineError::Forged));
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert!(opener.open("orders/7", &bad).is_err(), "byte {index}");
            assert!(opener.open("orders/7", &good[..index]).is_err(), "cut at {index}");
        }
        assert!(opener.open("orders/7", &sealed(encryption(&[8; 32]), "orders/7")).is_err());
    }

    #[test]
    fn it_shows_nothing_of_its_keys() {
        let opener =
            PayloadOpener::new(Engines::new().with(encryption(b"a key of 32 bytes that is secret"))).unwrap();
        let shown = format!("{opener:?}");
        assert!(
            shown.contains("Encryption") && !shown.contains("97, 32, 107") && !shown.contains("a key"),
            "{shown}"
        );
    }
}
