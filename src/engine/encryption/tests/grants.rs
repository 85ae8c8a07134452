//! Keys that are handed over: what is taken, what is refused, and what a keyring remembers of it.

use proptest::prelude::*;

use super::*;
use crate::engine::encryption::grant::Terms;
use crate::engine::encryption::{Fingerprint, GrantError, GrantOptions, Identity, KeyId, PublicIdentity};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

const BOARD: &str = "board/**";

fn identity(number: u8) -> Identity {
    Identity::from_bytes(&[number; 32], &[number + 100; 32]).unwrap()
}

fn key(number: u8) -> Key {
    Key::from_bytes([number; 32])
}

fn board() -> GrantOptions {
    GrantOptions::new().topics(BOARD)
}

/// Somebody with an identity and a keyring.
struct Party {
    identity: Identity,
    keyring: Keyring,
}

impl Party {
    fn new(number: u8) -> Self {
        Self { identity: identity(number), keyring: Keyring::new() }
    }

    /// A member who has pinned this granter for the board.
    fn member(number: u8, granter: &Party) -> Self {
        let member = Self::new(number);
        member.keyring.pin(Some(BOARD), granter.identity.public()).unwrap();
        member
    }

    /// A granter with a key for the board.
    fn granter(number: u8) -> Self {
        let granter = Self::new(number);
        granter.keyring.rotate_for(BOARD, key(number)).unwrap();
        granter
    }

    fn public(&self) -> PublicIdentity {
        *self.identity.public()
    }

    fn fingerprint(&self) -> Fingerprint {
        self.public().fingerprint()
    }

    fn grant(&self, members: &[&Party], options: &GrantOptions) -> BusResult<Vec<u8>> {
        let members: Vec<_> = members.iter().map(|member| member.public()).collect();
        self.keyring.grant(&self.identity, &members, options)
    }

    fn accept(&self, grant: &[u8]) -> Result<super::super::Accepted, GrantError> {
        self.keyring.accept(&self.identity, grant)
    }

    /// Whether the grant is refused, and nothing is changed by it.
    fn refuses(&self, grant: &[u8]) -> GrantError {
        let before = self.keyring.to_toml();
        let refused = self.accept(grant).unwrap_err();
        assert_eq!(*self.keyring.to_toml(), *before, "{refused}");
        refused
    }

    fn sends_with(&self) -> Option<KeyId> {
        let pattern = TopicPattern::new(BOARD).unwrap();
        let keys = self.keyring.keys();
        let sending = keys.iter().find(|key| key.is_sending && key.pattern.as_ref() == Some(&pattern));
        sending.map(|key| key.id)
    }

    fn generation(&self) -> u64 {
        self.keyring.grants().first().map_or(0, |last| last.generation)
    }

    /// What this one sends, and another one makes of it.
    fn to(&self, other: &Party) -> Result<(Vec<u8>, Opened), EngineError> {
        let context = published("board/plans");
        let (sealed, _) = seal(&Encryption::new(&self.keyring).unwrap(), &context, b"text").unwrap();
        open(&Encryption::new(&other.keyring).unwrap(), &context, &sealed)
    }
}

#[test]
fn a_key_that_is_granted_encrypts_at_once_and_the_one_before_opens_until_it_is_retired() {
    let alice = Party::granter(1);
    let (bob, carol) = (Party::member(2, &alice), Party::member(3, &alice));
    let first = alice.grant(&[&bob, &carol], &board()).unwrap();
    let accepted = bob.accept(&first).unwrap();
    assert_eq!((accepted.key, accepted.generation, accepted.is_new), (key(1).id(), 1, true));
    assert_eq!((accepted.granter, accepted.retired), (alice.public(), vec![]));
    carol.accept(&first).unwrap();
    assert!(bob.to(&carol).is_ok() && carol.to(&alice).is_ok() && alice.to(&bob).is_ok());

    alice.keyring.rotate_for(BOARD, key(11)).unwrap();
    let second = alice.grant(&[], &board()).unwrap();
    assert!(bob.accept(&second).unwrap().is_new);
    assert_eq!((bob.sends_with(), bob.generation()), (Some(key(11).id()), 2));
    assert!(carol.to(&bob).is_ok(), "carol has not got the grant yet");
    assert_eq!(bob.to(&carol), Err(EngineError::UnknownKey { key: key(11).id().to_string() }));

    alice.keyring.rotate_for(BOARD, key(12)).unwrap();
    let third = alice.grant(&[], &board().retire_older()).unwrap();
    assert_eq!(bob.accept(&third).unwrap().retired, [key(1).id(), key(11).id()]);
    assert_eq!(carol.to(&bob), Err(EngineError::RetiredKey { key: key(1).id().to_string() }));
    // So does the granter.
    assert_eq!(alice.keyring.retired(), bob.keyring.retired());
    // Carol has missed one, which does not matter.
    carol.accept(&third).unwrap();
    assert!(carol.to(&bob).is_ok());
}

#[test]
fn a_member_who_is_removed_reads_nothing_that_is_published_after() {
    let alice = Party::granter(1);
    let (bob, carol) = (Party::member(2, &alice), Party::member(3, &alice));
    let first = alice.grant(&[&bob, &carol], &board()).unwrap();
    bob.accept(&first).unwrap();
    carol.accept(&first).unwrap();
    let second = alice.keyring.revoke(&alice.identity, &bob.fingerprint(), &board()).unwrap();
    carol.accept(&second).unwrap();
    assert_eq!(
        bob.refuses(&second),
        GrantError::NotARecipient {
            member: bob.fingerprint(),
            pattern: Some(TopicPattern::new(BOARD).unwrap())
        }
    );
    assert!(matches!(carol.to(&bob), Err(EngineError::UnknownKey { .. })));
    assert!(carol.to(&alice).is_ok() && alice.to(&carol).is_ok());
    assert!(bob.to(&carol).is_ok(), "the key before is there until it is retired");
    let third = alice.grant(&[], &board().retire_older()).unwrap();
    assert!(!carol.accept(&third).unwrap().is_new);
    assert!(matches!(bob.to(&carol), Err(EngineError::RetiredKey { .. })));
    // Nor does he come back by himself, or get removed twice.
    let again = alice.keyring.revoke(&alice.identity, &bob.fingerprint(), &board());
    assert!(matches!(again, Err(BusError::InvalidSettings(_))), "{again:?}");
    let last = alice.keyring.revoke(&alice.identity, &carol.fingerprint(), &board()).unwrap();
    assert!(matches!(carol.refuses(&last), GrantError::NotARecipient { .. }));
    assert!(alice.grant(&[], &board()).is_err(), "nobody is left");
    // Who is made a member again gets the key of then.
    bob.accept(&alice.grant(&[&bob], &board()).unwrap()).unwrap();
    assert!(alice.to(&bob).is_ok());
}

#[test]
fn a_member_who_is_added_gets_the_same_key_and_the_others_take_note() {
    let alice = Party::granter(1);
    let (bob, carol) = (Party::member(2, &alice), Party::member(3, &alice));
    let first = alice.grant(&[&bob], &board()).unwrap();
    bob.accept(&first).unwrap();
    assert!(matches!(carol.refuses(&first), GrantError::NotARecipient { .. }));
    let second = alice.grant(&[&carol, &bob, &carol], &board()).unwrap();
    assert!(carol.accept(&second).unwrap().is_new);
    let noted = bob.accept(&second).unwrap();
    assert_eq!((noted.is_new, noted.generation, bob.generation()), (false, 2, 2));
    assert_eq!(alice.keyring.grants()[0].members.len(), 2);
    assert!(matches!(bob.refuses(&first), GrantError::RolledBack { generation: 1, last: 2, .. }));
}

#[test]
fn what_has_older_keys_retired_does_so_in_every_later_grant_of_the_same_key() {
    let alice = Party::granter(1);
    let (bob, carol) = (Party::member(2, &alice), Party::member(3, &alice));
    bob.accept(&alice.grant(&[&bob], &board()).unwrap()).unwrap();
    alice.keyring.rotate_for(BOARD, key(11)).unwrap();
    alice.grant(&[], &board().retire_older()).unwrap();
    // Bob gets only the one that was made for another reason.
    let third = alice.grant(&[&carol], &board()).unwrap();
    assert_eq!(bob.accept(&third).unwrap().retired, [key(1).id()]);
    alice.keyring.rotate_for(BOARD, key(12)).unwrap();
    let fourth = alice.grant(&[], &board()).unwrap();
    assert_eq!(bob.accept(&fourth).unwrap().retired, []);
}

#[test]
fn a_grant_that_comes_twice_changes_nothing_the_second_time() {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    let grant = alice.grant(&[&bob], &board().retire_older()).unwrap();
    bob.accept(&grant).unwrap();
    bob.keyring.add_for(BOARD, key(20)).unwrap();
    let before = bob.keyring.to_toml();
    let again = bob.accept(&grant).unwrap();
    assert_eq!((again.is_new, again.retired, again.key), (false, vec![], key(1).id()));
    assert_eq!(*bob.keyring.to_toml(), *before);
    // Its key may have been retired here meanwhile.
    bob.keyring.retire(key(1).id()).unwrap();
    assert_eq!(bob.refuses(&grant), GrantError::Retired { key: key(1).id() });
}

#[test]
fn old_grants_are_refused_also_after_a_restart() {
    let alice = Party::granter(1);
    let mut bob = Party::member(2, &alice);
    let first = alice.grant(&[&bob], &board()).unwrap();
    bob.accept(&first).unwrap();
    alice.keyring.rotate_for(BOARD, key(11)).unwrap();
    bob.accept(&alice.grant(&[], &board()).unwrap()).unwrap();
    for _ in 0..2 {
        assert!(matches!(bob.refuses(&first), GrantError::RolledBack { generation: 1, last: 2, .. }));
        bob.keyring = Keyring::from_toml(&bob.keyring.to_toml()).unwrap();
    }
    // Nor does it help to forget who was trusted.
    bob.keyring.unpin(Some(BOARD), &alice.fingerprint()).unwrap();
    assert!(matches!(bob.refuses(&first), GrantError::NotPinned { .. }));
    bob.keyring.pin(Some(BOARD), &alice.public()).unwrap();
    assert!(matches!(bob.refuses(&first), GrantError::RolledBack { .. }));
}

#[test]
fn a_pin_is_for_its_topics_and_narrower_ones_alone() {
    let granter = Party::new(1);
    let grants: Vec<_> = [None, Some("**"), Some("board/**"), Some("board/plans"), Some("else")]
        .into_iter()
        .enumerate()
        .map(|(number, pattern)| {
            let (key, mut options) = (key(u8::try_from(number).unwrap() + 30), GrantOptions::new());
            match pattern {
                Some(pattern) => {
                    granter.keyring.rotate_for(pattern, key).unwrap();
                    options = options.topics(pattern);
                }
                None => {
                    granter.keyring.rotate(key).unwrap();
                }
            }
            granter.grant(&[&Party::new(2)], &options).unwrap()
        })
        .collect();
    for (pin, expected) in [
        (None, [true, true, true, true, true]),
        (Some("**"), [false, true, true, true, true]),
        (Some("board/**"), [false, false, true, true, false]),
        (Some("board/*"), [false, false, false, true, false]),
        (Some("else"), [false, false, false, false, true]),
    ] {
        for (grant, is_taken) in grants.iter().zip(expected) {
            let member = Party::new(2);
            member.keyring.pin(pin, &granter.public()).unwrap();
            let taken = member.accept(grant);
            assert_eq!(taken.is_ok(), is_taken, "{pin:?}: {taken:?}");
            assert!(is_taken || matches!(taken, Err(GrantError::NotPinned { .. })));
        }
    }
}

#[test]
fn pins_are_told_and_taken_back_one_by_one() {
    let (alice, bob) = (Party::new(1), Party::new(2));
    bob.keyring.pin(None, &alice.public()).unwrap();
    bob.keyring.pin(Some(BOARD), &alice.public()).unwrap();
    bob.keyring.pin(Some(BOARD), &alice.public()).unwrap();
    assert_eq!(bob.keyring.pins().len(), 2);
    assert!(bob.keyring.pin(Some("$bus/**"), &alice.public()).is_err());
    assert!(bob.keyring.pin(Some("a//b"), &alice.public()).is_err());
    assert!(bob.keyring.unpin(Some("board/*"), &alice.fingerprint()).is_err());
    assert!(bob.keyring.unpin(None, &bob.fingerprint()).is_err());
    bob.keyring.unpin(None, &alice.fingerprint()).unwrap();
    let [pin] = &bob.keyring.pins()[..] else { panic!("one is left") };
    assert_eq!((pin.pattern.as_ref().map(TopicPattern::as_str), pin.granter), (Some(BOARD), alice.public()));
}

#[test]
fn two_granters_who_do_not_know_of_each_other_are_told_apart_and_one_of_them_goes_on() {
    let (alice, dora) = (Party::granter(1), Party::granter(4));
    let bob = Party::member(2, &alice);
    bob.keyring.pin(Some(BOARD), &dora.public()).unwrap();
    bob.accept(&alice.grant(&[&bob], &board()).unwrap()).unwrap();
    let other = dora.grant(&[&bob], &board()).unwrap();
    assert_eq!(
        bob.refuses(&other),
        GrantError::Conflict {
            generation: 1,
            key: key(4).id(),
            taken: key(1).id(),
            pattern: Some(TopicPattern::new(BOARD).unwrap())
        }
    );
    let above = dora.grant(&[], &board().above(bob.generation())).unwrap();
    assert_eq!(bob.accept(&above).unwrap().granter, dora.public());
    // One who takes the other's grants goes on where those end.
    alice.keyring.pin(Some(BOARD), &dora.public()).unwrap();
    alice.accept(&dora.grant(&[&alice], &board()).unwrap()).unwrap();
    alice.keyring.rotate_for(BOARD, key(11)).unwrap();
    let next = alice.grant(&[], &board()).unwrap();
    assert_eq!(bob.accept(&next).unwrap().generation, 4);
}

#[test]
fn what_a_granter_has_made_wrongly_is_refused_and_told() {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    let terms = |stated: KeyId| Terms {
        pattern: Some(TopicPattern::new(BOARD).unwrap()),
        key: stated,
        generation: 1,
        retires: false,
    };
    let wrong = terms(key(5).id()).grant(&alice.identity, &key(6), &[bob.public()]).unwrap();
    let refused = GrantError::WrongKey { stated: key(5).id(), sealed: key(6).id() };
    assert_eq!(bob.refuses(&wrong), refused);
    // Sealed to somebody else, under the name of this one: two identities never have the same fingerprint by chance.
    let out_of_order =
        terms(key(5).id()).grant(&alice.identity, &key(5), &[bob.public(), bob.public()]).unwrap();
    assert!(matches!(bob.refuses(&out_of_order), GrantError::Malformed { .. }));
    for generation in [0, limits::GRANT_GENERATION_MAX + 1, u64::MAX] {
        let terms = Terms { generation, ..terms(key(5).id()) };
        let wrong = terms.grant(&alice.identity, &key(5), &[bob.public()]).unwrap();
        assert!(matches!(bob.refuses(&wrong), GrantError::Malformed { .. }));
    }
    let reserved = Terms { pattern: Some(TopicPattern::new("$bus/**").unwrap()), ..terms(key(5).id()) };
    bob.keyring.pin(None, &alice.public()).unwrap();
    let wrong = reserved.grant(&alice.identity, &key(5), &[bob.public()]).unwrap();
    assert!(matches!(bob.refuses(&wrong), GrantError::Malformed { .. }));
}

#[test]
fn a_key_that_the_keyring_cannot_take_changes_nothing() {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    let grant = alice.grant(&[&bob], &board().retire_older()).unwrap();
    bob.keyring.add_for("elsewhere", key(1)).unwrap();
    assert!(matches!(bob.refuses(&grant), GrantError::Unusable { .. }));
    let bob = Party::member(2, &alice);
    bob.keyring.add(key(1)).unwrap();
    bob.keyring.retire(key(1).id()).unwrap();
    assert_eq!(bob.refuses(&grant), GrantError::Retired { key: key(1).id() });
    let full = Party::member(2, &alice);
    for number in 0..limits::KEYRING_KEYS {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        full.keyring.add(Key::from_bytes(bytes)).unwrap();
    }
    assert!(matches!(full.refuses(&grant), GrantError::Unusable { .. }));
}

#[test]
fn who_has_nothing_to_grant_is_told() {
    let alice = Party::new(1);
    let bob = Party::new(2);
    let none = alice.grant(&[&bob], &board()).unwrap_err();
    assert!(none.to_string().contains("rotate first"), "{none}");
    // The key for all topics is not the one for these.
    alice.keyring.rotate(key(1)).unwrap();
    assert!(alice.grant(&[&bob], &board()).is_err());
    assert!(alice.grant(&[], &GrantOptions::new()).unwrap_err().to_string().contains("say to whom"));
    assert!(alice.grant(&[&bob], &GrantOptions::new().topics("a//b")).is_err());
    assert!(alice.keyring.grants().is_empty());
    let far = alice.grant(&[&bob], &GrantOptions::new().above(limits::GRANT_LEAP));
    assert!(matches!(far, Err(BusError::InvalidSettings(_))), "{far:?}");
    assert!(alice.grant(&[&bob], &GrantOptions::new().above(limits::GRANT_LEAP - 1)).is_ok());
    assert_eq!(alice.generation(), limits::GRANT_LEAP);
    // At the end of all numbers.
    let number = |number: u64| format!("generation = {number}");
    let text = alice.keyring.to_toml();
    let text = text.replace(&number(limits::GRANT_LEAP), &number(limits::GRANT_GENERATION_MAX));
    let ended = Keyring::from_toml(&text).unwrap();
    let last = ended.grant(&alice.identity, &[], &GrantOptions::new());
    assert!(matches!(last, Err(BusError::LimitReached { .. })), "{last:?}");
}

#[test]
fn a_grant_cannot_use_up_the_numbers() {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    let members = [*bob.identity.public()];
    for generation in [limits::GRANT_LEAP + 1, limits::GRANT_GENERATION_MAX] {
        let terms = Terms {
            pattern: Some(TopicPattern::new(BOARD).unwrap()),
            key: key(8).id(),
            generation,
            retires: false,
        };
        let grant = terms.grant(&alice.identity, &key(8), &members).unwrap();
        assert!(matches!(bob.refuses(&grant), GrantError::TooFarAhead { last: 0, .. }));
    }
}

#[test]
fn the_same_number_and_key_with_another_flag_is_no_repeat() {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    let members = [*bob.identity.public()];
    let grant = |retires| {
        let terms = Terms {
            pattern: Some(TopicPattern::new(BOARD).unwrap()),
            key: key(8).id(),
            generation: 1,
            retires,
        };
        terms.grant(&alice.identity, &key(8), &members).unwrap()
    };
    bob.keyring.accept(&bob.identity, &grant(false)).unwrap();
    assert!(matches!(bob.refuses(&grant(true)), GrantError::Conflict { .. }));
    assert!(!bob.keyring.accept(&bob.identity, &grant(false)).unwrap().is_new);
}

#[test]
fn what_could_not_be_read_again_is_not_taken() {
    let keyring = Keyring::new();
    // Each letter takes two in a file.
    let pattern = "\\".repeat(limits::MAX_TOPIC_BYTES - 8);
    let mut number = 0_u64;
    let refused = loop {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        match keyring.add_for(&pattern, Key::from_bytes(bytes)) {
            Ok(_) => number += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, BusError::LimitReached { .. }), "{refused}");
    assert!(number > 500);
    assert_eq!(Keyring::from_toml(&keyring.to_toml()).unwrap().keys().len() as u64, number);
}

#[test]
fn a_keyring_reads_its_pins_and_grants_again() {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    alice.keyring.rotate(key(9)).unwrap();
    alice.grant(&[&bob, &Party::new(3)], &board().retire_older()).unwrap();
    alice.grant(&[&bob], &GrantOptions::new()).unwrap();
    alice.keyring.pin(None, &bob.public()).unwrap();
    alice.keyring.pin(Some("a/\"quoted\\\"/**"), &bob.public()).unwrap();
    let text = alice.keyring.to_toml();
    let again = Keyring::from_toml(&text).unwrap();
    assert_eq!((again.pins(), again.grants()), (alice.keyring.pins(), alice.keyring.grants()));
    assert_eq!(*again.to_toml(), *text);
    assert!(text.contains("retires = true"));
    for (was, is, reason) in [
        ("generation = 1", "generation = 0", "no generation"),
        ("generation = 1", "generation = -1", "line"),
        ("generation = 1\n", "generation = 1\nx = 1\n", "unknown field"),
        ("[[grants]]\n", "[[grants]]\ntopics = \"a//b\"\n", ""),
        ("topics = \"board/**\"\ngeneration", "generation", "is there twice"),
        ("identity = \"whispeer-id-1:", "identity = \"whispeer-id-1:A", "public identity"),
    ] {
        let refused = Keyring::from_toml(&text.replacen(was, is, 1)).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused} should say: {reason}");
    }
}

#[test]
fn grants_and_what_keyrings_remember_of_them_are_bounded() {
    let granter = Party::granter(1);
    let many: Vec<_> = (0..=limits::GRANT_RECIPIENTS)
        .map(|number| {
            let mut seed = [1; 32];
            seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
            *Identity::from_bytes(&seed, &seed).unwrap().public()
        })
        .collect();
    let too_many = granter.keyring.grant(&granter.identity, &many, &board());
    assert!(matches!(too_many, Err(BusError::LimitReached { .. })));
    let last = &many[limits::GRANT_RECIPIENTS - 1];
    let most = granter.keyring.grant(&granter.identity, &many[..limits::GRANT_RECIPIENTS], &board()).unwrap();
    assert!(most.len() <= limits::GRANT_BYTES);
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&(limits::GRANT_RECIPIENTS as u64 - 1).to_le_bytes());
    let member = Identity::from_bytes(&seed, &seed).unwrap();
    assert_eq!(member.public(), last);
    let keyring = Keyring::new();
    keyring.pin(None, &granter.public()).unwrap();
    assert!(keyring.accept(&member, &most).unwrap().is_new);

    for count in 0..=limits::KEYRING_PINS {
        let pinned = keyring.pin(Some(&format!("p/{count}")), last);
        assert_eq!(pinned.is_ok(), count + 1 < limits::KEYRING_PINS, "{pinned:?}");
    }
    let mut parts = many.chunks(limits::GRANT_RECIPIENTS / 2).cycle();
    let mut handed = limits::GRANT_RECIPIENTS;
    for part in 0.. {
        let pattern = format!("part/{part}");
        granter.keyring.rotate_for(&pattern, key(50 + part)).unwrap();
        let members = parts.next().unwrap();
        let options = GrantOptions::new().topics(&pattern);
        if let Err(error) = granter.keyring.grant(&granter.identity, members, &options) {
            assert!(matches!(error, BusError::LimitReached { .. }), "{error}");
            assert!(handed + members.len() > limits::KEYRING_MEMBERS);
            break;
        }
        handed += members.len();
    }
    let text = granter.keyring.to_toml();
    assert!(text.len() < limits::KEYRING_BYTES / 2, "{}", text.len());
    let longer = vec![0; limits::GRANT_BYTES + 1];
    let refused = GrantError::TooLarge { size: longer.len(), limit: limits::GRANT_BYTES };
    assert_eq!(Party::new(2).refuses(&longer), refused);
}

/// A grant for one of two members, and him.
fn granted() -> (Party, Vec<u8>) {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    let grant = alice.grant(&[&bob, &Party::new(3)], &board()).unwrap();
    (bob, grant)
}

#[test]
fn a_grant_that_is_cut_off_or_has_something_behind_it_is_refused() {
    let (bob, grant) = granted();
    for length in 0..grant.len() {
        assert!(matches!(bob.accept(&grant[..length]), Err(GrantError::Malformed { .. })), "{length}");
    }
    assert!(matches!(bob.refuses(&[&grant[..], b"\n"].concat()), GrantError::Malformed { .. }));
    let mut later = grant.clone();
    later[14] = 2;
    assert_eq!(bob.refuses(&later), GrantError::UnknownVersion { version: 2 });
    let mut many = grant.clone();
    let count = 98 + BOARD.len();
    many[count..count + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(bob.refuses(&many), GrantError::TooManyRecipients { count: 65_535, .. }));
    assert!(bob.accept(&grant).is_ok());
}

#[test]
fn a_grant_that_another_program_has_made_from_the_description_is_taken() {
    // By Python, with `cryptography`, which has no HPKE of its own there.
    let grant = concat!(
        "7768697370656572206772616e7401038a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
        "fb41b1fcf75c1227fa08876056a5ed07ac44fe0c116ec2de80b8e523959d782494b5ab8cd0861e820500000000000000",
        "0800626f6172642f2a2a02003593a3e739fbf06eb4420186603043232a43c1d292d4f0434d31599aa19012bcd3bbb536",
        "2c747a7b513f6639b3e84e8db530e84bba689373da3b6f3ecf45df32414738d58d792d66110807bfa88f3c25b177f059",
        "ae0b4cc7a3e8c6b4b22f26d11b3205778e2a584a799e0c4ef763ecc933e13e19f864810341d9804a02dd08bf5e7b7e63",
        "024c3290dec5f8fcdef01bd02f016fb2a7ad5e0a8d7d465a55acce0aadac3cc40bdca2f5d6da1c0fef72dfa2ea77118f",
        "505b8fbbe33867b4f612738f0c932ef6d019d137a0d10c9fbb9b6c9cec99f57638eebcd0064701682128db2606ef38ad",
        "000172e465bb71fbb67f79bd72a23122d66cbe09c214a08b0534b3b7568e168b44b99400",
    );
    let alice = Party::new(1);
    let bob = Party::member(2, &alice);
    assert_eq!(bob.fingerprint().to_string(), "3593-a3e7-39fb-f06e-b442-0186-6030-4323-2a43-c1d2");
    let line = "whispeer-id-1:gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Qhnk2ADalo0qX8sAnHhPR0bHE47bnuSES3OegwsFz0JDWTo-c";
    assert_eq!(bob.public().to_string(), line);
    bob.keyring.rotate_for(BOARD, key(20)).unwrap();
    let accepted = bob.accept(&vectors::bytes(grant)).unwrap();
    assert_eq!((accepted.key, accepted.generation, accepted.granter), (key(7).id(), 5, alice.public()));
    assert_eq!(accepted.retired, [key(20).id()]);
    let carol = Party::member(3, &alice);
    assert_eq!(carol.accept(&vectors::bytes(grant)).unwrap().key, key(7).id());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_bit_of_a_grant_can_be_changed(at in 0..10_000_usize) {
        let (bob, mut grant) = granted();
        let bit = at % (8 * grant.len());
        grant[bit / 8] ^= 1 << (bit % 8);
        let refused = bob.refuses(&grant);
        prop_assert!(!refused.to_string().is_empty());
        prop_assert!(bob.sends_with().is_none());
    }

    #[test]
    fn whatever_comes_instead_of_a_grant_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), kept in 0..110_usize) {
        let (bob, grant) = granted();
        bob.refuses(&bytes);
        bob.refuses(&[&grant[..kept], &bytes].concat());
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// What a granter does, and then what whoever carries the grants does with them: each of them any number of times, in any
    /// order.
    #[test]
    fn in_whatever_order_grants_come_nobody_goes_back_or_gets_what_was_not_for_him(
        acts in prop::collection::vec((0..4_u8, 0..3_usize, any::<bool>()), 1..12),
        carried in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize), 0..24),
    ) {
        let alice = Party::granter(1);
        let members = [2, 3, 4].map(|number| Party::member(number, &alice));
        // Each grant, with its key and for whom it is.
        let mut grants = Vec::new();
        for (act, index, retires) in acts {
            let member = &members[index];
            let options = if retires { board().retire_older() } else { board() };
            let made = match act {
                0 => {
                    alice.keyring.rotate_for(BOARD, Key::generate().unwrap()).unwrap();
                    alice.grant(&[], &options)
                }
                1 => alice.keyring.revoke(&alice.identity, &member.fingerprint(), &options),
                _ => alice.grant(&[member], &options),
            };
            let Ok(grant) = made else { continue };
            let last = &alice.keyring.grants()[0];
            prop_assert_eq!(Some(last.key), alice.sends_with());
            prop_assert_eq!(last.generation, grants.len() as u64 + 1);
            grants.push((grant, last.key, last.members.clone()));
        }
        prop_assume!(!grants.is_empty());
        for (which, index) in carried {
            let member = &members[index];
            let at = which.index(grants.len());
            let (grant, key, recipients) = &grants[at];
            let (before, generation) = (member.generation(), at as u64 + 1);
            let taken = member.accept(grant);
            let is_for_him = recipients.contains(&member.public());
            match &taken {
                Ok(accepted) => {
                    prop_assert!(is_for_him && generation >= before);
                    prop_assert_eq!((member.sends_with(), member.generation()), (Some(*key), generation));
                    prop_assert_eq!(accepted.generation, generation);
                }
                Err(GrantError::NotARecipient { .. }) => prop_assert!(!is_for_him),
                Err(GrantError::RolledBack { .. }) => prop_assert!(is_for_him && generation < before),
                Err(other) => prop_assert!(false, "{}", other),
            }
            prop_assert!(member.generation() >= before);
        }
        // Nobody has a key of which there was no grant for him.
        for member in &members {
            for entry in member.keyring.keys() {
                let is_for_him = |(_, key, recipients): &(Vec<u8>, KeyId, Vec<PublicIdentity>)| {
                    *key == entry.id && recipients.contains(&member.public())
                };
                prop_assert!(grants.iter().any(is_for_him));
            }
        }
    }
}

#[test]
fn a_pattern_without_keys_can_be_forgotten_when_nobody_can_bring_it_back() {
    let alice = Party::granter(1);
    let bob = Party::member(2, &alice);
    let keyring = &bob.keyring;
    assert!(keyring.forget(BOARD).unwrap_err().to_string().contains("not in the keyring"));
    let grant = alice.grant(&[&bob], &board()).unwrap();
    let taken = keyring.accept(&bob.identity, &grant).unwrap().key;
    assert!(keyring.forget(BOARD).unwrap_err().to_string().contains("retire them"));
    keyring.retire(taken).unwrap();
    assert!(keyring.forget(BOARD).unwrap_err().to_string().contains("unpin"));
    keyring.unpin(Some(BOARD), &alice.public().fingerprint()).unwrap();
    keyring.forget(BOARD).unwrap();
    assert!(keyring.grants().is_empty());
    let fallen_back = keyring.rotate(key(9)).unwrap();
    let engine = Encryption::new(keyring).unwrap();
    let (sealed, _) = seal(&engine, &published("board/a"), b"").unwrap();
    assert_eq!(sealed[1..9], fallen_back.to_bytes());
}
