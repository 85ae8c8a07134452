//! Who has sent a message.

use super::*;
use crate::engine::encryption::{SignerKey, SigningIdentity};
use crate::error::BusError;
use crate::limits;

fn identity(number: u8) -> SigningIdentity {
    SigningIdentity::from_bytes(&[number; 32])
}

#[test]
fn where_signers_are_named_only_they_are_taken() {
    let receiver = engine().trust("a/**", [identity(1).public(), identity(2).public()]).unwrap();
    let by = |sender: Encryption, topic: &str| {
        let (sealed, _) = seal(&sender, &published(topic), b"text").unwrap();
        open(&receiver, &published(topic), &sealed).map(|(_, opened)| opened.signer)
    };
    let signer = |number| Some(identity(number).public().to_bytes());
    for topic in ["a", TOPIC] {
        assert_eq!(by(engine().sign(identity(2)), topic), Ok(signer(2)));
        assert_eq!(by(engine(), topic), Err(EngineError::NotSigned));
        let stranger = identity(3).public().to_string();
        assert_eq!(
            by(engine().sign(identity(3)), topic),
            Err(EngineError::UntrustedSigner { signer: stranger })
        );
    }
    // It reaches who listens there.
    assert_eq!(by(engine(), "**"), Err(EngineError::NotSigned));
    assert_eq!(by(engine(), "b"), Ok(None));
    assert_eq!(by(engine().sign(identity(3)), "b"), Ok(signer(3)));
}

#[test]
fn a_topic_of_two_rules_needs_a_signer_whom_both_trust() {
    let receiver = engine()
        .trust("a/**", [identity(1).public(), identity(2).public()])
        .and_then(|engine| engine.trust("**/b", [identity(2).public()]))
        .unwrap();
    for (number, is_taken) in [(1, false), (2, true)] {
        let (sealed, _) = seal(&engine().sign(identity(number)), &published(TOPIC), b"").unwrap();
        assert_eq!(open(&receiver, &published(TOPIC), &sealed).is_ok(), is_taken);
    }
}

#[test]
fn one_of_the_group_cannot_put_words_into_anothers_mouth() {
    use super::super::cipher::Cipher;
    use super::super::head::{HEAD, with_associated};

    let (sealed, mark) = seal(&engine().sign(identity(1)), &published(TOPIC), b"pay bob").unwrap();
    let key = Key::from_bytes([7; 32]);
    let cipher =
        Cipher::of_sender(Algorithm::default(), Implementation::Ring, (key.id(), &key), &mark.sender);
    let (head, rest) = sealed.split_first_chunk::<HEAD>().unwrap();
    let bound_to = |head: &[u8; HEAD]| {
        with_associated(&published(TOPIC), (head, None), |associated| Ok(associated.to_vec())).unwrap()
    };
    let associated = bound_to(head);
    let (text, tag) = rest.split_last_chunk().unwrap();
    let mut text = text.to_vec();
    cipher.open(mark.sequence, &associated, &mut text, *tag).unwrap();
    // All but the flags and the length of the signature; a changed tag means something else, too.
    let inner = text.len() - 2;
    for at in [0, 6, 7, 7 + 32, inner] {
        let mut changed = text.clone();
        changed[at] ^= 1;
        let tag = cipher.seal(mark.sequence, &associated, &mut changed).unwrap();
        let forged = [&head[..], &changed, &tag].concat();
        assert_eq!(open(&engine(), &published(TOPIC), &forged), Err(EngineError::Forged), "byte {at}");
    }
    // Nor under another number.
    let mut head = *head;
    head[25] ^= 1;
    let associated = bound_to(&head);
    let tag = cipher.seal(mark.sequence ^ 1, &associated, &mut text).unwrap();
    let moved = [&head[..], &text, &tag].concat();
    assert_eq!(open(&engine(), &published(TOPIC), &moved), Err(EngineError::Forged));
}

#[test]
fn rules_about_signers_are_bounded() {
    let many = vec![identity(1).public(); limits::TRUSTED_SIGNERS + 1];
    assert!(matches!(engine().trust("a", many), Err(BusError::LimitReached { .. })));
    assert!(matches!(engine().trust("a//b", []), Err(BusError::InvalidTopic(_))));
    let mut receiver = engine();
    for _ in 0..limits::TRUST_RULES {
        receiver = receiver.trust("a", Vec::<SignerKey>::new()).unwrap();
    }
    assert!(matches!(receiver.trust("a", []), Err(BusError::LimitReached { .. })));
}
