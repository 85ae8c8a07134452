//! Each message is opened once.

use std::time::Duration;

use super::super::SigningIdentity;
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
fn of_too_many_senders_the_one_that_was_silent_for_longest_is_known_by_its_last_number() {
    let receiver = engine();
    let mut memory = Memory::default();
    let sealed = || seal(&engine(), &published(TOPIC), b"").unwrap().0;
    let silent = engine();
    let [first, second, third] = std::array::from_fn(|_| seal(&silent, &published(TOPIC), b"").unwrap().0);
    let busy = sealed();
    let mut open = |sealed: &[u8]| open_with(&receiver, &published(TOPIC), &mut memory, sealed).is_ok();
    assert!(open(&second) && open(&busy));
    for _ in 0..limits::ENCRYPTION_SENDERS - 1 {
        assert!(!open(&busy), "it is refused, and counts as a sign of its sender");
        assert!(open(&sealed()));
    }
    assert!(!open(&busy));
    assert!(!open(&second), "its sender is not forgotten");
    assert!(!open(&first), "whether it has come cannot be told any more");
    assert!(open(&third) && !open(&third));
    assert!(!open(&second) && !open(&first), "it counts as before");
}

#[test]
fn a_member_cannot_use_up_the_numbers_of_one_who_signs() {
    let receiver = engine();
    let mut memory = Memory::default();
    let alice = engine().sign(SigningIdentity::from_bytes(&[1; 32]));
    let (sealed, mark) = seal(&alice, &published(TOPIC), b"alice").unwrap();
    for signing in [None, Some(SigningIdentity::from_bytes(&[2; 32]))] {
        let mut mallory = Encryption::beginning_at(&keyring(), limits::ENCRYPTED_MESSAGES - 1).unwrap();
        if let Some(signing) = signing {
            mallory = mallory.sign(signing);
        }
        let (far, _) = seal(&mallory.named(mark.sender), &published(TOPIC), b"in her name").unwrap();
        assert!(open_with(&receiver, &published(TOPIC), &mut memory, &far).is_ok());
    }
    assert!(open_with(&receiver, &published(TOPIC), &mut memory, &sealed).is_ok());
    assert!(open_with(&receiver, &published(TOPIC), &mut memory, &sealed).is_err());
}

#[test]
fn a_number_that_no_sender_reaches_is_refused() {
    let (mut sealed, _) = seal(&engine(), &published(TOPIC), b"").unwrap();
    sealed[25..33].copy_from_slice(&limits::ENCRYPTED_MESSAGES.to_le_bytes());
    let refused = open(&engine(), &published(TOPIC), &sealed);
    assert_eq!(refused, Err(EngineError::Malformed { what: "its number is beyond the last" }));
}

#[test]
fn what_has_to_be_fresh_is_refused_when_it_is_old_or_ahead_or_says_no_time() {
    let fresh = |clock: fn() -> u64| engine().fresh_within(Duration::from_secs(60)).with_clock(clock);
    let receiver = fresh(|| 1_000_000);
    let open_at = |clock: fn() -> u64, context: &Context<'_>| {
        let (sealed, _) = seal(&fresh(clock), context, b"content").unwrap();
        open(&receiver, context, &sealed).map(|(content, _)| content)
    };
    let stale = |seconds| Err(EngineError::Stale { seconds, allowed: 60 });
    for kind in [MessageKind::Publish, MessageKind::Request] {
        let mut context = Context::new(TOPIC, kind);
        assert_eq!(open_at(|| 940_000, &context).unwrap(), b"content");
        assert_eq!(open_at(|| 1_060_000, &context).unwrap(), b"content");
        assert_eq!(open_at(|| 939_000, &context), stale(61));
        assert_eq!(open_at(|| 1_070_000, &context), stale(70));
        let (undated, _) = seal(&engine(), &context, b"").unwrap();
        assert_eq!(open(&receiver, &context, &undated).unwrap_err(), EngineError::NotDated);
        // Who does not ask for it takes it either way, and a store keeps things for long.
        let (dated, _) = seal(&fresh(|| 0), &context, b"").unwrap();
        assert!(open(&engine(), &context, &dated).is_ok());
        context.stored = true;
        assert!(open(&receiver, &context, &dated).is_ok());
    }
    let mut answer = Context::new(TOPIC, MessageKind::Reply);
    answer.request = Some(Mark { sender: [1; 16], sequence: 3 });
    assert!(open_at(|| 0, &answer).is_ok(), "it is bound to its request");
}

#[test]
fn the_time_cannot_be_changed_taken_out_or_put_in() {
    let context = published(TOPIC);
    let dated = engine().fresh_within(Duration::from_secs(60));
    let (sealed, _) = seal(&dated, &context, b"content").unwrap();
    let mut later = sealed.clone();
    later[33] ^= 1;
    assert_eq!(open(&engine(), &context, &later), Err(EngineError::Forged));
    let mut without = sealed.clone();
    without[0] &= !0x40;
    assert_eq!(open(&engine(), &context, &without), Err(EngineError::Forged));
    without.drain(33..41);
    assert_eq!(open(&engine(), &context, &without), Err(EngineError::Forged));
    let (mut plain, _) = seal(&engine(), &context, b"a content of some length").unwrap();
    plain[0] |= 0x40;
    assert_eq!(open(&engine(), &context, &plain), Err(EngineError::Forged));
    let cut = open(&engine(), &context, &sealed[..40]);
    assert_eq!(cut, Err(EngineError::Malformed { what: "its time is cut off" }));
}
