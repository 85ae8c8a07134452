//! Decoders against their encoders, against garbage, and against the vectors in docs/.

mod vectors;

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::fields::{
    Field, FieldsBuilder, GapReason, Options, Policy, ServeMode, decode_gap, encode_gap, iterate, well_formed,
};
use super::{
    Capabilities, Content, ContentRef, ErrorCode, Flags, HEADER_LEN, Header, Hello, Kind, Layout,
    MalformedFrame, Refusal, Resume, ResumeToken, Shown, Welcome,
};
use crate::error::{BusError, ErrorReply};
use crate::limits;

/// Every kind, found by asking for every number.
fn kinds() -> Vec<Kind> {
    (0..=u8::MAX).filter_map(Kind::from_u8).collect()
}

fn header() -> impl Strategy<Value = Header> {
    (prop::sample::select(kinds()), any::<u8>(), any::<u32>(), any::<u64>())
        .prop_map(|(kind, flags, id, sequence)| Header { kind, flags: Flags(flags), id, sequence })
}

fn token() -> impl Strategy<Value = ResumeToken> {
    any::<[u8; ResumeToken::LEN]>().prop_map(ResumeToken::new)
}

fn milliseconds() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|millis| Duration::from_millis(u64::from(millis)))
}

fn hello() -> impl Strategy<Value = Hello> {
    let resume = prop::option::of(
        (any::<u64>(), token(), any::<u64>()).prop_map(|(session, token, received)| Resume {
            session,
            token,
            received,
        }),
    );
    (any::<(u16, u16, u64)>(), milliseconds(), "\\PC{0,16}", resume, shown()).prop_map(
        |((min_version, max_version, capabilities), keep_alive, name, resume, credentials)| Hello {
            min_version,
            max_version,
            capabilities: Capabilities(capabilities),
            keep_alive,
            name,
            resume,
            credentials,
        },
    )
}

fn shown() -> impl Strategy<Value = Option<Shown>> {
    let password = ("\\PC{0,40}", "\\PC{0,40}");
    prop_oneof![
        Just(None),
        "\\PC{0,200}".prop_map(|token| Some(Shown::Token(token.into()))),
        password.prop_map(|(user, password)| Some(Shown::Password(user, password.into()))),
    ]
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let numbers = any::<(u16, u64, u64, u64, bool, u32)>();
    let ends = any::<(u32, u64, u32, u32, u64)>();
    (numbers, token(), milliseconds(), milliseconds(), ends).prop_map(
        |(numbers, resume_token, keep_alive, block_limit, ends)| Welcome {
            version: numbers.0,
            capabilities: Capabilities(numbers.1),
            bus: numbers.2,
            session: numbers.3,
            resume_token,
            resumed: numbers.4,
            frame_limit: numbers.5,
            keep_alive,
            block_limit,
            publish_window: (ends.0, ends.1),
            max_subscriptions: ends.2,
            max_requests: ends.3,
            received: ends.4,
        },
    )
}

/// A field that owns its texts, so that it can be drawn at random.
#[derive(Debug, Clone)]
enum Drawn {
    Header(String, String),
    Origin(u64),
    Window(u32, u64),
    Policy(Policy),
    Group(String),
    BlockLimit(Duration),
    Deadline(Duration),
    Topic(String),
    Mode(ServeMode),
}

impl Drawn {
    fn push(&self, builder: &mut FieldsBuilder) {
        match self {
            Self::Header(name, value) => builder.header(name, value),
            Self::Origin(bus) => builder.origin(*bus),
            Self::Window(messages, bytes) => builder.window(*messages, *bytes),
            Self::Policy(policy) => builder.policy(*policy),
            Self::Group(name) => builder.group(name),
            Self::BlockLimit(limit) => builder.block_limit(*limit),
            Self::Deadline(left) => builder.deadline(*left),
            Self::Topic(topic) => builder.topic(topic),
            Self::Mode(mode) => builder.mode(*mode),
        }
        .unwrap();
    }

    fn read_back(&self) -> Field<'_> {
        match self {
            Self::Header(name, value) => Field::Header { name, value },
            Self::Origin(bus) => Field::Origin(*bus),
            Self::Window(messages, bytes) => Field::Window { messages: *messages, bytes: *bytes },
            Self::Policy(policy) => Field::Policy(*policy),
            Self::Group(name) => Field::Group(name),
            Self::BlockLimit(limit) => Field::BlockLimit(*limit),
            Self::Deadline(left) => Field::Deadline(*left),
            Self::Topic(topic) => Field::Topic(topic),
            Self::Mode(mode) => Field::Mode(*mode),
        }
    }
}

fn field() -> impl Strategy<Value = Drawn> {
    let policies = vec![Policy::Block, Policy::DropOldest, Policy::DropNewest, Policy::Disconnect];
    prop_oneof![
        ("\\PC{0,20}", "\\PC{0,60}").prop_map(|(name, value)| Drawn::Header(name, value)),
        any::<u64>().prop_map(Drawn::Origin),
        any::<(u32, u64)>().prop_map(|(messages, bytes)| Drawn::Window(messages, bytes)),
        prop::sample::select(policies).prop_map(Drawn::Policy),
        "\\PC{0,20}".prop_map(Drawn::Group),
        milliseconds().prop_map(Drawn::BlockLimit),
        any::<u64>().prop_map(|micros| Drawn::Deadline(Duration::from_micros(micros))),
        "\\PC{0,20}".prop_map(Drawn::Topic),
        prop::sample::select(vec![ServeMode::Join, ServeMode::TakeOver]).prop_map(Drawn::Mode),
    ]
}

/// Gives bytes to every decoder; what they say does not matter, only that they return.
fn decode_with_everything(bytes: &[u8]) {
    let _ = Layout::decode(bytes, limits::FRAME_LIMIT);
    let _ = Hello::decode(bytes);
    let _ = Welcome::decode(bytes);
    let _ = decode_gap(bytes);
    let _ = well_formed(bytes);
    let _ = Options::read(bytes);
    for field in iterate(bytes) {
        let _ = format!("{field:?}");
    }
    if let Ok(refusal) = Refusal::decode(bytes) {
        let _ = refusal.into_error().to_string();
    }
}

fn flip(bytes: &mut [u8], flips: &[(prop::sample::Index, u8)]) {
    for (at, bits) in flips {
        if !bytes.is_empty() {
            bytes[at.index(bytes.len())] ^= bits;
        }
    }
}

proptest! {
    #[test]
    fn a_header_reads_back_as_it_was_written_and_tells_the_actual_lengths(
        header in header(), fields in 0usize..=65_535, topic in 0usize..=65_535, payload in 0usize..=1_000_000,
    ) {
        let bytes = header.encode(fields, topic, payload);
        let layout = Layout::decode(&bytes, limits::FRAME_LIMIT).unwrap().unwrap();
        prop_assert_eq!(layout, Layout { header, fields, topic, total: HEADER_LEN + fields + topic + payload });
    }

    #[test]
    fn the_size_of_a_frame_is_the_number_of_its_bytes(
        header in header(), fields in vec(any::<u8>(), 0..50), topic in vec(any::<u8>(), 0..50),
        payload in vec(any::<u8>(), 0..50),
    ) {
        let content = ContentRef::lent(&fields, &topic, &payload);
        let mut bytes = header.encode(fields.len(), topic.len(), payload.len()).to_vec();
        bytes.extend([&fields[..], &topic, &payload].concat());
        let layout = Layout::decode(&bytes, limits::FRAME_LIMIT).unwrap().unwrap();
        prop_assert_eq!(layout.total, bytes.len());
        prop_assert_eq!(content.frame_size(), bytes.len());
        let tail = bytes::Bytes::from(bytes).slice(HEADER_LEN..);
        let read = ContentRef::owned(&tail, layout.fields, layout.topic);
        prop_assert_eq!((read.fields, read.topic, read.payload()), (&fields[..], &topic[..], &payload[..]));
        let shared = read.shared();
        prop_assert_eq!(shared.borrowed().frame_size(), content.frame_size());
    }

    #[test]
    fn a_header_cut_anywhere_is_incomplete_and_not_an_error(header in header(), cut in 0usize..HEADER_LEN) {
        let bytes = header.encode(1, 2, 3);
        prop_assert_eq!(Layout::decode(&bytes[..cut], limits::FRAME_LIMIT), Ok(None));
    }

    #[test]
    fn a_hello_reads_back_as_it_was_written(hello in hello(), tail in vec(any::<u8>(), 0..20)) {
        let mut bytes = hello.encode();
        for cut in 0..bytes.len() {
            prop_assert!(Hello::decode(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
        bytes.extend(tail);
        prop_assert_eq!(Hello::decode(&bytes).unwrap(), hello);
    }

    #[test]
    fn a_welcome_reads_back_as_it_was_written(welcome in welcome(), tail in vec(any::<u8>(), 0..20)) {
        let mut bytes = welcome.encode();
        for cut in 0..bytes.len() {
            prop_assert!(Welcome::decode(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
        bytes.extend(tail);
        prop_assert_eq!(Welcome::decode(&bytes).unwrap(), welcome);
    }

    #[test]
    fn a_name_of_any_length_is_cut_and_never_fails_the_handshake(name in "\\PC{0,400}") {
        let sent = Hello { name: name.clone(), ..Hello::default() };
        let read = Hello::decode(&sent.encode()).unwrap();
        prop_assert!(read.name.len() <= limits::CLIENT_NAME_LIMIT);
        prop_assert!(name.starts_with(&read.name));
        prop_assert!(name.len() > limits::CLIENT_NAME_LIMIT || read.name == name);
    }

    #[test]
    fn fields_read_back_in_order(drawn in vec(field(), 0..20)) {
        let mut builder = FieldsBuilder::new();
        drawn.iter().for_each(|field| field.push(&mut builder));
        let bytes = builder.finish();
        prop_assert!(well_formed(&bytes));
        let read: Vec<_> = iterate(&bytes).collect();
        let expected: Vec<_> = drawn.iter().map(Drawn::read_back).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn a_section_cut_anywhere_gives_the_whole_fields_before_the_cut(
        drawn in vec(field(), 1..10), cut in any::<prop::sample::Index>(),
    ) {
        let mut builder = FieldsBuilder::new();
        let mut ends = vec![0];
        for field in &drawn {
            field.push(&mut builder);
            ends.push(builder.as_bytes().len());
        }
        let bytes = builder.finish();
        let cut = cut.index(bytes.len());
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        prop_assert_eq!(iterate(&bytes[..cut]).count(), whole);
        prop_assert_eq!(well_formed(&bytes[..cut]), ends.contains(&cut));
    }

    #[test]
    fn a_refusal_reads_back_as_it_was_written(
        code in prop::sample::select(ErrorCode::ALL.to_vec()), text in "\\PC{0,80}",
    ) {
        let refusal = Refusal::new(code, text);
        prop_assert_eq!(Refusal::decode(&refusal.encode()).unwrap(), refusal);
    }

    #[test]
    fn a_text_of_any_length_is_cut_to_the_limit_at_a_character(length in 4_000usize..5_000, character in "\\PC") {
        let refusal = Refusal::new(ErrorCode::Denied, character.repeat(length));
        prop_assert!(refusal.text.len() <= limits::ERROR_TEXT_LIMIT);
        prop_assert_eq!(Refusal::decode(&refusal.encode()).unwrap(), refusal);
    }

    #[test]
    fn an_error_reply_crosses_the_wire_as_it_is(code in "[a-z_]{0,40}", message in "\\PC{0,80}") {
        let reply = ErrorReply::new(code, message);
        let refusal = Refusal::from(&BusError::Replied(reply.clone()));
        let read = Refusal::decode(&refusal.encode()).unwrap().into_error();
        prop_assert!(matches!(read, BusError::Replied(read) if read == reply));
    }

    #[test]
    fn a_gap_reads_back_as_it_was_written(count: u64, reason in prop::sample::select(GapReason::ALL.to_vec())) {
        prop_assert_eq!(decode_gap(&encode_gap(count, reason)), Ok((count, reason)));
    }

    #[test]
    fn random_bytes_never_panic_a_decoder(bytes in vec(any::<u8>(), 0..400)) {
        decode_with_everything(&bytes);
    }

    #[test]
    fn flipped_bytes_never_panic_a_decoder(
        header in header(), hello in hello(), welcome in welcome(), drawn in vec(field(), 0..8),
        flips in vec((any::<prop::sample::Index>(), 1u8..), 1..6),
    ) {
        let mut builder = FieldsBuilder::new();
        drawn.iter().for_each(|field| field.push(&mut builder));
        let refusal = Refusal::new(ErrorCode::TimedOut, "1500/the request");
        for mut bytes in [
            header.encode(3, 4, 5).to_vec(),
            hello.encode(),
            welcome.encode(),
            builder.finish(),
            refusal.encode(),
            encode_gap(7, GapReason::Link).to_vec(),
        ] {
            flip(&mut bytes, &flips);
            decode_with_everything(&bytes);
        }
    }
}

#[test]
fn a_frame_of_the_limit_passes_and_one_byte_more_is_refused_after_four_bytes() {
    let limit = limits::FRAME_LIMIT_MIN;
    let header = Header::new(Kind::Publish, 0, 1);
    let whole = header.encode(0, 0, limit - HEADER_LEN);
    assert_eq!(Layout::decode(&whole, limit).unwrap().unwrap().total, limit);
    let over = header.encode(0, 0, limit - HEADER_LEN + 1);
    let expected = Err(MalformedFrame::TooLong { total: limit + 1, limit });
    assert_eq!(Layout::decode(&over, limit), expected);
    assert_eq!(Layout::decode(&over[..4], limit), expected);
    assert_eq!(Layout::decode(&over[..3], limit), Ok(None));
}

#[test]
fn a_section_takes_exactly_what_a_frame_has_room_for() {
    let mut builder = FieldsBuilder::new();
    let value = "v".repeat(limits::FIELDS_LIMIT - 5);
    builder.header("n", &value).unwrap();
    assert_eq!(builder.as_bytes().len(), limits::FIELDS_LIMIT);
    let refused = builder.append(&[0]);
    assert!(matches!(refused, Err(BusError::HeadersTooLarge { size: 65_536, limit: limits::FIELDS_LIMIT })));
    let bytes = builder.finish();
    assert_eq!(iterate(&bytes).collect::<Vec<_>>(), [Field::Header { name: "n", value: &value }]);
    let name = "n".repeat(256);
    assert!(matches!(
        FieldsBuilder::new().header(&name, ""),
        Err(BusError::HeadersTooLarge { size: 256, .. })
    ));
}

#[test]
fn a_section_that_is_cut_off_fails_the_call_that_carries_it() {
    let mut builder = FieldsBuilder::new();
    builder.policy(Policy::DropNewest).unwrap();
    let bytes = builder.finish();
    assert_eq!(Options::read(&bytes).unwrap().policy, Policy::DropNewest);
    assert_eq!(Options::read(&bytes[..3]).unwrap_err().code, ErrorCode::InvalidSettings);
}

#[test]
fn a_window_is_refused_when_it_holds_nothing_or_too_much() {
    let read = |messages, bytes| {
        let mut builder = FieldsBuilder::new();
        builder.window(messages, bytes).unwrap();
        Options::read(builder.as_bytes()).map(|options| options.window).map_err(|refusal| refusal.code)
    };
    assert_eq!(read(0, 1), Err(ErrorCode::InvalidSettings));
    assert_eq!(read(1, 0), Err(ErrorCode::InvalidSettings));
    assert_eq!(read(1, 1), Ok(Some((1, 1))));
    let (messages, bytes) = (limits::WINDOW_MESSAGES_MAX, limits::WINDOW_BYTES_MAX);
    assert_eq!(read(messages, bytes), Ok(Some((messages, bytes))));
    assert_eq!(read(messages + 1, bytes), Err(ErrorCode::LimitReached));
    assert_eq!(read(messages, bytes + 1), Err(ErrorCode::LimitReached));
}

#[test]
fn a_token_does_not_print() {
    let hello = Hello {
        resume: Some(Resume { session: 1, token: ResumeToken::new([0x5a; 32]), received: 2 }),
        ..Hello::default()
    };
    let printed = format!("{hello:?}");
    assert!(printed.contains("ResumeToken(..)") && !printed.contains("90"), "{printed}");
}

#[test]
fn the_parts_of_content_are_the_same_in_every_form() {
    let bytes = bytes::Bytes::from("payload");
    let content = std::sync::Arc::new(Content::new("f".into(), "topic".into(), bytes));
    let payload = content.shared_payload();
    for read in [
        content.borrowed(),
        ContentRef::lent(b"f", b"topic", b"payload"),
        ContentRef::with_payload(b"f", b"topic", &payload),
    ] {
        let shared = read.shared();
        assert_eq!(
            (shared.fields(), shared.topic(), shared.payload()),
            (&b"f"[..], &b"topic"[..], &b"payload"[..])
        );
        assert_eq!(read.shared_payload().map(|payload| payload.as_bytes().clone()), Some("payload".into()));
    }
}

#[test]
fn how_far_a_stream_is_read_is_refused_where_it_cannot_be_read_or_says_nothing() {
    let read = |push: &dyn Fn(&mut FieldsBuilder)| {
        let mut builder = FieldsBuilder::new();
        push(&mut builder);
        let options = Options::read(builder.as_bytes());
        options.map(|options| (options.epoch, options.limit)).map_err(|refusal| refusal.code)
    };
    assert_eq!(read(&|fields| fields.limit(1, 1).unwrap()), Ok((None, Some((1, 1)))));
    assert_eq!(read(&|fields| fields.epoch([7; 16]).unwrap()), Ok((Some([7; 16]), None)));
    for (messages, bytes) in [(0, 1), (1, 0)] {
        let refused = read(&|fields| fields.limit(messages, bytes).unwrap());
        assert_eq!(refused, Err(ErrorCode::InvalidSettings));
    }
    // An epoch and a limit that are too short.
    for tag in [17, 18] {
        let refused = read(&|fields| fields.append(&[tag, 3, 0, 1, 1, 1]).unwrap());
        assert_eq!(refused, Err(ErrorCode::InvalidSettings), "{tag}");
    }
}
