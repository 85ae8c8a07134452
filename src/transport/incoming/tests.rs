//! Any split of a stream gives the same frames as a decoder that is too simple to be wrong.

use std::cmp::min;
use std::pin::Pin;
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;
use crate::proto::{Flags, Kind};

const LIMIT: usize = limits::FRAME_LIMIT;

/// A frame as its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whole {
    header: Header,
    fields: Vec<u8>,
    topic: Vec<u8>,
    payload: Vec<u8>,
}

/// A stream that gives its bytes in steps of given sizes; a step of 0 makes the reader wait once.
struct Steps<'a> {
    rest: &'a [u8],
    steps: Vec<usize>,
    at: usize,
    /// What comes after the last byte: the end, or a wait.
    ends: bool,
}

impl<'a> Steps<'a> {
    fn new(rest: &'a [u8], steps: &[usize]) -> Self {
        Self { rest, steps: steps.to_vec(), at: 0, ends: true }
    }
}

impl AsyncRead for Steps<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let step = self.steps.get(self.at).copied().unwrap_or(usize::MAX);
        self.at = if self.at + 1 < self.steps.len() { self.at + 1 } else { 0 };
        if step == 0 || (self.rest.is_empty() && !self.ends) {
            return Poll::Pending;
        }
        let count = min(step, min(buffer.remaining(), self.rest.len()));
        let (now, later) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

/// Reads all of the stream as the bus does: every frame that is there after each read, then settle.
fn read_all(incoming: &mut Incoming, stream: &mut Steps<'_>) -> Result<Vec<Whole>, MalformedFrame> {
    let mut context = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    loop {
        match incoming.poll_read_from(&mut context, stream) {
            Poll::Ready(Ok(0)) => return Ok(frames),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending if stream.rest.is_empty() && !stream.ends => return Ok(frames),
            Poll::Pending => continue,
        }
        while let Some((header, content)) = incoming.next_frame()? {
            let shared = content.shared();
            assert_eq!((shared.fields(), shared.topic()), (content.fields, content.topic));
            assert_eq!(shared.payload(), content.payload());
            let (fields, topic) = (content.fields.to_vec(), content.topic.to_vec());
            frames.push(Whole { header, fields, topic, payload: content.payload().to_vec() });
        }
        incoming.settle();
    }
}

/// Cuts the stream by its length prefixes alone; what follows the last whole frame is left.
fn oracle(mut rest: &[u8]) -> (Vec<Whole>, usize) {
    let mut frames = Vec::new();
    let integer = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    while rest.len() >= 4 {
        let total = integer(&rest[..4]) as usize + 4;
        if rest.len() < total {
            break;
        }
        let (frame, after) = rest.split_at(total);
        let topic_at = 24 + integer(&frame[8..10]) as usize;
        let payload_at = topic_at + integer(&frame[6..8]) as usize;
        frames.push(Whole {
            header: Header {
                kind: Kind::from_u8(frame[4]).unwrap(),
                flags: Flags(frame[5]),
                id: integer(&frame[12..16]) as u32,
                sequence: integer(&frame[16..24]),
            },
            fields: frame[24..topic_at].to_vec(),
            topic: frame[topic_at..payload_at].to_vec(),
            payload: frame[payload_at..].to_vec(),
        });
        rest = after;
    }
    (frames, rest.len())
}

/// A stream of frames of these sizes. The parts of each are told apart by their bytes.
fn encode(sizes: &[usize]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let rest = size - HEADER_LEN;
        let fields = min(index % 5, rest);
        let topic = min(index % 7, rest - fields);
        let payload = rest - fields - topic;
        let header =
            Header::new(Kind::Deliver, index as u32, u64::MAX - index as u64).flagged(Flags(index as u8));
        stream.extend_from_slice(&header.encode(fields, topic, payload));
        stream.resize(stream.len() + fields, b'f');
        stream.resize(stream.len() + topic, b't');
        stream.extend((0..payload).map(|at| (at + index) as u8));
    }
    stream
}

fn check(sizes: &[usize], steps: &[usize]) {
    let stream = encode(sizes);
    let (expected, left) = oracle(&stream);
    assert_eq!((expected.len(), left), (sizes.len(), 0));
    let mut incoming = Incoming::new(Form::Bytes, LIMIT);
    let frames = read_all(&mut incoming, &mut Steps::new(&stream, steps)).unwrap();
    assert!(frames == expected, "sizes {sizes:?} in steps {steps:?}");
    assert_eq!(incoming.held(), 0);
}

/// Sizes of frames: mostly small, often beside a bound of the decoder, sometimes a few hundred KiB.
fn size() -> impl Strategy<Value = usize> {
    let bounds =
        vec![limits::LARGE_FRAME, limits::READ_CHUNK, 2 * limits::READ_CHUNK, 4 * limits::READ_CHUNK];
    prop_oneof![
        4 => HEADER_LEN..300usize,
        1 => Just(HEADER_LEN),
        3 => (prop::sample::select(bounds), 0usize..60).prop_map(|(bound, off)| bound + off - 30),
        2 => HEADER_LEN..40_000usize,
        1 => 100_000usize..400_000,
    ]
}

/// Frame sizes in runs, so that a prediction of the next size is right for a while and then wrong.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec((size(), 1usize..4), 1..8)
        .prop_map(|runs| runs.into_iter().flat_map(|(size, count)| vec![size; count]).collect())
}

fn steps() -> impl Strategy<Value = Vec<usize>> {
    let step = prop_oneof![
        1 => Just(0usize),
        3 => 1usize..60,
        3 => 60usize..20_000,
        2 => 20_000usize..300_000,
        1 => Just(usize::MAX),
    ];
    vec(step, 1..30).prop_map(|mut steps| {
        // One step at least gets on, and far enough that a case ends soon.
        steps.push(50_000);
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_split_of_any_frames_gives_the_same_frames(sizes in sizes(), steps in steps()) {
        check(&sizes, &steps);
    }

    #[test]
    fn what_is_held_between_turns_is_the_part_of_a_frame_that_has_arrived(
        sizes in sizes(), steps in steps(), cut in any::<prop::sample::Index>(),
    ) {
        let stream = encode(&sizes);
        let part = &stream[..cut.index(stream.len())];
        let (expected, left) = oracle(part);
        let mut incoming = Incoming::new(Form::Bytes, LIMIT);
        let mut idle = Steps { ends: false, ..Steps::new(part, &steps) };
        let frames = read_all(&mut incoming, &mut idle).unwrap();
        prop_assert!(frames == expected);
        prop_assert_eq!(incoming.held(), left);
        let mut rest = Steps::new(&stream[part.len()..], &steps);
        let frames = read_all(&mut incoming, &mut rest).unwrap();
        prop_assert!(frames == oracle(&stream).0[expected.len()..]);
        prop_assert_eq!(incoming.held(), 0);
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..2_000), steps in steps()) {
        let _ = read_all(&mut Incoming::new(Form::Bytes, LIMIT), &mut Steps::new(&bytes, &steps));
    }

    #[test]
    fn flipped_bytes_never_panic(
        sizes in sizes(), steps in steps(), flips in vec((any::<prop::sample::Index>(), 1u8..), 1..4),
    ) {
        let mut stream = encode(&sizes);
        for (at, bits) in flips {
            let at = at.index(stream.len());
            stream[at] ^= bits;
        }
        let _ = read_all(&mut Incoming::new(Form::Bytes, LIMIT), &mut Steps::new(&stream, &steps));
    }

    #[test]
    fn garbage_after_good_frames_does_not_take_them_away(sizes in sizes(), steps in steps()) {
        let mut stream = encode(&sizes);
        let good = stream.len();
        stream.extend_from_slice(&[0; HEADER_LEN]);
        let mut incoming = Incoming::new(Form::Bytes, LIMIT);
        let mut source = Steps::new(&stream[..good], &steps);
        let frames = read_all(&mut incoming, &mut source).unwrap();
        prop_assert_eq!(frames.len(), sizes.len());
        let refused = read_all(&mut incoming, &mut Steps::new(&stream[good..], &steps));
        prop_assert_eq!(refused, Err(MalformedFrame::TooShort(4)));
    }
}

#[test]
fn frames_beside_every_bound_arrive_byte_by_byte_and_at_once() {
    let (large, chunk) = (limits::LARGE_FRAME, limits::READ_CHUNK);
    let sizes = [
        HEADER_LEN,
        large - 1,
        large,
        large + 1,
        HEADER_LEN + 1,
        chunk - 1,
        chunk,
        chunk + 1,
        30,
        4 * chunk + 1,
    ];
    check(&sizes, &[1]);
    check(&sizes, &[usize::MAX]);
    check(&sizes, &[HEADER_LEN - 1, 0, 1]);
}

#[test]
fn a_prediction_that_turns_out_wrong_in_any_way_changes_nothing() {
    for next in [HEADER_LEN, 1_000, 99_999, 100_001, 400_000] {
        for steps in [&[usize::MAX][..], &[100_000], &[99_999, 2], &[HEADER_LEN - 4, 1_000_000]] {
            check(&[100_000, 100_000, next, next, 100_000, HEADER_LEN, HEADER_LEN, next], steps);
        }
    }
}

#[test]
fn a_frame_of_the_limit_arrives_and_one_byte_over_it_is_refused() {
    let limit = 200_000;
    for steps in [&[usize::MAX][..], &[1_000], &[4, 0, 1]] {
        let mut incoming = Incoming::new(Form::Bytes, limit);
        let stream = encode(&[limit]);
        assert_eq!(read_all(&mut incoming, &mut Steps::new(&stream, steps)).unwrap().len(), 1);
        let stream = encode(&[limit + 1]);
        let refused = read_all(&mut incoming, &mut Steps::new(&stream, steps));
        assert_eq!(refused, Err(MalformedFrame::TooLong { total: limit + 1, limit }));
    }
}

#[test]
fn a_claimed_length_takes_no_memory_before_the_bytes_are_there() {
    let header = Header::new(Kind::Publish, 0, 1).encode(0, 0, LIMIT - HEADER_LEN);
    let mut incoming = Incoming::new(Form::Bytes, LIMIT);
    let mut stream = Steps { ends: false, ..Steps::new(&header, &[usize::MAX]) };
    assert_eq!(read_all(&mut incoming, &mut stream).unwrap(), []);
    assert_eq!(incoming.held(), HEADER_LEN);
    let Source::Bytes(decoder) = &incoming.source else { panic!("a byte link") };
    let large = decoder.large.as_ref().map_or(0, |large| large.buffer.capacity());
    let reserved = decoder.chunk.capacity() + large;
    assert!(reserved <= 16 * limits::READ_CHUNK, "{reserved} bytes for a claim");
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    for size in [HEADER_LEN, 1_000, limits::LARGE_FRAME, 300_000] {
        let stream = encode(&[size, size]);
        let mut incoming = Incoming::new(Form::Bytes, LIMIT);
        let mut source = Steps { ends: false, ..Steps::new(&stream, &[9_999]) };
        assert_eq!(read_all(&mut incoming, &mut source).unwrap().len(), 2);
        let Source::Bytes(decoder) = &incoming.source else { panic!("a byte link") };
        assert_eq!((decoder.chunk.capacity(), decoder.large.is_some()), (0, false));
        assert_eq!(incoming.held(), 0);
    }
}

#[test]
fn a_limit_that_is_raised_counts_from_the_next_frame() {
    let stream = encode(&[2 * limits::HANDSHAKE_FRAME_LIMIT]);
    let mut incoming = Incoming::new(Form::Bytes, limits::HANDSHAKE_FRAME_LIMIT);
    assert!(read_all(&mut incoming, &mut Steps::new(&stream, &[usize::MAX])).is_err());
    let mut incoming = Incoming::new(Form::Bytes, limits::HANDSHAKE_FRAME_LIMIT);
    incoming.set_limit(LIMIT);
    assert_eq!(read_all(&mut incoming, &mut Steps::new(&stream, &[usize::MAX])).unwrap().len(), 1);
}
