//! Each message is opened once.

use super::*;
use crate::limits;

#[test]
fn a_repeat_is_refused_and_what_overtakes_is_not() {
    let (sender, receiver) = (engine(), engine());
    let mut memory = Memory::default();
    let sealed: Vec<_> =
        (0..10).map(|number| seal(&sender, &published(TOPIC), &[number]).unwrap().0).collect();
    for number in [0, 3, 1, 2, 9, 4] {
        assert!(open_with(&receiver, &published(TOPIC), &mut memory, &sealed[number]).is_ok());
        let again = open_with(&receiver, &published(TOPIC), &mut memory, &sealed[number]);
        assert_eq!(again, Err(EngineError::Replayed { sequence: number as u64 }));
    }
    // Another subscription has its own.
    assert!(open(&receiver, &published(TOPIC), &sealed[0]).is_ok());
}

#[test]
fn one_that_is_too_late_is_refused() {
    let (sender, receiver) = (engine(), engine());
    let mut memory = Memory::default();
    let (first, _) = seal(&sender, &published(TOPIC), b"first").unwrap();
    for _ in 0..limits::REPLAY_WINDOW {
        let (sealed, _) = seal(&sender, &published(TOPIC), b"").unwrap();
        open_with(&receiver, &published(TOPIC), &mut memory, &sealed).unwrap();
    }
    let late = open_with(&receiver, &published(TOPIC), &mut memory, &first);
    assert_eq!(late, Err(EngineError::Replayed { sequence: 0 }));
}

#[test]
fn what_comes_from_a_store_may_come_again_and_does_not_count() {
    let (sender, receiver) = (engine(), engine());
    let mut memory = Memory::default();
    let (sealed, _) = seal(&sender, &published(TOPIC), b"kept").unwrap();
    let mut stored = published(TOPIC);
    stored.stored = true;
    let open = |context: &Context<'_>, memory: &mut Memory, sealed: &[u8]| {
        open_with(&receiver, context, memory, sealed).map(|_| ())
    };
    assert_eq!(open(&stored, &mut memory, &sealed), Ok(()));
    assert_eq!(open(&stored, &mut memory, &sealed), Ok(()));
    assert_eq!(open(&published(TOPIC), &mut memory, &sealed), Ok(()));
    assert!(matches!(open(&published(TOPIC), &mut memory, &sealed), Err(EngineError::Replayed { .. })));
    assert_eq!(open(&stored, &mut memory, &sealed), Ok(()));
    let mut changed = sealed.clone();
    changed[40] ^= 1;
    assert_eq!(open(&stored, &mut memory, &changed), Err(EngineError::Forged));
}

#[test]
fn an_answer_to_nothing_that_is_known_comes_once() {
    let (sender, receiver) = (engine(), engine());
    let mut memory = Memory::default();
    let context = Context::new(TOPIC, MessageKind::Reply);
    let (sealed, _) = seal(&sender, &context, b"").unwrap();
    assert!(open_with(&receiver, &context, &mut memory, &sealed).is_ok());
    let again = open_with(&receiver, &context, &mut memory, &sealed);
    assert_eq!(again, Err(EngineError::Replayed { sequence: 0 }));
}

#[test]
fn what_was_forged_leaves_no_trace() {
    let (sender, receiver) = (engine(), engine());
    let mut memory = Memory::default();
    let (sealed, _) = seal(&sender, &published(TOPIC), b"text").unwrap();
    // A sequence far ahead would make all others too late.
    let mut ahead = sealed.clone();
    ahead[25..33].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let refused = open_with(&receiver, &published(TOPIC), &mut memory, &ahead);
    assert_eq!(refused, Err(EngineError::Forged));
    for number in 0..2 * limits::ENCRYPTION_SENDERS {
        let mut other = sealed.clone();
        other[9..17].copy_from_slice(&(number as u64).to_le_bytes());
        assert!(open_with(&receiver, &published(TOPIC), &mut memory, &other).is_err());
    }
    assert!(open_with(&receiver, &published(TOPIC), &mut memory, &sealed).is_ok());
    assert!(open_with(&receiver, &published(TOPIC), &mut memory, &sealed).is_err());
}

#[test]
fn of_too_many_senders_the_one_that_was_silent_for_longest_is_forgotten() {
    let receiver = engine();
    let mut memory = Memory::default();
    let sealed = || seal(&engine(), &published(TOPIC), b"").unwrap().0;
    let (silent, busy) = (sealed(), sealed());
    let mut open = |sealed: &[u8]| open_with(&receiver, &published(TOPIC), &mut memory, sealed).is_ok();
    assert!(open(&silent) && open(&busy));
    for _ in 0..limits::ENCRYPTION_SENDERS - 1 {
        assert!(!open(&busy), "it is refused, and counts as a sign of its sender");
        assert!(open(&sealed()));
    }
    assert!(!open(&busy));
    assert!(open(&silent), "it is forgotten, so it counts as new");
}
