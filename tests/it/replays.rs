//! Encrypted messages that come from a store: they may come again, are checked in all else, and change nothing for those
//! that come live.
#![cfg(feature = "encryption")]

use whispeer::EngineError;
use whispeer::engine::encryption::{Algorithm, Encryption, Key, Keyring, SigningIdentity};
use whispeer::engine::{Content, Context, Engine, Mark, Memory, MessageKind, Opened};
use whispeer::limits::{ENCRYPTION_CIPHERS, ENCRYPTION_SENDERS, REPLAY_WINDOW};

const TOPIC: &str = "orders/7";

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32])
}

fn keyring() -> Keyring {
    Keyring::with(key(7)).unwrap()
}

fn engine() -> Encryption {
    Encryption::new(&keyring()).unwrap()
}

fn live(topic: &str) -> Context<'_> {
    Context::new(topic, MessageKind::Publish)
}

fn stored(topic: &str) -> Context<'_> {
    let mut context = live(topic);
    context.stored = true;
    context
}

fn seal(engine: &Encryption, context: &Context<'_>, text: &str) -> (Vec<u8>, Mark) {
    let mut sealed = Vec::new();
    let content = Content { tag: 0, bytes: text.as_bytes() };
    let mark = engine.seal(context, content, &mut sealed).unwrap().mark.unwrap();
    (sealed, mark)
}

/// One subscription: an engine, and what it remembers.
struct Receiver {
    engine: Encryption,
    memory: Memory,
}

impl Receiver {
    fn new(engine: Encryption) -> Self {
        Self { engine, memory: Memory::default() }
    }

    fn open(&mut self, context: &Context<'_>, sealed: &[u8]) -> Result<(String, Opened), EngineError> {
        let mut output = Vec::new();
        let opened = self.engine.open(context, &mut self.memory, sealed, &mut output)?;
        Ok((String::from_utf8(output).unwrap(), opened))
    }

    fn is_taken(&mut self, context: &Context<'_>, sealed: &[u8]) -> bool {
        match self.open(context, sealed) {
            Ok(_) => true,
            Err(EngineError::Replayed { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn what_comes_from_a_store_again_is_handed_over_again_as_it_was() {
    for algorithm in [Algorithm::XChaCha20Poly1305, Algorithm::ChaCha20Poly1305, Algorithm::Aes256Gcm] {
        let identity = SigningIdentity::from_bytes(&[3; 32]);
        let sender = engine().algorithm(algorithm).sign(identity.clone());
        let mut receiver = Receiver::new(engine().trust("orders/**", [identity.public()]).unwrap());
        let (sealed, mark) = seal(&sender, &live(TOPIC), "two apples");
        for _ in 0..5 {
            let (text, opened) = receiver.open(&stored(TOPIC), &sealed).unwrap();
            assert_eq!(text, "two apples");
            assert_eq!((opened.mark, opened.signer), (Some(mark), Some(identity.public().to_bytes())));
        }
    }
}

#[test]
fn what_comes_from_a_store_is_checked_in_all_but_its_freshness() {
    let mut receiver = Receiver::new(engine());
    let (sealed, _) = seal(&engine(), &live(TOPIC), "two apples");
    assert!(receiver.open(&stored(TOPIC), &sealed).is_ok());
    for topic in ["orders/8", "orders", "orders/*", ""] {
        assert_eq!(receiver.open(&stored(topic), &sealed), Err(EngineError::Forged), "{topic}");
    }
    let kinds = [MessageKind::Request, MessageKind::Reply, MessageKind::StreamReply, MessageKind::ErrorReply];
    for kind in kinds {
        let mut context = Context::new(TOPIC, kind);
        context.stored = true;
        assert_eq!(receiver.open(&context, &sealed), Err(EngineError::Forged), "{kind:?}");
        context.request = Some(Mark { sender: [1; 16], sequence: 1 });
        assert_eq!(receiver.open(&context, &sealed), Err(EngineError::Forged), "{kind:?}");
    }
    for bit in 0..8 * sealed.len() {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(receiver.open(&stored(TOPIC), &changed).is_err(), "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert!(receiver.open(&stored(TOPIC), &sealed[..length]).is_err(), "{length} bytes");
    }
    // All of it has left the message as good as it was.
    assert!(receiver.open(&stored(TOPIC), &sealed).is_ok());
}

#[test]
fn keys_and_signers_count_for_what_comes_from_a_store_as_for_all_else() {
    let (sealed, _) = seal(&engine(), &live(TOPIC), "two apples");
    let strange = Keyring::with(key(8)).unwrap();
    let mut receiver = Receiver::new(Encryption::new(&strange).unwrap());
    assert!(matches!(receiver.open(&stored(TOPIC), &sealed), Err(EngineError::UnknownKey { .. })));

    // A key of other topics, and one that is retired while messages of it are in the store.
    let keyring = Keyring::new();
    let id = keyring.rotate_for("letters/**", key(7)).unwrap();
    keyring.rotate(key(8)).unwrap();
    let mut receiver = Receiver::new(Encryption::new(&keyring).unwrap());
    assert!(matches!(receiver.open(&stored(TOPIC), &sealed), Err(EngineError::KeyOutOfScope { .. })));
    let (letter, _) = seal(&engine(), &live("letters/1"), "dear friend");
    assert!(receiver.open(&stored("letters/1"), &letter).is_ok());
    keyring.retire(id).unwrap();
    let retired = EngineError::RetiredKey { key: id.to_string() };
    assert_eq!(receiver.open(&stored("letters/1"), &letter), Err(retired));

    let (friend, stranger) = (SigningIdentity::from_bytes(&[3; 32]), SigningIdentity::from_bytes(&[4; 32]));
    let mut receiver = Receiver::new(engine().trust("orders/**", [friend.public()]).unwrap());
    assert_eq!(receiver.open(&stored(TOPIC), &sealed), Err(EngineError::NotSigned));
    let (other, _) = seal(&engine().sign(stranger), &live(TOPIC), "all apples");
    assert!(matches!(receiver.open(&stored(TOPIC), &other), Err(EngineError::UntrustedSigner { .. })));
}

#[test]
fn a_live_message_is_taken_once_however_often_it_has_come_from_a_store() {
    let (sender, mut receiver) = (engine(), Receiver::new(engine()));
    let (before, _) = seal(&sender, &live(TOPIC), "before");
    let (after, _) = seal(&sender, &live(TOPIC), "after");
    for context in [stored(TOPIC), live(TOPIC), stored(TOPIC)] {
        assert!(receiver.is_taken(&context, &before));
    }
    assert!(!receiver.is_taken(&live(TOPIC), &before), "what came from the store has not made it new");
    assert!(receiver.is_taken(&live(TOPIC), &after));
    assert!(receiver.is_taken(&stored(TOPIC), &after));
    assert!(!receiver.is_taken(&live(TOPIC), &after));
}

#[test]
fn what_comes_from_a_store_moves_no_window() {
    let (sender, mut receiver) = (engine(), Receiver::new(engine()));
    let first = seal(&sender, &live(TOPIC), "first").0;
    let second = seal(&sender, &live(TOPIC), "second").0;
    assert!(receiver.is_taken(&live(TOPIC), &first));
    let mut last = Vec::new();
    for _ in 0..2 * REPLAY_WINDOW {
        last = seal(&sender, &live(TOPIC), "later").0;
    }
    // Live, this would make all before it too late.
    assert!(receiver.is_taken(&stored(TOPIC), &last));
    assert!(receiver.is_taken(&live(TOPIC), &second));
    assert!(!receiver.is_taken(&live(TOPIC), &second));
    assert!(receiver.is_taken(&live(TOPIC), &last));
    // And what is too late, live, still comes from the store.
    assert!(!receiver.is_taken(&live(TOPIC), &first));
    assert!(receiver.is_taken(&stored(TOPIC), &first));
}

#[test]
fn no_number_of_senders_in_a_store_makes_a_receiver_forget_what_has_come_live() {
    let (sender, mut receiver) = (engine(), Receiver::new(engine()));
    let (sealed, _) = seal(&sender, &live(TOPIC), "once");
    assert!(receiver.is_taken(&live(TOPIC), &sealed));
    for _ in 0..=ENCRYPTION_SENDERS.max(ENCRYPTION_CIPHERS) {
        let (old, _) = seal(&engine(), &live(TOPIC), "old");
        assert!(receiver.is_taken(&stored(TOPIC), &old));
    }
    assert!(!receiver.is_taken(&live(TOPIC), &sealed));
}
