//! Frames from bytes and to bytes.

use std::hint::black_box;
use std::io::IoSlice;
use std::task::{Context, Waker};

use anyhow::{Result, ensure};
use whispeer::proto::{ContentRef, Header, Kind};
use whispeer::transport::{Batch, Form, Incoming};

use super::{ROUND, SMALL, TOPIC, Work};
use crate::counted::counted_part;
use crate::peer::{append_frame, frame_bytes};

/// Rounds that are counted.
const ROUNDS: u64 = 16;

/// Decodes reads of publishes where they lie in the read buffer.
pub fn decode() -> Result<Work> {
    let mut frames = Vec::new();
    for sequence in 1..=ROUND {
        append_frame(
            &mut frames,
            &Header::new(Kind::Publish, 0, sequence),
            &[],
            TOPIC,
            &SMALL,
        );
    }
    let mut incoming = Incoming::new(Form::Bytes, usize::MAX);
    let mut decoded = 0;
    let mut round = || {
        let mut unread = frames.as_slice();
        let mut context = Context::from_waker(Waker::noop());
        let _ = black_box(incoming.poll_read_from(&mut context, &mut unread));
        while let Ok(Some(frame)) = incoming.next_frame() {
            black_box(&frame);
            decoded += 1;
        }
        incoming.settle();
    };
    round();
    counted_part(&mut || (0..ROUNDS).for_each(|_| round()));
    let operations = ROUNDS * ROUND;
    ensure!(decoded == operations + ROUND, "{decoded} frames came out");
    Ok(Work {
        operations,
        messages: operations,
        bytes: operations * frame_bytes(TOPIC, &SMALL),
    })
}

/// Encodes deliveries and takes them from the batch as a transport does.
pub fn encode() -> Result<Work> {
    let mut written = 0;
    let mut round = || {
        let mut batch = Batch::new(Form::Bytes);
        for sequence in 1..=ROUND {
            let content = ContentRef::lent(&[], TOPIC.as_bytes(), &SMALL);
            batch.push(
                &Header::new(Kind::Deliver, 1, sequence),
                black_box(&content),
            );
        }
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[])];
            batch.slices(&mut slices);
            let [part] = black_box(slices);
            let size = part.len();
            written += size as u64;
            batch.advance(size);
        }
    };
    round();
    counted_part(&mut || (0..ROUNDS).for_each(|_| round()));
    let operations = ROUNDS * ROUND;
    let bytes = operations * frame_bytes(TOPIC, &SMALL);
    ensure!(
        written * ROUNDS == bytes * (ROUNDS + 1),
        "{written} bytes were written"
    );
    Ok(Work {
        operations,
        messages: operations,
        bytes,
    })
}
