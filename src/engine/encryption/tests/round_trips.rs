//! What was sealed opens again.

use proptest::prelude::*;

use super::*;
use crate::engine::encryption::{Padding, SigningIdentity};

/// Lengths from none to a megabyte, small ones most often.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![4 => 0..300_usize, 2 => 300..20_000_usize, 1 => 0..=1024 * 1024_usize];
    (length, any::<u8>()).prop_map(|(length, seed)| {
        (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    })
}

fn context() -> impl Strategy<Value = (MessageKind, Option<Mark>, u64)> {
    let kind = prop::sample::select(vec![
        MessageKind::Publish,
        MessageKind::Request,
        MessageKind::Reply,
        MessageKind::StreamReply,
        MessageKind::ErrorReply,
    ]);
    let mark = (any::<[u8; 16]>(), any::<u64>()).prop_map(|(sender, sequence)| Mark { sender, sequence });
    (kind, prop::option::of(mark), any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sealed_opens_again_with_either_library(
        payload in payload(),
        (kind, request, index) in context(),
        algorithm in prop::sample::select(&ALGORITHMS[..]),
        code in (prop::sample::select(&IMPLEMENTATIONS[..]), prop::sample::select(&IMPLEMENTATIONS[..])),
        padding in prop::sample::select(&[Padding::None, Padding::Padme, Padding::PowersOfTwo][..]),
        is_signed: bool,
        tag in prop::sample::select(vec![0, 9]),
    ) {
        let mut context = Context::new(TOPIC, kind);
        (context.request, context.index) = (request, index);
        let mut sender = engine().algorithm(algorithm).implementation(code.0).padding(padding);
        let identity = SigningIdentity::from_bytes(&[3; 32]);
        if is_signed {
            sender = sender.sign(identity.clone());
        }
        let content = Content { tag, bytes: &payload };
        let (sealed, mark) = seal_tagged(&sender, &context, content).unwrap();
        let is_bare = tag == 0 && padding == Padding::None && !is_signed;
        if is_bare {
            prop_assert_eq!(sealed.len(), 33 + payload.len() + 16);
        }
        prop_assert_eq!(sealed[0] & 0x20 != 0, is_bare);
        let (content, opened) = open(&engine().implementation(code.1), &context, &sealed).unwrap();
        prop_assert!(content == payload);
        prop_assert_eq!((opened.tag, opened.mark), (tag, Some(mark)));
        prop_assert_eq!(opened.signer, is_signed.then(|| identity.public().to_bytes()));
    }

    #[test]
    fn whatever_arrives_is_refused_and_nothing_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        has_head: bool,
    ) {
        let mut bytes = bytes;
        if has_head {
            let head = [&[1][..], &Key::from_bytes([7; 32]).id().to_bytes()].concat();
            bytes.splice(0..0, head);
        }
        prop_assert!(open(&engine(), &published(TOPIC), &bytes).is_err());
    }
}

#[test]
fn a_message_of_sixteen_bytes_gets_51_more() {
    let (sealed, _) = seal(&engine(), &published(TOPIC), &[0; 16]).unwrap();
    assert_eq!(sealed.len(), 16 + 33 + 2 + 16);
}

#[test]
fn padding_hides_lengths() {
    for padding in [Padding::Padme, Padding::PowersOfTwo] {
        let sender = engine().padding(padding);
        let length = |bytes: usize| seal(&sender, &published(TOPIC), &vec![1; bytes]).unwrap().0.len();
        assert_eq!(length(0), length(50));
        assert_eq!(length(1000), length(1010));
    }
}

#[test]
fn an_engine_stops_before_it_would_use_a_number_twice() {
    let last = crate::limits::ENCRYPTED_MESSAGES - 1;
    let sender = Encryption::beginning_at(&keyring(), last).unwrap();
    let (sealed, mark) = seal(&sender, &published(TOPIC), b"last").unwrap();
    assert_eq!(mark.sequence, last);
    assert!(open(&engine(), &published(TOPIC), &sealed).is_ok());
    for _ in 0..3 {
        assert_eq!(seal(&sender, &published(TOPIC), b"more"), Err(EngineError::Exhausted));
    }
}

#[test]
fn engines_and_messages_never_share_a_mark() {
    let (one, other) = (engine(), engine());
    let marks: std::collections::HashSet<_> = [&one, &other, &one, &other]
        .map(|engine| seal(engine, &published(TOPIC), b"").unwrap().1)
        .into_iter()
        .collect();
    assert_eq!(marks.len(), 4);
}

#[test]
fn more_than_may_be_opened_is_refused() {
    let (sealed, _) = seal(&engine(), &published(TOPIC), &[0; 1000]).unwrap();
    let mut context = published(TOPIC);
    for (limit, fits) in [(1000, true), (999, false), (10, false)] {
        context.limit = limit;
        let opened = open(&engine(), &context, &sealed).map(|_| ());
        assert_eq!(opened, if fits { Ok(()) } else { Err(EngineError::TooLarge { limit }) });
    }
}
