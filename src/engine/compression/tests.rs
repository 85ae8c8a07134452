use std::sync::LazyLock;

use proptest::prelude::*;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, zstd_sys::ZSTD_EndDirective};

use super::*;
use crate::engine::MessageKind;
use crate::error::BusError;

/// As much as the largest bomb is to become.
const GIB: usize = 1 << 30;

fn context(limit: usize) -> Context<'static> {
    Context { limit, ..Context::new("a/b", MessageKind::Publish) }
}

fn sealed(compression: &Compression, bytes: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    compression.seal(&context(GIB), Content { tag: 7, bytes }, &mut output).unwrap();
    output
}

fn opened(compression: &Compression, sealed: &[u8], limit: usize) -> Result<Vec<u8>, EngineError> {
    let mut output = b"before".to_vec();
    let opened = compression.open(&context(limit), &mut Memory::default(), sealed, &mut output)?;
    assert_eq!(opened, Opened::tagged(sealed[1]));
    assert_eq!(&output[..6], b"before");
    Ok(output.split_off(6))
}

fn malformed(result: Result<Vec<u8>, EngineError>) -> &'static str {
    match result {
        Err(EngineError::Malformed { what }) => what,
        other => panic!("{other:?}"),
    }
}

/// A record such as services send each other.
fn record(number: u64) -> Vec<u8> {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        r#"{{"order":{},"customer":"customer-{}","state":"{}","total_cents":{},"currency":"EUR","at":"2026-11-{:02}T{:02}:15:00Z"}}"#,
        100_000 + number,
        mixed >> 50,
        ["new", "paid", "packed", "sent"][(mixed % 4) as usize],
        mixed >> 44,
        1 + mixed % 28,
        mixed % 24,
    )
    .into_bytes()
}

fn dictionary(seed: u64) -> Dictionary {
    let samples: Vec<_> = (0..600).map(|number| record(seed * 10_000 + number)).collect();
    Dictionary::train(&samples, 4096).unwrap()
}

/// All sorts of settings; the first six have a dictionary.
fn settings() -> Vec<Compression> {
    static DICTIONARY: LazyLock<Dictionary> = LazyLock::new(|| dictionary(1));
    let dictionary = &*DICTIONARY;
    let with = |compression: Compression| compression.threshold(0).dictionary(dictionary.clone());
    vec![
        with(Compression::none()),
        with(Compression::lz4()),
        with(Compression::new()),
        with(Compression::new().level(-7)),
        with(Compression::new().level(1)),
        with(Compression::new().level(12)),
        Compression::new().threshold(0),
        Compression::new(),
        Compression::lz4(),
    ]
}

/// Bytes that compress well, badly or not at all.
fn contents(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..longest.min(64 * 1024));
    let repeated = (prop::collection::vec(any::<u8>(), 1..300), 0..longest)
        .prop_map(|(piece, length)| piece.iter().copied().cycle().take(length).collect());
    let records = (any::<u64>(), 0..longest).prop_map(|(seed, length)| {
        (0..).flat_map(|number| record(seed % 1_000 + number)).take(length).collect()
    });
    prop_oneof![noise, repeated, records]
}

proptest! {
    // Each case does everything for all settings.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4))]

    #[test]
    fn what_any_setting_writes_every_setting_with_its_dictionary_reads(bytes in contents(1024 * 1024)) {
        let settings = settings();
        let reader = &settings[0];
        for writer in &settings {
            let sealed = sealed(writer, &bytes);
            prop_assert!(sealed.len() <= bytes.len() + HEAD, "it grew");
            prop_assert_eq!(&opened(reader, &sealed, bytes.len()).unwrap(), &bytes);
            if !bytes.is_empty() {
                let limit = bytes.len() - 1;
                prop_assert_eq!(opened(reader, &sealed, limit), Err(EngineError::TooLarge { limit }));
            }
        }
    }

    #[test]
    fn what_was_cut_off_or_changed_never_panics_nor_exceeds_the_limit(
        bytes in contents(3_000),
        place in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
    ) {
        for writer in settings() {
            let mut sealed = sealed(&writer, &bytes);
            let cut = place.index(sealed.len());
            if let Ok(other) = opened(&writer, &sealed[..cut.max(2)], bytes.len()) {
                // Only what is stored has no end of its own.
                prop_assert!(sealed[0] == STORED && bytes.starts_with(&other) || cut.max(2) == sealed.len());
            }
            prop_assert!(cut >= 2 || opened(&writer, &sealed[..cut], bytes.len()).is_err());
            sealed[cut] ^= flip;
            if let Ok(other) = opened(&writer, &sealed, bytes.len()) {
                prop_assert!(other.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn whatever_arrives_never_panics_nor_exceeds_the_limit(
        algorithm in 0_u8..4,
        has_magic in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let magic: &[u8] = if has_magic { &[0x28, 0xB5, 0x2F, 0xFD] } else { &[] };
        let sealed = [&[algorithm, 0], magic, &bytes].concat();
        if let Ok(content) = opened(&Compression::new(), &sealed, 10_000) {
            prop_assert!(content.len() <= 10_000);
        }
    }
}

#[test]
fn sizes_on_both_sides_of_every_boundary_come_back() {
    let settings = settings();
    for boundary in [0_usize, 13, 32, 256, 65_535, 128 * 1024, 256 * 1024, 1024 * 1024] {
        for size in [boundary, boundary + 1, boundary.saturating_sub(1)] {
            let bytes: Vec<u8> = (0..).flat_map(record).take(size).collect();
            for writer in &settings {
                let sealed = sealed(writer, &bytes);
                assert!(opened(&settings[1], &sealed, size).unwrap() == bytes, "{size} bytes of {writer:?}");
            }
        }
    }
}

#[test]
fn what_is_small_or_would_grow_is_stored() {
    let text = vec![b'a'; 300];
    for writer in [Compression::new(), Compression::lz4(), Compression::new().level(19)] {
        assert_ne!(sealed(&writer, &text)[0], STORED);
        assert_eq!(sealed(&writer, &text[..255])[0], STORED);
        assert_ne!(sealed(&writer.clone().threshold(100), &text[..100])[0], STORED);
        assert_eq!(sealed(&writer.clone().threshold(0), b""), [STORED, 7]);
        assert_eq!(sealed(&writer, &noise(300)), [&[STORED, 7], &noise(300)[..]].concat());
    }
    assert_eq!(sealed(&Compression::none(), &text)[0], STORED);
}

/// Bytes that look random.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn small_messages_shrink_with_a_dictionary_that_both_sides_have() {
    let dictionary = dictionary(1);
    let message = record(999_999);
    let alone = sealed(&Compression::new().threshold(0), &message);
    let writer = Compression::new().dictionary(dictionary.clone());
    let with = sealed(&writer, &message);
    assert!(with.len() * 2 < alone.len(), "{} bytes, and {} without", with.len(), alone.len());
    let reader = Compression::lz4().dictionary(self::dictionary(2)).dictionary(dictionary.clone());
    assert_eq!(opened(&reader, &with, 1024).unwrap(), message);
    let id = dictionary.id();
    for stranger in [Compression::new(), Compression::new().dictionary(self::dictionary(2))] {
        assert_eq!(opened(&stranger, &with, 1024), Err(EngineError::UnknownDictionary { id }));
    }
    let restored = Dictionary::from_bytes(dictionary.as_bytes()).unwrap();
    assert_eq!(opened(&Compression::none().dictionary(restored), &with, 1024).unwrap(), message);
}

#[test]
fn the_dictionary_that_was_given_last_is_written_with_at_the_level_that_was_given_last() {
    let [one, two] = [dictionary(1), dictionary(2)];
    let writer = Compression::new().dictionary(one.clone()).dictionary(two.clone()).dictionary(one.clone());
    let message: Vec<u8> = (0..40).flat_map(record).collect();
    let three = sealed(&writer, &message);
    assert_eq!(zstd_safe::get_dict_id_from_frame(&three[HEAD..]).unwrap().get(), one.id());
    let nineteen = sealed(&writer.level(19), &message);
    assert!(nineteen.len() < three.len(), "{} and {}", nineteen.len(), three.len());
    assert_eq!(opened(&Compression::new().dictionary(one), &nineteen, GIB).unwrap(), message);
}

#[test]
fn what_cannot_be_a_dictionary_is_refused() {
    let invalid = |made: Result<Dictionary, BusError>| match made {
        Err(BusError::InvalidSettings(what)) => what,
        other => panic!("{other:?}"),
    };
    assert!(invalid(Dictionary::from_bytes(b"")).contains("no dictionary"));
    assert!(invalid(Dictionary::from_bytes(&[1; 4096])).contains("no dictionary"));
    let good = dictionary(1);
    assert!(invalid(Dictionary::from_bytes(&good.as_bytes()[..100])).contains("damaged"));
    assert!(invalid(Dictionary::from_bytes(&vec![0; limits::DICTIONARY_BYTES + 1])).contains("larger"));
    assert!(invalid(Dictionary::train::<&[u8]>(&[], 4096)).contains("too few"));
    assert!(invalid(Dictionary::train(&[b"a", b"b"], 4096)).contains("too few"));
    assert!(invalid(Dictionary::train(&vec![b""; 10_000], 4096)).contains("too few"));
    for size in [0, 255, limits::DICTIONARY_BYTES + 1] {
        assert!(invalid(Dictionary::train(&[record(1)], size)).contains("256 to 1048576 bytes"));
    }
    let text = format!("{good:?}");
    assert!(text.starts_with("Dictionary { id: ") && !text.contains("customer"), "{text}");
}

/// A frame of zeros, made piece by piece.
fn streamed(total: usize, level: i32) -> Vec<u8> {
    let mut state = CCtx::create();
    state.set_parameter(CParameter::CompressionLevel(level)).unwrap();
    state.set_pledged_src_size(Some(total as u64)).unwrap();
    let piece = vec![0; 1024 * 1024];
    let mut frame = Vec::with_capacity(1024 * 1024);
    let mut left = total;
    while left > 0 {
        let now = left.min(piece.len());
        left -= now;
        let end = if left == 0 { ZSTD_EndDirective::ZSTD_e_end } else { ZSTD_EndDirective::ZSTD_e_continue };
        let mut input = InBuffer::around(&piece[..now]);
        let length = frame.len();
        let mut target = OutBuffer::around_pos(&mut frame, length);
        while state.compress_stream2(&mut target, &mut input, end).unwrap() > 0 && left == 0 {}
        assert_eq!(input.pos(), now);
    }
    frame
}

/// A block that says one zero, and that so many follow.
fn lz4_zeros(total: usize) -> Vec<u8> {
    // Five literals have to be last, by the format.
    let more = total - 1 - 4 - 15 - 5;
    let lengths = std::iter::repeat_n(255, more / 255).chain([(more % 255) as u8]);
    let block = [0x1F, 0, 1, 0].into_iter().chain(lengths).chain([0x50, 0, 0, 0, 0, 0]);
    u32::try_from(total).unwrap().to_le_bytes().into_iter().chain(block).collect()
}

#[test]
fn a_bomb_is_refused_before_anything_is_unpacked() {
    let bombs = [[&[ZSTD, 0][..], &streamed(GIB, 1)].concat(), [&[LZ4, 0][..], &lz4_zeros(GIB)].concat()];
    for bomb in bombs {
        assert!(bomb.len() < 5 * 1024 * 1024);
        let limit = limits::FRAME_LIMIT;
        let mut output = Vec::new();
        let result = Compression::new().open(&context(limit), &mut Memory::default(), &bomb, &mut output);
        assert_eq!(result, Err(EngineError::TooLarge { limit }));
        assert_eq!(output.capacity(), 0);
    }
}

#[test]
fn what_expands_a_thousandfold_within_the_limit_is_opened_all_the_same() {
    let total = 20 * 1024 * 1024;
    for data in [[&[ZSTD, 0][..], &streamed(total, 3)].concat(), [&[LZ4, 0][..], &lz4_zeros(total)].concat()]
    {
        let content = opened(&Compression::new(), &data, total).unwrap();
        assert!(content.len() == total && content.iter().all(|byte| *byte == 0));
    }
}

/// A frame that says to hold so many bytes, and these blocks.
fn frame(content: u64, window: u8, blocks: &[u8]) -> Vec<u8> {
    [&[ZSTD, 0, 0x28, 0xB5, 0x2F, 0xFD, 0xC0, window][..], &content.to_le_bytes(), blocks].concat()
}

/// The last block: so many zeros.
fn zeros(count: usize) -> [u8; 4] {
    let head = (count << 3 | 0b011) as u32;
    let [one, two, three, _] = head.to_le_bytes();
    [one, two, three, 0]
}

#[test]
fn what_a_head_claims_is_not_set_aside_before_it_is_there() {
    let claims = [
        frame(GIB as u64, 0x58, &zeros(100)),
        frame(GIB as u64, 0x58, &zeros(100_000)),
        [&[LZ4, 0][..], &(GIB as u32).to_le_bytes(), &[0x50, 1, 2, 3, 4, 5]].concat(),
        [&[LZ4, 0][..], &(GIB as u32).to_le_bytes(), &lz4_zeros(GIB - 1)[4..]].concat(),
    ];
    for claim in claims {
        let mut output = Vec::new();
        let result = Compression::new().open(&context(GIB), &mut Memory::default(), &claim, &mut output);
        assert!(matches!(result, Err(EngineError::Malformed { .. })), "{result:?}");
        assert!(output.capacity() <= 2 * limits::COMPRESSION_TRUSTED, "{}", output.capacity());
    }
}

#[test]
fn a_frame_that_holds_more_or_less_than_it_says_is_refused() {
    let engine = Compression::new();
    assert_eq!(opened(&engine, &frame(1000, 0x58, &zeros(1000)), GIB).unwrap(), [0; 1000]);
    for said in [0, 999, 1001, 1_000_000, 300 * 1024 * 1024] {
        malformed(opened(&engine, &frame(said, 0x58, &zeros(1000)), GIB));
    }
    assert_eq!(
        opened(&engine, &frame(u64::MAX, 0x58, &zeros(1000)), GIB),
        Err(EngineError::TooLarge { limit: GIB })
    );
}

#[test]
fn a_window_that_needs_more_memory_than_is_allowed_is_refused() {
    let engine = Compression::new();
    // 2 to the power of 10 and the upper five bits.
    let window = |log: u8| (log - 10) << 3;
    assert!(opened(&engine, &frame(1000, window(23), &zeros(1000)), GIB).is_ok());
    for too_large in [window(23) + 1, window(24), window(31), window(41)] {
        let what = malformed(opened(&engine, &frame(1000, too_large, &zeros(1000)), GIB));
        assert_eq!(what, "its window of zstd is larger than 8 MiB");
    }
}

#[test]
fn only_one_frame_is_read_which_has_to_be_all_there_is() {
    let engine = Compression::new();
    let text = vec![b'a'; 1000];
    let one = sealed(&engine, &text);
    let follows = "something follows its frame of zstd";
    assert_eq!(malformed(opened(&engine, &[&one[..], &one[HEAD..]].concat(), GIB)), follows);
    assert_eq!(malformed(opened(&engine, &[&one[..], &[0]].concat(), GIB)), follows);
    let skippable = [0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 1, 2];
    assert_eq!(malformed(opened(&engine, &[&one[..], &skippable].concat(), GIB)), follows);
    let begins = "its frame of zstd does not begin as one";
    assert_eq!(malformed(opened(&engine, &[&one[..HEAD], &skippable, &one[HEAD..]].concat(), GIB)), begins);
    assert_eq!(malformed(opened(&engine, &[&one[..HEAD], &skippable].concat(), GIB)), begins);
    assert_eq!(malformed(opened(&engine, &[ZSTD, 0], GIB)), begins);
    let lz4 = sealed(&Compression::lz4(), &text);
    malformed(opened(&engine, &[&lz4[..], &[0]].concat(), GIB));
    malformed(opened(&engine, &[&lz4[..], &lz4[HEAD + 4..]].concat(), GIB));
    malformed(opened(&engine, &[3, 0, 1, 2], GIB));
    malformed(opened(&engine, &[LZ4, 0, 1, 0, 0], GIB));
}

#[test]
fn a_frame_has_to_say_how_large_its_content_is() {
    let mut state = CCtx::create();
    state.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
    let mut frame = Vec::with_capacity(1000);
    state.compress2(&mut frame, &[0; 1000]).unwrap();
    let what = malformed(opened(&Compression::new(), &[&[ZSTD, 0], &frame[..]].concat(), GIB));
    assert_eq!(what, "its frame of zstd does not say how large its content is");
}

#[test]
fn a_checksum_that_somebody_has_added_is_checked() {
    let mut state = CCtx::create();
    state.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
    let mut frame = vec![ZSTD, 0];
    let mut made = Vec::with_capacity(1000);
    state.compress2(&mut made, &[5; 1000]).unwrap();
    frame.extend(made);
    assert_eq!(opened(&Compression::new(), &frame, GIB).unwrap(), [5; 1000]);
    *frame.last_mut().unwrap() ^= 1;
    malformed(opened(&Compression::new(), &frame, GIB));
}

#[test]
fn levels_beyond_the_last_count_as_the_nearest() {
    let message: Vec<u8> = (0..100).flat_map(record).collect();
    let at = |level| sealed(&Compression::new().level(level), &message);
    assert_eq!(at(i32::MAX), at(19));
    assert_eq!(at(i32::MIN), at(-7));
    assert_eq!(at(0), at(3));
    assert!(at(19).len() < at(3).len() && at(3).len() < at(-7).len());
}
