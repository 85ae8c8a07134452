//! Dictionaries from somebody, and messages that are compressed with them: whatever they are, they are refused, or what
//! is compressed with them comes out as it was.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use whispeer::engine::compression::{Compression, Dictionary};
use whispeer::engine::{Content, Context, Engine, Memory, MessageKind};

/// Bytes that may come out.
const LIMIT: usize = 1024 * 1024;

/// One that is sound.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let samples: Vec<_> = (0..500).map(|number| format!("sample {number} of {}", number * 7)).collect();
    Dictionary::train(&samples, 1024).expect("enough samples").as_bytes().to_vec()
});

/// The bytes of a dictionary, or places at which the sound one is changed; and a message.
type Input = (Option<Vec<u8>>, Vec<(u16, u8)>, Vec<u8>);

fuzz_target!(|input: Input| {
    let (bytes, changes, text) = input;
    let mut bytes = bytes.unwrap_or_else(|| SOUND.clone());
    for (at, byte) in changes {
        if let Some(place) = bytes.get_mut(usize::from(at)) {
            *place = byte;
        }
    }
    let Ok(dictionary) = Dictionary::from_bytes(&bytes) else { return };
    assert_eq!(dictionary.as_bytes(), bytes);
    let engine = Compression::new().threshold(0).dictionary(dictionary);
    let mut context = Context::new("a", MessageKind::Publish);
    context.limit = LIMIT;
    // A frame that may say that it was made with it.
    let _ = engine.open(&context, &mut Memory::default(), &text, &mut Vec::new());
    let content = Content { tag: 0, bytes: &text };
    let mut sealed = Vec::new();
    if engine.seal(&context, content, &mut sealed).is_ok() {
        let mut opened = Vec::new();
        engine.open(&context, &mut Memory::default(), &sealed, &mut opened).expect("it was just made");
        assert_eq!(opened, text);
    }
});
