//! Compressed payloads from a stranger: whatever they are, no more comes out than is allowed; and what comes out comes
//! back by every setting.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use whispeer::engine::compression::{Compression, Dictionary};
use whispeer::engine::{Content, Context, Engine, EngineError, Memory, MessageKind};

/// Bytes that may come out.
const LIMIT: usize = 1024 * 1024;

static ENGINES: LazyLock<[Compression; 4]> = LazyLock::new(|| {
    let samples: Vec<_> = (0..500).map(|number| format!("sample {number} of {}", number * 7)).collect();
    let dictionary = Dictionary::train(&samples, 1024).expect("enough samples");
    [
        Compression::new().dictionary(dictionary),
        Compression::new().threshold(0),
        Compression::lz4().threshold(0),
        Compression::none(),
    ]
});

fn open(engine: &Compression, sealed: &[u8]) -> Result<Vec<u8>, EngineError> {
    let mut context = Context::new("a", MessageKind::Publish);
    context.limit = LIMIT;
    let mut content = Vec::new();
    engine.open(&context, &mut Memory::default(), sealed, &mut content)?;
    assert!(content.len() <= LIMIT);
    Ok(content)
}

fuzz_target!(|sealed: &[u8]| {
    let [reader, ..] = &*ENGINES;
    let Ok(content) = open(reader, sealed) else {
        return;
    };
    for engine in &*ENGINES {
        let context = Context::new("a", MessageKind::Publish);
        let mut output = Vec::new();
        engine
            .seal(&context, Content { tag: 0, bytes: &content }, &mut output)
            .expect("nothing of it can fail");
        assert!(output.len() <= content.len() + 2);
        assert_eq!(open(reader, &output).as_ref(), Ok(&content));
    }
});
