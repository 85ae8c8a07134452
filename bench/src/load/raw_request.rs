//! Requests and answers over the raw subjects.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Phases;
use super::measured::Measured;
use super::message::{self, Message};
use super::requests::{Answers, one_at_a_time};
use crate::frames::{FrameReader, HEADER_BYTES, READ_BYTES, append_frame};
use crate::subject::hello::{self, Part};

/// The channel on which the two peers meet.
const CHANNEL: u16 = 0;

/// How requests that are due at the same time are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requesting {
    /// Each in a write of its own, as requesters that know nothing of each other do.
    OneWriteEach,
    /// All in one write.
    Batched,
}

/// Connects as the answering peer and sends every chunk back until the stream ends.
///
/// # Errors
/// When the subject cannot be reached or the stream fails.
pub async fn answer(socket: &Path, ready: impl FnOnce()) -> Result<()> {
    let mut stream = hello::connect(socket, Part::Peer, CHANNEL).await?;
    ready();
    echo(&mut stream).await
}

/// Sends every chunk that is read back, until the stream ends.
///
/// # Errors
/// When the stream fails.
pub async fn echo(stream: &mut UnixStream) -> Result<()> {
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        stream
            .write_all(chunk.get(..count).unwrap_or_default())
            .await?;
    }
}

/// Measures round trips with one request outstanding.
///
/// # Errors
/// When the subject cannot be reached, or an answer is not the request's.
pub async fn request(socket: &Path, payload_bytes: usize, phases: Phases) -> Result<Measured> {
    let mut stream = hello::connect(socket, Part::Peer, CHANNEL).await?;
    let mut request = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    let mut answer = vec![0; HEADER_BYTES + payload_bytes];
    one_at_a_time(phases, async |sequence| {
        request.clear();
        append_request(&mut request, payload_bytes, sequence);
        stream.write_all(&request).await?;
        stream.read_exact(&mut answer).await?;
        ensure!(
            request == answer,
            "request {sequence} got the answer to another"
        );
        Ok(())
    })
    .await
}

/// Measures the rate of answers with `outstanding` requests under way. Each answer is followed by
/// a new request.
///
/// # Errors
/// When the subject cannot be reached, or answers are lost or out of order.
pub async fn request_many(
    socket: &Path,
    payload_bytes: usize,
    outstanding: u64,
    requesting: Requesting,
    phases: Phases,
) -> Result<Measured> {
    let mut stream = hello::connect(socket, Part::Peer, CHANNEL).await?;
    let mut input = FrameReader::new();
    let mut answers = Answers::new(phases);
    let (mut sequence, mut answered) = (0, 0);
    let mut requests = Vec::new();
    let mut free = outstanding;
    let mut measured = None;
    while measured.is_none() || free < outstanding {
        // After the measured time only what is under way is answered, so that the sockets are
        // empty when they close.
        while measured.is_none() && free > 0 {
            append_request(&mut requests, payload_bytes, sequence);
            sequence += 1;
            free -= 1;
            if requesting == Requesting::OneWriteEach || free == 0 {
                stream.write_all(&requests).await?;
                requests.clear();
            }
        }
        if input.fill(&mut stream).await? == 0 {
            bail!("the subject hung up");
        }
        let before = free;
        while let Some(payload) = input.next_payload()? {
            let message = Message::read(payload)?;
            message.check()?;
            ensure!(
                matches!(message, Message::Numbered { sequence, .. } if sequence == answered),
                "an answer came where that to request {answered} was due"
            );
            answered += 1;
            free += 1;
        }
        measured = measured.or_else(|| answers.add(free - before));
    }
    measured.context("no request was answered in time")
}

fn append_request(target: &mut Vec<u8>, payload_bytes: usize, sequence: u64) {
    append_frame(target, payload_bytes, |payload| {
        message::write_message(payload, 0, sequence)
    });
}
