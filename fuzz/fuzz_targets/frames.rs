//! A stream of bytes in any chunks: it is cut into the same frames as in one piece, or refused for the same reason.

#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};
use whispeer::proto::{Header, MalformedFrame};
use whispeer::transport::{Form, Incoming};

/// Bytes of the largest frame: beyond the bounds at which frames are read in another way, and small enough
/// that the fuzzer makes whole ones.
const LIMIT: usize = 512 * 1024;

/// Gives its bytes in chunks whose sizes come from the input; a chunk of none makes the reader wait.
struct Chunks<'a> {
    rest: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    waited: bool,
}

impl AsyncRead for Chunks<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.sizes.next().map_or(usize::MAX, |size| usize::from(*size) * usize::from(*size));
        if size == 0 && !self.waited {
            self.waited = true;
            return Poll::Pending;
        }
        self.waited = false;
        let count = size.max(1).min(buffer.remaining()).min(self.rest.len());
        let (now, later) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

type Frames = Vec<(Header, Vec<u8>, Vec<u8>, Vec<u8>)>;

/// All frames up to the end or the first that is refused, and why that is; and what is held at the end.
fn read_all(stream: &[u8], sizes: &[u8]) -> (Frames, Option<MalformedFrame>, usize) {
    let mut source = Chunks { rest: stream, sizes: sizes.iter().cycle(), waited: false };
    let mut incoming = Incoming::new(Form::Bytes, LIMIT);
    let mut context = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    loop {
        match incoming.poll_read_from(&mut context, &mut source) {
            Poll::Ready(Ok(0)) => return (frames, None, incoming.held()),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => panic!("a stream that cannot fail: {error}"),
            Poll::Pending => continue,
        }
        loop {
            match incoming.next_frame() {
                Ok(None) => break,
                Ok(Some((header, content))) => {
                    frames.push((
                        header,
                        content.fields.to_vec(),
                        content.topic.to_vec(),
                        content.payload().to_vec(),
                    ));
                }
                Err(malformed) => return (frames, Some(malformed), 0),
            }
        }
        incoming.settle();
    }
}

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (sizes, stream) = input;
    let split = read_all(stream, &sizes);
    let whole = read_all(stream, &[]);
    assert_eq!(split, whole);
    let (frames, refused, held) = whole;
    let taken: usize = frames
        .iter()
        .map(|(_, fields, topic, payload)| {
            whispeer::proto::HEADER_LEN + fields.len() + topic.len() + payload.len()
        })
        .sum();
    if refused.is_none() {
        assert_eq!(taken + held, stream.len());
    }
});
