//! What was changed or moved is refused.

use super::*;

/// The context of an answer to this request.
fn answer(kind: MessageKind, request: Option<Mark>, index: u64) -> Context<'static> {
    let mut context = Context::new(TOPIC, kind);
    (context.request, context.index) = (request, index);
    context
}

fn mark(sender: u8, sequence: u64) -> Mark {
    Mark { sender: [sender; 16], sequence }
}

#[test]
fn any_flipped_bit_is_refused_by_its_own_error() {
    for (algorithm, tag) in ALGORITHMS.into_iter().flat_map(|algorithm| [(algorithm, 0), (algorithm, 9)]) {
        let content = Content { tag, bytes: b"twenty bytes of text" };
        let sender = engine().algorithm(algorithm);
        let (sealed, _) = seal_tagged(&sender, &published(TOPIC), content).unwrap();
        for bit in 0..8 * sealed.len() {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let refused = open(&engine(), &published(TOPIC), &changed).unwrap_err();
            let is_its_own = match (bit / 8, &refused) {
                // Another cipher that there is; or none; or the answer to something.
                (0, EngineError::Forged | EngineError::Malformed { .. }) => true,
                (1..9, EngineError::UnknownKey { .. }) => true,
                (0..9, _) => false,
                // A number that nobody reaches.
                (31 | 32, EngineError::Malformed { .. }) => true,
                (_, refused) => *refused == EngineError::Forged,
            };
            assert!(is_its_own, "bit {bit}: {refused}");
        }
    }
}

#[test]
fn whatever_is_cut_off_is_refused() {
    let (sealed, _) = seal(&engine(), &published(TOPIC), b"text").unwrap();
    for length in 0..sealed.len() {
        let refused = open(&engine(), &published(TOPIC), &sealed[..length]).unwrap_err();
        let is_its_own = match length {
            0..49 => matches!(refused, EngineError::Malformed { .. }),
            _ => refused == EngineError::Forged,
        };
        assert!(is_its_own, "{length} bytes: {refused}");
        assert!(open(&engine(), &published(TOPIC), &sealed[sealed.len() - length..]).is_err());
    }
    assert_eq!(open(&engine(), &published(TOPIC), &[&sealed[..], &[0]].concat()), Err(EngineError::Forged));
}

#[test]
fn a_message_is_bound_to_its_topic_kind_place_and_request() {
    use MessageKind::{ErrorReply, Publish, Reply, Request, StreamReply};
    let here = Some(mark(1, 5));
    let sealed_in = [
        Context::new(TOPIC, Publish),
        Context::new("a", Publish),
        Context::new("a/*", Publish),
        Context::new(TOPIC, Request),
        answer(Reply, None, 0),
        answer(Reply, here, 0),
        answer(Reply, Some(mark(1, 6)), 0),
        answer(Reply, Some(mark(2, 5)), 0),
        answer(Reply, here, 1),
        answer(StreamReply, here, 0),
        answer(StreamReply, here, 1),
        answer(ErrorReply, here, 0),
    ];
    let sealed: Vec<_> = sealed_in.iter().map(|context| seal(&engine(), context, b"x").unwrap().0).collect();
    for (index, sealed) in sealed.iter().enumerate() {
        for (other, context) in sealed_in.iter().enumerate() {
            let opened = open(&engine(), context, sealed).map(|_| ());
            assert_eq!(
                opened,
                if index == other { Ok(()) } else { Err(EngineError::Forged) },
                "{index} at {other}"
            );
        }
    }
}

#[test]
fn the_parts_of_two_messages_do_not_make_a_third() {
    let sender = engine();
    let (one, _) = seal(&sender, &published(TOPIC), b"one").unwrap();
    let (two, _) = seal(&sender, &published(TOPIC), b"two").unwrap();
    for cut in 25..one.len() {
        let mixed = [&one[..cut], &two[cut..]].concat();
        if mixed != one && mixed != two {
            assert_eq!(open(&engine(), &published(TOPIC), &mixed), Err(EngineError::Forged), "cut at {cut}");
        }
    }
}

#[test]
fn a_topic_longer_than_any_is_refused() {
    let topic = "a".repeat(crate::limits::MAX_TOPIC_BYTES + 1);
    assert!(matches!(seal(&engine(), &published(&topic), b""), Err(EngineError::Malformed { .. })));
}

#[test]
fn what_is_shown_of_an_engine_holds_no_secret() {
    let shown = format!("{:?}", engine());
    assert!(shown.contains("KeyId") && !shown.contains("07, 7") && !shown.contains("0707"), "{shown}");
}
