//! Requests and answers over the raw subjects.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::sync::Semaphore;

use super::Phases;
use super::measured::Measured;
use super::message::{self, Message};
use super::requests::{Answers, one_at_a_time};
use crate::frames::{FrameReader, HEADER_BYTES, READ_BYTES, append_frame};
use crate::subject::hello::{self, Part};

/// The channel on which the two peers meet.
const CHANNEL: u16 = 0;

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
    outstanding: usize,
    phases: Phases,
) -> Result<Measured> {
    let mut stream = hello::connect(socket, Part::Peer, CHANNEL).await?;
    let (read, write) = stream.split();
    // Requests that may still be made. Both sides run at once, because neither could go on where
    // all requests are more than the sockets hold.
    let free = Semaphore::new(outstanding);
    let (measured, ()) = tokio::try_join!(
        take_answers(read, &free, outstanding, phases),
        make_requests(write, &free, payload_bytes),
    )?;
    Ok(measured)
}

/// Makes requests as long as there are free ones, until there will be no more. Each is a write of
/// its own, as those of requesters that know nothing of each other are.
async fn make_requests(
    mut output: WriteHalf<'_>,
    free: &Semaphore,
    payload_bytes: usize,
) -> Result<()> {
    let mut request = Vec::new();
    let mut sequence = 0;
    while let Ok(permit) = free.acquire().await {
        permit.forget();
        request.clear();
        append_request(&mut request, payload_bytes, sequence);
        sequence += 1;
        output.write_all(&request).await?;
    }
    Ok(())
}

/// Takes answers, which come in the order of the requests, and frees a request for each.
async fn take_answers(
    mut source: ReadHalf<'_>,
    free: &Semaphore,
    outstanding: usize,
    phases: Phases,
) -> Result<Measured> {
    let mut input = FrameReader::new();
    let mut answers = Answers::new(phases);
    let mut answered = 0;
    let mut measured = None;
    // After the measured time only what is under way is answered, so that the sockets are empty
    // when they close.
    let mut left = outstanding;
    while measured.is_none() || left > 0 {
        if input.fill(&mut source).await? == 0 {
            bail!("the subject hung up");
        }
        let before = answered;
        while let Some(payload) = input.next_payload()? {
            let message = Message::read(payload)?;
            message.check()?;
            ensure!(
                matches!(message, Message::Numbered { sequence, .. } if sequence == answered),
                "an answer came where that to request {answered} was due"
            );
            answered += 1;
        }
        let count = answered - before;
        if measured.is_some() {
            left -= usize::try_from(count)?;
            continue;
        }
        measured = answers.add(count);
        if measured.is_some() {
            left -= free.available_permits() + usize::try_from(count)?;
            free.close();
        } else {
            free.add_permits(usize::try_from(count)?);
        }
    }
    measured.context("no request was answered in time")
}

fn append_request(target: &mut Vec<u8>, payload_bytes: usize, sequence: u64) {
    append_frame(target, payload_bytes, |payload| {
        message::write_message(payload, 0, sequence)
    });
}
