//! Whatever arrives for an engine that encrypts is refused, and so is anything that was changed; what was not opens again.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::engine::{Content, Context, Engine, Memory, MessageKind};

static KEY: LazyLock<Key> = LazyLock::new(|| Key::from_bytes([7; 32]));
static ENGINE: LazyLock<Encryption> = LazyLock::new(|| {
    let keyring = Keyring::with(KEY.clone()).expect("a new keyring");
    Encryption::new(&keyring).expect("a random number")
});

fuzz_target!(|input: (u8, Option<u16>, Vec<u8>)| {
    let (algorithm, changed, bytes) = input;
    let context = Context::new("a/b", MessageKind::Publish);
    let (mut memory, mut output) = (Memory::default(), Vec::new());

    // Behind a head that leads as far as there is a way without the key.
    let head = [&[algorithm][..], &KEY.id().to_bytes()].concat();
    for arrived in [bytes.clone(), [head, bytes.clone()].concat()] {
        assert!(ENGINE.open(&context, &mut memory, &arrived, &mut output).is_err());
        assert!(output.is_empty());
    }

    let content = Content { tag: algorithm, bytes: &bytes };
    let mut sealed = Vec::new();
    ENGINE.seal(&context, content, &mut sealed).expect("there is a key");
    if let Some(at) = changed {
        let bit = usize::from(at) % (8 * sealed.len());
        sealed[bit / 8] ^= 1 << (bit % 8);
        assert!(ENGINE.open(&context, &mut memory, &sealed, &mut output).is_err());
        assert!(output.is_empty());
    } else {
        let opened = ENGINE.open(&context, &mut memory, &sealed, &mut output).expect("nothing was changed");
        assert_eq!((opened.tag, output), (algorithm, bytes));
    }
});
