//! Compression allocates what it puts out, and nothing else.
//!
//! zstd allocates in C, which is not counted, unless the tests are run with the feature
//! `zstd-safe/with-rust-allocator`.

use allocation_counter::measure;
use whispeer::engine::compression::{Compression, Dictionary};
use whispeer::engine::{Content, Context, Engine, Memory, MessageKind};

fn text(length: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| format!("line {number} of {}, ", number % 7).into_bytes())
        .take(length)
        .collect()
}

fn engines() -> Vec<Compression> {
    let samples: Vec<_> =
        (0..500).map(|number| format!("line {number} of {}, and so on", number % 7)).collect();
    let dictionary = Dictionary::train(&samples, 1024).unwrap();
    let all = [
        Compression::new(),
        Compression::new().level(-5),
        Compression::new().level(12),
        Compression::new().dictionary(dictionary),
        Compression::lz4(),
        Compression::none(),
    ];
    all.map(|engine| engine.threshold(0)).into()
}

fn seal(engine: &Compression, bytes: &[u8], output: &mut Vec<u8>) {
    output.reserve(bytes.len() + engine.overhead(bytes.len()));
    engine.seal(&Context::new("a", MessageKind::Publish), Content { tag: 0, bytes }, output).unwrap();
}

fn open(engine: &Compression, sealed: &[u8], output: &mut Vec<u8>) {
    let context = Context::new("a", MessageKind::Publish);
    engine.open(&context, &mut Memory::default(), sealed, output).unwrap();
}

#[test]
fn compressing_and_decompressing_allocates_the_output_alone() {
    for engine in engines() {
        // In the order of their sizes, so that the states have grown before they are watched.
        for length in [0, 16, 1024, 64 * 1024, 64 * 1024 + 1] {
            let bytes = text(length);
            let mut sealed = Vec::new();
            seal(&engine, &bytes, &mut sealed);
            open(&engine, &sealed, &mut Vec::new());

            let new = measure(|| seal(&engine, &bytes, &mut Vec::new()));
            assert_eq!(new.count_total, 1, "{length} bytes by {engine:?}");
            let mut output = Vec::with_capacity(2 * length + 100);
            let reused = measure(|| {
                for _ in 0..10 {
                    output.clear();
                    seal(&engine, &bytes, &mut output);
                }
            });
            assert_eq!((reused.count_total, &output), (0, &sealed), "{length} bytes by {engine:?}");

            let new = measure(|| open(&engine, &sealed, &mut Vec::new()));
            assert_eq!(new.count_total, u64::from(length > 0), "{length} bytes by {engine:?}");
            let reused = measure(|| {
                for _ in 0..10 {
                    output.clear();
                    open(&engine, &sealed, &mut output);
                }
            });
            assert_eq!((reused.count_total, &output), (0, &bytes), "{length} bytes by {engine:?}");
        }
    }
}

#[test]
fn a_head_that_claims_much_allocates_little() {
    let claims: [&[u8]; 2] = [
        // A frame of zstd with a GiB of content, and an lz4 block likewise.
        &[1, 0, 0x28, 0xB5, 0x2F, 0xFD, 0xC0, 0x58, 0, 0, 0, 0x40, 0, 0, 0, 0, 0x23, 3, 0, 0],
        &[2, 0, 0, 0, 0, 0x40, 0x50, 1, 2, 3, 4, 5],
    ];
    for claim in claims {
        let context = Context::new("a", MessageKind::Publish);
        let engine = Compression::new();
        let counted = measure(|| {
            let opened = engine.open(&context, &mut Memory::default(), claim, &mut Vec::new());
            assert!(opened.is_err(), "{opened:?}");
        });
        // The window included, where the memory of zstd is counted.
        assert!(counted.bytes_max < 9 * 1024 * 1024, "{counted:?}");
    }
}
